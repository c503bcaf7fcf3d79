"""What a person keeps is kept: only files that are as we wrote them are replaced or deleted, no link is followed."""

import json
import os
import shutil
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fisher_cli.errors import OutputError, RecordError
from fisher_cli.storage.atomic_write import PreparedFile
from fisher_cli.storage.formats import format_of
from fisher_cli.storage.integrity import check_report
from fisher_cli.storage.journal import open_journal, read_records
from fisher_cli.storage.report_files import ReportFiles, RunRecord
from fisher_cli.storage.single_file import is_sealed
from fisher_cli.tables.build import make_table
from fisher_cli.tables.columns import Column, Kind
from tests.command import error_line, fisher
from tests.journals import ASKED, die_at, filled, record
from tests.report_attacks import HEADS, IN_A_JOURNAL, IN_THE_WAY, RECORDS, resealed
from tests.report_files import made
from tests.small_run import analyze, forget, in_child, measured_from_now_on, tables

COLUMNS = (Column("checkpoint", Kind.TEXT, "", ""), Column("loss", Kind.REAL, "nats", ""))
FORMATS = ("csv", "tsv", "json", "jsonl", "parquet", "xlsx")
FORKS = pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")


def table(loss: float = 0.5) -> pd.DataFrame:
    return make_table([{"checkpoint": f"{i}.pt", "loss": loss} for i in range(2)], COLUMNS)


def files(path: Path, *, force: bool = False) -> ReportFiles:
    return ReportFiles(path, format_of(path), force)


def write(report: ReportFiles, loss: float = 0.5, *, layers: bool = True) -> list[Path]:
    return report.write(table(loss), table(2 * loss) if layers else None, RunRecord({"a": 1}))


def contents(folder: Path) -> dict[str, bytes]:
    """Those of all files, but for what is enormous."""
    found = (path for path in folder.iterdir() if path.is_file() and not path.is_symlink())
    return {path.name: path.read_bytes() for path in found if path.stat().st_size < 2**30}


# --- tables

EDITS: dict[str, Callable[[bytes], bytes]] = {
    "a note": lambda content: content.replace(b"0.pt", b"0.pt my note", 1),
    "a line more": lambda content: content + b"mine\n",
    "a byte less": lambda content: content[:-1],
    "another line end": lambda content: content.replace(b"\n", b"\r\n"),
    "nothing left": lambda _: b"",
    "a bit": lambda content: content[:5] + bytes([content[5] ^ 1]) + content[6:],
    "all of it": lambda _: b"mine",
}


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize("edit", EDITS)
@pytest.mark.parametrize("which", ["main", "layers"])
def test_a_table_that_was_edited_is_not_replaced(tmp_path: Path, form: str, edit: str, which: str) -> None:
    """In a workbook both tables are one file."""
    report = files(tmp_path / f"my run.{form}")
    write(report)
    edited = report.main if form == "xlsx" else getattr(report, which)
    content = EDITS[edit](edited.read_bytes())
    if content == edited.read_bytes():  # the note is nowhere to be put
        content += b"my note"
    edited.write_bytes(content)
    before = contents(tmp_path)
    for act in (report.check_writable, lambda: write(report, 0.75)):
        with pytest.raises(
            OutputError, match=r"was changed after fisher wrote it: keep it with mv -n .* --force"
        ) as caught:
            act()
        assert edited.name in str(caught.value)
        assert "\n" not in str(caught.value)
        assert contents(tmp_path) == before
    os.system(str(caught.value).partition("keep it with ")[2].partition(" and type")[0])
    report.check_writable()
    write(report, 0.75)
    assert content in contents(tmp_path).values()
    assert all(each.ok for each in check_report(report.main) if "my run" in each.what)
    edited.write_bytes(content)
    write(files(report.main, force=True), 0.75)
    assert edited.read_bytes() != content


