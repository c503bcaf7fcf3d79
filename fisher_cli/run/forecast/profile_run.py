"""A few batches of the real thing: what one measurement takes in memory and time, extrapolated to all examples."""

import time
from dataclasses import dataclass, field, replace

import torch
from torch import nn

from fisher_cli.curvature.gradient_norms.engine import Engine
from fisher_cli.curvature.problem.batching import CPU_BYTES
from fisher_cli.curvature.problem.output_scores import exact
from fisher_cli.curvature.problem.problem import Problem
from fisher_cli.curvature.torch_backend import machine_memory
from fisher_cli.curvature.torch_backend.machine_memory import growth, resident
from fisher_cli.curvature.torch_backend.malloc import trim
from fisher_cli.results import Measurement
from fisher_cli.run.forecast.memory_model import StepMemory
from fisher_cli.run.forecast.profile_matrices import FirstExamples, MatrixProfile, MatrixProfiler
from fisher_cli.run.measurement import MeasurementContext, measure, posed
from fisher_cli.run.parameters import recomputing
from fisher_cli.run.preparation import FileRun
from fisher_cli.run.previous_row import PreviousRow
from fisher_cli.settings import Activations, Settings

# What a measurement keeps of one example besides its outputs: some sixteen numbers as Python objects.
EXAMPLE_BYTES = 600
# Stages of a measurement whose seconds do not grow with the examples; those of batches of the sweep; the others go
# by the batches of products.
CONSTANT, BY_BATCH = {"load", "pose", "check", "ledger", "rounding"}, {"traces", "gradient"}


@dataclass
class RunProfile:
    """What was seen of one measurement on a few examples, and what those of all would take.

    Attributes:
        problem: that of all examples.
        measurement: of the few examples, without eigenvalues.
        architecture: the network's name.
        examples: how many were measured.
        batch: how many of them at once.
        base: bytes that were resident before.
        peak: the most bytes that were resident during the measurement.
        held: bytes that are held when eigenvalues begin.
        slope: bytes that one more example in a batch takes, where that was needed; else 0.
        later: what follows the sweep.
        seconds: by stage, of all examples.
    """

    problem: Problem
    measurement: Measurement
    architecture: str
    examples: int
    batch: int
    base: int
    peak: int
    held: int
    slope: float = 0.0
    later: MatrixProfile = field(default_factory=MatrixProfile)
    seconds: dict[str, float] = field(default_factory=dict)

    @property
    def _batch_parts(self) -> tuple[tuple[str, int], ...]:
        problem = self.problem
        more = (problem.examples - self.examples) * (3 * problem.outputs * problem.dtype.itemsize + EXAMPLE_BYTES)
        larger = int(self.slope * (min(problem.batch_size, problem.examples) - self.batch))
        return (
            ("Python, torch, the data, and files being read", self.base),
            ("weights, gradient, check and batches, measured", self.peak - self.base),
            (f"batches of more than {self.batch}", larger),
            ("outputs and terms of the other examples", more),
        )

    @property
    def _freed(self) -> int:
        """What the batches of the sweep have freed lies in pieces between what is held."""
        gives_back = self.problem.device.type == "cuda" or self.problem.is_large
        return 0 if gives_back else min(max(0, self.peak - self.held), CPU_BYTES)

    @property
    def largest(self) -> StepMemory | None:
        """The step after the sweep that takes the most, None where there is none."""
        return max(self.later.demands, key=lambda each: each.bytes + each.beside(self._freed), default=None)

    @property
    def _later_parts(self) -> tuple[tuple[str, int], ...]:
        if self.largest is None:
            return ()
        held = ("held after the traces, measured", self.held)
        return held, ("freed in pieces", self.largest.beside(self._freed)), *self.largest.parts

    @property
    def batches_peak(self) -> int:
        """The peak until the traces are there, of all examples at the batch size that was asked for."""
        return sum(size for _, size in self._batch_parts)

    @property
    def later_peak(self) -> int:
        """The peak after that, 0 where nothing is asked for beside the traces."""
        return sum(size for _, size in self._later_parts)

    @property
    def fullest(self) -> str:
        """What is found when memory is fullest."""
        is_later = self.largest is not None and self.later_peak > self.batches_peak
        return self.largest.finds if self.largest is not None and is_later else "traces"

    @property
    def parts(self) -> tuple[tuple[str, int], ...]:
        """What memory holds when it is fullest: (what it is for, bytes), those of 0 bytes left out."""
        found = self._later_parts if self.later_peak > self.batches_peak else self._batch_parts
        return tuple((name, size) for name, size in found if size)


