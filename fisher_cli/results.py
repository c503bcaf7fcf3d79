"""What an analysis finds out: frozen values with their errors and statuses; standard library only.

Everywhere: natural logarithms, mean over examples, sum over classes, evaluation mode.
"""

from dataclasses import dataclass
from enum import StrEnum


class Status(StrEnum):
    """How a checkpoint's row ended."""

    OK = "ok"
    NOT_CONVERGED = "not-converged"  # some eigenvalue's residual stayed above the tolerance; its value is kept
    REJECTED = "rejected"  # the file could not be used
    FAILED = "failed"  # the computation broke


class WeightsKind(StrEnum):
    """Which of the weights in a checkpoint were analysed."""

    RAW = "raw"
    EMA = "ema"
    AVERAGED = "averaged"


@dataclass(frozen=True, slots=True)
class Estimate:
    """A value with its standard error over examples; None where the error is not known.

    `standard_error` is sd / √N with N − 1 in the sd: the error of the mean as an estimate over the data's
    distribution. `estimator_error` is what sampling of labels or signs adds: 0 when the estimator is
    exact, None when one draw per example cannot tell, and `standard_error` then contains it.
    """

    value: float
    standard_error: float | None = None
    estimator_error: float | None = 0.0


@dataclass(frozen=True, slots=True)
class LayerTrace:
    """The share of one parameter tensor in both traces, and the rule that computed it."""

    name: str
    parameters: int
    method: str
    true: Estimate
    empirical: Estimate


@dataclass(frozen=True, slots=True)
class Trace:
    """Both Fisher traces of one network on one set of examples.

    true: tr F = mean_n Σ_k ‖J_nᵀ s_nk‖²; empirical: tr F̂ = mean_n ‖J_nᵀ (p_n − e_y)‖²;
    ratio: tr F̂ / tr F with its delta-method error over the same examples, None when tr F = 0;
    per_example_*: the N terms of the two means, in order of the examples.
    """

    estimator: str
    true: Estimate
    empirical: Estimate
    ratio: Estimate | None
    layers: tuple[LayerTrace, ...]
    per_example_true: tuple[float, ...]
    per_example_empirical: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class Gradient:
    """The mean gradient ḡ against the spread of the per-example gradients.

    norm_squared: ‖ḡ‖²; covariance: tr Σ = tr F̂ − ‖ḡ‖²; signal_to_noise: (‖ḡ‖² − s²/N) / s² with
    s² = N/(N − 1) · tr Σ, None where it is not above zero or not defined.
    """

    norm_squared: float
    covariance: float
    signal_to_noise: Estimate | None


@dataclass(frozen=True, slots=True)
class Predictions:
    """How well the network predicts: loss = mean −log p(y), accuracy a fraction, entropy of p, in nats.

    accuracy is None where the likelihood has no classes.
    """

    loss: Estimate
    accuracy: Estimate | None
    entropy: Estimate


@dataclass(frozen=True, slots=True)
class Eigenvalues:
    """The largest eigenvalues, in descending order, each with its explicit residual ‖Fv − θv‖.

    `method` says how they were found; `converged` whether every residual is below tolerance · θ₁;
    `products` how many matrix–vector products it took; `note` what a reader should know, else "".
    """

    values: tuple[float, ...]
    residuals: tuple[float, ...]
    method: str
    converged: bool
    products: int
    note: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Measurement:
    """Everything found out about one checkpoint: one row of the report.

    `error` is one line, "" when all is well. `notes` are remarks that do not make the row fail.
    `timings` are seconds by stage; they go to the run's record, never into a table.
    """

    checkpoint: str
    status: Status
    error: str = ""
    sha256: str | None = None
    step: int | None = None
    epoch: float | None = None
    architecture: str | None = None
    weights: WeightsKind | None = None
    parameters: int | None = None
    examples: int | None = None
    classes: int | None = None
    predictions: Predictions | None = None
    trace: Trace | None = None
    gradient: Gradient | None = None
    eigenvalues_true: Eigenvalues | None = None
    eigenvalues_empirical: Eigenvalues | None = None
    batch_size: int | None = None
    notes: tuple[str, ...] = ()
    timings: tuple[tuple[str, float], ...] = ()
