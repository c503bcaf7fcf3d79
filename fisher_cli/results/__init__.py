"""What an analysis finds out: frozen values with their errors and statuses; standard library only.

Everywhere: natural logarithms, mean over examples, sum over classes, evaluation mode.
"""

from fisher_cli.results.comparisons import (
    AgainstNull,
    Comparison,
    ComparisonFinding,
    Interval,
    LayerComparison,
    Verdict,
)
from fisher_cli.results.coverage import Check, Coverage, Ledger, Rounding
from fisher_cli.results.examples import (
    Concentration,
    ExampleGroup,
    ExampleRow,
    ExampleSummary,
    NoisyAndClean,
    PerExample,
    Ratio,
)
from fisher_cli.results.forecasts import Forecast, Refusal
from fisher_cli.results.identities import ExpansionStep, Identity, Outcome, Verification
from fisher_cli.results.movement import UNSETTLED_NOTE, CheckpointComparison, LayerStep, Movement
from fisher_cli.results.rows import (
    HIGH_LOSS,
    INITIAL_LOSS,
    Inspection,
    Measurement,
    OrderInRun,
    Status,
    TensorSummary,
    WeightsKind,
    by_run,
)
from fisher_cli.results.spectra import Density, Eigenvalues, SpectralAxis, Spectrum
from fisher_cli.results.traces import Estimate, FilterMeans, Gradient, LayerTrace, Predictions, Trace

__all__ = [
    "HIGH_LOSS",
    "INITIAL_LOSS",
    "UNSETTLED_NOTE",
    "AgainstNull",
    "Check",
    "CheckpointComparison",
    "Comparison",
    "ComparisonFinding",
    "Concentration",
    "Coverage",
    "Density",
    "Eigenvalues",
    "Estimate",
    "ExampleGroup",
    "ExampleRow",
    "ExampleSummary",
    "ExpansionStep",
    "FilterMeans",
    "Forecast",
    "Gradient",
    "Identity",
    "Inspection",
    "Interval",
    "LayerComparison",
    "LayerStep",
    "LayerTrace",
    "Ledger",
    "Measurement",
    "Movement",
    "NoisyAndClean",
    "OrderInRun",
    "Outcome",
    "PerExample",
    "Predictions",
    "Ratio",
    "Refusal",
    "Rounding",
    "SpectralAxis",
    "Spectrum",
    "Status",
    "TensorSummary",
    "Trace",
    "Verdict",
    "Verification",
    "WeightsKind",
    "by_run",
]
