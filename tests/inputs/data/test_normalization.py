import json
import math
import shutil
from pathlib import Path

import pytest
import torch
from torch import nn
from torchvision import datasets as torchvision_datasets
from torchvision.models import ResNet18_Weights

import fisher_cli
from fisher_cli.errors import DataError, UsageError
from fisher_cli.inputs.data.datasets import Examples
from fisher_cli.inputs.data.normalization import NAMED, Normalization, candidates, choose_normalization
from fisher_cli.run.preparation import run_of_files
from fisher_cli.settings import Resources, Settings
from tests.command import fisher
from tests.data_files import refusal, save_image
from tests.loading import load_examples

pytestmark = pytest.mark.usefixtures("workdir")


def test_numbers_are_applied_per_channel_after_scaling(image_folder: Path) -> None:
    examples = load_examples(f"folder:{image_folder}", normalize="0.1,0.2,0.3/0.5,0.25,2")
    inputs, _ = examples.batch(0, len(examples))
    mean, std = torch.tensor([0.1, 0.2, 0.3]), torch.tensor([0.5, 0.25, 2.0])
    expected = (examples.inputs / 255 - mean[:, None, None]) / std[:, None, None]
    torch.testing.assert_close(inputs, expected)
    assert examples.normalization.mean == (0.1, 0.2, 0.3)


def test_the_constants_of_imagenet_are_those_of_torchvisions_own_weights() -> None:
    own = ResNet18_Weights.IMAGENET1K_V1.transforms()
    assert (NAMED["imagenet"].mean, NAMED["imagenet"].std) == (tuple(own.mean), tuple(own.std))


def test_one_number_stands_for_every_channel(image_folder: Path) -> None:
    examples = load_examples(f"folder:{image_folder}", normalize="0.5/0.1,0.2,0.3")
    assert examples.normalization.mean == (0.5, 0.5, 0.5)
    assert load_examples(f"folder:{image_folder}", normalize="NONE").normalization.std == (1.0, 1.0, 1.0)


def test_normalised_training_pixels_follow_torchvisions_transforms(image_folder: Path) -> None:
    transforms = pytest.importorskip("torchvision.transforms")
    chain = transforms.Compose(
        [transforms.ToTensor(), transforms.Normalize(NAMED["imagenet"].mean, NAMED["imagenet"].std)]
    )
    expected = torch.stack([image for image, _ in torchvision_datasets.ImageFolder(image_folder, transform=chain)])
    inputs, _ = load_examples(f"folder:{image_folder}", normalize="imagenet").batch(0, 99)
    torch.testing.assert_close(inputs, expected)


def test_a_folder_must_say_how_it_was_normalised_and_none_is_an_answer(image_folder: Path) -> None:
    message = refusal(DataError, f"folder:{image_folder}")
    assert "type --normalize with one of" in message
    for name in NAMED:
        assert name in message
    assert load_examples(f"folder:{image_folder}", normalize="none").normalization.name == "none"


@pytest.mark.parametrize("asked", ["autos", "cifra10", "", "0.5", "digits"])
def test_an_unknown_normalisation_is_refused_with_the_names(asked: str, image_folder: Path) -> None:
    assert "imagenet" in refusal(UsageError, f"folder:{image_folder}", normalize=asked)


@pytest.mark.parametrize(
    ("asked", "says"),
    [
        ("0.5/0", "above 0"),
        ("0.5/-1", "above 0"),
        ("0.5/nan", "above 0"),
        ("0.5/inf", "above 0"),
        ("nan/1", "scaled to [0, 1]"),
        ("123.7,116.3,103.5/58.4,57.1,57.4", "divide by 255"),
        ("a/b", "MEAN,…/STD,…"),
        ("1/2/3", "MEAN,…/STD,…"),
        ("/", "MEAN,…/STD,…"),
    ],
)
def test_numbers_that_cannot_be_are_refused(asked: str, says: str) -> None:
    assert says in refusal(UsageError, "digits", normalize=asked)


