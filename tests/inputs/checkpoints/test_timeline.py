"""Step and epoch as a checkpoint states them, else as its name does; and the order of training."""

from pathlib import Path

import pytest
import safetensors.torch
import torch

from fisher_cli.inputs.checkpoints.checkpoints import find_checkpoints
from fisher_cli.inputs.checkpoints.timeline import TrainingPoint, in_training_order, moment, stated
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


# Names as they are found in repositories and on hubs: the step and the epoch that a person reads off each.
WILD: list[tuple[str, int | None, float | None]] = [
    # how far the training had come, in front of its unit
    ("cifar10_cnn_1_600_epochs.pt", None, 600),
    ("model1_600_epochs.pt", None, 600),
    ("resnet18_600_epochs_1.pt", None, 600),
    ("moco_v2_800ep_pretrain.pth.tar", None, 800),
    ("r50_1x_sk0_100ep.pth", None, 100),
    ("rl_model_100000_steps.pt", 100_000, None),
    ("ddpm_ema_200k_iters.pt", 200_000, None),
    ("gpt_1M_steps.bin", 1_000_000, None),
    # behind it
    ("resnet18_epochs_10.pt", None, 10),
    ("lenet5_epoch_3.pt", None, 3),
    ("lr_0.1_epochs_200_seed_1_epoch_37.pt", None, 37),
    ("epoch12of90.pt", None, 12),
    ("epoch=09-val_loss=0.31.ckpt", None, 9),
    ("model_epoch_12_acc_93.5.pth", None, 12),
    ("ckpt_epoch_300.pth", None, 300),
    ("step_10k.pt", 10_000, None),
    ("adam_lr1e-3_step1000.pt", 1000, None),
    ("iter_0001000/model_optim_rng.pt", 1000, None),
    ("checkpoint0100.pth", 100, None),
    ("best_model_12.pth", None, 12),
    ("run_3/epoch_0.5.pt", None, 0.5),
    # settings, versions, layers, classes, hashes, dates, parts of a file
    ("resnet18_cifar10.pt", None, None),
    ("wrn-28-10.pt", None, None),
    ("vit_b_16-c867db91.pth", None, None),
    ("resnet18_8xb32_in1k_20210831-fbbb1da6.pth", None, None),
    ("model_20230501.pt", None, None),
    ("checkpoint_20230501.pth", None, None),
    ("model_3_layers.pt", None, None),
    ("model2.pt", None, None),
    ("model-00001-of-00002.safetensors", None, None),
    ("resnet_max_epochs_90.pt", None, None),
    ("bert_warmup_500_steps.pt", None, None),
    ("ddpm_timesteps1000.pt", None, None),
    ("gemma-2b-it-4bit.safetensors", None, None),
    ("few_shot_5way_1shot.pt", None, None),
    ("200_epochs/model.pt", None, None),
    ("step_0.5.pt", None, None),
    ("mnist_cnn_2.pt", None, None),
]


@pytest.mark.parametrize(("name", "step", "epoch"), WILD)
def test_what_a_person_reads_off_a_name_is_what_is_read(name: str, step: int | None, epoch: float | None) -> None:
    source = "order" if step is None and epoch is None else "name"
    assert moment(stated({}), name) == TrainingPoint(step, epoch, source)


def test_names_from_the_wild_are_put_in_the_order_of_training() -> None:
    def order(*names: str) -> list[str]:
        points = {name: moment(stated({}), name) for name in names}
        return in_training_order(names[::-1], lambda name: (name, points[name].step, points[name].epoch, True))

    for expected in (
        ("net_50_epochs.pt", "net_100_epochs.pt", "net_600_epochs.pt"),
        ("it_step_500.pt", "step_2k.pt", "step_10k.pt", "1M_steps.pt"),
        ("lr1_epochs_90_epoch_2.pt", "lr1_epochs_90_epoch_10.pt"),
        ("resnet18_cifar10_v2.pt", "resnet18_cifar10_v10.pt", "resnet18_cifar100_v1.pt"),
        ("model_2_layers.pt", "model_10_layers.pt"),
    ):
        assert order(*expected) == list(expected)


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
