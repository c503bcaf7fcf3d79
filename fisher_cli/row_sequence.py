"""The rows of a run, one after the other: from the journal where it has them, joined anew or measured where not."""

import copy
from collections.abc import Callable
from dataclasses import replace

from fisher_cli.inputs.checkpoints.checkpoints import CheckpointFile
from fisher_cli.records import Journal, Record
from fisher_cli.rejoining import Revisited, rejoined, unjoined
from fisher_cli.results import Measurement, Status
from fisher_cli.settings import Settings
from fisher_cli.trail import Trail


class Rows:
    """What is known of the rows before the next one; `measure` and `revisit` are the run's.

    `trail` is None where no row looks back. A row is keyed by its weights and those of the row before, since part of
    it joins the two: with the same weights after others, that part alone is found anew.
    """

    def __init__(
        self,
        settings: Settings,
        trail: Trail | None,
        measure: Callable[[CheckpointFile], Measurement],
        revisit: Callable[[CheckpointFile, Measurement], Revisited | None],
    ) -> None:
        self.journal: Journal | None = None
        self.trail = trail
        self._settings, self._measure, self._revisit = settings, measure, revisit
        self._before: CheckpointFile | None = None
        # What was measured of the row before, if it was recalled: the trail then knows nothing of its network.
        self._untraced: Measurement | None = None

    def of(self, file: CheckpointFile) -> Measurement:
        """The next row."""
        return self._recalled(file) or self._joined_anew(file) or self._measured_anew(file)

    @property
    def _previous(self) -> str | None:
        return None if self._before is None else self._before.sha256

    def _recalled(self, file: CheckpointFile) -> Measurement | None:
        """The row as it was measured before, for the same weights after the same weights, under today's name."""
        if self.journal is None or file.sha256 is None:
            return None
        record = self.journal.find((file.sha256, self._previous))
        if record is None:
            return None
        self._before, self._untraced = file, record.measurement
        return _as_today(record.measurement, file)

    def _joined_anew(self, file: CheckpointFile) -> Measurement | None:
        """The row of weights that were measured after others; None where that cannot be."""
        # The eigenvalues of a whole spectrum are what it costs: their vectors are not had for less.
        if self.journal is None or file.sha256 is None or self._settings.spectrum is not None:
            return None
        record = self.journal.of_weights(file.sha256)
        if record is None:
            return None
        known, is_traced = record.measurement, self.trail is not None and self._before is not None
        found = self._after_the_one_before(file, known) if is_traced else unjoined(known)
        if found is None:
            return None
        self.journal.append(Record(file.sha256, self._previous, found))
        self._before, self._untraced = file, None if is_traced else found
        return _as_today(found, file)

    def _after_the_one_before(self, file: CheckpointFile, known: Measurement) -> Measurement | None:
        self._trace_the_one_before()
        now = self._revisit(file, known)
        if now is None:
            return None
        trail = copy.copy(self.trail)
        assert trail is not None
        trail.advance()
        found = rejoined(known, now, trail)
        now.leave(trail)
        self.trail = trail
        return found

    def _trace_the_one_before(self) -> None:
        """Let the trail know the row before; if it was recalled, its network is evaluated now."""
        if self.trail is None or self._before is None or self._untraced is None:
            return
        found = None if self._settings.spectrum is not None else self._revisit(self._before, self._untraced)
        if found is None:
            self._measure(self._before)
        else:
            self.trail.advance()
            found.leave(self.trail)
        self._untraced = None  # also for the row after, should this one fail

    def _measured_anew(self, file: CheckpointFile) -> Measurement:
        """The row, measured and kept."""
        self._trace_the_one_before()
        found = self._measure(file)
        if found.status in {Status.OK, Status.NOT_CONVERGED} and file.sha256 is not None:
            if self.journal is not None:
                self.journal.append(Record(file.sha256, self._previous, found))
            self._before, self._untraced = file, None
        return found


def _as_today(known: Measurement, file: CheckpointFile) -> Measurement:
    """What was measured, with the name and the place that the file has now."""
    return replace(known, checkpoint=file.name, step=file.step, epoch=file.epoch)
