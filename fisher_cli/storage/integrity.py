"""Whether a report is whole: its tables against the hashes in its record, its rows, and its journal."""

import json
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

from fisher_cli.errors import OutputError, RecordError
from fisher_cli.results import Status
from fisher_cli.storage.checksums import SELF_HASH, self_hash_holds
from fisher_cli.storage.formats import SCHEMA_VERSION, TOOL, is_newer
from fisher_cli.storage.journal import ends_whole, journal_folder, read_records
from fisher_cli.storage.readers import read_rows
from fisher_cli.storage.report_files import RECORD, record_path
from fisher_cli.tables.columns import Value
from fisher_cli.text import digest, encodable


@dataclass(frozen=True)
class IntegrityCheck:
    """One finding about a report.

    Attributes:
        what: the file, or the part of it, that was looked at.
        ok: whether it is as it should be.
        detail: what was found, in a few words.
    """

    what: str
    ok: bool
    detail: str


def check_report(report: Path) -> list[IntegrityCheck]:
    """Look at every file of a report: the tables against the hashes in its record, its rows, and its journal.

    Nothing is changed. What is damaged is a finding and no error.

    Args:
        report: `name.csv`, or another format of a report's table.

    Returns:
        One finding for the record, for each table that it lists, for the rows of checkpoints, and for the journal where
        there is one.

    Raises:
        OutputError: there is no such report, or it is another file of one.
    """
    if report.is_dir():
        msg = f"{report}: a folder; name the table of a report, such as trend.csv"
        raise OutputError(msg)
    if report.name.endswith(RECORD):
        msg = f"{report}: the record of a report; name its table, such as {report.name.removesuffix(RECORD)}.csv"
        raise OutputError(msg)
    if not report.is_file():
        msg = f"{report}: no such report; check the path"
        raise OutputError(msg)
    place = _record_path(report)
    record, finding = _record(place)
    findings = [finding]
    if record is not None:
        findings += _tables(report, record)
    of_rows, failed = _rows(report)
    findings += of_rows
    folder = journal_folder(place.with_name(place.name.removesuffix(RECORD)))
    if folder.exists():
        findings.append(_journal(folder, record, failed))
    return findings


def _record_path(report: Path) -> Path:
    """The record of a report, or that of another report which lists this table as one of its own."""
    own = record_path(report)
    if own.exists():
        return own
    others = (path for path in sorted(report.parent.glob(f"*{RECORD}")) if report.name in _listed(path))
    return next(others, own)


def _listed(path: Path) -> Collection[str]:
    tables = (_record(path)[0] or {}).get("tables")
    return tables if isinstance(tables, dict) else ()


def _record(path: Path) -> tuple[dict[str, Any] | None, IntegrityCheck]:
    """The record, if it can be used."""
    try:
        content = path.read_bytes()
        record = json.loads(content)
    except FileNotFoundError:
        return None, IntegrityCheck(path.name, False, "is missing: the tables cannot be held against their hashes")
    except (OSError, ValueError, RecursionError) as error:
        return None, IntegrityCheck(path.name, False, f"cannot be read ({error})")
    if not isinstance(record, dict) or record.get("tool") != TOOL or not isinstance(record.get("tables"), dict):
        return None, IntegrityCheck(path.name, False, "is no record of fisher, or a damaged one")
    version = record.get("schema_version")
    if not isinstance(version, int) or is_newer(record):
        return None, IntegrityCheck(
            path.name, False, f"has schema version {version}: this fisher knows 1 to {SCHEMA_VERSION}"
        )
    # Those of the first version have no hash of their own.
    if (version > 1 or SELF_HASH in record) and not self_hash_holds(content):
        return record, IntegrityCheck(path.name, False, "was changed after it was written")
    return record, IntegrityCheck(path.name, True, f"schema version {version}")


def _tables(report: Path, record: dict[str, Any]) -> Iterator[IntegrityCheck]:
    """Each table that the record lists.

    Yields:
        One finding per table.
    """
    if report.name not in record["tables"]:
        yield IntegrityCheck(report.name, False, "is not in the record: it is not the report that the record is about")
    for name, expected in record["tables"].items():
        path = report.parent / Path(str(name)).name
        try:
            found = digest(path.read_bytes())
        except (OSError, ValueError) as error:  # a name that no file can have
            yield IntegrityCheck(path.name, False, f"cannot be read ({getattr(error, 'strerror', None) or error})")
            continue
        same = found == expected
        yield IntegrityCheck(path.name, same, "is as it was written" if same else "was changed after it was written")


def _rows(report: Path) -> tuple[list[IntegrityCheck], set[str]]:
    """The main table's rows: one finding, or none for a table without checkpoints; and which of them have no numbers.

    Those are named as the record names them.
    """
    name = f"rows of {report.name}"
    try:
        columns, rows = read_rows(report)
    except OutputError as error:
        return [IntegrityCheck(name, False, str(error))], set()
    names = {column.name for column in columns}
    if not {"checkpoint", "status"} <= names:
        return [], set()
    failed = {encodable(str(row["checkpoint"])) for row in rows if row["status"] in {Status.REJECTED, Status.FAILED}}
    unknown = {str(row["status"]) for row in rows if row["status"] is not None} - set(Status)
    if unknown:
        return [IntegrityCheck(name, False, f"have a status that does not exist: {min(unknown)}")], failed
    if "order" in names and not _is_rising([row["order"] for row in rows]):
        return [IntegrityCheck(name, False, "are not in order of training")], failed
    return [IntegrityCheck(name, True, f"{len(rows)} in order")], failed


def _is_rising(orders: Sequence[Value]) -> bool:
    """Whether there is a place for every row, none before that of the row above."""
    known = [order for order in orders if isinstance(order, int)]
    return len(known) == len(orders) and all(one <= other for one, other in pairwise(known))


def _journal(folder: Path, record: dict[str, Any] | None, failed: Collection[str]) -> IntegrityCheck:
    """The journal, and whether it has the rows that the record lists, but for those without numbers."""
    try:
        _, records, dropped = read_records(folder)
    except RecordError as error:
        return IntegrityCheck(folder.name, False, str(error))
    if dropped:
        return IntegrityCheck(folder.name, False, f"has {dropped} damaged lines; the same command measures those again")
    if not ends_whole(folder):
        return IntegrityCheck(folder.name, False, "lacks the end of its last line; the same command mends it")
    rows = [each for each in (record or {}).get("checkpoints", []) if isinstance(each, dict)]
    listed = {each.get("sha256") for each in rows if each.get("checkpoint") not in failed}
    missing = listed - {None} - {weights for weights, _ in records}
    if missing:
        return IntegrityCheck(
            folder.name, False, f"lacks {len(missing)} of the rows; the same command measures them again"
        )
    return IntegrityCheck(folder.name, True, f"{len(records)} records, all checksums hold")
