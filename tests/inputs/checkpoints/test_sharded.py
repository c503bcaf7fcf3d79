"""Folders of Hugging Face's libraries and DeepSpeed: read whole or refused in one line; nothing outside is opened."""

import hashlib
import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest
import safetensors.torch
import torch

from fisher_cli.errors import CheckpointError, NoWeightsError
from fisher_cli.inputs.checkpoints.checkpoints import find_checkpoints, load_checkpoint
from tests.checkpoint_files import WEIGHTS, load, names, refusal
from tests.saving import saved

SHARDS = ("model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors")
INDEX = "model.safetensors.index.json"
PLACES = dict(zip(WEIGHTS, SHARDS, strict=True))


def written(folder: Path, places: dict[str, str] | None = None) -> Path:
    """A folder of two shards, with an index that says so unless another is given."""
    folder.mkdir(parents=True, exist_ok=True)
    for key, name in PLACES.items():
        (folder / name).write_bytes(safetensors.torch.save({key: WEIGHTS[key]}))
    (folder / INDEX).write_text(json.dumps({"metadata": {"total_size": 32}, "weight_map": places or PLACES}))
    return folder


def test_shards_are_one_checkpoint(tmp_path: Path) -> None:
    folder = written(tmp_path / "checkpoint-20")
    checkpoint = load(folder)
    assert (checkpoint.format, checkpoint.state_key, checkpoint.step) == ("safetensors, 2 shards", "", 20)
    assert all(torch.equal(checkpoint.weights[key], WEIGHTS[key]) for key in WEIGHTS)
    assert load(folder / INDEX).sha256 == checkpoint.sha256  # the index stands for its folder


def test_the_hash_of_a_folder_is_that_of_names_and_hashes(tmp_path: Path) -> None:
    folder = written(tmp_path / "a")
    (folder / "config.json").write_text("{}")
    (folder / "README.md").write_text("not read")
    lines = b"".join(
        f"{name}\0sha256:{hashlib.sha256((folder / name).read_bytes()).hexdigest()}\n".encode()
        for name in sorted((INDEX, "config.json", *SHARDS))
    )
    [file] = find_checkpoints([folder])
    assert file.sha256 == f"sha256:{hashlib.sha256(lines).hexdigest()}"
    assert load_checkpoint(file).sha256 == file.sha256
    (folder / SHARDS[1]).write_bytes(safetensors.torch.save({"0.bias": torch.zeros(2)}))
    with pytest.raises(CheckpointError, match="changed since this run began; run again"):
        load_checkpoint(file)


def link_out(folder: Path) -> None:
    outside = folder.parent / "outside.safetensors"
    os.replace(folder / SHARDS[1], outside)
    (folder / SHARDS[1]).symlink_to(outside)


def pipe(folder: Path) -> None:
    (folder / SHARDS[1]).unlink()
    os.mkfifo(folder / SHARDS[1])


def subfolder(folder: Path) -> None:
    (folder / SHARDS[1]).unlink()
    (folder / SHARDS[1]).mkdir()


def rewrite(text: str) -> Callable[[Path], object]:
    return lambda folder: (folder / INDEX).write_text(text)


def place(name: str) -> Callable[[Path], object]:
    return rewrite(json.dumps({"weight_map": {**PLACES, "0.bias": name}}))


ATTACKS: dict[str, tuple[Callable[[Path], object], str]] = {
    "parent": (place("../outside.safetensors"), "no file of its own folder"),
    "absolute": (place("/etc/passwd"), "no file of its own folder"),
    "subfolder's file": (place("sub/x.safetensors"), "no file of its own folder"),
    "backslash": (place("..\\outside.safetensors"), "no file of its own folder"),
    "dots": (place(".."), "no file of its own folder"),
    "nothing": (place(""), "no file of its own folder"),
    "zero byte": (place("a\0b"), "no file of its own folder"),
    "link out": (link_out, "leads out of the folder"),
    "named pipe": (pipe, "no regular file"),
    "folder": (subfolder, "no regular file"),
    "missing shard": (lambda folder: (folder / SHARDS[1]).unlink(), "is not there"),
    "extra shard": (lambda folder: (folder / "model-00003-of-00003.safetensors").write_bytes(b""), "does not name"),
    "key in two shards": (
        lambda folder: (folder / SHARDS[1]).write_bytes(safetensors.torch.save(WEIGHTS)),
        "which the index places elsewhere",
    ),
    "key absent": (
        lambda folder: (folder / SHARDS[1]).write_bytes(safetensors.torch.save({"x": torch.zeros(1)})),
        "does not hold 0.bias",
    ),
    "key not listed": (rewrite(json.dumps({"weight_map": {"0.weight": SHARDS[0], "y": SHARDS[1]}})), "does not hold y"),
    "duplicate key": (rewrite(f'{{"weight_map": {{"a": "{SHARDS[0]}", "a": "{SHARDS[1]}"}}}}'), "names a twice"),
    "duplicate map": (rewrite('{"weight_map": {}, "weight_map": {}}'), "names weight_map twice"),
    "huge integer": (rewrite(f'{{"metadata": {"9" * 5000}, "weight_map": {{}}}}'), "whole number of 5000 digits"),
    "deep nesting": (rewrite("[" * 200_000), "nested too deeply"),
    "NaN": (rewrite('{"metadata": {"total_size": NaN}, "weight_map": {}}'), "has NaN"),
    "no JSON": (rewrite("{"), "no valid JSON"),
    "no UTF-8": (lambda folder: (folder / INDEX).write_bytes(b'{"\xff": 1}'), "no valid JSON"),
    "list": (rewrite("[]"), "a JSON list and no object"),
    "no map": (rewrite('{"weight_map": [1]}'), "no weight_map of names to files"),
    "empty map": (rewrite('{"weight_map": {}}'), "lists no weights"),
    "truncated shard": (
        lambda folder: (folder / SHARDS[1]).write_bytes(b"\x08\0\0\0\0\0\0\0{"),
        "truncated or damaged",
    ),
}


