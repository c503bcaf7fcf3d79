"""The empirical Fisher F̂ against the true one F on the same examples: every figure beside its null."""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor

from fisher_cli.curvature.comparison import frobenius, intervals
from fisher_cli.curvature.comparison.frobenius import SquaredNorms
from fisher_cli.curvature.comparison.natural_gradient import (
    DAMPING,
    DirectionCosines,
    directions,
    directions_of,
    true_direction,
)
from fisher_cli.curvature.comparison.null_distribution import NullDistribution, null_distribution, require_agreement
from fisher_cli.curvature.comparison.verdicts import verdict
from fisher_cli.curvature.problem.batching import memory_bytes
from fisher_cli.curvature.problem.moments import mean_of, root_sum_of_squares
from fisher_cli.curvature.spectra import score_gram, spectral_summary
from fisher_cli.curvature.spectra.eigensystems import matrices
from fisher_cli.curvature.spectra.score_gram import GramEigenpairs, LabelSet
from fisher_cli.curvature.spectra.solver_choice import BASIS_SHARE, WHOLE_ROWS
from fisher_cli.curvature.spectra.spectrum import as_result
from fisher_cli.curvature.traces.traces import TraceResult
from fisher_cli.results import AgainstNull, Comparison, Eigenvalues, Estimate, LayerComparison, LayerTrace

# Relative residuals of the natural gradients where they are found from products: about what these are exact to.
RESIDUAL = {torch.float32: 1e-4, torch.float64: 1e-8}
# Products with each matrix that these may take.
PRODUCTS = 150

Advance = Callable[[str, float], None]


@dataclass(frozen=True)
class ComparisonRequest:
    """What is compared.

    Attributes:
        count: leading eigenpairs of each matrix.
        damping: α of the natural gradients (F + αI)⁻¹ḡ; None for a thousandth of the largest eigenvalue of F.
        draws: sets of labels drawn from the model for nulls.
        tolerance: of the eigenvalues' residuals, relative to the largest.
        seed: of labels, signs and start vectors.
    """

    count: int
    damping: float | None = None
    draws: int = 10
    tolerance: float = 1e-3
    seed: int = 0


@dataclass(frozen=True, kw_only=True)
class _Matrices:
    """What is found about F and F̂ as matrices, by either way."""

    method: str
    squares: SquaredNorms
    damping: float
    directions: DirectionCosines
    overlap: float | None
    eigenvalues: tuple[Eigenvalues, Eigenvalues]
    inverse_product: AgainstNull | None = None
    drawn: "list[_Drawn]"


@dataclass(frozen=True)
class _Drawn:
    """The same of one set of labels drawn from the model."""

    squares: SquaredNorms
    natural_gradient: float | None
    overlap: float | None


@torch.inference_mode(mode=False)
def compare(
    swept: TraceResult,
    comparison_request: ComparisonRequest,
    *,
    advance: Advance = lambda _stage, _done: None,
    gram: bool | None = None,
) -> tuple[Comparison, tuple[Eigenvalues, Eigenvalues]]:
    """tr F̂/tr F, ‖F̂ − F‖/‖F‖, cosines, overlaps and leading eigenvalues of both, each beside its null; a verdict.

    Traces, predictions and gradient are those of one sweep; the null takes the sweep's backward passes once more, for
    inner products. Where all N·K score gradients can be held the matrices are compared exactly through their inner
    products and no further pass is made for labels drawn from the model; elsewhere by products: `PRODUCTS` at most
    with each matrix for the natural gradients, 16 for the norms beside the leading eigenvectors, and the nulls are
    those that have a closed form.

    Args:
        swept: of the examples, with the exact, deflated or sampled trace.
        comparison_request: what is asked.
        advance: told what is done and how far all is.
        gram: whether to go through the inner products of all score gradients; None for the rule.

    Returns:
        The comparison, and the leading eigenvalues of F and F̂.

    Raises:
        NumericalError: a gradient or a product is NaN or infinite.
        VerificationError: the inner products contradict the norms.
    """
    engine, trace = swept.engine, swept.trace
    advance("null", 0.0)
    expected = null_distribution(engine, seed=comparison_request.seed)
    true_terms = torch.tensor(trace.per_example_true, dtype=torch.float64)
    empirical_terms = torch.tensor(trace.per_example_empirical, dtype=torch.float64)
    if trace.estimator == "exact":
        require_agreement(expected, true_terms, engine.problem.dtype)
    advance("matrices", 0.2)
    by_gram = score_gram.is_affordable(engine) if gram is None else gram
    found = (
        _by_gram(swept, comparison_request, advance) if by_gram else _by_products(swept, comparison_request, advance)
    )
    ratio_deviation, z = _under_the_null(trace.true, trace.empirical, expected.variance)
    ratio = trace.ratio.value if trace.ratio else None
    carriers = None if math.isnan(expected.carriers) else expected.carriers
    # No interval is called a 95 % one where the terms hide a part of the error.
    model_carriers = 0.0 if carriers is None or trace.hidden_error != 0 else carriers
    difference = mean_of(empirical_terms - true_terms)
    error = root_sum_of_squares(difference.standard_error, trace.hidden_error)
    difference_norm, cosine = _beside_null(found, expected)
    natural_gradient = _drawn_null(found.directions.between, [each.natural_gradient for each in found.drawn])
    comparison = Comparison(
        difference=replace(difference, standard_error=error),
        difference_interval=intervals.mean_interval(
            empirical_terms - true_terms, model_carriers=model_carriers, seed=comparison_request.seed
        ),
        ratio_interval=intervals.ratio_interval(
            empirical_terms, true_terms, model_carriers=model_carriers, seed=comparison_request.seed
        ),
        null_method=expected.method,
        null_deviation=ratio_deviation,
        carriers=carriers,
        z=z,
        method=found.method,
        norm_true=found.squares.norm_true,
        norm_empirical=_norm_beside_null(found, expected),
        inner_product=AgainstNull(found.squares.inner_product, float(found.squares.values[0])),
        difference_norm=difference_norm,
        cosine=cosine,
        damping=found.damping,
        natural_gradient=natural_gradient,
        gradient_true=found.directions.true,
        gradient_empirical=found.directions.empirical,
        residual=found.directions.residual,
        inverse_product=found.inverse_product,
        overlap=_drawn_null(found.overlap, [each.overlap for each in found.drawn]),
        draws=len(found.drawn),
        layers=tuple(_layer(each, expected.layers[each.name]) for each in trace.layers),
        verdict=verdict(ratio, ratio_deviation, z, difference_norm, carriers, natural_gradient),
    )
    return comparison, found.eigenvalues


