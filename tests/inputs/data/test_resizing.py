from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision import models, transforms

from fisher_cli.errors import DataError, UsageError
from fisher_cli.inputs.data.resizing import read_resizing
from tests.data_files import refusal, save_image
from tests.loading import load_examples


@pytest.fixture
def photographs(tmp_path: Path) -> Path:
    for number, size in enumerate([(61, 40), (40, 61), (333, 257), (256, 256), (300, 1000)]):
        save_image(tmp_path / "class" / f"{number}.png", size=size, seed=number)
    return tmp_path


def theirs(folder: Path, *steps: object) -> torch.Tensor:
    chain = transforms.Compose(list(steps))
    images = [chain(Image.open(path).convert("RGB")) for path in sorted((folder / "class").iterdir())]
    return torch.stack([torch.from_numpy(np.array(image)).permute(2, 0, 1) for image in images])


@pytest.mark.parametrize(("resize", "crop"), [("32", "32"), ("40", "33"), ("17", "16x15"), (256, 224), ("64x48", None)])
def test_images_of_any_size_are_resized_and_cropped_as_torchvision_does_it(
    resize: object, crop: object, photographs: Path
) -> None:
    sizes = {"64x48": (64, 48), "16x15": (16, 15)}
    steps: list[object] = [transforms.Resize(sizes.get(str(resize)) or int(str(resize)))]
    if crop is not None:
        steps.append(transforms.CenterCrop(sizes.get(str(crop)) or int(str(crop))))
    examples = load_examples(f"folder:{photographs}", normalize="none", resize=resize, crop=crop)
    assert torch.equal(examples.inputs, theirs(photographs, *steps))


@pytest.mark.parametrize(
    "name", ["ResNet18_Weights.IMAGENET1K_V1", "ResNet50_Weights.DEFAULT", "Swin_T_Weights.IMAGENET1K_V1"]
)
def test_weights_bring_their_own_preparation(name: str, photographs: Path) -> None:
    prepare = models.get_weight(name).transforms()
    paths = sorted((photographs / "class").iterdir())
    expected = torch.stack([prepare(Image.open(path).convert("RGB")) for path in paths])
    examples = load_examples(f"folder:{photographs}", normalize=f"weights:{name}")
    given, _ = examples.batch(0, 5)
    torch.testing.assert_close(given, expected, rtol=1e-6, atol=1e-6)
    assert examples.normalization.name == f"weights:{models.get_weight(name)}"
    record = examples.describe()
    assert (record["crop"], record["resize"]) == (prepare.crop_size[0], prepare.resize_size[0])


def test_sizes_are_recorded_and_are_part_of_the_data(photographs: Path) -> None:
    first = load_examples(f"folder:{photographs}", normalize="none", resize="40", crop="32")
    other = load_examples(f"folder:{photographs}", normalize="none", resize="48", crop="32")
    assert first.describe()["resize"] == 40
    assert first.describe()["interpolation"] == "bilinear"
    assert first.identity != other.identity
    assert "resize" not in load_examples("digits", limit=3).describe()


def test_gray_images_stay_gray() -> None:
    assert load_examples("digits", limit=3, resize=16, crop="12").inputs.shape == (3, 1, 12, 12)


@pytest.mark.parametrize(
    ("resize", "crop", "says"),
    [
        ("big", None, "--resize 'big': type N or HxW"),
        ("0", None, "from 1 to 4096"),
        ("99999", None, "from 1 to 4096"),
        ("3x4x5", None, "type N or HxW"),
        (None, "-3", "--crop '-3'"),
        (None, "", "--crop ''"),
        ("16", "20", "crop at most what is there"),
        ("16x30", "20", "crop at most what is there"),
    ],
)
def test_sizes_that_cannot_be_are_refused(resize: str | None, crop: str | None, says: str) -> None:
    assert says in refusal(UsageError, "digits", resize=resize, crop=crop)


def test_a_long_image_may_have_a_long_part_cut_out() -> None:
    assert read_resizing("16", "16x40").crop == (16, 40)


def test_an_image_smaller_than_its_crop_is_refused_by_name(photographs: Path) -> None:
    message = refusal(DataError, f"folder:{photographs}", normalize="none", crop="50")
    assert "0.png: 61×40 pixels, smaller than --crop 50x50" in message
    save_image(photographs / "other" / "class" / "long.png", size=(30_000, 10))
    message = refusal(DataError, f"folder:{photographs}/other", normalize="none", resize="400")
    assert "--resize would make it 1200000×400 pixels" in message


def test_weights_that_are_none_are_refused(photographs: Path) -> None:
    for name in ("ResNet18", "ResNet18_Weights.NONE", "FasterRCNN_ResNet50_FPN_Weights.DEFAULT", "os.system"):
        assert "no classifier's weights" in refusal(UsageError, f"folder:{photographs}", normalize=f"weights:{name}")
    given = {"normalize": "weights:ResNet18_Weights.DEFAULT", "resize": "64"}
    assert "brings its own sizes" in refusal(UsageError, f"folder:{photographs}", **given)
