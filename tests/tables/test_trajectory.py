import math
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from fisher_cli import analyze
from fisher_cli.results import Estimate, Measurement, Movement, Status, Trace
from fisher_cli.tables.trajectory import (
    PathLength,
    Phase,
    Point,
    Shape,
    Trajectory,
    is_clear,
    trajectory,
    trajectory_of,
    unimodal,
)

SAMPLES = Path(__file__).parents[2] / "sample_checkpoints"
LOW, RISING, HIGH, FALLING, ENDED, LATE = Phase


def points(*values: float | None, error: float = 0.01) -> list[Point | None]:
    """Of a network that has learned everything."""
    return [None if value is None else Point(value, error, loss=0.0) for value in values]


def found(*values: float | None, error: float = 0.01) -> Trajectory:
    result = trajectory(points(*values, error=error))
    assert result is not None
    return result


@pytest.mark.parametrize("scale", [1e-300, 1e-200, 1e160, 1e300])
def test_values_of_any_size_have_the_shape_of_their_ratios(scale: float) -> None:
    values, factors = [6.0, 30.0, 77.0, 60.0, 18.0, 40.0, 9.0], [0.9, 1.0, 1.1]
    plain, scaled = (
        trajectory(
            [Point(unit * v, unit * 0.01, tuple(unit * v * f for f in factors), i) for i, v in enumerate(values)]
        )
        for unit in (1.0, scale)
    )
    assert plain is not None
    assert scaled is not None
    assert (scaled.shape, scaled.phases, scaled.peak, scaled.rivals) == (
        *(plain.shape, plain.phases, plain.peak, plain.rivals),
    )
    assert [value / scale for value in scaled.fit if value is not None] == pytest.approx(plain.fit)


# --- the fit


def isotonic_by_its_formula(values: np.ndarray, weights: np.ndarray) -> list[float]:
    """max over a ≤ i of min over b ≥ i of the weighted mean of a … b: slow, and the definition."""
    count = len(values)

    def mean(a: int, b: int) -> float:
        return float(np.average(values[a : b + 1], weights=weights[a : b + 1]))

    return [max(min(mean(a, b) for b in range(i, count)) for a in range(i + 1)) for i in range(count)]


def test_the_fit_is_the_best_of_all_unimodal_ones() -> None:
    generator = np.random.default_rng(0)
    for count in (1, 2, 3, 5, 9):
        for _ in range(20):
            values, weights = generator.normal(size=count), generator.uniform(0.1, 3, size=count)
            fit, mode = unimodal(list(values), list(weights), range(count))
            assert all(one <= other for one, other in pairwise(fit[: mode + 1]))
            assert all(one >= other for one, other in pairwise(fit[mode:]))
            assert fit[mode] == max(fit)
            costs = []
            for cut in range(count + 1):
                rising = isotonic_by_its_formula(values[:cut], weights[:cut])
                falling = isotonic_by_its_formula(values[cut:][::-1], weights[cut:][::-1])[::-1]
                costs.append(float(weights @ (values - [*rising, *falling]) ** 2))
            assert float(weights @ (values - fit) ** 2) == pytest.approx(min(costs), abs=1e-12)


def test_the_mode_is_at_or_next_to_one_that_is_allowed() -> None:
    assert unimodal([0.0, 4.0, 5.0, 6.0], [1.0] * 4, [2]) == ([0.0, 4.0, 5.0, 6.0], 3)
    assert unimodal([0.0, 6.0, 5.0, 4.0], [1.0] * 4, [2]) == ([0.0, 6.0, 5.0, 4.0], 1)
    assert unimodal([9.0, 4.0, 5.0, 1.0], [1.0] * 4, [2]) == ([6.5, 6.5, 5.0, 1.0], 0)
    assert unimodal([9.0, 4.0, 5.0, 1.0], [1.0] * 4, [0]) == ([9.0, 4.5, 4.5, 1.0], 0)


def test_values_with_small_errors_weigh_more() -> None:
    fit, _ = unimodal([2.0, 1.0, 5.0], [1.0, 3.0, 1.0], [2])
    assert fit == pytest.approx([1.25, 1.25, 5.0])
    one = trajectory([Point(2.0, 0.1), Point(1.0, 0.1 / 3**0.5), Point(5.0, 0.1)])
    assert one is not None
    assert one.fit == pytest.approx((1.25, 1.25, 5.0))


def test_thousands_of_checkpoints_take_no_time() -> None:
    values = [math.sin(i / 3000) for i in range(9000)]
    assert found(*values, error=1e-9).shape is Shape.BELL


# --- what is clear


def test_differences_are_judged_on_the_same_examples() -> None:
    """Examples differ by far more than the two checkpoints do, and by the same amount in both."""
    generator = np.random.default_rng(1)
    hard = generator.exponential(50, size=400)
    near = hard + 1 + generator.normal(0, 1, size=400)
    one, other = (Point(float(t.mean()), float(t.std(ddof=1)) / 20, tuple(t)) for t in (near, hard))
    assert is_clear(one, other)
    assert not is_clear(other, one)
    assert not is_clear(Point(one.value, one.error), Point(other.value, other.error))


