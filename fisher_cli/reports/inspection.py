"""What checkpoints are, and how a network's parameters are covered, as tables for people."""

from collections.abc import Mapping, Sequence

from rich.console import Group
from rich.table import Table
from rich.text import Text

from fisher_cli.reports.closing_lines import closing_lines, of_files
from fisher_cli.reports.layout import (
    GAP,
    STATUS_STYLES,
    TextColumn,
    empty_table,
    left_out,
    remarks,
    shorten,
    total_width,
    wrapped,
)
from fisher_cli.reports.numbers import bar, finite
from fisher_cli.results import Check, Coverage, Inspection, Ledger, Measurement, Status
from fisher_cli.text import one_line

_SHORTEST_NAME, _ENOUGH_NAME, _LONGEST_NAME = 10, 24, 60
_LONGEST_BAR = 30
# What all rows have in common goes into the title, and then columns go altogether, in this order, until all fits.
_REDUCTIONS = (
    *("integrity", "weights", "tensors", "format", "weights_key", "source", "parameters", "architecture", "epoch"),
    *("step", "status"),
)
_MEANINGS = {
    "per-example": "per-example: no rule covers these; their gradients are formed one by one: slower, as exact.",
    "unused": "unused: the outputs do not depend on these; their gradient is zero.",
}
# Of the table of tensors, columns go in this order until the rest fits.
_TENSOR_REDUCTIONS = ("values", "type", "max", "min", "zeros", "std", "mean", "shape", "looks like")
_BACKWARD = "backward passes"
_TOTAL = "total"


def render_inspections(inspections: Sequence[Inspection], width: int) -> Group:
    """One row per checkpoint: container, place of the weights, step, network and who chose it, then remarks.

    Args:
        inspections: in order of training.
        width: columns of the terminal; no line is longer, unless the width is below some 40.
    """
    every, common = _columns(inspections), _in_common(inspections)
    columns = dict(every)
    for key in _REDUCTIONS:
        if _needed(columns) > width:
            columns.pop(key, None)
    said = [common[key] for key in every if key not in columns and key in common]
    missing = [every[key].heading for key in every if key not in columns and key not in common]
    count = "1 checkpoint" if len(inspections) == 1 else f"{len(inspections)} checkpoints"
    parts: list[Text | Table] = [*wrapped(" · ".join([count, *said]), width, "bold"), Text("")]
    parts += [_table(columns, inspections, width), Text(""), *remarks(inspections, width)]
    parts += left_out(missing, width)
    return Group(*parts, *closing_lines(of_files(inspections), width))


def render_coverage(measurement: Measurement, data: str, width: int) -> Group:
    """The coverage ledger of a measurement: parameter by parameter, by method, and what the check found."""
    ledger = measurement.ledger
    if ledger is None:
        return Group()
    names = (measurement.architecture or "", measurement.checkpoint, data, f"{measurement.examples} examples")
    title = " · ".join(["Coverage of the parameters", *map(one_line, names)])
    parts: list[Text | Table] = [Text(""), *wrapped(title, width, "bold"), Text("")]
    parts += [_entries(ledger, width), Text(""), _methods(ledger, width), Text("")]
    meanings = [
        "work: share of the operations after the forward pass, counted and not timed; the backward passes, "
        f"{ledger.directions} per batch, serve all parameters.",
        *(text for method, text in _MEANINGS.items() if any(each.startswith(method) for each in _by_method(ledger))),
    ]
    for meaning in meanings:
        parts += wrapped(meaning, width, "dim")
    return Group(*parts, *wrapped(check_text(measurement.check), width))