@pytest.mark.parametrize("attack", ATTACKS)
def test_an_index_that_does_not_fit_its_folder_is_refused(
    tmp_path: Path, attack: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    change, reason = ATTACKS[attack]
    folder = written(tmp_path / "a")
    safetensors.torch.save_file(WEIGHTS, tmp_path / "outside.safetensors")
    change(folder)
    opened: list[str] = []
    real = os.open
    monkeypatch.setattr(os, "open", lambda path, *args, **more: opened.append(str(path)) or real(path, *args, **more))
    message = refusal(folder, NoWeightsError if attack == "empty map" else CheckpointError)
    assert reason in message, message
    assert all(Path(path).parent == folder for path in opened)


def test_shards_without_an_index_and_adapters_say_what_to_do(tmp_path: Path) -> None:
    (written(tmp_path / "a") / INDEX).unlink()
    assert "no index of them; copy *.index.json" in refusal(tmp_path / "a")
    saved(tmp_path / "b" / "adapter_model.safetensors", WEIGHTS)
    (tmp_path / "b" / "adapter_config.json").write_text("{}")
    assert "merge_and_unload().save_pretrained('merged')" in refusal(tmp_path / "b", NoWeightsError)


def test_a_trainers_run_is_its_folders_and_nothing_else_in_them_is_opened(tmp_path: Path) -> None:
    for step in (1000, 500):
        folder = tmp_path / f"checkpoint-{step}"
        folder.mkdir()
        (folder / "model.safetensors").write_bytes(safetensors.torch.save({"w": torch.full((2,), float(step))}))
        state = {"global_step": step, "epoch": step / 1000, "log_history": [{"loss": float("nan")}]}
        (folder / "trainer_state.json").write_text(json.dumps(state))
        for name in ("optimizer.pt", "rng_state.pth", "training_args.bin", "scheduler.pt"):
            os.mkfifo(folder / name)  # opening one of these would wait for ever
    (tmp_path / "tmp-checkpoint-1500").mkdir()
    (tmp_path / "tmp-checkpoint-1500" / "model.safetensors").write_bytes(b"")
    found = find_checkpoints([tmp_path])
    assert names(found) == ["checkpoint-500", "checkpoint-1000"]
    assert [(file.step, file.epoch) for file in found] == [(500, 0.5), (1000, 1.0)]
    assert load_checkpoint(found[1]).step_source == "global_step, epoch"


def test_the_final_copy_beside_a_trainers_folders_is_one_of_them(tmp_path: Path) -> None:
    for folder in (tmp_path / "run", tmp_path / "run" / "checkpoint-7"):
        folder.mkdir()
        (folder / "model.safetensors").write_bytes(safetensors.torch.save(WEIGHTS))
        (folder / "config.json").write_text("{}")
    found = find_checkpoints([tmp_path / "run"])
    assert names(found) == ["run/checkpoint-7"]
    assert "left out, being copies of it: run" in load_checkpoint(found[0]).notes


def test_a_configuration_is_plain_data_and_a_broken_one_is_a_note(tmp_path: Path) -> None:
    folder = written(tmp_path / "a")
    config = {"architectures": ["ViTForImageClassification"], "num_labels": 10, "auto_map": {"AutoModel": "os.system"}}
    (folder / "config.json").write_text(json.dumps(config))
    checkpoint = load(folder)
    assert checkpoint.config == config
    assert (checkpoint.architecture, checkpoint.architecture_arguments) == (None, {})  # no name of ours
    config = {"architecture": "vit_tiny_patch16_224", "num_classes": 10}  # as timm writes it
    (folder / "config.json").write_text(json.dumps(config))
    checkpoint = load(folder)
    assert (checkpoint.architecture, checkpoint.architecture_arguments) == ("vit_tiny_patch16_224", {"num_classes": 10})
    (folder / "config.json").write_text("{")
    (folder / "trainer_state.json").symlink_to("/etc/passwd")
    notes = load(folder).notes
    assert "config.json not used: no valid JSON" in notes
    assert any(note.startswith("trainer_state.json not used") and "leads out" in note for note in notes)


@pytest.mark.parametrize("inner", [True, False])
def test_zero_3_shards_are_refused_with_the_command_that_joins_them(tmp_path: Path, inner: bool) -> None:
    folder = tmp_path / "global_step5"
    for rank in (0, 1):
        saved(folder / f"zero_pp_rank_{rank}_mp_rank_00_model_states.pt", {"module": {}})
    message = (
        refusal(folder if inner else tmp_path, NoWeightsError) if inner else str(find_checkpoints([tmp_path])[0].error)
    )
    assert f"python {tmp_path}/zero_to_fp32.py {tmp_path} joined --tag global_step5" in message


def test_parts_of_a_model_parallel_network_are_refused(tmp_path: Path) -> None:
    for rank in (0, 1):
        saved(tmp_path / "global_step5" / f"mp_rank_{rank:02}_model_states.pt", {"module": WEIGHTS})
    assert "2 parts of a model-parallel network" in refusal(tmp_path / "global_step5", NoWeightsError)
