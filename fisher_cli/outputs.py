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
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fisher_cli.cells import json_lines
from fisher_cli.durable import Prepared, replace_all, temporary_name, write_new
from fisher_cli.errors import OutputError, UsageError
from fisher_cli.seal import SEAL, UNSEALED, is_sealed, sealed

if TYPE_CHECKING:
    import pandas as pd

# 2: the record carries its own SHA-256.
SCHEMA_VERSION = 2
TOOL = "fisher"


class Format(StrEnum):
    """The form of a report; `table` is for people and only for the terminal."""

    TABLE = "table"
    CSV = "csv"
    TSV = "tsv"
    JSON = "json"
    JSONL = "jsonl"
    PARQUET = "parquet"


@dataclass(frozen=True)
class Metadata:
    """What is known about a run besides its tables, as JSON values.

    `stable` is the same whenever the same question is asked on the same machine, and goes into Parquet files
    too; `run` (times, host, command) goes only into the record.
    """

    stable: Mapping[str, Any] = field(default_factory=dict)
    run: Mapping[str, Any] = field(default_factory=dict)


def format_of(path: Path, explicit: Format | None = None) -> Format:
    """The format that a file's suffix says; an explicit one must agree with it.

    Args:
        path: the file that is to be written.
        explicit: what `--format` said, if anything.

    Returns:
        The format.

    Raises:
        UsageError: the suffix is unknown, or says another format than `--format`, or the format is `table`.
    """
    formats = [each for each in Format if each is not Format.TABLE]
    found = next((each for each in formats if path.suffix.lower() == f".{each}"), None)
    if explicit is Format.TABLE:
        msg = "--format table is for the terminal: leave out -o, or choose a file format such as --format csv"
        raise UsageError(msg)
    if found is None and path.is_dir():
        better = shlex.quote(str(path / f"report.{explicit or Format.CSV}"))
        msg = f"-o {path}: it is a folder: type -o {better}"
        raise UsageError(msg)
    if found is None and path.exists() and not path.is_file():
        msg = f"-o {path}: it is not a regular file: choose another name, or -o - for rows on stdout"
        raise UsageError(msg)
    if found is None:
        suffixes = " ".join(f".{each}" for each in formats)
        better = shlex.quote(f"{path}.{explicit or Format.CSV}")
        msg = f"-o {path}: the suffix must say the format ({suffixes}): for instance -o {better}"
        raise UsageError(msg)
    if explicit not in (None, found):
        better = shlex.quote(str(path.with_suffix(f".{explicit}")))
        msg = f"-o {path} contradicts --format {explicit}: type -o {better}, or --format {found}"
        raise UsageError(msg)
    return found


def is_newer(record: Mapping[str, Any]) -> bool:
    """Whether a record is of a version of reports that this program does not know."""
    version = record.get("schema_version", 1)
    return not isinstance(version, int) or not 1 <= version <= SCHEMA_VERSION


def render(table: "pd.DataFrame", form: Format, stable: Mapping[str, Any] | None = None) -> bytes:
    """The table's bytes in a file format; `stable` metadata go into Parquet only.

    Returns:
        The file's content.

    Raises:
        UsageError: the format is `table`, which is no file format.
    """
    from fisher_cli import tables  # here, so that the options' Format can be had without waiting for pandas

    match form:
        case Format.CSV:
            text = tables.to_csv(table)
        case Format.TSV:
            text = tables.to_csv(table, separator="\t")
        case Format.JSON:
            text = tables.to_json(table)
        case Format.JSONL:
            text = tables.to_jsonl(table)
        case Format.PARQUET:
            return tables.to_parquet(table, inside_parquet(stable or {}))
        case Format.TABLE:
            msg = "--format table is for the terminal: choose csv, tsv, json, jsonl or parquet"
            raise UsageError(msg)
    return text.encode()


def inside_parquet(stable: Mapping[str, Any]) -> dict[str, Any]:
    """The metadata that a Parquet file carries."""
    return {**stable, "tool": TOOL, "schema_version": SCHEMA_VERSION}


