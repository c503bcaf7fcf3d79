"""The run as a table for people: as much as the width allows, the rest named; then what it says in words."""

from collections.abc import Sequence

from rich.console import Group
from rich.table import Table
from rich.text import Text

from fisher_cli.reports.accuracy_note import accuracy_note
from fisher_cli.reports.closing_lines import closing_lines, of_run
from fisher_cli.reports.layout import (
    STATUS_STYLES,
    TextColumn,
    empty_table,
    estimator_of,
    fitting,
    left_out,
    remarks,
    shorten,
    title,
    width_with_name,
    wrapped,
)
from fisher_cli.reports.numbers import Number, bar, finite, number_text, number_texts, sparkline
from fisher_cli.reports.trend import asides, layer_shares
from fisher_cli.results import Eigenvalues, Estimate, Measurement, Status
from fisher_cli.text import one_line

_SHORTEST_NAME, _ENOUGH_NAME, _LONGEST_NAME = 10, 24, 60
_SHORTEST_BAR, _LONGEST_BAR = 8, 30

# When the table is too wide these columns go, one after the other; some have a shorter form that stays.
_REDUCTIONS = (
    *("layer", "entropy", "snr", "residual", "eig_empirical", "ratio", "empirical"),
    *("accuracy", "loss", "eig_true", "ratio_value", "step", "epoch", "empirical_value", "bar", "status"),
)
_SHORTER = {"ratio": "ratio_value", "empirical": "empirical_value"}
_MISSED = frozenset({"accuracy", "loss", "eig_true", "ratio_value", "step", "empirical_value"})


def render_summary(
    measurements: Sequence[Measurement], width: int, data: str | None = None, command: Sequence[str] = ()
) -> Group:
    """The whole summary: title, table, problems and notes, then in words what the run shows.

    Args:
        measurements: in order of training.
        width: columns of the terminal; no line is longer, unless the width is below some 40.
        data: the dataset's name for the title.
        command: the words that made the run, `fisher` first; empty where it was made from Python.

    Returns:
        Something that rich can print.
    """
    if not measurements:
        return Group(Text("No checkpoints."))
    all_columns = _columns(measurements)
    keys = fitting(all_columns, width, _ENOUGH_NAME, _REDUCTIONS, _SHORTER)
    table = _table({key: all_columns[key] for key in keys}, measurements, width)
    parts: list[Text | Table] = [
        *wrapped(title("Fisher information", measurements, data, estimator_of(measurements)), width, "bold"),
        Text(""),
    ]
    parts += [table, Text("")]
    parts += remarks(measurements, width)
    missing = [all_columns[key].heading for key in all_columns if key in _MISSED and not _shown(key, keys)]
    parts += left_out(missing, width)
    parts += wrapped(_legend(keys, all_columns), width, "dim")
    parts += _curve(measurements, width)
    for sentence in (*accuracy_note(measurements), layer_shares(measurements), *asides(measurements)):
        parts += wrapped(sentence, width) if sentence else []
    return Group(*parts, Text(""), *closing_lines(of_run(measurements, command), width))


def _legend(keys: Sequence[str], columns: dict[str, TextColumn]) -> str:
    """What the columns mean that say it too shortly; "" if none of them is there."""
    empirical, both = not {"empirical", "empirical_value"}.isdisjoint(keys), "eig_empirical" in keys
    traces = "tr F, tr F̂: trace of the true and of the empirical Fisher" if empirical else "tr F: true Fisher's trace"
    meanings = {
        "loss": "loss in nats",
        "accuracy": "acc: accuracy",
        "true": f"{traces}, ± standard error over examples",
        "eig_true": "λ₁, λ̂₁: their largest eigenvalues" if both else "λ₁: largest eigenvalue of F",
        "residual": "residual: ‖Fv − λ₁v‖",
        "snr": "SNR: signal-to-noise ratio of one example's gradient",
        "bar": "bars: tr F",
    }
    shown = [text for key, text in meanings.items() if key in keys and key in columns]
    return "; ".join(shown)


def _columns(measurements: Sequence[Measurement]) -> dict[str, TextColumn]:
    """All columns that have something to show, with their shorter forms, in order."""
    traces = [each.trace for each in measurements]
    predictions = [each.predictions for each in measurements]
    gradients = [each.gradient for each in measurements]
    true = [each.true if each else None for each in traces]
    empirical = [each.empirical if each else None for each in traces]
    ratio = [each.ratio if each else None for each in traces]
    found = [each.eigenvalues_true for each in measurements]
    texts = {
        "checkpoint": ("checkpoint", [one_line(each.checkpoint) for each in measurements]),
        "step": ("step", ["" if each.step is None else str(each.step) for each in measurements]),
        "epoch": ("epoch", ["" if each.epoch is None else f"{each.epoch:.4g}" for each in measurements]),
        "loss": ("loss", _plain([each.loss if each else None for each in predictions])),
        "accuracy": ("acc", [_accuracy(each.accuracy if each else None) for each in predictions]),
        "entropy": ("entropy", _plain([each.entropy if each else None for each in predictions])),
        "true": ("tr F", _with_errors(true)),
        "empirical": ("tr F̂", _with_errors(empirical)),
        "empirical_value": ("tr F̂", _plain(empirical)),
        "ratio": ("F̂/F", _with_errors(ratio)),
        "ratio_value": ("F̂/F", _plain(ratio)),
        "eig_true": ("λ₁", number_texts([_first(each.values if each else None) for each in found])),
        "residual": ("residual", number_texts([_first(each.residuals if each else None) for each in found])),
        "eig_empirical": (
            "λ̂₁",
            number_texts([_first_of(each.eigenvalues_empirical) for each in measurements]),
        ),
        "snr": ("SNR", _plain([each.signal_to_noise if each else None for each in gradients])),
        "layer": ("largest layer", [_largest_layer(each) for each in measurements]),
        "status": ("status", [_status(each) for each in measurements]),
        "bar": ("", [" " * _SHORTEST_BAR if each else "" for each in true]),
    }
    if all(each.status is Status.OK and not each.doubt for each in measurements):
        del texts["status"]
    if any(each.step is not None for each in measurements):
        del texts["epoch"]
    left = {"checkpoint", "layer", "status", "bar"}
    columns = {
        key: TextColumn(heading, tuple(cells), "left" if key in left else "right")
        for key, (heading, cells) in texts.items()
    }
    return {key: column for key, column in columns.items() if any(column.cells)}


