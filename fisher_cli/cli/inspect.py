"""`fisher inspect`: what checkpoint files are, and, given data, how each parameter's gradient norms are found."""

import contextlib
import sys
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from fisher_cli._version import __version__
from fisher_cli.cli import options
from fisher_cli.cli.destinations import ROWS_AS_THEY_COME, destinations, exit_code, say_what_is_left, why_nothing
from fisher_cli.cli.shared_options import DATA, DEBUG, DEVICE, ESTIMATOR, MODEL, NETWORK, asks, changed, without
from fisher_cli.settings import Resources, Settings
from fisher_cli.storage.formats import Format, render
from fisher_cli.storage.report_files import ReportFiles, RunRecord
from fisher_cli.tables.dialects import Dialect
from fisher_cli.tables.registry import COVERAGE, FILES

if TYPE_CHECKING:
    import pandas as pd

    from fisher_cli.inputs.checkpoints.checkpoints import CheckpointFile
    from fisher_cli.reports.console import Console
    from fisher_cli.results import Inspection, Measurement
    from fisher_cli.run.preparation import FileRun

# Enough to find every rule; the share of the work is the same for every example.
COVERED_EXAMPLES = "8"


@asks(
    *changed(without(DATA, "data"), "limit", options.CoveredLimit, COVERED_EXAMPLES),
    *MODEL,
    *ESTIMATOR,
    *NETWORK,
    *DEVICE,
    *DEBUG,
)
def inspect(
    settings: Settings,
    resources: Resources,
    checkpoints: options.Checkpoints,
    data: options.DataIfAny = None,
    output: options.InspectionOutput = None,
    format: options.FormatOption = None,
    csv_dialect: options.CsvDialect = Dialect.PLAIN,
    force: options.Force = False,
    quiet: options.Quiet = False,
) -> None:
    """Say what checkpoint files are: container, weights, step, network; with --data how each parameter is covered.

    Example: fisher inspect ckpts/ --model resnet18 --data cifar10
    """  # noqa: DOC501 - this text is the command's help
    settings = replace(settings, data=data or "digits", eigenvalues=0)
    files, to_stdout = destinations(output, format, force, csv_dialect)
    if files is not None:
        files.check_writable()

    from fisher_cli.reports.console import Console

    console = Console(quiet=quiet)
    with contextlib.redirect_stdout(sys.stderr):  # what a network's own code prints
        survey = _Survey(checkpoints, settings, resources, with_data=data is not None)
        if files is not None:
            files = replace(files, inputs=tuple(file.path for file in survey.files))
            files.check_writable()
        from fisher_cli.results import OrderInRun

        place = OrderInRun()
        for number, row in enumerate(survey):
            order = place(row)
            if to_stdout is not None and to_stdout in ROWS_AS_THEY_COME:
                console.write(_line(row, order, to_stdout, csv_dialect, is_first=number == 0))
    raise typer.Exit(_finish(console, survey, files, to_stdout))


def _run(paths: list[Path], settings: Settings, resources: Resources) -> "FileRun":
    from fisher_cli.run.preparation import run_of_files  # here: without data the files alone are enough, and quicker

    return run_of_files(paths, settings, resources)


