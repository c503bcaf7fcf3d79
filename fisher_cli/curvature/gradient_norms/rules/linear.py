"""The rule of linear maps: dW = Σ_l δ_l a_lᵀ, db = Σ_l δ_l over any number of positions."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from torch import Tensor

from fisher_cli.curvature.gradient_norms.grad_factors import ExplicitGradients, Given, OuterProducts


def linear(arguments: Mapping[str, Any], inputs: Tensor, cotangents: Tensor) -> dict[str, Given]:
    """Weight and bias, of inputs (B, …, I) and cotangents (K, B, …, O)."""
    del arguments
    a = inputs.reshape(len(inputs), 1, -1, inputs.shape[-1]).transpose(2, 3)
    delta = cotangents.reshape(*cotangents.shape[:2], 1, -1, cotangents.shape[-1]).transpose(3, 4)
    summed = delta.flatten(2) if delta.shape[4] == 1 else delta.squeeze(2).sum(3)
    return {"weight": OuterProducts(a, delta), "bias": ExplicitGradients(summed)}


def matrix_product(arguments: Mapping[str, Any], inputs: Tensor, cotangents: Tensor) -> dict[str, Given]:
    """The weight of x W + b, (I, O), whose gradient is that of a linear map turned, and the bias."""
    parts = linear(arguments, inputs, cotangents)
    assert isinstance(parts["weight"], OuterProducts)
    return parts | {"weight": replace(parts["weight"], transposed=True)}
