"""A run in figures along training, each with its finding in words and the numbers behind it."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from itertools import groupby
from typing import TYPE_CHECKING, Final

from fisher_cli.reports.chart_parts import (
    MOST_LABELLED,
    WIDTH,
    Runs,
    along,
    columns_of,
    each_run,
    has_same_rows,
    height,
    sentences,
    short_name,
    steps_of,
    subscript,
)
from fisher_cli.reports.comparison_chart import comparison
from fisher_cli.reports.drawing import (
    GREEN,
    GRID,
    INK,
    PAPER_TEXT,
    Chart,
    canvas,
    legend_above,
    line,
    logarithmic,
    mark_run,
    style,
    value_axis,
    without_bands,
)
from fisher_cli.reports.layout import shorten
from fisher_cli.reports.memorisation_chart import memorisation
from fisher_cli.reports.numbers import number_text, number_texts, unbroken
from fisher_cli.reports.reported_run import ReportedRun, numbers
from fisher_cli.tables.trajectory import trajectory_of
from fisher_cli.text import one_line

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.image import AxesImage


Shares = Mapping[str, list[float]]
# Rows of a map of shares that can still be read.
MOST_ROWS: Final = 24
# Bands of more runs cover each other.
MOST_BANDS: Final = 4
# Maps below each other.
MOST_MAPS: Final = 6


def traces(runs: Runs, width: float = WIDTH, is_logarithmic: bool | None = None) -> Chart | None:
    """tr F and tr F̂ along training, with bands of ± 2 standard errors; of one run the peak and the phases too."""
    figure, (axes,) = canvas(width, height(width))
    for i, (run, x) in enumerate(along(axes, runs)):
        _traces_of(axes, run, x, i, len(runs))
    true, empirical = ([v for run in runs for v in run.counted(name)] for name in ("trace_true", "trace_empirical"))
    # The empirical trace may fall to nothing; it is the true one that has to be seen.
    is_logarithmic = value_axis(axes, [*true, *empirical], is_logarithmic, lowest=true)
    bottom, top = axes.get_ylim()
    if len(runs) == 1:  # room for the words of the phases
        axes.set_ylim(top=top * (top / bottom) ** 0.12 if is_logarithmic else top * 1.12)
        _mark_phases(axes, runs[0])
    axes.set_ylabel(f"trace (1/weight²{', logarithmic' if is_logarithmic else ''})")
    legend_above(axes)
    return Chart(
        "traces",
        each_run(runs, _peak),
        "Bands: ± 2 standard errors over examples. Solid: true Fisher; dashed: empirical Fisher."
        + (" Triangle: the peak. Shaded: every other phase." if len(runs) == 1 else ""),
        figure,
        *columns_of(runs, "trace_true", "trace_true_se", "trace_empirical", "trace_empirical_se", "phase"),
        heading="True and empirical trace",
    )


def _traces_of(axes: "Axes", run: ReportedRun, x: Sequence[float], i: int, total: int) -> None:
    """Both traces of a run; alone in two colours, among others in one."""
    errors = run.column("trace_true_se")
    if "trace_true_estimator_se" in run.main:
        errors = [math.hypot(*both) for both in zip(errors, run.column("trace_true_estimator_se"), strict=True)]
    name = f"{short_name(run.name)}: " if total > 1 else ""
    line(axes, x, run.column("trace_true"), errors, i, f"{name}true", dash=0, hollow=run.doubted)
    other = 1 if total == 1 else i
    empirical, empirical_errors = run.column("trace_empirical"), run.column("trace_empirical_se")
    label = f"{name}empirical" if total <= MOST_LABELLED else "_"
    line(axes, x, empirical, empirical_errors, other, label, dash=1, hollow=run.doubted)
    found = trajectory_of(run.measurements)
    if found is not None:
        peak = run.column("trace_true")[found.peak]
        marks = axes.plot(
            [x[found.peak]], [peak], marker="v", markersize=8, color=INK, fillstyle="none", linestyle="none"
        )
        marks[0].set_clip_on(False)
        mark_run(marks[0], i)


def _mark_phases(axes: "Axes", run: ReportedRun) -> None:
    """Shade every other phase and name those that are wide enough."""
    x = steps_of([run])[0][0]
    phases = [value if isinstance(value, str) else "" for value in run.main["phase"].tolist()]
    axes.set_xlim(min(x), max(x) if max(x) > min(x) else min(x) + 1)
    to_axes = axes.transScale + axes.transLimits
    edge = min(x)
    for number, (phase, group) in enumerate(groupby(range(len(x)), key=lambda i: phases[i])):
        last = list(group)[-1]
        end = (x[last] + x[last + 1]) / 2 if last + 1 < len(x) else x[last]
        if phase and end > edge:
            if number % 2 == 0:
                axes.axvspan(edge, end, color=GRID, alpha=0.25, lw=0)
            left, right = (float(to_axes.transform((each, 0))[0]) for each in (edge, end))
            short = phase.removesuffix(" early").removesuffix(", converged")
            if right - left > 0.028 * len(short) * (5.0 / float(axes.get_figure(root=True).get_size_inches()[0])):  # type: ignore[union-attr]
                axes.text(
                    (left + right) / 2, 0.98, short, transform=axes.transAxes, ha="center", va="top", fontsize="smaller"
                )
        edge = end


def _peak(run: ReportedRun) -> str:
    """Where the true trace is largest, where it ends, and the empirical one's part there."""
    found = trajectory_of(run.measurements)
    if found is None:
        return "no checkpoint gave a trace"
    true, errors = run.counted("trace_true"), run.counted("trace_true_se")
    texts = [unbroken(text) for text in number_texts(true, errors)]
    if found.first == found.last:
        said = f"the true trace is {texts[found.peak]}"
    elif found.peak == found.last:
        said = f"the true trace is largest at the end: {texts[found.peak]} at {run.places[found.peak]}"
    else:
        said = (
            f"the true trace is largest at {run.places[found.peak]} ({texts[found.peak]}) and ends at "
            f"{texts[found.last]}"
        )
    ratio = run.counted("trace_ratio")[found.last]
    return said + (f"; the empirical trace is {number_text(ratio)} of it there" if math.isfinite(ratio) else "")


