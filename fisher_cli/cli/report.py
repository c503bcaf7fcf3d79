"""`fisher report`: one page with the charts and tables of a report, or of several beside each other."""

from pathlib import Path
from typing import Annotated

import typer

from fisher_cli.cli import options
from fisher_cli.cli.options.panels import DATA
from fisher_cli.cli.single_file import check_single, write_single
from fisher_cli.errors import UsageError

MOST = 4  # colours and dashes that can be told apart


def report(
    reports: Annotated[
        list[Path], typer.Argument(metavar="REPORT...", help="Report files, such as trend.csv.", show_default=False)
    ],
    output: Annotated[
        Path | None,
        typer.Option(
            "-o", "--output", metavar="FILE", help="The page, .html. \\[default: the report's name]", show_default=False
        ),
    ] = None,
    data: Annotated[
        str | None,
        typer.Option(
            "--data",
            metavar="NAME|folder:DIR|…",
            help="Show the examples that carry the trace as pictures: the dataset that the report was made of. Which "
            "part of it and how prepared, the report knows.",
            show_default=False,
            rich_help_panel=DATA,
        ),
    ] = None,
    data_dir: options.DataDir = None,
    labels: Annotated[
        Path | None,
        typer.Option(
            "--labels",
            metavar="FILE",
            help="With --data: the file of labels, for a report that was made with one.",
            show_default=False,
            rich_help_panel=DATA,
        ),
    ] = None,
    force: options.Force = False,
    quiet: options.Quiet = False,
    debug: options.Debug = False,  # noqa: ARG001 - acted upon by its callback
) -> None:
    """Make a page of a report and the tables beside it: charts, findings, tables; one file that needs no network.

    Several reports are drawn into the same charts; --data adds pictures of examples.

    Example: fisher report trend.csv
    """  # noqa: DOC501 - this text is the command's help
    if len(reports) > MOST:
        msg = f"{len(reports)} reports are too many for one page: name at most {MOST}"
        raise UsageError(msg)
    if labels is not None and data is None:
        msg = f"--labels {labels} belongs to --data: name the dataset whose examples shall be shown"
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
    Console(quiet=quiet).message(f"page: {output}")
