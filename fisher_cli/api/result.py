"""What a function of `fisher_cli` returns: numbers as data frames, and how to show, draw, page and save them."""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Self

from fisher_cli.api.keywords import speaks_of_keywords
from fisher_cli.errors import UsageError
from fisher_cli.reports.notebook_view import fragment, headline, headline_of_files, where
from fisher_cli.reports.reported_run import ReportedRun
from fisher_cli.run.analysis import Analysis
from fisher_cli.run.survey import Survey
from fisher_cli.settings import Settings
from fisher_cli.storage.formats import Format, format_of
from fisher_cli.storage.report_files import ReportFiles, RunRecord
from fisher_cli.storage.single_file import check_single, write_single
from fisher_cli.tables.registry import COVERAGE, FILES, TABLES, TENSORS, Table, tables_of
from fisher_cli.text import one_line

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

# By the name of the main table: what a result of it is called, and the function that makes it.
_TITLES: Final = {
    "main": ("Fisher information", "analyze"),
    "comparison": ("True against empirical Fisher", "compare"),
    "spectrum": ("Fisher spectrum", "spectrum"),
    "examples": ("Fisher information by example", "examples"),
    "identities": ("Fisher identities", "verify"),
}
_WIDTH: Final = 5.0  # inches


def main_table(settings: Settings) -> Table:
    """The main table of the command that asks for these settings."""
    asked = {
        "identities": settings.verify,
        "spectrum": settings.spectrum is not None,
        "comparison": settings.comparison is not None,
        "examples": not settings.movement,
    }
    return TABLES[next((name for name, is_asked in asked.items() if is_asked), "main")]


def tables_asked(settings: Settings) -> tuple[Table, ...]:
    """The tables that the command for these settings writes, the main one first."""
    name = main_table(settings).name
    return tables_of(name, task2vec=settings.task2vec, long=False, comparison_long=False)


def report_files(output: Path, settings: Settings, inputs: tuple[Path, ...], *, force: bool) -> ReportFiles:
    """The files that the command writes with `-o`, which can be written.

    Args:
        output: the file of the main table.
        settings: what was asked.
        inputs: the checkpoints, which are never replaced.
        force: whether other files may be.

    Raises:
        UsageError: the name says no format, or what writes workbooks is not installed.
        OutputError: a file cannot be written, or one that is there is not as fisher wrote it.
    """
    files = ReportFiles(output, format_of(output, None), force, inputs=inputs).holding(*tables_asked(settings))
    if files.format is Format.XLSX:
        import fisher_cli.storage.xlsx  # noqa: F401 - says now, not after hours, what must be installed
    files.check_writable()
    return files