def ratio(runs: Runs, width: float = WIDTH) -> Chart | None:
    """tr F̂/tr F along training; of one run with the interval that labels drawn from the model would give."""
    figure, (axes,) = canvas(width, height(width))
    for i, (run, x) in enumerate(along(axes, runs)):
        line(
            axes,
            x,
            run.column("trace_ratio"),
            run.column("trace_ratio_se"),
            i,
            short_name(run.name) if len(runs) > 1 else "measured",
            hollow=run.doubted,
        )
    axes.axhline(1.0, color=INK, lw=0.8)
    names, null = ["trace_ratio", "trace_ratio_se"], [math.nan]
    if len(runs) == 1 and (compared := runs[0].sides.get("compare")) is not None and has_same_rows(runs[0], compared):
        null = numbers(compared, "trace_ratio_null_sd")
        x = steps_of(runs)[0][0]
        low, high = [1 - 2 * each for each in null], [1 + 2 * each for each in null]
        axes.fill_between(x, low, high, color=GREEN, alpha=0.25, lw=0, label="labels drawn from the model, ± 2 sd")
    measured = [value for run in runs for value in run.counted("trace_ratio") if math.isfinite(value)]
    highest = max(2.0, 1.5 * max(measured, default=1.0))
    axes.set_ylim(bottom=0, top=min(axes.get_ylim()[1], highest))
    axes.set_ylabel("empirical trace / true trace")
    if len(runs) > 1 or math.isfinite(null[0]):
        legend_above(axes)
    note = "Band: ± 2 standard errors. One is where labels follow the model."
    if 1 + 2 * max((each for each in null if math.isfinite(each)), default=0.0) > highest:
        note += " The band of labels drawn from the model goes beyond the axis."
    return Chart(
        "ratio", each_run(runs, _ratio_said), note, figure, *columns_of(runs, *names), heading="Empirical over true"
    )