@given(place=st.integers(0, 10**6), removed=st.integers(0, 30), added=st.binary(max_size=30))
def test_any_edit_is_seen(tmp_path_factory: pytest.TempPathFactory, place: int, removed: int, added: bytes) -> None:
    folder = tmp_path_factory.mktemp("edited")
    report = files(folder / "t.csv")
    write(report)
    written = report.main.read_bytes()
    place %= len(written) + 1
    edited = written[:place] + added + written[place + removed :]
    report.main.write_bytes(edited)
    if edited == written:
        report.check_writable()
    else:
        with pytest.raises(OutputError, match=r"t\.csv was changed"):
            report.check_writable()
    assert report.main.read_bytes() == edited


def test_a_table_that_has_no_place_any_more_stays_if_it_was_edited(tmp_path: Path) -> None:
    for name, edit in (("same", False), ("edited", True)):
        report = files(tmp_path / f"{name}.csv")
        write(report)
        if edit:
            report.layers.write_bytes(b"mine")
        left = report.write(table(0.75), None, RunRecord())
        assert left == ([report.layers] if edit else [])
        assert report.layers.exists() == edit


def test_a_prepared_file_goes_when_its_place_was_taken(tmp_path: Path) -> None:
    report = files(tmp_path / "t.csv")
    write(report)
    report.main.write_bytes(b"mine")
    (tmp_path / "prepared.tmp").write_bytes(b"rows")
    with pytest.raises(OutputError, match="was changed"):
        report.write(PreparedFile(tmp_path / "prepared.tmp", "sha256:0", 4), None, RunRecord())
    assert not (tmp_path / "prepared.tmp").exists()


@pytest.mark.ci
@FORKS
@pytest.mark.parametrize("after", [False, True])
def test_tables_of_an_earlier_moment_are_known_after_a_kill_at_every_step(
    tmp_path: Path, after: bool, record_property: Callable[[str, object], None]
) -> None:
    """A record names what it replaces until all is replaced; a person's edit is seen at any moment."""
    kills = 0
    for at in range(1, 100):
        folder = tmp_path / str(at)
        folder.mkdir()
        report = files(folder / "t.csv")
        write(report, 0.5)
        old = report.main.read_bytes()

        def work(at: int = at, report: ReportFiles = report) -> None:
            die_at(at, after=after)
            write(report, 0.75)

        if in_child(work) == 0:
            break
        kills += 1
        report.check_writable()
        content = report.main.read_bytes()
        report.main.write_bytes(b"mine")
        with pytest.raises(OutputError, match="was changed"):
            report.check_writable()
        report.main.write_bytes(content)
        write(report, 0.75)
        assert sorted(path.name for path in folder.iterdir()) == ["t.csv", "t.fisher", "t.layers.csv"]
        assert [path.name for path in (folder / "t.fisher").iterdir()] == ["record.json"]
        assert "replaced" not in json.loads(report.record.read_text())
        report.main.write_bytes(old)  # as from a copy that somebody kept
        with pytest.raises(OutputError, match="was changed"):
            report.check_writable()
    else:
        pytest.fail("it never came to its end")
    record_property("kills", kills)
    assert kills >= 15


# --- records


def _forged(report: ReportFiles, **more: object) -> dict[str, object]:
    return {**json.loads(report.record.read_text()), **more}


FORGERIES: dict[str, Callable[[ReportFiles], bytes]] = {
    "its seal does not hold": lambda r: json.dumps(_forged(r, tables={"t.csv": "x", "t.notes.csv": "x"})).encode(),
    "it has no seal": lambda r: json.dumps({k: v for k, v in _forged(r).items() if k != "record_sha256"}).encode(),
    "it is of the first version": lambda _: json.dumps(
        {"tool": "fisher", "schema_version": 1, "tables": {"t.csv": "x", "t.notes.csv": "x"}}
    ).encode(),
    "it is of a later version": lambda r: resealed(_forged(r, schema_version=99)),
    "it says another hash": lambda r: resealed(_forged(r, tables={"t.csv": "x", "t.notes.csv": "x"})),
    "it is another report's": lambda r: resealed(_forged(r, tables={"u.csv": "x", "t.notes.csv": "x"})),
    **{f"it is damaged: {name}": lambda _, content=content: content for name, content in RECORDS.items()},  # type: ignore[misc]
}


