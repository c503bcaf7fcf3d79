"""Cotangents given away as the backward pass reaches them, so that those of two layers are never there at once."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from contextvars import Context, copy_context
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch._C._functorch import get_unwrapped, maybe_get_bdim
from torch._functorch.pyfunctorch import retrieve_current_functorch_interpreter
from torch.autograd.graph import GradientEdge
from torch.func import vmap

from fisher_cli.curvature.gradient_norms.autograd_graph import refuse_wrong_vectorisation
from fisher_cli.curvature.torch_backend.backend_flags import full_precision, reproducible_kernels
from fisher_cli.curvature.torch_backend.out_of_memory import raise_if_out_of_memory
from fisher_cli.errors import ArchitectureError

Receive = Callable[[int, Tensor], None]
"""An edge's index and its cotangents of all directions, (K, …)."""


@dataclass
class _Stream:
    """Hands each edge's cotangents to `receive` once; `is_receiving` while it has not come back."""

    edges: Sequence[GradientEdge]
    directions: int
    receive: Receive
    given: set[int] = field(default_factory=set)
    is_receiving: bool = False
    # On a GPU autograd does its work in a thread of its own, which knows this one's context by a copy.
    context: Context = field(default_factory=copy_context)

    @contextmanager
    def giving(self, index: int) -> Iterator[None]:
        """Note that an edge's cotangents are handed over."""
        self.is_receiving = True
        yield
        self.is_receiving = False
        self.given.add(index)

    def reach(self, places: Sequence[tuple[int, int]], gradients: Sequence[Tensor | None]) -> None:
        """Hand over what a vectorised backward pass brings to a node, (index of the edge, output of the node), from it.

        This is what an autograd.Function with a vmap rule would do, whose Python costs more than a small layer's norms.
        """
        for index, output in places:
            gradient = gradients[output]
            cotangent = _zeros(self.edges[index]) if gradient is None else gradient
            dimension = maybe_get_bdim(cotangent)  # of the directions; none if they are not told apart in it
            # What the network multiplies in is not what its norms are to be in.
            with retrieve_current_functorch_interpreter().lower(), full_precision():
                if dimension < 0:
                    every = cotangent.expand(self.directions, *cotangent.shape)
                else:
                    every = get_unwrapped(cotangent).movedim(dimension, 0)
                with self.giving(index):
                    self.context.run(self.receive, index, every)


def cotangents_in_turn(outputs: Tensor, edges: Sequence[GradientEdge], directions: Tensor, receive: Receive) -> None:
    """Give `receive` the cotangents of every edge, Jᵀ v of the tensor that it stands for, for directions v.

    K backward passes as one, in which each edge's are let go as soon as `receive` has them; where torch cannot
    vectorise some operation's backward, or has it wrong, one by one, all of them kept. Asking for edges alone means
    that no weight gradient is ever computed. Every edge is given once; what no gradient comes to is given zeros.

    Args:
        outputs: (B, C), with their graph, which is kept.
        edges: where tensors enter the graph.
        directions: v, (K, B, C), in the outputs' precision.
        receive: called with an edge's number in `edges` and (K, …), in whichever order the pass comes to them. What it
            computes is in full precision; it may run in another thread.

    Raises:
        RuntimeError: one that `receive` raised, as it is; so does every other error of its own.
        ArchitectureError: torch's own backward pass fails, one direction at a time.
    """
    if not edges:
        return
    stream = _Stream(edges, len(directions), receive)
    with reproducible_kernels():
        try:
            refuse_wrong_vectorisation([outputs.grad_fn])
            # Only the last edges on their way are asked for; those that the pass goes through are watched.
            last = _last(edges)
            with ExitStack() as stack:
                for node, places in _by_node(edges, set(range(len(edges))) - set(last)).items():
                    stack.callback(node.register_prehook(partial(stream.reach, places)).remove)
                # Not autograd's own `is_grads_batched`: it takes the backward of a convolution one direction at a time.
                found = vmap(partial(_gradients, outputs, [edges[index] for index in last]))(directions)
            with full_precision():
                for index, cotangents in zip(last, found, strict=True):
                    with stream.giving(index):
                        receive(index, cotangents)
        except (RuntimeError, NotImplementedError) as error:
            raise_if_out_of_memory(error)
            if stream.is_receiving:
                raise
        if len(stream.given) < len(edges):
            try:
                each = [_gradients(outputs, edges, direction) for direction in directions]
            except RuntimeError as error:
                raise_if_out_of_memory(error)
                reason = str(error).strip().partition("\n")[0]
                msg = f"torch cannot go back through this network ({reason}): change that layer"
                raise ArchitectureError(msg) from error
            with full_precision():
                for index, gradients in enumerate(zip(*each, strict=True)):
                    if index not in stream.given:
                        receive(index, torch.stack(gradients))


def _by_node(edges: Sequence[GradientEdge], indices: Iterable[int]) -> dict[Any, list[tuple[int, int]]]:
    """Edges by the node that they stand for an output of."""
    found: dict[Any, list[tuple[int, int]]] = {}
    for index in sorted(indices):
        found.setdefault(edges[index].node, []).append((index, edges[index].output_nr))
    return found


def _gradients(outputs: Tensor, edges: Sequence[GradientEdge], direction: Tensor) -> tuple[Tensor, ...]:
    """The edges' gradients of one direction; zeros where an operation gives none back."""
    found = torch.autograd.grad(outputs, edges, direction, retain_graph=True, allow_unused=True)
    return tuple(_zeros(edge) if gradient is None else gradient for edge, gradient in zip(edges, found, strict=True))


def _zeros(edge: GradientEdge) -> Tensor:
    """Zeros in the shape of what an edge stands for."""
    like = edge.node._input_metadata[edge.output_nr]
    return torch.zeros(like.shape, dtype=like.dtype, device=like.device)


def _last(edges: Sequence[GradientEdge]) -> list[int]:
    """The edges from which no node of the others can be reached: whoever asks for these passes through all."""
    wanted = {edge.node for edge in edges}
    reaches: dict[Any, bool] = {}
    for root in wanted:
        waiting = [root]
        while waiting:
            node = waiting[-1]
            successors = [successor for successor, _ in node.next_functions if successor is not None]
            unknown = [successor for successor in successors if successor not in reaches]
            if unknown and node not in reaches:
                waiting += unknown
            else:
                waiting.pop()
                reaches[node] = any(successor in wanted or reaches[successor] for successor in successors)
    return [index for index, edge in enumerate(edges) if not reaches[edge.node]]
