"""Arrow files of images and labels, as the datasets library keeps them: read in order, one record batch at a time."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, BinaryIO, Final

import pyarrow as pa

from fisher_cli.errors import DataError
from fisher_cli.inputs.data.arrow_messages import START, arrow_messages
from fisher_cli.inputs.data.image_rows import AGAIN, rows_of, schema_columns
from fisher_cli.storage.decoding import Answer
from fisher_cli.text import clipped

# Of a record batch that is packed: the datasets library packs none.
_LARGEST_UNPACKED: Final = 256 * 2**20


def describe(sources: Sequence[BinaryIO], about: Mapping[str, Any]) -> Iterator[Answer]:
    """Yield the columns of a file, and how many rows it has.

    Raises:
        DataError: It is damaged, or a part of it unpacks to more than is read at once.
    """
    [file], where = sources, about["where"]
    columns = schema_columns(_stream(file, where).schema)
    yield {"columns": columns, "groups": [_count(file, where, about["memory"])]}, b""


def _stream(file: BinaryIO, where: str) -> Any:
    """Return the file as a stream of record batches, in which all rows of an Arrow file stand as well.

    Raises:
        DataError: It is neither.
    """
    try:
        file.seek(0)
        file.seek(len(START) if file.read(len(START)) == START else 0)
        return pa.ipc.open_stream(file)
    except Exception as error:
        msg = f"{where}: no Arrow file, or a damaged one ({clipped(error, 100)}); {AGAIN}"
        raise DataError(msg) from error


def _count(file: BinaryIO, where: str, memory: int) -> int:
    """Return how many rows the file has; nothing of them is read.

    Raises:
        DataError: It is damaged, or a part of it unpacks to more than is read at once.
    """
    total = 0
    try:
        for message in arrow_messages(file):
            total += message.rows
            if message.rows < 0 or message.unpacked > max(_LARGEST_UNPACKED, message.stored):
                msg = f"{where}: a part of it unpacks to {message.unpacked} bytes; save it without compression"
                raise DataError(msg)
            if message.stored > memory:
                msg = f"{where}: a part of it has {message.stored} bytes; save it in smaller record batches"
                raise DataError(msg)
    except (ValueError, OSError) as error:
        msg = f"{where}: cannot be read ({clipped(error, 100)}); {AGAIN}"
        raise DataError(msg) from error
    return total


def _batches(file: BinaryIO, where: str) -> Iterator[Any]:
    """Yield the record batches; nothing in them is decoded.

    Raises:
        DataError: The file ends early, or is damaged.
    """
    stream = _stream(file, where)
    try:
        yield from stream
    except Exception as error:
        msg = f"{where}: cannot be read ({clipped(error, 100)}); {AGAIN}"
        raise DataError(msg) from error


def rows(sources: Sequence[BinaryIO], about: Mapping[str, Any]) -> Iterator[Answer]:
    """Yield rows of a file by their ascending numbers.

    Raises:
        DataError: The file is damaged.
    """
    [file], where = sources, about["where"]
    start, remaining = 0, list(about["rows"])
    for batch in _batches(file, where):
        ready = [row for row in remaining if row < start + len(batch)]
        if ready:
            try:
                chosen = batch.select(about["columns"])
                chosen.validate(full=True)  # offsets are not looked at when a file is opened
            except Exception as error:
                msg = f"{where}: cannot be read at row {start} ({clipped(error, 100)}); {AGAIN}"
                raise DataError(msg) from error
            yield from rows_of(chosen, about, start, ready)
        start, remaining = start + len(batch), remaining[len(ready) :]
        if not remaining:
            return
    msg = f"{where}: ends at row {start}, before it should; {AGAIN}"
    raise DataError(msg)
