"""Damaged, mutated and moving files: one class of error, never other weights, never a crash."""

import hashlib
import io
import json
import os
import random
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from fisher_cli.errors import CheckpointError
from fisher_cli.inputs.checkpoints.checkpoints import find_checkpoints, load_checkpoint
from fisher_cli.inputs.formats import containers, files
from fisher_cli.inputs.formats.archives import open_archive
from fisher_cli.inputs.formats.containers import decode
from fisher_cli.text import digest
from tests.attacks.archives import archive_attacks
from tests.attacks.mutation import flipped, mutated, originals
from tests.long_lists import some

ROOT = Path(__file__).parents[3]
NAME = Path("a.pt")
WEIGHTS = {"w": torch.arange(48.0).reshape(6, 8), "b": torch.linspace(0, 1, 8)}


def saved(weights: object) -> bytes:
    buffer = io.BytesIO()
    torch.save({"state_dict": weights, "epoch": 3}, buffer)
    return buffer.getvalue()


@pytest.mark.parametrize("kind", ["zip", "zip of protocol 4", "legacy", "safetensors"])
def test_every_truncation_is_refused(kind: str, record_property: Any) -> None:
    whole = originals()[kind]
    lengths = [*range(0, len(whole), 37), *range(len(whole) - 40, len(whole))]
    for length in lengths:
        with pytest.raises(CheckpointError, match=r"a\.pt: [^\n]*;"):
            decode(whole[:length], NAME)
    record_property("truncations refused", f"{len(lengths)}/{len(lengths)}")
    assert decode(whole, NAME).content


def outcome(read: Callable[[], Any]) -> str:
    """Whether what was read is the same, silently different, or was refused."""
    try:
        weights = read()["state_dict"]
        same = list(weights) == list(WEIGHTS) and all(torch.equal(weights[key], WEIGHTS[key]) for key in WEIGHTS)
    except Exception as error:
        return "refused" if isinstance(error, CheckpointError) else type(error).__name__
    return "same" if same else "different"


@pytest.mark.parametrize("seed", some(range(10)))
def test_no_flipped_bit_in_an_archive_changes_a_weight_unseen(seed: int, record_property: Any) -> None:
    whole, draw = saved(WEIGHTS), random.Random(seed)
    ours: dict[str, int] = {}
    silent_in_torch = count = 0
    for _ in range(2000):
        data = flipped(whole, draw)
        found = outcome(lambda: decode(data, NAME).content)  # noqa: B023
        ours[found] = ours.get(found, 0) + 1
        theirs = outcome(lambda: torch.load(io.BytesIO(data), weights_only=True))  # noqa: B023
        silent_in_torch += theirs == "different"
        count += 1
    record_property("ours", ours)
    record_property("silently different in torch.load", f"{silent_in_torch}/{count}")
    assert set(ours) <= {"refused", "same"}, ours
    assert ours["refused"] > count / 2
    assert silent_in_torch > 100, "the flips must include many that torch alone does not see"


def test_most_flips_in_weights_are_silent_for_torch_and_none_for_us() -> None:
    """The control: files that are mostly weights, as real ones are."""
    weights = {"w": torch.arange(4096.0).reshape(64, 64)}
    whole, draw = saved(weights), random.Random(0)
    silent = seen = 0
    for _ in range(200):
        data = flipped(whole, draw)
        try:
            found = torch.load(io.BytesIO(data), weights_only=True)["state_dict"]["w"]
            silent += not torch.equal(found, weights["w"])
        except Exception:
            seen += 1
        try:
            content: Any = decode(data, NAME).content
            assert torch.equal(content["state_dict"]["w"], weights["w"])
        except CheckpointError:
            pass
    assert silent > 100, f"silent {silent}/200"


@pytest.mark.parametrize("kind", ["legacy", "safetensors"])
def test_containers_without_checksums_say_so(kind: str) -> None:
    whole = originals()[kind]
    assert decode(whole, NAME).integrity == "no checksums"
    assert decode(originals()["zip"], NAME).integrity == "checksums hold"


@pytest.mark.ci
@pytest.mark.parametrize("count", [2000, pytest.param(20_000, marks=pytest.mark.long)])
def test_mutated_files_neither_crash_nor_hang_nor_raise_anything_else(count: int, record_property: Any) -> None:
    found = subprocess.run(
        [sys.executable, "-m", "tests.attacks.fuzz", str(count)], capture_output=True, text=True, cwd=ROOT
    )
    assert found.returncode == 0, found.stderr
    result = json.loads(found.stdout)
    record_property("mutated", result)
    assert result["signals"] == 0, result
    assert set(result["outcomes"]) <= {"refused", "read"}, result
    assert sum(result["outcomes"].values()) == count
    assert result["outcomes"]["read"] > count / 100, "some mutations are harmless, else they all miss"


