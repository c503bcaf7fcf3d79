"""A file on disk → its bytes, opened once and read once, so that hash, checks and loading all see the same."""

import os
import stat
from contextlib import ExitStack
from mmap import mmap
from pathlib import Path
from typing import BinaryIO, Final, TypeAlias

from fisher_cli.errors import CheckpointError, DataError
from fisher_cli.text import clipped

FileBytes: TypeAlias = bytes | mmap
COPY_AGAIN: Final = "copy or download it again"


def open_without_waiting(path: Path | str) -> int:
    """Open a file for reading; without O_NONBLOCK a named pipe would wait for a writer, perhaps for ever.

    Returns:
        A descriptor, which the caller closes.

    Raises:
        OSError: it is missing or not permitted.
    """
    return os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))


def read_bytes(path: Path) -> bytes:
    """Read the whole content of a regular file, opened once and without waiting for a pipe's other end.

    Raises:
        CheckpointError: The file is missing, not regular, not permitted, or larger than memory.
    """
    with open_checkpoint(path) as file:
        try:
            return file.read()
        except (OSError, MemoryError) as error:
            raise CheckpointError(unreadable(path, error)) from error


def open_checkpoint(path: Path) -> BinaryIO:
    """Open a regular file for reading bytes, without waiting for a pipe's other end; the caller closes it.

    Raises:
        CheckpointError: The file is missing, not regular, not permitted, or larger than memory.
    """
    from fisher_cli.curvature.torch_backend.machine_memory import total_memory  # torch, which a reader has no need of

    where = clipped(path, 500)
    try:
        _check_regular(os.stat(path).st_mode, where)  # opening a device may already do something
        descriptor = open_without_waiting(path)
    except FileNotFoundError as error:
        msg = f"{where}: there is no such file; check the path"
        raise CheckpointError(msg) from error
    except (OSError, ValueError) as error:
        msg = f"{where}: cannot be opened ({_reason(error)}); check what it is with: ls -l"
        raise CheckpointError(msg) from error
    with ExitStack() as stack:
        file = stack.enter_context(open(descriptor, "rb"))
        status = os.fstat(descriptor)
        _check_regular(status.st_mode, where)  # again: it may have been replaced in between
        if status.st_size > total_memory()[0]:
            msg = f"{where}: {status.st_size} bytes do not fit into this machine's memory; use a larger machine"
            raise CheckpointError(msg)
        stack.pop_all()
        return file


def unreadable(path: Path, error: Exception) -> str:
    """Return what to say of a file that the disk or the memory refuses."""
    return f"{clipped(path, 500)}: cannot be read ({_reason(error)}); {COPY_AGAIN}"


def _reason(error: Exception) -> str:
    return clipped(getattr(error, "strerror", None) or error or type(error).__name__).lower()


def _check_regular(mode: int, where: str) -> None:
    if not stat.S_ISREG(mode):
        msg = f"{where}: not a regular file but {_kind(mode)}; name a checkpoint file"
        raise CheckpointError(msg)


def _kind(mode: int) -> str:
    kinds = {
        stat.S_IFDIR: "a folder",
        stat.S_IFIFO: "a named pipe",
        stat.S_IFSOCK: "a socket",
        stat.S_IFCHR: "a device",
        stat.S_IFBLK: "a device",
    }
    return kinds.get(stat.S_IFMT(mode), "something else")


# A file beyond the first size of which the disk holds less than one part in so many was never written: reading it gives
# zeros for as long as it claims. Some systems of files tell of no blocks at all, of whatever file.
_LARGE: Final = 64 * 2**20
_LEAST_WRITTEN: Final = 1000
_BLOCK: Final = 512


# What the examples of a run, or one file that must be held whole, may take of the memory.
MEMORY_SHARE: Final = 0.5


def shown(path: Path | str) -> str:
    """Return the path in one line: a file name can hold line breaks."""
    return clipped(path, 500)


def available_memory() -> int:
    """How many bytes examples may take: half of the memory that this process may use."""
    from fisher_cli.curvature.torch_backend.machine_memory import total_memory

    return int(total_memory()[0] * MEMORY_SHARE)


def open_regular(
    path: Path | str, longest: int | None = None, remedy: str = "name a file that holds examples"
) -> BinaryIO:
    """Open a regular file for reading bytes, without waiting for a pipe's other end; the caller closes it.

    Args:
        path: of a file of examples or labels.
        longest: the largest size, in bytes; None for any.
        remedy: what to do where it is another kind of file, for messages.

    Raises:
        DataError: It is missing, not regular, not permitted, empty, longer than `longest` bytes, or mostly not written.
    """
    where = shown(path)
    try:
        status = os.stat(path)  # opening a device may already do something
        descriptor = open_without_waiting(path) if stat.S_ISREG(status.st_mode) else None
    except FileNotFoundError as error:
        msg = f"{where}: there is no such file; check the path"
        raise DataError(msg) from error
    except (OSError, ValueError) as error:
        reason = clipped(getattr(error, "strerror", None) or error).lower()
        msg = f"{where}: cannot be opened ({reason}); check what it is with: ls -l"
        raise DataError(msg) from error
    status = status if descriptor is None else os.fstat(descriptor)  # it may have been replaced in between
    fault = None
    if descriptor is None or not stat.S_ISREG(status.st_mode):
        fault = f"not a regular file but {_kind(status.st_mode)}; {remedy}"
    elif status.st_size == 0:
        fault = f"the file is empty: its writing was cut short; {COPY_AGAIN}"
    elif longest is not None and status.st_size > longest:
        fault = f"{status.st_size} bytes, and at most {longest} are read here; is it the right file?"
    elif status.st_size > _LARGE and 0 < _written(status) < status.st_size // _LEAST_WRITTEN:
        fault = f"of its {status.st_size} bytes only {_written(status)} were ever written; {COPY_AGAIN}"
    if descriptor is not None and fault is None:
        return open(descriptor, "rb")
    if descriptor is not None:
        os.close(descriptor)
    msg = f"{where}: {fault}"
    raise DataError(msg)


def _written(status: os.stat_result) -> int:
    return _BLOCK * int(getattr(status, "st_blocks", 0))
