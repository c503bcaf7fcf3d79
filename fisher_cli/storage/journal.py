"""The journal of a run, `name.fisher/journal.jsonl`: one checksummed line per finished checkpoint, only appended to.

The first line says what was asked: settings, data, versions. A record answers that question for the weights whose
content hash it names: resuming means skipping what is there. Tables are rendered from the records.
"""

import fcntl
import json
import os
import re
import socket
import time
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final

from fisher_cli.errors import LockedError, RecordError
from fisher_cli.results import Ledger, Measurement
from fisher_cli.storage.atomic_write import GrowingFile, make_folder, replace_all
from fisher_cli.storage.checksums import START, checked_line, checked_value, checked_values, is_whole
from fisher_cli.storage.json_codec import decode, encode
from fisher_cli.storage.json_values import refuse_depth
from fisher_cli.storage.regular_files import digest_of, kind_of, open_regular, read_regular, status_of
from fisher_cli.storage.report_folder import journal_path, refuse_other_than_folder
from fisher_cli.text import one_line

_LOCK: Final = "lock"
_LOCKED_BY: Final = b"process "
# After a power cut a file can hold zeros instead.
_LOCKED: Final = re.compile(rb"process [0-9]+ on [^\n]{0,255}\n?|\0*")


def locked(folder: Path) -> int:
    """A descriptor that holds the journal's lock until it is closed; the system releases it when a process dies.

    Raises:
        LockedError: another process holds it.
        RecordError: what is there is no lock of fisher's.
    """
    path = folder / _LOCK
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, 0o666)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        _refuse_other_content(path, descriptor)
    except BlockingIOError:
        owner = _owner(descriptor)
        os.close(descriptor)
        msg = (
            f"{folder.with_suffix('')}: another process is writing this table ({owner}); wait for it, or choose "
            "another name for -o"
        )
        raise LockedError(msg) from None
    except BaseException:
        os.close(descriptor)
        raise
    os.ftruncate(descriptor, 0)
    os.pwrite(descriptor, _LOCKED_BY + f"{os.getpid()} on {socket.gethostname()}\n".encode(), 0)
    return descriptor


def _refuse_other_content(path: Path, descriptor: int) -> None:
    """Refuse a file that somebody else has written, be it under another name too.

    Raises:
        RecordError: it is one.
    """
    status, content = os.fstat(descriptor), os.pread(descriptor, 300, 0)
    is_ours = _LOCKED.fullmatch(content) is not None or _LOCKED_BY.startswith(content)
    if kind_of(status) is not None or status.st_size > len(content) or not is_ours:
        msg = f"{path} is not what fisher writes there, and would be lost: move it away, or choose another name for -o"
        raise RecordError(msg)


def _refuse_links(folder: Path) -> None:
    """Refuse a journal that is no folder, or has something in the place of its files that fisher has not made.

    Raises:
        RecordError: it is one.
        OSError: the operating system refused to tell.
    """
    refuse_other_than_folder(folder)
    for path in (folder / _LOCK, journal_path(folder)):
        try:
            status = status_of(path, follow=False)
        except FileNotFoundError:
            continue
        if (kind := kind_of(status)) is not None:
            msg = (
                f"{path} is {kind}, which is neither followed nor replaced: move it away, or choose another name for -o"
            )
            raise RecordError(msg)


def _owner(descriptor: int) -> str:
    """Who holds the lock, as it says itself just after taking it."""
    for _ in range(20):
        if text := one_line(os.pread(descriptor, 200, 0).decode("utf-8", "replace").strip()):
            return text
        time.sleep(0.05)
    return "which has not said who it is"


VERSION: Final = 1
# Their number changes last digits. One that is not known, as in journals of parts that were made with several, is not
# held against another.
_THREADS: Final = "threads"
Key = tuple[str, str | None]
# How the text of a record begins: its key can be told without reading the rest.
_KEY: Final = re.compile(rb'\{"record":\{"weights":"([ !#-\[\]-~]*)","previous":(?:null|"([ !#-\[\]-~]*)"),')


