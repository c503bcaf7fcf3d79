"""Gradients that are handed over one at a time, against those that autograd returns together."""

import weakref

import torch
from torch import Tensor, nn
from torch.nn import functional

from fisher_cli.curvature.torch_backend.vjp import gradients_in_turn
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
