"""Residual networks for small images: those of He et al. for CIFAR-10, and those for ImageNet with a small stem.

Names of the parts differ between authors and change nothing: `shortcut` or `downsample` for a projection,
`linear` or `fc` for the last layer. They are taken as the checkpoint has them.
Source: He, Zhang, Ren, Sun 2016 (arXiv:1512.03385), sections 3 and 4.2.
"""

import re
from collections.abc import Sequence
from typing import Final, Literal

from torch import Tensor, nn
from torch.nn.functional import pad, relu

from fisher_cli.inputs.networks.shapes import Shapes, blocks, columns, rows

# The paper's depths: three stages of 6n + 2 layers with 16, 32, 64 channels.
CIFAR_NAMES: Final = tuple(f"resnet{depth}-cifar" for depth in (20, 32, 44, 56, 110, 1202))
# Blocks of the four stages, and whether they are bottlenecks: table 1 of the paper.
_STAGES: Final = {
    18: ((2, 2, 2, 2), False),
    34: ((3, 4, 6, 3), False),
    50: ((3, 4, 6, 3), True),
    101: ((3, 4, 23, 3), True),
    152: ((3, 8, 36, 3), True),
}
FOUR_STAGE_NAMES: Final = tuple(f"resnet{depth}-cifar" for depth in _STAGES)
_NAME: Final = re.compile(r"resnet([1-9][0-9]{0,3})-cifar", re.ASCII)
_DEEPEST: Final = 1202


class _Subsampling(nn.Module):
    """Option A: every second position, and zeros for the channels that are new."""

    def __init__(self, channels_in: int, channels_out: int, stride: int, padding: Literal["sides", "end"]) -> None:
        super().__init__()
        new = channels_out - channels_in
        self._stride = stride
        self._before = new // 2 if padding == "sides" else 0
        self._after = new - self._before

    def forward(self, inputs: Tensor) -> Tensor:
        positions = inputs[:, :, :: self._stride, :: self._stride]
        return pad(positions, (0, 0, 0, 0, self._before, self._after))


