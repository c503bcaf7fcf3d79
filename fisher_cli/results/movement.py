"""How far a network moved: from the checkpoint before, or from one of two to the other."""

from dataclasses import dataclass

from fisher_cli.results.traces import Estimate

# How a note begins that says so of a row's batch norms.
UNSETTLED_NOTE = "batch-norm statistics are not"


@dataclass(frozen=True, slots=True, kw_only=True)
class Movement:
    """From the last checkpoint before that has numbers to this one, on the same examples.

    kl: mean KL(q_before ‖ q_now); kl_quadratic: ½ΔᵀFΔ with the F of before, Δ the step of the analysed parameters;
    kl_parameters: the KL if only they had moved, None where nothing else has (batch-norm statistics, what is not
    analysed); trace_change: tr F minus that of before, its error from differences example by example.
    """

    kl: Estimate
    kl_quadratic: Estimate
    kl_parameters: Estimate | None
    trace_change: Estimate

    @property
    def kl_of_parameters(self) -> Estimate:
        """The KL divergence if only the analysed parameters had moved."""
        return self.kl_parameters or self.kl


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerStep:
    """The step Δ = θ_b − θ_a of one parameter tensor.

    distance: ‖Δ‖; relative_distance: ‖Δ‖/‖θ_a‖, None where θ_a is zero; cosine: of the angle between θ_a and θ_b, None
    where one is zero; quadratic_a, quadratic_b: ½ΔᵀFΔ of this tensor's diagonal block at either end.
    """

    name: str
    parameters: int
    distance: float
    relative_distance: float | None
    cosine: float | None
    quadratic_a: Estimate
    quadratic_b: Estimate


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckpointComparison:
    """Two checkpoints a and b of one network on the same examples.

    kl_ab: mean KL(q_a ‖ q_b), kl_ba the other way; kl_ab_parameters: KL(q_a ‖ q) with the analysed parameters of b and
    all else of a, None where nothing else differs; whole: the step of all analysed parameters together, of whose
    ½ΔᵀFΔ cross_terms_a and cross_terms_b are between different tensors; agreement: the share of examples for which
    both predict the same.
    """

    checkpoint_a: str
    checkpoint_b: str
    sha256_a: str | None
    sha256_b: str | None
    step_a: int | None
    step_b: int | None
    architecture: str
    parameters: int
    examples: int
    classes: int
    kl_ab: Estimate
    kl_ba: Estimate
    kl_ab_parameters: Estimate | None
    cross_terms_a: float
    cross_terms_b: float
    agreement: Estimate | None
    loss_a: Estimate
    loss_b: Estimate
    accuracy_a: Estimate | None
    accuracy_b: Estimate | None
    whole: LayerStep
    layers: tuple[LayerStep, ...]
    batch_size: int
    notes: tuple[str, ...] = ()

    @property
    def kl_ab_of_parameters(self) -> Estimate:
        """KL(q_a ‖ q) if only the analysed parameters differed."""
        return self.kl_ab_parameters or self.kl_ab
