"""The file of `--labels`: CSV `index,label[,noisy]`, the labels that replace the dataset's own."""

import csv
import io
import os
import re
from collections.abc import Sequence
from typing import Final, NamedTuple

import torch
from torch import Tensor

from fisher_cli.errors import DataError
from fisher_cli.inputs.formats.files import open_regular
from fisher_cli.text import clipped

_HEADERS: Final = (["index", "label"], ["index", "label", "noisy"])
# Bytes of a line, and lines beside those of the examples; a longer file is no file of their labels.
_LONGEST_LINE: Final = 128
_FURTHER_LINES: Final = 1000
_INTEGER: Final = re.compile(r"[0-9]{1,18}", re.ASCII)  # at most 18 digits: fits into 64 bits
_TRUTH: Final = {"0": False, "1": True, "false": False, "true": True}


class _Row(NamedTuple):
    line: int
    label: int
    noisy: bool


def read_labels(path: str, indices: Sequence[int], total: int) -> tuple[Tensor, Tensor | None]:
    """Return labels (N,) int64 and, if the file has that column, noisy (N,) bool for these indices.

    Args:
        path: the CSV file.
        indices: the selected examples, counted from 0 within the split.
        total: how many examples the split has.

    Raises:
        DataError: The file cannot be read, a line of it cannot be used, or a selected example has no line.
    """
    rows, has_noisy = _parse(path, total)
    missing = [index for index in indices if index not in rows]
    if missing:
        more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
        last = max((row.line for row in rows.values()), default=1)
        msg = (
            f"{clipped(path, 500)}: ends at line {last} without a label for example {missing[0]}{more}; "
            "add the lines index,label, or select fewer examples with --limit"
        )
        raise DataError(msg)
    selected = [rows[index] for index in indices]
    noisy = torch.tensor([row.noisy for row in selected], dtype=torch.bool) if has_noisy else None
    return torch.tensor([row.label for row in selected], dtype=torch.int64), noisy


def _parse(path: str, total: int) -> tuple[dict[int, _Row], bool]:
    """Return the rows by index, and whether there is a column `noisy`.

    Raises:
        DataError: The file is no such CSV file, or one of its lines cannot be used.
    """
    rows: dict[int, _Row] = {}
    file_name, path = os.path.expanduser(path), clipped(path, 500)
    longest = _LONGEST_LINE * (total + _FURTHER_LINES)
    try:
        # utf-8-sig: spreadsheets put a byte-order mark in front.
        with (
            open_regular(file_name, longest, "name a CSV file with --labels FILE") as content,
            io.TextIOWrapper(content, newline="", encoding="utf-8-sig") as file,
        ):
            reader = csv.reader(file, strict=True)
            header = [cell.strip().lower() for cell in next(reader, [])]
            if header not in _HEADERS:
                msg = f"{path}: line 1 is {','.join(header)[:60]!r}; it must be index,label or index,label,noisy"
                raise DataError(msg)
            for cells in reader:
                if cells:  # an empty line is none
                    index, row = _row(cells, len(header), reader.line_num, path)
                    _check_index(index, rows, total, reader.line_num, path)
                    rows[index] = row
    except OSError as error:
        msg = f"{path}: cannot be read ({error.strerror}); name a CSV file with --labels FILE"
        raise DataError(msg) from error
    except (UnicodeDecodeError, csv.Error) as error:
        msg = f"{path}: no CSV text in UTF-8 ({error}); save it as index,label[,noisy] in plain CSV"
        raise DataError(msg) from error
    return rows, len(header) == 3


def _row(cells: list[str], columns: int, line: int, path: str) -> tuple[int, _Row]:
    """Return the index and the rest of one line.

    Raises:
        DataError: It has another number of cells, or one of them is no integer or truth value.
    """
    cells = [cell.strip() for cell in cells]
    if len(cells) != columns:
        msg = f"{path}: line {line} has {len(cells)} cells, not {columns} as the header; correct that line"
        raise DataError(msg)
    for name, cell in zip(("index", "label"), cells, strict=False):
        if not _INTEGER.fullmatch(cell):
            msg = f"{path}: line {line}: {name} {cell[:40]!r} is no integer from 0 up; correct that line"
            raise DataError(msg)
    noisy = _TRUTH.get(cells[2].lower()) if columns == 3 else False
    if noisy is None:
        msg = f"{path}: line {line}: noisy {cells[2][:40]!r} is none of 0, 1, false, true; correct that line"
        raise DataError(msg)
    return int(cells[0]), _Row(line, int(cells[1]), noisy)


def _check_index(index: int, rows: dict[int, _Row], total: int, line: int, path: str) -> None:
    """Refuse an index that came before or that the split does not have.

    Raises:
        DataError: It did, or it does not.
    """
    if index in rows:
        msg = f"{path}: line {line}: index {index} is in line {rows[index].line} already; remove one of them"
        raise DataError(msg)
    if index >= total:
        msg = (
            f"{path}: line {line}: index {index}, but the split has {total} examples (index 0 to {total - 1}); "
            "is the file for another --split?"
        )
        raise DataError(msg)
