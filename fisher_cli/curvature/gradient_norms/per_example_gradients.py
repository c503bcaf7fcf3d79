"""The fallback: per-example gradients of a few parameters, whatever the network does with them."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.func import vjp, vmap

from fisher_cli.curvature.gradient_norms.autograd_graph import refuse_wrong_vectorisation
from fisher_cli.curvature.linalg.sums import squared_norm
from fisher_cli.curvature.problem.problem import Problem, as_outputs
from fisher_cli.curvature.torch_backend.backend_flags import reproducible_kernels
from fisher_cli.curvature.torch_backend.evaluation import evaluated
from fisher_cli.curvature.torch_backend.functional_call import parameters_replaced
from fisher_cli.curvature.torch_backend.vjp import gradients_in_turn

# Values of per-example gradients held at once; 2^24 float32 values are 64 MiB.
MAXIMUM_VALUES = 2**24

Reduction = Callable[[str, Tensor], Tensor]
"""A parameter's name and a gradient in its shape → what is kept of it."""


def norm(_name: str, gradient: Tensor) -> Tensor:
    """‖g‖² in float64, (): a `Reduction`."""
    return squared_norm(gradient)


def flat(_name: str, gradient: Tensor) -> Tensor:
    """The gradient itself as a vector, (size,): a `Reduction`."""
    return gradient.reshape(-1)


def by_vmap(
    problem: Problem, names: Sequence[str], inputs: Tensor, directions: Tensor, reduction: Reduction = norm
) -> dict[str, Tensor]:
    """‖Jᵀ v‖², or another reduction of Jᵀ v, by `torch.func` in chunks of examples and directions.

    Args:
        problem: the network, whose other parameters are held fixed.
        names: the parameters whose gradients are wanted.
        inputs: of B examples.
        directions: v, (K, B, C).
        reduction: what is kept of a gradient; the squared norm in float64 unless said otherwise.

    Returns:
        By name (K, B, …), with the shape of the reduction behind.

    Raises:
        RuntimeError: the network does something that cannot be vectorised over examples, or torch's vectorised
            gradients have wrong shapes. Other errors of torch are let through: NotImplementedError, TypeError,
            ValueError.
    """
    chosen = {name: problem.parameters[name].detach() for name in names}
    size = sum(parameter.numel() for parameter in chosen.values())
    at_once = max(1, MAXIMUM_VALUES // max(1, size))
    columns = max(1, min(len(directions), at_once))
    chunk = max(1, at_once // columns)
    rows = []
    for first in range(0, len(directions), columns):
        parts = []
        for start in range(0, len(inputs), chunk):
            some = slice(start, min(start + chunk, len(inputs)))
            vectors = directions[first : first + columns, some]
            # Some vectorised backward functions exchange examples with directions (PReLU's): a shape tells, where the
            # numbers of both differ.
            counts = [len(vectors) - 1, 1] if len(vectors) == len(inputs[some]) > 1 else [len(vectors)]
            found = [_chunk(problem, chosen, inputs[some], each, reduction) for each in torch.split(vectors, counts)]
            parts.append({name: torch.cat([each[name] for each in found]) for name in names})
        rows.append({name: torch.cat([part[name] for part in parts], dim=1) for name in names})
    return {name: torch.cat([row[name] for row in rows]) for name in names}


def _chunk(
    problem: Problem, chosen: dict[str, Tensor], inputs: Tensor, directions: Tensor, reduction: Reduction
) -> dict[str, Tensor]:
    def norms(example: Tensor, vectors: Tensor) -> dict[str, Tensor]:
        def outputs(values: dict[str, Tensor]) -> Tensor:
            with parameters_replaced(problem.model, problem.parameters, values):
                found = as_outputs(evaluated(problem.model, example.unsqueeze(0)), 1).squeeze(0)
            refuse_wrong_vectorisation([found.grad_fn])
            return found

        pull_back = vjp(outputs, chosen)[1]

        def reduced(vector: Tensor) -> dict[str, Tensor]:
            (gradients,) = pull_back(vector)
            # Some vectorised backward functions return a gradient per example of a batch that is not theirs.
            if any(gradient.shape != chosen[name].shape for name, gradient in gradients.items()):
                msg = "a vectorised gradient has another shape than its parameter"
                raise RuntimeError(msg)
            return {name: reduction(name, gradient) for name, gradient in gradients.items()}

        return vmap(reduced)(vectors)

    # Outside of the transform no_grad is not seen by it, but keeps the other parameters from being tracked.
    try:
        with reproducible_kernels(), torch.no_grad():
            by_example = vmap(norms, in_dims=(0, 1))(inputs, directions)
    finally:
        problem.state.restore()  # what the forward pass left behind is a tensor of the transform
    if any(norm.shape[:2] != (len(inputs), len(directions)) for norm in by_example.values()):
        msg = "a vectorised norm is not one number per example and direction"
        raise RuntimeError(msg)
    return {name: norm.transpose(0, 1) for name, norm in by_example.items()}


def one_by_one(
    problem: Problem, names: Sequence[str], inputs: Tensor, directions: Tensor, reduction: Reduction = norm
) -> dict[str, Tensor]:
    """‖Jᵀ v‖², or another reduction of Jᵀ v, by plain autograd on one example and one direction at a time.

    Args and result are those of `by_vmap`; a parameter without a path to the outputs has zeros.
    """
    parameters = {name: problem.parameters[name] for name in names}
    found = {}
    for name, parameter in parameters.items():
        empty = reduction(name, torch.zeros_like(parameter, requires_grad=False))
        found[name] = empty.new_zeros(*directions.shape[:2], *empty.shape)
    for example in range(len(inputs)):
        outputs = problem.tracked_outputs(inputs[example : example + 1])
        with reproducible_kernels():
            for k in range(len(directions) if outputs.requires_grad else 0):

                def keep(name: str, gradient: Tensor, place: tuple[int, int] = (k, example)) -> None:
                    found[name][place] = reduction(name, gradient)

                gradients_in_turn(outputs, parameters, directions[k, example : example + 1], keep, keep=True)
    return found
