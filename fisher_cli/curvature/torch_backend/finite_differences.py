"""J v against finite differences of the outputs, tensor by tensor: what finds a derivative that autograd has wrong.

Autograd differentiates what a network records, which need not be the function that it evaluates: a detached part, a
backward with a wrong factor, a hook. Only the outputs at moved parameters tell.
"""

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from fisher_cli.curvature.torch_backend.directional_derivatives import (
    CERTAIN,
    FIRST,
    FLOOR,
    SHORTEST,
    Network,
    Outputs,
    Step,
    step_along,
)
from fisher_cli.results import Outcome

# Directions in which a difference must show to be a fault.
DIRECTIONS = 3
# Below this share of the largest derivative, tensors of a group are no longer moved alike.
WEAK = 1e-5


@dataclass(frozen=True)
class Derivative:
    """The derivative of the outputs along a random direction of one tensor, or of several, from both sides.

    `finite` and `autograd` are ⟨u, (z(+) − z(−))/2h⟩ and ⟨Jᵀu, v⟩ of the example and the vector u where they differ
    most. The others are relative to the larger of the two over all u: `error` the difference, `tolerance` what was
    accepted, `truncation` and `rounding` what bends and rounding explain of it. `step` is h, relative to the tensor.
    `is_beside`: not at θ, where units are exactly at a kink, but at parameters next to it.
    """

    names: tuple[str, ...]
    outcome: Outcome
    finite: float
    autograd: float
    error: float
    tolerance: float
    truncation: float
    rounding: float
    step: float
    reason: str = ""
    is_beside: bool = False


def derivatives_by_tensor(
    outputs: Outputs, parameters: Mapping[str, Tensor], *, seed: int = 0, most_groups: int | None = None
) -> tuple[Derivative, ...]:
    """D = (z(θ+hv) − z(θ−hv))/2h against J v for a random v in one tensor after the other, of every example by itself.

    With S = ‖z(+) + z(−) − 2z‖/2h, which is ∝ h for a smooth function and bounds what a kink within h of θ does to D,
    and R the measured rounding over h, a tensor passes where |D − J v| ≤ S + R + 1e-6 |D| ≤ 1e-4 |D| at some h. It
    fails where the difference is ten times as large as S and R explain, in three directions, at two steps, and at
    parameters next to θ. Both are told from the outputs alone. Where units are exactly at a kink at θ, the parameters
    next to it decide; what is neither is undecided. Rows that have no gradient
    by definition are left out: those of an embedding's `padding_idx`.

    Args:
        outputs: evaluates the network in float64 at the parameters as they are now, (B, C) for a few examples.
        parameters: by name; they are moved in place and put back to the last bit.
        seed: of the random vectors.
        most_groups: move tensors together in so many groups, and take apart those that do not pass; two evaluations
            for each group in place of each tensor. All by themselves by default.

    Returns:
        One per tensor, or per group that passed or stayed undecided, in the order of their first tensors.
    """
    network = Network.of(outputs, parameters, seed)
    if most_groups is None or most_groups >= len(parameters):
        return tuple(_decided(network, {name: 1.0}) for name in parameters)
    found: list[Derivative] = []
    for group in _groups(network, most_groups):
        found += _taken_apart(network, group)
    order = {name: number for number, name in enumerate(parameters)}
    return tuple(sorted(found, key=lambda each: min(order[name] for name in each.names)))


def _groups(network: Network, most: int) -> list[dict[str, float]]:
    """Tensors of like derivatives together, scaled so that each has the same share; those without one by themselves."""
    lengths = {name: float(network.slope(name, 0)[0].norm()) for name in network.parameters}
    least = WEAK * max(lengths.values(), default=0.0)
    weak = {name: 1.0 for name, length in lengths.items() if length <= least}
    others = sorted(lengths.keys() - weak.keys(), key=lambda name: (lengths[name], name))
    size = max(1, math.ceil(len(others) / max(most - bool(weak), 1)))
    groups = [others[start : start + size] for start in range(0, len(others), size)]
    found = [{name: lengths[names[0]] / lengths[name] for name in names} for names in groups]
    return [weak, *found] if weak else found


def _taken_apart(network: Network, scales: Mapping[str, float]) -> list[Derivative]:
    """The group's verdict where it passes, or rounding hides all; else those of its halves, down to single tensors."""
    judged = _decided(network, scales)
    hidden = judged.outcome is Outcome.UNDECIDED and judged.rounding > judged.truncation
    if len(scales) == 1 or judged.outcome is Outcome.PASSED or hidden:
        return [judged]
    names, half = list(scales), len(scales) // 2
    parts = [{name: scales[name] if len(some) > 1 else 1.0 for name in some} for some in (names[:half], names[half:])]
    return [each for part in parts for each in _taken_apart(network, part)]


def _decided(network: Network, scales: Mapping[str, float]) -> Derivative:
    """Step after step until the tensors pass, fail, or no other step could tell more."""
    alone = len(scales) == 1
    steps, doubts = list[Step](), 0
    passed = torch.zeros(len(network.z), dtype=torch.bool)
    length: float | None = FIRST
    while length is not None:
        step = step_along(network, scales, 0, length)
        steps.append(step)
        if not alone and bool(step.differs.any()):
            return _told(scales, Outcome.FAILED, step, step.differs, "")
        if alone and doubts < 2 and bool(step.differs.any()):
            doubts += 1
            wrong = _confirmed(network, scales, step)
            if bool(wrong.any()):
                return _told(scales, Outcome.FAILED, step, wrong, _wrong(step, wrong))
        passed |= step.passes
        if bool(passed.all()):
            return _told(scales, Outcome.PASSED, step, passed, "")
        length = _next_length(network, steps, ~passed)
    return _after_all_steps(network, scales, steps, passed)


