"""The examples of a run for people: checkpoint by checkpoint, by class, those that carry most, and in words."""

from collections.abc import Mapping, Sequence

from rich.console import Group
from rich.table import Table
from rich.text import Text

from fisher_cli.reports.closing_lines import closing_lines, of_examples
from fisher_cli.reports.layout import (
    TextColumn,
    empty_table,
    estimator_of,
    place,
    remarks,
    shorten,
    title,
    total_width,
    wrapped,
)
from fisher_cli.reports.numbers import number_text, number_texts
from fisher_cli.results import Estimate, ExampleGroup, ExampleRow, ExampleSummary, Measurement, NoisyAndClean
from fisher_cli.text import one_line

# As in `tables.trajectory`: a difference is said only beyond three standard errors.
_CLEAR = 3.0


def memorisation(measurements: Sequence[Measurement]) -> str:
    """The verdict on the examples marked noisy at the last checkpoint, with the figures behind it; "" without any."""
    marked = [each for each in measurements if each.example_summary and each.example_summary.noise]
    if not marked:
        return ""
    summary = marked[-1].example_summary
    assert summary is not None
    noise = summary.noise
    assert noise is not None
    where = "at the last checkpoint" if marked[-1] is measurements[-1] else f"at {one_line(marked[-1].checkpoint)}"
    return f"{_verdict(noise, where, marked[-1].classes or 2)} {detectors(noise)}".strip()


def finding(measurement: Measurement) -> str:
    """What the noisy examples of one checkpoint come to, in a few words; "" where none is marked or comparable."""
    noise = measurement.example_summary.noise if measurement.example_summary else None
    return "" if noise is None else _finding(noise, measurement.classes or 2)


def _finding(noise: NoisyAndClean, classes: int) -> str:
    ratio, accuracy = noise.ratio, noise.noisy.accuracy
    if ratio is None:
        return ""
    if ratio.high < 1:
        return "less than the clean ones"
    if ratio.low <= 1:
        return "no clear difference"
    is_memorised = accuracy is None or _above(accuracy, 1 / classes)
    return "memorising" if is_memorised else "not memorised yet"


def _verdict(noise: NoisyAndClean, where: str, classes: int) -> str:
    ratio, found = noise.ratio, _finding(noise, classes)
    if ratio is None:
        return f"The noisy and the clean examples cannot be compared {where}: a group has no trace, or one example."
    interval = f"95 % interval {number_text(ratio.low)} to {number_text(ratio.high)}"
    carried = f"{number_text(ratio.value)} times the trace of the clean ones {where} ({interval})"
    accuracy = noise.noisy.accuracy
    right = "" if accuracy is None else f"{accuracy.value:.0%} of their labels are predicted"
    ends = {
        "less than the clean ones": f": {found}.",
        "no clear difference": f": {found}, no sign of memorising.",
        "not memorised yet": f", but {right}: they stand out and are {found}.",
        "memorising": f": {found}{'; ' if right else ''}{right}.",
    }
    return f"The noisy examples carry {carried}{ends[found]}"


def _above(estimate: Estimate, value: float) -> bool:
    return estimate.value - value > _CLEAR * (estimate.standard_error or 0.0)


def detectors(noise: NoisyAndClean) -> str:
    """How well three quantities tell noisy labels from clean ones; "" where none is known."""
    named = {
        "the true trace": noise.auroc_true,
        "the empirical trace": noise.auroc_empirical,
        "the loss": noise.auroc_loss,
    }
    found = [f"{name} {_detector(each)}" for name, each in named.items() if each is not None]
    return f"AUROC as detectors of noisy labels (0.5 is chance): {', '.join(found)}." if found else ""


def _detector(estimate: Estimate) -> str:
    """Three decimals, whatever the error is."""
    error = "" if estimate.standard_error is None else "\N{NO-BREAK SPACE}±\N{NO-BREAK SPACE}"
    return f"{estimate.value:.3f}{error}" + (
        "" if estimate.standard_error is None else f"{estimate.standard_error:.3f}"
    )


def concentrated(measurement: Measurement) -> str:
    """How much of the trace the largest examples carry."""
    summary = measurement.example_summary
    if summary is None or not summary.concentration:
        return ""
    first, *others = summary.concentration
    verb = "carry" if first.examples != 1 else "carries"
    said = f"The largest {_count(first.examples)} ({first.fraction:.0%}) {verb} {first.share:.1%} of the true trace at "
    said += place(measurement)
    for each in others:
        said += f", the largest {each.examples:,} ({each.fraction:.0%}) {each.share:.1%}"
    return f"{said}."


