"""How all figures look, and figures as bytes: the same input gives the same bytes, in every format.

Colours are those of Okabe and Ito, which people with any colour vision tell apart; lines differ in their dashes too.
Source: Okabe and Ito 2008, https://jfly.uni-koeln.de/color/.
"""

import colorsys
import importlib.util
import io
import json
import math
import os
import re
import sys
from collections.abc import Sequence
from contextlib import AbstractContextManager, chdir, nullcontext
from dataclasses import dataclass
from html import escape
from typing import Any

from fisher_cli.errors import UsageError
from fisher_cli.reports.numbers import number_text
from fisher_cli.text import one_line, visible


def _beside_default_settings() -> AbstractContextManager[None]:
    """Stand where matplotlib's default settings lie: it takes the first file of settings it finds when it is imported.

    It looks in the working folder first, and such a file can run programs, such as latex.
    """
    spec = importlib.util.find_spec("matplotlib")
    place = os.path.join(os.path.dirname(spec.origin), "mpl-data") if spec is not None and spec.origin else ""
    return chdir(place) if os.path.isdir(place) and "matplotlib" not in sys.modules else nullcontext()


try:
    with _beside_default_settings():
        import matplotlib as mpl
        from matplotlib.artist import Artist
        from matplotlib.axes import Axes
        from matplotlib.collections import PolyCollection
        from matplotlib.figure import Figure
        from matplotlib.lines import Line2D
        from matplotlib.ticker import FixedLocator, FuncFormatter, LogLocator, NullLocator
except ImportError as error:
    _msg = "figures need matplotlib: pip install 'fisher-cli[report]'"
    raise UsageError(_msg) from error

MADE_BY = "made by fisher plot"
BLUE, RED, GREEN, PURPLE, INK, GRID = "#0072b2", "#d55e00", "#009e73", "#9e4f7f", "#1b1b1b", "#c9c9c9"
SERIES = (BLUE, RED, GREEN, PURPLE)
# Of further runs: hues a golden angle apart, neither light nor dark, so that they are seen on white and on black.
_GOLDEN = (math.sqrt(5) - 1) / 2
DASHES = ("-", (0, (5, 2)), (0, (1, 1.5)), (0, (6, 2, 1, 2)))
# Colours of a page follow its scheme: what the page calls each of those above.
VARIABLES = {BLUE: "blue", RED: "red", GREEN: "green", PURPLE: "purple", INK: "ink", GRID: "grid"}
# matplotlib's own, whatever files of settings the user or a library has it read; the backend is not ours to choose.
_DEFAULTS: dict[Any, Any] = {name: value for name, value in mpl.rcParamsDefault.items() if name != "backend"}
_STYLE: dict[Any, Any] = _DEFAULTS | {
    "svg.fonttype": "none",  # text stays text: it can be searched, read aloud and edited
    "svg.hashsalt": "fisher",
    "pdf.fonttype": 42,
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans"],
    "axes.edgecolor": INK,
    "axes.labelcolor": INK,
    "text.color": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": GRID,
    "grid.linewidth": 0.5,
    "axes.axisbelow": True,
    "legend.frameon": False,
    "legend.handlelength": 3.4,  # enough for two dashes beside the marker
    "lines.linewidth": 1.5,
    "lines.markersize": 3.5,
    "image.cmap": "cividis",
    "text.parse_math": False,
}
# Points: of captions in papers, and what can still be read on a telephone.
PAPER_TEXT, PAGE_TEXT = 8.0, 9.5
# An axis is logarithmic from this ratio of the largest to the smallest on: the others would else be one line.
_WIDE = 20.0


@dataclass(frozen=True)
class Chart:
    """A figure, and all that a page or a caption says of it.

    Attributes:
        what: its name, one of `charts.NAMES`.
        finding: what it shows, in a sentence or a few.
        note: what its marks mean.
        figure: of matplotlib.
        columns: names of the columns of the numbers behind it.
        rows: these numbers, a cell per column.
        heading: above it on a page.
    """

    what: str
    finding: str
    note: str
    figure: Figure
    columns: Sequence[str]
    rows: Sequence[Sequence[object]]
    heading: str = ""


@dataclass(frozen=True)
class DrawnValue:
    """A value that is drawn, as a page names it under the pointer.

    Attributes:
        axes: on which it is.
        series: the place of its run, or of its line, among those of the figure.
        name: of its line; "" for a line without one.
        x: its place.
        y: its value.
        error: its standard error; NaN where unknown.
    """

    axes: Axes
    series: int
    name: str
    x: float
    y: float
    error: float


