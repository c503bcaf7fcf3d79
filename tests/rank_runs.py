"""What every rank does in test_ranks.py: `torchrun -m tests.rank_runs FILE.json` goes through a list of tasks.

A task is the words of a command, or the name of a function below, which returns JSON values; rank 0 writes what came of
all tasks into FILE.json.done.
"""

import contextlib
import json
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch

from fisher_cli.cli.app import main as fisher_main
from fisher_cli.curvature.problem.problem import Problem, TensorData, pose
from fisher_cli.curvature.problem.process_group import ProcessGroup
from fisher_cli.curvature.spectra.eigensystems import matrices
from fisher_cli.curvature.spectra.solver_choice import Eigensolver
from fisher_cli.curvature.spectra.spectrum import SpectrumRequest, spectrum
from fisher_cli.curvature.traces.traces import sweep
from fisher_cli.errors import CheckpointError, DataError, NumericalError, UsageError
from fisher_cli.inputs.checkpoints.checkpoints import CheckpointFile
from fisher_cli.parallel.launch import launched
from fisher_cli.parallel.ranks import Ranks, joined_ranks
from fisher_cli.run.preparation import refuse_other_files
from tests.cases import case_of
from tests.shared_gradient_runs import SHARED_GRADIENT_TASKS, as_large


def problem_of(process_group: ProcessGroup, batch_size: int = 2) -> Problem:
    case = case_of("mlp")
    model, inputs, labels = case.make(torch.float64)
    return pose(
        model,
        TensorData(inputs, labels),
        likelihood=case.likelihood,
        batch_size=batch_size,
        process_group=process_group,
    )


def eigenvalues_by_every_route(process_group: ProcessGroup) -> Any:
    """Values and residuals of all routes, each with this world and alone."""
    found: dict[str, Any] = {}
    for name, problem in (("ranks", problem_of(process_group)), ("alone", problem_of(ProcessGroup()))):
        swept = sweep(problem)
        for route in Eigensolver:
            true, _ = matrices(problem, columns=swept.columns, trace_true=swept.trace.true.value)
            system = true.leading(3, route=route, vectors=True, tolerance=1e-9)
            assert system.vectors is not None
            shares = (system.vectors.T @ swept.mean_gradient).square().tolist()
            found.setdefault(route.value, {})[name] = [*system.values.tolist(), *shares]
    return found


def density(process_group: ProcessGroup) -> Any:
    found = {}
    for name, problem in (("ranks", problem_of(process_group)), ("alone", problem_of(ProcessGroup()))):
        true, _ = matrices(problem)
        result, _ = spectrum(true, SpectrumRequest(2, full=True, whole=False, probes=2, steps=6), 1.0)
        assert result.density is not None
        found[name] = [*result.density.density, *(result.errors or ()), result.effective_rank.value]  # type: ignore[union-attr]
    return found


