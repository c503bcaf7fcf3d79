"""Convolutions as functions of their tensors, and torch.nn.functional's in terms of such a function."""

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

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


def convolution_by(convolve: Convolve, dimensions: int) -> Callable[[Callable[..., Tensor]], Callable[..., Tensor]]:
    """What makes torch.nn.functional's convolution in so many dimensions go by this function where it can."""

    def make(original: Callable[..., Tensor]) -> Callable[..., Tensor]:
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

    return make


# Convolutions over so few positions go through one matrix product, which cuDNN's heuristics do not find there.
FEW_POSITIONS = 49
# With a stride and more positions than so many in a phase, cuDNN's own kernel for the gradient is the fastest.
MANY_POSITIONS = 100


@dataclass(frozen=True)
class _Phase:
    """One dimension of the input positions i ≡ `residue` modulo the stride: which taps they see, and where.

    Position number q of them is Σ_m W[taps[m]] u[q + first + m · step], taps in descending order.
    """

    residue: int
    positions: int
    taps: range
    first: int
    step: int

    @classmethod
    def of(cls, residue: int, size: int, kernel: int, stride: int, padding: int, dilation: int) -> "_Phase":
        """From i + padding − dilation · k = stride · j, the position j of u that tap k brings to i."""
        apart = math.gcd(dilation, stride)
        seen = [k for k in range(kernel) if (residue + padding - dilation * k) % stride == 0]
        first = (residue + padding - dilation * seen[-1]) // stride if seen else 0
        taps = range(seen[-1], -1, -(stride // apart)) if seen else range(0)
        return cls(residue, len(range(residue, size, stride)), taps, first, dilation // apart)

    def margins(self, given: int) -> tuple[int, int]:
        """What of u is missing before and after, of `given` positions; negative where there is too much of it."""
        last = self.first + (len(self.taps) - 1) * self.step + self.positions - 1
        return -self.first, last - (given - 1)


def input_gradient(u: Tensor, weight: Tensor, size: Sequence[int], geometry: Geometry) -> Tensor:
    """The gradient of ⟨u, x ∗ W⟩ with respect to x, (B, C_in, *size), of u (B, C_out, …) and W (C_out, C_in/groups, …).

    By phases of the stride; one convolution each, and as many multiplications in all as the convolution itself has.
    """
    dimensions = [
        [_Phase.of(residue, *rest) for residue in range(min(rest[2], rest[0]))]
        for rest in zip(size, weight.shape[2:], geometry.stride, geometry.padding, geometry.dilation, strict=True)
    ]
    is_wide = math.prod(each[0].positions for each in dimensions) > MANY_POSITIONS
    if is_wide and max(geometry.stride) > 1 and math.prod(weight.shape[2:]) > 1:
        x = u.new_empty(1).expand(len(u), geometry.groups * weight.shape[1], *size)  # its shape alone is read
        found, _, _ = geometry.back(u, x, weight, (True, False, False))
        assert found is not None
        return found
    turned = _turned(weight, geometry.groups)
    phases = [each for each in itertools.product(*dimensions) if all(len(one.taps) for one in each)]
    if len(phases) == 1 and all(stride == 1 for stride in geometry.stride):
        return _of_phase(u, turned, phases[0], geometry.groups)
    found = u.new_zeros(len(u), len(turned), *size)
    for phase in phases:
        positions = tuple(slice(one.residue, None, s) for one, s in zip(phase, geometry.stride, strict=True))
        found[(slice(None), slice(None), *positions)] = _of_phase(u, turned, phase, geometry.groups)
    return found


def _turned(weight: Tensor, groups: int) -> Tensor:
    """The kernel from outputs to inputs, (C_in, C_out/groups, …)."""
    grouped = weight.reshape(groups, -1, *weight.shape[1:])
    return grouped.transpose(1, 2).flatten(0, 1)


def _of_phase(u: Tensor, turned: Tensor, phase: Sequence[_Phase], groups: int) -> Tensor:
    """The gradient at the positions of one phase."""
    kernel = turned
    for dimension, one in enumerate(phase, 2):
        # The last tap first, by slices of a kernel turned around: an index would be one more thing to wait for.
        behind, size = kernel.shape[dimension] - 1 - one.taps[0], len(one.taps)
        some = [slice(None)] * dimension + [slice(behind, None, -one.taps.step)]
        kernel = kernel.flip(dimension)[tuple(some)].narrow(dimension, 0, size)
    margins = [one.margins(given) for one, given in zip(phase, u.shape[2:], strict=True)]
    steps = [one.step for one in phase]
    is_even = all(before == after and before >= 0 for before, after in margins)
    if not is_even:
        u = functional.pad(u, [amount for pair in reversed(margins) for amount in pair])
    padding = [before for before, _ in margins] if is_even else [0] * len(margins)
    is_narrow = math.prod(one.positions for one in phase) <= FEW_POSITIONS
    if groups == 1 and math.prod(kernel.shape[2:]) == 1 and not any(padding):
        return _of_points(u, kernel.flatten(1), together=is_narrow)
    if groups == 1 and is_narrow:
        return _by_product(u, kernel, padding, steps)
    y: Tensor = _ATEN.convolution(u, kernel, None, (1,) * len(steps), padding, steps, False, (0,) * len(steps), groups)
    return y


def _of_points(u: Tensor, kernel: Tensor, *, together: bool) -> Tensor:
    """A kernel (C_in, C_out) on every position by itself, of each example in turn or of all examples `together`."""
    columns = u.flatten(2)
    found = torch.einsum("ic,bcl->bil", kernel, columns) if together else torch.matmul(kernel, columns)
    return found.reshape(len(u), len(kernel), *u.shape[2:])


def _by_product(u: Tensor, kernel: Tensor, padding: Sequence[int], steps: Sequence[int]) -> Tensor:
    """The same convolution as one product of all patches, of all examples, with the kernel."""
    if any(padding):
        u = functional.pad(u, [amount for each in reversed(padding) for amount in (each, each)])
    u = u.contiguous()
    spatial, taps = u.stride()[2:], kernel.shape[2:]
    grid = [n - step * (k - 1) for n, k, step in zip(u.shape[2:], taps, steps, strict=True)]
    reach = [s * step for s, step in zip(spatial, steps, strict=True)]
    patches = u.as_strided((len(u), *grid, u.shape[1], *taps), (u.stride(0), *spatial, u.stride(1), *reach))
    product = patches.reshape(-1, kernel[0].numel()) @ kernel.flatten(1).T
    return product.reshape(len(u), *grid, len(kernel)).movedim(-1, 1).contiguous()


class _InputGradient(torch.autograd.Function):
    """u ↦ `input_gradient`, of the examples of all directions at once where vmap asks for many directions."""

    generate_vmap_rule = False

    @staticmethod
    def forward(u: Tensor, weight: Tensor, size: Sequence[int], geometry: Geometry) -> Tensor:
        return input_gradient(u, weight, size, geometry)

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        """Nothing: it is not differentiated again."""

    @staticmethod
    def vmap(info: Any, in_dims: Any, u: Tensor, weight: Tensor, size: Sequence[int], geometry: Geometry) -> Any:
        together = u.movedim(in_dims[0], 0).flatten(0, 1)
        found = _InputGradient.apply(together, weight, size, geometry)
        return found.reshape(info.batch_size, -1, *found.shape[1:]), 0


class _OfInput(torch.autograd.Function):
    """x ↦ x ∗ W + b, for a gradient with respect to x alone."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, geometry: Geometry) -> Tensor:
        ctx.weight, ctx.geometry, ctx.size = weight, geometry, x.shape[2:]
        return geometry.of(x, weight, bias)

    @staticmethod
    def backward(ctx: Any, u: Tensor) -> tuple[Tensor | None, ...]:
        return _InputGradient.apply(u, ctx.weight, ctx.size, ctx.geometry), None, None, None


class _OfParameters(torch.autograd.Function):
    """(W, b) ↦ nothing of the value of x ∗ W + b, and all of its gradient, which is computed where it is asked for."""

    @staticmethod
    def forward(ctx: Any, weight: Tensor, bias: Tensor | None, x: Tensor, y: Tensor, geometry: Geometry) -> Tensor:
        ctx.save_for_backward(weight, x)
        ctx.has_bias, ctx.geometry = bias is not None, geometry
        return y.new_zeros(()).expand_as(y)

    @staticmethod
    def backward(ctx: Any, u: Tensor) -> tuple[Tensor | None, ...]:
        weight, x = ctx.saved_tensors
        _, to_weight, to_bias = ctx.geometry.back(u, x, weight, (False, True, ctx.has_bias))
        return to_weight, to_bias, None, None, None


class _Joined(torch.autograd.Function):
    """(y, 0) ↦ y, whose cotangent goes to both: autograd runs neither of the two if nobody asks for what it gives."""

    @staticmethod
    def forward(ctx: Any, y: Tensor, nothing: Tensor) -> Tensor:  # noqa: ARG004
        return y.view_as(y)

    @staticmethod
    def backward(ctx: Any, u: Tensor) -> tuple[Tensor, Tensor]:  # noqa: ARG004
        return u, u


def convolve(x: Tensor, weight: Tensor, bias: Tensor | None, geometry: Geometry) -> Tensor:
    """x ∗ W + b, differentiable once, with respect to x by `input_gradient`."""
    fixed = None if bias is None else bias.detach()
    y: Tensor = _OfInput.apply(x, weight.detach(), fixed, geometry)
    if weight.requires_grad or (bias is not None and bias.requires_grad):
        y = _Joined.apply(y, _OfParameters.apply(weight, bias, x.detach(), y.detach(), geometry))
    return y
