"""The search for overlooked eigenvalues: it misses none, its risk is the stated one, and it costs what it must."""

import itertools
import math
from collections import Counter
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from fisher_cli.curvature.linalg import lanczos
from fisher_cli.curvature.linalg.lanczos import Goal, StopReason, deflation, largest_eigenpairs, ruled_out
from fisher_cli.curvature.linalg.subspace import RitzPairs
from tests.spectra import diagonal_product


def copies(multiplicity: int) -> Tensor:
    """A repeated eigenvalue between a larger one and smaller ones."""
    rest = [0.6 * 0.8**k for k in range(299 - multiplicity)]
    return torch.tensor([2.0] + [1.0] * multiplicity + rest, dtype=torch.float64)


def test_without_the_search_copies_are_overlooked(monkeypatch: pytest.MonkeyPatch) -> None:
    """The control: the first Krylov space contains one copy, and a search that may miss all ends at once."""
    monkeypatch.setattr(lanczos, "SEARCH_RISK", math.inf)
    for seed in range(10):
        found = largest_eigenpairs(diagonal_product(copies(2)), 300, 3, seed=seed)
        assert found.converged
        assert found.values.tolist() == pytest.approx([2.0, 1.0, 0.6], abs=5e-3)


@pytest.mark.parametrize("multiplicity", [2, 8])
def test_no_copy_is_missed_over_a_hundred_seeds(multiplicity: int) -> None:
    """k = multiplicity + 1 at tolerance 1e-3, P = 300; measured means over the hundred seeds:

    | multiplicity | products | of them after the first convergence | for the residuals |
    |---|---|---|---|
    | 2 | 22.5 | 8.6 | 3 |
    | 8 | 52.6 | 25.3 | 9 |
    """
    diagonal, spent = copies(multiplicity), Counter[str]()
    for seed in range(100):
        found = largest_eigenpairs(diagonal_product(diagonal), 300, multiplicity + 1, seed=seed, maximum_products=1000)
        assert found.converged
        assert found.values.tolist() == pytest.approx([2.0] + [1.0] * multiplicity, abs=2e-3)
        spent.update(products=found.products, searched=found.searched)
    print(f"multiplicity {multiplicity}: {spent['products'] / 100} products, {spent['searched'] / 100} after the first")


def test_the_risk_of_the_search_is_as_stated(monkeypatch: pytest.MonkeyPatch) -> None:
    """A second copy of the top eigenvalue just above the threshold and nothing else is the worst case.

    The search overlooks it with the probability that the bound allows, neither more nor much less.
    """
    monkeypatch.setattr(lanczos, "SEARCH_RISK", 0.2)
    diagonal = torch.cat([torch.tensor([1.0, 1.0, 0.99]), torch.zeros(97)]).double()
    missed = 0
    for seed in range(400):
        found = largest_eigenpairs(diagonal_product(diagonal), 100, 2, seed=seed)
        missed += bool(found.values[1] < 0.995)
    assert missed / 400 == pytest.approx(0.2, abs=3 * math.sqrt(0.2 * 0.8 / 400))


@pytest.mark.parametrize("seed", range(10))
def test_the_level_of_the_search_is_exactly_what_the_residuals_allow(seed: int) -> None:
    """Ritz pairs whose residuals point in one direction, of height b: the largest eigenvalue of that arrow is τ."""
    generator = torch.Generator().manual_seed(seed)
    values = torch.rand(12, generator=generator, dtype=torch.float64).sort(descending=True).values
    bounds = 0.05 * torch.rand(12, generator=generator, dtype=torch.float64) * (values[2] - values).abs()
    ritz = RitzPairs(values, torch.eye(12).double(), bounds, bounds)
    goal = Goal(3, 0.1, 100, None, None)
    aside, level = deflation(ritz, goal)
    others = aside[3:]
    assert aside[:3].tolist() == [0, 1, 2]
    assert len(others) > 0
    arrow = torch.diag(torch.nn.functional.pad(values[others], (0, 1), value=level))
    arrow[-1, :-1] = arrow[:-1, -1] = bounds[others]
    assert float(torch.linalg.eigvalsh(arrow)[-1]) == pytest.approx(goal.threshold(ritz), rel=1e-12)


