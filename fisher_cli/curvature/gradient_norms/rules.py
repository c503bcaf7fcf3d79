"""Which rule computes which layer's norms, and for which configurations the rule is exact."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from fisher_cli.curvature.gradient_norms.convolution import convolution, transposed_convolution
from fisher_cli.curvature.gradient_norms.embedding import embedding
from fisher_cli.curvature.gradient_norms.linear import linear
from fisher_cli.curvature.gradient_norms.normalization import (
    batch_norm,
    group_norm,
    instance_norm,
    layer_norm,
    rms_norm,
)


@dataclass(frozen=True)
class Rule:
    """Squared norms per local parameter name, (K, B) in float64, from a layer's inputs and output cotangents.

    `name` goes into the coverage ledger. `holds` says whether the rule is exact for this configuration.
    """

    name: str
    squared_norms: Callable[[Any, Tensor, Tensor], dict[str, Tensor]]
    holds: Callable[[Any], bool] = lambda _module: True


def _plain_embedding(module: nn.Embedding) -> bool:
    # max_norm rewrites the weights in the forward pass; scale_grad_by_freq makes autograd return no gradient.
    return module.max_norm is None and not module.scale_grad_by_freq


_LINEAR = Rule("linear", linear)
_CONVOLUTION = Rule("convolution", convolution)
_TRANSPOSED = Rule("transposed-convolution", transposed_convolution)
_BATCH_NORM = Rule("batch-norm", batch_norm, lambda module: module.running_mean is not None)
_INSTANCE_NORM = Rule("instance-norm", instance_norm)

_RULES: dict[type[nn.Module], Rule] = {
    nn.Linear: _LINEAR,
    nn.Conv1d: _CONVOLUTION,
    nn.Conv2d: _CONVOLUTION,
    nn.Conv3d: _CONVOLUTION,
    nn.ConvTranspose1d: _TRANSPOSED,
    nn.ConvTranspose2d: _TRANSPOSED,
    nn.ConvTranspose3d: _TRANSPOSED,
    nn.BatchNorm1d: _BATCH_NORM,
    nn.BatchNorm2d: _BATCH_NORM,
    nn.BatchNorm3d: _BATCH_NORM,
    nn.InstanceNorm1d: _INSTANCE_NORM,
    nn.InstanceNorm2d: _INSTANCE_NORM,
    nn.InstanceNorm3d: _INSTANCE_NORM,
    nn.GroupNorm: Rule("group-norm", group_norm),
    nn.LayerNorm: Rule("layer-norm", layer_norm),
    nn.RMSNorm: Rule("rms-norm", rms_norm),
    nn.Embedding: Rule("embedding", embedding, _plain_embedding),
}


def rule_for(module: nn.Module) -> Rule | None:
    """The rule of a module, None if there is none.

    A subclass may compute anything, so a rule applies only where the very `forward` of its class runs and
    nobody hooked into it.
    """
    rule = next((rule for kind, rule in _RULES.items() if isinstance(module, kind)), None)
    kind = next((kind for kind in _RULES if isinstance(module, kind)), None)
    if rule is None or kind is None:
        return None
    same_forward = type(module).forward is kind.forward and "forward" not in vars(module)
    same_convolution = not hasattr(kind, "_conv_forward") or type(module)._conv_forward is kind._conv_forward  # type: ignore[attr-defined]
    hooked = module._forward_hooks or module._forward_pre_hooks or module._backward_hooks
    return rule if same_forward and same_convolution and not hooked and rule.holds(module) else None