class ShownFigure(Figure):
    """A figure that a notebook shows.

    Attributes:
        points: the values that are drawn in it.
        of_runs: what is drawn of a run, with the run's place.
    """

    points: list[DrawnValue]
    of_runs: list[tuple[int, Artist]]

    def _repr_png_(self) -> bytes:
        buffer = io.BytesIO()
        with style():
            self.savefig(buffer, format="png", metadata={"Software": MADE_BY}, dpi=110)
        return buffer.getvalue()


def style(size: float = PAPER_TEXT) -> AbstractContextManager[None]:
    """The look of all figures, as a context in which they are drawn.

    Args:
        size: of the text, in points.
    """
    return mpl.rc_context(_STYLE | {"font.size": size, "legend.fontsize": size - 0.5})


def canvas(
    width: float, height: float, rows: int = 1, heights: Sequence[float] | None = None
) -> tuple[Figure, list[Axes]]:
    """A new figure of this size in inches, with so many axes over each other.

    They share their steps, unless each has a height, and so an axis, of its own.
    """
    figure = ShownFigure(figsize=(width, height), layout="constrained")
    figure.points, figure.of_runs = [], []
    found = figure.subplots(rows, 1, sharex=heights is None, squeeze=False, height_ratios=heights)
    return figure, [each[0] for each in found]


def svg(figure: Figure, title: str = "") -> bytes:
    """The figure as an SVG file."""
    return picture(figure, "svg", title)


def picture(figure: Figure, form: str, title: str = "") -> bytes:
    """Write the figure as a file: the same figure gives the same bytes.

    Args:
        figure: as `draw` makes it.
        form: `svg`, `pdf` or `png`; a png has 300 dots per inch.
        title: kept in the file's metadata.

    Raises:
        KeyError: the form is another.
    """
    title = visible(title)
    metadata: dict[str, dict[str, str | None]] = {
        "svg": {"Date": None, "Creator": MADE_BY, "Title": title},
        "pdf": {"CreationDate": None, "Creator": MADE_BY, "Producer": None, "Title": title},
        "png": {"Software": MADE_BY, "Title": title},
    }
    buffer = io.BytesIO()
    with style():
        figure.savefig(buffer, format=form, metadata=metadata[form], dpi=300)
    content = buffer.getvalue()
    return visible(content.decode()).encode() if form == "svg" else content


def inline_svg(figure: Figure, name: str, prefix: str = "") -> str:
    """The figure for a page: no address in it, identifiers of its own, and the colours of the page's scheme.

    Args:
        figure: as `draw` makes it.
        name: the page has the picture's heading and its finding under `name-heading` and `name-finding`.
        prefix: of the identifiers; the name unless given.

    Returns:
        An element whose parts of a run say `data-run`, with the values in sight as `data-points`.
    """
    prefix = prefix or name
    for i, (series, artist) in enumerate(figure.of_runs if isinstance(figure, ShownFigure) else ()):
        artist.set_gid(f"run-{series}-{i}")
    text = svg(figure).decode()
    text = re.sub(r"(?s)^.*?(?=<svg)|<metadata>.*?</metadata>|<!--.*?-->", "", text)
    text = re.sub(r' xmlns(:\w+)?="[^"]*"', "", text)
    text = re.sub(r'<svg width="[^"]*" height="[^"]*"', "<svg", text, count=1)
    text = re.sub(r'(\bid="|url\(#|href="#)', rf"\g<1>{prefix}-", text)
    # Only what the drawing itself needs: the page's own white or black is the background.
    text = re.sub(rf'(?s)<g id="{prefix}-patch_1">.*?</g>', "", text, count=1)
    for colour, variable in VARIABLES.items():
        text = text.replace(colour, f"var(--{variable})")
    text = re.sub(r"font: ([\d.]+px) [^;\"]*", r"font-size: \1", text)
    text = re.sub(r"font-family: [^;\"]*;? ?", "", text).replace("fill: #ffffff", "fill: none")
    text = re.sub(rf'<g id="{prefix}-run-(\d+)-', r'<g data-run="\1" id="' + f"{prefix}-run-" + r"\1-", text)
    named = f'<svg role="img" focusable="false" aria-labelledby="{name}-heading {name}-finding"'
    return text.replace("<svg", f'{named} data-points="{escape(_placed_points(figure))}"', 1).strip()


