"""Batches made ready ahead: the same, in the same order, with the same errors."""

import threading

import pytest

from fisher_cli.curvature.torch_backend.prefetch import prefetched
from tests.waiting import until


def test_results_come_in_order_and_no_more_than_one_ahead() -> None:
    made: list[int] = []

    def make(number: int) -> int:
        made.append(number)
        return number * number

    for step, found in enumerate(prefetched(make, range(6))):
        assert found == step * step
        until(lambda step=step: len(made) >= min(6, step + 2))  # type: ignore[misc]
        assert made == list(range(min(6, step + 2)))


def test_an_error_comes_where_its_result_would() -> None:
    def make(number: int) -> int:
        return 6 // (2 - number)

    ahead = prefetched(make, range(5))
    assert [next(ahead), next(ahead)] == [3, 6]
    with pytest.raises(ZeroDivisionError):
        next(ahead)


def test_who_stops_early_leaves_no_thread() -> None:
    ahead = prefetched(lambda number: number, range(1000))
    assert next(ahead) == 0
    ahead.close()
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("fisher-prefetch")]


def test_nothing_gives_nothing() -> None:
    assert list(prefetched(lambda number: number, [])) == []
