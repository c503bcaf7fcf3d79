"""Eigenvalues in bins of log₁₀ λ, as bars for one spectrum and as a line of blocks for each of many."""

import math
from bisect import bisect_right
from collections.abc import Sequence
from itertools import pairwise

from rich.cells import cell_len
from rich.text import Text

from fisher_cli.reports.layout import shorten
from fisher_cli.reports.numbers import bar, sparkline
from fisher_cli.results import Spectrum

# Bins per decade, as many of them as there is room for.
_PER_DECADE = (5, 4, 2, 1)
_MOST_ROWS = 16
_LONGEST_BAR = 60


def bars(spectrum: Spectrum, width: int) -> list[Text]:
    """A line per bin with its eigenvalues counted, then what is not in the bins; empty for the zero matrix."""
    limits = _decades([spectrum])
    if limits is None:
        return []
    low, high = limits
    per = next((each for each in (4, 2, 1) if (high - low) * each <= _MOST_ROWS), 1)
    edges = [high - i / per for i in range((high - low) * per + 1)]
    counts = _counts(spectrum, edges[::-1])[::-1]
    edges, counts = _trimmed(edges, counts)
    texts = [f"{count:,.0f}" if spectrum.is_whole else f"{count:,.1f}" for count in counts]
    longest = max(map(len, [*texts, "number"]))
    digits = 0 if per == 1 else 1 if per == 2 else 2
    room = min(_LONGEST_BAR, width - 17 - 2 * digits - longest)
    spaces = " " * (len(f"{0:6.{digits}f} … {0:<6.{digits}f}") - 7)
    lines = [Text(f" log₁₀ λ{spaces}{'number':>{longest}}", "bold")]
    top = max(counts)
    for (upper, lower), count, text in zip(pairwise(edges), counts, texts, strict=True):
        place = f"{_signed(lower, digits):>6} … {_signed(upper, digits):<6}"
        lines.append(Text.assemble(f"{place}{text:>{longest}}  ", (bar(count / top, max(4, room)), "cyan")))
    return lines


def lines(names: Sequence[str], spectra: Sequence[Spectrum], width: int) -> list[Text]:
    """A line of blocks per spectrum on one axis of log₁₀ λ, as high as log(1 + number); then what counts as zero."""
    limits = _decades(spectra)
    if limits is None:
        return []
    low, high = limits
    ends = [remainder(each) for each in spectra]
    longest_end = max(map(len, ends))
    longest = min(max(map(cell_len, names)), 24, width // 3)
    room = width - longest - longest_end - 4
    per = next((each for each in _PER_DECADE if (high - low) * each <= room), 1)
    edges = [low + i / per for i in range((high - low) * per + 1)]
    if len(edges) - 1 > room:
        return []
    shown = []
    for name, each, end in zip(names, spectra, ends, strict=True):
        counts = _counts(each, edges)
        heights = [math.log1p(count) for count in counts]  # or many near zero would hide the few large ones
        blocks = "".join(
            " " if count <= 0 else block for count, block in zip(counts, sparkline(heights, len(counts)), strict=True)
        )
        short = shorten(name, longest)
        pad = " " * (longest - cell_len(short))
        shown.append(Text.assemble(f"{short}{pad}  ", (blocks, "cyan"), f"  {end:>{longest_end}}"))
    return [*shown, Text(" " * (longest + 2) + _axis(low, high, per), "dim")]


def remainder(spectrum: Spectrum) -> str:
    """What is not in the bins: the eigenvalues that are zero to rounding, or too small to be told apart."""
    if spectrum.density is not None:
        return f"{spectrum.density.zeros.value:.1%} ≈ 0"
    if not spectrum.is_whole:
        return "others not known"
    left = spectrum.parameters - len([value for value in spectrum.values if value > spectrum.floor])
    return f"{left:,} {'below bound' if spectrum.bound >= spectrum.floor > 0 else 'zero'}"


def _decades(spectra: Sequence[Spectrum]) -> tuple[int, int] | None:
    """The whole powers of ten around everything above zero."""
    ends: list[float] = []
    for each in spectra:
        above = [value for value in each.values if value > each.floor and value > 0]
        ends += above[:1] + above[-1:]
        if each.density is not None and each.density.grid:
            ends.append(each.density.floor)
    if not ends:
        return None
    low, high = math.floor(math.log10(min(ends))), math.ceil(math.log10(max(ends)))
    return low, max(high, low + 1)


def _counts(spectrum: Spectrum, edges: Sequence[float]) -> list[float]:
    """The number of eigenvalues in each bin between ascending edges of log₁₀ λ, estimated where not all are known."""
    if spectrum.density is not None:
        masses = [_cumulative(spectrum, edge) for edge in edges]
        return [max(0.0, high - low) for low, high in pairwise(masses)]
    counts = [0.0] * (len(edges) - 1)
    for value in spectrum.values:
        if value > spectrum.floor and value > 0:
            counts[min(max(bisect_right(edges, math.log10(value)) - 1, 0), len(counts) - 1)] += 1
    return counts


def _cumulative(spectrum: Spectrum, edge: float) -> float:
    """The number of eigenvalues up to this power of ten by the density, those called zero left out."""
    density = spectrum.density
    if density is None or not density.grid:
        return 0.0
    place = bisect_right(density.grid, 10**edge) - 1
    share = density.cumulative[place] if place >= 0 else 0.0
    return spectrum.parameters * max(share, density.zeros.value)


def _trimmed(edges: list[float], counts: list[float]) -> tuple[list[float], list[float]]:
    """Without the empty bins at both ends."""
    full = [i for i, count in enumerate(counts) if count > 0]
    first, last = (full[0], full[-1]) if full else (0, len(counts) - 1)
    return edges[first : last + 2], counts[first : last + 1]


def _signed(value: float, digits: int = 0) -> str:
    """With a true minus sign; no negative zero."""
    return f"{value + 0.0:.{digits}f}".replace("-", "−")


def _axis(low: int, high: int, per: int) -> str:
    """The powers of ten below their places, as many as do not touch."""
    cells = [" "] * ((high - low) * per + 3)
    every = next(each for each in (1, 2, 3, 5, 10, 50) if each * per >= 5)
    for power in range(low, high + 1, every):
        text, start = _signed(power), (power - low) * per
        cells[start : start + len(text)] = list(text)
    return "".join(cells).rstrip() + "  log₁₀ λ"
