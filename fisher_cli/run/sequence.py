"""The loop over rows: each from the journal where it has it, joined anew or measured where not."""

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from itertools import takewhile
from typing import Any, Generic, TypeVar

import torch

from fisher_cli._version import __version__
from fisher_cli.curvature.problem.process_group import ALONE, ProcessGroup
from fisher_cli.inputs.checkpoints.checkpoints import CheckpointFile
from fisher_cli.inputs.user_code import code_digest
from fisher_cli.results import Measurement, Status
from fisher_cli.run.analysis import Analysis
from fisher_cli.run.measurement import NoObserver, Observer
from fisher_cli.run.modules import GivenModule
from fisher_cli.run.row import FIRST, Executor, Inputs, Predecessor, Source, has_numbers
from fisher_cli.storage.journal import Journal, JournalRecord

S = TypeVar("S", bound=Source)


class Run(Generic[S]):
    """An analysis under way: its checkpoints or modules, what they have in common, and who measures them.

    Its length is the number of rows that are known beforehand; iterating it measures them, as `rows`.

    Attributes:
        inputs: what all rows have in common.
        files: the checkpoints or modules, run by run, in order of training.
        executor: who measures the rows that the journal does not have.
        analysis: the rows so far, and where they come from; its `part` is the shard that this run measures.

    Args:
        more: makes the rows that come later, and calls what it is given before each wait; None where none come.
        keep_inspections: told the journal's folder, into which it writes what was found in the files.
        process_group: ranks that go through the same rows, in step.
    """

    def __init__(
        self,
        inputs: Inputs,
        files: Sequence[S],
        executor: Executor,
        analysis: Analysis,
        *,
        more: Callable[[Callable[[], None]], Iterator[S]] | None = None,
        process_group: ProcessGroup = ALONE,
    ) -> None:
        self.inputs, self.files, self.executor, self.analysis = inputs, files, executor, analysis
        self._more, self._process_group = more, process_group
        self._journal: Journal | None = None
        # The last row with numbers of each run, and the place of the next row that another process may ask for.
        self._previous: dict[str, Predecessor] = {}
        self._next = 0

    def __len__(self) -> int:
        return len(self.share)

    def __iter__(self) -> Iterator[Measurement]:
        return self.rows()

    @property
    def share(self) -> Sequence[S]:
        """The checkpoints or modules that are rows of this run: those of its shard, or all."""
        part = self.analysis.part
        return self.files if part is None else self.files[part.share.start : part.share.stop]

    @property
    def first_place(self) -> int:
        """The place of the first row of this share in all of them, from 0; above 0 in a later shard."""
        part = self.analysis.part
        return 0 if part is None else part.share.start

    @property
    def is_following(self) -> bool:
        """Whether the run goes on with checkpoints or modules that come later."""
        return self._more is not None

    @property
    def question(self) -> dict[str, Any]:
        """What the rows answer, as JSON values: for the same question and the same weights they are the same.

        A report of one shard is not gone on with as that of another.
        """
        settings, part = self.inputs.settings, self.analysis.part
        model = settings.model
        return {
            "fisher": __version__,
            "torch": str(torch.__version__),
            "device": self.inputs.device.type,
            "threads": self.executor.threads if self.inputs.device.type == "cpu" else None,
            "batch_size": self.inputs.resources.batch_size,
            "settings": settings.without_folders(),
            "data": self.inputs.identity,
            "model_code": code_digest(model) if model is not None and ":" in model else None,
            **({} if part is None else {"shard": str(part.shard)}),
        }

    def subject(self) -> dict[str, Any]:
        """What the tables of this run are about, as far as it is known before the first row, as its record says it."""
        stable = self.analysis.stable_metadata()
        return {**stable, "checkpoints": [{"sha256": file.sha256} for file in self.share]}

    def keep_in(self, journal: Journal) -> int:
        """Take finished rows from the journal and add to it those that are measured from now on.

        Args:
            journal: opened for the `question` of this run, and open until the last row.

        Returns:
            How many of the rows are finished already, as far as the files tell.
        """
        self._journal = journal
        known = {weights for weights, _ in journal.keys}
        return sum(file.sha256 in known for file in self.share)

    def rows(
        self, observer: Observer | None = None, waiting: Callable[[], None] = lambda: None
    ) -> Iterator[Measurement]:
        """Go through the rows, each with the network of the one before in its run.

        Args:
            observer: told what is begun and finished, and how far it is; of rows known from before only the end.
            waiting: called before each wait for what comes later.

        Yields:
            One row per checkpoint or module; those that fail say why. The row is in `analysis` already.

        Raises:
            UsageError: what was asked cannot be.
            FisherError: the run cannot go on: a rank or a worker process is gone, or the journal cannot be written.
            Exception: a module fails.
        """
        start, observer = time.perf_counter(), observer or NoObserver()
        known = set() if self._journal is None else {weights for weights, _ in self._journal.keys}
        first = self.first_place
        places = [place for place, file in enumerate(self.share, first) if file.sha256 not in known]
        self.executor.begin(places, self._keep, observer)
        if self.share:
            self._previous[self.share[0].run] = self._predecessor(first, observer)
        for file in self._coming(waiting):
            row = self._recalled(file) or self._joined_anew(file)
            if row is None:
                observer.start(file.name)
                row = self.executor.measure_row(file, self._before(file))
                self._go_on_from(file, row)
            row = replace(self._identified(row), run=file.run)
            self.executor.learn(row)
            self.analysis.measurements.append(row)
            self.analysis.seconds = time.perf_counter() - start
            observer.finish(row)
            yield row

    def row(self, place: int, lost: frozenset[int] = frozenset()) -> tuple[str | None, Measurement]:
        """Row `place` of the whole run, for a process that measures rows for another one.

        A row after the one that was measured last costs nothing more; any other a measurement of the row before it.

        Args:
            place: its number in the whole run, from 0.
            lost: places of rows that ended the process that measured them, and are taken for rows without numbers.

        Returns:
            The content hash of the last row before it with numbers, None without one, and the row.
        """
        file = self.files[place]
        if place != self._next or file.run != self.files[place - 1].run:
            self._previous[file.run] = self._predecessor(place, NoObserver(), lost)
        self._next, previous = place + 1, self._before(file)
        found = self.executor.measure_row(file, previous)
        self._go_on_from(file, found)
        return previous.sha256, found

    def close(self) -> None:
        """End the processes that measure rows for this one, if there are any."""
        self.executor.close()

    def _coming(self, waiting: Callable[[], None]) -> Iterator[S]:
        yield from list(self.share)
        if self._more is not None:
            yield from self._more(waiting)

    def _before(self, file: Source) -> Predecessor:
        """The last row with numbers before the next one of the file's run."""
        return self._previous.get(file.run, FIRST)

    def _predecessor(self, place: int, observer: Observer, lost: frozenset[int] = frozenset()) -> Predecessor:
        """What row `place` is held against: the last one before it in its run with numbers, measured unless known.

        So a share's first row says the same as in the whole run, whose earlier rows others measure. Of several ranks
        the first has the journal, and all do as it says.
        """
        keys, weights = () if self._journal is None else self._journal.keys, self.files[place].sha256
        recorded = set(
            self._process_group.broadcast([before for after, before in keys if before is not None and after == weights])
        )
        run = self.files[place].run
        for between, file in enumerate(takewhile(lambda each: each.run == run, reversed(self.files[:place]))):
            if file.sha256 in recorded:
                return Predecessor(file, between=between)
            if self.executor.is_elsewhere or place - 1 - between in lost:
                continue
            observer.start(file.name)
            if has_numbers(self.executor.measure_row(file, FIRST)):
                return Predecessor(file, between=between)
        return FIRST

    def _recalled(self, file: Source) -> Measurement | None:
        """The row as it was measured before, for the same weights after the same weights, under today's name."""
        key = None if file.sha256 is None else (file.sha256, self._before(file).sha256)
        record = None if self._journal is None or key is None else self._journal.find(key)
        known = None if record is None else record.measurement
        told = self._process_group.broadcast(known and [known.memory_ran_out_at, known.batch_size])
        if told is None:
            return None
        if known is None:  # rank 0 has it
            known = Measurement(checkpoint=file.name, status=Status.OK, memory_ran_out_at=told[0], batch_size=told[1])
        self._previous[file.run] = Predecessor(_lasting(file), known)
        return _as_today(known, file)

    def _joined_anew(self, file: Source) -> Measurement | None:
        """The row of weights that were measured after others; None where that cannot be."""
        record = None if self._journal is None or file.sha256 is None else self._journal.of_weights(file.sha256)
        found = None if record is None else self.executor.rejoin(file, record.measurement, self._before(file))
        if found is None:
            return None
        self._keep(file, self._before(file).sha256, found)
        self._previous[file.run] = Predecessor(file, found)
        return _as_today(found, file)

    def _go_on_from(self, file: Source, row: Measurement) -> None:
        """Let the next row be held against this one, if it has numbers, and keep it."""
        if not has_numbers(row) or (file.sha256 is None and isinstance(file, CheckpointFile)):
            return
        if not self.executor.is_elsewhere:
            self._keep(file, self._before(file).sha256, row)
        self._previous[file.run] = Predecessor(file)

    def _keep(self, file: Source, previous: str | None, row: Measurement) -> None:
        """Add a row with numbers to the journal, whichever rows before it are not there."""
        if self._journal is not None and file.sha256 is not None and has_numbers(row):
            self._journal.append(JournalRecord(file.sha256, previous, row))

    def _identified(self, row: Measurement) -> Measurement:
        """With what is known of each example besides the network's view of it."""
        examples, found = self.inputs.examples, row.per_example
        if found is None or examples is None:
            return row
        noisy = None if examples.noisy is None else tuple(examples.noisy.tolist())
        names = examples.class_names
        identified = replace(found, indices=tuple(examples.indices.tolist()), noisy=noisy, class_names=names)
        return replace(row, per_example=identified)


def _as_today(known: Measurement, file: Source) -> Measurement:
    """What was measured, with the name and the place that the file has now."""
    return replace(known, checkpoint=file.name, step=file.step, epoch=file.epoch)


def _lasting(file: Source) -> Source:
    """The same, whose network can still be had when the next one has come."""
    return file.lasting() if isinstance(file, GivenModule) else file
