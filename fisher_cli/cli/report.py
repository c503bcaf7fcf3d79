"""`fisher report`: one page with the charts of a table, or of several tables together."""

import shlex
from pathlib import Path
from typing import Annotated

import typer

from fisher_cli.cli import options
from fisher_cli.cli.misplaced_paths import refuse_checkpoints
from fisher_cli.errors import UsageError
from fisher_cli.storage.single_file import check_single, write_single

MOST = 4  # colours and dashes that can be told apart


def report(
    reports: Annotated[
        list[Path], typer.Argument(metavar="TABLE...", help="Tables, such as trend.csv.", show_default=False)
    ],
    output: Annotated[
        Path | None,
        typer.Option(
            "-o",
            "--output",
            metavar="FILE",
            help="Write the page to this file (.html). \\[default: TABLE.html]",
            show_default=False,
        ),
    ] = None,
    data: options.PageData = None,
    data_dir: options.DataDir = None,
    labels: options.PageLabels = None,
    force: options.Force = False,
    quiet: options.Quiet = False,
    debug: options.Debug = False,  # noqa: ARG001 - acted upon by its callback
) -> None:
    """Make a page of a table and the tables beside it: one HTML file with charts, findings and numbers.

    Several tables are drawn into the same charts, and --data adds pictures of examples.

    Example: fisher report trend.csv
    """  # noqa: DOC501 - this text is the command's help
    refuse_checkpoints(reports)
    if len(reports) > MOST:
        msg = f"{len(reports)} tables are too many for one page: name at most {MOST}"
        raise UsageError(msg)
    if labels is not None and data is None:
        msg = f"--labels {labels} needs --data: name the dataset whose examples the page should show"
        raise UsageError(msg)
    output = output or reports[0].with_suffix(".html")
    check_single(output, (".html", ".htm"), force=force)

    from fisher_cli.reports.console import Console
    from fisher_cli.reports.page import render_page
    from fisher_cli.reports.reported_run import last_examples, read_runs

    runs = read_runs(reports)
    if data is not None:
        from fisher_cli.reports.thumbnails import ImageData, with_pictures

        folder, replaced = (None if path is None else str(path) for path in (data_dir, labels))
        has_none = not any(last_examples(run) for run in runs)  # which is said
        images = ImageData(data, folder, replaced)
        runs = [with_pictures(run, images) if has_none or last_examples(run) else run for run in runs]
    write_single(output, render_page(runs), force=force)
    console = Console(quiet=quiet)
    console.message(f"page: {output}")
    console.next_step(f"fisher plot {shlex.quote(str(reports[0]))} --what ratio")
