"""Writing that a kill, a full disk or a power cut cannot tear: the only module that changes files on the disk.

A file gets its new content under a temporary name, down to the disk, and then its own name by a rename, which is
atomic; a journal grows by whole lines, each down to the disk before the next. An fsync that fails is never repeated:
the second one would succeed without the data being on the disk.
"""

import contextlib
import os
import secrets
import signal
import stat
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

# Ctrl-C, the terminal closed, a scheduler's warning, a polite kill.
STOPPING_SIGNALS = [
    getattr(signal, name) for name in ("SIGINT", "SIGHUP", "SIGUSR1", "SIGTERM") if hasattr(signal, name)
]


@dataclass(frozen=True)
class PreparedFile:
    """A file's content, whole and on the disk already, under a temporary name in its own folder.

    Attributes:
        temporary: that name; `replace_all` gives the file its own.
        sha256: of the content, as `sha256:<hex>`.
        size: in bytes.
    """

    temporary: Path
    sha256: str
    size: int


def replace_all(contents: Mapping[Path, bytes | PreparedFile], stale: Iterable[Path] = ()) -> None:
    """Give all files their new contents by renames, in order.

    Each file is at any moment absent, the old one or the new one. All contents are on the disk before the first name
    changes, and each new name is on the disk before the next. Signals that stop the run wait until all of this is over.

    Args:
        contents: bytes, or a prepared file, by the name to take; the folders exist.
        stale: files that are removed before the first of the others gets its name; they may be absent.

    Raises:
        OSError: the disk is full, or the operating system refused for another reason; files that were not reached are
            the old ones.
    """
    temporary = {
        path: data.temporary if isinstance(data, PreparedFile) else temporary_name(path)
        for path, data in contents.items()
    }
    with undisturbed():
        try:
            for path, data in contents.items():
                if not isinstance(data, PreparedFile):
                    remove_leftovers(path)
                    write_new(temporary[path], data)
            for path in stale:
                remove(path)
                sync_folder(path.parent)
            for path, new in temporary.items():
                rename(new, path)
                sync_folder(path.parent)  # each before the next: a power cut may keep a later name and lose this one
        finally:
            for new in temporary.values():
                with contextlib.suppress(OSError):
                    new.unlink(missing_ok=True)


def discard(contents: Iterable[bytes | PreparedFile]) -> None:
    """Remove prepared files that get no name."""
    for content in contents:
        if isinstance(content, PreparedFile):
            with contextlib.suppress(OSError):
                content.temporary.unlink(missing_ok=True)


def write_new(path: Path, data: bytes) -> None:
    """Write a file that must not exist yet, down to the disk; nothing is left of it after a failure."""
    descriptor = create(path)
    try:
        try:
            write(descriptor, data)
            sync(descriptor)
        finally:
            os.close(descriptor)
    except BaseException:
        with contextlib.suppress(OSError):
            path.unlink()
        raise


def make_folder(path: Path) -> None:
    """Create a folder whose parent exists, down to the disk; one that is there already stays as it is."""
    if not os.path.lexists(path):
        create_folder(path)
        sync_folder(path.parent)


class GrowingFile:
    """A file that grows by whole lines, each of them on the disk when `append` returns.

    A failed append leaves at most the beginning of a line behind, and the file is closed: what follows a torn line
    could not be told from it.

    Args:
        path: a regular file that exists; a link is refused.
    """

    def __init__(self, path: Path) -> None:
        self._descriptor: int | None = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC)

    def append(self, line: bytes) -> None:
        """Write a line, and wait until it is on the disk.

        Args:
            line: without its end.

        Raises:
            ValueError: the file is closed.
            OSError: the disk is full, or the operating system refused for another reason; the file is closed then.
        """
        if self._descriptor is None:
            msg = "the file is closed"
            raise ValueError(msg)
        with undisturbed():
            try:
                write(self._descriptor, line + b"\n")
                sync(self._descriptor)
            except BaseException:
                self.close()
                raise

    def close(self) -> None:
        """Close the file; a second call does nothing."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None


@contextlib.contextmanager
def undisturbed() -> Iterator[None]:
    """Hold back signals that stop the run while something is written.

    Their handlers are called afterwards, whether the write succeeded or not.

    Yields:
        Nothing.
    """
    waiting: list[tuple[int, FrameType | None]] = []
    previous = {}
    try:
        for number in STOPPING_SIGNALS:
            handler = signal.getsignal(number)
            if callable(handler):
                previous[number] = handler
                signal.signal(number, lambda got, frame: waiting.append((got, frame)))
    except ValueError:  # only the main thread gets signals, and only it may say what they do
        previous = {}
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
        for number, frame in waiting:
            previous[signal.Signals(number)](number, frame)


# --- the steps that can fail or be the last ones: tests stop after each of them


def create(path: Path) -> int:
    """A descriptor of a new file; it must not exist."""
    return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)


def create_folder(path: Path) -> None:
    """A new folder; one that another process has just made does as well."""
    with contextlib.suppress(FileExistsError):
        os.mkdir(path)


def write(descriptor: int, data: bytes) -> None:
    """Write all of the data."""
    rest = memoryview(data)
    while rest:
        rest = rest[os.write(descriptor, rest) :]


def sync(descriptor: int) -> None:
    """Bring a file's content to the disk."""
    os.fsync(descriptor)


def rename(old: Path, new: Path) -> None:
    """Give a file another name; what had that name is gone."""
    os.replace(old, new)


def remove(path: Path) -> None:
    """Remove a file if it is there."""
    path.unlink(missing_ok=True)


def sync_folder(folder: Path) -> None:
    """Bring a folder's names to the disk."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        sync(descriptor)
    finally:
        os.close(descriptor)


def temporary_name(path: Path) -> Path:
    """A new hidden name in the same folder."""
    return path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")


def remove_leftovers(path: Path) -> None:
    """Remove temporary files of a process that was killed while it wrote this file; what is no regular file stays."""
    start, end = f".{path.name}.", ".tmp"
    for name in os.listdir(path.parent):
        middle = name.removeprefix(start).removesuffix(end)
        if name == f"{start}{middle}{end}" and len(middle) == 8 and set(middle) <= set("0123456789abcdef"):
            with contextlib.suppress(FileNotFoundError):
                leftover = path.with_name(name)
                if stat.S_ISREG(os.lstat(leftover).st_mode):
                    leftover.unlink()