@dataclass(repr=False)
class Result(Analysis):
    """A finished run: tables as data frames, a headline, figures, a page and files.

    Attributes:
        inputs: the files of its checkpoints.
        files: those that hold its tables and its record, the main table first; empty until it is saved.
    """

    inputs: tuple[Path, ...] = ()
    files: tuple[Path, ...] = ()

    @classmethod
    def of(cls, analysis: Analysis, inputs: tuple[Path, ...] = ()) -> Self:
        """The result of an analysis as far as it has come.

        Args:
            analysis: of a run.
            inputs: the files of its checkpoints.
        """
        whole = analysis.whole()
        return cls(**{each.name: getattr(whole, each.name) for each in fields(Analysis) if each.init}, inputs=inputs)

    @property
    def headline(self) -> str:
        """What the run says, in a sentence or two."""
        return headline(main_table(self.settings).name, self.measurements)

    @property
    def title(self) -> str:
        """What this is, of how many checkpoints and which data."""
        count, examples = len(self.measurements), self.data.get("examples")
        of = f"{count} checkpoint{'s' if count != 1 else ''}"
        on = f"{examples} examples" if self.settings.data == "tensors" else f"{self.data_title} ({examples} examples)"
        return one_line(f"{self._words[0]} of {of} on {on}")

    @property
    def _words(self) -> tuple[str, str]:
        return _TITLES[main_table(self.settings).name]

    @property
    def asked(self) -> "pd.DataFrame":
        """The main table of what was asked: that of `compare`, `spectrum`, `examples` or `verify`, else `table`."""
        return self.frame(main_table(self.settings).name)

    def __repr__(self) -> str:
        below = [where(self.files)] if self.files else []
        return "\n".join([self.title, self.headline, *below])

    def _repr_html_(self) -> str:
        name = main_table(self.settings).name
        return fragment(self.title, self.headline, name, self.frame(name), self.files)

    def run_metadata(self) -> dict[str, Any]:
        """How it went this time, as JSON values; no command made it."""
        return {**super().run_metadata(), "command": []}

    @cached_property
    def _reported(self) -> ReportedRun:
        """The run as pages and figures take it."""
        frames = {each: self.frame(each.name) for each in TABLES.values() if each.is_of_run and each.name != "main"}
        asked = {*tables_asked(self.settings), TABLES["layers"]}
        sides = {table.word: rows for table, rows in frames.items() if table in asked and len(rows)}
        name = self.files[0].stem if self.files else self.data_title
        record: Mapping[str, Any] = {**self.stable_metadata(), "run": self.run_metadata()}
        return ReportedRun(one_line(name), self.frame("main"), sides, {"": record}, tuple(self.measurements))

    @speaks_of_keywords()
    def plot(
        self,
        what: str = "traces",
        path: str | Path | None = None,
        *,
        log: bool | None = None,
        width: float = _WIDTH,
        force: bool = False,
    ) -> "Figure":
        """Draw one chart of the run, as `fisher plot` does, and write it where a path is given.

        Args:
            what: traces, ratio, loss, eigenvalues, spectrum, layers, tensors, movement or snr.
            path: of the file (.svg, .pdf or .png); None to write none.
            log: whether the axis of values is logarithmic, for traces, loss and snr; None to let the values decide.
            width: of the figure, in inches.
            force: whether a file that fisher did not write may be replaced.

        Returns:
            The figure of matplotlib. A notebook shows it.

        Raises:
            UsageError: there is no such chart, the run lacks its numbers, the suffix is none of these, or matplotlib
                is not installed.
            OutputError: the file cannot be written, or one that is there is not as fisher wrote it.
        """
        from fisher_cli.reports.charts import NAMES, SCALED, draw
        from fisher_cli.reports.drawing import picture

        if what not in NAMES:
            msg = f"what={what!r}: there are {', '.join(NAMES)}"
            raise UsageError(msg)
        if log is not None and what not in SCALED:
            msg = f"log={log} is for what={' or '.join(map(repr, sorted(SCALED)))}: leave it out"
            raise UsageError(msg)
        file = None if path is None else Path(path)
        if file is not None:
            check_single(file, (".svg", ".pdf", ".png"), force=force)
        chart = draw(what, [self._reported], width, is_logarithmic=log)
        if chart is None:
            better = ": call spectrum(...), which finds it" if what == "spectrum" else ""
            msg = f"what={what!r}: the result of {self._words[1]} has no numbers for this chart{better}"
            raise UsageError(msg)
        if file is not None:
            write_single(file, picture(chart.figure, file.suffix.lower()[1:], chart.finding), force=force)
        return chart.figure

    @speaks_of_keywords()
    def report(self, path: str | Path, *, force: bool = False) -> Path:
        """Write the page that `fisher report` makes of the table: one HTML file with charts, findings and numbers.

        Args:
            path: of the page (.html).
            force: whether a file that fisher did not write may be replaced.

        Returns:
            The path.

        Raises:
            UsageError: the suffix is another, or matplotlib is not installed.
            OutputError: the file cannot be written, or one that is there is not as fisher wrote it.
        """
        file = Path(path)
        check_single(file, (".html", ".htm"), force=force)
        from fisher_cli.reports.page import render_page

        write_single(file, render_page([self._reported]), force=force)
        return file

    @speaks_of_keywords()
    def save(self, path: str | Path, *, force: bool = False) -> Path:
        """Write the table, the tables beside it and the record, as the command does with `-o`.

        Args:
            path: of the main table; the suffix says the format (.csv, .tsv, .json, .jsonl, .parquet or .xlsx).
                Results of compare, spectrum, examples and verify put a word into the name, as their commands do.
            force: whether files that fisher did not write may be replaced.

        Returns:
            The file of the main table.

        Raises:
            UsageError: the name says no format, or no checkpoint gave a result.
            OutputError: a file cannot be written, or one that is there is not as fisher wrote it.
        """
        if not self.succeeded:
            msg = "there is nothing to save: no checkpoint gave a result; the column error says why"
            raise UsageError(msg)
        return self.write(report_files(Path(path), self.settings, self.inputs, force=force))

    def write(self, files: ReportFiles) -> Path:
        """Write the result to files that were found writable, and remember them.

        Args:
            files: as `report_files` gives them.

        Returns:
            The file of the main table.

        Raises:
            OutputError: the disk is full, or a file was changed meanwhile.
        """
        tables = {table: self.frame(table.name) for table in tables_asked(self.settings)}
        made = {files.path(table): rows for table, rows in tables.items() if len(rows) or not table.if_any}
        written = (files.main,) if files.format is Format.XLSX else tuple(made)
        files.write(made.pop(files.main), None, RunRecord(self.stable_metadata(), self.run_metadata()), made)
        self.files = (*written, files.record)
        return files.main


