"""Eigenvalues of the true and the empirical Fisher of a problem, and what they say, as results."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TypedDict

import torch
from torch import Tensor

from fisher_cli.curvature.linalg.density import density as density_of
from fisher_cli.curvature.linalg.density import effective_dimension as dimension_of
from fisher_cli.curvature.linalg.krylov import Product
from fisher_cli.curvature.linalg.lanczos import Eigenpairs, StopReason
from fisher_cli.curvature.problem.batching import memory_bytes
from fisher_cli.curvature.problem.problem import Problem
from fisher_cli.curvature.products.fisher_products import ScoreFactor
from fisher_cli.curvature.spectra import spectral_summary
from fisher_cli.curvature.spectra.eigensystems import Eigensystem, Matrix, SpectrumRequest
from fisher_cli.curvature.spectra.solver_choice import BASIS_SHARE, vectors_fit
from fisher_cli.curvature.torch_backend.malloc import large_blocks_given_back
from fisher_cli.results import Density, Eigenvalues, Estimate, Spectrum

# Random vectors for what the leading eigenvalues leave of ‖F‖_F²; a sixth of what Lanczos costs for five of them.
NORM_PROBES = 8
# Eigenvectors are deflated from this share of the largest eigenvalue on: their orthogonality is beyond doubt.
DEFLATED = 1e-3
# A bound on what was left out is negligible where it moves a result by at most this share of it.
NEGLIGIBLE = 0.01
# An eigenvalue below so many float64 units of the largest is zero: what a symmetric eigensolver makes of zero.
ROUNDING = 100
# A node of a quadrature below so many units of the network's precision is.
NODE_ROUNDING, NODE_FLOOR = 10, 1e-8


@dataclass(frozen=True)
class LeadingVectors:
    """The leading eigenvectors of a Fisher.

    Attributes:
        vectors: orthonormal (P, k), with eigenvalues above zero, in the network's precision.
        layout: the shapes of the parameters whose values they hold, in order.
    """

    vectors: Tensor
    layout: Mapping[str, torch.Size]


def as_result(found: Eigensystem, wanted: int, parameters: int) -> Eigenvalues:
    """The eigenvalues with their residuals and in words how they were found.

    Args:
        found: the leading ones.
        wanted: how many were asked for.
        parameters: P, more than which there are none.
    """
    missing = wanted - parameters
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


@torch.inference_mode(mode=False)
def spectrum(
    matrix: Matrix,
    question: SpectrumRequest,
    trace: float,
    *,
    gradient: Tensor | None = None,
    before: LeadingVectors | None = None,
) -> tuple[Spectrum, LeadingVectors | None]:
    """The leading eigenvalues λ of a Fisher, effective rank (Σ λ)²/Σ λ², effective dimension Σ λ/(λ + α), overlap.

    With `question.full` also all other eigenvalues or their density, standard errors of the leading ones, and the part
    of the gradient in their space.

    Args:
        matrix: the true or the empirical Fisher.
        question: what is asked.
        trace: tr F, or an estimate of it.
        gradient: ḡ, (P,).
        before: eigenvectors to compare with; those of another network are not.

    Returns:
        The spectrum, and the leading eigenvectors where memory allows them.

    Raises:
        NumericalError: a gradient or a product is NaN or infinite.
    """
    found, affordable = _found(matrix, question)
    problem = matrix.problem
    floor = _floor(problem, found)
    leading = _leading(problem, found, floor)
    if question.full:
        found = _with_coordinates(matrix, found)
    norm, probes = _squared_norm(matrix, found, question)
    rank, damping = _effective_rank(trace, norm), question.damping or 1 / problem.examples
    density = _density(matrix, found, question) if question.full and found.whole is None else None
    name = "empirical" if matrix.empirical else "true"
    remarks = [
        "" if affordable else _too_large(question.count, problem.size),
        f"the {name} Fisher is zero" if found.values[0] <= 0 and not found.note else "",
        "no density: its vectors do not fit into memory" if _lacks_density(question, found, density) else "",
    ]
    result = Spectrum(
        matrix=name,
        parameters=problem.size,
        leading=as_result(found, question.count, problem.size),
        floor=floor,
        trace=trace,
        damping=damping,
        bound=found.bound,
        **_values(found, floor, trace),
        errors=_errors(matrix, found, question) if question.full else None,
        effective_rank=rank,
        norm_probes=probes if rank is not None else 0,
        effective_dimension=_dimension(found, floor, density, damping),
        normalised_dimension=_normalised_dimension(problem, found, floor),
        examples=problem.examples,
        gradient_share=None
        if gradient is None or leading is None
        else spectral_summary.gradient_share(leading.vectors, gradient),
        overlap=overlap(leading, before),
        density=density,
        products=probes + (density.products if density else 0),
        notes=tuple(filter(None, remarks)),
    )
    return result, leading


class _Values(TypedDict):
    values: tuple[float, ...]
    is_whole: bool
    shares: tuple[float, ...]
    gaps: tuple[float, ...]


def _values(found: Eigensystem, floor: float, trace: float) -> _Values:
    """The leading eigenvalues, all others above the floor where they are known, and their ratios."""
    values = found.values
    if found.whole is not None:
        rest = found.whole[len(values) :]
        values = torch.cat([values, rest[rest > floor]])
    shares = spectral_summary.trace_shares(values, trace)
    gaps = spectral_summary.gap_profile(found.values)
    return _Values(
        values=tuple(values.tolist()), is_whole=found.whole is not None, shares=tuple(shares.tolist()), gaps=gaps
    )


def _lacks_density(question: SpectrumRequest, found: Eigensystem, density: Density | None) -> bool:
    return question.full and found.whole is None and density is None


def _found(matrix: Matrix, question: SpectrumRequest) -> tuple[Eigensystem, bool]:
    """The leading eigenpairs, and whether there is memory for their vectors."""
    problem = matrix.problem
    rows = min(problem.examples * matrix.scores, problem.size)
    whole = question.wants_all(rows)
    affordable = vectors_fit(problem, question.count)
    found = matrix.leading(question.count, tolerance=question.tolerance, vectors=affordable, whole=whole)
    if question.whole is False:
        found = replace(found, whole=None)  # asked for a density, and got all on the way
    return found, affordable


def _too_large(count: int, size: int) -> str:
    gib = count * size * 8 / 2**30
    return f"{count} eigenvectors of {size} values ({gib:.1f} GiB) are too large to hold: no subspace overlap"


def _floor(problem: Problem, found: Eigensystem) -> float:
    """What an eigenvalue must exceed to be told from zero: rounding, or what was left out."""
    top = float(found.values[0].clamp_min(0)) if len(found.values) else 0.0
    unit = max(torch.finfo(problem.dtype).eps, ROUNDING * torch.finfo(torch.float64).eps)
    return max(unit * top, found.bound)


def _leading(problem: Problem, found: Eigensystem, floor: float) -> LeadingVectors | None:
    if found.vectors is None:
        return None
    above = _columns_above(found, found.vectors, floor)
    layout = {name: parameter.shape for name, parameter in problem.parameters.items()}
    with large_blocks_given_back(large=problem.is_large):
        return LeadingVectors(found.vectors.to(problem.dtype)[:, above], layout)


def _columns_above(found: Eigensystem, vectors: Tensor, limit: float) -> Tensor:
    """Which eigenvectors have an eigenvalue above the limit; there are none of zeros beyond the rank of a dual."""
    return (found.values[: vectors.shape[1]] > limit).to(vectors.device)


def _deflated(found: Eigensystem, vectors: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The eigenpairs that are taken as exact, with their residuals; none of the zero matrix."""
    some = _columns_above(found, vectors, DEFLATED * float(found.values[0].clamp_min(0)))
    kept = some.to(found.values.device)
    return found.values[: len(kept)][kept], found.residuals[: len(kept)][kept], vectors[:, some]


