"""`fisher examples`: which examples carry the Fisher trace, one row each."""

from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING

import typer

from fisher_cli.cli import options
from fisher_cli.cli.destinations import destinations
from fisher_cli.cli.dry_run import show_forecast
from fisher_cli.cli.long_tables import LongTable
from fisher_cli.cli.run_command import CommandReport, run_command
from fisher_cli.cli.shared_options import (
    ACTIVATIONS,
    DATA,
    ESTIMATOR,
    MODEL,
    NETWORK,
    PRESET,
    RUNNING,
    SAMPLING,
    SEED,
    asks,
)
from fisher_cli.settings import Resources, Settings
from fisher_cli.storage.formats import Format
from fisher_cli.tables.columns import EXAMPLE_COLUMNS
from fisher_cli.tables.dialects import Dialect

if TYPE_CHECKING:
    import pandas as pd

    from fisher_cli.reports.console import Console
    from fisher_cli.results import Measurement
    from fisher_cli.run.analysis import Analysis


@asks(*DATA, *MODEL, *ESTIMATOR, *SAMPLING, *NETWORK, *PRESET, *SEED, *RUNNING, *ACTIVATIONS)
def examples(
    settings: Settings,
    resources: Resources,
    checkpoints: options.Checkpoints,
    top: options.Top = None,
    output: options.ExamplesOutput = None,
    format: options.FormatOption = None,
    csv_dialect: options.CsvDialect = Dialect.PLAIN,
    dry_run: options.DryRun = False,
    resume: options.Resume = True,
    force: options.Force = False,
    quiet: options.Quiet = False,
) -> None:
    """Show which examples carry the trace: hard, mislabelled or memorised ones; by class, and clean against noisy.

    Example: fisher examples ckpts/ --data cifar10 --labels noisy.csv -o trend.csv
    """  # noqa: DOC501 - this text is the command's help
    settings = replace(settings, eigenvalues=0, movement=False)
    files, to_stdout = destinations(output, None if dry_run else format, force, csv_dialect)
    if files is not None:
        files = files.named("examples", "groups")
    if dry_run:
        raise typer.Exit(show_forecast(checkpoints, settings, resources, files, format, quiet, resume))
    report = CommandReport(
        lambda measurement, order, form: _lines(measurement, order, form, csv_dialect, top),
        _tables,
        _show,
        long=per_example(top, is_main=True),
        finished=lambda measurement: finished(measurement, top),
    )
    code = run_command(checkpoints, settings, resources, report, files, to_stdout, quiet=quiet, resume=resume)
    raise typer.Exit(code)


def per_example(top: int | None = None, *, is_main: bool = False) -> LongTable:
    """The table with a row per checkpoint and example."""

    def rows(measurement: "Measurement", order: int) -> "Iterator[pd.DataFrame]":
        from fisher_cli.run.per_example import example_tables

        return example_tables(measurement, order, top)

    return LongTable("examples", EXAMPLE_COLUMNS, rows, is_main)


def finished(measurement: "Measurement", top: int | None) -> "Measurement":
    """What is kept of a measurement whose rows are written: what its examples say together."""
    from fisher_cli.run.per_example import TOP, with_summary, without_examples

    return without_examples(with_summary(measurement, top or TOP))


def _lines(measurement: "Measurement", order: int, form: Format, dialect: Dialect, top: int | None) -> Iterator[str]:
    """One checkpoint's rows as they are streamed, with the header before the first."""
    from fisher_cli.run.per_example import example_tables
    from fisher_cli.tables.build import rows_text

    for i, table in enumerate(example_tables(measurement, order, top)):
        yield rows_text(table, form, dialect, order == 0 and i == 0)


def _tables(analysis: "Analysis") -> tuple[None, "pd.DataFrame | None"]:
    """No main table, which is written as the run goes on; the table of groups, if there is any."""
    from fisher_cli.run.per_example import group_table

    groups = group_table(analysis.measurements)
    return None, None if groups.empty else groups


def _show(console: "Console", analysis: "Analysis") -> None:
    console.examples(analysis.measurements, analysis.data_title)
