"""The sequence engine: for each checkpoint load, build, measure; the one place where inputs meet curvature."""

import contextlib
import logging
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, replace
from itertools import zip_longest
from pathlib import Path
from typing import Any

import torch
from torch import nn

from fisher_cli._version import __version__
from fisher_cli.curvature.problem.problem import Data, TensorData
from fisher_cli.curvature.problem.process_group import ALONE, ProcessGroup
from fisher_cli.curvature.torch_backend.malloc import manage_freed_memory
from fisher_cli.curvature.torch_backend.out_of_memory import is_out_of_memory, release_memory
from fisher_cli.errors import CheckpointError, FisherError, OutOfMemoryError, RanksError, UsageError
from fisher_cli.inputs.checkpoints.checkpoints import (
    Checkpoint,
    CheckpointFile,
    ReadOptions,
    find_checkpoints,
    load_checkpoint,
)
from fisher_cli.inputs.checkpoints.follow import FollowedPaths, FollowRequest
from fisher_cli.inputs.checkpoints.inspection_cache import (
    InspectedFile,
    InspectionCache,
    read_inspections,
    write_inspections,
)
from fisher_cli.inputs.data.datasets import Examples, load_examples
from fisher_cli.inputs.networks.architectures import Architecture
from fisher_cli.inputs.networks.networks import Networks, network_outcome, refuse_nonfinite
from fisher_cli.inputs.user_code import code_digest
from fisher_cli.results import Ledger, Measurement, Status
from fisher_cli.run.analysis import Analysis
from fisher_cli.run.device import choose_device
from fisher_cli.run.measurement import NoObserver, Observer, measure
from fisher_cli.run.movement import RecomputedRow, recompute
from fisher_cli.run.normalization import choose_from_first_batch
from fisher_cli.run.option_checks import refuse_recomputed, refuse_rounded, refuse_tf32_on
from fisher_cli.run.previous_row import PreviousRow
from fisher_cli.run.resume import ResumedRows
from fisher_cli.settings import Resources, Settings
from fisher_cli.storage.journal import Journal
from fisher_cli.storage.json_codec import decode, encode


def refuse_other_files(files: Sequence[CheckpointFile], process_group: ProcessGroup) -> None:
    """Make sure that all ranks have found the same checkpoints.

    Raises:
        CheckpointError: they have not.
    """
    first, *others = process_group.exchange([[file.name, file.sha256] for file in files])
    for rank, seen in enumerate(others, 1):
        if odd := next((one or other for one, other in zip_longest(first, seen) if one != other), None):
            msg = f"{odd[0]}: rank {rank} does not see the same file as rank 0; all must see one folder, at rest"
            raise CheckpointError(msg)


_LOG = logging.getLogger(__name__)

# Normalised inputs up to this size are made once and kept on the device for the whole run.
RESIDENT_BYTES = 2**30


def resident(examples: Examples, device: torch.device) -> Data:
    """The examples normalised once and kept on the device when they fit, else as they are."""
    inputs, _ = examples.batch(0, min(1, len(examples)))
    if inputs.numel() * inputs.element_size() * len(examples) > RESIDENT_BYTES:
        return examples
    try:
        inputs, labels = examples.batch(0, len(examples))
        return TensorData(inputs.to(device), labels.to(device))
    except Exception as error:
        if not is_out_of_memory(error):
            raise
    release_memory()
    return examples


def load_data(settings: Settings, resources: Resources) -> Examples:
    """The examples that the settings select."""
    return load_examples(
        settings.data,
        data_dir=resources.data_dir,
        split=settings.split,
        limit=settings.limit,
        labels=settings.labels,
        normalize=settings.normalize,
        resize=settings.resize,
        crop=settings.crop,
        arguments=dict(settings.data_arguments),
        download=resources.download,
        seed=settings.seed,
    )


