"""What spreadsheets open: dialects of CSV and workbooks, with every number a number and no text a formula."""

import io
import json
import subprocess
import sys
import zipfile
from pathlib import Path

import openpyxl
import pandas as pd
import pytest

from fisher_cli.reports.charts import draw
from fisher_cli.reports.drawing import picture
from fisher_cli.reports.reported_run import read_run
from fisher_cli.storage.formats import format_of, render
from fisher_cli.storage.readers import read_table
from fisher_cli.storage.report_folder import record_path
from fisher_cli.storage.xlsx import workbook
from fisher_cli.tables.build import frame, make_table, to_csv
from fisher_cli.tables.columns import Column, Kind
from fisher_cli.tables.dialects import MARK, Dialect, separated
from fisher_cli.tables.registry import MAIN, column_named
from tests.command import fisher
from tests.measurements import bits, broken, odd_table, sample
from tests.report_files import SAMPLES, made

RUN = SAMPLES / "digits-clean"
CHECKPOINTS = [str(RUN / f"step_{step:05}.pt") for step in (0, 66, 1760)]
SPREADSHEETS = [Dialect.EXCEL, Dialect.EXCEL_EU]


def assert_same(found: pd.DataFrame, expected: pd.DataFrame) -> None:
    pd.testing.assert_frame_equal(found, expected, check_exact=True)
    for name in expected.columns:
        if expected[name].dtype == "Float64":
            pairs = zip(found[name].dropna(), expected[name].dropna(), strict=True)
            assert all(bits(one) == bits(other) for one, other in pairs)


@pytest.mark.parametrize("dialect", SPREADSHEETS)
def test_a_dialect_is_what_excel_opens_and_is_read_back_bit_by_bit(dialect: Dialect, tmp_path: Path) -> None:
    table = odd_table()
    text = to_csv(table, separated("csv", dialect))
    separator, point = (",", ".") if dialect is Dialect.EXCEL else (";", ",")
    assert text.startswith(f"{MARK}checkpoint{separator}step{separator}loss{separator}error\r\n")
    assert text.count("\r\n") == text.count("\n") == len(table) + 1
    assert f"{separator}0{point}30000000000000004{separator}" in text
    (tmp_path / "a.csv").write_bytes(text.encode())
    assert_same(read_table(tmp_path / "a.csv"), table)
    assert text.encode() == render(table, format_of(Path("a.csv")), {}, dialect)


@pytest.mark.parametrize("dialect", SPREADSHEETS)
def test_text_with_commas_stays_text_and_unknown_columns_find_their_kind(dialect: Dialect, tmp_path: Path) -> None:
    columns = [column_named("checkpoint", ()), Column("mine", Kind.REAL, "", ""), Column("count", Kind.INTEGER, "", "")]
    table = make_table([{"checkpoint": "1,5", "mine": 0.25, "count": 3}, {"checkpoint": "2;5", "mine": 1e-9}], columns)
    (tmp_path / "a.csv").write_bytes(to_csv(table, separated("csv", dialect)).encode())
    assert_same(read_table(tmp_path / "a.csv"), table)


def test_a_workbook_holds_numbers_as_numbers_and_text_as_text(tmp_path: Path) -> None:
    table = odd_table()
    content = workbook({"rows": table}, {"settings": {"limit": 10, "include": ["=*"]}, "data": {"name": "=1+1"}})
    (tmp_path / "a.xlsx").write_bytes(content)
    assert_same(read_table(tmp_path / "a.xlsx"), table)
    book = openpyxl.load_workbook(io.BytesIO(content))
    assert book.sheetnames == ["rows", "settings"]
    cells = [cell for sheet in book for row in sheet.iter_rows() for cell in row if cell.value is not None]
    assert {cell.data_type for cell in cells} == {"n", "s"}
    rows = book["rows"]
    assert all(isinstance(rows.cell(i, 3).value, float | int) for i in range(2, 5))
    assert rows.cell(5, 3).value is None  # NaN
    assert rows.cell(6, 3).value is None  # infinite
    dangerous = rows.cell(2, 1)
    assert (dangerous.value, dangerous.data_type, dangerous.quotePrefix) == ("=1+1", "s", True)
    assert "step" in rows.cell(1, 2).comment.text
    assert "[nats]" in rows.cell(1, 3).comment.text
    facts = {row[0].value: row[1].value for row in book["settings"].iter_rows(min_row=2)}
    assert facts["settings.limit"] == 10
    assert facts["data.name"] == "=1+1"


