"""The diagonal of the true Fisher, entry by entry."""

import torch
from torch import Tensor

from fisher_cli.curvature.gradient_norms.engine import Engine
from fisher_cli.curvature.gradient_norms.grad_factors import Contribution, OuterProducts
from fisher_cli.curvature.gradient_norms.per_example_gradients import MAXIMUM_VALUES
from fisher_cli.curvature.gradient_norms.score_gradients import explicit
from fisher_cli.curvature.problem.moments import as_floats
from fisher_cli.curvature.problem.output_scores import true_scores
from fisher_cli.results import FilterMeans


@torch.inference_mode(mode=False)
def fisher_diagonal(engine: Engine) -> dict[str, Tensor]:
    """diag F = mean_n Σ_k (J_nᵀ s_nk)∘², every class exactly, by parameter in its shape, float64.

    One forward pass and C − 1 backward passes as for the trace; but a square needs the per-example gradient itself
    where a parameter is used at several positions (convolutions): C − 1 gradients per example, a few at a time. Where
    there is one position its square is that of the two factors, (δ_r a_q)² = δ_r² a_q², and no gradient is made.
    """
    problem = engine.problem
    total = {
        name: torch.zeros(parameter.numel(), dtype=torch.float64, device=problem.device)
        for name, parameter in problem.parameters.items()
    }
    largest = max(parameter.numel() for parameter in problem.parameters.values())
    at_once = max(1, min(problem.batch_size, MAXIMUM_VALUES // (largest * max(1, problem.outputs - 1))))
    for batch in problem.batches(at_once):
        evaluated = engine.evaluate(batch)
        directions, amplitudes = true_scores(problem.likelihood, evaluated.outputs.detach(), batch.labels)
        columns = max(1, MAXIMUM_VALUES // (largest * len(batch)))
        for start in range(0, len(directions), columns):
            some = slice(start, start + columns)
            weights = amplitudes[some].square()
            with torch.no_grad():
                for name, parts in evaluated.contributions(directions[some]):
                    total[name] += _weighted_squares(parts, weights, problem.parameters[name].shape)
    whole = {name: problem.process_group.sum(part) / problem.examples for name, part in total.items()}
    return {name: part.reshape(problem.parameters[name].shape) for name, part in whole.items()}


def _weighted_squares(parts: list[Contribution] | Tensor, weights: Tensor, shape: torch.Size) -> Tensor:
    """Σ_kn w_kn g_kn∘², (size,), of the gradients g of one parameter and weights (K, B)."""
    if not isinstance(parts, Tensor) and len(parts) == 1 and isinstance(parts[0], OuterProducts):
        part = parts[0]
        if part.cotangents.shape[4] == 1:
            a, delta = part.inputs.squeeze(3).double().square(), part.cotangents.squeeze(4).double().square()
            squares = torch.einsum("kb,kbgr,bgq->grq", weights, delta, a)
            return (squares.transpose(1, 2) if part.transposed else squares).reshape(-1)
    gradients = explicit(parts, shape).double()
    return torch.einsum("kb,kbp->p", weights, gradients.square())


def task2vec(engine: Engine) -> tuple[FilterMeans, ...]:
    """mean_{j ∈ filter} F_jj for every filter: the first dimension of each weight of two dimensions or more.

    F is exact over the model's labels; the source draws them, and its code squares gradients that are means over a
    batch of B, which gives F/B in expectation.

    Args:
        engine: that of the network and its examples; one pass is made over them.

    Returns:
        One per weight, in the order of the network's parameters, with its means in the order of the filters.

    Source: Achille et al. 2019 (arXiv:1902.03545), section 3.
    """
    return tuple(
        FilterMeans(name, as_floats(diagonal.flatten(1).mean(dim=1)))
        for name, diagonal in fisher_diagonal(engine).items()
        if diagonal.dim() > 1
    )
