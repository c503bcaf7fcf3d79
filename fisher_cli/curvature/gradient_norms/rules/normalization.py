"""The rules of normalisations: y = γ ∘ x̂ + β, so dγ = Σ δ ∘ x̂ and dβ = Σ δ over all that shares γ."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from fisher_cli.curvature.gradient_norms.deferred_checks import runs_behind
from fisher_cli.curvature.gradient_norms.grad_factors import ExplicitGradients, Given
from fisher_cli.curvature.gradient_norms.rules.registry import rule


def _channelwise(normalized: Tensor, cotangents: Tensor) -> dict[str, Given]:
    """γ and β shared over positions: x̂ (B, C, …), cotangents (K, B, C, …)."""
    x_hat = normalized.reshape(*normalized.shape[:2], -1)
    delta = cotangents.reshape(len(cotangents), *x_hat.shape)
    return {
        "weight": ExplicitGradients(torch.einsum("kbcl,bcl->kbc", delta, x_hat)),
        "bias": ExplicitGradients(delta.sum(3)),
    }


def _uses_running_statistics(arguments: Mapping[str, Any]) -> bool:
    """Whether a batch norm treats every example alone."""
    return not arguments["training"] and arguments["running_mean"] is not None


def _leaves_the_batch_apart(arguments: Mapping[str, Any]) -> bool:
    """Whether the normalised dimensions are the trailing ones only, with the examples before them."""
    return bool(len(arguments["normalized_shape"]) < arguments["output_dimensions"])


@rule("torch.nn.functional.batch_norm", parameters=("weight", "bias"), exact=_uses_running_statistics)
def batch_norm(arguments: Mapping[str, Any], inputs: Tensor, cotangents: Tensor) -> dict[str, Given]:
    """dγ = Σ δ ∘ x̂ and dβ = Σ δ of a batch norm in evaluation mode, with x̂ from the running statistics."""
    shape = (1, -1, *(1,) * (inputs.dim() - 2))
    scale = torch.rsqrt(arguments["running_var"] + arguments["eps"]).reshape(shape)
    return _channelwise((inputs - arguments["running_mean"].reshape(shape)) * scale, cotangents)


@rule("torch.nn.functional.group_norm", parameters=("weight", "bias"))
def group_norm(arguments: Mapping[str, Any], inputs: Tensor, cotangents: Tensor) -> dict[str, Given]:
    """dγ = Σ δ ∘ x̂ and dβ = Σ δ over the positions of each channel."""
    return _channelwise(functional.group_norm(inputs, arguments["num_groups"], eps=arguments["eps"]), cotangents)


@rule("torch.nn.functional.instance_norm", parameters=("weight", "bias"))
def instance_norm(arguments: Mapping[str, Any], inputs: Tensor, cotangents: Tensor) -> dict[str, Given]:
    """dγ = Σ δ ∘ x̂ and dβ = Σ δ over positions, with x̂ from the running statistics where the layer uses those."""
    normalized = functional.instance_norm(
        inputs,
        _like(arguments["running_mean"], inputs),
        _like(arguments["running_var"], inputs),
        use_input_stats=arguments["use_input_stats"],
        momentum=0.0,
        eps=arguments["eps"],
    )
    return _channelwise(normalized, cotangents)


def _like(statistic: Tensor | None, inputs: Tensor) -> Tensor | None:
    return None if statistic is None else statistic.to(inputs.dtype)


def _elementwise(normalized: Tensor, dimensions: int, cotangents: Tensor) -> dict[str, Given]:
    """γ and β with an entry per normalised element, shared over the leading positions."""
    elements = normalized.shape[normalized.dim() - dimensions :].numel()
    x_hat = normalized.reshape(len(normalized), -1, elements)
    delta = cotangents.reshape(len(cotangents), *x_hat.shape)
    if runs_behind(delta.device):
        weight = torch.einsum("kble,ble->kbe", delta, x_hat)
    else:
        # As a product of matrices it would be one for every element, whose positions do not lie side by side.
        weight = torch.stack([(each * x_hat).sum(1) for each in delta])
    return {"weight": ExplicitGradients(weight), "bias": ExplicitGradients(delta.sum(2))}


@rule(
    "torch.nn.functional.layer_norm",
    parameters=("weight", "bias"),
    exact=_leaves_the_batch_apart,
    batch_anywhere=True,
)
def layer_norm(arguments: Mapping[str, Any], inputs: Tensor, cotangents: Tensor) -> dict[str, Given]:
    """dγ = Σ δ ∘ x̂ and dβ = Σ δ over all dimensions of an example but the normalised ones."""
    shape = arguments["normalized_shape"]
    normalized = functional.layer_norm(inputs, shape, eps=arguments["eps"])
    return _elementwise(normalized, len(shape), cotangents)


@rule("torch.nn.functional.rms_norm", parameters=("weight",), exact=_leaves_the_batch_apart, batch_anywhere=True)
def rms_norm(arguments: Mapping[str, Any], inputs: Tensor, cotangents: Tensor) -> dict[str, Given]:
    """dγ = Σ δ ∘ x̂ over all dimensions of an example but the normalised ones."""
    shape = arguments["normalized_shape"]
    normalized = functional.rms_norm(inputs, shape, eps=arguments["eps"])
    return _elementwise(normalized, len(shape), cotangents)
