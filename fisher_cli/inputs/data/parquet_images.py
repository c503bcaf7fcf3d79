"""Parquet files of images and labels: only the row groups that hold selected rows are read, a few rows at a time."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, BinaryIO, Final

import pyarrow.parquet as pq

from fisher_cli.errors import DataError
from fisher_cli.inputs.data.image_rows import AGAIN, rows_of, schema_columns
from fisher_cli.inputs.data.parquet_pages import unpacked_sizes
from fisher_cli.storage.decoding import Answer
from fisher_cli.text import clipped

# Rows of one batch, and what they may take if each of them were as large as all that its row group stores: a value
# that is stored once can be repeated in every row.
_MOST_ROWS: Final = 1024
_BATCH_BYTES: Final = 256 * 2**20
# Of a page, which is unpacked whole: writers end a page after some megabytes, so that a large one is one large value.
_LARGEST_PAGE: Final = 128 * 2**20
_MOST_PAGES: Final = 100_000


def describe(sources: Sequence[BinaryIO], about: Mapping[str, Any]) -> Iterator[Answer]:
    """Yield the columns of a file, and how many rows its groups have.

    Raises:
        DataError: It is no Parquet file, or damaged.
    """
    file = _opened(sources[0], about["where"])
    sizes = [file.metadata.row_group(number).num_rows for number in range(file.num_row_groups)]
    yield {"columns": schema_columns(file.schema_arrow), "groups": sizes}, b""


def _opened(file: BinaryIO, where: str) -> Any:
    """Return pyarrow's view of the file: its footer is read, nothing else.

    Raises:
        DataError: It is no Parquet file, or damaged.
    """
    try:
        # Without pre-buffering a column is read in pieces, not as a whole.
        return pq.ParquetFile(file, pre_buffer=False, buffer_size=2**20, page_checksum_verification=True)
    except Exception as error:  # ArrowInvalid, OSError, ArrowNotImplementedError
        msg = f"{where}: no Parquet file, or a damaged one ({clipped(error, 100)}); {AGAIN}"
        raise DataError(msg) from error


def _unpacked(file: BinaryIO, part: Any, about: Mapping[str, Any]) -> int:
    """Return how many bytes these columns of a row group unpack to, by the headers of their pages.

    Raises:
        DataError: That is more than memory holds, or one page is larger than any image; or they are damaged.
    """
    where, number, memory, total, pages = about["where"], about["group"], about["memory"], 0, 0
    found = (part.column(i) for i in range(part.num_columns))
    chosen = [each for each in found if each.path_in_schema.partition(".")[0] in about["columns"]]
    for column in chosen:
        start = column.data_page_offset
        if column.has_dictionary_page and 0 < column.dictionary_page_offset < start:
            start = column.dictionary_page_offset
        try:
            for size in unpacked_sizes(file, start, start + column.total_compressed_size):
                total, pages = total + size, pages + 1
                if size > _LARGEST_PAGE or pages > _MOST_PAGES or total > memory:
                    break
        except (ValueError, OSError, OverflowError) as error:
            msg = f"{where}: row group {number} cannot be read ({clipped(error, 100)}); {AGAIN}"
            raise DataError(msg) from error
        if size > _LARGEST_PAGE:
            msg = f"{where}: has values of {size} bytes together, and at most {_LARGEST_PAGE} are read; store images"
            raise DataError(msg)
        if pages > _MOST_PAGES or total > memory:
            msg = f"{where}: a row group unpacks to {total} bytes or more in {pages} pages; write smaller row groups"
            raise DataError(msg)
    return total


def rows(sources: Sequence[BinaryIO], about: Mapping[str, Any]) -> Iterator[Answer]:
    """Yield rows of a row group by their ascending numbers.

    Raises:
        DataError: The group cannot be read, or claims more than memory holds.
    """
    where, number, columns = about["where"], about["group"], about["columns"]
    start, remaining = 0, list(about["rows"])
    file = _opened(sources[0], where)
    claimed = _unpacked(sources[0], file.metadata.row_group(number), about)
    at_once = max(1, min(_MOST_ROWS, _BATCH_BYTES // max(1, claimed)))
    batches = file.iter_batches(at_once, row_groups=[number], columns=columns, use_threads=False)
    while remaining:
        try:
            batch = next(batches)
            batch.validate(full=True)
        except StopIteration:
            msg = f"{where}: row group {number} ends at row {start}, before it should; {AGAIN}"
            raise DataError(msg) from None
        except Exception as error:
            msg = f"{where}: row group {number} cannot be read ({clipped(error, 100)}); {AGAIN}"
            raise DataError(msg) from error
        ready = [row for row in remaining if row < start + len(batch)]
        yield from rows_of(batch, about, start, ready)
        start, remaining = start + len(batch), remaining[len(ready) :]