@pytest.mark.parametrize("name", FORGERIES)
def test_a_record_that_proves_nothing_lets_no_file_be_replaced_or_deleted(tmp_path: Path, name: str) -> None:
    report = files(tmp_path / "t.csv")
    write(report)
    (tmp_path / "t.notes.csv").write_bytes(b"mine")
    report.record.write_bytes(FORGERIES[name](report))
    before = contents(tmp_path)
    for act in (report.check_writable, lambda: write(report, 0.75)):
        with pytest.raises(OutputError, match="--force") as caught:
            act()
        assert "\n" not in str(caught.value)
        assert contents(tmp_path) == before
    write(files(report.main, force=True), 0.75, layers=False)
    assert (tmp_path / "t.notes.csv").read_bytes() == b"mine"


def test_a_sealed_record_lets_only_the_file_be_deleted_whose_hash_it_has(tmp_path: Path) -> None:
    report = files(tmp_path / "t.csv")
    write(report)
    (tmp_path / "t.notes.csv").write_bytes(b"mine")
    hashes = json.loads(report.record.read_text())["tables"]
    report.record.write_bytes(resealed(_forged(report, tables={**hashes, "t.notes.csv": "sha256:00"})))
    report.check_writable()
    assert write(report, 0.75) == [tmp_path / "t.notes.csv"]
    assert (tmp_path / "t.notes.csv").read_bytes() == b"mine"


@pytest.mark.parametrize("which", ["t.csv", "t.layers.csv", "t.fisher/record.json"])
@pytest.mark.parametrize("kind", IN_THE_WAY)
def test_what_is_no_regular_file_is_neither_waited_for_nor_replaced(tmp_path: Path, kind: str, which: str) -> None:
    report = files(tmp_path / "t.csv")
    write(report)
    path = tmp_path / which
    path.unlink()
    IN_THE_WAY[kind](path)
    before, mode = contents(tmp_path), os.lstat(path).st_mode
    for act in (report.check_writable, lambda: write(report, 0.75)):
        with pytest.raises(OutputError) as caught:
            act()
        assert "\n" not in str(caught.value)
        assert which in str(caught.value)
        assert os.lstat(path).st_mode == mode
        assert contents(tmp_path) == before


def test_a_link_is_replaced_by_force_and_not_followed(tmp_path: Path) -> None:
    (tmp_path / "precious").write_bytes(b"precious")
    (tmp_path / "t.csv").symlink_to("precious")
    with pytest.raises(OutputError, match=r"it is a link, and links are not followed: .* --force"):
        files(tmp_path / "t.csv").check_writable()
    write(files(tmp_path / "t.csv", force=True))
    assert (tmp_path / "precious").read_bytes() == b"precious"
    assert not (tmp_path / "t.csv").is_symlink()


def test_leftovers_that_are_no_files_stay(tmp_path: Path) -> None:
    (tmp_path / ".t.csv.01234567.tmp").mkdir()
    (tmp_path / ".t.csv.89abcdef.tmp").symlink_to("precious")
    (tmp_path / ".t.csv.00000000.tmp").write_bytes(b"half")
    write(files(tmp_path / "t.csv"))
    assert sorted(path.name for path in tmp_path.glob(".t.csv.*")) == [".t.csv.01234567.tmp", ".t.csv.89abcdef.tmp"]


# --- journals

PLACES = ("lock", "journal.jsonl")


