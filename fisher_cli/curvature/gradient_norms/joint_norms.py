"""The joint norm of what several calls add to one parameter's per-example gradient: reused layers, tied weights."""

from collections.abc import Sequence

import torch
from torch import Tensor

from fisher_cli.curvature.gradient_norms.deferred_checks import DeferredChecks
from fisher_cli.curvature.gradient_norms.grad_factors import (
    Contribution,
    EmbeddingRows,
    ExplicitGradients,
    FormedGradients,
    Given,
    ObservedRows,
    OuterProducts,
)


def joined(parts: Sequence[Contribution]) -> Contribution | None:
    """Contributions of one form and one orientation as one contribution, whose gradient is the sum of theirs.

    Args:
        parts: what the uses of one parameter add; at least one.

    Returns:
        One contribution; a single part as it is. None where the parts are of several forms, whose sum has none.
    """
    if len(parts) == 1:
        return parts[0]
    outer = [part for part in parts if isinstance(part, OuterProducts)]
    vectors = [part for part in parts if isinstance(part, ExplicitGradients)]
    rows = [part for part in parts if isinstance(part, EmbeddingRows)]
    if len(outer) == len(parts) and len({_orientation(part) for part in outer}) == 1:
        inputs, cotangents = [part.inputs for part in outer], [part.cotangents for part in outer]
        return OuterProducts(torch.cat(inputs, 3), torch.cat(cotangents, 4), outer[0].transposed)
    if len(vectors) == len(parts):
        return ExplicitGradients(torch.stack([part.values for part in vectors]).sum(0))
    if len(rows) == len(parts):
        ids, counted = [part.ids for part in rows], [part.counted for part in rows]
        return EmbeddingRows(torch.cat(ids, 1), torch.cat([part.cotangents for part in rows], 2), torch.cat(counted, 1))
    return None


def _orientation(part: OuterProducts) -> tuple[bool, int, int, int]:
    """What two sums of outer products have in common whose entries belong to the same ones of the parameter."""
    return part.transposed, part.inputs.shape[1], part.inputs.shape[2], part.cotangents.shape[3]


def squared_norms(
    parts: Sequence[Contribution], shape: torch.Size, deferred_checks: DeferredChecks | None = None
) -> Tensor:
    """‖Σ_calls gradient‖², (K, B) in float64, of one parameter.

    Args:
        parts: what its uses add.
        shape: the parameter's.
        deferred_checks: keeps what speaks against quick routes, which are all taken, to be asked later; None to ask at
            once.
    """
    one = joined(parts)
    if one is not None:
        return one.squared_norms(deferred_checks)
    outer = [part for part in parts if isinstance(part, OuterProducts)]
    rows = [part for part in parts if isinstance(part, EmbeddingRows)]
    same = joined(outer) if outer else None
    if rows and isinstance(same, OuterProducts) and len(outer) + len(rows) == len(parts) and _is_by_rows(same):
        return _tied(same, rows, deferred_checks)
    # A kernel in a convolution and in its transpose, a weight that is a factor as well: in no form but their own.
    given: Sequence[Given] = [part for part in parts if not isinstance(part, FormedGradients)]
    return FormedGradients([(given, shape)], lambda formed: formed[0]).squared_norms(deferred_checks)


def norms_and_sum(
    parts: Sequence[Contribution],
    observed_rows: ObservedRows,
    shape: torch.Size,
    deferred_checks: DeferredChecks | None = None,
) -> tuple[Tensor, Tensor]:
    """`squared_norms`, and Σ_kb c_kb g_kb in the parameter's shape: from the same gradients where these are formed.

    Args:
        parts: what the uses of one parameter add.
        observed_rows: the direction of each example that the sum takes, and its coefficient c.
        shape: the parameter's.
        deferred_checks: as for `squared_norms`.

    Returns:
        (K, B) in float64, and the sum in the precision of the contributions.
    """
    one = joined(parts)
    if isinstance(one, OuterProducts):
        norms, gradient = one.measured(observed_rows, deferred_checks)
        return norms, one.weighted_sum(observed_rows, shape) if gradient is None else one.oriented(gradient, shape)
    total, *others = [part.weighted_sum(observed_rows, shape) for part in parts]
    for other in others:
        total = total + other
    return squared_norms(parts, shape, deferred_checks), total


def _is_by_rows(part: OuterProducts) -> bool:
    """Whether its rows are those of an embedding."""
    return not part.transposed and part.inputs.shape[1] == 1


def _tied(outer: OuterProducts, rows: Sequence[EmbeddingRows], deferred_checks: DeferredChecks | None) -> Tensor:
    """An embedding tied to a linear layer: both norms and twice Σ_lm δ_l[id_m] (a_lᵀ d_m)."""
    together = joined(rows)
    assert isinstance(together, EmbeddingRows)
    total = outer.squared_norms(deferred_checks) + together.squared_norms()
    a, delta = outer.inputs.squeeze(1), outer.cotangents.squeeze(2)
    ids = together.ids.unsqueeze(0).unsqueeze(3).expand(len(delta), -1, -1, delta.shape[3])
    picked = delta.gather(2, ids) * together.counted.unsqueeze(2)
    inner = torch.einsum("bel,kbme->kbml", a, together.cotangents)
    return total + 2 * (picked.double() * inner.double()).sum((2, 3))
