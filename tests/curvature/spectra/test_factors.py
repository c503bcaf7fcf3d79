"""The factor A of a Fisher, its inner products and combinations, against score gradients by plain autograd."""

import copy
from collections.abc import Callable
from itertools import product

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from fisher_cli.curvature.gradient_norms import score_gradients, verification
from fisher_cli.curvature.gradient_norms.engine import Engine
from fisher_cli.curvature.gradient_norms.score_gradients import symmetric_product
from fisher_cli.curvature.problem.output_scores import ScoresOf, empirical_scores, true_scores
from fisher_cli.curvature.problem.problem import Problem, TensorData, pose
from fisher_cli.curvature.spectra import factors
from fisher_cli.curvature.spectra.factors import Factor, collect, dense
from tests.cases import mlp
from tests.live_memory import LiveMemory
from tests.long_lists import some
from tests.score_gradients import NETWORKS, factor

SCORES = pytest.mark.parametrize("scores_of", [true_scores, empirical_scores], ids=["true", "empirical"])


def verified(problem: Problem) -> Engine:
    engine = Engine(problem)
    verification.check(engine)
    return engine


def compare(problem: Problem, scores_of: ScoresOf, seed: int = 0) -> None:
    """All columns and a random half of them, their inner products and their combinations, and the matrix itself."""
    engine, columns = verified(problem), factor(problem, scores_of)
    scores = columns.shape[1] // problem.examples
    generator = torch.Generator().manual_seed(seed)
    half = torch.rand(problem.examples, scores, generator=generator) < 0.5
    half[0, 0] = True
    # As many columns as examples, and not one of each.
    uneven = torch.zeros_like(half)
    uneven[:, 0] = True
    uneven[0, 0], uneven[1, -1] = scores == 1, True
    scale = float(columns.square().sum(0).max())
    for chosen in (None, torch.ones_like(half), half, uneven):
        rows = columns if chosen is None else columns[:, chosen.reshape(-1)]
        found = collect(engine, scores_of, chosen)
        gram = found.gram()
        assert gram.dtype is torch.float64
        assert torch.allclose(gram, rows.T @ rows, rtol=0, atol=1e-13 * scale)
        coefficients = torch.randn(rows.shape[1], 3, generator=generator).double()
        combined = rows @ coefficients
        assert torch.allclose(
            found.combine(coefficients), combined, rtol=0, atol=1e-13 * float(combined.abs().max()) + 1e-300
        )
        mask = torch.ones_like(half) if chosen is None else chosen
        assert torch.equal(found.examples, mask.nonzero()[:, 0])
    product = columns @ columns.T
    assert torch.allclose(dense(engine, scores_of), product, rtol=0, atol=1e-13 * float(product.abs().max()))


@SCORES
@pytest.mark.parametrize("name", NETWORKS)
def test_inner_products_and_combinations_are_those_of_the_score_gradients(name: str, scores_of: ScoresOf) -> None:
    compare(NETWORKS[name](torch.float64)[0], scores_of)


class Branches(nn.Module):
    """Parallel layers whose outputs are added: their cotangents, and the gradients of their biases, are equal."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(4, 6), nn.Linear(5, 6)
        self.plain = nn.Linear(5, 6, bias=False)
        self.shift = nn.Parameter(torch.randn(6))
        self.head = nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.tanh(self.first(x[:, :4]) + self.second(x) + self.plain(x.flip(1)) + self.shift))


class BiasOnly(nn.Module):
    """Nothing but a bias: no outer product to which it belongs."""

    def __init__(self) -> None:
        super().__init__()
        self.bias = nn.Parameter(torch.randn(3))

    def forward(self, x: Tensor) -> Tensor:
        return x[:, :3] + self.bias


class Moody(nn.Module):
    """A layer used as a layer, as a product, or not at all, and a bias of its own or not, as the examples have it."""

    def __init__(self) -> None:
        super().__init__()
        self.inner, self.other, self.head = nn.Linear(5, 6), nn.Linear(5, 6), nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        mood = torch.sign(x[:, 0]).unsqueeze(1)
        if bool((mood > 0).all()):
            return self.head(torch.tanh(self.inner(x)))
        if bool((mood < 0).all()):
            return self.head(torch.tanh(self.other(x)))
        mixed = torch.where(mood > 0, x @ self.inner.weight.T + self.inner.bias, self.other(x))
        return self.head(torch.tanh(mixed))


class Doubled(nn.Module):
    """The same inputs to two layers of one width, a bias that is used twice, one that is scaled."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = nn.Linear(5, 4), nn.Linear(5, 4, bias=False)
        self.head = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        hidden = torch.tanh(self.one(x))
        return self.head(hidden + functional.linear(x, self.two.weight, self.one.bias)) * 0.5


