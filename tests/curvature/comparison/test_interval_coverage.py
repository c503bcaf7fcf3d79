"""Intervals that are called 95 % cover as often, over replicates drawn with replacement from a finite population."""

import math
from functools import cache
from pathlib import Path

import pytest
import torch
from torch import Tensor

from fisher_cli.curvature.comparison.intervals import carriers, mean_interval, ratio_interval
from fisher_cli.curvature.comparison.null_distribution import null_distribution
from fisher_cli.curvature.gradient_norms.engine import Engine
from fisher_cli.curvature.problem.problem import TensorData, pose
from fisher_cli.curvature.traces.traces import sweep
from fisher_cli.inputs.checkpoints.checkpoints import find_checkpoints, load_checkpoint
from fisher_cli.inputs.networks.networks import Networks
from tests.loading import load_examples

SAMPLES = Path(__file__).parents[3] / "sample_checkpoints"
F64 = torch.float64
LOW, HIGH = 0.929, 0.971

Population = tuple[Tensor, Tensor, Tensor]
"""Per example: ‖g‖² at the dataset's label, tr F_n, and E‖g‖⁴ under the model's labels."""


@cache
def population(run: str, step: int) -> Population:
    labels = SAMPLES / run / "labels.csv"
    data = load_examples("digits", limit=None, labels=str(labels) if labels.exists() else None)
    inputs, targets = data.batch(0, len(data))
    file = find_checkpoints([SAMPLES / run / f"step_{step:05d}.pt"])[0]
    checkpoint, networks = load_checkpoint(file), Networks(None, {})
    module = networks.load(networks.architecture(checkpoint), checkpoint)
    found = sweep(pose(module, TensorData(inputs, targets)), verify=False)
    terms = (found.trace.per_example_empirical, found.trace.per_example_true)
    empirical, true = (torch.tensor(each, dtype=F64) for each in terms)
    return empirical, true, null_distribution(Engine(found.engine.problem)).fourth


def coverage(people: Population, examples: int, replicates: int) -> dict[str, tuple[int, int, int]]:
    """For ratio and difference: how many intervals were called 95 %, how many of them covered, how many of all did."""
    empirical, true, fourth = people
    truths = {"ratio": float(empirical.mean() / true.mean()), "difference": float((empirical - true).mean())}
    counts = {name: [0, 0, 0] for name in truths}
    generator = torch.Generator().manual_seed(0)
    for replicate in range(replicates):
        drawn = torch.randint(len(true), (examples,), generator=generator)
        a, b = empirical[drawn], true[drawn]
        model = float(b.sum() ** 2 / fourth[drawn].sum())
        found = {
            "ratio": ratio_interval(a, b, model_carriers=model, replicates=400, seed=replicate),
            "difference": mean_interval(a - b, model_carriers=model, replicates=400, seed=replicate),
        }
        for name, interval in found.items():
            assert interval is not None
            covers = interval.low <= truths[name] <= interval.high
            counts[name][0] += interval.is_trusted
            counts[name][1] += interval.is_trusted and covers
            counts[name][2] += covers
    return {name: (each[0], each[1], each[2]) for name, each in counts.items()}


CLEAN, NOISY = (0, 44, 88, 176, 264, 440, 704, 1100, 1760), (0, 352, 1760, 5280)
POPULATIONS = [("digits-clean", step) for step in CLEAN] + [("digits-noisy", step) for step in NOISY]


@pytest.mark.long
@pytest.mark.parametrize(("run", "step"), POPULATIONS)
@pytest.mark.parametrize("examples", [250, 1000])
def test_intervals_called_95_percent_cover_92_9_to_97_1_percent(run: str, step: int, examples: int) -> None:
    """A thousand replicates, so that three standard errors of a coverage of 95 % are 2.1 %: both ways."""
    for name, (called, covered, all_covered) in coverage(population(run, step), examples, 1000).items():
        share = covered / called if called else math.nan
        print(
            f"{run} {step} N={examples} {name}: called {called}, of these {share:.1%}; of all {all_covered / 1000:.1%}"
        )
        if called >= 500:
            allowance = 3 * math.sqrt(0.95 * 0.05 / called)
            assert 0.95 - allowance <= share <= 0.95 + allowance
        if called == 1000:
            assert LOW <= share <= HIGH
        else:
            assert called < 950 or share >= LOW


@pytest.mark.parametrize(("run", "step"), [("digits-clean", 44), ("digits-noisy", 5280)])
def test_intervals_cover_in_a_tenth_of_the_replicates(run: str, step: int) -> None:
    """What the long test does with a thousand: a hundred know a coverage to 2.2 %."""
    for name, (called, covered, _) in coverage(population(run, step), 250, 100).items():
        print(f"{run} {step} {name}: {covered} of {called} called 95 % cover")
        assert called >= 99
        assert covered / called >= 0.95 - 3 * 0.022


def test_where_few_examples_carry_the_traces_no_interval_is_called_95_percent() -> None:
    """Converged: half of the replicates lack the examples that carry the empirical trace, and look harmless."""
    empirical, true, fourth = population("digits-clean", 1760)
    found = coverage((empirical, true, fourth), 250, 60)["ratio"]
    assert found[0] == 0
    assert found[2] < 0.8 * 60
    # What the sample itself says is not enough: without the model's account a part of them would be called 95 %.
    generator = torch.Generator().manual_seed(1)
    believed = 0
    for seed in range(60):
        drawn = torch.randint(len(true), (1000,), generator=generator)
        interval = ratio_interval(empirical[drawn], true[drawn], replicates=100, seed=seed)
        believed += interval is not None and interval.is_trusted
    assert believed > 5


def test_carriers_count_equal_terms() -> None:
    assert carriers(torch.ones(7)) == pytest.approx(7)
    assert carriers(torch.tensor([0.0, -3.0, 3.0])) == pytest.approx(2)
    assert math.isnan(carriers(torch.zeros(3)))


def test_an_interval_is_that_of_the_students_t_for_normal_values() -> None:
    """A mean of forty normal numbers: the studentised bootstrap's ends against t_39 quantiles, within its own error."""
    torch.manual_seed(0)
    values = torch.randn(40, dtype=F64) + 5
    values = values - values.mean() + 5
    found = mean_interval(values, replicates=20000, seed=1)
    assert found is not None
    error = float(values.std()) / 40**0.5
    assert (found.high - found.low) / error == pytest.approx(2 * 2.0227, rel=0.07)
    assert found.is_trusted
    again = mean_interval(1000 * values, replicates=20000, seed=1)
    assert again is not None
    assert (again.low, again.high) == pytest.approx((1000 * found.low, 1000 * found.high), rel=1e-9)


def test_an_interval_reaches_further_towards_the_long_tail() -> None:
    """Exponential values: the mean of a sample is more often too small than too large, and by less."""
    torch.manual_seed(0)
    values = -torch.rand(60, dtype=F64).log()
    found = mean_interval(values)
    assert found is not None
    assert found.high - float(values.mean()) > 1.1 * (float(values.mean()) - found.low)


def test_there_is_no_interval_where_nothing_varies_or_nothing_is_divided_by() -> None:
    ones = torch.ones(5)
    assert ratio_interval(2 * ones, ones) is None
    assert ratio_interval(ones, 0 * ones) is None
    assert ratio_interval(ones[:1], ones[:1]) is None
    assert mean_interval(torch.tensor([1.0, 1.0, 1.0])) is None
