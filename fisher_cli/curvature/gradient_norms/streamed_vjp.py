"""Cotangents given away as the backward pass reaches them, so that those of two layers are never there at once."""

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from contextvars import copy_context
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


def _handed(cotangent: Tensor, hand: Callable[[Tensor, bool], None]) -> None:
    """Give a tensor of a vectorised backward pass away with all directions, which come first, outside of the pass.

    This is what an autograd.Function with a vmap rule would do, whose Python costs more than a small layer's norms.
    """
    place = maybe_get_bdim(cotangent)
    with retrieve_current_functorch_interpreter().lower():
        if place < 0:  # no direction is told apart in it
            hand(cotangent, False)
        else:
            hand(get_unwrapped(cotangent).movedim(place, 0), True)


def cotangents_in_turn(outputs: Tensor, edges: Sequence[GradientEdge], directions: Tensor, receive: Receive) -> None:
    """Give `receive` the cotangents of every edge, Jᵀ v of what it stands for, for directions v (K, B, C).

    K backward passes as one, in which each edge's are let go as soon as `receive` has them; where torch cannot
    vectorise some operation's backward, or has it wrong, one by one, all of them kept. Asking for edges alone means
    that no weight gradient is ever computed. Every edge is given once; what no gradient comes to is given zeros.

    Raises:
        RuntimeError: one that `receive` raised, as it is; so does every other error of its own.
        ArchitectureError: torch's own backward pass fails, one direction at a time.
    """
    given, is_receiving = set[int](), False

    def once(index: int, cotangents: Tensor) -> None:
        nonlocal is_receiving
        if index not in given:
            is_receiving = True
            receive(index, cotangents)
            is_receiving = False
            given.add(index)

    with reproducible_kernels():
        try:
            refuse_wrong_vectorisation([outputs.grad_fn])
            _vectorised(outputs, edges, directions, once)
        except (RuntimeError, NotImplementedError) as error:
            raise_if_out_of_memory(error)
            if is_receiving:
                raise
        if len(given) < len(edges):
            try:
                each = [_gradients(outputs, edges, direction) for direction in directions]
            except RuntimeError as error:
                raise_if_out_of_memory(error)
                reason = str(error).strip().partition("\n")[0]
                msg = f"torch cannot go back through this network ({reason}): change that layer"
                raise ArchitectureError(msg) from error
            with full_precision():
                for index, gradients in enumerate(zip(*each, strict=True)):
                    once(index, torch.stack(gradients))


def _gradients(outputs: Tensor, edges: Sequence[GradientEdge], direction: Tensor) -> list[Tensor]:
    """The edges' gradients of one direction; zeros where an operation gives none back."""
    found = torch.autograd.grad(outputs, edges, direction, retain_graph=True, allow_unused=True)
    return [_zeros(edge) if gradient is None else gradient for edge, gradient in zip(edges, found, strict=True)]


def _zeros(edge: GradientEdge) -> Tensor:
    """Zeros in the shape of what an edge stands for."""
    like = edge.node._input_metadata[edge.output_nr]
    return torch.zeros(like.shape, dtype=like.dtype, device=like.device)


def _vectorised(outputs: Tensor, edges: Sequence[GradientEdge], directions: Tensor, receive: Receive) -> None:
    """The same by one vectorised pass, in which the edges that it passes through are watched.

    Only the last ones on their way are asked for. On a GPU autograd does its work in a thread of its own, which knows
    this one's context by a copy.
    """
    last = _last(edges)
    watched: dict[Any, list[tuple[int, int]]] = {}
    for index, edge in enumerate(edges):
        if index not in last:
            watched.setdefault(edge.node, []).append((index, edge.output_nr))
    context = copy_context()

    def hand(index: int, cotangents: Tensor, is_batched: bool) -> None:
        every = cotangents if is_batched else cotangents.expand(len(directions), *cotangents.shape)
        with full_precision():  # what the network multiplies in is not what its norms are to be in
            context.run(receive, index, every)

    def reach(places: Sequence[tuple[int, int]], gradients: Sequence[Tensor | None]) -> None:
        for index, place in places:
            gradient = gradients[place]
            _handed(_zeros(edges[index]) if gradient is None else gradient, partial(hand, index))

    # Not autograd's own `is_grads_batched`: it takes the backward of a convolution one direction at a time.
    with ExitStack() as stack:
        for node, places in watched.items():
            stack.callback(node.register_prehook(partial(reach, places)).remove)
        wanted = [edges[index] for index in last]
        found = vmap(lambda one: tuple(_gradients(outputs, wanted, one)))(directions)
    with full_precision():
        for index, cotangents in zip(last, found, strict=True):
            receive(index, cotangents)


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
