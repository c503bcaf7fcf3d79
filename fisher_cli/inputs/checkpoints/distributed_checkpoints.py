"""Folders of torch.distributed.checkpoint → the tensors that are wanted, and only these, each piece checked.

Numbers, texts and optimizers' settings lie there as pickles and are never read. `meta.pt`, which Lightning writes
beside the tensors, is a file like any other.
"""

import hashlib
import os
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import BinaryIO, Final

import torch
from torch import Tensor

from fisher_cli.errors import CheckpointError
from fisher_cli.inputs.checkpoints.stored_files import StoredCheckpoint, decoded, inside, joint_digest, open_stored
from fisher_cli.inputs.checkpoints.timeline import TIME_KEYS
from fisher_cli.inputs.formats.checkpoint_reader import ask
from fisher_cli.inputs.formats.containers import CHECKSUMS_HOLD, Payload
from fisher_cli.inputs.formats.contents import Content
from fisher_cli.inputs.formats.distributed_metadata import SavedPiece, SavedState, SavedTensor, of_tree
from fisher_cli.inputs.formats.reading import ReadOptions
from fisher_cli.inputs.formats.tensors import dtype_of
from fisher_cli.text import clipped, digest

METADATA: Final = ".metadata"
SUFFIX: Final = ".distcp"
_LIGHTNING: Final = "meta.pt"
_FORMAT: Final = "torch distributed"
_BLOCK: Final = 4 << 20  # bytes read at a time; disks and SHA-256 are at full speed with this
_COPY_AGAIN: Final = "copy the whole folder again"


class StoredPieces(StoredCheckpoint):
    """The tensors of a folder, by name and shape only until they are fetched; then the hash is known, too.

    Fetching reads every file once from its start to its end: the hash covers what the numbers came from.
    """

    def __init__(self, folder: Path, state: SavedState, digests: Mapping[str, str], reading: ReadOptions) -> None:
        self._folder, self._state, self._digests, self._reading = folder, state, dict(digests), reading
        self._tensors: dict[int, tuple[Tensor, SavedTensor]] = {}
        self._content: dict[str, object] = {}
        for saved in state.tensors:
            outline = torch.empty(saved.size, dtype=dtype_of(saved.dtype), device="meta")
            self._tensors[id(outline)] = (outline, saved)
            self._place(saved.path, outline)
        for path in state.others:
            self._place(path, None)
        super().__init__(Payload(_FORMAT, self._content, integrity=CHECKSUMS_HOLD), None)

    def fetch(self, mapping: Mapping[object, object]) -> Mapping[object, object]:
        """Return the mapping with the numbers of its tensors; those of steps and epochs are fetched on the way."""
        times = {key: value for key, value in self._content.items() if key in TIME_KEYS and _is_number(value)}
        wanted = [self._tensors[id(value)][1] for value in (*mapping.values(), *times.values()) if _is_outline(value)]
        tensors = dict(zip((saved.path for saved in wanted), self._read(wanted), strict=True))

        def real(value: object) -> object:
            return tensors[self._tensors[id(value)][1].path] if _is_outline(value) else value

        self._content.update({key: real(value) for key, value in times.items()})
        self.sha256 = joint_digest(self._digests)
        self.identity = frozenset({self.sha256})
        return {key: real(value) for key, value in mapping.items()}

    def include(self, digests: Mapping[str, str]) -> None:
        """Let the hash cover further files that say something about the weights."""
        self._digests.update(digests)

    def read_beside(self, name: str) -> None:
        """Take what a file of the folder says about the weights; a note where it cannot be read."""
        path = self._folder / name
        try:
            content = Content.read(inside(self._folder, name, self._where))
            found = decoded(content, path, self._reading).content
        except CheckpointError as error:
            reason = str(error).removeprefix(f"{clipped(path, 500)}: ").partition(";")[0]
            self.notes += (f"{name} not used: {reason}",)
            return
        self._digests[name] = content.sha256
        self.about = (
            {key: value for key, value in found.items() if isinstance(key, str)} if isinstance(found, dict) else {}
        )

    def _place(self, path: tuple[str, ...], value: object) -> None:
        mapping = self._content
        for key in path[:-1]:
            deeper = mapping.setdefault(key, {})
            if not isinstance(deeper, dict):
                msg = f"{self._where}: {clipped(key)} is a value and a dictionary of values; {_COPY_AGAIN}"
                raise CheckpointError(msg)
            mapping = deeper
        mapping[path[-1]] = value

    @property
    def _where(self) -> str:
        return clipped(self._folder, 500)

    def _read(self, wanted: list[SavedTensor]) -> list[Tensor]:
        self._check_room(wanted)
        pieces: dict[str, list[tuple[SavedPiece, Tensor]]] = {}
        tensors = [torch.empty(saved.size, dtype=dtype_of(saved.dtype)) for saved in wanted]
        for saved, tensor in zip(wanted, tensors, strict=True):
            for piece in saved.pieces:
                pieces.setdefault(piece.file, []).append((piece, tensor))
        for name in self._state.files:
            self._read_file(name, sorted(pieces.get(name, []), key=lambda pair: pair[0].start))
        return tensors

    def _check_room(self, wanted: list[SavedTensor]) -> None:
        """Refuse tensors that are larger than the files that should hold them, before memory is asked for.

        Raises:
            CheckpointError: They are.
        """
        needed = Counter[str]()
        for saved in wanted:
            for piece in saved.pieces:
                needed[piece.file] += piece.length
        for name, length in needed.items():
            stored = os.stat(inside(self._folder, name, self._where)).st_size
            if length > stored:
                msg = f"{self._where}: {clipped(name)} is cut short: {stored} bytes of {length}; {_COPY_AGAIN}"
                raise CheckpointError(msg)

    def _read_file(self, name: str, pieces: list[tuple[SavedPiece, Tensor]]) -> None:
        path = inside(self._folder, name, self._where)
        hashed = hashlib.sha256()
        with open_stored(path) as file:
            size = os.fstat(file.fileno()).st_size
            for piece, tensor in pieces:
                if piece.start < file.tell() or piece.start + piece.length > size:
                    msg = f"{self._where}: {clipped(name)} is cut short, or its pieces overlap; {_COPY_AGAIN}"
                    raise CheckpointError(msg)
                for block in _blocks(file, piece.start - file.tell()):
                    hashed.update(block)
                self._copy(piece, tensor, Content(file, piece.length, hashed), self._folder / name)
            for block in _blocks(file, None):
                hashed.update(block)
        self._digests[name] = digest(hashed)

    def _copy(self, piece: SavedPiece, tensor: Tensor, stored: Content, path: Path) -> None:
        found = decoded(stored, path, self._reading).content
        if not isinstance(found, Tensor) or tuple(found.shape) != piece.sizes or found.dtype != tensor.dtype:
            msg = f"{clipped(path, 500)}: what it holds is not what {METADATA} describes; {_COPY_AGAIN}"
            raise CheckpointError(msg)
        block = tensor
        for axis, (start, length) in enumerate(zip(piece.offsets, piece.sizes, strict=True)):
            block = block.narrow(axis, start, length)
        block.copy_(found)


