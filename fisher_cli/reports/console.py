"""The terminal: the only file that prints. Results go to stdout, everything else to stderr.

Colours only on a terminal, and not with NO_COLOR or TERM=dumb. Text from outside (file names, error texts)
is never read as markup and reaches the terminal without control characters.
"""

import contextlib
import io
import os
import sys
import textwrap
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from types import TracebackType
from typing import Any, Self, TextIO, TypeVar

import rich.columns
import rich.console
import rich.progress
import rich.table
from rich.console import ConsoleOptions, RenderableType
from rich.segment import Segment
from rich.text import Text

from fisher_cli.errors import OutputError, UsageError
from fisher_cli.reports.checkpoint_comparison import render_checkpoint_comparison
from fisher_cli.reports.closing_lines import closing_lines
from fisher_cli.reports.comparison import render_comparison
from fisher_cli.reports.examples import render_examples
from fisher_cli.reports.forecast import duration
from fisher_cli.reports.identities import render_identities
from fisher_cli.reports.inspection import render_coverage, render_inspections, render_tensors
from fisher_cli.reports.layout import STATUS_STYLES, shorten
from fisher_cli.reports.numbers import finite, number_text
from fisher_cli.reports.run_sentences import run_sentences
from fisher_cli.reports.spectra import render_spectra
from fisher_cli.reports.summary import render_summary
from fisher_cli.results import CheckpointComparison, Inspection, Measurement, Outcome, Status, by_run
from fisher_cli.results.rows import OfRun
from fisher_cli.text import one_line, visible

R = TypeVar("R", bound=OfRun)

WIDTH_WITHOUT_TERMINAL = 100
_SECONDS_BETWEEN_LINES = 10.0  # a log of ten thousand fast checkpoints stays short


class _RichConsole(rich.console.Console):
    """A rich console that prints no control characters, and leaves a closed pipe to us."""

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        """Lay something out; of all text only what no terminal acts on is left.

        Yields:
            Pieces of text with their styles; what moves the cursor is rich's own.
        """
        for segment in super().render(renderable, options):
            yield segment if segment.control else Segment(visible(segment.text), segment.style)

    def on_broken_pipe(self) -> None:
        """Raise the BrokenPipeError that rich is handling."""
        raise


