"""The memory of this machine, and how much of it this process has used."""

import os
import resource
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Final

import torch

from fisher_cli.curvature.torch_backend.malloc import trim

_STATUS: Final = Path("/proc/self/status")
# The files in which a control group's limits stand, by the type of the file system that shows them.
_LIMITS: Final = {"cgroup2": ("memory.max", "memory.high"), "cgroup": ("memory.limit_in_bytes",)}


@cache
def total_memory(root: Path = Path("/")) -> tuple[int, str]:
    """Bytes that this process may use, and whose they are: the machine's, or the least limit of its control groups.

    The groups are the process's own and all around it, of version 1 and 2. It is read once: within a run nothing that
    depends on it may change.

    Args:
        root: where `proc` and `sys` are.

    Returns:
        Bytes, 2⁶² where the system does not say; and "the machine's memory" or "the control group's limit".
    """
    try:
        machine = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):  # not a POSIX system
        machine = 1 << 62
    found = [value for path in _limits(root) if (value := _number_in(path)) is not None and 0 < value < machine]
    return (min(found), "the control group's limit") if found else (machine, "the machine's memory")


def _limits(root: Path) -> Iterator[Path]:
    """The files that may limit the memory of this process: those of its group in each hierarchy, and of all above."""
    own = {}
    for line in _lines(root / "proc/self/cgroup"):
        number, controllers, group = line.split(":", 2)
        if number == "0" or "memory" in controllers.split(","):
            own["cgroup2" if number == "0" else "cgroup"] = group
    for line in _lines(root / "proc/self/mountinfo"):
        mounted, _, kind = line.partition(" - ")
        system, _, options = kind.split(" ", 2)
        if system not in own or (system == "cgroup" and "memory" not in options.split(",")):
            continue
        shown, point = mounted.split()[3:5]
        # A container sees of the hierarchy what is below `shown`; its own group may be named from outside of it.
        inside = Path(os.path.relpath(own[system], shown))
        inside = Path() if ".." in inside.parts else inside
        for above in (inside, *inside.parents):
            yield from (root / point.lstrip("/") / above / name for name in _LIMITS[system])


def _lines(path: Path) -> list[str]:
    """The lines of a file; none where it cannot be read."""
    try:
        return path.read_text().splitlines()
    except OSError:
        return []


def _number_in(path: Path) -> int | None:
    """The number that a file holds; None where there is none, or no limit."""
    text = "".join(_lines(path)).strip()
    return int(text) if text.isdecimal() else None


def peak_memory() -> int:
    """The largest resident memory of this process in bytes, since it began or since `begin_peak`.

    What `getrusage` says may be that of the process which started this one, and stands in only where there is no /proc.
    """
    found = _status("VmHWM")
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 if found is None else found


def resident_memory() -> int:
    """The resident memory of this process now, in bytes; its peak where there is no /proc."""
    found = _status("VmRSS")
    return peak_memory() if found is None else found


def begin_peak() -> bool:
    """Let the peak be counted from now on; False where the system cannot."""
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return False
    return True


def _status(name: str) -> int | None:
    return next((int(line.split()[1]) * 1024 for line in _lines(_STATUS) if line.startswith(f"{name}:")), None)


def resident(device: torch.device) -> int:
    """Bytes that torch has allocated on a GPU, or that this process has resident on the CPU, now."""
    return torch.cuda.memory_allocated(device) if device.type == "cuda" else resident_memory()


@contextmanager
def growth(device: torch.device) -> Iterator[Callable[[], int]]:
    """Count the bytes that are added in this context at its fullest moment.

    Yields:
        A function that gives them, to be called after the context. On a GPU they are those that torch allocates, else
        the
        resident memory; 0 where the system cannot begin its peak anew.
    """
    trim()
    before = resident(device)
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        yield lambda: torch.cuda.max_memory_allocated(device) - before
    elif begin_peak():
        yield lambda: peak_memory() - before
    else:
        yield lambda: 0
