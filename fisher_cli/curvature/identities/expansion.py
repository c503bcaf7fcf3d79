"""KL(q_θ ‖ q_θ+ε) = ½ εᵀFε + o(‖ε‖²): the ratio of both sides as ε goes to zero, and how fast it goes to one."""

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from fisher_cli.curvature.identities import causes
from fisher_cli.curvature.identities.plain import Change, Plain, covariance, inner, norm, small_divergence
from fisher_cli.curvature.identities.statements import Statement, Subject
from fisher_cli.results import ExpansionStep, Identity

# Few examples have few units near a kink, and the rate can be seen before rounding hides it.
EXAMPLES = 4
# Lengths of ε, each shorter than the one before by √10.
STEPS = 11
RATE = math.sqrt(10)
# The divergence of the longest step, about: far enough for the next term to show, if the predictions are not certain.
LONGEST = 0.02
# A slope is trusted where both deviations exceed rounding so many times.
ABOVE_ROUNDING = 20
LEAST_SLOPES = (0.8, 1.8)

STATEMENT = Statement(
    "KL expansion",
    "KL(q_θ ‖ q_θ+ε) / (½ εᵀFε) → 1; error ∝ ‖ε‖, of the mean of ±ε ∝ ‖ε‖²",
    "Corollary A.2, T6",
    "KL by finite steps, averaged over ±ε | ½ εᵀFε",
    "½ εᵀFε",
)


@dataclass(frozen=True)
class _Step:
    """One length t of ε = t v: deviations of the ratio from one, what rounding may be of them, and kinks."""

    length: float
    single: float
    averaged: float
    rounding: float
    bend: float
    bend_rounding: float


