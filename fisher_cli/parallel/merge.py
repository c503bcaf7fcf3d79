"""The parts of a run → the report that the whole run would have written: tables, record and journal."""

import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fisher_cli.errors import OutputError
from fisher_cli.parallel.shard_reports import (
    OF_THE_PART,
    ShardReport,
    main_tables,
    read_shard,
    tables_beside,
    whole_run,
)
from fisher_cli.results import Measurement, Status, by_run
from fisher_cli.storage.atomic_write import PreparedFile
from fisher_cli.storage.formats import Format, inside_parquet
from fisher_cli.storage.identity import TableIdentity, refuse_unlike
from fisher_cli.storage.journal import JournalRecord, open_journal
from fisher_cli.storage.report_files import ReportFiles, RunRecord, table_path
from fisher_cli.storage.report_folder import journal_folder
from fisher_cli.storage.row_files import RowFile
from fisher_cli.tables.registry import CHUNK_ROWS, RUNS, Table, table_of
from fisher_cli.text import unescape

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class Merged:
    """A report that was joined.

    Attributes:
        main: the file of its main table.
        word: the word in that file's name: "" for `fisher analyze`, "spectrum" for `fisher spectrum`.
        data: the examples in words, as in the record.
        measurements: its rows in order of training, as far as the journals know them, without what is as long as the
            data. A row without numbers has its error alone.
        left: tables of an earlier report that stay, since somebody has changed them.
    """

    main: Path
    word: str
    data: Mapping[str, Any]
    measurements: Sequence[Measurement]
    left: Sequence[Path]


def merge(paths: Sequence[Path], output: Path, form: Format, *, force: bool = False) -> list[Merged]:
    """Join the reports of all shards of a run into the files `output`, byte for byte those of the whole run.

    Everything is read and held against each other before the first file is written.

    Args:
        paths: the parts in any order, by the files of their main tables. A name stands for all reports of that stem:
            those of `fisher analyze` and of `fisher spectrum`. Their other tables may be among the paths.
        output: the file of the main table that is written; the others go beside it.
        form: its format.
        force: whether to replace a report that is there, with its journal.

    Returns:
        What was written, one for each kind of report.

    Raises:
        OutputError: a part is damaged or missing, they are of different runs, or nothing can be written there.
    """
    covered = {each for path in paths for each in tables_beside(path)}  # as part-*.csv names them
    paths = [path for path in paths if path not in covered]
    given = [main_tables(path) for path in paths]
    words = list(dict.fromkeys(word for mains in given for word in mains))
    for path, mains in zip(paths, given, strict=True):
        for word in words:
            if word not in mains:
                other = next(each[word] for each in given if word in each)
                msg = (
                    f"{path} has no table of fisher {word or 'analyze'} beside it, as {other} has: make it, or name "
                    "files of one kind, such as part-1.spectrum.csv"
                )
                raise OutputError(msg)
    wholes = [_Whole([read_shard(mains[word], word) for mains in given], output, form, force=force) for word in words]
    for whole in wholes:
        whole.check()
        whole.refuse_beside(wholes[0], force=force)
    return [whole.write() for whole in wholes]


