"""One row: load a checkpoint, build its network, pose the problem, measure it, and say why where that fails."""

import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from typing import Any, Protocol

import torch
from torch import nn

from fisher_cli.curvature.problem.problem import Data
from fisher_cli.curvature.problem.process_group import ALONE, ProcessGroup
from fisher_cli.curvature.torch_backend.network_state import restored
from fisher_cli.curvature.torch_backend.out_of_memory import is_out_of_memory, release_memory
from fisher_cli.errors import FisherError, OutOfMemoryError, RanksError, UsageError
from fisher_cli.inputs.checkpoints.checkpoints import Checkpoint, CheckpointFile
from fisher_cli.inputs.data.datasets import Examples
from fisher_cli.inputs.formats.reading import ReadOptions
from fisher_cli.inputs.networks.architectures import Architecture
from fisher_cli.inputs.networks.networks import Found, Networks, ignore, network_outcome
from fisher_cli.results import Ledger, Measurement, Status
from fisher_cli.run.measurement import MeasurementContext, NoObserver, Observer, measure
from fisher_cli.run.modules import GivenModule
from fisher_cli.run.movement import RecomputedRow, recompute, rejoined, unjoined
from fisher_cli.run.previous_row import PreviousRow
from fisher_cli.settings import Resources, Settings

_LOG = logging.getLogger(__name__)

Source = CheckpointFile | GivenModule


@dataclass(frozen=True)
class Inputs:
    """What the rows of a run have in common.

    Attributes:
        settings: what is asked.
        resources: with what.
        device: where the rows are measured.
        reading: how checkpoints are read.
        networks: those of the checkpoints.
        data: the examples as networks are given them.
        examples: what is known of the same; None of tensors that a caller gave.
        described: the examples in words, for the record.
        identity: the examples in words, of which other examples differ.
    """

    settings: Settings
    resources: Resources
    device: torch.device
    reading: ReadOptions
    networks: Networks
    data: Data
    examples: Examples | None
    described: Mapping[str, Any]
    identity: Mapping[str, Any]

    @property
    def classes(self) -> int | None:
        """How many classes the dataset declares; None where it declares none."""
        return None if self.examples is None else self.examples.classes

    def network(self, file: CheckpointFile, found: Found = ignore) -> tuple[Checkpoint, Architecture, nn.Module]:
        """A file's weights, and the network with them in it, as `Networks.of` gives them.

        Args:
            file: the checkpoint.
            found: told of the checkpoint, and again with its architecture's name, as soon as each is known.

        Returns:
            The checkpoint, its architecture, and the network, which the next call may load with other weights.

        Raises:
            FisherError: the file cannot be read, its weights are not finite, or its network is not known.
        """
        return self.networks.of(file, self.reading, found)


@dataclass(frozen=True)
class Predecessor:
    """The last row with numbers before a row, which the row is held against.

    Attributes:
        source: its checkpoint or module; None where there is no such row.
        known: what was measured of it, where that is known without its network.
        between: how many rows without numbers came after it that nobody here has tried.
    """

    source: Source | None = None
    known: Measurement | None = None
    between: int = 0

    @property
    def sha256(self) -> str | None:
        """The content hash of its weights, `sha256:<hex>`; None where there is no such row."""
        return None if self.source is None else self.source.sha256


FIRST = Predecessor()
Keep = Callable[[Source, str | None, Measurement], None]


def has_numbers(row: Measurement) -> bool:
    """Whether a row is one that later rows are held against."""
    return row.status in {Status.OK, Status.NOT_CONVERGED}


