"""Whatever things are called, no command prints or writes what a terminal, a browser or a spreadsheet acts on."""

import io
import json
import re
from pathlib import Path

import openpyxl
import pyarrow.parquet as pq
import pytest
from rich.panel import Panel
from rich.text import Text

from fisher_cli.reports.console import Console
from fisher_cli.storage.readers import read_table
from fisher_cli.text import guard, unguard, visible
from tests.command import fisher
from tests.hostile_names import FILE_NAMES, MODEL, NAMES, acted_on, formulas, furnish
from tests.long_lists import some

DATA = ("--data", "folder:images", "--normalize", "none", "--model", MODEL, "--limit", "2")
QUICK = (*DATA, "--eigenvalues", "1")
PAGE = "\n\N{NO-BREAK SPACE}"
COMMANDS = {
    "analyze": ("analyze", "run", *QUICK),
    "spectrum": ("spectrum", "run", *DATA),
    "examples": ("examples", "run", *DATA),
    "verify": ("verify", "run", *DATA),
    "compare true-vs-empirical": ("compare", "true-vs-empirical", "run", *QUICK, "--draws", "2"),
    "inspect": ("inspect", "run", "--model", MODEL),
}


@pytest.fixture
def hostile(workdir: Path) -> Path:
    furnish(workdir)
    return workdir


@pytest.mark.parametrize(
    ("command", "form"),
    some(
        [(command, form) for form in ("table", "csv", "tsv", "json", "jsonl") for command in COMMANDS],
        always=lambda case: case[1] == "table" or case[0] == "inspect",
    ),
)
@pytest.mark.usefixtures("hostile")
def test_no_command_prints_what_a_terminal_acts_on(command: str, form: str) -> None:
    done = fisher(*COMMANDS[command], "--format", form, code=3)
    assert done.stdout
    assert not acted_on(done.stderr)
    assert not acted_on(done.stdout, "\n\t" if form == "tsv" else "\n")
    if form in {"csv", "tsv"}:
        assert not formulas(done.stdout)


@pytest.mark.parametrize("dialect", ["plain", "excel", "excel-eu"])
@pytest.mark.usefixtures("hostile")
def test_no_cell_of_any_dialect_is_a_formula_wherever_it_is_split(dialect: str) -> None:
    fisher(*COMMANDS["analyze"], "--csv-dialect", dialect, "--per-example", "--long", "-q", "-o", "r.csv", code=3)
    files = sorted(Path().glob("r*.csv"))
    assert len(files) == 4
    for file in files:
        text = file.read_text("utf-8")
        assert not acted_on(text, "\n\r\ufeff")
        assert not formulas(text), file
    assert {*read_table(Path("r.csv"))["checkpoint"]} == {
        f"{name}.pt" for name in map(escaped_name, FILE_NAMES.values())
    }


def escaped_name(name: str) -> str:
    from fisher_cli.text import escape

    return escape(name)


@pytest.mark.usefixtures("hostile")
def test_no_cell_of_a_table_for_programs_is_acted_on_when_it_is_printed() -> None:
    for suffix in ("parquet", "xlsx", "json", "jsonl", "tsv"):
        fisher(*COMMANDS["analyze"], "--per-example", "-q", "-o", f"{suffix}.{suffix}", code=3)
    for file in Path().glob("parquet*.parquet"):
        table = pq.read_table(file)
        assert not [cell for column in table.columns for cell in column.to_pylist() if acted_on(str(cell))]
        assert not acted_on(
            json.dumps({k.decode(): v.decode() for k, v in table.schema.metadata.items()}, ensure_ascii=False)
        )
    for sheet in openpyxl.load_workbook("xlsx.xlsx"):
        cells = [cell for row in sheet.iter_rows() for cell in row if cell.value is not None]
        assert {cell.data_type for cell in cells} <= {"n", "s", "b"}
        assert not [cell.value for cell in cells if acted_on(str(cell.value))]
    for file in (*Path().glob("json*.json*"), *Path().glob("*.fisher/record.json")):
        assert not acted_on(file.read_text("utf-8")), file
    names = [set(read_table(Path(f"{form}.layers.{form}"))["layer"].dropna()) for form in ("parquet", "json", "tsv")]
    assert names[0] == names[1] == names[2] == {name for name in NAMES.values() if "." not in name}


@pytest.mark.ci
@pytest.mark.filterwarnings("ignore:Glyph")  # of a wide = in the only font; the command hides it
@pytest.mark.usefixtures("hostile")
def test_pages_and_figures_show_names_and_do_nothing_else() -> None:
    for command in ("analyze", "spectrum", "examples", "verify", "compare true-vs-empirical"):
        fisher(*COMMANDS[command], "-q", "-o", "\x1b[2J\u202e=r.csv", code=3)
    fisher("report", "\x1b[2J\u202e=r.csv", "--data", "folder:images", "-o", "page.html")
    page = Path("page.html").read_text("utf-8")
    assert not acted_on(page, PAGE)
    assert "<script>alert(1)" not in page
    assert "<img src=x" not in page
    assert "49" not in re.findall(r"\{\{.*?\}\}", page)
    for what in ("layers", "traces"):
        for form in ("svg", "pdf", "png"):
            done = fisher("plot", "\x1b[2J\u202e=r.csv", "--what", what, "-o", f"{what}.{form}")
            assert not acted_on(done.output)
        assert not acted_on(Path(f"{what}.svg").read_text("utf-8"), PAGE)
        assert b"\x1b[2J" not in Path(f"{what}.png").read_bytes()


