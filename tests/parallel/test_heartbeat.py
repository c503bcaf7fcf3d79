"""Signals while ranks end: whoever is saying something already is not interrupted, from whichever thread it began."""

import signal
import threading

import pytest

from fisher_cli.parallel.heartbeat import Heartbeat
from fisher_cli.parallel.launch import Launch
from fisher_cli.storage.atomic_write import STOPPING_SIGNALS


@pytest.mark.parametrize("elsewhere", [False, True], ids=["main thread", "another thread"])
def test_signals_that_are_ignored_say_nothing(elsewhere: bool) -> None:
    """On a GPU it is autograd's thread that finds another rank gone, in the middle of a backward pass."""
    heard: list[int] = []
    handlers = {number: signal.getsignal(number) for number in STOPPING_SIGNALS}
    signal.signal(signal.SIGUSR1, lambda number, _: heard.append(number))
    watch = Heartbeat(Launch())
    errors: list[BaseException] = []

    def ignore() -> None:
        try:
            watch.ignore()
        except BaseException as error:
            errors.append(error)

    try:
        with watch.watching(lambda _: None):
            if elsewhere:
                thread = threading.Thread(target=ignore)
                thread.start()
                thread.join()
            else:
                ignore()
            signal.raise_signal(signal.SIGUSR1)
        signal.raise_signal(signal.SIGUSR1)
        assert not errors
        assert not heard
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