@torch.inference_mode(mode=False)
def leading_vectors(matrix: Matrix, question: SpectrumRequest) -> LeadingVectors | None:
    """The leading eigenvectors alone, bit for bit those that `spectrum` gives beside its result."""
    found, _ = _found(matrix, question)
    return _leading(matrix.problem, found, _floor(matrix.problem, found))


def overlap(leading: LeadingVectors | None, before: LeadingVectors | None) -> float | None:
    """‖V_kᵀ W_l‖_F²/min(k, l) of two sets of eigenvectors; None unless they are of the same tensors."""
    if leading is None or before is None or dict(leading.layout) != dict(before.layout):
        return None
    return spectral_summary.subspace_overlap(leading.vectors, before.vectors.to(leading.vectors.device))


def _squared_norm(matrix: Matrix, found: Eigensystem, question: SpectrumRequest) -> tuple[Estimate | None, int]:
    """‖F‖_F² and the number of probes it took: exact where the route gives it, None where vectors are missing."""
    if found.squared_norm is not None and 2 * found.bound <= NEGLIGIBLE * found.squared_norm**0.5:
        return Estimate(found.squared_norm), 0
    if found.vectors is None or found.values[0] <= 0:
        return None, 0
    values, residuals, vectors = _deflated(found, found.vectors)
    with large_blocks_given_back(large=matrix.problem.is_large):
        norm = spectral_summary.squared_norm(
            matrix.product, values, residuals, vectors, probes=NORM_PROBES, seed=question.seed
        )
    return norm, NORM_PROBES


def _effective_rank(trace: float, norm: Estimate | None) -> Estimate | None:
    """With the error that probes leave, relative to the norm's; that of an estimated trace is not in it."""
    value = None if norm is None else spectral_summary.effective_rank(trace, norm.value)
    if norm is None or value is None:
        return None
    error = None if norm.estimator_error is None else value * norm.estimator_error / norm.value
    return Estimate(value, None, error)


