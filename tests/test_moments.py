"""Means and errors over examples, from streams whose moments are known."""

import math

import pytest
import torch
from torch import Tensor

from fisher_cli.curvature.moments import Moments, mean_of, ratio_of_means


def streamed(values: Tensor, sizes: list[int], variances: Tensor | None = None) -> Moments:
    """The moments of values that came in batches of these sizes."""
    moments, start = Moments(), 0
    for size in sizes:
        some = slice(start, start + size)
        moments.add(values[some], None if variances is None else variances[some])
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
    assert noisier.standard_error == 0.0  # never the root of a negative number
    unknown = streamed(values, [3, 1], torch.tensor([0.5, math.nan, 1.5, 1.0])).estimate()
    assert unknown.estimator_error is None
    assert unknown.standard_error == pytest.approx(math.sqrt(14 / 3 / 4), rel=1e-15)


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
