"""The fallback: per-example gradients of a few parameters, whatever the network does with them."""

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.func import functional_call, vjp, vmap

from fisher_cli.curvature.problem import Batch, Problem, as_outputs, reproducible_kernels

# Values of per-example gradients held at once; 2^24 float32 values are 64 MiB.
MAXIMUM_VALUES = 2**24


def squared_norms(problem: Problem, batch: Batch, directions: Tensor, names: Sequence[str]) -> dict[str, Tensor]:
    """‖Jᵀ v‖² for every direction (K, B, C), restricted to each named parameter: (K, B) in float64.

    Gradients of a chunk of examples at a time by `torch.func`; where an operation does not allow that, one
    example and one direction at a time.
    """
    chosen = {name: problem.parameters[name].detach() for name in names}
    size = sum(parameter.numel() for parameter in chosen.values())
    chunk = max(1, MAXIMUM_VALUES // max(1, size * len(directions)))
    parts = []
    for start in range(0, len(batch), chunk):
        piece = slice(start, min(start + chunk, len(batch)))
        inputs, cotangents = batch.inputs[piece], directions[:, piece]
        try:
            parts.append(_vectorised(problem.model, chosen, inputs, cotangents))
        except RuntimeError:
            parts.append(one_by_one(problem, names, inputs, cotangents))
    return {name: torch.cat([part[name] for part in parts], dim=1) for name in names}


def _outputs_of(model: nn.Module, inputs: Tensor) -> Callable[[Mapping[str, Tensor]], Tensor]:
    """θ ↦ outputs (C,) of one example, the other parameters fixed."""

    def outputs(parameters: Mapping[str, Tensor]) -> Tensor:
        raw = functional_call(model, dict(parameters), (inputs.unsqueeze(0),))
        return as_outputs(raw, 1).squeeze(0)

    return outputs


def _vectorised(
    model: nn.Module, chosen: Mapping[str, Tensor], inputs: Tensor, directions: Tensor
) -> dict[str, Tensor]:
    def norms(example: Tensor, vectors: Tensor) -> dict[str, Tensor]:
        pull_back = vjp(_outputs_of(model, example), chosen)[1]

        def norm(vector: Tensor) -> dict[str, Tensor]:
            (gradients,) = pull_back(vector)
            return {name: gradient.double().square().sum() for name, gradient in gradients.items()}

        return vmap(norm)(vectors)

    # Outside of the transform no_grad is not seen by it, but keeps the other parameters from being tracked.
    with reproducible_kernels(), torch.no_grad():
        by_example = vmap(norms, in_dims=(0, 1))(inputs, directions)
    return {name: norm.T for name, norm in by_example.items()}


def one_by_one(problem: Problem, names: Sequence[str], inputs: Tensor, directions: Tensor) -> dict[str, Tensor]:
    """‖Jᵀ v‖² by plain autograd on one example and one direction at a time: (K, B) in float64 by name."""
    parameters = [problem.parameters[name] for name in names]
    norms = torch.zeros(len(names), *directions.shape[:2], dtype=torch.float64, device=directions.device)
    for example in range(len(inputs)):
        with reproducible_kernels():
            outputs = problem.forward(inputs[example : example + 1])
            for k in range(len(directions)):
                gradients = torch.autograd.grad(
                    outputs, parameters, directions[k, example : example + 1], retain_graph=True, allow_unused=True
                )
                for index, gradient in enumerate(gradients):
                    if gradient is not None:
                        norms[index, k, example] = gradient.double().square().sum()
    return dict(zip(names, norms, strict=True))
