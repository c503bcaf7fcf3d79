"""`--devices`: several processes measure, one writes; the bytes are those of one process, whatever dies."""

import os
import signal
import subprocess
import sys
from dataclasses import replace
from itertools import pairwise
from multiprocessing.process import BaseProcess
from pathlib import Path

import pytest
import torch
from torch import nn

import fisher_cli.run.row
from fisher_cli.curvature.problem.problem import Data
from fisher_cli.errors import UsageError
from fisher_cli.parallel.devices import choose_devices, run_on_devices
from fisher_cli.parallel.worker_pool import ShareQueue
from fisher_cli.results import Measurement
from fisher_cli.run.measurement import MeasurementContext
from fisher_cli.run.preparation import run_of_files
from fisher_cli.settings import Resources, Settings
from fisher_cli.storage.journal import read_records
from tests.shard_runs import analyze, assert_equal_reports, run, spoil
from tests.small_run import QUICK
from tests.waiting import PATIENCE, until

pytestmark = pytest.mark.usefixtures("ckpts")

OF_THE_DEVICES = {"device", "resources"}
# A network that ends its process: once for one checkpoint's weights, always for another's.
DEADLY = """
import os, signal
from pathlib import Path
import torch
from torch import nn
from torch import nn

class Net(nn.Sequential):
    def forward(self, inputs):
        mark = round(self[1].bias[0].item())
        once = Path(f"killed-{mark}")
        if mark in (1000, 2000) and (mark == 2000 or not once.exists()):
            once.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return super().forward(inputs)

def make():
    return Net(nn.Flatten(), nn.Linear(64, 4), nn.Tanh(), nn.Linear(4, 10))
"""


# --- who measures what


def test_a_worker_goes_on_with_the_batch_that_memory_left_it(monkeypatch: pytest.MonkeyPatch) -> None:
    taken, real = [], fisher_cli.run.row.measure

    def measure(module: nn.Module, data: Data, settings: Settings, context: MeasurementContext) -> Measurement:
        taken.append(context.batch_size)
        found = real(module, data, settings, context)
        return replace(found, memory_ran_out_at=8, batch_size=4) if context.batch_size is None else found

    monkeypatch.setattr(fisher_cli.run.row, "measure", measure)
    worker = run_of_files([Path("ckpts")], Settings(model="./net.py:make", limit=8, eigenvalues=0), Resources())
    for place in range(3):
        worker.row(place)
    assert taken == [None, 4, 4]


@pytest.mark.parametrize("workers", [1, 2, 3, 8])
@pytest.mark.parametrize("count", [0, 1, 2, 7, 30])
def test_every_checkpoint_is_measured_once_in_few_sequences(count: int, workers: int) -> None:
    queue, taken = ShareQueue(range(count), workers), list[list[int]]([] for _ in range(workers))
    speeds = [1, 3, 1, 2, 1, 1, 5, 1]
    for turn in range(200):
        for worker in range(workers):
            if turn % speeds[worker] == 0 and (place := queue.take(worker)) is not None:
                taken[worker].append(place)
    assert sorted(place for each in taken for place in each) == list(range(count))
    breaks = sum(place != before + 1 for each in taken for before, place in pairwise(each))
    assert breaks <= max(0, count // 4)


def test_one_who_has_none_left_takes_half_of_the_largest_share() -> None:
    queue = ShareQueue(range(12), 2)
    assert [queue.take(1) for _ in range(6)] == [6, 7, 8, 9, 10, 11]
    assert [queue.take(0) for _ in range(2)] == [0, 1]
    assert queue.take(1) == 4
    queue.put(1, 4)
    assert [queue.take(1) for _ in range(3)] == [4, 5, None]  # two are left to the other: taking one wins nothing
    assert [queue.take(0) for _ in range(3)] == [2, 3, None]


# --- which devices


def test_devices_are_named_or_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    assert choose_devices(("cpu", "cpu")) == ["cpu", "cpu"]
    with pytest.raises(UsageError, match=r"no CUDA device is here; name what to use, as in --devices cpu,cpu"):
        choose_devices(("all",))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert choose_devices(("all",)) == ["cuda:0", "cuda:1"]
    assert choose_devices(("1", "cuda:0")) == ["cuda:1", "cuda:0"]
    with pytest.raises(UsageError, match="name one type"):
        choose_devices(("cpu", "1"))


@pytest.mark.parametrize(
    ("words", "remedy"),
    [
        (("--devices", "cpu,"), "as in cpu,cpu"),
        (("--devices", "tpu"), "use auto, cpu, cuda"),
        (("--devices", "77"), "is not here"),
        (("--devices", "cpu,cpu", "--device", "cpu"), "leave one of the two out"),
        (("--devices", "cpu,cpu", "--follow"), "leave one of the two out"),
    ],
)
def test_devices_that_cannot_be_are_refused(words: tuple[str, ...], remedy: str) -> None:
    error = analyze(*words, code=2)
    assert len(error.splitlines()) == 1
    assert remedy in error


def test_the_process_that_writes_is_not_asked_for_what_the_devices_can(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = Settings(model="./net.py:make", limit=8, eigenvalues=0, precision="tf32")
    with pytest.raises(UsageError, match="this is the CPU"):
        run_on_devices([Path("ckpts")], settings, Resources(devices=("cpu", "cpu")))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    found = run_on_devices([Path("ckpts")], settings, Resources(devices=("0", "1")))
    assert found.question["device"] == "cuda"
    assert found.analysis.device == "cuda:0, cuda:1"
    assert found.inputs.data is found.inputs.examples  # which lie where they were read
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda name: f"GPU {torch.device(name).index}")
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda name: 1 + torch.device(name).index)
    monkeypatch.setattr(torch.cuda, "max_memory_reserved", lambda name: 2 + torch.device(name).index)
    monkeypatch.setattr(torch.backends.cudnn, "version", lambda: 90000)
    record = found.analysis.run_metadata()
    assert (record["gpu"], record["peak_device_memory_bytes"]) == ("GPU 0, GPU 1", 2)


