"""J v against finite differences of the outputs, tensor by tensor: what finds a derivative that autograd has wrong.

Autograd differentiates what a network records, which need not be the function that it evaluates: a detached part, a
backward with a wrong factor, a hook. Only the outputs at moved parameters tell.
"""

import itertools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves
from torch.utils.weak import WeakIdKeyDictionary

from fisher_cli.curvature.torch_backend.dispatch_mode import DispatchMode
from fisher_cli.results import Outcome

# The place of `padding_idx` among the arguments of what looks rows of a table up.
_PADDING = {torch.ops.aten.embedding: 2, torch.ops.aten._embedding_bag: 8}


@dataclass
class Watched:
    """What an evaluation was seen to do.

    Attributes:
        coarsest: the least precise type of what depends on parameters.
        padding: the rows that are left out, an embedding's `padding_idx`, by parameter.
    """

    coarsest: torch.dtype = torch.float64
    padding: dict[str, set[int]] = field(default_factory=dict)

    @property
    def unit(self) -> float:
        """The machine epsilon of the coarsest type: the largest relative rounding."""
        return torch.finfo(self.coarsest).eps


class _Watch(DispatchMode):  # type: ignore[no-untyped-call]
    def __init__(self, parameters: Mapping[str, Tensor], watched: Watched) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._watched = watched
        self._names = {parameter.data_ptr(): name for name, parameter in parameters.items()}
        self._storages = {parameter.untyped_storage().data_ptr() for parameter in parameters.values()}
        # Of tensors that were computed from parameters.
        self._dependent = WeakIdKeyDictionary()

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        found = func(*args, **(kwargs or {}))
        given = [each for each in tree_leaves((args, kwargs)) if isinstance(each, Tensor)]
        if any(each in self._dependent or self._is_view(each) for each in given):
            for each in tree_leaves(found):
                if isinstance(each, Tensor):
                    self._dependent[each] = True
                    if each.is_floating_point() or each.is_complex():
                        seen = (self._watched.coarsest, each.dtype)
                        self._watched.coarsest = max(seen, key=lambda dtype: torch.finfo(dtype).eps)
        place = _PADDING.get(func.overloadpacket)
        if place is not None:
            self._look_up(args, kwargs or {}, place)
        return found

    def _is_view(self, tensor: Tensor) -> bool:
        """Whether it is a parameter, or a view of one."""
        return tensor.layout is torch.strided and tensor.untyped_storage().data_ptr() in self._storages

    def _look_up(self, args: tuple[Any, ...], kwargs: Mapping[str, Any], place: int) -> None:
        row = args[place] if len(args) > place else kwargs.get("padding_idx", -1)
        name = self._names.get(args[0].data_ptr())
        if row >= 0 and name is not None:
            self._watched.padding.setdefault(name, set()).add(row)


@contextmanager
def watched_evaluation(parameters: Mapping[str, Tensor]) -> Iterator[Watched]:
    """Watch every operation of torch while the context is open.

    Args:
        parameters: by name; what is computed from them is followed.

    Yields:
        What was seen so far, filled in place.
    """
    watched = Watched()
    with _Watch(parameters, watched):
        yield watched


# Lengths of a step, relative to the tensor's own: the first, the shortest, and the longest.
FIRST, SHORTEST, LONGEST = 1e-6, 1e-11, 1e-2
# A tensor passes where its derivatives are held to this, and all else is explained; the second number is for networks
# that evaluate a part of themselves in less than float64.
LIMIT, COARSE_LIMIT = 1e-4, 3e-3
# What is granted to every comparison, relative to the derivative.
FLOOR = 1e-6
# A difference is a fault only where it is so many times what bends and rounding explain.
CERTAIN = 10
# Fixed random vectors of the outputs that the derivatives are seen against.
COTANGENTS = 2
# Rounding counts as little below this share of the outputs.
UNSEEN = 1e-6
# Parameters next to others are so far from them, relative to their length.
BESIDE = 1e-3
# How much larger rounding may be than what one unit in the last place of the parameters moves.
ROUNDINGS = 4

Outputs = Callable[[], Tensor]


@contextmanager
def moved(parameters: Mapping[str, Tensor], change: Mapping[str, Tensor], length: float = 1.0) -> Iterator[None]:
    """Evaluate at θ + length · change while the context is open; every bit is put back.

    Args:
        parameters: θ by name, moved in place without autograd's notice.
        change: for some or all of the names, in the parameters' shapes and precision.
        length: the factor of the change.
    """
    # Through `.data`, which autograd does not watch: graphs that others keep stay valid, as every bit comes back.
    places = {name: parameters[name].data for name in change}
    kept = {name: place.clone() for name, place in places.items()}
    try:
        for name, part in change.items():
            places[name].add_(part, alpha=length)
        yield
    finally:
        for name, place in places.items():
            place.copy_(kept[name])


