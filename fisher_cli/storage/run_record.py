"""The record of a report, `name.fisher/record.json`, read back; anybody may have written it, so its form is checked."""

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, TypedDict

from fisher_cli.storage.checksums import SELF_HASH, self_hash_holds
from fisher_cli.storage.formats import SCHEMA_VERSION, TOOL, is_newer
from fisher_cli.storage.json_codec import decode
from fisher_cli.storage.json_values import json_value
from fisher_cli.storage.regular_files import read_regular
from fisher_cli.text import unescape

# Bytes: that of ten thousand checkpoints has some ten millions.
_LONGEST: Final = 2**30


class NormalizationEntry(TypedDict, total=False):
    """What a record says of the constants by which inputs were normalised."""

    name: str | None
    mean: list[float] | None
    std: list[float] | None


class DataEntry(TypedDict, total=False):
    """What a record says of its data."""

    name: str | None
    split: str | None
    identity: str | None
    examples: int
    of: int
    normalization: NormalizationEntry | None
    grayscale: bool


class SettingsEntry(TypedDict, total=False):
    """What a record says of its settings, as far as it is read back."""

    split: str | None
    limit: int | None
    labels: str | None
    normalize: str | None
    resize: str | None
    crop: str | None
    data_arguments: list[tuple[str, str]]
    seed: int


class CheckpointEntry(TypedDict, total=False):
    """What a record says of a checkpoint."""

    checkpoint: str
    sha256: str | None
    batch_size: int | None
    ledger: int | None
    notes: list[str]
    likelihood: str | None


class CoverageEntry(TypedDict, total=False):
    """What a record says of the way in which a parameter is covered."""

    name: str
    values: int
    method: str


class LedgerEntry(TypedDict, total=False):
    """What a record says of a ledger."""

    parameters: list[CoverageEntry]


class RunEntry(TypedDict, total=False):
    """What a record says of how it went."""

    command: list[str]
    seconds: float
    peak_memory_bytes: int
    made_of: str | None
    resources: dict[str, Any]
    timings: Any
    checks: list[Any]
    identities: list[Any]


class _Needed(TypedDict):
    tool: str
    tables: dict[str, str]


class RecordContent(_Needed, total=False):
    """A record: entries that something is made of, each of which may be missing; all others are plain JSON values."""

    schema_version: int
    record_sha256: str
    replaced: dict[str, str]
    conventions: str
    settings: SettingsEntry
    data: DataEntry | str | None
    checkpoints: list[CheckpointEntry]
    ledgers: list[LedgerEntry]
    part: Any
    run: RunEntry


class LaterVersionError(ValueError):
    """A record is of a version of reports that this program does not know."""


@dataclass(frozen=True)
class StoredRecord:
    """A record as it lies on the disk.

    Attributes:
        content: its entries.
        version: of reports.
        tables: the hashes of the tables, as `sha256:<hex>`, by the names of their files.
        replaced: those of the files that were being replaced when it was written: none but for a run that was killed.
        is_whole: whether its own hash holds.
    """

    content: Mapping[str, Any]
    version: int
    tables: Mapping[str, str]
    replaced: Mapping[str, str] = field(default_factory=dict)
    is_whole: bool = False

    @property
    def was_changed(self) -> bool:
        """Whether it was changed after it was written; one of the first version, which has no hash, does not tell."""
        return not self.is_whole and (self.version > 1 or SELF_HASH in self.content)


def read_record(path: Path, *, follow: bool = True) -> StoredRecord:
    """Read a record and check its form, not yet its own hash.

    Args:
        path: `name.fisher/record.json`.
        follow: whether a link at the end of the path is followed.

    Raises:
        OSError: it is missing, or cannot be read.
        LaterVersionError: it is of a later version than this program knows.
        ValueError: it is no record, or a damaged one; the text says what is wrong.
    """
    content = read_regular(path, follow=follow, longest=_LONGEST)
    try:
        record = json_value(content)
    except ValueError as error:
        msg = f"cannot be read ({error})"
        raise ValueError(msg) from error
    if not isinstance(record, dict) or record.get("tool") != TOOL or not isinstance(record.get("tables"), dict):
        msg = "is no record of fisher, or a damaged one"
        raise ValueError(msg)
    if is_newer(record):
        version = json.dumps(record.get("schema_version"))[:20]
        msg = f"has schema version {version}: this fisher knows 1 to {SCHEMA_VERSION}"
        raise LaterVersionError(msg)
    try:
        form: Any = RecordContent  # mypy takes no TypedDict for a type of values
        decode(form, record)
        tables, replaced = (_by_file(record.get(name, {})) for name in ("tables", "replaced"))
    except ValueError as error:
        msg = f"is a damaged record of fisher: {error}"
        raise ValueError(msg) from error
    return StoredRecord(record, record.get("schema_version", 1), tables, replaced, self_hash_holds(content))


def _by_file(hashes: Mapping[str, str]) -> dict[str, str]:
    """The hashes by the names of files, which a record holds in UTF-8.

    Raises:
        ValueError: a name is none of a file in the record's own folder.
    """
    found = {unescape(name): value for name, value in hashes.items()}
    for name in found:
        if not _is_file_name(name):
            msg = f"{name!r} is no name of a file beside it"
            raise ValueError(msg)
    return found


def _is_file_name(name: str) -> bool:
    try:
        os.fsencode(name)
    except ValueError:
        return False
    return name not in {"", ".", ".."} and "/" not in name and "\0" not in name
