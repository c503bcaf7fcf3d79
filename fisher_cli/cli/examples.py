"""`fisher examples`: which examples carry the Fisher trace, one row each."""

from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

import typer

from fisher_cli.cli import options
from fisher_cli.cli.destinations import destinations
from fisher_cli.cli.dry_run import show_forecast
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
from fisher_cli.tables import rows
from fisher_cli.tables.dialects import Dialect
from fisher_cli.tables.registry import tables_of

if TYPE_CHECKING:
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
    """Rank the examples by their share of the trace, which finds hard, mislabelled and memorised ones.

    Example: fisher examples ckpts/ --data cifar10 --labels noisy.csv -o trend.csv
    """  # noqa: DOC501 - this text is the command's help
    settings = replace(settings, eigenvalues=0, movement=False)
    files, to_stdout = destinations(output, None if dry_run else format, force, csv_dialect)
    if files is not None:
        files = files.holding(*tables_of("examples"))
    if dry_run:
        raise typer.Exit(show_forecast(checkpoints, settings, resources, files, format, quiet, resume))
    main, *others = tables_of("examples")
    report = CommandReport(
        (replace(main, items=partial(rows.examples, top=top)), *others),
        _show,
        finished=lambda measurement: finished(measurement, top),
        dialect=csv_dialect,
    )
    code = run_command(checkpoints, settings, resources, report, files, to_stdout, quiet=quiet, resume=resume)
    raise typer.Exit(code)


def finished(measurement: "Measurement", top: int | None) -> "Measurement":
    """What is kept of a measurement whose rows are written: what its examples say together."""
    from fisher_cli.run.per_example import TOP, with_summary, without_examples

    return without_examples(with_summary(measurement, top or TOP))


def _show(console: "Console", analysis: "Analysis") -> None:
    console.examples(analysis.measurements, analysis.data_title)
