"""One process at a time writes a report: a lock on its journal, which the system gives back when the process dies."""

import fcntl
import os
import socket
import time
from pathlib import Path
from typing import Final

from fisher_cli.errors import LockedError
from fisher_cli.text import one_line

_LOCK: Final = "lock"


def locked(folder: Path) -> int:
    """A descriptor that holds the journal's lock until it is closed; the system lets go of it when a process dies.

    Raises:
        LockedError: another process holds it.
    """
    descriptor = os.open(folder / _LOCK, os.O_RDWR | os.O_CREAT | getattr(os, "O_CLOEXEC", 0), 0o666)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        owner = _owner(descriptor)
        os.close(descriptor)
        msg = (
            f"{folder.with_suffix('')}: another process is writing this report ({owner}); wait for it, or choose "
            "another name for -o"
        )
        raise LockedError(msg) from None
    except BaseException:
        os.close(descriptor)
        raise
    os.ftruncate(descriptor, 0)
    os.pwrite(descriptor, f"process {os.getpid()} on {socket.gethostname()}\n".encode(), 0)
    return descriptor


def _owner(descriptor: int) -> str:
    """Who holds the lock, as it says itself just after taking it."""
    for _ in range(20):
        if text := one_line(os.pread(descriptor, 200, 0).decode("utf-8", "replace").strip()):
            return text
        time.sleep(0.05)
    return "which has not said who it is"
