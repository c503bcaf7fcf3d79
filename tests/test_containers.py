"""Container → content: all that torch reads is read the same, and what it refuses is rescued without being run."""

import argparse
import collections
import datetime
import decimal
import enum
import functools
import io
import sys
import types
import uuid
import zipfile
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
from fisher_cli.inputs.containers import Payload, decode

NAME = Path("a.pt")
# How files are written: today's archive and the stream of before 1.6, in the default protocol and those of Python 3.
WAYS: list[dict[str, Any]] = [
    {"pickle_protocol": protocol, "_use_new_zipfile_serialization": is_zip}
    for protocol in (2, 3, 4, 5)
    for is_zip in (True, False)
]
every_way = pytest.mark.parametrize("way", WAYS, ids=lambda way: "-".join(str(value) for value in way.values()))


def as_bytes(content: object, **options: Any) -> bytes:
    buffer = io.BytesIO()
    torch.save(content, buffer, **options)
    return buffer.getvalue()


def read(content: object, **options: Any) -> Payload:
    return decode(as_bytes(content, **options), NAME)


def same(ours: object, theirs: object) -> bool:
    """Whether two contents are equal, tensors bit by bit and in shape, strides, type and layout."""
    if isinstance(theirs, torch.Tensor):
        assert isinstance(ours, torch.Tensor)
        if theirs.layout is not torch.strided:
            return ours.layout == theirs.layout and torch.equal(ours.to_dense(), theirs.to_dense())
        kinds = (ours.dtype, ours.shape, ours.stride(), ours.device) == (
            *(theirs.dtype, theirs.shape, theirs.stride(), theirs.device),
        )
        raw = [t.detach().contiguous().reshape(-1).view(torch.uint8) for t in (ours, theirs) if not t.is_meta]
        return kinds and (not raw or torch.equal(*raw))
    if isinstance(theirs, dict):
        assert isinstance(ours, dict)
        return list(ours) == list(theirs) and all(same(ours[key], theirs[key]) for key in theirs)
    if isinstance(theirs, list | tuple):
        assert isinstance(ours, type(theirs))
        return len(ours) == len(theirs) and all(same(a, b) for a, b in zip(ours, theirs, strict=True))
    return ours == theirs


def shared() -> dict[str, torch.Tensor]:
    base = torch.arange(24.0)
    return {"base": base, "part": base[4:10], "square": base[:16].reshape(4, 4), "across": base[:16].reshape(4, 4).T}


def trained() -> dict[str, object]:
    model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 2))
    optimizer = torch.optim.AdamW(model.parameters())
    model(torch.randn(5, 3)).sum().backward()
    optimizer.step()
    schedule = torch.optim.lr_scheduler.MultiStepLR(optimizer, [3, 5])
    averaged = torch.optim.swa_utils.AveragedModel(model)
    return {
        "model": model.state_dict(),
        "optimizer": optimizer.state_dict(),
        "lr_scheduler": schedule.state_dict(),
        "model_ema": averaged.state_dict(),
        "epoch": 3,
        "rng": torch.get_rng_state(),
    }


def attributed() -> torch.Tensor:
    tensor = torch.ones(2)
    tensor.note = "kept aside"  # type: ignore[attr-defined]
    return tensor


GENUINE: dict[str, Callable[[], object]] = {
    "state dict": lambda: nn.Conv2d(2, 3, 3).state_dict(),
    "torchvision": lambda: torchvision.models.squeezenet1_1(num_classes=3).state_dict(),
    "training": trained,
    "data parallel": lambda: nn.DataParallel(nn.Linear(2, 2)).state_dict(),
    "compiled": lambda: {f"_orig_mod.{key}": value for key, value in nn.Linear(2, 2).state_dict().items()},
    "views and tied weights": shared,
    "parameters": lambda: {"w": nn.Parameter(torch.ones(2)), "b": nn.Parameter(torch.ones(2), requires_grad=False)},
    "numbers": lambda: {"a": 0, "b": -1, "c": 255, "d": 65536, "e": 2**40, "f": -(2**90), "g": 0.1, "h": 1e400},
    "plain values": lambda: [
        None,
        True,
        False,
        "text",
        "é\ud800",
        b"\xff\0",
        bytearray(b"ab"),
        (1,),
        (),
        {1, 2},
        1 + 2j,
    ],
    "scalars and empty": lambda: {"n": torch.tensor(7), "e": torch.zeros(0), "f": torch.zeros(3, 0, 2)},
    "one element": lambda: {"a": torch.zeros(1).expand(1, 1), "b": torch.ones(4)[None, :, None].expand(1, 4, 1)},
    "types": lambda: {str(t): torch.ones(3).to(t) for t in (torch.float16, torch.bfloat16, torch.float64, torch.int8)},
    "more types": lambda: {
        str(t): torch.ones(4).to(t) for t in (torch.bool, torch.uint8, torch.int64, torch.complex64)
    },
    "new types": lambda: {str(t): torch.ones(4).to(t) for t in (torch.float8_e4m3fn, torch.uint16, torch.uint64)},
    "channels last": lambda: torch.randn(2, 3, 4, 4).to(memory_format=torch.channels_last),
    "sparse": lambda: {"coo": torch.eye(3).to_sparse(), "csr": torch.eye(3).to_sparse_csr()},
    "sparse in an optimizer": lambda: {"state": {0: {"exp_avg": torch.eye(4).to_sparse()}}, "param_groups": [{}]},
    "without data": lambda: {"m": torch.zeros(2, 3, device="meta")},
    "words of torch": lambda: [torch.float16, torch.Size([1, 2]), torch.device("cuda:1"), torch.device("cpu")],
    "counter": lambda: collections.Counter("hello"),
    "attributes": lambda: {"w": attributed()},
    "deep": lambda: {"a": {"b": {"c": [[[[{"d": torch.ones(1)}]]]]}}},
    "history": lambda: {"losses": [index / 7 for index in range(20_000)], "steps": list(range(20_000))},
    "shared values": lambda: (lambda groups: {"a": groups, "b": [groups, groups]})([{"betas": (0.9, 0.99)}]),
    "names that are odd": lambda: {"": torch.ones(1), "a b": torch.ones(1), "ünï": torch.ones(1), 7: 1, None: 2},
}


