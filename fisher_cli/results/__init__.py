"""What an analysis finds out: frozen values with their errors and statuses; standard library only.

Everywhere: natural logarithms, mean over examples, sum over classes, evaluation mode.
"""

from fisher_cli.results.coverage import Check, Coverage, Ledger
from fisher_cli.results.identities import ExpansionStep, Identity, Verdict, Verification
from fisher_cli.results.rows import Inspection, Measurement
from fisher_cli.results.spectra import Density, Eigenvalues, SpectralAxis, Spectrum
from fisher_cli.results.statuses import Status, WeightsKind
from fisher_cli.results.traces import Estimate, Gradient, LayerTrace, Predictions, Trace

__all__ = [
    "Check",
    "Coverage",
    "Density",
    "Eigenvalues",
    "Estimate",
    "ExpansionStep",
    "Gradient",
    "Identity",
    "Inspection",
    "LayerTrace",
    "Ledger",
    "Measurement",
    "Predictions",
    "SpectralAxis",
    "Spectrum",
    "Status",
    "Trace",
    "Verdict",
    "Verification",
    "WeightsKind",
]
