"""Step and epoch as a checkpoint states them, else as its name does; and the order of training."""

from pathlib import Path

import pytest
import safetensors.torch
import torch

from fisher_cli.inputs.checkpoints.checkpoints import find_checkpoints
from fisher_cli.inputs.checkpoints.timeline import TrainingPoint, moment, stated
from tests.checkpoint_files import WEIGHTS, load, names
from tests.saving import saved

# What the file says about itself


def test_the_architecture_hint_is_plain_text_and_numbers(tmp_path: Path) -> None:
    arguments = {"num_classes": 7, "name": "x", "bad": [1, 2], 3: 4}
    checkpoint = load(saved(tmp_path / "a.pt", {"state_dict": WEIGHTS, "arch": "resnet18", "arch_args": arguments}))
    assert checkpoint.architecture == "resnet18"
    assert checkpoint.architecture_arguments == {"num_classes": 7, "name": "x"}
    for hint in (7, "", "x" * 1000, None, ["resnet18"]):
        path = saved(tmp_path / "b.pt", {"state_dict": WEIGHTS, "arch": hint})
        assert load(path).architecture is None


def test_safetensors_metadata_give_step_epoch_and_architecture(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    about = {"step": "500", "epoch": "1.5", "arch": "digits-cnn", "arch_args": '{"num_classes": 3}'}
    path.write_bytes(safetensors.torch.save(WEIGHTS, metadata=about))
    checkpoint = load(path)
    assert (checkpoint.step, checkpoint.epoch) == (500, 1.5)
    assert (checkpoint.architecture, checkpoint.architecture_arguments) == ("digits-cnn", {"num_classes": 3})


@pytest.mark.parametrize(
    ("about", "step", "epoch"),
    [
        ({"global_step": 10, "epoch": 2}, 10, 2.0),
        ({"iter_num": 10, "step": 99}, 10, None),
        ({"iteration": torch.tensor(10)}, 10, None),
        ({"step": torch.tensor(3.0), "epoch": 0.25}, 3, 0.25),
        ({"step": True, "epoch": float("nan")}, None, None),
        ({"step": -1, "epoch": 10**16}, None, None),
        ({"step": "٣", "epoch": "soon"}, None, None),
    ],
)
def test_step_and_epoch_come_from_the_payload(
    tmp_path: Path, about: dict[str, object], step: int | None, epoch: float | None
) -> None:
    [file] = find_checkpoints([saved(tmp_path / "a.pt", {"state_dict": WEIGHTS, **about})])
    assert (file.step, file.epoch) == (step, epoch)


@pytest.mark.parametrize(
    ("name", "step", "epoch"),
    [
        ("epoch=9-step=90.ckpt", 90, 9.0),
        ("ep3-ba000120-rank0.pt", 120, 3.0),
        ("checkpoint-500.pt", 500, None),
        ("ckpt_00500.pt", 500, None),
        ("model_12.pth", None, 12.0),
        ("epoch_0.5.pt", None, 0.5),
        ("resnet20-iter_7.pth.tar", 7, None),
        ("step10.pt", 10, None),  # and not epoch 10, by the end of "step"
        ("run_step٣.pt", None, None),
        (f"step{'1' * 16}.pt", None, None),
        ("weights.pt", None, None),
    ],
)
def test_step_and_epoch_come_from_the_file_name_otherwise(
    tmp_path: Path, name: str, step: int | None, epoch: float | None
) -> None:
    [file] = find_checkpoints([saved(tmp_path / name, WEIGHTS)])
    assert (file.step, file.epoch) == (step, epoch)


def test_an_ambiguous_file_name_does_not_add_a_step_to_a_known_epoch(tmp_path: Path) -> None:
    [file] = find_checkpoints([saved(tmp_path / "checkpoint-5.pth.tar", {"state_dict": WEIGHTS, "epoch": 5})])
    assert (file.step, file.epoch) == (None, 5.0)


AFTER = {name: value + 1 for name, value in WEIGHTS.items()}


def test_the_order_is_by_step_else_epoch_else_natural_name(tmp_path: Path) -> None:
    def order(folder: str, about: dict[str, dict[str, object]]) -> list[str]:
        for name, fields in about.items():
            saved(tmp_path / folder / name, {"state_dict": WEIGHTS, **fields})
        return names(find_checkpoints([tmp_path / folder]))

    by_step = {
        "a.pt": {"step": 20, "epoch": 1},
        "b.pt": {"step": 3, "epoch": 2},
        "last.pt": {"step": 20, "state_dict": AFTER},
    }
    assert order("step", by_step) == ["b.pt", "a.pt", "last.pt"]
    both = {"a.pt": {"step": 20, "epoch": 1}, "b.pt": {"step": 3, "epoch": 2}}
    assert order("both", both) == ["b.pt", "a.pt"]
    assert order("epoch", {"a.pt": {"step": 1, "epoch": 2}, "b.pt": {"epoch": 1.5}}) == ["b.pt", "a.pt"]
    by_name = {"v10.pt": {"step": 1}, "v9.pt": {}, "v011.pt": {"epoch": 0}}
    assert order("name", by_name) == ["v9.pt", "v10.pt", "v011.pt"]


def test_files_in_error_take_the_place_their_name_tells_and_else_the_end(tmp_path: Path) -> None:
    for step in (10, 30):
        saved(tmp_path / f"z{step}.pt", {"state_dict": WEIGHTS, "step": step})
    (tmp_path / "step_20.pt").write_bytes(b"")
    (tmp_path / "broken.pt").write_bytes(b"")
    found = find_checkpoints([tmp_path])
    assert names(found) == ["z10.pt", "step_20.pt", "z30.pt", "broken.pt"]
    assert [file.step for file in found] == [10, 20, 30, None]
    assert [file.error is None for file in found] == [True, False, True, False]


@pytest.mark.parametrize(
    ("entries", "name", "expected"),
    [
        ({"global_step": 4, "epoch": 1, "step": 9}, "epoch_7.pt", TrainingPoint(4, 1.0, "global_step, epoch")),
        ({"epoch": 1}, "step_5.pt", TrainingPoint(5, 1.0, "name, epoch")),
        ({"meta": {"iter": 3, "epoch": 2}}, "a.pth", TrainingPoint(3, 2.0, "meta.iter, meta.epoch")),
        ({"meta": 3, "iteration": "soon"}, "checkpoint-7/model.safetensors", TrainingPoint(7, None, "name")),
        ({"epoch": 0}, "checkpoint-3.pth.tar", TrainingPoint(None, 0.0, "epoch")),
        ({"step": 0}, "a.pt", TrainingPoint(0, None, "step")),
        ({}, "weights.pt", TrainingPoint(None, None, "order")),
        ({}, "step_9/step_7.pt", TrainingPoint(7, None, "name")),
        ({}, "epoch_2/step_7.pt", TrainingPoint(7, 2.0, "name")),
    ],
)
def test_who_tells_step_and_epoch_is_recorded(entries: dict[str, object], name: str, expected: TrainingPoint) -> None:
    assert moment(stated(entries), name) == expected
