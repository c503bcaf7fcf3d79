"""The rules of normalisation layers: y = γ ∘ x̂ + β, so dγ = Σ δ ∘ x̂ and dβ = Σ δ over all that shares γ."""

import torch
from torch import Tensor, nn
from torch.nn import functional

BatchNorm = nn.BatchNorm1d | nn.BatchNorm2d | nn.BatchNorm3d
InstanceNorm = nn.InstanceNorm1d | nn.InstanceNorm2d | nn.InstanceNorm3d


def _channelwise(module: nn.Module, normalized: Tensor, cotangents: Tensor) -> dict[str, Tensor]:
    """Norms of γ and β shared over positions: x̂ (B, C, …), cotangents (K, B, C, …)."""
    x_hat = normalized.flatten(2) if normalized.dim() > 2 else normalized.unsqueeze(2)
    delta = cotangents.reshape(len(cotangents), *x_hat.shape)
    norms = {"weight": (delta * x_hat).sum(3).double().square().sum(2)}
    if module.bias is not None:
        norms["bias"] = delta.sum(3).double().square().sum(2)
    return norms


def batch_norm(module: BatchNorm, inputs: Tensor, cotangents: Tensor) -> dict[str, Tensor]:
    """‖dγ‖² and ‖dβ‖², (K, B), of a batch norm in evaluation mode: x̂ from the running statistics."""
    shape = (1, -1, *(1,) * (inputs.dim() - 2))
    assert module.running_mean is not None
    assert module.running_var is not None
    scale = torch.rsqrt(module.running_var + module.eps).reshape(shape)
    return _channelwise(module, (inputs - module.running_mean.reshape(shape)) * scale, cotangents)


def group_norm(module: nn.GroupNorm, inputs: Tensor, cotangents: Tensor) -> dict[str, Tensor]:
    """‖dγ‖² and ‖dβ‖², (K, B); γ is per channel."""
    return _channelwise(module, functional.group_norm(inputs, module.num_groups, eps=module.eps), cotangents)


def instance_norm(module: InstanceNorm, inputs: Tensor, cotangents: Tensor) -> dict[str, Tensor]:
    """‖dγ‖² and ‖dβ‖², (K, B); x̂ from the running statistics where the layer keeps them."""
    own_statistics = module.running_mean is None
    normalized = functional.instance_norm(
        inputs, module.running_mean, module.running_var, use_input_stats=own_statistics, eps=module.eps
    )
    return _channelwise(module, normalized, cotangents)


def _elementwise(
    module: nn.LayerNorm | nn.RMSNorm, normalized: Tensor, cotangents: Tensor, bias: Tensor | None
) -> dict[str, Tensor]:
    """Norms of γ and β with an entry per normalised element, shared over the leading positions."""
    elements = normalized.shape[normalized.dim() - len(module.normalized_shape) :].numel()
    x_hat = normalized.reshape(len(normalized), -1, elements)
    delta = cotangents.reshape(len(cotangents), *x_hat.shape)
    norms = {"weight": (delta * x_hat).sum(2).double().square().sum(2)}
    if bias is not None:
        norms["bias"] = delta.sum(2).double().square().sum(2)
    return norms


def layer_norm(module: nn.LayerNorm, inputs: Tensor, cotangents: Tensor) -> dict[str, Tensor]:
    """‖dγ‖² and ‖dβ‖², (K, B)."""
    normalized = functional.layer_norm(inputs, module.normalized_shape, eps=module.eps)
    return _elementwise(module, normalized, cotangents, module.bias)


def rms_norm(module: nn.RMSNorm, inputs: Tensor, cotangents: Tensor) -> dict[str, Tensor]:
    """‖dγ‖², (K, B)."""
    normalized = functional.rms_norm(inputs, module.normalized_shape, eps=module.eps)
    return _elementwise(module, normalized, cotangents, None)
