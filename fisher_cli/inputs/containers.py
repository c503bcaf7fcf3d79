"""Bytes of a checkpoint file → what was saved in it; formats are told by content and no code is ever run.

A file is opened once, read once, and everything (hash, integrity check, loading) sees those same bytes.
"""

import hashlib
import io
import json
import os
import re
import stat
import warnings
import zipfile
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, cast

import safetensors.torch
import torch

from fisher_cli.errors import CheckpointError, UnsafeCheckpointError

_ZIP: Final = (b"PK\x03\x04", b"PK\x05\x06")
_ZIP_END: Final = b"PK\x05\x06"
_ZIP_END_SIZE: Final = 22  # of the end record, when no comment follows it; torch writes none
_ENCRYPTED: Final = 0x1
# The pickled magic number of torch.save before version 1.6.
_LEGACY: Final = b"\x80\x02\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19"
_SHORTEST: Final = len(_LEGACY) + 2
_OLD_PICKLE: Final = re.compile(rb"\(?c[A-Za-z_][\w.]*\n[\w.]+\n")
_REFUSED_GLOBAL: Final = re.compile(
    r"GLOBAL (\S+) (?:was not an allowed|whose module)|(?:but got|unrecognized function) (<[^>]+>|\S+)"
)
_CUT_GLOBAL: Final = re.compile(rb"c[\w.]*(?:\n[\w.]*)?\Z")
_LONGEST_GLOBAL: Final = 300
_SAVE_WEIGHTS: Final = "save only the weights where it was made: torch.save(model.state_dict(), 'weights.pt')"
_COPY_AGAIN: Final = "copy or download it again"


@dataclass(frozen=True)
class Payload:
    """What was saved: `content` is the saved object, `metadata` the text beside it (safetensors only)."""

    format: str
    content: object
    metadata: Mapping[str, object] = field(default_factory=dict)


def one_line(text: object, limit: int = 200) -> str:
    """Return the text with control characters and lone surrogates escaped, cut at `limit` characters."""
    shown = str(text)[: limit + 1]
    if not shown.isprintable():
        shown = "".join(
            character if character.isprintable() else character.encode("unicode_escape").decode() for character in shown
        )
    return shown if len(shown) <= limit else f"{shown[: limit - 1]}…"


def digest(data: bytes) -> str:
    """Return the SHA-256 of the bytes, as `sha256:<hex>`."""
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


def read_bytes(path: Path) -> bytes:
    """Return the whole content of a regular file, opened once and without waiting for a pipe's other end.

    Raises:
        CheckpointError: The file is missing, not regular, not permitted, or larger than memory.
    """
    where = one_line(path, 500)
    try:
        _check_regular(os.stat(path).st_mode, where)  # opening a device may already do something
        # Without O_NONBLOCK opening a named pipe would wait for a writer, perhaps for ever.
        descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
    except FileNotFoundError as error:
        msg = f"{where}: there is no such file; check the path"
        raise CheckpointError(msg) from error
    except (OSError, ValueError) as error:
        msg = f"{where}: cannot be opened ({_reason(error)}); check what it is with: ls -l"
        raise CheckpointError(msg) from error
    with open(descriptor, "rb") as file:
        status = os.fstat(descriptor)
        _check_regular(status.st_mode, where)  # again: it may have been replaced in between
        if status.st_size > _memory():
            msg = f"{where}: {status.st_size} bytes do not fit into this machine's memory; use a larger machine"
            raise CheckpointError(msg)
        try:
            return file.read()
        except (OSError, MemoryError) as error:
            msg = f"{where}: cannot be read ({_reason(error)}); {_COPY_AGAIN}"
            raise CheckpointError(msg) from error


def decode(data: bytes, path: Path) -> Payload:
    """Return what the bytes hold: a torch zip archive, a torch file older than version 1.6, or safetensors.

    `path` appears in messages only. Zip archives are checked against their stored checksums first: the loader
    itself does not look at them. The other two formats have no checksums.

    Raises:
        CheckpointError: The bytes are damaged, or of another format.
        UnsafeCheckpointError: Reading the bytes would mean running code that they contain.
    """
    where = one_line(path, 500)
    if data.startswith(_ZIP):
        _check_archive(data, where)
        return Payload("torch zip", _load_torch(data, where))
    if data.startswith(_LEGACY):
        return Payload("torch legacy", _load_torch(data, where))
    if data[8:9] == b"{":
        return _load_safetensors(data, where)
    if len(data) >= _SHORTEST and (data[:1] == b"\x80" or _OLD_PICKLE.match(data)):
        _load_torch(data, where)  # for its message: it names what the pickle wanted to call
        msg = f"{where}: a pickle that torch.save did not write; {_SAVE_WEIGHTS}"
        raise UnsafeCheckpointError(msg)
    msg = f"{where}: {_strange_content(data)}"
    raise CheckpointError(msg)


def _strange_content(data: bytes) -> str:
    start = data[:1024]
    if not data:
        return f"the file is empty: its writing was cut short; {_COPY_AGAIN}, or delete it"
    if start.startswith(b"version https://git-lfs"):
        return "a Git-LFS pointer, not the checkpoint itself; run git lfs pull"
    if start.lstrip().lower().startswith((b"<!doctype", b"<html", b"<?xml")):
        return "a web page, not a checkpoint; download it again, from the address of the file itself"
    if start.startswith(b"\x1f\x8b"):
        return "compressed with gzip; unpack it with gunzip"
    if data[257:262] == b"ustar":
        return "a tar archive; unpack it with tar -xf and name the checkpoint inside"
    if len(data) < _SHORTEST or not any(start):
        return f"only the start of a file, or blank space; {_COPY_AGAIN}"
    if b"\0" not in start and start.decode("utf-8", "ignore").isascii() and not set(start) & set(range(9)):
        return "a text file, not a checkpoint; name a file written by torch.save or safetensors"
    return "neither a torch.save file nor safetensors; name a file written by one of them"


