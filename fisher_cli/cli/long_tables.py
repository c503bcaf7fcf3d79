"""Tables with too many rows to hold, written while the run goes on: a row per checkpoint and example."""

import shutil
import tempfile
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from fisher_cli.errors import OutputError
from fisher_cli.storage.atomic_write import PreparedFile
from fisher_cli.storage.formats import Format, render_workbook
from fisher_cli.storage.report_files import ReportFiles
from fisher_cli.storage.row_files import KeptRows, RowFile
from fisher_cli.tables.dialects import Dialect
from fisher_cli.tables.registry import Table

if TYPE_CHECKING:
    import pandas as pd

    from fisher_cli.reports.console import Console
    from fisher_cli.results import Measurement

T = TypeVar("T")

# Bytes of a finished file that go to stdout at once.
_PIECE = 2**20


class LongRows:
    """A long table being written; what is not finished when the run ends leaves nothing behind.

    Methods raise an OutputError where the disk is full or the operating system refuses.

    Args:
        table: of the registry.
        path: the file's own name, which it gets at the end; of a workbook the workbook's.
        form: of the file.
        dialect: of CSV.
    """

    def __init__(self, table: Table, path: Path, form: Format, dialect: Dialect = Dialect.PLAIN) -> None:
        self.path, self._table = path, table
        self._file: RowFile | KeptRows = _saying(
            path,
            lambda: (
                KeptRows(path, table.columns)
                if form is Format.XLSX
                else RowFile(path, form.value, table.columns, dialect)
            ),
        )
        self._done: PreparedFile | pd.DataFrame | None = None

    def add(self, measurement: "Measurement", order: int) -> None:
        """Append one checkpoint's rows.

        Args:
            measurement: of the checkpoint.
            order: its place in the run, from 0.
        """
        from fisher_cli.tables.build import frames

        for rows in frames(self._table, measurement, order):
            _saying(self.path, lambda rows=rows: self._file.write(rows))  # type: ignore[misc]

    def prepared(self, metadata: Mapping[str, Any]) -> "PreparedFile | pd.DataFrame":
        """All of it, ready to take its name, or to become a sheet of a workbook; nothing can be added any more.

        Args:
            metadata: JSON values that go into Parquet only.
        """
        if self._done is None:
            self._done = _saying(self.path, lambda: self._file.finish(metadata))
        return self._done

    def so_far(self) -> "PreparedFile | pd.DataFrame | None":
        """What is written yet, ready to take its name; None where the form does not allow it."""
        return _saying(self.path, lambda: self._file.so_far())

    def print(self, console: "Console", metadata: Mapping[str, Any]) -> None:
        """Put all of it on stdout; nothing can be added any more.

        Args:
            console: on which it is put.
            metadata: JSON values that go into Parquet and workbooks only.
        """
        done = self.prepared(metadata)
        if not isinstance(done, PreparedFile):
            console.write(render_workbook({self._table.word: done}, metadata))
            return
        with open(done.temporary, "rb") as file:
            while piece := file.read(_PIECE):
                console.write(piece)


def open_rows(stack: ExitStack, tables: Sequence[Table], files: ReportFiles | None, form: Format | None) -> "Opened":
    """Open the long table's file among the report's, and one for what goes to stdout only when it is whole.

    Args:
        stack: removes what is not finished when it is left.
        tables: of the command, the main one first; none of them need be long.
        files: the report's; None for no file.
        form: of what goes to stdout; None for nothing.

    Raises:
        OutputError: the file cannot be made.
    """
    table = next((each for each in tables if each.is_long), None)
    beside = in_pipe = None
    if table is not None and files is not None:
        beside = LongRows(table, files.path(table), files.format, files.dialect)
        stack.callback(beside._file.discard)
    if table is not None and table is tables[0] and form in {Format.JSON, Format.PARQUET, Format.XLSX}:
        folder = Path(tempfile.mkdtemp(prefix="fisher-"))
        stack.callback(shutil.rmtree, folder, ignore_errors=True)
        in_pipe = LongRows(table, folder / f"rows.{form}", form)
        stack.callback(in_pipe._file.discard)
    return Opened(beside, in_pipe)


@dataclass(frozen=True)
class Opened:
    """Where a run's long table goes: a file of the report, stdout at the end, both or neither."""

    file: LongRows | None = None
    stdout: LongRows | None = None

    def add(self, measurement: "Measurement", order: int) -> None:
        """Append one checkpoint's rows to all of them."""
        for rows in filter(None, (self.file, self.stdout)):
            rows.add(measurement, order)


def _saying(path: Path, act: Callable[[], T]) -> T:
    """What the act gives.

    Raises:
        OutputError: the disk is full, or the operating system refused for another reason.
    """
    try:
        return act()
    except OSError as error:
        msg = f"cannot write {path}: {error.strerror or error}"
        raise OutputError(msg) from error
