"""One network on one dataset: everything the settings ask for, as one Measurement."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from fnmatch import fnmatchcase
from typing import Protocol

import torch
from torch import nn

from fisher_cli.curvature.gradients import gradient
from fisher_cli.curvature.problem import Data, Problem, pose
from fisher_cli.curvature.spectrum import empirical_eigenvalues, true_eigenvalues
from fisher_cli.curvature.traces import sweep
from fisher_cli.errors import DataError, UsageError
from fisher_cli.results import Measurement, Status
from fisher_cli.settings import Settings


class Observer(Protocol):
    """Who wants to know how far a run is."""

    def start(self, name: str) -> None:
        """A checkpoint is begun."""

    def stage(self, text: str, fraction: float) -> None:
        """Work inside a checkpoint has come this far, from 0 to 1."""

    def finish(self, measurement: Measurement) -> None:
        """A checkpoint is done."""


class Silent:
    """Wants to know nothing."""

    def start(self, name: str) -> None:
        """Ignore it."""

    def stage(self, text: str, fraction: float) -> None:
        """Ignore it."""

    def finish(self, measurement: Measurement) -> None:
        """Ignore it."""


class _Clock:
    """Seconds by stage."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    @contextmanager
    def __call__(self, stage: str) -> Iterator[None]:
        start = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[stage] = self.seconds.get(stage, 0.0) + time.perf_counter() - start


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


def select_parameters(module: nn.Module, settings: Settings) -> dict[str, nn.Parameter]:
    """The trainable parameters whose names match one of `include` and none of `exclude`, tied ones once.

    Raises:
        UsageError: no parameter is left.
    """
    names = dict(module.named_parameters())
    chosen = {
        name: parameter
        for name, parameter in names.items()
        if parameter.requires_grad
        and any(fnmatchcase(name, pattern) for pattern in settings.include)
        and not any(fnmatchcase(name, pattern) for pattern in settings.exclude)
    }
    if not chosen:
        some = ", ".join(list(names)[:4])
        msg = f"--include and --exclude leave none of the {len(names)} parameters (such as {some}): loosen the patterns"
        raise UsageError(msg)
    return chosen


def _check_classes(problem: Problem, classes: int | None) -> None:
    """Hold the network's outputs against the number of classes that the dataset declares.

    Raises:
        DataError: they differ.
    """
    binary = problem.outputs == 1 and classes == 2
    if classes is not None and problem.outputs != classes and not binary:
        msg = (
            f"the network has {problem.outputs} outputs and the data {classes} classes: "
            f"check --data, or give the network's own labels with --labels"
        )
        raise DataError(msg)


def measure(
    module: nn.Module,
    data: Data,
    settings: Settings,
    *,
    batch_size: int | None = None,
    device: torch.device | None = None,
    classes: int | None = None,
    verify: bool = True,
    observer: Observer | None = None,
) -> Measurement:
    """Everything `settings` asks for about one network: predictions, traces, gradient, eigenvalues.

    The network is moved to the device and precision of the settings and put into evaluation mode.
    `checkpoint` is left empty and `status` says whether every eigenvalue converged.
    """
    observer, clock = observer or Silent(), _Clock()
    with clock("pose"):
        problem = pose(
            module,
            data,
            likelihood=settings.likelihood.value,
            parameters=select_parameters(module, settings),
            batch_size=batch_size,
            device=device,
            dtype=getattr(torch, settings.precision.value),
        )
        _check_classes(problem, classes)
    # Shares of the whole that the progress bar gives to the stages; products dominate where eigenvalues are asked.
    share = 0.4 if settings.eigenvalues else 0.95
    with clock("traces"):
        swept = sweep(
            problem,
            estimator=settings.estimator.value,
            samples=settings.samples,
            target_error=settings.target_error,
            seed=settings.seed,
            verify=verify,
            advance=lambda done: observer.stage("traces", share * done),
        )
    with clock("gradient"):
        squares = torch.tensor(swept.trace.per_example_empirical, dtype=torch.float64, device=problem.device)
        signal = gradient(problem, swept.mean_gradient, squares)
    measurement = Measurement(
        checkpoint="",
        status=Status.OK,
        parameters=problem.size,
        examples=problem.examples,
        classes=problem.outputs,
        predictions=swept.predictions,
        trace=swept.trace,
        gradient=signal,
        batch_size=problem.batch_size,
        notes=() if signal.signal_to_noise else ("gradient_snr is not above zero: left empty",),
    )
    if settings.eigenvalues:
        measurement = _with_eigenvalues(measurement, problem, settings, observer, clock)
    return replace(measurement, timings=tuple(clock.seconds.items()))


def _with_eigenvalues(
    measurement: Measurement, problem: Problem, settings: Settings, observer: Observer, clock: _Clock
) -> Measurement:
    count, tolerance, seed = settings.eigenvalues, settings.eigenvalue_tolerance, settings.seed
    observer.stage("eigenvalues of the true Fisher", 0.45)
    with clock("eigenvalues_true"):
        true = true_eigenvalues(problem, count, tolerance=tolerance, seed=seed)
    observer.stage("eigenvalues of the empirical Fisher", 0.75)
    with clock("eigenvalues_empirical"):
        empirical = empirical_eigenvalues(problem, count, tolerance=tolerance, seed=seed)
    problems = [
        f"eigenvalues of the {name} Fisher did not reach the tolerance in {found.products} products"
        for name, found in (("true", true), ("empirical", empirical))
        if not found.converged
    ]
    return replace(
        measurement,
        eigenvalues_true=true,
        eigenvalues_empirical=empirical,
        status=Status.NOT_CONVERGED if problems else Status.OK,
        error="; ".join(problems),
        notes=measurement.notes + tuple(sorted({found.note for found in (true, empirical) if found.note})),
    )