@dataclass(frozen=True)
class DirectionalNetwork:
    """z at θ, what of it is rounding, and the vectors that its derivatives are taken against and along."""

    outputs: Outputs
    parameters: Mapping[str, Tensor]
    seed: int
    z: Tensor
    cotangents: Tensor
    noise: Tensor
    last_places: Mapping[str, Tensor]
    watched: Watched
    slopes: dict[int, dict[str, tuple[Tensor, Tensor]]] = field(default_factory=dict)
    others: list["DirectionalNetwork"] = field(default_factory=list)
    is_beside: bool = False

    @classmethod
    def of(cls, outputs: Outputs, parameters: Mapping[str, Tensor], seed: int) -> "DirectionalNetwork":
        """Four evaluations: two as it is, and two with the parameters' last places moved."""
        with watched_evaluation(parameters) as watched:
            z = outputs().detach().double()
        generator = torch.Generator().manual_seed(seed)
        shape = (COTANGENTS, *z.shape)
        cotangents = torch.randn(shape, generator=generator, dtype=torch.float64).to(z.device)
        noise = (outputs().detach().double() - z).abs()
        last_places = {
            name: watched.unit * parameter.detach() * _drawn(parameter, generator)
            for name, parameter in parameters.items()
        }
        for sign in (1, -1):
            with moved(parameters, last_places, sign):
                noise = torch.maximum(noise, (outputs().detach().double() - z).abs())
        floor = 2 * watched.unit * z.abs().amax(1, keepdim=True)
        return cls(outputs, parameters, seed, z, cotangents, (ROUNDINGS * noise).maximum(floor), last_places, watched)

    @property
    def limit(self) -> float:
        """Relative to a derivative, what may be explained for a pass."""
        return COARSE_LIMIT if self.is_coarse else LIMIT

    @property
    def is_coarse(self) -> bool:
        """Whether a part is evaluated in less than float64."""
        return self.watched.unit > torch.finfo(torch.float64).eps

    @property
    def longest(self) -> float:
        """The longest step: ten times what the coarsest numbers inside resolve, where that is more."""
        return max(LONGEST, 100 * self.watched.unit) if self.is_coarse else LONGEST

    def direction(self, name: str, number: int) -> Tensor:
        """A dense random vector as long as the tensor, or √size/100 where that is more; zero in rows left out."""
        parameter = self.parameters[name]
        place = list(self.parameters).index(name)
        generator = torch.Generator().manual_seed(hash((self.seed, place, number)))
        drawn = _drawn(parameter, generator)
        if name in self.watched.padding:
            drawn[sorted(self.watched.padding[name])] = 0
        length = max(float(parameter.detach().norm()), parameter.numel() ** 0.5 / 100)
        drawn *= length / max(float(drawn.norm()), 1e-300)
        return drawn

    def slope(self, name: str, number: int) -> tuple[Tensor, Tensor]:
        """⟨Jᵀu, v⟩ for each u and example, (K, B), and its rounding: what it changes with the parameters' last places.

        Once per direction, for all tensors; a backward pass for each vector and example.
        """
        if number not in self.slopes:
            here = self._pulled_back(number)
            with moved(self.parameters, self.last_places):
                beside = self._pulled_back(number)
            self.slopes[number] = {
                name: (slope, ROUNDINGS * (beside[name] - slope).abs()) for name, slope in here.items()
            }
        return self.slopes[number][name]

    def _pulled_back(self, number: int) -> dict[str, Tensor]:
        z = self.outputs()
        found = {name: torch.zeros(self.cotangents.shape[:2], dtype=torch.float64) for name in self.parameters}
        if not z.requires_grad:
            return found
        for k, cotangents in enumerate(self.cotangents):
            for n in range(len(z)):
                value = (z[n].double() * cotangents[n]).sum()
                parts = torch.autograd.grad(value, list(self.parameters.values()), retain_graph=True, allow_unused=True)
                for name, part in zip(self.parameters, parts, strict=True):
                    if part is not None:
                        dense = part.to_dense() if part.is_sparse else part
                        found[name][k, n] = float((dense.double() * self.direction(name, number)).sum())
        return found

    @contextmanager
    def beside(self) -> Iterator["DirectionalNetwork"]:
        """The network at parameters next to θ while the context is open: no unit is exactly at a kink there."""
        change = {name: self.direction(name, number=-1) for name in self.parameters}
        with moved(self.parameters, change, BESIDE):
            if not self.others:
                self.others.append(
                    replace(DirectionalNetwork.of(self.outputs, self.parameters, self.seed), is_beside=True)
                )
            yield self.others[0]

    def against(self, vectors: Tensor) -> Tensor:
        """Σ_c |u_c| a_c of the worst u, (B,), for vectors a ≥ 0 of the outputs' shape: a bound of ⟨u, a⟩."""
        found: Tensor = torch.einsum("kbc,bc->kb", self.cotangents.abs(), vectors).norm(dim=0)
        return found.cpu()


