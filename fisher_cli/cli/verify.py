"""`fisher verify`: the identities that the Fisher's different forms must fulfil, on the user's own network and data."""

from dataclasses import replace
from typing import TYPE_CHECKING

import typer

from fisher_cli.cli import options
from fisher_cli.cli.destinations import destinations
from fisher_cli.cli.run_command import CommandReport, run_command
from fisher_cli.cli.shared_options import DATA, MODEL, NETWORK, RUNNING, SEED, asks, positive, without
from fisher_cli.cli.shared_options import precision as read_precision
from fisher_cli.results import Outcome
from fisher_cli.settings import Resources, Settings
from fisher_cli.tables.dialects import Dialect
from fisher_cli.tables.registry import tables_of

if TYPE_CHECKING:
    from fisher_cli.reports.console import Console
    from fisher_cli.run.analysis import Analysis


@asks(*without(DATA, "limit"), *MODEL, *without(NETWORK, "precision"), *SEED, *RUNNING)
def verify(
    settings: Settings,
    resources: Resources,
    checkpoints: options.Checkpoints,
    limit: options.Limit = "32",
    precision: options.PrecisionOption = "float64",
    output: options.VerifyOutput = None,
    format: options.FormatOption = None,
    csv_dialect: options.CsvDialect = Dialect.PLAIN,
    resume: options.Resume = True,
    force: options.Force = False,
    quiet: options.Quiet = False,
) -> None:
    """Check the numbers on your own network: identities of the Fisher, each with both sides, error and tolerance.

    The exit code is 4 if an identity fails. Example: fisher verify ckpts/last.pt --data cifar10 --model resnet18
    """  # noqa: DOC501 - this text is the command's help
    settings = replace(
        settings, limit=positive(limit, "--limit", "all"), precision=read_precision(precision), verify=True
    )
    files, to_stdout = destinations(output, format, force, csv_dialect)
    if files is not None:
        files = files.holding(*tables_of("identities"))
    report = CommandReport(tables_of("identities"), _show, _failures, dialect=csv_dialect)
    code = run_command(checkpoints, settings, resources, report, files, to_stdout, quiet=quiet, resume=resume)
    raise typer.Exit(code)


def _show(console: "Console", analysis: "Analysis") -> None:
    console.identities(analysis.measurements, analysis.data_title)


def _failures(analysis: "Analysis") -> list[str]:
    """A line per checkpoint of which an identity fails."""
    lines = []
    for measurement in analysis.measurements:
        found = measurement.verification.identities if measurement.verification else ()
        if failing := [each.name for each in found if each.verdict is Outcome.FAILED]:
            lines.append(f"{measurement.checkpoint}: does not hold: {', '.join(failing)}")
    return lines
