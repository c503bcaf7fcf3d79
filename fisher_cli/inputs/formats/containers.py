"""Bytes of a checkpoint file → what was saved in it; formats are told by content and no code is ever run.

`decode` is the only entry point. What a file holds is read by our own reader (`torch_files`, `pickles`), which makes
tensors and plain values and nothing else. A file that it cannot fully read is given to torch's own loader, which runs
whatever the file says, only when `trust_pickle` asks for that.
"""

import re
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import safetensors.torch

from fisher_cli.errors import CheckpointError, UnsafeCheckpointError
from fisher_cli.inputs.formats.archives import ZIP_SIGNATURES, open_archive
from fisher_cli.inputs.formats.files import COPY_AGAIN, clipped, read_bytes
from fisher_cli.inputs.formats.pickles import Reader
from fisher_cli.inputs.formats.safetensors_headers import check_header
from fisher_cli.inputs.formats.torch_files import LEGACY_START, Saved, is_legacy, load_legacy, load_zip
from fisher_cli.inputs.formats.trusted import load_trusting

__all__ = ["CHECKSUMS_HOLD", "Payload", "clipped", "decode", "read_bytes"]

CHECKSUMS_HOLD: Final = "checksums hold"
NO_CHECKSUMS: Final = "no checksums"
_SHORTEST: Final = LEGACY_START
_OLD_PICKLE: Final = re.compile(rb"\(?c[A-Za-z_][\w.]*\n[\w.]+\n")
_SAVE_WEIGHTS: Final = "save only the weights where it was made: torch.save(model.state_dict(), 'weights.pt')"
_TRUST: Final = f"{_SAVE_WEIGHTS}; or, if you trust whoever made it, add --trust-pickle"


@dataclass(frozen=True)
class Payload:
    """What was saved in a file.

    Attributes:
        format: the container, in words for the report.
        content: the saved object: tensors, plain values, and inert objects in place of everything else.
        metadata: the text beside it (safetensors only).
        ignored_types: the classes and functions named in the file for which inert objects stand.
        integrity: whether the file's own checksums were found to hold, or that it has none.
    """

    format: str
    content: object
    metadata: Mapping[str, object] = field(default_factory=dict)
    ignored_types: tuple[str, ...] = ()
    integrity: str = NO_CHECKSUMS


def decode(data: bytes, path: Path, *, trust_pickle: bool = False) -> Payload:
    """Read what the bytes hold: a torch zip archive, a torch file older than version 1.6, or safetensors.

    Structure, sizes and (where there are any: zip archives) checksums are checked first. Classes that a file names are
    never imported: see `Payload.ignored_types`.

    Args:
        data: the whole file.
        path: of the file; it appears in messages only.
        trust_pickle: whether torch files that name such classes, or that cannot be read without running code, are
            loaded by running it.

    Raises:
        CheckpointError: The bytes are damaged, or of another format.
        UnsafeCheckpointError: Reading the bytes would mean running code that they contain.
    """
    where = clipped(path, 500)
    try:
        return _decoded(data, trust_pickle)
    except CheckpointError as error:
        text = str(error)
        if ";" not in text:  # what to type next
            text = f"{text}; {_TRUST if isinstance(error, UnsafeCheckpointError) else COPY_AGAIN}"
        msg = f"{where}: {text}"
        raise type(error)(msg) from error
    except MemoryError as error:
        msg = f"{where}: asks for more memory than there is; {_SAVE_WEIGHTS}"
        raise CheckpointError(msg) from error
    except Exception as error:  # bytes out of place: an index, a key, a text that is none
        msg = f"{where}: truncated or damaged ({type(error).__name__}); {COPY_AGAIN}"
        raise CheckpointError(msg) from error


def _decoded(data: bytes, trust_pickle: bool) -> Payload:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch's remarks on prototypes, such as sparse layouts
        for is_of_this_format, load in FORMATS:
            if is_of_this_format(data):
                return load(data, trust_pickle)
    if len(data) >= _SHORTEST and (data[:1] == b"\x80" or _OLD_PICKLE.match(data)):
        raise _refusal_of_pickle(data)
    raise CheckpointError(_strange_content(data))


