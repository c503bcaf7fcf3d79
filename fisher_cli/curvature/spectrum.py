"""Eigenvalues of the true and the empirical Fisher of a problem, as results."""

from fisher_cli.curvature.eigensystems import Eigensystem, matrices
from fisher_cli.curvature.problem import Problem
from fisher_cli.curvature.routes import Route
from fisher_cli.results import Eigenvalues


def as_result(found: Eigensystem, wanted: int, parameters: int) -> Eigenvalues:
    """The eigenvalues with their residuals and in words how they were found."""
    missing = wanted - len(found.values)
    notes = [found.note] if found.note else []
    if missing > 0:
        notes = [f"only {parameters} parameters: {missing} eigenvalues do not exist"]
    return Eigenvalues(
        tuple(found.values.tolist()),
        tuple(found.residuals.tolist()),
        found.route.value,
        found.converged,
        found.products,
        "; ".join(notes),
    )


def true_eigenvalues(
    problem: Problem, count: int, *, tolerance: float = 1e-3, seed: int = 0, route: Route | None = None
) -> Eigenvalues:
    """The largest eigenvalues of F = mean_n J_nᵀ Λ_n J_n, each with its residual ‖Fv − θv‖."""
    true, _ = matrices(problem, seed=seed)
    return as_result(true.leading(count, tolerance=tolerance, route=route), count, problem.size)


def empirical_eigenvalues(
    problem: Problem, count: int, *, tolerance: float = 1e-3, seed: int = 0, route: Route | None = None
) -> Eigenvalues:
    """The largest eigenvalues of F̂ = mean_n J_nᵀ s_y s_yᵀ J_n, each with its residual ‖F̂v − θv‖."""
    _, empirical = matrices(problem, seed=seed)
    return as_result(empirical.leading(count, tolerance=tolerance, route=route), count, problem.size)
