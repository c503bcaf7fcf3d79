"""Which checkpoints and which network."""

from pathlib import Path
from typing import Annotated

import typer

from fisher_cli.cli import completion
from fisher_cli.cli.options.panels import MODEL
from fisher_cli.errors import UsageError

Checkpoints = Annotated[
    list[Path],
    typer.Argument(metavar="CHECKPOINTS", help="Checkpoint files, or folders of them.", show_default=False),
]

Model = Annotated[
    str | None,
    typer.Option(
        "--model",
        metavar="NAME|FACTORY",
        help="The network: a name from `fisher models`, or a function that builds it, such as ./net.py:make "
        "or package.module:make.",
        autocompletion=completion.models,
        show_default="read from the checkpoint",
        rich_help_panel=MODEL,
    ),
]
ModelArguments = Annotated[
    list[str],
    typer.Option(
        "--model-arg",
        metavar="KEY=VALUE",
        help="Argument for the network, such as num_classes=10. Can be repeated.",
        show_default=False,
        rich_help_panel=MODEL,
    ),
]

StateKey = Annotated[
    str | None,
    typer.Option(
        "--state-key",
        metavar="A.B",
        help="Key of the weights in the checkpoint file, such as state_dict.",
        show_default="found automatically",
        rich_help_panel=MODEL,
    ),
]
UseEma = Annotated[
    bool,
    typer.Option(
        "--use-ema",
        metavar="",
        help="Use the moving average of the weights if the file holds one.",
        rich_help_panel=MODEL,
    ),
]
TrustPickle = Annotated[
    bool,
    typer.Option(
        "--trust-pickle",
        metavar="",
        help="Allow checkpoint files to run code while they are read. Use this only for files that you made yourself.",
        rich_help_panel=MODEL,
    ),
]


def key_value(text: str, option: str = "--model-arg") -> tuple[str, str]:
    """The two parts of a --model-arg, or of another option of that form.

    Raises:
        UsageError: it is not of the form KEY=VALUE.
    """
    key, separator, value = text.partition("=")
    if not separator or not key:
        msg = f"{option} {text}: type KEY=VALUE, such as num_classes=10"
        raise UsageError(msg)
    return key, value
