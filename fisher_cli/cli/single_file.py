"""A page or a figure: one file, written whole, and never over a file that is not ours."""

import shlex
from pathlib import Path

from fisher_cli.errors import OutputError, UsageError
from fisher_cli.storage.atomic_write import replace_all

# Files of ours are short: what is longer than any of them is not read to find out.
_LONGEST = 2**26


def check_single(path: Path, suffixes: tuple[str, ...], mark: bytes, *, force: bool) -> None:
    """Refuse a name that says no format, a folder that is not there, and a file that does not hold our mark.

    Args:
        path: of the file that is to be written.
        suffixes: those that say a format, such as `.html`; the first is proposed.
        mark: bytes that every file of this command holds.
        force: whether another file may be replaced.

    Raises:
        UsageError: the suffix is none of those.
        OutputError: the file must not or cannot be written.
    """
    if path.suffix.lower() not in suffixes:
        msg = f"-o {path}: the suffix must be {' or '.join(suffixes)}: type -o {shlex.quote(path.stem + suffixes[0])}"
        raise UsageError(msg)
    if not path.parent.is_dir():
        msg = f"cannot write {path}: there is no folder {path.parent}: mkdir -p {shlex.quote(str(path.parent))}"
        raise OutputError(msg)
    if path.exists() and not path.is_file():
        msg = f"cannot write {path}: it is not a regular file; choose another name"
        raise OutputError(msg)
    if (path.exists() or path.is_symlink()) and not force and not _is_ours(path, mark):
        msg = f"{path} exists and was not made by this command: choose another name for -o, or replace it with --force"
        raise OutputError(msg)


def write_single(path: Path, content: bytes) -> None:
    """Write the file; at any moment it is absent, the old one or the new one.

    Raises:
        OutputError: the disk is full, or the operating system refused for another reason.
    """
    try:
        replace_all({path: content})
    except OSError as error:
        msg = f"cannot write {path} ({len(content):,} bytes): {error.strerror or error}"
        raise OutputError(msg) from error


def _is_ours(path: Path, mark: bytes) -> bool:
    try:
        return path.stat().st_size <= _LONGEST and mark in path.read_bytes()
    except OSError:
        return False
