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
from fisher_cli.inputs.architectures import Architecture
from fisher_cli.inputs.checkpoints import Checkpoint, CheckpointFile, Reading, find_checkpoints, load_checkpoint
from fisher_cli.inputs.datasets import Examples, load_examples
from fisher_cli.inputs.factories import code_digest
from fisher_cli.inputs.networks import Networks, outcome, refuse_nonfinite
from fisher_cli.measurement import Observer, Silent, choose_device, measure
from fisher_cli.normalizing import with_chosen_normalization
from fisher_cli.records import Journal, Record
from fisher_cli.results import Ledger, Measurement, Status
from fisher_cli.settings import ComparisonSettings, Resources, Settings
from fisher_cli.trail import Trail

_LOG = logging.getLogger(__name__)

# Normalised inputs up to this size are made once and kept on the device for the whole run.
RESIDENT_BYTES = 2**30


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
        resize=settings.resize,
        crop=settings.crop,
        arguments=dict(settings.data_arguments),
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
        self.reading = Reading.of(settings, resources)
        self.files = find_checkpoints(paths, self.reading)
        self.networks = Networks(settings.model, dict(settings.model_arguments))
        self.examples = self._normalized(_examples(settings, resources))
        self.data = _resident(self.examples, self.device)
        self._batch_size = resources.batch_size
        self._known: tuple[nn.Module, Ledger] | None = None
        self._trail = Trail() if len(self.files) > 1 else None
        self._journal: Journal | None = None
        # The row before, and whether the trail knows it: of a row that was recalled it knows nothing.
        self._before: CheckpointFile | None = None
        self._is_traced = True
        self.analysis = Analysis(settings, resources, str(self.device), self.examples.describe())

    def _normalized(self, examples: Examples) -> Examples:
        """The examples, with the constants that `--normalize auto` chooses for the last checkpoint that can be used.

        Raises:
            FisherError: what is wrong with the last checkpoint, when none can be used.
        """
        last: Exception | None = None
        for file in reversed(self.files) if examples.candidates else ():
            try:
                module = self.network(file)[2]
            except FisherError as error:
                last = last or error
                continue
            return with_chosen_normalization(examples, module, self._settings, self.device)
        if last is not None:
            raise last
        return examples

    def network(self, file: CheckpointFile) -> tuple[Checkpoint, Architecture, nn.Module]:
        """A file's weights, and in their network; for the next file of its kind the network is the same module."""
        checkpoint = load_checkpoint(file, self.reading)
        refuse_nonfinite(checkpoint)
        architecture = self.networks.architecture(checkpoint)
        return checkpoint, architecture, self.networks.load(architecture, checkpoint)

    def __len__(self) -> int:
        return len(self.files)

    def __iter__(self) -> Iterator[Measurement]:
        start = time.perf_counter()
        for file in self.files:
            self.observer.start(file.name)
            measurement = self._recalled(file) or self._measured_anew(file)
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
            "data": self.examples.describe(with_choice=False),
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
        if record.measurement.memory_ran_out_at is not None:
            self._batch_size = record.measurement.batch_size
        return replace(record.measurement, checkpoint=file.name, step=file.step, epoch=file.epoch)

    def _measured_anew(self, file: CheckpointFile) -> Measurement:
        """The row, measured and kept; that before it too, if what joins both is not at hand."""
        if self._trail is not None and self._before is not None and not self._is_traced:
            self.measure(self._before)
            self._is_traced = True  # also for the row after, should this one fail
        found = self.measure(file)
        if found.status in {Status.OK, Status.NOT_CONVERGED} and file.sha256 is not None:
            if self._journal is not None:
                self._journal.append(Record(file.sha256, self._before.sha256 if self._before else None, found))
            self._before, self._is_traced = file, True
        return found

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
            checkpoint = load_checkpoint(file, self.reading)
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
            notes=checkpoint.notes + architecture.notes + found.notes,
            timings=(("load", loading), *found.timings),
        )

    def _measured(self, module: nn.Module) -> Measurement:
        """Measure a network; what is learned about memory and the ledger's work serves the next ones."""
        found = measure(
            module,
            self.data,
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
        asked = Settings.of(data=data if isinstance(data, str) else "tensors", **settings)
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


def compare(
    checkpoints: str | Path | nn.Module | Iterable[str | Path] | Iterable[nn.Module],
    data: str | tuple[Tensor, Tensor] = "digits",
    *,
    damping: float | None = None,
    draws: int = 10,
    **words: Any,
) -> Analysis:
    """tr F̂/tr F, ‖F̂ − F‖/‖F‖, cosines and overlaps beside their nulls: `.comparison`, `.comparison_layers`.

    Args:
        checkpoints: as for `analyze`.
        data: as for `analyze`.
        damping: α of the natural gradients (F + αI)⁻¹ḡ; None for a thousandth of the largest eigenvalue of F.
        draws: how many sets of labels are drawn from the model for the nulls without a closed form.
        **words: all else that `analyze` takes.

    Returns:
        Analysis whose measurements have a `comparison` with its verdict.

    Raises:
        UsageError: as for `analyze`, or a number is out of its range.
    """
    try:
        asked = ComparisonSettings(damping=damping, draws=draws)
    except ValueError as error:
        raise UsageError(str(error)) from error
    return analyze(checkpoints, data, comparison=asked, **words)


def verify(
    checkpoints: str | Path | nn.Module | Iterable[str | Path] | Iterable[nn.Module],
    data: str | tuple[Tensor, Tensor] = "digits",
    *,
    limit: int | None = 32,
    precision: str = "float64",
    **others: Any,
) -> Analysis:
    """Identities that Fisher's different forms must fulfil, on these networks and data: `.identities`, `.verified`.

    Args:
        checkpoints: as for `analyze`.
        data: as for `analyze`.
        limit: number of examples; some tens are enough, and the independent side is slow.
        precision: of our side; the independent one is in float64 always.
        **others: as for `analyze`.

    Returns:
        Analysis; `.identities` has one row per checkpoint and identity, `.verified` says that none fails.
    """
    return analyze(checkpoints, data, limit=limit, precision=precision, verify=True, **others)


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
        if examples.candidates:
            examples = with_chosen_normalization(examples, modules[-1], settings, device)
        source, classes, described = _resident(examples, device), examples.classes, examples.describe()
    elif len(tensors.inputs) != len(tensors.labels):
        msg = f"{len(tensors.inputs)} inputs and {len(tensors.labels)} labels: give one label per input"
        raise DataError(msg)
    else:
        settings = replace(settings, limit=None)
        source, classes, described = tensors, None, {"name": "tensors", "examples": len(tensors)}
    analysis = Analysis(settings, resources, str(device), described)
    start, batch_size, trail = time.perf_counter(), resources.batch_size, Trail() if len(modules) > 1 else None
    for index, module in enumerate(modules):
        if trail is not None:
            trail.advance()
        found = measure(module, source, settings, batch_size=batch_size, device=device, classes=classes, trail=trail)
        batch_size = batch_size if found.memory_ran_out_at is None else found.batch_size
        named = replace(found, checkpoint=f"module-{index}", architecture=type(module).__name__)
        analysis.measurements.append(named)
    analysis.seconds = time.perf_counter() - start
    return analysis