class Console:
    """Both output streams of the command: results on stdout, all else on stderr.

    Methods that print on stdout do so whole or not at all, and raise the errors of `write`.

    Args:
        quiet: say nothing on stderr except errors.
        stdout: where results go; `sys.stdout` by default.
        stderr: where all else goes; `sys.stderr` by default.
        width: columns of the terminal; found out by default.
    """

    def __init__(
        self,
        quiet: bool = False,
        stdout: TextIO | None = None,
        stderr: TextIO | None = None,
        width: int | None = None,
    ) -> None:
        self.quiet = quiet
        # Either stream is None where the parent process closed it.
        self._stdout: TextIO | None = stdout or sys.stdout
        self._stderr: TextIO | None = stderr or sys.stderr
        self._out = _rich_console(self._stdout, width)
        self._err = _rich_console(self._stderr, width)
        self._bar: rich.progress.Progress | None = None

    @property
    def is_terminal(self) -> bool:
        """Whether a person is looking at stdout."""
        return _is_terminal(self._stdout)

    def message(self, text: str, style: str = "") -> None:
        """Say something on stderr, unless quiet.

        Args:
            text: of any kind; it is put on one line, which only a terminal's width breaks.
            style: of rich, such as `dim`.
        """
        if not self.quiet:
            said = one_line(text)
            if _is_terminal(self._stderr):  # between words, where the terminal would break within one
                lines = textwrap.wrap(said, self._err.width, break_long_words=False, break_on_hyphens=False)
                said = "\n".join(lines)
            self._say(Text(said, style))

    def next_step(self, command: str) -> None:
        """Say on stderr what to type next, if a person is looking at it, unless quiet."""
        if _is_terminal(self._stderr) and not self.quiet:
            self._say(Text(f"next: {one_line(command)}", "dim"))  # on one line, to be copied

    def error(self, text: str) -> None:
        """Say on stderr, on one line, what went wrong; also if quiet."""
        self._say(Text.assemble(("error:", "bold red"), f" {one_line(text)}"))

    def traceback(self, text: str) -> None:
        """Put on stderr where an error came from; also if quiet."""
        self._say(Text(visible(text.rstrip("\n"))))

    def lines(self, lines: Iterable[str]) -> None:
        """Put lines for people on stdout, each on one line whatever names it holds."""
        self.write("".join(visible(line).replace("\n", "\\x0a") + "\n" for line in lines))

    def write(self, content: str | bytes) -> None:
        """Put a result on stdout, at once.

        Args:
            content: a table in a format of files, which holds no control characters; text is written as UTF-8 whatever
                the locale, but to a terminal in its encoding.

        Raises:
            UsageError: the content is binary and stdout is a terminal.
            OutputError: stdout is closed, or its disk is full.
            BrokenPipeError: nobody reads the pipe any more.
        """
        if self._stdout is None:
            msg = "standard output is closed: write the table to a file with -o FILE"
            raise OutputError(msg)
        if isinstance(content, bytes) and self.is_terminal:
            msg = "this format is binary and would garble the terminal: write it to a file with -o FILE"
            raise UsageError(msg)
        try:
            with self._without_bar():
                _write(self._stdout, content)
        except BrokenPipeError:
            raise
        except (OSError, ValueError) as error:
            msg = f"cannot write to standard output: {getattr(error, 'strerror', None) or error}"
            raise OutputError(msg) from error

    def summary(
        self, measurements: Sequence[Measurement], data: str | None = None, command: Sequence[str] = ()
    ) -> None:
        """Print the run as a table on stdout, with what it says in words.

        Args:
            measurements: one per row, in order of training.
            data: the dataset in words, for the title; None to leave it out.
            command: the words that made the run, for what would mend it.
        """
        self._show_runs(
            measurements,
            lambda rows: render_summary(rows, self._out.width, data, command),
            run_sentences(by_run(measurements)),
        )

    def spectra(self, measurements: Sequence[Measurement], data: str | None = None) -> None:
        """Print the eigenvalues of the run on stdout: what they say as a table, and how they are distributed.

        Args:
            measurements: one per row, in order of training.
            data: the dataset in words, for the title; None to leave it out.
        """
        self._show_runs(measurements, lambda rows: render_spectra(rows, self._out.width, data))

    def comparison(self, measurements: Sequence[Measurement], data: str | None = None, *, layers: bool = False) -> None:
        """Print the two Fishers side by side on stdout, each figure with its null, and a verdict per checkpoint.

        Args:
            measurements: one per row, in order of training.
            data: the dataset in words, for the title; None to leave it out.
            layers: whether to print the parts of each parameter tensor as well.
        """
        self._show_runs(measurements, lambda rows: render_comparison(rows, self._out.width, data, layers=layers))

    def identities(self, measurements: Sequence[Measurement], data: str | None = None) -> None:
        """Print what was verified on stdout: identities as a table, what fails and why, the expansion of KL.

        Args:
            measurements: one per row, in order of training.
            data: the dataset in words, for the title; None to leave it out.
        """
        self._show_runs(measurements, lambda rows: render_identities(rows, self._out.width, data))

    def examples(self, measurements: Sequence[Measurement], data: str | None = None) -> None:
        """Print on stdout which examples carry the trace.

        Args:
            measurements: one per row, in order of training.
            data: the dataset in words, for the title; None to leave it out.
        """
        self._show_runs(measurements, lambda rows: render_examples(rows, self._out.width, data))

    def inspections(self, inspections: Sequence[Inspection]) -> None:
        """Print what checkpoint files are as a table on stdout.

        Args:
            inspections: one per file, in order of training.
        """
        self._show_runs(inspections, lambda rows: render_inspections(rows, self._out.width))

    def tensors(self, inspections: Sequence[Inspection]) -> None:
        """Print the tensors of each file as a table on stdout, where they were summed up.

        Args:
            inspections: one per file, in order of training.
        """
        for each in inspections:
            if each.summaries:
                self.show(render_tensors(each, self._out.width))

    def checkpoint_comparison(self, found: CheckpointComparison, data: str | None = None) -> None:
        """Print how far apart two checkpoints are as a table on stdout, with what it says in words.

        Args:
            found: the comparison.
            data: the dataset in words, for the title; None to leave it out.
        """
        self.show(render_checkpoint_comparison(found, self._out.width, data))

    def coverage(self, measurement: Measurement, data: str) -> None:
        """Print on stdout how the parameters of a measured network were covered.

        Args:
            measurement: of the network; without a ledger nothing is printed.
            data: the dataset in words, for the title.
        """
        self.show(render_coverage(measurement, data, self._out.width))

    def names(self, names: Sequence[str]) -> None:
        """Print names on stdout: one a line, or side by side on a terminal."""
        if self.is_terminal:
            self.show(rich.console.Group(rich.columns.Columns(names, column_first=True, padding=(0, 2))))
        else:
            self.lines(names)

    def progress(self, total: int | None, clock: Callable[[], float] = time.monotonic, at_once: int = 1) -> "Progress":
        """Show on stderr how far the run is: a bar on a terminal, a line now and then elsewhere.

        Args:
            total: how many checkpoints there are; None where nobody knows.
            clock: seconds; only differences count.
            at_once: how many checkpoints are measured side by side.

        Returns:
            A context manager; inside it the run tells its start, its stages and its end of each checkpoint.
        """
        return Progress(self, total, clock, at_once)

    def _show_runs(
        self, rows: Sequence[R], render: Callable[[Sequence[R]], RenderableType], closing: Sequence[str] = ()
    ) -> None:
        """Print the rows of each run on stdout, under its name where there are several, then what is said of all."""
        runs = by_run(rows)
        parts = [render(each) for each in runs.values()] or [render(rows)]
        if len(runs) > 1:
            names = [Text(f"run {one_line(name)}", "bold cyan") for name in runs]
            parts = [part for pair in zip(names, parts, strict=True) for part in (*pair, Text(""))]
        self.show(rich.console.Group(*parts, *closing_lines(closing, self._out.width)))

    def show(self, part: rich.console.RenderableType) -> None:
        """Print something on stdout, whole or not at all."""
        with self._out.capture() as captured:
            self._out.print(part, crop=False)
        self.write(captured.get())

    def _say(self, text: Text) -> None:
        """Print a line on stderr; if nobody listens there, nobody can be told."""
        if self._stderr is not None:
            with contextlib.suppress(OSError, ValueError):
                self._err.print(text, soft_wrap=True)

    def _start_bar(self) -> rich.progress.Progress | None:
        """A bar on stderr, if a person is looking at it."""
        if self.quiet or not _is_terminal(self._stderr) or _is_dumb():
            return None
        self._bar = rich.progress.Progress(
            rich.progress.BarColumn(12),
            *(_text_column(f"{{task.fields[{name}]}}") for name in ("count", "name")),
            _Stage(),  # of all columns it gives way where the terminal is narrow
            rich.progress.TimeElapsedColumn(table_column=rich.table.Column(no_wrap=True)),
            _TimeLeft(table_column=rich.table.Column(no_wrap=True)),
            console=self._err,
            transient=True,
            redirect_stdout=False,
        )
        self._bar.start()
        return self._bar

    def _stop_bar(self) -> None:
        """Remove the bar."""
        if self._bar is not None:
            with contextlib.suppress(OSError, ValueError):
                self._bar.stop()
            self._bar = None

    @contextlib.contextmanager
    def _without_bar(self) -> Iterator[None]:
        """Take the bar away while rows are written to the same terminal.

        Yields:
            Nothing.
        """
        bar = self._bar if self.is_terminal else None
        if bar is not None:
            bar.stop()
        yield
        if bar is not None:
            bar.start()


