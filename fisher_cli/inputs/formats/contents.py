"""The bytes of one file, read once: hash, checks and tensors are of the same bytes, whatever becomes of the file.

They lie in memory without a name that another process can map as well and nobody can change any more; where the system
has no such memory, in memory of this process alone.
"""

import hashlib
import os
from collections.abc import Iterator
from io import BytesIO
from mmap import ACCESS_COPY, mmap
from pathlib import Path
from typing import BinaryIO, Final

from fisher_cli.errors import CheckpointError
from fisher_cli.inputs.formats.files import FileBytes, open_checkpoint, unreadable
from fisher_cli.text import digest

_BLOCK: Final = 1 << 20  # bytes read at a time; disks and SHA-256 are at full speed with this
_CAN_SHARE: Final = hasattr(os, "memfd_create")


class Content:
    """The bytes of a file.

    Attributes:
        data: all of them; writing changes this process's own copy of a page.
        sha256: of them, as `sha256:<hex>`.
        descriptor: of the memory that another process can map; None where there is none.
    """

    __slots__ = ("__weakref__", "data", "descriptor", "sha256")

    def __init__(self, file: BinaryIO, length: int | None = None, also: "hashlib._Hash | None" = None) -> None:
        """Read a file from where it stands.

        Args:
            file: opened for reading bytes.
            length: how many bytes to read; None for all that come.
            also: a hash of more than these bytes, which is given them too.

        Raises:
            OSError: The file cannot be read, or there is no memory for it.
        """
        self.descriptor: int | None = None
        hashed = hashlib.sha256()
        if _CAN_SHARE:
            self.data = self._shared(_hashing(_blocks(file, length), hashed, also))
        else:
            size = os.fstat(file.fileno()).st_size if length is None else length
            self.data = _private(_hashing(_blocks(file, length), hashed, also), size)
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

    def __len__(self) -> int:
        return len(self.data)

    def __del__(self) -> None:
        descriptor = getattr(self, "descriptor", None)
        if descriptor is not None:
            os.close(descriptor)

    def _shared(self, blocks: Iterator[memoryview]) -> FileBytes:
        import fcntl

        self.descriptor = os.memfd_create("fisher", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        size = 0
        for block in blocks:
            size += len(block)
            while block:
                block = block[os.write(self.descriptor, block) :]
        # From here on nobody can change it, not even who gets the descriptor.
        fcntl.fcntl(
            self.descriptor,
            fcntl.F_ADD_SEALS,
            fcntl.F_SEAL_SEAL | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE,
        )
        return mmap(self.descriptor, size, access=ACCESS_COPY) if size else b""


def _private(blocks: Iterator[memoryview], size: int) -> FileBytes:
    data, position = mmap(-1, max(size, 1)), 0
    for block in blocks:
        if position + len(block) <= size:
            data[position : position + len(block)] = block
        position += len(block)
    if position != size:
        msg = "its size changed while it was read"
        raise OSError(msg)
    return data if size else b""


def _blocks(file: BinaryIO, length: int | None) -> Iterator[memoryview]:
    """Yield the next bytes of the file; a block is valid until the next one."""
    buffer = memoryview(bytearray(_BLOCK if length is None else min(_BLOCK, length)))
    while length is None or length > 0:
        count = file.readinto(buffer if length is None else buffer[:length])  # type: ignore[attr-defined]
        if not count:
            return
        length = None if length is None else length - count
        yield buffer[:count]


def _hashing(
    blocks: Iterator[memoryview], hashed: "hashlib._Hash", also: "hashlib._Hash | None"
) -> Iterator[memoryview]:
    for block in blocks:
        hashed.update(block)
        if also is not None:
            also.update(block)
        yield block
