"""One example at a time: what each carries of the traces, and what groups of them have in common."""

from dataclasses import dataclass

from fisher_cli.results.traces import Estimate


@dataclass(frozen=True, slots=True, kw_only=True)
class PerExample:
    """The N examples of a measurement and how the network predicts them, in order; the traces' terms are in `Trace`.

    Attributes:
        loss: −log p(y), in nats, (N,).
        entropy: of the predicted distribution, in nats, (N,).
        labels: class numbers, (N,); None where an example's label is not one class.
        predicted: the most probable classes, (N,); None as for the labels.
        correct: 1 or 0, or the fraction of yes-or-no labels that is right, (N,); None where the likelihood has no
            classes.
        is_probability: whether exp(−loss) is the label's probability.
        indices: places within the split, (N,); None: 0 to N − 1.
        noisy: whether the labels' file marks the example as noisy, (N,); None where it does not say.
        class_names: by class number; () when unknown.
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

    Attributes:
        index: its place within the split, from 0.
        trace_true: its term of the true trace, in 1/weight².
        trace_empirical: its term of the empirical trace.
        share: its part of the sum of the true terms of all examples; None when that is zero.
        rank: its place by true term, the largest first, from 1.
        loss: −log p(y), in nats.
        entropy: of the predicted distribution, in nats.
        probability: that of its label.
        label: its class number.
        label_name: the name of that class.
        predicted: the number of the most probable class.
        predicted_name: the name of that class.
        correct: as in `PerExample`.
        noisy: as in `PerExample`.
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
    """A ratio of the means of two separate groups.

    Attributes:
        value: the ratio R.
        standard_error: of R, by the delta method.
        low: the lower end of its 95 % interval, R exp(−1.96 ρ) with the relative error ρ.
        high: its upper end, R exp(1.96 ρ).
    """

    value: float
    standard_error: float
    low: float
    high: float


@dataclass(frozen=True, slots=True, kw_only=True)
class ExampleGroup:
    """Means over a group of examples, and the group's part of the true trace of all.

    Attributes:
        name: a class, or `clean` or `noisy`.
        examples: how many examples it has.
        trace_true: mean of their terms of the true trace, in 1/weight².
        trace_empirical: mean of their terms of the empirical trace.
        loss: mean −log p(y), in nats.
        accuracy: a fraction; None where the likelihood has no classes.
        share: the group's part of the sum of the true terms of all examples, None when that is zero; the shares of a
            partition add up to 1.
    """

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

    Attributes:
        clean: means over the examples that are not marked.
        noisy: means over those that are.
        ratio: mean true term of the noisy over that of the clean ones; None where a group has fewer than two examples
            or a mean is zero.
        auroc_true: the probability that a noisy example exceeds a clean one in its true term; 0.5 is chance.
        auroc_empirical: the same in its empirical term.
        auroc_loss: the same in its loss.

    Source: DeLong, DeLong and Clarke-Pearson 1988 (doi:10.2307/2531595) for the errors of the AUROC.
    """

    clean: ExampleGroup
    noisy: ExampleGroup
    ratio: Ratio | None
    auroc_true: Estimate | None
    auroc_empirical: Estimate | None
    auroc_loss: Estimate | None


@dataclass(frozen=True, slots=True)
class Concentration:
    """The part of the true trace that its largest terms carry.

    Attributes:
        fraction: of all examples, from 0 to 1.
        examples: ⌈fraction · N⌉, how many terms these are.
        share: their sum over the sum of all terms.
    """

    fraction: float
    examples: int
    share: float


@dataclass(frozen=True, slots=True, kw_only=True)
class ExampleSummary:
    """What the examples of one checkpoint say together.

    Attributes:
        classes: a group per label that occurs, in order of class numbers; () where labels are no classes.
        concentration: one entry per fraction that was looked at; () when the true trace is zero.
        top: the examples with the largest true terms, the largest first.
        noise: the noisy against the clean ones; None where nothing marks them, or all or none are marked.
    """

    classes: tuple[ExampleGroup, ...]
    concentration: tuple[Concentration, ...]
    top: tuple[ExampleRow, ...]
    noise: NoisyAndClean | None = None
