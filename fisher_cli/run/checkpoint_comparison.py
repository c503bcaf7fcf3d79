"""Two checkpoints of one network on the same examples → how far apart their predictions and their weights are."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from fisher_cli.curvature.kl.divergence import (
    Snapshot,
    all_outputs,
    divergence,
    divergence_by_parameters,
    exchanged,
    second_order_by_tensor,
    snapshot,
    step_from,
    why_apart,
)
from fisher_cli.curvature.kl.relative_entropy import agreement
from fisher_cli.curvature.problem.batch_norm_statistics import recalibrate, recalibration
from fisher_cli.curvature.problem.moments import mean_of
from fisher_cli.curvature.problem.problem import Problem
from fisher_cli.curvature.torch_backend.out_of_memory import is_out_of_memory, release_memory
from fisher_cli.errors import ArchitectureError, NumericalError, OutOfMemoryError, UsageError
from fisher_cli.inputs.checkpoints.checkpoints import Checkpoint, CheckpointFile
from fisher_cli.results import CheckpointComparison, Estimate, LayerStep
from fisher_cli.run.measurement import MeasurementContext, posed
from fisher_cli.run.option_checks import refuse_rounded
from fisher_cli.run.preparation import FileRun, run_of_files
from fisher_cli.settings import Resources, Settings
from fisher_cli.tables.registry import CHECKPOINT_LAYERS, CHECKPOINTS

if TYPE_CHECKING:
    import pandas as pd


@dataclass
class PairAnalysis:
    """The comparison of two checkpoints, and the run that says where it comes from.

    Attributes:
        found: what was found.
        run: of both checkpoints, in order of training; it has no rows.
        seconds: from beginning to end.
    """

    found: CheckpointComparison
    run: FileRun
    seconds: float

    @cached_property
    def table(self) -> "pd.DataFrame":
        """One row about both checkpoints; docs/columns.md explains the columns."""
        from fisher_cli.tables.build import frame

        return frame(CHECKPOINTS, [self.found])

    @cached_property
    def layers(self) -> "pd.DataFrame":
        """One row per parameter tensor."""
        from fisher_cli.tables.build import frame

        return frame(CHECKPOINT_LAYERS, [self.found])

    def stable_metadata(self) -> dict[str, Any]:
        """What was asked and of what, as JSON values: the same for every repetition."""
        found = self.found
        names, hashes = (found.checkpoint_a, found.checkpoint_b), (found.sha256_a, found.sha256_b)
        return {
            **self.run.analysis.stable_metadata(),
            "checkpoints": [{"checkpoint": name, "sha256": sha256} for name, sha256 in zip(names, hashes, strict=True)],
            "batch_size": found.batch_size,
            "notes": list(found.notes),
        }

    def run_metadata(self) -> dict[str, Any]:
        """How it went this time, as JSON values."""
        return {**self.run.analysis.run_metadata(), "seconds": self.seconds}


def compare_checkpoints(a: Path, b: Path, settings: Settings, resources: Resources) -> PairAnalysis:
    """KL both ways, ½ΔᵀFΔ at either end, agreement of predictions and the distance layer by layer, Δ = θ_b − θ_a.

    One product J Δ_l per parameter tensor and end; where memory runs out, all is begun anew with half the batch.

    Args:
        a: a checkpoint, file or folder; θ_a are its weights.
        b: another one of the same network, θ_b. Which of the two comes first in training does not matter.
        settings: what is asked; it names the examples.
        resources: with what.

    Returns:
        The comparison, in nats and means over the examples.

    Raises:
        UsageError: the two paths are not two files, or the precision has too few digits.
        CheckpointError: a checkpoint cannot be read.
        DataError: the data cannot be had, or do not fit the network.
        ArchitectureError: the checkpoints are of two different networks.
        NumericalError: weights or outputs are NaN or infinite.
        OutOfMemoryError: memory runs out with a single example at once.
    """
    start = time.perf_counter()
    refuse_rounded(settings, gives_traces=False)
    run = run_of_files([a, b], settings, resources)
    pair = _Pair(run, _in_order(run.files, (a, b)), settings)
    size = resources.batch_size
    while True:
        try:
            found = pair.compare(size)
        except Exception as error:
            if not is_out_of_memory(error):
                raise
        else:
            return PairAnalysis(found, run, time.perf_counter() - start)
        release_memory()
        size = pair.at_once // 2
        if not size:
            msg = (
                f"memory ran out on {run.inputs.device} even with 1 example at once: try another device, or fewer "
                "parameters"
            )
            raise OutOfMemoryError(msg)


def _in_order(files: Sequence[CheckpointFile], given: tuple[Path, Path]) -> list[CheckpointFile]:
    """The two files as they were given, which need not be the order of training.

    Raises:
        UsageError: they are not two.
    """
    for path in given if len(files) > 2 else ():  # a folder may be one checkpoint, as trainers write them
        if path.is_dir():
            msg = f"{path} is a folder: name two checkpoints, as in: fisher compare checkpoints a.pt b.pt"
            raise UsageError(msg)
    if len(files) != 2:
        msg = f"{given[0]} and {given[1]} are one file: name two checkpoints"
        raise UsageError(msg)
    return sorted(files, key=lambda file: not file.path.samefile(given[0]))


class _Pair:
    """Two files on the way to their comparison; `at_once` is the batch size that was tried last."""

    def __init__(self, run: FileRun, files: Sequence[CheckpointFile], settings: Settings) -> None:
        self.run, self.files, self.settings = run, files, settings
        self.at_once = 1
        self.notes: list[str] = []

    def compare(self, size: int | None) -> CheckpointComparison:
        """The comparison with so many examples at once.

        Raises:
            ArchitectureError: the checkpoints are of two different networks.
        """
        self.notes = [f"{size} examples at once, since memory ran out"] if self.at_once > 1 else []
        checkpoint_a, problem, name = self._problem(self.files[0], size)
        outputs_a = _finite(all_outputs(problem), checkpoint_a)
        one = snapshot(problem, outputs_a)
        checkpoint_b, problem, other_name = self._problem(self.files[1], size)
        why = why_apart(problem, one) if name == other_name else f"{name} and {other_name}"
        if why:
            names = f"{checkpoint_a.name} and {checkpoint_b.name}"
            msg = f"{names} are of two different networks ({why}): compare two checkpoints of one"
            raise ArchitectureError(msg)
        outputs_b = _finite(all_outputs(problem), checkpoint_b)
        found = _compared(problem, one, outputs_b, checkpoint_a, checkpoint_b)
        return replace(found, architecture=name, notes=tuple(dict.fromkeys(self.notes)))

    def _problem(self, file: CheckpointFile, size: int | None) -> tuple[Checkpoint, Problem, str]:
        """A file's weights in their network, posed; a network of the same kind is the same module."""
        inputs = self.run.inputs
        checkpoint, architecture, module = inputs.network(file)
        context = MeasurementContext(batch_size=size, device=inputs.device, classes=inputs.classes)
        problem = posed(module, inputs.data, self.settings, context)
        self.at_once = min(problem.batch_size, problem.examples)
        self.notes += checkpoint.notes + architecture.notes
        if self.settings.recalibrate_bn:
            self.notes.append(recalibration(recalibrate(problem), problem.examples))
        return checkpoint, problem, architecture.name


