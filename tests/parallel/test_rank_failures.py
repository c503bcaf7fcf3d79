"""D11 of the reliability list: whichever process ends, all end soon, one speaks, and the same command goes on."""

import contextlib
import hashlib
import os
import random
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path

import pytest

from fisher_cli.errors import ArchitectureError
from fisher_cli.inputs.user_code import built
from fisher_cli.storage.journal import read_records
from tests.command import fisher
from tests.long_lists import some
from tests.small_run import forget, write_checkpoints
from tests.torchrun import assert_equal, environment, torchrun
from tests.waiting import PATIENCE, pause, until

WORDS = ("analyze", "ckpts", "--limit", "8", "-b", "2", "--eigenvalues", "1", "--model", "./net.py:make", "-o", "r.csv")
TABLES = ("r.csv", "r.layers.csv")
COUNT = 12
# Once the journal has as many rows as the file `hold` says, the network waits until it is stopped.
NET = """
import time
from pathlib import Path
from torch import nn

class Net(nn.Sequential):
    def forward(self, inputs):
        hold, journal = Path("hold"), Path("r.fisher/journal.jsonl")
        while hold.exists() and journal.exists() and journal.read_bytes().count(b"\\n") > int(hold.read_text()):
            time.sleep(0.01)
        return super().forward(inputs)

def make():
    return Net(nn.Flatten(), nn.Linear(64, 4), nn.Tanh(), nn.Linear(4, 10))
"""
# Lines of ours that say how a run ended; after the first only the reason may follow.
ENDINGS = re.compile(r"^(?:interrupted|stopped): \d+ of \d+ checkpoints.*$|^error: .*$|^table: .*$", re.MULTILINE)


@pytest.fixture
def run_folder(workdir: Path) -> Iterator[Path]:
    """A folder with twelve small checkpoints, whose network waits where it is told to."""
    write_checkpoints(COUNT)
    Path("net.py").write_text(NET)
    yield workdir
    for process in processes_here(workdir):  # a failing test leaves none behind either
        with contextlib.suppress(ProcessLookupError):
            os.kill(process, signal.SIGKILL)


def processes_here(folder: Path) -> dict[int, int]:
    """The ranks of this folder's runs that are alive, by process: those of other tests work elsewhere."""
    found = {}
    for process in Path("/proc").iterdir():
        with contextlib.suppress(OSError, ValueError):
            if process.name.isdecimal() and (process / "cwd").readlink() == folder.resolve():
                words = dict(
                    each.split("=", 1) for each in (process / "environ").read_text().split("\0") if "=" in each
                )
                if "RANK" in words and "Z" not in (process / "stat").read_text().rpartition(")")[2].split()[0]:
                    found[int(process.name)] = int(words["RANK"])
    return found


def finished() -> int:
    """How many rows the journal holds."""
    path = Path("r.fisher/journal.jsonl")
    return len(read_records(Path("r.fisher"))[1]) if path.exists() and b"\n" in path.read_bytes() else 0


def _until_finished(wanted: int, agent: "subprocess.Popen[str]") -> None:
    until(lambda: finished() >= wanted or agent.poll() is not None)


def digests() -> dict[str, str]:
    return {name: hashlib.sha256(Path(name).read_bytes()).hexdigest() for name in TABLES}


def started(folder: Path) -> "subprocess.Popen[str]":
    return torchrun(2, "fisher_cli", *WORDS, cwd=folder)


def ended(folder: Path, agent: "subprocess.Popen[str]", whom: str, number: int) -> tuple[int, str]:
    """Send a signal to a rank or the agent and wait until nothing is left: the exit code, what was said."""
    if whom == "agent":
        agent.send_signal(number)
    else:
        for process, rank in processes_here(folder).items():
            if str(rank) == whom:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(process, number)
    until(lambda: agent.poll() is not None and not processes_here(folder))
    _, said = agent.communicate(timeout=PATIENCE)
    return agent.returncode, said


def resume_alone() -> None:
    fisher(*WORDS)


@cache
def uninterrupted() -> dict[str, bytes]:
    """The tables of one process that nothing stops; the checkpoints are the same in every test."""
    forget()
    resume_alone()
    return {name: Path(name).read_bytes() for name in TABLES}


def resume_together(folder: Path) -> None:
    agent = started(folder)
    _, said = agent.communicate(timeout=PATIENCE)
    assert agent.returncode == 0, said