def drawn_values(figure: Figure) -> Sequence[DrawnValue]:
    """The values that `line` has drawn in a figure."""
    return figure.points if isinstance(figure, ShownFigure) else ()


def _placed_points(figure: Figure) -> str:
    """As JSON, for each value that is in sight its series, its place in the SVG, and what a reader sees of it."""
    height = 72 * float(figure.get_size_inches()[1])
    placed = []
    for each in drawn_values(figure):
        across, up = each.axes.transData.transform((each.x, each.y))
        share = each.axes.transAxes.inverted().transform((across, up))
        if all(-0.01 <= float(part) <= 1.01 for part in share):
            scale = 72 / figure.dpi
            place = (round(float(across) * scale, 1), round(height - float(up) * scale, 1))
            placed.append([each.series, *place, _value_text(each)])
    return json.dumps(placed, ensure_ascii=False, separators=(",", ":"))


def _value_text(point: DrawnValue) -> str:
    """`clean: true, training step 1,760: 83.3 ± 1.2`."""
    bottom = point.axes.get_figure(root=True).axes[-1]  # type: ignore[union-attr]
    what = (point.axes.get_xlabel() or bottom.get_xlabel()).split(" (")[0].removesuffix(", in order")
    x = f"{point.x:,.6g}" if point.x == int(point.x) else number_text(point.x)
    value = number_text(point.y, point.error if point.error > 0 else None)
    return visible(one_line(f"{f'{point.name}, ' if point.name else ''}{what} {x}: {value}"))


def step_axis(axes: Axes, steps: Sequence[float], *, known: bool) -> None:
    """The axis of training steps, logarithmic above the first where the steps span more than a decade or so."""
    axes.set_xlabel("training step" if known else "checkpoint, in order")
    positive = [step for step in steps if step > 0]
    if known and len(positive) > 3 and max(positive) / min(positive) >= _WIDE:
        threshold = min(positive)
        axes.set_xscale("symlog", linthresh=threshold, linscale=0.4)
        first, last = math.ceil(math.log10(threshold)), math.floor(math.log10(max(positive)))
        powers = [10.0**k for k in range(first, last + 1)]
        axes.xaxis.set_major_locator(FixedLocator([*([0.0] if min(steps) <= 0 else []), *powers]))
        axes.xaxis.set_minor_locator(NullLocator())
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
        axes.set_xlabel("training step (logarithmic)")
    elif known:
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.6g}"))


def line(
    axes: Axes,
    x: Sequence[float],
    y: Sequence[float],
    errors: Sequence[float] | None,
    series: int,
    label: str,
    alpha: float = 1.0,
    dash: int | None = None,
    hollow: Sequence[bool] = (),
) -> None:
    """Values with their band of ± 2 standard errors; places without a value are left out of the line.

    Those that are `hollow` stand beside it as hollow marks, and the axis does not reach out for them, unless there are
    no others.
    """
    colour, style = colour_of(series), DASHES[(series if dash is None else dash) % len(DASHES)]
    known = [i for i, value in enumerate(y) if math.isfinite(value)]
    marked = [i for i in known if hollow and hollow[i]]
    kept = [i for i in known if i not in marked]
    beside: dict[str, Any] = {"color": colour, "marker": "o", "fillstyle": "none", "linestyle": "none", "alpha": alpha}
    figure = axes.get_figure(root=True)
    if isinstance(figure, ShownFigure):
        name = "" if label.startswith("_") else label
        figure.points += [DrawnValue(axes, series, name, x[i], y[i], errors[i] if errors else math.nan) for i in known]
    if not kept:  # an empty line has no place, and no figure can be laid out around it
        mark_run(axes.plot([x[i] for i in marked], [y[i] for i in marked], label=label, **beside)[0], series)
        return
    for i in marked:  # as an artist, which unlike a plot does not widen the axis of values
        mark_run(axes.add_artist(Line2D([x[i]], [y[i]], **beside)), series)
        axes.update_datalim([(x[i], y[i])], updatey=False)
    xs, ys = [x[i] for i in kept], [y[i] for i in kept]
    drawn = axes.plot(xs, ys, color=colour, linestyle=style, marker="o", alpha=alpha, label=label, clip_on=False)
    mark_run(drawn[0], series)
    if errors is not None:
        half = [2 * errors[i] if math.isfinite(errors[i]) else 0.0 for i in kept]
        low = [v - h for v, h in zip(ys, half, strict=True)]
        high = [v + h for v, h in zip(ys, half, strict=True)]
        mark_run(axes.fill_between(xs, low, high, color=colour, alpha=0.2, lw=0), series)


