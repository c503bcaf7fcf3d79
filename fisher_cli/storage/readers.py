"""A table of ours, read back from the file that it was written to, as it was before: any format, any dialect of CSV."""

import csv
import json
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from fisher_cli.errors import OutputError, UsageError
from fisher_cli.tables.build import METADATA_KEY, make_table
from fisher_cli.tables.columns import INTEGER_TEXT, Column, Kind, Value
from fisher_cli.tables.dialects import recognised
from fisher_cli.tables.registry import column_named
from fisher_cli.text import unescape, unguard


def read_sheet(path: Path, name: str | None = None) -> tuple[list[str], list[list[Any]]]:
    """The names of a sheet's columns and its rows, None where a cell is empty.

    Args:
        path: a workbook, .xlsx.
        name: of the sheet; None: the first one.

    Raises:
        ValueError: it has no such sheet, or a cell holds a formula.
    """
    with path.open("rb") as file:
        book = _open(file, path)
        if name is not None and name not in book.sheetnames:
            msg = f"it has no sheet {name}"
            raise ValueError(msg)
        sheet = book[name] if name is not None else book.worksheets[0]
        rows = [list(row) for row in sheet.iter_rows()]
        if any(cell.data_type in {"f", "e"} for row in rows for cell in row):
            msg = "a cell holds a formula or an error"
            raise ValueError(msg)
        header, *body = [[cell.value for cell in row] for row in rows] or [[]]
    return [str(each) for each in header], [row + [None] * (len(header) - len(row)) for row in body]


def sheet_names(path: Path) -> list[str]:
    """The names of a workbook's sheets, in order; none if there is no such file.

    Raises:
        UsageError: openpyxl, which reads workbooks, is not installed.
        ValueError: the file is no workbook.
    """
    if not path.is_file():
        return []
    with path.open("rb") as file:
        return list(_open(file, path).sheetnames)


def _open(file: IO[bytes], path: Path) -> Any:
    """The workbook in an open file, which is read as it is needed.

    Raises:
        UsageError: what reads workbooks is not installed.
        ValueError: it is no workbook.
    """
    try:
        from openpyxl import load_workbook
    except ImportError as error:
        msg = f"{path}: a workbook (.xlsx) is read by openpyxl: pip install 'fisher-cli[xlsx]'"
        raise UsageError(msg) from error
    try:
        return load_workbook(file, read_only=True)
    except (zipfile.BadZipFile, KeyError) as error:
        msg = f"no workbook: {error}"
        raise ValueError(msg) from error


Rows = tuple[list[str], list[list[Any]]]  # the column names, and the cells row by row


def read_table(path: Path, sheet: str | None = None) -> pd.DataFrame:
    """Read a table of ours, with the dtypes and the text that it was written from.

    Columns that the glossary does not know get the narrowest kind that holds all their values.

    Args:
        path: a file whose suffix says its format: .csv, .tsv, .json, .jsonl, .parquet or .xlsx.
        sheet: of a workbook; None: its first one.

    Returns:
        The table.

    Raises:
        OutputError: the file is missing, damaged, or not a table of ours.
    """
    columns, rows = read_rows(path, sheet)
    return make_table(rows, columns)


def read_rows(path: Path, sheet: str | None = None) -> tuple[list[Column], list[dict[str, Value]]]:
    """The columns and rows of `read_table` without the table, which takes longer than reading where rows are few.

    Returns:
        The columns, and one mapping from column names to cells per row; None for an empty cell.

    Raises:
        OutputError: the file is missing, damaged, or not a table of ours.
    """
    readers: dict[str, Callable[[Path], Rows]] = {
        **{".csv": _read_csv, ".tsv": _read_csv, ".json": _read_json, ".jsonl": _read_json},
        ".xlsx": lambda path: _read_workbook(path, sheet),
    }
    try:
        names, rows = readers.get(path.suffix.lower(), _read_parquet)(path)
        columns = [column_named(name, [row[i] for row in rows]) for i, name in enumerate(names)]
        return columns, [{c.name: _parse(value, c.kind) for c, value in zip(columns, row, strict=True)} for row in rows]
    except FileNotFoundError:
        msg = f"{path}: no such report; check the path"
        raise OutputError(msg) from None
    except (OSError, ValueError, TypeError, KeyError, AttributeError, csv.Error, pa.ArrowException) as error:
        msg = f"{path}: not a report of fisher, or a damaged one: {error}"
        raise OutputError(msg) from error


def _read_csv(path: Path) -> Rows:
    """The cells of a CSV or TSV file; all of them text.

    Returns:
        The column names and the rows.

    Raises:
        ValueError: a row is longer or shorter than the header.
    """
    with path.open(encoding="utf-8-sig", newline="") as file:
        form = recognised(file.readline(), path.suffix.lower())
        file.seek(0)
        names, *rows = csv.reader(file, delimiter=form.separator, strict=True)
    for number, row in enumerate(rows, start=1):
        if len(row) != len(names):
            msg = f"row {number} has {len(row)} cells, the header {len(names)}"
            raise ValueError(msg)
    if form.decimal != ".":
        rows = _with_points(names, rows, form.decimal)
    return names, [[unguard(unescape(cell)) for cell in row] for row in rows]


def _with_points(names: list[str], rows: list[list[str]], decimal: str) -> list[list[str]]:
    """The rows with a decimal point in the columns of numbers."""
    written = [[cell.replace(decimal, ".") for cell in row] for row in rows]
    kinds = [column_named(name, [row[i] for row in written]).kind for i, name in enumerate(names)]
    return [
        [plain if kind is Kind.TEXT else number for plain, number, kind in zip(row, other, kinds, strict=True)]
        for row, other in zip(rows, written, strict=True)
    ]


def _read_json(path: Path) -> Rows:
    """The cells of a JSON or JSON Lines file."""
    text = path.read_text(encoding="utf-8")
    if path.suffix.lower() == ".jsonl":
        rows = [json.loads(line) for line in text.split("\n") if line]
    else:
        rows = json.loads(text)
    names = list(rows[0]) if rows else []
    return names, [[_original(row[name]) for name in names] for row in rows]


def _read_parquet(path: Path) -> Rows:
    """The cells of a Parquet file, its page checksums verified.

    Returns:
        The column names and the rows.

    Raises:
        ValueError: the file is not one of ours.
    """
    table = pq.read_table(path, page_checksum_verification=True)
    if METADATA_KEY not in (table.schema.metadata or {}):
        msg = f"its metadata have no key {METADATA_KEY.decode()!r}"
        raise ValueError(msg)
    columns = [[_original(value) for value in column.to_pylist()] for column in table.columns]
    return table.column_names, [list(row) for row in zip(*columns, strict=True)]


def _read_workbook(path: Path, sheet: str | None) -> Rows:
    """The cells of a workbook's sheet."""
    names, rows = read_sheet(path, sheet)
    return names, [[_original(value) for value in row] for row in rows]


def _original(value: Any) -> Any:
    """The value that JSON or Parquet was written from."""
    return unescape(value) if isinstance(value, str) else value


def _parse(value: Any, kind: Kind) -> Value:
    """A cell's value, whether it was read as text or as a number."""
    if value is None or value == "":
        return None
    if kind is Kind.TEXT:
        return str(value)
    if kind is Kind.REAL:
        return float(value)
    return int(value) if not isinstance(value, str) or INTEGER_TEXT.fullmatch(value) else int(float(value))
