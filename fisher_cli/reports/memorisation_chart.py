"""What a network makes of examples with wrong labels, along training: their part in the trace, and what tells them."""

import math
from collections.abc import Mapping
from typing import Any, Final

from fisher_cli.reports.chart_parts import MOST_LABELLED, WIDTH, Runs, along, height, sentences, short_name
from fisher_cli.reports.drawing import GRID, Chart, canvas, legend_above, line, mark_run, value_axis
from fisher_cli.reports.numbers import number_text
from fisher_cli.reports.reported_run import ReportedRun
from fisher_cli.text import unescape

_DETECTORS: Final = {"trace_true": "true term", "trace_empirical": "empirical term", "loss": "loss"}
Numbers = Mapping[str, list[float]]
"""By the name of a column of the chart, a value per row of the run; NaN where it is not known."""


def memorisation(runs: Runs, width: float = WIDTH) -> Chart | None:
    """Noisy over clean examples in the true trace with its interval, and the AUROC of three detectors, along training.

    Args:
        runs: those whose examples are marked noisy in their table of examples are drawn.
        width: of the figure, in inches.

    Returns:
        None where no run has such examples.
    """
    found = [(i, run, known) for i, run in enumerate(runs) if (known := _numbers(run))]
    if not found:
        return None
    figure, (above, below) = canvas(width, 1.55 * height(width), 2)
    shown, several = [run for _, run, _ in found], len(runs) > 1
    for (i, run, known), (_, x) in zip(found, along(above, shown), strict=True):
        name = f"{short_name(run.name)}: " if several else ""
        line(above, x, known["ratio"], None, i, f"{name}noisy to clean", dash=0, hollow=run.doubted)
        kept = [k for k, value in enumerate(known["low"]) if math.isfinite(value) and not run.doubted[k]]
        band = above.fill_between(
            [x[k] for k in kept],
            [known["low"][k] for k in kept],
            [known["high"][k] for k in kept],
            color=above.lines[-1].get_color(),
            alpha=0.2,
            lw=0,
        )
        mark_run(band, i)
        for series, (column, word) in enumerate(_DETECTORS.items()):
            colour, label = (i, f"{name}{word}") if several else (series, word)
            label = label if series == 0 or len(found) <= MOST_LABELLED else "_"
            errors = known[f"auroc_{column}_se"]
            line(below, x, known[f"auroc_{column}"], errors, colour, label, dash=series, hollow=run.doubted)
    value_axis(
        above,
        [
            value
            for _, run, known in found
            for name in ("ratio", "low")
            for value, is_doubted in zip(known[name], run.doubted, strict=True)
            if value > 0 and not is_doubted
        ],
    )
    above.axhline(1, color=GRID, lw=1, zorder=0)
    above.set_xlabel("")
    above.set_ylabel("noisy / clean, true term")
    along(below, shown)
    below.axhline(0.5, color=GRID, lw=1, zorder=0)
    below.set_ylim(0, 1.03)
    below.set_ylabel("AUROC: noisy above clean")
    legend_above(below)  # a run's true term has the line of its ratio above
    return Chart(
        "memorisation",
        sentences(shown, [_said(run, known) for _, run, known in found], several=several),
        "Above: the mean true term of the noisy examples over that of the clean ones, with its interval of 95 %; 1 is"
        " no difference. Below: the probability that a noisy example has a larger value than a clean one, ± 2 standard"
        " errors; 0.5 is chance. Solid: true term; dashed: empirical term; dotted: loss.",
        figure,
        [*(["run"] if several else []), "checkpoint", *found[0][2]],
        [
            [*([run.name] if several else []), place, *(column[k] for column in known.values())]
            for _, run, known in found
            for k, place in enumerate(run.places)
        ],
        heading="Noisy and clean examples",
    )


def _numbers(run: ReportedRun) -> Numbers:
    """What the record of the table of examples says of noisy and clean ones, by the rows of the run; {} for nothing.

    The table says which of its checkpoints each row is, and is not there where it is of other data.
    """
    listed = run.records.get("examples", run.record).get("checkpoints")
    entries = {
        unescape(str(each.get("checkpoint"))): _mapping(each.get("examples"))
        for each in (listed if isinstance(listed, list) else ())
        if isinstance(each, Mapping)
    }
    tables = [run.rows("examples", int(order)) for order in run.column("order")]
    rows = [{} if each is None else entries.get(str(each["checkpoint"].iloc[0]), {}) for each in tables]
    if not any("auroc" in row for row in rows):
        return {}
    ratios = [_mapping(row.get("noisy_to_clean")) for row in rows]
    found = {
        name: [_number(each.get(key)) for each in ratios]
        for name, key in {"ratio": "value", "low": "low", "high": "high"}.items()
    }
    for column in _DETECTORS:
        known = [_mapping(_mapping(row.get("auroc")).get(column)) for row in rows]
        found[f"auroc_{column}"] = [_number(each.get("value")) for each in known]
        found[f"auroc_{column}_se"] = [_number(each.get("se")) for each in known]
    return found


def _said(run: ReportedRun, known: Numbers) -> str:
    """Where noisy examples weigh most, and what tells them at the end."""
    counted = [k for k, value in enumerate(known["ratio"]) if math.isfinite(value) and not run.doubted[k]]
    told_at = [k for k, value in enumerate(known["auroc_loss"]) if math.isfinite(value) and not run.doubted[k]]
    parts = []
    if counted:
        most = max(counted, key=lambda k: known["ratio"][k])
        interval = f"{number_text(known['low'][most])} to {number_text(known['high'][most])}"
        parts.append(
            f"noisy examples carry {number_text(known['ratio'][most])} times the true term of clean ones at "
            f"{run.places[most]}, where it is largest (interval {interval})"
        )
    if told_at:
        last = told_at[-1]
        told = ", ".join(f"{known[f'auroc_{name}'][last]:.2f} by the {word}" for name, word in _DETECTORS.items())
        parts.append(f"the AUROC at {run.places[last]} is {told}")
    return "; ".join(parts) or "no checkpoint tells noisy examples from clean ones"


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _number(value: Any) -> float:
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else math.nan
