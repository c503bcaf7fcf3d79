"""What the tables for people have in common: columns, lines that fit the width, remarks about rows."""

import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

from rich import box
from rich.cells import cell_len
from rich.table import Table
from rich.text import Text

from fisher_cli.results import Measurement, Status
from fisher_cli.text import one_line

STATUS_STYLES = {
    Status.OK: "dim",
    Status.NOT_CONVERGED: "yellow",
    Status.REJECTED: "red",
    Status.FAILED: "bold red",
}
GAP = 2


class Row(Protocol):
    """A row about a checkpoint, of whatever command: what `remarks` needs of it."""

    @property
    def checkpoint(self) -> str:
        """The checkpoint's name."""

    @property
    def status(self) -> Status:
        """How the row ended."""

    @property
    def error(self) -> str:
        """Why it is not ok, in one line."""

    @property
    def notes(self) -> tuple[str, ...]:
        """Remarks that do not make the row fail, one line each."""


@dataclass(frozen=True)
class TextColumn:
    """One column of a table.

    Attributes:
        heading: above it.
        cells: harmless text already, one per row.
        justify: on which side the cells are aligned.
    """

    heading: str
    cells: tuple[str, ...]
    justify: Literal["left", "right"] = "right"

    @property
    def width(self) -> int:
        """The width that shows the heading and every cell, in columns of the terminal."""
        return max(map(cell_len, (self.heading, *self.cells)))


def total_width(widths: Sequence[int]) -> int:
    """The width of columns side by side."""
    return sum(widths) + GAP * (len(widths) - 1)


def width_with_name(columns: Mapping[str, TextColumn], keys: Sequence[str], name: int) -> int:
    """The width of these columns, a checkpoint's longer name counted at a length of `name`."""
    return total_width([min(columns[key].width, name) if key == "checkpoint" else columns[key].width for key in keys])


def fitting(
    columns: Mapping[str, TextColumn], width: int, name: int, reductions: Sequence[str], shorter: Mapping[str, str]
) -> list[str]:
    """The keys of the columns that fit the width: while they do not, the next of the reductions goes.

    Args:
        columns: all of them, the shorter forms too.
        width: columns of the terminal.
        name: the length at which a checkpoint's longer name is counted.
        reductions: keys of what can be left out, the first to go first.
        shorter: of some of these the key of a form that takes their place; it may be a reduction itself.
    """
    kept = [key for key in columns if key not in shorter.values()]
    for key in reductions:
        if width_with_name(columns, kept, name) <= width:
            break
        if key in kept:
            i = kept.index(key)
            kept[i : i + 1] = [shorter[key]] if key in shorter else []
    return kept


def empty_table(columns: Mapping[str, TextColumn], widths: Mapping[str, int]) -> Table:
    """A table of these columns in these widths, without rows."""
    table = Table(
        box=box.SIMPLE_HEAD,
        show_edge=False,
        pad_edge=False,
        padding=(0, 1, 0, 0),
        header_style="bold",
        width=total_width([widths[key] for key in columns]),  # keeps rich from narrowing columns
    )
    for key, column in columns.items():
        heading = Text(shorten(column.heading, widths[key]))
        table.add_column(heading, justify=column.justify, width=widths[key], no_wrap=True, overflow="crop")
    return table


def remarks(rows: Sequence[Row], width: int) -> list[Text]:
    """A line for each row that is not ok, and for each note, said once however many rows share it.

    Args:
        rows: in order of training.
        width: columns of the terminal.

    Returns:
        The lines with an empty one at the end; none where there is nothing to say.
    """
    lines: list[Text] = []
    for each in rows:
        if each.status is not Status.OK:
            reason = one_line(each.error) or "no reason given"
            text = f"{each.status.value}: {one_line(each.checkpoint)}: {reason}"
            lines += wrapped(text, width, STATUS_STYLES[each.status], indent=2)
    for note in dict.fromkeys(note for each in rows for note in each.notes):
        names = [one_line(each.checkpoint) for each in rows if note in each.notes]
        where = names[0] if len(names) == 1 else f"{len(names)} checkpoints"
        lines += wrapped(f"note: {where}: {one_line(note)}", width, "dim", indent=2)
    return [*lines, Text("")] if lines else []


def left_out(headings: Sequence[str], width: int) -> list[Text]:
    """That these columns did not fit, and where they are."""
    if not headings:
        return []
    text = f"No room here for {', '.join(headings)}: widen the terminal, or write all columns with -o FILE."
    return [*wrapped(text, width, "dim"), Text("")]


def wrapped(text: str, width: int, style: str = "", indent: int = 0) -> list[Text]:
    """The text in lines of at most this width; no-break spaces hold a number together."""
    lines = textwrap.wrap(text, max(width, 20), subsequent_indent=" " * indent, break_on_hyphens=False)
    return [Text(line.replace("\N{NO-BREAK SPACE}", " "), style) for line in lines]


def shorten(text: str, width: int) -> str:
    """The text with `…` for its middle; the end, where the step and the suffix stand, keeps more of it."""
    if cell_len(text) <= width:
        return text
    head, tail = "", ""
    for character in text:
        if cell_len(head + character) > (width - 1) // 3:
            break
        head += character
    for character in reversed(text):
        if cell_len(head + character + tail) > width - 1:
            break
        tail = character + tail
    return f"{head}…{tail}"


def title(heading: str, measurements: Sequence[Measurement], data: str | None, *more: str) -> str:
    """The heading with what all rows have in common: the dataset, the network, the examples, and what else is given.

    Args:
        heading: what the table is.
        measurements: its rows.
        data: the dataset in words; None to leave it out.
        *more: in words; "" is left out.
    """
    examples = {each.examples for each in measurements if each.examples is not None}
    networks = {each.architecture for each in measurements if each.architecture}
    parts = [heading, data and one_line(data)]
    parts += [one_line(each) for each in networks if len(networks) == 1]
    parts += [f"{each:,} example{'s' if each != 1 else ''}" for each in examples if len(examples) == 1]
    return " · ".join(part for part in (*parts, *more) if part)


def estimator_of(measurements: Sequence[Measurement]) -> str:
    """`exact true trace`, "" if the rows differ in it or have none."""
    estimators = {each.trace.estimator for each in measurements if each.trace}
    return f"{one_line(estimators.pop())} true trace" if len(estimators) == 1 else ""


def place(measurement: Measurement) -> str:
    """The step if known, else the name."""
    return one_line(measurement.checkpoint) if measurement.step is None else f"step {measurement.step}"
