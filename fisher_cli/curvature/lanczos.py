"""The largest eigenvalues of any symmetric positive semidefinite product, by Lanczos with full reorthogonalisation.

Knows nothing of Fisher. Two things that make textbook Lanczos wrong here are treated as the normal case:
the rank is often smaller than the number of steps (the recursion breaks down), and eigenvalues repeat (one
Krylov space contains one copy of each).
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import Enum, auto

import torch
from torch import Tensor

from fisher_cli.errors import NumericalError

Product = Callable[[Tensor], Tensor]

# A new Lanczos vector this much shorter than the operator's scale is rounding: the Krylov space is invariant.
BREAKDOWN = 1e-13
# The search for overlooked eigenvalues may miss one with this probability over its random start vector.
SEARCH_RISK = 1e-3


@dataclass(frozen=True)
class Eigenpairs:
    """Leading eigenvalues in descending order, (k,), unit vectors (P, k), and explicit residuals ‖Av − θv‖, (k,).

    `converged`: every residual ≤ tolerance · θ₁, and the search for overlooked ones came to an end.
    `products`: matrix-vector products used in all.
    """

    values: Tensor
    vectors: Tensor
    residuals: Tensor
    converged: bool
    products: int


@dataclass
class _Operator:
    """The product, counted, checked, and projected off the locked eigenvectors."""

    apply: Product
    locked: Tensor
    budget: int
    used: int = 0

    def __call__(self, vector: Tensor) -> Tensor:
        self.used += 1
        result = self.apply(vector).to(vector.dtype)
        if not bool(result.isfinite().all()):
            msg = "a matrix-vector product is NaN or infinite: eigenvalues cannot be computed"
            raise NumericalError(msg)
        return result

    @property
    def exhausted(self) -> bool:
        return self.used >= self.budget


@dataclass
class _Krylov:
    """An orthonormal basis, grown step by step, and the tridiagonal matrix on it, in float64."""

    basis: list[Tensor] = field(default_factory=list)
    diagonal: list[float] = field(default_factory=list)
    off_diagonal: list[float] = field(default_factory=list)

    def ritz(self) -> tuple[Tensor, Tensor, Tensor]:
        """Ritz values in descending order, their coordinates (columns), and residual estimates |β s_last|."""
        size = len(self.diagonal)
        matrix = torch.diag(torch.tensor(self.diagonal, dtype=torch.float64))
        coupling = torch.tensor(self.off_diagonal[: size - 1], dtype=torch.float64)
        matrix += torch.diag(coupling, 1) + torch.diag(coupling, -1)
        values, coordinates = torch.linalg.eigh(matrix)
        values, coordinates = values.flip(0), coordinates.flip(1)
        return values, coordinates, coordinates[-1].abs() * self.off_diagonal[size - 1]

    def vectors(self, coordinates: Tensor) -> Tensor:
        """Ritz vectors, (P, k)."""
        columns = torch.zeros(
            len(self.basis[0]), coordinates.shape[1], dtype=self.basis[0].dtype, device=self.basis[0].device
        )
        for vector, row in zip(self.basis, coordinates, strict=False):
            columns += torch.outer(vector, row.to(columns))
        return columns


def _orthogonalise(vector: Tensor, basis: list[Tensor], locked: Tensor) -> Tensor:
    """The vector less its components in the basis and the locked vectors, in two full passes.

    Source: Parlett 1998, The Symmetric Eigenvalue Problem, section 6.9: twice is enough.
    """
    for _ in range(2):
        for other in basis:
            vector = vector - torch.dot(other, vector) * other
        if locked.shape[1]:
            vector = vector - locked @ (locked.T @ vector)
    return vector


def _random_direction(basis: list[Tensor], locked: Tensor, generator: torch.Generator) -> Tensor | None:
    """A unit vector orthogonal to everything found so far, None when the space is exhausted."""
    size = len(locked)
    if len(basis) + locked.shape[1] >= size:
        return None
    vector = torch.randn(size, generator=generator, dtype=torch.float64).to(locked)
    vector = _orthogonalise(vector / vector.norm(), basis, locked)
    unit: Tensor = vector / vector.norm()
    return unit


def _extend(krylov: _Krylov, operator: _Operator, generator: torch.Generator) -> bool:
    """One Lanczos step; False when the whole space is spanned.

    On breakdown the recursion goes on from a fresh random direction with a coupling of exactly zero.
    """
    if not krylov.basis:
        start = _random_direction([], operator.locked, generator)
        if start is None:
            return False
        krylov.basis.append(start)
    current = krylov.basis[-1]
    image = operator(current)
    krylov.diagonal.append(float(torch.dot(image.double(), current.double())))
    rest = _orthogonalise(image, krylov.basis, operator.locked)
    length = float(rest.double().norm())
    scale = max(max(abs(value) for value in krylov.diagonal), max(krylov.off_diagonal, default=0.0))
    if length > BREAKDOWN * scale:
        krylov.off_diagonal.append(length)
        krylov.basis.append(rest / length)
        return True
    krylov.off_diagonal.append(0.0)
    fresh = _random_direction(krylov.basis, operator.locked, generator)
    if fresh is None:
        return False
    krylov.basis.append(fresh)
    return True


def _leading(
    operator: _Operator, wanted: int, tolerance: float, top: float, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """The `wanted` leading Ritz pairs off the locked vectors, residual estimates ≤ tolerance · max(θ₁, top)."""
    krylov = _Krylov()
    while True:
        more = _extend(krylov, operator, generator)
        if not krylov.diagonal:
            return torch.zeros(0, dtype=torch.float64), operator.locked[:, :0]
        values, coordinates, residuals = krylov.ritz()
        limit = tolerance * max(float(values[0]), top)
        enough = len(values) >= wanted and bool((residuals[:wanted] <= limit).all())
        if enough or not more or operator.exhausted:
            return values[:wanted], krylov.vectors(coordinates[:, :wanted])


class _Search(Enum):
    """How a search for overlooked eigenvalues can end without one."""

    NOTHING_THERE = auto()
    OUT_OF_PRODUCTS = auto()


def _overlooked(
    operator: _Operator, smallest: float, tolerance: float, top: float, generator: torch.Generator
) -> tuple[Tensor, Tensor] | _Search:
    """A pair off the locked vectors whose eigenvalue exceeds the smallest locked one by more than the tolerance.

    Nothing is there when the leading Ritz value θ after j steps would be as small as it is with probability
    SEARCH_RISK only, had an eigenvalue λ = smallest + tolerance · top been there:
    √(1 − θ/λ) · (2j − 1) ≥ ln(1.648 √P / risk). Source: Kuczyński and Woźniakowski 1992 (doi:10.1137/0613066).
    """
    krylov = _Krylov()
    threshold = smallest + tolerance * top
    enough = math.log(1.648 * math.sqrt(len(operator.locked)) / SEARCH_RISK)
    while not operator.exhausted:
        more = _extend(krylov, operator, generator)
        if not krylov.diagonal:
            return _Search.NOTHING_THERE
        values, coordinates, residuals = krylov.ritz()
        value, residual = float(values[0]), float(residuals[0])
        if value > threshold:
            if residual <= tolerance * top or not more:
                return values[:1], krylov.vectors(coordinates[:, :1])
            continue
        steps = 2 * len(krylov.diagonal) - 1
        if not more or math.sqrt(max(0.0, 1 - value / threshold)) * steps >= enough:
            return _Search.NOTHING_THERE
    return _Search.OUT_OF_PRODUCTS


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
) -> Eigenpairs:
    """The `count` largest eigenvalues θ of a positive semidefinite A, ‖Av − θv‖ ≤ tolerance · θ₁, from v ↦ Av.

    Lanczos with two passes of full reorthogonalisation and float64 coefficients. When the wanted Ritz pairs
    have converged they are locked, and a second run in their orthogonal complement looks for eigenvalues
    that the first overlooked: further copies of repeated ones. Residuals are recomputed explicitly.

    Args:
        product: v (P,) ↦ Av (P,).
        size: P.
        count: how many eigenvalues; with more than P wanted, P are returned.
        tolerance: of the residuals, relative to θ₁. 1e-3 is well below the error from the choice of examples.
        maximum_products: give up after so many; default 40 per eigenvalue, at least 200.
        seed: of the start vectors, drawn on the CPU so that every device starts alike.
        device: where the vectors live.
        dtype: of the vectors.

    Returns:
        Eigenpairs; not converged ones keep their values and residuals.

    Raises:
        NumericalError: a product is NaN or infinite.
    """
    count = min(count, size)
    generator = torch.Generator().manual_seed(seed)
    locked = torch.zeros(size, 0, dtype=dtype, device=device)
    budget = maximum_products or max(200, 40 * count)
    operator = _Operator(product, locked, budget)
    # Estimates of float32 products may be too small by rounding: aim a little below what is promised.
    values, vectors = _leading(operator, count, 0.5 * tolerance, 0.0, generator)
    top = max(float(values[0]), 0.0) if len(values) else 0.0
    operator.locked = vectors
    complete = vectors.shape[1] == count
    while complete and top > 0 and count < size:
        found = _overlooked(operator, float(values[-1]), 0.5 * tolerance, top, generator)
        if isinstance(found, _Search):
            complete = found is _Search.NOTHING_THERE
            break
        values, vectors = _merge(values, vectors, *found)
        operator.locked, top = vectors, max(top, float(values[0]))
    return _with_residuals(operator, vectors, tolerance, complete)


def _merge(values: Tensor, vectors: Tensor, new_values: Tensor, new_vectors: Tensor) -> tuple[Tensor, Tensor]:
    """All pairs in descending order, less the smallest, which the newcomer displaces."""
    values, order = torch.cat([values, new_values]).sort(descending=True, stable=True)
    vectors = torch.cat([vectors, new_vectors], dim=1)[:, order.to(vectors.device)]
    return values[:-1], vectors[:, :-1]


def _with_residuals(operator: _Operator, vectors: Tensor, tolerance: float, complete: bool) -> Eigenpairs:
    """Rayleigh quotients and explicit residuals of unit vectors, sorted; this spends no budget."""
    values, residuals, kept = [], [], []
    for vector in vectors.T:
        unit = vector / vector.double().norm().to(vector)
        image = operator(unit).double()
        value = float(torch.dot(image, unit.double()))
        values.append(value)
        residuals.append(float((image - value * unit.double()).norm()))
        kept.append(unit)
    order = sorted(range(len(values)), key=lambda index: -values[index])
    sorted_values = torch.tensor([values[i] for i in order], dtype=torch.float64)
    sorted_residuals = torch.tensor([residuals[i] for i in order], dtype=torch.float64)
    limit = tolerance * max(float(sorted_values[0]), 0.0) if order else 0.0
    matrix = torch.stack([kept[i] for i in order], dim=1) if order else vectors
    converged = complete and bool((sorted_residuals <= limit).all())
    return Eigenpairs(sorted_values, matrix, sorted_residuals, converged, operator.used)