class Executor(Protocol):
    """Who measures the rows that the journal does not have.

    Attributes:
        is_elsewhere: whether other processes do, which find themselves what a row is held against.
    """

    is_elsewhere: bool

    @property
    def threads(self) -> int:
        """How many threads of the processor take part in a row: sums in another order differ in the last digits."""

    def begin(self, places: Sequence[int], keep: Keep, observer: Observer) -> None:
        """Get ready for the rows that will be asked for.

        Args:
            places: their numbers in the whole run, in order of training; the journal has no row of these weights.
            keep: to be told a row at once that others finish before it is asked for: its source, the content hash of
                the row before it, and the row.
            observer: to be told how far the row is that is being measured.
        """

    def measure_row(self, source: Source, previous: Predecessor) -> Measurement:
        """One row, held against the one before it.

        Args:
            source: a checkpoint or a module.
            previous: the last row before it with numbers.
        """

    def rejoin(self, source: Source, known: Measurement, previous: Predecessor) -> Measurement | None:
        """The row of weights that were measured after another row; None where it is to be measured anew.

        Args:
            source: a checkpoint or a module.
            known: what was measured of it.
            previous: the last row with numbers that is before it now.
        """

    def learn(self, row: Measurement) -> None:
        """Take from a finished row how much memory allowed."""

    def close(self) -> None:
        """End whatever works besides this process."""


