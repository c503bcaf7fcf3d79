"""Which mathematical identities were held against a network, and what came of it."""

from dataclasses import dataclass
from enum import StrEnum


class Outcome(StrEnum):
    """What an identity says about the numbers: undecided where rounding or a kink hides what it would say."""

    PASSED = "pass"
    FAILED = "fail"
    UNDECIDED = "undecided"
    NOT_APPLICABLE = "not applicable"


@dataclass(frozen=True, slots=True, kw_only=True)
class Identity:
    """One identity: both sides as measured, and the verdict.

    Attributes:
        name: in a few words.
        formula: what must hold.
        source: where the identity comes from.
        verdict: what it says about the numbers.
        sides: how each side was found.
        ours: the side that fisher computes; where the identity is about many numbers, that of the worst.
        theirs: the independent side.
        error: the difference of the sides relative to `scale`.
        scale: in words, what the error is relative to.
        tolerance: the largest error that is accepted.
        why: why the tolerance is what it is.
        reason: why the identity failed, is undecided, or does not apply.
        seconds: how long it took; it never enters a table.
    """

    name: str
    formula: str
    source: str
    verdict: Outcome
    sides: str = ""
    ours: float | None = None
    theirs: float | None = None
    error: float | None = None
    scale: str = ""
    tolerance: float | None = None
    why: str = ""
    reason: str = ""
    seconds: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class ExpansionStep:
    """KL(q_θ ‖ q_θ+ε) over ½ εᵀFε, less one, at one length of ε.

    Attributes:
        step: ‖ε‖/‖θ‖.
        single: the deviation from one for +ε alone.
        averaged: the deviation from one averaged over ±ε.
        slope_single: d log |deviation|/d log ‖ε‖ towards the next shorter step, expected 1; None where one of the
            deviations is rounding, or where a unit of the network switches between them.
        slope_averaged: the same of the averaged deviation, expected 2.
    """

    step: float
    single: float
    averaged: float
    slope_single: float | None = None
    slope_averaged: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Verification:
    """All identities of one network on one set of examples.

    Attributes:
        identities: all that were looked at, with those that do not apply.
        expansion: the expansion of KL, from the longest step to the shortest; () where it was not looked at.
    """

    identities: tuple[Identity, ...]
    expansion: tuple[ExpansionStep, ...] = ()

    def count(self, verdict: Outcome) -> int:
        """The number of identities with this verdict."""
        return sum(each.verdict is verdict for each in self.identities)

    @property
    def failed(self) -> bool:
        """Whether any identity fails; one that is undecided does not."""
        return self.count(Outcome.FAILED) > 0
