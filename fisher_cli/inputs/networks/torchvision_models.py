"""torchvision's classifiers, by name or by the names of their weights; loaded only when one is needed."""

import hashlib
import math
from collections.abc import Iterable, Mapping
from functools import cache
from types import ModuleType
from typing import Any, Final

from torch import nn

from fisher_cli.inputs.networks.families import Family, find_end_layers, replace_first_convolution
from fisher_cli.inputs.networks.shapes import Shapes, hollow, shapes_of, without_counters

INDEX: Final[Mapping[str, tuple[str, ...]]] = {
    "ab64f8c5af4b": ("alexnet",),
    "04bb85828e4d": ("convnext_base", "convnext_large", "convnext_small"),
    "819b4674fa7a": ("convnext_tiny",),
    "01da9529598d": ("densenet121",),
    "944b45537b4c": ("densenet161",),
    "91709aefbb60": ("densenet169",),
    "e59d00427a51": ("densenet201",),
    "da04676151c5": ("efficientnet_b0",),
    "dadcfad3020d": ("efficientnet_b1", "efficientnet_b2"),
    "d253f74068b8": ("efficientnet_b3",),
    "c436445b5159": ("efficientnet_b4",),
    "052e8a066c2f": ("efficientnet_b5",),
    "9e0f2c9e7200": ("efficientnet_b6",),
    "f35749738c33": ("efficientnet_b7",),
    "1131fbd538f2": ("efficientnet_v2_l",),
    "f1c19baf35d2": ("efficientnet_v2_m",),
    "ccf0421e4635": ("efficientnet_v2_s",),
    "4002aa12668d": ("googlenet",),
    "ed87dd0f166a": ("inception_v3",),
    "5c7b2e0b6b5d": ("maxvit_t",),
    "13b923777e81": ("mnasnet0_5", "mnasnet0_75", "mnasnet1_0", "mnasnet1_3"),
    "7abb0d3441db": ("mobilenet_v2",),
    "0692ecb8f00e": ("mobilenet_v3_large",),
    "17774ef707f7": ("mobilenet_v3_small",),
    "cdc5460a8fcd": ("regnet_x_16gf",),
    "0005f758f3dc": ("regnet_x_1_6gf",),
    "b3c4e775dd3c": ("regnet_x_32gf",),
    "ec4b868046fe": ("regnet_x_3_2gf",),
    "ef61c30f5f0f": ("regnet_x_400mf",),
    "e52da8fd19e4": ("regnet_x_800mf",),
    "0149e3e7d0b0": ("regnet_x_8gf",),
    "1e335ae7276c": ("regnet_y_128gf",),
    "119059fc0635": ("regnet_y_16gf",),
    "5ad3de52fa16": ("regnet_y_1_6gf",),
    "198097cb4c07": ("regnet_y_32gf",),
    "a71288a234fa": ("regnet_y_3_2gf",),
    "fb81768fe349": ("regnet_y_400mf",),
    "a15a839905ed": ("regnet_y_800mf",),
    "1e1b00d5a234": ("regnet_y_8gf",),
    "65c093d2a208": ("resnet101", "resnext101_32x8d", "resnext101_64x4d", "wide_resnet101_2"),
    "9f9c78c1b074": ("resnet152",),
    "e90b1f58ce95": ("resnet18",),
    "aeaf9ac2b41b": ("resnet34",),
    "d1512e10e88b": ("resnet50", "resnext50_32x4d", "wide_resnet50_2"),
    "824c1bfd4dca": ("shufflenet_v2_x0_5", "shufflenet_v2_x1_0", "shufflenet_v2_x1_5", "shufflenet_v2_x2_0"),
    "6512bd708bb2": ("squeezenet1_0",),
    "377239e32f1b": ("squeezenet1_1",),
    "93b93d8b8048": ("swin_b", "swin_s"),
    "dc26dcabe05e": ("swin_t",),
    "e9714fb9e990": ("swin_v2_b", "swin_v2_s"),
    "c04a9f14aa08": ("swin_v2_t",),
    "dc2092b06b2a": ("vgg11",),
    "fdfeb8f98ed2": ("vgg11_bn",),
    "caa86d3b835f": ("vgg13",),
    "8a97c01fd4a2": ("vgg13_bn",),
    "66817e793078": ("vgg16",),
    "b3372d34016e": ("vgg16_bn",),
    "eb851df2390f": ("vgg19",),
    "c9646600927e": ("vgg19_bn",),
    "efb732016fb3": ("vit_b_16", "vit_b_32"),
    "88ce45968492": ("vit_h_14",),
    "c1203f0b0f15": ("vit_l_16", "vit_l_32"),
}


# Heads that serve training only; a checkpoint of a network built without them has none of these names.
_AUXILIARY: Final = {"googlenet": "aux", "inception_v3": "AuxLogits."}
_AUXILIARY_NAMES: Final = ("aux1.", "aux2.", "AuxLogits.")
_SMALL_STEM: Final = (3, 3)
_STEMS: Final = ("imagenet", "cifar")
_USUAL_CLASSES: Final = 1000
_CLASS_TOKENS: Final = 1


def fingerprint(names: Iterable[str]) -> str:
    """Return a hash of a network's parameter names, without batch norm's counters and auxiliary heads.

    Numbers of classes and channels do not change it; networks that differ in widths alone share it.
    """
    needed = [name for name in without_counters(dict.fromkeys(names)) if not name.startswith(_AUXILIARY_NAMES)]
    return hashlib.sha256("\n".join(sorted(needed)).encode()).hexdigest()[:12]


