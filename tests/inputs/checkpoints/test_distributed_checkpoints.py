"""Folders of torch.distributed.checkpoint: wanted tensors are read, every piece checked, and nothing is ever run."""

import hashlib
import os
import pickle  # noqa: TID251  only to write what must be refused
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed.checkpoint as distributed_checkpoint
from torch.distributed.checkpoint import FileSystemReader
from torch.distributed.checkpoint.metadata import ChunkStorageMetadata, Metadata, MetadataIndex

from fisher_cli.errors import CheckpointError, NoWeightsError, UnsafeCheckpointError
from fisher_cli.inputs.checkpoints.checkpoints import find_checkpoints, load_checkpoint
from fisher_cli.inputs.checkpoints.distributed_checkpoints import read_metadata
from tests.attacks.code import Canary
from tests.checkpoint_files import WEIGHTS, load, refusal
from tests.waiting import PATIENCE

TWO_RANKS = """
import sys, torch, torch.distributed as dist, torch.distributed.checkpoint as dcp
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import Shard, Replicate, distribute_tensor
rank, folder = int(sys.argv[1]), sys.argv[2]
dist.init_process_group("gloo", init_method=f"file://{sys.argv[3]}", rank=rank, world_size=2)
mesh = init_device_mesh("cpu", (2,))
make = lambda *shape: torch.arange(float(torch.Size(shape).numel())).reshape(shape)
dcp.save({"model": {
    "rows": distribute_tensor(make(5, 3), mesh, [Shard(0)]),
    "columns": distribute_tensor(make(3, 4), mesh, [Shard(1)]),
    "whole": distribute_tensor(make(7), mesh, [Replicate()]),
    "number": torch.tensor(3.0),
    "empty": torch.zeros(0, 4),
}, "epoch": rank}, checkpoint_id=folder)
dist.destroy_process_group()
"""


@pytest.fixture(autouse=True)
def quiet(recwarn: pytest.WarningsRecorder) -> None:
    """The writer warns that it writes alone."""


def written(folder: Path, state: dict[str, Any] | None = None) -> Path:
    optimizer = {"state": {0: {"exp_avg": torch.zeros(9)}}, "param_groups": [{"lr": 0.1}]}
    content = {"model": dict(WEIGHTS), "optim": optimizer, "epoch": 3} if state is None else state
    distributed_checkpoint.save(content, checkpoint_id=folder, no_dist=True)
    return folder


def metadata_of(folder: Path) -> Metadata:
    return FileSystemReader(folder).read_metadata()


def rewritten(folder: Path, metadata: object, protocol: int = 4) -> Path:
    (folder / ".metadata").write_bytes(pickle.dumps(metadata, protocol))
    return folder


def test_tensors_of_one_rank_come_back_and_what_is_no_tensor_is_not_read(tmp_path: Path) -> None:
    checkpoint = load(written(tmp_path / "step_5"))
    assert (checkpoint.format, checkpoint.state_key) == ("torch distributed", "model")
    assert (checkpoint.step, checkpoint.epoch) == (5, None)  # the epoch is a pickle
    assert checkpoint.ignored == ("optim",)
    assert all(torch.equal(checkpoint.weights[key], WEIGHTS[key]) for key in WEIGHTS)


@pytest.mark.long  # two processes that import torch
def test_pieces_that_two_ranks_wrote_are_joined(tmp_path: Path) -> None:
    script = [sys.executable, "-W", "ignore", "-c", TWO_RANKS]
    ranks = [subprocess.Popen([*script, str(rank), str(tmp_path / "a"), str(tmp_path / "meet")]) for rank in (0, 1)]
    assert [rank.wait(timeout=PATIENCE) for rank in ranks] == [0, 0]
    weights = load(tmp_path / "a").weights
    expected = {"rows": (5, 3), "columns": (3, 4), "whole": (7,), "empty": (0, 4)}
    assert weights.keys() == expected.keys() | {"number"}
    for name, shape in expected.items():
        assert torch.equal(weights[name], torch.arange(float(torch.Size(shape).numel())).reshape(shape)), name
    assert weights["number"].item() == 3.0


def test_pieces_in_two_files_are_joined(tmp_path: Path) -> None:
    """As two ranks write them: rows 0 and 1 to 3 of one tensor, each in its own file."""
    whole = torch.arange(12.0).reshape(4, 3)
    folder = written(tmp_path / "a", {"model": {"w": whole[:1].clone(), "b": torch.ones(2)}})
    other = written(tmp_path / "other", {"model": {"w": whole[1:].clone()}})
    metadata, places = metadata_of(folder), metadata_of(other).storage_data
    entry: Any = metadata.state_dict_metadata["model.w"]
    entry.size = torch.Size((4, 3))
    entry.chunks.append(ChunkStorageMetadata(torch.Size((1, 0)), torch.Size((3, 3))))
    place = next(iter(places.values()))
    os.replace(other / place.relative_path, folder / "__1_0.distcp")
    place.relative_path = "__1_0.distcp"
    metadata.storage_data[MetadataIndex("model.w", torch.Size((1, 0)))] = place
    assert torch.equal(load(rewritten(folder, metadata)).weights["w"], whole)


