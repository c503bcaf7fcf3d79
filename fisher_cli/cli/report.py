"""`fisher report`: one page with the charts and tables of a report, or of several beside each other."""

from pathlib import Path
from typing import Annotated

import typer

from fisher_cli.cli import options
from fisher_cli.cli.single_file import check_single, write_single
from fisher_cli.errors import UsageError

MOST = 4  # colours and dashes that can be told apart


def report(
    reports: Annotated[
        list[Path], typer.Argument(metavar="REPORT...", help="Report files, such as trend.csv.", show_default=False)
    ],
    output: Annotated[
        Path, typer.Option("-o", "--output", metavar="FILE", help="The page, .html.", show_default=False)
    ],
    force: options.Force = False,
    quiet: options.Quiet = False,
    debug: options.Debug = False,  # noqa: ARG001 - acted upon by its callback
) -> None:
    """Make a page of a report and the tables beside it: charts, findings, tables; one file that needs no network.

    Several reports are drawn into the same charts. Example: fisher report trend.csv -o trend.html
    """  # noqa: DOC501 - this text is the command's help
    if len(reports) > MOST:
        msg = f"{len(reports)} reports are too many for one page: name at most {MOST}"
        raise UsageError(msg)
    check_single(output, (".html", ".htm"), b"<!-- made by fisher report -->", force=force)

    from fisher_cli.reports.console import Console
    from fisher_cli.reports.page import render_page
    from fisher_cli.reports.reported_run import read_run

    write_single(output, render_page([read_run(path) for path in reports]))
    Console(quiet=quiet).message(f"page: {output}")
