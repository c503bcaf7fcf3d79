"""Runs of one network on the same examples → where their true traces differ, with errors and corrected significance."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations

from fisher_cli.results import Estimate, Measurement
from fisher_cli.tables.trajectory import difference_error, networks, point_of, trajectory_of

# The chance, over all comparisons together, that one is called clear where nothing differs.
LEVEL = 0.05


@dataclass(frozen=True)
class RunDifference:
    """The true trace of one run minus that of another, at one place of both.

    Attributes:
        run_a: the name of the first.
        run_b: the name of the other.
        at: `step`, `peak` or `end`.
        step_a: the training step of the first run's row.
        step_b: that of the other's.
        trace_a: tr F of the first, in 1/weight².
        trace_b: tr F of the other.
        difference: trace_a minus trace_b, with its standard error; None where that is not known.
        pairing: `paired` by example, or `independent` where the terms of the examples are not kept: the error is then
            that of two samples, which is too large where both runs saw the same examples.
        examples: N.
        p: two-sided, of a normal difference; None without an error.
        p_holm: the same, corrected for all comparisons that were made together.
    """

    run_a: str
    run_b: str
    at: str
    step_a: int | None
    step_b: int | None
    trace_a: Estimate
    trace_b: Estimate
    difference: Estimate
    pairing: str
    examples: int | None
    p: float | None
    p_holm: float | None = None

    @property
    def is_clear(self) -> bool:
        """Whether the traces differ at the level of all comparisons together."""
        return self.p_holm is not None and self.p_holm < LEVEL


def compare_runs(runs: Mapping[str, Sequence[Measurement]]) -> list[RunDifference]:
    """Compare the true traces of all pairs of runs at equal steps, at their peaks and at their ends.

    Runs of different networks are not compared, nor are rows that are doubted.

    Args:
        runs: the rows of each run by its name, in order of training, all of the same examples.

    Returns:
        The comparisons, pair by pair, with p-values corrected over all of them.

    Source: Holm 1979 (Scandinavian Journal of Statistics 6, 65–70) for the correction.
    """
    known = [(name, rows, networks(rows)) for name, rows in runs.items() if trajectory_of(rows) is not None]
    found = [
        each
        for (name_a, rows_a, network_a), (name_b, rows_b, network_b) in combinations(known, 2)
        if network_a == network_b and _parameters(rows_a) == _parameters(rows_b)
        for each in _compared(name_a, rows_a, name_b, rows_b)
    ]
    corrected = holm([each.p for each in found])
    return [replace(each, p_holm=p) for each, p in zip(found, corrected, strict=True)]


def holm(values: Sequence[float | None]) -> list[float | None]:
    """p-values corrected by Holm's step-down method: p₍ᵢ₎(m − i + 1), never below that of a smaller p; None stays.

    Args:
        values: p-values.
    """
    known = sorted((p, i) for i, p in enumerate(values) if p is not None)
    corrected: list[float | None] = [None] * len(values)
    least = 0.0
    for rank, (p, i) in enumerate(known):
        least = max(least, min(1.0, p * (len(known) - rank)))
        corrected[i] = least
    return corrected


def _parameters(rows: Sequence[Measurement]) -> set[int | None]:
    return {each.parameters for each in rows if each.trace is not None}


def _compared(
    name_a: str, rows_a: Sequence[Measurement], name_b: str, rows_b: Sequence[Measurement]
) -> Iterator[RunDifference]:
    """The comparisons of two runs.

    Yields:
        Those at equal steps, then at the peaks, then at the ends.
    """
    by_step_a, by_step_b = (_by_step(rows) for rows in (rows_a, rows_b))
    for step in sorted(by_step_a.keys() & by_step_b.keys()):
        yield _difference(name_a, by_step_a[step], name_b, by_step_b[step], "step")
    a, b = trajectory_of(rows_a), trajectory_of(rows_b)
    if a is not None and b is not None:
        yield _difference(name_a, rows_a[a.peak], name_b, rows_b[b.peak], "peak")
        yield _difference(name_a, rows_a[a.last], name_b, rows_b[b.last], "end")


def _by_step(rows: Sequence[Measurement]) -> dict[int, Measurement]:
    """The rows whose step is known, and whose trace counts."""
    counted = (each for each in rows if (point := point_of(each)) is not None and math.isfinite(point.value))
    return {each.step: each for each in counted if each.step is not None}


def _difference(name_a: str, a: Measurement, name_b: str, b: Measurement, at: str) -> RunDifference:
    one, other = point_of(a), point_of(b)
    assert one is not None
    assert other is not None
    assert a.trace is not None
    assert b.trace is not None
    error, difference = difference_error(one, other), one.value - other.value
    p = None
    if error is not None:
        p = math.erfc(abs(difference) / error / math.sqrt(2)) if error > 0 else float(difference == 0)
    is_paired = len(one.terms) == len(other.terms) and len(one.terms) > 1
    return RunDifference(
        run_a=name_a,
        run_b=name_b,
        at=at,
        step_a=a.step,
        step_b=b.step,
        trace_a=a.trace.true,
        trace_b=b.trace.true,
        difference=Estimate(difference, error),
        pairing="paired" if is_paired else "independent",
        examples=a.examples,
        p=p,
    )
