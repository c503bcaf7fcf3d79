"""`fisher plot`: one chart of a table as a file for a paper."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from fisher_cli.cli import options
from fisher_cli.cli.misplaced_paths import refuse_checkpoints
from fisher_cli.cli.next_step import page_of
from fisher_cli.errors import OutputError, UsageError
from fisher_cli.storage.single_file import check_single, write_single


class Drawing(StrEnum):
    """What can be drawn of a table."""

    TRACES = "traces"
    RATIO = "ratio"
    COMPARISON = "comparison"
    MEMORISATION = "memorisation"
    LOSS = "loss"
    EIGENVALUES = "eigenvalues"
    SPECTRUM = "spectrum"
    LAYERS = "layers"
    TENSORS = "tensors"
    MOVEMENT = "movement"
    SNR = "snr"


class PaperWidth(StrEnum):
    """The width of a figure in a paper."""

    ONE_COLUMN = "one-column"
    TWO_COLUMNS = "two-columns"


# Inches: a column of two-column papers (IEEE, ICML), and the text's whole width there.
_INCHES = {PaperWidth.ONE_COLUMN: 3.35, PaperWidth.TWO_COLUMNS: 6.9}
_MISSING = {
    Drawing.LAYERS: "has no table of layers beside it: run `fisher analyze` with -o and without --no-layers",
    Drawing.TENSORS: "has no table of layers beside it: run `fisher analyze` with -o and without --no-layers",
    Drawing.COMPARISON: "has no comparison beside it: run `fisher compare true-vs-empirical` with the same -o",
    Drawing.MEMORISATION: "has no examples marked noisy beside it: run `fisher examples` with --labels and the same -o",
    Drawing.SPECTRUM: "has no spectrum beside it: run `fisher spectrum` with the same -o",
}


def plot(
    reports: Annotated[
        list[Path], typer.Argument(metavar="TABLE...", help="Tables, such as trend.csv.", show_default=False)
    ],
    what: Annotated[
        Drawing, typer.Option("--what", metavar="CHART", help=f"Chart to draw: {', '.join(Drawing)}.")
    ] = Drawing.TRACES,
    output: Annotated[
        Path | None,
        typer.Option(
            "-o",
            "--output",
            metavar="FILE",
            help="Write the figure to this file (.svg .pdf .png). \\[default: TABLE.CHART.svg]",
            show_default=False,
        ),
    ] = None,
    width: Annotated[
        PaperWidth,
        typer.Option("--width", metavar="WIDTH", help="Width of the figure: one-column or two-columns of a paper."),
    ] = PaperWidth.ONE_COLUMN,
    log: Annotated[
        bool | None,
        typer.Option(
            "--log/--linear",
            help="Scale of the vertical axis. \\[default: --log if the values span a factor of 20]",
            show_default=False,
        ),
    ] = None,
    force: options.Force = False,
    quiet: options.Quiet = False,
    debug: options.Debug = False,  # noqa: ARG001 - acted upon by its callback
) -> None:
    """Draw one chart of a table in the size of a paper's column, and print a sentence for its caption.

    Example: fisher plot trend.csv --what traces -o traces.pdf
    """  # noqa: DOC501 - this text is the command's help
    refuse_checkpoints(reports)
    output = output or reports[0].with_suffix(f".{what}.svg")
    check_single(output, (".svg", ".pdf", ".png"), force=force)

    from fisher_cli.reports.charts import SCALED, draw
    from fisher_cli.reports.console import Console
    from fisher_cli.reports.drawing import picture
    from fisher_cli.reports.reported_run import read_runs

    if log is not None and what not in SCALED:
        msg = f"--{'log' if log else 'linear'} is for --what {' or '.join(sorted(SCALED))}: leave it out"
        raise UsageError(msg)
    chart = draw(what, read_runs(reports), _INCHES[width], is_logarithmic=log)
    if chart is None:
        msg = f"{reports[0]} {_MISSING.get(what, f'has no numbers for --what {what}')}"
        raise OutputError(msg)
    write_single(output, picture(chart.figure, output.suffix.lower()[1:], chart.finding), force=force)
    console = Console(quiet=quiet)
    console.message(f"figure: {output}")
    said = " ".join([*chart.finding.splitlines(), chart.note])
    console.message(said.replace("\N{NO-BREAK SPACE}", " "))
    console.next_step(page_of(reports[0]))
