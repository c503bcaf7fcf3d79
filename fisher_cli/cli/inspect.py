"""`fisher inspect`: what checkpoint files are, and, given data, how each parameter's gradient norms are found."""

import contextlib
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from fisher_cli.cli import options
from fisher_cli.cli.destinations import (
    ROWS_AS_THEY_COME,
    destinations,
    exit_code,
    say_what_is_left,
    say_what_is_passed_over,
    why_nothing,
)
from fisher_cli.cli.misplaced_paths import refuse_tables
from fisher_cli.cli.next_step import analysis_of
from fisher_cli.cli.shared_options import DATA, DEBUG, DEVICE, ESTIMATOR, MODEL, NETWORK, asks, changed, without
from fisher_cli.settings import Resources, Settings
from fisher_cli.storage.formats import Format, render
from fisher_cli.storage.report_files import ReportFiles, RunRecord
from fisher_cli.tables.dialects import Dialect
from fisher_cli.tables.registry import FILES, TENSORS, Table

if TYPE_CHECKING:
    from fisher_cli.reports.console import Console
    from fisher_cli.results import Inspection
    from fisher_cli.run.preparation import FileRun
    from fisher_cli.run.survey import Survey

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
    tensors: options.Tensors = False,
    output: options.InspectionOutput = None,
    format: options.FormatOption = None,
    csv_dialect: options.CsvDialect = Dialect.PLAIN,
    force: options.Force = False,
    quiet: options.Quiet = False,
) -> None:
    """Show what checkpoint files hold: format, weights, step and network; with --data also the method per parameter.

    Example: fisher inspect ckpts/ --model resnet18 --data cifar10
    """  # noqa: DOC501 - this text is the command's help
    refuse_tables(checkpoints)
    settings = replace(settings, data=data or "digits", eigenvalues=0)
    files, to_stdout = destinations(output, format, force, csv_dialect)
    if files is not None:
        files.check_writable()

    from fisher_cli.reports.console import Console
    from fisher_cli.run.survey import Survey

    console = Console(quiet=quiet)
    with contextlib.redirect_stdout(sys.stderr):  # what a network's own code prints
        survey = Survey(
            checkpoints,
            settings,
            resources,
            None if data is None else _run(checkpoints, settings, resources),
            with_tensors=tensors,
        )
        if files is not None:
            files = replace(files, inputs=tuple(file.path for file in survey.files))
            files.check_writable()
        say_what_is_passed_over(console, checkpoints, survey.files)
        from fisher_cli.results import OrderInRun

        place = OrderInRun()
        for number, row in enumerate(survey):
            order = place(row)
            if to_stdout is not None and to_stdout in ROWS_AS_THEY_COME:
                console.write(_line(row, order, to_stdout, csv_dialect, TENSORS if tensors else FILES, number == 0))
    code = _finish(console, survey, files, to_stdout)
    if survey.good:
        console.next_step(analysis_of(checkpoints, settings if data else replace(settings, data="DATA")))
    raise typer.Exit(code)


def _run(paths: list[Path], settings: Settings, resources: Resources) -> "FileRun":
    from fisher_cli.run.preparation import run_of_files  # here: without data the files alone are enough, and quicker

    return run_of_files(paths, settings, resources)


def _line(row: "Inspection", order: int, form: Format, dialect: Dialect, table: Table, is_first: bool) -> str:
    """The rows of one file as they are streamed, with the header before the first."""
    from fisher_cli.tables.build import frame, rows_text

    return rows_text(frame(table, [row], order), form, dialect, is_first)


def _finish(console: "Console", survey: "Survey", files: ReportFiles | None, to_stdout: Format | None) -> int:
    """Write and print what is left; the exit code: 0 all files ok, 3 some not, 1 none."""
    if written := files and files.if_worth_writing(survey.good):
        say_what_is_left(console, survey.write(written, _metadata(survey)))
    if to_stdout is Format.TABLE:
        console.inspections(survey.rows)
        console.tensors(survey.rows)
        if survey.covered is not None:
            console.coverage(survey.covered, survey.data_title)
    elif to_stdout is not None and to_stdout not in ROWS_AS_THEY_COME:
        tables = survey.tables()
        shown = tables.get(TENSORS.name, tables[FILES.name])
        console.write(render(shown, to_stdout, _metadata(survey).stable))
    if to_stdout is not Format.TABLE:
        _say_in_short(console, survey, files)
    if written:
        console.message(f"table: {written.main}")
    if not survey.good:
        console.error(why_nothing(survey.rows, "the table says why" if to_stdout is Format.TABLE else ""))
    return exit_code(survey.rows, survey.good)


def _metadata(survey: "Survey") -> RunRecord:
    """What was asked and found, the same for every repetition; and how it went this time."""
    return RunRecord(survey.stable_metadata(), {"command": list(sys.argv), "timings": survey.timings()})


def _say_in_short(console: "Console", survey: "Survey", files: ReportFiles | None) -> None:
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
