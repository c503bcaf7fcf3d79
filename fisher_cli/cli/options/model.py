"""Which checkpoints and which network."""

from pathlib import Path
from typing import Annotated

import typer

from fisher_cli.cli.options.panels import MODEL
from fisher_cli.errors import UsageError

Checkpoints = Annotated[
    list[Path],
    typer.Argument(
        metavar="CHECKPOINTS", help="Checkpoint files, or folders of them such as ckpts/.", show_default=False
    ),
]

Model = Annotated[
    str | None,
    typer.Option(
        "--model",
        metavar="NAME|FACTORY",
        help="The network: a name of `fisher models`, or the function that makes it, as in ./net.py:make "
        "or package.module:make.",
        show_default="what the checkpoint names",
        rich_help_panel=MODEL,
    ),
]
ModelArguments = Annotated[
    list[str],
    typer.Option(
        "--model-arg",
        metavar="KEY=VALUE",
        help="Argument of the network's function, such as num_classes=10; may be repeated.",
        show_default=False,
        rich_help_panel=MODEL,
    ),
]

StateKey = Annotated[
    str | None,
    typer.Option(
        "--state-key",
        metavar="A.B",
        help="Where in the file the weights are, such as state_dict.",
        show_default="found",
        rich_help_panel=MODEL,
    ),
]
UseEma = Annotated[
    bool,
    typer.Option(
        "--use-ema",
        metavar="",
        help="Take the moving average of the weights where a file has one, instead of the weights themselves.",
        rich_help_panel=MODEL,
    ),
]
TrustPickle = Annotated[
    bool,
    typer.Option(
        "--trust-pickle",
        metavar="",
        help="Let files that need it run their own code while they are read: only for files that you made yourself.",
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
