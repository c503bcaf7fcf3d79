"""The sequence engine: for each checkpoint load, build, measure; the one place where inputs meet curvature."""

import platform
import resource
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from fisher_cli import __version__
from fisher_cli.curvature.problem import Data, TensorData
from fisher_cli.errors import ArchitectureError, CheckpointError, FisherError, NumericalError, UsageError
from fisher_cli.inputs.architectures import Architecture, find_architecture, load_weights
from fisher_cli.inputs.checkpoints import (
    Checkpoint,
    CheckpointFile,
    find_checkpoints,
    load_checkpoint,
    nonfinite_names,
)
from fisher_cli.inputs.datasets import Examples, load_examples
from fisher_cli.measurement import Observer, Silent, measure
from fisher_cli.results import Measurement, Status
from fisher_cli.settings import Resources, Settings

if TYPE_CHECKING:
    import pandas as pd

# Normalised inputs up to this size are made once and kept on the device for the whole run.
RESIDENT_BYTES = 2**30


@dataclass
class Analysis:
    """The measurements of a run in order of training, and what is needed to say where they come from."""

    settings: Settings
    resources: Resources
    device: str
    data: Mapping[str, Any]
    measurements: list[Measurement] = field(default_factory=list)
    seconds: float = 0.0

    @cached_property
    def table(self) -> "pd.DataFrame":
        """One row per checkpoint; the columns are explained in `fisher_cli.columns`."""
        from fisher_cli.tables import main_table

        return main_table(self.measurements, self.settings.eigenvalues)

    @cached_property
    def layers(self) -> "pd.DataFrame":
        """One row per checkpoint and parameter tensor."""
        from fisher_cli.tables import layer_table

        return layer_table(self.measurements)

    @property
    def data_title(self) -> str:
        """The dataset and its split in two words."""
        return " ".join(str(part) for part in (self.data.get("name"), self.data.get("split")) if part)

    @property
    def succeeded(self) -> int:
        """Number of checkpoints that gave numbers."""
        return sum(m.status in {Status.OK, Status.NOT_CONVERGED} for m in self.measurements)

    def stable_metadata(self) -> dict[str, Any]:
        """What was asked and of what: the same for every repetition of the run."""
        return {
            "fisher_version": __version__,
            "settings": _without_folders(self.settings.as_dict()),
            "settings_digest": self.settings.digest(),
            "data": dict(self.data),
            "checkpoints": [
                {"checkpoint": m.checkpoint, "sha256": m.sha256, "batch_size": m.batch_size, "notes": list(m.notes)}
                for m in self.measurements
            ],
            "conventions": "natural logarithms; mean over examples; sum over classes; evaluation mode; float64 sums",
        }

    def run_metadata(self) -> dict[str, Any]:
        """How it went this time: versions, device, timings, memory, command."""
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        return {
            "python": platform.python_version(),
            "torch": torch.__version__,
            "platform": platform.platform(),
            "device": self.device,
            "threads": torch.get_num_threads(),
            "resources": self.resources.as_dict(),
            "command": list(sys.argv),
            "seconds": self.seconds,
            "timings": [{"checkpoint": m.checkpoint, **dict(m.timings)} for m in self.measurements],
            "peak_memory_bytes": peak,
            "peak_device_memory_bytes": torch.cuda.max_memory_allocated() if self.device.startswith("cuda") else None,
        }


def _without_folders(settings: dict[str, Any]) -> dict[str, Any]:
    """Settings less the folders in them: the record that travels with the tables names no place of a machine."""
    return {
        name: _last_part(value) if name in {"data", "labels", "model"} and isinstance(value, str) else value
        for name, value in settings.items()
    }


def _last_part(text: str) -> str:
    """`folder:/a/b` as `folder:b`, `/a/net.py:make` as `net.py:make`, names as they are."""
    prefix = "folder:" if text.startswith("folder:") else ""
    return prefix + text.removeprefix(prefix).rstrip("/").rsplit("/", 1)[-1]


def choose_device(name: str) -> torch.device:
    """The device of that name; `auto` is CUDA where there is one, else the CPU.

    Raises:
        UsageError: there is no such device here.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        msg = f"unknown device {name!r}: use auto, cpu, cuda or cuda:N"
        raise UsageError(msg) from error
    if device.type not in {"cpu", "cuda"}:
        msg = f"device {name!r} is not supported: use auto, cpu, cuda or cuda:N"
        raise UsageError(msg)
    if device.type == "cuda" and (not torch.cuda.is_available() or (device.index or 0) >= torch.cuda.device_count()):
        msg = f"device {name!r} is not here ({torch.cuda.device_count()} CUDA devices found): use --device auto or cpu"
        raise UsageError(msg)
    return device


def _resident(examples: Examples, device: torch.device) -> Data:
    """The examples normalised once and kept on the device when they fit, else as they are."""
    inputs, _ = examples.batch(0, min(1, len(examples)))
    if inputs.numel() * inputs.element_size() * len(examples) > RESIDENT_BYTES:
        return examples
    inputs, labels = examples.batch(0, len(examples))
    return TensorData(inputs.to(device), labels.to(device))


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


class _Networks:
    """Networks built so far: a run's checkpoints mostly share one, and only its weights change."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._built: dict[object, nn.Module] = {}

    def architecture(self, checkpoint: Checkpoint) -> Architecture:
        arguments = dict(self._settings.model_arguments)
        return find_architecture(checkpoint, model=self._settings.model, arguments=arguments)

    def load(self, architecture: Architecture, checkpoint: Checkpoint) -> nn.Module:
        shapes = tuple((name, tuple(weight.shape)) for name, weight in checkpoint.weights.items())
        key = (architecture.name, shapes)
        if key not in self._built:
            self._built = {key: architecture.build()}
        module = self._built[key]
        load_weights(module, checkpoint)
        return module


