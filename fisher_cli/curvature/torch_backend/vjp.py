"""A backward pass that hands over one parameter's gradient at a time, so that no two are there at once."""

from collections.abc import Callable, Mapping
from functools import partial

import torch
from torch import Tensor

Take = Callable[[str, Tensor], None]


def gradients_in_turn(
    outputs: Tensor, parameters: Mapping[str, Tensor], cotangents: Tensor, take: Take, *, keep: bool = False
) -> None:
    """Give `take` every parameter's name and its gradient Σ_n J_nᵀ u_n as soon as the backward pass has it.

    `torch.autograd.grad` alone returns all gradients together, as many values as there are parameters; what autograd is
    given here in place of each is a single zero, expanded.

    Args:
        outputs: (B, C), with their graph.
        parameters: by name; one without a path to the outputs is left out.
        cotangents: u, (B, C), in the outputs' precision.
        take: called with a name and a dense gradient of the parameter's shape and precision, without a graph.
        keep: whether the graph is kept for another backward pass.
    """

    def hand_over(name: str, gradient: Tensor) -> Tensor:
        with torch.no_grad():
            take(name, gradient.to_dense())
        if gradient.layout is not torch.strided:
            return gradient  # has no more than its rows
        return torch.zeros((), dtype=gradient.dtype, device=gradient.device).expand(gradient.shape)

    handles = [
        tensor.register_hook(partial(hand_over, name))  # type: ignore[no-untyped-call]
        for name, tensor in parameters.items()
    ]
    try:
        torch.autograd.grad(outputs, list(parameters.values()), cotangents, retain_graph=keep, allow_unused=True)
    finally:
        for handle in handles:
            handle.remove()
