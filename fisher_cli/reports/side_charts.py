"""Figures of the tables beside a report: shares of the layers, spectra and densities."""

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from matplotlib.axes import Axes
from matplotlib.image import AxesImage

from fisher_cli.reports.charts import WIDTH, Runs, height, sentences
from fisher_cli.reports.drawing import Chart, canvas, line, logarithmic
from fisher_cli.reports.layout import shorten
from fisher_cli.reports.numbers import number_text
from fisher_cli.reports.reported_run import ReportedRun, numbers
from fisher_cli.tables.trajectory import trajectory_of
from fisher_cli.text import one_line

if TYPE_CHECKING:
    import pandas as pd

# Eigenvalues of a spectrum that are listed beside its figure: all up to here, then some of each decade.
_LISTED = 20
_PER_DECADE = 8


def layers(runs: Runs, width: float = WIDTH) -> Chart | None:
    """The layers' shares of tr F as maps, layers × checkpoints, one below the other for several reports."""
    found = [(run, shares) for run in runs if (shares := _shares(run))]
    if not found:
        return None
    heights = [max(height(width) if len(found) == 1 else 1.6, 0.9 + 0.155 * len(shares)) for _, shares in found]
    figure, panels = canvas(width, sum(heights), len(found), heights)
    brightest = max(value for _, shares in found for row in shares.values() for value in row if math.isfinite(value))
    for axes, (run, shares) in zip(panels, found, strict=True):
        image = _map(axes, run, shares, brightest, width)
        if len(runs) > 1:
            axes.set_title(shorten(run.name, 40), loc="left", fontsize="medium")
    panels[-1].set_xlabel("training step of the checkpoint")
    longest = max(len(shares) for _, shares in found)
    figure.colorbar(image, ax=panels, label="share of tr F", pad=0.02, aspect=max(20, longest * len(found)))
    note = "Each column sums to one. The brighter, the larger the tensor's part of the true trace."
    said = [_layers_said(run, shares) for run, shares in found]
    finding = sentences([run for run, _ in found], said, several=len(runs) > 1)
    columns, rows = _listed_shares(found, several=len(runs) > 1)
    return Chart("layers", finding, note, figure, columns, rows, heading="Shares of the layers")


def _map(axes: Axes, run: ReportedRun, shares: Mapping[str, list[float]], brightest: float, width: float) -> AxesImage:
    """One report's shares, by a scale that all reports have in common."""
    grid = [[max(0.0, value) for value in row] for row in shares.values()]
    image = axes.imshow(grid, aspect="auto", interpolation="none", vmin=0, vmax=brightest, cmap="cividis")
    size = min(8.5, max(6.0, 400 / len(shares)))
    axes.set_yticks(range(len(shares)), [shorten(one_line(name), 26) for name in shares], fontsize=size)
    every = max(1, math.ceil(len(run.places) / (2.6 * width)))
    ticks = range(0, len(run.places), every)
    labels = [shorten(run.places[i].removeprefix("step "), 12) for i in ticks]
    axes.set_xticks(list(ticks), labels, rotation=45, ha="right", rotation_mode="anchor")
    axes.grid(visible=False)
    return image


def _listed_shares(
    found: Sequence[tuple[ReportedRun, Mapping[str, list[float]]]], *, several: bool
) -> tuple[list[str], list[list[object]]]:
    """The numbers of the maps: of one report a column per checkpoint, of several a row per checkpoint and layer."""
    if not several:
        ((run, shares),) = found
        return ["layer", *run.places], [[name, *row] for name, row in shares.items()]
    rows: list[list[object]] = [
        [run.name, place, name, row[i]]
        for run, shares in found
        for i, place in enumerate(run.places)
        for name, row in shares.items()
        if math.isfinite(row[i])
    ]
    return ["report", "checkpoint", "layer", "share"], rows


def _shares(run: ReportedRun) -> dict[str, list[float]]:
    """Each layer's share at each checkpoint, NaN where it has none."""
    table = run.sides.get("layers")
    if table is None or "layer" not in table:
        return {}
    found: dict[str, list[float]] = {}
    for layer, order, share in zip(table["layer"], table["order"], numbers(table, "share"), strict=True):
        if 0 <= order < len(run.main):
            found.setdefault(str(layer), [math.nan] * len(run.main))[int(order)] = share
    return found if any(math.isfinite(value) for row in found.values() for value in row) else {}


def _layers_said(run: ReportedRun, shares: dict[str, list[float]]) -> str:
    known = [i for i in range(len(run.main)) if any(math.isfinite(row[i]) for row in shares.values())]
    first, last = known[0], known[-1]
    top = max(shares, key=lambda name: shares[name][last] if math.isfinite(shares[name][last]) else -1.0)
    before = f", {shares[top][first]:.0%} at first" if first != last else ""
    return f"{one_line(top)} carries most of the true trace at {run.places[last]}: {shares[top][last]:.0%}{before}"