def test_a_wrong_count_of_channels_is_refused(image_folder: Path) -> None:
    assert "1 channel and" in refusal(DataError, "digits", normalize="cifar10")
    assert "give 3 or 1" in refusal(DataError, f"folder:{image_folder}", normalize="0.5,0.5/1")


def test_floating_inputs_are_taken_as_scaled_already() -> None:
    examples = load_examples("digits", limit=4)
    inputs = torch.linspace(0, 1, 4 * 3, dtype=torch.float64).reshape(4, 3)
    floating = Examples(**{**vars(examples), "inputs": inputs, "normalization": NAMED["half"]})
    torch.testing.assert_close(floating.batch(0, 4)[0], (inputs.float() - 0.5) / 0.5)


# --normalize auto


def test_the_lowest_mean_loss_is_chosen_and_all_are_told() -> None:
    losses = {
        "cifar10": torch.tensor([1.0, 2.0, 3.0, 4.0]),
        "imagenet": torch.tensor([0.5, 1.4, 2.6, 3.5]),
        "half": torch.tensor([9.0, 9.0, 9.0, 9.0]),
        "none": torch.tensor([0.0, math.nan, 0.0, 0.0]),
    }
    choice = choose_normalization([NAMED[name] for name in losses], lambda each: losses[each.name])
    assert choice.normalization == NAMED["imagenet"]
    assert [name for name, _ in choice.losses] == ["imagenet", "cifar10", "half", "none"]
    assert dict(choice.losses)["imagenet"] == pytest.approx(2.0)
    assert (choice.examples, choice.close) == (4, ())
    assert choice.sentence() == "--normalize auto: imagenet (loss 2 on 4 examples; cifar10 2.5, half 9, none nan)"
    record = json.loads(json.dumps(choice.describe(), allow_nan=False))
    assert record["tried"][-1] == {"name": "none", "loss": None}


def test_what_lies_within_the_noise_is_said() -> None:
    random = torch.Generator().manual_seed(0)
    noise = torch.randn(400, generator=random)
    losses = {"half": torch.ones(400), "none": 1.01 + noise, "imagenet": 1.3 + noise}
    choice = choose_normalization([NAMED[name] for name in losses], lambda each: losses[each.name])
    assert choice.normalization == NAMED["half"]
    assert choice.close == ("none",)
    assert "within the noise of it: none: name one of them with --normalize" in choice.sentence()


def test_without_a_finite_loss_there_is_no_choice() -> None:
    with pytest.raises(DataError, match="NaN or infinite however"):
        choose_normalization([NAMED["half"]], lambda _: torch.tensor([math.inf, 1.0]))


def test_the_dataset_s_own_constants_are_tried_first_and_each_only_once() -> None:
    own = candidates(NAMED["cifar100"], "data", 3)
    assert own[0] == NAMED["cifar100"]
    assert [each.name for each in own].count("cifar100") == 1
    assert [each.name for each in candidates(None, "data", 3)] == [
        "cifar10", "cifar10-kuangliu", "cifar100", "imagenet", "half", "none",
    ]  # fmt: skip
    assert all(len(each.mean) == len(each.std) == 3 for each in candidates(None, "data", 3))
    digits = candidates(Normalization("digits", (0.0,), (1.0,)), "digits", 1)
    assert [each.name for each in digits] == ["digits", "half"]  # none is the same


class Picky(nn.Module):
    """Its loss is lowest when the inputs are normalised by the given constants."""

    def __init__(self, name: str, label: int = 0) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(1))
        self.constants, self.label = NAMED[name], label

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        mean = torch.tensor(self.constants.mean, dtype=inputs.dtype).reshape(1, -1, 1, 1)
        std = torch.tensor(self.constants.std, dtype=inputs.dtype).reshape(1, -1, 1, 1)
        scaled = inputs * std + mean  # in 0…1 only if the constants are these
        off = (255 * scaled - (255 * scaled).round()).abs().flatten(1).mean(1) + inputs.flatten(1).mean(1) * 0
        return torch.stack([-50 * off * self.weight, -1 + 0 * off], dim=1)


