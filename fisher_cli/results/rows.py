"""What is known about one checkpoint: a row of a report."""

from dataclasses import dataclass
from enum import StrEnum

from fisher_cli.results.comparisons import Comparison
from fisher_cli.results.coverage import Check, Ledger, Rounding
from fisher_cli.results.examples import ExampleSummary, PerExample
from fisher_cli.results.identities import Verification
from fisher_cli.results.movement import Movement
from fisher_cli.results.spectra import Eigenvalues, Spectrum
from fisher_cli.results.traces import FilterMeans, Gradient, Predictions, Trace


class Status(StrEnum):
    """How a checkpoint's row ended."""

    OK = "ok"
    NOT_CONVERGED = "not-converged"  # some eigenvalue's residual stayed above the tolerance; its value is kept
    REJECTED = "rejected"  # the file could not be used
    FAILED = "failed"  # the computation broke


class WeightsKind(StrEnum):
    """Which of the weights in a checkpoint were analysed."""

    RAW = "raw"
    EMA = "ema"
    AVERAGED = "averaged"


@dataclass(frozen=True, slots=True, kw_only=True)
class Inspection:
    """What a checkpoint file is, without looking at any data; what was not found out is None.

    `integrity` says whether the format has checksums; `weights_key` where in the file the weights were,
    `tensors` how many there are; `architecture_source` who chose the network; `parameters` are its trainable
    values. `step_source` is who tells step and epoch: entries of the file, its name, or nothing but the order.
    `error` and `notes` are as in Measurement.
    """

    checkpoint: str
    status: Status
    error: str = ""
    sha256: str | None = None
    step: int | None = None
    epoch: float | None = None
    format: str | None = None
    integrity: str | None = None
    weights_key: str | None = None
    weights: WeightsKind | None = None
    tensors: int | None = None
    architecture: str | None = None
    architecture_source: str | None = None
    parameters: int | None = None
    notes: tuple[str, ...] = ()
    step_source: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Measurement:
    """Everything found out about one checkpoint: one row of the report.

    `error` is one line, "" when all is well. `notes` are remarks that do not make the row fail.
    `timings` are seconds by stage; they go to the run's record, never into a table. `memory_ran_out_at` is the
    number of examples at once for which memory did not suffice, before `batch_size` was taken instead. `likelihood` is
    the name of the outputs' distribution. `movement_notes` are the last of the notes, on the way from the row before.
    """

    checkpoint: str
    status: Status
    error: str = ""
    sha256: str | None = None
    step: int | None = None
    epoch: float | None = None
    architecture: str | None = None
    weights: WeightsKind | None = None
    parameters: int | None = None
    examples: int | None = None
    classes: int | None = None
    predictions: Predictions | None = None
    trace: Trace | None = None
    gradient: Gradient | None = None
    eigenvalues_true: Eigenvalues | None = None
    eigenvalues_empirical: Eigenvalues | None = None
    batch_size: int | None = None
    notes: tuple[str, ...] = ()
    timings: tuple[tuple[str, float], ...] = ()
    ledger: Ledger | None = None
    check: Check | None = None
    memory_ran_out_at: int | None = None
    spectra: tuple[Spectrum, ...] = ()
    movement: Movement | None = None
    comparison: Comparison | None = None
    verification: Verification | None = None
    likelihood: str | None = None
    per_example: PerExample | None = None
    example_summary: ExampleSummary | None = None
    task2vec: tuple[FilterMeans, ...] = ()
    movement_notes: tuple[str, ...] = ()
    rounding: Rounding | None = None

    @property
    def true_spectrum(self) -> Spectrum | None:
        """The spectrum of the true Fisher, None where it was not asked for."""
        return next((each for each in self.spectra if each.matrix == "true"), None)
