"""The Jacobian as two linear maps and the factor as two more, against dense matrices by plain autograd."""

import gc
import weakref
from dataclasses import replace
from itertools import islice

import pytest
import torch
from torch import Tensor, nn

from fisher_cli.curvature.problem.output_scores import ScoresOf, empirical_scores, true_scores
from fisher_cli.curvature.problem.problem import Problem, TensorData, pose
from fisher_cli.curvature.products import fisher_products
from fisher_cli.curvature.products import jvp as tangents
from fisher_cli.curvature.products.fisher_products import (
    Jacobian,
    ScoreFactor,
    empirical_product,
    fisher_product,
    split,
)
from tests.cases import mlp
from tests.score_gradients import NETWORKS, factor, jacobian

SCORES = pytest.mark.parametrize("scores_of", [true_scores, empirical_scores], ids=["true", "empirical"])
# By double backward, by forward mode, and row by row.
KINDS = ["mlp", "grouped", "sequence", "NoSecondDerivative", "Experts"]


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def pushed(maps: Jacobian, vector: Tensor) -> Tensor:
    """J v, (N, C)."""
    tangents = split(maps.problem, vector)
    return torch.cat([maps.push(piece, tangents) for piece in maps.pieces()]).double()


def pulled(maps: Jacobian, cotangents: Tensor) -> Tensor:
    """Σ_n J_nᵀ u_n, (P,)."""
    total = torch.zeros(maps.problem.size).double()
    for piece in maps.pieces():
        maps.pull(piece, cotangents[piece.batch.start :][: len(piece.batch)], total)
    return total


def price(problem: Problem, batches: int = 1) -> int:
    """Bytes that the graphs of the first batches take."""
    maps = Jacobian(problem)
    return sum(map(maps.graph_bytes, islice(problem.batches(problem.product_batch_size), batches)))


def kept(maps: Jacobian) -> list[bool]:
    return [piece.graph is not None for piece in maps.pieces()]


@pytest.mark.parametrize("name", NETWORKS)
def test_both_maps_are_the_dense_jacobian(name: str) -> None:
    problem, _ = NETWORKS[name](torch.float64)
    dense, maps = jacobian(problem), Jacobian(problem)
    vector, cotangents = draw(problem.size), draw(*dense.shape[:2], seed=1)
    forth, back = dense @ vector, torch.einsum("nc,ncp->p", cotangents, dense)
    assert torch.allclose(pushed(maps, vector), forth, rtol=0, atol=1e-13 * float(forth.abs().max()) + 1e-300)
    assert torch.allclose(pulled(maps, cotangents), back, rtol=0, atol=1e-13 * float(back.abs().max()))


