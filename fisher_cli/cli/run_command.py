"""Going through a sequence of checkpoints: rows as they come, files at the end, the exit code."""

import contextlib
import json
import sys
from collections.abc import Callable, Iterator, Sequence
from contextvars import ContextVar
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from fisher_cli.cli.destinations import (
    ROWS_AS_THEY_COME,
    exit_code,
    say_what_is_left,
    say_what_is_passed_over,
    why_nothing,
)
from fisher_cli.cli.long_tables import Opened, open_rows
from fisher_cli.cli.misplaced_paths import refuse_tables
from fisher_cli.cli.next_step import say_next
from fisher_cli.errors import UsageError
from fisher_cli.parallel.launch import launched
from fisher_cli.settings import Resources, Settings
from fisher_cli.storage.atomic_write import PreparedFile
from fisher_cli.storage.formats import Format, inside_parquet, render
from fisher_cli.storage.identity import refuse_unlike
from fisher_cli.storage.journal import Journal, open_journal
from fisher_cli.storage.report_files import ReportFiles, RunRecord
from fisher_cli.storage.report_folder import journal_folder
from fisher_cli.tables.dialects import Dialect
from fisher_cli.tables.registry import Table
from fisher_cli.text import digest

if TYPE_CHECKING:
    import pandas as pd

    from fisher_cli.curvature.problem.process_group import ProcessGroup
    from fisher_cli.inputs.checkpoints.follow import FollowRequest
    from fisher_cli.reports.console import Console, Progress
    from fisher_cli.results import Measurement
    from fisher_cli.run.analysis import Analysis
    from fisher_cli.run.preparation import FileRun
    from fisher_cli.tables.trajectory import PathLength


