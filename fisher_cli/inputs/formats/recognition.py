"""Bytes of a checkpoint file → a description of what was saved in it; formats are told by content.

No code is ever run, and nothing here needs torch: tensors are descriptions of bytes of the file.
"""

import re
from collections.abc import Callable, Mapping
from typing import Final, NamedTuple, NoReturn

from fisher_cli.errors import CheckpointError, UnsafeCheckpointError
from fisher_cli.inputs.formats.archives import ZIP_SIGNATURES, open_archive
from fisher_cli.inputs.formats.files import COPY_AGAIN, FileBytes
from fisher_cli.inputs.formats.pickles import Reader
from fisher_cli.inputs.formats.safetensors_headers import read_header
from fisher_cli.inputs.formats.torch_files import LEGACY_START, Saved, is_legacy, load_legacy, load_zip

CHECKSUMS_HOLD: Final = "checksums hold"
NO_CHECKSUMS: Final = "no checksums"
SAVE_WEIGHTS: Final = "save only the weights where it was made: torch.save(model.state_dict(), 'weights.pt')"
_SHORTEST: Final = LEGACY_START
_OLD_PICKLE: Final = re.compile(rb"\(?c[A-Za-z_][\w.]*\n[\w.]+\n")
# Files of other libraries by how they begin: what they are, and what to do with the arrays in them.
_AS_TORCH: Final = "load it where it was made, copy its arrays into the PyTorch network, and save model.state_dict()"
_STRANGERS: Final = (
    (rb"\x89HDF\r\n\x1a\n", f"an HDF5 file, as Keras writes weights; {_AS_TORCH}"),
    (rb".{4}TFL3", f"a network of TensorFlow Lite; {_AS_TORCH}"),
    (rb"GGUF", "a GGUF file, whose weights are mostly quantized; name the checkpoint that it was converted from"),
    # The version of the format, then the name of what wrote it or the graph: the first fields of its protobuf.
    (
        rb"\x08[\x01-\x1f](?:\x12[\x01-\x40][ -~]|[:\x42])",
        "an ONNX graph; name the checkpoint that it was exported from",
    ),
    # A map whose first key is a name.
    (
        rb"(?:[\x81-\x8f]|\xde..|\xdf....)(?:[\xa1-\xbf]|\xd9.)[A-Za-z_][\w/.-]*[\x80-\xff]",
        f"a MessagePack file, as Flax writes weights; {_AS_TORCH}",
    ),
    (rb"[\x03\x04]\0\0\0.{0,40}V 1.{0,20}(?:torch|nn|cudnn)\.", f"a file of Lua's Torch (.t7); {_AS_TORCH}"),
    (
        rb"\x93NUMPY",
        "a single array of NumPy; save all weights under their names: torch.save(model.state_dict(), 'weights.pt')",
    ),
)
_SERIALIZATION_ID: Final = ".data/serialization_id"
_LONGEST_ID: Final = 100


class Description(NamedTuple):
    """What was saved in a file.

    Attributes:
        format: the container, in words for the report.
        content: the saved object; tensors are descriptions.
        metadata: the text beside it (safetensors only).
        ignored_types: the classes and functions named in the file for which inert objects stand.
        integrity: whether the file's own checksums were found to hold, or that it has none.
        identity: marks that the writer made from the content alone, whatever the file is called.
        refusal: why the content of a container that is whole cannot be read; None where it was.
    """

    format: str
    content: object
    metadata: Mapping[str, str] = {}
    ignored_types: tuple[str, ...] = ()
    integrity: str = NO_CHECKSUMS
    identity: tuple[str, ...] = ()
    refusal: CheckpointError | None = None


