"""One network on one dataset: everything the settings ask for, as one Measurement."""

import logging
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Final, Protocol

import torch
from torch import nn

from fisher_cli.curvature.comparison.true_and_empirical import ComparisonRequest, compare
from fisher_cli.curvature.identities.suite import verify
from fisher_cli.curvature.problem.batch_independence import differing_examples, refuse_coupling
from fisher_cli.curvature.problem.batch_norm_statistics import (
    recalibrate,
    recalibration,
    remark,
    statistics_discrepancies,
)
from fisher_cli.curvature.problem.problem import Data, Problem, pose
from fisher_cli.curvature.problem.process_group import ALONE, ProcessGroup
from fisher_cli.curvature.spectra.eigensystems import Matrix, SpectrumRequest, matrices
from fisher_cli.curvature.spectra.spectrum import spectrum
from fisher_cli.curvature.torch_backend.backend_flags import steady_arithmetic, tf32_products, without_determinism
from fisher_cli.curvature.torch_backend.gradient_hooks import with_gradient_hooks, without_gradient_hooks
from fisher_cli.curvature.torch_backend.out_of_memory import is_out_of_memory, release_memory
from fisher_cli.curvature.traces import traces
from fisher_cli.curvature.traces.diagonal import task2vec
from fisher_cli.curvature.traces.gradient_statistics import gradient
from fisher_cli.curvature.traces.reduced_precision import round_network
from fisher_cli.curvature.traces.traces import TraceResult, sweep
from fisher_cli.errors import DataError, OutOfMemoryError
from fisher_cli.results import Check, Eigenvalues, Ledger, Measurement, Rounding, Spectrum, Status
from fisher_cli.run.option_checks import refuse_recomputed, refuse_rounded, refuse_tf32_on
from fisher_cli.run.parameters import recomputing, select_parameters, without_head
from fisher_cli.run.previous_row import PreviousRow
from fisher_cli.settings import Activations, ComparisonSettings, MatrixName, Precision, Settings, SpectrumMethod


class StageTimer:
    """Seconds by stage; a stage inside another is taken out of it, so that all add up to the whole.

    Attributes:
        seconds: by the stage's name, in the order in which stages first ended.
    """

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._inside = 0.0

    @contextmanager
    def __call__(self, stage: str) -> Iterator[None]:
        """Count what is inside to the stage."""
        start, before, self._inside = time.perf_counter(), self._inside, 0.0
        try:
            yield
        finally:
            spent = time.perf_counter() - start
            self.seconds[stage] = self.seconds.get(stage, 0.0) + spent - self._inside
            self._inside = before + spent


def _verified(problem: Problem, settings: Settings, context: "MeasurementContext", timed: StageTimer) -> Measurement:
    """All identities that apply, each with both sides and its verdict; `checkpoint` is left empty."""
    chosen = settings.include != ("*",) or settings.exclude or settings.weights_only or settings.without_head
    notes = list[str]()
    if settings.recalibrate_bn:
        with timed("normalization"):
            notes.append(recalibration(recalibrate(problem), problem.examples))
    with timed("identities"):
        found = verify(problem, everything=not chosen, seed=settings.seed, advance=context.observer.stage)
    return Measurement(
        checkpoint="",
        status=Status.OK,
        parameters=problem.size,
        examples=problem.examples,
        classes=problem.outputs,
        batch_size=problem.batch_size,
        notes=tuple(notes),
        verification=found,
    )


# A natural gradient's residual above this has not converged; two digits of a cosine are still right.
LARGEST_RESIDUAL = 1e-2