def wide() -> nn.Module:
    return nn.Sequential(nn.Linear(5, 7), nn.ReLU(), nn.Linear(7, 1, bias=False), nn.Linear(1, 3))


def upwards() -> nn.Module:
    """A transposed convolution of one position, whose weight is inputs × outputs."""
    layers = [nn.Unflatten(1, (5, 1)), nn.ConvTranspose1d(5, 4, 2), nn.Tanh(), nn.Flatten(), nn.Linear(8, 3)]
    return nn.Sequential(*layers)


def downwards() -> nn.Module:
    """Convolutions of one position, with one group and with two."""
    layers = [nn.Unflatten(1, (1, 5)), nn.Conv1d(1, 6, 5), nn.Tanh(), nn.Conv1d(6, 4, 1, groups=2), nn.Flatten()]
    return nn.Sequential(*layers, nn.Linear(4, 3))


def posed(build: Callable[[], nn.Module], batch_size: int, *, named: Callable[[str], bool] = lambda _: True) -> Problem:
    torch.manual_seed(1)
    model = build().double()
    x = torch.randn(9, 5).double()
    # The first two examples are all positive there, the next two negative, the others mixed.
    x[:, 0] = torch.tensor([1.0, 2.0, -1.0, -2.0, 1.0, -1.0, -2.0, 3.0, 1.0]).double()
    parameters = {name: parameter for name, parameter in model.named_parameters() if named(name)}
    return pose(model, TensorData(x, torch.randint(0, 3, (9,))), batch_size=batch_size, parameters=parameters)


@SCORES
@pytest.mark.parametrize(
    ("build", "batch_size"),
    some(product([Branches, BiasOnly, Moody, Doubled, wide, upwards, downwards], [1, 2, 7, 9]), part=0.5),
)
def test_batches_of_any_size_and_plans_that_change_give_the_same_columns(
    build: Callable[[], nn.Module], batch_size: int, scores_of: ScoresOf
) -> None:
    compare(posed(build, batch_size), scores_of)


def test_networks_of_the_tests_are_what_they_are_made_for() -> None:
    """Outer products of which several share cotangents; a layer that is an outer product in some batches only."""
    branches = collect(verified(posed(Branches, 9)), true_scores)
    outer = {name for name, part in branches.parts.items() if isinstance(part, score_gradients.OuterColumns)}
    assert outer == {"first.weight", "second.weight", "plain.weight", "head.weight"}
    cotangents = branches.parts["first.weight"].cotangents  # type: ignore[union-attr]
    for name in ("second.weight", "plain.weight"):
        assert torch.equal(branches.parts[name].cotangents, cotangents)  # type: ignore[union-attr]
    for name in ("first.bias", "second.bias", "shift"):
        assert torch.equal(branches.parts[name].columns, cotangents)
    engine = verified(posed(Moody, 2))
    moody = collect(engine, true_scores)
    assert isinstance(moody.parts["inner.weight"], score_gradients.ExplicitColumns)
    assert len({"linear", "parametrized-linear", "per-example"} & engine.methods["inner.weight"]) == 2
    assert "unused" in engine.methods["inner.weight"]


@SCORES
@pytest.mark.parametrize("kept", ["weight", "bias", "head", "second"])
def test_a_choice_of_parameters_has_its_own_factor(kept: str, scores_of: ScoresOf) -> None:
    compare(posed(Branches, 4, named=lambda name: kept in name), scores_of)