@dataclass(frozen=True)
class ReportFiles:
    """The files of one report: `main`, the table beside it and the record, all in one folder.

    `inputs` are the checkpoints of the run, which a report must never replace; `force` permits to replace
    other files that are not ours. `further` are tables besides these.
    """

    main: Path
    format: Format
    force: bool = False
    inputs: tuple[Path, ...] = ()
    beside: Path | None = None
    further: tuple[Path, ...] = ()

    def and_(self, *words: str) -> "ReportFiles":
        """With further tables of the same stem, `name.word.csv`."""
        paths = tuple(self.main.with_name(f"{self.main.stem}.{word}{self.main.suffix}") for word in words)
        return replace(self, further=self.further + paths)

    def named(self, main: str, beside: str) -> "ReportFiles":
        """Those of another table of the same stem: `name.main.csv`, and beside it `name.beside.csv`."""
        stem, suffix = self.main.stem.removesuffix(f".{main}"), self.main.suffix
        paths = [self.main.with_name(f"{stem}.{word}{suffix}") for word in (main, beside)]
        return replace(self, main=paths[0], beside=paths[1])

    @property
    def layers(self) -> Path:
        """The table beside the main one, by default the per-layer table."""
        return self.beside or self.main.with_name(f"{self.main.stem}.layers{self.main.suffix}")

    @property
    def record(self) -> Path:
        """The record of the run: `name.meta.json`."""
        return self.main.with_name(f"{self.main.stem}.meta.json")

    def check_writable(self) -> None:
        """Refuse now what could not be written after hours of computation.

        Raises:
            OutputError: there is no such folder, it takes no files, or a file that must stay is in the way.
        """
        paths = (self.main, self.layers, self.record, *self.further)
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
        main: "pd.DataFrame | Prepared",
        layers: "pd.DataFrame | None",
        metadata: Metadata,
        further: "Mapping[Path, pd.DataFrame | Prepared] | None" = None,
    ) -> None:
        """Write the tables and the record; each file is at any moment absent, the old one or the new one.

        All contents are on the disk under temporary names before the first name changes. The record takes its
        place first: a process killed between two renames leaves no file that the record does not list, so the
        next run knows all of them as ours; and a table that does not fit the record's SHA-256 is noticed.

        Raises:
            OutputError: the disk is full, or the operating system refused for another reason.
        """
        tables = {self.main: main, **({} if layers is None else {self.layers: layers}), **(further or {})}
        contents = {
            path: table if isinstance(table, Prepared) else render(table, self.format, metadata.stable)
            for path, table in tables.items()
        }
        record = self._record(contents, metadata)
        stale = [path for path in self._earlier() if path not in contents]
        try:
            replace_all({self.record: record, **contents}, stale)
        except OSError as error:
            size = len(record) + sum(_size(content) for content in contents.values())
            msg = f"cannot write {self.main} and its companions ({size:,} bytes): {error.strerror or error}"
            raise OutputError(msg) from error

    def _record(self, contents: "Mapping[Path, bytes | Prepared]", metadata: Metadata) -> bytes:
        """The record: what it is about, the tables' hashes, its own, and under `run` what differs between runs."""
        hashes = {path.name: _digest(content) for path, content in contents.items()}
        ours = {"tool": TOOL, "schema_version": SCHEMA_VERSION, "tables": hashes, "run": metadata.run, SEAL: UNSEALED}
        return sealed(json_lines({**metadata.stable, **ours}).encode() + b"\n")

    def is_made_of(self, ingredients: str) -> bool:
        """Whether the report that is there was made of these, and every byte of it is as it was written."""
        try:
            content = self.record.read_bytes()
            record = json.loads(content) if is_sealed(content) else None
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
        names = {path.name for path in (self.layers, *self.further)}
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
        msg = f"cannot write {target}: {error.strerror}"
        raise OutputError(msg) from error


def _is_same_file(one: Path, other: Path) -> bool:
    """Whether two names lead to one file, also through links."""
    try:
        return one.samefile(other)
    except OSError:
        return False


def _digest(content: bytes | Prepared) -> str:
    return content.sha256 if isinstance(content, Prepared) else f"sha256:{hashlib.sha256(content).hexdigest()}"


def _digest_of_file(path: Path) -> str:
    with open(path, "rb") as file:
        return f"sha256:{hashlib.file_digest(file, 'sha256').hexdigest()}"


def _size(content: bytes | Prepared) -> int:
    return content.size if isinstance(content, Prepared) else len(content)
