"""Two checkpoints for people: a row per parameter tensor, then in words how far apart they are."""

import math

from rich.console import Group
from rich.table import Table
from rich.text import Text

from fisher_cli.reports.closing_lines import closing_lines, of_pair
from fisher_cli.reports.layout import TextColumn, empty_table, shorten, total_width, wrapped
from fisher_cli.reports.numbers import bar, finite, number_text, number_texts
from fisher_cli.results import CheckpointComparison, Estimate, LayerStep
from fisher_cli.text import one_line

_SHORTEST_NAME, _LONGEST_NAME, _BAR = 10, 40, 10
# When the table is too wide these columns go, one after the other.
_REDUCTIONS = ("bar", "parameters", "cosine", "quadratic_b", "distance")
# The second-order view is said to hold if it is within so much of the divergence.
_HOLDS = 0.1


def render_checkpoint_comparison(found: CheckpointComparison, width: int, data: str | None = None) -> Group:
    """The whole comparison: title, the step by parameter tensor, notes, then what it says in words.

    Args:
        found: the comparison.
        width: columns of the terminal; no line is longer, unless the width is below some 40.
        data: the dataset's name for the title.

    Returns:
        Something that rich can print.
    """
    names = [one_line(name) for name in (found.checkpoint_a, found.checkpoint_b)]
    title = [f"{names[0]} → {names[1]}", data and one_line(data), one_line(found.architecture)]
    title += [f"{found.examples:,} example{'s' if found.examples != 1 else ''}"]
    parts: list[Text | Table] = [*wrapped(" · ".join(part for part in title if part), width, "bold")]
    parts += [Text(""), _table(found, width), Text("")]
    for note in found.notes:
        parts += wrapped(f"note: {one_line(note)}", width, "dim", indent=2)
    parts += [Text("")] if found.notes else []
    legend = (
        "Δ: b − a; θ: the parameters of a; cos: of θ in a with θ in b; ½ΔᵀFΔ in nats, ± standard error over examples"
    )
    parts += [*wrapped(legend, width, "dim"), Text("")]
    details = [text for text in sentences(found) if not text.startswith("Both predict")]
    parts += [line for sentence in details for line in wrapped(sentence, width)]
    return Group(*parts, Text(""), *closing_lines(of_pair(found, _HOLDS), width))


def _table(found: CheckpointComparison, width: int) -> Table:
    """A row per parameter tensor and one for all of them; the bar is the share of ½ΔᵀFΔ at a."""
    steps = [*found.layers, found.whole]
    texts = {
        "layer": ("layer", [*(one_line(layer.name) for layer in found.layers), "all together"]),
        "parameters": ("weights", [f"{step.parameters:,}" for step in steps]),
        "distance": ("‖Δ‖", number_texts([step.distance for step in steps])),
        "relative": ("‖Δ‖/‖θ‖", number_texts([step.relative_distance for step in steps])),
        "cosine": ("cos", number_texts([step.cosine for step in steps])),
        "quadratic_a": ("½ΔᵀFΔ at a", _with_errors([step.quadratic_a for step in steps])),
        "quadratic_b": ("½ΔᵀFΔ at b", _with_errors([step.quadratic_b for step in steps])),
        "bar": ("", [" " * _BAR] * len(steps)),
    }
    left = {"layer", "bar"}
    columns = {
        key: TextColumn(heading, tuple(cells), "left" if key in left else "right")
        for key, (heading, cells) in texts.items()
    }
    for key in _REDUCTIONS:
        if _needed(columns) > width:
            del columns[key]
    name = max(_SHORTEST_NAME, min(_LONGEST_NAME, columns["layer"].width, width - _needed(columns) + _SHORTEST_NAME))
    widths = {key: column.width for key, column in columns.items()} | {"layer": name}
    table = empty_table(columns, widths)
    top = max((step.quadratic_a.value for step in found.layers), default=0.0)
    for i, step in enumerate(steps):
        is_all = step is found.whole
        fraction = step.quadratic_a.value / top if top > 0 and not is_all else 0.0
        special = {"layer": Text(shorten(columns["layer"].cells[i], name)), "bar": Text(bar(fraction, _BAR), "cyan")}
        row = [special.get(key) or Text(column.cells[i]) for key, column in columns.items()]
        table.add_row(*row, style="bold" if is_all else "")
    return table


def _needed(columns: dict[str, TextColumn]) -> int:
    return total_width([_SHORTEST_NAME if key == "layer" else column.width for key, column in columns.items()])


def _with_errors(estimates: list[Estimate]) -> list[str]:
    return number_texts([each.value for each in estimates], [each.standard_error for each in estimates])


def sentences(found: CheckpointComparison) -> list[str]:
    """What the comparison says: how far predictions moved, whether the second-order view holds, who agrees, where."""
    said = [_divergence(found)]
    if found.agreement is not None:
        said.append(
            f"Both predict the same for {_number(found.agreement)} of the examples"
            + ("." if found.accuracy_a is None or found.accuracy_b is None else _accuracies(found))
        )
    said += _largest(found)
    return said


def _divergence(found: CheckpointComparison) -> str:
    if found.kl_ab.value == found.kl_ba.value == 0:
        return "The predictions are the same for every example."
    text = f"KL(a‖b) is {_number(found.kl_ab)} nats, KL(b‖a) {_number(found.kl_ba)}; "
    moved = found.kl_ab_parameters or found.kl_ab
    if found.kl_ab_parameters is not None:
        text += f"by the analysed parameters alone KL(a‖b) is {_number(moved)}; "
    quadratic = found.whole.quadratic_a
    text += f"½ΔᵀFΔ at a is {_number(quadratic)}, at b {_number(found.whole.quadratic_b)}"
    ratio = moved.value / quadratic.value if quadratic.value > 0 else math.nan
    if finite(ratio) is None:
        return f"{text}."
    if abs(ratio - 1) <= _HOLDS:
        return f"{text}: the second-order view of the step holds, with a ratio of {_unbroken(number_text(ratio))}."
    how = "farther" if ratio > 1 else "less far"
    return (
        f"{text}: the predictions moved {how} than the second-order view says, by a factor of "
        f"{_unbroken(number_text(ratio))}, so that the step is too long for it."
    )


def _accuracies(found: CheckpointComparison) -> str:
    assert found.accuracy_a is not None
    assert found.accuracy_b is not None
    return f"; a is right for {_number(found.accuracy_a)}, b for {_number(found.accuracy_b)}."


def _largest(found: CheckpointComparison) -> list[str]:
    """Which tensor moved most for its size, and which counts most for the predictions."""
    moved = [layer for layer in found.layers if layer.relative_distance]
    if not moved or len(found.layers) < 2:
        return []
    far = max(moved, key=lambda layer: layer.relative_distance or 0.0)
    counts = max(found.layers, key=lambda layer: layer.quadratic_a.value)
    norm = _unbroken(number_text(far.relative_distance or 0.0))
    nats = _unbroken(number_text(counts.quadratic_a.value))
    return [
        f"For its size {_name(far)} moved most ({norm} of its norm); for the predictions {_name(counts)} counts most "
        f"({nats} nats at a)."
    ]


def _name(layer: LayerStep) -> str:
    return shorten(one_line(layer.name), _LONGEST_NAME)


def _number(estimate: Estimate) -> str:
    return _unbroken(number_text(estimate.value, estimate.standard_error))


def _unbroken(text: str) -> str:
    return "\N{NO-BREAK SPACE}".join(text.split())
