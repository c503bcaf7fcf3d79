"""Ten, a thousand and 21,841 classes: nothing of the size of classes × classes, or classes × parameters."""

from collections.abc import Callable

import pytest
import torch
from torch import nn

from fisher_cli.curvature.problem.problem import Problem, TensorData, pose
from fisher_cli.curvature.traces.traces import TraceResult, sweep
from tests.live_memory import LiveMemory
from tests.reference import reference

COUNTS = (10, 1_000, 21_841)
BATCH, EXAMPLES, WIDTH = 8, 64, 8
MEBIBYTE = 2**20


def network(classes: int, scale: float = 1.0) -> nn.Sequential:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(WIDTH, WIDTH), nn.Tanh(), nn.Linear(WIDTH, classes))
    with torch.no_grad():
        net[2].bias *= scale
    return net


def problem(classes: int, batch: int = BATCH, scale: float = 1.0, dtype: torch.dtype = torch.float32) -> Problem:
    net = network(classes, scale)
    torch.manual_seed(1)
    inputs, labels = torch.randn(EXAMPLES, WIDTH, dtype=dtype), torch.randint(classes, (EXAMPLES,))
    return pose(net, TensorData(inputs, labels), batch_size=batch, dtype=dtype)


def seen(classes: int, batch: int) -> tuple[LiveMemory, TraceResult]:
    posed = problem(classes, batch)
    with LiveMemory() as memory:
        return memory, sweep(posed, estimator="auto", verify=False)


def test_no_tensor_is_classes_squared_and_work_grows_in_proportion(record_property: Callable[..., None]) -> None:
    """L3: the largest allocation below a tenth of a C × C one; operations at most 1.3 times linear in C."""
    small, middle, large = (seen(classes, 4)[0] for classes in COUNTS)
    assert large.largest < COUNTS[2] ** 2 * 4 / 10
    assert middle.largest < COUNTS[1] ** 2 * 4 / 10
    assert large.largest < 0.1 * COUNTS[2] * 4 * sum(p.numel() for p in network(COUNTS[2]).parameters())
    growth = (large.values - small.values) / (middle.values - small.values)
    expected = (COUNTS[2] - COUNTS[0]) / (COUNTS[1] - COUNTS[0])
    record_property("L3", f"largest {large.largest:,} bytes at {COUNTS[2]:,}; values {growth / expected:.2f} of linear")
    assert growth <= 1.3 * expected


def test_memory_beside_the_network_grows_with_its_outputs_alone(record_property: Callable[..., None]) -> None:
    """L3: eighty times the outputs of a batch, the cotangents of all directions and the last layer included."""
    peaks = {}
    for classes in COUNTS:
        posed = problem(classes)
        with LiveMemory() as memory:
            sweep(posed, estimator="deflated")
        peaks[classes] = memory.peak
    record_property("L3", ", ".join(f"{classes}: {peak / MEBIBYTE:.1f} MiB" for classes, peak in peaks.items()))
    for classes, peak in peaks.items():
        assert peak <= 80 * BATCH * classes * 4 + MEBIBYTE, (classes, peak)


def test_ten_classes_are_those_of_the_dense_fisher() -> None:
    posed = problem(10)
    inputs, labels = posed.data.batch(0, EXAMPLES)
    expected = float(torch.trace(reference(posed.model, inputs, labels).fisher))
    assert sweep(posed, estimator="exact").trace.true.value == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("scale", [1.0, 3e4])
def test_a_thousand_classes_agree_with_all_of_them_also_at_huge_logits(scale: float) -> None:
    """Logits of ±10⁴ overflow no exponential, and probabilities that underflow carry nothing."""
    posed = problem(1_000, scale=scale, dtype=torch.float64)
    if scale > 1:
        assert posed.forward(posed.data.batch(0, 1)[0]).abs().max() > 5e3
    deflated, exact = (sweep(posed, estimator=name, verify=False).trace.true for name in ("deflated", "exact"))
    error = deflated.estimator_error
    assert error is not None
    assert abs(deflated.value - exact.value) <= 4 * error + 1e-9 * abs(exact.value)


def test_all_classes_at_once_stay_finite_at_huge_logits() -> None:
    trace = sweep(problem(COUNTS[2], scale=3e4), estimator="auto").trace
    assert trace.estimator == "deflated k=4"
    assert torch.tensor([trace.true.value, trace.empirical.value]).isfinite().all()
