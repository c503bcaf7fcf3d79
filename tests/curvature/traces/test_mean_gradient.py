"""A mean gradient that is shared out: whatever order ranks come to its parameters in, all is added once."""

import random
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from fisher_cli.curvature.problem.collective_order import CollectiveOrder
from fisher_cli.curvature.problem.problem import Batch, TensorData, pose
from fisher_cli.curvature.problem.process_group import ProcessGroup
from fisher_cli.curvature.traces.mean_gradient import MeanGradient, SharedMeanGradient, mean_gradient
from fisher_cli.run.forecast.forecast import too_large
from fisher_cli.run.forecast.lower_bound import LowerBound
from fisher_cli.settings import Precision
from tests.shared_gradient_runs import as_large, held_values

PATIENCE = 20.0


class Thread(ProcessGroup):
    """One of several threads in place of processes; what is scattered are single values in turn."""

    def __init__(self, rank: int, size: int, barrier: threading.Barrier, desk: dict[int, Any]) -> None:
        self.rank, self.size, self._barrier, self._desk = rank, size, barrier, desk
        self.meetings = 0

    def exchange(self, value: Any) -> list[Any]:
        """Every thread's value."""
        self.meetings += 1
        self._desk[self.rank] = value
        self._barrier.wait(PATIENCE)
        told = [self._desk[rank] for rank in range(self.size)]
        self._barrier.wait(PATIENCE)
        return told

    def numbers(self, mine: int) -> list[int]:
        return self.exchange(mine)

    def sum(self, tensor: Tensor) -> Tensor:
        return tensor.copy_(torch.stack(self.exchange(tensor.clone())).sum(0))

    def scattered(self, count: int) -> int:
        return len(range(self.rank, count, self.size))

    def add_scattered(self, vector: Tensor, total: Tensor) -> None:
        every = self.exchange(vector)
        assert len({(len(each), each.dtype) for each in every}) == 1
        total += torch.stack(every).double().sum(0)[self.rank :: self.size]

    def gather_scattered(self, total: Tensor, count: int, dtype: torch.dtype) -> Tensor:
        vector = torch.empty(count, dtype=dtype)
        for rank, part in enumerate(self.exchange(total)):
            vector[rank :: self.size] = part
        return vector


def in_threads(size: int, work: Callable[[Thread], Any]) -> list[Any]:
    """What so many ranks return."""
    barrier, desk, found = threading.Barrier(size), dict[int, Any](), dict[int, Any]()

    def one(rank: int) -> None:
        try:
            found[rank] = work(Thread(rank, size, barrier, desk))
        except BaseException:
            barrier.abort()
            raise

    threads = [threading.Thread(target=one, args=(rank,)) for rank in range(size)]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    return [found[rank] for rank in range(size)]


