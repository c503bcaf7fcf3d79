"""Parquet files of images and labels: only the row groups that hold selected rows are read, a few rows at a time."""

import itertools
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from fisher_cli.errors import DataError
from fisher_cli.inputs.data.image_tables import RowGroup, schema_columns, table_source
from fisher_cli.inputs.data.parquet_pages import unpacked_sizes
from fisher_cli.inputs.data.sources import DataSource
from fisher_cli.inputs.formats.files import available_memory, open_regular, shown
from fisher_cli.text import clipped

_AGAIN: Final = "copy or download it again"
# Rows of one batch, and what they may take if each of them were as large as all that its row group stores: a value
# that is stored once can be repeated in every row.
_MOST_ROWS: Final = 1024
_BATCH_BYTES: Final = 256 * 2**20
# Of a page, which is unpacked whole: writers end a page after some megabytes, so that a large one is one large value.
_LARGEST_PAGE: Final = 128 * 2**20
_MOST_PAGES: Final = 100_000


def parquet_source(name: str, paths: Sequence[Path], split: str | None) -> DataSource:
    """Return the rows of these files, one file after the other.

    Raises:
        DataError: A file is damaged, the files differ in their columns, or these are no images and labels.
    """
    groups: list[RowGroup] = []
    columns = None
    for path in paths:
        with _open(path) as file:
            found = schema_columns(file.schema_arrow)
            sizes = [file.metadata.row_group(number).num_rows for number in range(file.num_row_groups)]
        if columns is not None and found != columns:
            msg = f"{shown(path)}: has other columns than {shown(paths[0].name)}; are they of one dataset?"
            raise DataError(msg)
        columns = found
        firsts = itertools.accumulate(sizes, initial=0)
        groups += [RowGroup(path, *each) for each in zip(range(len(sizes)), firsts, sizes, strict=False)]
    return table_source(name, split, columns or [], groups, _rows)


@contextmanager
def _open(path: Path) -> Iterator[Any]:
    """Give pyarrow's view of the file: its footer is read, nothing else.

    Raises:
        DataError: It is no Parquet file, or damaged.
    """
    import pyarrow.parquet as pq

    with open_regular(path) as file:
        try:
            # Without pre-buffering a column is read in pieces, not as a whole.
            opened = pq.ParquetFile(file, pre_buffer=False, buffer_size=2**20, page_checksum_verification=True)
        except Exception as error:  # ArrowInvalid, OSError, ArrowNotImplementedError
            msg = f"{shown(path)}: no Parquet file, or a damaged one ({clipped(error, 100)}); {_AGAIN}"
            raise DataError(msg) from error
        yield opened


def _unpacked(group: RowGroup, part: Any, columns: Sequence[str]) -> int:
    """Return how many bytes these columns of a row group unpack to, by the headers of their pages.

    Raises:
        DataError: That is more than memory holds, or one page is larger than any image; or they are damaged.
    """
    where, total, pages = shown(group.path), 0, 0
    found = (part.column(i) for i in range(part.num_columns))
    chosen = [each for each in found if each.path_in_schema.partition(".")[0] in columns]
    with open_regular(group.path) as file:
        for column in chosen:
            start = column.data_page_offset
            if column.has_dictionary_page and 0 < column.dictionary_page_offset < start:
                start = column.dictionary_page_offset
            try:
                for size in unpacked_sizes(file, start, start + column.total_compressed_size):
                    total, pages = total + size, pages + 1
                    if size > _LARGEST_PAGE or pages > _MOST_PAGES or total > available_memory():
                        break
            except (ValueError, OSError, OverflowError) as error:
                msg = f"{where}: row group {group.number} cannot be read ({clipped(error, 100)}); {_AGAIN}"
                raise DataError(msg) from error
            if size > _LARGEST_PAGE:
                msg = (
                    f"{where}: has values of {size} bytes together, and at most {_LARGEST_PAGE} are read; store images"
                )
                raise DataError(msg)
            if pages > _MOST_PAGES or total > available_memory():
                msg = (
                    f"{where}: a row group unpacks to {total} bytes or more in {pages} pages; write smaller row groups"
                )
                raise DataError(msg)
    return total


def _rows(group: RowGroup, columns: list[str], wanted: Sequence[int]) -> Iterator[dict[str, object]]:
    """Yield rows of a row group by their ascending numbers.

    Raises:
        DataError: The group cannot be read, or claims more than memory holds.
    """
    where, start, remaining = shown(group.path), 0, list(wanted)
    with _open(group.path) as file:
        claimed = _unpacked(group, file.metadata.row_group(group.number), columns)
        at_once = max(1, min(_MOST_ROWS, _BATCH_BYTES // max(1, claimed)))
        batches = file.iter_batches(at_once, row_groups=[group.number], columns=columns, use_threads=False)
        while remaining:
            try:
                batch = next(batches)
                batch.validate(full=True)
                ready = [row for row in remaining if row < start + len(batch)]
                found = [{name: batch.column(name)[row - start].as_py() for name in columns} for row in ready]
            except StopIteration:
                msg = f"{where}: row group {group.number} ends at row {start}, before it should; {_AGAIN}"
                raise DataError(msg) from None
            except Exception as error:
                msg = f"{where}: row group {group.number} cannot be read ({clipped(error, 100)}); {_AGAIN}"
                raise DataError(msg) from error
            yield from found
            start, remaining = start + len(batch), remaining[len(ready) :]
