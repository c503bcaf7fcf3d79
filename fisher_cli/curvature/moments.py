"""Means and standard errors over examples, accumulated batch by batch without cancellation."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from fisher_cli.curvature.world import World
from fisher_cli.results import Estimate


@dataclass
class Moments:
    """Count, mean and M₂ = Σ (x − mean)² of a stream of values, in float64.

    Merged batch by batch; Σx² − N·mean² would lose everything when the spread is small.
    Source: Chan, Golub and LeVeque 1983 (doi:10.1080/00031305.1983.10483115).
    """

    count: int = 0
    mean: float = 0.0
    squares: float = 0.0
    sampling: float = 0.0

    def add(self, values: Tensor, variances: Tensor | None = None) -> None:
        """Take in one value per example, (B,), and the variance that sampling gave each; NaN where that is unknown."""
        if variances is not None:
            self.sampling += float(variances.double().sum())
        values = values.detach().double()
        mean = float(values.mean())
        self._merge(len(values), mean, float((values - mean).square().sum()))

    def _merge(self, count: int, mean: float, squares: float) -> None:
        shift, total = mean - self.mean, self.count + count
        self.squares += squares + shift**2 * self.count * count / total
        self.mean += shift * count / total
        self.count = total

    def estimate(self) -> Estimate:
        """The mean with √(sd²/N − estimator variance), N − 1 in the sd, and the estimator's own error beside it.

        No error over examples from a single example.
        """
        unknown = math.isnan(self.sampling)
        variance = 0.0 if unknown else self.sampling / self.count**2
        added = None if unknown else math.sqrt(variance)
        if self.count < 2:
            return Estimate(self.mean, None, added)
        spread = self.squares / (self.count - 1) / self.count
        return Estimate(self.mean, math.sqrt(max(0.0, spread - variance)), added)


def over_ranks(moments: Sequence[Moments], world: World) -> list[Moments]:
    """The same streams of all ranks as one, merged in order of the ranks."""
    mine = [[each.count, each.mean, each.squares, each.sampling] for each in moments]
    if world.size == 1:
        return list(moments)
    merged = [Moments() for _ in moments]
    for rank in world.exchange(mine):
        for whole, (count, mean, squares, sampling) in zip(merged, rank, strict=True):
            whole.sampling += sampling
            if count:
                whole._merge(count, mean, squares)
    return merged


def mean_of(values: Tensor) -> Estimate:
    """The mean of values (N,) with its standard error."""
    moments = Moments()
    moments.add(values)
    return moments.estimate()


def ratio_of_means(numerator: Tensor, denominator: Tensor) -> Estimate | None:
    """R = mean a / mean b over the same examples, with the delta-method error sd(a − R b) / (√N · mean b).

    None when mean b is zero.
    """
    below = float(denominator.double().mean())
    if below == 0:
        return None
    ratio = float(numerator.double().mean()) / below
    residual = (numerator.double() - ratio * denominator.double()) / below
    return Estimate(ratio, mean_of(residual).standard_error)


def as_floats(values: Tensor) -> tuple[float, ...]:
    """Values (N,) as Python floats."""
    return tuple(torch.as_tensor(values).double().cpu().tolist())
