"""`fisher check`: whether a report is whole and as it was written."""

from pathlib import Path
from typing import Annotated

import typer

from fisher_cli.cli import options


def check(
    report: Annotated[
        Path, typer.Argument(metavar="REPORT", help="A report file, such as trend.csv.", show_default=False)
    ],
    debug: options.Debug = False,  # noqa: ARG001 - acted upon by its callback
) -> None:
    """Say whether a report and those beside it are whole: hashes, rows in order, journals, all of one data.

    Example: fisher check trend.csv
    """  # noqa: DOC501 - this text is the command's help
    from fisher_cli.reports.console import Console
    from fisher_cli.storage.integrity import check_stem

    console = Console()
    findings = check_stem(report)
    console.lines(f"{'ok' if each.ok else 'WRONG':6}{each.what}: {each.detail}" for each in findings)
    raise typer.Exit(0 if all(each.ok for each in findings) else 4)
