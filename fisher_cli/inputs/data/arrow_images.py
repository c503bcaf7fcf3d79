"""Arrow files of images and labels, as the datasets library keeps them: read in order, one record batch at a time."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO, Final

from fisher_cli.errors import DataError
from fisher_cli.inputs.data.arrow_messages import START, arrow_messages
from fisher_cli.inputs.data.image_tables import RowGroup, schema_columns, table_source
from fisher_cli.inputs.data.sources import DataSource
from fisher_cli.inputs.formats.files import available_memory, open_regular, shown
from fisher_cli.text import clipped

_AGAIN: Final = "copy or download it again"
# Of a record batch that is packed: the datasets library packs none.
_LARGEST_UNPACKED: Final = 256 * 2**20


def arrow_source(name: str, paths: Sequence[Path], split: str | None, beside: Path | None) -> DataSource:
    """Return the rows of these files, one file after the other; images beside them lie below `beside`.

    Raises:
        DataError: A file is damaged, the files differ in their columns, or these are no images and labels.
    """
    groups, columns = [], None
    for path in paths:
        with open_regular(path) as file:
            found = schema_columns(_stream(file, path).schema)
        if columns is not None and found != columns:
            msg = f"{shown(path)}: has other columns than {shown(paths[0].name)}; are they of one dataset?"
            raise DataError(msg)
        columns = found
        with open_regular(path) as file:
            groups.append(RowGroup(path, 0, 0, _count(file, path)))
    return table_source(name, split, columns or [], groups, _rows, beside)


def _stream(file: BinaryIO, path: Path) -> Any:
    """Return the file as a stream of record batches, in which all rows of an Arrow file stand as well.

    Raises:
        DataError: It is neither.
    """
    import pyarrow as pa

    try:
        file.seek(len(START) if file.read(len(START)) == START else 0)
        return pa.ipc.open_stream(file)
    except Exception as error:
        msg = f"{shown(path)}: no Arrow file, or a damaged one ({clipped(error, 100)}); {_AGAIN}"
        raise DataError(msg) from error


def _count(file: BinaryIO, path: Path) -> int:
    """Return how many rows the file has; nothing of them is read.

    Raises:
        DataError: It is damaged, or a part of it unpacks to more than is read at once.
    """
    total = 0
    try:
        for message in arrow_messages(file):
            total += message.rows
            if message.rows < 0 or message.unpacked > max(_LARGEST_UNPACKED, message.stored):
                msg = f"{shown(path)}: a part of it unpacks to {message.unpacked} bytes; save it without compression"
                raise DataError(msg)
            if message.stored > available_memory():
                msg = f"{shown(path)}: a part of it has {message.stored} bytes; save it in smaller record batches"
                raise DataError(msg)
    except (ValueError, OSError) as error:
        msg = f"{shown(path)}: cannot be read ({clipped(error, 100)}); {_AGAIN}"
        raise DataError(msg) from error
    return total


def _batches(path: Path) -> Iterator[Any]:
    """Yield the record batches; nothing in them is decoded.

    Raises:
        DataError: The file ends early, or is damaged.
    """
    with open_regular(path) as file:
        stream = _stream(file, path)
        try:
            yield from stream
        except Exception as error:
            msg = f"{shown(path)}: cannot be read ({clipped(error, 100)}); {_AGAIN}"
            raise DataError(msg) from error


def _rows(group: RowGroup, columns: list[str], wanted: Sequence[int]) -> Iterator[dict[str, object]]:
    """Yield rows of a file by their ascending numbers.

    Raises:
        DataError: The file is damaged.
    """
    start, remaining = 0, list(wanted)
    for batch in _batches(group.path):
        ready = [row for row in remaining if row < start + len(batch)]
        if ready:
            try:
                chosen = batch.select(columns)
                chosen.validate(full=True)  # offsets are not looked at when a file is opened
                found = [{name: chosen.column(name)[row - start].as_py() for name in columns} for row in ready]
            except Exception as error:
                msg = f"{shown(group.path)}: cannot be read at row {start} ({clipped(error, 100)}); {_AGAIN}"
                raise DataError(msg) from error
            yield from found
        start, remaining = start + len(batch), remaining[len(ready) :]
        if not remaining:
            return
    msg = f"{shown(group.path)}: ends at row {start}, before it should; {_AGAIN}"
    raise DataError(msg)
