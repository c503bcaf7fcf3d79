"""What a run found in checkpoint files, kept beside its journal by their hashes: it only saves time."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Final

from fisher_cli.errors import RecordError
from fisher_cli.storage.atomic_write import replace_all
from fisher_cli.storage.checksums import checked_line, checked_values

_INSPECTED: Final = "inspected.jsonl"


def recollect(folder: Path, way: Mapping[str, Any]) -> list[Any]:
    """What `remember` kept of files looked at in the same way; nothing where none of it can be read."""
    try:
        head, *lines = checked_values((folder / _INSPECTED).read_bytes())
    except (OSError, ValueError):
        return []
    return [line for line in lines if line is not None] if head == {"inspected": way} else []


def remember(folder: Path, way: Mapping[str, Any], values: Iterable[Any]) -> None:
    """Keep JSON values about files beside the records; it only saves time, and whoever loses it finds it again.

    Raises:
        RecordError: the disk is full, or the operating system refused for another reason.
    """
    content = b"".join(checked_line(each) + b"\n" for each in ({"inspected": way}, *values))
    try:
        replace_all({folder / _INSPECTED: content})
    except OSError as error:
        msg = f"cannot write {folder / _INSPECTED} ({len(content):,} bytes): {error.strerror or error}"
        raise RecordError(msg) from error


def inherit(folder: Path, other: Path) -> None:
    """Keep what another journal's run knew of files, unless there is something already.

    Raises:
        RecordError: the disk is full, or the operating system refused for another reason.
    """
    source, target = other / _INSPECTED, folder / _INSPECTED
    if not source.is_file() or target.exists():
        return
    try:
        replace_all({target: source.read_bytes()})
    except OSError as error:
        msg = f"cannot write {target}: {error.strerror or error}"
        raise RecordError(msg) from error
