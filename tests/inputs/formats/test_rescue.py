"""What torch refuses is rescued without being run; only a file that the user trusts is run."""

import argparse
import collections
import datetime
import decimal
import enum
import functools
import io
import types
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

import numpy as np
import pytest
import torch
import torchvision
from torch import nn

from fisher_cli.errors import CheckpointError, UnsafeCheckpointError
from fisher_cli.inputs.formats.containers import decode
from tests.attacks.code import Canary
from tests.saving import as_bytes, every_way, read, same

NAME = Path("a.pt")


# Rescue


class Colour(enum.Enum):
    RED = "red"
    DEEP = 7


class Attributes(dict[str, object]):
    """As Lightning's AttributeDict."""


class Names(list[str]):
    pass


@dataclass
class Configuration:
    rate: float = 0.1


class Payloads:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return functools.partial, ("x",)


RESCUED: dict[str, tuple[Callable[[], object], object]] = {
    "namespace": (
        lambda: argparse.Namespace(lr=0.1, model="resnet18", steps=[1, 2]),
        {"lr": 0.1, "model": "resnet18", "steps": [1, 2]},
    ),
    "nested namespaces": (lambda: argparse.Namespace(data=types.SimpleNamespace(size=3)), {"data": {"size": 3}}),
    "numpy float": (lambda: np.float32(0.5), 0.5),
    "numpy double": (lambda: np.float64(0.1), 0.1),
    "numpy integer": (lambda: np.int64(-7), -7),
    "numpy truth": (lambda: np.bool_(True), True),
    "path": (lambda: PurePosixPath("/a/b.pt"), "/a/b.pt"),
    "Windows path": (lambda: PureWindowsPath("C:/a/b.pt"), "C:\\a\\b.pt"),
    "enumeration": (lambda: Colour.RED, "red"),
    "enumeration of numbers": (lambda: Colour.DEEP, "Colour(7)"),
    "defaultdict": (lambda: collections.defaultdict(list, a=[1]), {"a": [1]}),
    "frozenset": (lambda: frozenset([1]), None),
    "dict subclass": (lambda: Attributes(a=1, b=Attributes(c=2)), {"a": 1, "b": {"c": 2}}),
    "list subclass": (lambda: Names(["a", "b"]), ["a", "b"]),
    "deque": (lambda: collections.deque([1, 2]), [1, 2]),
    "enumeration as key": (lambda: {Colour.RED: 1}, {"red": 1}),
    "in a tuple": (lambda: (1, (np.float32(2.0),)), (1, (2.0,))),
}


@every_way
@pytest.mark.parametrize("what", RESCUED)
def test_containers_of_plain_values_give_their_values(what: str, way: dict[str, Any]) -> None:
    make, expected = RESCUED[what]
    payload = read({"w": torch.ones(2), "value": make()}, **way)
    assert isinstance(payload.content, dict)
    value = payload.content["value"]
    if what == "frozenset":
        assert list(value) == [1]
    else:
        assert value == expected
        assert type(value) is type(expected)
    assert torch.equal(payload.content["w"], torch.ones(2))


@every_way
@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("kind", ["<f4", ">f8", "<i8", "|u1", "|b1", "<c8"])
def test_numpy_arrays_give_their_values(way: dict[str, Any], order: Any, kind: str) -> None:
    array = np.asarray(np.arange(6).reshape(2, 3), dtype=kind, order=order)
    content = read({"array": array, "objects": np.array([1, None], dtype=object)}, **way).content
    assert isinstance(content, dict)
    assert np.array_equal(content["array"], array)
    assert not isinstance(content["objects"], np.ndarray | list | torch.Tensor)


INERT: dict[str, Callable[[], object]] = {
    "dataclass": Configuration,
    "date": lambda: datetime.datetime(2020, 1, 2),
    "number of another kind": lambda: decimal.Decimal(7),
    "identifier": lambda: uuid.UUID(int=7),
    "slice": lambda: slice(1, 2),
    "range": lambda: range(7),
    "partial function": lambda: functools.partial(int, base=2),
    "class": lambda: Configuration,
    "loss": lambda: nn.functional.relu,
    "generator": lambda: np.random.default_rng(0),
    "hand-made call": Payloads,
}


@every_way
@pytest.mark.parametrize("what", INERT)
def test_everything_else_is_an_inert_object_that_looks_like_no_value(what: str, way: dict[str, Any]) -> None:
    payload = read({"w": torch.ones(2), "value": INERT[what]()}, **way)
    assert isinstance(payload.content, dict)
    value = payload.content["value"]
    assert payload.ignored_types
    assert not isinstance(value, torch.Tensor | int | float | complex | dict | list | np.ndarray)
    with pytest.raises((TypeError, ValueError)):
        float(value)
    assert torch.equal(payload.content["w"], torch.ones(2))


@functools.cache
def _network() -> nn.Module:
    model = torchvision.models.shufflenet_v2_x0_5(num_classes=3)
    model.register_buffer("aside", torch.ones(2), persistent=False)
    return model


