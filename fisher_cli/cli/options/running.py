"""Where and how fast to compute, and how much to say about it."""

import logging
from typing import Annotated

import typer

from fisher_cli.cli.options.panels import OUTPUT, RUNNING
from fisher_cli.settings import Activations

DEBUG_KEY = "fisher.debug"

BatchSize = Annotated[
    str,
    typer.Option(
        "-b", "--batch-size", metavar="auto|N", help="Examples at once; changes no result.", rich_help_panel=RUNNING
    ),
]
ActivationsOption = Annotated[
    Activations,
    typer.Option(
        "--activations",
        help="Keep what layers save for the backward pass, or compute it anew block by block: less memory in a deep "
        "network, about one forward pass more; changes no result.",
        rich_help_panel=RUNNING,
    ),
]
Device = Annotated[
    str,
    typer.Option("--device", metavar="auto|cpu|cuda[:N]", help="Where to compute.", rich_help_panel=RUNNING),
]
Quiet = Annotated[
    bool, typer.Option("--quiet", "-q", metavar="", help="No progress and no remarks.", rich_help_panel=OUTPUT)
]
Follow = Annotated[
    bool,
    typer.Option(
        "--follow",
        metavar="",
        help="Wait for new checkpoints as a training run saves them, until Ctrl-C or --until.",
        rich_help_panel=RUNNING,
    ),
]
Until = Annotated[
    int | None,
    typer.Option(
        "--until",
        metavar="STEP",
        help="With --follow: stop once a checkpoint of this step, or a later one, is measured.",
        show_default=False,
        rich_help_panel=RUNNING,
    ),
]
DryRun = Annotated[
    bool,
    typer.Option(
        "--dry-run",
        metavar="",
        help="Say what it will take in memory and time, from a probe of seconds; write nothing. 4: it does not fit.",
        rich_help_panel=RUNNING,
    ),
]
Devices = Annotated[
    str | None,
    typer.Option(
        "--devices",
        metavar="all|0,1",
        help="Share the checkpoints out among these devices, one process each.",
        show_default=False,
        rich_help_panel=RUNNING,
    ),
]
ShardOption = Annotated[
    str | None,
    typer.Option(
        "--shard",
        metavar="I/N",
        help="Only the I-th of N contiguous shares of the checkpoints; fisher merge joins the parts.",
        show_default=False,
        rich_help_panel=RUNNING,
    ),
]


def _debug(context: typer.Context, wanted: bool) -> None:
    if wanted:
        context.meta[DEBUG_KEY] = True  # shared by the command and all above it
        logging.basicConfig(format="%(message)s")  # for errors that end in a row
        logging.getLogger("fisher_cli").setLevel(logging.DEBUG)


Debug = Annotated[
    bool,
    typer.Option("--debug", metavar="", callback=_debug, help="Show tracebacks of errors."),
]
