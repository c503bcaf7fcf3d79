"""Reports are written whole or not at all, only where they may be, and refusals say what to type."""

import errno
import json
import os
import resource
import subprocess
import sys
from hashlib import sha256
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow.parquet as pq
import pytest

from fisher_cli.errors import OutputError, UsageError
from fisher_cli.storage import atomic_write, row_files
from fisher_cli.storage.atomic_write import PreparedFile, replace_all
from fisher_cli.storage.formats import SCHEMA_VERSION, Format, format_of, render
from fisher_cli.storage.integrity import check_report
from fisher_cli.storage.journal import open_journal
from fisher_cli.storage.readers import read_table
from fisher_cli.storage.report_files import ReportFiles, RunRecord
from fisher_cli.storage.report_folder import journal_folder
from fisher_cli.storage.row_files import RowFile
from fisher_cli.tables.build import make_table
from fisher_cli.tables.columns import Column, Kind
from fisher_cli.tables.registry import MAIN
from tests.small_run import in_child

COLUMNS = (Column("checkpoint", Kind.TEXT, "", ""), Column("loss", Kind.REAL, "nats", ""))
METADATA = RunRecord(stable={"settings": {"data": "digits"}}, run={"seconds": 1.5})


def table(loss: float = 0.5, rows: int = 2) -> pd.DataFrame:
    return make_table([{"checkpoint": f"{i}.pt", "loss": loss} for i in range(rows)], COLUMNS)


def files(path: Path, **more: Any) -> ReportFiles:
    return ReportFiles(path, format_of(path), **more)


def names(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if not path.is_dir())


@pytest.mark.parametrize("form", ["csv", "tsv", "json", "jsonl", "parquet"])
def test_the_suffix_says_the_format(form: str) -> None:
    for path in (Path(f"trend.{form}"), Path(f"a.b/TREND.{form.upper()}")):
        assert format_of(path) is Format(form)
        assert format_of(path, Format(form)) is Format(form)


@pytest.mark.parametrize(
    ("name", "explicit", "said"),
    [
        ("trend", None, "for instance -o trend.csv"),
        ("trend.txt", None, "for instance -o trend.txt.csv"),
        ("my trend", Format.JSON, "for instance -o 'my trend.json'"),
        (".csv", None, "for instance -o .csv.csv"),
        ("trend.csv", Format.PARQUET, "type -o trend.parquet, or --format csv"),
        ("trend.csv", Format.TABLE, "leave out -o"),
    ],
)
def test_format_refusals_say_what_to_type(name: str, explicit: Format | None, said: str) -> None:
    with pytest.raises(UsageError, match=said) as caught:
        format_of(Path(name), explicit)
    assert "\n" not in str(caught.value)


def test_a_terminal_table_is_no_file_format() -> None:
    with pytest.raises(UsageError, match="choose csv"):
        render(table(), Format.TABLE)


@pytest.mark.parametrize("form", ["csv", "tsv", "json", "jsonl", "parquet"])
def test_a_report_is_three_files_that_agree(tmp_path: Path, form: str) -> None:
    report = files(tmp_path / f"my.trend.{form}")
    report.check_writable()
    report.write(table(), table(0.25), METADATA)
    assert set(names(tmp_path)) == {f"my.trend.{form}", f"my.trend.layers.{form}", "my.trend.fisher/record.json"}
    record = json.loads(report.record.read_text())
    assert record["tool"] == "fisher"
    assert record["schema_version"] == SCHEMA_VERSION
    assert record["settings"] == {"data": "digits"}
    assert record["run"] == {"seconds": 1.5}
    assert record["tables"] == {
        path.name: f"sha256:{sha256(path.read_bytes()).hexdigest()}" for path in (report.main, report.layers)
    }
    pd.testing.assert_frame_equal(read_table(report.main), table())
    pd.testing.assert_frame_equal(read_table(report.layers), table(0.25))


