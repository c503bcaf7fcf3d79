"""What is computed, and how exactly."""

from typing import Annotated

import typer

from fisher_cli.cli.options.panels import QUANTITIES
from fisher_cli.settings import PRESETS, Estimator, LikelihoodName, MatrixName, SpectrumMethod

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
Preset = Annotated[
    str | None,
    typer.Option(
        "--preset",
        metavar="NAME",
        help="Settings that reproduce a paper's definitions: " + ", ".join(PRESETS) + "; other options win over them.",
        show_default=False,
        rich_help_panel=QUANTITIES,
    ),
]
WeightsOnly = Annotated[
    bool,
    typer.Option(
        "--weights-only/--all-parameters",
        help="Only the weights of linear and convolutional layers: no biases, no norms.",
        rich_help_panel=QUANTITIES,
    ),
]
WithoutHead = Annotated[
    bool,
    typer.Option(
        "--without-head/--with-head",
        help="Leave out the network's last layer with parameters.",
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
NaturalGradientDamping = Annotated[
    str | None,
    typer.Option(
        "--damping",
        metavar="X",
        help="The α of the natural gradients (F + αI)⁻¹ḡ.",
        show_default="a thousandth of the true Fisher's largest eigenvalue",
        rich_help_panel=QUANTITIES,
    ),
]
NullDraws = Annotated[
    int,
    typer.Option(
        "--draws",
        metavar="N",
        help="Sets of labels drawn from the model, for what these would show where no formula says it; 0 for none.",
        rich_help_panel=QUANTITIES,
    ),
]
ComparedCount = Annotated[
    int,
    typer.Option(
        "--eigenvalues",
        metavar="K",
        min=1,
        help="How many leading eigenvalues and eigenvectors of both matrices.",
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
RecalibrateBatchNorm = Annotated[
    bool,
    typer.Option(
        "--recalibrate-bn",
        metavar="",
        help="Recompute the running statistics of batch norms on the analysed examples first.",
        rich_help_panel=QUANTITIES,
    ),
]
PrecisionOption = Annotated[
    str,
    typer.Option(
        "--dtype",
        metavar="NAME",
        help="Precision of the network's evaluation: float32, float64; for traces alone bfloat16, or tf32 on a GPU.",
        rich_help_panel=QUANTITIES,
    ),
]
Seed = Annotated[
    int,
    typer.Option(
        "--seed", metavar="N", help="For the choice of examples and start vectors.", rich_help_panel=QUANTITIES
    ),
]
