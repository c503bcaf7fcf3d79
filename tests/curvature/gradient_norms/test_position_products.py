"""Norms and weighted sums of sums of outer products, whatever is formed at once and however positions lie in memory."""

import pytest
import torch
from torch import Tensor

from fisher_cli.curvature.gradient_norms import position_products
from fisher_cli.curvature.gradient_norms.grad_factors import ObservedRows, OuterProducts
from fisher_cli.curvature.gradient_norms.joint_norms import norms_and_sum

DIRECTIONS, EXAMPLES = 3, 5


def positions_first(values: Tensor) -> Tensor:
    """The same values with rows side by side in memory, as linear layers have them."""
    return values.mT.contiguous().mT


@pytest.mark.parametrize("same_direction", [True, False])
@pytest.mark.parametrize("transposed", [False, True])
@pytest.mark.parametrize("turned", [False, True])
@pytest.mark.parametrize("budget", [1, 2**10, 2**22])
@pytest.mark.parametrize(
    ("groups", "rows", "columns", "positions"),
    [(1, 4, 6, 30), (1, 20, 6, 70), (1, 70, 6, 30), (2, 20, 30, 4), (2, 4, 3, 20), (1, 7, 9, 1)],
)
def test_norms_and_sums_are_those_of_the_gradients(
    groups: int,
    rows: int,
    columns: int,
    positions: int,
    budget: int,
    turned: bool,
    transposed: bool,
    same_direction: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(position_products, "GRADIENT_VALUES", budget)
    generator = torch.Generator().manual_seed(0)
    a = torch.randn(EXAMPLES, groups, columns, positions, generator=generator, dtype=torch.float64)
    delta = torch.randn(DIRECTIONS, EXAMPLES, groups, rows, positions, generator=generator, dtype=torch.float64)
    coefficients = torch.zeros(DIRECTIONS, EXAMPLES, dtype=torch.float64)
    chosen = torch.full((EXAMPLES,), 1) if same_direction else torch.tensor([0, 2, 1, 1, 0])
    coefficients[chosen, torch.arange(EXAMPLES)] = torch.tensor([0.5, -2.0, 3.0, 0.25, 7.0]).double()
    gradients = torch.einsum("kbgrl,bgql->kbgrq", delta, a)
    summed = torch.einsum("kb,kbgrq->grq", coefficients, gradients)
    expected = summed.mT if transposed else summed
    one = (
        OuterProducts(positions_first(a), positions_first(delta), transposed)
        if turned
        else OuterProducts(a, delta, transposed)
    )
    observed_rows = ObservedRows.of(coefficients)
    assert observed_rows is not None
    norms, total = norms_and_sum([one], observed_rows, expected.shape)
    torch.testing.assert_close(norms, gradients.square().sum((2, 3, 4)), rtol=1e-12, atol=0)
    torch.testing.assert_close(total, expected, rtol=1e-12, atol=1e-12)
