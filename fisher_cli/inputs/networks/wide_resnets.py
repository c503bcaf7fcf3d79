"""Wide residual networks for small images, with batch norm and ReLU before each convolution.

The parts are called as the checkpoint has them: `block1.layer.0.convShortcut` and `fc`, or `layer1.0.shortcut.0`
and `linear`; the second way comes with biases, a stride in the second convolution, and projections of the raw input.
Source: Zagoruyko, Komodakis 2016 (arXiv:1605.07146).
"""

import re
from typing import Final

from torch import Tensor, nn
from torch.nn.functional import relu

from fisher_cli.inputs.networks.shapes import Shapes, blocks, columns, rows

# The depths and widths of the paper's tables.
WIDE_NAMES: Final = ("wrn-16-4", "wrn-16-8", "wrn-28-2", "wrn-28-10", "wrn-40-2", "wrn-40-4")
_NAME: Final = re.compile(r"wrn-([1-9][0-9]{0,3})-([1-9][0-9]{0,1})", re.ASCII)
_DEEPEST: Final = 1000
_STYLES: Final = ("block", "layer")


class _Block(nn.Module):
    """shortcut(x) + conv2(relu(bn2(conv1(relu(bn1(x))))))."""

    def __init__(
        self,
        channels_in: int,
        channels: int,
        stride: int,
        *,
        style: str,
        bias: bool,
        stride_first: bool,
        from_activated: bool,
    ) -> None:
        super().__init__()
        first, second = (stride, 1) if stride_first else (1, stride)
        self._from_activated = from_activated
        self.bn1 = nn.BatchNorm2d(channels_in)
        self.conv1 = nn.Conv2d(channels_in, channels, 3, stride=first, padding=1, bias=bias)
        self.bn2 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, stride=second, padding=1, bias=bias)
        self._projection = ""
        if stride > 1 or channels_in != channels:
            projection = nn.Conv2d(channels_in, channels, 1, stride=stride, bias=bias)
            self._projection = "convShortcut" if style == "block" else "shortcut"
            self.add_module(self._projection, projection if style == "block" else nn.Sequential(projection))

    def forward(self, inputs: Tensor) -> Tensor:
        activated = relu(self.bn1(inputs))
        residual: Tensor = self.conv2(relu(self.bn2(self.conv1(activated))))
        if self._projection:
            source = activated if self._from_activated else inputs
            kept: Tensor = self.get_submodule(self._projection)(source)
            return residual + kept
        return residual + inputs


class _WideResNet(nn.Module):
    """A convolution with 16 channels, three stages, batch norm and ReLU, the mean over positions, a linear layer."""

    def __init__(
        self, count: int, width: int, num_classes: int, in_channels: int, *, style: str, bias: bool, **block: bool
    ) -> None:
        super().__init__()
        self._style, self._head = style, "fc" if style == "block" else "linear"
        self.conv1 = nn.Conv2d(in_channels, 16, 3, padding=1, bias=bias)
        channels = 16
        for i in range(3):
            chain = nn.Sequential()
            for j in range(count):
                stride = 2 if i > 0 and j == 0 else 1
                chain.append(_Block(channels, 16 * width * 2**i, stride, style=style, bias=bias, **block))
                channels = 16 * width * 2**i
            self.add_module(f"{style}{i + 1}", nn.ModuleDict({"layer": chain}) if style == "block" else chain)
        self.bn1 = nn.BatchNorm2d(channels)
        self.add_module(self._head, nn.Linear(channels, num_classes))

    def forward(self, inputs: Tensor) -> Tensor:
        outputs = self.conv1(inputs)
        inner = ".layer" if self._style == "block" else ""
        for i in range(3):
            outputs = self.get_submodule(f"{self._style}{i + 1}{inner}")(outputs)
        logits: Tensor = self.get_submodule(self._head)(relu(self.bn1(outputs)).mean((2, 3)))
        return logits


