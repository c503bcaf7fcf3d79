from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision import datasets as torchvision_datasets

from fisher_cli.errors import DataError, UsageError
from tests.data_files import refusal, save_image
from tests.loading import load_examples

pytestmark = pytest.mark.usefixtures("workdir")


def test_a_folder_is_read_in_image_folders_order_and_in_rgb(image_folder: Path) -> None:
    theirs = torchvision_datasets.ImageFolder(image_folder)
    ours = load_examples(f"folder:{image_folder}", normalize="none")
    assert ours.labels.tolist() == theirs.targets
    assert ours.class_names == tuple(theirs.classes) == ("Dog", "cat")
    assert (ours.classes, ours.total, ours.split) == (2, 6, None)
    assert ours.inputs.dtype == torch.uint8
    for image, (expected, _) in zip(ours.inputs, theirs, strict=True):
        assert torch.equal(image, torch.from_numpy(np.array(expected)).permute(2, 0, 1))


def test_only_the_selected_images_are_opened(tmp_path: Path) -> None:
    for i in range(40):
        path = tmp_path / "images" / "class" / f"{i:02d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"damaged")
    chosen = torch.randperm(40, generator=torch.Generator().manual_seed(0))[:3]
    for i in chosen.tolist():
        save_image(tmp_path / "images" / "class" / f"{i:02d}.png")
    assert len(load_examples(f"folder:{tmp_path}/images", normalize="none", limit=3)) == 3
    message = refusal(DataError, f"folder:{tmp_path}/images", normalize="none", limit=4)
    assert ".png: its content is no JPEG, PNG or WEBP image" in message


def test_a_split_of_a_folder_is_a_folder_in_it(image_folder: Path) -> None:
    root = image_folder.parent / "splits"
    (root).mkdir()
    image_folder.rename(root / "val")
    save_image(root / "train" / "cat" / "only.png")
    assert len(load_examples(f"folder:{root}", split="val", normalize="none")) == 6
    assert load_examples(f"folder:{root}", split="train", normalize="none").split == "train"
    assert "there are train, val" in refusal(UsageError, f"folder:{root}", split="test", normalize="none")
    assert "--split train" in refusal(UsageError, f"folder:{root}", normalize="none")
    assert "there are train, val" in refusal(UsageError, f"folder:{root}", split="..", normalize="none")


def test_a_missing_or_empty_folder_is_refused(tmp_path: Path) -> None:
    assert "there is no such folder" in refusal(DataError, f"folder:{tmp_path}/none")
    (tmp_path / "file").write_text("")
    assert "is no folder" in refusal(DataError, f"folder:{tmp_path}/file")
    (tmp_path / "flat").mkdir()
    save_image(tmp_path / "flat" / "a.png")
    assert "DIR/CLASS/IMAGE.jpg" in refusal(DataError, f"folder:{tmp_path}/flat")


def test_images_of_differing_sizes_are_refused_naming_the_first_two(image_folder: Path) -> None:
    save_image(image_folder / "cat" / "c.png", size=(7, 5))
    message = refusal(DataError, f"folder:{image_folder}", normalize="none")
    assert f"{image_folder}/Dog/10.PNG is 6×5 with 3 channels" in message
    assert f"{image_folder}/cat/c.png is 7×5 with 3 channels" in message
    assert "--resize and --crop" in message


def test_a_truncated_image_is_refused_by_its_path(image_folder: Path) -> None:
    path = image_folder / "cat" / "a.jpg"
    path.write_bytes(path.read_bytes()[:-200])
    assert str(path) in refusal(DataError, f"folder:{image_folder}", normalize="none")
    path.unlink()
    assert len(load_examples(f"folder:{image_folder}", normalize="none")) == 5


def test_a_file_of_another_format_is_not_opened_whatever_its_name(image_folder: Path) -> None:
    Image.new("RGB", (6, 5)).save(image_folder / "cat" / "b.png", format="GIF")
    assert "b.png" in refusal(DataError, f"folder:{image_folder}", normalize="none")


def test_image_formats_that_would_shift_the_indices_are_refused(image_folder: Path) -> None:
    save_image(image_folder / "cat" / "c.bmp")
    assert "convert it to PNG" in refusal(DataError, f"folder:{image_folder}", normalize="none")


def test_an_image_of_sixteen_bits_is_refused(image_folder: Path) -> None:
    Image.fromarray(np.full((5, 6), 40_000, dtype=np.uint16)).save(image_folder / "cat" / "b.png")
    assert "8 bits" in refusal(DataError, f"folder:{image_folder}", normalize="none")


def test_a_link_that_leads_back_is_refused(image_folder: Path) -> None:
    (image_folder / "cat" / "again").symlink_to(image_folder / "cat")
    assert "remove the link" in refusal(DataError, f"folder:{image_folder}", normalize="none")


def test_a_file_name_with_a_line_break_is_shown_in_one_line(image_folder: Path) -> None:
    (image_folder / "cat" / "a\nb.png").write_bytes(b"damaged")
    assert "a\\nb.png" in refusal(DataError, f"folder:{image_folder}", normalize="none")


def test_a_folder_of_the_same_images_has_the_same_identity_anywhere(image_folder: Path) -> None:
    first = load_examples(f"folder:{image_folder}", normalize="none")
    moved = image_folder.rename(image_folder.parent / "elsewhere")
    assert load_examples(f"folder:{moved}", normalize="none").identity == first.identity
