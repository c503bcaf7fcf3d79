"""Which recorded calls of a batch serve which parameter, and what each contributes on the cotangents of its output."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from fisher_cli.curvature.gradient_norms.arrivals import cotangents_in_turn
from fisher_cli.curvature.gradient_norms.capture import Call
from fisher_cli.curvature.gradient_norms.contributions import Contribution
from fisher_cli.curvature.gradient_norms.layouts import Layout
from fisher_cli.curvature.gradient_norms.rules import RULES
from fisher_cli.curvature.gradient_norms.work import spent_on
from fisher_cli.curvature.problem import widened

TakeParts = Callable[[str, list[Contribution]], None]
"""A parameter's name and what each of its uses contributes."""


@dataclass(frozen=True)
class Plan:
    """Which calls of a batch serve which parameter: (call, layout, role) by parameter; the rest by example."""

    by_rules: Mapping[str, Sequence[tuple[int, Layout, str]]]
    by_example: tuple[str, ...]
    calls: Sequence[Call]

    @property
    def wanted(self) -> list[int]:
        """The calls whose outputs' cotangents are asked for."""
        return sorted({index for uses in self.by_rules.values() for index, _, _ in uses})

    @property
    def bytes_per_direction(self) -> int:
        """What the cotangents of one of them take, the largest: they are let go one after another."""
        shapes = [(self.calls[index].output_shape, self.calls[index].itemsize) for index in self.wanted]
        return max((shape.numel() * size for shape, size in shapes), default=0)


@dataclass
class Uses:
    """The contributions of parameters whose other uses are still to come."""

    plan: Plan
    pending: dict[str, dict[int, Contribution]] = field(default_factory=dict)

    def completed_by(self, index: int, cotangents: Tensor) -> Iterator[tuple[str, list[Contribution]]]:
        """Each parameter of which this call was the last use to come, with the contributions of all, last first."""
        for name, part in _of_call(self.plan, index, cotangents):
            parts = self.pending.setdefault(name, {})
            parts[index] = part
            if len(parts) == len(self.plan.by_rules[name]):
                del self.pending[name]
                yield name, [parts[each] for each in sorted(parts, reverse=True)]


def contributions_in_turn(plan: Plan, outputs: Tensor, directions: Tensor, take: TakeParts) -> None:
    """Give `take` each parameter with its contributions while the backward pass of all directions goes on."""
    wanted, uses = plan.wanted, Uses(plan)

    def receive(place: int, cotangents: Tensor) -> None:
        for name, parts in uses.completed_by(wanted[place], cotangents):
            take(name, parts)

    if wanted:
        cotangents_in_turn(outputs, [plan.calls[index].edge for index in wanted], directions, receive)


def one_after_another(plan: Plan, outputs: Tensor, directions: Tensor) -> Iterator[tuple[str, list[Contribution]]]:
    """The same for whoever asks for the next when it is done with one: all cotangents are held until they are used."""
    wanted, uses, held = plan.wanted, Uses(plan), dict[int, Tensor]()
    if wanted:
        edges = [plan.calls[index].edge for index in wanted]
        cotangents_in_turn(outputs, edges, directions, held.__setitem__)
    for place in reversed(range(len(wanted))):
        yield from uses.completed_by(wanted[place], held.pop(place))


def _of_call(plan: Plan, index: int, cotangents: Tensor) -> Iterator[tuple[str, Contribution]]:
    """What one call contributes to each parameter it serves, examples folded."""
    call = plan.calls[index]
    served = [
        (name, layout, role) for name, uses in plan.by_rules.items() for number, layout, role in uses if number == index
    ]
    layout = served[0][1]
    # A bare parameter that is added or expanded is its own "input": it has no examples to bring to the front.
    inputs = call.inputs if call.is_bare else layout.examples_first(call.inputs)
    # Here, and nowhere else, what a network in bfloat16 computed becomes float32: every rule multiplies and adds in it.
    inputs, cotangents = widened(inputs), widened(cotangents)
    with torch.no_grad(), spent_on([name for name, _, _ in served]):
        parts = RULES[call.function].contributions(call.arguments, inputs, layout.examples_first(cotangents, 1))
        folded = [(name, parts[role].folded(layout.times)) for name, _, role in served]
    yield from folded
