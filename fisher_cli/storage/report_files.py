"""Where reports go: which format, whether we may write there, and writing that never leaves half a file.

Beside `name.csv` stand `name.layers.csv` and the record `name.fisher/record.json`, which lists the tables with their
SHA-256. A file is ours, and may be replaced or deleted, as long as it is what such a record lists, and the record what
was written: its own hash holds. All else was written or changed by somebody, and is left alone without `--force`.
"""

import os
import shlex
import stat
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fisher_cli.errors import OutputError
from fisher_cli.storage.atomic_write import (
    PreparedFile,
    discard,
    make_folder,
    replace_all,
    temporary_name,
    undisturbed,
    write_new,
)
from fisher_cli.storage.checksums import NO_HASH, SELF_HASH, with_self_hash
from fisher_cli.storage.formats import MAIN_SHEET, SCHEMA_VERSION, TOOL, Format, render, render_workbook
from fisher_cli.storage.regular_files import digest_of, kind_of, status_of
from fisher_cli.storage.report_folder import record_path, refuse_other_than_folder
from fisher_cli.storage.run_record import LaterVersionError, StoredRecord, read_record
from fisher_cli.tables.dialects import Dialect
from fisher_cli.tables.registry import Table
from fisher_cli.text import digest, json_lines, one_line