def make_index() -> dict[str, tuple[str, ...]]:
    """Return fingerprint → names for the installed torchvision, all networks built without storage."""
    index: dict[str, tuple[str, ...]] = {}
    for name in torchvision_names():
        found = _fingerprint_of(name)
        index[found] = (*index.get(found, ()), name)
    return index


@cache
def torchvision_names() -> tuple[str, ...]:
    """Return the names of torchvision's classifiers."""
    models = _models()
    return tuple(models.list_models(module=models))


def torchvision_model(
    name: str,
    num_classes: int = _USUAL_CLASSES,
    in_channels: int | None = None,
    stem: str = "imagenet",
    max_pool: bool | None = None,
    **arguments: Any,
) -> nn.Module:
    """Return torchvision's network of this name, never with weights.

    Args:
        name: one of `torchvision_names`.
        num_classes: outputs of the last layer.
        in_channels: channels of the images where the first convolution was changed; None for three.
        stem: `cifar` for a ResNet whose first convolution is 3 × 3 with stride 1, for small images.
        max_pool: whether a max-pool follows a `cifar` stem.
        **arguments: for torchvision's own function.

    Raises:
        ValueError: a stem that the network cannot have.
    """
    network: nn.Module = _models().get_model(name, weights=None, num_classes=num_classes, **arguments)
    changes: dict[str, Any] = {} if in_channels is None else {"in_channels": in_channels}
    has_stem = isinstance(network, _models().ResNet)
    if stem not in _STEMS or (stem == "cifar" and not has_stem) or (max_pool is False and not has_stem):
        msg = f"stem {stem}, max_pool {max_pool}: the stem is imagenet, or for ResNets cifar, which have a max-pool"
        raise ValueError(msg)
    if stem == "cifar":
        changes |= {"kernel_size": 3, "stride": 1, "padding": 1}
    if max_pool is False or (stem == "cifar" and not max_pool):
        network.set_submodule("maxpool", nn.Identity())
    if changes:
        replace_first_convolution(network, **changes)
    return network


def read_torchvision(name: str, shapes: Shapes) -> dict[str, Any]:
    """Return the arguments that the shapes tell: classes, channels, stem, auxiliary heads, image size."""
    arguments: dict[str, Any] = {}
    if name in _AUXILIARY:
        has_heads = any(key.startswith(_AUXILIARY[name]) for key in shapes)
        # Their initialisation takes seconds, and the checkpoint overwrites it.
        arguments = {"aux_logits": has_heads, "init_weights": False}
    ends = find_end_layers(lambda classes: torchvision_model(name, num_classes=classes, **arguments))
    if ends.head is not None and ends.head in shapes:
        arguments["num_classes"] = shapes[ends.head][0]
    first = shapes.get(ends.first or "", ())
    if len(first) == len(ends.first_shape) == 4:
        if first[1] != ends.first_shape[1]:
            arguments["in_channels"] = first[1]
        if first[2:] == _SMALL_STEM != ends.first_shape[2:] and isinstance(ends.network, _models().ResNet):
            arguments["stem"] = "cifar"
    positions = shapes.get("encoder.pos_embedding", ())
    if name.startswith("vit_") and len(positions) == 3 and len(first) == 4:
        side = math.isqrt(max(0, positions[1] - _CLASS_TOKENS))
        usual = shapes_of(ends.network.state_dict())["encoder.pos_embedding"]
        if side**2 == positions[1] - _CLASS_TOKENS and positions != usual:
            arguments["image_size"] = side * first[2]
    return arguments


def guess_torchvision(shapes: Shapes) -> list[str]:
    """Return the names whose networks have exactly these parameter names.

    The index is right for every torchvision that loads its own published weights, which hold these names; networks
    that the installed one has beyond the index are built to know.
    """
    found = fingerprint(shapes)
    indexed = {name for names in INDEX.values() for name in names}
    later = [name for name in torchvision_names() if name not in indexed]
    known = [name for name in INDEX.get(found, ()) if name in torchvision_names()]
    return known + [name for name in later if _fingerprint_of(name) == found]


def describe_torchvision(name: str, arguments: dict[str, Any]) -> tuple[str, str]:  # noqa: ARG001
    """Return what was read, and what no weight shows."""
    words, unseen = [], ""
    if arguments.get("stem") == "cifar":
        words.append("a 3 × 3 stem of stride 1")
        others = "none (--model-arg max_pool=true: one)" if not arguments.get("max_pool") else "there is one"
        unseen = f"the stem's stride, and whether a max-pool follows it: {others}"
    if "aux_logits" in arguments:
        words.append("with auxiliary heads" if arguments["aux_logits"] else "without auxiliary heads")
    if "image_size" in arguments:
        words.append(f"for images of {arguments['image_size']} × {arguments['image_size']}")
    return ", ".join(words), unseen


TORCHVISION: Final = Family(
    names=torchvision_names,
    knows=lambda name: name in torchvision_names(),
    build=torchvision_model,
    read=read_torchvision,
    guess=guess_torchvision,
    describe=describe_torchvision,
)


@cache
def _fingerprint_of(name: str) -> str:
    arguments: dict[str, Any] = {"init_weights": False} if name in _AUXILIARY else {}
    return fingerprint(hollow(lambda: torchvision_model(name, **arguments)).state_dict())


def _models() -> ModuleType:
    import torchvision.models  # here: it takes seconds, and many checkpoints need none of it

    return torchvision.models  # type: ignore[no-any-return]
