"""The long form: nothing of the wide tables is lost in it, and nothing is in it that they do not have."""

import io
import json
import re
from pathlib import Path
from typing import Any

import duckdb
import pandas as pd
import pytest

from fisher_cli.storage.readers import read_table
from fisher_cli.tables.build import frame, to_csv, to_parquet
from fisher_cli.tables.long_form import long_table
from fisher_cli.tables.registry import LAYERS, LONG, MAIN
from tests.command import fisher
from tests.measurements import MOVEMENT, broken, sample
from tests.report_files import SAMPLES

GUIDE = (SAMPLES.parent / "docs" / "spreadsheets.md").read_text()
CHECKPOINTS = [str(SAMPLES / "digits-clean" / f"step_{step:05}.pt") for step in (0, 66)]
ENDINGS = ("_se", "_estimator_se", "_residual", "_low", "_high", "_null", "_null_sd")


def records(table: pd.DataFrame) -> list[dict[str, Any]]:
    """The rows, None where a cell is empty."""
    return [
        {name: None if value is pd.NA else value for name, value in zip(table.columns, row, strict=True)}
        for row in zip(*(table[name].tolist() for name in table.columns), strict=True)
    ]


def widened(long: pd.DataFrame) -> dict[tuple[str, str, str], object]:
    """Every cell of the wide tables that the long one tells: (checkpoint, layer, column) → value."""
    cells: dict[tuple[str, str, str], object] = {}
    for row in records(long):
        if row["quantity"] is None:
            continue
        name = row["quantity"] if row["index"] is None else f"{row['quantity']}_{row['index']}"
        found = {name: row["value"] if row["value_text"] is None else row["value_text"]}
        found |= {f"{name}{ending}": row[f"value{ending}"] for ending in ENDINGS}
        cells |= {(row["checkpoint"], row["layer"] or "", key): each for key, each in found.items() if each is not None}
    return cells


def cells_of(table: pd.DataFrame) -> dict[tuple[str, str, str], object]:
    """Every cell of a wide table that is not empty, but for what says which row it is and how that ended."""
    skipped = {"run", "checkpoint", "order", "step", "layer", "status", "error"}
    return {
        (row["checkpoint"], row.get("layer", ""), str(name)): value
        for row in records(table)
        for name, value in row.items()
        if name not in skipped and value is not None
    }


def test_every_cell_is_there_once_and_no_other() -> None:
    rows = [sample("a.pt"), sample("b.pt", 2, movement=MOVEMENT), broken("c.pt", "c.pt: no weights")]
    main, layers = frame(MAIN.with_eigenvalues(3), rows), frame(LAYERS, rows)
    long = long_table(main, layers)
    assert list(long.columns) == [column.name for column in LONG.columns]
    assert widened(long) == cells_of(main) | cells_of(layers)
    keys = long[["checkpoint", "layer", "quantity", "index"]]
    assert not keys.duplicated().any()
    last = long[long["checkpoint"] == "c.pt"]
    assert last[["status", "error"]].values.tolist() == [["rejected", "c.pt: no weights"]]
    assert last["quantity"].isna().all()


def test_units_and_errors_stand_beside_the_value() -> None:
    long = long_table(frame(MAIN.with_eigenvalues(2), [sample()]))
    trace = long[long["quantity"] == "trace_true"].iloc[0]
    assert (trace["value"], trace["value_se"], trace["unit"]) == (0.2, 0.1 / 3, "1/weight²")
    eigenvalues = long[long["quantity"] == "eig_true"]
    assert eigenvalues["index"].tolist() == [1, 2]
    assert eigenvalues["value"].tolist() == [0.3, 0.1]
    assert eigenvalues["value_residual"].tolist() == [1e-17, 2e-17]


@pytest.mark.usefixtures("workdir")
@pytest.mark.parametrize("command", [("analyze",), ("compare", "true-vs-empirical", "--draws", "2")])
def test_the_command_writes_it_beside_the_report_or_into_the_pipe(command: tuple[str, ...]) -> None:
    arguments = [*command, *CHECKPOINTS, "--limit", "6", "--long", "-q"]
    fisher(*arguments, "-o", "run.csv")
    stem = "run" if command == ("analyze",) else "run.compare"
    long_name = "run.long.csv" if command == ("analyze",) else "run.compare.long.csv"
    main, layers, long = (read_table(Path(f)) for f in (f"{stem}.csv", f"{stem}.layers.csv", long_name))
    assert widened(long) == cells_of(main) | cells_of(layers)
    assert set(json.loads(Path(f"{stem}.fisher/record.json").read_text())["tables"]) >= {f"{stem}.csv", long_name}
    fisher("check", long_name)
    piped = fisher(*arguments).stdout
    found = pd.read_csv(io.StringIO(piped))
    assert list(found.columns) == list(long.columns)
    of_all = long[long["layer"].isna() & (long["quantity"] != "phase")]
    assert len(found[found["quantity"] != "phase"]) == len(of_all)
    as_array = fisher(*arguments, "--format", "json").stdout
    assert len(json.loads(as_array)) == long["layer"].isna().sum()


@pytest.mark.usefixtures("workdir")
def test_the_guide_s_example_runs(capsys: pytest.CaptureFixture[str]) -> None:
    rows = [sample(f"{i}.pt", i + 1) for i in range(4)]
    Path("trend.long.csv").write_text(to_csv(long_table(frame(MAIN.with_eigenvalues(2), rows), frame(LAYERS, rows))))
    (code,) = re.findall(r"```python\n(.*?)```", GUIDE, flags=re.DOTALL)
    exec(code, {})
    assert capsys.readouterr().out.split()[:3] == ["quantity", "trace_empirical", "trace_true"]
    Path("trend.parquet").write_bytes(to_parquet(frame(MAIN.with_eigenvalues(2), rows), {"a": 1}))
    (queries,) = re.findall(r"```sql\n(.*?)```", GUIDE, flags=re.DOTALL)
    by_trace, metadata = (duckdb.execute(line).fetchall() for line in queries.splitlines())
    assert [step for step, _ in by_trace] == [40, 30, 20, 10]
    assert json.loads(bytes(metadata[0][0])) == {"a": 1}
