"""The sequence engine: for each checkpoint load, build, measure; the one place where inputs meet curvature."""

import logging
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from fisher_cli import __version__
from fisher_cli.analysis import Analysis
from fisher_cli.curvature.memory import is_out_of_memory, release_memory
from fisher_cli.curvature.problem import Data, TensorData
from fisher_cli.errors import DataError, FisherError, OutOfMemoryError, UsageError
from fisher_cli.inputs.checkpoints import CheckpointFile, find_checkpoints, load_checkpoint
from fisher_cli.inputs.datasets import Examples, load_examples
from fisher_cli.inputs.factories import code_digest
from fisher_cli.inputs.networks import Networks, outcome, refuse_nonfinite
from fisher_cli.measurement import Observer, Silent, Trail, choose_device, measure
from fisher_cli.presets import settings_of
from fisher_cli.records import Journal, Record
from fisher_cli.results import Ledger, Measurement, Status
from fisher_cli.settings import Resources, Settings

_LOG = logging.getLogger(__name__)

# Normalised inputs up to this size are made once and kept on the device for the whole run.
RESIDENT_BYTES = 2**30
# A record of the journal with more examples than this is not kept in memory once it was used.
MOST_EXAMPLES_HELD = 20_000


def _resident(examples: Examples, device: torch.device) -> Data:
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


def _examples(settings: Settings, resources: Resources) -> Examples:
    return load_examples(
        settings.data,
        data_dir=resources.data_dir,
        split=settings.split,
        limit=settings.limit,
        labels=settings.labels,
        normalize=settings.normalize,
        download=resources.download,
        seed=settings.seed,
    )


class Run:
    """An analysis under way: iterate over it for one Measurement per checkpoint, in order of training.

    Everything that concerns the whole run is checked when it is made: checkpoints found, data loaded, device there.
    """

    def __init__(
        self, paths: Sequence[Path], settings: Settings, resources: Resources, observer: Observer | None = None
    ) -> None:
        self._settings, self._resources = settings, resources
        self.observer: Observer = observer or Silent()
        self.device = choose_device(resources.device)
        self.files = find_checkpoints(paths, state_key=settings.state_key)
        self.networks = Networks(settings.model, dict(settings.model_arguments))
        self.examples = _examples(settings, resources)
        self._data = _resident(self.examples, self.device)
        self._batch_size = resources.batch_size
        self._known: tuple[nn.Module, Ledger] | None = None
        self._trail = Trail() if len(self.files) > 1 else None
        self._journal: Journal | None = None
        # The row before, and whether the trail knows it: of a row that was recalled it knows nothing.
        self._before: CheckpointFile | None = None
        self._is_traced = True
        self.analysis = Analysis(settings, resources, str(self.device), self.examples.describe())

    def __len__(self) -> int:
        return len(self.files)

    def __iter__(self) -> Iterator[Measurement]:
        start = time.perf_counter()
        for file in self.files:
            self.observer.start(file.name)
            measurement = self._identified(self._recalled(file) or self._measured_anew(file))
            self.analysis.measurements.append(measurement)
            self.analysis.seconds = time.perf_counter() - start
            self.observer.finish(measurement)
            yield measurement

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
            "data": self.examples.describe(),
            "model_code": code_digest(model) if model is not None and ":" in model else None,
        }

    def keep_in(self, journal: Journal) -> int:
        """Take finished rows from the journal and add to it those that are measured from now on.

        Returns:
            How many of the rows are finished already, as far as the files tell.
        """
        self._journal = journal
        known = {weights for weights, _ in journal.records}
        return sum(file.sha256 in known for file in self.files)

    def _recalled(self, file: CheckpointFile) -> Measurement | None:
        """The row as it was measured before, for the same weights after the same weights, under today's name."""
        if self._journal is None or file.sha256 is None:
            return None
        record = self._journal.records.get((file.sha256, self._before.sha256 if self._before else None))
        if record is None:
            return None
        self._before, self._is_traced = file, False
        self._let_go(record)
        if record.measurement.memory_ran_out_at is not None:
            self._batch_size = record.measurement.batch_size
        return replace(record.measurement, checkpoint=file.name, step=file.step, epoch=file.epoch)

    def _measured_anew(self, file: CheckpointFile) -> Measurement:
        """The row, measured and kept; that before it too, if what joins both is not at hand."""
        if self._trail is not None and self._before is not None and not self._is_traced:
            self.measure(self._before)
        found = self.measure(file)
        if found.status in {Status.OK, Status.NOT_CONVERGED} and file.sha256 is not None:
            if self._journal is not None:
                record = Record(file.sha256, self._before.sha256 if self._before else None, found)
                self._journal.append(record)
                self._let_go(record)
            self._before, self._is_traced = file, True
        return found

    def _let_go(self, record: Record) -> None:
        """Forget a record whose examples are many: it is on the disk, and a run holds those of one checkpoint."""
        if self._journal is not None and (record.measurement.examples or 0) > MOST_EXAMPLES_HELD:
            self._journal.records.pop(record.key, None)

    def measure(self, file: CheckpointFile) -> Measurement:
        """One checkpoint's row; a failure is a row that says why.

        Raises:
            UsageError: what was asked cannot be, for this or any checkpoint.
        """
        row = Measurement(checkpoint=file.name, status=Status.OK, sha256=file.sha256, step=file.step, epoch=file.epoch)
        start = time.perf_counter()
        if self._trail is not None:
            self._trail.advance()
        try:
            checkpoint = load_checkpoint(file, state_key=self._settings.state_key)
            row = replace(row, step=checkpoint.step, epoch=checkpoint.epoch, weights=checkpoint.weights_kind)
            refuse_nonfinite(checkpoint)
            architecture = self.networks.architecture(checkpoint)
            row = replace(row, architecture=architecture.name)
            module = self.networks.load(architecture, checkpoint)
            loading = time.perf_counter() - start
            found = self._measured(module)
        except UsageError:
            raise
        except Exception as error:
            if not isinstance(error, FisherError):
                _LOG.debug("%s", file.name, exc_info=True)
            if isinstance(error, OutOfMemoryError):
                self._batch_size = 1
            status, text = outcome(error, file)
            return replace(row, status=status, error=text)
        return replace(
            found,
            checkpoint=row.checkpoint,
            sha256=row.sha256,
            step=row.step,
            epoch=row.epoch,
            architecture=row.architecture,
            weights=row.weights,
            notes=checkpoint.notes + found.notes,
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
            self._data,
            self._settings,
            batch_size=self._batch_size,
            device=self.device,
            classes=self.examples.classes,
            known=self._known[1] if self._known is not None and self._known[0] is module else None,
            observer=self.observer,
            trail=self._trail,
        )
        if found.memory_ran_out_at is not None:
            self._batch_size = found.batch_size
        if found.ledger is not None:
            self._known = (module, found.ledger)
        return found


