"""Within the loop over batches nothing is read back from the device, so that a GPU never waits for it."""

import traceback
from typing import Any

import pytest
import torch
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from fisher_cli.curvature.problem.problem import Problem, TensorData, pose
from fisher_cli.curvature.traces import traces
from fisher_cli.errors import NumericalError
from tests.cases import mlp

# What waits for a device: a value becomes a number, or decides the shape of what follows.
OPERATIONS = {"_local_scalar_dense", "nonzero", "masked_select", "_unique2", "equal", "is_nonzero"}
CALLS = {"cpu", "numpy", "tolist", "item", "__bool__", "__float__", "__int__"}
# Two reads of the norms, which are not of the running sums.
ELSEWHERE = "gradient_norms/grad_factors.py"


def noted(reads: list[str], name: str) -> None:
    frames = traceback.extract_stack()
    if not any(frame.filename.endswith(ELSEWHERE) for frame in frames):
        ours = [frame for frame in frames if "fisher_cli" in frame.filename]
        reads.append(f"{name} at {ours[-1].filename}:{ours[-1].lineno}")


class Calls(TorchFunctionMode):
    def __init__(self, reads: list[str]) -> None:
        super().__init__()
        self.reads = reads

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if getattr(func, "__name__", "") in CALLS:
            noted(self.reads, func.__name__)
        return func(*args, **(kwargs or {}))


class Operations(TorchDispatchMode):
    def __init__(self, reads: list[str]) -> None:
        super().__init__()
        self.reads = reads

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func.overloadpacket.__name__ in OPERATIONS:
            noted(self.reads, func.overloadpacket.__name__)
        return func(*args, **(kwargs or {}))


def posed(inputs: torch.Tensor) -> Problem:
    torch.manual_seed(0)
    return pose(mlp(5, 9, 12), TensorData(inputs, torch.arange(40) % 12), batch_size=8)


@pytest.mark.parametrize("estimator", ["exact", "deflated", "sampled"])
def test_no_value_is_read_back_between_batches(estimator: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """As if on a device; the first batch, in which layouts are found, apart."""
    problem, reads, before = posed(torch.randn(40, 5)), list[str](), list[int]()
    monkeypatch.setattr(traces, "runs_behind", lambda _device: True)
    with Calls(reads), Operations(reads):
        traces.sweep(problem, estimator=estimator, verify=False, advance=lambda _: before.append(len(reads)))
    assert len(before) == 5
    assert before[0] < len(reads), "what is read after the loop is seen"
    assert reads[before[0] : before[-1]] == []


@pytest.mark.parametrize(("estimator", "batches"), [("exact", 5), ("sampled", 5), ("deflated", 2)])
def test_outputs_that_are_not_finite_are_named_after_the_loop_as_within(
    estimator: str, batches: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The deflated estimator ends in the batch itself, for there are no eigenvectors, and says the same."""
    inputs = torch.randn(40, 5)
    inputs[[21, 33]] = torch.nan
    said, seen = [], list[list[float]]()
    for free in (True, False):
        monkeypatch.setattr(traces, "runs_behind", lambda _device, free=free: not free)
        fractions: list[float] = []
        with pytest.raises(NumericalError) as caught:
            traces.sweep(posed(inputs), estimator=estimator, verify=False, advance=fractions.append)
        said.append(str(caught.value))
        seen.append(fractions)
    assert said == ["the network's outputs are NaN or infinite among examples 16 to 23"] * 2
    assert [len(each) for each in seen] == [2, batches]
