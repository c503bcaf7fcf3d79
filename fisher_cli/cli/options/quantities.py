"""What is computed, and how exactly."""

from typing import Annotated

import typer

from fisher_cli.cli import completion
from fisher_cli.cli.options.panels import QUANTITIES
from fisher_cli.settings import PRESETS, Estimator, LikelihoodName, MatrixName, SpectrumMethod

EstimatorOption = Annotated[
    Estimator,
    typer.Option(
        "--estimator",
        metavar="NAME",
        help="Estimator of the true trace: exact, deflated, sampled, or auto (exact up to 32 classes, deflated above).",
        rich_help_panel=QUANTITIES,
    ),
]
Samples = Annotated[
    int,
    typer.Option(
        "--samples",
        metavar="S",
        min=1,
        help="Number of labels that --estimator sampled draws per example.",
        rich_help_panel=QUANTITIES,
    ),
]
TargetError = Annotated[
    str | None,
    typer.Option(
        "--target-error",
        metavar="X",
        help="Largest error that --estimator deflated may add, relative to the trace.",
        show_default="a tenth of the standard error",
        rich_help_panel=QUANTITIES,
    ),
]
Preset = Annotated[
    str | None,
    typer.Option(
        "--preset",
        metavar="NAME",
        help=f"Use the definitions of a paper: {', '.join(PRESETS)}. Other options take precedence.",
        autocompletion=completion.presets,
        show_default=False,
        rich_help_panel=QUANTITIES,
    ),
]
WeightsOnly = Annotated[
    bool,
    typer.Option(
        "--weights-only/--all-parameters",
        help="Analyse only the weights of linear and convolutional layers, without biases and normalisation layers.",
        rich_help_panel=QUANTITIES,
    ),
]
WithoutHead = Annotated[
    bool,
    typer.Option(
        "--without-head/--with-head",
        help="Leave out the last layer that has parameters.",
        rich_help_panel=QUANTITIES,
    ),
]
EigenvalueCount = Annotated[
    int,
    typer.Option(
        "--eigenvalues", metavar="K", help="Number of largest eigenvalues; 0 for none.", rich_help_panel=QUANTITIES
    ),
]
LeadingCount = Annotated[
    int,
    typer.Option(
        "--eigenvalues",
        metavar="K",
        min=1,
        help="Number of largest eigenvalues with residual and standard error.",
        rich_help_panel=QUANTITIES,
    ),
]
Matrix = Annotated[
    MatrixName,
    typer.Option(
        "--matrix",
        metavar="NAME",
        help="Which matrix: true, empirical or both.",
        rich_help_panel=QUANTITIES,
    ),
]
SpectrumMethodOption = Annotated[
    SpectrumMethod,
    typer.Option(
        "--method",
        metavar="NAME",
        help="How to compute the rest of the spectrum: whole (all eigenvalues), density (from random probes), or auto "
        "(whole if examples × (classes − 1), or the number of parameters, is at most 4000).",
        rich_help_panel=QUANTITIES,
    ),
]
Damping = Annotated[
    str | None,
    typer.Option(
        "--damping",
        metavar="X",
        help="Damping α of the effective dimension Σ λ/(λ + α).",
        show_default="1 / examples",
        rich_help_panel=QUANTITIES,
    ),
]
NaturalGradientDamping = Annotated[
    str | None,
    typer.Option(
        "--damping",
        metavar="X",
        help="Damping α of the natural gradients (F + αI)⁻¹ḡ.",
        show_default="a thousandth of the true Fisher's largest eigenvalue",
        rich_help_panel=QUANTITIES,
    ),
]
NullDraws = Annotated[
    int,
    typer.Option(
        "--draws",
        metavar="N",
        help="Number of label sets drawn from the model, for null distributions without a closed form; 0 for none.",
        rich_help_panel=QUANTITIES,
    ),
]
ComparedCount = Annotated[
    int,
    typer.Option(
        "--eigenvalues",
        metavar="K",
        min=1,
        help="Number of largest eigenvalues to compare.",
        rich_help_panel=QUANTITIES,
    ),
]
Probes = Annotated[
    int,
    typer.Option(
        "--probes", metavar="N", min=1, help="Number of random vectors for the density.", rich_help_panel=QUANTITIES
    ),
]
Steps = Annotated[
    int,
    typer.Option("--steps", metavar="N", min=2, help="Lanczos steps per random vector.", rich_help_panel=QUANTITIES),
]
Include = Annotated[
    list[str],
    typer.Option(
        "--include",
        metavar="GLOB",
        help="Analyse only parameters whose names match this pattern, such as 'layer4.*'. Can be repeated.",
        rich_help_panel=QUANTITIES,
    ),
]
Exclude = Annotated[
    list[str],
    typer.Option(
        "--exclude",
        metavar="GLOB",
        help="Leave out parameters whose names match this pattern, such as '*.bias'. Can be repeated.",
        show_default=False,
        rich_help_panel=QUANTITIES,
    ),
]
LikelihoodOption = Annotated[
    LikelihoodName,
    typer.Option(
        "--likelihood",
        metavar="NAME",
        help="Likelihood of the outputs: softmax, sigmoid, gaussian, or auto (sigmoid for one output, else softmax).",
        rich_help_panel=QUANTITIES,
    ),
]
RecalibrateBatchNorm = Annotated[
    bool,
    typer.Option(
        "--recalibrate-bn",
        metavar="",
        help="Recompute the running statistics of batch-norm layers on the analysed examples first.",
        rich_help_panel=QUANTITIES,
    ),
]
PrecisionOption = Annotated[
    str,
    typer.Option(
        "--dtype",
        metavar="NAME",
        help="Precision of the network: float32 or float64; for traces alone also bfloat16, or tf32 on a GPU.",
        rich_help_panel=QUANTITIES,
    ),
]
Seed = Annotated[
    int,
    typer.Option(
        "--seed",
        metavar="N",
        help="Seed for the choice of examples, drawn labels and random vectors.",
        rich_help_panel=QUANTITIES,
    ),
]