def expansion(subject: Subject) -> tuple[Identity, tuple[ExpansionStep, ...]]:
    """The verdict, and the table that it is drawn from."""
    some = subject.first(EXAMPLES)
    everywhere = _differentiated(some)
    support, found, shown = list(everywhere), None, None
    while True:
        direction = {name: everywhere[name] for name in support}
        steps = _steps(some, direction)
        if steps is None:
            return STATEMENT.not_applicable("vᵀFv is zero to rounding: the predictions do not move"), ()
        rows = _with_slopes(steps, some, direction)
        shown = shown or rows
        found = found or (steps, rows)
        if any(row.slope_averaged is not None for row in rows) or len(support) <= 2:
            break
        # Units switch at every step that rounding leaves to see: fewer of them do behind the later tensors.
        support = support[len(support) // 2 :]
    return _judged(some, found[0], found[1], rows, support), shown


def _differentiated(subject: Subject) -> dict[str, Tensor]:
    """A probe without the entries that autograd has no gradient for: an embedding's padding row moves the outputs."""
    twin = subject.plain
    z = twin.outputs()
    generator = torch.Generator().manual_seed(2)
    direction = torch.randn(z.shape, generator=generator, dtype=torch.float64).to(z)
    gradients = twin.gradients(z, direction)
    return {name: part * (gradients[name] != 0) for name, part in subject.probes[0].items()}


def _steps(subject: Subject, direction: Change) -> list[_Step] | None:
    twin = subject.plain
    quadratic = 0.5 * inner(subject.multiplied(direction), {**subject.zeros(), **direction}) * len(twin)
    z = twin.outputs()
    pushed = twin.pushed(z, {**subject.zeros(), **direction}).double()
    z = z.detach()
    spread = float(pushed.norm())
    theirs = 0.5 * float((pushed * _times_covariance(twin, z, pushed)).sum())
    if not theirs > 0 or spread == 0:
        return None
    longest = min(math.sqrt(LONGEST * len(twin) / theirs), 0.3)
    return [_step(twin, direction, longest / RATE**k, z, pushed, quadratic, subject.noise) for k in range(STEPS)]


def _times_covariance(twin: Plain, z: Tensor, vectors: Tensor) -> Tensor:
    return (covariance(twin.kind, z) @ vectors.unsqueeze(2)).squeeze(2)


def _step(
    twin: Plain, direction: Change, length: float, z: Tensor, pushed: Tensor, quadratic: float, noise: float
) -> _Step:
    ahead, behind = twin.outputs_at(direction, length), twin.outputs_at(direction, -length)
    form = quadratic * length**2 if quadratic else math.nan
    one, other = (small_divergence(twin.kind, z, moved) / form for moved in (ahead, behind))
    weighted = math.sqrt(float((pushed * _times_covariance(twin, z, pushed)).sum()))
    # Rounding of the outputs against how far the predictions move; only the weighted part of the outputs counts.
    rounding = 2 * noise * math.sqrt(len(twin)) / max(weighted * length, 1e-300)
    bend = float(((ahead - behind) / (2 * length) - pushed).norm())
    bend_rounding = noise * math.sqrt(z.numel()) / length
    return _Step(length, one - 1, (one + other) / 2 - 1, rounding, bend, bend_rounding)


def _is_smooth(step: _Step, shorter: _Step) -> bool:
    """Whether (z(+) − z(−))/2t leaves J v by ∝ t², as on a path without kinks; where a unit switches it is ∝ t."""
    if step.bend <= 3 * step.bend_rounding:
        return True
    return step.bend >= 5.5 * shorter.bend or shorter.bend <= 3 * shorter.bend_rounding


def _with_slopes(steps: list[_Step], subject: Subject, direction: Change) -> tuple[ExpansionStep, ...]:
    whole = norm({name: parameter.detach() for name, parameter in subject.plain.parameters.items()})
    unit = norm(direction) / max(whole, 1e-300)
    rows = []
    for index, step in enumerate(steps):
        row = ExpansionStep(step=step.length * unit, single=step.single, averaged=step.averaged)
        if index + 1 < len(steps):
            shorter = steps[index + 1]
            smooth = all(_is_smooth(steps[k], steps[k + 1]) for k in (index, min(index + 1, len(steps) - 2)))
            row = replace(
                row,
                slope_single=_slope(step.single, shorter.single, shorter.rounding),
                slope_averaged=_slope(step.averaged, shorter.averaged, shorter.rounding) if smooth else None,
            )
        rows.append(row)
    return tuple(rows)


def _slope(longer: float, shorter: float, rounding: float) -> float | None:
    if not (math.isfinite(longer) and abs(shorter) > ABOVE_ROUNDING * rounding and longer != 0):
        return None
    return math.log(abs(longer / shorter)) / math.log(RATE)


def _judged(
    subject: Subject,
    steps: list[_Step],
    rows: tuple[ExpansionStep, ...],
    seen: tuple[ExpansionStep, ...],
    support: list[str],
) -> Identity:
    """The ratio at the step where deviation and rounding together are smallest; the slopes at the shortest steps."""
    best = min(range(len(steps)), key=lambda k: abs(steps[k].averaged) + steps[k].rounding)
    step = steps[best]
    single = next((row.slope_single for row in reversed(rows) if row.slope_single is not None), None)
    averaged = next((row.slope_averaged for row in reversed(seen) if row.slope_averaged is not None), None)
    error = abs(step.averaged)
    tolerance = 1e-4 if subject.is_double else 5e-2
    cause = ""
    if not error <= tolerance:
        ratio = torch.tensor([1 / (1 + step.averaged) if step.averaged != -1 else math.inf], dtype=torch.float64)
        cause = causes.training_mode(subject) or causes.of_factor(ratio, torch.ones(1).double(), len(subject.plain))
        cause = cause or f"KL is {1 + step.averaged:.4g} times ½ εᵀFε at the shortest steps"
    wrong = [
        f"{slope:.2f} {which}"
        for slope, least, which in zip(
            (single, averaged), LEAST_SLOPES, ("for +ε alone", "averaged over ±ε"), strict=True
        )
        if slope is not None and slope < least
    ]
    if wrong and not cause and subject.is_double:
        error, cause = (
            math.inf,
            f"the ratio goes to one too slowly, with slope {' and '.join(wrong)} in place of 1 and 2",
        )
    why = f"slopes {_said(single)} (expected 1) and {_said(averaged)} (expected 2)"
    if len(support) < len(subject.plain.parameters) and averaged is not None:
        why += (
            f", the latter along the last {len(support)} tensors alone: along all, units switch at every visible step"
        )
    return STATEMENT.judged(1 + step.averaged, 1.0, error, tolerance, why, cause)


def _said(slope: float | None) -> str:
    return "not visible" if slope is None else f"{slope:.2f}"
