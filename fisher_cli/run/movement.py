"""A row that is known, held against another row before it: only what joins the two is computed, all else is kept.

That is the movement, and the overlap of the leading eigenspaces. The eigenvectors that the overlap needs are as large
as several networks and are not kept: those of the true Fisher are found again, with nothing else.
"""

from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from fisher_cli.curvature.kl.divergence import all_outputs
from fisher_cli.curvature.problem.batch_norm_statistics import recalibrate
from fisher_cli.curvature.problem.problem import Data, Problem
from fisher_cli.curvature.spectra.eigensystems import Matrix, matrices
from fisher_cli.curvature.spectra.solver_choice import Eigensolver, choose_eigensolver
from fisher_cli.curvature.spectra.spectrum import LeadingVectors, leading_vectors, overlap
from fisher_cli.curvature.traces.traces import sweep
from fisher_cli.results import Measurement, Trace
from fisher_cli.run.measurement import MeasurementContext, posed, question_of
from fisher_cli.run.previous_row import PreviousRow
from fisher_cli.settings import Settings


@dataclass(frozen=True)
class RecomputedRow:
    """A measured network again: what other rows are held against, as its own measurement found it, bit for bit.

    Attributes:
        problem: the network with the weights that were measured, and the examples.
        outputs: z of all examples, (N, C).
        trace: as it was measured.
        leading: the leading eigenvectors of the true Fisher; None where none are asked for.
    """

    problem: Problem
    outputs: Tensor
    trace: Trace
    leading: LeadingVectors | None

    def leave(self, previous_row: PreviousRow) -> None:
        """Put the row where the next one looks for the row before, as if it had been measured just now."""
        if self.leading is not None:
            previous_row.now["true"] = self.leading
        previous_row.leave(self.problem, self.outputs, self.trace)


@torch.inference_mode(mode=False)
def recompute(
    module: nn.Module, data: Data, settings: Settings, context: MeasurementContext, known: Measurement
) -> RecomputedRow:
    """The network of a measurement, evaluated once on the examples, with its leading eigenvectors where asked for.

    Args:
        module: the network with the weights that were measured.
        data: the same examples.
        settings: the same settings.
        context: where, and how many examples at once, as then.
        known: what was measured.

    Returns:
        The network as a later row needs it.
    """
    assert known.trace is not None
    problem = posed(module, data, settings, context)
    if settings.recalibrate_bn:
        recalibrate(problem)
    leading = _leading(problem, settings, known.trace) if settings.eigenvalues else None
    return RecomputedRow(problem, all_outputs(problem), known.trace, leading)


def _leading(problem: Problem, settings: Settings, trace: Trace) -> LeadingVectors | None:
    """The leading eigenvectors of the true Fisher, by the way on which they were found."""
    is_exact = trace.estimator == "exact"
    true, _ = matrices(problem, trace_true=trace.true.value if is_exact else None, seed=settings.seed)
    if is_exact and _may_leave_out(true, settings.eigenvalues):
        swept = sweep(problem, estimator="exact", seed=settings.seed, verify=False)
        true = replace(true, columns=swept.columns)
    return leading_vectors(true, question_of(settings))


def _may_leave_out(matrix: Matrix, count: int) -> bool:
    """Whether the way to the eigenvalues depends on the norms of the columns, which only a sweep gives."""
    return choose_eigensolver(matrix.engine, matrix.scores, count) in {Eigensolver.LANCZOS, Eigensolver.DUAL}


def unjoined(known: Measurement) -> Measurement:
    """The measurement as that of a first row: without movement, overlap and what is said of them."""
    own = known.notes[: len(known.notes) - len(known.movement_notes)]
    spectra = tuple(replace(each, overlap=None) for each in known.spectra)
    return replace(known, movement=None, movement_notes=(), notes=own, spectra=spectra)


def rejoined(known: Measurement, now: RecomputedRow, previous_row: PreviousRow) -> Measurement:
    """The measurement as it is after the row that is remembered.

    Args:
        known: what was measured, after whichever row.
        now: the same network, evaluated again.
        previous_row: remembers the row that comes before it now.
    """
    first = unjoined(known)
    movement, remarks = previous_row.step(now.problem, now.outputs, now.trace)
    before = previous_row.before.get("true")
    spectra = tuple(
        replace(each, overlap=overlap(now.leading, before)) if each.matrix == "true" else each for each in first.spectra
    )
    notes = first.notes + remarks
    return replace(first, movement=movement, movement_notes=remarks, notes=notes, spectra=spectra)
