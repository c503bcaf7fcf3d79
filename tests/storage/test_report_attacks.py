"""The attack corpus of reports: tables, records and special files are refused in one line, in little memory."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest

from fisher_cli.errors import OutputError
from fisher_cli.storage.integrity import check_report
from fisher_cli.storage.reader_process import ReaderOwner
from fisher_cli.storage.readers import PARQUET, WORKBOOKS, read_table
from tests.command import error_line, fisher
from tests.report_attacks import HEADS, IN_A_JOURNAL, IN_THE_WAY, RECORDS, TABLES, Maker, resealed, rows_alike
from tests.report_files import made

ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
# Their form is right, though nothing is in them.
RIGHT = {"tables {}", r"other ['\ud800']"}


Answer = tuple[str, list[tuple[str, str]]]


def right(folder: Path) -> Path:
    return made(folder / "t.xlsx", 3, 2)


def record(content: bytes, folder: Path) -> Path:
    (folder / "t.fisher").mkdir()
    (folder / "t.fisher/record.json").write_bytes(content)
    return folder / "t.fisher/record.json"


@pytest.fixture(scope="module")
def read(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[Maker], Answer]]:
    """For what makes a file below a folder: its path, and twice the class and text of the error of reading it."""
    good = right(tmp_path_factory.mktemp("right"))

    def answer(make: Maker) -> Answer:
        path = make(tmp_path_factory.mktemp("foreign"))
        assert child.stdin
        assert child.stdout
        child.stdin.write(json.dumps(str(path)) + "\n")
        child.stdin.flush()
        return str(path), json.loads(child.stdout.readline())

    words = [sys.executable, "-m", "tests.report_reading", str(good)]
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT) as child:
        yield answer


@pytest.mark.parametrize("name", TABLES)
def test_a_table_that_is_none_is_refused_in_one_line(name: str, read: Callable[[Maker], Answer]) -> None:
    """Within ten seconds of the processor and three gigabytes of addresses, of which libraries take the half."""
    path, ends = read(TABLES[name])
    for kind, said in ends:
        assert kind == "FisherError", (kind, said)
        assert said.startswith(path)
        assert said.isprintable()
        assert len(said) < len(path) + 300
        if name.endswith("entity"):
            assert "root:" not in said


def test_a_right_table_is_read_under_the_same_limits(read: Callable[[Maker], Answer]) -> None:
    assert [kind for kind, _ in read(right)[1]] == ["nothing", "nothing"]


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (TABLES["an infinite loss in Parquet"], "inf is no number"),
        (partial(rows_alike, count=5_000_000), "cells, .* are too much for"),
    ],
    ids=["infinite", "many"],
)
def test_what_cells_hold_and_how_many_there_are_is_looked_at_first(
    make: Callable[[Path], Path], says: str, tmp_path: Path
) -> None:
    """In this process, where errors that are planted are seen."""
    with pytest.raises(OutputError, match=says):
        read_table(make(tmp_path))


@pytest.mark.parametrize(("name", "owner"), [("t.parquet", PARQUET), ("t.xlsx", WORKBOOKS)])
@pytest.mark.parametrize(
    ("act", "says"),
    [("os.kill(os.getpid(), 11)", "ended by signal 11"), ("[bytes(1 << 20) for _ in range(4096)]", "more memory")],
)
def test_what_ends_the_reader_of_a_table_is_its_error_in_one_line(
    name: str, owner: ReaderOwner, act: str, says: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    report = made(tmp_path / name, 3, 2)
    expected = read_table(report)
    with monkeypatch.context() as patched:
        owner.end()
        main = f"import os\nDECODERS['cells'] = lambda *_: {act}\nmain("
        patched.setattr(owner, "code", owner.code.replace("main(", main))
        said = error_line(fisher("plot", report, "--what", "traces", "-o", tmp_path / "p.svg", code=1))
        owner.end()
    assert says in said
    assert name in said
    assert read_table(report).equals(expected)


@pytest.mark.parametrize("name", RECORDS)
def test_a_record_that_is_none_is_refused_in_one_line(
    name: str, read: Callable[[Maker], Answer], tmp_path: Path
) -> None:
    kind, said = read(partial(record, RECORDS[name]))[1][0]
    assert kind in ({"nothing"} if name in RIGHT else {"ValueError", "LaterVersionError"})
    assert said.isprintable()
    assert len(said) < 300
    report = made(tmp_path / "t.csv", 3, 2)
    (tmp_path / "t.fisher/record.json").write_bytes(RECORDS[name])
    done = fisher("check", report, code=4)
    assert done.stdout.splitlines()[0].startswith("ok" if name in RIGHT else "WRONG")
    assert all(line.isprintable() for line in done.stdout.splitlines())
    assert "no record" in done.stdout or "merge" not in done.stdout
    assert error_line(fisher("merge", report, "-o", "x.csv", code=1))


@pytest.mark.ci
@pytest.mark.parametrize("name", ["a table", "a side table", "a record"])
@pytest.mark.parametrize("kind", IN_THE_WAY)
def test_what_is_no_file_is_refused_by_every_reader(
    name: str, kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    report = made(Path("t.csv"), 3, 2)
    path = Path({"a table": "t.csv", "a side table": "t.layers.csv", "a record": "t.fisher/record.json"}[name])
    path.unlink()
    IN_THE_WAY[kind](path)
    said = fisher("check", report, code=None).output
    assert "WRONG" in said or "error:" in said
    is_table = name != "a record"
    done = fisher("plot", report, "--what", "traces", "-o", "p.svg", code=1 if is_table else 0)
    assert path.name in error_line(done) if is_table else "error:" not in done.output
    assert error_line(fisher("merge", report, "-o", "x.csv", code=1))
    left = {each.name for each in tmp_path.iterdir()} - {"p.svg"}
    assert left == {"t.csv", "t.layers.csv", "t.fisher"}


@pytest.mark.parametrize("kind", IN_A_JOURNAL)
def test_a_journal_with_something_else_in_it_is_read_past(kind: str, tmp_path: Path) -> None:
    """A figure is drawn without what the journal would add; `check` says what is wrong."""
    report = made(tmp_path / "t.csv", 3, 2)
    (tmp_path / "precious").write_bytes(b"precious")
    IN_A_JOURNAL[kind](tmp_path / "t.fisher" / "journal.jsonl")
    fisher("plot", report, "--what", "traces", "-o", tmp_path / "p.svg")
    findings = {each.what: each for each in check_report(report)}
    assert not findings["t.fisher/journal.jsonl"].ok
    assert findings["t.csv"].ok
    assert (tmp_path / "precious").read_bytes() == b"precious"


@pytest.mark.parametrize("head", HEADS)
def test_a_journal_with_another_first_line_is_read_past(head: str, tmp_path: Path) -> None:
    report = made(tmp_path / "t.csv", 3, 2)
    (tmp_path / "t.fisher" / "journal.jsonl").write_bytes(HEADS[head] + b"\n")
    fisher("plot", report, "--what", "traces", "-o", tmp_path / "p.svg")
    done = fisher("check", report, code=None)
    assert "WRONG t.fisher/journal.jsonl" in done.stdout


NAMES = {
    "a folder": ".",
    "the folder above": "..",
    "the root": "/",
    "a long name": "a" * 300 + ".csv",
    "a long path": "a/" * 3000 + "t.csv",
    "a name without a suffix": "t",
    "nothing": "",
    "a record": "t.fisher/record.json",
    "what is not there": "gone.csv",
    "below a file": "t.csv/t.csv",
    "no UTF-8": os.fsdecode(b"\xff.csv"),
}


@pytest.mark.parametrize("name", NAMES)
def test_names_of_no_report_are_refused_in_one_line(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    made(Path("t.csv"), 3, 2)
    given = NAMES[name]
    for words in (
        ("check", given),
        ("report", given, "-o", "p.html"),
        ("plot", given, "--what", "traces", "-o", "p.svg"),
        ("merge", given, "-o", "x.csv"),
        ("merge", "t.csv", given, "-o", "x.csv"),
    ):
        said = error_line(fisher(*words, code=1))
        assert "unexpected" not in said
        assert said.isprintable()
    if name in {"a folder", "the folder above", "the root", "nothing"}:
        assert "a folder; name a table, such as trend.csv" in said


OUTPUTS = ("a" * 300, "a" * 300 + ".csv", "a/" * 3000 + "t.csv", "gone/t.csv", ".", "/", "", "t.csv/t.csv")


@pytest.mark.parametrize("output", OUTPUTS, ids=range(len(OUTPUTS)))
@pytest.mark.usefixtures("workdir")
def test_places_that_are_none_are_refused_in_one_line(output: str) -> None:
    made(Path("t.csv"), 3, 2)
    for words in (
        ("analyze", "gone.pt", "-o", output),
        ("merge", "t.csv", "-o", output),
        ("report", "t.csv", "-o", output if output.endswith((".", "/")) else f"{output}.html"),
        ("plot", "t.csv", "--what", "traces", "-o", output if output.endswith((".", "/")) else f"{output}.svg"),
    ):
        done = fisher(*words, code=None)
        assert done.exit_code in {1, 2} or output == "", (words, done.output)
        assert "unexpected" not in done.output


def test_rows_of_a_table_that_was_changed_are_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    report = made(tmp_path / "t.csv", 3, 2)
    read: list[Path] = []
    monkeypatch.setattr("fisher_cli.storage.integrity.read_rows", lambda path: read.append(path) or ([], []))
    assert all(each.ok for each in check_report(report))
    assert read == [report]
    report.write_bytes(report.read_bytes() + b"more\n")
    findings = check_report(report)
    assert [each.detail for each in findings if not each.ok] == ["was changed after it was written"]
    assert not [each for each in findings if each.what.startswith("rows")]
    assert read == [report]


def test_a_journal_beside_a_report_whose_name_has_dots_is_checked(tmp_path: Path) -> None:
    report = made(tmp_path / "my.run.csv", 3, 2)
    (tmp_path / "my.run.fisher" / "lock").touch()
    assert [each.what for each in check_report(report) if not each.ok] == ["my.run.fisher/journal.jsonl"]


def test_the_corpus_is_what_it_claims(tmp_path: Path, record_property: Callable[[str, object], None]) -> None:
    counts = {
        **{"tables": len(TABLES), "records": len(RECORDS), "heads": len(HEADS), "names": len(NAMES) + len(OUTPUTS)},
        **{"in the way": 3 * len(IN_THE_WAY), "in a journal": 2 * len(IN_A_JOURNAL)},
    }
    record_property("reports", counts)
    assert sum(counts.values()) >= 250
    report = made(tmp_path / "t.csv", 3, 2)
    record = json.loads((tmp_path / "t.fisher/record.json").read_text())
    (tmp_path / "t.fisher/record.json").write_bytes(resealed(record))
    assert all(each.ok for each in check_report(report))  # the seal that an attacker makes holds
    for name in ("t.csv", "t.json", "t.jsonl", "t.parquet", "t.xlsx"):  # without the attack the forms are right
        shutil.rmtree(tmp_path / "good", ignore_errors=True)
        (tmp_path / "good").mkdir()
        assert len(read_table(made(tmp_path / "good" / name, 3, 2))) == 3