def _count(examples: int) -> str:
    return f"{examples:,} example{'s' if examples != 1 else ''}"


_SHORTEST_NAME, _LONGEST_NAME = 14, 40
_MOST_CLASSES = 20
# When a table is too wide these columns go, one group after the other.
_REDUCTIONS = (
    *(("loss_auroc",), ("top10",), ("empirical_auroc",), ("top1",), ("clean", "noisy"), ("step",)),
    *(("empirical",), ("entropy",), ("loss",)),
    *(("true_auroc",), ("accuracy",), ("probability",), ("rank",), ("share",)),
)

Pair = tuple[Measurement, ExampleSummary]


def render_examples(measurements: Sequence[Measurement], width: int, data: str | None = None) -> Group:
    """Which examples carry the trace: a row per checkpoint; classes and largest examples of the last; in words.

    Args:
        measurements: in order of training, with summaries.
        width: columns of the terminal; no line is longer, unless the width is below some 40.
        data: the dataset's name for the title.

    Returns:
        Something that rich can print.
    """
    pairs = [(each, each.example_summary) for each in measurements if each.example_summary is not None]
    parts: list[Text | Table] = [
        *wrapped(title("Fisher information by example", measurements, data, estimator_of(measurements)), width, "bold"),
        Text(""),
    ]
    if not pairs:
        return Group(*parts, *remarks(measurements, width))
    parts += [_table(_run_columns(pairs), width), Text("")]
    last, summary = pairs[-1]
    if len(summary.classes) > 1:
        shown = sorted(summary.classes, key=lambda each: -(each.share or 0.0))[:_MOST_CLASSES]
        left = len(summary.classes) - len(shown)
        heading = f"By class at {place(last)}, the largest share first"
        heading += f"; {left} more with -o FILE" if left else ""
        parts += [*wrapped(heading, width, "bold"), _table(_class_columns(shown), width), Text("")]
    parts += [*wrapped(f"The {len(summary.top)} examples that carry most at {place(last)}", width, "bold")]
    parts += [_table(_top_columns(summary.top), width), Text("")]
    parts += remarks(measurements, width)
    for text in (concentrated(last), memorisation(measurements)):
        parts += wrapped(text, width) if text else []
    parts += [Text(""), *wrapped(_legend(pairs), width, "dim"), Text("")]
    return Group(*parts, *closing_lines(of_examples(last, summary, finding(last)), width))


def _run_columns(pairs: Sequence[Pair]) -> dict[str, TextColumn]:
    noises = [summary.noise for _, summary in pairs]
    ratios = [each.ratio if each else None for each in noises]
    texts = {
        "checkpoint": ("checkpoint", [one_line(each.checkpoint) for each, _ in pairs]),
        "step": ("step", ["" if each.step is None else str(each.step) for each, _ in pairs]),
        "true": ("tr F", _with_errors([each.trace.true if each.trace else None for each, _ in pairs])),
        "top1": ("top 1%", [_concentration(summary, 0) for _, summary in pairs]),
        "top10": ("top 10%", [_concentration(summary, 1) for _, summary in pairs]),
        "clean": ("clean", _with_errors([each.clean.trace_true if each else None for each in noises])),
        "noisy": ("noisy", _with_errors([each.noisy.trace_true if each else None for each in noises])),
        "ratio": (
            "noisy/clean",
            number_texts(
                [each.value if each else None for each in ratios],
                [each.standard_error if each else None for each in ratios],
            ),
        ),
        "true_auroc": ("AUROC tr F", [_auroc(each.auroc_true if each else None) for each in noises]),
        "empirical_auroc": ("AUROC tr F̂", [_auroc(each.auroc_empirical if each else None) for each in noises]),
        "loss_auroc": ("AUROC loss", [_auroc(each.auroc_loss if each else None) for each in noises]),
    }
    return _columns(texts)