@every_way
@pytest.mark.parametrize("wrap", ["bare", "in a dict", "in parallel"])
def test_a_whole_pickled_network_gives_its_state_dict(way: dict[str, Any], wrap: str) -> None:
    model: nn.Module = _network()
    model = nn.DataParallel(model) if wrap == "in parallel" else model
    payload = read({"model": model, "epoch": 3} if wrap == "in a dict" else model, **way)
    weights = payload.content["model"] if wrap == "in a dict" else payload.content  # type: ignore[index]
    assert same(weights, dict(model.state_dict()))
    assert "torchvision.models.shufflenetv2.ShuffleNetV2" in payload.ignored_types


def test_tied_weights_of_a_pickled_network_stand_under_each_of_their_names() -> None:
    model = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
    model[1].weight = model[0].weight
    model.append(model[0])
    weights = read(model).content
    assert isinstance(weights, dict)
    assert list(weights) == list(model.state_dict())
    assert weights["0.weight"].data_ptr() == weights["1.weight"].data_ptr() == weights["2.weight"].data_ptr()


def test_ignored_types_are_those_that_torch_would_not_load(tmp_path: Path) -> None:
    content = {
        "args": argparse.Namespace(a=np.float32(1)),
        "model": nn.Sequential(nn.Linear(1, 1), nn.ReLU()),
        "date": datetime.date(2020, 1, 1),
    }
    path = tmp_path / "a.pt"
    torch.save(content, path)
    expected = set(torch.serialization.get_unsafe_globals_in_checkpoint(path))
    assert set(decode(path.read_bytes(), path).ignored_types) == expected
    assert len(expected) > 6


def test_what_the_process_allows_torch_to_load_does_not_matter_and_does_not_change() -> None:
    before = torch.serialization.get_safe_globals()
    torch.serialization.add_safe_globals([Configuration])
    try:
        allowed = torch.serialization.get_safe_globals()
        value = read({"value": Configuration()}).content["value"]  # type: ignore[index]
        assert not isinstance(value, Configuration)
        assert torch.serialization.get_safe_globals() == allowed
    finally:
        torch.serialization.clear_safe_globals()
        torch.serialization.add_safe_globals(before)


# Trust


@every_way
def test_only_a_trusted_file_is_run(tmp_path: Path, way: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    canary = tmp_path / "canary"
    data = as_bytes({"w": torch.ones(2), "hook": Canary(canary)}, **way)
    for variable in ("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "TORCH_FORCE_WEIGHTS_ONLY_LOAD"):
        for value in ("1", "0"):
            monkeypatch.setenv(variable, value)
            with pytest.raises(UnsafeCheckpointError, match=r"asks to run posix.mkdir.*--trust-pickle"):
                decode(data, NAME)
            assert not canary.exists()
        monkeypatch.delenv(variable)
    payload = decode(data, NAME, trust_pickle=True)
    assert canary.is_dir()
    assert payload.ignored_types == ()


def test_a_trusted_file_gives_plain_values_too() -> None:
    content = {
        "model": nn.Linear(2, 2),
        "args": argparse.Namespace(a=np.float32(1)),
        "at": PurePosixPath("x"),
        "c": Colour.RED,
    }
    payload = decode(as_bytes(content), NAME, trust_pickle=True)
    assert isinstance(payload.content, dict)
    assert list(payload.content["model"]) == ["weight", "bias"]
    assert payload.content["args"] == {"a": 1.0}
    assert (payload.content["at"], payload.content["c"]) == ("x", "red")
    assert payload.ignored_types == ()


def test_trust_changes_nothing_for_files_that_need_none(monkeypatch: pytest.MonkeyPatch) -> None:
    def never(*_: object, **__: object) -> object:
        raise AssertionError

    monkeypatch.setattr(torch, "load", never)
    assert same(decode(as_bytes({"w": torch.ones(2)}), NAME, trust_pickle=True).content, {"w": torch.ones(2)})


def test_a_trusted_file_whose_classes_are_missing_is_still_rescued() -> None:
    data = as_bytes({"w": torch.ones(2), "value": Configuration()}).replace(b"Configuration", b"Konfiguration")
    buffer = io.BytesIO()
    torch.serialization.set_crc32_options(False)
    try:
        torch.save({"w": torch.ones(2), "value": Configuration()}, buffer)
    finally:
        torch.serialization.set_crc32_options(True)
    data = buffer.getvalue().replace(b"Configuration", b"Konfiguration")
    payload = decode(data, NAME, trust_pickle=True)
    assert payload.ignored_types == (f"{__name__}.Konfiguration",)
    assert same(payload.content["w"], torch.ones(2))  # type: ignore[index]


def test_trust_does_not_open_damaged_files() -> None:
    data = as_bytes({"w": torch.ones(2), "value": Configuration()})
    with pytest.raises(CheckpointError, match="truncated or damaged"):
        decode(data[:-30], NAME, trust_pickle=True)
