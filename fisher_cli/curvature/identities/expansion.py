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
# Of the ratio, where it is judged.
ROUNDING = 1e-6
LEAST_SLOPES = (0.8, 1.8)
# What is left of a kink at the shortest step, relative to J v, where there is one at θ itself.
KINK = 1e-4
NO_MOVE = "the predictions do not move along a random direction"

STATEMENT = Statement(
    "KL expansion",
    "KL(q_θ ‖ q_θ+ε) / (½ εᵀFε) → 1; error ∝ ‖ε‖, of the mean of ±ε ∝ ‖ε‖²",
    "Corollary A.2, T6",
    "KL by finite steps, averaged over ±ε | ½ εᵀFε",
    "½ εᵀFε",
)


@dataclass(frozen=True)
class _Step:
    """One length t of ε = t v: deviations of the ratio from one, and what rounding may be of them.

    `bend` is ‖(z(+) − z(−))/2t − J v‖, `kink` what of ‖z(+) + z(−) − 2z‖/2t or of it exceeds rounding.
    """

    length: float
    single: float
    averaged: float
    rounding: float
    bend: float
    bend_rounding: float
    kink: float


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
        return next((slope for slope in slopes if slope is not None), None)


def expansion(subject: Subject) -> tuple[Identity, tuple[ExpansionStep, ...]]:
    """The verdict, and the table that it is drawn from: along all tensors, or the last ones where no kink disturbs.

    Kinks are found by the network's outputs alone, never by the divergence: what is judged does not choose its judge.
    """
    some = subject.some(EXAMPLES)
    everywhere = _differentiated(some)
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


def _differentiated(subject: Subject) -> dict[str, Tensor]:
    """A probe without the entries that autograd has no gradient for: an embedding's padding row moves the outputs."""
    twin = subject.plain
    z = twin.outputs()
    generator = torch.Generator().manual_seed(2)
    direction = torch.randn(z.shape, generator=generator, dtype=torch.float64).to(z)
    gradients = twin.gradients(z, direction)
    return {name: part * (gradients[name] != 0) for name, part in subject.probes[0].items()}


def _path(subject: Subject, direction: Change) -> _Path | None:
    """The steps along ± a direction; None where the predictions do not move along it."""
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
    steps = [_step(twin, direction, longest / RATE**k, z, pushed, quadratic, subject.noise) for k in range(STEPS)]
    return _Path(tuple(steps), _with_slopes(steps, subject, direction), len(direction), steps[-1].kink > KINK * spread)


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
    second = float((ahead + behind - 2 * z).norm()) / (2 * length)
    kink = max(second, bend) - 10 * bend_rounding
    return _Step(length, one - 1, (one + other) / 2 - 1, rounding, bend, bend_rounding, kink)


def _is_smooth(step: _Step, shorter: _Step) -> bool:
    """Whether (z(+) − z(−))/2t leaves J v by ∝ t², as on a path without kinks; where units switch it is ∝ t or less."""
    if step.bend <= 3 * step.bend_rounding:
        return True
    return shorter.bend > 3 * shorter.bend_rounding and 8 <= step.bend / shorter.bend <= 12.5


def _with_slopes(steps: list[_Step], subject: Subject, direction: Change) -> tuple[ExpansionStep, ...]:
    whole = norm({name: parameter.detach() for name, parameter in subject.plain.parameters.items()})
    unit = norm(direction) / max(whole, 1e-300)
    rows = []
    for index, step in enumerate(steps):
        row = ExpansionStep(step=step.length * unit, single=step.single, averaged=step.averaged)
        if index + 1 < len(steps):
            shorter = steps[index + 1]
            smooth = all(_is_smooth(steps[k], steps[k + 1]) for k in (index, min(index + 1, len(steps) - 2)))
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


def _judged(subject: Subject, path: _Path, seen: _Path) -> Identity:
    """The ratio at the shortest step that rounding leaves exact enough; the slopes at the shortest steps."""
    exact = [step for step in path.steps if step.rounding <= ROUNDING]
    step = exact[-1] if exact else path.steps[0]
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
    if wrong and not cause and subject.is_double:
        error = math.inf
        cause = f"the ratio goes to one too slowly, with slope {' and '.join(wrong)} in place of 1 and 2"
    why = f"slopes {_said(single)} (expected 1) and {_said(averaged)} (expected 2)"
    if seen is not path and averaged is not None:
        why += f", the latter along the last {seen.tensors} tensors: along all, units switch at every visible step"
    if path.tensors < len(subject.plain.parameters):
        why += f"; along the last {path.tensors} tensors, as units before them are exactly at a kink (zero)"
    return STATEMENT.judged(1 + step.averaged, 1.0, error, tolerance, why, cause)


def _cause(subject: Subject, deviation: float) -> str:
    """Why the ratio does not go to one."""
    ratio = torch.tensor([1 / (1 + deviation) if deviation != -1 else math.inf], dtype=torch.float64)
    found = causes.training_mode(subject) or causes.of_factor(ratio, torch.ones(1).double(), len(subject.plain))
    return found or f"KL is {1 + deviation:.4g} times ½ εᵀFε at the shortest steps"


def _said(slope: float | None) -> str:
    return "not visible" if slope is None else f"{slope:.2f}"
