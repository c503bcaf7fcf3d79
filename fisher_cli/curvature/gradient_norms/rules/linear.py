"""The rule of linear maps: dW = Σ_l δ_l a_lᵀ, db = Σ_l δ_l over any number of positions."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from fisher_cli.curvature.gradient_norms.grad_factors import ExplicitGradients, Given, OuterProducts
from fisher_cli.curvature.gradient_norms.rules.registry import rule


@rule("torch.nn.functional.linear", parameters=("weight", "bias"), batch_anywhere=True)
def linear(arguments: Mapping[str, Any], inputs: Tensor, cotangents: Tensor) -> dict[str, Given]:
    """dW = Σ_l δ_l a_lᵀ and db = Σ_l δ_l of y = W a + b, over all positions l.

    Args:
        arguments: not used.
        inputs: a, (B, …, I).
        cotangents: δ, (K, B, …, O).
    """
    del arguments
    a = inputs.reshape(len(inputs), 1, -1, inputs.shape[-1]).transpose(2, 3)
    delta = cotangents.reshape(*cotangents.shape[:2], 1, -1, cotangents.shape[-1]).transpose(3, 4)
    summed = delta.flatten(2) if delta.shape[4] == 1 else delta.squeeze(2).sum(3)
    return {"weight": OuterProducts(a, delta), "bias": ExplicitGradients(summed)}


def _factors(
    args: Sequence[Any], kwargs: Mapping[str, Any], _output: object
) -> Iterator[tuple[dict[str, Any], Tensor]]:
    """(x, W) and (bias, x, W)."""
    if not kwargs:
        *bias, inputs, weight = args
        if isinstance(weight, Tensor) and weight.dim() == 2 and not any(each.dim() != 1 for each in bias):
            yield {"weight": weight, "bias": bias[0] if bias else None}, inputs


@rule(
    *(torch.matmul, torch.Tensor.matmul, torch.Tensor.__matmul__, torch.mm, torch.Tensor.mm),
    *(torch.addmm, torch.Tensor.addmm),
    parameters=("weight", "bias"),
    name="linear",
    operands=_factors,
    batch_anywhere=True,
)
def matrix_product(arguments: Mapping[str, Any], inputs: Tensor, cotangents: Tensor) -> dict[str, Given]:
    """dW = Σ_l a_l δ_lᵀ and db = Σ_l δ_l of y = a W + b with W (I, O): those of a linear map, turned."""
    parts = linear(arguments, inputs, cotangents)
    assert isinstance(parts["weight"], OuterProducts)
    return parts | {"weight": replace(parts["weight"], transposed=True)}
