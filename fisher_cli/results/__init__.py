"""What an analysis finds out: frozen values with their errors and statuses; standard library only.

Everywhere: natural logarithms, mean over examples, sum over classes, evaluation mode.
"""

from fisher_cli.results.comparisons import AgainstNull, Comparison, Finding, Interval, LayerComparison, Verdict
from fisher_cli.results.coverage import Check, Coverage, Ledger
from fisher_cli.results.rows import Inspection, Measurement
from fisher_cli.results.spectra import Density, Eigenvalues, SpectralAxis, Spectrum
from fisher_cli.results.statuses import Status, WeightsKind
from fisher_cli.results.traces import Estimate, Gradient, LayerTrace, Predictions, Trace

__all__ = [
    "AgainstNull",
    "Check",
    "Comparison",
    "Coverage",
    "Density",
    "Eigenvalues",
    "Estimate",
    "Finding",
    "Gradient",
    "Inspection",
    "Interval",
    "LayerComparison",
    "LayerTrace",
    "Ledger",
    "Measurement",
    "Predictions",
    "SpectralAxis",
    "Spectrum",
    "Status",
    "Trace",
    "Verdict",
    "WeightsKind",
]
