"""A sequence of values with their errors → its peak, its shape and its phases; steps → the length of the path.

The information in the weights is low early, high while the network fits or memorises, and low when it has converged
(Achille, Rovere and Soatto 2019, arXiv:1711.08856): a bell. Whether a run shows one is decided by the differences
between its checkpoints, measured on the same examples, and not by the eye.
"""

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from itertools import pairwise
from typing import NamedTuple

import numpy as np

from fisher_cli.results import Measurement

# A maximum is picked from many noisy values, so two standard errors would be too few.
CLEAR = 3.0
# A rise or a fall by less than this share of the peak is no phase, however clear it is.
MATERIAL = 0.1
# The loss of a converged network is at most this share of that of guessing: McFadden's pseudo-R² 1 − ℓ/ℓ₀ is at least
# 0.9 (McFadden 1974, Conditional logit analysis of qualitative choice behavior, section 3).
CONVERGED = 0.1
# Where `low early` ends and `high` begins on the way up, as shares of the way from the first value to the peak …
RISING_FROM, RISING_TO = 0.25, 0.75
# … and where `high` ends and `low` begins on the way down, as shares of the peak itself: what a row is
# called must not depend on when the run was stopped.
FALLING_FROM, FALLING_TO = 0.75, 0.5

# The smallest error beside another that still counts, so that its inverse square is a number.
_LEAST = 1e-150


class Phase(StrEnum):
    """What part of a run a checkpoint belongs to."""

    LOW_EARLY = "low early"
    RISING = "rising"
    HIGH = "high"
    FALLING = "falling"
    LOW = "low"
    CONVERGED = "low, converged"


class Shape(StrEnum):
    """What a whole run looks like."""

    BELL = "bell"  # it rises to the peak and falls from it
    RISING = "rising"  # the last value is clearly the largest
    RISEN = "risen"  # it rose, and has not clearly fallen by the last
    FALLING = "falling"  # it does not clearly rise above the first value, and falls
    LEVEL = "level"  # neither a rise nor a fall is clear


@dataclass(frozen=True)
class Point:
    """One value of the sequence, with what tells it from the others.

    Attributes:
        value: such as a trace.
        error: its standard error; None if it is not known.
        terms: one per example, whose mean it is, which pair it with the others; () where they are not known.
        position: where it stands, such as the training step; None if that is not known.
        hidden: a part of the error that the spread of the terms does not show.
        loss: the network's loss over that of guessing; None if it is not known.
    """

    value: float
    error: float | None = None
    terms: tuple[float, ...] = ()
    position: float | None = None
    hidden: float = 0.0
    loss: float | None = None


@dataclass(frozen=True)
class Trajectory:
    """What a sequence of values shows; indices are those of the sequence, places without a value included.

    Attributes:
        shape: of the whole.
        peak: the index of the largest value.
        first: the index of the first value.
        last: the index of the last value.
        rivals: the indices of all values that cannot be told from the peak, with its own.
        fit: the least-squares unimodal sequence, None where there is no value; it is largest at one of the rivals, or
            next to it.
        phases: None where there is no value, and everywhere in a run whose values are level.
        remaining: the last value over the largest, with its paired standard error, None if that is not known.
        dip: the two indices between which the largest clear and material fall before the peak lies; None without one.
        rebound: likewise of a rise after the peak.
        is_skewed: whether it is a bell whose fall to half of the peak takes at least twice as long as its rise from
            half-way.
    """

    shape: Shape
    peak: int
    first: int
    last: int
    rivals: tuple[int, ...]
    fit: tuple[float | None, ...]
    phases: tuple[Phase | None, ...]
    remaining: tuple[float, float | None]
    dip: tuple[int, int] | None
    rebound: tuple[int, int] | None
    is_skewed: bool


def is_clear(larger: Point, smaller: Point) -> bool:
    """Whether one value exceeds another by more than three standard errors of their difference; never if unknown.

    The error is that of the mean of per-example differences where both values have terms for the same number of
    examples, else the errors combined as if the values came from different examples, which overstates it.
    """
    error = difference_error(larger, smaller)
    return error is not None and larger.value - smaller.value > CLEAR * error