def with_comparison(
    measurement: Measurement,
    swept: TraceResult,
    settings: Settings,
    advance: Callable[[str, float], None],
    timed: Callable[[str], AbstractContextManager[None]],
) -> Measurement:
    """The measurement with F̂ against F, and the leading eigenvalues of both, from the sweep's examples and traces.

    Args:
        measurement: of the same sweep; its status is set anew.
        swept: the sweep, with its engine and outputs.
        settings: what is asked; without a comparison its defaults are taken.
        advance: told a stage and how far it is, from 0 to 1.
        timed: makes the context in which the stage `comparison` is timed.
    """
    asked = settings.comparison or ComparisonSettings()
    comparison_request = ComparisonRequest(
        max(1, settings.eigenvalues), asked.damping, asked.draws, settings.eigenvalue_tolerance, settings.seed
    )
    with timed("comparison"):
        comparison, (true, empirical) = compare(swept, comparison_request, advance=advance)
    problems = [
        f"eigenvalues of the {name} Fisher did not reach the tolerance in {found.products} products"
        for name, found in (("true", true), ("empirical", empirical))
        if not found.converged
    ]
    if comparison.residual > LARGEST_RESIDUAL:
        text = f"natural gradients have a relative residual of {comparison.residual:.2g}: give a larger --damping"
        problems.append(text)
    notes = [*measurement.notes, *_remarks(comparison.method, comparison.draws, asked.draws, true, empirical)]
    return replace(
        measurement,
        comparison=comparison,
        eigenvalues_true=true,
        eigenvalues_empirical=empirical,
        status=Status.NOT_CONVERGED if problems else Status.OK,
        error="; ".join(problems),
        notes=tuple(notes),
    )


def _remarks(method: str, drawn: int, asked: int, true: Eigenvalues, empirical: Eigenvalues) -> list[str]:
    remarks = [each.note for each in (true, empirical) if each.note]
    if method == "products" and asked > drawn:
        remarks.append(
            "too many score gradients to hold: norms from random probes, and no labels were drawn for the nulls of "
            "natural gradients and eigenspaces; --limit N with fewer examples makes all exact"
        )
    return list(dict.fromkeys(remarks))


_LOG = logging.getLogger(__name__)

# Before the batch size is known the network is tried on so many examples.
POSED_EXAMPLES = 2


class Observer(Protocol):
    """Who wants to know how far a run is.

    Names are those of rows, and measurements are the finished rows as `Run.rows` yields them.
    """

    def start(self, name: str) -> None:
        """The measurement of a checkpoint of this name is begun; one known from before is only finished."""

    def stage(self, text: str, fraction: float) -> None:
        """Work inside a checkpoint has come this far.

        Args:
            text: what is done, in a few words.
            fraction: of all the checkpoint's work, from 0 to 1.
        """

    def finish(self, measurement: Measurement) -> None:
        """A checkpoint is done.

        Args:
            measurement: its row, which may say why it has no numbers.
        """


class NoObserver:
    """An observer that does nothing."""

    def start(self, name: str) -> None:
        """Do nothing."""

    def stage(self, text: str, fraction: float) -> None:
        """Do nothing."""

    def finish(self, measurement: Measurement) -> None:
        """Do nothing."""


def _check_classes(problem: Problem, classes: int | None) -> None:
    """Hold the network's outputs against the number of classes that the dataset declares.

    Raises:
        DataError: they differ.
    """
    if classes is not None and problem.outputs != classes and (problem.outputs, classes) != (1, 2):
        msg = (
            f"the network has {problem.outputs} outputs and the data {classes} classes: "
            f"check --data, or give the network's own labels with --labels"
        )
        raise DataError(msg)


@dataclass(frozen=True, kw_only=True)
class MeasurementContext:
    """What a measurement takes besides the network, the examples and the settings: where and how.

    Attributes:
        batch_size: examples at once; None for the automatic rule.
        activations: whether those of a batch are kept or computed anew.
        device: where to compute; None for where the network is.
        classes: how many the dataset declares; None where it declares none.
        checks: whether numbers are computed a second way on some examples.
        ledger: that of the same network with other weights, which saves counting its work again.
        previous_row: what the row before is remembered by; it is given this row's. None where no row looks back.
        observer: told how far the work is.
        process_group: the processes that share the examples.
    """

    batch_size: int | None = None
    activations: Activations = Activations.KEEP
    device: torch.device | None = None
    classes: int | None = None
    checks: bool = True
    ledger: Ledger | None = None
    previous_row: PreviousRow | None = None
    observer: Observer = field(default_factory=NoObserver)
    process_group: ProcessGroup = ALONE


ALL_ALONE: Final = MeasurementContext()


