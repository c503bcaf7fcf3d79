"""How much memory a part of the work adds."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch

from fisher_cli import machine
from fisher_cli.curvature.allocation import trim


def resident(device: torch.device) -> int:
    """Bytes on the GPU, or of this process, now."""
    return torch.cuda.memory_allocated(device) if device.type == "cuda" else machine.resident_memory()


@contextmanager
def growth(device: torch.device) -> Iterator[Callable[[], int]]:
    """Bytes that were added at the fullest moment within, as a function to ask when it is over.

    Yields:
        That function.
    """
    trim()
    before = resident(device)
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        yield lambda: torch.cuda.max_memory_allocated(device) - before
    elif machine.begin_peak():
        yield lambda: machine.peak_memory() - before
    else:
        yield lambda: 0
