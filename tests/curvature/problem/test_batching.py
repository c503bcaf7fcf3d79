"""The automatic batch size: a rule of the shapes and the memory alone."""

import pytest
import torch

from fisher_cli.curvature.problem import batching
from fisher_cli.curvature.problem.batching import (
    CPU_BYTES,
    FEWEST,
    LARGEST,
    MEMORY_SHARE,
    OVERHEAD,
    automatic_batch_size,
)

GIBIBYTE = 2**30
# Values of an example whose working set, of ten directions in float32, has this many bytes.
PER_VALUE = (10 + OVERHEAD) * 4


@pytest.fixture(autouse=True)
def memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine of 16 GiB."""
    monkeypatch.setattr(batching, "memory_bytes", lambda _: 16 * GIBIBYTE)


def size_of(bytes_per_example: float, examples: int = 10**6) -> int:
    return automatic_batch_size(int(bytes_per_example / PER_VALUE), torch.zeros(1), 10, examples)


def test_small_examples_fill_the_caches() -> None:
    assert size_of(CPU_BYTES / 16) == 16
    assert size_of(CPU_BYTES / 1e6) == LARGEST
    assert size_of(CPU_BYTES / 16, examples=5) == 5


def test_large_examples_are_taken_eight_at_once_as_far_as_the_memory_goes() -> None:
    share = 16 * GIBIBYTE * MEMORY_SHARE
    assert FEWEST == 8
    assert size_of(CPU_BYTES / 7) == size_of(CPU_BYTES / 3) == size_of(share / 8) == 8
    assert size_of(share / 5) == 5
    assert size_of(2 * share) == 1


def test_directions_beyond_sixteen_are_taken_in_turns() -> None:
    sizes = [automatic_batch_size(10**5, torch.zeros(1), directions, 10**6) for directions in (1, 16, 17, 1000)]
    assert sizes[0] > sizes[1] == sizes[2] == sizes[3]
