"""Paths that the user names → checkpoints, each once, or one line that says where they are."""

import os
from pathlib import Path

import pytest
import safetensors.torch
import torch

from fisher_cli.errors import CheckpointError
from fisher_cli.inputs.checkpoints.checkpoints import find_checkpoints
from tests.checkpoint_files import WEIGHTS, checked, names
from tests.saving import saved

# Finding and order


def test_a_folder_stands_for_the_checkpoints_directly_inside(tmp_path: Path) -> None:
    for name in ("b.pt", "a10.pth.tar", "a9.th", ".hidden.pt", "tmp_a.pt", "optimizer.pt", "rng_state_0.pth"):
        saved(tmp_path / name, WEIGHTS)
    saved(tmp_path / "inner" / "c.pt", WEIGHTS)
    (tmp_path / "notes.txt").write_text("hello")
    (tmp_path / "d.safetensors").write_bytes(safetensors.torch.save(WEIGHTS))
    assert names(find_checkpoints([tmp_path])) == ["a9.th", "a10.pth.tar", "b.pt", "d.safetensors"]


def test_names_are_relative_to_the_folder_shared_by_all(tmp_path: Path) -> None:
    for run in ("checkpoint-1000", "checkpoint-500"):
        saved(tmp_path / run / "model.pt", WEIGHTS)
    found = find_checkpoints(sorted(tmp_path.iterdir()))
    assert [(file.name, file.step) for file in found] == [
        ("checkpoint-500/model.pt", 500),
        ("checkpoint-1000/model.pt", 1000),
    ]


def test_files_given_twice_or_linked_are_used_once(tmp_path: Path) -> None:
    path = saved(tmp_path / "epoch_3.pt", {"state_dict": WEIGHTS})
    (tmp_path / "best.pt").symlink_to(path)
    os.link(path, tmp_path / "last.pt")
    (tmp_path / "sub").mkdir()
    found = find_checkpoints([tmp_path, path, tmp_path / "sub" / ".." / "last.pt"])
    assert names(found) == ["epoch_3.pt"]


def test_odd_file_names_become_printable_text(tmp_path: Path) -> None:
    path = Path(os.fsdecode(os.fsencode(tmp_path) + b"/odd\n\xff.pt"))
    path.write_bytes(b"")
    [file] = find_checkpoints([path])
    assert file.name == r"odd\x0a\udcff.pt"
    assert str(file.error).isprintable()


# Paths that hold nothing


def test_a_missing_path_suggests_the_nearest_name(tmp_path: Path) -> None:
    saved(tmp_path / "checkpoint-500.pt", WEIGHTS)
    with pytest.raises(CheckpointError) as caught:
        find_checkpoints([tmp_path / "checkpoint-50.pt"])
    message = checked(str(caught.value), tmp_path / "checkpoint-50.pt")
    assert f"did you mean {tmp_path / 'checkpoint-500.pt'}?" in message
    for path in (tmp_path / "xyz", tmp_path / "no" / "such", tmp_path / "*.ckpt"):
        with pytest.raises(CheckpointError, match="check"):
            find_checkpoints([path])
    with pytest.raises(CheckpointError, match="name files or a folder"):
        find_checkpoints([])


def test_an_empty_folder_says_what_is_looked_for(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError) as caught:
        find_checkpoints([tmp_path])
    assert ".safetensors" in checked(str(caught.value), tmp_path)


def test_a_folder_of_folders_names_those_with_checkpoints(tmp_path: Path) -> None:
    for step in (1, 2, 3):
        saved(tmp_path / f"run{step}" / "a.pt", WEIGHTS)
    (tmp_path / "empty").mkdir()
    with pytest.raises(CheckpointError) as caught:
        find_checkpoints([tmp_path])
    message = checked(str(caught.value), tmp_path)
    assert f"fisher analyze {tmp_path / 'run1'} {tmp_path / 'run2'} … (3 subfolders hold some)" in message
    assert names(find_checkpoints([tmp_path / "run1"])) == ["a.pt"]


def test_what_trainers_have_not_finished_is_left_out(tmp_path: Path) -> None:
    for name in ("tmp.pth.tar", "recovery_tmp.pth.tar", "tmp_last.pt", "step_0.pt", "random_states_0.pkl"):
        saved(tmp_path / name, WEIGHTS)
    for name in ("tmp-checkpoint-5", "checkpoint-5"):
        saved(tmp_path / name / "pytorch_model.bin", {**WEIGHTS, "more": torch.zeros(1)})
        (tmp_path / name / "config.json").write_text("{}")
    assert names(find_checkpoints([tmp_path])) == ["step_0.pt", "checkpoint-5"]


def test_deepspeed_within_a_trainers_folder_is_that_folders_checkpoint(tmp_path: Path) -> None:
    folder = tmp_path / "run" / "checkpoint-4"
    saved(folder / "global_step4" / "mp_rank_00_model_states.pt", {"module": WEIGHTS, "global_steps": 4})
    (folder / "trainer_state.json").write_text('{"global_step": 4, "epoch": 0.5}')
    [file] = find_checkpoints([tmp_path / "run"])
    assert (file.name, file.step, file.epoch) == ("checkpoint-4", 4, 0.5)
    assert names(find_checkpoints([folder])) == ["checkpoint-4"]
    before = file.sha256
    (folder / "trainer_state.json").write_text('{"global_step": 5, "epoch": 0.5}')
    assert find_checkpoints([tmp_path / "run"])[0].sha256 != before


def test_files_beside_a_folders_own_weights_are_checkpoints_too(tmp_path: Path) -> None:
    saved(tmp_path / "run" / "pytorch_model.bin", WEIGHTS)
    (tmp_path / "run" / "config.json").write_text("{}")
    saved(tmp_path / "run" / "epoch_1.pt", {**WEIGHTS, "more": torch.zeros(1)})
    saved(tmp_path / "run" / "training_args.bin", {})
    assert names(find_checkpoints([tmp_path / "run"])) == ["run/epoch_1.pt", "run"]
