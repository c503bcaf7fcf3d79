"""‖Σ_l δ_l a_lᵀ‖² of sums of outer products over positions, by the gradients themselves or by products of positions.

On the CPU directions are taken in turn, as the views that they are, where that is quicker: K·B examples side by side
would first be copied into another order, and what is formed of one direction at a time stays in the caches. A GPU takes
them together. Any layout of rows and positions in memory serves: matrix products take either.
Shapes: X examples and groups, K directions, R rows, Q columns, L positions.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from fisher_cli.curvature.gradient_norms.deferred_checks import DeferredChecks

# Rounding that the Gram form may add, relative to the norm, by the estimate of `through_gram`.
CANCELLATION = 3e-6
# Below this, squares of float32 entries may have lost digits to underflow.
SAFE_NORM = 1e-12
# So many float32 squares may be added in float32; in a sum over a million the last four digits are lost.
ADDED_AT_ONCE = 2**13
# Values of gradients that are there at once where their norms are taken from themselves.
GRADIENT_VALUES = 2**22
# With fewer rows, products of one direction are too thin, and those of all directions are stacked whatever it takes.
FEW_ROWS = 16
# With more, those of one direction are large enough, and its gradients stay in the caches until their norms are taken.
MANY_ROWS = 64


@dataclass(frozen=True)
class WeightedSum:
    """Which direction's gradients to add up, their coefficients (B,), and how many groups belong to each example."""

    direction: int
    coefficients: Tensor
    groups: int

    def added(self, gradients: Tensor, low: int) -> Tensor:
        """Σ_b c_b g_b, (G, R, Q), of gradients (X, R, Q) that begin with that of number `low`."""
        by_example = gradients.reshape(-1, self.groups, *gradients.shape[1:])
        first = low // self.groups
        some = self.coefficients[first : first + len(by_example)].to(gradients.dtype)
        return torch.mv(by_example.flatten(1).T, some).reshape(by_example.shape[1:])


def squared_rows(values: Tensor, deferred_checks: DeferredChecks | None = None) -> Tensor:
    """Sums of squares over the last dimension in float64; added there only where float32 would lose digits."""
    if values.shape[-1] <= ADDED_AT_ONCE:
        norms: Tensor = torch.linalg.vector_norm(values, dim=-1)
        # The largest of what is added up later: a small one beside it does not matter.
        largest = norms.amax(-1)
        precise = ((largest >= SAFE_NORM) & largest.isfinite()).all()
        if deferred_checks is not None:
            deferred_checks.note(~precise)
        if deferred_checks is not None or bool(precise):
            return norms.double().square()
    exact: Tensor = torch.linalg.vector_norm(values, dim=-1, dtype=torch.float64)
    return exact.square()


def explicitly(
    a: Tensor, delta: Tensor, deferred_checks: DeferredChecks | None = None, weighted: WeightedSum | None = None
) -> tuple[Tensor, Tensor | None]:
    """‖Σ_l δ_l a_lᵀ‖², (K, X) in float64, of a (X, Q, L) and δ (K, X, R, L), by the gradients, a few of them at once.

    Beside it the weighted sum that is asked for, (G, R, Q): its gradients are there already.
    """
    directions, _, rows, _ = delta.shape
    size = rows * a.shape[1]
    # Stacked, products are larger; where positions do not lie side by side, the copy costs more than that saves.
    is_stacked = deferred_checks is not None or rows < FEW_ROWS or (rows <= MANY_ROWS and delta.stride(3) == 1)
    together = max(1, min(directions, GRADIENT_VALUES // size)) if is_stacked else 1
    some = max(1, GRADIENT_VALUES // (size * together))
    if weighted is not None:
        some = max(1, some // weighted.groups) * weighted.groups
    parts, total = [], None
    for low in range(0, len(a), some):
        transposed, piece = a[low : low + some].transpose(1, 2), delta[:, low : low + some]
        found = []
        for first in range(0, directions, together):
            gradient = _gradients(transposed, piece[first : first + together])
            found.append(squared_rows(gradient, deferred_checks).sum(2).T)
            if weighted is not None and 0 <= weighted.direction - first < gradient.shape[1]:
                added = weighted.added(gradient[:, weighted.direction - first], low)
                total = added if total is None else total.add_(added)
        parts.append(torch.cat(found))
    return torch.cat(parts, 1), total


def _stacked(delta: Tensor) -> Tensor:
    """δ (K, X, R, L) as (X, K·R, L): a view of a single direction, else a copy."""
    directions, count, rows, positions = delta.shape
    return delta[0] if directions == 1 else delta.transpose(0, 1).reshape(count, directions * rows, positions)


def _gradients(transposed: Tensor, delta: Tensor) -> Tensor:
    """Σ_l δ_l a_lᵀ, (X, K, R, Q), of aᵀ (X, L, Q) and δ (K, X, R, L)."""
    directions, count, rows, _ = delta.shape
    return torch.bmm(_stacked(delta), transposed).reshape(count, directions, rows, -1)


def through_gram(a: Tensor, delta: Tensor, deferred_checks: DeferredChecks | None = None) -> Tensor | None:
    """Σ_lm (a_lᵀa_m)(δ_lᵀδ_m), (K, X) in float64, of a (X, Q, L) and δ (K, X, R, L); None where it would be inexact.

    Large terms that cancel lose their digits twice as fast here as in the gradient itself, and tiny ones underflow
    twice as early. The terms l = m alone tell: against the result, how much cancels.
    """
    gram = torch.bmm(a.transpose(1, 2), a)
    if deferred_checks is None and delta.stride(2) == 1:
        products, own = zip(*[_by_rows(gram, each) for each in delta.transpose(2, 3)], strict=True)
        found, terms = torch.stack(products), torch.stack(own)
    else:
        found, terms = _by_positions(gram, delta)
    exact = (torch.finfo(a.dtype).eps * terms <= CANCELLATION * found) & found.isfinite()
    small = terms < SAFE_NORM**2
    if deferred_checks is not None:
        deferred_checks.note(~exact.all() | (small & (delta.abs().amax((2, 3)) > 0)).any())
        return found
    underflowing = bool(small.any()) and bool((delta.abs().amax((2, 3))[small] > 0).any())
    return found if bool(exact.all()) and not underflowing else None


def _by_positions(gram: Tensor, delta: Tensor) -> tuple[Tensor, Tensor]:
    """Σ_lm G_lm (δᵀδ)_lm and its terms l = m alone, (K, X) in float64, of G (X, L, L) and δ (K, X, R, L)."""
    terms = torch.matmul(delta.transpose(2, 3), delta).mul_(gram)
    return terms.sum(3).double().sum(2), terms.diagonal(dim1=2, dim2=3).double().sum(2)


def _by_rows(gram: Tensor, delta: Tensor) -> tuple[Tensor, Tensor]:
    """The same, (X,), as Σ_lr (Gδ)_lr δ_lr of δ (X, L, R), where rows lie side by side and are more than positions.

    As many products; none of all positions with all is held, and no direction is copied.
    """
    norms: Tensor = torch.linalg.vector_norm(delta, dim=2)
    own = (norms.double().square() * gram.diagonal(dim1=1, dim2=2).double()).sum(1)
    return torch.bmm(gram, delta).mul_(delta).sum(2).double().sum(1), own