class _Whole:
    """One report being joined."""

    def __init__(self, parts: Sequence[ShardReport], output: Path, form: Format, *, force: bool) -> None:
        self.parts, self._form, self._force = whole_run(parts), form, force
        self.word = self.parts[0].word
        words = dict.fromkeys(word for part in self.parts for word in part.files)
        words |= dict.fromkeys([RUNS.word] if RUNS.report == table_of(self.word).name else [])
        self.paths = {word: table_path(output, word, self.word) for word in words}
        others = [path for word, path in self.paths.items() if word != self.word]
        beside = others[0] if others else None
        self.files = ReportFiles(self.paths[self.word], form, force, beside=beside, further=tuple(others[1:]))
        self.checkpoints = [each for part in self.parts for each in part.record["checkpoints"]]
        self.records = list(self._records())

    def check(self) -> None:
        """Refuse what could not be written, or would replace a part.

        Raises:
            OutputError: it cannot.
        """
        ours = {path.resolve() for path in self.paths.values()}
        for part in self.parts:
            if ours & {path.resolve() for path in part.files.values()}:
                msg = f"{part.main} is one of the parts and would be lost: choose another name for -o"
                raise OutputError(msg)
        if not any(self.records):
            msg = f"none of the {len(self.checkpoints)} checkpoints has a result: there is nothing to write"
            raise OutputError(msg)
        self.files.check_writable()
        refuse_unlike(self.files, self.word, self._stable())

    def refuse_beside(self, first: "_Whole", *, force: bool) -> None:
        """Refuse to write two reports of one stem that are of different things.

        Raises:
            OutputError: the parts of this report and those of the first are.
        """
        differing = TableIdentity.of(self._stable()).differences(TableIdentity.of(first._stable()))
        if differing and not force:
            said = "; ".join(f"{each.place}: {each.before} there, {each.now} here" for each in differing[:3])
            msg = (
                f"{self.parts[0].main} and {first.parts[0].main} are not of the same: {said}; join them to reports of "
                "different names, or all the same with --force"
            )
            raise OutputError(msg)

    def _records(self) -> Iterator[JournalRecord | None]:
        """Each row's record, None for a row without numbers.

        Yields:
            One per checkpoint, in order of training.

        Raises:
            OutputError: a row was held against another row before it than the whole run has there.
        """
        before, run = None, None
        for part in self.parts:
            for checkpoint in part.record["checkpoints"]:
                before, run = before if checkpoint["run"] == run else None, checkpoint["run"]
                record = part.records.get((str(checkpoint["sha256"]), before))
                if record is None and checkpoint["batch_size"] is not None:
                    msg = (
                        f"{part.main}: {checkpoint['checkpoint']} was held against another row than is before "
                        f"it now: {part.again(part.part.shard.index, part.main)} --force"
                    )
                    raise OutputError(msg)
                before = before if record is None else record.weights
                yield record

    def write(self) -> Merged:
        """Write journal, tables and record.

        Raises:
            OutputError: the tables do not fit each other, or the operating system refused.
        """
        asked = {name: value for name, value in self.parts[0].asked.items() if name != "shard"}
        if any(part.asked.get("threads") != asked.get("threads") for part in self.parts):
            asked["threads"] = None
        from fisher_cli.tables.build import frame
        from fisher_cli.tables.run_differences import compare_runs

        metadata = RunRecord(self._stable(), self._run())
        with open_journal(journal_folder(self.files.main), asked, force=self._force) as journal:
            for record in self.records:
                if record is not None and journal.find(record.key) != record:
                    journal.append(record)
            main = self._joined(self.word)
            measurements = self._measurements(main)
            further = {
                path: self._in_pieces(table_of(word), metadata) if table_of(word).is_long else self._joined(word)
                for word, path in self.paths.items()
                if word not in (self.word, RUNS.word)
            }
            if RUNS.word in self.paths and len(rows := frame(RUNS, compare_runs(by_run(measurements)))):
                further[self.paths[RUNS.word]] = rows
            if table_of(self.word).is_of_sequence:
                main = self._with_sequence(main, measurements)
            left = self.files.write(main, None, metadata, further)
        return Merged(self.files.main, self.word, metadata.stable["data"], measurements, left)

    def _stable(self) -> dict[str, Any]:
        """The record of the whole run, less what differs from run to run."""
        first = self.parts[0].record
        ledgers, checkpoints = dict[str, int](), list[dict[str, Any]]()
        for part in self.parts:
            places = [ledgers.setdefault(json.dumps(each), len(ledgers)) for each in part.record["ledgers"]]
            for each in part.record["checkpoints"]:
                checkpoints.append(each | {"ledger": None if each["ledger"] is None else places[each["ledger"]]})
        common = {name: value for name, value in first.items() if name not in OF_THE_PART}
        common |= {"settings_digest": first["settings_digest"]}
        return common | {"checkpoints": checkpoints, "ledgers": [json.loads(text) for text in ledgers]}

    def _run(self) -> dict[str, Any]:
        """How it went: what the parts say together, and each of them."""
        runs = [part.record["run"] for part in self.parts]
        lists = {
            name: [each for run in runs for each in run.get(name, ())] for name in ("timings", "checks", "identities")
        }
        own = ("timings", "checks", "identities", "seconds", "command", "resources", "made_of")
        return {
            **{name: value for name, value in runs[0].items() if name not in own},
            **lists,
            "seconds": sum(run["seconds"] for run in runs),
            "peak_memory_bytes": max(run["peak_memory_bytes"] for run in runs),
            "command": list(sys.argv),
            "resources": runs[0]["resources"] | {"shard": None},
            "parts": [{name: value for name, value in run.items() if name not in own[:3]} for run in runs],
        }

    def _measurements(self, main: "pd.DataFrame") -> list[Measurement]:
        """The rows as the journals know them, under the names of this run and without what no table shows."""
        found = list[Measurement]()
        columns = zip(*(main[name].tolist() for name in ("checkpoint", "step", "error")), strict=True)
        rows = {name: (step, error) for name, step, error in columns}
        for record, checkpoint in zip(self.records, self.checkpoints, strict=True):
            run, name = (unescape(checkpoint[key]) for key in ("run", "checkpoint"))
            step, error = rows.get(name, (None, None))
            row = record.measurement if record else Measurement(checkpoint="", status=Status.FAILED)
            trace = row.trace and replace(row.trace, per_example_empirical=())
            row = replace(row, run=run, checkpoint=name, trace=trace, per_example=None)
            row = replace(row, step=step if isinstance(step, int) else None)
            found.append(replace(row, error=error if isinstance(error, str) else ""))
        return found

    def _joined(self, word: str) -> "pd.DataFrame":
        """The rows of all parts' tables of a word.

        Raises:
            OutputError: they do not fit each other.
        """
        from fisher_cli.tables.build import joined

        try:
            return joined([table for part in self.parts if (table := part.table(word)) is not None])
        except ValueError as error:
            msg = f"{self.paths[word]}: the parts' tables do not fit each other: {error}"
            raise OutputError(msg) from error

    def _with_sequence(self, main: "pd.DataFrame", measurements: Sequence[Measurement]) -> "pd.DataFrame":
        """The main table with what comes from all of its rows.

        Raises:
            OutputError: there is not one row per checkpoint.
        """
        from fisher_cli.tables.build import with_sequence

        if main["checkpoint"].tolist() != [each.checkpoint for each in measurements]:
            msg = f"{self.files.main}: the parts do not have one row per checkpoint; make them again"
            raise OutputError(msg)
        return with_sequence(main, table_of(self.word), measurements)

    def _in_pieces(self, table: Table, metadata: RunRecord) -> PreparedFile:
        """The rows of a table with a row per example, a checkpoint at a time."""
        file = RowFile(self.paths[table.word], self._form.value, table.columns)
        try:
            for part in self.parts:
                held = part.table(table.word)
                if held is None or not len(held):
                    continue
                for _, rows in held.groupby("checkpoint", sort=False):
                    for start in range(0, len(rows), CHUNK_ROWS):
                        file.write(rows.iloc[start : start + CHUNK_ROWS])
            return file.finish(inside_parquet(metadata.stable))
        except BaseException:
            file.discard()
            raise
