"""What every rank does in test_ranks.py where networks count as large: their mean gradient is shared out."""

import itertools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

import fisher_cli.run.measurement as measuring
from fisher_cli.curvature.problem.problem import Problem, TensorData, pose
from fisher_cli.curvature.problem.process_group import ProcessGroup
from fisher_cli.curvature.torch_backend import malloc
from fisher_cli.curvature.torch_backend.machine_memory import growth
from fisher_cli.curvature.traces.gradient_statistics import gradient, projections
from fisher_cli.curvature.traces.mean_gradient import SharedMeanGradient
from fisher_cli.curvature.traces.traces import TraceResult, sweep
from fisher_cli.errors import NumericalError, RanksError
from fisher_cli.parallel import ranks
from fisher_cli.settings import Settings
from tests.cases import CASES, mlp
from tests.live_memory import tensors_in


@contextmanager
def as_large() -> Iterator[None]:
    """Within, every network counts as large."""
    before, malloc.LARGE_BYTES = malloc.LARGE_BYTES, 0
    try:
        yield
    finally:
        malloc.LARGE_BYTES = before


class Wandering(nn.Module):
    """Takes its layers in another order, or others of them, by what the first example of a batch is."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layers = nn.ModuleList(nn.Linear(3, 3) for _ in range(5))
        self.scale = nn.Parameter(torch.randn(3))

    def forward(self, x: Tensor) -> Tensor:
        kind = int(x[0, 0])
        for index in [(0, 1, 2), (2, 1), (4, 0), (1, 3, 1)][kind]:
            x = torch.tanh(self.layers[index](x))
        return x * self.scale.exp() if kind < 2 else x


def wandering(dtype: torch.dtype) -> tuple[nn.Module, Tensor, Tensor]:
    inputs = torch.randn(36, 3, generator=torch.Generator().manual_seed(1))
    inputs[:, 0] = torch.tensor([0, 1, 2, 3, 0, 2, 1, 1, 3]).repeat_interleave(4)
    return Wandering().to(dtype), inputs.to(dtype), torch.arange(36) % 3


MADE: dict[str, Callable[[torch.dtype], tuple[nn.Module, Tensor, Tensor]]] = {
    **{case.name: case.make for case in CASES},
    "wandering": wandering,
}
# Tied and unused parameters, some that no rule covers, other layers on other ranks; two batches, of which a third rank
# has none; what is read rounded to float32.
SHARED = [("sequence", torch.float64, 2), ("attention", torch.float64, 2), ("wandering", torch.float64, 2)]
SHARED += [("mlp", torch.float64, 4), ("sequence", torch.float32, 2), ("attention", torch.bfloat16, 2)]


def _said(swept: TraceResult) -> list[Tensor]:
    """ḡ, its products with every example's gradient, and what is made of them."""
    squares = torch.tensor(swept.trace.per_example_empirical, dtype=torch.float64)
    found = gradient(swept.engine, swept.gradient, squares)
    ratio = found.signal_to_noise
    numbers = [found.norm_squared, *((ratio.value, ratio.standard_error) if ratio else ())]
    products = projections(swept.engine, swept.gradient)
    return [swept.mean_gradient, products, torch.tensor(numbers, dtype=torch.float64)]


def scattered_sums(process_group: ProcessGroup) -> Any:
    """In pieces of seven values, of vectors of many lengths: equal to plain sums; of unlike lengths it is refused."""
    said, before = [], ranks.PIECE
    ranks.PIECE = 7
    try:
        for count, dtype in itertools.product((0, 1, 2, 7, 8, 40), (torch.float32, torch.float64)):
            torch.manual_seed(process_group.rank)
            vector = (
                torch.randn(2, count, dtype=dtype)[1]
                if process_group.rank
                else torch.zeros(1, dtype=dtype).expand(count)
            )
            total = torch.ones(process_group.scattered(count), dtype=torch.float64)
            process_group.add_scattered(vector, total)
            found = process_group.gather_scattered(total, count, torch.float64)
            expected = process_group.sum(vector.double().clone() + (process_group.rank == 0))
            said.append(bool(torch.allclose(found, expected, rtol=1e-15, atol=1e-15)))
            rounded = process_group.gather_scattered(total, count, torch.float32)
            said.append(rounded.dtype is torch.float32 and torch.equal(rounded, found.float()))
        lengths = process_group.exchange([process_group.scattered(count) for count in range(30)])
        said.append([sum(each) for each in zip(*lengths, strict=True)] == list(range(30)))
        try:
            process_group.add_scattered(
                torch.ones(8 + process_group.rank), torch.ones(process_group.scattered(8)).double()
            )
        except RanksError as error:
            said.append("went different ways (rank 0: a sum that is scattered (8), rank 1" in str(error))
    finally:
        ranks.PIECE = before
    return process_group.exchange(said)