@every_way
@pytest.mark.parametrize("what", GENUINE)
@pytest.mark.filterwarnings("ignore")  # torch's remarks on sparse layouts and pickle protocols
def test_what_torch_reads_is_read_the_same(what: str, way: dict[str, Any]) -> None:
    data = as_bytes(GENUINE[what](), **way)
    payload = decode(data, NAME)
    is_zip = way["_use_new_zipfile_serialization"]
    assert payload.format == ("torch zip" if is_zip else "torch legacy")
    assert payload.integrity == ("checksums hold" if is_zip else "no checksums")
    assert payload.ignored_types == ()
    # Torch's restricted loader knows protocol 2 alone; these files are our own.
    is_readable = is_zip or what != "new types"  # torch cannot read these in its own old format
    theirs = torch.load(io.BytesIO(data), weights_only=way["pickle_protocol"] == 2) if is_readable else GENUINE[what]()
    assert same(payload.content, theirs)


def test_views_share_their_memory_as_they_did() -> None:
    for way in WAYS:
        content = read(shared(), **way).content
        assert isinstance(content, dict)
        assert {tensor.untyped_storage().data_ptr() for tensor in content.values()} == {content["base"].data_ptr()}
        content["base"][4] = -1.0
        assert content["part"][0] == content["across"][0, 1] == -1.0


def test_a_file_of_the_other_byte_order_is_read_the_same() -> None:
    content = {"w": torch.arange(3.0), "n": torch.arange(2), "z": torch.tensor([1 + 2j])}
    with zipfile.ZipFile(io.BytesIO(as_bytes(content))) as source:
        members = {name: source.read(name) for name in source.namelist()}
    order = "big" if sys.byteorder == "little" else "little"
    for index, kind in enumerate(("f4", "i8", "c8")):
        members[f"archive/data/{index}"] = np.frombuffer(members[f"archive/data/{index}"], kind).byteswap().tobytes()
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as written:
        for name, data in members.items():
            written.writestr(name, order if name.endswith("byteorder") else data)
    assert same(decode(buffer.getvalue(), NAME).content, content)


def test_files_without_checksums_are_read_and_say_so() -> None:
    torch.serialization.set_crc32_options(False)
    try:
        data = as_bytes({"w": torch.arange(3.0)})
    finally:
        torch.serialization.set_crc32_options(True)
    payload = decode(data, NAME)
    assert payload.integrity == "no checksums"
    assert same(payload.content, {"w": torch.arange(3.0)})


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


@every_way
@pytest.mark.parametrize("wrap", ["bare", "in a dict", "in parallel"])
def test_a_whole_pickled_network_gives_its_state_dict(way: dict[str, Any], wrap: str) -> None:
    model: nn.Module = torchvision.models.shufflenet_v2_x0_5(num_classes=3)
    model.register_buffer("aside", torch.ones(2), persistent=False)
    model.fc.weight = nn.Parameter(torch.ones(3, 1024))
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


class Runs:
    """When unpickled by an unsafe reader this makes a folder."""

    def __init__(self, place: Path) -> None:
        self.place = place

    def __reduce__(self) -> tuple[object, tuple[str]]:
        import os

        return os.mkdir, (str(self.place),)


@every_way
def test_only_a_trusted_file_is_run(tmp_path: Path, way: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    canary = tmp_path / "canary"
    data = as_bytes({"w": torch.ones(2), "hook": Runs(canary)}, **way)
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