@pytest.mark.parametrize("scale", [1.0, 1e-30])
def test_single_precision_columns_do_not_underflow(scale: float) -> None:
    """Amplitudes of 1e-30, squared 1e-60, are below what float32 can hold."""
    torch.manual_seed(3)
    model, x = mlp(4, 6, 1), torch.randn(7, 4)
    with torch.no_grad():
        model[-1].bias.fill_(-69.0 if scale < 1 else 0.0)  # type: ignore[operator]
    problem = pose(model, TensorData(x, torch.zeros(7).long()))
    found = collect(verified(problem), empirical_scores)
    gram = found.gram()
    doubled = pose(model, TensorData(x, torch.zeros(7).long()), dtype=torch.float64)
    columns = factor(doubled, empirical_scores)
    expected = columns.T @ columns
    assert float(expected.max()) < 1e3 * scale**2
    assert torch.allclose(gram, expected, rtol=0, atol=1e-4 * float(expected.max()))
    weights = torch.eye(7).double()
    assert torch.allclose(found.combine(weights), columns, rtol=0, atol=1e-4 * float(columns.abs().max()))


def test_combinations_of_huge_and_of_tiny_coefficients_do_not_overflow() -> None:
    torch.manual_seed(4)
    problem = pose(mlp(4, 6, 3), TensorData(torch.randn(5, 4), torch.randint(0, 3, (5,))))
    found = collect(verified(problem), true_scores)
    weights = torch.randn(10, 1, generator=torch.Generator().manual_seed(0)).double()
    plain = found.combine(weights)
    for scale in (1e-60, 1e60):
        assert torch.allclose(found.combine(weights * scale), plain * scale, rtol=1e-6, atol=0)
    assert found.combine(torch.zeros(10, 2).double()).abs().max() == 0
    assert found.combine(weights[:, :0]).shape == (problem.size, 0)


@pytest.mark.parametrize("block", [1, 3, 5, 12, 1024])
def test_symmetric_products_by_blocks_are_the_product_with_one_half_mirrored(
    block: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(score_gradients, "BLOCK_ROWS", block)
    x = torch.randn(12, 7, generator=torch.Generator().manual_seed(1)).double()
    found = symmetric_product(x)
    assert torch.allclose(found, x @ x.T, rtol=0, atol=1e-14 * float(x.square().sum(1).max()))
    for low in range(0, 12, block):
        assert torch.equal(found[low : low + block, :low], found[:low, low : low + block].T)


@SCORES
def test_small_blocks_change_no_gram(scores_of: ScoresOf, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(score_gradients, "BLOCK_ROWS", 4)
    compare(posed(Branches, 4), scores_of)


def test_a_factor_holds_outer_products_as_their_two_factors() -> None:
    """What it holds: inputs once per example, cotangents once per column, biases; never M · P values."""
    problem = posed(lambda: mlp(5, 50, 40, 3), 4)
    found = collect(verified(problem), true_scores)
    held = sum(
        part.inputs.numel() + part.cotangents.numel()
        if isinstance(part, score_gradients.OuterColumns)
        else part.columns.numel()
        for part in found.parts.values()
    )
    examples, columns = 9, 18
    assert held == examples * (5 + 50 + 40) + 2 * columns * (50 + 40 + 3)
    assert held < columns * problem.size / 10


def beside_the_columns(batch_size: int) -> tuple[int, int]:
    """Bytes alive beside the columns while these are made, at most, and what they may be."""
    torch.manual_seed(0)
    layers = [nn.Conv2d(48, 48, 3, padding=1) for _ in range(8)]
    network = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(48, 10))
    problem = pose(network, TensorData(torch.randn(8, 48, 4, 4), torch.arange(8)), batch_size=batch_size)
    engine = Engine(problem)
    with LiveMemory() as memory:
        found = collect(engine, true_scores)
        held = sum(part.columns.nbytes for part in found.parts.values())
        found.combine(torch.ones(72, 1).double())
    assert held > 40 * 2**20
    # Of each layer its output, the next one's input, nine patches of that and nine cotangents; one parameter's columns.
    passing = len(layers) * batch_size * 48 * 16 * 20 * 4
    one_parameter = batch_size * 9 * layers[0].weight.nbytes
    return memory.peak - held, one_parameter + one_parameter // 10 + passing


@pytest.mark.parametrize("batch_size", [2, 8])
def test_what_is_made_beside_the_columns_is_one_batch_of_one_parameter(batch_size: int) -> None:
    taken, allowed = beside_the_columns(batch_size)
    assert 0 < taken < allowed


def test_a_second_copy_of_the_columns_would_be_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(factors, "Factor", lambda *parts: Factor(*parts[:-1], copy.deepcopy(parts[-1])))
    taken, allowed = beside_the_columns(8)
    assert taken > allowed