def _finite(outputs: Tensor, checkpoint: Checkpoint) -> Tensor:
    """The outputs.

    Raises:
        NumericalError: some are NaN or infinite.
    """
    if not bool(outputs.isfinite().all()):
        msg = f"{checkpoint.name}: the network's outputs are NaN or infinite for some examples"
        raise NumericalError(msg)
    return outputs


def _compared(
    problem: Problem, one: Snapshot, outputs_b: Tensor, checkpoint_a: Checkpoint, checkpoint_b: Checkpoint
) -> CheckpointComparison:
    """The comparison of a network that was left and the one that the problem holds."""
    likelihood, outputs_a = problem.likelihood, one.outputs.to(problem.device)
    labels = torch.cat([batch.labels for batch in problem.batches()])
    step = step_from(problem, one)
    total_b, parts_b = second_order_by_tensor(problem, step)
    with exchanged(problem, one.on(problem.device)):
        total_a, parts_a = second_order_by_tensor(problem, step)
    layers = tuple(
        _layer(name, {name: step[name]}, {name: parameter}, parts_a[name], parts_b[name])
        for name, parameter in problem.parameters.items()
    )
    same = agreement(likelihood, outputs_a, outputs_b, labels)
    correct = [likelihood.correct(outputs, labels) for outputs in (outputs_a, outputs_b)]
    accuracy_a, accuracy_b = (None if each is None else mean_of(each) for each in correct)
    return CheckpointComparison(
        checkpoint_a=checkpoint_a.name,
        checkpoint_b=checkpoint_b.name,
        sha256_a=checkpoint_a.sha256,
        sha256_b=checkpoint_b.sha256,
        step_a=checkpoint_a.step,
        step_b=checkpoint_b.step,
        architecture="",
        parameters=problem.size,
        examples=problem.examples,
        classes=problem.outputs,
        kl_ab=divergence(likelihood, outputs_a, outputs_b),
        kl_ba=divergence(likelihood, outputs_b, outputs_a),
        kl_ab_parameters=divergence_by_parameters(problem, one),
        cross_terms_a=total_a.value - sum(part.value for part in parts_a.values()),
        cross_terms_b=total_b.value - sum(part.value for part in parts_b.values()),
        agreement=None if same is None else mean_of(same),
        loss_a=mean_of(-likelihood.log_likelihood(outputs_a, labels)),
        loss_b=mean_of(-likelihood.log_likelihood(outputs_b, labels)),
        accuracy_a=accuracy_a,
        accuracy_b=accuracy_b,
        whole=_layer("", step, problem.parameters, total_a, total_b),
        layers=layers,
        batch_size=problem.batch_size,
    )


def _layer(
    name: str, step: Mapping[str, Tensor], after: Mapping[str, Tensor], first: Estimate, second: Estimate
) -> LayerStep:
    """The lengths and the angle of a step to the tensors `after`, in float64."""
    moved = before_squares = after_squares = dot = 0.0
    for part, tensor in ((step[each].double(), after[each].detach().double()) for each in step):
        before = tensor - part
        moved += float(part.square().sum())
        before_squares += float(before.square().sum())
        after_squares += float(tensor.square().sum())
        dot += float((before * tensor).sum())
    lengths = (before_squares * after_squares) ** 0.5
    return LayerStep(
        name=name,
        parameters=sum(part.numel() for part in step.values()),
        distance=moved**0.5,
        relative_distance=(moved / before_squares) ** 0.5 if before_squares else None,
        cosine=dot / lengths if lengths else None,
        quadratic_a=first,
        quadratic_b=second,
    )
