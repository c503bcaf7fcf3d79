"""Convolutions as functions of their tensors, and torch.nn.functional's in terms of such a function."""

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import Final, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

_ATEN: Final = torch.ops.aten

Gradients = tuple[Tensor | None, Tensor | None, Tensor | None]
"""With respect to inputs, weight and bias; None where nobody asks."""


class Geometry(NamedTuple):
    """What a convolution is given besides tensors, one entry for every spatial dimension."""

    stride: tuple[int, ...]
    padding: tuple[int, ...]
    dilation: tuple[int, ...]
    groups: int

    def of(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """x ∗ W + b."""
        none = (0,) * len(self.stride)
        y: Tensor = _ATEN.convolution(
            x, weight, bias, self.stride, self.padding, self.dilation, False, none, self.groups
        )
        return y

    def back(self, u: Tensor, x: Tensor, weight: Tensor, wanted: Sequence[bool]) -> Gradients:
        """The gradients of ⟨u, x ∗ W + b⟩."""
        none, sizes, wanted = (0,) * len(self.stride), [len(weight)], list(wanted)
        shape = (self.stride, self.padding, self.dilation, False, none, self.groups)
        gradients: Gradients = _ATEN.convolution_backward(u, x, weight, sizes, *shape, wanted)
        return gradients


Convolve = Callable[[Tensor, Tensor, Tensor | None, Geometry], Tensor]
"""(x, W, b, geometry) → x ∗ W + b."""


def _each(value: int | Sequence[int], dimensions: int) -> tuple[int, ...]:
    values = (value,) if isinstance(value, int) else tuple(value)
    return values * dimensions if len(values) == 1 else values


def _by(convolve: Convolve, original: Callable[..., Tensor], dimensions: int) -> Callable[..., Tensor]:
    def convolution(
        input: Tensor,
        weight: Tensor,
        bias: Tensor | None = None,
        stride: int | Sequence[int] = 1,
        padding: str | int | Sequence[int] = 0,
        dilation: int | Sequence[int] = 1,
        groups: int = 1,
    ) -> Tensor:
        if isinstance(padding, str) or input.dim() != dimensions + 2 or not input.is_floating_point():
            return original(input, weight, bias, stride, padding, dilation, groups)
        sizes = [_each(value, dimensions) for value in (stride, padding, dilation)]
        return convolve(input, weight, bias, Geometry(sizes[0], sizes[1], sizes[2], groups))

    return convolution


@contextlib.contextmanager
def convolutions_by(convolve: Convolve) -> Iterator[None]:
    """Let torch.nn.functional's convolutions go by this function while the context is open."""
    names = ("conv1d", "conv2d", "conv3d")
    originals = {name: getattr(functional, name) for name in names}
    try:
        for dimensions, name in enumerate(names, 1):
            setattr(functional, name, _by(convolve, originals[name], dimensions))
        yield
    finally:
        for name, original in originals.items():
            setattr(functional, name, original)
