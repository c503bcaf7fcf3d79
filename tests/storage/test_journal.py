"""The journal: whatever kills, fills or damages it, a record is whole, absent, or refused; never another number."""

import errno
import multiprocessing
import os
import random
import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from fisher_cli.errors import LockedError, RecordError
from fisher_cli.storage import atomic_write
from fisher_cli.storage.journal import Journal, open_journal, read_records
from fisher_cli.storage.report_folder import journal_folder
from tests.journals import ASKED, die_at, fail_at, filled, record, records_up_to
from tests.small_run import in_child
from tests.waiting import PATIENCE


def test_records_come_back_and_grow(tmp_path: Path) -> None:
    folder = journal_folder(tmp_path / "trend.csv")
    assert folder.name == "trend.fisher"
    first = filled(folder)
    with open_journal(folder, ASKED) as journal:
        assert journal.records == first
        assert list(journal.records) == list(first)
        journal.append(record(3))
        journal.append(replace(record(0), previous="sha256:9999"))
        assert journal.find(record(0).key) == record(0)
        assert journal.find(("sha256:0000", "sha256:9999")) == replace(record(0), previous="sha256:9999")
    asked, records, dropped = read_records(folder)
    assert asked == ASKED
    assert dropped == 0
    assert set(records) == {*first, record(3).key, ("sha256:0000", "sha256:9999")}


def test_another_question_is_refused_in_words(tmp_path: Path) -> None:
    folder = tmp_path / "trend.fisher"
    filled(folder)
    other = {**ASKED, "settings": {"limit": 200, "data": "digits"}}
    with pytest.raises(RecordError, match=r"settings.limit was 100 and is 200.*--force"):
        open_journal(folder, other)
    assert len(read_records(folder)[1]) == 3
    with open_journal(folder, other, fresh=True) as journal:
        assert journal.records == {}


def test_a_foreign_file_or_folder_in_the_way(tmp_path: Path) -> None:
    (tmp_path / "a.fisher").write_text("mine")
    with pytest.raises(RecordError, match="in the way"):
        open_journal(tmp_path / "a.fisher", ASKED)


@pytest.mark.ci
@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_a_kill_before_and_after_every_step_loses_at_most_the_record_under_way(
    tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    """D2: the process dies at its k-th durable step, for every k until it no longer does."""
    killed = 0
    for after in (False, True):
        for at in range(1, 100):
            folder = tmp_path / f"{after}-{at}.fisher"

            def work(folder: Path = folder, at: int = at, after: bool = after) -> None:
                die_at(at, after=after)
                filled(folder)

            code = in_child(work)
            if code == 0:
                break
            assert code == -signal.SIGKILL
            killed += 1
            with open_journal(folder, ASKED) as journal:
                assert journal.records == records_up_to(len(journal.records))
                for index in range(len(journal.records), 3):
                    journal.append(record(index))
            assert list(read_records(folder)[1].values()) == [record(i) for i in range(3)]
            assert sorted(path.name for path in folder.iterdir()) == ["journal.jsonl", "lock"]
        else:
            pytest.fail("it never came to its end")
    record_property("kills", killed)
    assert killed >= 24


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EIO, errno.EDQUOT, errno.EFBIG])
@pytest.mark.parametrize("persistent", [False, True])
def test_every_step_failing_in_turn_tears_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int, persistent: bool
) -> None:
    """D4: the k-th step, or all from the k-th on, fail; half of what was to be written is on the disk."""
    for at in range(1, 100):
        folder = tmp_path / f"{at}.fisher"
        with monkeypatch.context() as patch:
            fail_at(patch, at, code, persistent=persistent)
            try:
                filled(folder)
            except RecordError as error:
                assert os.strerror(code) in str(error)  # noqa: PT017
                assert str(folder) in str(error)  # noqa: PT017
            else:
                break
        with open_journal(folder, ASKED) as journal:
            assert journal.records == records_up_to(len(journal.records))
        assert list(filled(folder).values()) == [record(i) for i in range(3)]
    else:
        pytest.fail("it never came to its end")
    assert at > 8


def test_a_failed_append_is_the_last_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with open_journal(tmp_path / "t.fisher", ASKED) as journal:
        with monkeypatch.context() as patch:
            fail_at(patch, 1, errno.ENOSPC, persistent=False)
            with pytest.raises(RecordError, match="make room and run the same command again"):
                journal.append(record(0))
        with pytest.raises(ValueError, match="closed"):
            journal.append(record(0))
        assert journal.records == {}