def profile_run(run: FileRun, places: tuple[int, ...], batch_size: int | None) -> RunProfile:
    """Measure the checkpoints at these places, one after the other, on a few examples.

    Every part of a measurement but the eigenvalues is done as it will be; of these a small share is.

    Args:
        run: made and not begun.
        places: one, or two of which the second is held against the first, as in a run.
        batch_size: as asked for; None for the automatic rule.
    """
    inputs, settings = run.inputs, run.inputs.settings
    base = _peak(inputs.device)
    small = replace(settings, eigenvalues=0, comparison=None)
    previous_row = PreviousRow() if len(places) > 1 else None
    for place in places:
        if previous_row is not None:
            previous_row.advance()
        start = time.perf_counter()
        name, module = _network(run, place)
        loading = time.perf_counter() - start
        context = MeasurementContext(
            activations=inputs.resources.activations,
            device=inputs.device,
            classes=inputs.classes,
            previous_row=previous_row,
        )
        automatic = posed(module, inputs.data, settings, context)
        problem = (
            automatic
            if batch_size is None
            else posed(module, inputs.data, settings, replace(context, batch_size=batch_size))
        )
        batch = min(problem.batch_size, automatic.batch_size)
        at_once = min(problem.product_batch_size, automatic.product_batch_size)
        count = min(problem.examples, max(2 * batch, at_once))
        few = FirstExamples(inputs.data, count)
        found = measure(module, few, small, replace(context, batch_size=batch_size and batch))
    batch = found.batch_size or batch  # less where memory ran out
    _as_table(found, settings)
    peak = _peak(inputs.device)
    held = _held(problem, leaves_footprint=previous_row is not None and settings.spectrum is None)
    probed = RunProfile(problem, found, name, count, batch, base, peak, held)
    probed.seconds = _scaled({"load": loading, **dict(found.timings)}, probed, at_once)
    if inputs.resources.activations is Activations.RECOMPUTE:
        probed.problem = problem = recomputing(problem)
    part = replace(problem, data=few, batch_size=batch, product_batch_size=at_once)
    if batch < min(problem.batch_size, problem.examples):
        probed.slope = _slope(part, batch)
    probed.later = MatrixProfiler(problem, part, settings, looks_back=previous_row is not None).foresee()
    probed.seconds |= probed.later.seconds
    return probed


def _network(run: FileRun, place: int) -> tuple[str, nn.Module]:
    """The name of a file's network, and it with its weights; those that were read are let go, as in a run."""
    _, architecture, module = run.inputs.network(run.files[place])
    return architecture.name, module


def _as_table(found: Measurement, settings: Settings) -> None:
    """Make the row of it, which nobody reads: what that needs is part of what a run takes."""
    from fisher_cli.tables.build import frame
    from fisher_cli.tables.registry import MAIN

    frame(MAIN.with_eigenvalues(settings.eigenvalues), [found])


def _held(problem: Problem, *, leaves_footprint: bool) -> int:
    """What is resident when eigenvalues begin: what is now, less the network's copy that the row keeps for the next."""
    trim()
    device = problem.device
    tensors = sum(each.numel() * each.element_size() for each in problem.model.state_dict().values())
    return resident(device) - (tensors if leaves_footprint and device.type == "cpu" else 0)


def _scaled(timings: dict[str, float], probed: RunProfile, at_once: int) -> dict[str, float]:
    """Seconds of all examples from those of a few, by the batches that they take."""
    problem = probed.problem

    def ratio(size: int, small: int) -> float:
        return -(-problem.examples // size) * size / (-(-probed.examples // small) * small)

    by_batch = ratio(min(problem.batch_size, problem.examples), probed.batch)
    by_product = ratio(min(problem.product_batch_size, problem.examples), at_once)
    return {
        stage: seconds * (1 if stage in CONSTANT else by_batch if stage in BY_BATCH else by_product)
        for stage, seconds in timings.items()
    }


def _peak(device: torch.device) -> int:
    """The most that there was so far: on the GPU, or of this process."""
    return torch.cuda.max_memory_reserved(device) if device.type == "cuda" else machine_memory.peak_memory()


def _slope(problem: Problem, batch: int) -> float:
    """Bytes that one more example in a batch takes in a sweep, from a batch and from half of it."""
    halves = {size: _of_batch(problem, size) for size in {max(1, batch // 2), batch}}
    smaller, larger = min(halves), max(halves)
    if smaller == larger:
        return halves[larger] / larger
    return max(0.0, (halves[larger] - halves[smaller]) / (larger - smaller))


def _of_batch(problem: Problem, size: int) -> int:
    engine, batch = Engine(problem), problem.slice(0, size)
    with growth(problem.device) as grown:
        evaluated = engine.evaluate(batch)
        scores = exact(problem.likelihood, evaluated.outputs.detach(), batch.labels)
        evaluated.measure(scores.directions, scores.observed, lambda _name, _sum: None, scores.observed_row)
        return grown()
