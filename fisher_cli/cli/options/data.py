"""Which examples: `--data` and what belongs to it."""

from pathlib import Path
from typing import Annotated

import typer

from fisher_cli.cli.options.panels import DATA

Data = Annotated[
    str,
    typer.Option(
        "--data",
        metavar="NAME|folder:DIR|…",
        help="The examples: a name of `fisher datasets` (digits is built in), folder:DIR with one folder per class, "
        "a .npz, .pt, .safetensors or .parquet file, hf:NAME, or your function as in ./data.py:make.",
        rich_help_panel=DATA,
    ),
]
DataIfAny = Annotated[
    str | None,
    typer.Option(
        "--data",
        metavar="NAME|folder:DIR|…",
        help="Show besides, on a few examples of this dataset, how each parameter's gradient norms are found.",
        show_default="none is needed",
        rich_help_panel=DATA,
    ),
]
DataDir = Annotated[
    Path | None,
    typer.Option(
        "--data-dir",
        envvar="FISHER_DATA_DIR",
        metavar="DIR",
        help="Where named datasets lie.",
        show_default="./data",
        rich_help_panel=DATA,
    ),
]
Split = Annotated[
    str | None,
    typer.Option(
        "--split",
        metavar="NAME",
        help="Which part of the dataset, such as test.",
        show_default="train, where there is one",
        rich_help_panel=DATA,
    ),
]
Limit = Annotated[
    str,
    typer.Option("--limit", metavar="N|all", help="How many of its examples, drawn by --seed.", rich_help_panel=DATA),
]
CoveredLimit = Annotated[
    str,
    typer.Option(
        "--limit",
        metavar="N|all",
        help="With --data: how many of its examples are looked at, drawn by --seed 0.",
        rich_help_panel=DATA,
    ),
]
Labels = Annotated[
    Path | None,
    typer.Option(
        "--labels",
        metavar="FILE",
        help="CSV with columns index, label and perhaps noisy: replaces the dataset's labels.",
        show_default=False,
        rich_help_panel=DATA,
    ),
]
Normalize = Annotated[
    str | None,
    typer.Option(
        "--normalize",
        metavar="NAME|M,…/S,…",
        help="Of pixels scaled to 0…1: cifar10, imagenet, none, …, means/deviations of the channels, weights:NAME, or "
        "auto: the lowest loss.",
        show_default="the dataset's own",
        rich_help_panel=DATA,
    ),
]
Resize = Annotated[
    str | None,
    typer.Option(
        "--resize",
        metavar="N|HxW",
        help="Resize images: the shorter side to N, or to height × width.",
        show_default=False,
        rich_help_panel=DATA,
    ),
]
Crop = Annotated[
    str | None,
    typer.Option(
        "--crop",
        metavar="N|HxW",
        help="Then take the centre of images.",
        show_default=False,
        rich_help_panel=DATA,
    ),
]
DataArguments = Annotated[
    list[str],
    typer.Option(
        "--data-arg",
        metavar="KEY=VALUE",
        help="Argument of the data's function, such as split=test; may be repeated.",
        show_default=False,
        rich_help_panel=DATA,
    ),
]
Download = Annotated[
    bool, typer.Option("--download", metavar="", help="Fetch the dataset if it is missing.", rich_help_panel=DATA)
]