def _status(measurement: Measurement) -> str:
    """How the row ended; `doubtful` where it did well and no sentence counts it."""
    is_doubtful = measurement.status is Status.OK and measurement.doubt
    return "doubtful" if is_doubtful else measurement.status.value


def _with_errors(estimates: Sequence[Estimate | None]) -> list[str]:
    """Values with their standard errors."""
    values = [each.value if each else None for each in estimates]
    return number_texts(values, [each.standard_error if each else None for each in estimates])


def _plain(estimates: Sequence[Estimate | None]) -> list[str]:
    """Values only."""
    return number_texts([each.value if each else None for each in estimates])


def _accuracy(estimate: Estimate | None) -> str:
    """A fraction with three decimals, whatever the other rows are."""
    return "" if estimate is None or finite(estimate.value) is None else f"{estimate.value:.3f}"


def _first(values: Sequence[float] | None) -> Number:
    """The first of some values, if there are any."""
    return values[0] if values else None


def _first_of(found: Eigenvalues | None) -> Number:
    """The largest eigenvalue, if any was found."""
    return found.values[0] if found and found.values else None


def _largest_layer(measurement: Measurement) -> str:
    """The tensor with the largest part of the true trace, and that part in per cent."""
    if not measurement.trace or not measurement.trace.layers or not measurement.trace.true.value > 0:
        return ""
    layer = max(measurement.trace.layers, key=lambda each: finite(each.true.value) or 0.0)
    share = layer.true.value / measurement.trace.true.value
    return f"{shorten(one_line(layer.name), 24)} {share:.0%}"


def _shown(key: str, keys: Sequence[str]) -> bool:
    """Whether a column is in the table, in its own or in its longer form."""
    return key in keys or any(short == key and long in keys for long, short in _SHORTER.items())


def _table(columns: dict[str, TextColumn], measurements: Sequence[Measurement], width: int) -> Table:
    """The columns as a rich table; the name and then the bar take up the room that is left."""
    spare = width - width_with_name(columns, list(columns), _ENOUGH_NAME)
    name = min(columns["checkpoint"].width, _ENOUGH_NAME)
    longer_name = max(_SHORTEST_NAME, min(columns["checkpoint"].width, _LONGEST_NAME, name + spare))
    bar_width = min(_LONGEST_BAR, _SHORTEST_BAR + max(0, spare - (longer_name - name)))
    widths = {key: column.width for key, column in columns.items()} | {"checkpoint": longer_name}
    widths |= {"bar": bar_width} if "bar" in columns else {}
    table = empty_table(columns, widths)
    traces = _counted(measurements)
    top = max((each for each in traces if each is not None), default=0.0)
    for i, measurement in enumerate(measurements):
        fraction = (traces[i] or 0.0) / top if top > 0 else 0.0
        special = {
            "checkpoint": Text(shorten(columns["checkpoint"].cells[i], longer_name)),
            "true": Text(columns["true"].cells[i], "bold") if "true" in columns else Text(""),
            "status": Text(_status(measurement), "yellow" if measurement.doubt else STATUS_STYLES[measurement.status]),
            "bar": Text(bar(fraction, bar_width), "bright_cyan" if fraction == 1.0 else "cyan"),
        }
        table.add_row(*(special.get(key) or Text(column.cells[i]) for key, column in columns.items()))
    return table


def _counted(measurements: Sequence[Measurement]) -> list[float | None]:
    """The true trace of each row that is not doubted."""
    return [finite(each.trace.true.value) if each.trace and not each.doubt else None for each in measurements]


def _curve(measurements: Sequence[Measurement], width: int) -> list[Text]:
    """The run's true trace as a sparkline with its scale; nothing for a single checkpoint."""
    values = _counted(measurements)
    known = [value for value in values if value is not None]
    if len(known) < 2:
        return []
    scale = f"0 to {number_text(max(known))}"
    line = sparkline(values, max(1, width - len(scale) - 8))
    return [Text.assemble("tr F  ", (line, "cyan"), "  ", (scale, "dim"))]