def test_the_hash_is_that_of_names_and_hashes_of_all_files(tmp_path: Path) -> None:
    folder = written(tmp_path / "a")
    lines = b"".join(
        f"{path.name}\0sha256:{hashlib.sha256(path.read_bytes()).hexdigest()}\n".encode()
        for path in sorted(folder.iterdir())
    )
    [file] = find_checkpoints([folder])
    assert file.sha256 == f"sha256:{hashlib.sha256(lines).hexdigest()}"
    with (folder / "__0_0.distcp").open("ab") as stored:
        stored.write(b"\0")  # belongs to no tensor, and the folder has changed all the same
    with pytest.raises(CheckpointError, match="changed since this run began"):
        load_checkpoint(file)


def test_an_explicit_key_and_averages_are_chosen_before_anything_is_read(tmp_path: Path) -> None:
    more = {key: value + 1 for key, value in WEIGHTS.items()}
    folder = written(tmp_path / "a", {"model": dict(WEIGHTS), "ema": more})
    for options in ({"state_key": "ema"}, {"use_ema": True}):
        assert torch.equal(load(folder, **options).weights["0.bias"], more["0.bias"])
    assert "holds no averaged weights" in refusal(written(tmp_path / "b"), NoWeightsError, use_ema=True)


def test_an_optimizer_is_never_decoded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = written(tmp_path / "a")
    sizes: list[int] = []
    import fisher_cli.inputs.checkpoints.distributed_checkpoints as module

    real = module.decoded
    monkeypatch.setattr(module, "decoded", lambda data, *rest: sizes.append(len(data)) or real(data, *rest))
    load(folder)
    assert len(sizes) == 2 * len(WEIGHTS)  # when it is found and when it is loaded; not exp_avg, not the epoch


# What must be refused


@pytest.mark.parametrize("protocol", [0, 2, 4, 5])
@pytest.mark.parametrize("where", ["whole", "planner_data", "key"])
def test_metadata_with_code_are_refused_and_nothing_runs(tmp_path: Path, protocol: int, where: str) -> None:
    folder, canary = written(tmp_path / "a"), tmp_path / "canary"
    metadata: Any = metadata_of(folder)
    if where == "whole":
        metadata = Canary(canary)
    elif where == "planner_data":
        metadata.planner_data = {"model.0.weight": Canary(canary)}
    else:
        metadata.storage_meta.modules = [Canary(canary)]
    message = refusal(rewritten(folder, metadata, protocol), UnsafeCheckpointError)
    assert protocol == 0 or "posix.mkdir" in message
    assert not canary.exists()
    with pytest.raises(FileNotFoundError):  # the control: the reader of torch runs it
        (tmp_path / "canary").rmdir()
    pickle.loads((folder / ".metadata").read_bytes())
    assert canary.exists()


def test_a_byte_item_with_code_is_never_opened(tmp_path: Path) -> None:
    canary = tmp_path / "canary"
    folder = written(tmp_path / "a", {"model": dict(WEIGHTS), "hook": Canary(canary)})
    if canary.exists():  # the writer may copy what it saves
        canary.rmdir()
    assert all(torch.equal(load(folder).weights[key], WEIGHTS[key]) for key in WEIGHTS)
    assert not canary.exists()


def change_place(folder: Path, **changes: object) -> Path:
    """The metadata with another place of the first weight's piece."""
    metadata = metadata_of(folder)
    for index, info in metadata.storage_data.items():
        if index.fqn == "model.0.weight":
            for name, value in changes.items():
                setattr(info, name, value)
    return rewritten(folder, metadata)


PLACES: list[tuple[dict[str, object], str]] = [
    ({"relative_path": "../outside"}, "no file of its own folder"),
    ({"relative_path": "/etc/passwd"}, "no file of its own folder"),
    ({"relative_path": "gone.distcp"}, "is not there"),
    ({"relative_path": 7}, "damaged"),
    ({"offset": 10**9}, "cut short"),
    ({"offset": -1}, "damaged"),
    ({"offset": 2**70}, "damaged"),
    ({"length": 10**12}, "cut short"),
    ({"length": 3}, "larger than what is stored"),
    ({"transform_descriptors": ["zstd"]}, "compressed"),
]


