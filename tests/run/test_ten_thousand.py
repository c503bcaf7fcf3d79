"""Many small checkpoints: what of each is held besides measuring it, and how a finished run resumes."""

import json
import os
import tracemalloc
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from fisher_cli.results import Measurement
from fisher_cli.run.row import Predecessor, Source, ThisProcess
from fisher_cli.storage.json_codec import decode, encode
from tests.small_run import analyze, in_child, tables, write_checkpoints

# Bytes of Python that finished rows may hold: whatever their number, and each; below 150 MiB for ten thousand.
HELD, HELD_EACH = 8 * 2**20, 14 * 2**10
pytestmark = [
    pytest.mark.usefixtures("workdir"),
    pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning"),
]


def descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


class Watched:
    """Measures every `stride`-th checkpoint and says of the others what it found last, and looks on meanwhile."""

    def __init__(self, patch: pytest.MonkeyPatch, stride: int) -> None:
        self.held: list[int] = []
        self.open: list[int] = []
        self._last: Measurement | None = None
        self._stride = stride
        real = ThisProcess.measure_row

        def measure(process: ThisProcess, source: Source, previous: Predecessor) -> Measurement:
            if len(self.held) == 100:
                tracemalloc.start()
            self.held.append(tracemalloc.get_traced_memory()[0])
            self.open.append(descriptors())
            if self._last is None or len(self.held) % self._stride == 0:
                self._last = real(process, source, previous)
            return _of_its_own(replace(self._last, checkpoint=source.name, sha256=source.sha256, step=source.step))

        patch.setattr(ThisProcess, "measure_row", measure)


def _of_its_own(found: Measurement) -> Measurement:
    """The same with objects of its own, as every measurement has."""
    return replace(
        decode(Measurement, json.loads(json.dumps(encode(replace(found, ledger=None))))), ledger=found.ledger
    )


def load(count: int, stride: int) -> str:
    """What was found, in words."""
    write_checkpoints(count)

    def first(patch: Any = pytest.MonkeyPatch) -> None:
        watched = Watched(patch(), stride)
        said = analyze()
        found = {"held": watched.held[-1], "open": [min(watched.open), max(watched.open)], "said": len(said)}
        Path("found.json").write_text(json.dumps(found))

    def again(patch: Any = pytest.MonkeyPatch) -> None:
        watched = Watched(patch(), stride)
        said = analyze()
        Path("again.json").write_text(json.dumps({"measured": len(watched.held), "said": said}))

    assert in_child(first) == 0
    found, before = json.loads(Path("found.json").read_text()), tables()
    assert in_child(again) == 0
    resumed = json.loads(Path("again.json").read_text())
    assert f"{count} of {count} checkpoints were finished before and are kept" in resumed["said"]
    assert resumed["measured"] == 0
    assert tables() == before
    each = found["held"] / (count - 101)
    assert found["held"] <= HELD + HELD_EACH * count
    assert found["open"][0] == found["open"][1]
    assert found["said"] < 500 * count
    return (
        f"{count} checkpoints: {each:,.0f} bytes held of each at the last one, {found['open'][0]} files open, "
        f"{found['said']} bytes said"
    )


@pytest.mark.ci
def test_five_hundred_checkpoints(record_property: Callable[[str, object], None]) -> None:
    """L1, a twentieth."""
    record_property("L1", load(500, 250))


@pytest.mark.long
def test_ten_thousand_checkpoints(record_property: Callable[[str, object], None]) -> None:
    """L1: every five hundredth is measured in earnest; what is counted is all that comes besides."""
    record_property("L1", load(10_000, 500))
