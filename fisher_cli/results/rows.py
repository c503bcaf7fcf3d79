"""What is known about one checkpoint: a row of a report."""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum
from math import prod
from typing import Protocol, TypeVar

from fisher_cli.results.comparisons import Comparison
from fisher_cli.results.coverage import Check, Ledger, Rounding
from fisher_cli.results.examples import ExampleSummary, PerExample
from fisher_cli.results.identities import Verification
from fisher_cli.results.movement import UNSETTLED_NOTE, Movement
from fisher_cli.results.spectra import Eigenvalues, Spectrum
from fisher_cli.results.traces import FilterMeans, Gradient, Predictions, Trace

# How many standard errors above guessing an accuracy must be to count.
_CLEAR = 3.0
# How far above ln C, in parts of it, the loss of initial weights may be.
INITIAL_LOSS = 0.25
# The doubt about a row that has learned nothing, and is sure of it.
HIGH_LOSS = "no better than guessing, at a loss above that of guessing"


class OfRun(Protocol):
    """A row, a file or a table's line that is of a run."""

    @property
    def run(self) -> str:
        """The run's name; "" where it has none."""


_R = TypeVar("_R", bound=OfRun)


def by_run(rows: Iterable[_R]) -> dict[str, list[_R]]:
    """The rows of each run by its name; runs are in order of their first rows, and rows keep their order."""
    found: dict[str, list[_R]] = {}
    for each in rows:
        found.setdefault(each.run, []).append(each)
    return found


class OrderInRun:
    """Numbers rows within their runs, as they come.

    Args:
        first: the place of the first row in its run; above 0 where earlier ones are elsewhere.
    """

    def __init__(self, first: int = 0) -> None:
        self._first, self._next = first, dict[str, int]()

    def __call__(self, row: object) -> int:
        """The place of the next row in its run, from 0; what has no run is of one without a name."""
        run = getattr(row, "run", "")
        order = self._next.get(run, 0 if self._next else self._first)
        self._next[run] = order + 1
        return order


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
class TensorSummary:
    """What one tensor of a checkpoint file is.

    Attributes:
        name: under which the weights have it, without wrappers.
        shape: its sizes.
        dtype: the type of its numbers in the file.
        mean: of its values; None, as the next three, where one of them is not finite or there are none.
        std: their standard deviation, by their number.
        minimum: the smallest value.
        maximum: the largest value.
        zeros: the share of values that are zero.
        looks_like: the layer that its name, its shape and those of its neighbours suggest; "" for none.
    """

    name: str
    shape: tuple[int, ...]
    dtype: str
    mean: float | None
    std: float | None
    minimum: float | None
    maximum: float | None
    zeros: float | None
    looks_like: str

    @property
    def values(self) -> int:
        """How many values it has."""
        return prod(self.shape)

    @property
    def sizes(self) -> str:
        """Its shape in words, such as `16×3×3×3`; `scalar` for a single number."""
        return "×".join(map(str, self.shape)) or "scalar"


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
        run: the name of the run that it is of.
        summaries: one per tensor, in the file's order; none unless they were asked for.
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
    run: str = ""
    summaries: tuple[TensorSummary, ...] = ()


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
        run: the name of the run that it is of; "" where it has none.
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
    run: str = ""

    @property
    def guessing_loss(self) -> float | None:
        """ln C, the loss in nats of equal probabilities for all classes; None where the outputs are no classes."""
        is_classifier = self.likelihood in {None, "softmax"} and self.classes is not None and self.classes > 1
        return math.log(self.classes) if is_classifier and self.classes is not None else None

    @property
    def is_better_than_guessing(self) -> bool | None:
        """Whether the accuracy exceeds 1/C by three of the standard errors √(C − 1)/(C√N) that guessing has.

        The sample's own error would be zero where no example is right. None where no accuracy is known.
        """
        accuracy = self.predictions.accuracy if self.predictions else None
        if accuracy is None or not math.isfinite(accuracy.value) or self.guessing_loss is None:
            return None
        if self.examples is None or self.examples < 1:
            return None
        chance = math.exp(-self.guessing_loss)
        return accuracy.value > chance + _CLEAR * math.sqrt(chance * (1 - chance) / self.examples)

    @property
    def doubt(self) -> str:
        """Why the numbers of the row are not those of a trained network as it was trained, "" if nothing says so.

        Such a row stays in the tables; it enters no peak, phase or sentence about the run.
        """
        if any(note.startswith(UNSETTLED_NOTE) for note in self.notes):
            return UNSETTLED_NOTE
        loss = self.predictions.loss.value if self.predictions else math.nan
        if self.is_better_than_guessing is False and self.guessing_loss is not None:
            return HIGH_LOSS if loss > (1 + INITIAL_LOSS) * self.guessing_loss else ""
        return ""

    @property
    def true_spectrum(self) -> Spectrum | None:
        """The spectrum of the true Fisher, None where it was not asked for."""
        return next((each for each in self.spectra if each.matrix == "true"), None)