def test_equal_tables_make_equal_workbooks() -> None:
    first, second = (
        workbook({"rows": frame(MAIN.with_eigenvalues(2), [sample(), broken()])}, {"a": 1}) for _ in range(2)
    )
    assert first == second
    with zipfile.ZipFile(io.BytesIO(first)) as archive:
        assert {entry.date_time[0] for entry in archive.infolist()} == {1980}


def test_notes_say_what_each_column_means() -> None:
    book = openpyxl.load_workbook(io.BytesIO(workbook({"rows": frame(MAIN.with_eigenvalues(1), [sample()])}, {})))
    header = next(book["rows"].iter_rows(min_row=1, max_row=1))
    assert [cell.value for cell in header] == [column.name for column in MAIN.with_eigenvalues(1).columns]
    assert all(cell.comment.text for cell in header)


def test_every_command_writes_a_workbook_with_a_sheet_per_table(workdir: Path) -> None:
    few = ("--limit", "8", "-q", "-o", "run.xlsx")
    fisher("analyze", *CHECKPOINTS, "--per-example", "--long", *few)
    fisher("compare", "true-vs-empirical", *CHECKPOINTS[:1], "--draws", "2", "--long", *few)
    fisher("spectrum", *CHECKPOINTS[:1], *few)
    fisher("examples", *CHECKPOINTS[:1], *few)
    fisher("verify", *CHECKPOINTS[:1], *few)
    fisher("compare", "checkpoints", *CHECKPOINTS[:2], *few)
    fisher("inspect", *CHECKPOINTS[:1], "--data", "digits", "-q", "-o", "files.xlsx")
    found = {path.name: openpyxl.load_workbook(path).sheetnames for path in workdir.glob("*.xlsx")}
    assert found == {
        "run.xlsx": ["rows", "layers", "long", "examples", "settings"],
        "run.compare.xlsx": ["compare", "layers", "long", "settings"],
        "run.spectrum.xlsx": ["spectrum", "settings"],
        "run.examples.xlsx": ["examples", "groups", "settings"],
        "run.verify.xlsx": ["verify", "expansion", "settings"],
        "run.checkpoints.xlsx": ["checkpoints", "layers", "settings"],
        "files.xlsx": ["rows", "layers", "settings"],
    }
    assert set(json.loads(Path("run.fisher/record.json").read_text())["tables"]) == {"run.xlsx"}
    for name in found:
        fisher("check", name)
    assert len(read_table(Path("run.xlsx"), "examples")) == 3 * 8
    read = read_run(Path("run.xlsx"))
    assert set(read.sides) == {"layers", "compare", "spectrum", "examples", "groups", "verify"}
    assert read.damage == ()
    fisher("report", "run.xlsx", "-o", "page.html", "-q")


@pytest.mark.parametrize("name", ["run.xlsx", "run.csv"])
def test_what_was_interrupted_ends_with_the_same_bytes(workdir: Path, name: str) -> None:
    options = ("--limit", "8", "--eigenvalues", "1", "-q", *(("--csv-dialect", "excel-eu") * name.endswith("csv")))
    fisher("analyze", *CHECKPOINTS, *options, "-o", name)
    whole = Path(name).read_bytes()
    for path in list(workdir.iterdir()):
        if path.is_file():
            path.unlink()
    lines = Path("run.fisher/journal.jsonl").read_text().splitlines(keepends=True)
    Path("run.fisher/journal.jsonl").write_text("".join(lines[:-1]))  # as a kill leaves it
    fisher("analyze", *CHECKPOINTS, *options, "-o", name)
    assert Path(name).read_bytes() == whole


