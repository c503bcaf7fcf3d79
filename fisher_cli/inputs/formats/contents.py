"""The bytes of one file, read once: hash, checks and tensors are of the same bytes, whatever becomes of the file.

They lie in memory without a name that another process can map as well and nobody can change any more; where the system
has no such memory, in memory of this process alone.
"""

import contextlib
import hashlib
import os
import resource
from collections.abc import Iterator
from io import BytesIO
from mmap import ACCESS_COPY, ACCESS_WRITE, mmap
from pathlib import Path
from typing import BinaryIO, Final

from fisher_cli.errors import CheckpointError
from fisher_cli.inputs.formats.files import FileBytes, open_checkpoint, unreadable
from fisher_cli.text import digest

_BLOCK: Final = 1 << 20  # bytes read at a time; disks and SHA-256 are at full speed with this


class Content:
    """The bytes of a file.

    Args:
        file: opened for reading bytes; it is read from where it stands.
        length: how many bytes; None for all that are left.
        also: a hash of more than these bytes, which is given them too.

    Attributes:
        data: all of them; writing changes this process's own copy of a page.
        sha256: of them, as `sha256:<hex>`.
        descriptor: of the memory that another process can map; None where there is none.

    Raises:
        OSError: The file cannot be read, or there is no memory for it.
    """

    __slots__ = ("__weakref__", "data", "descriptor", "sha256")

    def __init__(self, file: BinaryIO, length: int | None = None, also: "hashlib._Hash | None" = None) -> None:
        hashed = hashlib.sha256()
        size = os.fstat(file.fileno()).st_size - file.tell() if length is None else length
        self.descriptor = _shared_memory(size)
        self.data: FileBytes = b""
        if size:
            data = mmap(-1, size) if self.descriptor is None else mmap(self.descriptor, size, access=ACCESS_WRITE)
            for block in _filled(data, file):
                hashed.update(block)
                if also is not None:
                    also.update(block)
            self.data = data if self.descriptor is None else self._sealed(self.descriptor, data)
        if length is None and file.read(1):
            raise OSError(_OTHER_SIZE)
        self.sha256 = digest(hashed)

    @classmethod
    def of(cls, data: bytes) -> "Content":
        """Take bytes that have been read already."""
        return cls(BytesIO(data), len(data))

    @classmethod
    def read(cls, path: Path) -> "Content":
        """Read the whole content of a regular file, opened once.

        Raises:
            CheckpointError: The file is missing, not regular, not permitted, or larger than memory.
        """
        with open_checkpoint(path) as file:
            try:
                return cls(file)
            except (OSError, MemoryError) as error:
                raise CheckpointError(unreadable(path, error)) from error

    def _sealed(self, descriptor: int, data: mmap) -> mmap:
        """Let nobody change the memory any more, not even who gets the descriptor; return this process's own view."""
        import fcntl

        size = len(data)
        data.close()
        seals = fcntl.F_SEAL_SEAL | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE
        try:
            fcntl.fcntl(descriptor, fcntl.F_ADD_SEALS, seals)
            return mmap(descriptor, size, access=ACCESS_COPY)
        except OSError:  # a system that has the memory and not the seals: then it is shared with nobody
            own = mmap(descriptor, size, access=ACCESS_COPY)
            self.descriptor = None
            os.close(descriptor)
            return own

    def __len__(self) -> int:
        return len(self.data)

    def __del__(self) -> None:
        descriptor = getattr(self, "descriptor", None)
        if descriptor is not None:
            os.close(descriptor)


_NOT_TO_BE_RUN: Final = 0x8  # MFD_NOEXEC_SEAL, which Linux knows from 6.3 on, and some systems insist on
_OTHER_SIZE: Final = "its size changed while it was read"


def _shared_memory(size: int) -> int | None:
    """Return a descriptor of so many bytes that other processes can map; None where the system has or allows none."""
    if not hasattr(os, "memfd_create") or not _may_be(size):
        return None
    for more in (_NOT_TO_BE_RUN, 0):
        with contextlib.suppress(OSError):
            descriptor = os.memfd_create("fisher", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING | more)
            with contextlib.suppress(OSError):
                os.ftruncate(descriptor, size)
                return descriptor
            os.close(descriptor)
    return None


def _may_be(size: int) -> bool:
    """Return whether this process may have a file of so many bytes: memory with a descriptor counts as one."""
    most, _ = resource.getrlimit(resource.RLIMIT_FSIZE)
    return most == resource.RLIM_INFINITY or size <= most


def _filled(data: mmap, file: BinaryIO) -> Iterator[memoryview]:
    """Fill the memory from the file, and yield its parts as they come.

    Raises:
        OSError: There is less to read.
    """
    position = 0
    with memoryview(data) as whole:
        while position < len(data):
            with whole[position : position + _BLOCK] as room:
                count = file.readinto(room)  # type: ignore[attr-defined]
                if not count:
                    raise OSError(_OTHER_SIZE)
                with room[:count] as block:
                    yield block
            position += count
