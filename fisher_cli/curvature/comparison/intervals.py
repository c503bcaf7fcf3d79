"""Intervals for means and ratios of means over examples, and when they may be called 95 % intervals."""

import math

import torch
from torch import Tensor

from fisher_cli.results import Interval

# Resamplings: 1,000 know the ends of a 95 % interval to a twentieth of its length.
REPLICATES = 1000
COVERAGE = 0.95
# Fewer carriers than these, in the sample or by the model's own account, and the interval covers too rarely: measured
# in tests/curvature/comparison/test_interval_coverage.py.
SAMPLE_CARRIERS, MODEL_CARRIERS = 20, 30
# Entries of the resampling weights held at once.
HELD = 2**23


def carriers(influence: Tensor) -> float:
    """(Σ_n |u_n|)²/Σ_n u_n², from 1 to N: how many examples carry a mean of terms u; NaN if all are zero."""
    squares = float(influence.double().square().sum())
    return float(influence.double().abs().sum()) ** 2 / squares if squares > 0 else math.nan


def ratio_interval(
    numerator: Tensor,
    denominator: Tensor,
    *,
    model_carriers: float = math.inf,
    replicates: int = REPLICATES,
    seed: int = 0,
) -> Interval | None:
    """r − q_{97.5 %} s … r − q_{2.5 %} s for r = mean a/mean b, s its delta error, q quantiles of (r* − r)/s*.

    The studentised bootstrap over examples: r*, s* of as many examples drawn with replacement. It is called a 95 %
    interval where the influences u = (a − r b)/mean b have at least 20 carriers and the model itself, knowing which
    labels are possible, does not expect fewer than 30: of confident networks one example in a thousand may carry a
    third of a trace, and a sample without it looks harmless.

    Args:
        numerator: a, (N,).
        denominator: b, (N,) ≥ 0; ones for a mean.
        model_carriers: how many carriers labels drawn from the model would leave, see
            `null_distribution.NullDistribution`.
        replicates: resamplings.
        seed: of the resampling, on the CPU.

    Returns:
        None for fewer than two examples, where mean b is zero, or where all influences are.

    Source: Efron and Tibshirani 1993, An Introduction to the Bootstrap, section 12.5; Hall 1988
    (doi:10.1214/aos/1176350933).
    """
    a, b = numerator.double().cpu(), denominator.double().cpu()
    if len(a) < 2 or not float(b.mean()) > 0:
        return None
    ratio, error = (float(each) for each in _studentised(torch.stack([a, b, a * a, a * b, b * b]).mean(1), len(a)))
    found = carriers(a - ratio * b)
    if math.isnan(found) or not error > 0:
        return None
    values, errors = _resampled(a, b, replicates, seed)
    usable = errors > 0
    pivots = (values[usable] - ratio) / errors[usable]
    if not len(pivots):
        return None
    # The order statistic number (B + 1) q of B pivots; the plain quantile is too near the middle.
    tail = max(0.0, ((len(pivots) + 1) * (1 - COVERAGE) / 2 - 1) / max(1, len(pivots) - 1))
    low, high = torch.quantile(pivots, torch.tensor([tail, 1 - tail], dtype=torch.float64)).tolist()
    trusted = found >= SAMPLE_CARRIERS and model_carriers >= MODEL_CARRIERS
    return Interval(ratio - high * error, ratio - low * error, trusted)


def mean_interval(
    values: Tensor, *, model_carriers: float = math.inf, replicates: int = REPLICATES, seed: int = 0
) -> Interval | None:
    """The interval of `ratio_interval` for the mean of values (N,)."""
    ones = torch.ones(len(values), dtype=torch.float64)
    return ratio_interval(values, ones, model_carriers=model_carriers, replicates=replicates, seed=seed)


def _studentised(means: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """r and its delta-method error from means of a, b, a², ab, b², (5, …)."""
    a, b, aa, ab, bb = means
    ratio = a / b
    variance = aa - 2 * ratio * ab + ratio**2 * bb
    return ratio, (variance.clamp_min(0) / (count - 1)).sqrt() / b


def _resampled(a: Tensor, b: Tensor, replicates: int, seed: int) -> tuple[Tensor, Tensor]:
    """r* and s* of every resampling, (replicates,) each."""
    count = len(a)
    terms = torch.stack([a, b, a * a, a * b, b * b], 1)
    generator = torch.Generator().manual_seed(seed)
    means, each = [], max(1, HELD // count)
    for start in range(0, replicates, each):
        number = min(each, replicates - start)
        drawn = torch.randint(count, (number, count), generator=generator)
        weights = torch.zeros(number, count, dtype=torch.float64)
        weights.scatter_add_(1, drawn, torch.ones_like(weights))
        means.append(weights @ terms / count)
    return _studentised(torch.cat(means).T, count)
