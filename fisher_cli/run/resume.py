"""The rows of a run, one after the other: from the journal where it has them, joined anew or measured where not."""

import copy
from collections.abc import Callable
from dataclasses import replace

from fisher_cli.curvature.problem.process_group import ALONE, ProcessGroup
from fisher_cli.inputs.checkpoints.checkpoints import CheckpointFile
from fisher_cli.results import Measurement, Status
from fisher_cli.run.movement import RecomputedRow, rejoined, unjoined
from fisher_cli.run.previous_row import PreviousRow
from fisher_cli.settings import Settings
from fisher_cli.storage.journal import Journal, JournalRecord


class ResumedRows:
    """What is known of the rows before the next one; `measure` and `revisit` are the run's.

    `previous_row` is None where no row looks back. A row is keyed by its weights and those of the row before, since
    part of it joins the two: with the same weights after others, that part alone is found anew. The ranks of the
    `process_group` go through the rows in step; only rank 0 has a journal.
    """

    def __init__(
        self,
        settings: Settings,
        previous_row: PreviousRow | None,
        measure: Callable[[CheckpointFile], Measurement],
        revisit: Callable[[CheckpointFile, Measurement], RecomputedRow | None],
        process_group: ProcessGroup = ALONE,
    ) -> None:
        self.journal: Journal | None = None
        self.previous_row = previous_row
        self.before: CheckpointFile | None = None
        self._settings, self._measure, self._revisit, self._process_group = settings, measure, revisit, process_group
        # Of the row before: whether the trail knows its network; if not, what was measured of it, where that is known,
        # and how many checkpoints without numbers came after it.
        self._is_traced, self._between = True, 0
        self._known: Measurement | None = None

    def of(self, file: CheckpointFile) -> Measurement:
        """The next row."""
        return self._recalled(file) or self._joined_anew(file) or self.measured_anew(file)

    def stand_after(
        self, file: CheckpointFile | None, known: Measurement | None = None, *, is_traced: bool, between: int = 0
    ) -> None:
        """Let the next row be held against this checkpoint, `between` others without numbers having come since.

        If the trail does not know its network, that is evaluated when a row needs it: `known` saves measuring it.
        """
        self.before, self._is_traced, self._known, self._between = file, is_traced, known, between

    @property
    def _previous(self) -> str | None:
        return None if self.before is None else self.before.sha256

    def _recalled(self, file: CheckpointFile) -> Measurement | None:
        """The row as it was measured before, for the same weights after the same weights, under today's name."""
        key = None if file.sha256 is None else (file.sha256, self._previous)
        record = None if self.journal is None or key is None else self.journal.find(key)
        known = None if record is None else record.measurement
        told = self._process_group.broadcast(known and [known.memory_ran_out_at, known.batch_size])
        if told is None:
            return None
        if known is None:  # rank 0 has it
            known = Measurement(checkpoint=file.name, status=Status.OK, memory_ran_out_at=told[0], batch_size=told[1])
        self.stand_after(file, known, is_traced=False)
        return _as_today(known, file)

    def _joined_anew(self, file: CheckpointFile) -> Measurement | None:
        """The row of weights that were measured after others; None where that cannot be."""
        # The eigenvalues of a whole spectrum are what it costs: their vectors are not had for less.
        if (
            self.journal is None
            or file.sha256 is None
            or self._settings.spectrum is not None
            or self._process_group.size > 1
        ):
            return None
        record = self.journal.of_weights(file.sha256)
        if record is None:
            return None
        known, is_traced = record.measurement, self.previous_row is not None and self.before is not None
        found = self._after_the_one_before(file, known) if is_traced else unjoined(known)
        if found is None:
            return None
        self.journal.append(JournalRecord(file.sha256, self._previous, found))
        self.stand_after(file, found, is_traced=is_traced)
        return _as_today(found, file)

    def _after_the_one_before(self, file: CheckpointFile, known: Measurement) -> Measurement | None:
        self._trace_the_one_before()
        now = self._revisit(file, known)
        if now is None:
            return None
        previous_row = copy.copy(self.previous_row)
        assert previous_row is not None
        previous_row.advance()
        found = rejoined(known, now, previous_row)
        now.leave(previous_row)
        self.previous_row = previous_row
        return found

    def _trace_the_one_before(self) -> None:
        """Let the trail know the row before; if it was recalled, its network is evaluated now."""
        if self.previous_row is None or self.before is None or self._is_traced:
            return
        may_revisit = self._known is not None and self._settings.spectrum is None and self._process_group.size == 1
        found = self._revisit(self.before, self._known) if may_revisit and self._known is not None else None
        if found is None:
            self._measure(self.before)
        else:
            self.previous_row.advance()
            found.leave(self.previous_row)
        for _ in range(self._between):
            self.previous_row.advance()
        self._is_traced = True  # also for the row after, should this one fail

    def measured_anew(self, file: CheckpointFile) -> Measurement:
        """The row, measured and kept."""
        self._trace_the_one_before()
        found = self._measure(file)
        if found.status in {Status.OK, Status.NOT_CONVERGED} and file.sha256 is not None:
            if self.journal is not None:
                self.journal.append(JournalRecord(file.sha256, self._previous, found))
            self.stand_after(file, is_traced=True)
        return found


def _as_today(known: Measurement, file: CheckpointFile) -> Measurement:
    """What was measured, with the name and the place that the file has now."""
    return replace(known, checkpoint=file.name, step=file.step, epoch=file.epoch)
