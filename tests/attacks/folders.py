"""Folders whose index or metadata ask for more than their files hold (A22): of shards, and of torch.distributed."""

import json
import pickle  # noqa: TID251  only to write what must be refused
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch

from tests.attacks.assembly import pickled
from tests.attacks.work import SHARED, deep


def write_folders(folder: Path) -> list[Path]:
    """Write every folder and return their paths."""
    return [*_sharded(folder), *_distributed(folder)]


def _sharded(folder: Path) -> Iterator[Path]:
    from safetensors.torch import save

    def shard(number: int, count: int) -> str:
        return f"model-{number:05}-of-{count:05}.safetensors"

    few = {"w": shard(1, 2), "b": shard(2, 2)}
    for what, index in {
        "no files": json.dumps({"weight_map": {f"w{i}": shard(i, 8000) for i in range(8000)}}),
        "three million lists": '{"weight_map":[' + "[]," * 3_000_000 + "[]]}",
        "nested lists": '{"weight_map":' + "[" * 200_000,
        "a number of a megabyte": '{"weight_map":' + "9" * 1_000_000 + "}",
        "files that are numbers": json.dumps({"weight_map": {f"w{i}": i for i in range(200_000)}}),
        "200,000 names in one file": json.dumps({"weight_map": {f"w{i}": shard(1, 2) for i in range(200_000)}}),
        "one name too many": json.dumps({"weight_map": few | {"more": shard(2, 2)}}),
        "files of a long name": json.dumps({"weight_map": {"w": "x" * 100_000}}),
    }.items():
        path = folder / f"index of {what}"
        path.mkdir()
        (path / "model.safetensors.index.json").write_text(index)
        (path / shard(1, 2)).write_bytes(save({"w": torch.ones(2)}))
        (path / shard(2, 2)).write_bytes(save({"b": torch.ones(2)}))
        yield path
    path = folder / "3,000 shards and a name too many"
    path.mkdir()
    places = {f"w{i}": shard(i, 3000) for i in range(3000)}
    for name, place in places.items():
        (path / place).write_bytes(save({name: torch.ones(2)}))
    (path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": places | {"x": shard(2999, 3000)}}))
    yield path


def _distributed(folder: Path) -> Iterator[Path]:
    for what, damage in _DAMAGE.items():
        path = folder / f"distributed, {what}"
        _write(path)
        metadata = path / ".metadata"
        changed = damage(path, pickle.loads(metadata.read_bytes()))
        metadata.write_bytes(changed if isinstance(changed, bytes) else pickle.dumps(changed))
        yield path


def _write(path: Path) -> None:
    from torch.distributed import checkpoint

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the writer says that it writes alone
        checkpoint.save(
            {"model": {"weight": torch.ones(4, 4), "bias": torch.ones(4)}}, checkpoint_id=path, no_dist=True
        )


def _sized(*size: int, length: int) -> Callable[[Path, Any], Any]:
    def damage(_: Path, metadata: Any) -> Any:
        entry = metadata.state_dict_metadata["model.weight"]
        entry.size = entry.chunks[0].sizes = torch.Size(size)
        entry.chunks[0].offsets = torch.Size([0] * len(size))
        for index, place in list(metadata.storage_data.items()):
            place.length = length
            if index.fqn == "model.weight":
                object.__setattr__(index, "offset", torch.Size([0] * len(size)))
        return metadata

    return damage


def _renamed(_: Path, metadata: Any) -> Any:
    entry = metadata.state_dict_metadata["model.weight"]
    metadata.state_dict_metadata |= {f"model.w{i}": entry for i in range(500)}
    place = next(place for index, place in metadata.storage_data.items() if index.fqn == "model.weight")
    for index in list(metadata.storage_data):
        if index.fqn == "model.weight":
            more = [pickle.loads(pickle.dumps(index)) for _ in range(500)]
            for i, each in enumerate(more):
                object.__setattr__(each, "fqn", f"model.w{i}")
            metadata.storage_data |= dict.fromkeys(more, place)
    metadata.planner_data |= {f"model.w{i}": ("model", f"w{i}") for i in range(500)}
    return metadata


def _cut(path: Path, metadata: Any) -> Any:
    for file in path.glob("*.distcp"):
        file.write_bytes(file.read_bytes()[:-100])
    return metadata


def _without_files(path: Path, metadata: Any) -> Any:
    for file in path.glob("*.distcp"):
        file.unlink()
    return metadata


def _piped(path: Path, metadata: Any) -> Any:
    import os

    for file in path.glob("*.distcp"):
        file.unlink()
        os.mkfifo(file)
    return metadata


def _long_path(_: Path, metadata: Any) -> Any:
    metadata.planner_data = {key: ("model",) * 5000 for key in metadata.state_dict_metadata}
    return metadata


_DAMAGE: dict[str, Callable[[Path, Any], Any]] = {
    "a tensor of 16 TiB": _sized(1 << 40, 4, length=1 << 44),
    "a tensor of 2¹²² elements": _sized(1 << 61, 1 << 61, length=1 << 61),
    "a tensor of 4 EiB": _sized(1 << 60, length=1 << 61),
    "a tensor of four dimensions": _sized(1 << 15, 1 << 15, 1 << 15, 1 << 15, length=1 << 62),
    "another shape": _sized(2, 8, length=64),
    "500 tensors in one place": _renamed,
    "files that are cut": _cut,
    "no files": _without_files,
    "pipes for files": _piped,
    "a path of 5,000 keys": _long_path,
    "2⁶⁰ leaves": lambda *_: pickled(SHARED),
    "a key of 2⁶⁰ leaves": lambda *_: pickled(b"}" + SHARED + b"Ns"),
    "900,000 nested tuples": lambda *_: pickled(deep(900_000)),
    "a key of 900,000 nested tuples": lambda *_: pickled(b"}" + deep(900_000) + b"Ns"),
    "six million lists": lambda *_: pickled(b"](" + b"]" * 6_000_000 + b"e"),
    "text that is none": lambda *_: pickled(b"X\x02\x00\x00\x00\xff\xfe"),
    "nothing": lambda *_: b"",
    "a half": lambda _, metadata: pickle.dumps(metadata)[:200],
}