def measure(module: nn.Module, data: Data, settings: Settings, context: MeasurementContext = ALL_ALONE) -> Measurement:
    """Everything `settings` asks for about one network: predictions, traces, gradient, eigenvalues.

    Where memory runs out, all is begun anew with half as many examples at once: the result is that of the smaller batch
    throughout.

    Args:
        module: the network; it is moved to the device and precision that are asked for and put into evaluation mode.
            With `recalibrate_bn` its batch norms are changed as well.
        data: the examples.
        settings: what is asked.
        context: where and how.

    Returns:
        The row; `checkpoint` is left empty and `status` says whether every eigenvalue converged.

    Raises:
        UsageError: what was asked cannot be.
        OutOfMemoryError: memory runs out with a single example at once.
        FisherError: the network or the data cannot be measured, or a check of the numbers fails.
        Exception: what the network itself raises.
    """
    device = context.device or next(module.parameters()).device
    refuse_rounded(settings)
    refuse_tf32_on(device.type, settings)
    refuse_recomputed(settings, context.activations)
    clock, rounded, ran_out_at = StageTimer(), list[tuple[Check | None, Rounding]](), None
    group, size = context.process_group, context.batch_size
    while True:
        problem = None
        try:
            with clock("pose"), group.in_step():
                problem = _posed_anew(module, data, settings, replace(context, batch_size=size), rounded, ran_out_at)
            with group.in_step(), steady_arithmetic(), without_gradient_hooks(module):
                if settings.verify:
                    found = _verified(problem, settings, context, clock)
                else:
                    found = _measured(problem, settings, context, clock, rounded)
            break
        except Exception as error:
            if context.previous_row is not None:
                context.previous_row.withdraw()
            if not is_out_of_memory(error):
                raise
            at_once = (size or POSED_EXAMPLES) if problem is None else min(problem.batch_size, problem.examples)
            _LOG.debug("memory ran out at %d examples at once", at_once, exc_info=True)
        del problem
        ran_out_at, size = ran_out_at or at_once, at_once // 2
        if not size:
            raise OutOfMemoryError(_remedy(device))
        release_memory()  # only now: the attempt's frames, which an error keeps, are gone
        context.observer.stage(f"memory ran out: again with {size} at once", 0.0)
    notes = found.notes
    if hooked := with_gradient_hooks(module):
        notes += (f"hooks that change gradients were left out, as they change no outputs: {', '.join(hooked)}",)
    if ran_out_at:
        taken = "1 was" if found.batch_size == 1 else f"{found.batch_size} were"
        notes += (f"memory ran out at {ran_out_at} examples at once: {taken} taken",)
    notes += found.movement_notes + tuple(
        f"{operation} has no deterministic kernel on a GPU: last digits may differ between runs"
        for operation in without_determinism()
    )
    return replace(found, timings=tuple(clock.seconds.items()), notes=notes, memory_ran_out_at=ran_out_at)


def _remedy(device: torch.device) -> str:
    """What to say when not even one example fits."""
    last = "try --device cpu" if device.type == "cuda" else "take a machine with more memory"
    return (
        f"memory ran out on {device} even with 1 example at once: analyse fewer parameters with --exclude, leave "
        f"eigenvalues out with --eigenvalues 0, or {last}"
    )


def posed(
    module: nn.Module,
    data: Data,
    settings: Settings,
    context: MeasurementContext = ALL_ALONE,
    *,
    is_rounded: bool = False,
) -> Problem:
    """The problem that the settings pose of a network on examples.

    Args:
        module: the network; it is moved to the device and precision that are asked for and put into evaluation mode.
        data: the examples.
        settings: what is asked: likelihood, parameters, precision.
        context: where, and how many examples at once.
        is_rounded: whether the network is to be in bfloat16 where that is asked for. Until then it is in float32: first
            both are compared.

    Raises:
        UsageError: no parameter is left.
        DataError: the network's outputs and the classes of the data differ in number.
        FisherError: the network cannot be evaluated on the examples, each by itself, as `pose` says.
    """
    is_yet_to_be = settings.precision.is_rounded and not is_rounded
    problem = pose(
        module,
        data,
        likelihood=settings.likelihood.value,
        parameters=select_parameters(module, settings),
        batch_size=context.batch_size,
        device=context.device,
        dtype=torch.float32 if is_yet_to_be else getattr(torch, settings.precision.storage),
        process_group=context.process_group,
        may_draw=settings.verify,
    )
    _check_classes(problem, context.classes)
    return without_head(problem) if settings.without_head else problem


