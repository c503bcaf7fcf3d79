"""A folder of small checkpoints, and the run that measures it: what it writes, measures, and how it is stopped."""

import hashlib
import os
import shutil
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

import pytest
import torch
from torch import nn

from fisher_cli.cli.app import STOPPING_SIGNALS, main
from fisher_cli.results import Measurement
from fisher_cli.run.row import Predecessor, Source, ThisProcess
from tests.command import fisher

QUICK = ("--limit", "8", "--eigenvalues", "1", "--model", "./net.py:make")
NET = """
from torch import nn
def make():
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 4), nn.Tanh(), nn.Linear(4, 10))
"""


def write_checkpoints(count: int) -> None:
    """ckpts/step_0.pt and so on, each a step from the one before it, and net.py, whose `make` builds their network."""
    Path("net.py").write_text(NET)
    Path("ckpts").mkdir()
    torch.manual_seed(0)
    network = nn.Sequential(nn.Flatten(), nn.Linear(64, 4), nn.Tanh(), nn.Linear(4, 10))
    for step in range(count):
        torch.save(network.state_dict(), f"ckpts/step_{step}.pt")
        with torch.no_grad():
            for parameter in network.parameters():
                parameter += 0.1 * torch.randn_like(parameter)


def analyze(*words: object, code: int = 0) -> str:
    """What the run says on stderr; its tables are r.csv and r.layers.csv."""
    return fisher("analyze", "ckpts", *QUICK, "-o", "r.csv", *words, code=code).stderr


def tables(folder: Path = Path()) -> dict[str, str]:
    """The hashes of the tables."""
    return {name: hashlib.sha256((folder / name).read_bytes()).hexdigest() for name in ("r.csv", "r.layers.csv")}


def forget(report: str = "r") -> None:
    """Remove all that the run has written."""
    shutil.rmtree(f"{report}.fisher", ignore_errors=True)
    for path in Path().glob(f"{report}.*"):
        path.unlink()


def measured_from_now_on(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The checkpoints that are measured from now on."""
    measured: list[str] = []
    real = ThisProcess.measure_row

    def measure(self: ThisProcess, source: Source, previous: Predecessor) -> Measurement:
        measured.append(source.name)
        return real(self, source, previous)

    monkeypatch.setattr(ThisProcess, "measure_row", measure)
    return measured


def in_child(work: Callable[[], None]) -> int:
    """The exit code of the work in a forked process, negative for the signal that killed it."""
    child = os.fork()
    if child == 0:
        try:
            work()
        except BaseException:
            os._exit(1)
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def run_quietly() -> None:
    """The run in a forked process, which ends with it: as the console script sets it up, and silent."""
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, 1)
    os.dup2(null, 2)
    # What the test runner or whoever started it has set is none of the command's.
    for number in STOPPING_SIGNALS:
        signal.signal(number, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    code = 0
    sys.argv = ["fisher", "analyze", "ckpts", *QUICK, "-o", "r.csv"]
    try:
        main()
    except SystemExit as stop:
        code = int(stop.code or 0)
    os._exit(code)


def uninterrupted() -> tuple[dict[str, str], int]:
    """The tables of a run that nothing stops, and its function calls where everything is imported already."""
    analyze()
    forget()
    assert in_child(_count_calls) == 0
    calls = int(Path("calls").read_text())
    Path("calls").unlink()
    found = tables()
    forget()
    return found, calls


def _count_calls() -> None:
    calls, leave = 0, os._exit

    def count(*_: object) -> None:
        nonlocal calls
        calls += 1

    def noted(code: int) -> NoReturn:
        sys.setprofile(None)
        Path("calls").write_text(str(calls))
        leave(code)

    os._exit = noted  # type: ignore[assignment]  # this process ends with it
    sys.setprofile(count)
    run_quietly()