def read_metadata(data: bytes | Content, where: str) -> SavedState:
    """Return the tensors that metadata describe.

    Raises:
        CheckpointError: They are hostile or damaged.
    """
    try:
        return of_tree(ask("distributed metadata", Content.of(data) if isinstance(data, bytes) else data))
    except CheckpointError as error:
        text = str(error)
        msg = f"{where}: {text if ';' in text else f'{text}; {_COPY_AGAIN}'}"
        raise type(error)(msg) from error


def read_distributed(folder: Path, reading: ReadOptions) -> StoredPieces:
    """Return what a folder of torch.distributed.checkpoint holds; nothing but `.metadata` is read before it is fetched.

    Its hash, known after that, is `joint_digest` of `.metadata`, of all the files that this names, and of `meta.pt`.

    Raises:
        CheckpointError: The metadata are missing, hostile or damaged, or name files outside of the folder.
    """
    where = clipped(folder, 500)
    if not os.path.lexists(folder / METADATA):
        msg = f"{where}: {SUFFIX} files without {METADATA}, which is written last: saving was cut short; {_COPY_AGAIN}"
        raise CheckpointError(msg)
    metadata = Content.read(inside(folder, METADATA, where))
    state = read_metadata(metadata, clipped(folder / METADATA, 500))
    for name in state.files:
        inside(folder, name, where)
    stored = StoredPieces(folder, state, {METADATA: metadata.sha256}, reading)
    if os.path.lexists(folder / _LIGHTNING):
        stored.read_beside(_LIGHTNING)
    return stored


def _blocks(file: BinaryIO, count: int | None) -> Iterator[bytes]:
    """Yield the next `count` bytes of the file, all that is left for None."""
    while (count is None or count > 0) and (block := file.read(_BLOCK if count is None else min(count, _BLOCK))):
        count = None if count is None else count - len(block)
        yield block


def _is_outline(value: object) -> bool:
    return isinstance(value, Tensor) and value.is_meta


def _is_number(value: object) -> bool:
    return isinstance(value, Tensor) and value.ndim == 0
