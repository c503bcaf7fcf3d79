"""Which recorded calls of a batch serve which parameter, and what each contributes on the cotangents of its output."""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import torch
from torch import Tensor

from fisher_cli.curvature.gradient_norms.attribution import GradientSource, Place, Use, gradient_sources
from fisher_cli.curvature.gradient_norms.batch_dim import BatchDim
from fisher_cli.curvature.gradient_norms.call_recorder import Call
from fisher_cli.curvature.gradient_norms.grad_factors import Contribution, Given
from fisher_cli.curvature.gradient_norms.operation_count import spent_on
from fisher_cli.curvature.gradient_norms.reparametrization import pulled_back_to
from fisher_cli.curvature.gradient_norms.rules.registry import RULES
from fisher_cli.curvature.gradient_norms.streamed_vjp import cotangents_in_turn
from fisher_cli.curvature.problem.problem import upcast

PER_EXAMPLE = "per-example"
UNUSED = "unused"

TakeParts = Callable[[str, list[Contribution]], None]
"""A parameter's name and what each of its uses contributes."""


@dataclass(frozen=True)
class BackwardPlan:
    """Which calls of a batch serve which parameter, by their sources; the rest by example."""

    by_rules: Mapping[str, Sequence[GradientSource]]
    by_example: tuple[str, ...]
    calls: Sequence[Call]
    parameters: Mapping[str, Tensor]

    @classmethod
    def of(
        cls,
        outputs: Tensor,
        parameters: Mapping[str, Tensor],
        calls: Sequence[Call],
        layouts: Sequence[BatchDim | None],
    ) -> "BackwardPlan":
        """A parameter goes by rules where calls whose rule and layout are known account for all its uses."""
        found = gradient_sources(outputs, parameters, calls, layouts)
        by_rules = {name: sources for name, sources in found.items() if sources}
        by_example = tuple(name for name, sources in found.items() if not sources)
        return cls(by_rules, by_example, calls, parameters)

    def method(self, name: str) -> str:
        """What the ledger says of a parameter."""
        if name in self.by_example:
            return PER_EXAMPLE
        if name not in self.by_rules:
            return UNUSED
        sources = self.by_rules[name]
        words = {
            ("" if source.is_parameter else "parametrized-") + RULES[self.calls[use.call].function].name
            for source in sources
            for use in source.uses
        }
        uses = sum(len(source.uses) for source in sources)
        return " + ".join(sorted(words)) + (f" ×{uses}" if uses > 1 else "")

    @cached_property
    def served(self) -> Mapping[int, Mapping[Use, tuple[Place, list[str]]]]:
        """By call its uses, each with the place of the source and the parameters that have a part in it."""
        found: dict[int, dict[Use, tuple[Place, list[str]]]] = {}
        for name, sources in self.by_rules.items():
            for source in sources:
                for use in source.uses:
                    found.setdefault(use.call, {}).setdefault(use, (source.place, []))[1].append(name)
        return found

    @property
    def wanted(self) -> list[int]:
        """The calls whose outputs' cotangents are asked for."""
        return sorted(self.served)

    @property
    def bytes_per_direction(self) -> int:
        """What the cotangents of one of them take, the largest: they are let go one after another."""
        shapes = [(self.calls[index].output_shape, self.calls[index].itemsize) for index in self.wanted]
        return max((shape.numel() * size for shape, size in shapes), default=0)


@dataclass
class Uses:
    """The contributions of parameters whose other uses are still to come."""

    plan: BackwardPlan
    parts: dict[Place, dict[tuple[int, str], Given]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        every = self.plan.by_rules.items()
        self._to_come = {name: sum(len(source.uses) for source in sources) for name, sources in every}
        self._shared_by = Counter(source.place for _, sources in every for source in sources)

    def completed_by(self, index: int, cotangents: Tensor) -> Iterator[tuple[str, list[Contribution]]]:
        """Each parameter of which this call was the last use to come, with the contributions of all, last first."""
        for use, part in _of_call(self.plan, index, cotangents):
            place, names = self.plan.served[index][use]
            self.parts.setdefault(place, {})[use.call, use.role] = part
            for name in names:
                self._to_come[name] -= 1
                if not self._to_come[name]:
                    yield name, self._of(name)

    def _of(self, name: str) -> list[Contribution]:
        """All contributions of a parameter; those that no other parameter waits for are held no longer."""
        sources, given = self.plan.by_rules[name], []
        for source in sources:
            found = self.parts[source.place]
            given.append(([found[key] for key in sorted(found, reverse=True)], source.shape))
            self._shared_by[source.place] -= 1
            if not self._shared_by[source.place]:
                del self.parts[source.place]
        if len(sources) == 1 and sources[0].is_parameter:
            return [*given[0][0]]
        return [pulled_back_to(self.plan.parameters[name], sources, [parts for parts, _ in given])]


def contributions_in_turn(plan: BackwardPlan, outputs: Tensor, directions: Tensor, take: TakeParts) -> None:
    """Give `take` each parameter with its contributions while the backward pass of all directions goes on."""
    wanted, uses = plan.wanted, Uses(plan)

    def receive(place: int, cotangents: Tensor) -> None:
        for name, parts in uses.completed_by(wanted[place], cotangents):
            take(name, parts)

    if wanted:
        cotangents_in_turn(outputs, [plan.calls[index].edge for index in wanted], directions, receive)


def one_after_another(
    plan: BackwardPlan, outputs: Tensor, directions: Tensor
) -> Iterator[tuple[str, list[Contribution]]]:
    """The same for whoever asks for the next when it is done with one: all cotangents are held until they are used."""
    wanted, uses, held = plan.wanted, Uses(plan), dict[int, Tensor]()
    if wanted:
        edges = [plan.calls[index].edge for index in wanted]
        cotangents_in_turn(outputs, edges, directions, held.__setitem__)
    for place in reversed(range(len(wanted))):
        yield from uses.completed_by(wanted[place], held.pop(place))


def _of_call(plan: BackwardPlan, index: int, cotangents: Tensor) -> Iterator[tuple[Use, Given]]:
    """What one call contributes in each of its uses, examples folded."""
    call, served = plan.calls[index], plan.served[index]
    layout = next(iter(served)).layout
    # A bare parameter that is added or expanded is its own "input": it has no examples to bring to the front.
    inputs = call.inputs if call.is_bare else layout.examples_first(call.inputs)
    # Here, and nowhere else, what a network in bfloat16 computed becomes float32: every rule multiplies and adds in it.
    inputs, cotangents = upcast(inputs), upcast(cotangents)
    with torch.no_grad(), spent_on([name for _, names in served.values() for name in names]):
        parts = RULES[call.function].contributions(call.arguments, inputs, layout.examples_first(cotangents, 1))
        folded = [(use, parts[use.role].folded(layout.times)) for use in served]
    yield from folded
