"""The rule of embeddings: row v of dW is the sum of the cotangents at the positions that hold v."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from fisher_cli.curvature.gradient_norms.grad_factors import EmbeddingRows, Given
from fisher_cli.curvature.gradient_norms.rules.registry import rule


def _is_plain(arguments: Mapping[str, Any]) -> bool:
    """Whether dW is what the rule says: max_norm rewrites the weights, scale_grad_by_freq is no gradient."""
    return arguments["max_norm"] is None and not arguments["scale_grad_by_freq"]


def _rows_taken(
    args: Sequence[Any], kwargs: Mapping[str, Any], _output: object
) -> Iterator[tuple[dict[str, Any], Tensor]]:
    """The rows that `table[ids]` or `index_select(table, 0, ids)` takes of a parameter, numbered from the start."""
    table, ids = args[0], args[-1]
    is_along_rows = len(args) == 2 or (len(args) == 3 and args[1] == 0)
    if kwargs or not is_along_rows or not (table.is_leaf and table.requires_grad):
        return
    if isinstance(ids, Tensor) and ids.dim() and ids.dtype in {torch.int32, torch.int64}:
        yield {"weight": table, "padding_idx": None}, ids.detach() % len(table)  # −1 is the last one


@rule(
    *(torch.Tensor.__getitem__, torch.index_select, torch.Tensor.index_select),
    parameters=("weight",),
    operands=_rows_taken,
    batch_anywhere=True,
)
@rule("torch.nn.functional.embedding", parameters=("weight",), exact=_is_plain, batch_anywhere=True)
def embedding(arguments: Mapping[str, Any], inputs: Tensor, cotangents: Tensor) -> dict[str, Given]:
    """dW = Σ_l e_{id_l} δ_lᵀ over all positions l but those of the padding row, which has no gradient.

    Args:
        arguments: those of the call.
        inputs: ids, (B, …).
        cotangents: δ, (K, B, …, E …).
    """
    ids = inputs.reshape(len(inputs), -1)
    delta = cotangents.reshape(*cotangents.shape[:2], ids.shape[1], arguments["weight"].shape[1:].numel())
    is_padded = arguments["padding_idx"] is not None
    counted = ~_is_padding(arguments, ids) if is_padded else torch.ones_like(ids, dtype=torch.bool)
    return {"weight": EmbeddingRows(ids, delta, counted)}


def _bags(arguments: Mapping[str, Any]) -> Tensor:
    """The bags of `embedding_bag`, each filled up to the longest: ids and coefficients (bags, L, 2) in float64.

    The coefficient of what is no entry of a bag, or a padding row, is zero.
    """
    ids, offsets, weights = arguments["input"].detach(), arguments["offsets"], arguments["per_sample_weights"]
    weights = torch.ones_like(ids, dtype=torch.float64) if weights is None else weights.detach().double()
    is_entry = torch.ones_like(ids, dtype=torch.bool)
    if ids.dim() == 1:
        starts = offsets[:-1] if arguments["include_last_offset"] else offsets
        lengths = torch.diff(starts, append=starts.new_tensor([len(ids)]))
        if arguments["include_last_offset"]:
            lengths = torch.diff(offsets)
        steps = torch.arange(int(lengths.max()) if len(lengths) else 0, device=ids.device)
        is_entry = steps < lengths.unsqueeze(1)
        places = torch.where(is_entry, starts.unsqueeze(1) + steps, 0)
        ids, weights = ids[places], weights[places]
    counted = is_entry if arguments["padding_idx"] is None else is_entry & ~_is_padding(arguments, ids)
    weights = weights * counted
    if arguments["mode"] == "mean":
        weights = weights / counted.sum(1, keepdim=True).clamp_min(1)
    return torch.stack([ids.double(), weights], 2)


@rule("torch.nn.functional.embedding_bag", parameters=("weight",), exact=_is_plain, inputs=_bags)
def embedding_bag(arguments: Mapping[str, Any], inputs: Tensor, cotangents: Tensor) -> dict[str, Given]:
    """dW = Σ_l w_l e_{id_l} δᵀ over the entries l of each example's bag, w_l their coefficients.

    In mode `max` each column of δ goes back to the first row of the bag that has its largest entry.

    Args:
        arguments: those of the call.
        inputs: `_bags`, (B, L, 2).
        cotangents: δ, (K, B, E).
    """
    ids, weights = inputs[..., 0].long(), inputs[..., 1].to(cotangents.dtype)
    counted = weights != 0
    delta = cotangents.unsqueeze(2)
    if arguments["mode"] == "max":
        rows = arguments["weight"].detach()[ids].masked_fill(~counted.unsqueeze(2), -torch.inf)
        first = functional.one_hot(rows.argmax(1), ids.shape[1]).mT
        delta = delta * first
    else:
        delta = delta * weights.unsqueeze(2)
    return {"weight": EmbeddingRows(ids, delta, counted)}


def _is_padding(arguments: Mapping[str, Any], ids: Tensor) -> Tensor:
    """Whether an id is that of the row without a gradient, which may be counted from the end."""
    padding: int = arguments["padding_idx"] % len(arguments["weight"])
    return ids == padding