class _Survey:
    """Goes through the files once; with data, the first good one is measured on a few examples."""

    def __init__(self, paths: list[Path], settings: Settings, resources: Resources, *, with_data: bool) -> None:
        from fisher_cli.inputs.formats.reading import ReadOptions

        self.settings = settings
        self._reading = ReadOptions.of(settings, resources)
        self.rows: list[Inspection] = []
        self.covered: Measurement | None = None
        self._run = _run(paths, settings, resources) if with_data else None
        if self._run is not None:
            self.files, self._networks = self._run.files, self._run.inputs.networks
        else:
            from fisher_cli.inputs.checkpoints.checkpoints import find_checkpoints
            from fisher_cli.inputs.networks.networks import Networks

            self.files = find_checkpoints(paths, self._reading)
            self._networks = Networks(settings.model, dict(settings.model_arguments))

    @property
    def data_title(self) -> str:
        """The dataset and its split, "" without data."""
        return "" if self._run is None else self._run.analysis.data_title

    @property
    def good(self) -> int:
        """Number of files that can be analysed."""
        return sum(not row.error for row in self.rows)

    def __iter__(self) -> Iterator["Inspection"]:
        from fisher_cli.inputs.networks.networks import inspect as inspect_file

        for file in self.files:
            row = inspect_file(file, self._networks, self._reading)
            if self._run is not None and self.covered is None and not row.error:
                row = self._cover(row, file)
            self.rows.append(row)
            yield row

    def _cover(self, row: "Inspection", file: "CheckpointFile") -> "Inspection":
        """Measure the file; a row whose file fits its network and not the data says so."""
        from fisher_cli.run.row import FIRST

        assert self._run is not None
        measured = self._run.executor.measure_row(file, FIRST)
        if measured.error:
            return replace(row, status=measured.status, error=measured.error)
        self.covered = measured
        return row


def _tables(survey: _Survey) -> tuple["pd.DataFrame", "pd.DataFrame | None"]:
    """The files' table and, with data, the ledger's."""
    from fisher_cli.tables.build import frame

    return frame(FILES, survey.rows), None if survey.covered is None else frame(COVERAGE, [survey.covered])


def _line(row: "Inspection", order: int, form: Format, dialect: Dialect, *, is_first: bool) -> str:
    """One row as it is streamed, with the header before the first."""
    from fisher_cli.tables.build import frame, rows_text

    return rows_text(frame(FILES, [row], order), form, dialect, is_first)


def _finish(console: "Console", survey: _Survey, files: ReportFiles | None, to_stdout: Format | None) -> int:
    """Write and print what is left; the exit code: 0 all files ok, 3 some not, 1 none."""
    if files is not None and survey.good:
        say_what_is_left(console, files.write(*_tables(survey), _metadata(survey)))
    if to_stdout is Format.TABLE:
        console.inspections(survey.rows)
        if survey.covered is not None:
            console.coverage(survey.covered, survey.data_title)
    elif to_stdout is not None and to_stdout not in ROWS_AS_THEY_COME:
        console.write(render(_tables(survey)[0], to_stdout, _metadata(survey).stable))
    if to_stdout is not Format.TABLE:
        _say_in_short(console, survey, files)
    if not survey.good:
        console.error(why_nothing(survey.rows))
    elif files is not None:
        console.message(f"report: {files.main}")
    return exit_code(survey.rows, survey.good)


def _metadata(survey: _Survey) -> RunRecord:
    """What was asked and found, the same for every repetition; and how it went this time."""
    from fisher_cli.storage.metadata import ledger_record

    covered = survey.covered
    stable = {
        "fisher_version": __version__,
        "settings": survey.settings.without_folders(),
        "data": survey.data_title or None,
        "ledgers": [] if covered is None or covered.ledger is None else [ledger_record(covered.ledger)],
        "check": None if covered is None or covered.check is None else asdict(covered.check),
    }
    return RunRecord(stable, {"command": list(sys.argv), "timings": dict(covered.timings) if covered else {}})


def _say_in_short(console: "Console", survey: _Survey, files: ReportFiles | None) -> None:
    """Where no table says it: how many files are not ok, and what covers the parameters."""
    from fisher_cli.reports.inspection import check_text, coverage_text

    bad, covered = len(survey.rows) - survey.good, survey.covered
    if bad and survey.good:
        console.message(f"{bad} of {len(survey.rows)} checkpoints cannot be analysed: the column error says why")
    if covered is not None and covered.ledger is not None:
        where = "--format table or -o FILE lists them"
        if files is not None:
            where = f"{files.layers if files.layers in files.tables else files.main} lists them"
        console.message(f"{covered.checkpoint}: {coverage_text(covered.ledger)}; {where}")
        console.message(check_text(covered.check))