def _ratio_said(run: ReportedRun) -> str:
    values, errors = run.counted("trace_ratio"), run.counted("trace_ratio_se")
    known = [i for i, value in enumerate(values) if math.isfinite(value)]
    if not known:
        return "no ratio is known"
    first, last = (unbroken(number_text(values[i], errors[i])) for i in (known[0], known[-1]))
    if len(known) == 1:
        return f"the empirical trace is {first} of the true one"
    return f"the empirical trace is {first} of the true one at first and {last} at {run.places[known[-1]]}"


def loss(runs: Runs, width: float = WIDTH, is_logarithmic: bool | None = None) -> Chart | None:
    """Loss above, accuracy below, on one axis of steps."""
    has_accuracy = any(math.isfinite(value) for run in runs for value in run.column("accuracy"))
    figure, axes = canvas(width, height(width) * (1.25 if has_accuracy else 1.0), 2 if has_accuracy else 1)
    names = ["loss", "accuracy"][: len(axes)]
    for each, name in zip(axes, names, strict=True):
        for i, (run, x) in enumerate(along(each, runs)):
            line(each, x, run.column(name), run.column(f"{name}_se"), i, short_name(run.name), hollow=run.doubted)
        values = [value for run in runs for value in run.counted(name)]
        is_wide = value_axis(each, values, is_logarithmic if name == "loss" else False)
        each.set_ylabel(f"loss (nats{', logarithmic' if is_wide else ''})" if name == "loss" else "accuracy")
        each.label_outer()
    if len(runs) > 1:
        legend_above(axes[0])
    shown = [each for name in names for each in (name, f"{name}_se")]
    note = "Bands: ± 2 standard errors. On the examples of this analysis, in evaluation mode."
    return Chart(
        "loss", each_run(runs, _loss_said), note, figure, *columns_of(runs, *shown), heading="Loss and accuracy"
    )


def _loss_said(run: ReportedRun) -> str:
    said = [
        f"{what} {text}"
        for what, name in (("the loss goes", "loss"), ("the accuracy", "accuracy"))
        if (text := _from_to(run, name))
    ]
    return " and ".join(said) or "no loss is known"


def _from_to(run: ReportedRun, name: str) -> str:
    known = [value for value in run.counted(name) if math.isfinite(value)]
    texts = [f"{value:.3g}" for value in (*known[:1], *known[-1:])]
    return f"from {texts[0]} to {texts[1]}" if known else ""


def eigenvalues(runs: Runs, width: float = WIDTH) -> Chart | None:
    """The leading eigenvalues of the true Fisher along training, and the empirical Fisher's largest."""
    count = _eigenvalue_count(runs[0])
    if not count or not any(math.isfinite(value) for run in runs for value in run.column("eig_true_1")):
        return None
    figure, (axes,) = canvas(width, height(width))
    several = len(runs) > 1
    for i, (run, x) in enumerate(along(axes, runs)):
        name = f"{short_name(run.name)}: " if several else ""
        for k in range(1, 2 if several else count + 1):
            label = f"{name}true, λ₁{'' if several or count == 1 else f' to λ{subscript(count)}'}" if k == 1 else ""
            values = [value if value > 0 else math.nan for value in run.column(f"eig_true_{k}")]
            alpha = 1.0 - 0.6 * (k - 1) / max(1, count - 1)
            line(axes, x, values, None, i, label or "_", alpha=alpha, dash=0, hollow=run.doubted)
        values = [value if value > 0 else math.nan for value in run.column("eig_empirical_1")]
        label = f"{name}empirical, λ₁" if len(runs) <= MOST_LABELLED else "_"
        line(axes, x, values, None, i if several else 1, label, dash=1, hollow=run.doubted)
    logarithmic(axes)
    axes.set_ylabel("eigenvalue (1/weight²)")
    legend_above(axes)
    names = [f"eig_{which}_{k}" for k in range(1, count + 1) for which in ("true", "empirical")]
    note = "The paler, the smaller the eigenvalue. Residuals are in the table."
    return Chart(
        "eigenvalues",
        each_run(runs, _eigenvalues_said),
        note,
        figure,
        *columns_of(runs, *names),
        heading="Leading eigenvalues",
    )


