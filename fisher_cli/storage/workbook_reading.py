"""A sheet of a workbook of ours, read back as its cells; nothing in a workbook is computed or followed."""

import zipfile
from pathlib import Path
from typing import IO, Any

from fisher_cli.errors import UsageError


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
    """The names of a workbook's sheets; none if there is no such file."""
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