@pytest.mark.parametrize("graphs", ["none", "one", "all"])
@pytest.mark.parametrize("name", KINDS)
def test_products_are_right_and_repeat_bit_for_bit_whatever_graphs_are_kept(
    name: str, graphs: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    problem, expected = NETWORKS[name](torch.float64)
    problem = replace(problem, product_batch_size=2, keep_graphs=graphs != "none")
    room = price(problem) if graphs == "one" else 2**40
    monkeypatch.setattr(fisher_products, "graph_bytes", lambda _: room)
    maps, vector = Jacobian(problem), draw(problem.size)
    batches = -(-problem.examples // 2)
    for make, matrix in ((fisher_product, expected.fisher), (empirical_product, expected.empirical)):
        multiply = make(problem, maps)
        first, truth = multiply(vector), matrix @ vector
        assert torch.allclose(first, truth, rtol=0, atol=1e-13 * float(truth.abs().max()))
        for _ in range(3):
            assert torch.equal(multiply(vector), first)
        assert torch.equal(make(problem, Jacobian(problem))(vector), first)
    dual = ScoreFactor(maps, true_scores)
    once = dual(draw(dual.size))
    assert torch.equal(dual(draw(dual.size)), once)
    assert (
        kept(maps)
        == {
            "none": [False] * batches,
            "one": [True] + [False] * (batches - 1),
            "all": [True] * batches,
        }[graphs]
    )


@SCORES
@pytest.mark.parametrize("name", NETWORKS)
def test_the_dual_combines_and_projects_as_the_dense_factor_does(name: str, scores_of: ScoresOf) -> None:
    problem, expected = NETWORKS[name](torch.float64)
    dense, dual = factor(problem, scores_of), ScoreFactor(Jacobian(problem), scores_of)
    matrix = expected.fisher if scores_of is true_scores else expected.empirical
    assert torch.allclose(dense @ dense.T, matrix, rtol=0, atol=1e-13 * float(matrix.abs().max()))
    assert dual.size == dense.shape[1]
    weights, vector = draw(dual.size), draw(problem.size, seed=1)
    for found, truth in (
        (dual.combine(weights), dense @ weights),
        (dual.project(vector), dense.T @ vector),
        (dual(weights), dense.T @ (dense @ weights)),
    ):
        assert found.dtype is torch.float64
        assert torch.allclose(found, truth, rtol=0, atol=1e-13 * float(truth.abs().max()))


@SCORES
@pytest.mark.parametrize("batch_size", [1, 4, 5])
def test_the_order_of_the_dual_is_that_of_the_examples_whatever_the_batches(
    batch_size: int, scores_of: ScoresOf
) -> None:
    problem, _ = NETWORKS["residual"](torch.float64)
    whole, parts = (
        ScoreFactor(Jacobian(replace(problem, product_batch_size=size)), scores_of)
        for size in (problem.examples, batch_size)
    )
    vector = draw(problem.size)
    assert torch.allclose(whole.project(vector), parts.project(vector), rtol=1e-10, atol=1e-15)


def test_a_dual_in_single_precision_makes_vectors_in_single_precision_and_products_in_double() -> None:
    problem, _ = NETWORKS["mlp"](torch.float32)
    dual = ScoreFactor(Jacobian(problem), true_scores, torch.float32)
    combined = dual.combine(draw(dual.size))
    assert combined.dtype is torch.float32
    assert dual.project(combined).dtype is torch.float64
    dense = factor(problem, true_scores)
    assert torch.allclose(combined.double(), dense @ draw(dual.size), rtol=0, atol=1e-5 * float(combined.abs().max()))


def layered() -> Problem:
    torch.manual_seed(0)
    model = mlp(6, 8, 4).double()
    data = TensorData(torch.randn(10, 6).double(), torch.randint(0, 4, (10,)))
    return pose(model, data, batch_size=4)


def test_graphs_are_counted_by_what_they_hold(monkeypatch: pytest.MonkeyPatch) -> None:
    """A layer keeps its input and ReLU its output, which is the next layer's input: 6 + 8 values an example."""
    problem = layered()
    both = price(problem)
    monkeypatch.setattr(fisher_products, "gradients_fit", lambda _: False)
    alone = price(problem)
    assert alone == 4 * (6 + 8) * 8
    # The way back has the cotangents of the outputs, which multiply the hidden units.
    assert both == alone + 4 * 4 * 8


@pytest.mark.parametrize(("batches", "rest", "expected"), [(1, -1, 0), (1, 0, 1), (2, -1, 1), (3, -1, 2), (3, 0, 3)])
def test_as_many_graphs_are_kept_as_fit(
    batches: int, rest: int, expected: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Room for the batches of four, four and two examples, and a byte less."""
    problem = layered()
    room = price(problem, batches) + rest
    monkeypatch.setattr(fisher_products, "graph_bytes", lambda _: room)
    maps = Jacobian(problem)
    assert kept(maps) == [True] * expected + [False] * (3 - expected)
    assert all((piece.transpose is None) == (piece.graph is None) for piece in maps.pieces())


@pytest.mark.parametrize(("share", "transposed"), [(0.99, False), (1.01, True)])
def test_graphs_of_transposes_are_kept_only_where_their_gradients_are_small(
    share: float, transposed: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else the graphs are kept for the way back alone."""
    problem = layered()
    vector = draw(problem.size)
    expected = fisher_product(problem)(vector)
    memory = share * problem.size * 8 / tangents.GRADIENT_SHARE
    monkeypatch.setattr(tangents, "graph_bytes", lambda _: int(memory))
    maps = Jacobian(problem)
    assert torch.allclose(fisher_product(problem, maps)(vector), expected, rtol=0, atol=1e-14 * float(expected.norm()))
    pieces = list(maps.pieces())
    assert kept(maps) == [True] * 3
    assert [piece.transpose is not None for piece in pieces] == [transposed] * 3


def test_a_product_that_was_broken_off_takes_no_room_from_the_next(monkeypatch: pytest.MonkeyPatch) -> None:
    problem = layered()
    room = price(problem, 3)
    monkeypatch.setattr(fisher_products, "graph_bytes", lambda _: room)
    maps = Jacobian(problem)
    for _ in range(5):
        next(maps.pieces())
    assert kept(maps) == [True] * 3


class Watched(nn.Module):
    """Remembers its activations without keeping them alive."""

    def __init__(self, activation: nn.Module) -> None:
        super().__init__()
        self.first, self.activation, self.head = nn.Linear(6, 8), activation, nn.Linear(8, 3)
        self.seen: list[weakref.ref[Tensor]] = []

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.activation(self.first(x))
        self.seen.append(weakref.ref(hidden))
        return self.head(hidden)


@pytest.mark.parametrize("activation", [nn.Tanh(), nn.ReLU(), nn.Sigmoid(), nn.Softmax(1)], ids=str)
def test_graphs_that_are_not_kept_are_freed_at_once(activation: nn.Module, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the garbage collector, which does not know how much memory a cycle of tensors holds."""
    monkeypatch.setattr(fisher_products, "graph_bytes", lambda _: 0)
    model = Watched(activation).double()
    problem = pose(model, TensorData(torch.randn(10, 6).double(), torch.randint(0, 3, (10,))), batch_size=2)
    maps = Jacobian(problem)
    multiply = fisher_product(problem, maps)
    gc.collect()
    gc.disable()
    try:
        for _ in range(2):
            model.seen.clear()
            alive = []
            for _ in maps.pieces():
                alive.append(sum(reference() is not None for reference in model.seen))
            multiply(draw(problem.size))
            alive.append(sum(reference() is not None for reference in model.seen))
            assert alive == [0] * len(alive)
    finally:
        gc.enable()


def test_tiny_cotangents_and_tangents_do_not_underflow_in_single_precision() -> None:
    problem, _ = NETWORKS["mlp"](torch.float32)
    maps, dense = Jacobian(problem), jacobian(problem)
    cotangents = draw(*dense.shape[:2])
    back = torch.einsum("nc,ncp->p", cotangents, dense)
    found = pulled(maps, cotangents * 1e-60)
    assert torch.allclose(found * 1e60, back, rtol=0, atol=1e-5 * float(back.abs().max()))


def test_zero_vectors_have_zero_products() -> None:
    problem, _ = NETWORKS["attention"](torch.float64)
    assert float(fisher_product(problem)(torch.zeros(problem.size).double()).abs().max()) == 0
    dual = ScoreFactor(Jacobian(problem), true_scores)
    assert float(dual(torch.zeros(dual.size).double()).abs().max()) == 0
