"""Waiting for something to happen, however long it takes here; a limit only ends what hangs."""

import time
from collections.abc import Callable

# Seconds after which something hangs; a busy machine takes a hundredth of it.
PATIENCE = 600.0
_PAUSE = 0.01


def until(happened: Callable[[], object]) -> None:
    """Return as soon as something is so.

    The pauses are counted, no clock is read: where the machine is busy they last longer, and so does the patience.
    """
    for _ in range(int(PATIENCE / _PAUSE)):
        if happened():
            return
        time.sleep(_PAUSE)
    msg = f"it has not happened in {PATIENCE:.0f} seconds"
    raise AssertionError(msg)


def pause(seconds: float) -> None:
    """Let any moment come; nothing may depend on which one it is."""
    time.sleep(seconds)