def _eigenvalue_count(run: ReportedRun) -> int:
    count = 0
    while f"eig_true_{count + 1}" in run.main:
        count += 1
    return count


def _eigenvalues_said(run: ReportedRun) -> str:
    values, trace = run.counted("eig_true_1"), run.counted("trace_true")
    known = [i for i, value in enumerate(values) if math.isfinite(value)]
    if not known:
        return "no eigenvalue is known"
    top, last = max(known, key=lambda i: values[i]), known[-1]
    share = f", {values[last] / trace[last]:.0%} of the trace at the end" if trace[last] > 0 else ""
    if top == last:
        return f"the largest eigenvalue of the true Fisher ends at its highest, {number_text(values[last])}{share}"
    return (
        f"the largest eigenvalue of the true Fisher is {number_text(values[top])} at {run.places[top]} and "
        f"{number_text(values[last])} at {run.places[last]}{share}"
    )


def movement(runs: Runs, width: float = WIDTH) -> Chart | None:
    """KL of each step from the row before, beside ½ΔᵀFΔ, on a logarithmic axis."""
    if not any(value > 0 for run in runs for value in run.column("kl_step")):
        return None
    figure, (axes,) = canvas(width, height(width))
    several = len(runs) > 1
    for i, (run, x) in enumerate(along(axes, runs)):
        name = f"{short_name(run.name)}: " if several else ""
        for k, (column, label) in enumerate((("kl_step", "KL"), ("kl_step_quadratic", "½ΔᵀFΔ"))):
            values = [value if value > 0 else math.nan for value in run.column(column)]
            shown = f"{name}{label}" if k == 0 or len(runs) <= MOST_LABELLED else "_"
            line(axes, x, values, None, i if several else k, shown, dash=k)
    logarithmic(axes)
    axes.set_ylabel("step from the previous row (nats)")
    legend_above(axes)
    names = ("kl_step", "kl_step_se", "kl_step_quadratic", "kl_step_quadratic_se", "path_length")
    note = "Where the lines part, the step is too long for the Fisher at its start to describe."
    return Chart(
        "movement",
        each_run(runs, _movement_said),
        note,
        figure,
        *columns_of(runs, *names),
        heading="Movement between checkpoints",
    )


def _movement_said(run: ReportedRun) -> str:
    moved, quadratic = run.column("kl_step"), run.column("kl_step_quadratic")
    known = [i for i, value in enumerate(moved) if value > 0]
    if not known:
        return "no step between checkpoints is known"
    top = max(known, key=lambda i: moved[i])
    ratios = [quadratic[i] / moved[i] for i in known if math.isfinite(quadratic[i])]
    span = f"; ½ΔᵀFΔ is {min(ratios):.2g} to {max(ratios):.2g} times the KL" if ratios else ""
    return f"the longest step, {number_text(moved[top])} nats, ends at {run.places[top]}{span}"


def snr(runs: Runs, width: float = WIDTH, is_logarithmic: bool | None = None) -> Chart | None:
    """The signal-to-noise ratio of one example's gradient; places where it is not above zero are empty."""
    if not any(math.isfinite(value) for run in runs for value in run.column("gradient_snr")):
        return None
    figure, (axes,) = canvas(width, height(width))
    for i, (run, x) in enumerate(along(axes, runs)):
        values, errors = run.column("gradient_snr"), run.column("gradient_snr_se")
        line(axes, x, values, errors, i, short_name(run.name), hollow=run.doubted)
    value_axis(axes, [value for run in runs for value in run.counted("gradient_snr")], is_logarithmic)
    axes.set_ylabel("gradient signal-to-noise ratio")
    if len(runs) > 1:
        legend_above(axes)
    names = ("gradient_snr", "gradient_snr_se", "noise_scale", "noise_scale_se")
    note = "(‖ḡ‖² − s²/N)/s², without bias; empty where not above zero. Band: ± 2 standard errors."
    return Chart("snr", each_run(runs, _snr_said), note, figure, *columns_of(runs, *names), heading="Gradient signal")


