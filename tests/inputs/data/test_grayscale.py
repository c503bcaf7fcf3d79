"""Grey images are read with one channel where the network takes one; --grayscale converts images with colours."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn
from torchvision import transforms

from fisher_cli import analyze
from fisher_cli.errors import DataError
from fisher_cli.inputs.networks.shapes import takes_one_channel
from tests.data_files import refusal, save_image
from tests.loading import load_examples

SIDE = 6


@pytest.fixture
def grey(tmp_path: Path) -> Path:
    """Six grey images in two classes."""
    for number in range(6):
        save_image(tmp_path / "grey" / f"class {number % 2}" / f"{number}.png", (SIDE, SIDE), "L", number)
    return tmp_path / "grey"


def pixels(folder: Path, mode: str) -> torch.Tensor:
    images = [np.atleast_3d(np.array(Image.open(path).convert(mode))) for path in sorted(folder.glob("*/*.png"))]
    return torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2)


def network(channels: int, kind: str = "convolution") -> nn.Sequential:
    torch.manual_seed(0)
    inputs = channels * SIDE * SIDE
    if kind == "linear":
        return nn.Sequential(nn.Flatten(), nn.Linear(inputs, 2))
    return nn.Sequential(nn.Conv2d(channels, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(4 * (SIDE - 2) ** 2, 2))


@pytest.mark.parametrize("kind", ["convolution", "linear"])
@pytest.mark.parametrize("channels", [1, 3])
def test_grey_images_have_as_many_channels_as_the_network_takes(
    kind: str, channels: int, grey: Path, tmp_path: Path
) -> None:
    model = network(channels, kind)
    torch.save(model.state_dict(), tmp_path / "a.pt")
    constants = "/".join([",".join(["0.5"] * channels)] * 2)
    words = {"model": model, "eigenvalues": 0, "limit": None}
    found = analyze(tmp_path / "a.pt", f"folder:{grey}", normalize=constants, **words).table
    assert list(found["error"].fillna("")) == [""]
    images = (pixels(grey, "L" if channels == 1 else "RGB") / 255 - 0.5) / 0.5
    labels = torch.tensor([0, 0, 0, 1, 1, 1])
    expected = analyze(tmp_path / "a.pt", (images, labels), **words).table
    assert found["trace_true"][0] == pytest.approx(expected["trace_true"][0], rel=1e-6)


def test_colours_are_never_left_out_unasked_and_grayscale_converts_as_torchvision_does(
    grey: Path, tmp_path: Path
) -> None:
    model = network(1)
    torch.save(model.state_dict(), tmp_path / "a.pt")
    save_image(grey / "class 1" / "7.png", (SIDE, SIDE), "RGB")
    words = {"model": model, "eigenvalues": 0, "limit": None, "normalize": "none"}
    with pytest.raises(DataError, match=r"7\.png: has colours, and the network takes one channel; .*grayscale="):
        analyze(tmp_path / "a.pt", f"folder:{grey}", **words)
    found = analyze(tmp_path / "a.pt", f"folder:{grey}", grayscale=True, **words)
    assert list(found.table["status"]) == ["ok"]
    converted = load_examples(f"folder:{grey}", normalize="none", grayscale=True)
    theirs = [
        np.array(transforms.Grayscale()(Image.open(path).convert("RGB"))) for path in sorted(grey.glob("*/*.png"))
    ]
    assert torch.equal(converted.inputs[:, 0], torch.from_numpy(np.stack(theirs)))
    assert converted.describe()["grayscale"] is True
    assert "grayscale" not in load_examples(f"folder:{grey}", normalize="none").describe()


def test_images_of_one_channel_stay_and_numbers_are_refused(tmp_path: Path) -> None:
    same = load_examples("digits", limit=4, grayscale=True)
    assert same.identity == load_examples("digits", limit=4).identity
    assert "grayscale" not in same.describe()
    np.savez(tmp_path / "a.npz", x=np.ones((4, 3), dtype=np.float32), y=np.zeros(4, dtype=np.int64))
    assert "--grayscale is for images" in refusal(DataError, str(tmp_path / "a.npz"), grayscale=True)


@pytest.mark.parametrize(
    ("layers", "takes"),
    [
        ([nn.Conv2d(1, 2, 3)], True),
        ([nn.Conv2d(3, 2, 3), nn.Conv2d(1, 2, 3)], False),
        ([nn.Flatten(), nn.Linear(20, 3)], True),
        ([nn.Flatten(), nn.Linear(60, 20), nn.Linear(20, 3)], False),
        ([nn.ReLU()], False),
    ],
)
def test_the_first_layer_that_shows_it_tells_the_channels(layers: list[nn.Module], takes: bool) -> None:
    assert takes_one_channel(nn.Sequential(*layers), (4, 5)) is takes
