"""Which examples: `--data` and what belongs to it."""

from pathlib import Path
from typing import Annotated

import typer

from fisher_cli.cli import completion
from fisher_cli.cli.options.panels import DATA

Data = Annotated[
    str,
    typer.Option(
        "--data",
        metavar="DATA",
        help="The dataset: a name from `fisher datasets`, folder:DIR (one folder per class), a .npz, .pt, "
        ".safetensors or .parquet file, hf:NAME, or a function of yours such as ./data.py:make.",
        autocompletion=completion.data,
        rich_help_panel=DATA,
    ),
]
DataIfAny = Annotated[
    str | None,
    typer.Option(
        "--data",
        metavar="DATA",
        help="A dataset. A few of its examples show by which method each parameter's gradient norms are computed.",
        autocompletion=completion.data,
        show_default="no data",
        rich_help_panel=DATA,
    ),
]
PageData = Annotated[
    str | None,
    typer.Option(
        "--data",
        metavar="DATA",
        help="Dataset that the table was made from. The page then shows the examples with the largest trace as "
        "pictures. Split and preparation are taken from the table.",
        autocompletion=completion.data,
        show_default=False,
        rich_help_panel=DATA,
    ),
]
PageLabels = Annotated[
    Path | None,
    typer.Option(
        "--labels",
        metavar="FILE",
        help="File of labels for --data, if the table was made with one.",
        show_default=False,
        rich_help_panel=DATA,
    ),
]
DataDir = Annotated[
    Path | None,
    typer.Option(
        "--data-dir",
        envvar="FISHER_DATA_DIR",
        metavar="DIR",
        help="Directory that holds the named datasets.",
        show_default="./data",
        rich_help_panel=DATA,
    ),
]
Split = Annotated[
    str | None,
    typer.Option(
        "--split",
        metavar="NAME",
        help="Part of the dataset, such as test.",
        show_default="train, if it exists",
        rich_help_panel=DATA,
    ),
]
Limit = Annotated[
    str,
    typer.Option(
        "--limit", metavar="N|all", help="Number of examples, drawn at random with --seed.", rich_help_panel=DATA
    ),
]
CoveredLimit = Annotated[
    str,
    typer.Option(
        "--limit",
        metavar="N|all",
        help="Number of examples that --data provides, drawn at random.",
        rich_help_panel=DATA,
    ),
]
Labels = Annotated[
    Path | None,
    typer.Option(
        "--labels",
        metavar="FILE",
        help="CSV file with other labels: columns index, label and optionally noisy.",
        show_default=False,
        rich_help_panel=DATA,
    ),
]
Normalize = Annotated[
    str | None,
    typer.Option(
        "--normalize",
        metavar="NAME|M,…/S,…",
        help="Normalisation of pixels in [0, 1]: the constants of cifar10, imagenet, …; none; MEANS/DEVIATIONS of the "
        "channels; weights:NAME; or auto (the constants with the lowest loss).",
        show_default="the dataset's constants",
        rich_help_panel=DATA,
    ),
]
Resize = Annotated[
    str | None,
    typer.Option(
        "--resize",
        metavar="N|HxW",
        help="Resize images until the shorter side has N pixels, or to height × width.",
        show_default=False,
        rich_help_panel=DATA,
    ),
]
Crop = Annotated[
    str | None,
    typer.Option(
        "--crop",
        metavar="N|HxW",
        help="Cut out the centre of each image after resizing.",
        show_default=False,
        rich_help_panel=DATA,
    ),
]
Grayscale = Annotated[
    bool,
    typer.Option(
        "--grayscale",
        metavar="",
        help="Convert images of three channels to one. Grey images have one wherever the network takes one.",
        rich_help_panel=DATA,
    ),
]
DataArguments = Annotated[
    list[str],
    typer.Option(
        "--data-arg",
        metavar="KEY=VALUE",
        help="Argument for the function that --data names, such as split=test. Can be repeated.",
        show_default=False,
        rich_help_panel=DATA,
    ),
]
Download = Annotated[
    bool, typer.Option("--download", metavar="", help="Download the dataset if it is missing.", rich_help_panel=DATA)
]
