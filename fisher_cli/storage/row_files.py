"""A table too long to hold: written to a file chunk by chunk, under a name that is not its own until it is whole."""

import contextlib
import hashlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Protocol

from fisher_cli.storage.atomic_write import PreparedFile, create, remove, remove_leftovers, sync, temporary_name
from fisher_cli.tables.columns import Column
from fisher_cli.tables.dialects import Dialect
from fisher_cli.text import digest, json_text

if TYPE_CHECKING:
    import pandas as pd

# Bytes that are copied at once.
_PIECE = 2**20


class RowFile:
    """A table too long to hold, written to a temporary file part by part, open until `finish` or `discard`.

    Args:
        path: the file's own name, which it does not have yet; temporary files that a killed process left there are
            removed.
        form: csv, tsv, json, jsonl or parquet.
        columns: of all its rows.
        dialect: of CSV.

    Raises:
        OSError: the file cannot be made.
    """

    def __init__(self, path: Path, form: str, columns: Sequence[Column], dialect: Dialect = Dialect.PLAIN) -> None:
        self.path = path
        remove_leftovers(path)
        self._temporary = temporary_name(path)
        self._file: IO[bytes] = open(create(self._temporary), "wb")  # noqa: SIM115 - closed by finish or discard
        self._writer: _Rows = _WRITERS.get(form, _ParquetRows)(self._file, columns, form, dialect)

    def write(self, rows: "pd.DataFrame") -> None:
        """Append some rows with exactly the file's columns; they are on the disk after `finish` only.

        Raises:
            OSError: the disk is full, or the operating system refused for another reason.
        """
        self._writer.write(rows)

    def finish(self, metadata: Mapping[str, Any]) -> PreparedFile:
        """End the file and bring all of it to the disk, still under its temporary name.

        Args:
            metadata: JSON values that go into Parquet only.

        Returns:
            The file, for `replace_all` to give it its own name.

        Raises:
            OSError: the disk is full, or the operating system refused for another reason.
        """
        self._writer.end(metadata)
        self._file.flush()
        sync(self._file.fileno())
        self._file.close()
        with open(self._temporary, "rb") as file:
            sha256 = digest(hashlib.file_digest(file, "sha256"))
        return PreparedFile(self._temporary, sha256, self._temporary.stat().st_size)

    def so_far(self) -> PreparedFile | None:
        """Copy the rows written yet into a whole file on the disk; the rows may go on.

        Returns:
            The copy, for `replace_all` to give it its own name; None for Parquet, whose index comes at its end.
        """
        ending = self._writer.ending()
        if ending is None:
            return None
        self._file.flush()
        temporary, hashed, size = temporary_name(self.path), hashlib.sha256(), 0
        with open(self._temporary, "rb") as rows, open(create(temporary), "wb") as copy:
            while piece := rows.read(_PIECE) or ending:
                ending = b"" if piece is ending else ending
                copy.write(piece)
                hashed.update(piece)
                size += len(piece)
            copy.flush()
            sync(copy.fileno())
        return PreparedFile(temporary, digest(hashed), size)

    def discard(self) -> None:
        """Close the temporary file and remove it, if it is still there."""
        self._file.close()
        with contextlib.suppress(OSError):
            remove(self._temporary)


class KeptRows:
    """A sheet of a workbook, with the methods of `RowFile`: the rows are held, since a workbook is written as one.

    Args:
        path: the workbook.
        columns: of all its rows.
    """

    def __init__(self, path: Path, columns: Sequence[Column]) -> None:
        from fisher_cli.tables.build import make_table

        self.path, self._count = path, 0
        self._parts = [make_table([], columns)]

    def write(self, rows: "pd.DataFrame") -> None:
        """Append some rows with exactly the sheet's columns.

        Raises:
            OutputError: a sheet cannot hold so many rows.
        """
        from fisher_cli.storage.xlsx import check_rows

        check_rows(self.path.name, self._count + len(rows))
        self._count += len(rows)
        self._parts.append(rows)

    def so_far(self) -> "pd.DataFrame":
        """All rows written yet as one table."""
        return self.finish({})

    def finish(self, _: Mapping[str, Any]) -> "pd.DataFrame":
        """All rows as one table; the metadata are written with the workbook."""
        import pandas as pd

        return pd.concat(self._parts, ignore_index=True)

    def discard(self) -> None:
        """Drop the rows."""
        self._parts.clear()


class _Rows(Protocol):
    def write(self, rows: "pd.DataFrame") -> None: ...

    def ending(self) -> bytes | None: ...

    def end(self, metadata: Mapping[str, Any]) -> None: ...


class _TextRows:
    """Separated values or JSON Lines."""

    def __init__(self, file: IO[bytes], columns: Sequence[Column], form: str, dialect: Dialect) -> None:
        self._file, self._columns, self._form, self._dialect, self._is_first = file, columns, form, dialect, True

    def write(self, rows: "pd.DataFrame") -> None:
        self._file.write(self._text(rows))
        self._is_first = False

    def _text(self, rows: "pd.DataFrame") -> bytes:
        from fisher_cli.tables.build import rows_text

        return rows_text(rows, self._form, self._dialect, self._is_first).encode()

    def ending(self) -> bytes:
        return self._text(_no_rows(self._columns)) if self._is_first else b""  # a header at least

    def end(self, metadata: Mapping[str, Any]) -> None:  # noqa: ARG002 - they go into Parquet only
        self._file.write(self.ending())


class _JsonRows:
    """One JSON array, a row to a line."""

    def __init__(self, file: IO[bytes], *_: object) -> None:
        self._file, self._is_first = file, True

    def write(self, rows: "pd.DataFrame") -> None:
        from fisher_cli.tables.build import to_jsonl

        for line in to_jsonl(rows).removesuffix("\n").split("\n"):
            if line:
                self._file.write(b"[\n" if self._is_first else b",\n")
                self._file.write(line.encode())
                self._is_first = False

    def ending(self) -> bytes:
        return b"[]\n" if self._is_first else b"\n]\n"

    def end(self, metadata: Mapping[str, Any]) -> None:  # noqa: ARG002 - they go into Parquet only
        self._file.write(self.ending())


class _ParquetRows:
    """Parquet, a row group per chunk, otherwise as `to_parquet` writes it."""

    def __init__(self, file: IO[bytes], columns: Sequence[Column], *_: object) -> None:
        import pyarrow.parquet as pq

        from fisher_cli.tables.build import arrow_schema

        self._schema = arrow_schema(columns)
        self._writer = pq.ParquetWriter(
            file, self._schema, compression="zstd", write_page_checksum=True, store_schema=False
        )

    def write(self, rows: "pd.DataFrame") -> None:
        from fisher_cli.tables.build import arrow_table

        if len(rows):
            self._writer.write_table(arrow_table(rows, self._schema), row_group_size=len(rows))

    def ending(self) -> None:
        return None

    def end(self, metadata: Mapping[str, Any]) -> None:
        from fisher_cli.tables.build import METADATA_KEY

        self._writer.add_key_value_metadata({METADATA_KEY: json_text(metadata).encode()})
        self._writer.close()


def _no_rows(columns: Sequence[Column]) -> "pd.DataFrame":
    from fisher_cli.tables.build import make_table

    return make_table([], columns)


_WRITERS: dict[str, Callable[[IO[bytes], Sequence[Column], str, Dialect], _Rows]] = {
    "csv": _TextRows,
    "tsv": _TextRows,
    "jsonl": _TextRows,
    "json": _JsonRows,
}