@pytest.mark.parametrize(("changes", "reason"), PLACES, ids=lambda value: str(value)[:30])
def test_a_place_that_cannot_be_is_refused(tmp_path: Path, changes: dict[str, object], reason: str) -> None:
    folder = written(tmp_path / "a")
    [file] = find_checkpoints([change_place(folder, **changes)])
    assert type(file.error) is CheckpointError
    assert reason in str(file.error)


@pytest.mark.parametrize(
    "chunks",
    [
        [],
        [((0, 0), (1, 3))],
        [((0, 0), (2, 3)), ((1, 0), (1, 3))],
        [((0, 0), (2, 4))],
        [((0, 0), (3, 2))],
        [((1, 0), (2, 3))],
        [((0, 0), (1, 1)), ((1, 1), (1, 2))],  # a diagonal of blocks: the other two are missing
        [((0,), (6,))],
    ],
)
def test_pieces_that_do_not_cover_their_tensor_once_are_refused(tmp_path: Path, chunks: list[Any]) -> None:
    folder = written(tmp_path / "a")
    metadata = metadata_of(folder)
    entry: Any = metadata.state_dict_metadata["model.0.weight"]
    info = next(info for index, info in metadata.storage_data.items() if index.fqn == "model.0.weight")
    entry.chunks = [ChunkStorageMetadata(torch.Size(offsets), torch.Size(sizes)) for offsets, sizes in chunks]
    for offsets, _ in chunks:
        metadata.storage_data[MetadataIndex("model.0.weight", torch.Size(offsets))] = info
    assert "damaged" in refusal(rewritten(folder, metadata))


def test_a_tensor_that_claims_another_shape_or_type_is_refused(tmp_path: Path) -> None:
    for field, value in (("size", torch.Size((3, 2))), ("dtype", torch.int32), ("size", torch.Size((10**6, 10**6)))):
        folder = written(tmp_path / f"{field}{value}".replace(" ", ""))
        metadata = metadata_of(folder)
        entry: Any = metadata.state_dict_metadata["model.0.weight"]
        if field == "dtype":
            entry.properties.dtype = value
        else:
            entry.size, entry.chunks = value, [ChunkStorageMetadata(torch.Size((0, 0)), value)]
        assert "describes" in (message := refusal(rewritten(folder, metadata))) or "larger than" in message


def test_missing_and_linked_metadata_are_refused(tmp_path: Path) -> None:
    folder = written(tmp_path / "a")
    outside = tmp_path / "outside"
    os.replace(folder / ".metadata", outside)
    assert "saving was cut short" in refusal(folder)
    (folder / ".metadata").symlink_to(outside)
    assert "leads out of the folder" in refusal(folder)
    (folder / ".metadata").unlink()
    os.mkfifo(folder / ".metadata")
    assert "no regular file" in refusal(folder)


def test_a_flipped_bit_in_a_piece_is_seen(tmp_path: Path) -> None:
    folder = written(tmp_path / "a")
    data = bytearray((folder / "__0_0.distcp").read_bytes())
    data[data.index(WEIGHTS["0.bias"].numpy().tobytes())] ^= 1
    (folder / "__0_0.distcp").write_bytes(data)
    assert "does not fit its checksum" in str(find_checkpoints([folder])[0].error)


def error_of(data: bytes) -> CheckpointError | None:
    try:
        read_metadata(data, "a")
    except CheckpointError as error:
        return error
    return None


def test_no_damage_to_metadata_gives_anything_but_one_line(tmp_path: Path) -> None:
    data = (written(tmp_path / "a") / ".metadata").read_bytes()
    whole = read_metadata(data, "a")
    draw = random.Random(2)
    refused = 0
    for turn in range(600):
        damaged = bytearray(data)
        for _ in range(draw.choice((1, 1, 3))):
            damaged[draw.randrange(len(data))] = draw.randrange(256)
        error = error_of(bytes(damaged) if turn % 4 else data[: draw.randrange(len(data))])
        refused += error is not None
        assert error is None or str(error).isprintable()
    assert refused > 300
    assert read_metadata(data, "a") == whole


@pytest.mark.parametrize(
    "data",
    [
        b"\x80\x04" + b")" + b"\x85" * 50_000 + b".",  # tuples within tuples
        b"\x80\x04}" + b")" + b"\x85" * 100_000 + b"Ns.",  # and as a key, whose hash would go as deep
        b"\x80\x04" + b"]" * 10 + b"r\xff\xff\xff\xff.",  # a place to keep values beyond all memory
        b"\x80\x04\x8e" + (2**60).to_bytes(8, "little") + b".",  # bytes beyond all memory
        b"\x80\x04\x97.",
        b"\x80\x04",
        b"",
    ],
)
def test_hostile_instructions_end_in_one_line(data: bytes) -> None:
    with pytest.raises(CheckpointError) as caught:
        read_metadata(data, "a")
    assert str(caught.value).isprintable()
