"""Finite differences find every derivative that is not that of the outputs, name its tensors, and pass right ones."""

import random
from collections.abc import Callable
from itertools import product

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from fisher_cli.curvature.torch_backend.finite_differences import Derivative, derivatives_by_tensor
from fisher_cli.curvature.torch_backend.gradient_hooks import without_gradient_hooks
from fisher_cli.curvature.torch_backend.precision import in_precision
from fisher_cli.results import Outcome
from tests.cases import scaled_head, without_biases
from tests.long_lists import some
from tests.random_networks import network
from tests.wrong_derivatives import ALL, WRONG, Between, Stages, images, multiplied


def derivatives(model: nn.Module, x: Tensor, most_groups: int | None = None) -> tuple[Derivative, ...]:
    return derivatives_by_tensor(lambda: model(x.clone()), dict(model.named_parameters()), most_groups=most_groups)


def ended(found: tuple[Derivative, ...], outcome: Outcome) -> set[str]:
    return {name for each in found if each.outcome is outcome for name in each.names}


@pytest.mark.parametrize("most_groups", [None, 2])
@pytest.mark.parametrize("name", list(WRONG))
def test_a_wrong_derivative_fails_at_the_tensors_before_it_and_nowhere_else(name: str, most_groups: int | None) -> None:
    between, behind, expected = WRONG[name]
    torch.manual_seed(2)
    found = derivatives(Stages(between, behind).double(), images(), most_groups)
    assert ended(found, Outcome.FAILED) == expected
    assert ended(found, Outcome.PASSED) == ALL - expected
    assert all(each.reason for each in found if each.outcome is Outcome.FAILED)


def test_a_factor_is_told() -> None:
    torch.manual_seed(2)
    found = derivatives(Stages(multiplied(1.3)).double(), images())
    assert found[0].reason == "autograd's derivative is 1.3 times that of the outputs"
    assert found[0].error == pytest.approx(0.3 / 1.3, rel=1e-4)


def test_parameters_come_back_to_the_last_bit() -> None:
    torch.manual_seed(2)
    model = Stages(multiplied(1.3)).double()
    before = [parameter.clone() for parameter in model.parameters()]
    derivatives(model, images())
    assert all(torch.equal(*pair) for pair in zip(before, model.parameters(), strict=True))
    assert all(parameter.grad is None for parameter in model.parameters())


def test_each_tensor_takes_two_evaluations_and_a_group_no_more() -> None:
    torch.manual_seed(2)
    model, calls = nn.Sequential(*[nn.Linear(6, 6) for _ in range(10)]).double(), 0
    for layer in model:
        nn.init.orthogonal_(layer.weight)

    def outputs() -> Tensor:
        nonlocal calls
        calls += 1
        return model(torch.ones(1, 6).double())

    assert len(derivatives_by_tensor(outputs, dict(model.named_parameters()))) == 20
    alone, calls = calls, 0
    assert len(derivatives_by_tensor(outputs, dict(model.named_parameters()), most_groups=4)) == 4
    assert (alone, calls) == (2 * 20 + 6, 2 * 4 + 6)


class Words(nn.Module):
    """An embedding with a padding row, a tied head, and a parameter that is never used."""

    def __init__(self, sparse: bool) -> None:
        super().__init__()
        self.embed = nn.Embedding(5, 4, padding_idx=0, sparse=sparse)
        self.bag = nn.EmbeddingBag(5, 4, padding_idx=-4, mode="sum")
        self.unused = nn.Parameter(torch.randn(3))
        nn.init.normal_(self.embed.weight)

    def forward(self, ids: Tensor) -> Tensor:
        h = torch.tanh(self.embed(ids).mean(1) + functional.embedding(ids[:, 0], self.embed.weight) + self.bag(ids))
        return h @ self.embed.weight.T if not self.embed.sparse else h


@pytest.mark.parametrize("sparse", [False, True])
def test_rows_that_have_no_gradient_by_definition_are_left_out_and_unused_parameters_pass(sparse: bool) -> None:
    torch.manual_seed(1)
    ids = torch.tensor([[0, 1, 2], [3, 0, 0], [1, 1, 4]])
    found = derivatives(Words(sparse).double(), ids)
    assert ended(found, Outcome.PASSED) == {"embed.weight", "bag.weight", "unused"}


class Powers(nn.Module):
    """The outputs move with `square` to second order only, and not at all with `dead` until a unit wakes up."""

    def __init__(self) -> None:
        super().__init__()
        self.square, self.dead = nn.Parameter(torch.zeros(4)), nn.Parameter(-torch.ones(4))
        self.linear = nn.Parameter(torch.randn(4))

    def forward(self, x: Tensor) -> Tensor:
        return x * (self.linear + self.square**2 + torch.relu(self.dead + 0.999))


def test_a_derivative_of_zero_passes_where_the_outputs_move_to_second_order_or_beyond_a_kink_only() -> None:
    torch.manual_seed(1)
    assert not ended(derivatives(Powers().double(), torch.randn(2, 4).double()), Outcome.FAILED)
    found = derivatives(Powers().double(), torch.randn(2, 4).double())
    assert ended(found, Outcome.PASSED) == {"square", "dead", "linear"}


