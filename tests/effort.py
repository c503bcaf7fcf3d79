"""What reading a file costs, in units that are the same on every machine: function calls, and bytes held at once."""

import cProfile
import tracemalloc
from collections.abc import Iterator
from contextlib import contextmanager

from tests.live_memory import LiveMemory


class Effort:
    """`calls` of functions, C's included, and the most `bytes` that Python, NumPy and tensors held at once."""

    def __init__(self) -> None:
        self.calls = self.bytes = 0

    @contextmanager
    def counting_calls(self) -> Iterator[None]:
        profile = cProfile.Profile()
        profile.enable()
        try:
            yield
        finally:
            profile.disable()
            self.calls = sum(entry.callcount for entry in profile.getstats())

    @contextmanager
    def counting(self) -> Iterator[None]:
        with LiveMemory() as tensors, self.counting_calls():
            tracemalloc.start()
            try:
                yield
            finally:
                self.bytes = tracemalloc.get_traced_memory()[1] + tensors.peak
                tracemalloc.stop()