def _under_the_null(true: Estimate, empirical: Estimate, variance: float) -> tuple[float | None, float | None]:
    """The deviation of tr F̂/tr F under the model's own labels and z = (tr F̂ − tr F)/deviation; None if not known."""
    deviation = root_sum_of_squares(math.sqrt(variance), true.estimator_error)
    if deviation is None:
        return None, None
    z = (empirical.value - true.value) / deviation if deviation > 0 else None
    return (deviation / true.value if true.value > 0 else None), z


def _layer(layer: LayerTrace, variance: float) -> LayerComparison:
    null_deviation, z = _under_the_null(layer.true, layer.empirical, variance)
    true, empirical = layer.true.value, layer.empirical.value
    return LayerComparison(
        name=layer.name,
        parameters=layer.parameters,
        true=layer.true,
        empirical=layer.empirical,
        ratio=empirical / true if true > 0 else None,
        null_deviation=null_deviation,
        z=z,
    )


def _spread(values: list[float]) -> float | None:
    """The standard deviation over the draws; None for fewer than two."""
    return float(torch.tensor(values, dtype=torch.float64).std()) if len(values) > 1 else None


def _drawn_null(value: float | None, draws: list[float | None]) -> AgainstNull | None:
    if value is None:
        return None
    known = [each for each in draws if each is not None]
    return AgainstNull(Estimate(value), sum(known) / len(known) if known else None, _spread(known))


def _beside_null(found: _Matrices, expected: NullDistribution) -> tuple[AgainstNull | None, AgainstNull | None]:
    """‖F̂ − F‖/‖F‖ and the cosine of the matrices: means of the null in closed form, deviations from the draws."""
    null_values = frobenius.null_squares(float(found.squares.values[0]), expected.scatter)
    difference, cosine = found.squares.difference, found.squares.cosine
    if null_values is None or difference is None:
        return None, None
    spreads = [
        _spread([getattr(each.squares, name).value for each in found.drawn if getattr(each.squares, name) is not None])
        for name in ("difference", "cosine")
    ]
    return (
        AgainstNull(difference, null_values.difference, spreads[0]),
        None if cosine is None else AgainstNull(cosine, null_values.cosine, spreads[1]),
    )


def _norm_beside_null(found: _Matrices, expected: NullDistribution) -> AgainstNull:
    """‖F̂‖ beside √(E‖F̂‖²) = √(‖F‖² + E‖F̂ − F‖²)."""
    mean = math.sqrt(max(float(found.squares.values[0]), 0.0) + expected.scatter)
    spread = _spread([each.squares.norm_empirical.value for each in found.drawn])
    return AgainstNull(found.squares.norm_empirical, mean, spread)


