"""Where a layer keeps the examples of a batch is remembered on evidence only, never where the data may move them."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from fisher_cli import analyze
from fisher_cli.curvature.gradient_norms.autograd_graph import read_graph
from fisher_cli.curvature.gradient_norms.batch_dim import BatchDim, find_batch_dim
from fisher_cli.curvature.gradient_norms.call_recorder import Call
from fisher_cli.curvature.gradient_norms.engine import BatchBackward, Engine
from fisher_cli.curvature.problem.problem import TensorData, pose
from fisher_cli.curvature.traces.traces import sweep
from tests.reference import reference

EXAMPLES = 6
LAYER = nn.Linear(5, 4)
GENERATOR = torch.Generator().manual_seed(4)
INPUTS = torch.randn(EXAMPLES, 5, generator=GENERATOR)


def ordered_by_data(h: Tensor) -> Tensor:
    order = sorted(range(len(h)), key=h[:, 0].tolist().__getitem__)
    return torch.stack([h[n] for n in order])


def written_in_order(h: Tensor) -> Tensor:
    out = torch.zeros_like(h)
    for place, n in enumerate(h[:, 0].argsort().tolist()):
        out[place] = h[n]
    return out


MOVED: dict[str, Callable[[Tensor], Tensor]] = {
    "index": lambda h: h[h[:, 0].argsort()],
    "gather": lambda h: h.gather(0, h.argsort(0)),
    "sort": lambda h: h.sort(0).values,
    "stack": ordered_by_data,
    "written into": written_in_order,
    "matrix of the data": lambda h: functional.one_hot(h[:, 0].argsort()).to(h) @ h,
    "einsum": lambda h: torch.einsum("nm,md->nd", functional.one_hot(h[:, 0].argsort()).to(h), h),
    "flipped where a flag says so": lambda h: torch.where(h[:1, :1] > 0, h, h.flip(0)),
    "rolled": lambda h: h.roll(int(h[0, 0] > 0), 0),
    "parts of the batch": lambda h: torch.cat([h[3:], h[:3]]),
}
KEPT: dict[str, Callable[[Tensor], Tensor]] = {
    "elementwise": lambda h: torch.where(h > 0, h, torch.tanh(h)) * functional.gelu(h),
    "features moved": lambda h: h.flip(1)[:, 1:3],
    "halves of the features": lambda h: torch.cat(h.chunk(2, 1)[::-1], 1),
    "a sequence, time first": lambda h: h.reshape(EXAMPLES, 2, 2).transpose(0, 1).transpose(1, 0).flatten(1),
    "products by example": lambda h: torch.bmm(h.unsqueeze(2), h.unsqueeze(1)).flatten(1),
    "largest feature": lambda h: h.max(1, keepdim=True).values,
    "all of a slice": lambda h: h[:],
    "normed": lambda h: functional.layer_norm(h, (4,)),
}


@pytest.mark.parametrize("name", MOVED)
def test_the_data_may_move_examples(name: str) -> None:
    assert read_graph(MOVED[name](torch.tanh(LAYER(INPUTS))), EXAMPLES).places is None


@pytest.mark.parametrize("name", KEPT)
def test_the_same_operations_leave_examples_in_the_same_places(name: str) -> None:
    one, other = (read_graph(KEPT[name](torch.tanh(LAYER(x))), EXAMPLES).places for x in (INPUTS, -INPUTS))
    assert one is not None
    assert one == other


def test_another_connection_is_another_graph() -> None:
    h = torch.tanh(LAYER(INPUTS))
    one, other, third = (read_graph(z, EXAMPLES).places for z in (h.mean(1), h.sum(1), h.chunk(2, 1)[1]))
    assert len({one, other, third, read_graph(h.chunk(2, 1)[0], EXAMPLES).places}) == 4


class Gated(nn.Module):
    """A time-first layer that only examples with a positive first entry reach, with as many steps as examples."""

    def __init__(self, steps: int, gate: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.inner, self.middle, self.head = nn.Linear(3, 4), nn.Linear(4, 4), nn.Linear(4, 3)
        self.register_buffer("weights", torch.linspace(1, 2, steps).reshape(steps, 1, 1))
        self.gate = gate

    def forward(self, x: Tensor) -> Tensor:
        h = torch.tanh(self.inner(x))
        later = (torch.tanh(self.middle(h.transpose(0, 1))) * self.weights).sum(0)
        return self.head(h.mean(1) + self.gate(x[:, 0, :1]) * later)


def gated_data(steps: int) -> TensorData:
    generator = torch.Generator().manual_seed(steps)
    inputs = torch.randn(12, steps, 3, generator=generator)
    sign = torch.tensor([-1.0] * 4 + [1.0] * 8)
    inputs[:, 0, 0] = sign * (0.5 + inputs[:, 0, 0].abs())
    return TensorData(inputs, torch.randint(0, 3, (12,), generator=generator))


GATES = {"a step": lambda g: (g > 0).to(g), "a rectifier": functional.relu}


@pytest.mark.parametrize("gate", GATES)
@pytest.mark.parametrize("steps", [4, 8, 2])
@pytest.mark.parametrize("batch_size", [4, 3, 1])
def test_a_layer_that_the_first_batch_does_not_reach_is_not_judged_by_it(
    gate: str, steps: int, batch_size: int
) -> None:
    torch.manual_seed(0)
    data, model = gated_data(steps), Gated(steps, GATES[gate])
    expected = reference(model, data.inputs, data.labels)
    layers = sweep(pose(model, data, dtype=torch.float64, batch_size=batch_size)).trace.layers
    true = {layer.name: layer.true.value for layer in layers}
    assert true == pytest.approx(expected.traces(expected.fisher), rel=1e-9)
    assert true["middle.weight"] > 0
    assert {layer.method for layer in layers} == {"linear"}


def test_layouts_are_remembered_only_where_cotangents_told_them(monkeypatch: pytest.MonkeyPatch) -> None:
    """The first batch does not reach the layer, the second does, and the third need not be tested."""
    tests = list[Call]()

    def find(call: Call, *given: Any) -> tuple[BatchDim | None, bool]:
        tests.append(call)
        return find_batch_dim(call, *given)

    monkeypatch.setattr("fisher_cli.curvature.gradient_norms.engine.find_batch_dim", find)
    torch.manual_seed(0)
    data = gated_data(4)
    problem = pose(Gated(4, GATES["a step"]), data, dtype=torch.float64, batch_size=4)
    engine = Engine(problem)
    is_tested = []
    for batch in problem.batches():
        tests.clear()
        engine.evaluate(batch)
        is_tested.append(bool(tests))
    assert is_tested == [True, True, False]


class InOrder(nn.Module):
    """Examples are put in the order of a feature for a layer of their own, and back."""

    def __init__(self) -> None:
        super().__init__()
        self.inner, self.head = nn.Linear(5, 4), nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        order = sorted(range(len(x)), key=lambda n: float(x[n, 0]))
        h = torch.tanh(self.inner(torch.stack([x[n] for n in order])))
        return self.head(torch.stack([h[order.index(n)] for n in range(len(x))]))


def test_an_order_that_the_first_batch_has_already_is_not_that_of_later_ones() -> None:
    torch.manual_seed(0)
    inputs = torch.randn(12, 5, generator=torch.Generator().manual_seed(8))
    inputs[:4, 0] = torch.arange(4.0)
    data, model = TensorData(inputs, torch.arange(12) % 3), InOrder()
    expected = reference(model, data.inputs, data.labels)
    trace = sweep(pose(model, data, dtype=torch.float64, batch_size=4)).trace
    assert {layer.name: layer.true.value for layer in trace.layers} == pytest.approx(
        expected.traces(expected.fisher), rel=1e-9
    )
    assert torch.allclose(
        torch.tensor(trace.per_example_true, dtype=torch.float64), expected.true_terms.sum(1), rtol=1e-9
    )


class Small(nn.Module):
    """A branch whose weights have a share of the trace of about 1e-9, and a bias that no output depends on."""

    def __init__(self) -> None:
        super().__init__()
        self.large, self.small, self.head = nn.Linear(5, 3), nn.Linear(5, 4), nn.Linear(4, 3)
        self.key = nn.Parameter(torch.randn(4))

    def forward(self, x: Tensor) -> Tensor:
        attention = torch.softmax((torch.tanh(x[:, :4]) + self.key.sum()), 1)
        return self.large(x) + 1e-4 * self.head(torch.tanh(self.small(x)) * attention)


@pytest.mark.parametrize("precision", ["float32", "float64"])
def test_a_tensor_with_a_tiny_share_is_held_to_its_own_size(precision: str, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    labels = torch.arange(EXAMPLES) % 3
    layers = analyze(Small(), (INPUTS, labels), eigenvalues=0, precision=precision).layers.set_index("layer")
    assert 0 < layers["share"]["small.weight"] < 1e-7
    assert layers["method"]["key"].endswith("(not checked: the gradient is rounding)")
    assert not layers["method"]["small.weight"].endswith(")")
    original = BatchBackward.measure

    def doubled(*given: Any) -> dict[str, Tensor]:
        return {name: n * (4 if name == "small.weight" else 1) for name, n in original(*given).items()}

    monkeypatch.setattr(BatchBackward, "measure", doubled)
    with pytest.raises(Exception, match=r"parameter small\.weight: squared gradient norm"):
        analyze(Small(), (INPUTS, labels), eigenvalues=0, precision=precision)
