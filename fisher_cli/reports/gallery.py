"""All charts by the name that `fisher plot --what` takes, in the order of a page."""

from collections.abc import Callable, Mapping

from fisher_cli.reports import charts, side_charts
from fisher_cli.reports.drawing import Chart

CHARTS: Mapping[str, Callable[[charts.Runs, float], Chart | None]] = {
    "traces": charts.traces,
    "ratio": charts.ratio,
    "loss": charts.loss,
    "eigenvalues": charts.eigenvalues,
    "spectrum": side_charts.spectrum,
    "layers": side_charts.layers,
    "movement": charts.movement,
    "snr": charts.snr,
}
