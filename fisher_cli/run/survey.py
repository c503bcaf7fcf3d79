"""What checkpoint files are, one row a file; given data, the first good one is measured on a few examples."""

from collections.abc import Iterator, Sequence
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Any

from fisher_cli._version import __version__
from fisher_cli.inputs.checkpoints.checkpoints import CheckpointFile, find_checkpoints
from fisher_cli.inputs.formats.reading import ReadOptions
from fisher_cli.inputs.networks.architectures import Architecture
from fisher_cli.inputs.networks.networks import Networks
from fisher_cli.inputs.networks.networks import inspect as inspect_file
from fisher_cli.results import Inspection, Measurement
from fisher_cli.settings import Resources, Settings
from fisher_cli.storage.metadata import ledger_record
from fisher_cli.storage.report_files import ReportFiles, RunRecord
from fisher_cli.tables.registry import COVERAGE, FILES, TABLES, TENSORS

if TYPE_CHECKING:
    from pathlib import Path

    import pandas as pd

    from fisher_cli.run.preparation import FileRun


class Survey:
    """Goes through the files once; with data, the first good one is measured.

    Attributes:
        settings: what is asked.
        files: the checkpoints.
        rows: those that there are so far.
        covered: the measurement of the first good file; None without data.

    Args:
        paths: files and folders.
        settings: what is asked.
        resources: with what.
        run: over the same paths, with the data; None without data.
        network: that of the checkpoints, where a caller made it.
        with_tensors: whether each tensor of the files is summed up as well.
    """

    def __init__(
        self,
        paths: "Sequence[Path]",
        settings: Settings,
        resources: Resources,
        run: "FileRun | None" = None,
        network: Architecture | None = None,
        *,
        with_tensors: bool = False,
    ) -> None:
        self._with_tensors = with_tensors
        self.settings = settings
        self._reading = ReadOptions.of(settings, resources)
        self.rows: list[Inspection] = []
        self.covered: Measurement | None = None
        self._run = run
        if run is not None:
            self.files: Sequence[CheckpointFile] = run.files
            self._networks = run.inputs.networks
        else:
            self.files = find_checkpoints(paths, self._reading)
            self._networks = Networks(settings.model, dict(settings.model_arguments), network)

    @property
    def data_title(self) -> str:
        """The dataset and its split, "" without data."""
        return "" if self._run is None else self._run.analysis.data_title

    @property
    def good(self) -> int:
        """Number of files that can be analysed."""
        return sum(not row.error for row in self.rows)

    def __iter__(self) -> Iterator[Inspection]:
        for file in self.files:
            row = inspect_file(file, self._networks, self._reading, with_tensors=self._with_tensors)
            if self._run is not None and self.covered is None and not row.error:
                row = self._cover(row, file)
            self.rows.append(row)
            yield row

    def _cover(self, row: Inspection, file: CheckpointFile) -> Inspection:
        """Measure the file; a row whose file fits its network and not the data says so."""
        from fisher_cli.run.row import FIRST  # here: without data the files alone are enough, and quicker

        assert self._run is not None
        measured = self._run.executor.measure_row(file, FIRST)
        if measured.error:
            return replace(row, status=measured.status, error=measured.error)
        self.covered = measured
        return row

    def tables(self) -> "dict[str, pd.DataFrame]":
        """Return the files' table, with data the ledger's, and where asked for that of tensors, by their names."""
        from fisher_cli.tables.build import frame

        found = {FILES.name: frame(FILES, self.rows)}
        if self.covered is not None:
            found[COVERAGE.name] = frame(COVERAGE, [self.covered])
        if self._with_tensors:
            found[TENSORS.name] = frame(TENSORS, self.rows)
        return found

    def write(self, files: ReportFiles, record: RunRecord) -> "list[Path]":
        """Write the tables and the record.

        Args:
            files: where they go.
            record: what was asked and found.

        Returns:
            The tables of an earlier report that were left alone.
        """
        tables = self.tables()
        main = tables.pop(FILES.name)
        return files.write(main, None, record, {files.path(TABLES[name]): rows for name, rows in tables.items()})

    def stable_metadata(self) -> dict[str, Any]:
        """What was asked and found, as JSON values: the same for every repetition."""
        covered = self.covered
        return {
            "fisher_version": __version__,
            "settings": self.settings.without_folders(),
            "data": self.data_title or None,
            "ledgers": [] if covered is None or covered.ledger is None else [ledger_record(covered.ledger)],
            "check": None if covered is None or covered.check is None else asdict(covered.check),
        }

    def timings(self) -> dict[str, float]:
        """What the measurement cost, in seconds; {} without data."""
        return dict(self.covered.timings) if self.covered else {}
