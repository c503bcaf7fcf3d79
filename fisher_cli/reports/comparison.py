"""The true and the empirical Fisher side by side, each figure with its null, and a verdict per checkpoint."""

from collections.abc import Sequence

from rich.console import Group
from rich.table import Table
from rich.text import Text

from fisher_cli.reports.closing_lines import closing_lines, of_comparison
from fisher_cli.reports.layout import (
    TextColumn,
    empty_table,
    estimator_of,
    fitting,
    left_out,
    place,
    remarks,
    shorten,
    title,
    total_width,
    wrapped,
)
from fisher_cli.reports.numbers import Number, finite, number_text, number_texts
from fisher_cli.results import (
    AgainstNull,
    Comparison,
    ComparisonFinding,
    Estimate,
    Interval,
    LayerComparison,
    Measurement,
)
from fisher_cli.text import one_line

_SHORTEST_NAME, _LONGEST_NAME = 12, 40
# When the table is too wide these columns go, one after the other; one has a shorter form that stays.
_REDUCTIONS = (
    *("eig_empirical", "eig_true", "accuracy", "step", "interval", "cosine", "empirical", "true", "overlap"),
    *("ratio", "natural_gradient", "difference"),
)
_SHORTER = {"ratio": "ratio_value"}
_MISSED = frozenset({"accuracy", "true", "empirical", "cosine", "natural_gradient", "overlap", "difference"})
_STYLES = {
    ComparisonFinding.FITTED: "yellow",
    ComparisonFinding.SURPRISED: "yellow",
    ComparisonFinding.UNDECIDED: "dim",
    ComparisonFinding.ZERO: "dim",
}
# So many parameter tensors are listed, the largest traces first.
_MOST_LAYERS = 40

Pair = tuple[Measurement, Comparison]


def render_comparison(
    measurements: Sequence[Measurement], width: int, data: str | None = None, *, layers: bool = False
) -> Group:
    """A table with a row per checkpoint, a verdict for each, and where wanted a table of the last one's parameters.

    Args:
        measurements: in order of training.
        width: columns of the terminal; no line is longer, unless the width is below some 40.
        data: the dataset's name for the title.
        layers: whether to show parameter tensors.

    Returns:
        Something that rich can print.
    """
    pairs = [(each, each.comparison) for each in measurements if each.comparison is not None]
    parts: list[Text | Table] = [
        *wrapped(title("True against empirical Fisher", measurements, data, estimator_of(measurements)), width, "bold"),
        Text(""),
    ]
    if pairs:
        columns = _columns(pairs)
        keys = fitting(columns, width, _SHORTEST_NAME, _REDUCTIONS, _SHORTER)
        parts += [_table({key: columns[key] for key in keys}, width), Text("")]
        missing = [columns[key].heading for key in columns if key in _MISSED and not _is_shown(key, keys)]
        parts += left_out(missing, width)
        parts += [*wrapped(_legend(pairs, keys), width, "dim"), Text("")]
        for measurement, found in pairs:
            text = f"{place(measurement)}: {found.verdict.text}"
            parts += wrapped(text, width, _STYLES.get(found.verdict.finding, ""), indent=2)
        parts.append(Text(""))
        if layers:
            parts += [*_layers(*pairs[-1], width), Text("")]
    return Group(*parts, *remarks(measurements, width), *closing_lines(of_comparison(pairs), width))


def _is_shown(key: str, keys: Sequence[str]) -> bool:
    """Whether a column is in the table, in its own or in its shorter form."""
    return key in keys or _SHORTER.get(key) in keys


def _columns(pairs: Sequence[Pair]) -> dict[str, TextColumn]:
    """All columns that have something to show, with their shorter forms, in order."""
    traces = [each.trace for each, _ in pairs]
    ratios = [each.ratio if each else None for each in traces]
    found = [comparison for _, comparison in pairs]
    leading = max((len(each.eigenvalues_true.values) if each.eigenvalues_true else 0) for each, _ in pairs)
    texts = {
        "checkpoint": ("checkpoint", [one_line(each.checkpoint) for each, _ in pairs]),
        "step": ("step", ["" if each.step is None else str(each.step) for each, _ in pairs]),
        "accuracy": ("acc", [_accuracy(each) for each, _ in pairs]),
        "true": ("tr F", number_texts([each.true.value if each else None for each in traces])),
        "empirical": ("tr F̂", number_texts([each.empirical.value if each else None for each in traces])),
        "ratio": ("F̂/F", _with_errors(ratios)),
        "ratio_value": ("F̂/F", number_texts([each.value if each else None for each in ratios])),
        "interval": ("95 % interval", [_interval(each.ratio_interval) for each in found]),
        "null": ("null", [_plus_minus(each.null_deviation) for each in found]),
        "z": ("z", ["" if each.z is None else f"{each.z:+.1f}" for each in found]),
        "difference": ("‖F̂−F‖/‖F‖", _against([each.difference_norm for each in found])),
        "cosine": ("cos(F, F̂)", _against([each.cosine for each in found])),
        "natural_gradient": ("cos nat.grad.", _against([each.natural_gradient for each in found])),
        "overlap": (f"top-{leading} space", _against([each.overlap for each in found])),
        "eig_true": (
            "λ₁",
            _first([each.eigenvalues_true.values if each.eigenvalues_true else () for each, _ in pairs]),
        ),
        "eig_empirical": (
            "λ̂₁",
            _first([each.eigenvalues_empirical.values if each.eigenvalues_empirical else () for each, _ in pairs]),
        ),
    }
    columns = {
        key: TextColumn(heading, tuple(cells), "left" if key == "checkpoint" else "right")
        for key, (heading, cells) in texts.items()
    }
    return {key: column for key, column in columns.items() if any(cell.strip() for cell in column.cells)}


