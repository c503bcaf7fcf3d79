"""Tables → one workbook for a spreadsheet, .xlsx: a sheet each, and one of the settings.

Numbers are numbers with all their digits, text is text and never a formula, an empty cell is what was not computed, is
not a number or is infinite. The same tables give the same bytes.
"""

import io
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final

from fisher_cli.errors import OutputError, UsageError
from fisher_cli.tables.registry import column_named
from fisher_cli.text import escape, guard

try:
    import xlsxwriter
    from xlsxwriter.format import Format
    from xlsxwriter.worksheet import Worksheet
except ImportError as error:
    _msg = "a workbook (.xlsx) needs xlsxwriter: pip install 'fisher-cli[xlsx]'"
    raise UsageError(_msg) from error

if TYPE_CHECKING:
    import pandas as pd

# Rows of a sheet, the header among them. Source: Microsoft, Excel specifications and limits.
SHEET_ROWS: Final = 1_048_576
SETTINGS: Final = "settings"
# Integers beyond this are not all numbers of a spreadsheet, which knows floating-point numbers only.
_EXACT: Final = 2**53
_WIDEST: Final = 28
_LONGEST: Final = 32_767  # characters of a cell


class _Exact(float):
    """A number that is written with all its digits; xlsxwriter's own sixteen do not read back as the same one."""

    def __format__(self, _: str) -> str:
        return repr(float(self))


def check_rows(name: str, rows: int) -> None:
    """Refuse a table with more rows than a sheet can hold.

    Args:
        name: of the file, for the message.
        rows: how many there are, without the header.

    Raises:
        OutputError: there are more than 1,048,575.
    """
    if rows >= SHEET_ROWS:
        msg = (
            f"{name}: {rows:,} rows are too many for a workbook, whose sheets hold {SHEET_ROWS - 1:,}: "
            "choose a .csv or .parquet file for -o"
        )
        raise OutputError(msg)


def workbook(tables: "Mapping[str, pd.DataFrame]", metadata: Mapping[str, Any]) -> bytes:
    """The tables as the sheets of one .xlsx file, and after them the settings, a row each.

    Args:
        tables: by the sheet's name.
        metadata: what was asked and of what; settings, data and versions are shown, the rest is in the record.

    Returns:
        The file's content.
    """
    buffer = io.BytesIO()
    book = xlsxwriter.Workbook(
        buffer,
        {"in_memory": True, "strings_to_formulas": False, "strings_to_numbers": False, "strings_to_urls": False},
    )
    book.set_properties({"title": "Fisher information", "created": datetime(1980, 1, 1, tzinfo=UTC)})
    heading = book.add_format({"bold": True, "bottom": 1})
    # An apostrophe that is no part of the text: it stays text when somebody edits the cell.
    quoted = book.add_format({"quote_prefix": True})
    for name, table in tables.items():
        check_rows(name, len(table))
        _fill(book.add_worksheet(name), table, heading, quoted)
    settings = book.add_worksheet(SETTINGS)
    _write_row(settings, 0, ["setting", "value"], heading)
    for i, (key, value) in enumerate(_facts(metadata), start=1):
        _write(settings, i, 0, key, quoted)
        _write(settings, i, 1, value, quoted)
    settings.set_column(0, 1, _WIDEST)
    book.close()
    return buffer.getvalue()


def _fill(sheet: Worksheet, table: "pd.DataFrame", heading: Format, quoted: Format) -> None:
    """A header that stays in sight, with a note on each column, and a row per row."""
    from fisher_cli.tables.build import plain_columns

    names = [str(name) for name in table.columns]
    _write_row(sheet, 0, names, heading)
    for i, (name, cells) in enumerate(zip(names, plain_columns(table, str), strict=True)):
        column = column_named(name, ())
        if column.description:
            unit = f" [{column.unit}]" if column.unit else ""
            sheet.write_comment(0, i, f"{column.description}{unit}", {"author": "", "width": 240})
        for row, cell in enumerate(cells, start=1):
            _write(sheet, row, i, cell, quoted)
        longest = max([len(name), *(len(cell) for cell in cells if isinstance(cell, str))])
        sheet.set_column(i, i, min(_WIDEST, longest + 3))
    sheet.freeze_panes(1, 1)
    if len(table):
        sheet.autofilter(0, 0, len(table), len(names) - 1)


def _write_row(sheet: Worksheet, row: int, names: list[str], form: Format) -> None:
    for i, name in enumerate(names):
        sheet.write_string(row, i, escape(name), form)


def _write(sheet: Worksheet, row: int, column: int, cell: object, quoted: Format) -> None:
    """One cell as what it is; text that could be taken for a formula is marked as text besides."""
    if cell is None:
        return
    if isinstance(cell, bool):
        sheet.write_boolean(row, column, cell)
    elif isinstance(cell, int) and abs(cell) <= _EXACT:
        sheet.write_number(row, column, cell)
    elif isinstance(cell, float):
        sheet.write_number(row, column, _Exact(cell))
    else:
        text = escape(str(cell))
        text = text if len(text) <= _LONGEST else f"{text[: _LONGEST - 1]}…"
        sheet.write_string(row, column, text, quoted if guard(text) != text else None)


def _facts(metadata: Mapping[str, Any]) -> Iterator[tuple[str, object]]:
    """Settings, data and versions as plain values, by dotted names.

    Yields:
        A name and its value.
    """
    for key, value in metadata.items():
        if isinstance(value, Mapping):
            yield from ((f"{key}.{name}", each) for name, each in _facts(value))
        elif isinstance(value, (list, tuple)):
            if not any(isinstance(each, (Mapping, list, tuple)) for each in value):
                yield key, ", ".join(map(str, value))
        elif value is not None:
            yield key, value