@pytest.mark.parametrize("known", ["trace", "squared_norm"])
def test_a_trace_rules_nothing_out_that_residuals_still_allow(known: str) -> None:
    """The same arrow: with its own trace or norm nothing above τ is possible up to b, and possible above."""
    values, bound = torch.tensor([1.0, 0.4], dtype=torch.float64), 0.1
    bounds = torch.tensor([0.0, bound], dtype=torch.float64)
    ritz = RitzPairs(values, torch.eye(2).double(), bounds, bounds)
    power = 1 if known == "trace" else 2
    for share, scale in itertools.product((0.99, 1.01), (1.0, 64.0)):
        goal = Goal(1, 0.1, 100, None, None)
        level = goal.threshold(ritz) - bound**2 / (goal.threshold(ritz) - 0.4)
        known_value = (float(values.pow(power).sum()) + (share * level) ** power) * scale**power
        goal = replace(goal, **{known: known_value})  # type: ignore[arg-type]
        assert ruled_out(ritz, goal, scale) == (share < 1)


@pytest.mark.parametrize("seed", range(3))
def test_a_second_copy_behind_a_dense_bulk_is_found(seed: int) -> None:
    spectrum = [1, 0.5, 0.3, 0.2, 0.105, 0.105] + [0.1] * 1000 + torch.linspace(0.09, 0, 4000).tolist()
    product = diagonal_product(torch.tensor(spectrum).double())
    found = largest_eigenpairs(product, len(spectrum), 6, seed=seed, maximum_products=1000)
    assert found.converged
    assert found.values.tolist() == pytest.approx(spectrum[:6], abs=1.5e-3)


DECAYING = torch.tensor([0.7**k for k in range(1000)], dtype=torch.float64)


@pytest.mark.parametrize("known", ["trace", "squared_norm"])
def test_a_known_trace_or_norm_can_save_the_search(known: str) -> None:
    value = float(DECAYING.sum() if known == "trace" else DECAYING.square().sum())
    plain = largest_eigenpairs(diagonal_product(DECAYING), 1000, 3)
    informed = largest_eigenpairs(diagonal_product(DECAYING), 1000, 3, **{known: value})  # type: ignore[arg-type]
    assert plain.searched > 0
    assert informed.searched == 0
    assert informed.converged
    assert torch.allclose(informed.values, plain.values, rtol=1e-6)


@pytest.mark.parametrize("scale", [1e-20, 1.0, 1e20])
@pytest.mark.parametrize("known", ["trace", "squared_norm"])
def test_a_known_trace_or_norm_hides_no_copy(known: str, scale: float) -> None:
    """The search is saved only where nothing can be there; a trace that is too small is not believed."""
    diagonal = torch.cat([torch.tensor([1.0, 1.0, 0.5]), 0.1 * DECAYING]).double() * scale
    power = 1 if known == "trace" else 2
    truth = float(diagonal.pow(power).sum())
    for value in (truth, 1.5 * truth, 0.1 * truth):
        found = largest_eigenpairs(diagonal_product(diagonal), 1003, 2, **{known: value})  # type: ignore[arg-type]
        assert found.converged
        assert found.values.tolist() == pytest.approx([scale, scale])


def test_a_search_that_ran_out_of_products_is_said_to() -> None:
    """Whatever the budget, a result that is called converged is right, and some budgets end during the search."""
    spectrum = torch.tensor([10.0] * 4 + torch.linspace(9.5, 0, 196).tolist()).double()
    statuses = set()
    for budget in (20, 40, 50, 60, 70, 80, 100, 130, 400):
        found = largest_eigenpairs(diagonal_product(spectrum), 200, 5, maximum_products=budget)
        statuses.add(found.status)
        if found.converged:
            assert found.values.tolist() == pytest.approx([10.0] * 4 + [9.5], abs=0.02)
        if found.status is StopReason.SEARCH_INCOMPLETE:
            assert found.note == "products ran out before larger eigenvalues were ruled out"
    assert statuses == set(StopReason)
