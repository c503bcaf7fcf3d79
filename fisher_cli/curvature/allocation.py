"""Keeping freed memory: the same large temporaries come back every batch, and fresh pages cost more than the sums."""

import ctypes
import ctypes.util
import sys
from functools import cache

# glibc's mallopt parameters and the values that make freed memory stay with the process.
_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3
_KEEP_BYTES = 2**31 - 1
_HEAP_BELOW_BYTES = 2**30


@cache
def keep_freed_memory() -> bool:
    """Tell glibc's allocator to reuse large blocks instead of returning them to the system; True when it obeyed.

    Above 32 MiB glibc maps every block anew, and the kernel clears each page on first touch. The process keeps
    its peak memory until it ends. Does nothing where there is no glibc.
    """
    if not sys.platform.startswith("linux"):
        return False
    try:
        mallopt = ctypes.CDLL(ctypes.util.find_library("c") or "libc.so.6").mallopt
    except (OSError, AttributeError):
        return False
    return bool(mallopt(_MMAP_THRESHOLD, _HEAP_BELOW_BYTES)) and bool(mallopt(_TRIM_THRESHOLD, _KEEP_BYTES))


def return_freed_memory() -> None:
    """Give what is freed back to the system, so that what is resident is what is held; nothing without glibc."""
    if not sys.platform.startswith("linux"):
        return
    try:
        ctypes.CDLL(ctypes.util.find_library("c") or "libc.so.6").malloc_trim(0)
    except (OSError, AttributeError):
        return
