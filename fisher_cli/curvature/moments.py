"""Means and standard errors over examples, accumulated batch by batch without cancellation."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from fisher_cli.curvature.world import World
from fisher_cli.results import Estimate


def _zero() -> Tensor:
    return torch.zeros((), dtype=torch.float64)


@dataclass
class Moments:
    """Count, means and M₂ = Σ (x − mean)² of one or many streams of values, in float64 on the device of the values.

    Merged batch by batch; Σx² − N·mean² would lose everything when the spread is small. Nothing is read back from the
    device before the estimates: a GPU never waits for it.
    Source: Chan, Golub and LeVeque 1983 (doi:10.1080/00031305.1983.10483115).
    """

    count: int = 0
    mean: Tensor = field(default_factory=_zero)
    squares: Tensor = field(default_factory=_zero)
    sampling: Tensor = field(default_factory=_zero)

    def add(self, values: Tensor, variances: Tensor | None = None) -> None:
        """Take in one value per example, (…, B), and the variance that sampling gave each; NaN where it is unknown."""
        if variances is not None:
            self.sampling = self.sampling + variances.double().sum(-1)
        values = values.detach().double()
        mean = values.mean(-1)
        self._merge(values.shape[-1], mean, (values - mean.unsqueeze(-1)).square().sum(-1))

    def _merge(self, count: int, mean: Tensor, squares: Tensor) -> None:
        shift, total = mean - self.mean, self.count + count
        self.squares = self.squares + squares + shift**2 * (self.count * count / total)
        self.mean = self.mean + shift * (count / total)
        self.count = total

    def rows(self) -> list[list[float]]:
        """Means, M₂ and sampling of all streams, read back from the device at once."""
        sampling = self.sampling.to(self.mean.device).expand_as(self.mean)
        rows: list[list[float]] = torch.stack([self.mean, self.squares, sampling]).reshape(3, -1).tolist()
        return rows

    def estimates(self) -> list[Estimate]:
        """One estimate per stream, as `estimate`."""
        return [_estimate(self.count, *stream) for stream in zip(*self.rows(), strict=True)]

    def estimate(self) -> Estimate:
        """The mean of a single stream with its errors."""
        (found,) = self.estimates()
        return found


def _estimate(count: int, mean: float, squares: float, sampling: float) -> Estimate:
    """The mean with √(sd²/N − estimator variance), N − 1 in the sd, and the estimator's own error beside it.

    No error over examples from a single example.
    """
    unknown = math.isnan(sampling)
    variance = 0.0 if unknown else sampling / count**2
    added = None if unknown else math.sqrt(variance)
    if count < 2:
        return Estimate(mean, None, added)
    spread = squares / (count - 1) / count
    return Estimate(mean, math.sqrt(max(0.0, spread - variance)), added)


def over_ranks(moments: Sequence[Moments], world: World) -> list[Moments]:
    """The same streams of all ranks as one, merged in order of the ranks."""
    if world.size == 1:
        return list(moments)
    merged = [Moments() for _ in moments]
    for rank in world.exchange([[each.count, list(each.mean.shape), each.rows()] for each in moments]):
        for whole, (count, shape, rows) in zip(merged, rank, strict=True):
            if count:
                mean, squares, sampling = torch.tensor(rows, dtype=torch.float64).reshape(3, *shape)
                whole.sampling = whole.sampling + sampling
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