if TYPE_CHECKING:
    import pandas as pd


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
    """The files of one report: the main table, the tables beside it, and the record in a folder of its own.

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
        return table_path(self.main, table.word, self.own_word)

    @property
    def own_word(self) -> str:
        """The main table's word in its file's name, "" where it has none."""
        return "" if self.word == MAIN_SHEET else self.word

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
        """The record of the run: `name.fisher/record.json`."""
        return record_path(self.main)

    def if_worth_writing(self, good: int) -> "ReportFiles | None":
        """These files, or None for a table without a result that would replace an earlier one.

        Args:
            good: how many rows have a result.
        """
        return self if good or not self.main.exists() else None

    def check_writable(self) -> None:
        """Refuse now what could not be written after hours of computation.

        Raises:
            OutputError: there is no such folder, it takes no files, or a file that must stay is in the way.
        """
        paths = (*self.tables, self.record)
        _check_folder(self.main, max((path.name for path in paths), key=lambda name: len(os.fsencode(name))))
        self._check_replaceable(_Ours.of(self))

    def spare_inputs(self) -> None:
        """Refuse to replace a checkpoint of the run.

        Raises:
            OutputError: a file of the report is one of them.
        """
        for path in (self.main, self.layers, self.record, *self.further):
            self._refuse_input(path)

    def write(
        self,
        main: "pd.DataFrame | PreparedFile",
        layers: "pd.DataFrame | None",
        metadata: RunRecord,
        further: "Mapping[Path, pd.DataFrame | PreparedFile] | None" = None,
    ) -> list[Path]:
        """Write the tables and the record; each file is at any moment absent, the old one or the new one.

        All contents are on the disk under temporary names before the first name changes. The record takes its
        place first, and names the files that it finds there with their hashes: a process killed between two renames
        leaves no file that the record does not list as it is, so the next run knows all of them as ours; and a table
        that does not fit the record's SHA-256 is noticed. It is written once more without those hashes at the end.

        Args:
            main: the main table, or its file where that was written part by part.
            layers: the second table; None where it is among `further`, or there is none.
            metadata: for the record.
            further: other tables by their files. Tables of an earlier report that are none of these are removed.

        Returns:
            The tables of an earlier report that have no place in this one, and are left alone, since somebody has
            changed them.

        Raises:
            OutputError: the disk is full, the operating system refused for another reason, a workbook cannot hold so
                many rows, or somebody has changed a file in the meantime.
            UsageError: a workbook is asked for, and xlsxwriter is not installed.
        """
        tables = {self.main: main, **({} if layers is None else {self.layers: layers}), **(further or {})}
        contents = self._contents(tables, metadata.stable)
        ours = _Ours.of(self)
        try:
            there = self._check_replaceable(ours, tuple(contents))
        except OutputError:
            discard(contents.values())
            raise
        replaced = {path.name: found for path, found in there.items() if found != _digest(contents[path])}
        stale, left = self._earlier(ours, contents)
        record = self._record(contents, metadata)
        try:
            with undisturbed():
                make_folder(self.record.parent)
                first = self._record(contents, metadata, replaced) if replaced else record
                replace_all({self.record: first, **contents}, stale)
                if replaced:
                    replace_all({self.record: record})
        except OSError as error:
            size = len(record) + sum(_size(content) for content in contents.values())
            msg = (
                f"cannot write {self.main} and its companions ({size:,} bytes): {error.strerror or error}; "
                "fix that and run the same command again: nothing that was there is lost"
            )
            raise OutputError(msg) from error
        return left

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

    def _record(
        self,
        contents: "Mapping[Path, bytes | PreparedFile]",
        metadata: RunRecord,
        replaced: Mapping[str, str] | None = None,
    ) -> bytes:
        """The record: what it is about, the tables' hashes, its own, and under `run` what differs between runs.

        While files are being replaced it has the hashes of the old ones under `replaced`.
        """
        hashes = {path.name: _digest(content) for path, content in contents.items()}
        written = {"format": self.format, **({"csv_dialect": self.dialect} if self.format is Format.CSV else {})}
        ours = {"tool": TOOL, "schema_version": SCHEMA_VERSION, "tables": hashes, "written": written}
        under_way = {"replaced": replaced} if replaced else {}
        closing = {"run": metadata.run, SELF_HASH: NO_HASH}
        return with_self_hash(json_lines({**metadata.stable, **ours, **under_way, **closing}).encode() + b"\n")

    def is_made_of(self, ingredients: str) -> bool:
        """Whether the report that is there was made of these, and every byte of it is as it was written.

        Args:
            ingredients: what the record's `run` says under `made_of`, a hash of all that the tables are made of.
        """
        try:
            record = read_record(self.record, follow=False)
            is_of_these = record.content.get("run", {}).get("made_of") == ingredients
            is_finished = record.is_whole and not record.replaced and self.main.name in record.tables
            return (
                is_of_these
                and is_finished
                and all(
                    digest_of(self.main.with_name(name), follow=False) == expected
                    for name, expected in record.tables.items()
                )
            )
        except (OSError, ValueError):
            return False

    def _earlier(self, ours: "_Ours", contents: "Mapping[Path, object]") -> tuple[list[Path], list[Path]]:
        """The tables of an earlier report of this name that are not written anew: those that are ours, and others."""
        own = {path.name for path in (self.layers, *self.further)}
        stale, left = list[Path](), list[Path]()
        for name in sorted(ours.listed):
            path = self.main.with_name(name)
            if path in contents or path == self.main or not (name in own or name.startswith(f"{self.main.stem}.")):
                continue
            try:
                is_ours = ours.has(name, digest_of(path, follow=False))
            except FileNotFoundError:
                continue
            except OSError:
                is_ours = False
            (stale if is_ours else left).append(path)
        return stale, left

    def _check_replaceable(self, ours: "_Ours", paths: tuple[Path, ...] | None = None) -> dict[Path, str]:
        """Refuse if something is there that a report must not replace.

        Args:
            ours: what is known of the files that are there.
            paths: the tables that are to be written; None for all.

        Returns:
            The hashes of those that are there, as `sha256:<hex>`.

        Raises:
            OutputError: it is a folder or a device, a checkpoint of this run, or a file that is not ours.
        """
        if self.record.parent != self.main.parent:
            refuse_other_than_folder(self.record.parent)
        found = dict[Path, str]()
        for path in (self.record, *(self.tables if paths is None else paths)):
            try:
                status = status_of(path, follow=False)
                self._refuse_irregular(path, status)
                self._refuse_input(path)
                if path != self.record and stat.S_ISREG(status.st_mode):
                    found[path] = digest_of(path, follow=False)
                if not self.force and (why := ours.why_not(path, found.get(path))) is not None:
                    raise OutputError(why)
            except FileNotFoundError:
                continue
            except OSError as error:
                msg = f"cannot write {path}: {error.strerror or error}"
                raise OutputError(msg) from error
        return found

    def _refuse_irregular(self, path: Path, status: os.stat_result) -> None:
        """Refuse what is no regular file; a link, which would not be followed but replaced, only without force.

        Raises:
            OutputError: it is a folder, a device, a pipe or the like.
        """
        kind = kind_of(status)
        if stat.S_ISDIR(status.st_mode):
            better = str(path / f"table{self.main.suffix}")
            msg = f"cannot write {path}: it is a folder: type -o {shlex.quote(better)}"
            raise OutputError(msg)
        if kind is not None and not stat.S_ISLNK(status.st_mode):
            msg = f"cannot write {path}: it is {kind} and not a regular file; choose another name"
            raise OutputError(msg)
        if kind is not None and not self.force:
            msg = (
                f"cannot write {path}: it is a link, and links are not followed: choose another name for -o, or "
                "replace the link itself with --force"
            )
            raise OutputError(msg)

    def _refuse_input(self, path: Path) -> None:
        if any(_is_same_file(path, each) for each in self.inputs):
            msg = f"{path} is one of the checkpoints of this run and would be lost: choose another name for -o"
            raise OutputError(msg)


@dataclass(frozen=True)
class _Ours:
    """Which of the files of a report were written by us and are as they were written: its record proves it.

    Attributes:
        main: the report's main table.
        record: what its record says; None where there is none of ours.
        fault: why nothing can be known by that record, in words; "" where it proves something, or is not there.
    """

    main: Path
    record: StoredRecord | None
    fault: str = ""

    @classmethod
    def of(cls, files: ReportFiles) -> "_Ours":
        """What the record that is there proves."""
        try:
            record = read_record(files.record, follow=False)
        except LaterVersionError as error:
            return cls(files.main, None, str(error))
        except (OSError, ValueError):
            return cls(files.main, None)
        if not record.is_whole:
            what = "was changed after it was written" if record.was_changed else "is of version 1, without a hash"
            return cls(files.main, record, f"{what} and does not prove which files are fisher's")
        return cls(files.main, record)

    @property
    def listed(self) -> Mapping[str, str]:
        """The hashes of the tables by their names; none where the record is another report's, or proves nothing."""
        if self.record is None or self.fault or self.main.name not in self.record.tables:
            return {}
        return self.record.tables

    def has(self, name: str, found: str | None) -> bool:
        """Whether a table of this name and this hash is one that we wrote."""
        if name not in self.listed or self.record is None:
            return False
        return found in {self.record.tables[name], self.record.replaced.get(name, self.record.tables[name])}

    def why_not(self, path: Path, found: str | None) -> str | None:
        """Why a file that is there must not be replaced, and what to type; None where it may be.

        Args:
            path: a table, or the record.
            found: the table's hash.
        """
        is_record = path == record_path(self.main)
        if self.listed if is_record else self.has(path.name, found):
            return None
        if self.fault:
            return f"{record_path(self.main)} {self.fault}: choose another name for -o, or replace them with --force"
        if path.name in self.listed:
            kept = path.with_name(f"{path.stem}-kept{path.suffix}")
            keeping = f"mv -n {shlex.quote(str(path))} {shlex.quote(str(kept))}"
            return (
                f"{path} was changed after fisher wrote it: keep it with {keeping} and type the same command again, "
                "which writes it again from the journal; or choose another name for -o, or replace it with --force"
            )
        others = ", ".join(sorted(self.record.tables)) if is_record and self.record is not None else ""
        whose = f"belongs to the table {one_line(others)}" if others else "exists"
        return (
            f"{path} {whose} and was not written with an earlier {self.main.name}: "
            "choose another name for -o, or replace it with --force"
        )