def test_a_report_for_excel_is_checked_drawn_and_read_like_any_other(workdir: Path) -> None:
    names = {"plain": Dialect.PLAIN, "excel": Dialect.EXCEL, "eu": Dialect.EXCEL_EU}
    reports = [made(workdir / f"{name}.csv", 5, 2, dialect=dialect) for name, dialect in names.items()]
    reports.append(made(workdir / "book.xlsx", 5, 2))
    figures = []
    for report in reports:
        fisher("check", str(report))
        run = read_run(report)
        assert run.damage == ()
        charts = [draw(what, [run]) for what in ("traces", "layers")]
        figures.append([picture(chart.figure, "svg") for chart in charts if chart is not None])
        written = json.loads(record_path(report).read_text())["written"]
        assert written.get("csv_dialect") == (names[report.stem] if report.suffix == ".csv" else None)
    assert len(figures[0]) == 2
    assert all(each == figures[0] for each in figures)
    assert {report.read_bytes()[:3] for report in reports[1:3]} == {b"\xef\xbb\xbf"}


@pytest.mark.parametrize(
    "command", [("analyze",), ("compare", "true-vs-empirical", "--draws", "0"), ("spectrum",), ("examples",)]
)
def test_rows_in_a_pipe_are_those_of_the_file(workdir: Path, command: tuple[str, ...]) -> None:
    options = ("--limit", "6", "-q", "--csv-dialect", "excel-eu")
    done = fisher(*command, CHECKPOINTS[1], *options, "-o", "-")
    fisher(*command, CHECKPOINTS[1], *options, "-o", "run.csv")
    word = {"analyze": "", "compare": ".compare"}.get(command[0], f".{command[0]}")
    assert done.stdout_bytes == (workdir / f"run{word}.csv").read_bytes()


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("-o", "a.parquet", "--csv-dialect", "excel"), "--csv-dialect excel is a way to write CSV: add --format csv"),
        (("--format", "json", "--csv-dialect", "excel-eu"), "--csv-dialect excel-eu is a way to write CSV"),
        (("--csv-dialect", "lotus"), "invalid value for '--csv-dialect': 'lotus' is not one of"),
    ],
)
def test_a_dialect_without_csv_is_refused(workdir: Path, options: tuple[str, ...], said: str) -> None:
    done = fisher("analyze", CHECKPOINTS[0], *options, code=2)
    assert said in done.stderr
    assert done.stderr.count("\n") == 1
    assert not list(workdir.iterdir())


@pytest.mark.usefixtures("workdir")
def test_what_no_sheet_can_hold_is_refused_and_nothing_is_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fisher_cli.storage.xlsx.SHEET_ROWS", 12)
    arguments = ["examples", *CHECKPOINTS[:2], "--limit", "8", "-q", "-o"]
    done = fisher(*arguments, "run.xlsx", code=1)
    assert "run.examples.xlsx: 16 rows are too many for a workbook, whose sheets hold 11" in done.stderr
    assert "choose a .csv or .parquet file for -o" in done.stderr


@pytest.mark.parametrize(
    ("missing", "arguments", "said"),
    [
        ("xlsxwriter", ["analyze", CHECKPOINTS[0], "-o", "a.xlsx"], "a workbook (.xlsx) needs xlsxwriter"),
        ("openpyxl", ["report", "book.xlsx", "-o", "a.html"], "book.xlsx: a workbook (.xlsx) is read by openpyxl"),
    ],
)
def test_without_the_extra_one_line_says_what_to_install(
    workdir: Path, missing: str, arguments: list[str], said: str
) -> None:
    made(workdir / "book.xlsx", 2, 1)
    code = f"import sys; sys.modules[{missing!r}] = None; from fisher_cli.cli.app import main; main()"
    done = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stderr == f"error: {said}: pip install 'fisher-cli[xlsx]'\n"
    assert not list(workdir.glob("a.*"))


@pytest.mark.usefixtures("workdir")
def test_what_is_no_workbook_is_refused() -> None:
    Path("a.xlsx").write_bytes(b"PK no workbook")
    done = fisher("report", "a.xlsx", "-o", "a.html", code=1)
    assert done.stderr.startswith("error: a.xlsx: not a table of fisher, or a damaged one: no workbook")
    book = openpyxl.Workbook()
    book.active.append(["checkpoint", "step"])
    book.active.append(["a.pt", "=1+1"])
    book.save("b.xlsx")
    done = fisher("report", "b.xlsx", "-o", "a.html", code=1)
    assert "a cell holds a formula" in done.stderr
