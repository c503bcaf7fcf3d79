"""A workbook → the cells of a sheet: decoders of a process of its own, which has openpyxl (`readers` asks it)."""

import os
import warnings
import zipfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, BinaryIO, Final

from openpyxl import load_workbook

from fisher_cli.storage.decoding import Answer, Decoder, refuse_inflated

_AT_ONCE: Final = 2**17  # cells of one answer
_PLAIN: Final = frozenset({str, int, float, type(None)})


def _sheets(sources: Sequence[BinaryIO], _: Any) -> Iterator[Answer]:
    """Yield the names of a workbook's sheets.

    Raises:
        ValueError: it is damaged.
    """
    with _workbook(sources[0]) as (book, _unpacked):
        yield list(book.sheetnames), b""


def _cells(sources: Sequence[BinaryIO], name: str | None) -> Iterator[Answer]:
    """Yield the rows of a workbook's sheet, some at a time.

    Raises:
        ValueError: it has no such sheet, a cell holds a formula, or it is damaged.
    """
    with _workbook(sources[0]) as (book, unpacked):
        if name is not None and name not in book.sheetnames:
            msg = f"it has no sheet {name}"
            raise ValueError(msg)
        sheet = book[name] if name is not None else book.worksheets[0]
        sheet.reset_dimensions()  # they are claimed, and rows would be filled up to them
        rows: list[list[Any]] = []
        count = 0
        for row in _filled(sheet.iter_rows(), 2**20 + unpacked // 2):
            rows.append(row)
            count += len(row)
            if count > _AT_ONCE:
                yield rows, b""
                rows, count = [], 0
        yield rows, b""


def _filled(rows: Iterable[Sequence[Any]], most: int) -> Iterator[list[Any]]:
    """The cells of a sheet's rows up to the last one that holds something.

    Yields:
        One list per row.

    Raises:
        ValueError: a cell holds a formula or an error, or what no report has; an empty row is between others; or there
            are far too many cells.
    """
    blank = 0
    for row in rows:
        most -= len(row) + 1
        if most < 0:
            msg = "its rows are longer than what is in them"
            raise ValueError(msg)
        if any(cell.data_type in {"f", "e"} for cell in row):
            msg = "a cell holds a formula or an error"
            raise ValueError(msg)
        cells = [cell.value for cell in row]
        if odd := next((cell for cell in cells if type(cell) not in _PLAIN), None):
            msg = f"a cell holds a {type(odd).__name__}"
            raise ValueError(msg)
        while cells and cells[-1] is None:
            cells.pop()
        if cells and blank:
            msg = f"{blank} rows between others are empty"
            raise ValueError(msg)
        blank += not cells
        if cells:
            yield cells


@contextmanager
def _workbook(file: BinaryIO) -> Iterator[tuple[Any, int]]:
    """The workbook in an open file, which is read as it is needed, and how many bytes it says that it unpacks to.

    Yields:
        Both.

    Raises:
        ValueError: it is no workbook, or a damaged one, also as far as it is read within the context.
        MemoryError: it does not fit into the memory.
    """
    try:
        with zipfile.ZipFile(file) as archive, warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about what is left out, such as styles
            unpacked = sum(entry.file_size for entry in archive.infolist())
            refuse_inflated(os.fstat(file.fileno()).st_size, 0, unpacked)
            yield load_workbook(file, read_only=True), unpacked
    except MemoryError:
        raise
    except Exception as error:  # openpyxl does not say which: of XML, of numbers, of parts that are not there
        msg = f"no workbook, or a damaged one: {error or type(error).__name__}"
        raise ValueError(msg) from error


DECODERS: Final[dict[str, Decoder]] = {"cells": _cells, "sheets": _sheets}