class _Block(nn.Module):
    """relu(shortcut(x) + residual(x)) with two convolutions 3 × 3, or 1 × 1, 3 × 3, 1 × 1 in a bottleneck."""

    def __init__(
        self, channels_in: int, width: int, stride: int, shortcut: nn.Module | None, name: str, *, is_bottleneck: bool
    ) -> None:
        super().__init__()
        if is_bottleneck:
            plan = [(channels_in, width, 1, 1), (width, width, 3, stride), (width, 4 * width, 1, 1)]
        else:
            plan = [(channels_in, width, 3, stride), (width, width, 3, 1)]
        self._depth = len(plan)
        self._shortcut = name
        for i, (before, after, kernel, step) in enumerate(plan, 1):
            convolution = nn.Conv2d(before, after, kernel, stride=step, padding=kernel // 2, bias=False)
            self.add_module(f"conv{i}", convolution)
            self.add_module(f"bn{i}", nn.BatchNorm2d(after))
        self.add_module(name, shortcut or nn.Identity())

    def forward(self, inputs: Tensor) -> Tensor:
        residual = inputs
        for i in range(1, self._depth + 1):
            residual = self.get_submodule(f"bn{i}")(self.get_submodule(f"conv{i}")(residual))
            if i < self._depth:
                residual = relu(residual)
        kept: Tensor = self.get_submodule(self._shortcut)(inputs)
        return relu(residual + kept)


class _ResNet(nn.Module):
    """A convolution 3 × 3, stages of blocks, the mean over positions, a linear layer."""

    def __init__(
        self,
        stages: Sequence[int],
        width: int,
        num_classes: int,
        in_channels: int,
        names: tuple[str, str],
        *,
        is_bottleneck: bool = False,
        padding: Literal["sides", "end"] | None = None,
    ) -> None:
        super().__init__()
        self._depth, self._head = len(stages), names[1]
        self.conv1 = nn.Conv2d(in_channels, width, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        channels = width
        for i, count in enumerate(stages):
            inner, chain = width * 2**i, nn.Sequential()
            outer = 4 * inner if is_bottleneck else inner
            for j in range(count):
                stride = 2 if i > 0 and j == 0 else 1
                shortcut: nn.Module | None = None
                if (stride > 1 or channels != outer) and padding is not None:
                    shortcut = _Subsampling(channels, outer, stride, padding)
                elif stride > 1 or channels != outer:
                    projection = nn.Conv2d(channels, outer, 1, stride=stride, bias=False)
                    shortcut = nn.Sequential(projection, nn.BatchNorm2d(outer))
                chain.append(_Block(channels, inner, stride, shortcut, names[0], is_bottleneck=is_bottleneck))
                channels = outer
            self.add_module(f"layer{i + 1}", chain)
        self.add_module(names[1], nn.Linear(channels, num_classes))

    def forward(self, inputs: Tensor) -> Tensor:
        outputs = relu(self.bn1(self.conv1(inputs)))
        for i in range(1, self._depth + 1):
            outputs = self.get_submodule(f"layer{i}")(outputs)
        logits: Tensor = self.get_submodule(self._head)(outputs.mean((2, 3)))
        return logits


def cifar_resnet(
    name: str,
    num_classes: int = 10,
    in_channels: int = 3,
    shortcut: str = "A",
    padding: str = "sides",
    width: int | None = None,
    shortcut_name: str = "shortcut",
    head_name: str = "linear",
) -> nn.Module:
    """Return the network `resnet20-cifar` and its like; `resnet18-cifar` has ImageNet's stages on a 3 × 3 stem.

    Args:
        name: `resnetD-cifar`: three stages for D = 6n + 2, four for 18, 34, 50, 101, 152.
        num_classes: outputs of the last layer.
        in_channels: channels of the images.
        shortcut: with three stages, where the size changes: A without parameters, B a projection.
        padding: with option A, where the new channels go: `sides`, half on each, or `end`.
        width: channels of the first stage; None for 16 with three stages, 64 with four.
        shortcut_name: what a projection is called.
        head_name: what the last layer is called.

    Raises:
        ValueError: no such network.
    """
    depth = _depth(name)
    if depth is None:
        msg = f"{name}: a depth is 6n + 2 up to {_DEEPEST}, or one of {', '.join(map(str, _STAGES))}"
        raise ValueError(msg)
    if shortcut not in {"A", "B"} or padding not in {"sides", "end"}:
        msg = f"shortcut {shortcut}, padding {padding}: the shortcut is A or B, the padding sides or end"
        raise ValueError(msg)
    names = (shortcut_name, head_name)
    if depth in _STAGES:
        stages, is_bottleneck = _STAGES[depth]
        return _ResNet(stages, width or 64, num_classes, in_channels, names, is_bottleneck=is_bottleneck)
    where: Literal["sides", "end"] = "end" if padding == "end" else "sides"
    three = [(depth - 2) // 6] * 3
    return _ResNet(three, width or 16, num_classes, in_channels, names, padding=where if shortcut == "A" else None)


def is_cifar_resnet(name: str) -> bool:
    """Return whether the name is of this family and the network exists."""
    return _depth(name) is not None


def read_cifar_resnet(name: str, shapes: Shapes) -> dict[str, object]:
    """Return the arguments of the network of this name that the shapes tell; what they do not tell is left out."""
    shortcut_name = "downsample" if any(".downsample.0." in key for key in shapes) else "shortcut"
    arguments: dict[str, object] = {
        "num_classes": rows(shapes, "linear.weight", "fc.weight"),
        "in_channels": columns(shapes, "conv1.weight"),
        "width": rows(shapes, "conv1.weight"),
        "shortcut_name": shortcut_name,
        "head_name": "fc" if "fc.weight" in shapes else "linear",
    }
    if _depth(name) not in _STAGES:
        arguments["shortcut"] = "B" if any(f".{shortcut_name}.0." in key for key in shapes) else "A"
    return {key: value for key, value in arguments.items() if value is not None}


def guess_cifar_resnet(shapes: Shapes) -> list[str]:
    """Return the names of this family that the shapes can be of, by their stages; none for the names of torchvision."""
    if len(shapes.get("conv1.weight", ())) != 4 or shapes["conv1.weight"][2:] != (3, 3):
        return []
    counts = tuple(blocks(shapes, f"layer{i}") for i in range(1, 6))
    if counts[3:] == (0, 0) and counts[0] > 0 and len(set(counts[:3])) == 1:
        name = f"resnet{6 * counts[0] + 2}-cifar"
        return [name] if is_cifar_resnet(name) and _depth(name) not in _STAGES else []
    if "fc.weight" in shapes and any(".downsample.0." in key for key in shapes):
        return []  # torchvision's network with another stem
    is_bottleneck = "layer1.0.conv3.weight" in shapes
    found = [depth for depth, plan in _STAGES.items() if plan == (counts[:4], is_bottleneck) and counts[4] == 0]
    return [f"resnet{depth}-cifar" for depth in found]


def describe_cifar_resnet(name: str, arguments: dict[str, object]) -> tuple[str, str]:
    """Return what was read, and what no weight shows."""
    unseen = "ReLU, the mean over positions"
    if _depth(name) in _STAGES:
        return "", f"{unseen}, no max-pool after the stem, stride in the 3 × 3 convolution of a bottleneck"
    width = "" if arguments.get("width") == 16 else f", width {arguments.get('width')}"
    if arguments.get("shortcut") == "B":
        return f"option B{width}", unseen
    padding = arguments.get("padding", "sides")
    where = "half on each side (--model-arg padding=end: all behind)" if padding == "sides" else "behind"
    return (
        f"option A{width}",
        f"{unseen}, the parameter-free shortcut: every second position, zeros for new channels {where}",
    )


def _depth(name: str) -> int | None:
    found = _NAME.fullmatch(name)
    depth = int(found[1]) if found else 0
    is_known = depth in _STAGES or (8 <= depth <= _DEEPEST and depth % 6 == 2)
    return depth if is_known else None
