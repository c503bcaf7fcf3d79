"""A column or a table is added in one place, and is then in the files, the record, the glossary and the docs."""

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import pandas as pd
import pytest
from typer.testing import CliRunner

from fisher_cli import analyze
from fisher_cli.cli.app import app
from fisher_cli.errors import UsageError
from fisher_cli.parallel import merge
from fisher_cli.results import Measurement
from fisher_cli.storage.readers import read_table
from fisher_cli.tables import registry
from fisher_cli.tables.build import frame, make_table
from fisher_cli.tables.columns import integer, real, text
from fisher_cli.tables.registry import LAYERS, MAIN, PLACE, TABLES, Table, column_named
from tests.documents import ROOT
from tests.tables.test_tables import sample

CHECKPOINTS = [str(ROOT / "sample_checkpoints" / "digits-clean" / f"step_{step:05}.pt") for step in (0, 1760)]


def fisher(*words: object) -> None:
    done = CliRunner().invoke(app, [*map(str, words), "--limit", "8", "-q"])
    assert done.exit_code == 0, done.output


def solvers(measurement: Measurement) -> Iterator[dict[str, object]]:
    for each in measurement.spectra:
        yield {"matrix": f"{each.matrix} Fisher", "products": each.leading.products}


SOLVERS = Table(
    name="solvers",
    word="solvers",
    title="How the eigenvalues were found",
    row="checkpoint and matrix",
    commands=("spectrum",),
    report="spectrum",
    items=solvers,
    columns=(
        *PLACE,
        text("matrix", "whose eigenvalues: true Fisher or empirical Fisher"),
        integer("products", "", "products of the matrix with a vector"),
    ),
)


def test_a_column_is_a_line_in_its_table(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, reference: ModuleType
) -> None:
    monkeypatch.chdir(tmp_path)
    # The line: its name, its unit, its meaning, and where it comes from.
    added = real("entropy_se", "nats", "standard error of entropy over examples", "predictions.entropy.standard_error")
    monkeypatch.setitem(TABLES, "main", replace(MAIN, columns=(*MAIN.columns, added)))
    fisher("analyze", *CHECKPOINTS, "-o", "run.csv")
    fisher("analyze", *CHECKPOINTS, "-o", "same.parquet")
    found, same = pd.read_csv("run.csv"), read_table(Path("same.parquet"))
    assert list(found)[-1] == "entropy_se"
    assert (found["entropy_se"] > 0).all()
    assert list(same["entropy_se"]) == list(found["entropy_se"])
    python = analyze(CHECKPOINTS, limit=8).table
    assert list(python["entropy_se"]) == list(found["entropy_se"])
    assert column_named("entropy_se", ()) == added
    assert "| `entropy_se` | real | nats | standard error of entropy over examples |" in reference.glossary()


def test_a_table_is_an_entry_of_the_registry(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, reference: ModuleType
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(TABLES, "solvers", SOLVERS)
    fisher("spectrum", *CHECKPOINTS, "-o", "run.csv")
    found = pd.read_csv("run.solvers.csv")
    assert list(found["matrix"]) == ["true Fisher", "empirical Fisher"] * 2
    record = json.loads(Path("run.spectrum.fisher/record.json").read_text())
    assert set(record["tables"]) == {"run.spectrum.csv", "run.solvers.csv"}
    fisher("spectrum", *CHECKPOINTS, "-o", "book.xlsx")
    assert list(read_table(Path("book.spectrum.xlsx"), "solvers")["products"]) == list(found["products"])
    for shard in (1, 2):
        fisher("spectrum", *CHECKPOINTS, "--shard", f"{shard}/2", "-o", f"part-{shard}.csv")
    merge.merge([Path("part-1.csv"), Path("part-2.csv")], Path("whole.csv"), merge.Format.CSV)
    assert Path("whole.solvers.csv").read_bytes() == Path("run.solvers.csv").read_bytes()
    assert column_named("products", ()).description == "products of the matrix with a vector"
    head = "## How the eigenvalues were found\n\nA row per checkpoint and matrix. Made by `fisher spectrum`, in "
    assert f"{head}`NAME.solvers.csv`" in reference.glossary()
    line = "| `NAME.solvers.csv` | `spectrum` | How the eigenvalues were found: a row per checkpoint and matrix |"
    assert line in reference.files()


def test_a_key_that_is_not_a_column_is_an_error() -> None:
    misspelt = replace(LAYERS, items=lambda measurement: [{"layer": measurement, "shaer": 1.0}])
    with pytest.raises(ValueError, match="a row has shaer, which is no column of its table"):
        frame(misspelt, [sample()])
    with pytest.raises(ValueError, match="a row has shaer"):
        make_table([{"layer": "a"}, {"shaer": 1.0}], LAYERS.columns)
    with pytest.raises(AttributeError, match="entropi"):
        frame(replace(MAIN, columns=(real("entropy", "nats", "", "gradient.entropi"),)), [sample()])


def test_names_words_and_columns_of_the_registry_are_each_there_once() -> None:
    words = [(table.report == "files", table.word) for table in TABLES.values()]
    assert len(set(words)) == len(words)
    for name, table in TABLES.items():
        assert name == table.name
        assert TABLES[table.report].report == table.report
        names = [column.name for column in table.with_eigenvalues(2).columns]
        assert len(set(names)) == len(names)
        assert all(column.description for column in table.columns)


def test_columns_of_one_name_have_one_kind() -> None:
    """Else a table would be read back otherwise than it was written."""
    for table in TABLES.values():
        for column in table.columns:
            assert column_named(column.name, ()).kind is column.kind, (table.name, column.name)


def test_from_python_every_table_of_a_run_is_a_data_frame() -> None:
    analysis = analyze(CHECKPOINTS, limit=8, eigenvalues=2)
    for table in TABLES.values():
        if table.is_of_run:
            found = analysis.frame(table.name)
            assert list(found) == [column.name for column in table.with_eigenvalues(2).columns]
    assert analysis.frame("main") is analysis.table
    assert len(analysis.frame("long")) > len(analysis.frame("long", layers=False))
    for name in ("layer", "files"):
        with pytest.raises(UsageError, match="there are main, layers"):
            analysis.frame(name)


def test_the_registry_is_known_without_torch_and_pandas() -> None:
    assert {"torch", "pandas"}.isdisjoint(vars(registry))
