"""`last`, `best` and their like: left out where they are copies, kept where they are not."""

import os
import shutil
from pathlib import Path

import pytest
import torch

from fisher_cli.inputs.checkpoints.checkpoints import find_checkpoints, load_checkpoint
from fisher_cli.inputs.checkpoints.duplicates import weights_digest
from fisher_cli.inputs.checkpoints.timeline import is_alias
from tests.checkpoint_files import WEIGHTS, load, names
from tests.saving import saved

MORE = {name: value + 1 for name, value in WEIGHTS.items()}


@pytest.mark.parametrize("alias", ["last.ckpt", "model_best.pth.tar", "checkpoint.pth", "latest.pt", "model_final.pth"])
@pytest.mark.parametrize("how", ["saved again", "copied", "linked", "hard link"])
def test_a_further_copy_is_left_out_and_named(tmp_path: Path, alias: str, how: str) -> None:
    content = {"state_dict": WEIGHTS}
    saved(tmp_path / "epoch_1.pt", {"state_dict": MORE})
    path, copy = saved(tmp_path / "epoch_2.pt", content), tmp_path / alias
    if how == "saved again":
        saved(copy, content)
        assert copy.read_bytes() != path.read_bytes()  # the archive is named after the file
    else:
        {"copied": shutil.copy, "linked": os.symlink, "hard link": os.link}[how](path, copy)
    found = find_checkpoints([tmp_path])
    assert names(found) == ["epoch_1.pt", "epoch_2.pt"]
    assert load_checkpoint(found[1]).notes == (f"left out, being copies of it: {alias}",)
    assert load_checkpoint(found[0]).notes == ()


def test_one_that_differs_stays_at_the_end(tmp_path: Path) -> None:
    saved(tmp_path / "v9.pt", {"state_dict": WEIGHTS})
    saved(tmp_path / "v10.pt", {"state_dict": WEIGHTS, "x": 1})
    saved(tmp_path / "last.pt", {"state_dict": MORE})
    saved(tmp_path / "best.pt", {"state_dict": WEIGHTS, "metric": 1.0})  # the same weights, but nothing says when
    assert names(find_checkpoints([tmp_path])) == ["v9.pt", "v10.pt", "best.pt", "last.pt"]


def test_the_same_weights_at_the_same_step_are_a_copy_and_other_weights_are_not(tmp_path: Path) -> None:
    saved(tmp_path / "epoch=1-step=4.ckpt", {"state_dict": WEIGHTS, "global_step": 4, "epoch": 1, "callbacks": {}})
    saved(tmp_path / "last.ckpt", {"state_dict": WEIGHTS, "global_step": 4, "epoch": 1, "callbacks": {"a": 1}})
    saved(tmp_path / "best.ckpt", {"state_dict": MORE, "global_step": 4, "epoch": 1})
    found = find_checkpoints([tmp_path])
    assert names(found) == ["best.ckpt", "epoch=1-step=4.ckpt"]
    assert found[1].copies == ("last.ckpt",)


def test_a_last_without_a_place_does_not_hide_the_steps_of_the_others(tmp_path: Path) -> None:
    for step in (30, 4):
        saved(tmp_path / f"a{step}.pt", {"state_dict": {**WEIGHTS, "0.bias": torch.zeros(2) + step}, "step": step})
    saved(tmp_path / "last.pt", MORE)
    assert names(find_checkpoints([tmp_path])) == ["a4.pt", "a30.pt", "last.pt"]


def test_of_two_names_without_a_place_one_is_kept(tmp_path: Path) -> None:
    saved(tmp_path / "checkpoint.pth.tar", {"state_dict": WEIGHTS, "epoch": 3})
    shutil.copy(tmp_path / "checkpoint.pth.tar", tmp_path / "model_best.pth.tar")
    found = find_checkpoints([tmp_path])
    assert names(found) == ["checkpoint.pth.tar"]
    assert found[0].copies == ("model_best.pth.tar",)


def test_two_numbered_checkpoints_of_the_same_weights_both_stay(tmp_path: Path) -> None:
    for step in (1, 2):
        saved(tmp_path / f"step_{step}.pt", WEIGHTS)
    assert len(find_checkpoints([tmp_path])) == 2


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("last.ckpt", True), ("last-v1.ckpt", True), ("best_model.pt", True), ("run/model_best.pth.tar", True),
        ("checkpoint.pth", True), ("ckpt.pt", True), ("final", True), ("step_10.pt", False), ("lasting.pt", False),
        ("checkpoint-5.pth", False), ("best_3.pt", False), ("weights.pt", False), ("model.pt", False),
    ],
)  # fmt: skip
def test_which_names_are_of_further_copies(name: str, expected: bool) -> None:
    assert is_alias(name) is expected


def test_the_hash_of_weights_sees_names_types_shapes_and_every_bit(tmp_path: Path) -> None:
    weights = load(saved(tmp_path / "a.pt", WEIGHTS)).weights
    own = weights_digest(weights)
    assert own == weights_digest(dict(reversed(weights.items())))
    changed = {
        "name": {"0.weights": weights["0.weight"], "0.bias": weights["0.bias"]},
        "type": {**weights, "0.bias": weights["0.bias"].double()},
        "shape": {**weights, "0.weight": weights["0.weight"].reshape(3, 2)},
        "sign of zero": {**weights, "0.weight": -weights["0.weight"].abs()},
        "order": {**weights, "0.bias": weights["0.bias"].flip(0)},
    }
    assert len({own, *(weights_digest(each) for each in changed.values())}) == 1 + len(changed)
    assert weights_digest({"a": torch.zeros(()), "b": torch.zeros(0), "c": torch.zeros(2, 3).t()})