class Run:
    """An analysis under way: iterate over it for one Measurement per checkpoint, in order of training.

    Everything that concerns the whole run is checked when it is made: checkpoints found, data loaded, device there.
    Files that an earlier run with its journal in the folder `before` has found are only hashed. With `following` it
    goes on with checkpoints that come later; before each wait for them it calls `waiting`. The ranks of the
    `process_group` go through the same checkpoints, in step; only rank 0 has a journal.
    """

    def __init__(
        self,
        paths: Sequence[Path],
        settings: Settings,
        resources: Resources,
        observer: Observer | None = None,
        before: Path | None = None,
        following: FollowRequest | None = None,
        process_group: ProcessGroup = ALONE,
    ) -> None:
        refuse_rounded(settings)
        refuse_recomputed(settings, resources.activations)
        self.activations = resources.activations
        self._settings, self._resources = settings, resources
        self.observer: Observer = observer or NoObserver()
        self._process_group = process_group
        self.device = choose_device(process_group.own_device(resources.device))
        refuse_tf32_on(self.device.type, settings)
        self.reading = ReadOptions.of(settings, resources)
        self._inspection_cache = self._acquainted(before)
        manage_freed_memory(large=True)  # until a network is there: what files leave behind would be in its way
        self._watch = (
            None if following is None else FollowedPaths(paths, self.reading, self._inspection_cache, following)
        )
        self.waiting: Callable[[], None] = lambda: None
        self.files = self._found(paths)
        refuse_other_files(self.files, process_group)
        self.networks = Networks(settings.model, dict(settings.model_arguments))
        self.examples = self._normalized(load_data(settings, resources))
        self.data = resident(self.examples, self.device)
        self._batch_size = resources.batch_size
        self._known: tuple[nn.Module, Ledger] | None = None
        has_next = len(self.files) > 1 or following is not None
        previous_row = PreviousRow() if has_next and settings.looks_back else None
        self._rows = self._rows_after(previous_row)
        self.analysis = Analysis(settings, resources, str(self.device), self.examples.describe())

    @property
    def _way(self) -> dict[str, Any]:
        """How files are read: what was found in one holds for the same bytes read in the same way."""
        return {"fisher": __version__, "torch": str(torch.__version__), **asdict(self.reading)}

    def _acquainted(self, journal: Path | None) -> InspectionCache:
        found = list[InspectedFile]()
        for value in read_inspections(journal, self._way) if journal is not None else ():
            with contextlib.suppress(ValueError):
                found.append(decode(InspectedFile, value))
        return InspectionCache.of(found)

    def _normalized(self, examples: Examples) -> Examples:
        """The examples, with the constants that `--normalize auto` chooses for the last checkpoint that can be used.

        Raises:
            FisherError: what is wrong with the last checkpoint, when none can be used.
            RanksError: another rank is gone.
        """
        last: Exception | None = None
        for file in reversed(self.files) if examples.candidates else ():
            try:
                with self._process_group.in_step():
                    module = self.network(file)[2]
            except RanksError:
                raise
            except FisherError as error:
                last = last or error
                continue
            return choose_from_first_batch(examples, module, self._settings, self.device, self._process_group)
        if last is not None:
            raise last
        return examples

    def checkpoint(self, file: CheckpointFile) -> Checkpoint:
        """A file's weights, read anew."""
        return load_checkpoint(file, self.reading)

    def network(
        self, file: CheckpointFile, found: Callable[[Checkpoint, str | None], None] = lambda _checkpoint, _name: None
    ) -> tuple[Checkpoint, Architecture, nn.Module]:
        """A file's weights, and in their network; for the next file of its kind the network is the same module.

        `found` is told of the checkpoint, and again with its architecture's name, as soon as each is known.
        """
        checkpoint = self.checkpoint(file)
        found(checkpoint, None)
        refuse_nonfinite(checkpoint)
        architecture = self.networks.architecture(checkpoint)
        found(checkpoint, architecture.name)
        return checkpoint, architecture, self.networks.load(architecture, checkpoint)

    def __len__(self) -> int:
        return len(self.share)

    def close(self) -> None:
        """End whatever works for it besides this process."""

    @property
    def share(self) -> Sequence[CheckpointFile]:
        """The checkpoints that are rows of this run."""
        return self.files

    def __iter__(self) -> Iterator[Measurement]:
        start = time.perf_counter()
        for file in self._coming():
            self.observer.start(file.name)
            measurement = self._identified(self._rows.of(file))
            self._learn(measurement)
            self.analysis.measurements.append(measurement)
            self.analysis.seconds = time.perf_counter() - start
            self.observer.finish(measurement)
            yield measurement

    @property
    def is_following(self) -> bool:
        """Whether it waits for checkpoints that come later."""
        return self._watch is not None

    def _found(self, paths: Sequence[Path]) -> list[CheckpointFile]:
        """The checkpoints that are there; none are needed yet in a folder that is followed."""
        if self._watch is None:
            return find_checkpoints(paths, self.reading, self._inspection_cache)
        is_empty = paths and all(path.is_dir() for path in paths) and not self._watch.there()
        return self._watch.begin([] if is_empty else find_checkpoints(paths, self.reading, self._inspection_cache))

    def _coming(self) -> Iterator[CheckpointFile]:
        """The checkpoints that are there, and those that come, until the last one to wait for is measured."""
        yield from list(self.share)
        watch = self._watch
        if watch is None:
            return
        is_over = any(watch.following.is_over(file) for file in self.files)
        while not is_over:
            self.waiting()
            watch.following.pause(watch.following.between)
            for file in watch.newcomers():
                yield file
                is_over = is_over or watch.following.is_over(file)

    @property
    def question(self) -> dict[str, Any]:
        """What the rows answer: for the same question and the same weights they are the same."""
        model = self._settings.model
        return {
            "fisher": __version__,
            "torch": str(torch.__version__),
            "device": self.device.type,
            "batch_size": self._resources.batch_size,
            "settings": self._settings.without_folders(),
            "data": self.examples.describe(with_choice=False),
            "model_code": code_digest(model) if model is not None and ":" in model else None,
        }

    def keep_in(self, journal: Journal) -> int:
        """Take finished rows from the journal and add to it those that are measured from now on.

        Returns:
            How many of the rows are finished already, as far as the files tell.
        """
        self._rows.journal = journal
        if self._inspection_cache.has_news:
            write_inspections(journal.folder, self._way, map(encode, self._inspection_cache.met.values()))
        known = {weights for weights, _ in journal.keys}
        return sum(file.sha256 in known for file in self.share)

    def _rows_after(self, previous_row: PreviousRow | None) -> ResumedRows:
        return ResumedRows(
            self._settings, previous_row, lambda file: self.measure(file), self._revisited, self._process_group
        )

    def _revisited(self, file: CheckpointFile, known: Measurement) -> RecomputedRow | None:
        """The network of a row that was measured before; None where it cannot be had, or memory does not suffice."""
        try:
            module = self.network(file)[2]
            size = self._batch_size if known.memory_ran_out_at is None else known.batch_size
            return recompute(module, self.data, self._settings, known, size, self.device)
        except Exception as error:
            if not isinstance(error, FisherError) and not is_out_of_memory(error):
                raise
        release_memory()
        return None

    def measure(self, file: CheckpointFile) -> Measurement:
        """One checkpoint's row; a failure is a row that says why.

        Raises:
            UsageError: what was asked cannot be, for this or any checkpoint.
            RanksError: another rank is gone.
        """
        row = Measurement(checkpoint=file.name, status=Status.OK, sha256=file.sha256, step=file.step, epoch=file.epoch)

        def identified(checkpoint: Checkpoint, architecture: str | None) -> None:
            nonlocal row
            kind = checkpoint.weights_kind
            row = replace(row, step=checkpoint.step, epoch=checkpoint.epoch, weights=kind, architecture=architecture)

        start = time.perf_counter()
        if self._rows.previous_row is not None:
            self._rows.previous_row.advance()
        try:
            with self._process_group.in_step():
                checkpoint, architecture, module = self.network(file, identified)
            notes = checkpoint.notes + architecture.notes
            del checkpoint, architecture  # with the weights as they were read: the network has its own
            loading = time.perf_counter() - start
            found = self._measured(module)
        except (UsageError, RanksError):
            raise
        except Exception as error:
            if not isinstance(error, FisherError):
                _LOG.debug("%s", file.name, exc_info=True)
            if isinstance(error, OutOfMemoryError):
                self._batch_size = 1
            status, text = network_outcome(error, file)
            return replace(row, status=status, error=text)
        return replace(
            found,
            checkpoint=row.checkpoint,
            sha256=row.sha256,
            step=row.step,
            epoch=row.epoch,
            architecture=row.architecture,
            weights=row.weights,
            notes=notes + found.notes,
            timings=(("load", loading), *found.timings),
        )

    def _identified(self, measurement: Measurement) -> Measurement:
        """With what is known of each example besides the network's view of it."""
        examples, found = self.examples, measurement.per_example
        if found is None:
            return measurement
        noisy = None if examples.noisy is None else tuple(examples.noisy.tolist())
        names = examples.class_names
        identified = replace(found, indices=tuple(examples.indices.tolist()), noisy=noisy, class_names=names)
        return replace(measurement, per_example=identified)

    def _measured(self, module: nn.Module) -> Measurement:
        """Measure a network; what is learned about memory and the ledger's work serves the next ones."""
        found = measure(
            module,
            self.data,
            self._settings,
            batch_size=self._batch_size,
            activations=self.activations,
            device=self.device,
            classes=self.examples.classes,
            known=self._known[1] if self._known is not None and self._known[0] is module else None,
            observer=self.observer,
            previous_row=self._rows.previous_row,
            process_group=self._process_group,
        )
        self._learn(found)
        if found.ledger is not None:
            self._known = (module, found.ledger)
        return found

    def _learn(self, found: Measurement) -> None:
        """Begin the next one with as many examples at once as memory allowed here, now or when the row was made."""
        if found.memory_ran_out_at is not None:
            self._batch_size = found.batch_size
