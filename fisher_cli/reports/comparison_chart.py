"""How far the empirical Fisher is from the true one along training, beside what the model's own labels would give."""

import math
from typing import Final

from fisher_cli.reports.chart_parts import MOST_LABELLED, WIDTH, Runs, along, height, sentences, short_name
from fisher_cli.reports.drawing import Chart, canvas, legend_above, line
from fisher_cli.reports.numbers import number_text
from fisher_cli.reports.reported_run import ReportedRun, numbers

_COLUMNS: Final = tuple(f"matrix_{what}{end}" for what in ("cosine", "difference") for end in ("", "_null", "_null_sd"))


def comparison(runs: Runs, width: float = WIDTH) -> Chart | None:
    """Cosine and relative distance of F̂ and F along training, each beside its null ± 2 standard deviations.

    Args:
        runs: those with a table of `fisher compare true-vs-empirical` are drawn.
        width: of the figure, in inches.

    Returns:
        None where no run has one.
    """
    found = [(i, run, known) for i, run in enumerate(runs) if (known := _numbers(run))]
    if not found:
        return None
    shown, several = [run for _, run, _ in found], len(runs) > 1
    figure, panels = canvas(width, 1.55 * height(width), 2)
    for axes, what in zip(panels, ("cosine", "difference"), strict=True):
        for (i, run, known), (_, x) in zip(found, along(axes, shown), strict=True):
            name = f"{short_name(run.name)}: " if several else ""
            line(axes, x, known[f"matrix_{what}"], None, i, f"{name}measured", dash=0, hollow=run.doubted)
            other, deviations = (i if several else 1), known[f"matrix_{what}_null_sd"]
            label = f"{name}null" if len(found) <= MOST_LABELLED else "_"
            line(axes, x, known[f"matrix_{what}_null"], deviations, other, label, dash=1, hollow=run.doubted)
        axes.set_ylim(bottom=0, top=1.03 if what == "cosine" else None)
    legend_above(panels[0])  # the lines of both panels have the same names
    panels[0].set_xlabel("")
    panels[0].set_ylabel("cosine of F̂ and F")
    panels[1].set_ylabel("distance ‖F̂ − F‖ / ‖F‖")
    return Chart(
        "comparison",
        sentences(shown, [_said(run, known) for _, run, known in found], several=several),
        "Dashed: the null, what labels drawn from the model's own predictions would give for these examples, ± 2"
        " standard deviations of the draws. Outside of the band the difference is more than chance.",
        figure,
        [*(["run"] if several else []), "checkpoint", *_COLUMNS],
        [
            [*([run.name] if several else []), place, *(known[name][k] for name in _COLUMNS)]
            for _, run, known in found
            for k, place in enumerate(run.places)
        ],
        heading="True and empirical matrix",
    )


def _numbers(run: ReportedRun) -> dict[str, list[float]]:
    """The columns of the comparison by the rows of the run, NaN where a checkpoint was not compared; {} for none."""
    tables = [run.rows("compare", int(order)) for order in run.column("order")]
    known = {name: [math.nan if table is None else numbers(table, name)[0] for table in tables] for name in _COLUMNS}
    return known if any(map(math.isfinite, known["matrix_cosine"])) else {}


def _said(run: ReportedRun, known: dict[str, list[float]]) -> str:
    """How alike the matrices are at the last checkpoint, and how often the null does not explain that."""
    cosine, null, deviation = (known[f"matrix_cosine{end}"] for end in ("", "_null", "_null_sd"))
    counted = [k for k in range(len(cosine)) if math.isfinite(cosine[k]) and not run.doubted[k]]
    if not counted:
        return "no checkpoint that is counted was compared"
    last = counted[-1]
    said = f"the cosine of F̂ and F is {number_text(cosine[last])} at {run.places[last]}"
    if math.isfinite(null[last]):
        said += f" and would be {number_text(null[last])} if the labels were the model's own"
    judged = [k for k in counted if math.isfinite(null[k]) and math.isfinite(deviation[k])]
    below = sum(cosine[k] < null[k] - 2 * deviation[k] for k in judged)
    above = sum(cosine[k] > null[k] + 2 * deviation[k] for k in judged)
    if not judged:
        return said
    return (
        f"{said}; of {len(judged)} checkpoints it is below that by more than two standard deviations at {below}, "
        f"above at {above}"
    )