def difference_error(one: Point, other: Point) -> float | None:
    """The standard error of the difference of two values, paired if it can be; None if it is not known."""
    if len(one.terms) == len(other.terms) and len(one.terms) > 1:
        return math.hypot(_mean_error(np.subtract(one.terms, other.terms)), one.hidden, other.hidden)
    if one.error is None or other.error is None:
        return None
    return math.hypot(one.error, other.error)


def trajectory(points: Sequence[Point | None]) -> Trajectory | None:
    """The peak, shape and phases of a sequence; None stands for a missing value. None if there is no value at all.

    A run rises if the value at the mode m of the fit, mostly the peak itself, is clearly above the first value, and
    falls if it is clearly above the last, in both cases by at least a tenth of the peak; from these two follows the
    shape. A single value is level.

    Phases are read off the fit f and its height f_m, not off the noisy values. Before m, in a run that rises: `low
    early` up to a quarter of the way from f_first to f_m, `rising` up to three quarters, then `high`; in one that does
    not rise: `high`. From m on: `high` down to three quarters of f_m, then `falling`. Below one
    half of f_m those values are `low, converged` from which on every loss is at most a tenth of that of guessing. Of
    the others there those are `low` that the last is no further below than a tenth of f_m, where that is not the last
    alone: a fall that has not ended is `falling`.
    A level run has no phases, nor has a place without a value.
    """
    known = [(i, point) for i, point in enumerate(points) if point is not None and math.isfinite(point.value)]
    if not known:
        return None
    places, present = [i for i, _ in known], [point for _, point in known]
    top = max(range(len(present)), key=lambda i: present[i].value)
    peak, first, last = present[top], present[0], present[-1]
    rivals = [i for i, point in enumerate(present) if i == top or not is_clear(peak, point)]
    fit, mode = unimodal([point.value for point in present], _weights(present), rivals)
    rises, falls = _is_material(present[mode], first, peak), _is_material(present[mode], last, peak)
    shape = _shape(rises, falls, is_last=peak is last and is_clear(last, present[max(0, len(present) - 2)]))
    phases = [None] * len(fit) if shape is Shape.LEVEL else _phases(present, fit, mode, rises=rises)

    fits, names = dict(zip(places, fit, strict=True)), dict(zip(places, phases, strict=True))
    return Trajectory(
        shape=shape,
        peak=places[top],
        first=places[0],
        last=places[-1],
        rivals=tuple(places[i] for i in rivals),
        fit=tuple(fits.get(i) for i in range(len(points))),
        phases=tuple(names.get(i) for i in range(len(points))),
        remaining=_ratio(last, peak),
        dip=_detour(present[top::-1], places[top::-1], peak),
        rebound=_detour(present[top:], places[top:], peak),
        is_skewed=shape is Shape.BELL and _is_skewed(present, fit, mode),
    )


def _shape(rises: bool, falls: bool, *, is_last: bool) -> Shape:
    if rises:
        return Shape.BELL if falls else Shape.RISING if is_last else Shape.RISEN
    return Shape.FALLING if falls else Shape.LEVEL


def _is_material(larger: Point, smaller: Point, peak: Point) -> bool:
    """Whether one value is above another clearly, and by at least a tenth of the peak."""
    return larger.value - smaller.value >= MATERIAL * abs(peak.value) and is_clear(larger, smaller)


def _phases(points: Sequence[Point], fit: Sequence[float], mode: int, *, rises: bool) -> list[Phase | None]:
    first, top, last = fit[0], fit[mode], len(fit) - 1
    unfitted = [i for i, point in enumerate(points) if point.loss is None or not point.loss <= CONVERGED]
    converged = max(unfitted, default=-1) + 1
    level = next(i for i in range(mode, len(fit)) if fit[i] - fit[last] <= MATERIAL * abs(top))
    found: list[Phase | None] = []
    for i, value in enumerate(fit):
        if i < mode:
            climbed = (value - first) / (top - first) if rises and top > first else 1.0
            low = Phase.LOW_EARLY if climbed <= RISING_FROM else Phase.RISING
            found.append(Phase.HIGH if climbed >= RISING_TO else low)
        else:
            low = Phase.FALLING
            if value <= FALLING_TO * top:
                has_ended = level <= i and level < last
                low = Phase.CONVERGED if i >= converged else Phase.LOW if has_ended else low
            found.append(Phase.HIGH if value >= FALLING_FROM * top else low)
    return found