def describe(data: FileBytes) -> Description:
    """Read what the bytes hold: a torch zip archive, a torch file older than version 1.6, or safetensors.

    Structure, sizes and (where there are any: zip archives) checksums are checked first. Classes that a file names are
    never imported: see `Description.ignored_types`.

    Raises:
        CheckpointError: The bytes are damaged, or of another format.
        UnsafeCheckpointError: Reading the bytes would mean running code that they contain.
    """
    for is_of_this_format, load in FORMATS:
        if is_of_this_format(data):
            return load(data)
    if len(data) >= _SHORTEST and (data[:1] == b"\x80" or _OLD_PICKLE.match(data[:1024])):
        _refuse_pickle(data)
    raise CheckpointError(_strange_content(data))


def _load_torch_zip(data: FileBytes) -> Description:
    archive = open_archive(data)
    saved = _saved(lambda: load_zip(data, archive))
    integrity = CHECKSUMS_HOLD if archive.has_checksums else NO_CHECKSUMS
    start, end = archive.members.get(_SERIALIZATION_ID, (0, 0))
    marks = (f"{_SERIALIZATION_ID}:{data[start : min(end, start + _LONGEST_ID)].hex()}",) if end else ()
    return Description("torch zip", saved.content, {}, saved.ignored_types, integrity, marks, saved.refusal)


def _load_torch_legacy(data: FileBytes) -> Description:
    saved = _saved(lambda: load_legacy(data))
    return Description("torch legacy", saved.content, ignored_types=saved.ignored_types, refusal=saved.refusal)


def _saved(load: Callable[[], Saved]) -> Saved:
    try:
        return load()
    except CheckpointError as error:
        return Saved(None, (), error.with_traceback(None))


def _load_safetensors(data: FileBytes) -> Description:
    tensors, metadata = read_header(data)
    return Description("safetensors", tensors, metadata)


# By content, the first that fits: how a format is recognised, and bytes → what was saved.
FORMATS: Final[list[tuple[Callable[[FileBytes], bool], Callable[[FileBytes], Description]]]] = [
    (lambda data: data[:4] in ZIP_SIGNATURES, _load_torch_zip),
    (is_legacy, _load_torch_legacy),
    (lambda data: data[8:9] == b"{", _load_safetensors),
]


def _refuse_pickle(data: FileBytes) -> NoReturn:
    """Say why a pickle alone is refused: what it wants to run, or that torch did not write it.

    Raises:
        CheckpointError: Torch did not write it.
        UnsafeCheckpointError: It wants to run something.
    """
    reader = Reader(data)
    try:
        reader.load()
    except UnsafeCheckpointError as error:
        msg = f"{error}; {SAVE_WEIGHTS}"
        raise UnsafeCheckpointError(msg) from error
    msg = f"a pickle that torch.save did not write; {SAVE_WEIGHTS}"
    if reader.globals:
        raise UnsafeCheckpointError(msg)
    raise CheckpointError(msg)


def _strange_content(data: FileBytes) -> str:
    start = data[:1024]
    if not len(data):
        return f"the file is empty: its writing was cut short; {COPY_AGAIN}, or delete it"
    if start.startswith(b"version https://git-lfs"):
        return "a Git-LFS pointer, not the checkpoint itself; run git lfs pull"
    if start.lstrip().lower().startswith((b"<!doctype", b"<html", b"<?xml")):
        return "a web page, not a checkpoint; download it again, from the address of the file itself"
    if start.startswith(b"\x1f\x8b"):
        return "compressed with gzip; unpack it with gunzip"
    if start[257:262] == b"ustar":
        return "a tar archive; unpack it with tar -xf and name the checkpoint inside"
    for pattern, what in _STRANGERS:
        if re.match(pattern, start, re.DOTALL):
            return what
    if len(data) < _SHORTEST or not any(start):
        return f"only the start of a file, or blank space; {COPY_AGAIN}"
    if b"\0" not in start and start.decode("utf-8", "ignore").isascii() and not set(start) & set(range(9)):
        return "a text file, not a checkpoint; name a file written by torch.save or safetensors"
    return "neither a torch.save file nor safetensors; name a file written by one of them"