def _accuracy(measurement: Measurement) -> str:
    found = measurement.predictions.accuracy if measurement.predictions else None
    return "" if found is None else f"{found.value:.3f}"


def _with_errors(estimates: Sequence[Estimate | None]) -> list[str]:
    values = [each.value if each else None for each in estimates]
    return number_texts(values, [each.standard_error if each else None for each in estimates])


def _first(values: Sequence[Sequence[float]]) -> list[str]:
    return number_texts([each[0] if each else None for each in values])


def _interval(interval: Interval | None) -> str:
    """`0.140–0.262`, with a question mark where it is no 95 % interval."""
    if interval is None:
        return ""
    low, high = (text.strip() for text in number_texts([interval.low, interval.high]))
    return f"{low}–{high}{' ' if interval.is_trusted else '?'}"


def _plus_minus(deviation: Number) -> str:
    """`± 0.06`, the mean being one."""
    return "" if deviation is None or finite(deviation) is None else f"± {_two_digits(deviation)}"


def _two_digits(value: float) -> str:
    """Two digits that count: an error has no more."""
    return f"{value:.2g}" if 1e-4 <= value < 100 else number_text(value)


def _against(values: Sequence[AgainstNull | None]) -> list[str]:
    """`0.83 (0.21)`: the value, and in brackets its mean under labels from the model where that is known."""
    texts = []
    for each in values:
        null = "" if each is None or each.null is None else f" ({_two_decimals(each.null)})"
        texts.append("" if each is None else f"{_two_decimals(each.value.value)}{null}")
    return texts


def _two_decimals(value: float) -> str:
    return f"{value:.2f}" if abs(value) < 100 else number_text(value)


def _table(columns: dict[str, TextColumn], width: int, name: str = "checkpoint") -> Table:
    """The columns as a rich table; the name takes up the room that is left."""
    others = total_width([0, *(column.width for key, column in columns.items() if key != name)])
    shown = max(min(columns[name].width, _SHORTEST_NAME), min(columns[name].width, _LONGEST_NAME, width - others))
    widths = {key: column.width for key, column in columns.items()} | {name: shown}
    table = empty_table(columns, widths)
    for cells in zip(*(column.cells for column in columns.values()), strict=True):
        row = dict(zip(columns, cells, strict=True))
        table.add_row(*(Text(shorten(cell, shown) if key == name else cell) for key, cell in row.items()))
    return table


def _legend(pairs: Sequence[Pair], keys: Sequence[str]) -> str:
    """What the columns mean that say it too shortly."""
    found = [comparison for _, comparison in pairs]
    meanings = [
        "F: true, F̂: empirical Fisher",
        "null, and in brackets: what labels drawn from the model would give; F̂/F would be 1 ± null, z is in these",
    ]
    if "interval" in keys and any(each.ratio_interval and not each.ratio_interval.is_trusted for each in found):
        meanings.append("?: no 95 % interval, too few examples carry it")
    if "natural_gradient" in keys:
        alphas = {each.damping for each in found}
        alpha = number_text(alphas.pop()) if len(alphas) == 1 else "a thousandth of λ₁"
        meanings.append(f"nat.grad.: (F + αI)⁻¹ḡ and (F̂ + αI)⁻¹ḡ, α = {alpha}")
    text = "; ".join(meanings)
    for words in (" + ", " = ", " ± "):
        text = text.replace(words, words.replace(" ", "\N{NO-BREAK SPACE}"))
    return text


def _layers(measurement: Measurement, found: Comparison, width: int) -> list[Text | Table]:
    """The parameter tensors of one checkpoint, in the network's order, at most forty of them."""
    largest = sorted(found.layers, key=lambda each: each.true.value, reverse=True)[:_MOST_LAYERS]
    shown = [each for each in found.layers if each in largest]
    total = sum(each.true.value for each in found.layers)
    columns = {
        "layer": TextColumn("layer", tuple(one_line(each.name) for each in shown), "left"),
        "true": TextColumn("tr F", tuple(number_texts([each.true.value for each in shown]))),
        "share": TextColumn("share", tuple(f"{each.true.value / total:.1%}" if total else "" for each in shown)),
        "empirical": TextColumn("tr F̂", tuple(number_texts([each.empirical.value for each in shown]))),
        "ratio": TextColumn("F̂/F", tuple(number_texts([each.ratio for each in shown]))),
        "null": TextColumn("null", tuple(_plus_minus(each.null_deviation) for each in shown)),
        "z": TextColumn("z", tuple(_z(each) for each in shown)),
    }
    parts: list[Text | Table] = [Text(f"{place(measurement)} by parameter", "bold"), _table(columns, width, "layer")]
    left = len(found.layers) - len(shown)
    if left:
        text = f"The {left} with the smallest true traces are left out: -o FILE writes all."
        parts += wrapped(text, width, "dim")
    return parts


def _z(layer: LayerComparison) -> str:
    return "" if layer.z is None else f"{layer.z:+.1f}"