def _is_skewed(points: Sequence[Point], fit: Sequence[float], mode: int) -> bool:
    """Whether the fall to half of the peak takes at least twice as long as the rise from half-way up."""
    positions = [point.position for point in points]
    times = [float(p) for p in positions if p is not None]
    if len(times) < len(points) or any(late <= early for early, late in pairwise(times)):
        times = [float(i) for i in range(len(points))]
    half = (fit[0] + fit[mode]) / 2
    start = next(i for i, value in enumerate(fit) if value >= half)
    end = next((i for i in range(mode, len(fit)) if fit[i] <= FALLING_TO * fit[mode]), len(fit) - 1)
    return times[end] - times[mode] >= 2 * (times[mode] - times[max(0, start - 1)])


def _detour(away: Sequence[Point], places: Sequence[int], peak: Point) -> tuple[int, int] | None:
    """Going away from the peak, between which two places the largest clear and material rise lies."""
    best, found, lowest = 0.0, None, 0
    for i, point in enumerate(away):
        if point.value < away[lowest].value:
            lowest = i
        rise = point.value - away[lowest].value
        if rise > best and _is_material(point, away[lowest], peak):
            best, found = rise, (min(places[lowest], places[i]), max(places[lowest], places[i]))
    return found


def _ratio(above: Point, below: Point) -> tuple[float, float | None]:
    """One value over another, with the delta method's error over the same examples; NaN over zero."""
    if below.value == 0:
        return math.nan, None
    ratio = above.value / below.value
    if len(above.terms) != len(below.terms) or len(above.terms) < 2:
        return ratio, None
    error = _mean_error((np.asarray(above.terms) - ratio * np.asarray(below.terms)) / below.value)
    return ratio, math.hypot(error, above.hidden / below.value, ratio * below.hidden / below.value)


def _mean_error(terms: "np.ndarray[tuple[int], np.dtype[np.float64]]") -> float:
    """sd/√N with N − 1 in the sd."""
    exponent = _exponent([float(np.abs(terms).max())])  # squares of large terms are beyond all floats
    return math.ldexp(float(np.std(np.ldexp(terms, -exponent), ddof=1)), exponent) / math.sqrt(len(terms))


# --- unimodal regression


def _weights(points: Sequence[Point]) -> list[float]:
    """1/error² of each value, in some unit; all equal if one is not known or zero."""
    errors = [point.error for point in points]
    known = [error for error in errors if error]
    exponent = _exponent(known)
    known = [max(math.ldexp(error, -exponent), _LEAST) for error in known]
    return [1 / error**2 for error in known] if len(known) == len(errors) else [1.0] * len(errors)


def unimodal(values: Sequence[float], weights: Sequence[float], modes: Iterable[int]) -> tuple[list[float], int]:
    """The sequence f that minimises Σ w_i (y_i − f_i)² among those that rise to, and fall from, one of `modes`.

    The cut between both parts lies before or after one of them, so that the largest value can be its neighbour.

    Args:
        values: y.
        weights: w, above zero; only their ratios count.
        modes: indices, at least one.

    Returns:
        The fit, and where it is largest.

    Source: Stout 2008 (doi:10.1016/j.csda.2008.08.005), by prefix sums of two isotonic regressions; O(n).
    """
    # Scaled by a power of two, which changes no digit: squares of values above 1e154 are beyond all floats.
    exponent = _exponent(values)
    values = [math.ldexp(value, -exponent) for value in values]
    count, largest = len(values), max(weights)
    scaled = [weight / largest for weight in weights]
    before = [0.0, *(error for _, error in _isotonic_prefixes(values, scaled))]
    after = [0.0, *(error for _, error in _isotonic_prefixes(values[::-1], scaled[::-1]))]
    # The mode belongs to the rising part or to the falling one, whichever costs less.
    cuts = [(before[cut] + after[count - cut], i, cut) for i in modes for cut in (i, i + 1)]
    _, mode, cut = min(cuts, key=lambda each: each[0])
    rising = _isotonic(values[:cut], scaled[:cut])
    falling = _isotonic(values[cut:][::-1], scaled[cut:][::-1])[::-1]
    fit = rising + falling
    top = max(fit)
    return [math.ldexp(value, exponent) for value in fit], mode if fit[mode] == top else fit.index(top)


