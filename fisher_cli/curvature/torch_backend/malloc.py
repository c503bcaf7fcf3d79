"""How the C library treats freed memory: kept where it comes back every batch, given back where it would add up."""

import ctypes
import ctypes.util
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache

# glibc's mallopt parameters and their values by whether the network is large: blocks of this many bytes and more are
# mapped anew each time, and so much free memory may stay at the end of the heap.
_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3
_VALUES = {False: (2**31 - 1, 2**30), True: (2**26, 2**16)}
# Parameters of so many bytes make a large network.
LARGE_BYTES = 2**28
# Of a network that is not large, blocks from this size on may add up where each is kept, or made once.
LARGE_BLOCK = 2**22


def is_large(network_bytes: int) -> bool:
    """Whether parameters of so many bytes make a large network, one whose gradients take as much memory as all else."""
    return network_bytes >= LARGE_BYTES


def manage_freed_memory(*, large: bool) -> bool:
    """Tell glibc's allocator what to do with freed blocks; True when it obeyed, False where there is no glibc.

    Of a network that is not large, it keeps them: the same temporaries come back every batch, and fresh pages, which
    the kernel clears, cost more than the sums. Of a large one, it gives them back: freed blocks of many sizes, aligned
    as tensors are, are hardly ever used again (a check of 100 million parameters, which holds 560 MiB, took 2.2 GiB).
    What is free already is used first, so that this is to be said before files are read.

    Args:
        large: whether the network is large, as `is_large` says.
    """
    library = _library()
    if library is None:
        return False
    trim, mapped = _VALUES[large]
    return bool(library.mallopt(_MMAP_THRESHOLD, mapped)) and bool(library.mallopt(_TRIM_THRESHOLD, trim))


@contextmanager
def large_blocks_given_back(*, large: bool) -> Iterator[None]:
    """Give blocks of `LARGE_BLOCK` bytes and more, and only those, back to the system when freed in this context.

    For what is made beside something that stays, of another size each time: an aligned block does not fit into the hole
    that one of the same size has left, and where something is kept behind each of them the holes add up to as much as
    all of it (the columns of a factor, each parameter's made beside its gradients, took twice what they hold).

    Args:
        large: whether the network is large, as for `manage_freed_memory`: its blocks of this size are given back
            anyway, and nothing is changed.
    """
    library = None if large else _library()
    if library is not None:
        library.mallopt(_MMAP_THRESHOLD, LARGE_BLOCK)
    try:
        yield
    finally:
        if library is not None:
            library.mallopt(_MMAP_THRESHOLD, _VALUES[large][1])


def trim() -> None:
    """Give what is free inside of the heap back to the system, where glibc is there; it takes milliseconds."""
    library = _library()
    if library is not None:
        library.malloc_trim(0)


@cache
def _library() -> ctypes.CDLL | None:
    if not sys.platform.startswith("linux"):
        return None
    try:
        library = ctypes.CDLL(ctypes.util.find_library("c") or "libc.so.6")
    except OSError:
        return None
    return library if hasattr(library, "mallopt") and hasattr(library, "malloc_trim") else None