def _check_archive(data: bytes, where: str) -> None:
    """Refuse an archive that is damaged, or that two readers could understand differently.

    Raises:
        CheckpointError: It is one of these.
    """
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            members = archive.infolist()
            _check_members(data, members, where)
            damaged = archive.testzip()
    except CheckpointError:
        raise
    except Exception as error:  # malformed archives raise half a dozen types
        msg = f"{where}: a zip archive that is truncated or damaged; {_COPY_AGAIN}"
        raise CheckpointError(msg) from error
    if damaged is not None:
        msg = f"{where}: damaged: {one_line(damaged)} does not fit its checksum; {_COPY_AGAIN}"
        raise CheckpointError(msg)


def _check_members(data: bytes, members: list[zipfile.ZipInfo], where: str) -> None:
    names = [member.filename for member in members]
    inside = {name.partition("/")[2] for name in names}
    if any(name.startswith("code/") or name == "constants.pkl" for name in inside):
        msg = (
            f"{where}: a TorchScript archive, which holds code; convert it where you trust it: "
            "torch.save(torch.jit.load(FILE).state_dict(), 'weights.pt')"
        )
        raise UnsafeCheckpointError(msg)
    if "data.pkl" not in inside:
        msg = f"{where}: a zip archive that torch.save did not write; {_SAVE_WEIGHTS}"
        raise CheckpointError(msg)
    # torch's reader ignores case, takes the first of two members and does not look at a comment or at bytes
    # before the archive; Python's differs in each of these.
    repeated = [name for name, times in Counter(name.lower() for name in names).items() if times > 1]
    is_plain = data[-_ZIP_END_SIZE:].startswith(_ZIP_END) and min(m.header_offset for m in members) == 0
    if repeated or not is_plain or len({name.partition("/")[0] for name in names}) > 1:
        reason = f"{one_line(repeated[0])} occurs twice" if repeated else "something was added to it"
        msg = f"{where}: not as torch.save writes it: {reason}; {_COPY_AGAIN}"
        raise CheckpointError(msg)
    for member in members:
        if member.compress_type != zipfile.ZIP_STORED or member.flag_bits & _ENCRYPTED:
            msg = (
                f"{where}: not as torch.save writes it: {one_line(member.filename)} is compressed or "
                "encrypted; use the original file, or load and save it again with torch"
            )
            raise CheckpointError(msg)


def _load_torch(data: bytes, where: str) -> object:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # advice on pickles; what matters becomes an error below
            return cast("object", torch.load(io.BytesIO(data), map_location="cpu", weights_only=True))
    except Exception as error:  # malformed files raise a dozen types; see pytorch issue 127525
        raise _refusal(error, data, where) from error


def _refusal(error: Exception, data: bytes, where: str) -> CheckpointError:
    text = str(error)
    found = _REFUSED_GLOBAL.search(text)
    name = (found[1] or found[2]) if found else ""
    # Cut in the middle of a name, a file seems to ask for something that nobody ever wrote.
    if name and not _CUT_GLOBAL.search(data[-_LONGEST_GLOBAL:]):
        name = one_line(name)
        return UnsafeCheckpointError(f"{where}: asks to run {name}, which is not done; {_SAVE_WEIGHTS}")
    if "Unsupported operand" in text:
        return UnsafeCheckpointError(f"{where}: a pickle that only an unsafe reader understands; {_SAVE_WEIGHTS}")
    if isinstance(error, MemoryError):
        return CheckpointError(f"{where}: asks for more memory than there is; {_SAVE_WEIGHTS}")
    kind = type(error).__name__
    return CheckpointError(f"{where}: truncated or damaged, torch cannot read it ({kind}); {_COPY_AGAIN}")


def _load_safetensors(data: bytes, where: str) -> Payload:
    try:
        tensors = safetensors.torch.load(data)
        header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
    except Exception as error:  # SafetensorError for most, KeyError for a type unknown to torch
        reason = one_line(str(error).removeprefix("Error while deserializing header: "), 100)
        msg = f"{where}: a safetensors file that is truncated or damaged ({reason}); {_COPY_AGAIN}"
        raise CheckpointError(msg) from error
    return Payload("safetensors", tensors, header.get("__metadata__", {}))


def _reason(error: Exception) -> str:
    return one_line(getattr(error, "strerror", None) or error or type(error).__name__).lower()


def _check_regular(mode: int, where: str) -> None:
    if stat.S_ISREG(mode):
        return
    kinds = {
        stat.S_IFDIR: "a folder",
        stat.S_IFIFO: "a named pipe",
        stat.S_IFSOCK: "a socket",
        stat.S_IFCHR: "a device",
        stat.S_IFBLK: "a device",
    }
    kind = kinds.get(stat.S_IFMT(mode), "something else")
    msg = f"{where}: not a regular file but {kind}; name a checkpoint file"
    raise CheckpointError(msg)


def _memory() -> int:
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):  # not a POSIX system
        return 1 << 62
