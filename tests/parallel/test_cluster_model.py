"""The model of the cost on a cluster is arithmetic, and so are the fitted slopes."""

import math
from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks import scaling
from benchmarks.cluster import GIB, Cluster, Layout, Workload, cost, predicted

ROOT = Path(__file__).parents[2]
SMALL = Workload(
    parameters=1e9,
    layers=1,
    width=1,
    kept=1.0,
    tokens=10,
    examples=100,
    directions=6,
    checkpoints=7,
    itemsize=4,
    movement=True,
)
PAIR = Cluster(gpus=4, gpus_per_node=2, flops=2e12, float32=1e12, memory=20 * 10**9, storage=1e9, host=4e9, fabric=16e9)


def test_seconds_are_operations_by_rate_and_bytes_by_bandwidth() -> None:
    """1 + 6 + 2 + 3 passes through the network and 6 + 2 of rules, of 2·P operations per token each."""
    found = cost(SMALL, PAIR, Layout(gradient_shares=1))
    assert (SMALL.network_passes, SMALL.rule_passes) == (12, 8)
    one = 2e9 * 10 * 100 / 2
    assert dict(found.seconds) == pytest.approx(
        {
            "passes through the network": one * 12 / 2e12,
            "rules of the layers": one * 8 / 1e12,
            "storage": 4.0,
            "to the GPU": 1.0,
            "sum over ranks": 1.0,
        }
    )
    # Two nodes share seven checkpoints, and one of them measures the predecessor of its first besides.
    assert found.measurements_each == 4
    assert found.total_seconds == pytest.approx(4 * (6 + 8 + 4 + 1 + 1))


def test_a_shared_gradient_is_sent_once_a_batch_and_read_once() -> None:
    """50 batches of a rank and as many of the second pass: half of 4 GB each time, and two meetings for two tensors."""
    work, cluster = replace(SMALL, tensors=2), replace(PAIR, meeting=1e-3)
    assert dict(cost(work, cluster).seconds)["sum over ranks"] == pytest.approx(100 * (2e9 / 16e9 + 4e-3))
    # Four at once: 12.5 batches, and 25 of two.
    twos = dict(cost(replace(work, batch=4), cluster).seconds)
    assert twos["sum over ranks"] == pytest.approx(37.5 * (2e9 / 16e9 + 4e-3))
    assert dict(cost(work, replace(cluster, gpus_per_node=1)).seconds)["sum over ranks"] == 0


def test_memory_is_the_sum_of_its_causes() -> None:
    found = cost(SMALL, PAIR, Layout(gradient_shares=1))
    assert dict(found.gpu) == {"weights": 4e9, "mean gradient": 8e9, "step of the movement": 4e9, "batch": 10 * 12 * 4}
    assert found.gpu_bytes == 16e9 + 480
    assert found.fits_gpu
    assert not cost(SMALL, replace(PAIR, memory=16 * 10**9), Layout(gradient_shares=1)).fits_gpu
    assert cost(SMALL, replace(PAIR, memory=16 * 10**9)).fits_gpu
    assert dict(found.node) == {"checkpoints being read": 24e9, "networks of the row before": 8e9}
    assert not cost(SMALL, replace(PAIR, host_memory=10**9)).fits_node
    halved = cost(SMALL, PAIR, Layout(gradient_shares=2, weight_shares=4))
    assert dict(halved.gpu)["mean gradient"] == 4e9
    assert dict(halved.gpu)["weights"] == 1e9


def test_more_gpus_and_fewer_examples_take_less_time() -> None:
    whole = cost(Workload(), Cluster())
    assert cost(Workload(examples=500), Cluster()).total_seconds < whole.total_seconds
    assert cost(Workload(), Cluster(gpus=128)).total_seconds < whole.total_seconds
    moved = cost(Workload(movement=True), Cluster())
    assert moved.total_seconds > whole.total_seconds
    assert (moved.measurements_each, whole.measurements_each) == (107 / 8, 100 / 8)


def test_seven_billion_parameters_fit_where_the_gradient_is_shared() -> None:
    """14 GB of weights in bfloat16, and 56 GB of a mean gradient in float64, of 80 GiB."""
    whole, today = (cost(Workload(), Cluster(), layout) for layout in (Layout(gradient_shares=1), None))
    assert dict(today.gpu)["weights"] == 14e9
    assert dict(whole.gpu)["mean gradient"] == 56e9
    assert dict(today.gpu)["mean gradient"] == 7e9
    assert whole.gpu_bytes > Cluster().memory == 80 * GIB
    assert (whole.fits_gpu, today.fits_gpu) == (False, True)
    assert today.fits_node
    assert cost(Workload(batch=2), Cluster()).fits_gpu
    assert any(line.startswith("| today") and line.endswith("| yes |") for line in predicted())


@pytest.mark.parametrize("name", ["docs/scaling.md", "benchmarks/SCALING.md"])
def test_the_documents_say_what_the_model_says(name: str) -> None:
    assert "\n".join(predicted()) in (ROOT / name).read_text()


def test_a_slope_is_an_exponent() -> None:
    x = [2.0, 4.0, 8.0, 32.0]
    assert scaling.slope(x, [3 * value**1.5 for value in x]) == pytest.approx(1.5)
    assert math.isnan(scaling.slope([1.0], [1.0]))


def test_the_table_of_an_axis_has_its_slopes() -> None:
    rows = [scaling.ScaleRow("parameters", width, 48 * width**2, [width**2 / 1e4], [1e-3]) for width in (128, 256, 512)]
    failed = scaling.ScaleRow("parameters", 1024, failure="fails: x")
    text = scaling.section("parameters", [*rows, failed])
    assert text.splitlines()[4] == "| 128 | 786,432 | 1.64 | 1,638 |"
    assert text.endswith("Cost ∝ parameters^a: a = 1.00 over all, 1.00 between the last two.")
    assert failed.verdict() == "fails: x"
