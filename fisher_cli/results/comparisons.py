"""How the empirical Fisher compares with the true one, each figure beside what the model's own labels would give."""

from dataclasses import dataclass
from enum import StrEnum

from fisher_cli.results.traces import Estimate


@dataclass(frozen=True, slots=True)
class Interval:
    """From `low` to `high`.

    Attributes:
        low: its lower end, in the unit of the value.
        high: its upper end.
        is_trusted: whether it may be called a 95 % interval: enough examples carry the value.
    """

    low: float
    high: float
    is_trusted: bool


@dataclass(frozen=True, slots=True)
class AgainstNull:
    """A value, and the mean and standard deviation it would have if the labels came from the model.

    Attributes:
        value: as observed, with the labels of the dataset.
        null: its mean under labels drawn from the model; None where it is not known.
        null_deviation: its standard deviation under such labels; None where the mean alone is known in closed form, or
            fewer than two sets of labels were drawn.
    """

    value: Estimate
    null: float | None = None
    null_deviation: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerComparison:
    """The parts of one parameter tensor in both traces, and what their ratio would be by chance.

    Attributes:
        name: the parameter's name in the network.
        parameters: how many numbers the tensor holds.
        true: its part of tr F, in 1/weight².
        empirical: its part of tr F̂.
        ratio: empirical over true; None where the part of tr F is zero.
        null_deviation: the standard deviation of the ratio if the labels came from the model; None if not known.
        z: (tr F̂ − tr F)/deviation of these parts; None where the deviation is zero or not known.
    """

    name: str
    parameters: int
    true: Estimate
    empirical: Estimate
    ratio: float | None
    null_deviation: float | None
    z: float | None


class ComparisonFinding(StrEnum):
    """What a comparison comes to; the rules are those of `fisher_cli.curvature.comparison.verdicts`."""

    ZERO = "zero"
    UNDECIDED = "undecided"
    FITTED = "fitted"
    SURPRISED = "surprised"
    SHIFTED = "shifted"
    INDISTINGUISHABLE = "indistinguishable"


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a comparison comes to.

    Attributes:
        finding: which of the findings holds.
        text: the finding in words, with the figure behind it.
    """

    finding: ComparisonFinding
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """The empirical Fisher F̂ against the true one F, on the same N examples.

    Matrix norms and inner products are Frobenius ones. α is `damping`. A figure is None where it is not defined, as
    where F is zero, and where the method does not give it.

    Attributes:
        difference: tr F̂ − tr F, in 1/weight².
        difference_interval: its interval by the studentised bootstrap over examples; None where there is none.
        ratio_interval: that of tr F̂/tr F.
        null_method: how the null of the trace was found: `exact`, or `sampled S=…` with S labels drawn per example.
        null_deviation: the standard deviation of tr F̂/tr F if the labels came from the model, where its mean is one.
        carriers: how many equal examples would scatter as tr F̂ does then; None if not known.
        z: (tr F̂ − tr F) over its deviation under such labels.
        method: `gram`, with which all that follows is exact, or `products`.
        norm_true: ‖F‖, in 1/weight².
        norm_empirical: ‖F̂‖, in 1/weight².
        inner_product: ⟨F, F̂⟩, in 1/weight⁴.
        difference_norm: ‖F̂ − F‖/‖F‖.
        cosine: ⟨F, F̂⟩/(‖F‖ ‖F̂‖).
        damping: α of the natural gradients, in 1/weight².
        natural_gradient: cosine of the angle between (F + αI)⁻¹ḡ and (F̂ + αI)⁻¹ḡ.
        gradient_true: cosine of the angle between (F + αI)⁻¹ḡ and ḡ.
        gradient_empirical: cosine of the angle between (F̂ + αI)⁻¹ḡ and ḡ.
        residual: the larger relative residual of the two natural gradients.
        inverse_product: tr (F + αI)⁻¹F̂, where all eigenvalues of F are known; its null is tr (F + αI)⁻¹F.
        overlap: of the leading eigenspaces of F and F̂, from 0 to 1; None where they are too large to hold.
        draws: how many sets of labels were drawn for the nulls that have no closed form.
        layers: the parts of each parameter tensor in both traces.
        verdict: what all this comes to.

    Source: Kunstner, Hennig and Balles 2019 (arXiv:1905.12558); Thomas et al. 2020 (arXiv:1906.07774).
    """

    difference: Estimate
    difference_interval: Interval | None
    ratio_interval: Interval | None
    null_method: str
    null_deviation: float | None
    carriers: float | None
    z: float | None
    method: str
    norm_true: Estimate
    norm_empirical: AgainstNull
    inner_product: AgainstNull
    difference_norm: AgainstNull | None
    cosine: AgainstNull | None
    damping: float
    natural_gradient: AgainstNull | None
    gradient_true: float | None
    gradient_empirical: float | None
    residual: float
    inverse_product: AgainstNull | None
    overlap: AgainstNull | None
    draws: int
    layers: tuple[LayerComparison, ...]
    verdict: Verdict

    @property
    def coverage(self) -> str | None:
        """What the intervals cover: 95 %, or only nominally that; None without intervals."""
        intervals = [each for each in (self.difference_interval, self.ratio_interval) if each]
        if not intervals:
            return None
        return "95 %" if all(each.is_trusted for each in intervals) else "nominal"
