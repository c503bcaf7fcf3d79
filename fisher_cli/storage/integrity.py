"""Whether a report is whole: its tables against the hashes in its record, its rows, and its journal."""

import os
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby, pairwise
from pathlib import Path

from fisher_cli.errors import OutputError, RecordError
from fisher_cli.results import Status
from fisher_cli.storage.identity import MAIN_WORDS, TableIdentity, beside
from fisher_cli.storage.journal import ends_whole, is_begun, read_records
from fisher_cli.storage.readers import read_rows, refuse_no_report
from fisher_cli.storage.regular_files import digest_of
from fisher_cli.storage.report_folder import journal_folder, journal_path, name_of, record_path, record_paths, report_of
from fisher_cli.storage.run_record import StoredRecord, read_record
from fisher_cli.tables.columns import Value
from fisher_cli.text import encodable


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
        One finding for the record, for each table that it lists, for the rows of checkpoints unless their table was
        changed, and for the journal where there is one.

    Raises:
        OutputError: there is no such report, or it is another file of one.
    """
    refuse_no_report(report)
    place = _record_path(report)
    record, finding = _record(place)
    tables = [] if record is None else list(_tables(report, record))
    is_another = any(not each.ok for each in tables if each.what == report.name)
    of_rows, failed = ([], None) if is_another else _rows(report)
    findings = [finding, *tables, *of_rows]
    folder = journal_folder(_main(place, report))
    if is_begun(folder):
        findings.append(_journal(folder, record, failed))
    return findings


def check_stem(report: Path) -> list[IntegrityCheck]:
    """Look at a report and at the others of its stem, and whether all are of the same data and network.

    Args:
        report: a table of one of them.

    Returns:
        The findings of `check_report` for each of them, and one for every other report on what it is of.

    Raises:
        OutputError: there is no such report.
    """
    findings, place = check_report(report), _record_path(report)
    main = _main(place, report)
    name = main.stem
    word = next((each for each in MAIN_WORDS if each and name.endswith(f".{each}")), "")
    own = read_record(place) if findings[0].ok else None
    for path, record in beside(main, word):
        findings += check_report(path)
        if own is None:
            continue
        differing = TableIdentity.of(record.content).differences(TableIdentity.of(own.content))
        said = "; ".join(f"{each.place}: {each.before} in {name}, {each.now} in it" for each in differing)
        detail = said or f"are the same as those of {name}"
        findings.append(IntegrityCheck(f"data and network of {path.name}", not differing, detail))
    return findings


def _record_path(report: Path) -> Path:
    """The record of a report, or that of another report which lists this table as one of its own."""
    own = record_path(report)
    if os.path.lexists(own):
        return own
    others = (path for path in record_paths(report.parent) if report.name in _listed(path))
    return next(others, own)


def _main(record: Path, report: Path) -> Path:
    """The main table of the report that this record is of, in the format of one of its tables."""
    name = report_of(record)
    return report if name is None else name.with_name(name.name + report.suffix)


def _listed(path: Path) -> Collection[str]:
    record, _ = _record(path)
    return () if record is None else record.tables


def _record(path: Path) -> tuple[StoredRecord | None, IntegrityCheck]:
    """The record, if it can be used."""
    name = name_of(path)
    try:
        record = read_record(path)
    except FileNotFoundError:
        return None, IntegrityCheck(name, False, "is missing: the tables cannot be held against their hashes")
    except OSError as error:
        return None, IntegrityCheck(name, False, f"cannot be read ({error.strerror or error})")
    except ValueError as error:
        return None, IntegrityCheck(name, False, str(error))
    if record.was_changed:
        return record, IntegrityCheck(name, False, "was changed after it was written")
    return record, IntegrityCheck(name, True, f"schema version {record.version}")


def _tables(report: Path, record: StoredRecord) -> Iterator[IntegrityCheck]:
    """Each table that the record lists.

    Yields:
        One finding per table.
    """
    if report.name not in record.tables:
        yield IntegrityCheck(report.name, False, "is not in the record: the record belongs to another table")
    for name, expected in record.tables.items():
        try:
            found = digest_of(report.with_name(name))
        except (OSError, ValueError) as error:  # a name that no file can have
            yield IntegrityCheck(name, False, f"cannot be read ({getattr(error, 'strerror', None) or error})")
            continue
        detail = "is as it was written" if found == expected else "was changed after it was written"
        if found != expected and found == record.replaced.get(name):
            detail = "was written before a run that was stopped: the same command writes it again"
        yield IntegrityCheck(name, found == expected, detail)


def _rows(report: Path) -> tuple[list[IntegrityCheck], set[str] | None]:
    """The main table's rows: one finding, or none for a table without checkpoints; and which of them have no numbers.

    Those are named as the record names them; None where they are not known.
    """
    name = f"rows of {report.name}"
    try:
        columns, rows = read_rows(report)
    except OutputError as error:
        return [IntegrityCheck(name, False, str(error))], None
    names = {column.name for column in columns}
    if not {"checkpoint", "status"} <= names:
        return [], set()
    failed = {encodable(str(row["checkpoint"])) for row in rows if row["status"] in {Status.REJECTED, Status.FAILED}}
    unknown = {str(row["status"]) for row in rows if row["status"] is not None} - set(Status)
    if unknown:
        return [IntegrityCheck(name, False, f"have a status that does not exist: {min(unknown)}")], failed
    runs = [(run, list(group)) for run, group in groupby(rows, key=lambda row: row.get("run"))]
    is_whole = len({run for run, _ in runs}) == len(runs)
    if "order" in names and not (is_whole and all(_is_rising([row["order"] for row in group]) for _, group in runs)):
        return [IntegrityCheck(name, False, "are not in order of training")], failed
    return [IntegrityCheck(name, True, f"{len(rows)} in order")], failed


def _is_rising(orders: Sequence[Value]) -> bool:
    """Whether there is a place for every row, none before that of the row above."""
    known = [order for order in orders if isinstance(order, int)]
    return len(known) == len(orders) and all(one <= other for one, other in pairwise(known))


def _journal(folder: Path, record: StoredRecord | None, failed: Collection[str] | None) -> IntegrityCheck:
    """The journal, and whether it has the rows that the record lists, but for those without numbers, where known."""
    name = f"{folder.name}/{journal_path(folder).name}"
    try:
        _, records, dropped = read_records(folder)
        is_whole = ends_whole(folder)
    except RecordError as error:
        return IntegrityCheck(name, False, str(error).removeprefix(f"{journal_path(folder)}: "))
    except OSError as error:
        return IntegrityCheck(name, False, f"cannot be read ({error.strerror or error})")
    if dropped:
        return IntegrityCheck(name, False, f"has {dropped} damaged lines; the same command measures those again")
    if not is_whole:
        return IntegrityCheck(name, False, "lacks the end of its last line; the same command mends it")
    rows = [] if record is None or failed is None else record.content.get("checkpoints", [])
    listed = {each.get("sha256") for each in rows if each.get("checkpoint") not in (failed or ())}
    missing = listed - {None} - {weights for weights, _ in records}
    if missing:
        return IntegrityCheck(name, False, f"lacks {len(missing)} of the rows; the same command measures them again")
    return IntegrityCheck(name, True, f"{len(records)} records, all checksums hold")