def mark_run(artist: Artist, series: int) -> None:
    """Let a page show and hide what is drawn of a run."""
    figure = artist.get_figure(root=True)
    if isinstance(figure, ShownFigure):
        figure.of_runs.append((series, artist))


def without_bands(figure: Figure) -> bool:
    """Take the bands of all runs out of a figure; whether there were any."""
    if not isinstance(figure, ShownFigure):
        return False
    bands = [(series, artist) for series, artist in figure.of_runs if isinstance(artist, PolyCollection)]
    for band in bands:
        band[1].remove()
        figure.of_runs.remove(band)
    return bool(bands)


def colour_of(series: int) -> str:
    """The colour of a run by its place among those of a figure, from 0."""
    if series < len(SERIES):
        return SERIES[series]
    red, green, blue = colorsys.hls_to_rgb(series * _GOLDEN % 1, 0.48, 0.6)
    return f"#{round(255 * red):02x}{round(255 * green):02x}{round(255 * blue):02x}"


def value_axis(axes: Axes, values: Sequence[float], wanted: bool | None = None, lowest: Sequence[float] = ()) -> bool:
    """Set up the axis of values: logarithmic where the positive ones span more than a factor of 20, else from zero.

    Args:
        axes: on which everything is drawn already.
        values: those that the axis is to show; NaN where there is none.
        wanted: whether it is logarithmic; None to let the values decide.
        lowest: those of the values that decide how low it must reach; all of them unless given.

    Returns:
        Whether it is.
    """
    positive = [value for value in values if value > 0]
    low = min((value for value in lowest or positive if value > 0), default=math.inf)
    has_others = any(value <= 0 for value in values)
    is_wide = bool(positive) and not has_others and max(positive) >= _WIDE * low
    if positive and (is_wide if wanted is None else wanted):
        axes.set_ylim(0.7 * min(positive), 1.5 * max(positive))  # bands may reach down to zero
        if axes.get_ylim()[0] > 0:  # matplotlib widens limits that it cannot tell from zero
            logarithmic(axes, below="mask" if has_others else "clip")
            return True
    axes.set_ylim(bottom=0)
    return False


def legend_above(axes: Axes) -> None:
    """The legend over the axes, where it covers nothing; inside with more than three rows, below with more than six."""
    handles, labels = axes.get_legend_handles_labels()
    figure: Any = axes.get_figure(root=True)
    width, height = (float(each) for each in figure.get_size_inches())
    columns = min(2, int(0.8 * width / (0.5 + 0.075 * max(map(len, labels), default=0))))
    if len(labels) > 6 * max(columns, 1):
        columns = max(1, int(width / (0.7 + 0.075 * max(map(len, labels)))))
        figure.set_size_inches(width, height + 0.17 * math.ceil(len(labels) / columns))
        figure.legend(handles, labels, loc="outside lower center", ncols=columns)
    elif len(labels) > 3 * columns:
        axes.legend(loc="best")
    else:
        axes.legend(loc="lower right", bbox_to_anchor=(1.0, 1.0), ncols=columns, borderaxespad=0.2)


def logarithmic(axes: Axes, which: str = "y", below: str = "clip") -> None:
    """Make an axis logarithmic, its ticks as plain numbers or powers of ten in text, at most one digit to a decade.

    Args:
        axes: on which everything is drawn already.
        which: the axis, x or y.
        below: what becomes of values that are not above zero: `clip` lets bands reach down, `mask` leaves them out.
    """
    set_scale = axes.set_xscale if which == "x" else axes.set_yscale
    set_scale("log", nonpositive=below)
    axis = axes.xaxis if which == "x" else axes.yaxis
    low, high = sorted(axes.get_xlim() if which == "x" else axes.get_ylim())
    decades = math.log10(high / low) if low > 0 else 0.0
    axis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0) if decades < 2.5 else (1.0,), numticks=9))
    axis.set_minor_locator(NullLocator())
    axis.set_major_formatter(FuncFormatter(lambda value, _: _power(value)))


def _power(value: float) -> str:
    """0.02, 500, or 10⁻⁵ where zeros would have to be counted."""
    if 1e-3 < value < 1e4:
        return f"{value:g}"
    digits, exponent = f"{value:.0e}".split("e")
    raised = str(int(exponent)).translate(str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹"))
    return f"10{raised}" if digits == "1" else f"{digits}·10{raised}"
