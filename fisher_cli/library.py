"""Fisher from Python: sequences of files or of modules → their Analysis; what the commands do, without printing."""

import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from fisher_cli.accelerator import choose_device
from fisher_cli.analysis import Analysis
from fisher_cli.curvature.network_state import given_back
from fisher_cli.curvature.problem import TensorData
from fisher_cli.errors import DataError, UsageError
from fisher_cli.measurement import measure
from fisher_cli.normalizing import with_chosen_normalization
from fisher_cli.presets import settings_of
from fisher_cli.run import Run, load_data, resident
from fisher_cli.settings import ComparisonSettings, Resources, Settings
from fisher_cli.trail import Trail


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
        checkpoints: files, folders, or modules (given order is kept; they are given back as they came).
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
        examples = load_data(settings, resources)
        if examples.candidates:
            examples = with_chosen_normalization(examples, modules[-1], settings, device)
        source, classes, described = resident(examples, device), examples.classes, examples.describe()
    elif len(tensors.inputs) != len(tensors.labels):
        msg = f"{len(tensors.inputs)} inputs and {len(tensors.labels)} labels: give one label per input"
        raise DataError(msg)
    else:
        settings = replace(settings, limit=None)
        source, classes, described = tensors, None, {"name": "tensors", "examples": len(tensors)}
    analysis = Analysis(settings, resources, str(device), described)
    start, batch_size = time.perf_counter(), resources.batch_size
    trail = Trail() if len(modules) > 1 and settings.looks_back else None
    for index, module in enumerate(modules):
        if trail is not None:
            trail.advance()
        with given_back(module):
            found = measure(
                module, source, settings, batch_size=batch_size, device=device, classes=classes, trail=trail
            )
        batch_size = batch_size if found.memory_ran_out_at is None else found.batch_size
        named = replace(found, checkpoint=f"module-{index}", architecture=type(module).__name__)
        analysis.measurements.append(named)
    analysis.seconds = time.perf_counter() - start
    return analysis