def _by_gram(swept: TraceResult, comparison_request: ComparisonRequest, advance: Advance) -> _Matrices:
    """All exact, from the inner products of the score gradients; further labels cost no pass."""
    engine = swept.engine
    gram = score_gram.collect(engine, draws=comparison_request.draws, seed=comparison_request.seed)
    advance("eigenvalues", 0.5)
    whole = len(gram.roots) <= WHOLE_ROWS
    pairs = gram.true_pairs(len(gram.roots) if whole else comparison_request.count, comparison_request.tolerance)
    true = pairs.first(comparison_request.count)
    damping = comparison_request.damping or DAMPING * float(pairs.values[0].clamp_min(0))
    squared_norm = gram.squared_norm()
    direction = true_direction(gram, damping) if damping > 0 else None

    def about(labels: LabelSet) -> tuple[SquaredNorms, DirectionCosines, GramEigenpairs]:
        squares = frobenius.exact(gram, labels, squared_norm)
        toward = DirectionCosines() if direction is None else directions_of(direction, labels, damping)
        return squares, toward, gram.empirical_pairs(labels, comparison_request.count)

    observed = gram.labels(gram.observed)
    squares, toward, empirical = about(observed)
    drawn = []
    for index, chosen in enumerate(gram.drawn):
        advance("null", 0.7 + 0.3 * index / len(gram.drawn))
        other, others_direction, others_pairs = about(gram.labels(chosen))
        drawn.append(_Drawn(other, others_direction.between, gram.overlap(true, others_pairs)))
    return _Matrices(
        method="gram",
        squares=squares,
        damping=damping,
        directions=toward,
        overlap=gram.overlap(true, empirical),
        eigenvalues=(
            _values(true, comparison_request, engine.problem.size),
            _values(empirical, comparison_request, engine.problem.size),
        ),
        inverse_product=_inverse_product(pairs, observed, damping) if whole and damping > 0 else None,
        drawn=drawn,
    )


def _inverse_product(pairs: GramEigenpairs, labels: LabelSet, damping: float) -> AgainstNull:
    """tr (F + αI)⁻¹F̂ = Σ_i v_iᵀF̂v_i/(λ_i + α) over the range of F; its null is tr (F + αI)⁻¹F.

    Source: Thomas et al. 2020 (arXiv:1906.07774), of the Takeuchi information criterion, there with the Hessian or F.
    """
    kept = pairs.values[: pairs.vectors.shape[1]]
    forms = (labels.images @ pairs.vectors).square().sum(0) / len(labels.gram)
    value = float((forms / (kept + damping)).sum())
    return AgainstNull(Estimate(value), spectral_summary.effective_dimension(kept, damping))


def _values(pairs: GramEigenpairs, comparison_request: ComparisonRequest, parameters: int) -> Eigenvalues:
    """With exact zeros behind the rows of the Gram matrix."""
    missing = min(comparison_request.count, parameters) - len(pairs.values)
    zeros = (0.0,) * max(0, missing)
    values, residuals = tuple(pairs.values.tolist()), tuple(pairs.residuals.tolist())
    return Eigenvalues(values + zeros, residuals + zeros, "gram", pairs.converged, 0)


def _eigenvalue_stage(advance: Advance, begin: float, text: str, fraction: float) -> None:
    """How far the eigenvalues of one matrix are, as a part of the whole."""
    advance(f"eigenvalues: {text}", begin + 0.15 * fraction)


def _by_products(swept: TraceResult, comparison_request: ComparisonRequest, advance: Advance) -> _Matrices:
    """From products with both matrices: norms by probes beside the leading eigenvectors, conjugate gradients."""
    engine, trace = swept.engine, swept.trace
    problem = engine.problem
    true, empirical = matrices(
        problem,
        engine=engine,
        trace_true=trace.true.value if trace.estimator == "exact" else None,
        trace_empirical=trace.empirical.value,
        columns=swept.columns,
        seed=comparison_request.seed,
    )
    room = memory_bytes(problem.device) * BASIS_SHARE
    held = 2 * min(comparison_request.count, problem.size) * problem.size * 8 <= room
    found = []
    for index, matrix in enumerate((true, empirical)):
        begin = 0.3 + 0.15 * index
        advance("eigenvalues", begin)
        matrix.advance = partial(_eigenvalue_stage, advance, begin)
        found.append(matrix.leading(comparison_request.count, tolerance=comparison_request.tolerance, vectors=held))
    spaces: list[Tensor] = [each.vectors for each in found if each.vectors is not None]
    empty = torch.zeros(problem.size, 0, dtype=torch.float64, device=problem.device)
    advance("norms", 0.6)
    squares = frobenius.probed(
        true.product, empirical.product, frobenius.basis(empty, *spaces), seed=comparison_request.seed
    )
    damping = comparison_request.damping or DAMPING * float(found[0].values[0].clamp_min(0))
    advance("natural gradients", 0.75)
    toward = DirectionCosines()
    if damping > 0:
        toward = directions(
            true.product,
            empirical.product,
            swept.mean_gradient.to(problem.device),
            damping,
            tolerance=RESIDUAL[problem.dtype],
            maximum=PRODUCTS,
        )
    one, other = (as_result(each, comparison_request.count, problem.size) for each in found)
    return _Matrices(
        method="products",
        squares=squares,
        damping=damping,
        directions=toward,
        overlap=spectral_summary.subspace_overlap(spaces[0], spaces[1]) if len(spaces) == 2 else None,
        eigenvalues=(one, other),
        drawn=[],
    )
