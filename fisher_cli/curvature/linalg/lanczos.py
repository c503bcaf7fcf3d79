"""The largest eigenvalues of any symmetric positive semidefinite product, by Lanczos with full reorthogonalisation.

Knows nothing of Fisher. Two things that make textbook Lanczos wrong here are treated as the normal case:
the rank is often smaller than the number of steps (the recursion breaks down), and eigenvalues repeat (one
Krylov space contains one copy of each).
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum, StrEnum, auto

import torch
from torch import Tensor

from fisher_cli.curvature.linalg.krylov import BlockedBasis, Operator, Product
from fisher_cli.curvature.linalg.subspace import RitzPairs, Subspace
from fisher_cli.curvature.linalg.sums import dot

# Told the products so far and the worst residual of the wanted pairs as a multiple of the tolerance.
ProductsDone = Callable[[int, float], None]

# The search for overlooked eigenvalues may miss one with this probability over its random start vector.
SEARCH_RISK = 1e-3
# Estimates may be too small by rounding, and near copies share their residuals: aim below what is promised.
AIM = 0.5
# A Ritz vector is deflated in the search when its residual is at most this share of its distance to the threshold.
RELIABLE = 0.1
# What is given as trace or squared norm is trusted to this relative error, that of sums over float32 gradients.
TRUST = 1e-5
# Eigenvalues below so many units in the last place of the largest are called zero.
ROUNDING = 100
# In place of zero as a divisor.
TINY = 1e-300


class StopReason(StrEnum):
    """How the computation of eigenvalues ended."""

    CONVERGED = "converged"
    NOT_CONVERGED = "not-converged"  # a residual is above the tolerance, or fewer values were found than wanted
    SEARCH_INCOMPLETE = "search-incomplete"  # the residuals are fine, but larger eigenvalues were not ruled out


@dataclass(frozen=True)
class Eigenpairs:
    """The k leading eigenpairs of a symmetric positive semidefinite matrix A, (P, P).

    Attributes:
        values: θ (k,) in descending order, float64 on the CPU. They are Rayleigh quotients as computed: where the truth
            is zero, one may be negative by rounding.
        vectors: unit vectors v (P, k).
        residuals: ‖Av − θv‖, (k,), each from an explicit product.
        status: `converged` where every residual is ≤ tolerance · θ₁ and at most k eigenvalues exceed θ_k + tolerance ·
            θ₁.
        products: matrix–vector products used in all.
        searched: those after the first convergence.
        note: one line that a reader should know, else "".
    """

    values: Tensor
    vectors: Tensor
    residuals: Tensor
    status: StopReason
    products: int
    searched: int
    note: str = ""

    @property
    def converged(self) -> bool:
        """Whether all residuals are within the tolerance and no larger eigenvalue was overlooked."""
        return self.status is StopReason.CONVERGED


@dataclass(frozen=True)
class Goal:
    """What is wanted of A, and what is known of it.

    Attributes:
        count: k, how many eigenpairs are wanted.
        tolerance: of the residuals, relative to θ₁.
        budget: the most products.
        trace: tr A or more; None where not known.
        squared_norm: ‖A‖_F² or more; None where not known.
    """

    count: int
    tolerance: float
    budget: int
    trace: float | None
    squared_norm: float | None

    def limit(self, ritz: RitzPairs) -> float:
        """The largest residual to accept: AIM · tolerance · θ₁."""
        return AIM * self.tolerance * max(float(ritz.values[0]), 0.0)

    def threshold(self, ritz: RitzPairs) -> float:
        """τ = θ_k + tolerance · θ₁: an eigenvalue above it, beyond the wanted, has been overlooked."""
        return float(ritz.values[self.count - 1]) + self.tolerance * max(float(ritz.values[0]), 0.0)

    def leaks(self, ritz: RitzPairs) -> Tensor:
        """‖r_i‖² / (τ − θ_i) of the pairs beyond the wanted: by how much each can lift what is left of A above τ."""
        room = (self.threshold(ritz) - ritz.values[self.count :]).clamp(min=TINY)
        return ritz.bounds[self.count :].square() / room

    def excess(self, ritz: RitzPairs) -> float:
        """The worst residual of the wanted pairs as a multiple of the limit."""
        return float(ritz.residuals[: self.count].max()) / max(self.limit(ritz), TINY)

    def met(self, ritz: RitzPairs) -> bool:
        """Whether all wanted pairs are there with residuals within the limit."""
        return len(ritz.values) >= self.count and bool((ritz.residuals[: self.count] <= self.limit(ritz)).all())


def _converge(space: Subspace, goal: Goal, level: float, advance: ProductsDone) -> RitzPairs:
    """Steps until the wanted Ritz pairs, and whatever the chain has above the level, converge or products run out."""
    due, before, excess = max(goal.count, len(space.matrix)), (0, math.inf), math.inf
    while True:
        ended = space.spanned or space.operator.used >= goal.budget
        steps = len(space.matrix)
        if steps and (steps >= due or ended):
            ritz = space.ritz()
            if ended or (goal.met(ritz) and space.chain_is_settled(level, goal.limit(ritz))):
                return ritz
            excess = goal.excess(ritz)
            due, before = steps + _pause(steps, excess, before, steps - space.chain), (steps, excess)
        space.extend()
        advance(space.operator.used, AIM * excess)


def _pause(steps: int, excess: float, before: tuple[int, float], length: int) -> int:
    """Half of the steps that residuals still need if they go on shrinking as they did, ≤ an eighth of the chain."""
    earlier, excess_then = before
    remaining = math.inf
    if 1 < excess < excess_then < math.inf:
        remaining = math.log(excess) * (steps - earlier) / math.log(excess_then / excess)
    return max(1, int(min(remaining / 2, length / 8)))


def ruled_out(ritz: RitzPairs, goal: Goal, scale: float) -> bool:
    """Whether the trace or the norm of A leaves no room for an overlooked eigenvalue above the threshold τ.

    With R the part of A Q that leaves the basis and B the rest of A, λ_{k+1}(A) ≤ τ when
    Σ_{i>k} ‖r_i‖² / (τ − θ_i) ≤ τ − ‖B‖, and ‖B‖ ≤ tr A − Σ θ_i, ‖B‖² ≤ ‖A‖_F² − Σ θ_i².

    Args:
        ritz: all pairs of the basis, in the operator's scale.
        goal: what is wanted, and the trace and the norm in A's own scale.
        scale: A divided by it has these Ritz pairs.
    """
    threshold = goal.threshold(ritz)
    leak = float(goal.leaks(ritz).sum())
    height = math.inf
    for known, found, power in (
        (goal.trace, ritz.values.sum(), 1),
        (goal.squared_norm, ritz.values.square().sum(), 2),
    ):
        if known is not None:
            left, margin = known / scale**power - float(found), TRUST * known / scale**power
            # Less than what was found already cannot be the trace of this matrix: better to search.
            height = min(height, (left + margin) ** (1 / power)) if left >= -margin else height
    return leak + height <= threshold


def deflation(ritz: RitzPairs, goal: Goal) -> tuple[Tensor, float]:
    """Which Ritz vectors the search leaves aside, and the level b that nothing beyond them may exceed.

    With B the projection of A off these vectors, λ_{k+1}(A) ≤ τ when λ_max(B) ≤ b = τ − Σ_{i>k} ‖r_i‖² / (τ − θ_i).
    Setting aside more vectors lowers what is left, and b; the ratio of b to it decides how long the search takes.

    Args:
        ritz: all pairs of the basis.
        goal: what is wanted of them.

    Returns:
        The indices of the vectors, the k wanted ones first, and b in the scale of the Ritz values.
    """
    threshold, wanted = goal.threshold(ritz), torch.arange(goal.count)
    order = ritz.bounds[goal.count :].argsort(stable=True)
    values, bounds = ritz.values[goal.count :][order], ritz.bounds[goal.count :][order]
    reliable = int((bounds <= RELIABLE * (threshold - values)).long().cumprod(0).sum())
    none = torch.zeros(1, dtype=torch.float64)
    levels = threshold - torch.cat([none, goal.leaks(ritz)[order].cumsum(0)])
    left = torch.cat([(values + bounds).flip(0).cummax(0).values.flip(0), torch.cat([none, bounds]).max().reshape(1)])
    best = int((levels / left.clamp(min=TINY))[: reliable + 1].argmax())
    return torch.cat([wanted, goal.count + order[:best]]), float(levels[best])


class _Search(Enum):
    """How a search for overlooked eigenvalues can end."""

    NOTHING_THERE = auto()
    SOMETHING_FOUND = auto()
    OUT_OF_PRODUCTS = auto()


def _search(space: Subspace, goal: Goal, level: float, residual: float, advance: ProductsDone) -> _Search:
    """Whether B, A projected off the rows before the chain, has an eigenvalue above the level b.

    For every unit eigenvector u of B with an eigenvalue λ > b and the start q of the chain,
    |uᵀq| ≤ Π_i β_i / (λ − ϑ_i) ≤ Π_i β_i / δ_i, where ϑ_i are the Ritz values after j steps, all below b, and
    δ_i = b − α_i − β²_{i−1} / δ_{i−1} the pivots of b − T_j: Π β_i q_{j+1} = Π (B − ϑ_i) q. For q uniform on the
    sphere P(|uᵀq| ≤ x) ≤ x √(2P/π), so nothing is there once the bound is below SEARCH_RISK / √(2P/π). It
    holds at every step, so that looking after each adds no risk; rounding errors are taken not to favour u.
    Source: van Dorsselaer, Hochstenbach and van der Vorst 2001 (doi:10.1137/S0895479800366859), section 3.
    """
    dimension = space.rows.size - space.chain
    unlikely = math.log(SEARCH_RISK) - 0.5 * math.log(2 * dimension / math.pi)
    overlap, pivot, coupling = 0.0, math.inf, 0.0
    while space.operator.used < goal.budget:
        alpha, beta = space.extend()
        advance(space.operator.used, residual)
        pivot = level - alpha - coupling**2 / pivot
        if pivot <= 0:
            return _Search.SOMETHING_FOUND
        overlap += math.log(max(beta, space.eps * space.largest) / pivot)
        if overlap <= unlikely or space.spanned:
            return _Search.NOTHING_THERE
        coupling = beta
    return _Search.OUT_OF_PRODUCTS


def _solve(space: Subspace, goal: Goal, advance: ProductsDone) -> tuple[bool, int]:
    """Leaves the wanted Ritz vectors as the basis: whether larger ones are ruled out, products till convergence."""
    ritz = _converge(space, goal, math.inf, advance)
    before, bold = space.operator.used, True
    while (
        goal.met(ritz) and not space.spanned and ritz.values[0] > 0 and not ruled_out(ritz, goal, space.operator.scale)
    ):
        aside, level = deflation(ritz, goal) if bold else (torch.arange(goal.count), goal.threshold(ritz))
        space.restart(ritz, aside)
        outcome = _search(space, goal, level, AIM * goal.excess(ritz), advance)
        if outcome is not _Search.SOMETHING_FOUND:
            space.truncate(goal.count)
            return outcome is _Search.NOTHING_THERE, before
        known = ritz
        ritz = _converge(space, goal, level, advance)
        # Nothing new among the wanted: too much was set aside, and b came out too low.
        bold = float((ritz.values[: goal.count] - known.values[: goal.count]).sum()) > 0.5 * goal.limit(ritz)
    complete = goal.met(ritz) or space.spanned
    space.keep(ritz, torch.arange(min(goal.count, len(ritz.values))))
    return complete, before


def largest_eigenpairs(
    product: Product,
    size: int,
    count: int,
    *,
    tolerance: float = 1e-3,
    maximum_products: int | None = None,
    seed: int = 0,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float64,
    trace: float | None = None,
    squared_norm: float | None = None,
    keep_images: bool = False,
    advance: ProductsDone = lambda _products, _residual: None,
) -> Eigenpairs:
    """The `count` largest eigenvalues θ of a positive semidefinite A, ‖Av − θv‖ ≤ tolerance · θ₁, from v ↦ Av.

    Lanczos with two passes of full reorthogonalisation and float64 coefficients, on A scaled to order one. When the
    wanted Ritz pairs have converged, a second run, orthogonal to them and to what else has converged, looks for
    eigenvalues that the first overlooked: further copies of repeated ones. Residuals are explicit. Memory: one vector
    per product of a run, and two more.

    Args:
        product: v (P,) ↦ Av (P,).
        size: P.
        count: how many eigenvalues; with more than P wanted, P are returned.
        tolerance: of the residuals, relative to θ₁. 1e-3 is well below the error from the choice of examples.
        maximum_products: give up after so many; default 40 per eigenvalue, at least 200.
        seed: of the start vectors, drawn on the CPU so that every device starts alike.
        device: where the vectors live.
        dtype: of the vectors.
        trace: tr A or more, where known to the rounding of the products: it may make the second run needless.
        squared_norm: ‖A‖_F² or more, likewise.
        keep_images: keep A q for every basis vector q, which doubles the memory and saves the last `count` products.
        advance: told after each product how many there were, and the worst residual of the wanted pairs when it was
            last looked at, as a multiple of `tolerance` · θ₁; infinite before the first look.

    Returns:
        Eigenpairs; not converged ones keep their values and residuals.

    Raises:
        NumericalError: a product is NaN or infinite, or the matrix has an eigenvalue negative beyond rounding.

    Source: Parlett 1998, The Symmetric Eigenvalue Problem, section 6.9, for the two passes; van Dorsselaer,
    Hochstenbach and van der Vorst 2001 (doi:10.1137/S0895479800366859), section 3, for when the second run may end.
    """
    goal = Goal(min(count, size), tolerance, maximum_products or max(200, 40 * count), trace, squared_norm)
    operator = Operator(product)
    images = BlockedBasis(size, dtype, device) if keep_images else None
    space = Subspace(operator, BlockedBasis(size, dtype, device), images, seed)
    complete, first = _solve(space, goal, advance)
    searched = operator.used - first
    values, residuals = _residuals(space)
    order = values.argsort(descending=True, stable=True)
    values, residuals, vectors = values[order], residuals[order], space.rows.columns()
    if not torch.equal(order, torch.arange(len(order))):
        vectors = vectors[:, order.to(vectors.device)]
    if len(values) < goal.count or bool((residuals > tolerance * max(float(values[0]), 0.0)).any()):
        status = StopReason.NOT_CONVERGED
    else:
        status = StopReason.CONVERGED if complete else StopReason.SEARCH_INCOMPLETE
    note = _note(values, status, count, size, ROUNDING * space.eps)
    return Eigenpairs(values, vectors, residuals, status, operator.used, searched, note)


def _note(values: Tensor, status: StopReason, count: int, size: int, rounding: float) -> str:
    """Why there are fewer values than wanted, or fewer that are not zero, in one line."""
    remarks = []
    if count > size:
        remarks.append(f"the matrix has only {size} eigenvalues")
    if len(values) < min(count, size):
        remarks.append(f"only {len(values)} of {min(count, size)} found before products ran out")
    if status is StopReason.SEARCH_INCOMPLETE:
        remarks.append("products ran out before larger eigenvalues were ruled out")
    above = int((values > rounding * values[0]).sum())
    if not above:
        remarks.append("the matrix is zero")
    elif status is StopReason.CONVERGED and above < len(values):
        remarks.append(f"rank {above}: the other eigenvalues are zero to rounding")
    return "; ".join(remarks)


def _residuals(space: Subspace) -> tuple[Tensor, Tensor]:
    """Rayleigh quotients θ and ‖Av − θv‖ of the basis vectors, from new products where no images were kept."""
    pairs = []
    for index in range(len(space.rows)):
        vector = space.rows[index]
        image = space.operator(vector) if space.images is None else space.images[index].clone()
        value = dot(vector, image) / dot(vector, vector)
        image.addcmul_(vector, value.to(image), value=-1)
        pairs.append(torch.stack([value, (dot(image, image) / dot(vector, vector)).sqrt()]))
    values, residuals = torch.stack(pairs).cpu().T * space.operator.scale
    return values, residuals
