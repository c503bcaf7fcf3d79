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

    Attributes:
        checkpoint: the path relative to the folder that all checkpoints share.
        status: whether the file can be analysed.
        error: why it is not ok, in one line; "" when it is.
        sha256: of the bytes read, as `sha256:<hex>`.
        step: the training step.
        epoch: the training epoch; may be a fraction.
        format: the container.
        integrity: whether the format has checksums, and whether they hold.
        weights_key: where in the file the weights were.
        weights: which of the file's weights were taken.
        tensors: how many tensors there are.
        architecture: the network.
        architecture_source: who chose the network.
        parameters: how many trainable values the network has.
        notes: remarks that do not make the file fail.
        step_source: who tells step and epoch: entries of the file, its name, or nothing but the order.
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
    """Everything found out about one checkpoint: one row of the report; None stands for what was not found out.

    Attributes:
        checkpoint: the path relative to the folder that all checkpoints share.
        status: how the row ended.
        error: why it is not ok, in one line; "" when it is.
        sha256: of the checkpoint's bytes, as `sha256:<hex>`.
        step: the training step.
        epoch: the training epoch; may be a fraction.
        architecture: the network that the weights were loaded into.
        weights: which of the file's weights were analysed.
        parameters: P, how many weights were analysed; tied ones count once.
        examples: N, the examples that the means run over.
        classes: C, how many outputs the network has.
        predictions: loss, accuracy and entropy.
        trace: both traces with their layers.
        gradient: the mean gradient against its spread.
        eigenvalues_true: the leading eigenvalues of the true Fisher.
        eigenvalues_empirical: those of the empirical Fisher.
        batch_size: examples at once.
        notes: remarks that do not make the row fail.
        timings: (stage, seconds); they go to the run's record, never into a table.
        ledger: how the gradient norms of every parameter were found.
        check: what the run-time check saw.
        memory_ran_out_at: how many examples at once were too many for the memory, before `batch_size` was taken
            instead.
        spectra: one for each matrix whose eigenvalues were looked at in detail.
        movement: the way from the row before.
        comparison: the empirical Fisher against the true one.
        verification: the identities of `fisher verify`.
        likelihood: the name of the outputs' distribution.
        per_example: the examples one by one.
        example_summary: what they say together.
        task2vec: the mean of the true Fisher's diagonal over each filter.
        movement_notes: the last of the notes, those on the way from the row before.
        rounding: what a reduced precision costs.
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
