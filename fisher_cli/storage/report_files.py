"""Where reports go: which format, whether we may write there, and writing that never leaves half a file.

Beside `name.csv` stand `name.layers.csv` and the record `name.meta.json`, which lists the tables with their
SHA-256. What such a record lists is ours and may be replaced; all else is left alone without `--force`.
"""

import hashlib
import json
import os
import shlex
import stat
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from fisher_cli.errors import OutputError
from fisher_cli.storage.atomic_write import PreparedFile, replace_all, temporary_name, write_new
from fisher_cli.storage.checksums import NO_HASH, SELF_HASH, self_hash_holds, with_self_hash
from fisher_cli.storage.formats import MAIN_SHEET, SCHEMA_VERSION, TOOL, Format, is_newer, render, render_workbook
from fisher_cli.tables.dialects import Dialect
from fisher_cli.tables.registry import Table
from fisher_cli.text import digest, json_lines

if TYPE_CHECKING:
    import pandas as pd

RECORD: Final = ".meta.json"


def stem_of(main: Path, word: str) -> str:
    """The name that all tables of a report begin with.

    Args:
        main: the file of its main table, such as `trend.spectrum.csv`.
        word: the word of the main table in that name, here `spectrum`; "" for none.
    """
    return main.stem.removesuffix(f".{word}") if word else main.stem


def table_path(main: Path, word: str, own: str = "") -> Path:
    """Where a table of a report lies: `name.word.csv`, or `name.csv` for no word, beside `name.own.csv`.

    Args:
        main: the file of the main table.
        word: of the table that is asked for.
        own: of the main table, as it stands in the name of `main`.
    """
    return main.with_name(f"{stem_of(main, own)}.{word}{main.suffix}" if word else stem_of(main, own) + main.suffix)


def record_path(main: Path) -> Path:
    """Where the record of a report lies: `name.meta.json` beside its main table `name.csv`."""
    return main.with_name(f"{main.stem}{RECORD}")


