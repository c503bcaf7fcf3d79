"""Rows that a long run holds packed come back as they were, whatever command made them."""

import math
import struct
from collections.abc import Callable
from dataclasses import dataclass, fields, is_dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from fisher_cli.cli.app import app
from fisher_cli.compact import compact, restored
from fisher_cli.packed import UNPACKED, PackedMeasurements
from fisher_cli.records import read_records
from fisher_cli.results import Estimate, Measurement, Status
from tests.test_codec import Leaf, Tree

STEP = "sample_checkpoints/digits-clean/step_00000.pt"
COMMANDS = {
    "analyze": ["analyze", STEP, "sample_checkpoints/digits-clean/step_00066.pt", "--limit", "8"],
    "compare": ["compare", "true-vs-empirical", STEP, "--limit", "8", "--draws", "2"],
    "density": ["spectrum", STEP, "--limit", "8", "--method", "density", "--probes", "2"],
    "spectrum": ["spectrum", STEP, "--limit", "4"],
    "examples": ["examples", STEP, "--limit", "8"],
    "verify": ["verify", STEP, "--limit", "4"],
    "task2vec": ["analyze", STEP, "--limit", "4", "--preset", "task2vec"],
}


@dataclass(frozen=True)
class Lonely:
    value: float


@dataclass(frozen=True)
class Either:
    value: Leaf | Lonely


def same(one: Any, other: Any) -> bool:
    """Equal with the same types throughout, floats bit by bit."""
    if type(one) is not type(other):
        return False
    if is_dataclass(one):
        return all(same(getattr(one, each.name), getattr(other, each.name)) for each in fields(one))
    if isinstance(one, tuple):
        return len(one) == len(other) and all(map(same, one, other))
    if isinstance(one, float):
        return struct.pack("d", one) == struct.pack("d", other)
    return bool(one == other)


def packed(measurement: Measurement) -> Measurement:
    """What comes back where rows are held packed."""
    held = PackedMeasurements([measurement] * (UNPACKED + 1))
    held[UNPACKED] = measurement
    found = held[UNPACKED]
    assert found is not measurement
    assert held[0] is measurement
    return found


@pytest.mark.parametrize("command", COMMANDS)
def test_what_a_command_found_out_comes_back_bit_by_bit(command: str, tmp_path: Path) -> None:
    words = [*COMMANDS[command], "--quiet", "-o", str(tmp_path / "r.csv")]
    done = CliRunner().invoke(app, words)
    assert done.exit_code == 0, done.output
    [folder] = tmp_path.glob("*.journal")
    _, records, _ = read_records(folder)
    for record in records.values():
        assert record.measurement.status is Status.OK
        assert same(packed(record.measurement), record.measurement)


@pytest.mark.parametrize("value", [-0.0, 5e-324, math.inf, -math.inf, math.nan, 1 / 3])
def test_every_float_comes_back(value: float) -> None:
    assert same(restored(Lonely, compact(Lonely(value))), Lonely(value))


def test_tuples_enumerations_and_what_may_be_missing() -> None:
    tree = Tree("a", (Leaf(0.1), Leaf(1.0, 3)), (2, 3.0), True, 5)
    assert compact(tree) == ("a", ((0.1, None, "red"), (1.0, 3, "red")), (2, 3.0), True, 5)
    assert same(restored(Tree, compact(tree)), tree)


def test_kinds_of_floats_become_pythons_own() -> None:
    row = Measurement(checkpoint="a", status=Status.OK, timings=(("load", np.float64(0.5)),), epoch=np.float64(1.5))
    back = packed(replace(row, trace=None, predictions=None))
    assert back == row
    assert type(back.epoch) is type(back.timings[0][1]) is float


@pytest.mark.parametrize(
    ("bad", "said"),
    [
        (Lonely([1.0]), "list has no compact form"),  # type: ignore[arg-type]
        (Either(Lonely(1.0)), "cannot be told"),
        (1.0, "no dataclass"),
        (Tree("a", (), (1, 2.0), True, np.int64(3)), "int64 has no compact form"),  # type: ignore[arg-type]
    ],
)
def test_what_could_not_come_back_is_refused(bad: Any, said: str) -> None:
    with pytest.raises(TypeError, match=said):
        compact(bad)


def test_rows_are_small(record_property: Callable[[str, object], None]) -> None:
    """One estimate takes little more than its three numbers."""
    import marshal

    size = len(marshal.dumps(compact(Estimate(1.0, 2.0, 3.0))))
    record_property("bytes", size)
    assert size <= 3 * 9 + 8