def _drawn(parameter: Tensor, generator: torch.Generator) -> Tensor:
    drawn: Tensor = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
    return drawn.to(device=parameter.device, dtype=parameter.dtype)


@dataclass(frozen=True)
class DirectionalStep:
    """Both sides at one length, (K, B); what bends and rounding may be of their difference and the outputs', (B,)."""

    length: float
    finite: Tensor
    autograd: Tensor
    bend: Tensor
    rounding: Tensor
    least: Tensor
    size: Tensor
    limit: float

    @property
    def error(self) -> Tensor:
        """‖D − J v‖ over the vectors u, by example."""
        found: Tensor = (self.finite - self.autograd).norm(dim=0)
        return found

    @property
    def scale(self) -> Tensor:
        """The larger of both sides, by example."""
        return torch.maximum(self.finite.norm(dim=0), self.autograd.norm(dim=0))

    @property
    def bound(self) -> Tensor:
        """What the difference may be where both sides are right, by example."""
        return FLOOR * self.scale + self.bend + self.rounding

    @property
    def passes(self) -> Tensor:
        """By example: the difference is explained, and nothing that is explained could hide a fault."""
        return (self.error <= self.bound) & (self.bound <= self.limit * self.least) & (self.scale > 0)

    @property
    def agrees(self) -> Tensor:
        """By example: the sides agree to digits that no chance gives, whatever bends and rounding could have been."""
        digits = (self.error <= LIMIT * self.least) | (self.error.maximum(self.rounding) <= self.limit * self.least)
        return digits & (self.scale > 0)

    @property
    def is_none(self) -> Tensor:
        """By example: both sides are rounding, and there is little of it, or nothing moves over a long step."""
        nothing = (self.scale == 0) & (self.bend == 0) & (self.length >= LONGEST)
        return nothing | ((self.scale <= self.rounding) & (self.rounding <= UNSEEN * self.size))

    @property
    def differs(self) -> Tensor:
        """By example: the difference is far beyond what is explained."""
        return self.error > CERTAIN * self.bound


def step_along(network: DirectionalNetwork, scales: Mapping[str, float], number: int, length: float) -> DirectionalStep:
    """Two evaluations, at ± length along the direction of some tensors, each scaled."""
    change = {name: scale * network.direction(name, number) for name, scale in scales.items()}
    ends = []
    for sign in (1, -1):
        with moved(network.parameters, change, sign * length):
            ends.append(network.outputs().detach().double())
    ahead, behind = (torch.where(end.isfinite(), end, network.z) for end in ends)
    difference, second = (ahead - behind) / (2 * length), (ahead + behind - 2 * network.z).abs() / (2 * length)
    lost = torch.stack([~end.isfinite() for end in ends]).any(0)
    slopes = [[scale * part for part in network.slope(name, number)] for name, scale in scales.items()]
    floor = torch.stack([end.abs().amax(1, keepdim=True) for end in (ahead, behind)]).amax(0)
    noise = torch.maximum(network.noise, 2 * network.watched.unit * floor)
    finite = torch.einsum("kbc,bc->kb", network.cotangents, difference).cpu()
    autograd, backward = (torch.stack(parts).sum(0) for parts in zip(*slopes, strict=True))
    scale = torch.maximum(finite.norm(dim=0), autograd.norm(dim=0))
    return DirectionalStep(
        length=length,
        finite=finite,
        autograd=autograd,
        bend=network.against(torch.where(lost, math.inf, second)),
        rounding=network.against(noise) / length + backward.norm(dim=0),
        least=scale / math.sqrt(len(scales)),
        size=network.against(network.z.abs().maximum(floor)).amax(),
        limit=network.limit,
    )


# Directions in which a difference must show to be a fault.
DIRECTIONS = 3
# Below this share of the largest derivative, tensors of a group are no longer moved alike.
WEAK = 1e-5


