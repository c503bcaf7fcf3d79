"""The parts of a run, reports that `--shard` made: read back, and refused unless together they are the whole run."""

import contextlib
import os
import shlex
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypedDict

from fisher_cli.errors import OutputError, RecordError
from fisher_cli.settings import ShardPart
from fisher_cli.storage.checksums import SELF_HASH
from fisher_cli.storage.integrity import check_report
from fisher_cli.storage.journal import JournalRecord, Key, changes, read_records
from fisher_cli.storage.json_codec import decode
from fisher_cli.storage.readers import read_table, refuse_no_report
from fisher_cli.storage.report_files import stem_of, table_path
from fisher_cli.storage.report_folder import journal_folder, name_of, record_path
from fisher_cli.storage.run_record import read_record
from fisher_cli.tables.registry import TABLES, table_of
from fisher_cli.text import one_line

if TYPE_CHECKING:
    import pandas as pd

# The words in the names of main tables; that of `fisher analyze` has none.
KINDS: Final = tuple(table.word for table in TABLES.values() if table.is_shared)
# What a record says of its own part alone.
OF_THE_PART: Final = frozenset(
    {"part", "checkpoints", "ledgers", "tables", "replaced", "run", "settings_digest", "written", SELF_HASH}
)


class _PartCheckpoint(TypedDict):
    run: str
    checkpoint: str
    sha256: str | None
    batch_size: int | None
    ledger: int | None


class _PartRun(TypedDict):
    seconds: float
    peak_memory_bytes: int
    resources: dict[str, Any]


class _PartRecord(TypedDict):
    """What the record of a part must say, besides what every record may."""

    data: dict[str, Any]
    settings_digest: str
    checkpoints: list[_PartCheckpoint]
    ledgers: list[Any]
    run: _PartRun


@dataclass(frozen=True)
class ShardReport:
    """One report of a shard, read back.

    Attributes:
        main: the file of its main table.
        word: the word in that file's name: "" for `fisher analyze`.
        files: its tables by the words in their names, the main one first.
        record: its run record, as JSON values.
        part: the shard, and the sequence of checkpoints that it is a part of.
        asked: the question that its journal answers, as JSON values.
        records: the journal's rows by the weights that they are of and those before them.
    """

    main: Path
    word: str
    record: Mapping[str, Any]
    files: Mapping[str, Path]
    part: ShardPart
    asked: Mapping[str, Any]
    records: Mapping[Key, JournalRecord]

    @property
    def stem(self) -> str:
        """The name that all tables of the report begin with."""
        return stem_of(self.main, self.word)

    def table(self, word: str) -> "pd.DataFrame | None":
        """A table, None if this part has none of that word because it would be empty.

        Raises:
            OutputError: the part was made without that table, or it cannot be read.
        """
        if word in self.files:
            found = read_table(self.files[word])
            if missing := [column.name for column in table_of(word).columns if column.name not in found]:
                msg = f"{self.files[word]}: not a table of this version of fisher: no column {missing[0]}"
                raise OutputError(msg)
            return found
        if table_of(word).if_any:
            return None
        msg = f"{self.main} has no table {word}, which other parts have: {self.again(self.part.shard.index, self.main)}"
        raise OutputError(msg)

    def again(self, index: int, output: Path | None = None) -> str:
        """What to type for a shard of the same run, in words that follow a colon.

        Args:
            index: the shard's number, from 1.
            output: its file; None for a name like this one's.
        """
        shard, name = f"{index}/{self.part.shard.of}", output or self._sibling(index)
        typed = self.record["run"].get("command", [])[1:]
        if not any(word == "--shard" or word.startswith("--shard=") for word in typed):
            return f"run the command of {self.main.name} with --shard {shard} -o {shlex.quote(str(name))}"
        new = {"--shard": shard, "-o": str(name), "--output": str(name)}
        for place, word in enumerate(typed):
            option, equals, _ = word.partition("=")
            if option in new and equals:
                typed[place] = f"{option}={new[option]}"
            elif word in new and place + 1 < len(typed):
                typed[place + 1] = new[word]
        return "type " + one_line(shlex.join(["fisher", *typed]))

    def _sibling(self, index: int) -> Path:
        """A name for another shard's report, like this one's."""
        own = str(self.part.shard.index)
        stem = self.stem.replace(own, str(index)) if self.stem.count(own) == 1 else f"{self.stem}-{index}"
        return self.main.with_name(stem + self.main.suffix)


def main_tables(path: Path) -> dict[str, Path]:
    """The reports that a name stands for, by the word in the names of their main tables.

    Args:
        path: `part.csv` for all reports of that stem, or the main table of one, such as `part.spectrum.csv`.

    Raises:
        OutputError: there is no report.
    """
    if os.path.lexists(path):
        refuse_no_report(path)
    named = next((word for word in KINDS[1:] if path.stem.endswith(f".{word}")), None)
    mains = {named: path} if named else {word: table_path(path, word) for word in KINDS}
    found = {word: main for word, main in mains.items() if os.path.lexists(record_path(main))}
    if not found and os.path.lexists(path):
        msg = f"{path}: no part of a run, or its folder was left behind: no record {name_of(record_path(path))} there"
        raise OutputError(msg)
    if not found:
        msg = f"{path}: no such table"
        raise OutputError(msg)
    return found