def _class_columns(groups: Sequence[ExampleGroup]) -> dict[str, TextColumn]:
    texts = {
        "checkpoint": ("class", [one_line(each.name) for each in groups]),
        "examples": ("examples", [f"{each.examples:,}" for each in groups]),
        "true": ("tr F", _with_errors([each.trace_true for each in groups])),
        "empirical": ("tr F̂", _with_errors([each.trace_empirical for each in groups])),
        "loss": ("loss", _with_errors([each.loss for each in groups])),
        "accuracy": ("acc", ["" if each.accuracy is None else f"{each.accuracy.value:.3f}" for each in groups]),
        "share": ("share", [_percent(each.share) for each in groups]),
    }
    return _columns(texts)


def _top_columns(rows: Sequence[ExampleRow]) -> dict[str, TextColumn]:
    texts = {
        "rank": ("rank", [str(each.rank) for each in rows]),
        "index": ("index", [str(each.index) for each in rows]),
        "label": ("label", [_class(each.label_name, each.label) for each in rows]),
        "predicted": ("predicted", [_class(each.predicted_name, each.predicted) for each in rows]),
        "noise": ("marked", ["noisy" if each.noisy else "" for each in rows]),
        "probability": ("p(label)", ["" if each.probability is None else f"{each.probability:.3f}" for each in rows]),
        "loss": ("loss", number_texts([each.loss for each in rows])),
        "entropy": ("entropy", number_texts([each.entropy for each in rows])),
        "true": ("tr F", number_texts([each.trace_true for each in rows])),
        "empirical": ("tr F̂", number_texts([each.trace_empirical for each in rows])),
        "share": ("share", [_percent(each.share) for each in rows]),
    }
    return _columns(texts)


def _columns(texts: Mapping[str, tuple[str, Sequence[str]]]) -> dict[str, TextColumn]:
    """Those that have something to show."""
    left = {"checkpoint", "label", "predicted", "noise"}
    return {
        key: TextColumn(heading, tuple(cells), "left" if key in left else "right")
        for key, (heading, cells) in texts.items()
        if any(cells)
    }


def _with_errors(estimates: Sequence[Estimate | None]) -> list[str]:
    values = [each.value if each else None for each in estimates]
    return number_texts(values, [each.standard_error if each else None for each in estimates])


def _concentration(summary: ExampleSummary, place: int) -> str:
    return _percent(summary.concentration[place].share) if place < len(summary.concentration) else ""


def _percent(share: float | None) -> str:
    return "" if share is None else f"{share:.1%}"


def _auroc(estimate: Estimate | None) -> str:
    if estimate is None:
        return ""
    error = estimate.standard_error
    return f"{estimate.value:.3f}" if error is None else f"{estimate.value:.3f} ± {error:.3f}"


def _class(name: str | None, number: int | None) -> str:
    """The class by name and number, where the name is more than the number."""
    if number is None:
        return ""
    return str(number) if name is None or name == str(number) else f"{number} {shorten(one_line(name), 20)}"


def _table(columns: dict[str, TextColumn], width: int) -> Table:
    """As many columns as fit; a name takes up the room that is left."""
    kept = dict(columns)
    for group in _REDUCTIONS:
        if _needed(kept) <= width:
            break
        kept = {key: column for key, column in kept.items() if key not in group}
    widths = {key: column.width for key, column in kept.items()}
    if "checkpoint" in kept:
        least = min(widths["checkpoint"], _SHORTEST_NAME)
        widths["checkpoint"] = max(least, min(widths["checkpoint"], _LONGEST_NAME, least + width - _needed(kept)))
    table = empty_table(kept, widths)
    for i in range(max(len(column.cells) for column in kept.values())):
        cells = {key: column.cells[i] for key, column in kept.items()}
        table.add_row(*(Text(shorten(text, widths[key])) for key, text in cells.items()))
    return table


def _needed(columns: Mapping[str, TextColumn]) -> int:
    """The width of these columns, a name at its shortest."""
    name = {"checkpoint": _SHORTEST_NAME}
    return total_width([min(column.width, name.get(key, column.width)) for key, column in columns.items()])


def _legend(pairs: Sequence[Pair]) -> str:
    """What the columns mean that say it too shortly."""
    text = (
        "tr F: Σ_c p_c ‖∇ log p_c‖² of an example, or its mean over a group; tr F̂: ‖∇ log p(label)‖²; share: part of "
    )
    text += "the true trace of all examples; top 1%, top 10%: share of the largest"
    if any(summary.noise for _, summary in pairs):
        text += "; clean, noisy: mean tr F of the examples that --labels marks so; AUROC: of tr F, tr F̂ and the loss as"
        text += " detectors of noisy labels"
    return text
