"""Means and standard errors over examples, accumulated batch by batch without cancellation."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from fisher_cli.curvature.problem.process_group import ProcessGroup
from fisher_cli.results import Estimate


def _zero() -> Tensor:
    return torch.zeros((), dtype=torch.float64)


@dataclass
class Moments:
    """Count, means and M₂ = Σ (x − mean)² of one or many streams of values, in float64 on the device of the values.

    Merged batch by batch; Σx² − N·mean² would lose everything when the spread is small. Nothing is read back from the
    device before the estimates: a GPU never waits for it.

    Attributes:
        count: N, values per stream.
        mean: of each stream, (…).
        squares: M₂ of each stream, (…).
        sampling: the summed variances that sampling gave the values, (statements, …); zero where there are none.

    Source: Chan, Golub and LeVeque 1983 (doi:10.1080/00031305.1983.10483115).
    """

    count: int = 0
    mean: Tensor = field(default_factory=_zero)
    squares: Tensor = field(default_factory=_zero)
    sampling: Tensor = field(default_factory=_zero)

    def add(self, values: Tensor, *variances: Tensor) -> None:
        """Take in one value per example, (…, B), and the variance that sampling gave each.

        Args:
            values: the last dimension runs over examples, those before it over streams.
            variances: several statements of that variance, each (…, B) and always as many: the one with the largest sum
                holds.
        """
        if variances:
            self.sampling = self.sampling + torch.stack(variances).double().sum(-1)
        values = values.detach().double()
        mean = values.mean(-1)
        self._merge(values.shape[-1], mean, (values - mean.unsqueeze(-1)).square().sum(-1))

    def _merge(self, count: int, mean: Tensor, squares: Tensor) -> None:
        shift, total = mean - self.mean, self.count + count
        self.squares = self.squares + squares + shift**2 * (self.count * count / total)
        self.mean = self.mean + shift * (count / total)
        self.count = total

    def rows(self) -> list[list[float]]:
        """Means, M₂ and every statement of the sampling variance, a row over all streams each, read back at once."""
        found = self.sampling.to(self.mean.device)
        statements = found if found.dim() > self.mean.dim() else torch.zeros_like(self.mean).unsqueeze(0)
        rows: list[list[float]] = (
            torch.cat([torch.stack([self.mean, self.squares]), statements]).reshape(2 + len(statements), -1).tolist()
        )
        return rows

    def estimates(self) -> list[Estimate]:
        """The mean of each stream, flattened, with its errors √(M₂/(N(N − 1)) − V/N²) and √V/N.

        V is the largest sum of sampling variances. The first error is None for a single example and where V hides it.
        """
        return [_estimate(self.count, *stream) for stream in zip(*self.rows(), strict=True)]

    def estimate(self) -> Estimate:
        """The mean of a single stream with its errors."""
        (found,) = self.estimates()
        return found

    def hidden_error(self) -> float:
        """√(V_max − V_1)/N of a single stream, V its summed sampling variances: the error that the first one hides."""
        _, _, *statements = (row[0] for row in self.rows())
        return math.sqrt(max(statements) - statements[0]) / self.count


def _estimate(count: int, mean: float, squares: float, *statements: float) -> Estimate:
    """The mean with √(sd²/N − estimator variance), N − 1 in the sd, and the estimator's own error beside it.

    No error over examples from a single example, nor where what sampling adds hides it.
    """
    variance = max(statements) / count**2
    added = math.sqrt(variance)
    if count < 2:
        return Estimate(mean, None, added)
    own = squares / (count - 1) / count - variance
    hidden = own <= 0 < variance
    return Estimate(mean, None if hidden else math.sqrt(max(0.0, own)), added)


def over_ranks(moments: Sequence[Moments], process_group: ProcessGroup) -> list[Moments]:
    """The same streams of all ranks as one, merged in order of the ranks; collective.

    Args:
        moments: this rank's, the same number on every rank; those without a value count as nothing.
        process_group: the ranks.
    """
    if process_group.size == 1:
        return list(moments)
    merged = [Moments() for _ in moments]
    for rank in process_group.exchange([[each.count, list(each.mean.shape), each.rows()] for each in moments]):
        for whole, (count, shape, rows) in zip(merged, rank, strict=True):
            if count:
                mean, squares, *sampling = torch.tensor(rows, dtype=torch.float64).reshape(len(rows), *shape)
                whole.sampling = whole.sampling + torch.stack(sampling)
                whole._merge(count, mean, squares)
    return merged


def root_sum_of_squares(*errors: float | None) -> float | None:
    """√(a² + b² + …) of independent errors, None if one of them is not known."""
    known = [error for error in errors if error is not None]
    return math.hypot(*known) if len(known) == len(errors) else None


def mean_of(values: Tensor) -> Estimate:
    """The mean of values (N,) with its standard error sd/√N, N − 1 in the sd; None in place of it for one value."""
    moments = Moments()
    moments.add(values)
    return moments.estimate()


def ratio_of_means(
    numerator: Tensor, denominator: Tensor, terms: Tensor | None = None, added: float = 0.0
) -> Estimate | None:
    """R = mean a / mean b over the same examples, with the delta-method error sd(a − R b) / (√N · mean b).

    None when mean b is zero.

    Args:
        numerator: a, (N,).
        denominator: b, (N,).
        terms: what stands for b in the error, (N,), where b is drawn and its spread misses what is rare; default b.
        added: the error of mean b that is then added in quadrature, R · added / mean b.
    """
    below = float(denominator.double().mean())
    if below == 0:
        return None
    ratio = float(numerator.double().mean()) / below
    residual = (numerator.double() - ratio * (denominator if terms is None else terms).double()) / below
    error = mean_of(residual).standard_error
    return Estimate(ratio, None if error is None else math.hypot(error, ratio * added / below))


def as_floats(values: Tensor) -> tuple[float, ...]:
    """Values (N,) as Python floats."""
    return tuple(torch.as_tensor(values).double().cpu().tolist())
