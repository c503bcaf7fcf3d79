"""The derivative of the outputs along a random direction of some tensors, by finite differences and by autograd."""

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from fisher_cli.curvature.torch_backend.evaluation_watch import Watched, watched_evaluation

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
    """Evaluate at θ + length · change while the context is open; every bit is put back."""
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
class Network:
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
    others: list["Network"] = field(default_factory=list)
    is_beside: bool = False

    @classmethod
    def of(cls, outputs: Outputs, parameters: Mapping[str, Tensor], seed: int) -> "Network":
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
    def beside(self) -> Iterator["Network"]:
        """The network at parameters next to θ while the context is open: no unit is exactly at a kink there."""
        change = {name: self.direction(name, number=-1) for name in self.parameters}
        with moved(self.parameters, change, BESIDE):
            if not self.others:
                self.others.append(replace(Network.of(self.outputs, self.parameters, self.seed), is_beside=True))
            yield self.others[0]

    def against(self, vectors: Tensor) -> Tensor:
        """Σ_c |u_c| a_c of the worst u, (B,), for vectors a ≥ 0 of the outputs' shape: a bound of ⟨u, a⟩."""
        found: Tensor = torch.einsum("kbc,bc->kb", self.cotangents.abs(), vectors).norm(dim=0)
        return found.cpu()


def _drawn(parameter: Tensor, generator: torch.Generator) -> Tensor:
    drawn: Tensor = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
    return drawn.to(device=parameter.device, dtype=parameter.dtype)


@dataclass(frozen=True)
class Step:
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


def step_along(network: Network, scales: Mapping[str, float], number: int, length: float) -> Step:
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
    return Step(
        length=length,
        finite=finite,
        autograd=autograd,
        bend=network.against(torch.where(lost, math.inf, second)),
        rounding=network.against(noise) / length + backward.norm(dim=0),
        least=scale / math.sqrt(len(scales)),
        size=network.against(network.z.abs().maximum(floor)).amax(),
        limit=network.limit,
    )
