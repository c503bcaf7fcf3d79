"""One example at a time: what each carries of the traces, and what groups of them have in common."""

from dataclasses import dataclass

from fisher_cli.results.traces import Estimate


@dataclass(frozen=True, slots=True, kw_only=True)
class PerExample:
    """The N examples of a measurement and how the network predicts them, in order; the traces' terms are in Trace.

    loss, entropy: in nats. labels, predicted: class numbers, None where the likelihood has no classes; correct: 1 or
    0, or the fraction of yes-or-no labels that is right. is_probability: whether exp(−loss) is the label's
    probability. indices: places within the split; noisy: marked so by the labels' file, None where it does not say;
    class_names: () when unknown.
    """

    loss: tuple[float, ...]
    entropy: tuple[float, ...]
    labels: tuple[int, ...] | None = None
    predicted: tuple[int, ...] | None = None
    correct: tuple[float, ...] | None = None
    is_probability: bool = True
    indices: tuple[int, ...] | None = None
    noisy: tuple[bool, ...] | None = None
    class_names: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class ExampleRow:
    """One example of a checkpoint: ‖J_nᵀ s‖² summed over the scores of the true and of the empirical Fisher.

    `share` is its part of the true trace of all examples, None when that is zero; `rank` its place by true trace,
    from 1; `probability` that of its label; the rest is as in PerExample.
    """

    index: int
    trace_true: float
    trace_empirical: float
    share: float | None
    rank: int
    loss: float
    entropy: float
    probability: float | None = None
    label: int | None = None
    label_name: str | None = None
    predicted: int | None = None
    predicted_name: str | None = None
    correct: float | None = None
    noisy: bool | None = None


@dataclass(frozen=True, slots=True)
class Ratio:
    """A ratio of the means of two separate groups, with its standard error and its 95 % interval."""

    value: float
    standard_error: float
    low: float
    high: float


@dataclass(frozen=True, slots=True, kw_only=True)
class ExampleGroup:
    """Means over a group of examples, and the group's part of the true trace of all; shares of a partition add to 1."""

    name: str
    examples: int
    trace_true: Estimate
    trace_empirical: Estimate
    loss: Estimate
    accuracy: Estimate | None
    share: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class NoisyAndClean:
    """The examples marked noisy against the others.

    ratio: mean true trace of the noisy over that of the clean ones. auroc_*: the probability that a noisy example
    exceeds a clean one in true trace, in empirical trace, in loss; 0.5 is chance.
    """

    clean: ExampleGroup
    noisy: ExampleGroup
    ratio: Ratio | None
    auroc_true: Estimate | None
    auroc_empirical: Estimate | None
    auroc_loss: Estimate | None


@dataclass(frozen=True, slots=True)
class Concentration:
    """The part of the true trace that the `examples` largest terms carry, a `fraction` of all."""

    fraction: float
    examples: int
    share: float


@dataclass(frozen=True, slots=True, kw_only=True)
class ExampleSummary:
    """What the examples of one checkpoint say together; `top` are those that carry most of the true trace."""

    classes: tuple[ExampleGroup, ...]
    concentration: tuple[Concentration, ...]
    top: tuple[ExampleRow, ...]
    noise: NoisyAndClean | None = None
