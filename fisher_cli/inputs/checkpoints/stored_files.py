"""A checkpoint on disk, a file or a folder → what is stored in it and the hash of the bytes that were read."""

import os
import stat
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO, Final

from fisher_cli.errors import CheckpointError
from fisher_cli.inputs.formats.containers import Payload, decode
from fisher_cli.inputs.formats.contents import Content
from fisher_cli.inputs.formats.files import open_without_waiting
from fisher_cli.inputs.formats.reading import ReadOptions
from fisher_cli.text import clipped, digest

_HUB: Final = ("snapshots", "blobs")  # the cache of Hugging Face's hub: snapshots/REVISION/NAME links to blobs/HASH


@dataclass
class StoredCheckpoint:
    """What was read of one checkpoint, a file or a folder.

    Attributes:
        payload: what was saved.
        sha256: of the bytes, as `sha256:<hex>`; None until tensors that are read late have been fetched.
        identity: marks that two copies of one checkpoint share, whatever their names.
        about: what stands beside the weights in files of their own, such as a folder's `config.json`.
        config: the whole of that `config.json`; None without one.
        notes: remarks for the row.
    """

    payload: Payload
    sha256: str | None
    identity: frozenset[str] = frozenset()
    about: Mapping[str, object] = field(default_factory=dict)
    config: dict[str, object] | None = None
    notes: tuple[str, ...] = ()

    def fetch(self, mapping: Mapping[object, object]) -> Mapping[object, object]:
        """Read the numbers of the tensors of a mapping, where they are not there yet.

        Args:
            mapping: a part of the payload's content.
        """
        return mapping

    def include(self, digests: Mapping[str, str]) -> None:
        """Make the hash one over further files as well, which say something about the weights.

        Args:
            digests: `sha256:<hex>` of each file, by its name.
        """
        if digests and self.sha256 is not None:
            self.sha256 = joint_digest({"": self.sha256, **digests})


def read_file(path: Path, reading: ReadOptions, content: Content | None = None) -> StoredCheckpoint:
    """Return what a file holds, or its content that has been read already; its hash is the SHA-256 of its bytes.

    Raises:
        CheckpointError: It cannot be read or decoded.
    """
    content = Content.read(path) if content is None else content
    payload = decoded(content, path, reading)
    return StoredCheckpoint(payload, content.sha256, frozenset({content.sha256, *payload.identity}))


def decoded(content: Content, path: Path, reading: ReadOptions) -> Payload:
    """Return what the bytes hold; the only place where the user's trust in pickles is handed on."""
    return decode(content, path, trust_pickle=reading.trust_pickle)


def inside(folder: Path, name: str, where: str) -> Path:
    """Return the path of a plain file that a checkpoint's index names, which must lie in the folder itself.

    Raises:
        CheckpointError: The name has parts, leads out of the folder, or is that of no regular file.
    """
    shown = clipped(name)
    if not name or name in {".", ".."} or any(mark in name for mark in "/\\\0") or os.path.isabs(name):
        msg = f"{where}: names {shown!r}, which is no file of its own folder; copy or download the folder again"
        raise CheckpointError(msg)
    path = folder / name
    try:
        mode = os.lstat(path).st_mode
        target = Path(os.path.realpath(path)) if stat.S_ISLNK(mode) else path
        if target is not path and target.parent not in _homes(folder):
            msg = f"{where}: {shown} is a link that leads out of the folder; copy the file itself into it"
            raise CheckpointError(msg)
        mode = os.stat(target).st_mode
    except OSError as error:
        msg = f"{where}: names {shown}, which is not there; copy or download the folder again"
        raise CheckpointError(msg) from error
    if not stat.S_ISREG(mode):
        msg = f"{where}: {shown} is no regular file; copy or download the folder again"
        raise CheckpointError(msg)
    return target


def open_stored(path: Path) -> BinaryIO:
    """Return a regular file opened for reading, without waiting for a pipe's other end.

    Raises:
        CheckpointError: It is none, or cannot be opened.
    """
    try:
        file = open(open_without_waiting(path), "rb")  # noqa: SIM115  the caller closes it
    except OSError as error:
        msg = f"{clipped(path, 500)}: cannot be opened ({error.strerror}); check what it is with: ls -l"
        raise CheckpointError(msg) from error
    if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
        file.close()
        msg = f"{clipped(path, 500)}: no regular file; name a checkpoint"
        raise CheckpointError(msg)
    return file


def joint_digest(digests: Mapping[str, str]) -> str:
    """Return the hash of a folder: SHA-256 over one line `NAME NUL sha256:HEX LF` for each file read, sorted by name.

    Names are relative to the folder, with `/` between their parts, in UTF-8.
    """
    lines = (os.fsencode(name) + b"\0" + value.encode() + b"\n" for name, value in sorted(digests.items()))
    return digest(b"".join(lines))


def _homes(folder: Path) -> set[Path]:
    """Return the folders in which a linked file may lie: this one, and the store of the hub's cache it is part of."""
    real = Path(os.path.realpath(folder))
    snapshots, blobs = _HUB
    return {real} | ({real.parents[1] / blobs} if real.parent.name == snapshots else set())
