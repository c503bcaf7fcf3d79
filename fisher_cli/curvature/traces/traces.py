"""The traces of the true and the empirical Fisher, per parameter and per example, in one sweep over the data."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field

import torch
from torch import Tensor

from fisher_cli.curvature.gradient_norms import verification
from fisher_cli.curvature.gradient_norms.deferred_checks import runs_behind
from fisher_cli.curvature.gradient_norms.engine import Engine
from fisher_cli.curvature.problem.drawn_labels import draw_errors
from fisher_cli.curvature.problem.moments import Moments, as_floats, over_ranks, ratio_of_means
from fisher_cli.curvature.problem.output_scores import OutputScores, Scoring, exact, sampled
from fisher_cli.curvature.problem.predictions import RunningPredictions
from fisher_cli.curvature.problem.problem import Batch, Problem
from fisher_cli.curvature.problem.process_group import ProcessGroup
from fisher_cli.curvature.torch_backend.backend_flags import steady_arithmetic
from fisher_cli.curvature.torch_backend.out_of_memory import raise_if_out_of_memory
from fisher_cli.curvature.traces import coverage_ledger
from fisher_cli.curvature.traces.coverage_ledger import not_checked, with_work, without_work
from fisher_cli.curvature.traces.deflation import deflated, pilot
from fisher_cli.curvature.traces.mean_gradient import MeanGradient, mean_gradient
from fisher_cli.errors import NumericalError
from fisher_cli.results import Check, Estimate, LayerTrace, Ledger, PerExample, Predictions, Trace

Advance = Callable[[float], None]
Timed = Callable[[str], AbstractContextManager[None]]

# Up to so many outputs `auto` takes every class.
EXACT_OUTPUTS = 32


@dataclass(frozen=True)
class TraceResult:
    """What one sweep over the examples gives: predictions, both traces, and the mean gradient ḡ.

    Attributes:
        predictions: mean loss, accuracy and entropy.
        trace: tr F and tr F̂, whole, by parameter and by example.
        gradient: ḡ in float64, which may be shared out over the ranks.
        ledger: how every parameter was covered.
        check: how the engine compares with plain autograd; None where that was not asked for.
        columns: the terms of the true trace by example and score, (N, K); None but for the exact estimator of a softmax
            network.
        outputs: z of all examples, (N, C).
        engine: that of the sweep, with the methods and layouts that it found; further passes use it again.
        per_example: what each example is predicted to be.
    """

    predictions: Predictions
    trace: Trace
    gradient: MeanGradient
    ledger: Ledger
    check: Check | None
    columns: Tensor | None
    outputs: Tensor
    engine: Engine
    per_example: PerExample

    @property
    def mean_gradient(self) -> Tensor:
        """ḡ, (P,) in float64; where ranks share it out, gathered on each of them, and collective."""
        return self.gradient.whole()


@dataclass
class _Totals:
    """Running sums of a sweep; of a large network the memory does not hold a second `gradient`.

    `balanced` are of the terms that errors over examples are from where labels are drawn, else of none.
    """

    gradient: MeanGradient
    predictions: RunningPredictions = field(default_factory=RunningPredictions)
    true: Moments = field(default_factory=Moments)
    names: tuple[str, ...] = ()
    true_layers: Moments = field(default_factory=Moments)
    empirical_layers: Moments = field(default_factory=Moments)
    balanced: Moments = field(default_factory=Moments)
    balanced_layers: Moments = field(default_factory=Moments)
    true_terms: list[Tensor] = field(default_factory=list)
    balanced_terms: list[Tensor] = field(default_factory=list)
    empirical_terms: list[Tensor] = field(default_factory=list)
    columns: list[Tensor] = field(default_factory=list)
    outputs: list[Tensor] = field(default_factory=list)
    directions: int = 0
    finite: list[tuple[int, int, Tensor]] = field(default_factory=list)

    def require_finite_outputs(self) -> None:
        """Read back which batches had finite outputs, and forget it.

        Raises:
            NumericalError: one has not; the first is named.
        """
        flags = torch.stack([flag for _, _, flag in self.finite]).tolist() if self.finite else []
        for (first, last, _), is_finite in zip(self.finite, flags, strict=True):
            if not is_finite:
                msg = f"the network's outputs are NaN or infinite among examples {first} to {last}"
                raise NumericalError(msg)
        self.finite.clear()

    @contextmanager
    def naming_outputs(self) -> Iterator[None]:
        """The loop over batches, after which, or after whose error, outputs that are not finite are named.

        Of NaN outputs there are no eigenvectors: the deflated estimator does not reach the end.

        Yields:
            Nothing.

        Raises:
            RuntimeError: whatever else went wrong.
        """
        try:
            yield
        except RuntimeError as error:
            raise_if_out_of_memory(error)
            self.require_finite_outputs()
            raise
        self.require_finite_outputs()

    def over_ranks(self, process_group: ProcessGroup, names: Sequence[str], *, with_columns: bool) -> "_Totals":
        """Those of all ranks, whose terms are in order of the examples; the gradient is left to be completed."""
        if process_group.size == 1:
            return self
        true, true_layers, empirical_layers, balanced, balanced_layers = over_ranks(
            [self.true, self.true_layers, self.empirical_layers, self.balanced, self.balanced_layers], process_group
        )
        return _Totals(
            gradient=self.gradient,
            predictions=self.predictions.over_ranks(process_group),
            true=true,
            names=tuple(names),
            true_layers=true_layers,
            empirical_layers=empirical_layers,
            balanced=balanced,
            balanced_layers=balanced_layers,
            true_terms=[process_group.gather(self.true_terms)],
            balanced_terms=[process_group.gather(self.balanced_terms)],
            empirical_terms=[process_group.gather(self.empirical_terms)],
            columns=[process_group.gather(self.columns)] if with_columns else [],
            outputs=[process_group.gather(self.outputs)],
            directions=max(process_group.exchange(self.directions)),
        )


@torch.inference_mode(mode=False)
@steady_arithmetic()
def sweep(
    problem: Problem,
    *,
    estimator: str = "exact",
    samples: int = 5,
    target_error: float | None = None,
    seed: int = 0,
    verify: bool = True,
    is_checked: bool = False,
    known: Ledger | None = None,
    advance: Advance | None = None,
    timed: Timed = lambda _stage: nullcontext(),
) -> TraceResult:
    """tr F = mean_n Σ_k ‖J_nᵀ s_nk‖² and tr F̂ = mean_n ‖J_nᵀ (p_n − e_y)‖², by parameter and by example.

    Natural log, mean over examples, float64 sums. One forward pass, one backward pass per score direction (C − 1 for
    the exact trace of a softmax) without weight gradients; ḡ comes from the observed score's. Collective.

    Args:
        problem: the network and its examples.
        estimator: `exact`, `deflated`, `sampled`, or `auto`: exact up to 32 outputs, deflated above.
        samples: labels per example for `sampled`; one more, drawn by size, serves the errors.
        target_error: for `deflated`, the error of the estimator relative to the trace; None for a tenth of the standard
            error over examples.
        seed: of labels and signs.
        verify: compare a few examples with plain autograd, alone and in their batch, and count the ledger's work.
        is_checked: the engine's rules were held against autograd before: only the work is counted.
        known: a ledger of this network with other weights; where it still holds, its work is not counted anew.
        advance: told the fraction of examples done after each batch.
        timed: makes the context in which a named part of the work is done, `check` or `ledger`.

    Returns:
        Of the examples of all ranks, in their order.

    Raises:
        NumericalError: outputs, gradients or traces are NaN or infinite.
        VerificationError: the engine disagrees with plain autograd, or sums over layers or examples do not hold.
        CoupledExamplesError: an example's outputs depend on the others, on chance or on earlier calls.
    """
    engine, checker = Engine(problem), None
    if verify and not is_checked:
        with timed("check"):
            checker = verification.check(engine, unchecked=not_checked(known), derivatives=known is None)
            problem.give_back_memory()
    scoring, described = _scoring(engine, estimator, samples, target_error, seed)
    totals = _Totals(mean_gradient(problem))
    with totals.naming_outputs():
        for batch in totals.gradient.adding(problem.batches()):
            _add_batch(totals, engine, batch, scoring, checker)
            if advance is not None:
                advance(min(1.0, problem.process_group.size * (batch.start + len(batch)) / problem.examples))
    has_columns = described == "exact" and problem.likelihood.name == "softmax"
    totals = totals.over_ranks(problem.process_group, list(problem.parameters), with_columns=has_columns)
    engine.share_methods()
    predictions, trace = _summarise(problem, engine.ledger(), totals, described)
    ledger = without_work(trace, totals.directions)
    if verify:
        problem.give_back_memory()
        with timed("ledger"):
            ledger = with_work(ledger, engine, scoring, known)
    problem.give_back_memory()
    columns = torch.cat(totals.columns) if has_columns else None
    outputs, per_example = torch.cat(totals.outputs), totals.predictions.per_example()
    check = None if checker is None else checker.result()
    return TraceResult(predictions, trace, totals.gradient, ledger, check, columns, outputs, engine, per_example)


def _scoring(
    engine: Engine, estimator: str, samples: int, target_error: float | None, seed: int
) -> tuple[Scoring, str]:
    """The scores of an estimator, and its name with its numbers for the report."""
    likelihood = engine.problem.likelihood
    if estimator == "auto":
        estimator = "exact" if engine.problem.outputs <= EXACT_OUTPUTS else "deflated"
    if estimator == "exact":
        return lambda outputs, labels, _: exact(likelihood, outputs, labels), "exact"
    if estimator == "sampled":
        return sampled(likelihood, samples, seed), f"sampled S={samples}"
    found = pilot(engine, target_error)
    return deflated(engine, found, seed), f"deflated k={found.columns}"


def _add_batch(
    totals: _Totals, engine: Engine, batch: Batch, scoring: Scoring, checker: verification.Checker | None
) -> None:
    """Take in a batch, whose graph is freed before the next one is made.

    Raises:
        NumericalError: the outputs are NaN or infinite.
        VerificationError: an example's norms differ from plain autograd's.
    """
    evaluated = engine.evaluate(batch)
    outputs = evaluated.outputs.detach()
    totals.finite.append((batch.start, batch.start + len(batch) - 1, outputs.isfinite().all()))
    if not runs_behind(outputs.device):
        totals.require_finite_outputs()
    totals.outputs.append(outputs)
    totals.predictions.add(engine.problem.likelihood, outputs, batch.labels)
    scores = scoring(outputs, batch.labels, batch.start)
    norms = evaluated.measure(scores.directions, scores.observed, totals.gradient.add, scores.observed_row)
    _add_traces(totals, norms, scores)
    if checker is not None:
        checker.look_at(batch, scores.directions, norms)


def _add_traces(totals: _Totals, norms: Mapping[str, Tensor], scores: OutputScores) -> None:
    """Take in a batch's traces."""
    totals.directions = len(scores.directions)
    totals.names, layers = tuple(norms), torch.stack(list(norms.values()))
    empirical = (layers * scores.observed**2).sum(1)
    weighted = layers * scores.true
    columns = weighted.sum(0)
    _add_true(totals.true_layers, totals.balanced_layers, layers, weighted, scores)
    totals.balanced_terms.append(_add_true(totals.true, totals.balanced, layers.sum(0), columns, scores))
    totals.empirical_layers.add(empirical)
    totals.columns.append(columns.T)
    totals.true_terms.append(columns.sum(0))
    totals.empirical_terms.append(empirical.sum(0))


