"""Products of the true and the empirical Fisher with a vector, F v = mean_n J_nᵀ M_n (J_n v), without a matrix."""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.func import functional_call, jvp

from fisher_cli.curvature.problem import Batch, Problem, as_outputs, reproducible_kernels

OutputProduct = Callable[[Tensor, Tensor, Tensor], Tensor]
"""(outputs (B, C), labels, J v (B, C)) → M J v (B, C), the output-space matrix of each example applied."""


def split(problem: Problem, vector: Tensor) -> dict[str, Tensor]:
    """A flat vector (P,) as tensors of the parameters' shapes and precision."""
    sizes = [parameter.numel() for parameter in problem.parameters.values()]
    return {
        name: part.reshape(parameter.shape).to(parameter.dtype)
        for (name, parameter), part in zip(problem.parameters.items(), torch.split(vector, sizes), strict=True)
    }


def tangents(problem: Problem, batch: Batch, vector: Tensor) -> tuple[Tensor, Tensor]:
    """The outputs z and J v, both (B, C), by forward-mode differentiation along a flat vector (P,)."""
    primal = {name: parameter.detach() for name, parameter in problem.parameters.items()}

    def outputs(parameters: dict[str, Tensor]) -> Tensor:
        return as_outputs(functional_call(problem.model, parameters, (batch.inputs,)), len(batch))

    with reproducible_kernels(), torch.no_grad():
        z, tangent = jvp(outputs, (primal,), (split(problem, vector),))
    return z, tangent


def product(problem: Problem, output_product: OutputProduct) -> Callable[[Tensor], Tensor]:
    """The map v ↦ mean_n J_nᵀ M_n (J_n v) on flat vectors (P,), float64 sums over examples.

    Costs about a forward pass with tangents and a forward and backward pass per product.
    """

    def apply(vector: Tensor) -> Tensor:
        total = torch.zeros(problem.size, dtype=torch.float64, device=problem.device)
        for batch in problem.batches():
            outputs, tangent = tangents(problem, batch, vector)
            cotangents = output_product(outputs, batch.labels, tangent)
            with reproducible_kernels():
                tracked = problem.forward(batch.inputs)
            total += problem.pull_back(tracked, cotangents)
        return total / problem.examples

    return apply


def fisher_product(problem: Problem) -> Callable[[Tensor], Tensor]:
    """v ↦ F v = mean_n J_nᵀ Λ_n (J_n v), Λ_n the covariance of the model's own score."""
    likelihood = problem.likelihood
    return product(problem, lambda outputs, _, tangent: likelihood.covariance_product(outputs, tangent))


def empirical_product(problem: Problem) -> Callable[[Tensor], Tensor]:
    """v ↦ F̂ v = mean_n J_nᵀ s_y (s_yᵀ J_n v), s_y the score at the dataset's label; uncentred."""
    likelihood = problem.likelihood

    def apply(outputs: Tensor, labels: Tensor, tangent: Tensor) -> Tensor:
        score = likelihood.observed_score(outputs, labels)
        return score * (score * tangent.double()).sum(dim=1, keepdim=True)

    return product(problem, apply)
