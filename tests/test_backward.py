"""Gradients that are handed over one at a time, against those that autograd returns together."""

import weakref

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from fisher_cli.curvature import backward
from fisher_cli.curvature.backward import add_to, gradients_in_turn, inner_product, squared_norm
from tests.cases import Case


def test_gradients_in_turn_are_those_of_autograd(case: Case) -> None:
    model, inputs, _ = case.make()
    parameters = dict(model.named_parameters())
    outputs = model(inputs)
    cotangents = torch.randn(outputs.shape, generator=torch.Generator().manual_seed(1)).double()
    expected = torch.autograd.grad(outputs, list(parameters.values()), cotangents, retain_graph=True, allow_unused=True)
    for keep in (True, False):
        found: dict[str, Tensor] = {}
        gradients_in_turn(outputs, parameters, cotangents, found.__setitem__, keep=keep)
        for name, gradient in zip(parameters, expected, strict=True):
            assert (name in found) == (gradient is not None)
            assert gradient is None or torch.equal(found[name], gradient), name
    assert all(parameter.grad is None and not parameter._backward_hooks for parameter in parameters.values())


def test_no_gradient_outlives_the_next() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(*(nn.Linear(64, 64) for _ in range(6)))
    alive: list[weakref.ref[Tensor]] = []
    most = 0

    def take(_name: str, gradient: Tensor) -> None:
        nonlocal most
        alive.append(weakref.ref(gradient))
        most = max(most, sum(each() is not None for each in alive))

    gradients_in_turn(model(torch.randn(3, 64)), dict(model.named_parameters()), torch.ones(3, 64), take)
    assert len(alive) == 12
    assert most == 1


def test_sparse_gradients_are_handed_over_dense() -> None:
    weight = nn.Parameter(torch.randn(5, 3))
    outputs = functional.embedding(torch.tensor([1, 1, 4]), weight, sparse=True)
    found: dict[str, Tensor] = {}
    gradients_in_turn(outputs, {"weight": weight}, torch.ones(3, 3), found.__setitem__)
    assert found["weight"].sum(1).tolist() == [0, 6, 0, 0, 3]


@pytest.mark.parametrize("piece", [1, 7, 2**18])
def test_sums_in_pieces(piece: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backward, "PIECE", piece)
    values, others = torch.randn(5, 4), torch.randn(4, 5).double().T
    total = torch.ones(5, 4).double()
    add_to(total, values, 3.0)
    assert torch.allclose(total, 1 + 3 * values.double(), rtol=0, atol=1e-15)
    assert float(squared_norm(values)) == pytest.approx(float(values.double().square().sum()), rel=1e-14)
    assert float(inner_product(values, others)) == pytest.approx(float((values.double() * others).sum()), rel=1e-13)