def _add_true(moments: Moments, balanced: Moments, norms: Tensor, weighted: Tensor, scores: OutputScores) -> Tensor:
    """Take in the terms of the true trace, (…, B), with what drawing added; the terms that errors are taken from."""
    values = weighted.sum(-2)
    if scores.balance is None:
        moments.add(values, _variance_of_draws(weighted[..., scores.draws.start : scores.draws.stop, :]))
        return values
    squares, odds = scores.balance
    found = draw_errors(norms[..., : len(squares), :] * squares, odds)
    moments.add(values, found.spread, found.balanced)
    balanced.add(found.terms, found.noise)
    return found.terms


def _variance_of_draws(draws: Tensor) -> Tensor:
    """The variance of a sum of m ≥ 2 independent draws (…, m, B), each already divided by m, from their spread: (…, B).

    Zero where nothing is drawn.
    """
    count = draws.shape[-2]
    return count * draws.var(dim=-2) if count else draws.sum(-2)


def _with_balanced(found: Estimate, balanced: Estimate | None) -> Estimate:
    """The value, with the error over examples of the balanced terms; of labels that all agreed no error is known."""
    if balanced is None:
        return found
    return Estimate(found.value, balanced.standard_error, found.estimator_error or (None if found.value else 0.0))


def _summarise(
    problem: Problem, methods: Mapping[str, str], totals: _Totals, estimator: str
) -> tuple[Predictions, Trace]:
    true_terms, empirical_terms = torch.cat(totals.true_terms), torch.cat(totals.empirical_terms)
    if not bool(true_terms.isfinite().all() and empirical_terms.isfinite().all()):
        msg = "a gradient is NaN or infinite: the traces cannot be computed"
        raise NumericalError(msg)
    empirical = Moments()
    empirical.add(empirical_terms)
    sizes = {name: parameter.numel() for name, parameter in problem.parameters.items()}
    true_layers = totals.true_layers.estimates()
    balanced_layers = totals.balanced_layers.estimates() if totals.balanced.count else [None] * len(true_layers)
    true = _with_balanced(totals.true.estimate(), totals.balanced.estimate() if totals.balanced.count else None)
    layers = tuple(
        LayerTrace(name, sizes[name], methods[name], _with_balanced(own, balanced), other)
        for name, own, balanced, other in zip(
            totals.names, true_layers, balanced_layers, totals.empirical_layers.estimates(), strict=True
        )
    )
    added = true.estimator_error or 0.0 if totals.balanced.count else 0.0
    trace = Trace(
        estimator=estimator,
        true=true,
        empirical=empirical.estimate(),
        ratio=ratio_of_means(empirical_terms, true_terms, torch.cat(totals.balanced_terms), added),
        layers=layers,
        per_example_true=as_floats(true_terms),
        per_example_empirical=as_floats(empirical_terms),
        hidden_error=None if true.estimator_error is None else totals.true.hidden_error(),
    )
    coverage_ledger.check(trace, sizes, problem.examples)
    totals.gradient.complete()
    return totals.predictions.predictions(), trace


def draw_notes(trace: Trace, target_error: float | None) -> list[str]:
    """What to say of a trace whose error is not known, or whose estimator's error is above the target.

    Args:
        trace: that of a sweep.
        target_error: what was asked for, relative to tr F; None where nothing was.

    Returns:
        A sentence for each, with the option to type; none of an exact trace.
    """
    true, found = trace.true, list[str]()
    if true.standard_error is None and len(trace.per_example_true) > 1:
        found.append("trace_true_se is left empty: what the estimator adds hides it: type --estimator exact")
    if true.estimator_error is None:
        found.append(
            "trace_true_estimator_se is left empty: all labels that were drawn agree, which says nothing of the "
            "others: type --estimator exact, or more --samples"
        )
    elif target_error is not None and true.estimator_error > target_error * true.value:
        reached = f"{true.estimator_error / true.value:.3g} reached" if true.value else "the trace is zero"
        other = "deflated" if trace.estimator.startswith("sampled") else "exact"
        found.append(f"target error {target_error:g} was asked for, {reached}: type --estimator {other}")
    return found