class FileSurvey:
    """What checkpoint files are: a table, a headline and files.

    Attributes:
        table: one row per file.
        coverage: with data, one row per parameter tensor of the first file that can be analysed; else None.
        tensors: one row per tensor of each file that can be read, where they were asked for; else None.
        files: those that hold the tables and the record; empty until it is saved.

    Args:
        survey: that has gone through its files.
    """

    def __init__(self, survey: Survey) -> None:
        self._survey = survey
        self._tables = survey.tables()
        self.table, self.coverage = self._tables[FILES.name], self._tables.get(COVERAGE.name)
        self.tensors = self._tables.get(TENSORS.name)
        self.files: tuple[Path, ...] = ()

    @property
    def headline(self) -> str:
        """How many files can be analysed, and with which network."""
        return headline_of_files(self._survey.rows)

    @property
    def title(self) -> str:
        """How many files were looked at."""
        count = len(self._survey.rows)
        return f"{count} checkpoint{'s' if count != 1 else ''}"

    def __repr__(self) -> str:
        return "\n".join([f"{self.title}: {self.headline}", *([where(self.files)] if self.files else [])])

    def _repr_html_(self) -> str:
        return fragment(self.title, self.headline, "files", self.table, self.files)

    @speaks_of_keywords()
    def save(self, path: str | Path, *, force: bool = False) -> Path:
        """Write the tables and the record, as `fisher inspect -o` does.

        Args:
            path: of the table; the suffix says the format (.csv, .tsv, .json, .jsonl, .parquet or .xlsx).
            force: whether files that fisher did not write may be replaced.

        Returns:
            The file of the table.

        Raises:
            UsageError: the name says no format.
            OutputError: a file cannot be written, or one that is there is not as fisher wrote it.
        """
        inputs = tuple(file.path for file in self._survey.files)
        files = ReportFiles(Path(path), format_of(Path(path), None), force, inputs=inputs)
        files.check_writable()
        record = RunRecord(self._survey.stable_metadata(), {"command": [], "timings": self._survey.timings()})
        self._survey.write(files, record)
        beside = () if files.format is Format.XLSX else [TABLES[name] for name in self._tables][1:]
        self.files = (files.main, *map(files.path, beside), files.record)
        return files.main
