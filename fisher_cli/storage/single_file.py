"""A page or a figure: one file, written whole, and never over a file that is not as we wrote it.

It carries the SHA-256 of all its other bytes, in a place that its format has for remarks.
"""

import hashlib
import os
import shlex
import struct
import zlib
from pathlib import Path
from typing import Final

from fisher_cli.errors import OutputError, UsageError
from fisher_cli.storage.atomic_write import replace_all
from fisher_cli.storage.regular_files import LINK, kind_of, read_regular, status_of

# Around it: a comment after the end of a page, a drawing or a PDF; in a PNG a chunk of text before the last chunk.
_COMMENTS: Final = {
    ".pdf": (b"% ", b"\n"),
    **dict.fromkeys((".html", ".htm", ".svg"), (b"<!-- ", b" -->\n")),
}
_LAST_CHUNK: Final = 12  # bytes
_MARK: Final = b"made by fisher, sha256:"


def check_single(path: Path, suffixes: tuple[str, ...], *, force: bool) -> None:
    """Refuse a name that says no format, a folder that is not there, and a file that is not as we wrote it.

    Args:
        path: of the file that is to be written.
        suffixes: those that say a format, such as `.html`; the first is proposed.
        force: whether another file may be replaced.

    Raises:
        UsageError: the suffix is none of those.
        OutputError: the file must not or cannot be written.
    """
    if path.suffix.lower() not in suffixes:
        msg = f"-o {path}: the suffix must be {' or '.join(suffixes)}: type -o {shlex.quote(path.stem + suffixes[0])}"
        raise UsageError(msg)
    if not os.path.isdir(path.parent):
        msg = f"cannot write {path}: there is no folder {path.parent}: mkdir -p {shlex.quote(str(path.parent))}"
        raise OutputError(msg)
    _refuse_others(path, force=force)


def write_single(path: Path, content: bytes, *, force: bool) -> None:
    """Write the file; at any moment it is absent, the old one or the new one.

    Raises:
        OutputError: the disk is full, the operating system refused for another reason, or the file was changed.
    """
    _refuse_others(path, force=force)
    try:
        replace_all({path: sealed(content, path.suffix.lower())})
    except OSError as error:
        msg = f"cannot write {path} ({len(content):,} bytes): {error.strerror or error}"
        raise OutputError(msg) from error


def sealed(content: bytes, suffix: str) -> bytes:
    """The content with its own SHA-256, as a remark of its format.

    Args:
        content: of the file.
        suffix: .html, .htm, .svg, .pdf or .png.
    """
    seal = _MARK + hashlib.sha256(content).hexdigest().encode()
    if suffix != ".png":
        before, after = _COMMENTS[suffix]
        return content + before + seal + after
    text = b"tEXtComment\0" + seal
    chunk = struct.pack(">I", len(text) - 4) + text + struct.pack(">I", zlib.crc32(text))
    return content[:-_LAST_CHUNK] + chunk + content[-_LAST_CHUNK:]


def is_sealed(content: bytes, suffix: str) -> bool:
    """Whether every byte is as it was when `sealed` put the hash in."""
    start = content.rfind(_MARK)
    if suffix == ".png":
        bare = content[: start - len(b"____tEXtComment\0")] + content[-_LAST_CHUNK:]
    else:
        bare = content[: start - len(_COMMENTS[suffix][0])]
    return start > 0 and content == sealed(bare, suffix)


def _refuse_others(path: Path, *, force: bool) -> None:
    """Refuse to replace what is there, unless we wrote it as it is, or were told to.

    Raises:
        OutputError: it must not be replaced.
    """
    try:
        kind = kind_of(status_of(path, follow=False))
        is_ours = kind is None and is_sealed(read_regular(path, follow=False), path.suffix.lower())
    except FileNotFoundError:
        return
    except OSError as error:
        msg = f"cannot write {path}: {error.strerror or error}"
        raise OutputError(msg) from error
    if kind not in (None, LINK):
        msg = f"cannot write {path}: it is {kind} and not a regular file; choose another name"
        raise OutputError(msg)
    if not is_ours and not force:
        msg = (
            f"{path} exists and is not as this command wrote it: choose another name for -o, or replace it with --force"
        )
        raise OutputError(msg)