@pytest.mark.parametrize("what", some(NAMES, part=0.25))
@pytest.mark.usefixtures("hostile")
def test_check_says_names_of_a_record_without_doing_what_they_ask(what: str) -> None:
    fisher(*COMMANDS["analyze"], "-q", "--eigenvalues", "0", "-o", "r.csv", code=3)
    record = json.loads(Path("r.fisher/record.json").read_text())
    record["tables"][NAMES[what]] = "x"
    Path("r.fisher/record.json").write_text(json.dumps(record))
    done = fisher("check", "r.csv", code=4)
    assert not acted_on(done.output)
    lines = done.stdout.splitlines()
    assert all(line.startswith(("ok    ", "WRONG ")) for line in lines)
    # The record, three tables, the rows, the journal; of a record that lists what is no file's name no tables. A name
    # adds no line of its own.
    assert len(lines) in {3, 6}


@pytest.mark.usefixtures("hostile")
def test_merging_and_comparing_say_names_without_doing_what_they_ask() -> None:
    for i in (1, 2):
        fisher(*COMMANDS["analyze"], "--shard", f"{i}/2", "-q", "-o", f"\x1b[2Jpart{i}.csv", code=None)
    done = fisher("merge", "\x1b[2Jpart1.csv", "\x1b[2Jpart2.csv", "-o", "\u202ewhole.csv", code=3)
    assert not acted_on(done.output)
    first, second = (f"run/{name}.pt" for name in list(FILE_NAMES.values())[:2])
    for form in ("table", "csv", "json"):
        done = fisher("compare", "checkpoints", first, second, *DATA, "--format", form)
        assert not acted_on(done.output)


@pytest.mark.parametrize("words", [("--dry-run",), ("--dry-run", "--format", "json")], ids=["text", "json"])
@pytest.mark.usefixtures("hostile")
def test_a_forecast_says_names_without_doing_what_they_ask(words: tuple[str, ...]) -> None:
    done = fisher(*COMMANDS["analyze"], *words, code=None)
    assert done.stdout
    assert not acted_on(done.output)


@pytest.mark.parametrize(
    "typed",
    some(
        [
            "analyze {}",
            "analyze net.py --data {}",
            "analyze net.py --data folder:{}",
            "analyze net.py --data hf:{}",
            "analyze net.py --data {}.npz",
            "analyze net.py --labels {}",
            "analyze net.py --model {}",
            "analyze net.py --model {}:make",
            "analyze net.py --model ./{}.py:make",
            "analyze net.py --normalize {}",
            "analyze net.py --resize {}",
            "analyze net.py --split {}",
            "analyze net.py --device {}",
            "analyze net.py -o {}",
            "analyze net.py --{}",
            "check {}",
            "report {} -o a.html",
            "plot {} --what traces -o a.svg",
            "merge {} -o a.csv",
            "{}",
        ],
        part=0.3,
    ),
)
@pytest.mark.usefixtures("hostile")
def test_what_was_typed_is_repeated_without_doing_what_it_asks(typed: str) -> None:
    for name in (each for each in NAMES.values() if "\x00" not in each):
        done = fisher(*(word.replace("{}", name) for word in typed.split()), code=None)
        assert done.exit_code in {1, 2}
        assert not acted_on(done.output)
        assert len([line for line in done.stderr.splitlines() if line.startswith("error:")]) == 1, done.stderr


@pytest.mark.parametrize("what", NAMES)
def test_whatever_a_table_or_a_line_forgets_to_escape_is_escaped_when_it_is_printed(what: str) -> None:
    out, err = io.StringIO(), io.StringIO()
    console = Console(stdout=out, stderr=err, width=60)
    console.show(Panel(Text(NAMES[what])))
    console.lines([NAMES[what]])
    console.names([NAMES[what]])
    console.message(NAMES[what])
    console.error(NAMES[what])
    console.traceback(f"Traceback\n{NAMES[what]}")
    assert not acted_on(out.getvalue() + err.getvalue(), PAGE)
    assert "[bold red]" not in NAMES[what] or "[bold red]" in out.getvalue()
    assert visible(visible(NAMES[what])) == visible(NAMES[what])
    assert unguard(guard(NAMES[what])) == NAMES[what]


def test_a_traceback_and_the_logs_of_libraries_are_escaped(workdir: Path) -> None:
    import os
    import subprocess
    import sys

    (workdir / "net.py").write_text(
        "import logging\nlogging.getLogger('lib').warning('log %s', '\\x1b[2J\\u202e')\n"
        "def make():\n    raise ValueError('\\x1b[2J\\u202e')\n"
    )
    words = ["analyze", str(Path(__file__).parents[2] / "sample_checkpoints/digits-clean/step_00000.pt"), "--debug"]
    found = subprocess.run(
        [sys.executable, "-c", "from fisher_cli.cli.app import main; main()", *words, "--model", "./net.py:make"],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
    )
    assert "Traceback" in found.stderr
    assert "log \\x1b[2J\\u202e" in found.stderr
    assert not acted_on(found.stdout + found.stderr)
