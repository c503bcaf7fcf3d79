"""`fisher check`: whether a table and the files beside it are complete and unchanged."""

from pathlib import Path
from typing import Annotated

import typer

from fisher_cli.cli import options
from fisher_cli.cli.misplaced_paths import refuse_checkpoints
from fisher_cli.cli.next_step import page_of


def check(
    report: Annotated[Path, typer.Argument(metavar="TABLE", help="A table, such as trend.csv.", show_default=False)],
    debug: options.Debug = False,  # noqa: ARG001 - acted upon by its callback
) -> None:
    """Check that a table and those beside it are complete and unchanged: hashes, rows in order, journals, one dataset.

    Example: fisher check trend.csv
    """  # noqa: DOC501 - this text is the command's help
    from fisher_cli.reports.console import Console
    from fisher_cli.storage.integrity import check_stem

    refuse_checkpoints([report])
    console = Console()
    findings = check_stem(report)
    console.lines(f"{'ok' if each.ok else 'WRONG':6}{each.what}: {each.detail}" for each in findings)
    is_whole = all(each.ok for each in findings)
    if is_whole:
        console.next_step(page_of(report))
    raise typer.Exit(0 if is_whole else 4)