def test_parquet_carries_only_what_is_stable(tmp_path: Path) -> None:
    report = files(tmp_path / "t.parquet")
    report.write(table(), table(), METADATA)
    first = report.main.read_bytes()
    inside = json.loads(pq.read_schema(report.main).metadata[b"fisher"])
    assert inside == {"tool": "fisher", "schema_version": SCHEMA_VERSION, "settings": {"data": "digits"}}
    report.write(table(), table(), RunRecord(METADATA.stable, {"seconds": 99, "host": "b"}))
    assert report.main.read_bytes() == first


def test_metadata_cannot_pose_as_the_record(tmp_path: Path) -> None:
    report = files(tmp_path / "t.csv")
    report.write(table(), None, RunRecord({"tool": "other", "tables": {}, "run": 3, "name": "\udc80"}, {"x": 1}))
    record = json.loads(report.record.read_text())
    assert (record["tool"], list(record["tables"]), record["run"]) == ("fisher", ["t.csv"], {"x": 1})


def test_a_report_of_ours_is_replaced(tmp_path: Path) -> None:
    report = files(tmp_path / "t.csv")
    report.write(table(), table(), METADATA)
    report.check_writable()
    report.write(table(0.75), None, METADATA)
    assert read_table(report.main)["loss"][0] == 0.75
    assert names(tmp_path) == ["t.csv", "t.fisher/record.json"]  # layers of the old numbers would mislead
    report.check_writable()


@pytest.mark.parametrize("foreign", ["t.csv", "t.layers.csv", "t.fisher/record.json"])
def test_a_foreign_file_is_never_overwritten(tmp_path: Path, foreign: str) -> None:
    (tmp_path / foreign).parent.mkdir(exist_ok=True)
    (tmp_path / foreign).write_text("precious")
    with pytest.raises(OutputError, match=f"{foreign} exists .* another name for -o, or .* --force"):
        files(tmp_path / "t.csv").check_writable()
    report = files(tmp_path / "t.csv", force=True)
    report.check_writable()
    report.write(table(), table(), METADATA)
    files(tmp_path / "t.csv").check_writable()


@pytest.mark.parametrize("kind", ["a link", "a file"])
@pytest.mark.parametrize("force", [False, True])
def test_what_is_in_the_place_of_its_folder_is_neither_followed_nor_replaced(
    tmp_path: Path, kind: str, force: bool
) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere/record.json").write_text("precious")
    if kind == "a link":
        (tmp_path / "t.fisher").symlink_to("elsewhere")
    else:
        (tmp_path / "t.fisher").write_text("precious")
    report = files(tmp_path / "t.csv", force=force)
    with pytest.raises(OutputError, match=r"t\.fisher is in the way: .* choose another name for -o"):
        report.check_writable()
    with pytest.raises(OutputError, match=r"t\.fisher is in the way"):
        report.write(table(), table(), METADATA)
    assert (tmp_path / "elsewhere/record.json").read_text() == "precious"
    assert not (tmp_path / "t.csv").exists()


def test_a_report_of_an_earlier_version_keeps_the_names_of_its_record_and_journal(tmp_path: Path) -> None:
    files(tmp_path / "t.csv").write(table(0.5), table(0.5), METADATA)
    (tmp_path / "t.fisher/record.json").rename(tmp_path / "t.meta.json")
    (tmp_path / "t.fisher").rmdir()
    (tmp_path / "t.journal").mkdir()
    (tmp_path / "t.journal/records.jsonl").touch()
    with open_journal(journal_folder(tmp_path / "t.csv"), {}) as journal:
        assert journal.folder.name == "t.journal"
    files(tmp_path / "t.csv").check_writable()
    files(tmp_path / "t.csv").write(table(0.75), table(0.75), METADATA)
    assert names(tmp_path) == ["t.csv", "t.journal/lock", "t.journal/records.jsonl", "t.layers.csv", "t.meta.json"]
    assert all(each.ok for each in check_report(tmp_path / "t.csv") if not each.what.startswith("rows"))


