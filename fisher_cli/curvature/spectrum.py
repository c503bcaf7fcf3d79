"""Eigenvalues of the true and the empirical Fisher of a problem."""

from collections.abc import Callable

import torch
from torch import Tensor

from fisher_cli.curvature.lanczos import largest_eigenpairs
from fisher_cli.curvature.problem import Problem
from fisher_cli.curvature.products import empirical_product, fisher_product
from fisher_cli.results import Eigenvalues

# Above this many bytes of basis vectors they are kept in the network's precision instead of float64.
DOUBLE_BASIS_BYTES = 2**30
EXPECTED_BASIS = 100

Matrix = Callable[[Problem], Callable[[Tensor], Tensor]]


@torch.inference_mode(mode=False)
def _largest(problem: Problem, matrix: Matrix, count: int, tolerance: float, seed: int) -> Eigenvalues:
    fits = problem.size * EXPECTED_BASIS * 8 <= DOUBLE_BASIS_BYTES
    pairs = largest_eigenpairs(
        matrix(problem),
        problem.size,
        count,
        tolerance=tolerance,
        seed=seed,
        device=problem.device,
        dtype=torch.float64 if fits else problem.dtype,
    )
    missing = count - len(pairs.values)
    note = f"only {problem.size} parameters: {missing} eigenvalues do not exist" if missing else ""
    return Eigenvalues(
        tuple(pairs.values.tolist()),
        tuple(pairs.residuals.tolist()),
        "lanczos",
        pairs.converged,
        pairs.products,
        note,
    )


def true_eigenvalues(problem: Problem, count: int, *, tolerance: float = 1e-3, seed: int = 0) -> Eigenvalues:
    """The largest eigenvalues of F = mean_n J_nᵀ Λ_n J_n, by Lanczos in the parameter space."""
    return _largest(problem, fisher_product, count, tolerance, seed)


def empirical_eigenvalues(problem: Problem, count: int, *, tolerance: float = 1e-3, seed: int = 0) -> Eigenvalues:
    """The largest eigenvalues of F̂ = mean_n J_nᵀ s_y s_yᵀ J_n, by Lanczos in the parameter space."""
    return _largest(problem, empirical_product, count, tolerance, seed)
