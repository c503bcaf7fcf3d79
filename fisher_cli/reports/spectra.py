"""What eigenvalues say, as a table per matrix for people, and how they are distributed."""

from collections.abc import Sequence

from rich.console import Group
from rich.table import Table
from rich.text import Text

from fisher_cli.reports import histogram
from fisher_cli.reports.closing_lines import closing_lines, of_spectra
from fisher_cli.reports.layout import (
    TextColumn,
    empty_table,
    fitting,
    left_out,
    place,
    remarks,
    shorten,
    title,
    width_with_name,
    wrapped,
)
from fisher_cli.reports.numbers import finite, number_text, number_texts
from fisher_cli.results import Measurement, Spectrum
from fisher_cli.text import one_line

_TITLES = {"true": "True Fisher", "empirical": "Empirical Fisher"}
_SHORTEST_NAME, _LONGEST_NAME = 14, 40
# When the table is too wide these columns go, one after the other; one has a shorter form that stays.
_REDUCTIONS = (
    *("residual", "method", "third", "second", "step", "first", "overlap", "rank", "share", "gradient"),
    "dimension",
)
_MISSED = frozenset({"overlap", "rank", "share", "gradient", "dimension"})
_SHORTER = {"first": "first_value"}

Pair = tuple[Measurement, Spectrum]


def render_spectra(measurements: Sequence[Measurement], width: int, data: str | None = None) -> Group:
    """The eigenvalues of a run: for each matrix a table, a line of blocks per checkpoint, bars for the last one.

    Args:
        measurements: in order of training.
        width: columns of the terminal; no line is longer, unless the width is below some 40.
        data: the dataset's name for the title.

    Returns:
        Something that rich can print.
    """
    parts: list[Text | Table] = [*wrapped(title("Fisher spectrum", measurements, data), width, "bold"), Text("")]
    for matrix in _TITLES:
        pairs = [(each, found) for each in measurements for found in each.spectra if found.matrix == matrix]
        if pairs:
            parts += _matrix(matrix, pairs, width)
    measured = [each for each in measurements if each.spectra]
    legend = [*wrapped(_legend(measured), width, "dim"), Text("")] if measured else []
    first = next((found.matrix for each in measured for found in each.spectra), None)
    pairs = [(each, found) for each in measured for found in each.spectra if found.matrix == first]
    return Group(*parts, *legend, *remarks(measurements, width), *closing_lines(of_spectra(pairs), width))


def _matrix(matrix: str, pairs: Sequence[Pair], width: int) -> list[Text | Table]:
    """Everything about one of the matrices."""
    columns = _columns(pairs)
    keys = fitting(columns, width, _SHORTEST_NAME, _REDUCTIONS, _SHORTER)
    parts: list[Text | Table] = [
        Text(_TITLES[matrix], "bold"),
        _table({key: columns[key] for key in keys}, pairs, width),
    ]
    parts.append(Text(""))
    parts += left_out([columns[key].heading for key in columns if key in _MISSED and key not in keys], width)
    if len(pairs) > 1:
        names = [place(each) for each, _ in pairs]
        drawn = histogram.lines(names, [found for _, found in pairs], width)
        parts += [*drawn, Text("")] if drawn else []
    measurement, last = pairs[-1]
    drawn = histogram.bars(last, width)
    if last.normalised_dimension is not None:
        text = (
            f"{place(measurement)}: effective dimension of Abbas et al. {number_text(last.normalised_dimension)} of "
            f"{last.parameters:,}, at this one θ alone, n = {last.examples}, γ = 1"
        )
        parts += [*wrapped(text, width)]
    if drawn:
        parts += [*wrapped(f"{place(measurement)}: {_found(last)}", width), *drawn, Text("")]
    return parts


def _found(spectrum: Spectrum) -> str:
    """How many eigenvalues were found, how, and what the others are."""
    leading, size = spectrum.leading, f"{spectrum.parameters:,}"
    if spectrum.density is not None:
        steps = max((len(nodes) for nodes in spectrum.density.nodes), default=0)
        probes = f"{len(spectrum.density.nodes)} probes of {steps} steps"
        zeros = histogram.remainder(spectrum).removesuffix(" ≈ 0")
        return (
            f"{len(leading.values)} leading of {size} eigenvalues by {leading.method}, the density of the others by "
            f"stochastic Lanczos quadrature ({probes}); {zeros} of them below {number_text(spectrum.density.floor)}"
        )
    if not spectrum.is_whole:
        return f"{len(leading.values)} leading of {size} eigenvalues by {leading.method}; the others are not known"
    found = f"{spectrum.rank:,} of {size} eigenvalues by {leading.method}"
    if spectrum.bound >= spectrum.floor > 0:
        return f"{found}; the others, and the error of each, are below {number_text(spectrum.bound)}"
    return f"{found}; {histogram.remainder(spectrum)} (at most {number_text(spectrum.floor)})"