def check_end(code: int, said: str) -> None:
    """One message at most, no traceback of ours, and an exit code that is not 0 unless the run was over already."""
    endings = ENDINGS.findall(said)
    assert len([each for each in endings if not each.startswith("error: ")]) <= 1, said
    assert len([each for each in endings if each.startswith("error: ")]) <= 1, said
    assert "fisher_cli/" not in said, said  # no frame of ours
    assert code != 0 or any(each.startswith("table: ") for each in endings)
    assert not list(Path().glob("**/*.tmp"))


@pytest.mark.parametrize(
    ("whom", "number"),
    some([("1", signal.SIGKILL), ("0", signal.SIGKILL), ("agent", signal.SIGKILL), ("agent", signal.SIGTERM)]),
    ids=["rank 1 killed", "rank 0 killed", "agent killed", "agent terminated"],
)
def test_whoever_ends_all_end_and_another_number_of_ranks_goes_on(run_folder: Path, whom: str, number: int) -> None:
    """D11, one instant each, between the second and the seventh row; resumed by one process."""
    wanted = random.Random(f"{whom}/{number}").randrange(2, 8)
    Path("hold").write_text(str(wanted))
    agent = started(run_folder)
    _until_finished(wanted, agent)
    code, said = ended(run_folder, agent, whom, number)
    Path("hold").unlink()
    check_end(code, said)
    assert code != 0
    kept = finished()
    assert wanted <= kept < COUNT
    resume_alone()
    assert finished() == COUNT
    resumed = {name: Path(name).rename(f"resumed-{name}") for name in TABLES}
    for name, content in uninterrupted().items():
        Path(name).write_bytes(content)
        assert_equal(Path(name), resumed[name])


@pytest.mark.ci
def test_ranks_whose_launcher_ended_before_they_looked_for_it_end_too(run_folder: Path) -> None:
    """Nobody keeps the store that they are to meet by; torch alone would wait for it for five minutes."""
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))  # bound, and nobody listens
        place = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(closed.getsockname()[1])}
        ranks = {"RANK": "0", "WORLD_SIZE": "2", "LOCAL_RANK": "0", "LOCAL_WORLD_SIZE": "2"}
        words = environment(**place, **ranks, TORCHELASTIC_USE_AGENT_STORE="True")
        command = [sys.executable, "-m", "fisher_cli", *WORDS]
        done = subprocess.run(
            command, env=words, cwd=run_folder, capture_output=True, text=True, timeout=PATIENCE, check=False
        )
    assert done.returncode == 1, done.stderr
    assert "the launcher has ended" in done.stderr


def test_a_signal_while_a_network_is_built_is_no_error_of_its_factory() -> None:
    with pytest.raises(SystemExit, match="143"):
        built(lambda: sys.exit(143), {}, "net.py:make")
    with pytest.raises(ArchitectureError, match="SystemExit: 3"):
        built(lambda: sys.exit(3), {}, "net.py:make")


TARGETS = [("1", signal.SIGKILL), ("0", signal.SIGKILL), ("agent", signal.SIGKILL)]
SIGNALS = [
    ("agent", signal.SIGTERM),
    ("agent", signal.SIGINT),
    ("agent", signal.SIGUSR1),
    ("0", signal.SIGTERM),
    ("0", signal.SIGUSR1),
    ("1", signal.SIGTERM),
    ("1", signal.SIGINT),
]


@pytest.mark.long
@pytest.mark.parametrize(("trials", "targets"), [(60, TARGETS), (35, SIGNALS)], ids=["kills", "signals"])
def test_at_any_instant(
    run_folder: Path, trials: int, targets: list[tuple[str, int]], record_property: Callable[[str, object], None]
) -> None:
    """D11 in full: twenty instants each, from the start of torchrun on; resumed by as many ranks, byte for byte."""
    resume_together(run_folder)
    reference = digests()
    forget()
    draw, equal = random.Random(0), 0
    for trial in range(trials):
        whom, number = targets[trial % len(targets)]
        # Any moment will do: some before the first row, where ranks start, the others about the end of one.
        wanted, later = draw.randrange(-4, COUNT), draw.uniform(0, 4)
        agent = started(run_folder)
        _until_finished(wanted, agent)
        pause(later if wanted <= 0 else later / 20)
        code, said = ended(run_folder, agent, whom, number)
        check_end(code, said)
        resume_together(run_folder)
        equal += digests() == reference
        forget()
    record_property("D11", f"{equal}/{trials} equal after resuming, none left behind")
    assert equal == trials