def _check_folder(target: Path, longest_name: str) -> None:
    """Refuse a folder in which no such file can be created; really tried, as permissions alone do not tell.

    Raises:
        OutputError: there is no such folder, it is not one, or it is full or read-only.
    """
    folder = target.parent
    if not os.path.lexists(folder):
        msg = f"cannot write {target}: there is no folder {folder}: mkdir -p {shlex.quote(str(folder))}"
        raise OutputError(msg)
    if not os.path.isdir(folder):
        msg = f"cannot write {target}: {folder} is not a folder"
        raise OutputError(msg)
    try:
        probe = temporary_name(target.with_name(longest_name))
        write_new(probe, bytes(4096))  # an empty file fits even on a full disk
        probe.unlink()
    except OSError as error:
        msg = f"cannot write {target}: {error.strerror}; fix that, or choose another folder for -o"
        raise OutputError(msg) from error


def _is_same_file(one: Path, other: Path) -> bool:
    """Whether two names lead to one file, also through links."""
    try:
        return one.samefile(other)
    except OSError:
        return False


def _digest(content: bytes | PreparedFile) -> str:
    return content.sha256 if isinstance(content, PreparedFile) else digest(content)


def _size(content: bytes | PreparedFile) -> int:
    return content.size if isinstance(content, PreparedFile) else len(content)
