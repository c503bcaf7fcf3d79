"""A table of ours, read back from the file that it was written to, as it was before: any format, any dialect of CSV.

Anybody may have written the file. How much is made of its bytes is bounded before they are read, and what a cell may
hold is said by its column, in one place for all formats.
"""

import csv
import importlib.util
import io
import math
import os
import stat
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import lru_cache
from itertools import chain
from pathlib import Path
from typing import Any, BinaryIO, Final

import pandas as pd

from fisher_cli.errors import OutputError, UsageError
from fisher_cli.storage.decoding import Answer, Decoder
from fisher_cli.storage.formats import Format
from fisher_cli.storage.json_values import shallow_value
from fisher_cli.storage.reader_process import ReaderOwner
from fisher_cli.storage.regular_files import open_regular, status_of
from fisher_cli.storage.report_folder import report_of
from fisher_cli.tables.build import METADATA_KEY, make_table
from fisher_cli.tables.columns import INTEGER_TEXT, Column, Kind, Value
from fisher_cli.tables.dialects import recognised
from fisher_cli.tables.registry import column_named
from fisher_cli.text import one_line, unescape, unguard

# What a table may have: eigenvalues are numbered up to 9999, with four columns each.
_MOST_COLUMNS: Final = 50_000
_LONGEST_CELL: Final = csv.field_size_limit()  # characters, in every format
_LONGEST_LINE: Final = 2**24  # characters
_LARGEST: Final = 2**63  # of whole numbers, in both directions
_CELLS: Final = frozenset({str, int, float})
# Every row is about a checkpoint, and has a place in the run.
_NEVER_EMPTY: Final = frozenset({"checkpoint", "order"})
# Columns of places, which are counted from zero. Standard errors are not below it either.
_PLACES: Final = frozenset({"order", "index"})
_SUFFIXES: Final = tuple(f".{each}" for each in Format if each is not Format.TABLE)


def refuse_no_report(path: Path) -> None:
    """Refuse what can be told from its name, or by a look at it, to be no table of a report.

    Raises:
        OutputError: there is no such file, it is a folder, or it is the record of a report.
    """
    msg = ""
    try:
        if stat.S_ISDIR(status_of(path).st_mode):
            msg = f"{path}: a folder; name a table, such as trend.csv"
        elif (report := report_of(path)) is not None:
            msg = f"{path}: the record of a table; name the table, such as {report}.csv"
    except FileNotFoundError:
        msg = f"{path}: no such table; check the path"
    except OSError as error:
        msg = f"{path}: cannot be read ({error.strerror or error})"
    if msg:
        raise OutputError(msg)


def read_table(path: Path, sheet: str | None = None, columns: Sequence[Column] = ()) -> pd.DataFrame:
    """Read a table of ours, with the dtypes and the text that it was written from.

    Columns that the glossary does not know get the narrowest kind that holds all their values.

    Args:
        path: a file whose suffix says its format: .csv, .tsv, .json, .jsonl, .parquet or .xlsx.
        sheet: of a workbook; None: its first one.
        columns: those that the table has in this version; where the file lacks one it is added, without values.

    Returns:
        The table.

    Raises:
        OutputError: the file is missing, damaged, or not a table of ours.
    """
    found, rows = read_rows(path, sheet)
    names = {column.name for column in found}
    missing = [column for column in columns if column.name not in names]
    if needed := [column.name for column in missing if column.name in _NEVER_EMPTY]:
        msg = f"{path}: not a table of fisher, or a damaged one: no column {needed[0]}"
        raise OutputError(msg)
    return make_table(rows, [*found, *missing])


def read_rows(path: Path, sheet: str | None = None) -> tuple[list[Column], list[dict[str, Value]]]:
    """The columns and rows of `read_table` without the table, which takes longer than reading where rows are few.

    Returns:
        The columns, and one mapping from column names to cells per row; None for an empty cell.

    Raises:
        OutputError: the file is missing, damaged, or not a table of ours.
    """
    refuse_no_report(path)
    readers: dict[str, Callable[[BinaryIO], Rows]] = {
        **{".csv": lambda file: _read_csv(file, ".csv"), ".tsv": lambda file: _read_csv(file, ".tsv")},
        **{".json": _read_json, ".jsonl": _read_json_lines, ".parquet": _read_parquet},
        ".xlsx": lambda file: _read_workbook(file, path, sheet),
    }
    reader = readers.get(path.suffix.lower())
    if reader is None:
        msg = f"{path}: not a table of fisher: its name must end in {' '.join(_SUFFIXES)}"
        raise OutputError(msg)
    with _explained(path), open_regular(path) as file:
        return _typed(*reader(file))