def _dimension(found: Eigensystem, floor: float, density: Density | None, damping: float) -> Estimate | None:
    """Exact from the whole spectrum; what was left out adds at most its trace over α (Rotfel'd's inequality)."""
    if density is not None:
        return dimension_of(density, damping)
    if found.whole is None:
        return None
    value = spectral_summary.effective_dimension(found.whole[found.whole > floor], damping)
    return Estimate(value) if found.bound / damping <= NEGLIGIBLE * value else None


def _normalised_dimension(problem: Problem, found: Eigensystem, floor: float) -> float | None:
    """From the whole spectrum alone; the trace is that of the eigenvalues, so that an estimated one does not matter."""
    if found.whole is None or found.bound:
        return None
    above = found.whole[found.whole > floor]
    return spectral_summary.normalised_effective_dimension(above, problem.size, float(above.sum()), problem.examples)


def _with_coordinates(matrix: Matrix, found: Eigensystem) -> Eigensystem:
    """The coordinates of all columns on the eigenvectors, which cost a pass per vector where no Gram has them."""
    if found.coordinates is not None or found.vectors is None or not found.vectors.shape[1]:
        return found
    coordinates = ScoreFactor(matrix.jacobian(), matrix.scores_of).coordinates(found.vectors)
    number = matrix.problem.examples
    examples = torch.arange(number).repeat_interleave(len(coordinates) // number)
    return replace(found, coordinates=coordinates, examples=examples)


def _errors(matrix: Matrix, found: Eigensystem, question: SpectrumRequest) -> tuple[float, ...] | None:
    """Of the leading eigenvalues over examples."""
    coordinates, examples = found.coordinates, found.examples
    if coordinates is None or examples is None:
        return None
    return spectral_summary.bootstrap_errors(coordinates, examples, matrix.problem.examples, seed=question.seed)


def _density(matrix: Matrix, found: Eigensystem, question: SpectrumRequest) -> Density | None:
    """By stochastic Lanczos quadrature beside the leading eigenpairs; None where its vectors do not fit.

    Of AᵀA where that is smaller: the null vectors of F that the number of columns leaves are then no matter of the
    quadrature.
    """
    problem, vectors = matrix.problem, found.vectors
    chosen = density_vectors(matrix, question)
    if chosen is None or vectors is None:
        return None
    size, dtype, by_columns = chosen
    values, residuals, vectors = _deflated(found, vectors)
    product: Product = matrix.product
    if by_columns:
        product, vectors = ScoreFactor(matrix.jacobian(), matrix.scores_of), _of_columns(matrix, found, vectors)
    locked = Eigenpairs(values.cpu(), vectors.to(dtype), residuals.cpu(), StopReason.CONVERGED, 0, 0)
    return density_of(
        product,
        size,
        probes=question.probes,
        steps=question.steps,
        seed=question.seed,
        floor=max(NODE_FLOOR, NODE_ROUNDING * torch.finfo(problem.dtype).eps),
        locked=locked if len(locked.values) else None,
        null=problem.size - size,
        device=problem.device,
        dtype=dtype,
    )


def density_vectors(matrix: Matrix, question: SpectrumRequest) -> tuple[int, torch.dtype, bool] | None:
    """Length and precision of the vectors of a density, and whether they are AᵀA's; None where they do not fit."""
    problem, room = matrix.problem, memory_bytes(matrix.problem.device) * BASIS_SHARE
    by_columns = _has_fewer_columns(matrix, room)
    size = problem.examples * matrix.scores if by_columns else problem.size
    held = (question.steps + question.count) * size
    dtype = torch.float64 if held * 8 <= room else problem.dtype
    return (size, dtype, by_columns) if held * dtype.itemsize <= room else None


def _has_fewer_columns(matrix: Matrix, room: float) -> bool:
    """Whether F has fewer columns than parameters, and a batch's scores, made anew in every product, fit twice."""
    problem = matrix.problem
    scores = min(problem.product_batch_size, problem.examples) * matrix.scores * problem.outputs
    return problem.examples * matrix.scores < problem.size and 2 * scores * 8 <= room


def _of_columns(matrix: Matrix, found: Eigensystem, vectors: Tensor) -> Tensor:
    """Aᵀv/√λ for eigenvectors v (P, l) of AAᵀ, orthonormal: those of AᵀA, (M, l)."""
    coordinates, rows = found.coordinates, matrix.problem.examples * matrix.scores
    if coordinates is None or len(coordinates) != rows:
        coordinates = ScoreFactor(matrix.jacobian(), matrix.scores_of).coordinates(vectors)
    basis: Tensor = torch.linalg.qr(coordinates[:, : vectors.shape[1]]).Q
    return basis
