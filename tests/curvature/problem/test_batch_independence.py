"""Chance and coupling are found wherever they are: in later batches, in their middle, with one example at once."""

import random
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from fisher_cli import analyze
from fisher_cli.errors import CoupledExamplesError, VerificationError

GENERATOR = torch.Generator().manual_seed(9)
INPUTS = torch.randn(20, 6, generator=GENERATOR)
LABELS = torch.randint(0, 3, (20,), generator=GENERATOR)
Middle = Callable[[Tensor], Tensor]


class Through(nn.Module):
    """Two layers with something between them."""

    def __init__(self, middle: Middle) -> None:
        super().__init__()
        self.inner, self.head, self.middle = nn.Linear(6, 8), nn.Linear(8, 3), middle

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.tanh(self.middle(self.inner(x))))


def only_the_middle(z: Tensor) -> Tensor:
    return z if len(z) < 3 else torch.cat([z[:1], z[1:-1] - z[1:-1].mean(0), z[-1:]])


def neighbours(z: Tensor) -> Tensor:
    return z if len(z) < 3 else torch.cat([z[:1], z[1:-1] + 0.5 * z[:-2], z[-1:]])


COUPLED: dict[str, Middle] = {
    "mean, weakly": lambda z: z - 3e-4 * z.mean(0),
    "mean, detached": lambda z: z - 3e-4 * z.mean(0).detach(),
    "statistics of the batch": lambda z: (z - z.mean(0)) / (z.std(0, unbiased=False) + 1e-5),
    "functional batch norm": lambda z: functional.batch_norm(z, None, None, training=True),
    "all but the ends": only_the_middle,
    "neighbours": neighbours,
    "running sum": lambda z: z + 1e-3 * z.cumsum(0),
    "number of examples": lambda z: z * (1 + 1e-3 * len(z)),
    "attention over the batch": lambda z: functional.softmax(z @ z.T, 1) @ z,
    "largest of the batch": lambda z: z - z.amax(0) / 10,
    "rank in the batch": lambda z: z + 0.1 * z.argsort(0).argsort(0).to(z),
}


@pytest.mark.parametrize("batch_size", [None, 8, 1])
@pytest.mark.parametrize("name", COUPLED)
def test_examples_that_depend_on_others_are_refused(name: str, batch_size: int | None) -> None:
    torch.manual_seed(0)
    with pytest.raises((CoupledExamplesError, VerificationError)):
        analyze(Through(COUPLED[name]), (INPUTS, LABELS), eigenvalues=0, batch_size=batch_size)


@pytest.mark.parametrize("name", COUPLED)
def test_a_single_example_is_given_company(name: str) -> None:
    torch.manual_seed(0)
    with pytest.raises((CoupledExamplesError, VerificationError)):
        analyze(Through(COUPLED[name]), (INPUTS[:1], LABELS[:1]), eigenvalues=0)


@pytest.mark.parametrize("where", range(20))
def test_coupling_is_found_wherever_the_example_is_that_brings_it_about(where: int) -> None:
    inputs = INPUTS.clamp(-2, 2)
    inputs[where, 0] = 9.0

    class Triggered(Through):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x - x.mean(0) if len(x) > 1 and bool((x[:, 0] > 5).any()) else x)

    torch.manual_seed(0)
    with pytest.raises(CoupledExamplesError, match="couples the examples of a batch"):
        analyze(Triggered(nn.Identity()), (inputs, LABELS), eigenvalues=0, batch_size=4)


@pytest.mark.ci
def test_a_network_without_coupling_is_not_refused_for_its_rounding() -> None:
    torch.manual_seed(0)
    deep = nn.Sequential(
        *(layer for _ in range(30) for layer in (nn.Linear(6, 6), nn.LayerNorm(6), nn.ReLU())), nn.Linear(6, 3)
    )
    for batch_size in (None, 7, 1):
        assert analyze(deep, (INPUTS * 1e3, LABELS), eigenvalues=0, batch_size=batch_size).succeeded == 1


OWN = torch.Generator().manual_seed(0)
RANDOM: dict[str, tuple[Middle, str]] = {
    "torch.rand": (lambda z: z * (1 + 0 * torch.rand(())), "Through"),
    "noise of a millionth": (lambda z: z + 1e-6 * torch.randn_like(z), "Through"),
    "depth, one time in fifty": (lambda z: z if float(torch.rand(())) < 0.02 else torch.tanh(z), "Through"),
    "dropout of a ten-thousandth": (lambda z: functional.dropout(z, 1e-4, training=True), "Through"),
    "Python's": (lambda z: z * (1 + 1e-9 * random.random()), "Through"),
    "NumPy's": (lambda z: z * (1 + 1e-9 * float(np.random.rand())), "Through"),
    "only where a feature is large": (
        lambda z: z + torch.rand_like(z) if bool((z[:, 0] > 0.4).any()) else z,
        "Through",
    ),
}


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("name", RANDOM)
def test_a_forward_pass_that_draws_is_refused_whatever_it_drew(name: str, seed: int) -> None:
    middle, module = RANDOM[name]
    torch.manual_seed(0)
    model = Through(middle)
    assert bool((model.inner(INPUTS)[:, 0] > 0.4).any())
    torch.manual_seed(seed)
    with pytest.raises(CoupledExamplesError, match=f"^{module} draws random numbers in its forward pass"):
        analyze(model, (INPUTS, LABELS), eigenvalues=0, batch_size=4)


def test_the_first_module_that_draws_is_named() -> None:
    class Noisy(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x + torch.randn_like(x)

    model = nn.Sequential(nn.Linear(6, 6), nn.Sequential(nn.Tanh(), Noisy()), Noisy(), nn.Linear(6, 3))
    with pytest.raises(CoupledExamplesError, match=r"^1\.1 \(Noisy\) draws random numbers"):
        analyze(model, (INPUTS, LABELS), eigenvalues=0)


def test_chance_from_a_generator_of_the_networks_own_is_seen_in_the_outputs() -> None:
    model = Through(lambda z: z + 0.01 * torch.randn(z.shape, generator=OWN))
    with pytest.raises(CoupledExamplesError, match="change from one evaluation to the next"):
        analyze(model, (INPUTS, LABELS), eigenvalues=0)


def test_drawing_outside_of_the_forward_pass_is_no_chance() -> None:
    torch.manual_seed(3)
    before = torch.get_rng_state()
    assert analyze(nn.Linear(6, 3), (INPUTS, LABELS), eigenvalues=1).succeeded == 1
    torch.rand(3)
    assert not torch.equal(before, torch.get_rng_state())