class _Stage(rich.progress.ProgressColumn):
    """What is done just now, cut where there is no room."""

    def render(self, task: rich.progress.Task) -> Text:
        return Text(task.fields["stage"], no_wrap=True, overflow="ellipsis")


class _TimeLeft(rich.progress.ProgressColumn):
    """The time left as the run's own measurements estimate it; nothing before there are any."""

    def render(self, task: rich.progress.Task) -> Text:
        foreseen = task.fields["foreseen"]()
        return Text("" if foreseen is None else f"{duration(foreseen[0])} left")


class Progress:
    """How far a run is; made by `Console.progress`, used with `with`.

    Args:
        console: what it is shown on.
        total: how many checkpoints there are; None where nobody knows.
        clock: seconds; only differences count.
        at_once: how many checkpoints are measured side by side.
    """

    def __init__(self, console: Console, total: int | None, clock: Callable[[], float], at_once: int = 1) -> None:
        self._console = console
        self._total = total
        self._clock = clock
        self._at_once = at_once
        self._finished = 0
        self._begun: float | None = None
        # Checkpoints that were measured now, and how long that took; not those kept from before, or without numbers.
        self._measured, self._spent = 0, 0.0
        self._last_line = clock()
        self._held: list[tuple[str, Measurement]] = []
        self._bar: rich.progress.Progress | None = None
        self._task: rich.progress.TaskID | None = None

    def __enter__(self) -> Self:
        self._bar = self._console._start_bar()
        if self._bar is not None:
            self._task = self._bar.add_task(
                "", total=self._total, count=self._count(), name="", stage="", foreseen=self.foreseen
            )
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._console._stop_bar()
        if kind is not None or self._finished != self._total:
            self._say_held()

    def start(self, name: str) -> None:
        """Show that a checkpoint is begun.

        Args:
            name: its name; a long one is shortened.
        """
        self._begun = self._clock()
        self._update(0.0, name=shorten(one_line(name), 32), stage="")

    def stage(self, text: str, fraction: float) -> None:
        """Show that the checkpoint has come to this stage.

        Args:
            text: the stage in a word or two.
            fraction: how much of the checkpoint's work is done, from 0 to 1; what is beyond is cut.
        """
        self._update(min(1.0, max(0.0, fraction)), stage=one_line(text))

    def finish(self, measurement: Measurement) -> None:
        """Show that a checkpoint is finished; those that are not ok are reported at once.

        As long as all have failed for one reason their lines are held back, for some seconds at most: if it stays so,
        the run ends with that reason, and one line says more than a thousand.
        """
        self._finished += 1
        if self._begun is not None and measurement.timings:
            self._measured += 1
            self._spent += self._clock() - self._begun
        self._begun = None
        self._update(0.0, stage="")
        is_due = self._clock() - self._last_line >= _SECONDS_BETWEEN_LINES
        if self._is_hopeless_with(measurement) and not is_due:
            self._held.append((self._count(), measurement))
            return
        self._say_held()
        is_last = self._finished == self._total
        if measurement.memory_ran_out_at is not None:
            remark = f"memory ran out at {measurement.memory_ran_out_at} examples at once"
            taken = f"{measurement.batch_size} from here on"
            self._console.message(f"{self._count()} {measurement.checkpoint}: {remark}: {taken}")
        if measurement.status is not Status.OK or (self._bar is None and (is_due or is_last)):
            self._say(self._count(), measurement)

    def foreseen(self) -> tuple[float, float] | None:
        """The seconds left and those of all checkpoints, each taken to need the mean of those measured so far.

        Returns:
            None where nobody knows how many there are, and until each process that measures has finished one.
        """
        if self._total is None or self._measured < self._at_once:
            return None
        each = self._spent / self._measured
        under_way = 0.0 if self._begun is None else min(self._clock() - self._begun, each)
        return max(0.0, each * (self._total - self._finished) - under_way), each * self._total

    def _is_hopeless_with(self, measurement: Measurement) -> bool:
        """Whether all checkpoints so far have failed, and for the same reason."""
        has_failed = measurement.status in (Status.REJECTED, Status.FAILED)
        is_first = self._finished == 1
        return has_failed and (is_first or any(each.error == measurement.error for _, each in self._held))

    def _say_held(self) -> None:
        """Say what was held back; from then on nothing is."""
        for count, measurement in self._held:
            self._say(count, measurement)
        self._held = []

    def _say(self, count: str, measurement: Measurement) -> None:
        """A line about a checkpoint."""
        self._last_line = self._clock()
        self._console.message(f"{count} {_outcome(measurement)}", STATUS_STYLES[measurement.status])

    def _update(self, fraction: float, **texts: Any) -> None:
        """Move the bar, if there is one; `texts` are what it says besides."""
        if self._bar is not None and self._task is not None:
            completed = self._finished + fraction
            self._bar.update(self._task, completed=completed, count=self._count(), **texts)

    def _count(self) -> str:
        """`3/14`, or `3` when nobody knows how many there will be."""
        return str(self._finished) if self._total is None else f"{self._finished}/{self._total}"


