"""The options that commands share, each said once."""

import logging
from pathlib import Path
from typing import Annotated

import typer

from fisher_cli.errors import UsageError
from fisher_cli.outputs import Format
from fisher_cli.settings import Estimator, LikelihoodName, MatrixName, Precision, SpectrumMethod

DEBUG_KEY = "fisher.debug"
DATA, MODEL, QUANTITIES, RUNNING, OUTPUT = "Data", "Model", "Quantities", "Running", "Output"

Checkpoints = Annotated[
    list[Path],
    typer.Argument(
        metavar="CHECKPOINTS", help="Checkpoint files, or folders of them such as ckpts/.", show_default=False
    ),
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
DataIfAny = Annotated[
    str | None,
    typer.Option(
        "--data",
        metavar="NAME|folder:DIR",
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
        help="Of pixels scaled to 0…1: cifar10, imagenet, none, …, or means/deviations of the channels.",
        show_default="the dataset's own",
        rich_help_panel=DATA,
    ),
]
Download = Annotated[
    bool, typer.Option("--download", metavar="", help="Fetch the dataset if it is missing.", rich_help_panel=DATA)
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


def key_value(text: str) -> tuple[str, str]:
    """The two parts of a --model-arg.

    Raises:
        UsageError: it is not of the form KEY=VALUE.
    """
    key, separator, value = text.partition("=")
    if not separator or not key:
        msg = f"--model-arg {text}: type KEY=VALUE, such as num_classes=10"
        raise UsageError(msg)
    return key, value


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

EstimatorOption = Annotated[
    Estimator,
    typer.Option(
        "--estimator",
        metavar="NAME",
        help="Of the true trace: exact, deflated, sampled, or auto: exact up to 32 classes, deflated above.",
        rich_help_panel=QUANTITIES,
    ),
]
Samples = Annotated[
    int,
    typer.Option(
        "--samples", metavar="S", min=1, help="Labels per example for --estimator sampled.", rich_help_panel=QUANTITIES
    ),
]
TargetError = Annotated[
    str | None,
    typer.Option(
        "--target-error",
        metavar="X",
        help="Error that --estimator deflated may add, relative to the trace.",
        show_default="a tenth of the standard error",
        rich_help_panel=QUANTITIES,
    ),
]
EigenvalueCount = Annotated[
    int,
    typer.Option(
        "--eigenvalues", metavar="K", help="How many top eigenvalues; 0 for none.", rich_help_panel=QUANTITIES
    ),
]
LeadingCount = Annotated[
    int,
    typer.Option(
        "--eigenvalues",
        metavar="K",
        min=1,
        help="How many leading eigenvalues get a residual, a standard error and an eigenvector.",
        rich_help_panel=QUANTITIES,
    ),
]
Matrix = Annotated[
    MatrixName,
    typer.Option(
        "--matrix",
        metavar="NAME",
        help="Whose: the true or the empirical Fisher's, or both.",
        rich_help_panel=QUANTITIES,
    ),
]
SpectrumMethodOption = Annotated[
    SpectrumMethod,
    typer.Option(
        "--method",
        metavar="NAME",
        help="Beyond the leading ones: whole (all eigenvalues), density (from random probes), or auto: whole where "
        "examples × (classes − 1), or the parameters, are at most 4000.",
        rich_help_panel=QUANTITIES,
    ),
]
Damping = Annotated[
    str | None,
    typer.Option(
        "--damping",
        metavar="X",
        help="The α of the effective dimension Σ λ/(λ + α).",
        show_default="1 / examples",
        rich_help_panel=QUANTITIES,
    ),
]
Probes = Annotated[
    int,
    typer.Option("--probes", metavar="N", min=1, help="Random vectors of a density.", rich_help_panel=QUANTITIES),
]
Steps = Annotated[
    int,
    typer.Option("--steps", metavar="N", min=2, help="Lanczos steps for each of them.", rich_help_panel=QUANTITIES),
]
Include = Annotated[
    list[str],
    typer.Option(
        "--include",
        metavar="GLOB",
        help="Only parameters named so, such as 'layer4.*'; may be repeated.",
        rich_help_panel=QUANTITIES,
    ),
]
Exclude = Annotated[
    list[str],
    typer.Option(
        "--exclude",
        metavar="GLOB",
        help="No parameters named so, such as '*.bias'; may be repeated.",
        show_default=False,
        rich_help_panel=QUANTITIES,
    ),
]
LikelihoodOption = Annotated[
    LikelihoodName,
    typer.Option(
        "--likelihood",
        metavar="NAME",
        help="What the outputs mean: softmax, sigmoid, gaussian, or auto: sigmoid for one output, else softmax.",
        rich_help_panel=QUANTITIES,
    ),
]
PrecisionOption = Annotated[
    Precision, typer.Option("--dtype", help="Precision of the network's evaluation.", rich_help_panel=QUANTITIES)
]
Seed = Annotated[
    int,
    typer.Option(
        "--seed", metavar="N", help="For the choice of examples and start vectors.", rich_help_panel=QUANTITIES
    ),
]

BatchSize = Annotated[
    str,
    typer.Option(
        "-b", "--batch-size", metavar="auto|N", help="Examples at once; changes no result.", rich_help_panel=RUNNING
    ),
]
Device = Annotated[
    str,
    typer.Option("--device", metavar="auto|cpu|cuda[:N]", help="Where to compute.", rich_help_panel=RUNNING),
]

Output = Annotated[
    Path | None,
    typer.Option(
        "-o",
        "--output",
        metavar="FILE|-",
        help="Report file (.csv .tsv .json .jsonl .parquet); a table of layers and a record go beside it; "
        "or - for rows on stdout.",
        show_default=False,
        rich_help_panel=OUTPUT,
    ),
]
InspectionOutput = Annotated[
    Path | None,
    typer.Option(
        "-o",
        "--output",
        metavar="FILE|-",
        help="Report file (.csv .tsv .json .jsonl .parquet); with --data a table of parameters goes beside it; "
        "or - for rows on stdout.",
        show_default=False,
        rich_help_panel=OUTPUT,
    ),
]
SpectrumOutput = Annotated[
    Path | None,
    typer.Option(
        "-o",
        "--output",
        metavar="FILE|-",
        help="Report file (.csv .tsv .json .jsonl .parquet), written as NAME.spectrum with NAME.density and a record "
        "beside it; or - for rows on stdout.",
        show_default=False,
        rich_help_panel=OUTPUT,
    ),
]
FormatOption = Annotated[
    Format | None,
    typer.Option(
        "--format",
        metavar="FORMAT",
        help="Of what goes to stdout: table, csv, tsv, json, jsonl or parquet.",
        show_default="table on a terminal, csv when piped",
        rich_help_panel=OUTPUT,
    ),
]
Layers = Annotated[
    bool,
    typer.Option(
        "--layers/--no-layers",
        metavar="",
        help="Write the per-layer table beside a report file.",
        rich_help_panel=OUTPUT,
    ),
]
Force = Annotated[
    bool,
    typer.Option(
        "--force", metavar="", help="Replace an output file that is not a report of fisher.", rich_help_panel=OUTPUT
    ),
]
Quiet = Annotated[
    bool, typer.Option("--quiet", "-q", metavar="", help="No progress and no remarks.", rich_help_panel=OUTPUT)
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
