"""Families of networks that are known by name: what each must tell, and those that are built in."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from torch import nn

from fisher_cli.inputs.networks.cifar_resnets import (
    CIFAR_NAMES,
    FOUR_STAGE_NAMES,
    cifar_resnet,
    describe_cifar_resnet,
    guess_cifar_resnet,
    is_cifar_resnet,
    read_cifar_resnet,
)
from fisher_cli.inputs.networks.digits_networks import digits_cnn, digits_mlp
from fisher_cli.inputs.networks.shapes import Shapes, hollow, rows
from fisher_cli.inputs.networks.wide_resnets import (
    WIDE_NAMES,
    describe_wide_resnet,
    guess_wide_resnet,
    is_wide_resnet,
    read_wide_resnet,
    wide_resnet,
)

# A number of classes that no layer of a network has by itself: its rows tell which layer is the last.
_MARK: Final = 7919


@dataclass(frozen=True)
class Family:
    """Networks that share how they are recognised and built; their names are a closed list or a closed pattern.

    Attributes:
        names: lists the names; of a pattern, the usual ones.
        knows: whether a name is of this family.
        build: makes the network of a name with arguments.
        read: the arguments that the shapes of weights tell, for a name.
        guess: the names that shapes may be of, quickly; not all of them need fit.
        describe: for a name and arguments, what was read, in words, and which choices leave no trace in weights.
    """

    names: Callable[[], tuple[str, ...]]
    knows: Callable[[str], bool]
    build: Callable[..., nn.Module]
    read: Callable[[str, Shapes], dict[str, Any]]
    guess: Callable[[Shapes], list[str]]
    describe: Callable[[str, dict[str, Any]], tuple[str, str]]


_DIGITS: Final[Mapping[str, Callable[..., nn.Module]]] = {"digits-mlp": digits_mlp, "digits-cnn": digits_cnn}
_DIGITS_HEADS: Final = {"digits-mlp": "5.weight", "digits-cnn": "11.weight"}
_DIGITS_FIRST: Final = {"digits-mlp": ("1.weight", (64, 64)), "digits-cnn": ("0.weight", (16, 1, 3, 3))}


def _digits_network(name: str, **arguments: Any) -> nn.Module:
    return _DIGITS[name](**arguments)


def _read_digits(name: str, shapes: Shapes) -> dict[str, Any]:
    classes = rows(shapes, _DIGITS_HEADS[name])
    return {} if classes is None else {"num_classes": classes}


def _guess_digits(shapes: Shapes) -> list[str]:
    return [name for name, (first, shape) in _DIGITS_FIRST.items() if shapes.get(first) == shape]


BUILT_IN: Final = (
    Family(
        names=lambda: tuple(_DIGITS),
        knows=_DIGITS.__contains__,
        build=_digits_network,
        read=_read_digits,
        guess=_guess_digits,
        describe=lambda name, arguments: ("", ""),  # noqa: ARG005 - the networks are ours: no weight is needed
    ),
    Family(
        names=lambda: CIFAR_NAMES + FOUR_STAGE_NAMES,
        knows=is_cifar_resnet,
        build=cifar_resnet,
        read=read_cifar_resnet,
        guess=guess_cifar_resnet,
        describe=describe_cifar_resnet,
    ),
    Family(
        names=lambda: WIDE_NAMES,
        knows=is_wide_resnet,
        build=wide_resnet,
        read=read_wide_resnet,
        guess=guess_wide_resnet,
        describe=describe_wide_resnet,
    ),
)


@dataclass(frozen=True)
class EndLayers:
    """A network's first convolution and last layer.

    Attributes:
        first: the name of the first convolution's weight; None if there is none.
        first_shape: its shape; () if there is none.
        head: the name of the last layer's weight; None if there is none.
        network: the network, without storage.
    """

    first: str | None
    first_shape: tuple[int, ...]
    head: str | None
    network: nn.Module


def find_end_layers(build: Callable[[int], nn.Module]) -> EndLayers:
    """Return both ends of the network that `build` makes for a number of classes."""
    network = hollow(lambda: build(_MARK))
    convolutions = [(name, module) for name, module in network.named_modules() if isinstance(module, nn.Conv2d)]
    first = f"{convolutions[0][0]}.weight" if convolutions else None
    shape = tuple(convolutions[0][1].weight.shape) if convolutions else ()
    heads = [name for name, value in network.state_dict().items() if value.ndim > 1 and value.shape[0] == _MARK]
    return EndLayers(first, shape, heads[-1] if heads else None, network)


def replace_first_convolution(network: nn.Module, **changes: Any) -> None:
    """Put a convolution with other channels, size, stride or padding in the place of the first one."""
    name, old = next((name, each) for name, each in network.named_modules() if isinstance(each, nn.Conv2d))
    plan: dict[str, Any] = {
        "in_channels": old.in_channels,
        "kernel_size": old.kernel_size,
        "stride": old.stride,
        "padding": old.padding,
        **changes,
    }
    network.set_submodule(name, nn.Conv2d(out_channels=old.out_channels, bias=old.bias is not None, **plan))