def _snr_said(run: ReportedRun) -> str:
    text = _from_to(run, "gradient_snr")
    known = sum(math.isfinite(value) for value in run.counted("gradient_snr"))
    missing = len(run.main) - known
    rest = f"; not above zero, or not known, at {missing} of {len(run.main)}" if missing else ""
    return f"the gradient's signal-to-noise ratio goes {text}{rest}" if text else "no gradient stands out of its noise"


# Eigenvalues of a spectrum that are listed beside its figure: all up to here, then some of each decade.
_LISTED = 20
_PER_DECADE = 8


def layers(runs: Runs, width: float = WIDTH) -> Chart | None:
    """The layers' shares of tr F as maps, layers × checkpoints; blocks of them where there are more than 24 tensors."""
    return _maps(runs, width, blocks)


def tensors(runs: Runs, width: float = WIDTH) -> Chart | None:
    """The shares of all parameter tensors as maps, tensors × checkpoints, however many there are."""
    return _maps(runs, width, lambda shares: shares)


def blocks(shares: Shares) -> Shares:
    """The shares of at most 24 tensors, or of the blocks of a larger network: the last parts of names go until it fits.

    Args:
        shares: of each tensor, one per checkpoint, by its name, whose parts are separated by dots.

    Returns:
        By the names of blocks, in the tensors' order, the sums over their tensors; NaN where none has a share.
    """
    found = dict(shares)
    for depth in range(max((name.count(".") for name in shares), default=0), 0, -1):
        if len(found) <= MOST_ROWS:
            break
        joined: dict[str, list[float]] = {}
        for name, row in shares.items():
            block = ".".join(name.split(".")[:depth])
            before = joined.setdefault(block, [math.nan] * len(row))
            joined[block] = [
                a if math.isnan(b) else b if math.isnan(a) else a + b for a, b in zip(before, row, strict=True)
            ]
        found = joined
    return found


def _maps(runs: Runs, width: float, grouped: Callable[[Shares], Shares]) -> Chart | None:
    """Shares as maps, one below the other for several reports; the numbers are those of all tensors."""
    found = [(run, shares) for run in runs if (shares := _shares(run))]
    if not found:
        return None
    shown = [grouped(shares) for _, shares in found[:MOST_MAPS]]
    heights = [max(height(width) if len(found) == 1 else 1.6, 0.9 + 0.155 * len(shares)) for shares in shown]
    figure, panels = canvas(width, sum(heights), len(shown), heights)
    brightest = max(value for shares in shown for row in shares.values() for value in row if math.isfinite(value))
    for axes, (run, _), shares in zip(panels, found, shown, strict=False):
        image = _map(axes, run, shares, brightest, width)
        if len(runs) > 1:
            axes.set_title(shorten(run.name, 40), loc="left", fontsize="medium")
    panels[-1].set_xlabel("training step of the checkpoint")
    longest = max(map(len, shown))
    figure.colorbar(image, ax=panels, label="share of tr F", pad=0.02, aspect=max(20, longest * len(shown)))
    are_blocks = any(len(shares) < len(all_of) for shares, (_, all_of) in zip(shown, found, strict=False))
    what = "block" if are_blocks else "tensor"
    note = f"Each column sums to one. The brighter, the larger the {what}'s part of the true trace."
    if are_blocks:
        note += " The numbers are those of every tensor; fisher plot --what tensors draws them."
    if len(found) > MOST_MAPS:
        note += f" Of {len(found)} runs the first {MOST_MAPS} are drawn; the numbers are those of all."
    said = [_layers_said(run, grouped(shares), what) for run, shares in found]
    finding = sentences([run for run, _ in found], said, several=len(runs) > 1)
    columns, rows = _listed_shares(found, several=len(runs) > 1)
    return Chart("layers", finding, note, figure, columns, rows, heading="Shares of the layers")


def _map(
    axes: "Axes", run: ReportedRun, shares: Mapping[str, list[float]], brightest: float, width: float
) -> "AxesImage":
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
    return ["run", "checkpoint", "layer", "share"], rows