def _posed_anew(
    module: nn.Module,
    data: Data,
    settings: Settings,
    context: MeasurementContext,
    rounded: Sequence[object],
    ran_out_at: int | None,
) -> Problem:
    """The problem of one attempt: after memory ran out graphs are not kept, and what is rounded stays so."""
    problem = posed(module, data, settings, context, is_rounded=bool(rounded))
    problem = replace(problem, keep_graphs=ran_out_at is None)
    return recomputing(problem) if context.activations is Activations.RECOMPUTE else problem


def _measured(
    problem: Problem,
    settings: Settings,
    context: MeasurementContext,
    clock: StageTimer,
    rounded: list[tuple[Check | None, Rounding]],
) -> Measurement:
    previous_row, observer = context.previous_row, context.observer
    notes = list[str]()
    if settings.recalibrate_bn:
        with clock("normalization"):
            notes.append(recalibration(recalibrate(problem), problem.examples))
    tf32 = settings.precision is Precision.TF32
    if settings.precision.is_rounded and not rounded:
        rounded.append(round_network(problem, settings.seed, tf32=tf32, verify=context.checks, timed=clock))
    check, rounding = rounded[0] if rounded else (None, None)
    swept = _swept(problem, settings, context, clock, is_checked=bool(rounded))
    notes += traces.draw_notes(swept.trace, settings.target_error)
    with clock("gradient"):
        squares = torch.tensor(swept.trace.per_example_empirical, dtype=torch.float64, device=problem.device)
        signal = gradient(swept.engine, swept.gradient, squares)
    if settings.spectrum is None and settings.comparison is None:
        # Nothing else asks for ḡ, which takes twice what the network does.
        swept.gradient.forget()
    if not signal.signal_to_noise and settings.asks_for_rows:
        notes.append("gradient_snr is not above zero: left empty")
    notes += _second_evaluation(problem, settings, swept, clock, checks=context.checks and not rounded)
    movement, remarks = None, tuple[str, ...]()
    if previous_row is not None and settings.spectrum is None:
        with clock("movement"):
            movement, remarks = previous_row.step(problem, swept.outputs, swept.trace)
    measurement = Measurement(
        checkpoint="",
        status=Status.OK,
        parameters=problem.size,
        examples=problem.examples,
        classes=problem.outputs,
        predictions=swept.predictions,
        trace=swept.trace,
        gradient=signal,
        batch_size=problem.batch_size,
        notes=tuple(notes),
        ledger=swept.ledger,
        check=swept.check or check,
        rounding=rounding,
        movement=movement,
        movement_notes=remarks,
        likelihood=problem.likelihood.name,
        per_example=swept.per_example,
    )
    if settings.task2vec:
        with clock("task2vec"):
            measurement = replace(measurement, task2vec=task2vec(swept.engine))
    if settings.comparison is not None:
        return with_comparison(measurement, swept, settings, partial(_compare_stage, observer), clock)
    if settings.eigenvalues:
        measurement = _with_eigenvalues(measurement, swept, settings, context, clock)
    if previous_row is not None and settings.spectrum is None:
        previous_row.leave(problem, swept.outputs, swept.trace)
    return measurement


def _swept(
    problem: Problem, settings: Settings, context: MeasurementContext, clock: StageTimer, *, is_checked: bool
) -> TraceResult:
    # The share of the whole that the progress bar gives to this stage; products dominate where eigenvalues are asked.
    share = 0.4 if settings.eigenvalues else 0.95
    with clock("traces"), tf32_products(wanted=settings.precision is Precision.TF32):
        return sweep(
            problem,
            estimator=settings.estimator.value,
            samples=settings.samples,
            target_error=settings.target_error,
            seed=settings.seed,
            verify=context.checks,
            is_checked=is_checked,
            known=context.ledger,
            advance=lambda done: context.observer.stage("traces", share * done),
            timed=clock,
        )


