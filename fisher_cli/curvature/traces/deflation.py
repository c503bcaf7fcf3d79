"""The deflated estimator: leading columns of a root of Λ exactly, the rest as two random mixtures.

With Λ_n = R_n R_nᵀ, tr F = mean_n Σ_j ‖J_nᵀ r_nj‖². The first k columns are taken as they are; the others are
added up with random signs, twice, E ‖J_nᵀ Σ_j ε_j r_nj‖² = Σ_j ‖J_nᵀ r_nj‖². The variance of a mixture is
2 Σ_{i≠j} G_ij², G_ij = r_iᵀ J Jᵀ r_j, so the root matters: R V with V the eigenvectors of Rᵀ K̄ R, R a root of M and K̄
the mean of J_n J_nᵀ over a few pilot examples, makes those products small. M is Λ, for softmax less the part of the
observed score, whose direction is taken first: it serves the empirical Fisher as well.

The two mixtures are antithetic. Columns come in pairs of neighbours; the second mixture turns the sign of one column of
each pair, which one by a coin. The products within a pair, the largest, cancel in the mean, whose variance is
Σ_{i≠j} G_ij² over all other pairs. In the difference they stay: its square states Σ_{i≠j} G_ij² and as much again
within pairs, never less than the variance in expectation, and not near zero by the chance of two draws that agree,
which would happen half of the time where two columns of one example carry the error.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from fisher_cli.curvature.gradient_norms.engine import Engine
from fisher_cli.curvature.problem.batching import DIRECTIONS_AT_ONCE
from fisher_cli.curvature.problem.counter_based_random import Draws, of_examples
from fisher_cli.curvature.problem.likelihoods import Likelihood, Softmax
from fisher_cli.curvature.problem.output_scores import OutputScores, Scoring, exact, unit_scale, with_observed
from fisher_cli.curvature.problem.problem import Batch, Problem

PILOT_EXAMPLES = 32
# … but no more than this share of the data, which would cost more than it saves, and no fewer than four; sixteen where
# the user names an error that is to be kept.
PILOT_SHARE, FEWEST_PILOT_EXAMPLES, FEWEST_FOR_A_TARGET = 1 / 16, 4, 16
# Two mixtures: their difference states the estimator's own error over all examples, which a pilot cannot.
MIXTURES = 2
# Up to this many outputs the root is turned by the pilot, at C³ per example; above, the closed-form root is used.
PILOT_OUTPUTS = 64
# The error that the estimator may add, as a share of the standard error over examples, and the most columns for that.
SHARE_OF_STANDARD_ERROR = 0.1
MOST_COLUMNS = 16
# For an error that the user names: how many pairs of mixtures predict it of a pilot example's closed-form columns, by
# which factor the numbers of columns grow that are tried, how much of the variance allowed is aimed at, since a pilot
# errs, and how many values all directions of a batch may hold, 0.5 GiB in float64.
PILOT_PAIRS, NEXT_COLUMNS, AIM, MOST_VALUES = 4, 1.5, 0.7, 2**26


@dataclass(frozen=True)
class PilotResult:
    """What a few examples say: K̄ (C, C) or None, and how many columns k to take exactly."""

    kernel: Tensor | None
    columns: int


def roots(likelihood: Likelihood, outputs: Tensor, labels: Tensor, kernel: Tensor) -> Tensor:
    """R_n with R_n R_nᵀ = Λ_n, (B, C, C) in float64, the columns by what they carry of the trace where that is free.

    Softmax: the first column is a multiple of the observed score, which the empirical Fisher needs anyway; those that
    the closed-form root has after it are turned, R V with V the eigenvectors of Rᵀ K̄ R by descending eigenvalue.
    Whatever root R of a matrix M is turned so, what comes out is M^½ turned. A last column of zeros makes C of them.
    """
    found = likelihood.root(outputs, labels)
    columns = (found.directions.double() * found.weights.sqrt().unsqueeze(2)).permute(1, 2, 0)
    if not isinstance(likelihood, Softmax):
        return _turned(columns, kernel)
    first, others = columns[:, :, :1], columns[:, :, 1:]
    return torch.cat([first, _turned(others, kernel), torch.zeros_like(first)], 2)


def _turned(columns: Tensor, kernel: Tensor) -> Tensor:
    """R V, V the eigenvectors of Rᵀ K̄ R by descending eigenvalue, of roots R (B, C, M)."""
    if not columns.shape[2]:
        return columns
    # Scaled: at saturated outputs R may be as small as the smallest numbers.
    scale = columns.abs().amax((1, 2), keepdim=True).clamp_min(torch.finfo(torch.float64).tiny)
    scaled = columns / scale
    _, turned = torch.linalg.eigh(scaled.mT @ kernel @ scaled)
    root: Tensor = (scaled @ turned.flip(2)) * scale
    # An eigenvector's sign is the library's whim; fixed, a mixture is the same in every batch.
    largest = root.gather(1, root.abs().argmax(1, keepdim=True))
    return torch.where(largest < 0, -root, root)


def pilot(engine: Engine, target_error: float | None) -> PilotResult:
    """K̄ and the number of exact columns that keeps the estimator's error within the target.

    The target is a tenth of the standard error over examples, or `target_error` relative to the trace; both
    are predicted from the pilot's own traces and mixture variances Σ_{i≠j} (r_iᵀ J Jᵀ r_j)², above 64 outputs and for
    `target_error` from mixtures of the pilot's. If no fewer columns keep the error within the target, all are taken.
    """
    problem = engine.problem
    if problem.outputs > PILOT_OUTPUTS:
        found = columns_for_many_outputs(problem.outputs)
        return PilotResult(None, found if target_error is None else _columns_within(engine, target_error))
    fewest = FEWEST_PILOT_EXAMPLES if target_error is None else FEWEST_FOR_A_TARGET
    batches = _spread_examples(engine, problem.outputs, fewest)
    parts = [(*_output_kernels(engine, batch), batch.labels) for batch in batches]
    outputs, kernels, labels = (torch.cat(some) for some in zip(*parts, strict=True))
    kernel = _mean_kernel(kernels)
    least = 1 if isinstance(problem.likelihood, Softmax) else 0
    if target_error is None:
        r = roots(problem.likelihood, outputs, labels, kernel)
        inner = r.mT @ kernels @ r
    else:
        inner = _held_out(problem.likelihood, outputs, labels, kernels)
    columns = _enough_columns(inner, problem.examples, target_error, least)
    # With no fewer directions than a root has columns, all of these are taken and nothing is drawn.
    columns = problem.process_group.broadcast(columns if columns + MIXTURES < rank_of(problem) else rank_of(problem))
    return PilotResult(kernel, columns)


def _mean_kernel(kernels: Tensor) -> Tensor:
    """K̄ of examples' kernels (B, C, C), the identity where all are zero."""
    kernel = kernels.mean(0)
    return kernel if bool(kernel.diagonal().sum() > 0) else torch.eye(len(kernel), dtype=kernel.dtype).to(kernel)


