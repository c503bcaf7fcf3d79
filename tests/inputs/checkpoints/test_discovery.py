"""Paths that the user names → checkpoints, each once, or one line that says where they are."""

import os
from pathlib import Path

import pytest
import safetensors.torch
import torch

from fisher_cli.errors import CheckpointError
from fisher_cli.inputs.checkpoints.checkpoints import find_checkpoints
from fisher_cli.results import by_run
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


def runs(*paths: Path) -> dict[str, list[str]]:
    """The names of the checkpoints of each run, in their order."""
    return {run: names(files) for run, files in by_run(find_checkpoints(paths)).items()}


def steps(folder: Path, *steps: int) -> Path:
    for step in steps:
        saved(folder / f"step_{step}.pt", {**WEIGHTS, "more": torch.full((1,), float(step))})
    return folder


def test_a_folder_is_a_run_and_so_is_each_below_a_folder_without_checkpoints(tmp_path: Path) -> None:
    for name in ("run10", "run9"):
        steps(tmp_path / "all" / name, 10, 9)
    (tmp_path / "all" / "empty").mkdir()
    expected = {name: [f"{name}/step_9.pt", f"{name}/step_10.pt"] for name in ("run9", "run10")}
    assert runs(tmp_path / "all") == expected
    assert runs(tmp_path / "all" / "run9", tmp_path / "all" / "run10") == expected
    assert runs(tmp_path / "all" / "run9") == {"run9": ["step_9.pt", "step_10.pt"]}
    assert list(runs(tmp_path / "all" / "run10", tmp_path / "all" / "run9")) == ["run10", "run9"]


def test_each_run_has_an_order_of_its_own(tmp_path: Path) -> None:
    """By steps where the run's own files have them, whatever others have."""
    steps(tmp_path / "a", 10, 9)
    for name in ("v10.pt", "v9.pt", "last.pt"):
        saved(tmp_path / "b" / name, {**WEIGHTS, "more": torch.ones(len(name))})
    assert runs(tmp_path / "a", tmp_path / "b") == {
        "a": ["a/step_9.pt", "a/step_10.pt"],
        "b": ["b/v9.pt", "b/v10.pt", "b/last.pt"],
    }


def test_runs_are_found_where_lightning_puts_them(tmp_path: Path) -> None:
    for version in (0, 1):
        steps(tmp_path / "lightning_logs" / f"version_{version}" / "checkpoints", 1, 2)
    assert list(runs(tmp_path / "lightning_logs")) == ["version_0/checkpoints", "version_1/checkpoints"]
    assert list(runs(tmp_path)) == [f"lightning_logs/version_{version}/checkpoints" for version in (0, 1)]


def test_files_that_are_named_are_one_run(tmp_path: Path) -> None:
    steps(tmp_path / "a", 1, 2)
    steps(tmp_path / "b", 3)
    found = runs(tmp_path / "a" / "step_1.pt", tmp_path / "b" / "step_3.pt")
    assert found == {tmp_path.name: ["a/step_1.pt", "b/step_3.pt"]}
    assert runs(tmp_path / "a", tmp_path / "b" / "step_3.pt") == {
        "a": ["a/step_1.pt", "a/step_2.pt"],
        "b": ["b/step_3.pt"],
    }


def test_a_checkpoint_is_of_one_run(tmp_path: Path) -> None:
    steps(tmp_path / "a", 1, 2)
    (tmp_path / "b").mkdir()
    assert runs(tmp_path / "a", tmp_path / "a" / "step_2.pt") == {"a": ["step_1.pt", "step_2.pt"]}
    assert runs(tmp_path / "a", tmp_path / "b" / ".." / "a", tmp_path) == runs(tmp_path / "a")
    steps(tmp_path / "a" / "older", 0)
    assert runs(tmp_path / "a", tmp_path / "a" / "older") == {
        "a": ["step_1.pt", "step_2.pt"],
        "a/older": ["older/step_0.pt"],
    }


def test_two_runs_may_begin_with_one_checkpoint(tmp_path: Path) -> None:
    steps(tmp_path / "a", 0, 1)
    steps(tmp_path / "b", 2)
    os.link(tmp_path / "a" / "step_0.pt", tmp_path / "b" / "step_0.pt")
    assert runs(tmp_path / "a", tmp_path / "b")["b"] == ["b/step_0.pt", "b/step_2.pt"]


@pytest.mark.parametrize("name", ["model.pt", "pytorch_model.bin"])
def test_folders_of_one_checkpoint_each_are_of_the_run_around_them(tmp_path: Path, name: str) -> None:
    """As trainers write them, and where a folder's name tells the place in training."""
    for run in ("a", "b"):
        for step in (500, 1000):
            saved(tmp_path / run / f"checkpoint-{step}" / name, {**WEIGHTS, "more": torch.full((1,), float(step))})
    assert list(runs(*(tmp_path / "a").iterdir())) == ["a"]
    assert [len(files) for files in runs(tmp_path).values()] == [2, 2]
    assert list(runs(tmp_path / "b", tmp_path / "a")) == ["b", "a"]


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