@pytest.mark.parametrize("factor", [1.0, 1.001, 0.0])
def test_where_units_are_exactly_at_a_kink_the_parameters_next_to_it_decide_unless_an_example_does(
    factor: float,
) -> None:
    torch.manual_seed(1)
    model = nn.Sequential(nn.Linear(4, 5), nn.ReLU(), Between(multiplied(factor)), nn.Linear(5, 3)).double()
    nn.init.zeros_(model[0].bias)
    x = torch.zeros(2, 4).double()
    blank = {each.names[0]: each for each in derivatives(model, x)}
    assert {name for name, each in blank.items() if each.is_beside} == {"0.bias"}
    assert blank["0.bias"].outcome is (Outcome.PASSED if factor == 1 else Outcome.FAILED)
    x[1] = torch.randn(4)
    found = derivatives(model, x)
    assert not any(each.is_beside for each in found)
    assert ended(found, Outcome.FAILED) == (set() if factor == 1 else {"0.weight", "0.bias"})


def test_a_pair_of_units_whose_kinks_cancel_is_no_fault() -> None:
    """relu(b) − relu(−b) is linear in b, and autograd's derivative at b = 0 is zero."""

    class Pair(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.bias, self.scale = nn.Parameter(torch.zeros(3)), nn.Parameter(torch.randn(3))

        def forward(self, x: Tensor) -> Tensor:
            return x * self.scale + torch.relu(self.bias) - torch.relu(-self.bias)

    torch.manual_seed(1)
    assert not ended(derivatives(Pair().double(), torch.randn(2, 3).double()), Outcome.FAILED)


@pytest.mark.parametrize("inside", [torch.float32, torch.float16, torch.bfloat16])
def test_a_network_that_is_coarse_inside_never_fails_and_says_what_is_not_decided(inside: torch.dtype) -> None:
    torch.manual_seed(2)
    found = derivatives(Stages(lambda x: x.to(inside).to(x.dtype)).double(), images())
    assert not ended(found, Outcome.FAILED)
    assert ended(found, Outcome.PASSED) >= {"head.weight", "head.bias"}
    for each in found:
        assert each.outcome is Outcome.PASSED or str(inside).removeprefix("torch.") in each.reason


def test_outputs_that_change_by_themselves_are_undecided() -> None:
    torch.manual_seed(2)
    found = derivatives(Stages(lambda x: functional.dropout(x, 0.5)).double(), images())
    assert not ended(found, Outcome.FAILED)
    assert ended(found, Outcome.UNDECIDED)


KINDS: dict[str, Callable[[nn.Module], nn.Module]] = {
    "as drawn": lambda model: model,
    "confident": lambda model: scaled_head(model, 1e2),
    "saturated": lambda model: scaled_head(model, 1e4),
    "zero head": lambda model: scaled_head(model, 0),
    "blank": without_biases,
}


@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel:UserWarning")
@pytest.mark.parametrize(("kind", "most_groups"), some(product(KINDS, [None, 3]), part=0.5))
def test_no_right_random_network_fails(kind: str, most_groups: int | None) -> None:
    passed = total = 0
    for seed in range(12):
        model, x, *_ = network(random.Random(seed), seed)
        x = x[:2].double() if x.is_floating_point() else x[:2]
        if kind == "blank" and x.is_floating_point():
            x[0] = 0
        found = derivatives(KINDS[kind](model.double()), x, most_groups)
        assert not ended(found, Outcome.FAILED), seed
        passed += len(ended(found, Outcome.PASSED))
        total += len(dict(model.named_parameters()))
    assert passed > (0.98 if kind != "blank" else 0.9) * total


# --- what evaluates the network as it is


def test_gradient_hooks_are_off_while_the_context_is_open_and_all_come_back() -> None:
    model = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 2))
    model[0].weight.register_hook(lambda gradient: 0.5 * gradient)
    model[1].register_full_backward_hook(lambda _module, given, _: (2 * given[0],))
    model[1].register_full_backward_pre_hook(lambda _module, given: (3 * given[0],))
    x = torch.randn(4, 3)

    def gradients() -> list[Tensor]:
        return list(torch.autograd.grad(model(x).sum(), list(model.parameters())))

    hooked = gradients()
    with without_gradient_hooks(model):
        plain = gradients()
        one = model[0](x).detach().sum(0).expand(2, -1)
    assert torch.allclose(plain[2], one)
    assert torch.allclose(plain[0], hooked[0] * 2 / 6)
    assert all(torch.equal(*pair) for pair in zip(gradients(), hooked, strict=True))


def test_complex_numbers_stay_complex_in_another_precision() -> None:
    model = nn.Linear(2, 2)
    model.register_buffer("phase", torch.tensor([1 + 2j]))
    model.register_buffer("count", torch.tensor(3))
    assert in_precision(model, torch.float64) is model
    assert (model.weight.dtype, model.phase.dtype, model.count.dtype) == (
        torch.float64,
        torch.complex128,
        torch.int64,
    )
    assert complex(model.phase) == 1 + 2j