# Differential


def torch_map(data: bytes) -> dict[str, tuple[int, int]] | None:
    """Torch's own idea of the members and their places, or None if it refuses."""
    try:
        reader = torch._C.PyTorchFileReader(io.BytesIO(data))
        found = {}
        for name in reader.get_all_records():
            start = reader.get_record_offset(name)
            found[name] = start, start + reader.get_record_size(name)
    except Exception:
        return None
    return found


def python_map(data: bytes) -> dict[str, tuple[int, int]] | None:
    """What Python's zipfile alone, without our rules, takes the members to be."""
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            found = {}
            for name in archive.namelist():
                with archive.open(name) as member:
                    start = member._orig_compress_start  # type: ignore[attr-defined]
                found[name.partition("/")[2]] = start, start + archive.getinfo(name).compress_size
    except Exception:
        return None
    return found


def test_the_map_of_an_accepted_archive_is_torchs_own(record_property: Any) -> None:
    draw = random.Random(3)
    valid = [saved({f"w{i}": torch.randn(draw.randrange(5), 3) for i in range(draw.randrange(6))}) for _ in range(250)]
    whole = [originals()["zip"], originals()["zip of protocol 4"]]
    damaged = [mutated(draw.choice(whole), draw) for _ in range(1500)] + [data for _, data in archive_attacks()]
    accepted = python_differs = 0
    for data in valid + damaged:
        theirs = torch_map(data)
        python_differs += None not in (theirs, python_map(data)) and theirs != python_map(data)
        try:
            ours = open_archive(data).members
        except CheckpointError:
            continue
        accepted += 1
        assert ours == theirs
    record_property("accepted", f"{accepted}/{len(valid + damaged)}")
    assert accepted >= len(valid)
    assert python_differs > 0, "there must be archives that the two understand differently"


# Files in motion

STAGES: dict[str, tuple[Any, str]] = {
    "before it is opened": (files.os, "open"),
    "after it was opened": (files.os, "fstat"),
    "while it is hashed": (hashlib, "sha256"),
    "while it is loaded": (containers, "content_of"),
}


def replaced(path: Path, data: bytes) -> None:
    other = path.with_suffix(".new")
    other.write_bytes(data)
    os.replace(other, path)


def truncated(path: Path, data: bytes) -> None:
    os.truncate(path, len(data) // 3)


def overwritten(path: Path, data: bytes) -> None:
    with open(path, "r+b") as file:
        file.write(data)


@pytest.mark.parametrize("change", [replaced, truncated, overwritten])
@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize("when", ["found", "loaded"])
def test_the_recorded_hash_is_that_of_the_bytes_that_were_used(
    tmp_path: Path, stage: str, change: Any, when: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    module, name = STAGES[stage]
    real = getattr(module, name)
    for attempt in range(5):
        versions = {}
        for value in (attempt, -attempt - 1):
            data = saved({"w": torch.full((50 + attempt, 20), float(value))})
            versions[digest(data)] = float(value), data
        (_, before), (_, after) = versions.values()
        path = tmp_path / f"{attempt}.pt"
        path.write_bytes(before)
        pending = [True]

        def once(*arguments: Any, **options: Any) -> Any:
            is_ours = name != "open" or str(arguments[0]) == str(path)  # noqa: B023
            if is_ours and pending:  # noqa: B023
                pending.clear()  # noqa: B023
                change(path, after)  # noqa: B023
            return real(*arguments, **options)

        def tamper() -> None:
            monkeypatch.setattr(module, name, once)

        if when == "found":
            tamper()
        [file] = find_checkpoints([path])
        tamper()
        try:
            checkpoint = load_checkpoint(file)
            value, _ = versions[checkpoint.sha256]
            assert set(checkpoint.weights["w"].flatten().tolist()) == {value}
        except CheckpointError as error:
            assert path.name in str(error)  # noqa: PT017
        monkeypatch.undo()
        assert not pending


def test_a_file_cut_after_it_was_read_kills_nobody(tmp_path: Path) -> None:
    """Memory maps of a file that shrinks end the process; there are none."""
    path = tmp_path / "a.pt"
    path.write_bytes(saved({"w": torch.ones(500, 500)}))
    checkpoint = load_checkpoint(find_checkpoints([path])[0])
    os.truncate(path, 0)
    assert checkpoint.weights["w"].sum() == 250_000
    assert containers.decode is decode