def _after_all_steps(
    network: Network, scales: Mapping[str, float], steps: Sequence[Step], passed: Tensor
) -> Derivative:
    """No step was exact enough for every example."""
    for step in steps:
        if bool((step.passes | step.agrees).any()):
            return _told(scales, Outcome.PASSED, step, step.passes | step.agrees, "")
    if bool(torch.stack([step.is_none for step in steps]).any(0).all()):
        return _told(scales, Outcome.PASSED, steps[0], ~passed, "it moves the outputs by no more than rounding")
    best = min(steps, key=lambda step: float((step.bound / step.scale.clamp_min(1e-300)).min()))
    if network.is_coarse:
        precision = str(network.watched.coarsest).removeprefix("torch.")
        reason = f"a part of the network is evaluated in {precision}, whose rounding hides the difference"
    elif float(best.rounding.min()) > float(best.bend.min()):
        reason = "it moves the outputs by too little to be told from their rounding"
    else:
        if not network.is_beside:
            with network.beside() as there:
                judged = _decided(there, scales)
            if judged.outcome is not Outcome.UNDECIDED:
                return replace(judged, is_beside=True)
        reason = "units of the network are exactly at a kink (zero), where there is no derivative"
    return _told(scales, Outcome.UNDECIDED, best, ~passed, reason)


def _confirmed(network: Network, scales: Mapping[str, float], step: Step) -> Tensor:
    """By example: the same at a shorter step, in other directions, and at parameters next to θ.

    Kinks cancel here and there, but not in all directions; where symmetry lets them, they are exactly at θ and nowhere
    beside it.
    """
    shorter = step_along(network, scales, 0, step.length / math.sqrt(10))
    others = [step_along(network, scales, number, step.length) for number in range(1, DIRECTIONS)]
    seen = [step, *others]
    share = torch.stack([each.bend / each.scale.clamp_min(1e-300) for each in [*seen, shorter]]).amax(0)
    beyond = [each.error > CERTAIN * ((FLOOR + share) * each.scale + each.rounding) for each in seen]
    steady = (step.finite - shorter.finite).norm(dim=0) <= step.error / 3
    with network.beside() as there:
        beyond.append(step_along(there, scales, 0, step.length).differs)
    found: Tensor = torch.stack(beyond).all(0) & steady
    return found


def _next_length(network: Network, steps: Sequence[Step], unclear: Tensor) -> float | None:
    """Shorter where bends hide more, longer where rounding does; None where that was tried, or bends stay."""
    step, tried = steps[-1], {each.length for each in steps}
    for n in unclear.nonzero().flatten().tolist():
        target = step.limit * float(step.least[n]) / 3
        if bool(step.is_none[n]):
            wanted = network.longest
        elif not math.isfinite(float(step.bend[n])):
            wanted = step.length / 1000
        elif float(step.bend[n]) >= float(step.rounding[n]):
            if _stays(steps, n):
                continue
            wanted = step.length * min(max(target / float(step.bend[n]), 1e-3), 0.1)
        else:
            wanted = step.length * max(float(step.rounding[n]) / max(target, 1e-300), 10)
        wanted = min(max(wanted, SHORTEST), network.longest)
        rounded = 10.0 ** round(math.log10(wanted))
        if rounded not in tried:
            return rounded
    return None


def _stays(steps: Sequence[Step], n: int) -> bool:
    """Whether the last three steps bend alike though each is shorter: there is a kink at θ itself."""
    last = steps[-3:]
    shorter = all(after.length < before.length for before, after in itertools.pairwise(last))
    return len(last) == 3 and shorter and float(last[2].bend[n]) > 0.5 * float(last[0].bend[n])


def _told(scales: Mapping[str, float], outcome: Outcome, step: Step, where: Tensor, reason: str) -> Derivative:
    """The step's figures at the worst of some examples."""
    scale = step.scale.clamp_min(1e-300)
    n = int(torch.where(where, step.error / scale, -1.0).argmax())
    k = int((step.finite - step.autograd)[:, n].abs().argmax())
    return Derivative(
        tuple(scales),
        outcome,
        float(step.finite[k, n]),
        float(step.autograd[k, n]),
        float(step.error[n] / scale[n]),
        float(step.bound[n] / scale[n]),
        float(step.bend[n] / scale[n]),
        float(step.rounding[n] / scale[n]),
        step.length,
        reason,
    )


def _wrong(step: Step, where: Tensor) -> str:
    """How autograd's derivative is to the outputs' own."""
    n = int(torch.where(where, step.error, -1.0).argmax())
    ours, theirs = step.autograd[:, n], step.finite[:, n]
    if float(ours.norm()) == 0:
        return "autograd has no derivative where the outputs move: a part is detached or evaluated without gradients"
    if float(theirs.norm()) <= float(step.rounding[n]):
        return "the outputs do not move where autograd has a derivative"
    factor = float(ours @ theirs) / float(theirs.norm()) ** 2
    if float((ours - factor * theirs).norm()) <= 0.01 * abs(factor - 1) * float(theirs.norm()):
        return f"autograd's derivative is {factor:.6g} times that of the outputs"
    return "autograd's derivative is not that of the outputs"