def _held_out(likelihood: Likelihood, outputs: Tensor, labels: Tensor, kernels: Tensor) -> Tensor:
    """Inner products of turned columns, (B, C, C), each half of the examples with the K̄ of the other half.

    With that of a few examples themselves their columns are next to orthogonal, and those of others are not.
    """
    found = []
    for one, other in ((slice(None, None, 2), slice(1, None, 2)), (slice(1, None, 2), slice(None, None, 2))):
        if len(kernels[one]):
            some = kernels[other] if len(kernels[other]) else kernels
            r = roots(likelihood, outputs[one], labels[one], _mean_kernel(some))
            found.append(r.mT @ kernels[one] @ r)
    return torch.cat(found)


def rank_of(problem: Problem) -> int:
    """The largest rank of Λ: as many columns are a root."""
    return problem.outputs - isinstance(problem.likelihood, Softmax)


def columns_for_many_outputs(outputs: int) -> int:
    """Columns taken exactly where no pilot is affordable: the leading probabilities carry nearly all of Λ."""
    return min(4, outputs - 1)


def _columns_within(engine: Engine, target_error: float) -> int:
    """The smallest number tried of closed-form columns whose predicted error is within the target, relative to tr F.

    All of them where none is and the memory allows, else as many as it allows.
    """
    problem, rank = engine.problem, rank_of(engine.problem)
    most = max(columns_for_many_outputs(problem.outputs), MOST_VALUES // (problem.batch_size * problem.outputs))
    tried = [columns_for_many_outputs(problem.outputs)]
    while (following := math.ceil(tried[-1] * NEXT_COLUMNS)) < min(most, rank - MIXTURES):
        tried.append(following)
    traces, squares, examples = 0.0, torch.zeros(len(tried), dtype=torch.float64), 0
    for batch in _spread_examples(engine, 2 * PILOT_PAIRS * len(tried), FEWEST_FOR_A_TARGET):
        some = _predicted(engine, batch, tried, examples)
        traces, squares, examples = traces + some[0], squares + some[1], examples + len(batch)
    allowed = AIM * (target_error * traces / examples) ** 2 * problem.examples
    fitting = [columns for columns, each in zip(tried, (squares / examples).tolist(), strict=True) if each <= allowed]
    found: int = problem.process_group.broadcast(fitting[0] if fitting else rank if rank <= most else tried[-1])
    return found


def _predicted(engine: Engine, batch: Batch, tried: Sequence[int], start: int) -> tuple[float, Tensor]:
    """Σ tr F_n over a batch and, for every number of columns tried, Σ of the variances that two mixtures state."""
    likelihood, evaluated = engine.problem.likelihood, engine.evaluate(batch)
    outputs, squares = evaluated.outputs.detach(), []
    pairs = [of_examples(0, f"pilot {i}", start, len(batch), outputs.device) for i in range(PILOT_PAIRS)]
    for columns in (0, *tried):
        signs = torch.cat([antithetic_signs(outputs.shape[1], columns, draws) for draws in pairs])
        unit, scale = unit_scale(_closed_form(likelihood, outputs, batch.labels, columns, signs, leading=0))
        norms = torch.stack(list(evaluated.norms(unit.to(outputs.dtype)).values())).sum(0) * scale.square()
        squares.append(norms)
    mixed = torch.stack(squares[1:]).reshape(len(tried), PILOT_PAIRS, MIXTURES, len(batch))
    stated = mixed.diff(dim=2).square() / MIXTURES**2
    return float(squares[0].mean(0).sum()), stated.mean(1).sum((1, 2)).cpu()


def _output_kernels(engine: Engine, batch: Batch) -> tuple[Tensor, Tensor]:
    """Outputs (B, C) and J_n J_nᵀ (B, C, C) of some examples."""
    evaluated = engine.evaluate(batch)
    outputs = evaluated.outputs.detach()
    units = torch.eye(outputs.shape[1], dtype=outputs.dtype, device=outputs.device)
    return outputs, evaluated.gram(units.unsqueeze(1).expand(-1, len(batch), -1).contiguous())


def _spread_examples(engine: Engine, directions: int, fewest: int) -> Iterator[Batch]:
    """Examples evenly over the data, whose order may be by class; no more at once than in a sweep of 16 directions."""
    problem = engine.problem
    wanted = min(PILOT_EXAMPLES, max(fewest, int(problem.examples * PILOT_SHARE)))
    count = min(wanted, problem.examples)
    chosen = [index * problem.examples // count for index in range(count)]
    at_once = max(1, problem.batch_size * DIRECTIONS_AT_ONCE // max(DIRECTIONS_AT_ONCE, directions))
    for start in range(0, count, at_once):
        parts = [problem.slice(index, index + 1) for index in chosen[start : start + at_once]]
        yield Batch(torch.cat([part.inputs for part in parts]), torch.cat([part.labels for part in parts]), 0)


def _enough_columns(inner: Tensor, examples: int, target_error: float | None, least: int = 0) -> int:
    """The smallest k whose predicted estimator error is within the target; inner products (B, C, C) of J Jᵀ columns.

    A target that the user names holds for the stated error, which errs upwards by what is within pairs, whatever the
    number of columns; `AIM` is for the examples that the pilot has not seen.
    """
    traces = inner.diagonal(dim1=1, dim2=2).sum(1)
    if target_error is None:
        spread = float(traces.var()) if len(traces) > 1 else float(traces.square().mean())
        allowed = SHARE_OF_STANDARD_ERROR**2 * spread
    else:
        allowed = AIM * (target_error * float(traces.mean())) ** 2 * examples
    most = inner.shape[1] - 1
    if target_error is None:
        most = min(most, MOST_COLUMNS)
    for columns in range(least, most):
        tail = inner[:, columns:, columns:]
        off_diagonal = tail.square().sum((1, 2)) - tail.diagonal(dim1=1, dim2=2).square().sum(1)
        paired = paired_products(tail)
        variance = off_diagonal - paired if target_error is None else off_diagonal + paired
        if float(variance.mean()) <= allowed:
            return columns
    return most


def deflated(engine: Engine, found: PilotResult, seed: int) -> Scoring:
    """k leading columns of the root exactly and two antithetic mixtures of the others, with signs of each example."""
    likelihood = engine.problem.likelihood
    if found.columns >= rank_of(engine.problem):
        return lambda outputs, labels, _: exact(likelihood, outputs, labels)

    def scoring(outputs: Tensor, labels: Tensor, start: int) -> OutputScores:
        draws = of_examples(seed, "signs", start, len(outputs), outputs.device)
        signs = antithetic_signs(outputs.shape[1], found.columns, draws)
        if found.kernel is None:
            vectors = _closed_form(likelihood, outputs, labels, found.columns, signs)
        else:
            r = roots(likelihood, outputs, labels, found.kernel)
            leading = r[:, :, : found.columns].permute(2, 0, 1)
            mixtures = torch.einsum("bcj,mbj->mbc", r[:, :, found.columns :], signs[:, :, found.columns :])
            vectors = torch.cat([leading, mixtures])
        unit, scale = unit_scale(vectors)
        weights = scale**2
        weights[found.columns :] /= MIXTURES
        drawn = range(found.columns, found.columns + MIXTURES)
        return _with_first_observed(
            likelihood, outputs, labels, OutputScores(unit.to(outputs.dtype), weights, scale, drawn)
        )

    return scoring


def _with_first_observed(likelihood: Likelihood, outputs: Tensor, labels: Tensor, scores: OutputScores) -> OutputScores:
    """The scores with the coefficients of the observed one: it is the first's multiple, or a direction of its own."""
    if not isinstance(likelihood, Softmax):
        return with_observed(likelihood, outputs, labels, scores.directions, scores.true, scores.draws)
    first = likelihood.observed_column(outputs, labels)
    assert first.observed is not None
    observed = torch.cat([first.observed, torch.zeros_like(scores.true[1:])])
    # The unit direction is taken from there: a column's may have underflowed with its weight.
    directions = torch.cat([first.directions, scores.directions[1:]])
    return OutputScores(directions, torch.cat([first.weights, scores.true[1:]]), observed, scores.draws)


def antithetic_signs(outputs: int, columns: int, draws: Draws) -> Tensor:
    """Two sets of random signs (2, B, C), which differ in exactly one of columns k and k + 1, and so pair by pair."""
    first, coins = draws.signs(2, outputs).unbind(1)
    turned = torch.ones_like(first)
    turned[:, columns::2] = coins[:, columns::2]
    turned[:, columns + 1 :: 2] = -coins[:, columns:-1:2]
    return torch.stack([first, first * turned])


def paired_products(tail: Tensor) -> Tensor:
    """Σ G_ij² over ordered pairs i ≠ j of columns that antithetic signs pair, of inner products (B, D, D): (B,)."""
    above = tail.diagonal(1, dim1=1, dim2=2)[:, ::2]
    return 2 * above.square().sum(1)


def _closed_form(
    likelihood: Likelihood, outputs: Tensor, labels: Tensor, columns: int, signs: Tensor, leading: int | None = None
) -> Tensor:
    """Columns and mixtures of the root of Λ that needs no C × C matrix, (k + 2, B, C) in float64.

    Of the columns only as many as are `leading` are given, by default all k that are not in the mixtures.

    Softmax: the Cholesky root of diag p − ppᵀ with the observed class first and the others in descending order of
    p; with q_j the mass after class j, L_jj = √(p_j q_j / q_{j−1}), L_ij = −p_i √(p_j / (q_{j−1} q_j)) for i > j.
    A mixture is a cumulative sum. Source: Tanabe and Sagae 1992 (doi:10.1111/j.2517-6161.1992.tb01876.x). Other
    likelihoods have a diagonal Λ, whose root is its columns.
    """
    if not isinstance(likelihood, Softmax):
        weights = likelihood.root(outputs, labels).weights.T
        order = weights.argsort(dim=1, descending=True)
        diagonal = weights.sqrt().gather(1, order)
        factor, below = torch.zeros_like(diagonal), torch.zeros_like(diagonal)
    else:
        below, after, order = likelihood.pivots(outputs, labels)
        before = torch.cat([torch.ones_like(after[:, :1]), after[:, :-1]], 1)
        share = torch.where(before > 0, below / before, torch.zeros_like(below)).sqrt()
        diagonal = share * after.sqrt()
        factor = torch.where(after > 0, share / after.sqrt(), torch.zeros_like(after))
    back = order.argsort(dim=1)
    vectors = []
    for column in range(columns if leading is None else leading):
        vector = torch.zeros_like(diagonal)
        vector[:, column] = diagonal[:, column]
        vector[:, column + 1 :] = -below[:, column + 1 :] * factor[:, column : column + 1]
        vectors.append(vector)
    for signed in signs:
        tail = signed.clone()
        tail[:, :columns] = 0
        steps = (tail * factor).cumsum(1)
        earlier = torch.cat([torch.zeros_like(steps[:, :1]), steps[:, :-1]], 1)
        vectors.append(tail * diagonal - below * earlier)
    return torch.stack([vector.gather(1, back) for vector in vectors])