@pytest.mark.parametrize("force", [False, True])
@pytest.mark.parametrize("which", PLACES)
@pytest.mark.parametrize("kind", IN_A_JOURNAL)
def test_what_a_person_put_into_a_journal_stays(tmp_path: Path, kind: str, which: str, force: bool) -> None:
    """By force what stands in the place of the records is replaced, if it is a file of its own, and nothing else."""
    folder = tmp_path / "t.fisher"
    filled(folder)
    (tmp_path / "precious").write_bytes(b"precious\n" * 100)
    (folder / which).unlink()
    IN_A_JOURNAL[kind](folder / which)
    mode, size = os.lstat(folder / which).st_mode, os.lstat(folder / which).st_size
    is_replaced = (
        force and which == "journal.jsonl" and (folder / which).is_file() and not (folder / which).is_symlink()
    )
    if is_replaced and "sparse" not in kind:
        open_journal(folder, ASKED, force=True).close()
        assert list(read_records(folder)[1]) == []
    else:
        with pytest.raises(RecordError) as caught:
            open_journal(folder, ASKED, force=force)
        assert "\n" not in str(caught.value)
        assert "t.fisher" in str(caught.value)
        assert (os.lstat(folder / which).st_mode, os.lstat(folder / which).st_size) == (mode, size)
    assert (tmp_path / "precious").read_bytes() == b"precious\n" * 100


@pytest.mark.parametrize("kind", [each for each in IN_THE_WAY if each != "a folder"])
def test_a_journal_that_is_no_folder_of_ours_is_refused(tmp_path: Path, kind: str) -> None:
    IN_THE_WAY[kind](tmp_path / "t.fisher")
    mode = os.lstat(tmp_path / "t.fisher").st_mode
    with pytest.raises(RecordError, match="in the way"):
        open_journal(tmp_path / "t.fisher", ASKED)
    assert os.lstat(tmp_path / "t.fisher").st_mode == mode


def test_a_journal_that_is_a_link_to_another_is_not_followed(tmp_path: Path) -> None:
    filled(tmp_path / "other.fisher")
    before = contents(tmp_path / "other.fisher")
    (tmp_path / "t.fisher").symlink_to("other.fisher")
    with pytest.raises(RecordError, match="in the way"):
        open_journal(tmp_path / "t.fisher", ASKED)
    assert contents(tmp_path / "other.fisher") == before


@pytest.mark.parametrize("fresh", [False, True])
@pytest.mark.parametrize("head", HEADS)
def test_records_behind_another_first_line_are_not_forgotten_unasked(tmp_path: Path, head: str, fresh: bool) -> None:
    """`--no-resume` forgets those of a journal, be it of another question or version; nothing else."""
    folder = tmp_path / "t.fisher"
    filled(folder)
    path = folder / "journal.jsonl"
    path.write_bytes(HEADS[head] + b"\n" + path.read_bytes().partition(b"\n")[2])
    before = path.read_bytes()
    if fresh and head in {"another version", "a value of no type"}:
        open_journal(folder, ASKED, fresh=True).close()
        return
    with pytest.raises(RecordError, match="--force") as caught:
        open_journal(folder, ASKED, fresh=fresh)
    assert "\n" not in str(caught.value)
    assert path.read_bytes() == before


def test_a_record_under_another_key_is_not_taken(tmp_path: Path) -> None:
    """Both names of an entry are read; where they differ the record is none."""
    folder = tmp_path / "t.fisher"
    filled(folder, 1)
    path = folder / "journal.jsonl"
    head, line = path.read_bytes().splitlines()
    forged = line[65:].replace(b'"previous":null,', b'"previous":null,"weights":"sha256:9999",', 1)
    path.write_bytes(head + b"\n" + sha256(forged).hexdigest().encode() + b" " + forged + b"\n")
    with open_journal(folder, ASKED) as journal:
        assert journal.find(record(0).key) is None


# --- commands


@pytest.mark.usefixtures("ckpts")
def test_no_command_replaces_a_table_that_was_edited(monkeypatch: pytest.MonkeyPatch) -> None:
    for step in range(2, 12):
        Path(f"ckpts/step_{step}.pt").unlink()
    analyze()
    expected = tables()
    edited = Path("r.csv").read_bytes().replace(b",ok,", b",ok my note,")
    Path("r.csv").write_bytes(edited)
    measured = measured_from_now_on(monkeypatch)
    for words in ((), ("--no-resume",), ("--long",), ("-b", "4"), ("--format", "csv")):
        said = analyze(*words, code=1)
        assert said.count("\n") == 1
        assert "error: r.csv was changed after fisher wrote it: keep it with mv -n r.csv r-kept.csv and type" in said
    assert Path("r.csv").read_bytes() == edited
    assert measured == []
    os.rename("r.csv", "r-kept.csv")
    analyze()
    assert measured == []  # the rows come from the journal
    assert tables() == expected