@contextmanager
def _explained(path: Path) -> Iterator[None]:
    """What goes wrong in reading a table, as an error that names it.

    Yields:
        Nothing.

    Raises:
        OutputError: something did.
    """
    try:
        yield
    except OSError as error:
        msg = f"{path}: cannot be read ({error.strerror or one_line(str(error))[:200]})"
        raise OutputError(msg) from error
    except MemoryError as error:
        msg = f"{path}: does not fit into the memory"
        raise OutputError(msg) from error
    except (ValueError, csv.Error) as error:
        msg = f"{path}: not a table of fisher, or a damaged one: {one_line(str(error))[:200]}"
        raise OutputError(msg) from error


Rows = tuple[list[str], list[list[Any]]]  # the column names, and the cells row by row


# --- what a table may hold


def _typed(names: Sequence[str], rows: Sequence[Sequence[Any]]) -> tuple[list[Column], list[dict[str, Value]]]:
    """The cells as their columns have them.

    Raises:
        ValueError: there are too many columns or two of one name, or a cell is none of its column.
    """
    if len(names) > _MOST_COLUMNS or len(set(names)) < len(names):
        msg = "there are too many columns" if len(names) > _MOST_COLUMNS else "two columns have one name"
        raise ValueError(msg)
    columns = [column_named(name, [row[i] for row in rows]) for i, name in enumerate(names)]
    found = []
    for number, row in enumerate(rows, start=1):
        cells = dict[str, Value]()
        for column, value in zip(columns, row, strict=True):
            try:
                cells[column.name] = _cell(value, column)
            except ValueError as error:
                msg = f"row {number}, {column.name}: {error}"
                raise ValueError(msg) from error
        found.append(cells)
    return columns, found


def _cell(value: Any, column: Column) -> Value:
    """A cell's value, whether it was read as text or as a number.

    Raises:
        ValueError: it is none of its column.
    """
    if value is None or value == "":
        if column.name in _NEVER_EMPTY:
            msg = "the cell is empty"
            raise ValueError(msg)
        return None
    if type(value) in _CELLS:
        return str(value) if column.kind is Kind.TEXT else _number(value, column)
    msg = f"a cell holds a {type(value).__name__}"
    raise ValueError(msg)


def _number(value: str | int | float, column: Column) -> int | float:
    """A number of a column.

    Raises:
        ValueError: it is none, or beyond all numbers.
    """
    is_exact = isinstance(value, int) or (isinstance(value, str) and INTEGER_TEXT.fullmatch(value) is not None)
    try:
        number = int(value) if is_exact and column.kind is Kind.INTEGER else float(value)
    except OverflowError:
        number = math.inf
    is_whole = column.kind is Kind.INTEGER
    if not math.isfinite(number) or (is_whole and not (-_LARGEST <= number < _LARGEST and number == int(number))):
        msg = f"{str(value)[:20]} is no {'whole number' if is_whole else 'number'} that a table has"
        raise ValueError(msg)
    if number < 0 and (column.name in _PLACES or column.name.endswith("_se")):
        msg = f"{str(value)[:20]} is below zero"
        raise ValueError(msg)
    return int(number) if is_whole else number


# --- separated values and JSON


def _read_csv(file: BinaryIO, suffix: str) -> Rows:
    """The cells of a CSV or TSV file; all of them text.

    Returns:
        The column names and the rows.

    Raises:
        ValueError: a row is longer or shorter than the header.
    """
    lines = _lines(file)
    first = next(lines, "")
    form = recognised(first, suffix)
    reader = csv.reader(chain([first], lines), delimiter=form.separator, strict=True)
    names, rows = next(reader, []), list[list[str]]()
    if not names:
        msg = "it has no columns"
        raise ValueError(msg)
    for number, row in enumerate(reader, start=1):
        if len(row) != len(names):
            msg = f"row {number} has {len(row)} cells, the header {len(names)}"
            raise ValueError(msg)
        rows.append(row)
    if form.decimal != ".":
        rows = _with_points(names, rows, form.decimal)
    return names, [[unguard(unescape(cell)) for cell in row] for row in rows]


def _lines(file: BinaryIO) -> Iterator[str]:
    """The lines of a text with their ends as they are.

    Yields:
        One after the other.

    Raises:
        ValueError: one is too long, holds zeros, or is no UTF-8.
    """
    with io.TextIOWrapper(file, encoding="utf-8-sig", newline="") as text:
        while line := text.readline(_LONGEST_LINE):
            if len(line) == _LONGEST_LINE or "\0" in line:
                msg = "a line holds zeros" if "\0" in line else f"a line of more than {_LONGEST_LINE:,} characters"
                raise ValueError(msg)
            yield line