@pytest.mark.parametrize(
    "record",
    [
        '{"tool": "fisher"}',
        '{"tool": "fisher", "tables": ["t.csv"]}',
        '{"tool": "other", "tables": {"t.csv": ""}}',
        '{"tool": "fisher", "tables": {"u.csv": ""}}',
        "[]",
        "\x00",
        "[" * 100_000,
    ],
)
def test_what_a_strange_record_says_does_not_make_a_file_ours(tmp_path: Path, record: str) -> None:
    (tmp_path / "t.csv").write_text("precious")
    (tmp_path / "t.fisher").mkdir()
    (tmp_path / "t.fisher/record.json").write_text(record)
    with pytest.raises(OutputError, match="--force"):
        files(tmp_path / "t.csv").check_writable()


def test_two_formats_do_not_share_a_record(tmp_path: Path) -> None:
    files(tmp_path / "t.csv").write(table(), None, METADATA)
    said = r"t\.fisher/record\.json belongs to the table t\.csv and was not written with an earlier t\.parquet"
    with pytest.raises(OutputError, match=said):
        files(tmp_path / "t.parquet").check_writable()


def test_a_report_whose_table_was_deleted_can_be_made_again(tmp_path: Path) -> None:
    report = files(tmp_path / "t.csv")
    report.write(table(), table(), METADATA)
    report.main.unlink()
    report.check_writable()


def test_unwritable_places_are_refused_before_the_computation(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    (tmp_path / "folder.csv").mkdir()
    os.mkfifo(tmp_path / "pipe.csv")
    (tmp_path / "loop.csv").symlink_to("loop.csv")
    (tmp_path / "dangling.csv").symlink_to("nowhere")
    cases = {
        "no such/t.csv": r"mkdir -p '.*no such'",
        "file/t.csv": "is not a folder",
        "folder.csv": r"is a folder: type -o .*folder\.csv/table\.csv",
        "pipe.csv": "not a regular file",
        "loop.csv": "cannot write",
        "dangling.csv": "--force",
        f"{'n' * 240}.csv": "File name too long",
    }
    for name, said in cases.items():
        with pytest.raises(OutputError, match=said) as caught:
            files(tmp_path / name).check_writable()
        assert "\n" not in str(caught.value)
    assert not [name for name in names(tmp_path) if name.endswith(".tmp")]


def test_the_advice_about_a_missing_folder_helps(tmp_path: Path) -> None:
    report = files(tmp_path / "it's new" / "t.csv")
    with pytest.raises(OutputError) as caught:
        report.check_writable()
    advice = str(caught.value).partition(": mkdir")[2]
    subprocess.run(f"mkdir{advice}", shell=True, check=True)
    report.check_writable()


@pytest.mark.parametrize("link", [False, True])
def test_a_checkpoint_of_the_run_is_never_replaced(tmp_path: Path, link: bool) -> None:
    checkpoint = tmp_path / "model.json"
    checkpoint.write_text("weights")
    target = checkpoint
    if link:
        target = tmp_path / "other.json"
        target.hardlink_to(checkpoint)
    with pytest.raises(OutputError, match="one of the checkpoints of this run"):
        files(target, force=True, inputs=(tmp_path / "gone.pt", checkpoint)).check_writable()


@pytest.mark.parametrize("primitive", ["write", "fsync", "replace"])
@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EIO])
def test_every_failure_leaves_old_or_new_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, primitive: str, code: int
) -> None:
    """Fail at the first, second, … call until none fails any more."""
    for at in range(1, 12):
        folder = tmp_path / str(at)
        folder.mkdir()
        report = files(folder / "t.csv")
        report.write(table(0.5), table(0.5), METADATA)
        old = {name: (folder / name).read_bytes() for name in names(folder)}
        calls = {"left": at}

        def failing(real: Any, calls: dict[str, int] = calls) -> Any:
            def call(*arguments: Any) -> Any:
                calls["left"] -= 1
                if calls["left"] == 0:
                    raise OSError(code, os.strerror(code))
                return real(*arguments)

            return call

        with monkeypatch.context() as patch:
            owner, name = (atomic_write, "write_new") if primitive == "write" else (os, primitive)
            patch.setattr(owner, name, failing(getattr(owner, name)))
            try:
                report.write(table(0.75), table(0.75), METADATA)
            except OutputError as error:
                assert "t.csv" in str(error)  # noqa: PT017
                assert os.strerror(code) in str(error)  # noqa: PT017
            else:
                assert at > 3
                break
        assert names(folder) == sorted(old)
        for path in (report.main, report.layers):
            assert read_table(path)["loss"].tolist() in ([0.5, 0.5], [0.75, 0.75])
        if at == 1 or (primitive != "replace" and at <= 3):  # no name was changed yet
            assert {name: (folder / name).read_bytes() for name in names(folder)} == old
        report.check_writable()
        report.write(table(0.75), table(0.75), METADATA)
        assert read_table(report.main)["loss"][0] == 0.75


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")  # from Python 3.12 on
def test_a_full_disk_in_the_middle_of_a_file(tmp_path: Path) -> None:
    report = files(tmp_path / "t.csv")
    report.write(table(), None, METADATA)

    def work() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (5000, 5000))
        with pytest.raises(OutputError, match="File too large"):
            files(report.main).write(table(rows=5000), None, METADATA)

    assert in_child(work) == 0
    assert names(tmp_path) == ["t.csv", "t.fisher/record.json"]
    pd.testing.assert_frame_equal(read_table(report.main), table())


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")  # from Python 3.12 on
@pytest.mark.parametrize("at", range(1, 9))
@pytest.mark.parametrize("fresh", [True, False])
def test_a_killed_process_leaves_a_report_that_can_be_written_again(tmp_path: Path, at: int, fresh: bool) -> None:
    report = files(tmp_path / "t.csv")
    if not fresh:
        report.write(table(0.5), None, METADATA)
    child = os.fork()
    if child == 0:  # killed just before its at-th rename or fsync
        calls = [at]

        def dying(real: Any) -> Any:
            def call(*arguments: Any) -> Any:
                calls[0] -= 1
                if calls[0] == 0:
                    os._exit(9)
                return real(*arguments)

            return call

        os.replace, os.fsync = dying(os.replace), dying(os.fsync)
        report.write(table(0.75), table(0.75), METADATA)
        os._exit(0)
    os.waitpid(child, 0)
    for path in (report.main, report.layers):
        if path.exists():
            assert read_table(path)["loss"].tolist() in ([0.5, 0.5], [0.75, 0.75])
    report.check_writable()
    report.write(table(0.75), table(0.75), METADATA)
    assert names(tmp_path) == ["t.csv", "t.fisher/record.json", "t.layers.csv"]