def _exponent(values: Iterable[float]) -> int:
    """The power of two above the largest of the values."""
    return math.frexp(max((abs(value) for value in values), default=0.0))[1]


def _isotonic(values: Sequence[float], weights: Sequence[float]) -> list[float]:
    """The closest sequence that never falls."""
    pools: list[_Pool] = []
    for found, _ in _isotonic_prefixes(values, weights):
        pools = found
    return [pool.mean for pool in pools for _ in range(pool.size)]


class _Pool(NamedTuple):
    """Neighbours that share one value of the fit; `error` is Σ w (y − mean)²."""

    mean: float
    weight: float
    size: int
    error: float


def _isotonic_prefixes(values: Sequence[float], weights: Sequence[float]) -> Iterator[tuple[list[_Pool], float]]:
    """The isotonic regressions of all prefixes, by pooling adjacent violators.

    Yields:
        The pools, one list that changes from prefix to prefix, and the squared error.

    Source: Ayer et al. 1955 (doi:10.1214/aoms/1177728423).
    """
    pools: list[_Pool] = []
    error = 0.0
    for value, weight in zip(values, weights, strict=True):
        pool = _Pool(value, weight, 1, 0.0)
        while pools and pools[-1].mean >= pool.mean:
            error -= pools[-1].error
            pool = _pooled(pools.pop(), pool)
        pools.append(pool)
        error += pool.error
        yield pools, error


def _pooled(one: _Pool, other: _Pool) -> _Pool:
    weight = one.weight + other.weight
    mean = (one.mean * one.weight + other.mean * other.weight) / weight
    between = one.weight * other.weight / weight * (one.mean - other.mean) ** 2
    return _Pool(mean, weight, one.size + other.size, one.error + other.error + between)


# --- measurements


def trajectory_of(measurements: Sequence[Measurement]) -> Trajectory | None:
    """The trajectory of the true trace over a run; None where no row has one that counts, and of several networks.

    Args:
        measurements: of one run, in order of training; their steps are the positions. Rows that are doubted are places
            without a value.
    """
    return None if len(networks(measurements)) > 1 else trajectory([point_of(each) for each in measurements])


def networks(measurements: Sequence[Measurement]) -> list[str]:
    """The networks of the rows with a trace: traces of different ones have no trend.

    Returns:
        Each once, by its name, with its number of parameters where one name has several.
    """
    found = dict.fromkeys((each.architecture, each.parameters) for each in measurements if each.trace is not None)
    names = [name for name, _ in found]
    return [
        f"{name} of {count:,} parameters" if names.count(name) > 1 and count else str(name) for name, count in found
    ]


def point_of(measurement: Measurement) -> Point | None:
    """The true trace of a row as a point of its run; None where it has none, or is doubted."""
    if measurement.trace is None or measurement.doubt:
        return None
    true = measurement.trace.true
    known = true.standard_error is not None and true.estimator_error is not None
    error = math.hypot(true.standard_error or 0.0, true.estimator_error or 0.0) if known else None
    trace = measurement.trace
    terms = () if trace.hidden_error is None else trace.per_example_true
    loss = measurement.predictions.loss.value if measurement.predictions else None
    share = loss / guessing if loss is not None and (guessing := measurement.guessing_loss) else None
    return Point(true.value, error, terms, measurement.step, trace.hidden_error or 0.0, share)


class PathLength:
    """√(ΔᵀFΔ) summed over the steps of each run, row by row, in √nats.

    A row that was measured and has no step to it, such as the first, starts the path, and its length is empty; so it is
    for rows without numbers, which the next step spans.
    """

    def __init__(self) -> None:
        self._lengths: dict[str, float] = {}

    def add(self, measurement: Measurement) -> float | None:
        """The length of the path up to the row that comes next in its run; None where it has none."""
        if measurement.trace is None:
            return None
        quadratic = measurement.movement.kl_quadratic.value if measurement.movement else math.nan
        if not math.isfinite(quadratic):
            self._lengths.pop(measurement.run, None)
            return None
        length = self._lengths.get(measurement.run, 0.0) + math.sqrt(2 * max(0.0, quadratic))
        self._lengths[measurement.run] = length
        return length
