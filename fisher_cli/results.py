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
class Coverage:
    """How the gradient norms of one parameter tensor were found: its number of values, the rule, the work.

    `work` is the tensor's share of all operations after the forward pass, from 0 to 1; None where not counted.
    """

    name: str
    values: int
    method: str
    work: float | None


@dataclass(frozen=True, slots=True)
class Ledger:
    """The coverage ledger: every analysed parameter tensor once, nothing dropped.

    `directions` is the number of backward passes per batch, and `backward` their share of the work, which all
    tensors have in common: with it the shares add up to one.
    """

    entries: tuple[Coverage, ...]
    directions: int
    backward: float | None


@dataclass(frozen=True, slots=True)
class Check:
    """The run-time check: some examples and directions recomputed with plain autograd, one by one.

    largest_relative_difference: of any parameter's squared gradient norm, relative to the larger of that norm and
    a thousandth of all parameters' together; above `tolerance` the row fails. precision: of the look that decided,
    float64 where float32 differed.
    """

    examples: int
    directions: int
    largest_relative_difference: float
    tolerance: float
    precision: str


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


class SpectralAxis(StrEnum):
    """The axis on which a density of eigenvalues is shown."""

    LOGARITHMIC = "logarithmic"
    LINEAR = "linear"


@dataclass(frozen=True, slots=True, kw_only=True)
class Density:
    """The distribution of all P = `size` eigenvalues λ of one matrix, from the quadratures of random probes.

    nodes, weights: per probe, with Σ_j w_j f(θ_j) + Σ f(exact) / P ≈ tr f / P; `exact` are eigenvalues known already.
    zeros: share of the eigenvalues below `floor`, which the curve leaves out.
    grid, density: share of the eigenvalues per decade (logarithmic axis) or per unit of λ (linear), each of them a
    Gaussian with the standard deviation `width` in that unit; the curve's integral and `zeros` add up to one.
    cumulative: share of the eigenvalues ≤ λ, not broadened, with its standard error over probes (None for one
    probe); cumulative_range: what it can be at least and at most, given these probes.
    """

    size: int
    axis: SpectralAxis
    width: float
    floor: float
    zeros: Estimate
    grid: tuple[float, ...]
    density: tuple[float, ...]
    cumulative: tuple[float, ...]
    cumulative_error: tuple[float, ...] | None
    cumulative_range: tuple[tuple[float, float], ...]
    nodes: tuple[tuple[float, ...], ...]
    weights: tuple[tuple[float, ...], ...]
    exact: tuple[float, ...]
    products: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Spectrum:
    """The eigenvalues λ of the true or the empirical Fisher, all or the leading ones, and what they say.

    values: the leading ones and, where `is_whole`, all others above `floor`, below which an eigenvalue cannot be told
    from zero; no true one exceeds its value by more than `bound`. shares: Σ_{i≤k} λ_i / tr for each of them.
    gaps: λ_i/λ_{i+1} of the leading. errors: their standard errors over examples, by bootstrap.
    effective_rank: (Σ λ)²/Σ λ², from `norm_probes` random vectors where Σ λ² is not known exactly;
    effective_dimension: Σ λ/(λ + `damping`). gradient_share: ‖V_kᵀ ḡ‖²/‖ḡ‖² of the leading eigenvectors;
    overlap: ‖V_kᵀ W_l‖_F²/min(k, l) with those of the checkpoint before. products: those beyond `leading.products`.
    """

    matrix: str
    parameters: int
    leading: Eigenvalues
    values: tuple[float, ...]
    is_whole: bool
    floor: float
    bound: float
    trace: float
    shares: tuple[float, ...]
    gaps: tuple[float, ...]
    damping: float
    errors: tuple[float, ...] | None = None
    effective_rank: Estimate | None = None
    norm_probes: int = 0
    effective_dimension: Estimate | None = None
    gradient_share: float | None = None
    overlap: float | None = None
    density: Density | None = None
    products: int = 0
    notes: tuple[str, ...] = ()

    @property
    def rank(self) -> int | None:
        """The number of eigenvalues above the floor; None where not all are known."""
        return sum(value > self.floor for value in self.values) if self.is_whole else None


@dataclass(frozen=True, slots=True, kw_only=True)
class Inspection:
    """What a checkpoint file is, without looking at any data; what was not found out is None.

    `integrity` says whether the format has checksums; `weights_key` where in the file the weights were,
    `tensors` how many there are; `architecture_source` who chose the network; `parameters` are its trainable
    values. `error` and `notes` are as in Measurement.
    """

    checkpoint: str
    status: Status
    error: str = ""
    sha256: str | None = None
    step: int | None = None
    epoch: float | None = None
    format: str | None = None
    integrity: str | None = None
    weights_key: str | None = None
    weights: WeightsKind | None = None
    tensors: int | None = None
    architecture: str | None = None
    architecture_source: str | None = None
    parameters: int | None = None
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Measurement:
    """Everything found out about one checkpoint: one row of the report.

    `error` is one line, "" when all is well. `notes` are remarks that do not make the row fail.
    `timings` are seconds by stage; they go to the run's record, never into a table. `memory_ran_out_at` is the
    number of examples at once for which memory did not suffice, before `batch_size` was taken instead.
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
    ledger: Ledger | None = None
    check: Check | None = None
    memory_ran_out_at: int | None = None
    spectra: tuple[Spectrum, ...] = ()
