from pathlib import Path

import pytest
import torch
from torchvision import datasets as torchvision_datasets

from fisher_cli.errors import DataError, UsageError
from fisher_cli.inputs.datasets import Examples, load_examples
from fisher_cli.inputs.normalization import NAMED
from tests.data_files import refusal

pytestmark = pytest.mark.usefixtures("no_data_dir")


def test_numbers_are_applied_per_channel_after_scaling(image_folder: Path) -> None:
    examples = load_examples(f"folder:{image_folder}", normalize="0.1,0.2,0.3/0.5,0.25,2")
    inputs, _ = examples.batch(0, len(examples))
    mean, std = torch.tensor([0.1, 0.2, 0.3]), torch.tensor([0.5, 0.25, 2.0])
    expected = (examples.inputs / 255 - mean[:, None, None]) / std[:, None, None]
    torch.testing.assert_close(inputs, expected)
    assert examples.normalization.mean == (0.1, 0.2, 0.3)


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
