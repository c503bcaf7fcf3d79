"""What was found in a checkpoint file, remembered by the hash of its bytes, so that it need not be decoded again."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from fisher_cli.errors import RecordError
from fisher_cli.inputs.checkpoints.timeline import StatedPoint
from fisher_cli.storage.atomic_write import replace_all
from fisher_cli.storage.checksums import checked_line, checked_values


@dataclass(frozen=True)
class InspectedFile:
    """What the bytes with this hash say of their place in training, whatever they are called; they can be used.

    `identity` holds the marks that copies of one checkpoint share, less those of its step.
    """

    sha256: str
    stated: StatedPoint
    identity: tuple[str, ...]


@dataclass
class InspectionCache:
    """Files known by the hash of their bytes, as they were found with the same way of reading.

    `met` are those that were looked up or added since, in order: what is worth remembering for the next time.
    """

    known: Mapping[str, InspectedFile] = field(default_factory=dict)
    met: dict[str, InspectedFile] = field(default_factory=dict)

    @classmethod
    def of(cls, found: Sequence[InspectedFile]) -> "InspectionCache":
        """That which remembers these."""
        return cls({each.sha256: each for each in found})

    def recall(self, sha256: str) -> InspectedFile | None:
        """What was found in these bytes."""
        found = self.known.get(sha256) or self.met.get(sha256)
        if found is not None:
            self.met[sha256] = found
        return found

    def add(self, found: InspectedFile) -> None:
        """Remember what was found."""
        self.met[found.sha256] = found

    @property
    def has_news(self) -> bool:
        """Whether something is to be remembered that was not known."""
        return not self.met.keys() <= self.known.keys()


_INSPECTED: Final = "inspected.jsonl"


def read_inspections(folder: Path, way: Mapping[str, Any]) -> list[Any]:
    """What `write_inspections` kept of files looked at in the same way; nothing where none of it can be read."""
    try:
        head, *lines = checked_values((folder / _INSPECTED).read_bytes())
    except (OSError, ValueError):
        return []
    return [line for line in lines if line is not None] if head == {"inspected": way} else []


def write_inspections(folder: Path, way: Mapping[str, Any], values: Iterable[Any]) -> None:
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


def copy_inspections(folder: Path, other: Path) -> None:
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
