"""The image classifier that a folder's own config.json describes, built by transformers from plain numbers and words.

No weights, no code and no network: of the configuration only keys that the model's own configuration has are passed
on, and none that names code, a backbone of another library or a way to read weights.
"""

import importlib.util
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, Final

from torch import nn

from fisher_cli.errors import ArchitectureError
from fisher_cli.inputs.checkpoints.checkpoints import Checkpoint
from fisher_cli.inputs.factories import built
from fisher_cli.inputs.formats.containers import one_line
from fisher_cli.inputs.networks.shapes import hollow

# What could lead to code, to the network, or to another way of reading weights.
_REFUSED_KEYS: Final = frozenset(
    {
        *("auto_map", "custom_pipelines", "model_file", "trust_remote_code", "name_or_path", "quantization_config"),
        *("attn_implementation", "experts_implementation", "backbone", "backbone_config", "backbone_kwargs"),
        *(
            "use_timm_backbone",
            "use_pretrained_backbone",
            "dtype",
            "torch_dtype",
            "kernel_config",
            "transformers_version",
        ),
    }
)
# These build networks of other libraries, or are no classifiers of images alone.
_REFUSED_TYPES: Final = frozenset({"timm_wrapper", "shieldgemma2"})
_DEEPEST: Final = 4
_LARGEST: Final = 10**7
_REPEATED: Final = ("layers", "depth", "depths", "blocks")


def is_huggingface(checkpoint: Checkpoint) -> bool:
    """Return whether a configuration of transformers stands beside the weights, and nothing else names a network."""
    names_another = checkpoint.architecture not in {None, "hf"}
    return not names_another and checkpoint.config is not None and isinstance(checkpoint.config.get("model_type"), str)


def huggingface_model(checkpoint: Checkpoint) -> tuple[str, Callable[[], nn.Module]]:
    """Return the name of transformers' class, and how to build it.

    Raises:
        ArchitectureError: transformers is missing, has no such image classifier, or refuses the configuration.
    """
    where, config = one_line(checkpoint.name), dict(checkpoint.config or {})
    kind = one_line(config.get("model_type"))
    if importlib.util.find_spec("transformers") is None:
        msg = f"{where}: a {kind} of transformers, which is not installed; pip install 'fisher-cli[hf]'"
        raise ArchitectureError(msg)
    classes = _classes(kind)
    if not classes:
        msg = f"{where}: {kind} is no image classifier of transformers; pass --model ./file.py:factory"
        raise ArchitectureError(msg)
    named = config.get("architectures")
    chosen = next((each for each in classes if isinstance(named, list) and each in named), classes[0])
    plain = _plain(config, len(checkpoint.weights), where)
    build = partial(built, partial(_network, kind, chosen, plain), {}, chosen)
    hollow(build)  # without storage, so that what is absurd fails here
    return chosen, build


def _classes(kind: str) -> tuple[str, ...]:
    """Return the names of transformers' classes for this type: a closed list of its own."""
    from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING_NAMES as KNOWN

    if kind in _REFUSED_TYPES:
        return ()
    names = KNOWN.get(kind, ())
    return (names,) if isinstance(names, str) else tuple(names)


def _network(kind: str, chosen: str, plain: Mapping[str, Any]) -> nn.Module:
    from transformers import AutoConfig, AutoModelForImageClassification

    own = AutoConfig.for_model(kind)
    known = own.to_dict().keys() | {"id2label", "label2id", "num_labels"}
    config = AutoConfig.for_model(kind, **{key: value for key, value in plain.items() if key in known})
    config.architectures = [chosen]
    make: Callable[..., nn.Module] = AutoModelForImageClassification.from_config
    return make(config, trust_remote_code=False, attn_implementation="eager")


def _plain(config: Mapping[str, Any], tensors: int, where: str) -> dict[str, Any]:
    """Return the configuration without what is not passed on.

    Raises:
        ArchitectureError: it asks for more layers than the file has tensors, or for absurd numbers.
    """
    kept: dict[str, Any] = {}
    for key, value in config.items():
        if key.startswith("_") or key in _REFUSED_KEYS or key in {"model_type", "architectures"}:
            continue
        limit = tensors if any(word in key for word in _REPEATED) else _LARGEST
        if not _is_modest(value, limit, _DEEPEST):
            msg = f"{where}: config.json asks for {one_line(key)} = {one_line(value)}, which cannot be; check the file"
            raise ArchitectureError(msg)
        kept[key] = _plain(value, tensors, where) if isinstance(value, Mapping) else value
    return kept


def _is_modest(value: object, limit: int, depth: int) -> bool:
    if isinstance(value, Mapping):
        return depth > 0 and all(_is_modest(each, _LARGEST, depth - 1) for each in value.values())
    if isinstance(value, list):
        return depth > 0 and len(value) <= _LARGEST and all(_is_modest(each, limit, depth - 1) for each in value)
    return not isinstance(value, int | float) or abs(value) <= limit
