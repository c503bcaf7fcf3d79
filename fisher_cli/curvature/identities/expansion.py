"""KL(q_θ ‖ q_θ+ε) = ½ εᵀFε + o(‖ε‖²): the ratio of both sides as ε goes to zero, and how fast it goes to one."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from fisher_cli.curvature.identities import diagnosis
from fisher_cli.curvature.identities.autograd_reference import (
    AutogradReference,
    Change,
    covariance,
    inner,
    norm,
    small_divergence,
)
from fisher_cli.curvature.identities.identity_specs import IdentityCase, IdentitySpec
from fisher_cli.results import ExpansionStep, Identity

# Few examples have few units near a kink, and the rate can be seen before rounding hides it.
EXAMPLES = 4
# Lengths of ε, each shorter than the one before by √10.
STEPS = 11
RATE = math.sqrt(10)
# The divergence of the longest step, about: far enough for the next term to show, if the predictions are not certain.
LONGEST = 0.02
# No output moves further over the longest step: where predictions are certain the divergence hardly tells.
FURTHEST = 1.0
# Where the outputs' own derivative is taken, relative to the parameters; further where their rounding is coarse.
SHORT = 1e-6
# A slope is trusted where both deviations exceed rounding so many times.
ABOVE_ROUNDING = 20
# Of the ratio, where it is judged.
ROUNDING = 1e-6
LEAST_SLOPES = (0.8, 1.8)
# How much rounding, or what the outputs bend, may be off as an estimate of the ratio's error.
UNSURE = 10
# What is left of a kink at the shortest step, relative to the outputs' derivative, where there is one at θ itself.
KINK = 1e-4
NO_MOVE = "the predictions do not move along a random direction"

STATEMENT = IdentitySpec(
    "KL expansion",
    "KL(q_θ ‖ q_θ+ε) / (½ εᵀFε) → 1; error ∝ ‖ε‖, of the mean of ±ε ∝ ‖ε‖²",
    "T6; Ye et al. 2022, Corollary A.2",
    "KL by finite steps, averaged over ±ε | ½ εᵀFε",
    "½ εᵀFε",
)


@dataclass(frozen=True)
class _Step:
    """One length t of ε = t v: deviations of the ratio from one, and what rounding may be of them.

    `derivative` is (z(+) − z(−))/2t, `second` ‖z(+) + z(−) − 2z‖/2t, `noise` what rounding may be of either.
    """

    length: float
    single: float
    averaged: float
    rounding: float
    derivative: Tensor
    second: float
    noise: float


@dataclass(frozen=True)
class _Path:
    """Steps along a direction of so many tensors, their table, and whether the outputs have a kink at θ itself."""

    steps: tuple[_Step, ...]
    rows: tuple[ExpansionStep, ...]
    tensors: int
    starts_at_kink: bool

    def slope(self, which: str) -> float | None:
        """That between the shortest steps where it can be told."""
        slopes = [getattr(row, f"slope_{which}") for row in reversed(self.rows)]
        # The better of the two shortest: where the next two terms cancel at some step, the slope there says nothing.
        return max([slope for slope in slopes if slope is not None][:2], default=None)


def expansion(subject: IdentityCase) -> tuple[Identity, tuple[ExpansionStep, ...]]:
    """The verdict, and the table that it is drawn from: along all tensors, or the last ones where no kink disturbs.

    Kinks are found by the network's outputs alone, so that a wrong divergence cannot pass for a kink.
    """
    some = subject.some(EXAMPLES)
    everywhere = _with_gradients(some)
    support, found = list(everywhere), list[_Path]()
    while True:
        path = _path(some, {name: everywhere[name] for name in support})
        if path is None:
            break
        found.append(path)
        if (not path.starts_at_kink and path.slope("averaged") is not None) or len(support) <= 2:
            break
        # Units switch at every step that rounding leaves to see, or at none: fewer of them do behind later tensors.
        support = support[len(support) // 2 :]
    first = next((path for path in found if not path.starts_at_kink), None)
    if first is None:
        absent = "units of the network are exactly at a kink (zero), where KL has no expansion" if found else NO_MOVE
        return STATEMENT.not_applicable(absent), found[0].rows if found else ()
    return _judged(some, first, found[-1] if not found[-1].starts_at_kink else first), first.rows


def _with_gradients(subject: IdentityCase) -> dict[str, Tensor]:
    """A probe without the rows that have no gradient by definition: an embedding's padding row moves the outputs."""
    found = {name: part.clone() for name, part in subject.probes[0].items()}
    for name, rows in subject.plain.watched.padding.items():
        found[name][sorted(rows)] = 0
    return found


def _path(subject: IdentityCase, direction: Change) -> _Path | None:
    """The steps along ± a direction; None where the predictions do not move along it."""
    twin = subject.plain
    quadratic = 0.5 * inner(subject.multiplied(direction), {**subject.zeros(), **direction}) * len(twin)
    z = twin.outputs().detach()
    short = max(SHORT, math.sqrt(subject.noise / max(float(z.abs().max()), subject.noise, 1e-300)))
    derivative = (twin.outputs_at(direction, short) - twin.outputs_at(direction, -short)) / (2 * short)
    spread = float(derivative.norm())
    theirs = 0.5 * float((derivative * _times_covariance(twin, z, derivative)).sum())
    if not theirs > 0 or spread <= subject.noise * math.sqrt(z.numel()) / short:
        return None
    furthest = FURTHEST / float(derivative.abs().max())
    longest = min(math.sqrt(LONGEST * len(twin) / theirs), 0.3, furthest)
    # Rounding of the outputs against how far the predictions move; only the weighted part of the outputs counts.
    spreads = math.sqrt(float(covariance(twin.kind, z).diagonal(dim1=1, dim2=2).sum()))
    rounding = 2 * subject.noise * spreads / math.sqrt(2 * theirs)
    steps = [_step(twin, direction, longest / RATE**k, z, rounding, quadratic, subject.noise) for k in range(STEPS)]
    at_kink = steps[-1].second - 10 * steps[-1].noise > KINK * spread
    return _Path(tuple(steps), _with_slopes(steps, subject, direction), len(direction), at_kink)