@dataclass(frozen=True)
class RunRecord:
    """What is known about a run besides its tables, as JSON values.

    Attributes:
        stable: the same whenever the same question is asked on the same machine; it goes into Parquet files and
            workbooks too.
        run: times, host, command; it goes only into the record.
    """

    stable: Mapping[str, Any] = field(default_factory=dict)
    run: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class ReportFiles:
    """The files of one report: the main table, the tables beside it and the record, all in one folder.

    Attributes:
        main: the file of the main table.
        format: of all tables.
        force: whether files that are not an earlier report's may be replaced.
        inputs: the checkpoints of the run, which a report must never replace.
        beside: the file of the second table; None for `name.layers.csv`.
        further: the files of tables besides these two. In a workbook all tables are sheets of `main`.
        dialect: of CSV.
        word: the main table's word in its file's name; `rows` where it has none, which is what a workbook calls its
            sheet.
    """

    main: Path
    format: Format
    force: bool = False
    inputs: tuple[Path, ...] = ()
    beside: Path | None = None
    further: tuple[Path, ...] = ()
    dialect: Dialect = Dialect.PLAIN
    word: str = MAIN_SHEET

    def holding(self, main: Table, beside: Table, *further: Table) -> "ReportFiles":
        """The files of a command's tables, each under its word: `name.csv`, `name.layers.csv`, or `name.spectrum.csv`.

        Args:
            main: the main table of the command.
            beside: the second one.
            *further: all others, in their order.
        """
        paths = [table_path(self.main, table.word, main.word) for table in (main, beside, *further)]
        return replace(self, main=paths[0], beside=paths[1], further=tuple(paths[2:]), word=main.word or MAIN_SHEET)

    def path(self, table: Table) -> Path:
        """Where a table of the registry lies, by its word."""
        return table_path(self.main, table.word, "" if self.word == MAIN_SHEET else self.word)

    @property
    def layers(self) -> Path:
        """The file of the second table, by default the per-layer table."""
        return self.beside or table_path(self.main, "layers")

    @property
    def tables(self) -> tuple[Path, ...]:
        """The files that hold tables."""
        return (self.main,) if self.format is Format.XLSX else (self.main, self.layers, *self.further)

    @property
    def record(self) -> Path:
        """The record of the run: `name.meta.json`."""
        return record_path(self.main)

    def check_writable(self) -> None:
        """Refuse now what could not be written after hours of computation.

        Raises:
            OutputError: there is no such folder, it takes no files, or a file that must stay is in the way.
        """
        paths = (*self.tables, self.record)
        _check_folder(self.main, max((path.name for path in paths), key=lambda name: len(os.fsencode(name))))
        listed = self._listed()
        for path in paths:
            self._check_replaceable(path, listed)

    def spare_inputs(self) -> None:
        """Refuse to replace a checkpoint of the run.

        Raises:
            OutputError: a file of the report is one of them.
        """
        for path in (self.main, self.layers, self.record, *self.further):
            if path.exists():
                self._refuse_input(path)

    def write(
        self,
        main: "pd.DataFrame | PreparedFile",
        layers: "pd.DataFrame | None",
        metadata: RunRecord,
        further: "Mapping[Path, pd.DataFrame | PreparedFile] | None" = None,
    ) -> None:
        """Write the tables and the record; each file is at any moment absent, the old one or the new one.

        All contents are on the disk under temporary names before the first name changes. The record takes its place
        first: a process killed between two renames leaves no file that the record does not list, so the next run knows
        all of them as ours; and a table that does not fit the record's SHA-256 is noticed.

        Args:
            main: the main table, or its file where that was written part by part.
            layers: the second table; None where it is among `further`, or there is none.
            metadata: for the record.
            further: other tables by their files. Tables of an earlier report that are none of these are removed.

        Raises:
            OutputError: the disk is full, the operating system refused for another reason, or a workbook cannot hold so
                many rows.
            UsageError: a workbook is asked for, and xlsxwriter is not installed.
        """
        tables = {self.main: main, **({} if layers is None else {self.layers: layers}), **(further or {})}
        contents = self._contents(tables, metadata.stable)
        record = self._record(contents, metadata)
        stale = [path for path in self._earlier() if path not in contents]
        try:
            replace_all({self.record: record, **contents}, stale)
        except OSError as error:
            size = len(record) + sum(_size(content) for content in contents.values())
            msg = (
                f"cannot write {self.main} and its companions ({size:,} bytes): {error.strerror or error}; "
                "mend that and run the same command again: nothing that was there is lost"
            )
            raise OutputError(msg) from error

    def _contents(
        self, tables: "Mapping[Path, pd.DataFrame | PreparedFile]", stable: Mapping[str, Any]
    ) -> "dict[Path, bytes | PreparedFile]":
        """What each file will hold."""
        if self.format is Format.XLSX:
            sheets = {self._sheet(path): table for path, table in tables.items() if not isinstance(table, PreparedFile)}
            return {self.main: render_workbook(sheets, stable)}
        return {
            path: table if isinstance(table, PreparedFile) else render(table, self.format, stable, self.dialect)
            for path, table in tables.items()
        }

    def _sheet(self, path: Path) -> str:
        """The name of a table's sheet: the last word of the name that a file of its own would have."""
        return self.word if path == self.main else path.stem.rpartition(".")[2]

    def _record(self, contents: "Mapping[Path, bytes | PreparedFile]", metadata: RunRecord) -> bytes:
        """The record: what it is about, the tables' hashes, its own, and under `run` what differs between runs."""
        hashes = {path.name: _digest(content) for path, content in contents.items()}
        written = {"format": self.format, **({"csv_dialect": self.dialect} if self.format is Format.CSV else {})}
        ours = {"tool": TOOL, "schema_version": SCHEMA_VERSION, "tables": hashes, "written": written}
        closing = {"run": metadata.run, SELF_HASH: NO_HASH}
        return with_self_hash(json_lines({**metadata.stable, **ours, **closing}).encode() + b"\n")

    def is_made_of(self, ingredients: str) -> bool:
        """Whether the report that is there was made of these, and every byte of it is as it was written.

        Args:
            ingredients: what the record's `run` says under `made_of`, a hash of all that the tables are made of.
        """
        try:
            content = self.record.read_bytes()
            record = json.loads(content) if self_hash_holds(content) else None
            if record is None or record["run"].get("made_of") != ingredients:
                return False
            paths = {name: self.main.with_name(name) for name in record["tables"] if "/" not in name}
            return self.main.name in paths and all(
                _digest_of_file(path) == record["tables"][name] for name, path in paths.items()
            )
        except (OSError, ValueError, RecursionError, LookupError, AttributeError, TypeError):
            return False

    def _listed(self) -> set[str]:
        """The names that the record lists, with its own; none if there is no record or it is not ours."""
        try:
            record = json.loads(self.record.read_bytes())
        except (OSError, ValueError, RecursionError):
            return set()
        if not isinstance(record, dict) or record.get("tool") != TOOL or not isinstance(record.get("tables"), dict):
            return set()
        if is_newer(record):
            return set()  # what a later version put there is not ours to replace
        return {*record["tables"], self.record.name}

    def _earlier(self) -> list[Path]:
        """The tables of an earlier report of this name, by its record."""
        listed = self._listed()
        names = {path.name for path in (self.layers, *self.further)} - {self.main.name}
        names |= {name for name in listed if name.startswith(f"{self.main.stem}.") and "/" not in name}
        return [self.main.with_name(name) for name in sorted(names - {self.record.name}) if self._is_ours(name, listed)]

    def _is_ours(self, name: str, listed: set[str]) -> bool:
        """Whether the record lists the file; a record is ours only if this report's main table is in it."""
        return name in listed and self.main.name in listed

    def _check_replaceable(self, path: Path, listed: set[str]) -> None:
        """Refuse if something is there that a report must not replace.

        Raises:
            OutputError: it is a folder or a device, a checkpoint of this run, or a file that is not ours.
        """
        try:
            mode = os.stat(path).st_mode
        except FileNotFoundError:
            if not path.is_symlink():
                return
            mode = stat.S_IFREG  # a link that leads nowhere is in the way like a file
        except OSError as error:
            msg = f"cannot write {path}: {error.strerror}"
            raise OutputError(msg) from error
        if stat.S_ISDIR(mode):
            better = str(path / f"report{self.main.suffix}")
            msg = f"cannot write {path}: it is a folder: type -o {shlex.quote(better)}"
            raise OutputError(msg)
        if not stat.S_ISREG(mode):
            msg = f"cannot write {path}: it is not a regular file; choose another name"
            raise OutputError(msg)
        self._refuse_input(path)
        if not self.force and not self._is_ours(path.name, listed):
            others = ", ".join(sorted(listed - {self.record.name})) if path == self.record else ""
            whose = f"belongs to the report {others}" if others else "exists"
            msg = (
                f"{path} {whose} and is not part of an earlier report {self.main.name}: "
                "choose another name for -o, or replace it with --force"
            )
            raise OutputError(msg)

    def _refuse_input(self, path: Path) -> None:
        if any(_is_same_file(path, each) for each in self.inputs):
            msg = f"{path} is one of the checkpoints of this run and would be lost: choose another name for -o"
            raise OutputError(msg)