def render_tensors(inspection: Inspection, width: int) -> Group:
    """The tensors of one file: name, shape, type, values, and the layer that each looks like.

    Args:
        inspection: with summaries.
        width: columns of the terminal; what does not fit is left out, the layer last.
    """
    found = inspection.summaries
    figures = {
        heading: [finite(getattr(each, name)) for each in found]
        for heading, name in (("mean", "mean"), ("std", "std"), ("min", "minimum"), ("max", "maximum"))
    }
    texts: dict[str, list[str]] = {
        "tensor": [one_line(each.name) for each in found],
        "shape": [each.sizes for each in found],
        "type": [each.dtype for each in found],
        "values": [f"{each.values:,}" for each in found],
        **{
            heading: ["" if value is None else f"{value:.3g}" for value in values]
            for heading, values in figures.items()
        },
        "zeros": [_percent(each.zeros) for each in found],
        "looks like": [each.looks_like for each in found],
    }
    left = {"tensor", "type", "looks like"}
    columns = {
        heading: TextColumn(heading, tuple(cells), "left" if heading in left else "right")
        for heading, cells in texts.items()
    }
    missing = []
    for heading in _TENSOR_REDUCTIONS:
        spare = width - total_width([column.width for key, column in columns.items() if key != "tensor"]) - GAP
        if spare < min(columns["tensor"].width, _ENOUGH_NAME):
            missing.append(columns.pop(heading).heading)
    spare = width - total_width([column.width for key, column in columns.items() if key != "tensor"]) - GAP
    name = max(_SHORTEST_NAME, min(columns["tensor"].width, spare))
    table = empty_table(columns, {key: column.width for key, column in columns.items()} | {"tensor": name})
    for i in range(len(found)):
        cells = {key: Text(column.cells[i]) for key, column in columns.items()}
        table.add_row(*(cells | {"tensor": Text(shorten(columns["tensor"].cells[i], name))}).values())
    total = sum(each.values for each in found)
    title = f"Tensors · {one_line(inspection.checkpoint)} · {len(found):,} tensors, {total:,} values"
    return Group(Text(""), *wrapped(title, width, "bold"), Text(""), table, *left_out(missing, width))


def check_text(check: Check | None) -> str:
    """What the run-time check compared and found, in sentences; None stands for a check that was left out."""
    if check is None:
        return "The run-time check was left out."
    examples = "1 example" if check.examples == 1 else f"{check.examples} examples"
    directions = "1 direction" if check.directions == 1 else f"{check.directions} directions"
    text = (
        f"Check against plain autograd, {examples} in {directions}: largest relative difference "
        f"{check.largest_relative_difference:.1e} ({check.precision}; more than {check.tolerance:g} would fail)."
    )
    if check.derivatives:
        tensors = "1 tensor" if check.derivatives == 1 else f"{check.derivatives} tensors"
        text += f" Derivatives of {tensors} against finite differences of the outputs: none differs"
        text += f", {len(check.undecided)} could not be told: {', '.join(check.undecided)}." if check.undecided else "."
    return text


def coverage_text(ledger: Ledger) -> str:
    """The ledger in one line: how many tensors and values, how many of them by which method."""
    methods = ", ".join(f"{len(entries)} by {method}" for method, entries in _by_method(ledger).items())
    return f"{_tensors(ledger.entries)} with {_values(ledger.entries):,} values: {methods}"


def _columns(inspections: Sequence[Inspection]) -> dict[str, TextColumn]:
    texts = {
        "checkpoint": ("checkpoint", [one_line(each.checkpoint) for each in inspections]),
        "step": ("step", ["" if each.step is None else str(each.step) for each in inspections]),
        "epoch": ("epoch", ["" if each.epoch is None else f"{each.epoch:.4g}" for each in inspections]),
        "format": ("container", [each.format or "" for each in inspections]),
        "integrity": ("checksums", [(each.integrity or "").replace("checksums", "").strip() for each in inspections]),
        "weights_key": ("weights under", [one_line(each.weights_key or "") for each in inspections]),
        "weights": ("weights", [each.weights or "" for each in inspections]),
        "tensors": ("tensors", [_number(each.tensors) for each in inspections]),
        "architecture": ("network", [one_line(each.architecture or "") for each in inspections]),
        "source": ("chosen by", [one_line(each.architecture_source or "") for each in inspections]),
        "parameters": ("parameters", [_number(each.parameters) for each in inspections]),
        "status": ("status", [each.status.value for each in inspections]),
    }
    if all(each.status is Status.OK for each in inspections):
        del texts["status"]
    right = {"step", "epoch", "tensors", "parameters"}
    columns = {
        key: TextColumn(heading, tuple(cells), "right" if key in right else "left")
        for key, (heading, cells) in texts.items()
    }
    return {key: column for key, column in columns.items() if any(column.cells)}


def _number(number: int | None) -> str:
    return "" if number is None else f"{number:,}"


def _in_common(inspections: Sequence[Inspection]) -> dict[str, str]:
    """What a column would say in every row, in words that need no heading; rows that failed are not asked."""
    columns = _columns([each for each in inspections if each.status is Status.OK] or inspections)
    words = {
        "format": "{}",
        "integrity": "checksums {}",
        "weights_key": "weights under {}",
        "weights": "{} weights",
        "tensors": "{} tensors",
        "architecture": "{}",
        "source": "network chosen by {}",
        "parameters": "{} parameters",
    }
    single = {key: column.cells[0] for key, column in columns.items() if len(set(column.cells)) == 1}
    return {key: words[key].format(cell.strip()) for key, cell in single.items() if key in words}