def _with_points(names: list[str], rows: list[list[str]], decimal: str) -> list[list[str]]:
    """The rows with a decimal point in the columns of numbers."""
    written = [[cell.replace(decimal, ".") for cell in row] for row in rows]
    kinds = [column_named(name, [row[i] for row in written]).kind for i, name in enumerate(names)]
    return [
        [plain if kind is Kind.TEXT else number for plain, number, kind in zip(row, other, kinds, strict=True)]
        for row, other in zip(rows, written, strict=True)
    ]


def _read_json(file: BinaryIO) -> Rows:
    """The cells of a JSON file."""
    return _objects(shallow_value(file.read()))


def _read_json_lines(file: BinaryIO) -> Rows:
    """The cells of a JSON Lines file."""
    return _objects([shallow_value(line) for line in _lines(file) if line.strip("\n")])


def _objects(rows: Any) -> Rows:
    """The cells of JSON objects.

    Returns:
        The names of the first one's entries, and the rows.

    Raises:
        ValueError: there are no such objects, or one has other entries than the first.
    """
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        msg = "it is no list of rows"
        raise ValueError(msg)
    names = list(rows[0]) if rows else []
    odd = next((number for number, row in enumerate(rows, start=1) if row.keys() != rows[0].keys()), None)
    if odd is not None:
        msg = f"row {odd} has other columns than the first"
        raise ValueError(msg)
    original = _originals()
    return names, [[original(row[name]) for name in names] for row in rows]


def _originals() -> Callable[[Any], Any]:
    """What gives a value that JSON, Parquet or a workbook was written from; texts come again in most rows."""
    text = lru_cache(maxsize=1024)(unescape)

    def original(value: Any) -> Any:
        if not isinstance(value, str):
            return value
        if len(value) > _LONGEST_CELL:
            msg = f"a cell of {len(value):,} characters"
            raise ValueError(msg)
        return text(value)

    return original


# --- Parquet and workbooks, which processes of their own decode


def _parquet_decoders() -> Mapping[str, Decoder]:
    from fisher_cli.storage.parquet_cells import DECODERS

    return DECODERS


def _workbook_decoders() -> Mapping[str, Decoder]:
    from fisher_cli.storage.workbook_cells import DECODERS

    return DECODERS


PARQUET: Final = ReaderOwner("fisher_cli.storage.parquet_cells", _parquet_decoders, ["pyarrow", "numpy"])
WORKBOOKS: Final = ReaderOwner("fisher_cli.storage.workbook_cells", _workbook_decoders, ["openpyxl", "et_xmlfile"])


def _read_parquet(file: BinaryIO) -> Rows:
    """The cells of a Parquet file, its page checksums verified.

    Returns:
        The column names and the rows.

    Raises:
        ValueError: the file is not one of ours, or is damaged.
    """
    original = _originals()
    names, *parts = (tree for tree, _ in _asked(PARQUET, "cells", METADATA_KEY.decode(), file))
    rows = [[original(cell) for cell in row] for part in parts for row in zip(*part, strict=True)]
    return names, rows


def _asked(owner: ReaderOwner, decoder: str, about: Any, file: BinaryIO) -> Iterator[Answer]:
    return owner.ask(decoder, about, [file], [file.fileno()], lambda text, _: ValueError(text))


def sheet_names(path: Path) -> list[str]:
    """The names of a workbook's sheets; none if there is no such file.

    Raises:
        OutputError: it cannot be read.
    """
    if not os.path.lexists(path):
        return []
    _refuse_without_openpyxl(path)
    with _explained(path), open_regular(path) as file:
        [(names, _)] = _asked(WORKBOOKS, "sheets", None, file)
    return list(names)


def _read_workbook(file: BinaryIO, path: Path, name: str | None) -> Rows:
    """The cells of a workbook's sheet.

    Raises:
        ValueError: it has no such sheet, a cell holds a formula, or it is damaged.
    """
    _refuse_without_openpyxl(path)
    header, *body = [row for rows, _ in _asked(WORKBOOKS, "cells", name, file) for row in rows] or [[]]
    if any(len(row) > len(header) for row in body):
        msg = "a row is longer than the header"
        raise ValueError(msg)
    original = _originals()
    rows = [[*(original(cell) for cell in row), *[None] * (len(header) - len(row))] for row in body]
    return [str(each) for each in header], rows


def _refuse_without_openpyxl(path: Path) -> None:
    """Refuse a workbook where nothing reads it.

    Raises:
        UsageError: what reads workbooks is not installed.
    """
    if importlib.util.find_spec("openpyxl") is None:
        msg = f"{path}: a workbook (.xlsx) is read by openpyxl: pip install 'fisher-cli[xlsx]'"
        raise UsageError(msg)
