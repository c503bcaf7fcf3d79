"""The folder `name.fisher/` beside `name.csv`: the record of the report, and the journal of its run.

Earlier versions wrote `name.meta.json` and `name.journal/`. Where these are, they are read and gone on with.
"""

import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from fisher_cli.errors import RecordError
from fisher_cli.storage.regular_files import status_of

_FOLDER: Final = ".fisher"
_RECORD: Final = "record.json"
_JOURNAL: Final = "journal.jsonl"
_EARLIER_RECORD: Final = ".meta.json"
_EARLIER_FOLDER: Final = ".journal"
_EARLIER_JOURNAL: Final = "records.jsonl"


def record_path(main: Path) -> Path:
    """Where the record of a report lies: `name.fisher/record.json` beside its main table `name.csv`."""
    path, earlier = _folder(main) / _RECORD, main.with_name(main.stem + _EARLIER_RECORD)
    return earlier if os.path.lexists(earlier) and not os.path.lexists(path) else path


def record_paths(folder: Path) -> Iterator[Path]:
    """The records of all reports whose tables lie in a folder, by name.

    Yields:
        What `record_path` gives for the main table of each.
    """
    yield from sorted([*folder.glob(f"*{_FOLDER}/{_RECORD}"), *folder.glob(f"*{_EARLIER_RECORD}")])


def report_of(record: Path) -> Path | None:
    """The path of a report without its suffix, `name`, by that of its record; None where this is no record's path."""
    if record.name == _RECORD and record.parent.suffix == _FOLDER:
        return record.parent.with_suffix("")
    is_earlier = record.name.endswith(_EARLIER_RECORD)
    return record.with_name(record.name.removesuffix(_EARLIER_RECORD)) if is_earlier else None


def name_of(record: Path) -> str:
    """The name of a record as messages have it: `name.fisher/record.json`."""
    return f"{record.parent.name}/{record.name}" if record.name == _RECORD else record.name


def journal_folder(main: Path) -> Path:
    """The folder in which the journal of a report lies: `name.fisher` beside its main table `name.csv`."""
    earlier = main.with_name(main.stem + _EARLIER_FOLDER)
    is_earlier = os.path.lexists(journal_path(earlier)) and not os.path.lexists(journal_path(_folder(main)))
    return earlier if is_earlier else _folder(main)


def journal_path(folder: Path) -> Path:
    """The file of a journal in its folder: `name.fisher/journal.jsonl`."""
    return folder / (_EARLIER_JOURNAL if folder.suffix == _EARLIER_FOLDER else _JOURNAL)


def refuse_other_than_folder(folder: Path) -> None:
    """Refuse a link, or anything else but a folder, where the folder of a report is; it may be absent.

    Raises:
        RecordError: it is one.
        OSError: the operating system refused to tell.
    """
    try:
        status = status_of(folder, follow=False)
    except FileNotFoundError:
        return
    if not stat.S_ISDIR(status.st_mode):
        msg = f"{folder} is in the way: record and journal of the table belong there; choose another name for -o"
        raise RecordError(msg)


def _folder(main: Path) -> Path:
    return main.with_name(main.stem + _FOLDER)
