"""`fisher spectrum`: all eigenvalues of the true and the empirical Fisher, or the leading ones and their density."""

from dataclasses import replace
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
    PRESET,
    RUNNING,
    SEED,
    SHARING,
    asks,
    positive_number,
)
from fisher_cli.cli.sharing import check_sharing
from fisher_cli.settings import MatrixName, Resources, Settings, SpectrumMethod, SpectrumSettings
from fisher_cli.tables.dialects import Dialect
from fisher_cli.tables.registry import tables_of

if TYPE_CHECKING:
    from fisher_cli.reports.console import Console
    from fisher_cli.run.analysis import Analysis


@asks(*DATA, *MODEL, *ESTIMATOR, *NETWORK, *PRESET, *SEED, *RUNNING, *SHARING)
def spectrum(
    settings: Settings,
    resources: Resources,
    checkpoints: options.Checkpoints,
    matrix: options.Matrix = MatrixName.BOTH,
    eigenvalues: options.LeadingCount = 10,
    method: options.SpectrumMethodOption = SpectrumMethod.AUTO,
    damping: options.Damping = None,
    probes: options.Probes = 5,
    steps: options.Steps = 40,
    output: options.SpectrumOutput = None,
    format: options.FormatOption = None,
    csv_dialect: options.CsvDialect = Dialect.PLAIN,
    dry_run: options.DryRun = False,
    resume: options.Resume = True,
    force: options.Force = False,
    quiet: options.Quiet = False,
) -> None:
    """Compute all eigenvalues of the true and the empirical Fisher, or the largest ones and the density of the rest.

    Example: fisher spectrum ckpts/ --data cifar10 --limit 200 -o trend.csv
    """  # noqa: DOC501 - this text is the command's help
    asked = SpectrumSettings(
        matrix=matrix,
        method=method,
        damping=positive_number(damping, "--damping", "0.001"),
        probes=probes,
        steps=steps,
    )
    settings = replace(settings, eigenvalues=eigenvalues, spectrum=asked)
    files, to_stdout = destinations(output, None if dry_run else format, force, csv_dialect)
    check_sharing(settings, resources, files)
    if files is not None:
        files = files.holding(*tables_of("spectrum"))
    if dry_run:
        raise typer.Exit(show_forecast(checkpoints, settings, resources, files, format, quiet, resume))
    report = CommandReport(tables_of("spectrum"), _show, dialect=csv_dialect)
    code = run_command(checkpoints, settings, resources, report, files, to_stdout, quiet=quiet, resume=resume)
    raise typer.Exit(code)


def _show(console: "Console", analysis: "Analysis") -> None:
    console.spectra(analysis.measurements, analysis.data_title)
