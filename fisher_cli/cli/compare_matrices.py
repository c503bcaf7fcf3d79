"""`fisher compare true-vs-empirical`: how wrong the empirical Fisher is here, each figure beside its null."""

from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

import typer

from fisher_cli.cli import options
from fisher_cli.cli.destinations import destinations
from fisher_cli.cli.dry_run import show_forecast
from fisher_cli.cli.run_command import CommandReport, run_command
from fisher_cli.cli.shared_options import (
    DATA,
    ESTIMATOR,
    MODEL,
    NETWORK,
    RUNNING,
    SAMPLING,
    SEED,
    asks,
    count,
    positive_number,
)
from fisher_cli.settings import ComparisonSettings, Resources, Settings
from fisher_cli.tables.dialects import Dialect
from fisher_cli.tables.registry import COMPARISON_LONG, tables_of

if TYPE_CHECKING:
    from fisher_cli.reports.console import Console
    from fisher_cli.run.analysis import Analysis


@asks(*DATA, *MODEL, *ESTIMATOR, *SAMPLING, *NETWORK, *SEED, *RUNNING)
def true_vs_empirical(
    settings: Settings,
    resources: Resources,
    checkpoints: options.Checkpoints,
    eigenvalues: options.ComparedCount = 5,
    damping: options.NaturalGradientDamping = None,
    draws: options.NullDraws = 10,
    output: options.ComparisonOutput = None,
    format: options.FormatOption = None,
    csv_dialect: options.CsvDialect = Dialect.PLAIN,
    long: options.Long = False,
    layers: options.ComparisonLayers = None,
    fail_ratio_below: options.FailRatioBelow = None,
    dry_run: options.DryRun = False,
    resume: options.Resume = True,
    force: options.Force = False,
    quiet: options.Quiet = False,
) -> None:
    """Compare the empirical with the true Fisher: traces, norms, directions, eigenspaces and a verdict.

    Each number stands beside its null, the value under labels drawn from the model.

    Example: fisher compare true-vs-empirical ckpts/ --data cifar10 -o trend.csv
    """  # noqa: DOC501 - this text is the command's help
    asked = ComparisonSettings(damping=positive_number(damping, "--damping", "0.001"), draws=count(draws, "--draws"))
    least = positive_number(fail_ratio_below, "--fail-ratio-below", "0.5")
    settings = replace(settings, eigenvalues=eigenvalues, comparison=asked)
    files, to_stdout = destinations(output, None if dry_run else format, force, csv_dialect)
    if files is not None:
        files = files.holding(*tables_of("comparison", comparison_long=long))
    if dry_run:
        raise typer.Exit(show_forecast(checkpoints, settings, resources, files, format, quiet, resume))
    report = CommandReport(
        tables_of("comparison", comparison_layers=layers is not False, comparison_long=long),
        partial(_show, bool(layers)),
        partial(_too_small, least),
        dialect=csv_dialect,
        melted=COMPARISON_LONG if long else None,
    )
    code = run_command(checkpoints, settings, resources, report, files, to_stdout, quiet=quiet, resume=resume)
    raise typer.Exit(code)


def _show(layers: bool, console: "Console", analysis: "Analysis") -> None:
    console.comparison(analysis.measurements, analysis.data_title, layers=layers)


def _too_small(least: float | None, analysis: "Analysis") -> list[str]:
    """A line for every checkpoint whose ratio is below the least that was allowed."""
    if least is None:
        return []
    return [
        f"{each.checkpoint}: tr F̂/tr F = {each.trace.ratio.value:.4g} is below --fail-ratio-below {least:g}"
        for each in analysis.measurements
        if each.trace and each.trace.ratio and each.trace.ratio.value < least
    ]
