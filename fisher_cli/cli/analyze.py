"""`fisher analyze`: checkpoints and a dataset in, the table of Fisher traces and eigenvalues out."""

import sys
from dataclasses import replace
from typing import TYPE_CHECKING

import typer

from fisher_cli.cli import options
from fisher_cli.cli.destinations import destinations
from fisher_cli.cli.dry_run import show_forecast
from fisher_cli.cli.run_command import CommandReport, FollowWait, run_command
from fisher_cli.cli.shared_options import (
    ACTIVATIONS,
    DATA,
    EIGENVALUES,
    ESTIMATOR,
    MODEL,
    NETWORK,
    PRESET,
    RUNNING,
    SAMPLING,
    SEED,
    SHARING,
    asks,
)
from fisher_cli.cli.sharing import check_sharing
from fisher_cli.errors import UsageError
from fisher_cli.settings import Resources, Settings
from fisher_cli.tables.dialects import Dialect
from fisher_cli.tables.registry import EXAMPLES, LONG, tables_of

if TYPE_CHECKING:
    from fisher_cli.reports.console import Console
    from fisher_cli.results import Measurement
    from fisher_cli.run.analysis import Analysis


@asks(*DATA, *MODEL, *ESTIMATOR, *SAMPLING, *EIGENVALUES, *NETWORK, *PRESET, *SEED, *RUNNING, *ACTIVATIONS, *SHARING)
def analyze(
    settings: Settings,
    resources: Resources,
    checkpoints: options.Checkpoints,
    output: options.Output = None,
    format: options.FormatOption = None,
    csv_dialect: options.CsvDialect = Dialect.PLAIN,
    long: options.Long = False,
    layers: options.Layers = True,
    per_example: options.PerExample = False,
    follow: options.Follow = False,
    until: options.Until = None,
    dry_run: options.DryRun = False,
    resume: options.Resume = True,
    force: options.Force = False,
    quiet: options.Quiet = False,
) -> None:
    """Measure the traces and largest eigenvalues of the true and the empirical Fisher, checkpoint by checkpoint.

    Example: fisher analyze ckpts/ --data cifar10 --model resnet18 -o trend.csv
    """  # noqa: DOC501 - this text is the command's help
    files, to_stdout = destinations(output, None if dry_run else format, force, csv_dialect)
    of_examples = [EXAMPLES] if per_example else []
    report = CommandReport(
        (*tables_of("main", layers=layers, task2vec=settings.task2vec, long=long), *of_examples),
        _show,
        finished=_summarised if per_example else _without_what_no_table_shows,
        dialect=csv_dialect,
        melted=LONG if long else None,
    )
    if per_example and files is None:
        msg = "--per-example writes a second table beside that of -o: add -o trend.csv, or type fisher examples"
        raise UsageError(msg)
    if settings.task2vec and files is None:
        msg = "--preset task2vec writes its vector beside the table of -o: add -o trend.csv"
        raise UsageError(msg)
    if until is not None and not follow:
        msg = f"--until {until} says when to stop waiting: add --follow"
        raise UsageError(msg)
    check_sharing(settings, resources, files, follows=follow)
    if dry_run:
        raise typer.Exit(show_forecast(checkpoints, settings, resources, files, format, quiet, resume, follow))
    if files is not None:
        files = files.holding(*tables_of("main", task2vec=settings.task2vec, long=long), *of_examples)
    waits = FollowWait(until) if follow else None
    code = run_command(checkpoints, settings, resources, report, files, to_stdout, quiet, resume, waits)
    raise typer.Exit(code)


def _without_what_no_table_shows(measurement: "Measurement") -> "Measurement":
    """What is kept of a finished row: of its examples only their terms of the trace, which the phases are told from."""
    trace = measurement.trace and replace(measurement.trace, per_example_empirical=())
    return replace(measurement, trace=trace, per_example=None)


def _summarised(measurement: "Measurement") -> "Measurement":
    """The same, with what its examples say together: the record has it beside a table of them."""
    from fisher_cli.run.per_example import with_summary

    return _without_what_no_table_shows(with_summary(measurement))


def _show(console: "Console", analysis: "Analysis") -> None:
    console.summary(analysis.measurements, analysis.data_title, sys.argv)
