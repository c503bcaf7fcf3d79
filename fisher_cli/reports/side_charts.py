"""Figures of the tables beside a report: shares of the layers, spectra and densities."""

import math
from dataclasses import replace

from fisher_cli.cells import one_line
from fisher_cli.reports.charts import WIDTH, Runs, height
from fisher_cli.reports.drawing import Chart, canvas, line, logarithmic
from fisher_cli.reports.layout import shorten
from fisher_cli.reports.numbers import number_text
from fisher_cli.reports.reported_run import ReportedRun, numbers
from fisher_cli.trajectory import trajectory_of

# Eigenvalues of a spectrum that are listed beside its figure: all up to here, then some of each decade.
_LISTED = 20
_PER_DECADE = 8


def layers(runs: Runs, width: float = WIDTH) -> Chart | None:
    """The layers' shares of tr F as a map, layers × checkpoints, for the first report."""
    run = runs[0]
    shares = _shares(run)
    if not shares:
        return None
    figure, (axes,) = canvas(width, max(height(width), 0.9 + 0.155 * len(shares)))
    grid = [[max(0.0, value) for value in row] for row in shares.values()]
    image = axes.imshow(grid, aspect="auto", interpolation="none", vmin=0, cmap="cividis")
    size = min(8.5, max(6.0, 400 / len(shares)))
    axes.set_yticks(range(len(shares)), [shorten(one_line(name), 26) for name in shares], fontsize=size)
    every = max(1, math.ceil(len(run.places) / (2.6 * width)))
    ticks = range(0, len(run.places), every)
    labels = [shorten(run.places[i].removeprefix("step "), 12) for i in ticks]
    axes.set_xticks(list(ticks), labels, rotation=45, ha="right", rotation_mode="anchor")
    axes.set_xlabel("training step of the checkpoint")
    axes.grid(visible=False)
    figure.colorbar(image, ax=axes, label="share of tr F", pad=0.02, aspect=max(20, len(shares)))
    rows = [[name, *row] for name, row in shares.items()]
    said = _layers_said(run, {name: row for name, row in shares.items()})
    named = f"{run.name}: {said}" if len(runs) > 1 else f"{said[0].upper()}{said[1:]}"
    note = "Each column sums to one. The brighter, the larger the tensor's part of the true trace."
    return Chart("layers", f"{named}.", note, figure, ["layer", *run.places], rows, heading="Shares of the layers")


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
    """The eigenvalues in descending order, or their density; of three rows of the first report."""
    run = runs[0]
    chart = _spectrum_of(run, width)
    if chart is None or len(runs) == 1:
        return chart
    return replace(chart, finding=f"{run.name}: {chart.finding}")


def _spectrum_of(run: ReportedRun, width: float) -> Chart | None:
    if "spectrum" in run.sides and any(value > 0 for value in numbers(run.sides["spectrum"], "eigenvalue")):
        return _drawn(run, "spectrum", ("index", "eigenvalue"), width)
    return _drawn(run, "density", ("lambda", "density"), width) if "density" in run.sides else None


def _drawn(run: ReportedRun, word: str, names: tuple[str, str], width: float) -> Chart:
    table = run.sides[word]
    table = table[table["matrix"] == "true Fisher"] if (table["matrix"] == "true Fisher").any() else table
    matrix = str(table["matrix"].iloc[0])
    figure, (axes,) = canvas(width, height(width))
    rows: list[list[object]] = []
    for series, order in enumerate(_chosen(run, sorted(set(table["order"].dropna().tolist())))):
        part = table[(table["order"] == order).fillna(False)]
        x, y = numbers(part, names[0]), numbers(part, names[1])
        kept = [i for i in range(len(x)) if x[i] > 0 and y[i] > 0]
        listed = [i for i in kept if word == "density" or _is_listed(int(x[i]))]
        step = run.places[order] if order < len(run.places) else str(part["checkpoint"].iloc[0])
        line(axes, [x[i] for i in listed], [y[i] for i in listed], None, series, step)
        rows += [[step, part[names[0]].iloc[i], part[names[1]].iloc[i]] for i in listed]
    logarithmic(axes, "x")
    logarithmic(axes)
    for drawn in axes.lines:
        drawn.set_marker("")
    axes.set_xlabel("place in descending order" if word == "spectrum" else "eigenvalue λ (1/weight²)")
    axes.set_ylabel("eigenvalue (1/weight²)" if word == "spectrum" else "share of eigenvalues per decade")
    axes.legend(loc="best")
    note = f"Of the {matrix}, at the first, the peak's and the last of the checkpoints that were analysed."
    return Chart(
        "spectrum",
        _spectrum_said(run, table, word),
        note,
        figure,
        ["checkpoint", *names],
        rows,
        heading="Spectrum" if word == "spectrum" else "Density of the eigenvalues",
    )


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
        return "The density of the eigenvalues shows how many directions the data determine, decade by decade."
    part = table[table["order"] == table["order"].max()]  # type: ignore[index]
    shares, values = numbers(part, "trace_share"), numbers(part, "eigenvalue")
    half = next((i for i, share in enumerate(shares, start=1) if share >= 0.5), None)
    count = sum(value > 0 for value in values)
    place = run.places[int(part["order"].iloc[0])] if int(part["order"].iloc[0]) < len(run.places) else "the last row"
    carries = f"; {half} of {count} eigenvalues hold half of the trace" if half else ""
    return f"At {place} the largest eigenvalue is {number_text(max(values))}{carries}."
