"""Which rule turns a recorded call into contributions, and for which calls it is exact."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from fisher_cli.curvature.gradient_norms.grad_factors import EmbeddingRows, ExplicitGradients, Given, OuterProducts
from fisher_cli.curvature.gradient_norms.rules.broadcast import added, is_spread, multiplied
from fisher_cli.curvature.gradient_norms.rules.convolution import convolution, is_batched, transposed_convolution
from fisher_cli.curvature.gradient_norms.rules.embedding import embedding, embedding_bag, is_plain
from fisher_cli.curvature.gradient_norms.rules.linear import linear, matrix_product
from fisher_cli.curvature.gradient_norms.rules.normalization import (
    batch_norm,
    group_norm,
    instance_norm,
    layer_norm,
    leaves_the_batch_apart,
    rms_norm,
    uses_running_statistics,
)
from fisher_cli.curvature.gradient_norms.rules.recurrent import gru, recurrent


@dataclass(frozen=True)
class Rule:
    """Givens by role from a call's arguments, inputs (B, …) and output cotangents (K, B, …).

    name: what the coverage ledger says; forms: the contribution's form by role; holds: whether the rule is
    exact for these arguments; batch_anywhere: whether the examples may lie in another dimension than the
    first, as in (time, batch, features).
    """

    name: str
    contributions: Callable[[Mapping[str, Any], Tensor, Tensor], dict[str, Given]]
    forms: Mapping[str, type[Given]]
    holds: Callable[[Mapping[str, Any]], bool] = lambda _arguments: True
    batch_anywhere: bool = False


_WEIGHTS: dict[str, type[Given]] = {"weight": OuterProducts, "bias": ExplicitGradients}
_SCALES: dict[str, type[Given]] = {"weight": ExplicitGradients, "bias": ExplicitGradients}
_RECURRENT: dict[str, type[Given]] = {
    "weight_ih": OuterProducts,
    "weight_hh": OuterProducts,
    "bias_ih": ExplicitGradients,
    "bias_hh": ExplicitGradients,
}
_BARE: dict[str, type[Given]] = {"parameter": ExplicitGradients}

RULES: dict[str, Rule] = {
    "linear": Rule("linear", linear, _WEIGHTS, batch_anywhere=True),
    **{f"conv{d}d": Rule("convolution", convolution, _WEIGHTS, is_batched) for d in (1, 2, 3)},
    **{
        f"conv_transpose{d}d": Rule("transposed-convolution", transposed_convolution, _WEIGHTS, is_batched)
        for d in (1, 2, 3)
    },
    "batch_norm": Rule("batch-norm", batch_norm, _SCALES, uses_running_statistics),
    "instance_norm": Rule("instance-norm", instance_norm, _SCALES),
    "group_norm": Rule("group-norm", group_norm, _SCALES),
    "layer_norm": Rule("layer-norm", layer_norm, _SCALES, leaves_the_batch_apart, batch_anywhere=True),
    "rms_norm": Rule("rms-norm", rms_norm, _SCALES, leaves_the_batch_apart, batch_anywhere=True),
    "embedding": Rule("embedding", embedding, {"weight": EmbeddingRows}, is_plain, batch_anywhere=True),
    "embedding_bag": Rule("embedding-bag", embedding_bag, {"weight": EmbeddingRows}, is_plain),
    "lstm": Rule("lstm", recurrent, _RECURRENT),
    "gru": Rule("gru", gru, _RECURRENT),
    "rnn": Rule("rnn", recurrent, _RECURRENT),
    "matmul": Rule("linear", matrix_product, _WEIGHTS, batch_anywhere=True),
    "add": Rule("added", added, _BARE, is_spread),
    "expand": Rule("added", added, _BARE, is_spread),
    "multiply": Rule("multiplied", multiplied, _BARE, is_spread),
}