def _columns(pairs: Sequence[Pair]) -> dict[str, TextColumn]:
    """All columns that have something to show, with their shorter forms, in order."""
    spectra = [found for _, found in pairs]
    first = [_nth(each.leading.values, 0) for each in spectra]
    errors = [_nth(each.errors or (), 0) for each in spectra]
    leading = max(len(each.leading.values) for each in spectra)
    texts = {
        "checkpoint": ("checkpoint", [one_line(each.checkpoint) for each, _ in pairs]),
        "step": ("step", ["" if each.step is None else str(each.step) for each, _ in pairs]),
        "trace": ("trace", number_texts([each.trace for each in spectra])),
        "first": ("λ₁", number_texts(first, errors)),
        "first_value": ("λ₁", number_texts(first)),
        "second": ("λ₂", number_texts([_nth(each.leading.values, 1) for each in spectra])),
        "third": ("λ₃", number_texts([_nth(each.leading.values, 2) for each in spectra])),
        "share": (f"top {leading}", [_percent(_nth(each.shares, len(each.leading.values) - 1)) for each in spectra]),
        "effective_rank": ("eff. rank", _estimates([each.effective_rank for each in spectra])),
        "dimension": ("eff. dim", _estimates([each.effective_dimension for each in spectra])),
        "gradient": ("ḡ in top", [_percent(each.gradient_share) for each in spectra]),
        "overlap": ("overlap", ["" if each.overlap is None else f"{each.overlap:.2f}" for each in spectra]),
        "rank": ("rank", ["" if each.rank is None else f"{each.rank:,}" for each in spectra]),
        "method": ("method", [each.leading.method for each in spectra]),
        "residual": ("residual", number_texts([max(each.leading.residuals, default=None) for each in spectra])),
    }
    left = {"checkpoint", "method"}
    columns = {
        key: TextColumn(heading, tuple(cells), "left" if key in left else "right")
        for key, (heading, cells) in texts.items()
    }
    return {key: column for key, column in columns.items() if any(column.cells)}


def _estimates(estimates: Sequence[object]) -> list[str]:
    """Values, with the error that random probes leave where there is one."""
    values = [getattr(each, "value", None) for each in estimates]
    errors = [getattr(each, "estimator_error", None) or None for each in estimates]
    return number_texts(values, errors)


def _nth(values: Sequence[float], place: int) -> float | None:
    return values[place] if 0 <= place < len(values) else None


def _percent(share: float | None) -> str:
    return "" if share is None or finite(share) is None else f"{share:.1%}"


def _table(columns: dict[str, TextColumn], pairs: Sequence[Pair], width: int) -> Table:
    """The columns as a rich table; the name takes up the room that is left."""
    spare = width - width_with_name(columns, list(columns), _SHORTEST_NAME)
    shortest = min(columns["checkpoint"].width, _SHORTEST_NAME)
    name = max(shortest, min(columns["checkpoint"].width, _LONGEST_NAME, shortest + spare))
    widths = {key: column.width for key, column in columns.items()} | {"checkpoint": name}
    table = empty_table(columns, widths)
    for i in range(len(pairs)):
        table.add_row(
            *(
                Text(shorten(column.cells[i], name) if key == "checkpoint" else column.cells[i])
                for key, column in columns.items()
            )
        )
    return table


def _legend(measured: Sequence[Measurement]) -> str:
    """What the columns mean that say it too shortly."""
    spectra = [found for each in measured for found in each.spectra]
    leading = max(len(each.leading.values) for each in spectra)
    dampings = {each.damping for each in spectra}
    alpha = f"; eff. dim: Σ λ/(λ + α), α = {number_text(next(iter(dampings)))}" if len(dampings) == 1 else ""
    blocks = "; blocks: log(1 + number) of eigenvalues, each line on its own scale" if len(measured) > 1 else ""
    text = (
        f"top {leading}: the leading eigenvalues' part of the trace; ḡ in top: the mean gradient's part in their "
        f"eigenspace; eff. rank: (Σ λ)²/Σ λ²{alpha}{blocks}"
    )
    return (
        text.replace("Σ ", "Σ\N{NO-BREAK SPACE}")
        .replace(" + ", "\N{NO-BREAK SPACE}+\N{NO-BREAK SPACE}")
        .replace(" = ", "\N{NO-BREAK SPACE}=\N{NO-BREAK SPACE}")
    )
