"""Batch norm and the projections of attention from operations that every kind of derivative exists for."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.nn import functional

BatchNorm = Callable[..., Tensor]
"""As torch.nn.functional's."""


def in_evaluation(
    original: BatchNorm, kernel: Callable[[Tensor, Tensor, Tensor, Tensor | None, Tensor | None, float], Tensor]
) -> BatchNorm:
    """Batch norm by a kernel (x, μ, σ², γ, β, ε); the original in training and for statistics of another type."""

    def batch_norm(
        input: Tensor,
        running_mean: Tensor | None,
        running_var: Tensor | None,
        weight: Tensor | None = None,
        bias: Tensor | None = None,
        training: bool = False,
        momentum: float = 0.1,
        eps: float = 1e-5,
    ) -> Tensor:
        if training or running_mean is None or running_var is None or input.dtype != running_var.dtype:
            return original(input, running_mean, running_var, weight, bias, training, momentum, eps)
        return kernel(input, running_mean, running_var, weight, bias, eps)

    return batch_norm


def _evaluated(
    input: Tensor, mean: Tensor, variance: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float
) -> Tensor:
    """x ↦ x ∘ s + t with s = γ/√(σ² + ε), t = β − μ ∘ s, whose derivatives are products."""
    scale = torch.rsqrt(variance + eps)
    if weight is not None:
        scale = weight * scale
    shift = -mean * scale if bias is None else torch.addcmul(bias, mean, scale, value=-1)
    shape = (-1, *(1,) * (input.dim() - 2))
    return torch.addcmul(shift.reshape(shape), input, scale.reshape(shape))


def batch_norm(original: BatchNorm) -> BatchNorm:
    """Batch norm whose derivatives are products."""
    return in_evaluation(original, _evaluated)


def in_projection(original: Callable[..., Sequence[Tensor]]) -> Callable[..., Sequence[Tensor]]:
    """Queries, keys and values from one packed matrix, those of self-attention as parts of one product.

    Going back, three parts are put side by side; torch takes them out of one tensor in another order, and its way back
    adds three that are zero but for a third.
    """

    def project(q: Tensor, k: Tensor, v: Tensor, w: Tensor, b: Tensor | None = None) -> Sequence[Tensor]:
        if q is not k or k is not v:
            return original(q, k, v, w, b)
        return [part.contiguous() for part in functional.linear(q, w, b).chunk(3, dim=-1)]

    return project