class FirstRow:
    """Says on stderr what a run's rows tell, each thing once.

    Args:
        console: on which it is said.
        ranks: how many processes share the examples.
    """

    def __init__(self, console: "Console", ranks: int) -> None:
        self._console, self._ranks, self._waits = console, ranks, True
        self._has_said_rounding = self._has_said_time = False

    def take(self, measurement: "Measurement") -> None:
        """Say what this row is the first to tell: ranks without work, and what a reduced precision costs."""
        if self._waits:
            self._say_who_idles(measurement)
        self._waits = False
        if measurement.rounding is not None and not self._has_said_rounding:
            self._has_said_rounding = True
            self._console.message(measurement.rounding.sentence())

    def say_time(self, measurement: "Measurement", settings: Settings, progress: "Progress") -> None:
        """Say that the run will take long, if it will, once: when its first measurements show how long."""
        from fisher_cli.cli.long_run import long_run

        foreseen = progress.foreseen()
        if self._has_said_time or foreseen is None or not measurement.timings:
            return
        self._has_said_time = True
        if line := long_run(measurement, settings, *foreseen):
            self._console.message(line)

    def _say_who_idles(self, measurement: "Measurement") -> None:
        """Ranks share whole batches, so that results do not depend on their number; there may be fewer than ranks."""
        ranks, at_once, examples = self._ranks, measurement.batch_size, measurement.examples
        if at_once is None or examples is None or ranks <= 1 or (batches := -(-examples // at_once)) >= ranks:
            return
        self._console.message(
            f"{ranks} ranks and {batches} batches of up to {at_once} examples: the other ranks have nothing to do; "
            f"-b {max(1, examples // (4 * ranks))} gives work to all"
        )


# The command under way and all its words as they were understood, defaults included.
WORDS: ContextVar[str] = ContextVar("WORDS", default="")
# Whether its data are those that it takes where nobody names any.
DATA_IS_DEFAULT: ContextVar[bool] = ContextVar("DATA_IS_DEFAULT", default=False)


def made_of(run: "FileRun", journal: Journal, files: ReportFiles) -> str:
    """SHA-256 of all that the bytes of a report follow from, as `sha256:<hex>`.

    That are the question and the rows, which the journal holds; the checkpoints in their order, under their names and
    with their places in training; which tables there are, in what form; and the words of the command.

    Args:
        run: with the checkpoints.
        journal: with all rows of the run.
        files: of the report.
    """
    places = [[file.run, file.name, file.sha256, file.step, file.epoch, file.copies] for file in run.files]
    tables = replace(files, inputs=(), force=False)
    text = json.dumps([run.question, journal.sha256(), places, repr(tables), WORDS.get()])
    return digest(text.encode())


# Exit code of a run that finished, and in which something that was checked fails.
CHECK_FAILED = 4


@dataclass(frozen=True)
class CommandReport:
    """What a command makes of a run.

    Attributes:
        tables: those that it writes, the main one first.
        show: prints the finished run for people.
        gate: says of the finished run, line by line, what the results must not be; a line means exit code 4.
        finished: what is kept of a measurement after its rows are written.
        dialect: of CSV on stdout.
        melted: the table in the long form that goes to stdout in place of the main one; None for the main one.
    """

    tables: tuple[Table, ...]
    show: Callable[["Console", "Analysis"], None]
    gate: Callable[["Analysis"], Sequence[str]] = lambda _analysis: ()
    finished: Callable[["Measurement"], "Measurement"] = lambda measurement: measurement
    dialect: Dialect = Dialect.PLAIN
    melted: Table | None = None

    def frames(self, analysis: "Analysis") -> "Iterator[tuple[Table, pd.DataFrame]]":
        """The tables that are made when the run is over.

        Yields:
            Each with its rows, but for those that are left out without any.
        """
        names = {table.name for table in self.tables}
        for table in self.tables:
            if not table.is_long:
                rows = analysis.frame(table.name, layers=names.issuperset(table.melts))
                if len(rows) or not table.if_any:
                    yield table, rows

    def lines(
        self,
        analysis: "Analysis",
        measurement: "Measurement",
        order: int,
        form: Format,
        path: "PathLength",
        *,
        is_first: bool,
    ) -> Iterator[str]:
        """One checkpoint's rows as they are streamed.

        Args:
            analysis: the run so far; it says how many eigenvalues there are.
            measurement: of the checkpoint.
            order: its place in its run, from 0.
            form: csv, tsv or jsonl.
            path: the path up to the row before, which grows by this one.
            is_first: whether the header comes before it.

        Yields:
            The rows of the main table, or of its long form, with the header before the first.
        """
        from fisher_cli.tables.build import frames, rows_text
        from fisher_cli.tables.long_form import long_table

        main = self.tables[0].with_eigenvalues(analysis.settings.eigenvalues)
        for i, rows in enumerate(frames(main, measurement, order, path)):
            yield rows_text(long_table(rows) if self.melted else rows, form, self.dialect, is_first and i == 0)


@dataclass(frozen=True)
class FollowWait:
    """That a run waits for checkpoints that come later.

    Attributes:
        until: the step of the last one to wait for; None to wait until the run is stopped.
    """

    until: int | None = None


def run_command(
    checkpoints: Sequence[Path],
    settings: Settings,
    resources: Resources,
    report: CommandReport,
    files: ReportFiles | None,
    to_stdout: Format | None,
    quiet: bool,
    resume: bool = True,
    waits: FollowWait | None = None,
) -> int:
    """Measure every checkpoint, write and print what the report makes of it.

    Beside a report file its journal keeps every finished row. A run that waits for checkpoints still to come writes its
    report before each wait. Of several ranks the first writes and prints.

    Args:
        checkpoints: files and folders.
        settings: what is asked.
        resources: with what.
        report: what is made of the run.
        files: the report's; None for no file.
        to_stdout: the format of what goes there; None for nothing.
        quiet: whether stderr is for errors alone.
        resume: whether rows that the journal has are taken from there; else it is begun anew.
        waits: for checkpoints that come later; None to end with those that are there.

    Returns:
        The exit code: 0 all rows ok, 3 some not, 1 none, 4 if the report's gate finds something.

    Raises:
        UsageError: several ranks cannot do this.
        FisherError: what ends the run. Rows that were finished are in the report.
    """
    refuse_tables(checkpoints)
    launch = launched()
    if launch.size > 1 and waits is not None:
        msg = "--follow waits in one process: type the command without torchrun"
        raise UsageError(msg)
    if launch.size > 1 and resources.devices:
        msg = "--devices starts processes of its own, and torchrun has started these: leave one of the two out"
        raise UsageError(msg)
    if not launch.speaks:
        files = to_stdout = None
    if files is not None:
        files.check_writable()

    from fisher_cli.inputs.formats.checkpoint_reader import OWNER

    OWNER.begin()  # while torch is loaded here
    from fisher_cli.inputs.checkpoints.follow import FollowRequest
    from fisher_cli.parallel.ranks import joined_ranks
    from fisher_cli.reports.console import Console

    console = Console(quiet=quiet)
    # What a network's own code prints goes to stderr; results go by the console.
    with contextlib.ExitStack() as stack, contextlib.redirect_stdout(sys.stderr):
        is_fresh = files is None or files.force or not resume
        following = None if waits is None else FollowRequest(waits.until, console.message)
        process_group = stack.enter_context(joined_ranks(launch, resources.device, console.error))
        resources = replace(resources, ranks=process_group.size)
        run = _run(checkpoints, settings, resources, following, process_group)
        stack.callback(run.close)
        if files is not None:
            files = replace(files, inputs=tuple(file.path for file in run.files))
            files.spare_inputs()
            refuse_unlike(files, report.tables[0].word, run.subject())
        _say_what_is_analysed(console, run, checkpoints)
        journal = stack.enter_context(_journal(console, run, files, resume=resume))  # until the report is written
        may_be_done = waits is None and to_stdout is None and not is_fresh
        if process_group.broadcast(may_be_done and _is_done(run, journal, files)):
            if files is not None:
                console.message(f"table: {files.main}")  # nothing to measure, to write or to print
                say_next(console, checkpoints, settings, files)
            return 0
        opened = open_rows(stack, report.tables, files, to_stdout)
        _measure(console, run, report, files, to_stdout, opened)
        stack = stack.pop_all()  # kept until the end: what goes to stdout does not go to stderr
    with stack:
        code = _finish(console, run, report, files, to_stdout, opened, journal)
        if run.analysis.succeeded and run.analysis.part is None and launch.speaks:
            say_next(console, checkpoints, settings, files)
    return code if launch.speaks else 0


def _is_done(run: "FileRun", journal: Journal | None, files: ReportFiles | None) -> bool:
    """Whether the report that is there was made of just this."""
    return files is not None and journal is not None and files.is_made_of(made_of(run, journal, files))


def _run(
    checkpoints: Sequence[Path],
    settings: Settings,
    resources: Resources,
    following: "FollowRequest | None",
    process_group: "ProcessGroup",
) -> "FileRun":
    """A run over all checkpoints, over those of a shard, on several devices, or of a folder that is followed."""
    from fisher_cli.run.preparation import run_of_files

    if resources.devices:
        from fisher_cli.parallel.devices import run_on_devices

        return run_on_devices(checkpoints, settings, resources)
    return run_of_files(checkpoints, settings, resources, following=following, process_group=process_group)


def _journal(
    console: "Console", run: "FileRun", files: ReportFiles | None, *, resume: bool
) -> contextlib.AbstractContextManager[Journal | None]:
    """The journal of the report that is to be written, from which and into which the run's rows go."""
    if files is None:
        return contextlib.nullcontext()
    journal = open_journal(journal_folder(files.main), run.question, fresh=not resume, force=files.force)
    finished = run.keep_in(journal)
    if journal.dropped:
        console.message(f"{journal.dropped} damaged rows of the journal are dropped and measured again")
    if finished:
        console.message(f"{finished} of {len(run)} checkpoints were finished before and are kept")
    return journal


def _say_what_is_analysed(console: "Console", run: "FileRun", checkpoints: Sequence[Path]) -> None:
    examples = run.inputs.examples
    assert examples is not None
    part = "all" if len(examples) == examples.total else f"{len(examples)} of"
    split = f" {examples.split}" if examples.split else ""
    count = "1 checkpoint" if len(run) == 1 else f"{len(run)} checkpoints"
    runs = len({file.run for file in run.share})
    count = f"{runs} runs, {count}" if runs > 1 else count
    if examples.choice is not None:
        console.message(examples.choice.sentence())
    if run.analysis.part is not None:
        count = f"shard {run.analysis.part.shard}: {len(run)} of {run.analysis.part.checkpoints} checkpoints"
    name = examples.normalization.name
    normalised = "not normalised" if name == "none" else f"normalised by {name}"
    where = f"on {run.inputs.device}{_by(run)}"
    console.message(f"{count}, {part} {examples.total} examples of {examples.name}{split}, {normalised}, {where}")
    say_what_is_passed_over(console, checkpoints, run.files)


def _by(run: "FileRun") -> str:
    ranks = run.analysis.resources.ranks
    return f", {ranks} ranks" if ranks > 1 else ""


def _measure(
    console: "Console",
    run: "FileRun",
    report: CommandReport,
    files: ReportFiles | None,
    to_stdout: Format | None,
    opened: Opened,
) -> None:
    """Go through the checkpoints; rows that can be are printed at once, and an early end loses none of them.

    Raises:
        BaseException: whatever ended the run is passed on after the finished rows were written.
    """
    from fisher_cli.results import OrderInRun
    from fisher_cli.tables.trajectory import PathLength

    first, path = FirstRow(console, run.analysis.resources.ranks), PathLength()
    total, at_once = None if run.is_following else len(run), max(1, len(run.analysis.resources.devices))
    with console.progress(total, at_once=at_once) as progress:
        rows = run.rows(progress) if files is None else run.rows(progress, _Renewed(run, report, files, opened))
        try:
            place = OrderInRun(run.analysis.first_order)
            for number, measurement in enumerate(rows):
                order = place(measurement)
                if number == 0 and DATA_IS_DEFAULT.get():
                    _ask_for_data(run, measurement)
                if to_stdout is not None and to_stdout in ROWS_AS_THEY_COME:
                    is_first = number == 0
                    for text in report.lines(run.analysis, measurement, order, to_stdout, path, is_first=is_first):
                        console.write(text)
                opened.add(measurement, order)
                first.take(measurement)
                first.say_time(measurement, run.analysis.settings, progress)
                run.analysis.measurements[-1] = report.finished(measurement)
        except BaseException as error:
            _keep(console, run, report, files, opened, by_user=not isinstance(error, Exception))
            raise


def _ask_for_data(run: "FileRun", measurement: "Measurement") -> None:
    """Ask for the dataset where the first checkpoint shows that the digits, which nobody asked for, do not fit."""
    from fisher_cli.run.default_data import ask_for_data
    from fisher_cli.run.row import has_numbers

    for file in () if has_numbers(measurement) else run.files:
        if file.name == measurement.checkpoint:
            ask_for_data(run.inputs, file)


class _Renewed:
    """The report's files as far as the run has come, written again when rows were added."""

    def __init__(self, run: "FileRun", report: CommandReport, files: ReportFiles, opened: Opened) -> None:
        self._run, self._report, self._files, self._opened, self._rows = run, report, files, opened, 0

    def __call__(self) -> None:
        rows = len(self._run.analysis.measurements)
        if rows > self._rows and (analysis := self._run.analysis.whole()).succeeded:
            _write(analysis, self._report, self._files, self._opened, goes_on=True)
        self._rows = rows


def _keep(
    console: "Console",
    run: "FileRun",
    report: CommandReport,
    files: ReportFiles | None,
    opened: Opened,
    *,
    by_user: bool,
) -> None:
    """Write the rows that were finished before the run was stopped, and say so."""
    analysis = run.analysis.whole()
    done = len(analysis.measurements)
    writes = files is not None and analysis.succeeded > 0
    if files is not None and writes:
        say_what_is_left(console, _write(analysis, report, files, opened))
    if writes or by_user:
        where = (
            f"are in {files.main}; the same command continues from there"
            if files is not None and writes
            else "were finished"
        )
        console.message(f"{'interrupted' if by_user else 'stopped'}: {done} of {len(run)} checkpoints {where}")


def _write(
    analysis: "Analysis",
    report: CommandReport,
    files: ReportFiles,
    opened: Opened,
    made_of: str | None = None,
    goes_on: bool = False,
) -> list[Path]:
    """Write the report; one that needs no more work says what it was `made_of`.

    While the run `goes_on` its long table stays open: the rows that it has yet are copied.

    Returns:
        The tables of an earlier report that were left alone.
    """
    metadata = RunRecord(analysis.stable_metadata(), {**analysis.run_metadata(), "made_of": made_of})
    made: dict[Path, pd.DataFrame | PreparedFile] = {files.path(table): rows for table, rows in report.frames(analysis)}
    if opened.file is not None:
        rows = opened.file.so_far() if goes_on else opened.file.prepared(inside_parquet(metadata.stable))
        made |= {} if rows is None else {opened.file.path: rows}
    return files.write(made.pop(files.main), None, metadata, made)


def _finish(
    console: "Console",
    run: "FileRun",
    report: CommandReport,
    files: ReportFiles | None,
    to_stdout: Format | None,
    opened: Opened,
    journal: Journal | None,
) -> int:
    """Write and print what is left; the exit code: 0 all rows ok, 3 some not, 1 none, 4 by the gate.

    A run without a single result replaces no earlier report. A shard always does, since its parts belong together.
    """
    analysis, is_table = run.analysis.whole(), to_stdout is Format.TABLE
    code = exit_code(analysis.measurements, analysis.succeeded)
    failed = report.gate(analysis) if analysis.succeeded else ()
    ingredients = None
    if files is not None and journal is not None and code == 0 and not failed:
        ingredients = made_of(run, journal, files)
    if analysis.part is not None:  # of several ranks only the first has files
        return 0 if files is None else _finish_part(console, analysis, report, files, opened, ingredients)
    if written := files and files.if_worth_writing(analysis.succeeded):
        say_what_is_left(console, _write(analysis, report, written, opened, ingredients))
    if is_table and analysis.succeeded:
        report.show(console, analysis)
    elif opened.stdout is not None:
        opened.stdout.print(console, inside_parquet(analysis.stable_metadata()))
    elif to_stdout is not None and not is_table and to_stdout not in ROWS_AS_THEY_COME:
        rows = analysis.frame((report.melted or report.tables[0]).name, layers=False)
        console.write(render(rows, to_stdout, analysis.stable_metadata()))
    if written:
        console.message(f"table: {written.main}")
    if not analysis.succeeded:
        is_said = len({each.error for each in analysis.measurements}) > 1 and not console.quiet
        console.error(why_nothing(analysis.measurements, "the lines above say why" if is_said else ""))
    for line in failed:
        console.error(line)
    return CHECK_FAILED if failed else code


def _finish_part(
    console: "Console",
    analysis: "Analysis",
    report: CommandReport,
    files: ReportFiles,
    opened: Opened,
    ingredients: str | None,
) -> int:
    """Write the report of a shard; what the whole run shows is said when the parts are joined."""
    say_what_is_left(console, _write(analysis, report, files, opened, ingredients))
    console.message(f"table: {files.main}; fisher merge joins it with the tables of the other shards")
    if not analysis.measurements:
        return 0
    if not analysis.succeeded:
        console.error(why_nothing(analysis.measurements))
    return exit_code(analysis.measurements, analysis.succeeded)
