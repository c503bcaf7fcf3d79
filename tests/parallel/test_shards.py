"""Shards of a run, joined, are the run: byte for byte, whatever failed in it and however often it was killed."""

import json
import os
import random
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from fisher_cli.cli.app import app
from fisher_cli.errors import UsageError
from fisher_cli.settings import Shard
from fisher_cli.storage import atomic_write
from fisher_cli.storage.journal import read_records
from fisher_cli.storage.report_folder import record_path
from tests.long_lists import some
from tests.shard_runs import analyze, assert_equal_reports, parts, run, spoil
from tests.small_run import QUICK, forget, in_child, measured_from_now_on

CLEAN = Path(__file__).parents[2] / "sample_checkpoints" / "digits-clean"
pytestmark = [
    pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning"),
    pytest.mark.usefixtures("ckpts"),
]


# --- shares


def test_shares_are_contiguous_and_cover_everything() -> None:
    for count in (0, 1, 2, 7, 14, 100):
        for of in (1, 2, 3, 14, 15, 64):
            shares = [Shard(index, of).share(count) for index in range(1, of + 1)]
            assert [place for share in shares for place in share] == list(range(count))
            assert max(map(len, shares)) - min(map(len, shares)) <= 1


@pytest.mark.parametrize("text", ["0/3", "4/3", "0/0", "-1/3", "1", "1/", "/3", "a/b", "1/3/3", "1.5/3", "", "１/３"])
def test_what_is_no_share_is_refused_with_one_that_is(text: str) -> None:
    with pytest.raises(UsageError, match=r"--shard .*1/\d"):
        Shard.read(text)
    error = run("analyze", "ckpts", f"--shard={text}", "-o", "r.csv", code=2)
    assert len(error.splitlines()) == 1


@pytest.mark.parametrize(
    ("words", "remedy"),
    [
        (("--normalize", "auto", "-o", "r.csv"), "type its choice"),
        (("--follow", "-o", "r.csv"), "leave one of the two out"),
        ((), "-o part-1.csv"),
        (("-o", "-"), "-o part-1.csv"),
    ],
)
def test_a_shard_of_what_must_be_seen_as_a_whole_is_refused(words: tuple[str, ...], remedy: str) -> None:
    error = analyze("--shard", "1/3", *words, code=2)
    assert len(error.splitlines()) == 1
    assert remedy in error


# --- the whole from its parts


LONG = pytest.mark.long


@pytest.mark.parametrize(
    "suffix", ["csv", "parquet", *(pytest.param(each, marks=LONG) for each in ("json", "jsonl", "tsv"))]
)
def test_joined_shards_are_the_whole_byte_for_byte(suffix: str) -> None:
    analyze("--per-example", "-o", f"whole.{suffix}")
    names = parts(3, suffix, "--per-example")
    run("merge", *reversed(names), "-o", f"joined.{suffix}")
    assert_equal_reports(f"joined.{suffix}", f"whole.{suffix}", "", ".layers", ".examples")
    assert "WRONG" not in run("check", f"joined.{suffix}")


@pytest.mark.parametrize("count", [4, *(pytest.param(each, marks=LONG) for each in (1, 2, 3, 5, 12, 15))])
def test_failing_checkpoints_leave_the_same_gaps(count: int) -> None:
    spoil()
    analyze("-o", "whole.csv", code=3)
    names = parts(count, code=None)
    run("merge", *names, "-o", "joined.csv", code=3)
    assert_equal_reports("joined.csv", "whole.csv", "", ".layers")


def test_parts_of_one_format_make_a_report_of_another() -> None:
    analyze("-o", "whole.parquet")
    run("merge", *parts(2), "-o", "joined.parquet")
    assert_equal_reports("joined.parquet", "whole.parquet", "", ".layers")


def test_a_sample_run_in_three_shards() -> None:
    words = ("--limit", "10", "--eigenvalues", "1", "-q")
    run("analyze", CLEAN, *words, "-o", "whole.parquet")
    for index in (1, 2, 3):
        run("analyze", CLEAN, *words, "--shard", f"{index}/3", "-o", f"part-{index}.parquet")
    run("merge", "part-1.parquet", "part-2.parquet", "part-3.parquet", "-o", "joined.parquet")
    assert_equal_reports("joined.parquet", "whole.parquet", "", ".layers")


def spectrum(*words: object) -> None:
    run("spectrum", "ckpts", "--limit", "8", "--eigenvalues", "2", "--model", "./net.py:make", *words, code=None)


@pytest.mark.parametrize(("suffix", "method"), some([("csv", "density"), ("parquet", "whole")]))
def test_spectra_are_joined_beside_the_report(suffix: str, method: str) -> None:
    spoil()
    words = ("--method", method, "--probes", "2", "--steps", "4")
    analyze("-o", f"whole.{suffix}", code=3)
    spectrum("-o", f"whole.{suffix}", *words)
    names = parts(4, suffix, code=None)
    for index, name in enumerate(names, start=1):
        spectrum("-o", name, "--shard", f"{index}/4", *words)
    run("merge", *names, "-o", f"joined.{suffix}", code=3)
    sides = (".density",) if method == "density" else ()
    assert_equal_reports(f"joined.{suffix}", f"whole.{suffix}", "", ".layers")
    assert_equal_reports(f"joined.{suffix}", f"whole.{suffix}", ".spectrum", *sides)
    run("merge", *(f"part-{index}.spectrum.{suffix}" for index in range(1, 5)), "-o", f"alone.{suffix}", code=3)
    assert_equal_reports(f"alone.{suffix}", f"whole.{suffix}", ".spectrum", *sides)
    assert not Path(f"alone.{suffix}").exists()