class ThisProcess:
    """Measures rows one after the other, each with what it holds of the row before; ranks go through them in step."""

    is_elsewhere = False

    def __init__(self, inputs: Inputs, *, looks_back: bool, process_group: ProcessGroup = ALONE) -> None:
        self._inputs, self._process_group = inputs, process_group
        self._batch_size = inputs.resources.batch_size
        self._observer: Observer = NoObserver()
        self._counted: tuple[nn.Module, Ledger] | None = None
        self._previous_row = PreviousRow() if looks_back else None
        # Whose network that is, and how many rows without numbers it has been told of since.
        self._at: Source | None = None
        self._since = 0
        self._run = ""

    @property
    def threads(self) -> int:
        """Those of this process."""
        return torch.get_num_threads()

    def begin(self, places: Sequence[int], keep: Keep, observer: Observer) -> None:
        """Remember the observer, which is told how far each row is."""
        del places, keep
        self._observer = observer

    def close(self) -> None:
        """Do nothing: nothing is left running."""

    def learn(self, row: Measurement) -> None:
        """Take the batch size of a row whose memory ran out for the next ones, whether it was made now or earlier."""
        if row.memory_ran_out_at is not None:
            self._batch_size = row.batch_size

    def measure_row(self, source: Source, previous: Predecessor) -> Measurement:
        """One row, held against the one before it; of a file a failure is a row that says why.

        Args:
            source: a checkpoint, or a module that somebody made, who can mend what fails.
            previous: the last row before it with numbers; its network is evaluated first where it is not at hand.

        Returns:
            The row.

        Raises:
            UsageError: what was asked cannot be, for this or any checkpoint.
            RanksError: another rank is gone.
            Exception: what fails with a module.
        """
        row = Measurement(
            checkpoint=source.name, status=Status.OK, sha256=source.sha256, step=source.step, epoch=source.epoch
        )

        def identified(checkpoint: Checkpoint, architecture: str | None) -> None:
            nonlocal row
            kind = checkpoint.weights_kind
            row = replace(row, step=checkpoint.step, epoch=checkpoint.epoch, weights=kind, architecture=architecture)

        self._stand_after(previous, source.run)
        start = time.perf_counter()
        if self._previous_row is not None:
            self._previous_row.advance()
        try:
            with ExitStack() as stack:
                with self._process_group.in_step():
                    module, architecture, notes = stack.enter_context(self._network(source, identified))
                loading = time.perf_counter() - start
                found = measure(module, self._inputs.data, self._inputs.settings, self._context(module))
        except (UsageError, RanksError):
            raise
        except Exception as error:
            if isinstance(source, GivenModule):
                raise
            if not isinstance(error, FisherError):
                _LOG.debug("%s", source.name, exc_info=True)
            if isinstance(error, OutOfMemoryError):
                self._batch_size = 1
            status, text = network_outcome(error, source)
            return replace(row, status=status, error=text)
        self._at, self._since = source, 0
        self.learn(found)
        if found.ledger is not None and isinstance(source, CheckpointFile):
            self._counted = module, found.ledger
        return replace(
            found,
            checkpoint=row.checkpoint,
            sha256=row.sha256,
            step=row.step,
            epoch=row.epoch,
            architecture=architecture,
            weights=row.weights,
            notes=notes + found.notes,
            timings=found.timings if isinstance(source, GivenModule) else (("load", loading), *found.timings),
        )

    def rejoin(self, source: Source, known: Measurement, previous: Predecessor) -> Measurement | None:
        """The row of weights that were measured after another row: all but what joins the two is kept.

        Returns:
            The row; None where memory does not suffice, and where its parts cannot be had for less than all of it: the
            eigenvalues of a whole spectrum are what it costs, and ranks have but one journal.
        """
        if self._inputs.settings.spectrum is not None or self._process_group.size > 1:
            return None
        if self._previous_row is None or previous.source is None:
            return unjoined(known)
        self._stand_after(previous, source.run)
        with ExitStack() as stack:
            now = self._recomputed(source, known, stack)
            if now is None:
                return None
            self._previous_row.advance()
            found = rejoined(known, now, self._previous_row)
            now.leave(self._previous_row)
        self._at, self._since = source, 0
        return found

    def _stand_after(self, previous: Predecessor, run: str) -> None:
        """Remember the network of the row before; where another is remembered, it is evaluated, or else measured."""
        if self._previous_row is None:
            return
        if run != self._run:  # nothing of a row joins it to one of another run
            self._previous_row, self._at, self._since, self._run = PreviousRow(), None, 0, run
        if previous.source is None:
            self._previous_row = self._previous_row if self._at is None else PreviousRow()
            self._at, self._since = None, 0
            return
        if self._at is not previous.source:
            if not self._evaluated(previous.source, previous.known):
                self.measure_row(previous.source, FIRST)
            self._at, self._since = previous.source, 0  # also for the row after, should this one fail
        for _ in range(previous.between - self._since):
            self._previous_row.advance()
        self._since = max(previous.between, self._since)

    def _evaluated(self, source: Source, known: Measurement | None) -> bool:
        """Whether a measured row's network could be evaluated, to be remembered, without measuring it anew."""
        if known is None or self._inputs.settings.spectrum is not None or self._process_group.size > 1:
            return False
        with ExitStack() as stack:
            now = self._recomputed(source, known, stack)
            if now is not None and self._previous_row is not None:
                self._previous_row.advance()
                now.leave(self._previous_row)
            return now is not None

    def _recomputed(self, source: Source, known: Measurement, stack: ExitStack) -> RecomputedRow | None:
        """A measured row's network, there until the stack is left; None where it cannot be had, or memory is short."""
        inputs = self._inputs
        size = self._batch_size if known.memory_ran_out_at is None else known.batch_size
        context = MeasurementContext(batch_size=size, device=inputs.device)
        try:
            module, _, _ = stack.enter_context(self._network(source))
            return recompute(module, inputs.data, inputs.settings, context, known)
        except Exception as error:
            if not isinstance(error, FisherError) and not is_out_of_memory(error):
                raise
        release_memory()
        return None

    @contextmanager
    def _network(self, source: Source, found: Found = ignore) -> Iterator[tuple[nn.Module, str, tuple[str, ...]]]:
        """The network with the row's weights, its architecture's name, and what is to be said of both."""
        if isinstance(source, GivenModule):
            with restored(source.module):
                yield source.module, type(source.module).__name__, ()
        else:
            yield self._read(source, found)

    def _read(self, file: CheckpointFile, found: Found) -> tuple[nn.Module, str, tuple[str, ...]]:
        # The weights as they were read are let go here: the network has its own.
        checkpoint, architecture, module = self._inputs.network(file, found)
        return module, architecture.name, checkpoint.notes + architecture.notes

    def _context(self, module: nn.Module) -> MeasurementContext:
        inputs = self._inputs
        return MeasurementContext(
            batch_size=self._batch_size,
            activations=inputs.resources.activations,
            device=inputs.device,
            classes=inputs.classes,
            ledger=self._counted[1] if self._counted is not None and self._counted[0] is module else None,
            previous_row=self._previous_row,
            observer=self._observer,
            process_group=self._process_group,
        )
