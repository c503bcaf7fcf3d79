"""`fisher merge` refuses what is not one whole run: in one line, before a file is touched."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from fisher_cli.run.row import Predecessor, Source, ThisProcess
from fisher_cli.storage.checksums import checked_line
from fisher_cli.storage.report_folder import journal_folder
from tests.shard_runs import analyze, parts, run

pytestmark = pytest.mark.usefixtures("ckpts")


def refused(*words: object, code: int = 1) -> str:
    before = {path: path.read_bytes() for path in Path().iterdir() if path.is_file()}
    error = run("merge", *words, code=code)
    assert len(error.splitlines()) == 1, error
    assert {path: path.read_bytes() for path in Path().iterdir() if path.is_file()} == before
    return error


def test_missing_shards_are_refused_with_what_to_type(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.argv", ["fisher", "analyze", "ckpts", "--shard", "1/3", "-o", "part-1.csv"])
    parts(3)
    error = refused("part-1.csv", "part-3.csv", "-o", "joined.csv")
    assert "1 shard is missing: 2/3" in error
    assert "type fisher analyze ckpts --shard 2/3 -o part-2.csv" in error


def test_the_same_shard_twice_is_refused() -> None:
    parts(2)
    analyze("--shard", "1/2", "-o", "again.csv")
    assert "both shard 1/2" in refused("part-1.csv", "again.csv", "part-2.csv", "-o", "joined.csv")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--limit", "9"), "settings.limit is 8 there and 9 here"),
        (("--seed", "1"), "settings.seed"),
        (("-b", "4"), "batch_size"),
        (("--no-layers",), "no table layers"),
    ],
)
def test_parts_made_otherwise_are_refused(words: tuple[str, ...], said: str) -> None:
    analyze("--shard", "1/2", "-o", "one.csv")
    analyze("--shard", "2/2", "-o", "two.csv", *words)
    assert said in refused("one.csv", "two.csv", "-o", "joined.csv")


def test_parts_of_other_checkpoints_versions_and_counts_are_refused() -> None:
    analyze("--shard", "1/2", "-o", "one.csv")
    analyze("--shard", "2/3", "-o", "third.csv")
    assert "shards is 2 there and 3 here" in refused("one.csv", "third.csv", "-o", "joined.csv")
    Path("ckpts/step_0.pt").unlink()
    analyze("--shard", "2/2", "-o", "two.csv")
    assert "is of other checkpoints than one.csv" in refused("one.csv", "two.csv", "-o", "joined.csv")
    analyze("-o", "whole.csv")
    assert "made without --shard" in refused("one.csv", "whole.csv", "-o", "joined.csv")
    records = Path("two.fisher/journal.jsonl")
    _relabel(records, "fisher", "0.0.1")
    assert 'fisher is "0.1.0" there and "0.0.1" here' in refused("one.csv", "two.csv", "-o", "joined.csv")


def _relabel(path: Path, name: str, value: str) -> None:
    """The first line of a journal with another value, its checksum mended."""
    first, rest = path.read_bytes().split(b"\n", 1)
    head = json.loads(first[65:])
    head["asked"][name] = value
    path.write_bytes(checked_line(head) + b"\n" + rest)


def test_damaged_unfinished_and_foreign_parts_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    parts(2)
    joins = ("part-1.csv", "part-2.csv", "-o", "joined.csv")
    kept = Path("part-2.csv").read_bytes()
    Path("part-2.csv").write_bytes(kept.replace(b"ok", b"OK", 1))
    assert "was changed after it was written" in refused(*joins)
    Path("part-2.csv").write_bytes(kept)
    shutil.move("part-2.fisher", "elsewhere")
    assert "its folder was left behind: no record part-2.fisher/record.json" in refused(*joins)
    shutil.copytree("elsewhere", "part-2.fisher")
    Path("part-2.fisher/journal.jsonl").unlink()
    assert "part-2.fisher/journal.jsonl cannot be read" in refused(*joins)
    shutil.rmtree("part-2.fisher")
    shutil.move("elsewhere", "part-2.fisher")
    Path("part-2.fisher/record.json").rename("kept.json")
    assert "no record part-2.fisher/record.json" in refused(*joins)
    Path("kept.json").rename("part-2.fisher/record.json")
    assert "no such table" in refused("part-1.csv", "part-9.csv", "-o", "joined.csv")
    assert "no record" in refused("part-1.csv", "net.py", "-o", "joined.csv")
    assert "suffix must say the format" in refused(*joins[:2], "-o", "joined.txt", code=2)
    assert "the joined table has files beside it" in refused(*joins[:2], "-o", "-", code=2)
    assert "one of the parts" in refused(*joins[:2], "-o", "part-1.csv")
    Path("joined.csv").write_text("mine\n")
    assert "--force" in refused(*joins)
    run("merge", *joins, "--force")
    Path("part-2.csv").unlink()
    real, calls = ThisProcess.measure_row, []

    def stopped(self: ThisProcess, source: Source, previous: Predecessor) -> Any:
        calls.append(source)
        if len(calls) == 4:
            raise KeyboardInterrupt
        return real(self, source, previous)

    monkeypatch.setattr(ThisProcess, "measure_row", stopped)
    analyze("--shard", "2/2", "--force", "-o", "part-2.csv", code=130)
    assert "has 2 of its 6 checkpoints, it was stopped" in refused(*joins)


def test_a_row_held_against_another_row_is_refused() -> None:
    """A checkpoint that could be used when its own shard was measured, and could not for the one after."""
    analyze("--shard", "1/2", "-o", "part-1.csv")
    analyze("--shard", "2/2", "-o", "part-2.csv")
    _forget_predecessor(journal_folder(Path("part-2.csv")) / "journal.jsonl")
    assert "was held against another row" in refused("part-1.csv", "part-2.csv", "-o", "joined.csv")


def _forget_predecessor(path: Path) -> None:
    head, first, *rest = path.read_bytes().splitlines()
    record = json.loads(first[65:])
    record["record"]["previous"] = None
    path.write_bytes(b"".join(line + b"\n" for line in (head, checked_line(record), *rest)))