def wide_resnet(
    name: str,
    num_classes: int = 10,
    in_channels: int = 3,
    style: str = "block",
    bias: bool = False,
    stride_in: int | None = None,
    projection: str | None = None,
) -> nn.Module:
    """Return `wrn-D-K`: (D − 4)/6 blocks in each of three stages, 16K, 32K, 64K channels.

    Args:
        name: `wrn-28-10` and its like.
        num_classes: outputs of the last layer.
        in_channels: channels of the images.
        style: how the parts are called: `block` or `layer`.
        bias: whether convolutions have one.
        stride_in: which convolution of a block has the stride, 1 or 2; None for what is usual with the style.
        projection: what a projection sees: `activated`, after batch norm and ReLU, as in the paper's code, or `raw`.

    Raises:
        ValueError: no such network.
    """
    plan = _plan(name)
    if plan is None:
        msg = f"{name}: a wide residual network is wrn-D-K with D = 6n + 4 up to {_DEEPEST}, such as wrn-28-10"
        raise ValueError(msg)
    usual = _usual(style)
    stride_in, projection = stride_in or usual[0], projection or usual[1]
    if style not in _STYLES or stride_in not in {1, 2} or projection not in {"activated", "raw"}:
        msg = f"style {style}, stride_in {stride_in}, projection {projection}: block or layer, 1 or 2, activated or raw"
        raise ValueError(msg)
    choices = {"stride_first": stride_in == 1, "from_activated": projection == "activated"}
    return _WideResNet(*plan, num_classes, in_channels, style=style, bias=bias, **choices)


def is_wide_resnet(name: str) -> bool:
    """Return whether the name is of this family and the network exists."""
    return _plan(name) is not None


def read_wide_resnet(name: str, shapes: Shapes) -> dict[str, object]:  # noqa: ARG001 - the name tells nothing more
    """Return the arguments of the network that the shapes tell; what they do not tell is left out."""
    arguments: dict[str, object] = {
        "num_classes": rows(shapes, "fc.weight", "linear.weight"),
        "in_channels": columns(shapes, "conv1.weight"),
        "style": "layer" if "layer1.0.bn1.weight" in shapes else "block",
        "bias": "conv1.bias" in shapes,
    }
    return {key: value for key, value in arguments.items() if value is not None}


def guess_wide_resnet(shapes: Shapes) -> list[str]:
    """Return the name of this family that the shapes can be of, depth and width read from them."""
    for style, stage in (("block", "block{}.layer"), ("layer", "layer{}")):
        count = blocks(shapes, stage.format(1))
        width, remainder = divmod(rows(shapes, f"{stage.format(1)}.0.conv1.weight") or 0, 16)
        name = f"wrn-{6 * count + 4}-{width}"
        if count and remainder == 0 and is_wide_resnet(name) and f"{style}1.0.conv3.weight" not in shapes:
            return [name]
    return []


def describe_wide_resnet(name: str, arguments: dict[str, object]) -> tuple[str, str]:  # noqa: ARG001
    """Return what was read, and what no weight shows."""
    usual = _usual(str(arguments.get("style", "block")))
    stride, projection = arguments.get("stride_in") or usual[0], arguments.get("projection") or usual[1]
    other = "raw" if projection == "activated" else "activated"
    others = f"--model-arg stride_in={3 - int(str(stride))}, --model-arg projection={other}"
    return (
        "with biases" if arguments.get("bias") else "",
        f"ReLU, the mean over positions, stride in convolution {stride} of a block and projections of its {projection} "
        f"input (else {others})",
    )


def _usual(style: str) -> tuple[int, str]:
    return (1, "activated") if style == "block" else (2, "raw")


def _plan(name: str) -> tuple[int, int] | None:
    """Return blocks in a stage, and width."""
    found = _NAME.fullmatch(name)
    if found is None or int(found[1]) % 6 != 4 or not 10 <= int(found[1]) <= _DEEPEST:
        return None
    return (int(found[1]) - 4) // 6, int(found[2])
