"""A table of ours in Parquet → its cells: a decoder of a process of its own, which has pyarrow (`readers` asks it)."""

import os
from collections.abc import Iterator, Sequence
from typing import BinaryIO, Final

import pyarrow as pa
import pyarrow.parquet as pq

from fisher_cli.storage.decoding import Answer, Decoder, refuse_inflated

_AT_ONCE: Final = 2**17  # cells of one answer


def _cells(sources: Sequence[BinaryIO], key: str) -> Iterator[Answer]:
    """Yield the names of the columns, then their cells by columns, some rows at a time; page checksums are verified.

    Raises:
        ValueError: the file is not one of ours, or is damaged.
    """
    [file] = sources
    try:
        parquet = pq.ParquetFile(file, page_checksum_verification=True, pre_buffer=False)
        schema, about = parquet.schema_arrow, parquet.metadata
        if key.encode() not in (schema.metadata or {}):
            msg = f"its metadata have no key {key!r}"
            raise ValueError(msg)
        if odd := next((each.name for each in schema if not _is_plain(each.type)), None):
            msg = f"column {odd} is neither of text nor of numbers"
            raise ValueError(msg)
        unpacked = sum(
            about.row_group(i).column(k).total_uncompressed_size
            for i in range(about.num_row_groups)
            for k in range(about.num_columns)
        )
        refuse_inflated(os.fstat(file.fileno()).st_size, about.num_rows * about.num_columns, unpacked)
        yield list(schema.names), b""
        count = 0
        for batch in parquet.iter_batches(max(1, _AT_ONCE // max(1, len(schema))), use_threads=False):
            batch.validate(full=True)
            count += len(batch)
            yield [column.to_pylist() for column in batch.columns], b""
    except (pa.ArrowException, OverflowError, OSError) as error:
        raise ValueError(str(error)) from error
    if count != about.num_rows:
        msg = f"it has {count} rows and says {about.num_rows}"
        raise ValueError(msg)


def _is_plain(kind: pa.DataType) -> bool:
    return any(is_of(kind) for is_of in (pa.types.is_string, pa.types.is_integer, pa.types.is_floating))


DECODERS: Final[dict[str, Decoder]] = {"cells": _cells}
