"""Cotangents that are given away as the backward pass reaches them: what autograd says, and never many at once."""

from collections.abc import Callable
from itertools import pairwise

import pytest
import torch
from torch import Tensor, nn
from torch.autograd.graph import GradientEdge
from torch.multiprocessing.reductions import StorageWeakRef  # type: ignore[attr-defined]

from fisher_cli.curvature.gradient_norms.call_recorder import recorded_calls
from fisher_cli.curvature.gradient_norms.engine import Engine
from fisher_cli.curvature.gradient_norms.streamed_vjp import cotangents_in_turn
from fisher_cli.curvature.problem.problem import TensorData, pose
from fisher_cli.curvature.torch_backend.backend_flags import reproducible_kernels
from fisher_cli.errors import ArchitectureError
from tests.cases import Residual, Sequence


class Fan(nn.Module):
    """Every layer is given the input again, so that many layers are the last on their way."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(5, 6)
        self.again = nn.ModuleList(nn.Linear(5, 6) for _ in range(3))
        self.head = nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        y = self.first(x)
        for layer in self.again:
            y = torch.tanh(y) + layer(x)
        outputs: Tensor = self.head(y)
        return outputs


class Loop(torch.autograd.Function):
    """x ↦ 2x, whose backward refuses to be vectorised."""

    @staticmethod
    def forward(_ctx: object, x: Tensor) -> Tensor:
        return 2 * x

    @staticmethod
    def backward(_ctx: object, gradient: Tensor) -> Tensor:
        return gradient * (2 + 0 * float(gradient.sum()))


class Stubborn(nn.Module):
    """Two layers beside an operation without a vectorised backward."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(5, 4), nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        outputs: Tensor = self.second(Loop.apply(self.first(x)))
        return outputs


def graph_of(network: nn.Module, inputs: Tensor) -> tuple[Tensor, list[GradientEdge]]:
    network = network.double().eval()
    with reproducible_kernels(), recorded_calls(dict(network.named_parameters())) as calls:
        outputs = network(inputs)
    return outputs, [call.edge for call in calls]