@pytest.mark.usefixtures("ckpts")
def test_a_merged_report_that_was_edited_is_not_replaced() -> None:
    for step in range(2, 12):
        Path(f"ckpts/step_{step}.pt").unlink()
    for index in (1, 2):
        analyze("--shard", f"{index}/2", "-o", f"part-{index}.csv")
    words = ("merge", "part-1.csv", "part-2.csv", "-o", "r.csv")
    fisher(*words)
    fisher(*words)  # one of ours is
    Path("r.layers.csv").write_bytes(b"mine")
    assert "r.layers.csv was changed after fisher wrote it" in error_line(fisher(*words, code=1))
    assert Path("r.layers.csv").read_bytes() == b"mine"


@pytest.mark.usefixtures("ckpts")
def test_a_table_that_was_edited_while_the_run_went_on_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    analyze()
    shutil.copy("ckpts/step_3.pt", "ckpts/step_30.pt")
    real = ReportFiles.write

    def edited(self: ReportFiles, *arguments: object) -> list[Path]:
        Path("r.csv").write_bytes(b"mine")
        return real(self, *arguments)  # type: ignore[arg-type]

    with monkeypatch.context() as patch:
        patch.setattr(ReportFiles, "write", edited)
        assert "r.csv was changed after fisher wrote it" in analyze(code=1)
    assert Path("r.csv").read_bytes() == b"mine"
    forget()


@pytest.mark.parametrize("suffix", ["html", "svg", "pdf", "png"])
def test_a_page_or_a_figure_that_was_edited_is_not_replaced(tmp_path: Path, suffix: str) -> None:
    report, path = made(tmp_path / "run.csv", 3, 2), tmp_path / f"a.{suffix}"
    words = ("report", report) if suffix == "html" else ("plot", report, "--what", "traces")
    fisher(*words, "-o", path)
    written = path.read_bytes()
    assert is_sealed(written, f".{suffix}")
    fisher(*words, "-o", path)
    assert path.read_bytes() == written
    for edited in (written + b"\n", written[:100] + b" " + written[100:], written[:-1], b"", b"mine"):
        path.write_bytes(edited)
        said = error_line(fisher(*words, "-o", path, code=1))
        assert "is not as this command wrote it: choose another name for -o, or replace it with --force" in said
        assert path.read_bytes() == edited
    fisher(*words, "-o", path, "--force")
    assert path.read_bytes() == written
    for name, make in IN_THE_WAY.items():
        path.rmdir() if path.is_dir() and not path.is_symlink() else path.unlink()
        make(path)
        assert path.name in error_line(fisher(*words, "-o", path, code=1)), name


@pytest.mark.usefixtures("ckpts")
def test_a_report_whose_name_is_no_utf_8_is_ours_too() -> None:
    for step in range(1, 12):
        Path(f"ckpts/step_{step}.pt").unlink()
    name = os.fsdecode(b"r\xff\\x1b.csv")
    analyze("-o", name)
    analyze("-o", name)
    analyze("--no-layers", "-o", name)
    assert not Path(os.fsdecode(b"r\xff\\x1b.layers.csv")).exists()
    done = fisher("check", name)
    assert done.stdout.count("\n") == done.stdout.count("ok    ") == 4
    fisher("report", name, "-o", "page.html")
    fisher("plot", name, "--what", "loss", "-o", os.fsdecode(b"\xff.svg"))


@pytest.mark.usefixtures("ckpts")
def test_a_table_that_is_left_alone_is_said() -> None:
    for step in range(1, 12):
        Path(f"ckpts/step_{step}.pt").unlink()
    analyze("--long")
    Path("r.long.csv").write_bytes(b"mine")
    said = analyze()
    assert "r.long.csv was changed after fisher wrote it; it is left as it is and belongs to the earlier run" in said
    assert Path("r.long.csv").read_bytes() == b"mine"
    assert all(each.ok for each in check_report(Path("r.csv").absolute()))
