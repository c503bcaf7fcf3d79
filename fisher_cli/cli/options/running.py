"""Where and how fast to compute, and how much to say about it."""

import logging
from typing import Annotated

import typer

from fisher_cli.cli.help_format import show_everything
from fisher_cli.cli.options.panels import OUTPUT, RUNNING
from fisher_cli.settings import Activations

DEBUG_KEY = "fisher.debug"

BatchSize = Annotated[
    str,
    typer.Option(
        "-b",
        "--batch-size",
        metavar="auto|N",
        help="Number of examples per batch. It does not change the results.",
        rich_help_panel=RUNNING,
    ),
]
ActivationsOption = Annotated[
    Activations,
    typer.Option(
        "--activations",
        help="Keep activations for the backward pass, or recompute them block by block, which saves memory in deep "
        "networks and costs about one more forward pass. The results do not change.",
        rich_help_panel=RUNNING,
    ),
]
Device = Annotated[
    str,
    typer.Option("--device", metavar="NAME", help="auto, cpu, cuda or cuda:N.", rich_help_panel=RUNNING),
]
Quiet = Annotated[
    bool, typer.Option("--quiet", "-q", metavar="", help="Print neither progress nor remarks.", rich_help_panel=OUTPUT)
]
Follow = Annotated[
    bool,
    typer.Option(
        "--follow",
        metavar="",
        help="Wait for new checkpoints while training goes on, until Ctrl-C or --until.",
        rich_help_panel=RUNNING,
    ),
]
Until = Annotated[
    int | None,
    typer.Option(
        "--until",
        metavar="STEP",
        help="Stop --follow after the first checkpoint of this step or a later one.",
        show_default=False,
        rich_help_panel=RUNNING,
    ),
]
DryRun = Annotated[
    bool,
    typer.Option(
        "--dry-run",
        metavar="",
        help="Estimate memory and time, and stop. Exit code 4 if memory does not suffice.",
        rich_help_panel=RUNNING,
    ),
]
Devices = Annotated[
    str | None,
    typer.Option(
        "--devices",
        metavar="all|0,1",
        help="Distribute the checkpoints over these devices, with one process for each.",
        show_default=False,
        rich_help_panel=RUNNING,
    ),
]
ShardOption = Annotated[
    str | None,
    typer.Option(
        "--shard",
        metavar="I/N",
        help="Analyse only the I-th of N consecutive parts of the checkpoints. fisher merge joins the parts.",
        show_default=False,
        rich_help_panel=RUNNING,
    ),
]


def _debug(context: typer.Context, wanted: bool) -> None:
    if wanted:
        context.meta[DEBUG_KEY] = True  # shared by the command and all above it
        logging.basicConfig(format="%(message)s")  # for errors that end in a row
        logging.getLogger("fisher_cli").setLevel(logging.DEBUG)


HelpAll = Annotated[
    bool,
    typer.Option(
        "--help-all", metavar="", is_eager=True, callback=show_everything, help="Show all options of this command."
    ),
]
Debug = Annotated[
    bool,
    typer.Option("--debug", metavar="", callback=_debug, help="Show the Python traceback of an error."),
]
