"""The next batch made ready while the GPU works on this one."""

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import torch
from torch import Tensor

Given = TypeVar("Given")
Made = TypeVar("Made")


def prefetched(make: Callable[[Given], Made], items: Iterable[Given]) -> Iterator[Made]:
    """make(item) for every item in order; the next one is made by a thread while the caller uses this one.

    Never more than one ahead: batches are large. What `make` raises is raised where its result would be.
    """
    with ThreadPoolExecutor(1, thread_name_prefix="fisher-prefetch") as thread:
        waiting = None
        for item in items:
            asked = thread.submit(make, item)
            if waiting is not None:
                yield waiting.result()
            waiting = asked
        if waiting is not None:
            yield waiting.result()


def pinned(values: Tensor) -> Tensor:
    """The values in memory from which a GPU copies without stopping the program; those of a GPU as they are."""
    return values if values.is_cuda or not torch.cuda.is_available() else values.pin_memory()
