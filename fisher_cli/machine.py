"""The memory of this machine, and how much of it this process has used."""

import os
import resource
from pathlib import Path
from typing import Final

_STATUS: Final = Path("/proc/self/status")
# By version of control groups: where the limit of this process's own group stands, seen from inside a container.
_LIMITS: Final = (Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"))


def total_memory(limits: tuple[Path, ...] = _LIMITS) -> tuple[int, str]:
    """Bytes that a process may use, and whose they are: the machine's, or a control group's limit below that."""
    machine = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    found = [value for value in map(_number_in, limits) if value is not None and 0 < value < machine]
    return (min(found), "the control group's limit") if found else (machine, "the machine's memory")


def _number_in(path: Path) -> int | None:
    """The number that a file holds; None where there is none, or no limit."""
    try:
        text = path.read_text().strip()
    except OSError:
        return None
    return int(text) if text.isdecimal() else None


def peak_memory() -> int:
    """The most that this process has had resident, in bytes, since it began or since `begin_peak`.

    What `getrusage` says may be that of the process which started this one, and stands in only where there is no /proc.
    """
    found = _status("VmHWM")
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 if found is None else found


def resident_memory() -> int:
    """What this process has resident now, in bytes; its peak where there is no /proc."""
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
    try:
        lines = _STATUS.read_text().splitlines()
    except OSError:
        return None
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{name}:")), None)