def _needed(columns: Mapping[str, TextColumn]) -> int:
    """The width of these columns, a long name counted at the length that is enough to know it."""
    return total_width([min(c.width, _ENOUGH_NAME) if key == "checkpoint" else c.width for key, c in columns.items()])


def _table(columns: Mapping[str, TextColumn], inspections: Sequence[Inspection], width: int) -> Table:
    names = columns["checkpoint"].width
    name = max(_SHORTEST_NAME, min(names, _LONGEST_NAME, min(names, _ENOUGH_NAME) + width - _needed(columns)))
    widths = {key: column.width for key, column in columns.items()} | {"checkpoint": name}
    table = empty_table(columns, widths)
    for i, inspection in enumerate(inspections):
        special = {
            "checkpoint": Text(shorten(columns["checkpoint"].cells[i], name)),
            "status": Text(inspection.status.value, STATUS_STYLES[inspection.status]),
        }
        table.add_row(*(special.get(key) or Text(column.cells[i]) for key, column in columns.items()))
    return table


def _entries(ledger: Ledger, width: int) -> Table:
    """Parameter by parameter, with a bar for the work; then the backward passes and the total."""
    works = [*(entry.work for entry in ledger.entries), ledger.backward]
    names = [*(one_line(entry.name) for entry in ledger.entries), _BACKWARD, _TOTAL]
    values = [*(f"{entry.values:,}" for entry in ledger.entries), "", f"{_values(ledger.entries):,}"]
    methods = [*(one_line(entry.method) for entry in ledger.entries), "", ""]
    columns = {
        "parameter": TextColumn("parameter", tuple(names), "left"),
        "values": TextColumn("values", tuple(values)),
        "method": TextColumn("method", tuple(methods), "left"),
        "work": TextColumn("work", (*map(_percent, works), _percent(None if ledger.backward is None else 1.0))),
    }
    return _with_bars(columns, [*works, None], width)


def _methods(ledger: Ledger, width: int) -> Table:
    """How many tensors and values each method serves, and its work."""
    groups = _by_method(ledger)
    works = [_work(entries) for entries in groups.values()]
    columns = {
        "parameter": TextColumn("method", tuple(map(one_line, groups)), "left"),
        "tensors": TextColumn("tensors", tuple(f"{len(entries):,}" for entries in groups.values())),
        "values": TextColumn("values", tuple(f"{_values(entries):,}" for entries in groups.values())),
        "work": TextColumn("work", tuple(map(_percent, works))),
    }
    return _with_bars(columns, works, width)


def _with_bars(columns: dict[str, TextColumn], works: Sequence[float | None], width: int) -> Table:
    """The columns as a table; the name is shortened to fit, and bars fill the room that is left."""
    spare = width - total_width([column.width for column in columns.values()])
    name = max(_SHORTEST_NAME, min(columns["parameter"].width, columns["parameter"].width + spare))
    bar_width = min(_LONGEST_BAR, spare - 2)
    widths = {key: column.width for key, column in columns.items()} | {"parameter": name}
    top = max((work for work in works if work is not None), default=0.0)
    if bar_width > 0 and top > 0:
        bars = tuple(bar((work or 0.0) / top, bar_width) for work in works)
        columns = {**columns, "bar": TextColumn("", bars, "left")}
        widths["bar"] = bar_width
    table = empty_table(columns, widths)
    count = len(columns["parameter"].cells)
    for i in range(count):
        style = "bold" if columns["parameter"].cells[i] == _TOTAL and i == count - 1 else ""
        cells = {key: Text(column.cells[i], "cyan" if key == "bar" else style) for key, column in columns.items()}
        cells["parameter"] = Text(shorten(columns["parameter"].cells[i], name), style)
        table.add_row(*cells.values())
    return table


def _by_method(ledger: Ledger) -> dict[str, list[Coverage]]:
    """The entries by method, the method with most tensors first."""
    groups: dict[str, list[Coverage]] = {}
    for entry in ledger.entries:
        groups.setdefault(entry.method, []).append(entry)
    return dict(sorted(groups.items(), key=lambda group: -len(group[1])))


def _tensors(entries: Sequence[Coverage]) -> str:
    return "1 tensor" if len(entries) == 1 else f"{len(entries):,} tensors"


def _values(entries: Sequence[Coverage]) -> int:
    return sum(entry.values for entry in entries)


def _work(entries: Sequence[Coverage]) -> float | None:
    works = [entry.work for entry in entries if entry.work is not None]
    return sum(works) if works else None


def _percent(work: float | None) -> str:
    return "" if work is None else f"{100 * work:.1f} %"