def test_nothing_is_clear_without_an_error() -> None:
    assert not is_clear(Point(5.0), Point(1.0))
    assert not is_clear(Point(5.0, 0.1), Point(1.0))
    assert not is_clear(Point(5.0, None, (5.0,)), Point(1.0, None, (1.0,)))
    assert is_clear(Point(5.0, 0.0), Point(1.0, 0.0))
    assert not is_clear(Point(1.0, 0.0), Point(1.0, 0.0))


def test_noise_is_seldom_called_a_trend() -> None:
    """Ten checkpoints that do not differ, 300 times: the largest is above the first or last by chance alone."""
    generator, called = np.random.default_rng(2), 0
    for _ in range(300):
        terms = generator.normal(1, 5, size=(10, 200))
        result = trajectory([Point(float(t.mean()), float(t.std(ddof=1)) / 200**0.5, tuple(t)) for t in terms])
        assert result is not None
        called += result.shape is not Shape.LEVEL
    assert called / 300 < 0.08


# --- the shape and the phases


def test_a_bell() -> None:
    result = found(30, 32, 50, 80, 76, 60, 45, 39, 18)
    assert (result.shape, result.peak, result.rivals, result.is_skewed) == (Shape.BELL, 3, (3,), True)
    assert result.phases == (LOW, LOW, RISING, HIGH, HIGH, HIGH, FALLING, LATE, LATE)
    assert result.remaining[0] == pytest.approx(18 / 80)
    assert (result.dip, result.rebound) == (None, None)


def test_the_phase_ends_where_it_is_said_to_end() -> None:
    """A quarter and three quarters of the way up; three quarters and a half of the peak down."""
    assert found(20, 40, 41, 79, 80, 100, 75, 74, 51, 50, 0).phases == (
        *(LOW, LOW, RISING, RISING, HIGH, HIGH),
        *(HIGH, FALLING, FALLING, LATE, LATE),
    )  # fmt: skip


def test_what_cannot_be_told_from_the_peak() -> None:
    assert found(1, 8, 10, 9.8, 10.01, 4, error=0.1).rivals == (2, 3, 4)
    assert found(1, 8, 10, 9.8, 10.01, 4, error=0.1).peak == 4
    assert found(5, 5, 5, 1).rivals == (0, 1, 2)
    assert found(5, 5, 5, 1).peak == 0


def test_a_lone_noisy_spike_does_not_shape_the_fit() -> None:
    values, errors = [1, 12, 5, 6, 7, 3, 1], [0.1, 5, 0.1, 0.1, 0.1, 0.1, 0.1]
    result = trajectory([Point(value, error, loss=0.0) for value, error in zip(values, errors, strict=True)])
    assert result is not None
    assert result.peak == 1
    assert set(result.rivals) >= {1, 4}
    assert result.shape is Shape.BELL
    assert result.phases == (LOW, RISING, RISING, HIGH, HIGH, LATE, LATE)
    assert result.fit[1] == pytest.approx(5, abs=0.01)


def test_still_rising() -> None:
    result = found(30, 28, 36, 60, 90, 150, 212)
    assert (result.shape, result.peak) == (Shape.RISING, 6)
    assert result.phases == (LOW, LOW, LOW, LOW, RISING, RISING, HIGH)
    assert result.remaining[0] == 1


def test_risen_and_not_fallen() -> None:
    assert found(10, 50, 80, 79.99, 80).shape is Shape.RISEN
    assert found(10, 50, 80, 76, 75).shape is Shape.RISEN  # clear, and less than a tenth
    assert found(10, 50, 80, 70, 60, error=9).shape is Shape.RISEN  # a fourth, and not clear


def test_a_run_that_begins_at_its_peak() -> None:
    result = found(80, 70, 50, 30)
    assert result.shape is Shape.FALLING
    assert result.phases == (HIGH, HIGH, FALLING, LATE)
    assert found(78, 80, 50, 30).phases == (HIGH, HIGH, FALLING, LATE)  # a rise of a fortieth is none


def test_level_runs_have_no_phases() -> None:
    result = found(10, 10.2, 9.9, 10.1, error=1)
    assert result.shape is Shape.LEVEL
    assert result.phases == (None,) * 4
    assert found(0, 0, 0).shape is Shape.LEVEL
    assert math.isnan(found(0, 0).remaining[0])


def test_one_and_two_checkpoints() -> None:
    assert (found(5).shape, found(5).phases, found(5).peak) == (Shape.LEVEL, (None,), 0)
    assert (found(1, 5).shape, found(1, 5).phases) == (Shape.RISING, (LOW, HIGH))
    assert (found(5, 1).shape, found(5, 1).phases) == (Shape.FALLING, (HIGH, LATE))
    assert found(5, 5).shape is Shape.LEVEL


def test_rows_without_a_value_are_left_out() -> None:
    result = found(None, 1, math.nan, 8, None, 10, math.inf, 2, None)
    assert (result.shape, result.first, result.peak, result.last) == (Shape.BELL, 1, 5, 7)
    assert result.phases == (None, LOW, None, HIGH, None, HIGH, None, LATE, None)
    assert [value is None for value in result.fit] == [True, False, True, False, True, False, True, False, True]
    assert trajectory([]) is None
    assert trajectory(points(None, math.nan)) is None


