"""The journal of a run, `name.journal/`: one checksummed line per finished checkpoint, only ever appended to.

The first line says what was asked: settings, data, versions. A record answers that question for the weights whose
content hash it names, so that resuming means skipping what is there. Tables are rendered from the records.
"""

import fcntl
import hashlib
import io
import json
import os
import socket
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final

from fisher_cli.cells import one_line
from fisher_cli.codec import decode, encode
from fisher_cli.durable import GrowingFile, make_folder, replace_all
from fisher_cli.errors import LockedError, RecordError
from fisher_cli.results import Ledger, Measurement

VERSION: Final = 1
Key = tuple[str, str | None]
_CHECKSUM: Final = 64  # hexadecimal digits of a SHA-256
_RECORDS: Final = "records.jsonl"
_INSPECTED: Final = "inspected.jsonl"
_LOCK: Final = "lock"


@dataclass(frozen=True)
class Record:
    """The measurement of the weights with content hash `weights`, and the hash of those in the row before it, if any.

    Both are its key: what joins two rows is part of the later one.
    """

    weights: str
    previous: str | None
    measurement: Measurement

    @property
    def key(self) -> Key:
        """What it is found by."""
        return self.weights, self.previous


@dataclass
class Journal:
    """The records of one report, held by one process at a time; made by `open_journal`."""

    folder: Path
    records: dict[Key, Record]
    dropped: int
    _lines: GrowingFile = field(repr=False)
    _lock: int = field(repr=False)

    def append(self, record: Record) -> None:
        """Add a record, down to the disk; it replaces an earlier one of the same key.

        Raises:
            RecordError: the disk is full, or the operating system refused for another reason.
        """
        line = _line({"record": encode(record)})
        try:
            self._lines.append(line)
        except OSError as error:
            msg = (
                f"cannot write {self.folder / _RECORDS} ({len(line):,} bytes): {error.strerror or error}; "
                "make room and run the same command again: finished checkpoints are kept"
            )
            raise RecordError(msg) from error
        self.records[record.key] = record

    def close(self) -> None:
        """Let another process have it."""
        self._lines.close()
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1

    def __enter__(self) -> "Journal":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def journal_folder(report: Path) -> Path:
    """Where the journal of a report is: `name.journal` beside `name.csv`."""
    return report.with_name(f"{report.stem}.journal")


def open_journal(folder: Path, asked: Mapping[str, Any], *, fresh: bool = False) -> Journal:
    """The journal of this folder for this question, locked; made if there is none, begun anew if `fresh`.

    A last line that a kill tore, or a line whose checksum does not hold, is dropped: its checkpoint is measured again.

    Args:
        folder: `name.journal`; its parent exists.
        asked: what the records answer, as JSON values; the same question has the same values.
        fresh: forget the records that are there.

    Returns:
        The journal; `dropped` says how many damaged lines there were.

    Raises:
        LockedError: another process is writing this report.
        RecordError: the folder is something else, or its records answer another question.
    """
    asked = json.loads(json.dumps(asked))  # tuples as lists, as they will be read
    try:
        make_folder(folder)
        if not folder.is_dir():
            msg = f"{folder} is in the way: a report keeps its journal there; choose another name for -o"
            raise RecordError(msg)
        lock = _locked(folder)
    except OSError as error:
        msg = f"cannot write {folder}: {error.strerror or error}"
        raise RecordError(msg) from error
    try:
        return _opened(folder, asked, lock, fresh=fresh)
    except OSError as error:
        os.close(lock)
        msg = f"cannot write {folder / _RECORDS}: {error.strerror or error}"
        raise RecordError(msg) from error
    except BaseException:
        os.close(lock)
        raise


def _opened(folder: Path, asked: Mapping[str, Any], lock: int, *, fresh: bool) -> Journal:
    path = folder / _RECORDS
    content = path.read_bytes() if path.exists() else b""
    # A file without a whole first line was torn while it was begun: there is nothing in it.
    is_begun = not fresh and b"\n" in content
    lines = _read(content) if is_begun else iter(())
    if is_begun:
        _refuse_other_question(folder, next(lines), asked)
    records, dropped = _records(lines)
    if not is_begun or dropped or not content.endswith(b"\n"):
        kept = [_line({"record": encode(record)}) for record in records.values()]
        head = _line({"journal": VERSION, "asked": asked})
        replace_all({path: b"".join(line + b"\n" for line in (head, *kept))})
    return Journal(folder, records, dropped, GrowingFile(path), lock)


def _refuse_other_question(folder: Path, head: Any, asked: Mapping[str, Any]) -> None:
    """Refuse records that answer another question than this one.

    Raises:
        RecordError: they do, or what they answer cannot be read.
    """
    if not isinstance(head, dict) or not isinstance(head.get("asked"), dict):
        msg = f"{folder / _RECORDS}: its first line is damaged; begin anew with --force"
        raise RecordError(msg)
    if head.get("journal") != VERSION:
        msg = f"{folder / _RECORDS}: written by another version of fisher; begin anew with --force"
        raise RecordError(msg)
    found = [f"{each.place} was {each.before} and is {each.now}" for each in changes(head["asked"], asked)]
    if found:
        more = f" and {len(found) - 3} more" if len(found) > 3 else ""
        msg = (
            f"{folder.with_suffix('')}: the report there was made otherwise: {'; '.join(found[:3])}{more}; choose "
            "another name for -o, or begin anew with --force"
        )
        raise RecordError(msg)