@dataclass(frozen=True)
class JournalRecord:
    """The measurement of one checkpoint's weights, after the weights of the row before.

    Both hashes are its key: what joins two rows is part of the later one.

    Attributes:
        weights: `sha256:<hex>` of the bytes of the checkpoint.
        previous: that of the checkpoint in the row before; None where there is none.
        measurement: the row.
    """

    weights: str
    previous: str | None
    measurement: Measurement

    @property
    def key(self) -> Key:
        """The hashes (weights, previous), by which a journal finds the record."""
        return self.weights, self.previous


@dataclass
class _Places:
    """Start and length of records' lines, without their ends: the last of each key; `latest`: that of each weights."""

    of: dict[Key, tuple[int, int]] = field(default_factory=dict)
    latest: dict[str, Key] = field(default_factory=dict)

    def add(self, key: Key, start: int, length: int) -> None:
        """A line further on."""
        self.of.pop(key, None)
        self.of[key] = start, length
        self.latest[key[0]] = key


@dataclass
class Journal:
    """The records of one report, held by one process at a time; made by `open_journal`, closed by `close` or `with`.

    Only the places of records are in memory: a record is read from the disk when it is asked for.

    Attributes:
        folder: `name.fisher`.
        dropped: how many damaged lines there were when it was opened.
    """

    folder: Path
    dropped: int
    _places: "_Places" = field(repr=False)
    _size: int = field(repr=False)
    _lines: GrowingFile = field(repr=False)
    _lock: int = field(repr=False)
    _decoded: "_Decoding" = field(default_factory=lambda: _Decoding(), repr=False)

    @property
    def keys(self) -> Collection[Key]:
        """The (weights, previous) of all records, the one written last at the end."""
        return self._places.of.keys()

    @property
    def records(self) -> dict[Key, JournalRecord]:
        """All records by their keys, each of them read from the disk at every call; what cannot be read is left out."""
        found = {key: self.find(key) for key in self._places.of}
        return {key: record for key, record in found.items() if record is not None}

    def find(self, key: Key) -> JournalRecord | None:
        """Read the record of this key from the disk.

        Returns:
            The record; None where there is none, or none that can be read.
        """
        place = self._places.of.get(key)
        if place is None:
            return None
        try:
            with open_regular(journal_path(self.folder), follow=False) as file:
                file.seek(place[0])
                line = file.read(place[1])
        except OSError:
            return None
        found = self._decoded.record(checked_value(line))
        return found if found is not None and found.key == key else None

    def of_weights(self, weights: str) -> JournalRecord | None:
        """Read the record of these weights that was written last, whatever stood before them.

        Args:
            weights: `sha256:<hex>` of the bytes of the checkpoint.

        Returns:
            The record; None where there is none, or none that can be read.
        """
        key = self._places.latest.get(weights)
        return None if key is None else self.find(key)

    def sha256(self) -> str:
        """The SHA-256 of all that is written, the line of the settings included, as `sha256:<hex>`."""
        return digest_of(journal_path(self.folder), follow=False)

    def append(self, record: JournalRecord) -> None:
        """Write a record, and wait until it is on the disk; it replaces an earlier one of the same key.

        Raises:
            RecordError: the disk is full, or the operating system refused for another reason.
            ValueError: the journal is closed.
        """
        line = checked_line({"record": encode(record)})
        try:
            self._lines.append(line)
        except OSError as error:
            msg = (
                f"cannot write {journal_path(self.folder)} ({len(line):,} bytes): {error.strerror or error}; "
                "make room and run the same command again: finished checkpoints are kept"
            )
            raise RecordError(msg) from error
        self._places.add(record.key, self._size, len(line))
        self._size += len(line) + 1

    def close(self) -> None:
        """Close the file and release the lock."""
        self._lines.close()
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1

    def __enter__(self) -> "Journal":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def open_journal(folder: Path, asked: Mapping[str, Any], *, fresh: bool = False, force: bool = False) -> Journal:
    """The journal of this folder for this question, locked; made if there is none, begun anew if `fresh`.

    A last line that a kill tore, or a line whose checksum does not hold, is dropped: its checkpoint is measured again.

    Args:
        folder: `name.fisher`; its parent exists.
        asked: what the records answer (settings, data, versions), as JSON values; the same question has the same
            values.
        fresh: forget the records that are there.
        force: forget them even where something else than a journal is in their place.

    Returns:
        The journal; `dropped` says how many damaged lines there were. Whoever opens it closes it.

    Raises:
        LockedError: another process is writing this table.
        RecordError: the folder is something else, cannot be written, or its records answer another question.
    """
    asked = json.loads(json.dumps(asked))  # tuples as lists, as they will be read
    try:
        make_folder(folder)
        _refuse_links(folder)
        lock = locked(folder)
    except OSError as error:
        msg = f"cannot write {folder}: {error.strerror or error}"
        raise RecordError(msg) from error
    try:
        return _opened(folder, asked, lock, fresh=fresh or force, force=force)
    except OSError as error:
        os.close(lock)
        msg = f"cannot write {journal_path(folder)}: {error.strerror or error}"
        raise RecordError(msg) from error
    except BaseException:
        os.close(lock)
        raise