def test_dips_on_the_way_up_and_rebounds_on_the_way_down() -> None:
    assert found(30, 26, 80, 20).dip is None  # a twentieth of the peak: the perceptrons' dip in their first steps
    assert found(30, 15, 40, 80, 20).dip == (0, 1)
    assert found(10, 50, 30, 45, 25, 80, 20).dip == (1, 4)
    result = found(10, None, 80, 30, 20, 50, 45, 10)
    assert (result.shape, result.rebound) == (Shape.BELL, (4, 5))
    assert found(10, 80, 20, 26, 10).rebound is None
    assert found(10, 80, 20, 50, 10, error=9).rebound is None


def test_skew_is_measured_in_steps() -> None:
    steps = [0, 1, 2, 3, 100, 1000]
    values = [1, 5, 10, 9, 6, 1]
    assert found(*values[:3], 5, 1).is_skewed is False
    result = trajectory([Point(v, 0.01, (), s) for v, s in zip(values, steps, strict=True)])
    assert result is not None
    assert result.is_skewed


# --- measurements


def measurement(trace: float | None, quadratic: float | None = None, terms: tuple[float, ...] = ()) -> Measurement:
    if trace is None:
        return Measurement(checkpoint="x", status=Status.FAILED)
    estimate = Estimate(trace, 0.1)
    step = None
    if quadratic is not None:
        step = Movement(kl=estimate, kl_quadratic=Estimate(quadratic), kl_parameters=None, trace_change=estimate)
    found = Trace("exact", estimate, estimate, None, (), terms, terms)
    return Measurement(checkpoint="x", status=Status.OK, trace=found, movement=step)


def test_the_path_adds_up_the_lengths_of_the_steps() -> None:
    path = PathLength()
    rows = [(1.0, None), (1.0, 2.0), (None, None), (1.0, 0.5), (1.0, None), (1.0, 8.0), (1.0, math.nan), (1.0, 2.0)]
    lengths = [path.add(measurement(*row)) for row in rows]
    assert lengths == [None, 2.0, None, 3.0, None, 4.0, None, 2.0]


def test_each_run_has_a_path_of_its_own() -> None:
    path = PathLength()
    rows = [("a", None), ("b", None), ("a", 2.0), ("b", 0.5), ("a", 8.0), ("b", 0.5)]
    lengths = [path.add(replace(measurement(1.0, quadratic), run=run)) for run, quadratic in rows]
    assert lengths == [None, None, 2.0, 1.0, 6.0, 2.0]


def test_rows_of_several_networks_have_no_trajectory() -> None:
    rows = [replace(measurement(trace), architecture="mlp", parameters=20) for trace in (1.0, 3.0, 1.0)]
    assert trajectory_of(rows) is not None
    assert trajectory_of([*rows[:2], replace(rows[2], architecture="cnn")]) is None
    assert trajectory_of([*rows[:2], replace(rows[2], parameters=21)]) is None
    assert trajectory_of([*rows[:2], replace(measurement(None), architecture="cnn")]) is not None


def test_estimator_errors_count_where_nothing_is_paired() -> None:
    noisy = Estimate(10.0, 0.1, 5.0)
    row = measurement(1.0)
    assert row.trace is not None
    drawn = Trace("deflated", noisy, noisy, None, (), (), ())
    large = Measurement(checkpoint="x", status=Status.OK, trace=drawn)
    result = trajectory_of([row, large])
    assert result is not None
    assert result.shape is Shape.LEVEL


@pytest.mark.parametrize(
    ("run", "shape", "peak", "rivals", "rows"),
    [
        ("digits-clean", Shape.BELL, 66, (66,), (LOW, HIGH, LATE)),
        ("digits-cnn", Shape.BELL, 88, (88, 132), (None, HIGH, LATE)),
        ("digits-noisy", Shape.RISING, 5280, (5280,), (LOW, HIGH, HIGH)),
    ],
)
def test_the_sample_runs_show_what_the_theory_says(
    run: str, shape: Shape, peak: int, rivals: tuple[int, ...], rows: tuple[Phase | None, ...]
) -> None:
    """Bells on true labels, the peak where the table has it; on noisy ones no bell, still rising."""
    analysis = analyze(SAMPLES / run, limit=500, eigenvalues=0)
    steps = [each.step for each in analysis.measurements]
    result = trajectory_of(analysis.measurements)
    assert result is not None
    assert (result.shape, steps[result.peak]) == (shape, peak)
    assert tuple(steps[i] for i in result.rivals) == rivals
    assert (result.phases[0], result.phases[result.peak], result.phases[-1]) == rows
    assert result.is_skewed == (shape is Shape.BELL)
    assert int(analysis.table["trace_true"].astype(float).argmax()) == result.peak
    order = [list(Phase).index(phase) for phase in result.phases if phase is not None]
    assert order == sorted(order)
    assert len(order) == len(steps) - sum(bool(each.doubt) for each in analysis.measurements)