def shared_gradients(process_group: ProcessGroup) -> Any:
    """By network, precision and batch size: the largest relative difference to one rank, and what each rank holds."""
    found = []
    for name, dtype, size in SHARED:
        said, held = [], list[int]()
        for each in (process_group, ProcessGroup())[: 1 + (process_group.rank == 0)]:
            model, inputs, labels = MADE[name](dtype)
            with as_large():
                problem = pose(model, TensorData(inputs, labels), batch_size=size, dtype=dtype, process_group=each)
                swept = sweep(problem, verify=False)
                said.append(_said(swept))
            if isinstance(swept.gradient, SharedMeanGradient):
                held = process_group.exchange(held_values(swept.gradient))
        off = [float((a - b).abs().max() / b.abs().max()) for a, b in zip(said[0], said[-1], strict=True)]
        found.append([f"{name}, {dtype}, {size} at once", max(off), held, problem.size])
    return found


def held_values(gradient: SharedMeanGradient) -> int:
    """How many values this rank keeps, in whatever attribute."""
    return sum(each.numel() for each in tensors_in([*vars(gradient).values()]))


def problem_of(process_group: ProcessGroup, batch_size: int) -> Problem:
    model, inputs, labels = MADE["mlp"](torch.float64)
    return pose(model, TensorData(inputs, labels), batch_size=batch_size, process_group=process_group)


@contextmanager
def failing(owner: type, method: str, call: int, error: Callable[[], Exception]) -> Iterator[None]:
    """Within, that call of a class's method does not come about."""
    real, calls = getattr(owner, method), 0

    def sometimes(*words: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == call:
            raise error()
        return real(*words)

    setattr(owner, method, sometimes)
    try:
        yield
    finally:
        setattr(owner, method, real)


def memory_runs_out_in_the_middle_of_a_batch(process_group: ProcessGroup) -> Any:
    """On rank 0, and on the last rank, which has no batch of its own where there are three."""
    said, settings, problem = [], Settings(data="none", eigenvalues=0), problem_of(ProcessGroup(), 4)
    short = lambda: RuntimeError("DefaultCPUAllocator: can't allocate memory")  # noqa: E731
    with as_large():
        alone = process_group.rank == 0 and measuring.measure(
            problem.model, problem.data, settings, measuring.MeasurementContext(batch_size=2, checks=False)
        )
        norm = process_group.broadcast(alone and alone.gradient and alone.gradient.norm_squared)
        for owner, method, call, rank in (
            (SharedMeanGradient, "add", 3, 0),
            (SharedMeanGradient, "part", 2, 0),
            (ranks.Ranks, "add_scattered", 2, -1),
            (ranks.Ranks, "gather_scattered", 3, -1),
        ):
            with failing(owner, method, call if process_group.rank == rank % process_group.size else 0, short):
                context = measuring.MeasurementContext(batch_size=4, checks=False, process_group=process_group)
                found = measuring.measure(problem.model, problem.data, settings, context)
            assert found.gradient is not None
            off = abs(found.gradient.norm_squared / norm - 1)
            said.append([found.batch_size, found.memory_ran_out_at, off < 1e-12])
    return process_group.exchange(said)


def an_error_in_the_middle_of_a_batch(process_group: ProcessGroup) -> Any:
    said = []
    for method in ("add", "part"):
        with (
            as_large(),
            failing(SharedMeanGradient, method, 2 if process_group.rank == 0 else 0, lambda: NumericalError("odd")),
        ):
            try:
                with process_group.in_step():
                    _said(sweep(problem_of(process_group, 3), verify=False))
            except NumericalError as error:
                said.append(str(error))
    return process_group.exchange(said)


def memory_of_a_shared_gradient(process_group: ProcessGroup) -> Any:
    """Of 20 million parameters: how many, what each rank keeps, and the bytes that a sweep adds, here and alone."""
    torch.manual_seed(0)
    model, data = mlp(768, 4096, 4096, 10), TensorData(torch.randn(4, 768), torch.arange(4) % 10)
    with as_large():
        problem = pose(model, data, batch_size=2, process_group=process_group)
        with growth(problem.device) as grown:
            swept = sweep(problem, verify=False)
            told = process_group.exchange([held_values(swept.gradient), grown()])  # type: ignore[arg-type]
        swept.gradient.forget()
        if process_group.rank > 0:
            return None
        alone = pose(model, data, batch_size=2)
        with growth(problem.device) as grown:
            sweep(alone, verify=False)
            return problem.size, told, grown()


SHARED_GRADIENT_TASKS: dict[str, Callable[[ProcessGroup], Any]] = {
    each.__name__: each
    for each in (
        scattered_sums,
        shared_gradients,
        memory_runs_out_in_the_middle_of_a_batch,
        an_error_in_the_middle_of_a_batch,
        memory_of_a_shared_gradient,
    )
}
