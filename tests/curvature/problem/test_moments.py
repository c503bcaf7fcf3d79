"""Means and errors over examples, from streams whose moments are known."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from fisher_cli.curvature.problem.moments import Moments, mean_of, over_ranks, ratio_of_means, root_sum_of_squares
from fisher_cli.curvature.problem.process_group import ProcessGroup


def streamed(values: Tensor, sizes: list[int], *variances: Tensor) -> Moments:
    """The moments of values that came in batches of these sizes."""
    moments, start = Moments(), 0
    for size in sizes:
        some = slice(start, start + size)
        moments.add(values[some], *(each[some] for each in variances))
        start += size
    return moments


@pytest.mark.parametrize("sizes", [[5], [4, 1], [1, 4], [2, 2, 1], [1] * 5])
def test_mean_and_error_do_not_depend_on_how_the_values_come_in(sizes: list[int]) -> None:
    found = streamed(torch.tensor([1.0, 2.0, 4.0, 8.0, 15.0]), sizes).estimate()
    assert found.value == pytest.approx(6.0, rel=1e-15)
    assert found.standard_error == pytest.approx(math.sqrt(130 / 4 / 5), rel=1e-15)  # Σ(x − 6)² = 130
    assert found.estimator_error == 0.0


def test_a_small_spread_beside_a_large_mean_keeps_its_digits() -> None:
    """Σx² − N·mean² would be all rounding here."""
    found = streamed(1e9 + torch.tensor([0.0, 0.25, 0.5, 0.75] * 50).double(), [64, 64, 64, 8]).estimate()
    assert found.value == pytest.approx(1e9 + 0.375, rel=1e-15)
    assert found.standard_error == pytest.approx(math.sqrt(0.078125 / 199), rel=1e-9)


def test_what_sampling_added_is_reported_apart_and_taken_out_of_the_error_over_examples() -> None:
    values, variances = torch.tensor([1.0, 2.0, 3.0, 6.0]), torch.tensor([0.5, 1.0, 1.5, 1.0])
    found = streamed(values, [3, 1], variances).estimate()
    own = 4.0 / 4**2  # Σ variances / N²
    assert found.estimator_error == pytest.approx(math.sqrt(own), rel=1e-15)
    assert found.standard_error == pytest.approx(math.sqrt(14 / 3 / 4 - own), rel=1e-15)
    noisier = streamed(values, [3, 1], 100 * variances).estimate()
    assert noisier.standard_error is None  # hidden, and neither zero nor the root of a negative number
    equal = streamed(torch.ones(4), [3, 1]).estimate()
    assert (equal.standard_error, equal.estimator_error) == (0.0, 0.0)


def test_of_several_statements_the_one_with_the_largest_sum_holds_on_all_ranks_together() -> None:
    """Of two ranks the first statement is the larger on one and the second on the other; by stream, over all."""

    class Two(ProcessGroup):
        @property
        def size(self) -> int:
            return 2

        def exchange(self, value: Any) -> list[Any]:
            return [value, [[4, [2], [[0.0] * 2, [9.0] * 2, [0.0, 5.0], [8.0, 0.0]]]]]

    ours = Moments()
    ours.add(torch.tensor([[1.0, 2.0], [3.0, 5.0]]), torch.tensor([[3.0, 3.0], [0.5, 0.5]]), torch.ones(2, 2))
    assert [each.estimator_error for each in ours.estimates()] == [math.sqrt(6) / 2, math.sqrt(2) / 2]
    (both,) = over_ranks([ours], Two())
    # (6, 1) + (0, 5) of the first statement, (2, 2) + (8, 0) of the second.
    assert [each.estimator_error for each in both.estimates()] == pytest.approx([10**0.5 / 6, 6**0.5 / 6], rel=1e-15)


def test_what_the_first_statement_lacks_is_told_apart() -> None:
    found = streamed(torch.tensor([1.0, 2.0]), [1, 1], torch.tensor([1.0, 2.0]), torch.tensor([5.0, 14.0]))
    assert found.hidden_error() == pytest.approx(math.sqrt(16) / 2, rel=1e-15)
    assert streamed(torch.tensor([1.0, 2.0]), [2], torch.tensor([1.0, 2.0])).hidden_error() == 0
    assert streamed(torch.tensor([1.0, 2.0]), [2]).hidden_error() == 0


def test_errors_add_in_squares_where_all_are_known() -> None:
    assert root_sum_of_squares(3.0, 0.0, 4.0) == 5
    assert root_sum_of_squares(3.0, None) is None


def test_one_value_has_no_error() -> None:
    assert mean_of(torch.tensor([3.0])).standard_error is None


def test_the_error_of_a_ratio_knows_what_its_parts_have_in_common() -> None:
    below = torch.tensor([1.0, 2.0, 3.0, 6.0])
    proportional = ratio_of_means(2 * below, below)
    assert proportional is not None
    assert (proportional.value, proportional.standard_error) == (2.0, 0.0)
    found = ratio_of_means(torch.tensor([4.0, 2.0, 3.0, 3.0]), below)
    assert found is not None
    assert found.value == 1.0
    assert found.standard_error == pytest.approx(math.sqrt(18 / 3 / 4) / 3, rel=1e-15)  # residuals 3, 0, 0, −3
    assert ratio_of_means(below, torch.zeros(4)) is None
    drawn = ratio_of_means(torch.tensor([4.0, 2.0, 3.0, 3.0]), below, 2 * below, 6.0)
    assert drawn is not None
    # Residuals a − 2 b of 2, −2, −3, −9 about −3, over three; the mean of b is off by twice itself.
    assert drawn.standard_error == pytest.approx(math.hypot(math.sqrt(62 / 3 / 4) / 3, 2), rel=1e-15)
