"""Reports in the hands of other programs: LibreOffice, DuckDB and pandas find the numbers that were written."""

import json
import math
import os
from pathlib import Path

import duckdb
import pandas as pd
import pyarrow.parquet as pq
import pytest

from fisher_cli.storage.readers import read_table
from fisher_cli.tables.build import METADATA_KEY, to_parquet
from fisher_cli.tables.columns import Kind
from fisher_cli.tables.dialects import Dialect
from fisher_cli.tables.registry import column_named
from tests.libreoffice import ENGLISH, GERMAN, SOFFICE, Cell, opened
from tests.measurements import HOSTILE, bits, odd_table
from tests.report_files import made

DANGEROUS = '=HYPERLINK("http://evil","x");=1+1,{}'


@pytest.fixture(scope="module")
def office(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if SOFFICE is None:
        if os.environ.get("CI"):
            pytest.fail("no LibreOffice here: .ci/run installs it")
        pytest.skip("no LibreOffice here")
    return tmp_path_factory.mktemp("office")


def compare(rows: list[list[Cell]], table: pd.DataFrame) -> int:
    """Hold the sheet's cells against the table's; the count of the numbers that were compared."""
    header, *body = rows
    names = [cell.value for cell in header if cell.kind]
    assert names == list(table.columns)
    body = [row for row in body if any(cell.kind for cell in row)]
    assert len(body) == len(table)
    compared = 0
    for i, row in enumerate(body):
        for name, cell in zip(names, row, strict=False):
            value = table[name][i]
            assert cell.formula is None
            if value is pd.NA:
                assert cell.kind == "", (name, cell)
            elif column_named(name, ()).kind is Kind.TEXT:
                assert cell.kind == "string", (name, cell)
            else:
                assert cell.kind == "float", (name, cell)
                assert math.isclose(float(cell.value), float(value), rel_tol=1e-14), (name, cell)
                compared += 1
    return compared


@pytest.mark.parametrize(
    ("name", "dialect", "separator", "language"),
    [
        ("plain.csv", Dialect.PLAIN, ",", ENGLISH),
        ("excel.csv", Dialect.EXCEL, ",", ENGLISH),
        ("eu.csv", Dialect.EXCEL_EU, ";", GERMAN),
        ("book.xlsx", Dialect.PLAIN, "", ENGLISH),
    ],
)
def test_libreoffice_finds_every_number_a_number_and_no_formula(
    office: Path, tmp_path: Path, name: str, dialect: Dialect, separator: str, language: int
) -> None:
    report = made(tmp_path / name, 6, 3, DANGEROUS, dialect=dialect)
    sheets = opened(report, office, separator, language)
    main = next(iter(sheets.values()))
    assert compare(main, read_table(report)) == 6 * 21 - 2
    if name.endswith("xlsx"):
        assert list(sheets) == ["rows", "layers", "settings"]
        assert compare(sheets["layers"], read_table(report, "layers")) == 6 * 3 * 3
        assert not any(cell.formula for row in sheets["settings"] for cell in row)


def test_duckdb_and_pandas_read_parquet_bit_by_bit_with_its_metadata(tmp_path: Path) -> None:
    report = made(tmp_path / "run.parquet", 20, 3, "step_{}.pt")
    ours = read_table(report)
    by_pandas = pd.read_parquet(report)
    found = duckdb.execute(f"select * from '{report}' order by \"order\"")
    names = [column[0] for column in found.description or ()]
    assert names == list(by_pandas.columns) == list(ours.columns)
    columns = list(zip(*found.fetchall(), strict=True))
    compared = 0
    for name, cells in zip(names, columns, strict=True):
        for cell, other, own in zip(cells, by_pandas[name], ours[name], strict=True):
            if own is pd.NA:
                assert cell is None
                assert pd.isna(other)
            elif isinstance(own, float):
                assert bits(cell) == bits(other) == bits(own)
                compared += 1
            else:
                assert cell == other == own
    assert compared > 300
    query = f"select value from parquet_kv_metadata('{report}') where key = 'fisher'"
    ((text,),) = duckdb.execute(query).fetchall()
    stored = json.loads(bytes(text))
    assert stored["tool"] == "fisher"
    assert stored["data"]["examples"] == 9
    assert json.loads((pq.read_schema(report).metadata or {})[METADATA_KEY]) == stored
    assert duckdb.execute(f"select arg_max(step, trace_true) from '{report}'").fetchall() == [(100,)]


def test_parquet_read_and_written_again_is_the_same_file(tmp_path: Path) -> None:
    content = to_parquet(odd_table(), {"data": {"name": HOSTILE[0]}})
    (tmp_path / "a.parquet").write_bytes(content)
    metadata = json.loads((pq.read_schema(tmp_path / "a.parquet").metadata or {})[METADATA_KEY])
    assert to_parquet(read_table(tmp_path / "a.parquet"), metadata) == content