def kept_keys(folder: Path, asked: Mapping[str, Any]) -> Collection[Key]:
    """The keys of the whole records that a journal has for this question; nothing is locked, made or changed.

    Args:
        folder: `name.fisher`; it may be absent.
        asked: as for `open_journal`.

    Returns:
        (weights, previous) of each record; none where there is no journal.

    Raises:
        RecordError: its records answer another question, or it cannot be read.
    """
    try:
        content = _content(folder)
    except OSError as error:
        msg = f"{journal_path(folder)}: cannot be read ({error.strerror})"
        raise RecordError(msg) from error
    first, _, rest = content.partition(b"\n")
    if not rest:
        return ()
    _refuse_other_question(folder, checked_value(first), json.loads(json.dumps(asked)))
    return _index(content)[0].of.keys()


def _content(folder: Path) -> bytes:
    """All that a journal holds; nothing where it is not there yet."""
    try:
        return read_regular(journal_path(folder), follow=False)
    except FileNotFoundError:
        return b""


def _opened(folder: Path, asked: Mapping[str, Any], lock: int, *, fresh: bool, force: bool) -> Journal:
    path, content, head = journal_path(folder), _content(folder), checked_line({"journal": VERSION, "asked": asked})
    # A file without a whole first line was torn while it was begun: there is nothing in it.
    is_torn = b"\n" not in content and head.startswith(content)
    first, _, rest = content.partition(b"\n")
    if not force and not is_torn:
        if fresh or not rest:  # without a row there is nothing that another question could lose
            _refuse_other_head(folder, checked_value(first))
        else:
            _refuse_other_question(folder, checked_value(first), asked)
    is_begun = not fresh and bool(rest)
    places, dropped = _index(content) if is_begun else (_Places(), 0)
    if not is_begun or dropped or not content.endswith(b"\n"):
        kept = [content[start : start + length] for start, length in places.of.values()]
        content = b"".join(line + b"\n" for line in (head, *kept))
        replace_all({path: content})
        places, _ = _index(content)
    return Journal(folder, dropped, places, len(content), GrowingFile(path), lock)


def _index(content: bytes) -> tuple[_Places, int]:
    """Where the records are, the last one of each key, and how many lines hold none; the first line is the question."""
    places = _Places()
    start, dropped = content.find(b"\n") + 1 or len(content), 0
    while start < len(content):
        end = content.find(b"\n", start)
        end = len(content) if end < 0 else end
        line = content[start:end]
        key = _key(line)
        if key is None:
            dropped += 1
        else:
            places.add(key, start, len(line))
        start = end + 1
    return places, dropped


def _key(line: bytes) -> Key | None:
    """The key of a record's line, None where the checksum does not hold or it is no record."""
    found = _KEY.match(line, START)
    if found is None or not is_whole(line):
        return None
    weights, previous = found.groups()
    return weights.decode(), None if previous is None else previous.decode()


def _is_head(value: Any) -> bool:
    """Whether the value of a first line is that of a journal, of whatever version."""
    try:
        refuse_depth(value)
    except ValueError:
        return False
    return isinstance(value, dict) and isinstance(value.get("asked"), dict)


def _refuse_other_head(folder: Path, head: Any) -> None:
    """Refuse to go on with, or to forget, what is no journal.

    Raises:
        RecordError: its first line is not that of one.
    """
    if not _is_head(head):
        msg = f"{journal_path(folder)}: its first line is damaged; start again with --force"
        raise RecordError(msg)