@dataclass(frozen=True)
class Change:
    """What differs between two questions at one place, such as `settings.limit`, as short JSON texts."""

    place: str
    before: str
    now: str


def changes(before: Any, now: Any, place: str = "") -> Iterator[Change]:
    """What differs between two questions.

    Yields:
        One change per value.
    """
    if isinstance(before, dict) and isinstance(now, dict):
        for name in {
            **now,
            **before,
        }:  # in the order in which the question is put: settings before what follows from them
            yield from changes(before.get(name), now.get(name), f"{place}.{name}" if place else name)
    elif before != now:
        yield Change(place, one_line(json.dumps(before))[:80], one_line(json.dumps(now))[:80])


def _records(lines: Iterable[Any]) -> tuple[dict[Key, Record], int]:
    """The records by key, the last one of each, and how many lines hold none.

    The checkpoints of a run mostly share their ledger, the larger part of a record: it is made once.
    """
    records: dict[Key, Record] = {}
    written, ledger, dropped = None, None, 0
    for line in lines:
        try:
            found = line["record"]["measurement"].pop("ledger", None)
            if found != written:
                written, ledger = found, decode(Ledger, found) if found is not None else None
            record = decode(Record, line["record"])
            record = replace(record, measurement=replace(record.measurement, ledger=ledger))
        except (ValueError, TypeError, KeyError, AttributeError):
            dropped += 1
        else:
            records.pop(record.key, None)
            records[record.key] = record
    return records, dropped


def _line(value: Any) -> bytes:
    """A line without its end: the checksum of its text, and the text."""
    text = json.dumps(value, ensure_ascii=True, separators=(",", ":")).encode()
    return hashlib.sha256(text).hexdigest().encode() + b" " + text


def _read(content: bytes) -> Iterator[Any]:
    """The values of the lines; None where the checksum does not hold.

    Yields:
        One value per line, also for a last line that has no end.
    """
    for line in io.BytesIO(content.removesuffix(b"\n") + b"\n"):  # one line at a time: a journal can be long
        checksum, text = line[:_CHECKSUM], line[_CHECKSUM + 1 : -1]
        if hashlib.sha256(text).hexdigest().encode() != checksum or line[_CHECKSUM : _CHECKSUM + 1] != b" ":
            yield None
        else:
            yield json.loads(text)


def read_records(folder: Path) -> tuple[Mapping[str, Any], dict[Key, Record], int]:
    """What a journal answers, its records, and how many damaged lines it has; nothing is changed.

    Raises:
        RecordError: there is no journal, or its first line is damaged.
    """
    path = folder / _RECORDS
    try:
        lines = _read(path.read_bytes())
    except OSError as error:
        msg = f"{path}: cannot be read ({error.strerror})"
        raise RecordError(msg) from error
    head = next(lines)
    if not isinstance(head, dict) or not isinstance(head.get("asked"), dict) or head.get("journal") != VERSION:
        msg = f"{path}: its first line is damaged, or another version's"
        raise RecordError(msg)
    return head["asked"], *_records(lines)


def recollect(folder: Path, way: Mapping[str, Any]) -> list[Any]:
    """What `remember` kept of files that were looked at in the same way; nothing where none of it can be read."""
    try:
        head, *lines = _read((folder / _INSPECTED).read_bytes())
    except (OSError, ValueError):
        return []
    return [line for line in lines if line is not None] if head == {"inspected": way} else []


def remember(folder: Path, way: Mapping[str, Any], values: Iterable[Any]) -> None:
    """Keep JSON values about files beside the records; it only saves time, and whoever loses it finds it again.

    Raises:
        RecordError: the disk is full, or the operating system refused for another reason.
    """
    content = b"".join(_line(each) + b"\n" for each in ({"inspected": way}, *values))
    try:
        replace_all({folder / _INSPECTED: content})
    except OSError as error:
        msg = f"cannot write {folder / _INSPECTED} ({len(content):,} bytes): {error.strerror or error}"
        raise RecordError(msg) from error


def inherit(folder: Path, other: Path) -> None:
    """Keep what another journal's run knew of files, unless there is something already.

    Raises:
        RecordError: the disk is full, or the operating system refused for another reason.
    """
    source, target = other / _INSPECTED, folder / _INSPECTED
    if not source.is_file() or target.exists():
        return
    try:
        replace_all({target: source.read_bytes()})
    except OSError as error:
        msg = f"cannot write {target}: {error.strerror or error}"
        raise RecordError(msg) from error


def _locked(folder: Path) -> int:
    """A descriptor that holds the journal's lock until it is closed; the system lets go of it when a process dies.

    Raises:
        LockedError: another process holds it.
    """
    descriptor = os.open(folder / _LOCK, os.O_RDWR | os.O_CREAT | getattr(os, "O_CLOEXEC", 0), 0o666)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        owner = _owner(descriptor)
        os.close(descriptor)
        msg = (
            f"{folder.with_suffix('')}: another process is writing this report ({owner}); wait for it, or choose "
            "another name for -o"
        )
        raise LockedError(msg) from None
    except BaseException:
        os.close(descriptor)
        raise
    os.ftruncate(descriptor, 0)
    os.pwrite(descriptor, f"process {os.getpid()} on {socket.gethostname()}\n".encode(), 0)
    return descriptor


def _owner(descriptor: int) -> str:
    """Who holds the lock, as it says itself just after taking it."""
    for _ in range(20):
        if text := one_line(os.pread(descriptor, 200, 0).decode("utf-8", "replace").strip()):
            return text
        time.sleep(0.05)
    return "which has not said who it is"
