"""The options that commands share, each said once."""

from pathlib import Path
from typing import Annotated

import typer

from fisher_cli.outputs import Format
from fisher_cli.settings import Estimator, LikelihoodName, Precision

DATA, MODEL, QUANTITIES, RUNNING, OUTPUT = "Data", "Model", "Quantities", "Running", "Output"

Checkpoints = Annotated[
    list[Path],
    typer.Argument(help="Checkpoint files or folders of them, such as ckpts/.", show_default=False),
]

Data = Annotated[
    str,
    typer.Option(
        "--data",
        metavar="NAME|folder:DIR",
        help="The dataset: digits (built in), cifar10, mnist, …, or folder:DIR with one folder per class.",
        rich_help_panel=DATA,
    ),
]
DataDir = Annotated[
    Path | None,
    typer.Option(
        "--data-dir",
        envvar="FISHER_DATA_DIR",
        help="Where named datasets lie.  [default: ./data]",
        show_default=False,
        rich_help_panel=DATA,
    ),
]
Split = Annotated[
    str | None,
    typer.Option(
        "--split", help="Which part of the dataset.  [default: train]", show_default=False, rich_help_panel=DATA
    ),
]
Limit = Annotated[
    str,
    typer.Option("--limit", metavar="N|all", help="How many examples, drawn by --seed.", rich_help_panel=DATA),
]
Labels = Annotated[
    Path | None,
    typer.Option(
        "--labels",
        metavar="FILE",
        help="CSV index,label[,noisy] that replaces the dataset's labels.",
        show_default=False,
        rich_help_panel=DATA,
    ),
]
Normalize = Annotated[
    str | None,
    typer.Option(
        "--normalize",
        metavar="NAME|m1,m2,m3/s1,s2,s3",
        help="Mean and deviation of pixels scaled to 0…1: cifar10, imagenet, none, …  [default: the dataset's own]",
        show_default=False,
        rich_help_panel=DATA,
    ),
]
Download = Annotated[bool, typer.Option("--download", help="Fetch the dataset if it is missing.", rich_help_panel=DATA)]

Model = Annotated[
    str | None,
    typer.Option(
        "--model",
        metavar="NAME|package.module:factory|./file.py:factory",
        help="The network, such as resnet18 or ./net.py:make.  [default: what the checkpoint names]",
        show_default=False,
        rich_help_panel=MODEL,
    ),
]
ModelArguments = Annotated[
    list[str],
    typer.Option(
        "--model-arg",
        metavar="KEY=VALUE",
        help="Argument of the factory, such as num_classes=10; may be repeated.",
        show_default=False,
        rich_help_panel=MODEL,
    ),
]
StateKey = Annotated[
    str | None,
    typer.Option(
        "--state-key",
        metavar="A.B",
        help="Where in the file the weights are, such as state_dict.  [default: found]",
        show_default=False,
        rich_help_panel=MODEL,
    ),
]

EstimatorOption = Annotated[
    Estimator, typer.Option("--estimator", help="How the true Fisher's trace is computed.", rich_help_panel=QUANTITIES)
]
EigenvalueCount = Annotated[
    int,
    typer.Option(
        "--eigenvalues", metavar="K", min=0, help="How many top eigenvalues; 0 for none.", rich_help_panel=QUANTITIES
    ),
]
Include = Annotated[
    list[str],
    typer.Option(
        "--include", metavar="GLOB", help="Only parameters named so, such as 'layer4.*'.", rich_help_panel=QUANTITIES
    ),
]
Exclude = Annotated[
    list[str],
    typer.Option(
        "--exclude",
        metavar="GLOB",
        help="No parameters named so, such as '*.bias'.",
        show_default=False,
        rich_help_panel=QUANTITIES,
    ),
]
LikelihoodOption = Annotated[
    LikelihoodName,
    typer.Option(
        "--likelihood",
        help="What the outputs mean; auto: sigmoid for one output, else softmax.",
        rich_help_panel=QUANTITIES,
    ),
]
PrecisionOption = Annotated[
    Precision, typer.Option("--dtype", help="Precision of the network's evaluation.", rich_help_panel=QUANTITIES)
]
Seed = Annotated[
    int, typer.Option("--seed", help="Of the choice of examples and of start vectors.", rich_help_panel=QUANTITIES)
]

BatchSize = Annotated[
    str,
    typer.Option("-b", "--batch-size", metavar="auto|N", help="Examples at once.", rich_help_panel=RUNNING),
]
Device = Annotated[
    str,
    typer.Option("--device", metavar="auto|cpu|cuda|cuda:N", help="Where to compute.", rich_help_panel=RUNNING),
]

Output = Annotated[
    Path | None,
    typer.Option(
        "-o",
        "--output",
        metavar="FILE|-",
        help="Report file (.csv .tsv .json .jsonl .parquet) and its layer table and record; - for rows on stdout.",
        show_default=False,
        rich_help_panel=OUTPUT,
    ),
]
FormatOption = Annotated[
    Format | None,
    typer.Option(
        "--format",
        help="Form of what goes to stdout.  [default: table on a terminal, csv when piped]",
        show_default=False,
        rich_help_panel=OUTPUT,
    ),
]
Layers = Annotated[
    bool,
    typer.Option(
        "--layers/--no-layers", help="Write the per-layer table beside a report file.", rich_help_panel=OUTPUT
    ),
]
Force = Annotated[
    bool, typer.Option("--force", help="Replace an output file that is not a report of fisher.", rich_help_panel=OUTPUT)
]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="No progress and no remarks.", rich_help_panel=OUTPUT)]