def _refuse_other_question(folder: Path, head: Any, asked: Mapping[str, Any]) -> None:
    """Refuse records that answer another question than this one.

    Raises:
        RecordError: they do, or what they answer cannot be read.
    """
    _refuse_other_head(folder, head)
    if head.get("journal") != VERSION:
        msg = f"{journal_path(folder)}: written by another version of fisher; start again with --force"
        raise RecordError(msg)
    differing = [each for each in changes(head["asked"], asked) if each.place != _THREADS or each.before != "null"]
    found = [f"{each.place} was {each.before} and is {each.now}" for each in differing]
    if found:
        more = f" and {len(found) - 3} more" if len(found) > 3 else ""
        again = ""
        if [each.place for each in differing] == [_THREADS]:
            again = f"go on with the same number, OMP_NUM_THREADS={differing[0].before} before the command, "
        msg = (
            f"{folder.with_suffix('')}: the table there was made with other settings: {'; '.join(found[:3])}{more}; "
            f"{again}choose another name for -o, or start again with --force"
        )
        raise RecordError(msg)


@dataclass(frozen=True)
class Change:
    """What differs between two questions at one place.

    Attributes:
        place: names joined by dots, such as `settings.limit`.
        before: the one value as a JSON text of at most 80 characters.
        now: the other value in the same way.
    """

    place: str
    before: str
    now: str


def changes(before: Any, now: Any, place: str = "") -> Iterator[Change]:
    """Compare two questions, value by value.

    Args:
        before: JSON values; objects are compared entry by entry, an entry that is missing counts as null.
        now: the same of the other question.
        place: where in the questions these values are; "" for the whole.

    Yields:
        One change per value that differs, in the order of `now`.
    """
    if isinstance(before, dict) and isinstance(now, dict):
        for name in {
            **now,
            **before,
        }:  # in the order in which the question is put: settings before what follows from them
            yield from changes(before.get(name), now.get(name), f"{place}.{name}" if place else name)
    elif before != now:
        yield Change(place, one_line(json.dumps(before))[:80], one_line(json.dumps(now))[:80])


class _Decoding:
    """Makes records of the values of lines; those that share a ledger, the larger part of a record, get one."""

    def __init__(self) -> None:
        self._written: Any = None
        self._ledger: Ledger | None = None

    def record(self, value: Any) -> JournalRecord | None:
        """The record; None where the value is none."""
        try:
            written = value["record"]["measurement"].pop("ledger", None)
            if written != self._written:
                self._ledger = decode(Ledger, written) if written is not None else None
                self._written = written
            found = decode(JournalRecord, value["record"])
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
            return None
        return replace(found, measurement=replace(found.measurement, ledger=self._ledger))


def _records(lines: Iterable[Any]) -> tuple[dict[Key, JournalRecord], int]:
    """The records by key, the last one of each, and how many lines hold none."""
    records: dict[Key, JournalRecord] = {}
    decoding, dropped = _Decoding(), 0
    for line in lines:
        record = decoding.record(line)
        if record is None:
            dropped += 1
        else:
            records.pop(record.key, None)
            records[record.key] = record
    return records, dropped


def is_begun(folder: Path) -> bool:
    """Whether a journal was ever begun in this folder, be it that its file is gone."""
    return any(os.path.lexists(path) for path in (journal_path(folder), folder / _LOCK))


def read_records(folder: Path) -> tuple[Mapping[str, Any], dict[Key, JournalRecord], int]:
    """Read a journal without locking or changing it.

    Args:
        folder: `name.fisher`.

    Returns:
        What its records answer (settings, data, versions), the last record of each key, and how many lines are damaged.

    Raises:
        RecordError: there is no journal, or its first line is damaged or another version's.
    """
    path = journal_path(folder)
    try:
        lines = checked_values(read_regular(path, follow=False))
    except OSError as error:
        msg = f"{path}: cannot be read ({error.strerror})"
        raise RecordError(msg) from error
    head = next(lines)
    if not _is_head(head) or head.get("journal") != VERSION:
        msg = f"{path}: its first line is damaged, or another version's"
        raise RecordError(msg)
    return head["asked"], *_records(lines)


def ends_whole(folder: Path) -> bool:
    """Whether the last line of a journal has its end; without it the file was cut there, and no record is lost."""
    return read_regular(journal_path(folder), follow=False).endswith(b"\n")
