"""What the autograd graph of a forward pass says about the parameters."""

from collections import Counter
from dataclasses import dataclass
from typing import Any

from torch import Tensor

# Operations that may put examples or positions in an order that depends on the data.
_DATA_DEPENDENT = ("Index", "Gather", "Scatter", "Sort", "Topk", "Take", "Masked", "Put")


@dataclass(frozen=True)
class Graph:
    """How many operations read each leaf tensor, by its id, and which nodes there are.

    `depends_on_data`: whether the order of examples or positions may.
    """

    uses: Counter[int]
    nodes: frozenset[Any]
    depends_on_data: bool


def read_graph(outputs: Tensor) -> Graph:
    """Walk the graph from the outputs.

    A leaf used twice (tied weights, a reused module, functional use beside the module) has two edges into
    its accumulation node, whatever the modules say.
    """
    uses: Counter[int] = Counter()
    root = outputs.grad_fn
    nodes, waiting = {root}, [root]
    depends = False
    while waiting:
        node = waiting.pop()
        if node is None:
            continue
        depends = depends or any(word in node.name() for word in _DATA_DEPENDENT)
        for successor, _ in node.next_functions:
            if successor is None:
                continue
            variable = getattr(successor, "variable", None)
            if variable is not None:
                uses[id(variable)] += 1
            if successor not in nodes:
                nodes.add(successor)
                waiting.append(successor)
    return Graph(uses, frozenset(nodes), depends)
