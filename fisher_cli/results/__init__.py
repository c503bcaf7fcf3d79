"""What an analysis finds out: frozen values with their errors and statuses; standard library only.

Everywhere: natural logarithms, mean over examples, sum over classes, evaluation mode.
"""

from fisher_cli.results.coverage import Check, Coverage, Ledger
from fisher_cli.results.examples import (
    Concentration,
    ExampleGroup,
    ExampleRow,
    ExampleSummary,
    NoisyAndClean,
    PerExample,
    Ratio,
)
from fisher_cli.results.rows import Inspection, Measurement
from fisher_cli.results.spectra import Density, Eigenvalues, SpectralAxis, Spectrum
from fisher_cli.results.statuses import Status, WeightsKind
from fisher_cli.results.traces import Estimate, FilterMeans, Gradient, LayerTrace, Predictions, Trace

__all__ = [
    "Check",
    "Concentration",
    "Coverage",
    "Density",
    "Eigenvalues",
    "Estimate",
    "ExampleGroup",
    "ExampleRow",
    "ExampleSummary",
    "FilterMeans",
    "Gradient",
    "Inspection",
    "LayerTrace",
    "Ledger",
    "Measurement",
    "NoisyAndClean",
    "PerExample",
    "Predictions",
    "Ratio",
    "SpectralAxis",
    "Spectrum",
    "Status",
    "Trace",
    "WeightsKind",
]
