"""What was verified, as a table of identities for people, with the reasons below it and KL over its expansion."""

import math
import textwrap
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from rich.console import Group
from rich.table import Table
from rich.text import Text

from fisher_cli.reports.layout import TextColumn, empty_table, place, remarks, title, total_width, wrapped
from fisher_cli.results import ExpansionStep, Identity, Measurement, Outcome, Verification
from fisher_cli.text import one_line

# The identity that the table of steps belongs to.
EXPANSION = "KL expansion"
_MARKS = {Outcome.PASSED: "✓", Outcome.FAILED: "✗", Outcome.UNDECIDED: "?", Outcome.NOT_APPLICABLE: "–"}
_STYLES = {Outcome.PASSED: "", Outcome.FAILED: "bold red", Outcome.UNDECIDED: "yellow", Outcome.NOT_APPLICABLE: "dim"}
# When the table is too wide these columns go, one after the other; formulas are wrapped before.
_REDUCTIONS = ("independent", "ours", "at", "tolerance")
# A formula's width: below the second columns go, below the first the terminal is too narrow.
_LEAST_FORMULA, _NARROWEST_FORMULA, _WIDEST_FORMULA = 22, 30, 76

Pair = tuple[Measurement, Verification]


@dataclass(frozen=True)
class _Row:
    """One identity over all checkpoints: the worst of them, and where that is."""

    identity: Identity
    at: Measurement


def render_identities(measurements: Sequence[Measurement], width: int, data: str | None = None) -> Group:
    """The identities of a run, each with the worst of its checkpoints; what fails and why; the expansion of KL.

    Args:
        measurements: in order of training.
        width: columns of the terminal; no line is longer, unless the width is below some 60.
        data: the dataset's name for the title.

    Returns:
        Something that rich can print.
    """
    pairs = [(each, each.verification) for each in measurements if each.verification is not None]
    count = f"{len(measurements)} checkpoints" if len(measurements) > 1 else ""
    parts: list[Text | Table] = [
        *wrapped(title("Fisher identities", measurements, data, count), width, "bold"),
        Text(""),
    ]
    if pairs:
        rows = _rows(pairs)
        several = len(pairs) > 1
        parts += [_table(rows, width, several=several), Text("")]
        parts += _reasons(pairs, rows, width)
        parts += _expansion(*pairs[-1], width, several=several)
        parts += [*_verdict(pairs, width), Text("")]
    return Group(*parts, *remarks(measurements, width))


def _rows(pairs: Sequence[Pair]) -> list[_Row]:
    """One row per identity: of its checkpoints a failure, else an undecided one, else the largest error/tolerance."""
    return [
        max(
            (_Row(found.identities[index], measurement) for measurement, found in pairs),
            key=lambda row: _badness(row.identity),
        )
        for index in range(len(pairs[0][1].identities))
    ]


def _badness(identity: Identity) -> tuple[int, float]:
    order = (Outcome.NOT_APPLICABLE, Outcome.PASSED, Outcome.UNDECIDED, Outcome.FAILED)
    error = 0.0 if identity.error is None else identity.error
    relative = error / identity.tolerance if identity.tolerance else error
    return order.index(identity.verdict), math.inf if math.isnan(relative) else relative


def _columns(rows: Sequence[_Row], several: bool) -> dict[str, TextColumn]:
    found = [row.identity for row in rows]
    columns = {
        "mark": TextColumn("", tuple(_MARKS[each.verdict] for each in found), "left"),
        "identity": TextColumn("identity", tuple(each.name for each in found), "left"),
        "formula": TextColumn("formula", tuple(map(_statement, found)), "left"),
        "ours": TextColumn("ours", tuple(_number(each.ours) for each in found)),
        "independent": TextColumn("independent", tuple(_number(each.theirs) for each in found)),
        "error": TextColumn("error", tuple(_small(each.error) for each in found)),
        "tolerance": TextColumn("tolerance", tuple(_small(each.tolerance) for each in found)),
    }
    if several:
        columns["at"] = TextColumn(
            "worst at", tuple(place(row.at) if row.identity.error else "" for row in rows), "left"
        )
    return columns


def _statement(identity: Identity) -> str:
    """The formula; where it does not apply, why."""
    if identity.verdict is not Outcome.NOT_APPLICABLE:
        return identity.formula
    return f"does not apply: {one_line(identity.reason)}"


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.6g}"


def _small(value: float | None) -> str:
    if value is None:
        return ""
    return "0" if value == 0 else f"{value:.1e}"