def coverage_of_other_examples(process_group: ProcessGroup) -> Any:
    """A network that uses a layer for some examples only: the ledger names it on all ranks."""

    class Choosy(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(0)
            self.first, self.second = torch.nn.Linear(3, 2), torch.nn.Linear(3, 2)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.second(x) if float(x[0, 0]) > 0 else self.first(x)

    inputs = torch.randn(8, 3)
    inputs[:, 0] = torch.tensor([-1.0] * 6 + [1.0] * 2)
    found = {}
    for name, each in (("ranks", process_group), ("alone", ProcessGroup())):
        problem = pose(Choosy(), TensorData(inputs, torch.arange(8) % 2), batch_size=2, process_group=each)
        swept = sweep(problem)
        true, empirical = (
            matrix.leading(2, route=Eigensolver.GRAM).values.tolist()
            for matrix in matrices(problem, engine=swept.engine, columns=swept.columns)
        )
        found[name] = [[e.name, e.values, e.method] for e in swept.ledger.entries], [swept.trace.true.value], true
        found[name] += (empirical,)
    return found


def sums_are_the_same_bits_everywhere(process_group: ProcessGroup) -> Any:
    """Also of float32, which is added in float64."""
    torch.manual_seed(process_group.rank)
    total = process_group.sum(torch.randn(100_003, dtype=torch.float64))
    small = torch.full((5_000_000,), 2.0**-30 if process_group.rank else 1.0)
    single = process_group.sum(small.clone())
    first, *others = process_group.exchange([total[::100].tolist(), single[::100_000].tolist()])
    return [other == first for other in others], float(single[0])


def shares(process_group: ProcessGroup) -> Any:
    return process_group.exchange([list(process_group.share(count)) for count in (0, 1, 2, 7)])


def fail(error: Exception) -> None:
    raise error


def an_error_of_one_rank_is_everyones(process_group: ProcessGroup) -> Any:
    """Whoever fails where: each rank gets the first one's error, in step with the others."""
    said = []
    for failing in ({0}, {process_group.size - 1}, set(range(process_group.size))):
        for error in (NumericalError("odd"), DataError("no"), MemoryError("full"), KeyError("key")):
            try:
                with process_group.in_step():
                    process_group.exchange(1)
                    if process_group.rank in failing:
                        fail(error)
                    process_group.sum(torch.ones(3, dtype=torch.float64))
                    process_group.exchange(2)
            except Exception as found:
                said.append([type(found).__name__, str(found)])
    return process_group.exchange(said)


def memory_runs_out_on_one_rank(process_group: ProcessGroup) -> Any:
    """All take half the batch, and the numbers are those of that batch alone."""
    import fisher_cli.run.measurement as measuring
    from fisher_cli.settings import Settings

    real = measuring.sweep

    def sometimes(problem: Problem, **words: Any) -> Any:
        if process_group.rank == process_group.size - 1 and problem.batch_size > 2:
            fail(RuntimeError("DefaultCPUAllocator: can't allocate memory"))
        return real(problem, **words)

    measuring.sweep = sometimes
    try:
        problem = problem_of(process_group, 4)
        settings = Settings(data="none", eigenvalues=2)
        context = measuring.MeasurementContext(batch_size=4, process_group=process_group)
        found = measuring.measure(problem.model, problem.data, settings, context)
    finally:
        measuring.sweep = real
    alone = measuring.measure(problem.model, problem.data, settings, measuring.MeasurementContext(batch_size=2))
    assert found.trace is not None
    assert alone.trace is not None
    return process_group.exchange(
        [found.batch_size, found.memory_ran_out_at, found.trace.true.value / alone.trace.true.value, list(found.notes)]
    )


def unlike_machines(process_group: ProcessGroup) -> Any:
    """One rank has other threads than the others: refused on all."""
    assert isinstance(process_group, Ranks)
    real = torch.get_num_threads
    torch.get_num_threads = lambda: 7 if process_group.rank == 1 else 1  # type: ignore[assignment]
    try:
        process_group.refuse_different_machines("cpu")
    except UsageError as error:
        return process_group.exchange(str(error))
    finally:
        torch.get_num_threads = real
    return None


def other_files(process_group: ProcessGroup) -> Any:
    """The last rank sees another file, or one file less: refused on all."""
    files = [CheckpointFile(Path(f"{n}.pt"), f"{n}.pt", n, None, f"hash {n}", None) for n in range(2)]
    changed = [files[0], replace(files[1], sha256="other")]
    said = []
    for seen in (files, changed, files[:1]):
        try:
            refuse_other_files(seen if process_group.rank == process_group.size - 1 else files, process_group)
        except CheckpointError as error:
            said.append(str(error))
    return process_group.exchange(said)


TASKS: dict[str, Callable[[ProcessGroup], Any]] = {
    each.__name__: each
    for each in (
        eigenvalues_by_every_route,
        density,
        coverage_of_other_examples,
        sums_are_the_same_bits_everywhere,
        shares,
        an_error_of_one_rank_is_everyones,
        memory_runs_out_on_one_rank,
        unlike_machines,
        other_files,
    )
} | SHARED_GRADIENT_TASKS
AS_LARGE = "as-large"


def command(words: list[str]) -> Any:
    """Go through the words of a command; after `AS_LARGE` its networks count as large."""
    large, words = (as_large(), words[1:]) if words[0] == AS_LARGE else (contextlib.nullcontext(), words)
    with large, patch("sys.argv", ["fisher", *words]):
        try:
            fisher_main()
        except SystemExit as stop:
            return stop.code or 0
    return 0


def main(file: Path) -> None:
    launch, done = launched(), []
    for task in json.loads(file.read_text()):
        if isinstance(task, list):
            done.append(command(task))
        else:
            with joined_ranks(launch, "cpu", lambda _: None) as process_group:
                done.append(TASKS[task](process_group))
    if launch.speaks:
        file.with_suffix(".done").write_text(json.dumps(done))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
