"""Which recorded calls of a batch serve which parameter, and what each contributes on the cotangents of its output."""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import torch
from torch import Tensor
from torch.autograd.graph import GradientEdge

from fisher_cli.curvature.gradient_norms.attribution import GradientSource, Place, Use, gradient_sources
from fisher_cli.curvature.gradient_norms.batch_dim import BatchDim
from fisher_cli.curvature.gradient_norms.call_recorder import Call
from fisher_cli.curvature.gradient_norms.grad_factors import Contribution, Given, given
from fisher_cli.curvature.gradient_norms.operation_count import spent_on
from fisher_cli.curvature.gradient_norms.reparametrization import pulled_back_to
from fisher_cli.curvature.gradient_norms.streamed_vjp import cotangents_in_turn
from fisher_cli.curvature.problem.problem import upcast

PER_EXAMPLE = "per-example"
UNUSED = "unused"

TakeParts = Callable[[str, list[Contribution]], None]
"""A parameter's name and what each of its uses contributes."""


@dataclass(frozen=True)
class BackwardPlan:
    """Which calls of a batch serve which parameter.

    Attributes:
        by_rules: the sources of the parameters that go by rules, by name.
        by_example: the parameters that go through per-example gradients. A parameter in neither is unused.
        calls: the recorded calls that can be used; sources name them by number.
        parameters: all analysed parameters, by name.
    """

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
        """The plan of one batch: a parameter goes by rules where calls of known layout account for all its uses.

        Args:
            outputs: (B, C), with their graph.
            parameters: those that are analysed, by name.
            calls: what was recorded in the forward pass.
            layouts: where each call keeps the examples; None where it mixes them.
        """
        found = gradient_sources(outputs, parameters, calls, layouts)
        by_rules = {name: sources for name, sources in found.items() if sources}
        by_example = tuple(name for name, sources in found.items() if not sources)
        return cls(by_rules, by_example, calls, parameters)

    def method(self, name: str) -> str:
        """What the ledger says of a parameter: `per-example`, `unused`, or its rules and how many uses it has."""
        if name in self.by_example:
            return PER_EXAMPLE
        if name not in self.by_rules:
            return UNUSED
        sources = self.by_rules[name]
        words = {
            ("" if source.is_parameter else "parametrized-") + self.calls[use.call].rule.name
            for source in sources
            for use in source.uses
        }
        uses = sum(len(source.uses) for source in sources)
        return " + ".join(sorted(words)) + (f" ×{uses}" if uses > 1 else "")

    def user_rules(self, name: str) -> set[str]:
        """The rules of the user's that a parameter goes by, each with its file."""
        used = {self.calls[use.call].rule for source in self.by_rules.get(name, ()) for use in source.uses}
        return {f"{rule.name} of {rule.file}" for rule in used if rule.file is not None}

    @cached_property
    def served(self) -> Mapping[int, Mapping[Use, tuple[Place, list[str]]]]:
        """By call its uses, each with the place of the source and the parameters that have a part in it."""
        found: dict[int, dict[Use, tuple[Place, list[str]]]] = {}
        for name, sources in self.by_rules.items():
            for source in sources:
                for use in source.uses:
                    found.setdefault(use.call, {}).setdefault(use, (source.place, []))[1].append(name)
        return found

    @cached_property
    def wanted(self) -> list[int]:
        """The calls whose outputs' cotangents are asked for."""
        return sorted(self.served)

    @property
    def edges(self) -> list[GradientEdge]:
        """Where the outputs of the calls in `wanted` enter the graph, in the same order."""
        return [self.calls[index].edge for index in self.wanted]

    @property
    def bytes_per_direction(self) -> int:
        """Bytes of the largest cotangents of one direction and all examples: they are let go one after another."""
        shapes = [(self.calls[index].output_shape, self.calls[index].itemsize) for index in self.wanted]
        return max((shape.numel() * size for shape, size in shapes), default=0)


@dataclass
class Uses:
    """Gives `take` each parameter with its contributions as soon as the cotangents of its last use have come.

    Attributes:
        plan: of the batch.
        take: called once for each parameter that goes by rules.
        parts: what has come and is still waited with.
    """

    plan: BackwardPlan
    take: TakeParts
    parts: dict[Place, dict[tuple[int, str], Given]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        every = self.plan.by_rules.items()
        self._to_come = {name: sum(len(source.uses) for source in sources) for name, sources in every}
        self._shared_by = Counter(source.place for _, sources in every for source in sources)

    def receive(self, number: int, cotangents: Tensor) -> None:
        """Take in the cotangents of one of the wanted calls: what it contributes in each of its uses.

        Args:
            number: of the call in `plan.wanted`.
            cotangents: (K, …), each in the shape of the call's output.
        """
        index = self.plan.wanted[number]
        call, served = self.plan.calls[index], self.plan.served[index]
        layout = next(iter(served)).layout
        inputs = call.inputs
        # Here, and nowhere else, what a network in bfloat16 computed becomes float32: every rule computes in it.
        inputs = None if inputs is None else upcast(layout.examples_first(inputs))
        cotangents = upcast(cotangents)
        with torch.no_grad(), spent_on([name for _, names in served.values() for name in names]):
            parts = call.rule.contributions(call.arguments, inputs, layout.examples_first(cotangents, 1))
            folded = [(use, given(parts[use.role]).folded(layout.times)) for use in served]
        for use, part in folded:
            place, names = served[use]
            self.parts.setdefault(place, {})[use.call, use.role] = part
            for name in names:
                self._to_come[name] -= 1
                if not self._to_come[name]:
                    self.take(name, self._of(name))

    def _of(self, name: str) -> list[Contribution]:
        """All contributions of a parameter, last first; those that no other waits for are held no longer."""
        sources, found = self.plan.by_rules[name], []
        for source in sources:
            parts = self.parts[source.place]
            found.append(([parts[key] for key in sorted(parts, reverse=True)], source.shape))
            self._shared_by[source.place] -= 1
            if not self._shared_by[source.place]:
                del self.parts[source.place]
        if len(sources) == 1 and sources[0].is_parameter:
            return [*found[0][0]]
        return [pulled_back_to(self.plan.parameters[name], sources, [parts for parts, _ in found])]


def one_after_another(
    plan: BackwardPlan, outputs: Tensor, directions: Tensor
) -> Iterator[tuple[str, list[Contribution]]]:
    """Each parameter with its contributions, for whoever asks for the next when it is done with one.

    All cotangents are held until they are used.
    """
    held, found = dict[int, Tensor](), list[tuple[str, list[Contribution]]]()
    uses = Uses(plan, lambda name, parts: found.append((name, parts)))
    cotangents_in_turn(outputs, plan.edges, directions, held.__setitem__)
    for number in reversed(range(len(held))):
        uses.receive(number, held.pop(number))
        while found:
            yield found.pop(0)