def tables_beside(path: Path) -> set[Path]:
    """The other files that the name of a part stands for: tables that its records list, and reports of its stem."""
    found = set[Path]()
    if os.path.isdir(path):  # it is said later what is wrong with it
        return found
    is_named = any(path.stem.endswith(f".{word}") for word in KINDS[1:])
    for main in [path] if is_named else [table_path(path, word) for word in KINDS]:
        with contextlib.suppress(OSError, ValueError):
            found |= {main, *(main.with_name(name) for name in read_record(record_path(main)).tables)}
    return found - {path}


def read_shard(main: Path, word: str) -> ShardReport:
    """One part, whole and undamaged, with the records of its journal.

    Args:
        main: the file of its main table.
        word: the word in that file's name.

    Raises:
        OutputError: it is damaged, no part, not finished, or without its journal.
    """
    for finding in check_report(main):
        if not finding.ok:
            msg = f"{main}: {finding.what} {finding.detail}; make this part again with the same command and --force"
            raise OutputError(msg)
    stored = read_record(record_path(main))
    record = stored.content
    try:
        part = ShardPart.recorded(record.get("part"))
    except ValueError:
        msg = f"{main} is not a part of a run: it was made without --shard; name the tables that --shard has made"
        raise OutputError(msg) from None
    try:
        files = _files(main, word, stored.tables)
        _refuse_damage(record)
    except ValueError as error:
        msg = f"{record_path(main)} is a damaged record of fisher: {error}; make this part again with --force"
        raise OutputError(msg) from error
    try:
        asked, records, _ = read_records(journal_folder(main))
    except RecordError as error:
        msg = f"{error}; copy the folder {journal_folder(main).name} there with the table"
        raise OutputError(msg) from error
    found = ShardReport(main, word, record, files, part, asked, records)
    if len(record["checkpoints"]) != len(part.share):
        done = f"{len(record['checkpoints'])} of its {len(part.share)} checkpoints"
        msg = f"{main} has {done}, it was stopped: {found.again(part.shard.index, main)}"
        raise OutputError(msg)
    return found


def _files(main: Path, word: str, names: Iterable[str]) -> dict[str, Path]:
    """The tables of a report by the word in their names, the main one first.

    Raises:
        ValueError: one has no such name.
    """
    stem, known = stem_of(main, word), {table.word for table in TABLES.values()}
    words = {name.removeprefix(stem).removesuffix(main.suffix).removeprefix("."): name for name in names}
    if unknown := words.keys() - known:
        msg = f"{words[min(unknown)]!r} is none of its tables"
        raise ValueError(msg)
    found = {each: main.with_name(name) for each, name in words.items()}
    return {word: found.pop(word), **found}


def _refuse_damage(record: Mapping[str, Any]) -> None:
    """Refuse the record of a part that lacks what the whole one is made of.

    Raises:
        ValueError: it does.
    """
    form: Any = _PartRecord  # mypy takes no TypedDict for a type of values
    decode(form, record)
    places = range(len(record["ledgers"]))
    if any(each["ledger"] is not None and each["ledger"] not in places for each in record["checkpoints"]):
        msg = "checkpoints: there is no such ledger"
        raise ValueError(msg)


def whole_run(parts: Sequence[ShardReport]) -> list[ShardReport]:
    """The parts in order of training: every shard once, all of one question about one sequence of checkpoints.

    Raises:
        OutputError: they were made otherwise than each other, or a shard is missing or given twice.
    """
    first = parts[0]
    for other in parts[1:]:
        _refuse_others(first, other)
    by_index = dict[int, ShardReport]()
    for part in parts:
        twin = by_index.setdefault(part.part.shard.index, part)
        if twin is not part:
            msg = f"{twin.main} and {part.main} are both shard {part.part.shard}: leave one of them out"
            raise OutputError(msg)
    total = first.part.shard.of
    if count := total - len(by_index):
        missing = list(islice((index for index in range(1, total + 1) if index not in by_index), 5))
        which = ", ".join(f"{index}/{total}" for index in missing)
        more = f" and {count - 5} more" if count > 5 else ""
        word = "shard is" if count == 1 else "shards are"
        msg = f"{count} {word} missing: {which}{more}; name its table too, or {first.again(missing[0])}"
        raise OutputError(msg)
    return [by_index[index] for index in sorted(by_index)]


def _refuse_others(first: ShardReport, other: ShardReport) -> None:
    """Refuse a part of another run.

    Raises:
        OutputError: it is one.
    """
    comparable: list[Callable[[ShardReport], Any]] = [
        lambda part: {"shards": part.part.shard.of},
        # Other numbers of threads change the last digits alone.
        lambda part: {name: value for name, value in part.asked.items() if name not in {"shard", "threads"}},
        lambda part: {name: value for name, value in part.record.items() if name not in OF_THE_PART},
    ]
    for of in comparable:
        differing = [
            f"{each.place} is {each.before} there and {each.now} here" for each in changes(of(first), of(other))
        ]
        if differing:
            more = f" and {len(differing) - 3} more" if len(differing) > 3 else ""
            msg = f"{other.main} is no part of the same run as {first.main}: {'; '.join(differing[:3])}{more}"
            raise OutputError(msg)
    if first.part.sequence != other.part.sequence:
        msg = (
            f"{other.main} is of other checkpoints than {first.main}: files came, went or changed between the two; run "
            "all shards again with the same files"
        )
        raise OutputError(msg)
