"""Which recorded calls account for every path from the outputs to a parameter.

A call accounts for a tensor that it was given (a *source*: a parameter, or a tensor computed from parameters) where its
rule holds, its layout is known, and the graph's nodes that it made are entered through its output alone: a view changed
in place is entered from beside it, and the gradient of an energy enters the nodes of layers that the energy went
through. Cut the graph at what is accounted for: a parameter that is still reached has a use that no rule knows of.
"""

from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
from torch import Tensor
from torch.autograd.graph import GradientEdge, get_gradient_edge

from fisher_cli.curvature.gradient_norms.batch_dim import BatchDim
from fisher_cli.curvature.gradient_norms.call_recorder import Call, WeightNorm

Place = tuple[Any, int]
"""An edge's node and the number of the node's output that it stands for."""


@dataclass(frozen=True)
class Use:
    """One use of a source by a recorded call.

    Attributes:
        call: its number in the list of calls.
        layout: where it keeps the examples.
        role: the argument that holds the source.
    """

    call: int
    layout: BatchDim
    role: str


@dataclass(frozen=True)
class GradientSource:
    """A tensor that rules give the gradient of: a parameter, or a tensor computed from parameters alone.

    Attributes:
        edge: where it stands in the graph.
        shape: of the tensor and of its gradient.
        weight_norm: the direction and length that it is made of, where it is a weight normed by row; else None.
        uses: all calls that its gradient is the sum of.
    """

    edge: GradientEdge
    shape: torch.Size
    weight_norm: WeightNorm | None
    uses: Sequence[Use]

    @property
    def place(self) -> Place:
        """The node and the number of its output, by which a source is told from others."""
        return self.edge.node, self.edge.output_nr

    @property
    def is_parameter(self) -> bool:
        """Whether it is a leaf of the graph."""
        return getattr(self.edge.node, "variable", None) is not None


@dataclass
class _Graph:
    """The graph from the outputs down, and which of its nodes each call made."""

    root: Any
    calls: Sequence[Call]
    successors: dict[Any, list[Place]] = field(default_factory=dict)
    owners: dict[Any, range | None] = field(default_factory=dict)

    def __post_init__(self) -> None:
        starts = sorted({(call.nodes.start, call.nodes.stop) for call in self.calls})
        waiting = [self.root]
        while waiting:
            node = waiting.pop()
            if node in self.successors:
                continue
            number = node._sequence_nr()
            index = bisect_right(starts, (number, float("inf"))) - 1
            self.owners[node] = range(*starts[index]) if index >= 0 and number < starts[index][1] else None
            self.successors[node] = [place for place in node.next_functions if place[0] is not None]
            waiting += [successor for successor, _ in self.successors[node]]

    @cached_property
    def entered_aside(self) -> frozenset[range]:
        """The nodes of calls that something else leads to than their output's edge."""
        entries: dict[range, set[Any]] = {}
        for call in self.calls:
            entries.setdefault(call.nodes, set()).update(call.entries)
        edges = [(None, self.root), *((node, other) for node, places in self.successors.items() for other, _ in places)]
        return frozenset(
            owner
            for before, node in edges
            if (owner := self.owners[node]) is not None
            and (before is None or self.owners[before] != owner)
            and node not in entries[owner]
        )

    @cached_property
    def read(self) -> frozenset[tuple[range, Place]]:
        """What the nodes of calls lead to outside of them."""
        return frozenset(
            (owner, place)
            for node, places in self.successors.items()
            if (owner := self.owners[node]) is not None
            for place in places
        )

    def below(self, roots: Iterable[Any], cut: frozenset[tuple[range, Place]] = frozenset()) -> Iterator[Any]:
        """All nodes that can be reached without passing through a cut."""
        seen, waiting = set[Any](), list(roots)
        while waiting:
            node = waiting.pop()
            if node in seen:
                continue
            seen.add(node)
            yield node
            owner = self.owners[node]
            waiting += [place[0] for place in self.successors[node] if owner is None or (owner, place) not in cut]


def gradient_sources(
    outputs: Tensor, parameters: Mapping[str, Tensor], calls: Sequence[Call], layouts: Sequence[BatchDim | None]
) -> dict[str, tuple[GradientSource, ...]]:
    """The sources of every parameter with a path to the outputs; none where some use of it is not accounted for.

    A parameter's gradient is the sum of those of its sources, each pulled back to it.

    Args:
        outputs: (B, C), with their graph.
        parameters: by name.
        calls: what was recorded on the way to the outputs.
        layouts: where each call keeps the examples; None where it mixes them.

    Returns:
        By parameter; one that the outputs do not depend on is left out.
    """
    graph = _Graph(outputs.grad_fn, calls)
    uses: dict[Place, list[Use]] = {}
    edges: dict[Place, tuple[GradientEdge, torch.Size, WeightNorm | None]] = {}
    serving = set[range]()
    for number, (call, layout) in enumerate(zip(calls, layouts, strict=True)):
        if layout is None or call.nodes in graph.entered_aside or not call.rule.exact(call.arguments):
            continue
        for role, edge in call.sources.items():
            place = (edge.node, edge.output_nr)
            if (call.nodes, place) in graph.read and place not in call.given:
                uses.setdefault(place, []).append(Use(number, layout, role))
                edges[place] = edge, call.arguments[role].shape, call.weight_norms[role]
                serving.add(call.nodes)
    below: dict[Place, list[Any]] = {}
    for place in uses:
        nodes = _until(graph.below([place[0]]), lambda node: graph.owners[node] in serving)
        if nodes is not None:  # else computed from data, or from what a rule knows already: the path goes on
            below[place] = nodes
    cut = frozenset((calls[use.call].nodes, place) for place in below for use in uses[place])
    reached = set(graph.below([graph.root], cut))
    places: dict[Any, list[Place]] = {}
    for place, nodes in below.items():
        for node in nodes:
            places.setdefault(node, []).append(place)
    leaves = {name: get_gradient_edge(parameter).node for name, parameter in parameters.items()}
    return {
        name: () if leaf in reached else tuple(GradientSource(*edges[place], uses[place]) for place in places[leaf])
        for name, leaf in leaves.items()
        if leaf in graph.successors
    }


def _until(nodes: Iterator[Any], is_end: Callable[[Any], bool]) -> list[Any] | None:
    """All nodes, None where one of them is an end."""
    found = []
    for node in nodes:
        if is_end(node):
            return None
        found.append(node)
    return found