@pytest.mark.parametrize("name", ["imagenet", "cifar10-kuangliu", "cifar100", "half"])
def test_auto_finds_what_the_network_was_trained_with(name: str, tmp_path: Path) -> None:
    for i in range(12):
        save_image(tmp_path / "a" / f"{i}.png", seed=i)
    (tmp_path / "b").mkdir()
    found = fisher_cli.analyze(Picky(name), f"folder:{tmp_path}", normalize="auto", eigenvalues=0)
    record = found.stable_metadata()["data"]["normalization"]
    assert record["name"] == name
    assert record["mean"] == list(NAMED[name].mean * (3 // len(NAMED[name].mean)))
    assert {each["name"] for each in record["auto"]["tried"]} == {
        "cifar10", "cifar10-kuangliu", "cifar100", "imagenet", "half", "none",
    }  # fmt: skip
    named = fisher_cli.analyze(Picky(name), f"folder:{tmp_path}", normalize=name, eigenvalues=0)
    assert found.table.equals(named.table)
    assert found.data["identity"] == named.data["identity"]


def test_auto_looks_at_the_last_checkpoint_that_can_be_used(tmp_path: Path) -> None:
    samples = sorted((Path(fisher_cli.__file__).parents[1] / "sample_checkpoints" / "digits-clean").glob("*.pt"))
    for file in (samples[0], samples[-1]):
        shutil.copy(file, tmp_path / file.name)
    (tmp_path / "zz-9999.pt").write_bytes(b"damaged")
    analysis = fisher_cli.analyze(tmp_path, "digits", normalize="auto", eigenvalues=0, limit=300)
    tried = {each["name"]: each["loss"] for each in analysis.data["normalization"]["auto"]["tried"]}
    assert analysis.data["normalization"]["name"] == "digits"
    last = analysis.table[analysis.table["status"] == "ok"].iloc[-1]
    assert tried["digits"] == pytest.approx(last["loss"], rel=1e-6)  # all 300 are tried on
    assert tried["half"] > tried["digits"]


def test_another_last_checkpoint_that_leads_to_the_same_choice_asks_the_same_question() -> None:
    samples = sorted((Path(fisher_cli.__file__).parents[1] / "sample_checkpoints" / "digits-clean").glob("*.pt"))
    runs = [run_of_files([file], Settings(normalize="auto", limit=300), Resources()) for file in samples[-2:]]
    assert runs[0].inputs.described != runs[1].inputs.described
    assert runs[0].question == runs[1].question
    other = run_of_files(samples[-1:], Settings(normalize="half", limit=300), Resources())
    assert other.question != runs[1].question


def test_auto_that_was_never_chosen_is_not_used_by_accident() -> None:
    examples = load_examples("digits", normalize="AUTO", limit=5)
    with pytest.raises(UsageError, match="needs a network"):
        examples.batch(0, 5)
    chosen = examples.with_normalization(NAMED["half"])
    assert chosen.identity == load_examples("digits", normalize="half", limit=5).identity
    assert torch.equal(chosen.batch(0, 5)[0], load_examples("digits", normalize="half", limit=5).batch(0, 5)[0])


def test_auto_says_on_stderr_what_it_took(tmp_path: Path) -> None:
    sample = next((Path(fisher_cli.__file__).parents[1] / "sample_checkpoints" / "digits-clean").glob("*.pt"))
    words = ["analyze", str(sample), "--normalize", "auto", "--eigenvalues", "0", "--limit", "50", "--resize", "8"]
    result = fisher(*words, "-o", tmp_path / "r.csv")
    assert "--normalize auto: " in result.stderr
    assert "on 50 examples" in result.stderr
    record = json.loads((tmp_path / "r.fisher/record.json").read_text())
    assert "auto" in json.dumps(record)
