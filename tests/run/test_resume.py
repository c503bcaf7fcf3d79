"""Hours of work are never lost: killed, interrupted or changed at any instant, the same command ends the same."""

import os
import random
import shutil
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import fisher_cli.cli.app
import fisher_cli.run.sequence
from fisher_cli.cli.app import main
from fisher_cli.errors import LockedError
from fisher_cli.results import Measurement
from fisher_cli.run.row import Predecessor, Source, ThisProcess
from fisher_cli.storage.journal import open_journal, read_records
from fisher_cli.storage.report_files import ReportFiles
from tests.small_run import NET, analyze, forget, in_child, measured_from_now_on, run_quietly, tables, uninterrupted

pytestmark = [
    pytest.mark.usefixtures("ckpts"),
    pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning"),
]


def _killed_after(calls: int, number: signal.Signals) -> int:
    """The exit code of a run that gets a signal after so many function calls, or returns of them."""
    left = calls

    def count(*_: object) -> None:
        nonlocal left
        left -= 1
        if left == 0:
            os.kill(os.getpid(), number)

    def work() -> None:
        sys.setprofile(count)
        run_quietly()

    return in_child(work)


def _kills(
    trials: int, checkpoints: int, record_property: Callable[[str, object], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    for step in range(checkpoints, 12):
        Path(f"ckpts/step_{step}.pt").unlink()
    expected, calls = uninterrupted()
    draw, equal, killed = random.Random(0), 0, 0
    for trial in range(trials):
        killed += _killed_after(draw.randrange(1, calls), signal.SIGKILL) == -signal.SIGKILL
        if trial % 4 == 0:  # and once more while it resumes
            killed += _killed_after(draw.randrange(1, calls // 2), signal.SIGKILL) == -signal.SIGKILL
        finished = len(read_records(Path("r.fisher"))[1]) if Path("r.fisher/journal.jsonl").exists() else 0
        with monkeypatch.context() as patch:
            measured = measured_from_now_on(patch)
            analyze()
        assert len(measured) == checkpoints - finished
        assert not list(Path().glob("**/*.tmp"))
        equal += tables() == expected
        forget()
    record_property("D1", f"{equal}/{trials} resumed runs equal, {killed} kills")
    assert equal == trials
    assert killed > 0.9 * trials  # the harness bites


@pytest.mark.ci
def test_a_kill_at_any_instant_loses_at_most_the_checkpoint_under_way(
    record_property: Callable[[str, object], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """D1, at fewer instants and over fewer checkpoints."""
    _kills(8, 4, record_property, monkeypatch)


@pytest.mark.long
def test_two_hundred_kills(record_property: Callable[[str, object], None], monkeypatch: pytest.MonkeyPatch) -> None:
    """D1."""
    _kills(200, 12, record_property, monkeypatch)


# In so many calls the handlers are set.
FIRST_CALLS = 100


def _signals(trials: int, checkpoints: int, record_property: Callable[[str, object], None]) -> None:
    for step in range(checkpoints, 12):
        Path(f"ckpts/step_{step}.pt").unlink()
    expected, calls = uninterrupted()
    draw, orderly, codes = random.Random(1), 0, set[int]()
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1)
    for trial in range(trials):
        number = numbers[trial % 4]
        code = _killed_after(draw.randrange(FIRST_CALLS, calls), number)
        codes.add(code)
        assert code in {0, 128 + number}
        analyze()
        orderly += tables() == expected
        forget()
    record_property("D5", f"{orderly}/{trials} orderly ends, exit codes {sorted(codes)}")
    assert orderly == trials
    assert len(codes - {0}) >= 3


@pytest.mark.ci
def test_a_signal_at_any_instant_ends_the_run_in_order(record_property: Callable[[str, object], None]) -> None:
    """D5, at fewer instants and over fewer checkpoints."""
    _signals(8, 4, record_property)


def test_ctrl_c_while_the_commands_are_made_ends_without_a_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted() -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(fisher_cli.cli.app, "app", interrupted)
    monkeypatch.setattr(signal, "signal", lambda *_: None)  # handlers of this process stay as they are
    with pytest.raises(SystemExit, match="130"):
        main()


@pytest.mark.long
def test_a_hundred_signals(record_property: Callable[[str, object], None]) -> None:
    """D5."""
    _signals(100, 12, record_property)


def test_a_finished_run_measures_nothing_again(monkeypatch: pytest.MonkeyPatch) -> None:
    analyze()
    before, measured = tables(), measured_from_now_on(monkeypatch)
    assert "12 of 12 checkpoints were finished before and are kept" in analyze()
    assert measured == []
    assert tables() == before
    analyze("--no-resume")
    assert len(measured) == 12
    assert tables() == before


def test_a_finished_report_is_written_anew_only_when_something_has_changed() -> None:
    def stamp() -> tuple[int, int]:
        status = Path("r.fisher/record.json").stat()
        return status.st_ino, status.st_mtime_ns  # the number of a file that is gone is given again

    analyze()
    kept = stamp()
    analyze()
    assert stamp() == kept
    Path("r.csv").unlink()
    analyze()
    assert stamp() != kept
    for change in (("--no-layers",), ()):
        kept = stamp()
        analyze(*change)
        assert stamp() != kept
        assert Path("r.layers.csv").exists() == (not change)
    kept = stamp()
    shutil.move("ckpts/step_0.pt", "ckpts/global_step_0.pt")
    analyze()
    assert stamp() != kept
    assert "global_step_0.pt" in Path("r.csv").read_text()


def test_weights_are_known_by_content_not_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    analyze()
    shutil.move("ckpts", "others")
    Path("ckpts").mkdir()
    for path in Path("others").iterdir():
        shutil.move(path, Path("ckpts") / path.name.replace("step", "global_step"))
    measured = measured_from_now_on(monkeypatch)
    analyze()
    assert measured == []
    assert "global_step_3.pt" in Path("r.csv").read_text()
    state = torch.load("ckpts/global_step_11.pt", weights_only=True)
    torch.save({name: value * 2 for name, value in state.items()}, "ckpts/global_step_11.pt")
    analyze()
    assert measured == ["global_step_11.pt"]


def test_copies_of_one_checkpoint_are_rows_of_their_own(monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.rmtree("ckpts")
    Path("ckpts").mkdir()
    torch.save(nn.Sequential(nn.Flatten(), nn.Linear(64, 4), nn.Tanh(), nn.Linear(4, 10)).state_dict(), "one.pt")
    for step in (1, 2, 3):
        shutil.copy("one.pt", f"ckpts/step_{step}.pt")
    analyze()
    before, measured = tables(), measured_from_now_on(monkeypatch)
    analyze()
    assert measured == []
    assert tables() == before


def test_a_failed_checkpoint_is_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    good = Path("ckpts/step_3.pt").read_bytes()
    Path("ckpts/step_3.pt").write_bytes(good[:200])
    analyze(code=3)
    Path("ckpts/step_3.pt").write_bytes(good)
    measured = measured_from_now_on(monkeypatch)
    analyze()
    assert measured == ["step_3.pt"]
    resumed = tables()
    analyze("--no-resume")
    assert tables() == resumed


CHANGES = {
    "limit": (("--limit", "9"), "settings.limit was 8 and is 9"),
    "seed": (("--seed", "1"), "settings.seed was 0 and is 1"),
    "labels": (("--labels", "labels.csv"), "settings.labels was null"),
    "precision": (("--dtype", "float64"), "settings.precision was"),
    "batch size": (("-b", "4"), "batch_size was null and is 4"),
    "eigenvalues": (("--eigenvalues", "2"), "settings.eigenvalues was 1 and is 2"),
    "estimator": (("--estimator", "sampled"), "settings.estimator was"),
    "parameters": (("--exclude", "*.bias"), "settings.exclude was"),
    "normalisation": (("--normalize", "half"), "settings.normalize was"),
    "split": (("--split", "test"), "settings.split was"),
}


@pytest.mark.parametrize("change", CHANGES)
def test_another_question_is_not_answered_with_old_numbers(change: str) -> None:
    """D9: what changes a number is refused, with the word for what changed; --force begins anew."""
    Path("labels.csv").write_text("index,label\n" + "".join(f"{i},{i % 10}\n" for i in range(1400)))
    for path in list(Path("ckpts").iterdir())[1:]:
        path.unlink()
    analyze()
    before, (words, said) = tables(), CHANGES[change]
    told = analyze(*words, code=1)
    assert "made with other settings" in told
    assert "--force" in told
    assert said in told
    assert tables() == before
    assert "finished before" not in analyze(*words, "--force")
    assert tables() != before


def test_other_code_or_versions_are_another_question(monkeypatch: pytest.MonkeyPatch) -> None:
    """D9: the network's own code, and the versions of fisher and torch."""
    analyze()
    Path("net.py").write_text(NET + "# changed\n")
    assert "model_code was" in analyze(code=1)
    Path("net.py").write_text(NET)
    with monkeypatch.context() as patch:
        patch.setattr(fisher_cli.run.sequence, "__version__", "9.9")
        assert "fisher was" in analyze(code=1)
    with monkeypatch.context() as patch:
        patch.setattr(torch, "__version__", "9.9")
        assert "torch was" in analyze(code=1)
    assert "12 of 12" in analyze()


def test_another_number_of_threads_is_another_question(monkeypatch: pytest.MonkeyPatch) -> None:
    """Sums in another order have other last digits: a run that is gone on with has those of the whole."""
    for step in range(2, 12):
        Path(f"ckpts/step_{step}.pt").unlink()
    analyze()
    before = tables()
    with monkeypatch.context() as patch:
        patch.setattr(torch, "get_num_threads", lambda: 4)
        said = analyze(code=1)
        assert "threads was 1 and is 4; go on with the same number, OMP_NUM_THREADS=1 before the command, " in said
        assert "threads was 1 and is 4" in analyze("--dry-run", code=1)
        assert tables() == before
        analyze("--force")
    assert "OMP_NUM_THREADS=4 before the command" in analyze(code=1)
    assert "OMP_NUM_THREADS" not in analyze("--limit", "9", code=1)


def test_other_data_and_draws_are_another_question() -> None:
    """D9: the bytes of the data, and words that change a number for some runs only."""
    for step in range(1, 12):
        Path(f"ckpts/step_{step}.pt").unlink()
    draw = np.random.default_rng(0)

    def save(seed: int) -> None:
        images = draw.integers(0, 256, (6, 8, 8), dtype=np.uint8)
        np.savez("d.npz", images=images, labels=np.arange(6) % 10 + seed)

    words = ("--data", "d.npz", "--normalize", "none")
    save(0)
    analyze(*words)
    assert "1 of 1" in analyze(*words)
    assert "settings.samples was 5 and is 7" in analyze(*words, "--samples", "7", code=1)
    assert "settings.target_error was null and is 0.1" in analyze(*words, "--target-error", "0.1", code=1)
    save(1)
    assert "data.identity was" in analyze(*words, code=1)


def test_two_writers_of_one_report(monkeypatch: pytest.MonkeyPatch) -> None:
    analyze()
    real = ThisProcess.measure_row

    def measure(self: ThisProcess, source: Source, previous: Predecessor) -> Measurement:
        if source.name == "step_0.pt":
            said = analyze(code=5)
            assert f"another process is writing this table (process {os.getpid()} on" in said
        return real(self, source, previous)

    monkeypatch.setattr(ThisProcess, "measure_row", measure)
    analyze("--no-resume")


def test_nobody_else_can_begin_while_the_report_is_written(monkeypatch: pytest.MonkeyPatch) -> None:
    real, tried = ReportFiles.write, []

    def write(self: ReportFiles, *arguments: Any) -> list[Path]:
        with pytest.raises(LockedError):
            open_journal(Path("r.fisher"), {})
        tried.append(self.main.name)
        return real(self, *arguments)

    monkeypatch.setattr(ReportFiles, "write", write)
    analyze()
    assert tried == ["r.csv"]