def _load_torch_zip(data: bytes, trust_pickle: bool) -> Payload:
    archive = open_archive(data)
    saved = _saved(data, trust_pickle, lambda: load_zip(data, archive))
    integrity = CHECKSUMS_HOLD if archive.has_checksums else NO_CHECKSUMS
    return Payload("torch zip", saved.content, ignored_types=saved.ignored_types, integrity=integrity)


def _load_torch_legacy(data: bytes, trust_pickle: bool) -> Payload:
    saved = _saved(data, trust_pickle, lambda: load_legacy(data))
    return Payload("torch legacy", saved.content, ignored_types=saved.ignored_types)


def _refusal_of_pickle(data: bytes) -> CheckpointError:
    """Return why a pickle alone is refused: what it wants to run, or that torch did not write it."""
    reader = Reader(data)
    try:
        reader.load()
    except UnsafeCheckpointError as error:
        return UnsafeCheckpointError(f"{error}; {_SAVE_WEIGHTS}")
    msg = f"a pickle that torch.save did not write; {_SAVE_WEIGHTS}"
    return UnsafeCheckpointError(msg) if reader.globals else CheckpointError(msg)


def _saved(data: bytes, trust_pickle: bool, read: Callable[[], Saved]) -> Saved:
    """Return what our own reader finds; where that is not all and the file is trusted, what torch's loader does.

    Raises:
        CheckpointError: Neither of those that are allowed can read it.
    """
    if not trust_pickle:
        return read()
    try:
        saved = read()
    except CheckpointError:
        return Saved(load_trusting(data), ())
    if not saved.ignored_types:
        return saved
    try:
        return Saved(load_trusting(data), ())
    except CheckpointError:
        return saved  # its classes are not here, but its weights are


def _load_safetensors(data: bytes, _trust_pickle: bool) -> Payload:
    names, metadata = check_header(data)
    try:
        tensors = safetensors.torch.load(data)
        # In the file's order: the library's own changes from run to run.
        return Payload("safetensors", {name: tensors[name] for name in names}, metadata)
    except Exception as error:  # what this version of the library does not know
        msg = f"a safetensors file that cannot be read ({clipped(error, 100)}); {COPY_AGAIN}"
        raise CheckpointError(msg) from error


# By content, the first that fits: how a format is recognised, and bytes, whether pickles are trusted → what was saved.
FORMATS: Final[list[tuple[Callable[[bytes], bool], Callable[[bytes, bool], Payload]]]] = [
    (lambda data: data.startswith(ZIP_SIGNATURES), _load_torch_zip),
    (is_legacy, _load_torch_legacy),
    (lambda data: data[8:9] == b"{", _load_safetensors),
]


def _strange_content(data: bytes) -> str:
    start = data[:1024]
    if not data:
        return f"the file is empty: its writing was cut short; {COPY_AGAIN}, or delete it"
    if start.startswith(b"version https://git-lfs"):
        return "a Git-LFS pointer, not the checkpoint itself; run git lfs pull"
    if start.lstrip().lower().startswith((b"<!doctype", b"<html", b"<?xml")):
        return "a web page, not a checkpoint; download it again, from the address of the file itself"
    if start.startswith(b"\x1f\x8b"):
        return "compressed with gzip; unpack it with gunzip"
    if data[257:262] == b"ustar":
        return "a tar archive; unpack it with tar -xf and name the checkpoint inside"
    if len(data) < _SHORTEST or not any(start):
        return f"only the start of a file, or blank space; {COPY_AGAIN}"
    if b"\0" not in start and start.decode("utf-8", "ignore").isascii() and not set(start) & set(range(9)):
        return "a text file, not a checkpoint; name a file written by torch.save or safetensors"
    return "neither a torch.save file nor safetensors; name a file written by one of them"