def spectrum(runs: Runs, width: float = WIDTH) -> Chart | None:
    """The eigenvalues in descending order, or their density: of one report three rows, of several the last of each."""
    words = {run.name: word for run in runs if (word := _word(run))}
    if not words:
        return None
    word = "spectrum" if "spectrum" in words.values() else "density"
    shown = [run for run in runs if _has(run, word)]
    names = ("index", "eigenvalue") if word == "spectrum" else ("lambda", "density")
    figure, (axes,) = canvas(width, height(width))
    rows: list[list[object]] = []
    for i, run in enumerate(shown):
        rows += _curves(axes, run, word, names, None if len(runs) == 1 else i)
    logarithmic(axes, "x")
    logarithmic(axes)
    for drawn in axes.lines:
        drawn.set_marker("")
    axes.set_xlabel("place in descending order" if word == "spectrum" else "eigenvalue λ (1/weight²)")
    axes.set_ylabel("eigenvalue (1/weight²)" if word == "spectrum" else "share of eigenvalues per decade")
    axes.legend(loc="best")
    said = [_spectrum_said(run, _table(run, word), word) for run in shown]
    matrices = " and the ".join(dict.fromkeys(str(_table(run, word)["matrix"].iloc[0]) for run in shown))
    which = "the first, the peak's and the last" if len(runs) == 1 else "the last"
    return Chart(
        "spectrum",
        sentences(shown, said, several=len(runs) > 1),
        f"Of the {matrices}, at {which} of the checkpoints that were analysed.",
        figure,
        [*(["report"] if len(runs) > 1 else []), "checkpoint", *names],
        rows,
        heading="Spectrum" if word == "spectrum" else "Density of the eigenvalues",
    )


def _word(run: ReportedRun) -> str | None:
    """Which of the tables of eigenvalues a report has."""
    return next((word for word in ("spectrum", "density") if _has(run, word)), None)


def _has(run: ReportedRun, word: str) -> bool:
    return word in run.sides and (
        word == "density" or any(value > 0 for value in numbers(run.sides["spectrum"], "eigenvalue"))
    )


def _table(run: ReportedRun, word: str) -> "pd.DataFrame":
    """The rows of the true Fisher, or of the empirical one where only that was analysed."""
    table = run.sides[word]
    return table[table["matrix"] == "true Fisher"] if (table["matrix"] == "true Fisher").any() else table


def _curves(axes: Axes, run: ReportedRun, word: str, names: tuple[str, str], series: int | None) -> list[list[object]]:
    """Draw a report's eigenvalues; those behind the lines, as rows. `series`: the report's place among several."""
    table = _table(run, word)
    orders = sorted(set(table["order"].dropna().tolist()))
    rows: list[list[object]] = []
    for i, order in enumerate(_chosen(run, orders) if series is None else orders[-1:]):
        part = table[(table["order"] == order).fillna(False)]
        x, y = numbers(part, names[0]), numbers(part, names[1])
        kept = [k for k in range(len(x)) if x[k] > 0 and y[k] > 0]
        listed = [k for k in kept if word == "density" or _is_listed(int(x[k]))]
        step = run.places[order] if order < len(run.places) else str(part["checkpoint"].iloc[0])
        label = step if series is None else f"{shorten(run.name, 28)}, {step}"
        line(axes, [x[k] for k in listed], [y[k] for k in listed], None, i if series is None else series, label)
        of = [] if series is None else [run.name]
        rows += [[*of, step, part[names[0]].iloc[k], part[names[1]].iloc[k]] for k in listed]
    return rows


def _chosen(run: ReportedRun, orders: list[int]) -> list[int]:
    """The first, the peak's and the last of these rows."""
    found = trajectory_of(run.measurements)
    peak = [found.peak] if found is not None and found.peak in orders else []
    return list(dict.fromkeys([orders[0], *peak, orders[-1]])) if len(orders) > 1 else orders


def _is_listed(index: int) -> bool:
    """Whether an eigenvalue of this place is drawn and listed."""
    if index <= _LISTED:
        return True
    return math.floor(_PER_DECADE * 4 * math.log10(index)) != math.floor(_PER_DECADE * 4 * math.log10(index - 1))


def _spectrum_said(run: ReportedRun, table: object, word: str) -> str:
    if word == "density":
        return "the density of the eigenvalues shows how many directions the data determine, decade by decade"
    part = table[table["order"] == table["order"].max()]  # type: ignore[index]
    shares, values = numbers(part, "trace_share"), numbers(part, "eigenvalue")
    half = next((i for i, share in enumerate(shares, start=1) if share >= 0.5), None)
    count = sum(value > 0 for value in values)
    place = run.places[int(part["order"].iloc[0])] if int(part["order"].iloc[0]) < len(run.places) else "the last row"
    carries = f"; {half} of {count} eigenvalues hold half of the trace" if half else ""
    return f"at {place} the largest eigenvalue is {number_text(max(values))}{carries}"
