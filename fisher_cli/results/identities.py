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

    `formula` is what must hold, `source` where it comes from. `ours` is the side that fisher computes, `theirs` the
    independent one, and `sides` says how each was found; where the identity is about many numbers these are of the
    worst. `error` is their difference relative to `scale`, and `tolerance` the largest accepted, for the reason `why`.
    `reason` says why it failed, is undecided, or does not apply. `seconds` never enter a table.
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
    """KL(q_θ ‖ q_θ+ε) over ½ εᵀFε at one length of ε, less one: for +ε alone, and averaged over ±ε.

    `step` is ‖ε‖/‖θ‖. The slopes are d log |deviation| / d log ‖ε‖ towards the next shorter step; None where one of
    the deviations is rounding, or where a unit of the network switches between them.
    """

    step: float
    single: float
    averaged: float
    slope_single: float | None = None
    slope_averaged: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Verification:
    """All identities of one network on one set of examples; `expansion` from the longest step to the shortest."""

    identities: tuple[Identity, ...]
    expansion: tuple[ExpansionStep, ...] = ()

    def count(self, verdict: Outcome) -> int:
        """How many identities ended so."""
        return sum(each.verdict is verdict for each in self.identities)

    @property
    def failed(self) -> bool:
        """Whether any identity fails; one that is undecided does not."""
        return self.count(Outcome.FAILED) > 0
