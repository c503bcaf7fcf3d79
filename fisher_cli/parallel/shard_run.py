"""A run of which others measure the earlier rows: its share of the checkpoints, and what its first row needs."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from fisher_cli.curvature.problem.process_group import ALONE, ProcessGroup
from fisher_cli.inputs.checkpoints.checkpoints import CheckpointFile
from fisher_cli.results import Measurement, Status
from fisher_cli.run.measurement import Observer
from fisher_cli.run.sequence import Run
from fisher_cli.settings import Resources, Settings, ShardPart


class SharedRun(Run):
    """The rows of one shard of a run, each as the whole run would give it.

    `files` are the checkpoints of the whole run where another process has found them already; those at the places
    `lost` ended the process that measured them, and are taken for checkpoints without numbers.
    """

    def __init__(
        self,
        paths: Sequence[Path],
        settings: Settings,
        resources: Resources,
        observer: Observer | None = None,
        before: Path | None = None,
        files: Sequence[CheckpointFile] | None = None,
        process_group: ProcessGroup = ALONE,
    ) -> None:
        self._given, self._next, self.lost = files, -1, frozenset[int]()
        super().__init__(paths, settings, resources, observer, before, process_group=process_group)
        if resources.shard is not None:
            self.analysis.part = ShardPart.of(resources.shard, ((file.name, file.sha256) for file in self.files))

    def _found(self, paths: Sequence[Path]) -> list[CheckpointFile]:
        return super()._found(paths) if self._given is None else list(self._given)

    @property
    def share(self) -> Sequence[CheckpointFile]:
        """The checkpoints that are rows of this run: those of its shard, or all."""
        part = self.analysis.part
        return self.files if part is None else self.files[part.share.start : part.share.stop]

    @property
    def question(self) -> dict[str, Any]:
        """What the rows answer; a report of one shard is not gone on with as that of another."""
        part = self.analysis.part
        return super().question | ({} if part is None else {"shard": str(part.shard)})

    def __iter__(self) -> Iterator[Measurement]:
        if self.share:
            self.approach(self.analysis.first_order)
        yield from super().__iter__()

    def row(self, index: int) -> tuple[str | None, Measurement]:
        """Row `index` of the whole run, and the content hash of the last one before it with numbers, if any.

        A row after the one that was measured last costs nothing more; any other a measurement of the row before it.
        """
        if index != self._next:
            self.approach(index)
        self._next, before = index + 1, self._rows.before
        return None if before is None else before.sha256, self._rows.measured_anew(self.files[index])

    def approach(self, index: int) -> None:
        """Know what row `index` is held against: the last one before it with numbers, measured unless that is known.

        So a share's first row says the same as in the whole run, whose earlier rows others measure. Of several ranks
        the first has the journal, and all do as it says.
        """
        recorded = self._recorded_predecessors(self.files[index])
        self._rows.stand_after(None, is_traced=True)
        for between, file in enumerate(reversed(self.files[:index])):
            if file.sha256 in recorded:
                self._rows.stand_after(file, is_traced=False, between=between)
                return
            if index - 1 - between in self.lost:
                continue
            self.observer.start(file.name)
            if self.measure(file).status in {Status.OK, Status.NOT_CONVERGED}:
                self._rows.stand_after(file, is_traced=True)
                if self._rows.previous_row is not None:
                    for _ in range(between):
                        self._rows.previous_row.advance()
                return

    def _recorded_predecessors(self, file: CheckpointFile) -> set[str | None]:
        """The weights after which the journal has a row of this checkpoint."""
        keys = () if self._rows.journal is None else self._rows.journal.keys
        found: list[str] = self._process_group.broadcast(
            [before for weights, before in keys if before is not None and weights == file.sha256]
        )
        return set(found)