def _times_covariance(twin: AutogradReference, z: Tensor, vectors: Tensor) -> Tensor:
    return (covariance(twin.kind, z) @ vectors.unsqueeze(2)).squeeze(2)


def _step(
    twin: AutogradReference,
    direction: Change,
    length: float,
    z: Tensor,
    rounding: float,
    quadratic: float,
    noise: float,
) -> _Step:
    ahead, behind = twin.outputs_at(direction, length), twin.outputs_at(direction, -length)
    form = quadratic * length**2 if quadratic else math.nan
    one, other = (small_divergence(twin.kind, z, moved) / form for moved in (ahead, behind))
    derivative, second = (ahead - behind) / (2 * length), float((ahead + behind - 2 * z).norm()) / (2 * length)
    noise *= math.sqrt(z.numel()) / length
    return _Step(length, one - 1, (one + other) / 2 - 1, rounding / length, derivative, second, noise)


def _is_smooth(steps: Sequence[_Step], k: int) -> bool:
    """Whether (z(+) − z(−))/2t changes by ∝ t² from step to step, as on a path without kinks; else by ∝ t or less."""
    changes = [float((steps[i].derivative - steps[i + 1].derivative).norm()) for i in (k, k + 1)]
    noises = [steps[i].noise + steps[i + 1].noise for i in (k, k + 1)]
    if changes[0] <= 3 * noises[0]:
        return True
    return changes[1] > 3 * noises[1] and 8 <= changes[0] / changes[1] <= 12.5


def _with_slopes(steps: list[_Step], subject: IdentityCase, direction: Change) -> tuple[ExpansionStep, ...]:
    whole = norm({name: parameter.detach() for name, parameter in subject.plain.parameters.items()})
    unit = norm(direction) / max(whole, 1e-300)
    rows = []
    for index, step in enumerate(steps):
        row = ExpansionStep(step=step.length * unit, single=step.single, averaged=step.averaged)
        if index + 1 < len(steps):
            shorter = steps[index + 1]
            smooth = all(_is_smooth(steps, min(k, len(steps) - 3)) for k in (index, index + 1))
            if smooth:
                row = replace(
                    row,
                    slope_single=_slope(step.single, shorter.single, shorter.rounding),
                    slope_averaged=_slope(step.averaged, shorter.averaged, shorter.rounding),
                )
        rows.append(row)
    return tuple(rows)


def _slope(longer: float, shorter: float, rounding: float) -> float | None:
    if not (math.isfinite(longer) and abs(shorter) > ABOVE_ROUNDING * rounding and longer != 0):
        return None
    return math.log(abs(longer / shorter)) / math.log(RATE)


def _judged(subject: IdentityCase, path: _Path, seen: _Path) -> Identity:
    """The ratio at the shortest step that rounding leaves exact enough; the slopes at the shortest steps."""
    exact = [step for step in path.steps if step.rounding <= ROUNDING]
    step = exact[-1] if exact else min(path.steps, key=_unsure)
    single, averaged = path.slope("single") or seen.slope("single"), seen.slope("averaged")
    error, tolerance = abs(step.averaged), 1e-4 if subject.is_double else 5e-2
    cause = "" if error <= tolerance else _cause(subject, step.averaged)
    wrong = [
        f"{slope:.2f} {which}"
        for slope, least, which in zip(
            (single, averaged), LEAST_SLOPES, ("for +ε alone", "averaged over ±ε"), strict=True
        )
        if slope is not None and slope < least
    ]
    if wrong and not cause and subject.is_double and not subject.measured.is_coarse:
        error = math.inf
        cause = f"the ratio goes to one too slowly, with slope {' and '.join(wrong)} in place of 1 and 2"
    why = f"slopes {_said(single)} (expected 1) and {_said(averaged)} (expected 2)"
    if seen is not path and averaged is not None:
        why += f", the latter along the last {seen.tensors} tensors: along all, units switch at every visible step"
    if path.tensors < len(subject.plain.parameters):
        why += f"; along the last {path.tensors} tensors, as units before them are exactly at a kink (zero)"
    return STATEMENT.judged(
        1 + step.averaged,
        1.0,
        error,
        tolerance,
        why,
        cause,
        lambda: UNSURE * _unsure(step) + subject.lost_to_saturation(),
    )


def _unsure(step: _Step) -> float:
    """What may be off of the ratio: rounding, or what the outputs bend, which bounds what a kink within it does."""
    return max(step.rounding, step.second / max(float(step.derivative.norm()), 1e-300))


def _cause(subject: IdentityCase, deviation: float) -> str:
    """Why the ratio does not go to one."""
    ratio = torch.tensor([1 / (1 + deviation) if deviation != -1 else math.inf], dtype=torch.float64)
    found = diagnosis.training_mode(subject) or diagnosis.of_factor(ratio, torch.ones(1).double(), len(subject.plain))
    return found or f"KL is {1 + deviation:.4g} times ½ εᵀFε at the shortest steps"


def _said(slope: float | None) -> str:
    return "not visible" if slope is None else f"{slope:.2f}"