@dataclass(frozen=True)
class Derivative:
    """The derivative of the outputs along a random direction of one tensor, or of several, from both sides.

    Attributes:
        names: the tensors that were moved together.
        outcome: passed, failed or undecided.
        finite: ⟨u, (z(+) − z(−))/2h⟩ of the example and the vector u where both sides differ most.
        autograd: ⟨Jᵀu, v⟩ of the same.
        error: the difference over all u, relative to the larger of the two sides, as the next three are.
        tolerance: what was accepted of it.
        truncation: what bends explain of it.
        rounding: what rounding explains of it.
        step: h, relative to the tensor.
        reason: why it is undecided or failed, or what a reader should know; else "".
        is_beside: not at θ, where units are exactly at a kink, but at parameters next to it.
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
    network = DirectionalNetwork.of(outputs, parameters, seed)
    if most_groups is None or most_groups >= len(parameters):
        return tuple(_decided(network, {name: 1.0}) for name in parameters)
    found: list[Derivative] = []
    for group in _groups(network, most_groups):
        found += _taken_apart(network, group)
    order = {name: number for number, name in enumerate(parameters)}
    return tuple(sorted(found, key=lambda each: min(order[name] for name in each.names)))


def _groups(network: DirectionalNetwork, most: int) -> list[dict[str, float]]:
    """Tensors of like derivatives together, scaled so that each has the same share; those without one by themselves."""
    lengths = {name: float(network.slope(name, 0)[0].norm()) for name in network.parameters}
    least = WEAK * max(lengths.values(), default=0.0)
    weak = {name: 1.0 for name, length in lengths.items() if length <= least}
    others = sorted(lengths.keys() - weak.keys(), key=lambda name: (lengths[name], name))
    size = max(1, math.ceil(len(others) / max(most - bool(weak), 1)))
    groups = [others[start : start + size] for start in range(0, len(others), size)]
    found = [{name: lengths[names[0]] / lengths[name] for name in names} for names in groups]
    return [weak, *found] if weak else found


def _taken_apart(network: DirectionalNetwork, scales: Mapping[str, float]) -> list[Derivative]:
    """The group's verdict where it passes, or rounding hides all; else those of its halves, down to single tensors."""
    judged = _decided(network, scales)
    hidden = judged.outcome is Outcome.UNDECIDED and judged.rounding > judged.truncation
    if len(scales) == 1 or judged.outcome is Outcome.PASSED or hidden:
        return [judged]
    names, half = list(scales), len(scales) // 2
    parts = [{name: scales[name] if len(some) > 1 else 1.0 for name in some} for some in (names[:half], names[half:])]
    return [each for part in parts for each in _taken_apart(network, part)]


def _decided(network: DirectionalNetwork, scales: Mapping[str, float]) -> Derivative:
    """Step after step until the tensors pass, fail, or no other step could tell more."""
    alone = len(scales) == 1
    steps, doubted = list[DirectionalStep](), 0
    passed = torch.zeros(len(network.z), dtype=torch.bool)
    length: float | None = FIRST
    while length is not None:
        step = step_along(network, scales, 0, length)
        steps.append(step)
        if not alone and bool(step.differs.any()):
            return _told(scales, Outcome.FAILED, step, step.differs, "")
        if alone and doubted < 2 and bool(step.differs.any()):
            doubted += 1
            wrong = _confirmed(network, scales, step)
            if bool(wrong.any()):
                return _told(scales, Outcome.FAILED, step, wrong, _wrong(step, wrong))
        passed |= step.passes
        if bool(passed.all()):
            return _told(scales, Outcome.PASSED, step, passed, "")
        length = _next_length(network, steps, ~passed)
    return _after_all_steps(network, scales, steps, passed)


def _after_all_steps(
    network: DirectionalNetwork, scales: Mapping[str, float], steps: Sequence[DirectionalStep], passed: Tensor
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


def _confirmed(network: DirectionalNetwork, scales: Mapping[str, float], step: DirectionalStep) -> Tensor:
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


def _next_length(network: DirectionalNetwork, steps: Sequence[DirectionalStep], unclear: Tensor) -> float | None:
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


def _stays(steps: Sequence[DirectionalStep], n: int) -> bool:
    """Whether the last three steps bend alike though each is shorter: there is a kink at θ itself."""
    last = steps[-3:]
    shorter = all(after.length < before.length for before, after in itertools.pairwise(last))
    return len(last) == 3 and shorter and float(last[2].bend[n]) > 0.5 * float(last[0].bend[n])


def _told(
    scales: Mapping[str, float], outcome: Outcome, step: DirectionalStep, where: Tensor, reason: str
) -> Derivative:
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


def _wrong(step: DirectionalStep, where: Tensor) -> str:
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