def analyze(
    checkpoints: str | Path | nn.Module | Iterable[str | Path] | Iterable[nn.Module],
    data: str | tuple[Tensor, Tensor] = "digits",
    *,
    batch_size: int | None = None,
    device: str = "auto",
    data_dir: str | None = None,
    download: bool = False,
    preset: str | None = None,
    **settings: Any,
) -> Analysis:
    """Fisher traces and eigenvalues of a sequence of checkpoints or modules: `.table` and `.layers` are DataFrames.

    Args:
        checkpoints: files, folders, or modules (given order is kept; they are changed to evaluation mode).
        data: a dataset's name as for `--data`; with modules also a pair (inputs (N, …), labels (N,)).
        batch_size: examples at once; None for the automatic rule.
        device: auto, cpu, cuda or cuda:N.
        data_dir: where named datasets lie.
        download: whether a missing dataset may be downloaded.
        preset: settings of a published paper, by a name of `fisher_cli.presets.PRESETS`; those given here win.
        **settings: the fields of `Settings`, such as `limit=None`, `eigenvalues=10`, `model="resnet18"`.

    Returns:
        Analysis with one row per checkpoint; a file that cannot be analysed is a row that says why.

    Raises:
        UsageError: modules and paths are mixed, tensors are given as the data of files, or a setting cannot be.
    """
    if not isinstance(checkpoints, Iterable) or isinstance(checkpoints, (str, nn.Module)):
        given: list[Any] = [checkpoints]
    else:
        given = [] if isinstance(checkpoints, Mapping) else list(checkpoints)
    is_modules = bool(given) and all(isinstance(item, nn.Module) for item in given)
    is_paths = not isinstance(checkpoints, Mapping) and all(isinstance(item, (str, Path)) for item in given)
    is_tensors = isinstance(data, Sequence) and len(data) == 2 and all(isinstance(item, Tensor) for item in data)
    if not (is_modules or is_paths) or not (isinstance(data, str) or (is_modules and is_tensors)):
        msg = (
            "analyze takes either paths with a dataset's name, or torch modules with a dataset's name or a pair "
            f"(inputs, labels) of tensors, not {_kinds(given or [checkpoints])} with data {_kinds([data])}"
        )
        raise UsageError(msg)
    if batch_size is not None and batch_size < 1:
        msg = f"batch_size {batch_size}: give a positive whole number, or None for the automatic rule"
        raise UsageError(msg)
    try:
        asked = settings_of(preset, {"data": data if isinstance(data, str) else "tensors", **settings})
    except (TypeError, ValueError) as error:
        raise UsageError(str(error)) from error
    resources = Resources(
        batch_size=batch_size, device=device, data_dir=None if data_dir is None else str(data_dir), download=download
    )
    if is_modules:
        return _analyze_modules(given, None if isinstance(data, str) else TensorData(*data), asked, resources)
    run = Run([Path(item) for item in given], asked, resources)
    for _ in run:
        pass
    return run.analysis


def _kinds(items: Sequence[object]) -> str:
    return " and ".join(dict.fromkeys(type(item).__name__ for item in items))


def _analyze_modules(
    modules: Sequence[nn.Module], tensors: TensorData | None, settings: Settings, resources: Resources
) -> Analysis:
    """Measure modules one after the other; here an error is raised, since who made them can mend them.

    Raises:
        DataError: there are not as many labels as inputs.
    """
    device = choose_device(resources.device)
    if tensors is None:
        examples = _examples(settings, resources)
        source, classes, described = _resident(examples, device), examples.classes, examples.describe()
    elif len(tensors.inputs) != len(tensors.labels):
        msg = f"{len(tensors.inputs)} inputs and {len(tensors.labels)} labels: give one label per input"
        raise DataError(msg)
    else:
        settings = replace(settings, limit=None)
        source, classes, described = tensors, None, {"name": "tensors", "examples": len(tensors)}
    analysis = Analysis(settings, resources, str(device), described)
    start, batch_size, trail = time.perf_counter(), resources.batch_size, Trail()
    for index, module in enumerate(modules):
        trail.advance()
        found = measure(module, source, settings, batch_size=batch_size, device=device, classes=classes, trail=trail)
        batch_size = batch_size if found.memory_ran_out_at is None else found.batch_size
        named = replace(found, checkpoint=f"module-{index}", architecture=type(module).__name__)
        analysis.measurements.append(named)
    analysis.seconds = time.perf_counter() - start
    return analysis