def test_new_files_have_the_usual_permissions(tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        report = files(tmp_path / "t.csv")
        report.write(table(), None, METADATA)
    finally:
        os.umask(before)
    assert report.main.stat().st_mode & 0o777 == 0o640


def test_options_need_no_pandas() -> None:
    script = "import sys, fisher_cli.storage.report_files; print({'pandas', 'pyarrow', 'torch'} & set(sys.modules))"
    root = str(Path(__file__).parents[2])
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, cwd=root)
    assert done.stdout.strip() == "set()"


def test_a_prepared_file_goes_too_when_another_cannot_be_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(atomic_write, "write_new", _no_space)
    prepared = tmp_path / "b.csv.prepared"
    prepared.write_text("x")
    contents = {tmp_path / "a.csv": b"1", tmp_path / "b.csv": PreparedFile(prepared, "sha256:0", 1)}
    with pytest.raises(OSError, match="No space"):
        replace_all(contents)
    assert not [*tmp_path.iterdir()]


def test_a_copy_of_rows_that_cannot_be_written_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    rows = RowFile(tmp_path / "r.csv", "csv", MAIN.columns)
    before = names(tmp_path)
    monkeypatch.setattr(row_files, "sync", full)
    with pytest.raises(OSError, match="No space"):
        rows.so_far()
    assert names(tmp_path) == before
    rows.discard()
    assert names(tmp_path) == []


def _no_space(_path: Path, _data: bytes) -> None:
    raise OSError(errno.ENOSPC, "No space left on device")
