"""All charts by the name that `fisher plot --what` takes, in the order of a page."""

from collections.abc import Callable, Mapping

from fisher_cli.reports import charts, side_charts
from fisher_cli.reports.drawing import PAPER_TEXT, Chart, style

_CHARTS: Mapping[str, Callable[[charts.Runs, float], Chart | None]] = {
    "traces": charts.traces,
    "ratio": charts.ratio,
    "loss": charts.loss,
    "eigenvalues": charts.eigenvalues,
    "spectrum": side_charts.spectrum,
    "layers": side_charts.layers,
    "movement": charts.movement,
    "snr": charts.snr,
}

NAMES = tuple(_CHARTS)


def draw(what: str, runs: charts.Runs, width: float = charts.WIDTH, text: float = PAPER_TEXT) -> Chart | None:
    """The chart of that name, its width in inches and its text in points; None if the reports lack its numbers."""
    with style(text):
        return _CHARTS[what](runs, width)
