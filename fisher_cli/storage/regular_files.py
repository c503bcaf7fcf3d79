"""Files that anybody may have put there, opened for reading: no pipe is waited for, no device or endless hole read.

Where a file is to be replaced, gone on with or deleted it is opened without following links: what a link leads to is
somebody else's.
"""

import errno
import hashlib
import os
import stat
from io import BufferedReader
from pathlib import Path
from typing import Final

from fisher_cli.text import digest

# Bytes: what is longer is no file of a report.
LONGEST: Final = 2**36
# A power cut may leave a hole as long as one line at the end of a journal.
_LONGEST_HOLE: Final = 2**26
LINK: Final = "a link"
_KINDS: Final = {
    stat.S_IFDIR: "a folder",
    stat.S_IFLNK: LINK,
    stat.S_IFIFO: "a named pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}


def open_regular(path: Path, *, follow: bool = True, longest: int = LONGEST) -> BufferedReader:
    """Open a regular file for reading its bytes; the caller closes it.

    Args:
        path: of the file.
        follow: whether a link at the end of the path is followed.
        longest: the largest size, in bytes.

    Raises:
        OSError: it is missing, not permitted, not a regular file, too long, or mostly a hole; `strerror` says which.
    """
    _refuse_irregular(status_of(path, follow=follow))  # opening a device may already do something
    flags = os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC | (0 if follow else os.O_NOFOLLOW)
    file = open(os.open(path, flags), "rb")  # noqa: SIM115 - the caller closes it
    try:
        status = os.fstat(file.fileno())
        _refuse_irregular(status)  # again: it may have been replaced in between
        _refuse_size(file, status.st_size, longest)
    except BaseException:
        file.close()
        raise
    return file


def read_regular(path: Path, *, follow: bool = True, longest: int = LONGEST) -> bytes:
    """Read the whole content of a regular file.

    Args:
        path: of the file.
        follow: whether a link at the end of the path is followed.
        longest: the largest size, in bytes.

    Raises:
        OSError: as for `open_regular`, or it cannot be read.
    """
    with open_regular(path, follow=follow, longest=longest) as file:
        return file.read()


def digest_of(path: Path, *, follow: bool = True) -> str:
    """The SHA-256 of a regular file's content, as `sha256:<hex>`.

    Args:
        path: of the file.
        follow: whether a link at the end of the path is followed.

    Raises:
        OSError: as for `open_regular`, or it cannot be read.
    """
    with open_regular(path, follow=follow) as file:
        return digest(hashlib.file_digest(file, "sha256"))


def status_of(path: Path, *, follow: bool = True) -> os.stat_result:
    """What the system knows of a file, without opening it.

    Raises:
        OSError: there is none, or its name cannot be one.
    """
    try:
        return os.stat(path, follow_symlinks=follow)
    except ValueError as error:
        raise OSError(errno.EINVAL, "no name of a file") from error


def kind_of(status: os.stat_result) -> str | None:
    """What stands there instead of a regular file, in words; None for a regular file."""
    return None if stat.S_ISREG(status.st_mode) else _KINDS.get(stat.S_IFMT(status.st_mode), "something else")


def _refuse_irregular(status: os.stat_result) -> None:
    kind = kind_of(status)
    if kind is not None:
        raise OSError(errno.EINVAL, f"it is {kind} and not a regular file")


def _refuse_size(file: BufferedReader, size: int, longest: int) -> None:
    if size > longest:
        raise OSError(errno.EFBIG, f"{size:,} bytes are more than such a file has")
    if _hole(file, size) > _LONGEST_HOLE:
        raise OSError(errno.EINVAL, f"{size:,} bytes with a hole in them, which no program wrote")


def _hole(file: BufferedReader, size: int) -> int:
    """How many bytes there are from the first hole of a file on."""
    try:
        start = os.lseek(file.fileno(), 0, os.SEEK_HOLE)
    except (OSError, AttributeError):  # an empty file has none, and not every system knows of them
        return 0
    os.lseek(file.fileno(), 0, os.SEEK_SET)
    return size - start