def test_three_hundred_corruptions_give_no_wrong_number(
    tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    """D13: bits flipped, bytes cut off, lines joined: a record is right, dropped, or all is refused."""
    folder, draw = tmp_path / "t.fisher", random.Random(0)
    right = filled(folder, 5)
    path = folder / "journal.jsonl"
    whole, outcomes = path.read_bytes(), {"kept": 0, "dropped": 0, "refused": 0}
    for trial in range(300):
        content = bytearray(whole)
        # Every tenth time in the first line, which is short; the first time the last line whole, without its end.
        place = draw.randrange(whole.index(b"\n") if trial % 10 == 9 else len(content)) if trial else len(content) - 1
        if trial % 3 == 0:
            del content[place:]
        elif trial % 3 == 1:
            content[place] ^= 1 << draw.randrange(8)
        else:
            del content[place : place + draw.randrange(1, 40)]
        path.write_bytes(content)
        try:
            with open_journal(folder, ASKED) as journal:
                found = dict(journal.records)
                journal.append(record(7))
        except RecordError as error:
            assert "damaged" in str(error) or "--force" in str(error)  # noqa: PT017
            outcomes["refused"] += 1
            continue
        assert found.items() <= right.items()
        # Nothing is glued to a torn line, and nothing damaged stays.
        assert read_records(folder)[1:] == ({**found, record(7).key: record(7)}, 0)
        outcomes["kept" if len(found) == 5 else "dropped"] += 1
    record_property("outcomes", outcomes)
    assert outcomes["dropped"] > 150
    assert outcomes["refused"] > 4


def race(folder: Path, gate: Any, results: Any, over: Any) -> None:
    gate.wait()
    try:
        journal = open_journal(folder, ASKED)
    except LockedError as error:
        results.put(str(error))
    else:
        results.put("")
        over.wait(PATIENCE)  # until the others have been refused
        journal.close()


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_of_racing_writers_one_wins(tmp_path: Path) -> None:
    """D7: the others are told who it is."""
    context = multiprocessing.get_context("fork")
    for trial in range(5):
        folder, results = tmp_path / f"{trial}.fisher", context.Queue()
        gate, over = context.Event(), context.Event()
        racers = [context.Process(target=race, args=(folder, gate, results, over)) for _ in range(2 + trial)]
        for racer in racers:
            racer.start()
        gate.set()
        found = [results.get(timeout=PATIENCE) for _ in racers]
        over.set()
        for racer in racers:
            racer.join()
        assert found.count("") == 1
        assert all("another process is writing" in text for text in found if text)
        assert any(f"process {racer.pid} on" in text for racer in racers for text in found)


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_a_killed_owner_leaves_no_lock(tmp_path: Path) -> None:
    def work() -> None:
        journal: Journal = open_journal(tmp_path / "t.fisher", ASKED)
        journal.append(record(0))
        os.kill(os.getpid(), signal.SIGKILL)

    for _ in range(20):
        assert in_child(work) == -signal.SIGKILL
        with open_journal(tmp_path / "t.fisher", ASKED) as journal:
            assert list(journal.records) == [("sha256:0000", None)]


def test_a_signal_during_a_write_that_fails_is_not_lost(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(_descriptor: int, _data: bytes) -> None:
        signal.raise_signal(signal.SIGINT)
        raise OSError(errno.ENOSPC, "No space left on device")

    with open_journal(tmp_path / "t.fisher", ASKED) as journal:
        monkeypatch.setattr(atomic_write, "write", interrupted)
        with pytest.raises(KeyboardInterrupt):
            journal.append(record(0))
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_a_signal_waits_for_the_write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = atomic_write.write

    def interrupted(descriptor: int, data: bytes) -> None:
        real(descriptor, data[:10])
        signal.raise_signal(signal.SIGINT)
        real(descriptor, data[10:])

    with open_journal(tmp_path / "t.fisher", ASKED) as journal:
        monkeypatch.setattr(atomic_write, "write", interrupted)
        with pytest.raises(KeyboardInterrupt):
            journal.append(record(0))
    assert list(read_records(tmp_path / "t.fisher")[1].values()) == [record(0)]
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
