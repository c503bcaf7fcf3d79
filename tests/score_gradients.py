"""The oracle of factors: Jacobians and score gradients one example at a time, by plain autograd, as dense matrices."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from fisher_cli.curvature.problem.output_scores import ScoresOf
from fisher_cli.curvature.problem.problem import Problem, TensorData, pose
from fisher_cli.curvature.torch_backend.backend_flags import reproducible_kernels
from tests.cases import CASES, Case
from tests.conftest import problem_of, reference_of
from tests.curvature.gradient_norms import test_any_network as odd
from tests.reference import Reference, reference

ODD_NETWORKS: list[Callable[[], nn.Module]] = [
    odd.SharedTwice,
    odd.Experts,
    odd.Sorted,
    odd.Listed,
    odd.NoSecondDerivative,
    odd.ExtraParameter,
]
Posed = tuple[Problem, Reference]
"""A problem and the oracle's dense matrices of it."""


def _of_case(case: Case, dtype: torch.dtype) -> Posed:
    return problem_of(case, dtype), reference_of(case, dtype)


def _of_network(build: Callable[[], nn.Module], dtype: torch.dtype) -> Posed:
    torch.manual_seed(1)
    model = build().to(dtype).eval()
    x, y = odd.data()
    return pose(model, TensorData(x.to(dtype), y), batch_size=3), reference(model, x.to(dtype), y)


NETWORKS: dict[str, Callable[[torch.dtype], Posed]] = {
    **{case.name: lambda dtype, case=case: _of_case(case, dtype) for case in CASES},  # type: ignore[misc]
    **{build.__name__: lambda dtype, build=build: _of_network(build, dtype) for build in ODD_NETWORKS},  # type: ignore[misc]
}


def jacobian(problem: Problem) -> Tensor:
    """J of every example, (N, C, P) in float64."""
    parameters, rows = list(problem.parameters.values()), []
    for example in range(problem.examples):
        batch = problem.slice(example, example + 1)
        with reproducible_kernels():
            outputs = problem.model(batch.inputs.clone()).reshape(-1)
        for output in outputs:
            parts = torch.autograd.grad(output, parameters, retain_graph=True, allow_unused=True)
            pairs = zip(parameters, parts, strict=True)
            pieces = [torch.zeros_like(p) if part is None else part.to_dense() for p, part in pairs]
            rows.append(torch.cat([piece.detach().reshape(-1) for piece in pieces]))
    return torch.stack(rows).double().reshape(problem.examples, -1, problem.size)


def factor(problem: Problem, scores_of: ScoresOf) -> Tensor:
    """A, (P, N·K) in float64: the column of example n and score k is J_nᵀ s_nk/√N, examples first."""
    rows = []
    for example, dense in enumerate(jacobian(problem)):
        batch = problem.slice(example, example + 1)
        outputs = problem.forward(batch.inputs).detach()
        directions, amplitudes = scores_of(problem.likelihood, outputs, batch.labels)
        rows.append((directions[:, 0].double() * amplitudes) @ dense)
    columns: Tensor = torch.cat(rows).T / problem.examples**0.5
    return columns
