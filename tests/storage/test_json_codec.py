"""Results survive being recorded bit by bit, and what is damaged is never read as something else."""

import json
import math
from dataclasses import dataclass, fields
from enum import StrEnum
from typing import Any

import pytest

from fisher_cli import analyze
from fisher_cli.results import Measurement, SpectralAxis, Status
from fisher_cli.storage.json_codec import decode, encode


class Colour(StrEnum):
    RED = "red"


@dataclass(frozen=True)
class Leaf:
    value: float
    count: int | None = None
    colour: Colour = Colour.RED


@dataclass(frozen=True)
class Tree:
    name: str
    leaves: tuple[Leaf, ...]
    pair: tuple[int, float]
    flag: bool = False
    either: int | float | None = None


def through_json(value: Any) -> Any:
    return json.loads(json.dumps(encode(value)))


def test_values_come_back_with_their_types() -> None:
    tree = Tree("a", (Leaf(0.1), Leaf(1.0, 3)), (2, 3.0), True, 5)
    back = decode(Tree, through_json(tree))
    assert back == tree
    assert type(back.either) is int
    assert type(back.pair[1]) is float


@pytest.mark.parametrize("value", [0.0, -0.0, 5e-324, 1.7976931348623157e308, math.inf, -math.inf, 1 / 3])
def test_floats_come_back_bit_by_bit(value: float) -> None:
    back = decode(Leaf, through_json(Leaf(value))).value
    assert back.hex() == value.hex()


def test_not_a_number_comes_back() -> None:
    assert math.isnan(decode(Leaf, through_json(Leaf(math.nan))).value)


@pytest.mark.parametrize(
    "damaged",
    [
        {"value": "0.1"},
        {"value": True},
        {"value": 0.1, "count": 0.5},
        {"value": 0.1, "colour": "green"},
        {"value": 0.1, "size": 1},
        {"count": 1},
        [0.1],
        None,
    ],
)
def test_what_is_no_such_value_is_refused(damaged: Any) -> None:
    with pytest.raises(ValueError, match=r"is no|not a valid"):
        decode(Leaf, damaged)


def test_a_field_that_an_older_record_lacks_takes_its_default() -> None:
    assert decode(Leaf, {"value": 1.0}) == Leaf(1.0)


def test_what_is_no_result_is_not_recorded() -> None:
    with pytest.raises(TypeError, match="cannot be recorded"):
        encode({"a": 1})


def test_whole_measurements_come_back() -> None:
    analysis = analyze(
        ["sample_checkpoints/digits-clean/step_00000.pt", "sample_checkpoints/digits-clean/step_00066.pt"],
        limit=20,
        eigenvalues=2,
    )
    for measurement in analysis.measurements:
        assert measurement.status is Status.OK
        back = decode(Measurement, through_json(measurement))
        assert back == measurement
        for field in fields(Measurement):
            assert type(getattr(back, field.name)) is type(getattr(measurement, field.name)), field.name
    assert decode(Measurement, {"checkpoint": "a", "status": "failed"}).status is Status.FAILED
    assert decode(SpectralAxis, "linear") is SpectralAxis.LINEAR