def _shares(run: ReportedRun) -> Shares:
    """Each layer's share at each checkpoint, NaN where it has none."""
    table = run.sides.get("layers")
    if table is None or "layer" not in table:
        return {}
    found: dict[str, list[float]] = {}
    for layer, order, share in zip(table["layer"], table["order"], numbers(table, "share"), strict=True):
        if 0 <= order < len(run.main):
            found.setdefault(str(layer), [math.nan] * len(run.main))[int(order)] = share
    return found if any(math.isfinite(value) for row in found.values() for value in row) else {}


def _layers_said(run: ReportedRun, shares: Shares, what: str) -> str:
    known = [i for i in range(len(run.main)) if any(math.isfinite(row[i]) for row in shares.values())]
    first, last = known[0], known[-1]
    top = max(shares, key=lambda name: shares[name][last] if math.isfinite(shares[name][last]) else -1.0)
    before = f", {shares[top][first]:.0%} at first" if first != last else ""
    share = shares[top][last]
    part = "most of the" if share > 0.5 else "the largest share of the"
    return f"the {what} {one_line(top)} carries {part} true trace at {run.places[last]}: {share:.0%}{before}"


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
    for i, run in enumerate(runs):  # a run has one colour in all charts
        if _has(run, word):
            rows += _curves(axes, run, word, names, None if len(runs) == 1 else i)
    logarithmic(axes, "x")
    logarithmic(axes)
    for drawn in axes.lines:
        drawn.set_marker("")
    axes.set_xlabel("place in descending order" if word == "spectrum" else "eigenvalue λ (1/weight²)")
    axes.set_ylabel("eigenvalue (1/weight²)" if word == "spectrum" else "share of eigenvalues per decade")
    legend_above(axes)
    said = [_spectrum_said(run, _table(run, word), word) for run in shown]
    matrices = " and the ".join(dict.fromkeys(str(_table(run, word)["matrix"].iloc[0]) for run in shown))
    which = "the first, the peak's and the last" if len(runs) == 1 else "the last"
    return Chart(
        "spectrum",
        sentences(shown, said, several=len(runs) > 1),
        f"Of the {matrices}, at {which} of the checkpoints that were analysed.",
        figure,
        [*(["run"] if len(runs) > 1 else []), "checkpoint", *names],
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


def _curves(
    axes: "Axes", run: ReportedRun, word: str, names: tuple[str, str], series: int | None
) -> list[list[object]]:
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


_CHARTS: Mapping[str, Callable[..., Chart | None]] = {
    "traces": traces,
    "ratio": ratio,
    "comparison": comparison,
    "memorisation": memorisation,
    "loss": loss,
    "eigenvalues": eigenvalues,
    "spectrum": spectrum,
    "layers": layers,
    "tensors": tensors,
    "movement": movement,
    "snr": snr,
}

NAMES = tuple(_CHARTS)
# The shares of all tensors have their numbers there.
NAMES_OF_A_PAGE = tuple(name for name in NAMES if name != "tensors")
# Those whose axis of values may be logarithmic or not.
SCALED: Final = {"traces", "loss", "snr"}


def draw(
    what: str, runs: Runs, width: float = WIDTH, text: float = PAPER_TEXT, is_logarithmic: bool | None = None
) -> Chart | None:
    """Draw the chart of this name.

    Args:
        what: one of `NAMES`.
        runs: the reports to show, beside each other where there are several.
        width: of the figure, in inches.
        text: size of the figure's text, in points.
        is_logarithmic: whether the axis of values is, in the charts of `SCALED`; None to let the values decide.

    Returns:
        None if the reports lack its numbers.

    Raises:
        KeyError: there is no chart of this name.
    """
    with style(text):
        chart = _CHARTS[what](runs, width, **({"is_logarithmic": is_logarithmic} if what in SCALED else {}))
        if chart is None or len(runs) <= MOST_BANDS or not without_bands(chart.figure):
            return chart
        note = f"{chart.note} Of more than {MOST_BANDS} runs no bands are drawn; the errors are in the numbers."
        return replace(chart, note=note)
