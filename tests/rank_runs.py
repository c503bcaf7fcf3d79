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

import torch

from fisher_cli.cli.app import _be_silent, app
from fisher_cli.curvature.problem.problem import Problem, TensorData, pose
from fisher_cli.curvature.problem.process_group import World
from fisher_cli.curvature.spectra.eigensystems import matrices
from fisher_cli.curvature.spectra.solver_choice import Route
from fisher_cli.curvature.spectra.spectrum import Question, spectrum
from fisher_cli.curvature.traces.traces import sweep
from fisher_cli.errors import CheckpointError, DataError, NumericalError, UsageError
from fisher_cli.inputs.checkpoints.checkpoints import CheckpointFile
from fisher_cli.parallel.launch import launched
from fisher_cli.parallel.ranks import Ranks, joined
from fisher_cli.run.sequence import refuse_other_files
from tests.cases import CASES
from tests.shared_gradient_runs import SHARED_GRADIENT_TASKS, as_large


def problem_of(world: World, batch_size: int = 2) -> Problem:
    case = next(case for case in CASES if case.name == "mlp")
    model, inputs, labels = case.make(torch.float64)
    return pose(model, TensorData(inputs, labels), likelihood=case.likelihood, batch_size=batch_size, world=world)


def eigenvalues_by_every_route(world: World) -> Any:
    """Values and residuals of all routes, each with this world and alone."""
    found: dict[str, Any] = {}
    for name, problem in (("ranks", problem_of(world)), ("alone", problem_of(World()))):
        swept = sweep(problem)
        for route in Route:
            true, _ = matrices(problem, columns=swept.columns, trace_true=swept.trace.true.value)
            system = true.leading(3, route=route, vectors=True, tolerance=1e-9)
            assert system.vectors is not None
            shares = (system.vectors.T @ swept.mean_gradient).square().tolist()
            found.setdefault(route.value, {})[name] = [*system.values.tolist(), *shares]
    return found


def density(world: World) -> Any:
    found = {}
    for name, problem in (("ranks", problem_of(world)), ("alone", problem_of(World()))):
        true, _ = matrices(problem)
        result, _ = spectrum(true, Question(2, full=True, whole=False, probes=2, steps=6), 1.0)
        assert result.density is not None
        found[name] = [*result.density.density, *(result.errors or ()), result.effective_rank.value]  # type: ignore[union-attr]
    return found


def coverage_of_other_examples(world: World) -> Any:
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
    for name, each in (("ranks", world), ("alone", World())):
        problem = pose(Choosy(), TensorData(inputs, torch.arange(8) % 2), batch_size=2, world=each)
        swept = sweep(problem)
        true, empirical = (
            matrix.leading(2, route=Route.GRAM).values.tolist()
            for matrix in matrices(problem, engine=swept.engine, columns=swept.columns)
        )
        found[name] = [[e.name, e.values, e.method] for e in swept.ledger.entries], [swept.trace.true.value], true
        found[name] += (empirical,)
    return found


def sums_are_the_same_bits_everywhere(world: World) -> Any:
    """Also of float32, which is added in float64."""
    torch.manual_seed(world.rank)
    total = world.sum(torch.randn(100_003, dtype=torch.float64))
    small = torch.full((5_000_000,), 2.0**-30 if world.rank else 1.0)
    single = world.sum(small.clone())
    first, *others = world.exchange([total[::100].tolist(), single[::100_000].tolist()])
    return [other == first for other in others], float(single[0])


def shares(world: World) -> Any:
    return world.exchange([list(world.share(count)) for count in (0, 1, 2, 7)])


def fail(error: Exception) -> None:
    raise error


def an_error_of_one_rank_is_everyones(world: World) -> Any:
    """Whoever fails where: each rank gets the first one's error, in step with the others."""
    said = []
    for failing in ({0}, {world.size - 1}, set(range(world.size))):
        for error in (NumericalError("odd"), DataError("no"), MemoryError("full"), KeyError("key")):
            try:
                with world.in_step():
                    world.exchange(1)
                    if world.rank in failing:
                        fail(error)
                    world.sum(torch.ones(3, dtype=torch.float64))
                    world.exchange(2)
            except Exception as found:
                said.append([type(found).__name__, str(found)])
    return world.exchange(said)


def memory_runs_out_on_one_rank(world: World) -> Any:
    """All take half the batch, and the numbers are those of that batch alone."""
    import fisher_cli.run.measurement as measuring
    from fisher_cli.settings import Settings

    real = measuring.sweep

    def sometimes(problem: Problem, **words: Any) -> Any:
        if world.rank == world.size - 1 and problem.batch_size > 2:
            fail(RuntimeError("DefaultCPUAllocator: can't allocate memory"))
        return real(problem, **words)

    measuring.sweep = sometimes
    try:
        problem = problem_of(world, 4)
        settings = Settings(data="none", eigenvalues=2)
        found = measuring.measure(problem.model, problem.data, settings, batch_size=4, world=world)
    finally:
        measuring.sweep = real
    alone = measuring.measure(problem.model, problem.data, settings, batch_size=2)
    assert found.trace is not None
    assert alone.trace is not None
    return world.exchange(
        [found.batch_size, found.memory_ran_out_at, found.trace.true.value / alone.trace.true.value, list(found.notes)]
    )


def unlike_machines(world: World) -> Any:
    """One rank has other threads than the others: refused on all."""
    assert isinstance(world, Ranks)
    real = torch.get_num_threads
    torch.get_num_threads = lambda: 7 if world.rank == 1 else 1  # type: ignore[assignment]
    try:
        world.refuse_different_machines("cpu")
    except UsageError as error:
        return world.exchange(str(error))
    finally:
        torch.get_num_threads = real
    return None


def other_files(world: World) -> Any:
    """The last rank sees another file, or one file less: refused on all."""
    files = [CheckpointFile(Path(f"{n}.pt"), f"{n}.pt", n, None, f"hash {n}", None) for n in range(2)]
    changed = [files[0], replace(files[1], sha256="other")]
    said = []
    for seen in (files, changed, files[:1]):
        try:
            refuse_other_files(seen if world.rank == world.size - 1 else files, world)
        except CheckpointError as error:
            said.append(str(error))
    return world.exchange(said)


TASKS: dict[str, Callable[[World], Any]] = {
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
    with large:
        return app(words, prog_name="fisher", standalone_mode=False)


def main(file: Path) -> None:
    launch, done = launched(), []
    if not launch.speaks:
        _be_silent()
    for task in json.loads(file.read_text()):
        if isinstance(task, list):
            done.append(command(task))
        else:
            with joined(launch, "cpu", lambda _: None) as world:
                done.append(TASKS[task](world))
    if launch.speaks:
        file.with_suffix(".done").write_text(json.dumps(done))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