def _outcome(measurement: Measurement) -> str:
    """What a checkpoint's line says."""
    if measurement.status is not Status.OK:
        return f"{measurement.checkpoint}: {measurement.status}: {measurement.error}"
    if found := measurement.verification:
        applied = len(found.identities) - found.count(Outcome.NOT_APPLICABLE)
        return f"{measurement.checkpoint}: {found.count(Outcome.PASSED)} of {applied} identities hold"
    if measurement.trace is None or finite(measurement.trace.true.value) is None:
        return measurement.checkpoint
    true = measurement.trace.true
    return f"{measurement.checkpoint}: true trace {number_text(true.value, true.standard_error)}"


def _rich_console(stream: TextIO | None, width: int | None) -> _RichConsole:
    """A rich console that takes all text as it is."""
    return _RichConsole(
        file=stream or io.StringIO(),
        width=width or _width_without_terminal(stream),
        color_system=None if os.environ.get("NO_COLOR") or _is_dumb() else "auto",
        force_jupyter=False,
        markup=False,
        emoji=False,
        highlight=False,
    )


def _width_without_terminal(stream: TextIO | None) -> int | None:
    """Where no terminal tells its width, and COLUMNS does not either: what the main table is made for."""
    return None if _is_terminal(stream) or os.environ.get("COLUMNS") else WIDTH_WITHOUT_TERMINAL


def _text_column(text: str) -> rich.progress.TextColumn:
    """A column of the bar that takes names as they are."""
    return rich.progress.TextColumn(text, markup=False)


def _is_terminal(stream: TextIO | None) -> bool:
    """Whether the stream is open and a terminal."""
    return stream is not None and not stream.closed and stream.isatty()


def _is_dumb() -> bool:
    """Whether the terminal understands nothing but text."""
    return os.environ.get("TERM", "").lower() in ("dumb", "unknown")


def _write(stream: TextIO, content: str | bytes) -> None:
    """Write and flush: to a terminal in its encoding, elsewhere as bytes."""
    if isinstance(content, str) and stream.isatty():
        encoding = stream.encoding or "utf-8"
        stream.write(content.encode(encoding, "replace").decode(encoding))
    elif buffer := getattr(stream, "buffer", None):
        stream.flush()
        buffer.write(content if isinstance(content, bytes) else content.encode("utf-8", "backslashreplace"))
    else:
        stream.write(content if isinstance(content, str) else content.decode("utf-8"))
    stream.flush()
