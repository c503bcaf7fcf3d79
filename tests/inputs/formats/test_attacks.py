"""Hostile files are refused in one line each, with little work and memory, and nothing in them is ever run."""

import json
import pickle  # noqa: TID251  only for the control that shows what the hook sees
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.attacks.assembly import call, name, pickled, text
from tests.attacks.child import watch
from tests.attacks.corpus import write_corpus, write_good
from tests.attacks.work import odd_files
from tests.long_lists import draw, some

ROOT = Path(__file__).parents[3]
MOST_CALLS = 2 * 10**7  # the most that is allowed to be stored in a file takes nearly half of it
MOST_MEMORY = 256 << 20


def answers(jobs: list[list[Path]], how: str) -> list[dict[str, Any]]:
    asked = json.dumps([[str(path) for path in job] for job in jobs])
    found = subprocess.run(
        [sys.executable, "-m", "tests.attacks.child", how],
        input=asked,
        capture_output=True,
        text=True,
        cwd=ROOT,
    )
    assert found.returncode == 0, found.stderr
    return [json.loads(line) for line in found.stdout.splitlines()]


Written = tuple[list[Path], list[Path], Path]


@pytest.fixture(scope="module", params=[0.04, pytest.param(1.0, marks=pytest.mark.long)], ids=["some", "all"])
def written(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Written:
    """Good checkpoints, attacks, and the marker that one of these would make."""
    folder = tmp_path_factory.mktemp("attacks")
    attacks = draw(write_corpus(folder / "bad", folder / "marker"), request.param)
    assert len(attacks) >= 350 * request.param
    return write_good(folder / "good"), attacks, folder / "marker"


def attacked_by(written: Written, how: str) -> dict[str, Any]:
    """The attacks between good checkpoints, each read in a process of its own; the first answer is without attack."""
    good, attacks, marker = written
    jobs = [good, *([*good[:2], attack, good[2]] for attack in attacks)]
    first, *rest = answers(jobs, how)
    return {"good": first, "answers": dict(zip(attacks, rest, strict=True)), "marker": marker}


@pytest.fixture(scope="module")
def here(written: Written) -> dict[str, Any]:
    """The reader alone, with its own budgets: what is counted."""
    return attacked_by(written, "here")


@pytest.fixture(scope="module")
def elsewhere(written: Written) -> dict[str, Any]:
    """The reader in its process, as a user has it, within ten seconds of the processor."""
    return attacked_by(written, "elsewhere")


@pytest.fixture(params=["here", "elsewhere"])
def attacked(request: pytest.FixtureRequest, here: dict[str, Any], elsewhere: dict[str, Any]) -> dict[str, Any]:
    return here if request.param == "here" else elsewhere


def test_every_attack_is_refused_in_one_line(attacked: dict[str, Any], record_property: Any) -> None:
    refused, wrong = 0, []
    for path, answer in attacked["answers"].items():
        rows = {row["path"]: row for row in answer.get("rows", [])}
        row = rows.get(str(path), {})
        line = row.get("text", "")
        is_refused = "error" in row and line.isprintable() and path.name in line and ";" in line and len(line) < 900
        refused += is_refused
        if not is_refused or answer["signal"]:
            wrong.append((path.name, answer.get("escaped"), answer["signal"], row))
    record_property("refused", f"{refused}/{len(attacked['answers'])}")
    assert not wrong, f"refused {refused}/{len(attacked['answers'])}: {wrong[:5]}"
    assert not attacked["marker"].exists()


def test_the_checkpoints_around_an_attack_are_unharmed(attacked: dict[str, Any]) -> None:
    expected = {row["path"]: row["weights"] for row in attacked["good"]["rows"]}
    assert len(expected) == 3
    for path, answer in attacked["answers"].items():
        rows = {row["path"]: row.get("weights") for row in answer["rows"] if row["path"] != str(path)}
        assert rows == expected, path.name


def test_no_attack_takes_much_work_or_memory(here: dict[str, Any], record_property: Any) -> None:
    idle = here["good"]["bytes"]
    calls = {path.name: answer["calls"] for path, answer in here["answers"].items()}
    memory = {path.name: answer["bytes"] - idle for path, answer in here["answers"].items()}
    slowest, largest = max(calls, key=calls.__getitem__), max(memory, key=memory.__getitem__)
    record_property("most work", f"{slowest}: {calls[slowest]:,} calls")
    record_property("largest", f"{largest}: {memory[largest] >> 20} MiB")
    assert calls[slowest] <= MOST_CALLS, (slowest, calls[slowest])
    assert memory[largest] <= MOST_MEMORY, (largest, memory[largest] >> 20)


def test_no_file_causes_an_import_a_call_a_process_or_a_connection(here: dict[str, Any], record_property: Any) -> None:
    events = {path.name: answer["events"] for path, answer in here["answers"].items() if answer["events"]}
    record_property("events", f"{len(events)}/{len(here['answers'])}")
    assert not events
    assert not here["good"]["events"]


@pytest.mark.ci
@pytest.mark.parametrize("what", some([what for what, _ in odd_files()], seed=3))
def test_odd_files_that_may_be_read_are_read_at_once(what: str, tmp_path: Path) -> None:
    """What is odd in them stays inert: nobody hashes it, prints it or copies it."""
    path = tmp_path / what
    path.write_bytes(dict(odd_files())[what])
    answer = answers([write_good(tmp_path / "good")[:1], [path]], "elsewhere")[1]
    assert answer["signal"] == 0
    assert all("weights" in row for row in answer["rows"]), answer["rows"]


def test_the_hook_would_have_seen_it(tmp_path: Path) -> None:
    """What Python's own unpickler does with one of the files."""
    bad = tmp_path / "bad.pkl"
    bad.write_bytes(pickled(call(name("builtins", "eval"), text("1 + 1"))))
    code = (
        "import sys, pickle; from tests.attacks.child import watch; seen = watch(); "
        f"pickle.load(open({str(bad)!r}, 'rb')); print(seen)"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    for event in ("pickle.find_class", "compile", "exec"):
        assert event in found.stdout
    assert callable(watch)
    assert pickle.loads(bad.read_bytes()) == 2
