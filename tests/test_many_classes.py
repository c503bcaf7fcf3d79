"""Ten, a thousand and 21,841 classes: nothing of the size of classes × classes, or classes × parameters."""

import json
import os
import resource
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from fisher_cli.curvature.problem import Problem, TensorData, pose
from fisher_cli.curvature.traces import Sweep, sweep
from tests.reference import reference
from tests.test_records import in_child

pytestmark = pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
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


class Seen(TorchDispatchMode):
    """The largest tensor that operations return, and how many values they return together."""

    def __init__(self) -> None:
        super().__init__()
        self.largest = self.values = 0

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        found = function(*args, **(kwargs or {}))
        for each in found if isinstance(found, tuple | list) else [found]:
            if isinstance(each, Tensor):
                self.largest = max(self.largest, each.untyped_storage().nbytes())
                self.values += each.numel()
        return found


def seen(classes: int, batch: int) -> tuple[Seen, Sweep]:
    with Seen() as mode:
        return mode, sweep(problem(classes, batch), estimator="auto", verify=False)


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


def test_memory_beside_the_network_is_a_few_outputs(tmp_path: Path, record_property: Callable[..., None]) -> None:
    """L3: at most four times B·C floats and 200 MiB, in a process of its own."""

    def work() -> None:
        found = {}
        sweep(problem(3), estimator="deflated")  # what the first use of torch loads
        for classes in COUNTS:
            posed = problem(classes)
            before = int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
            sweep(posed, estimator="deflated")
            found[classes] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 - before
        (tmp_path / "found.json").write_text(json.dumps(found))

    assert in_child(work) == 0
    found = json.loads((tmp_path / "found.json").read_text())
    record_property("L3", ", ".join(f"{classes}: {extra / MEBIBYTE:.0f} MiB" for classes, extra in found.items()))
    for classes, extra in found.items():
        assert extra <= 4 * BATCH * int(classes) * 4 + 200 * MEBIBYTE, (classes, extra)


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
