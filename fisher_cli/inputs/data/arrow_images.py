"""Arrow files of images and labels, as the datasets library keeps them: read in order, one record batch at a time."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final

from fisher_cli.errors import DataError
from fisher_cli.inputs.data.image_tables import RowGroup, schema_columns, table_source
from fisher_cli.inputs.data.sources import DataSource
from fisher_cli.inputs.formats.containers import clipped
from fisher_cli.inputs.formats.files import open_regular, shown

_AGAIN: Final = "copy or download it again"


def arrow_source(name: str, paths: Sequence[Path], split: str | None, beside: Path | None) -> DataSource:
    """Return the rows of these files, one file after the other; images beside them lie below `beside`.

    Raises:
        DataError: A file is damaged, the files differ in their columns, or these are no images and labels.
    """
    groups, columns = [], None
    for path in paths:
        with open_regular(path) as file:
            stream = _stream(file, path)
            found = schema_columns(stream.schema)
        if columns is not None and found != columns:
            msg = f"{shown(path)}: has other columns than {shown(paths[0].name)}; are they of one dataset?"
            raise DataError(msg)
        columns = found
        groups.append(RowGroup(path, 0, 0, sum(len(batch) for batch in _batches(path))))
    return table_source(name, split, columns or [], groups, _rows, beside)


def _stream(file: Any, path: Path) -> Any:
    """Return the file as a stream of record batches: so the library writes it; else as an Arrow file.

    Raises:
        DataError: It is neither.
    """
    import pyarrow as pa

    try:
        if file.read(6) == b"ARROW1":
            return pa.ipc.open_file(file)
        file.seek(0)
        return pa.ipc.open_stream(file)
    except Exception as error:
        msg = f"{shown(path)}: no Arrow file, or a damaged one ({clipped(error, 100)}); {_AGAIN}"
        raise DataError(msg) from error


def _batches(path: Path) -> Iterator[Any]:
    """Yield the record batches; nothing in them is decoded.

    Raises:
        DataError: The file ends early, or is damaged.
    """
    with open_regular(path) as file:
        stream = _stream(file, path)
        try:
            if hasattr(stream, "num_record_batches"):
                yield from (stream.get_batch(number) for number in range(stream.num_record_batches))
            else:
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