def _check_folder(target: Path, longest_name: str) -> None:
    """Refuse a folder in which no such file can be created; really tried, as permissions alone do not tell.

    Raises:
        OutputError: there is no such folder, it is not one, or it is full or read-only.
    """
    folder = target.parent
    if not folder.exists():
        msg = f"cannot write {target}: there is no folder {folder}: mkdir -p {shlex.quote(str(folder))}"
        raise OutputError(msg)
    if not folder.is_dir():
        msg = f"cannot write {target}: {folder} is not a folder"
        raise OutputError(msg)
    try:
        probe = temporary_name(target.with_name(longest_name))
        write_new(probe, bytes(4096))  # an empty file fits even on a full disk
        probe.unlink()
    except OSError as error:
        msg = f"cannot write {target}: {error.strerror}; mend that, or choose another folder for -o"
        raise OutputError(msg) from error


def _is_same_file(one: Path, other: Path) -> bool:
    """Whether two names lead to one file, also through links."""
    try:
        return one.samefile(other)
    except OSError:
        return False


def _digest(content: bytes | PreparedFile) -> str:
    return content.sha256 if isinstance(content, PreparedFile) else digest(content)


def _digest_of_file(path: Path) -> str:
    with open(path, "rb") as file:
        return digest(hashlib.file_digest(file, "sha256"))


def _size(content: bytes | PreparedFile) -> int:
    return content.size if isinstance(content, PreparedFile) else len(content)
