"""Matrices with chosen eigenvalues, the awkward ones above all; textbook Lanczos, and both Fishers', to compare."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor

from fisher_cli.curvature.problem.problem import Problem
from fisher_cli.curvature.spectra.eigensystems import matrices
from fisher_cli.curvature.spectra.solver_choice import Eigensolver
from fisher_cli.curvature.spectra.spectrum import as_result
from fisher_cli.results import Eigenvalues

Product = Callable[[Tensor], Tensor]
SIZE = 200


def _padded(head: list[float], tail: float = 0.0) -> list[float]:
    return head + [tail] * (SIZE - len(head))


# Sixteen spectra; "plus and minus" and "not a number" have to be refused, the others solved.
ZOO: dict[str, list[float]] = {
    "flat": [1 - k / SIZE for k in range(SIZE)],
    "1/k²": [1 / k**2 for k in range(1, SIZE + 1)],
    "geometric": [10 ** (-k / 50) for k in range(SIZE)],
    "rank five": _padded([5.0, 4.0, 3.0, 2.0, 1.0]),
    "rank one": _padded([2.0]),
    "zero": _padded([]),
    "identity": _padded([], 1.0),
    "two values": [3.0] * 100 + [1.0] * 100,
    "eight copies": [2.0] * 8 + [1 - k / SIZE for k in range(SIZE - 8)],
    "cluster": [1 + 1e-9 * k for k in range(5)] + [0.1 * (1 - k / SIZE) for k in range(SIZE - 5)],
    "one spike": [1.0] + [1e-6 * (1 - k / SIZE) for k in range(SIZE - 1)],
    "plus and minus": [(-1) ** k / (k + 1) for k in range(SIZE)],
    "fewer than wanted": [3.0, 2.0, 1.0],
    "one dimension": [7.0],
    "two dimensions": [2.0, 1.0],
    "not a number": _padded([math.nan]),
}
REFUSED = {"plus and minus", "not a number"}


@cache
def rotation(size: int, seed: int = 0) -> Tensor:
    """A random orthogonal matrix."""
    generator = torch.Generator().manual_seed(seed)
    basis: Tensor = torch.linalg.qr(torch.randn(size, size, generator=generator, dtype=torch.float64))[0]
    return basis


def matrix_with(eigenvalues: list[float], seed: int = 0) -> Tensor:
    """A symmetric matrix of exactly this spectrum in a random basis."""
    basis = rotation(len(eigenvalues), seed)
    return basis @ torch.diag(torch.tensor(eigenvalues, dtype=torch.float64)) @ basis.T


def product_of(matrix: Tensor) -> Product:
    return lambda vector: matrix.to(vector.dtype) @ vector


def diagonal_product(eigenvalues: Tensor) -> Product:
    return lambda vector: eigenvalues.to(vector.dtype) * vector


@dataclass(frozen=True)
class Textbook:
    """Ritz values in descending order, vectors Q s not normalised, residuals estimated as |β s_m|, and Q."""

    values: Tensor
    vectors: Tensor
    estimates: Tensor
    basis: Tensor


def textbook_lanczos(
    product: Product, size: int, steps: int, dtype: torch.dtype = torch.float64, *, reorthogonalise: bool = False
) -> Textbook:
    """The three-term recursion as in books: no scaling, no breakdown, and no reorthogonalisation unless asked for."""
    generator = torch.Generator().manual_seed(0)
    start = torch.randn(size, generator=generator, dtype=torch.float64).to(dtype)
    basis = [start / start.norm()]
    alphas: list[float] = []
    betas: list[float] = []
    for step in range(steps):
        rest = product(basis[step])
        alphas.append(float(rest @ basis[step]))
        rest = rest - alphas[step] * basis[step]
        if step:
            rest = rest - betas[step - 1] * basis[step - 1]
        if reorthogonalise:
            for _ in range(2):
                q = torch.stack(basis)
                rest = rest - q.T @ (q @ rest)
        betas.append(float(rest.norm()))
        basis.append(rest / betas[step])
    off = torch.diag(torch.tensor(betas[:-1], dtype=torch.float64), 1)
    values, coordinates = torch.linalg.eigh(torch.diag(torch.tensor(alphas, dtype=torch.float64)) + off + off.T)
    values, coordinates = values.flip(0), coordinates.flip(1)
    q = torch.stack(basis[:-1]).double()
    return Textbook(values, q.T @ coordinates, (betas[-1] * coordinates[-1]).abs(), q)


def stopped_like_arpack(product: Product, size: int, tolerance: float, dtype: torch.dtype = torch.float64) -> float:
    """The largest Ritz value once |β s_m| ≤ tolerance · max(ε^⅔, θ₁): ARPACK's rule, with an absolute scale in it.

    Source: dsconv.f of ARPACK.
    """
    floor = torch.finfo(dtype).eps ** (2 / 3)
    for steps in range(1, size):
        found = textbook_lanczos(product, size, steps, dtype, reorthogonalise=True)
        if float(found.estimates[0]) <= tolerance * max(floor, float(found.values[0])):
            break
    return float(found.values[0])


def true_eigenvalues(
    problem: Problem, count: int, *, tolerance: float = 1e-3, seed: int = 0, route: Eigensolver | None = None
) -> Eigenvalues:
    """The largest eigenvalues of F = mean_n J_nᵀ Λ_n J_n, each with its residual ‖Fv − θv‖."""
    true, _ = matrices(problem, seed=seed)
    return as_result(true.leading(count, tolerance=tolerance, route=route), count, problem.size)


def empirical_eigenvalues(
    problem: Problem, count: int, *, tolerance: float = 1e-3, seed: int = 0, route: Eigensolver | None = None
) -> Eigenvalues:
    """The largest eigenvalues of F̂ = mean_n J_nᵀ s_y s_yᵀ J_n, each with its residual ‖F̂v − θv‖."""
    _, empirical = matrices(problem, seed=seed)
    return as_result(empirical.leading(count, tolerance=tolerance, route=route), count, problem.size)
