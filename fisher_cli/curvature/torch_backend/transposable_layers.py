"""Convolutions and batch norms whose backward pass is a linear map that knows its own transpose.

J v is the derivative of u ↦ Jᵀu, a backward pass through the backward pass. Autograd's formulas for that serve second
derivatives with respect to inputs and weights too, and take a convolution about four convolutions. In a product with
J those are constants: here the backward pass is a function of the cotangent alone, and its transpose takes two.

Their graphs can be differentiated once with respect to parameters and inputs, and once more with respect to the
cotangent; a second derivative with respect to parameters or inputs is missing from them.
"""

from collections.abc import Sequence
from typing import Any, Final

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from fisher_cli.curvature.torch_backend.convolutions import Geometry, Gradients
from fisher_cli.curvature.torch_backend.differentiable_kernels import BatchNorm, in_evaluation

_ATEN: Final = torch.ops.aten


def laid_out(images: Tensor) -> Tensor:
    """Images with channels last on the CPU, where convolutions then make no copies of their own.

    With a single channel either order is the same memory, and torch would take the strides for channels first: all
    that follows would be laid out so too, and be met by gradients with channels last.
    """
    if images.dim() != 4 or images.device.type != "cpu":
        return images
    _, channels, height, width = images.shape
    if channels == 1:
        return images.contiguous().as_strided(images.shape, (height * width, 1, width, 1))
    return images.contiguous(memory_format=torch.channels_last)


class _Convolution(torch.autograd.Function):
    """x ∗ W + b."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, geometry: Geometry) -> Tensor:
        x = laid_out(x)
        ctx.save_for_backward(x, weight)
        ctx.geometry = geometry
        return geometry.of(x, weight, bias)

    @staticmethod
    def backward(ctx: Any, u: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        wanted = ctx.needs_input_grad[:3]
        return *_ConvolutionBackward.apply(u, x.detach(), weight.detach(), ctx.geometry, wanted), None


class _ConvolutionBackward(torch.autograd.Function):
    """u ↦ the gradients of ⟨u, x ∗ W + b⟩, whose transpose is (ẋ, Ẇ, ḃ) ↦ ẋ ∗ W + x ∗ Ẇ + ḃ."""

    @staticmethod
    def forward(
        ctx: Any, u: Tensor, x: Tensor, weight: Tensor, geometry: Geometry, wanted: Sequence[bool]
    ) -> Gradients:
        ctx.save_for_backward(x, weight)
        ctx.geometry, ctx.shape = geometry, u.shape
        ctx.set_materialize_grads(False)
        return geometry.back(laid_out(u), x, weight, wanted)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, x_dot: Tensor | None, weight_dot: Tensor | None, bias_dot: Tensor | None) -> Any:
        x, weight = ctx.saved_tensors
        total = None
        if weight_dot is not None:
            total = ctx.geometry.of(x, weight_dot, bias_dot)
        elif bias_dot is not None:
            total = bias_dot.reshape(-1, *(1,) * (x.dim() - 2)).expand(ctx.shape)
        if x_dot is not None:
            through = ctx.geometry.of(laid_out(x_dot), weight, None)
            total = through if total is None else through + total
        return total, None, None, None, None


class _BatchNorm(torch.autograd.Function):
    """γ ∘ x̂ + β with x̂ = (x − μ)/√(σ² + ε) of the running statistics."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, mean: Tensor, variance: Tensor, eps: float
    ) -> Tensor:
        ctx.save_for_backward(x, weight, mean, variance)
        ctx.eps = eps
        y: Tensor = _ATEN.native_batch_norm(x, weight, bias, mean, variance, False, 0.0, eps)[0]
        return y

    @staticmethod
    def backward(ctx: Any, u: Tensor) -> tuple[Tensor | None, ...]:
        constants = (tensor.detach() for tensor in ctx.saved_tensors)
        return *_BatchNormBackward.apply(u, *constants, ctx.eps, ctx.needs_input_grad[:3]), None, None, None


class _BatchNormBackward(torch.autograd.Function):
    """u ↦ the gradients of ⟨u, γ ∘ x̂ + β⟩, whose transpose is (ẋ, γ̇, β̇) ↦ ẋ ∘ γ/√(σ² + ε) + γ̇ ∘ x̂ + β̇."""

    @staticmethod
    def forward(
        ctx: Any,
        u: Tensor,
        x: Tensor,
        weight: Tensor,
        mean: Tensor,
        variance: Tensor,
        eps: float,
        wanted: Sequence[bool],
    ) -> Gradients:
        ctx.save_for_backward(x, weight, mean, torch.rsqrt(variance + eps))
        ctx.set_materialize_grads(False)
        none = (None, None)
        gradients: Gradients = _ATEN.native_batch_norm_backward(
            u, x, weight, mean, variance, *none, False, eps, list(wanted)
        )
        return gradients

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, x_dot: Tensor | None, weight_dot: Tensor | None, bias_dot: Tensor | None) -> Any:
        x, weight, mean, inverse = ctx.saved_tensors
        shape = (-1, *(1,) * (x.dim() - 2))
        total = torch.zeros_like(mean).reshape(shape) if bias_dot is None else bias_dot.reshape(shape)
        if weight_dot is not None:
            slope = weight_dot * inverse
            total = torch.addcmul(total - (mean * slope).reshape(shape), x, slope.reshape(shape))
        if x_dot is not None:
            total = torch.addcmul(total, x_dot, (weight * inverse).reshape(shape))
        return total.expand_as(x), None, None, None, None, None, None


def convolve(x: Tensor, weight: Tensor, bias: Tensor | None, geometry: Geometry) -> Tensor:
    """x ∗ W + b, transposable."""
    found: Tensor = _Convolution.apply(x, weight, bias, geometry)
    return found


def batch_norm(original: BatchNorm) -> BatchNorm:
    """Batch norm in evaluation mode, transposable."""

    def kernel(
        input: Tensor, mean: Tensor, variance: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float
    ) -> Tensor:
        if any(tensor is None or tensor.dtype != input.dtype for tensor in (mean, weight, bias)):
            return original(input, mean, variance, weight, bias, False, 0.0, eps)
        found: Tensor = _BatchNorm.apply(input, weight, bias, mean, variance, eps)
        return found

    return in_evaluation(original, kernel)
