"""How the empirical Fisher compares with the true one, each figure beside what the model's own labels would give."""

from dataclasses import dataclass
from enum import StrEnum

from fisher_cli.results.traces import Estimate


@dataclass(frozen=True, slots=True)
class Interval:
    """From `low` to `high`; called a 95 % interval only where `is_trusted`: enough examples carry the value."""

    low: float
    high: float
    is_trusted: bool


@dataclass(frozen=True, slots=True)
class AgainstNull:
    """A value, and the mean and standard deviation it would have if the labels came from the model.

    `null_deviation` is None where the mean is known in closed form and no labels were drawn.
    """

    value: Estimate
    null: float | None = None
    null_deviation: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerComparison:
    """One parameter tensor's parts of both traces, their ratio, its null deviation, and z = (tr F̂ − tr F)/deviation."""

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
    """A finding and its words, with the figure behind it."""

    finding: ComparisonFinding
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """The empirical Fisher F̂ against the true one F, on the same examples.

    difference, ratio: tr F̂ − tr F and tr F̂/tr F, with intervals by the studentised bootstrap over examples.
    null_deviation: of the ratio under labels drawn from the model, whose mean is one; z of the observed one;
    null_method how they were found; carriers: how many equal examples would scatter as tr F̂ does then.
    method: `gram`, all that follows exact, or `products`. norm_true, norm_empirical, inner_product, cosine,
    difference_norm = ‖F̂ − F‖/‖F‖: in the Frobenius norm. natural_gradient: cosine of (F + αI)⁻¹ḡ and
    (F̂ + αI)⁻¹ḡ, `residual` the larger of their relative residuals; gradient_true, gradient_empirical: of each with ḡ.
    inverse_product: tr (F + αI)⁻¹F̂, its null tr (F + αI)⁻¹F. overlap: of the leading eigenspaces. draws: sets of
    labels drawn for the null deviations.
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
