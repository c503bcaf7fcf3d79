"""The whole command on a bad day: nothing computed in vain, no torn file, one line, and the next run ends the same."""

import errno
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from fisher_cli.cli.app import app
from fisher_cli.results import Measurement
from fisher_cli.run.row import Predecessor, Source, ThisProcess
from fisher_cli.storage.integrity import check_report
from fisher_cli.storage.readers import read_table
from tests.journals import fail_at
from tests.small_run import QUICK, analyze, forget, measured_from_now_on, tables, uninterrupted
from tests.waiting import until

ROOT = Path(__file__).parents[2]
pytestmark = [
    pytest.mark.usefixtures("ckpts"),
    pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning"),
]
REMEDY = "; fix that, or choose another folder for -o"
ENDS = {False: "transient", True: "persistent"}


def in_background(prepare: Callable[[pytest.MonkeyPatch], None], said: Path) -> int:
    """The process of the command in a forked child, after `prepare`; what it says goes to a file."""
    child = os.fork()
    if child:
        return child
    code = 99
    try:
        sys.stdout = sys.stderr = open(said, "w", buffering=1)  # noqa: SIM115 - until the process ends
        prepare(pytest.MonkeyPatch())
        app(["analyze", "ckpts", *QUICK, "-o", "r.csv", "-q"], prog_name="fisher")
    except SystemExit as stop:
        code = int(stop.code or 0)
    finally:
        os._exit(code)


def ended(child: int) -> int:
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def valid() -> bool:
    return all(finding.ok for finding in check_report(Path("r.csv").absolute()))


def _writes_fail(stride: int, record_property: Callable[[str, object], None]) -> None:
    for path in sorted(Path("ckpts").iterdir())[4:]:
        path.unlink()
    expected, _ = uninterrupted()
    names = sorted(path.name for path in Path("ckpts").iterdir())
    names.sort(key=lambda name: int("".join(filter(str.isdigit, name))))
    faults = {"transient": 0, "persistent": 0}
    for persistent, word in ENDS.items():
        for at in range(1, 400, stride):
            code = (errno.ENOSPC, errno.EIO, errno.EDQUOT, errno.EFBIG)[at // stride % 4]

            def prepare(patch: pytest.MonkeyPatch, at: int = at, code: int = code, last: bool = persistent) -> None:
                fail_at(patch, at, code, persistent=last)

            exit_code, said = ended(in_background(prepare, Path("said.txt"))), Path("said.txt").read_text()
            if exit_code == 0:
                break
            faults[word] += 1
            assert exit_code == 1, said
            assert said.count("\n") == 1, said
            assert "error: cannot write" in said
            assert os.strerror(code) in said
            for name in ("r.csv", "r.layers.csv"):
                if Path(name).exists():  # whole: rows of some checkpoints from the first on
                    rows = list(dict.fromkeys(read_table(Path(name))["checkpoint"]))
                    assert rows == names[: len(rows)]
            analyze()
            assert tables() == expected
            assert valid()
            assert not list(Path().glob("**/*.tmp"))
            forget()
        else:
            pytest.fail("it never came to its end")
        if Path("r.fisher").exists():
            forget()
    record_property("D4", f"0 torn files after {faults} faults, {sum(faults.values())} reports valid after them")
    assert min(faults.values()) >= 30 // stride


@pytest.mark.ci
def test_every_write_of_the_command_failing_in_turn(record_property: Callable[[str, object], None]) -> None:
    """D4 and D12, every fifteenth write."""
    _writes_fail(15, record_property)


@pytest.mark.long
def test_every_single_write_of_the_command_failing(record_property: Callable[[str, object], None]) -> None:
    """D4 and D12."""
    _writes_fail(1, record_property)


def _wait_for_the_others(patch: pytest.MonkeyPatch) -> None:
    """Whoever comes to measuring has won, and waits there until all others have ended."""
    real = ThisProcess.measure_row

    def measure(self: ThisProcess, source: Source, previous: Predecessor) -> Measurement:
        until(lambda: Path("go").exists())
        return real(self, source, previous)

    patch.setattr(ThisProcess, "measure_row", measure)


def _races(trials: int, record_property: Callable[[str, object], None]) -> None:
    expected, _ = uninterrupted()
    refused = 0
    for trial in range(trials):
        said = [Path(f"said{i}.txt") for i in range(2 + trial % 7)]
        racers = {in_background(_wait_for_the_others, path): path for path in said}
        while len(racers) > 1:
            child, status = os.wait()
            assert os.waitstatus_to_exitcode(status) == 5, racers[child].read_text()
            text = racers.pop(child).read_text()
            assert "another process is writing this table (process " in text
            assert text.count("\n") == 1
            refused += 1
        Path("go").touch()
        assert ended(*racers) == 0
        assert tables() == expected
        assert valid()
        Path("go").unlink()
        forget()
    record_property("D7", f"{trials}/{trials} races with one winner, {refused} refused")


@pytest.mark.ci
def test_of_commands_that_race_one_wins(record_property: Callable[[str, object], None]) -> None:
    """D7, a part."""
    _races(2, record_property)


@pytest.mark.long
def test_fifty_races(record_property: Callable[[str, object], None]) -> None:
    """D7."""
    _races(50, record_property)


PLACES = {
    "missing/r.csv": "there is no folder missing",
    "file/r.csv": "is not a folder",
    "loop.csv": "cannot write",
    "ckpts/step_3.csv": "is one of the checkpoints of this run",
    "mine.csv": "--force",
    "other.csv": "is in the way",
}
MOUNTS = """
mount -t tmpfs -o size=8k none full && head -c 8192 /dev/zero > full/rest
mount --bind shut shut && mount -o remount,bind,ro shut
"$@" full/r.csv; echo $?
"$@" shut/r.csv; echo $?
"""


def test_what_cannot_be_written_is_said_before_anything_is_computed(
    monkeypatch: pytest.MonkeyPatch, record_property: Callable[[str, object], None]
) -> None:
    """D6: six of the eight places; the two that need a mount of their own are below."""
    Path("file").write_text("")
    Path("loop.csv").symlink_to("loop.csv")
    shutil.move("ckpts/step_3.pt", "ckpts/step_3.csv")
    Path("mine.csv").write_text("a,b\n")
    Path("other.fisher").write_text("mine")
    measured, before = (
        measured_from_now_on(monkeypatch),
        {path: path.read_bytes() for path in Path().glob("*.*") if path.is_file()},
    )
    for place, said in PLACES.items():
        words = ("ckpts/step_3.csv", "--force") if place.startswith("ckpts") else ()
        assert said in analyze(*words, "-o", place, code=1)
    assert measured == []
    assert {path: path.read_bytes() for path in before} == before
    record_property("D6", f"{len(PLACES)}/6")


def test_full_and_read_only_folders_are_said_before_anything_is_computed() -> None:
    """D6: the other two, in a namespace where mounting is allowed."""
    for folder in ("full", "shut"):
        Path(folder).mkdir()
    if shutil.which("unshare") is None or subprocess.run(["unshare", "-rm", "true"], check=False).returncode:
        pytest.skip("2 of 8 places: mounting is not allowed here")
    command = [sys.executable, "-m", "fisher_cli", "analyze", "ckpts", *QUICK, "-o"]
    done = subprocess.run(
        ["unshare", "-rm", "sh", "-c", MOUNTS, "sh", *command],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    assert done.stdout.split() == ["1", "1"], done.stderr
    assert done.stderr.splitlines() == [
        f"error: cannot write full/r.csv: No space left on device{REMEDY}",
        f"error: cannot write shut/r.csv: Read-only file system{REMEDY}",
    ]