def _table(rows: Sequence[_Row], width: int, *, several: bool) -> Table:
    """The columns that fit, formulas wrapped into the room that is left."""
    columns = _columns(rows, several)
    for key in _REDUCTIONS:
        if total_width([_NARROWEST_FORMULA if k == "formula" else c.width for k, c in columns.items()]) <= width:
            break
        columns.pop(key, None)
    others = total_width([0 if key == "formula" else column.width for key, column in columns.items()])
    formula = max(min(width - others, _WIDEST_FORMULA, columns["formula"].width), _LEAST_FORMULA)
    widths = {key: formula if key == "formula" else column.width for key, column in columns.items()}
    table = empty_table(columns, widths)
    for index, row in enumerate(rows):
        cells = [
            "\n".join(textwrap.wrap(column.cells[index], formula, subsequent_indent="  "))
            if key == "formula"
            else column.cells[index]
            for key, column in columns.items()
        ]
        table.add_row(*(Text(cell, _STYLES[row.identity.verdict]) for cell in cells))
    return table


def _reasons(pairs: Sequence[Pair], rows: Sequence[_Row], width: int) -> list[Text]:
    """Every failure with its cause, every identity that is undecided with its reason, then what a pass leaves out."""
    lines: list[Text] = []
    for verdict, style in ((Outcome.FAILED, "red"), (Outcome.UNDECIDED, "yellow")):
        for measurement, found in pairs:
            for each in found.identities:
                if each.verdict is verdict:
                    text = f"{_MARKS[verdict]} {place(measurement)}: {each.name}: {one_line(each.reason)}"
                    lines += wrapped(text, width, style, indent=2)
    for row in rows:
        if row.identity.verdict is Outcome.PASSED and row.identity.reason:
            lines += wrapped(f"✓ {row.identity.name}: {one_line(row.identity.reason)}", width, "dim", indent=2)
    return [*lines, Text("")] if lines else []


def _expansion(measurement: Measurement, found: Verification, width: int, *, several: bool) -> list[Text | Table]:
    """KL(q_θ ‖ q_θ+ε) over ½ εᵀFε, step by step."""
    if not found.expansion:
        return []
    where = f", {place(measurement)}" if several else ""
    title = f"KL(q_θ ‖ q_θ+ε) / (½ εᵀFε) − 1 in a random direction{where}: slope 1, and 2 where averaged over ±ε"
    columns = {
        "step": _expanded("‖ε‖/‖θ‖", found.expansion, lambda row: f"{row.step:.1e}"),
        "single": _expanded("+ε", found.expansion, lambda row: f"{row.single:+.2e}"),
        "slope": _expanded("slope", found.expansion, lambda row: _slope(row.slope_single)),
        "averaged": _expanded("mean of ±ε", found.expansion, lambda row: f"{row.averaged:+.2e}"),
        "slope averaged": _expanded("slope", found.expansion, lambda row: _slope(row.slope_averaged)),
    }
    table = empty_table(columns, {key: column.width for key, column in columns.items()})
    for index in range(len(found.expansion)):
        table.add_row(*(Text(column.cells[index]) for column in columns.values()))
    parts: list[Text | Table] = [*wrapped(title, width), table]
    # The slopes that were judged may be those along other tensors than the table's.
    judged = next((each for each in found.identities if each.name == EXPANSION), None)
    if judged is not None and judged.why:
        parts += wrapped(judged.why, width, "dim")
    if any(row.slope_averaged is None for row in found.expansion):
        parts += wrapped(
            "no slope: rounding, or units of the network (ReLU, max pooling) switch between the steps", width, "dim"
        )
    return [*parts, Text("")]


def _expanded(heading: str, rows: Sequence[ExpansionStep], cell: Callable[[ExpansionStep], str]) -> TextColumn:
    return TextColumn(heading, tuple(cell(row) for row in rows))


def _slope(value: float | None) -> str:
    return "" if value is None else f"{value:.2f}"


def _verdict(pairs: Sequence[Pair], width: int) -> list[Text]:
    is_bad = any(found.failed for _, found in pairs)
    return wrapped(verdict_of(pairs), width, "bold red" if is_bad else "bold green")


def verdict_of(pairs: Sequence[Pair]) -> str:
    """How many identities hold, in a sentence."""
    failed = [measurement for measurement, found in pairs if found.failed]
    counts = {verdict: sum(found.count(verdict) for _, found in pairs) for verdict in Outcome}
    applied = counts[Outcome.PASSED] + counts[Outcome.FAILED]
    unsure, absent = counts[Outcome.UNDECIDED], counts[Outcome.NOT_APPLICABLE]
    others = f"; {unsure} more {'is' if unsure == 1 else 'are'} undecided" if unsure else ""
    others += f"; {absent} more {'does' if absent == 1 else 'do'} not apply" if absent else ""
    if not failed:
        which = "identities that can be decided" if unsure else "identities"
        return f"All {applied} {which} hold{others}."
    where = "" if len(pairs) == 1 else f", at {len(failed)} of {len(pairs)} checkpoints"
    return f"{counts[Outcome.FAILED]} of {applied} identities fail{where}: do not rely on the numbers{others}."
