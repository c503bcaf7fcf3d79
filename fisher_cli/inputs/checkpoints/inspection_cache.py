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
    """What the bytes with this hash say of their place in training; they are of a checkpoint that can be used.

    Attributes:
        sha256: of the bytes, as `sha256:<hex>`.
        stated: step and epoch as the file states them, whatever it is called.
        identity: marks that copies of one checkpoint share, less those of its step.
    """

    sha256: str
    stated: StatedPoint
    identity: tuple[str, ...]


@dataclass
class InspectionCache:
    """Files known by the hash of their bytes, as they were found with the same way of reading.

    Attributes:
        known: what an earlier run found, by `sha256:<hex>`.
        met: what was looked up or added since, in order: worth remembering for the next run.
    """

    known: Mapping[str, InspectedFile] = field(default_factory=dict)
    met: dict[str, InspectedFile] = field(default_factory=dict)

    @classmethod
    def of(cls, found: Sequence[InspectedFile]) -> "InspectionCache":
        """Make a cache that knows these files, and has met none."""
        return cls({each.sha256: each for each in found})

    def recall(self, sha256: str) -> InspectedFile | None:
        """Look up what was found in the bytes with this hash, `sha256:<hex>`; None where they are not known."""
        found = self.known.get(sha256) or self.met.get(sha256)
        if found is not None:
            self.met[sha256] = found
        return found

    def add(self, found: InspectedFile) -> None:
        """Remember what was found in a file."""
        self.met[found.sha256] = found

    @property
    def has_news(self) -> bool:
        """Whether a file was met that an earlier run did not know."""
        return not self.met.keys() <= self.known.keys()


_INSPECTED: Final = "inspected.jsonl"


def read_inspections(folder: Path, way: Mapping[str, Any]) -> list[Any]:
    """Read what `write_inspections` kept beside a journal's records.

    Args:
        folder: `name.journal`.
        way: how files are read (versions, options), as JSON values.

    Returns:
        The JSON values in their order, without damaged lines; [] where nothing can be read, or files were read in
            another
        way.
    """
    try:
        head, *lines = checked_values((folder / _INSPECTED).read_bytes())
    except (OSError, ValueError):
        return []
    return [line for line in lines if line is not None] if head == {"inspected": way} else []


def write_inspections(folder: Path, way: Mapping[str, Any], values: Iterable[Any]) -> None:
    """Keep JSON values about files beside a journal's records; it only saves time, and whoever loses it finds it again.

    Args:
        folder: `name.journal`, which exists.
        way: how files were read (versions, options), as JSON values.
        values: one a file.

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
    """Copy what the run of another journal knew of files, unless there is something already.

    Args:
        folder: `name.journal` of the report to be.
        other: that of a report that is there.

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