NETWORKS = {
    "in place and residual": (Residual, torch.randn(3, 2, 8, 8, dtype=torch.float64)),
    "tied and twice": (Sequence, torch.randint(0, 7, (3, 4))),
    "many last ones": (Fan, torch.randn(3, 5, dtype=torch.float64)),
    "not to be vectorised": (Stubborn, torch.randn(3, 5, dtype=torch.float64)),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_every_edge_gets_what_autograd_says_once(name: str) -> None:
    torch.manual_seed(0)
    network, inputs = NETWORKS[name]
    outputs, edges = graph_of(network(), inputs)
    directions = torch.randn(4, *outputs.shape, dtype=torch.float64)
    found: dict[int, Tensor] = {}

    def receive(index: int, cotangents: Tensor) -> None:
        assert index not in found
        found[index] = cotangents.clone()

    cotangents_in_turn(outputs, edges, directions, receive)
    assert sorted(found) == list(range(len(edges)))
    for k, direction in enumerate(directions):
        for index, expected in enumerate(torch.autograd.grad(outputs, edges, direction, retain_graph=True)):
            assert torch.allclose(found[index][k], expected, rtol=1e-12, atol=1e-14)


def test_an_error_of_the_receiver_is_not_hidden_and_no_hook_stays() -> None:
    outputs, edges = graph_of(Fan(), torch.randn(3, 5, dtype=torch.float64))
    directions = torch.randn(2, *outputs.shape, dtype=torch.float64)

    def fail(index: int, _cotangents: Tensor) -> None:
        msg = f"edge {index}"
        raise ZeroDivisionError(msg)

    with pytest.raises(ZeroDivisionError, match="edge"):
        cotangents_in_turn(outputs, edges, directions, fail)
    torch.autograd.grad(outputs, edges, directions[0])


class OneWay(torch.autograd.Function):
    """x ↦ x, without a way back."""

    @staticmethod
    def forward(_ctx: object, x: Tensor) -> Tensor:
        return x.clone()

    @staticmethod
    def backward(_ctx: object, _gradient: Tensor) -> Tensor:
        msg = "there is no way back\nas the second line says"
        raise RuntimeError(msg)


def test_a_network_without_a_way_back_is_refused_in_one_line() -> None:
    layer = nn.Linear(5, 3).double()
    with recorded_calls(dict(layer.named_parameters())) as calls:
        outputs = OneWay.apply(layer(torch.randn(3, 5, dtype=torch.float64)))
    with pytest.raises(ArchitectureError, match=r"cannot go back through this network \(there is no way back\)"):
        cotangents_in_turn(outputs, [call.edge for call in calls], outputs.detach().unsqueeze(0), lambda *_: None)


class Undefined(torch.autograd.Function):
    """x ↦ x, which says that nothing goes back."""

    @staticmethod
    def forward(_ctx: object, x: Tensor) -> Tensor:
        return x.clone()

    @staticmethod
    def backward(_ctx: object, _gradient: Tensor) -> None:
        return None


class Severed(nn.Module):
    """Layers from which no gradient comes back, in the middle and at the end of the way."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.third = (nn.Linear(5, 5) for _ in range(3))

    def forward(self, x: Tensor) -> Tensor:
        outputs: Tensor = self.third(x + Undefined.apply(self.second(self.first(x))))
        return outputs


def test_what_no_gradient_comes_to_is_given_zeros() -> None:
    outputs, edges = graph_of(Severed(), torch.randn(3, 5, dtype=torch.float64))
    found: dict[int, Tensor] = {}
    cotangents_in_turn(outputs, edges, torch.randn(2, 3, 5, dtype=torch.float64), found.__setitem__)
    assert [bool(found[index].any()) for index in range(3)] == [False, False, True]
    assert {each.shape for each in found.values()} == {(2, 3, 5)}


@pytest.mark.parametrize("network", [Fan, Stubborn])
@pytest.mark.parametrize("error", [RuntimeError, NotImplementedError])
def test_an_error_of_the_receiver_is_not_taken_for_one_of_the_backward_pass(
    network: Callable[[], nn.Module], error: type[Exception]
) -> None:
    """Of the kinds too that a backward pass raises which cannot be vectorised: nothing is received a second time."""
    outputs, edges = graph_of(network(), torch.randn(3, 5, dtype=torch.float64))
    seen: list[int] = []

    def fail(index: int, _cotangents: Tensor) -> None:
        seen.append(index)
        if len(seen) == 2:
            msg = f"a rule's own fault at edge {index}"
            raise error(msg)

    with pytest.raises(error, match="a rule's own fault"):
        cotangents_in_turn(outputs, edges, torch.randn(2, *outputs.shape, dtype=torch.float64), fail)
    assert len(seen) == len(set(seen)) == 2


def deep(depth: int, width: int = 64) -> nn.Module:
    layers = [nn.Sequential(nn.Linear(a, b), nn.Tanh()) for a, b in pairwise([width] * (depth + 1))]
    return nn.Sequential(*layers, nn.Linear(width, 3))


@pytest.mark.parametrize("depth", [4, 40])
def test_no_more_cotangents_are_held_in_a_deeper_network(depth: int) -> None:
    outputs, edges = graph_of(deep(depth), torch.randn(5, 64, dtype=torch.float64))
    held: list[StorageWeakRef] = []
    most = 0

    def receive(_index: int, cotangents: Tensor) -> None:
        nonlocal most
        held.append(StorageWeakRef(cotangents.untyped_storage()))
        most = max(most, sum(not each.expired() for each in held))

    cotangents_in_turn(outputs, edges, torch.randn(4, *outputs.shape, dtype=torch.float64), receive)
    assert len(held) == depth + 1
    assert most <= 2


def test_the_norms_of_a_deep_network_are_those_of_single_directions() -> None:
    torch.manual_seed(0)
    data = TensorData(torch.randn(3, 64), torch.zeros(3).long())
    problem = pose(deep(6), data, dtype=torch.float64)
    evaluated = Engine(problem).evaluate(problem.slice(0, 3))
    directions = torch.randn(4, 3, 3, dtype=torch.float64)
    together = evaluated.norms(directions)
    for k, direction in enumerate(directions):
        for name, alone in evaluated.norms(direction.unsqueeze(0)).items():
            assert torch.allclose(together[name][k], alone[0], rtol=1e-13)
