"""How much memory a part of the work adds."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch

from fisher_cli.curvature.torch_backend import machine_memory
from fisher_cli.curvature.torch_backend.malloc import trim


def resident(device: torch.device) -> int:
    """Bytes on the GPU, or of this process, now."""
    return torch.cuda.memory_allocated(device) if device.type == "cuda" else machine_memory.resident_memory()


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
    elif machine_memory.begin_peak():
        yield lambda: machine_memory.peak_memory() - before
    else:
        yield lambda: 0