def network() -> nn.Module:
    """Five parameters of 6, 3, 3, 1 and 1 values."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 1, bias=False), nn.PReLU(), nn.PReLU()).double()


def batches(count: int) -> Iterator[Batch]:
    return (Batch(torch.zeros(1, 2), torch.zeros(1), index) for index in range(count))


@pytest.mark.parametrize("seed", range(12))
@pytest.mark.parametrize("ranks", [1, 2, 3, 5])
def test_whatever_the_order_all_is_added_once_and_read_as_it_is(ranks: int, seed: int) -> None:
    """Up to four batches on a rank, or none; any parameters of a batch, in any order, some of them twice."""
    model, draw = network(), random.Random(1000 * ranks + seed)
    sizes = {name: each.numel() for name, each in model.named_parameters()}
    plans = [
        [draw.choices(list(sizes), k=draw.randrange(7)) for _ in range(draw.randrange(5))]
        if seed % 4
        else [list(sizes)[::-1]] * draw.randrange(1, 3)
        for _ in range(ranks)
    ]
    values = {name: torch.randn(100, *each.shape).double() for name, each in model.named_parameters()}
    taken = {name: sum(batch.count(name) for plan in plans for batch in plan) for name in sizes}
    counters = {name: iter(range(100)) for name in sizes}
    parts = [[[(name, values[name][next(counters[name])]) for name in batch] for batch in plan] for plan in plans]
    data = TensorData(torch.ones(4, 2).double(), torch.arange(4) % 2)

    models = [network() for _ in range(ranks)]  # which draws; a rank that draws meanwhile is not the others' network

    def work(process_group: Thread) -> list[Tensor]:
        problem = pose(models[process_group.rank], data, batch_size=1, process_group=process_group)
        mean = SharedMeanGradient(problem)
        mine = parts[process_group.rank]
        for batch in mean.adding(batches(len(mine))):
            for name, part in mine[batch.start]:
                mean.add(name, part)
        mean.complete()
        whole = mean.whole()
        assert mean.squared_norm() == pytest.approx(float(whole @ whole), rel=1e-12)
        vector = MeanGradient(problem, whole)
        for batch in mean.reading(batches(len(mine))):
            for name, _ in reversed(mine[batch.start]):
                assert torch.equal(mean.part(name), vector.part(name))
        assert held_values(mean) == sum(process_group.scattered(size) for size in sizes.values())
        return [vector.part(name) for name in sizes]

    for found in in_threads(ranks, work):
        for name, part in zip(sizes, found, strict=True):
            assert torch.allclose(part, values[name][: taken[name]].sum(0) / 4, rtol=1e-12, atol=1e-12)


def test_ranks_of_one_order_go_in_step() -> None:
    """A meeting per parameter and batch, and one at the end; a rank that has done its batches is no hindrance."""
    names = ["first", "second", "third"]

    def work(process_group: Thread) -> tuple[list[str], int]:
        collective_order, seen = CollectiveOrder(process_group, names), []
        for _ in collective_order.of(batches(2 if process_group.rank else 1)):
            for name in reversed(names):
                seen += collective_order.until(name)
        seen += collective_order.until(None)
        return seen, process_group.meetings

    assert in_threads(3, work) == [(names[::-1] * 2, 7)] * 3


@pytest.mark.parametrize(
    ("orders", "turns"),
    [
        ([["third", "first"], ["second", "first"]], ["third", "second", "first"] * 2),
        ([["second", "first"], ["second"]], ["second", "first"] * 2),
    ],
)
def test_ranks_meet_again_after_a_layer_that_only_one_of_them_takes(orders: list[list[str]], turns: list[str]) -> None:
    """Whoever is in the earlier batch, and in it at the later layer, goes first; the others wait."""

    def work(process_group: Thread) -> list[str]:
        taken, seen = CollectiveOrder(process_group, ["first", "second", "third"]), list[str]()
        for _ in taken.of(batches(2)):
            for name in orders[process_group.rank]:
                seen += taken.until(name)
        return seen + list(taken.until(None))

    assert in_threads(2, work) == [turns] * 2


def test_it_is_shared_out_where_several_ranks_have_a_large_network() -> None:
    data, models = TensorData(torch.ones(4, 2).double(), torch.arange(4) % 2), [network(), network()]

    def kind(process_group: ProcessGroup) -> type[MeanGradient]:
        return type(mean_gradient(pose(models[process_group.rank], data, batch_size=1, process_group=process_group)))

    assert in_threads(2, kind) == [MeanGradient] * 2
    with as_large():
        assert in_threads(2, kind) == [SharedMeanGradient] * 2
        assert kind(ProcessGroup()) is MeanGradient


def test_it_is_said_how_many_ranks_hold_what_one_does_not() -> None:
    """A billion parameters in bfloat16: 6 GB while they are read, then 2 and an example, and 8 of ḡ among the ranks."""
    found = LowerBound(10**9, 10**9, Precision.BFLOAT16)
    assert [found.ranks(room * 10**9 // 10) for room in (59, 60, 61, 99, 100)] == [None, 2, 2, 2, 1]
    assert replace(found, tensors=10**6, analysed=10**6).ranks(7 * 10**6) is None, "small ones are not shared out"
    assert replace(found, values=10**9, outputs=2).ranks(6 * 10**9) is None, "an example fits nowhere"
    assert any(
        each.endswith("among 2 ranks that have so much each") for each in too_large(found, 0, 6 * 10**9).remedies
    )
    assert not any("ranks" in each for each in too_large(found, 0, 5 * 10**9).remedies)
