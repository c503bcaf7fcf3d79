"""The rule of embeddings: row v of dW is the sum of the cotangents at the positions that hold v."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from fisher_cli.curvature.gradient_norms.contributions import Given, Rows


def embedding(arguments: Mapping[str, Any], inputs: Tensor, cotangents: Tensor) -> dict[str, Given]:
    """Weight, of ids (B, …) and cotangents (K, B, …, E); the padding row has no gradient."""
    ids = inputs.reshape(len(inputs), -1)
    delta = cotangents.reshape(*cotangents.shape[:2], ids.shape[1], cotangents.shape[-1])
    padding = arguments["padding_idx"]
    if padding is None:
        counted = torch.ones_like(ids, dtype=torch.bool)
    else:
        counted = ids != (padding if padding >= 0 else padding + len(arguments["weight"]))
    return {"weight": Rows(ids, delta, counted)}


def is_plain(arguments: Mapping[str, Any]) -> bool:
    """Whether dW is what the rule says: max_norm rewrites the weights, scale_grad_by_freq is no gradient."""
    return arguments["max_norm"] is None and not arguments["scale_grad_by_freq"]
