"""Where torch computes wrong gradients of many directions at once, they are taken one by one, and are right."""

import math
from collections.abc import Callable
from functools import partial

import pytest
import torch
from torch import Tensor, nn
from torch.func import vmap

from fisher_cli.curvature.gradient_norms import per_example_gradients
from fisher_cli.curvature.gradient_norms.engine import Engine
from fisher_cli.curvature.problem.problem import Problem, TensorData, pose
from fisher_cli.curvature.traces.traces import sweep
from tests.reference import layer_traces

Operation = Callable[[Tensor, Tensor], Tensor]
"""(rows (n, 4), weight (3, 4)) → (n, 3), row by row."""

KEPT = torch.tensor([True, False, True, True])


def masked(rows: Tensor, weight: Tensor) -> Tensor:
    return rows[:, :3] * torch.masked_select(weight[0], KEPT.expand(rows.shape)).reshape(-1, 3)


EXACT = "donot_use_mm_for_euclid_dist"
OPERATIONS: dict[str, Operation] = {
    **{
        f"distances of order {p}": partial(torch.cdist, p=p, compute_mode=EXACT) for p in (0.5, 1.0, 2.0, 3.0, math.inf)
    },
    "distances from weights": lambda rows, weight: torch.cdist(weight, rows, p=1.0).T,
    "masked": masked,
}


class OfOutputs(nn.Module):
    """The operation follows a layer and uses a parameter."""

    def __init__(self, operation: Operation) -> None:
        super().__init__()
        self.operation = operation
        self.first, self.weight = nn.Linear(5, 4), nn.Parameter(torch.randn(3, 4))

    def forward(self, x: Tensor) -> Tensor:
        return self.operation(torch.tanh(self.first(x)), self.weight)


class OfWeights(nn.Module):
    """A layer's weight is what the operation computes from two parameters."""

    def __init__(self, operation: Operation) -> None:
        super().__init__()
        self.operation = operation
        self.rows, self.weight = nn.Parameter(torch.randn(5, 4)), nn.Parameter(torch.randn(3, 4))

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.linear(x, self.operation(self.rows, self.weight).T)


def problem_of(network: type[nn.Module], operation: Operation, examples: int) -> tuple[Problem, nn.Module]:
    torch.manual_seed(0)
    model = network(operation).double().eval()  # type: ignore[call-arg]
    inputs = torch.randn(examples, 5, dtype=torch.float64)
    return pose(model, TensorData(inputs, torch.arange(examples) % 3)), model


@pytest.mark.parametrize("examples", [1, 2, 4])
@pytest.mark.parametrize("network", [OfOutputs, OfWeights], ids=lambda network: network.__name__)
@pytest.mark.parametrize("name", OPERATIONS)
def test_traces_are_right_unchecked(name: str, network: type[nn.Module], examples: int) -> None:
    problem, model = problem_of(network, OPERATIONS[name], examples)
    inputs, labels = problem.data.batch(0, examples)
    found = {layer.name: layer for layer in sweep(problem, verify=False).trace.layers}
    expected = layer_traces(model, inputs, labels)
    assert found.keys() == expected.keys()
    for layer, traces in expected.items():
        assert (found[layer].true.value, found[layer].empirical.value) == pytest.approx(traces, rel=1e-10), layer


@pytest.mark.parametrize("directions", [1, 3, 9])
@pytest.mark.parametrize("network", [OfOutputs, OfWeights], ids=lambda network: network.__name__)
@pytest.mark.parametrize("name", OPERATIONS)
def test_norms_of_any_number_of_directions_are_those_of_each(
    name: str, network: type[nn.Module], directions: int
) -> None:
    problem, _ = problem_of(network, OPERATIONS[name], 3)
    batch = problem.slice(0, 3)
    some = torch.randn(directions, 3, 3, dtype=torch.float64)
    found = Engine(problem).evaluate(batch).norms(some)
    for parameter, norms in per_example_gradients.one_by_one(
        problem, list(problem.parameters), batch.inputs, some
    ).items():
        assert torch.allclose(found[parameter], norms, rtol=1e-10), parameter


@pytest.mark.parametrize("name", OPERATIONS)
def test_torch_has_them_wrong(name: str) -> None:
    """Where this fails, torch is mended, and the operation may be taken from the list."""
    torch.manual_seed(0)
    rows, weight = (torch.randn(n, 4, requires_grad=True) for n in (3, 3))
    outputs = OPERATIONS[name](rows.sin(), weight.sin())
    directions = torch.randn(3, *outputs.shape)

    def back(direction: Tensor) -> Tensor:
        return torch.cat(torch.autograd.grad(outputs, (rows, weight), direction, retain_graph=True))

    assert not torch.allclose(vmap(back)(directions), torch.stack([back(each) for each in directions]))