def _second_evaluation(
    problem: Problem, settings: Settings, swept: TraceResult, clock: StageTimer, *, checks: bool
) -> list[str]:
    """Evaluate every example among others than in the sweep, and look at batch norms' statistics on the way."""
    differing = list[tuple[float, int]]()

    def evaluate() -> None:
        with clock("check"):
            differing.extend(differing_examples(problem, swept.outputs))

    remarks = list[str]()
    # What a single example is given as company is no example, and not for the statistics.
    shared = evaluate if checks and problem.examples > 1 else None
    if not settings.recalibrate_bn:
        with clock("normalization"):
            remarks += filter(None, [remark(statistics_discrepancies(problem, shared), problem.examples)])
    if checks:
        if settings.recalibrate_bn or shared is None:
            evaluate()
        with clock("check"):
            refuse_coupling(problem, differing)
    return remarks


def _compare_stage(observer: Observer, text: str, fraction: float) -> None:
    """What follows the traces, as a part of the whole."""
    observer.stage(text, 0.4 + 0.6 * fraction)


def _lanczos_stage(observer: Observer, name: str, begin: float, text: str, fraction: float) -> None:
    """How far the eigenvalues of one matrix are, as a part of the whole."""
    observer.stage(f"{name} Fisher: {text}", begin + 0.25 * fraction)


def question_of(settings: Settings) -> SpectrumRequest:
    """What is asked of the eigenvalues of either Fisher: how many, how exactly, and whether the whole spectrum."""
    asked = settings.spectrum
    question = SpectrumRequest(settings.eigenvalues, settings.eigenvalue_tolerance, settings.seed)
    if asked is None:
        return question
    whole = None if asked.method is SpectrumMethod.AUTO else asked.method is SpectrumMethod.WHOLE
    return replace(question, full=True, whole=whole, damping=asked.damping, probes=asked.probes, steps=asked.steps)


def _matrices(swept: TraceResult, settings: Settings) -> Iterator[tuple[Matrix, float]]:
    """The matrices whose eigenvalues are asked for, sharing engine and Jacobian, each with its trace.

    Yields:
        The true and the empirical Fisher, or one of them.
    """
    trace, seed = swept.trace, settings.seed
    known = trace.true.value if trace.estimator == "exact" else None
    true, empirical = matrices(
        swept.engine.problem,
        engine=swept.engine,
        trace_true=known,
        trace_empirical=trace.empirical.value,
        columns=swept.columns,
        seed=seed,
    )
    asked = settings.spectrum.matrix if settings.spectrum else MatrixName.BOTH
    if asked is not MatrixName.EMPIRICAL:
        yield true, trace.true.value
    if asked is not MatrixName.TRUE:
        yield empirical, trace.empirical.value


def _with_eigenvalues(
    measurement: Measurement,
    swept: TraceResult,
    settings: Settings,
    context: MeasurementContext,
    clock: StageTimer,
) -> Measurement:
    previous_row, question, spectra = context.previous_row, question_of(settings), list[Spectrum]()
    gradient = swept.mean_gradient if question.full else None
    for matrix, trace in _matrices(swept, settings):
        name = "empirical" if matrix.empirical else "true"
        begin = 0.75 if matrix.empirical else 0.45
        context.observer.stage(f"eigenvalues of the {name} Fisher", begin)
        matrix.advance = partial(_lanczos_stage, context.observer, name, begin)
        before = None if previous_row is None else previous_row.before.get(name)
        with clock(f"eigenvalues_{name}"):
            found, leading = spectrum(matrix, question, trace, gradient=gradient, before=before)
        spectra.append(found)
        if previous_row is not None and leading is not None and (question.full or not matrix.empirical):
            previous_row.now[name] = leading
    problems = [
        f"eigenvalues of the {found.matrix} Fisher did not reach the tolerance in {found.leading.products} products"
        for found in spectra
        if not found.leading.converged
    ]
    remarks = {note for found in spectra for note in (found.leading.note, *found.notes) if note}
    leading_of = {found.matrix: found.leading for found in spectra}
    return replace(
        measurement,
        eigenvalues_true=leading_of.get("true"),
        eigenvalues_empirical=leading_of.get("empirical"),
        spectra=tuple(spectra),
        status=Status.NOT_CONVERGED if problems else Status.OK,
        error="; ".join(problems),
        notes=measurement.notes + tuple(sorted(remarks)),
    )
