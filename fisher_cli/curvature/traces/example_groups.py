"""Groups of examples against each other: ranks, AUROC, ratios of means, how few carry most."""

import math

import torch
from torch import Tensor

from fisher_cli.curvature.problem.moments import mean_of
from fisher_cli.results import Concentration, Estimate, Ratio

# Of the normal distribution, 97.5 %.
TWO_SIDED_95 = 1.959963984540054


def midranks(values: Tensor) -> Tensor:
    """The ranks of values (N,), from 1, in float64; equal ones share the mean of their places."""
    _, place, counts = torch.unique(values, return_inverse=True, return_counts=True)
    last = counts.cumsum(0).double()
    ranks: Tensor = (last - (counts.double() - 1) / 2)[place]
    return ranks


def auroc(scores: Tensor, positive: Tensor) -> Estimate | None:
    """P(score of a positive > score of a negative) + ½ P(equal), with DeLong's standard error over examples.

    By Mann–Whitney: (Σ ranks of the positives − n(n + 1)/2)/(n·m), ties at their mean rank. None when one group is
    empty, no error when one has a single member.

    Args:
        scores: (N,).
        positive: (N,) bool, n of them true and m false.

    Source: DeLong, DeLong and Clarke-Pearson 1988 (doi:10.2307/2531595); by ranks as in Sun and Xu 2014
    (doi:10.1109/LSP.2014.2337313).
    """
    scores, positive = scores.double(), positive.bool()
    n, m = int(positive.sum()), int((~positive).sum())
    if not n or not m:
        return None
    ranks = midranks(scores)
    above = (ranks[positive] - midranks(scores[positive])) / m  # the part of the negatives below each positive
    below = 1 - (ranks[~positive] - midranks(scores[~positive])) / n
    error = math.sqrt(float(above.var()) / n + float(below.var()) / m) if n > 1 and m > 1 else None
    return Estimate(float(above.mean()), error)


def ratio_of_groups(numerator: Tensor, denominator: Tensor) -> Ratio | None:
    """R = mean a/mean b of separate groups (n,) and (m,), all terms ≥ 0, with its standard error and interval.

    The relative error is ρ = √(se_a²/ā² + se_b²/b̄²) and the 95 % interval R exp(±1.96 ρ).

    Args:
        numerator: a, (n,).
        denominator: b, (m,).

    Returns:
        The ratio; None when a group has fewer than two members or a mean is not above zero.
    """
    if len(numerator) < 2 or len(denominator) < 2:
        return None
    above, below = mean_of(numerator), mean_of(denominator)
    if not above.value > 0 or not below.value > 0:
        return None
    relative = math.hypot((above.standard_error or 0) / above.value, (below.standard_error or 0) / below.value)
    value, factor = above.value / below.value, math.exp(TWO_SIDED_95 * relative)
    return Ratio(value, value * relative, value / factor, value * factor)


def concentration(terms: Tensor, fraction: float) -> Concentration | None:
    """The part of Σ_n t_n that its ⌈fraction · N⌉ largest terms carry.

    Args:
        terms: t (N,) ≥ 0.
        fraction: of the terms, in (0, 1].

    Returns:
        None for a sum of zero.
    """
    total = float(terms.double().sum())
    if not total > 0:
        return None
    count = math.ceil(fraction * len(terms))
    return Concentration(fraction, count, float(terms.double().topk(count).values.sum()) / total)