# --- the same bytes


def test_two_processes_write_what_one_writes(monkeypatch: pytest.MonkeyPatch) -> None:
    spoil()
    analyze("-o", "whole.csv", code=3)
    analyze("--devices", "cpu,cpu", "-o", "many.csv", code=3)
    assert_equal_reports("many.csv", "whole.csv", "", ".layers", may_differ=OF_THE_DEVICES)
    run("check", "many.csv")
    monkeypatch.setattr(BaseProcess, "start", None)  # all rows are there: nobody is needed
    Path("ckpts/step_5.pt").unlink()
    for step in (0, 1, 2, 7, 8):
        Path(f"ckpts/step_{step}.pt").unlink()
    analyze("--devices", "cpu,cpu", "-o", "many.csv")


@pytest.mark.long
def test_three_processes_on_a_shard_with_spectra_and_parquet() -> None:
    words = ("ckpts", "--limit", "6", "--eigenvalues", "2", "--model", "./net.py:make")
    run("spectrum", *words, "--shard", "2/2", "-o", "one.parquet")
    run("spectrum", *words, "--shard", "2/2", "--devices", "cpu,cpu,cpu", "-o", "many.parquet")
    assert_equal_reports("many.parquet", "one.parquet", ".spectrum", may_differ=OF_THE_DEVICES)


@pytest.mark.ci
def test_a_process_that_dies_is_replaced_and_what_kills_it_twice_is_a_row() -> None:
    Path("net.py").write_text(DEADLY)
    for step, mark in ((3, 1000.0), (8, 2000.0)):
        weights = torch.load(f"ckpts/step_{step}.pt", weights_only=True)
        weights["1.bias"][0] = mark
        torch.save(weights, f"ckpts/step_{step}.pt")
    said = analyze("--devices", "cpu,cpu", "-o", "many.csv", code=3)
    assert "Traceback" not in said
    Path("killed-1000").touch()
    rows = Path("many.csv").read_text().splitlines()
    assert [row.split(",")[1] for row in rows if "was ended by signal 9, 2 times" in row] == ["step_8.pt"]
    weights["1.bias"][0] = float("nan")  # where one process alone fails too
    torch.save(weights, "ckpts/step_8.pt")
    analyze("-o", "whole.csv", code=3)
    others = [row for row in Path("whole.csv").read_text().splitlines() if ",step_8." not in row]
    assert [row for row in rows if ",step_8." not in row] == others


# --- stopped


def _started(*words: str) -> "subprocess.Popen[str]":
    root = Path(__file__).parents[2]
    process = subprocess.Popen(
        [sys.executable, "-m", "fisher_cli", "analyze", "ckpts", *QUICK, *words, "--devices", "cpu,cpu"],
        env={**os.environ, "PYTHONPATH": str(root)},
        start_new_session=True,
        stderr=subprocess.PIPE,
        text=True,
    )
    journal = Path("many.fisher")
    until(lambda: process.poll() is not None or ((journal / "journal.jsonl").exists() and read_records(journal)[1]))
    assert process.poll() is None, process.communicate()
    return process


def _group_is_gone(group: int) -> bool:
    """Whether all processes of a group have ended."""
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return True
    return False


# Once a row is in the journal every network waits until it is stopped.
WAITING = """
import time
from pathlib import Path
from torch import nn

class Net(nn.Sequential):
    def forward(self, inputs):
        journal = Path("many.fisher/journal.jsonl")
        while Path("hold").exists() and journal.exists() and journal.read_bytes().count(b"\\n") > 1:
            time.sleep(0.01)
        return super().forward(inputs)

def make():
    return Net(nn.Flatten(), nn.Linear(64, 4), nn.Tanh(), nn.Linear(4, 10))
"""


def _same_when_gone_on_with() -> None:
    finished = len(read_records(Path("many.fisher"))[1])
    said = analyze("-o", "many.csv")
    assert f"{finished} of 12 checkpoints were finished before and are kept" in said
    analyze("-o", "whole.csv")
    assert_equal_reports("many.csv", "whole.csv", "", ".layers")


@pytest.mark.ci
def test_ctrl_c_keeps_what_is_finished_and_leaves_no_process() -> None:
    Path("net.py").write_text(WAITING)
    Path("hold").touch()
    process = _started("-o", "many.csv")
    os.killpg(process.pid, signal.SIGINT)
    _, said = process.communicate(timeout=PATIENCE)
    assert process.returncode == 130, said
    assert "Traceback" not in said, said
    until(lambda: _group_is_gone(process.pid))
    Path("hold").unlink()
    _same_when_gone_on_with()


@pytest.mark.long
def test_the_workers_end_with_the_process_that_writes() -> None:
    Path("net.py").write_text(WAITING)
    Path("hold").touch()
    process = _started("-o", "many.csv")
    process.kill()
    Path("hold").unlink()
    process.communicate(timeout=PATIENCE)
    until(lambda: _group_is_gone(process.pid))
    _same_when_gone_on_with()