def _weights_of(file: CheckpointFile, settings: Settings) -> Checkpoint:
    checkpoint = load_checkpoint(file, state_key=settings.state_key)
    broken = nonfinite_names(checkpoint.weights)
    if broken:
        more = f" and {len(broken) - 3} more" if len(broken) > 3 else ""
        msg = f"{file.name}: NaN or infinite weights in {', '.join(broken[:3])}{more}: training had diverged here"
        raise NumericalError(msg)
    return checkpoint


def _describe(examples: Examples) -> dict[str, Any]:
    normalization = examples.normalization
    return {
        "name": _last_part(examples.name),
        "split": examples.split,
        "examples": len(examples),
        "of": examples.total,
        "identity": examples.identity,
        "normalization": {
            "name": normalization.name,
            "mean": list(normalization.mean),
            "std": list(normalization.std),
        },
    }


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
        self.examples = _examples(settings, resources)
        self._data = _resident(self.examples, self.device)
        self._networks = _Networks(settings)
        self.analysis = Analysis(settings, resources, str(self.device), _describe(self.examples))

    def __len__(self) -> int:
        return len(self.files)

    def __iter__(self) -> Iterator[Measurement]:
        start = time.perf_counter()
        for file in self.files:
            self.observer.start(file.name)
            measurement = self._measure(file)
            self.analysis.measurements.append(measurement)
            self.analysis.seconds = time.perf_counter() - start
            self.observer.finish(measurement)
            yield measurement

    def _measure(self, file: CheckpointFile) -> Measurement:
        row = Measurement(checkpoint=file.name, status=Status.OK, sha256=file.sha256, step=file.step, epoch=file.epoch)
        if file.error is not None:
            return replace(row, status=Status.REJECTED, error=str(file.error))
        try:
            checkpoint = _weights_of(file, self._settings)
            row = replace(row, step=checkpoint.step, epoch=checkpoint.epoch, weights=checkpoint.weights_kind)
            architecture = self._networks.architecture(checkpoint)
            row = replace(row, architecture=architecture.name)
            module = self._networks.load(architecture, checkpoint)
            found = measure(
                module,
                self._data,
                self._settings,
                batch_size=self._resources.batch_size,
                device=self.device,
                classes=self.examples.classes,
                observer=self.observer,
            )
        except UsageError:
            raise
        except (CheckpointError, ArchitectureError) as error:
            return replace(row, status=Status.REJECTED, error=str(error))
        except FisherError as error:
            return replace(row, status=Status.FAILED, error=str(error))
        except (RuntimeError, MemoryError) as error:
            reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
            return replace(row, status=Status.FAILED, error=f"{file.name}: {type(error).__name__}: {reason}")
        return replace(
            found,
            checkpoint=row.checkpoint,
            sha256=row.sha256,
            step=row.step,
            epoch=row.epoch,
            architecture=row.architecture,
            weights=row.weights,
            notes=checkpoint.notes + found.notes,
        )


def analyze(
    checkpoints: str | Path | nn.Module | Sequence[str | Path] | Sequence[nn.Module],
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
        Analysis with one row per checkpoint.

    Raises:
        UsageError: modules and paths are mixed, or tensors are given as the data of files.
    """
    given = [checkpoints] if isinstance(checkpoints, (str, Path, nn.Module)) else list(checkpoints)
    resources = Resources(batch_size=batch_size, device=device, data_dir=data_dir, download=download)
    modules = [item for item in given if isinstance(item, nn.Module)]
    if modules and len(modules) == len(given):
        return _analyze_modules(modules, data, Settings(**settings), resources)
    if modules or not isinstance(data, str):
        msg = "give either paths with a dataset's name, or modules with a dataset's name or a pair of tensors"
        raise UsageError(msg)
    run = Run([Path(str(item)) for item in given], Settings(data=data, **settings), resources)
    for _ in run:
        pass
    return run.analysis


def _analyze_modules(
    modules: Sequence[nn.Module], data: str | tuple[Tensor, Tensor], settings: Settings, resources: Resources
) -> Analysis:
    device = choose_device(resources.device)
    if isinstance(data, str):
        settings = replace(settings, data=data)
        examples = _examples(settings, resources)
        source, classes, described = _resident(examples, device), examples.classes, _describe(examples)
    else:
        settings = replace(settings, data="tensors", limit=None)
        source, classes, described = TensorData(*data), None, {"name": "tensors", "examples": len(data[0])}
    analysis = Analysis(settings, resources, str(device), described)
    for index, module in enumerate(modules):
        found = measure(module, source, settings, batch_size=resources.batch_size, device=device, classes=classes)
        named = replace(found, checkpoint=f"module-{index}", architecture=type(module).__name__)
        analysis.measurements.append(named)
    return analysis