def test_the_joined_report_is_gone_on_with(monkeypatch: pytest.MonkeyPatch) -> None:
    run("merge", *parts(3), "-o", "joined.csv")
    before = Path("joined.csv").read_bytes()
    measured = measured_from_now_on(monkeypatch)
    analyze("-o", "joined.csv")
    assert measured == []
    assert Path("joined.csv").read_bytes() == before
    shutil.copy("ckpts/step_11.pt", "ckpts/step_12.pt")
    analyze("-o", "joined.csv")
    assert set(measured) <= {"step_11.pt", "step_12.pt"}
    run("report", "joined.csv", "-o", "joined.html")


def test_a_shard_is_gone_on_with_and_measures_its_predecessor_only_where_it_must(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    measured = measured_from_now_on(monkeypatch)
    analyze("--shard", "2/3", "-o", "part.csv")
    assert measured == [f"step_{step}.pt" for step in (3, 4, 5, 6, 7)]
    measured.clear()
    analyze("--shard", "2/3", "-o", "part.csv")
    assert measured == []
    error = analyze("--shard", "3/3", "-o", "part.csv", code=1)
    assert 'shard was "2/3" and is "3/3"' in error


def test_more_shards_than_checkpoints_give_empty_reports() -> None:
    for step in range(2, 12):
        Path(f"ckpts/step_{step}.pt").unlink()
    analyze("-o", "whole.parquet")
    names = parts(5, "parquet")
    sizes = [len(json.loads(record_path(Path(name)).read_text())["checkpoints"]) for name in names]
    assert sorted(sizes) == [0, 0, 0, 1, 1]
    for name in names:
        run("check", name)
    run("merge", *names, "-o", "joined.parquet")
    assert_equal_reports("joined.parquet", "whole.parquet", "", ".layers")


# --- killed, and gone on with


def _in_shard(step: int, count: Path | None = None) -> None:
    """Shard 2 of 3 in a forked child that kills itself before its durable step of this number."""
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, 1)
    os.dup2(null, 2)
    steps = 0

    def counted(act: Callable[..., Any]) -> Callable[..., Any]:
        def acting(*words: Any) -> Any:
            nonlocal steps
            steps += 1
            if steps == step:
                os.kill(os.getpid(), signal.SIGKILL)
            return act(*words)

        return acting

    for name in ("create", "write", "sync", "rename"):
        setattr(atomic_write, name, counted(getattr(atomic_write, name)))
    code = 0
    try:
        app(["analyze", "ckpts", *QUICK, "--shard", "2/3", "-o", "part-2.csv"], prog_name="fisher")
    except SystemExit as stop:
        code = int(stop.code or 0)
    if count is not None:
        count.write_text(str(steps))
    os._exit(code)


def _kills(trials: int | None) -> tuple[int, int]:
    """How often the joined report was equal, of how many kills: at so many durable steps, or at all of them."""
    analyze("-o", "whole.csv")
    parts(3)
    forget("part-2")
    assert in_child(lambda: _in_shard(0, Path("count"))) == 0
    steps = range(1, int(Path("count").read_text()) + 1)
    chosen = steps if trials is None else random.Random(0).sample(steps, trials)
    equal = 0
    for step in chosen:
        forget("part-2")
        for again in (step, max(1, step // 2)):  # and once more while it goes on
            assert in_child(lambda again=again: _in_shard(again)) == -signal.SIGKILL  # type: ignore[misc]
        journal = Path("part-2.fisher")
        finished = len(read_records(journal)[1]) if (journal / "journal.jsonl").exists() else 0
        with pytest.MonkeyPatch.context() as patch:
            measured = measured_from_now_on(patch)
            analyze("--shard", "2/3", "-o", "part-2.csv")
        assert len(measured) <= 4 - finished + (finished < 4)
        run("merge", "part-1.csv", "part-2.csv", "part-3.csv", "-o", "joined.csv", "--force")
        equal += Path("joined.csv").read_bytes() == Path("whole.csv").read_bytes()
    return equal, len(chosen)


@pytest.mark.ci
def test_a_shard_killed_at_any_durable_step_goes_on_and_is_joined(record_property: Any) -> None:
    equal, kills = _kills(2)
    record_property("shards killed", f"{equal}/{kills} equal")
    assert equal == kills == 2


@pytest.mark.long
def test_a_shard_killed_at_every_durable_step(record_property: Any) -> None:
    equal, kills = _kills(None)
    record_property("shards killed", f"{equal}/{kills} equal")
    assert equal == kills > 30


def test_parts_of_several_numbers_of_threads_are_joined(monkeypatch: pytest.MonkeyPatch) -> None:
    """Their last digits are those of each part; the whole is gone on with by any number."""
    analyze("--shard", "1/2", "-o", "part-1.csv")
    with monkeypatch.context() as patch:
        patch.setattr(torch, "get_num_threads", lambda: 4)
        analyze("--shard", "2/2", "-o", "part-2.csv")
    run("merge", "part-1.csv", "part-2.csv", "-o", "joined.csv")
    assert read_records(Path("joined.fisher"))[0]["threads"] is None
    assert "12 of 12 checkpoints were finished before" in analyze("-o", "joined.csv")
