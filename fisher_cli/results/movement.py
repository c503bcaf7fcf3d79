"""How far a network moved: from the checkpoint before, or from one of two to the other."""

from dataclasses import dataclass

from fisher_cli.results.traces import Estimate

# How a note begins that says so of a row's batch norms.
UNSETTLED_NOTE = "batch-norm statistics are not yet settled"


@dataclass(frozen=True, slots=True, kw_only=True)
class Movement:
    """From the last checkpoint before that has numbers to this one, on the same examples.

    Δ is the step of the analysed parameters, θ_now − θ_before.

    Attributes:
        kl: mean KL(q_before ‖ q_now), in nats.
        kl_quadratic: ½ΔᵀFΔ with the F of before, in nats.
        kl_parameters: the KL if only the analysed parameters had moved, in nats; None where nothing else has moved
            (batch-norm statistics, parameters that are not analysed).
        trace_change: tr F minus that of before, in 1/weight², its error from differences example by example.

    Source: Kullback and Leibler 1951 (doi:10.1214/aoms/1177729694), section 6, for the quadratic.
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
    """The step Δ = θ_b − θ_a of one parameter tensor, or of all of them together.

    Attributes:
        name: the parameter's name; "" for all analysed parameters together.
        parameters: how many numbers it has.
        distance: ‖Δ‖.
        relative_distance: ‖Δ‖/‖θ_a‖; None where θ_a is zero.
        cosine: of the angle between θ_a and θ_b; None where one of them is zero.
        quadratic_a: ½ΔᵀFΔ with the F of a, of one tensor with its diagonal block alone, in nats.
        quadratic_b: the same with the F of b.
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
    """Two checkpoints a and b of one network on the same examples; means are over these, KL and loss in nats.

    Attributes:
        checkpoint_a: the name of a.
        checkpoint_b: the name of b.
        sha256_a: of the bytes of a.
        sha256_b: of the bytes of b.
        step_a: the training step of a, None where nothing tells it.
        step_b: the training step of b.
        architecture: the network of both.
        parameters: how many weights are analysed.
        examples: N.
        classes: how many outputs the network has.
        kl_ab: mean KL(q_a ‖ q_b).
        kl_ba: mean KL(q_b ‖ q_a).
        kl_ab_parameters: mean KL(q_a ‖ q), q with the analysed parameters of b and all else of a; None where nothing
            else differs.
        cross_terms_a: the part of ½ΔᵀFΔ that is between different tensors, with the F of a; of either sign.
        cross_terms_b: the same with the F of b.
        agreement: the share of examples for which both predict the same; None where the likelihood has no classes.
        loss_a: mean −log p(y) of a.
        loss_b: that of b.
        accuracy_a: a fraction; None where the likelihood has no classes.
        accuracy_b: that of b.
        whole: the step of all analysed parameters together.
        layers: the step of each parameter tensor.
        batch_size: examples at once.
        notes: remarks that do not make the comparison fail.
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
