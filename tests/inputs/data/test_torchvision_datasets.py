import hashlib
import importlib.util
import os
import pickle  # noqa: TID251  # CIFAR's genuine files are pickles; these are written here
from collections.abc import Callable, Iterable
from pathlib import Path
from urllib.error import URLError

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision import datasets as torchvision_datasets

from fisher_cli.errors import DataError, UsageError
from fisher_cli.inputs.data.normalization import NAMED
from fisher_cli.inputs.data.torchvision_datasets import DATASETS
from tests.data_files import random_images, refusal, save_image, write_cifar, write_mnist
from tests.loading import load_examples
from tests.long_lists import some
from tests.torchvision_layouts import WRITERS

pytestmark = pytest.mark.usefixtures("workdir")


def test_cifar10_is_read_from_its_python_batches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pixels, labels = write_cifar(tmp_path / "files", monkeypatch)
    train = load_examples("CIFAR-10", data_dir=str(tmp_path / "files"), limit=None)
    test = load_examples("cifar10", data_dir=str(tmp_path / "files"), split="test", limit=None)
    assert torch.equal(train.inputs, torch.from_numpy(pixels[:50].reshape(50, 3, 32, 32)))
    assert torch.equal(test.inputs, torch.from_numpy(pixels[50:].reshape(10, 3, 32, 32)))
    assert train.labels.tolist() + test.labels.tolist() == labels
    assert (train.name, train.split, train.total, train.classes) == ("cifar10", "train", 50, 10)
    assert train.class_names[3] == "class 3"
    assert train.normalization == NAMED["cifar10"]
    assert load_examples("cifar10", data_dir=str(tmp_path / "files"), limit=7).inputs.shape == (7, 3, 32, 32)


def test_a_damaged_cifar10_batch_is_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_cifar(tmp_path, monkeypatch)
    (tmp_path / "cifar-10-batches-py" / "data_batch_2").write_bytes(pickle.dumps({"data": 1}))
    assert "no intact files" in refusal(DataError, "cifar10", data_dir=str(tmp_path))


def test_the_data_folder_is_the_option_then_the_environment_then_data(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_cifar(tmp_path / "a" / "data", monkeypatch)
    monkeypatch.chdir(tmp_path / "a")
    assert len(load_examples("cifar10")) == 50
    monkeypatch.chdir(tmp_path)
    assert f"{tmp_path / 'data'};" in refusal(DataError, "cifar10")
    monkeypatch.setenv("FISHER_DATA_DIR", str(tmp_path / "a" / "data"))
    assert len(load_examples("cifar10")) == 50
    assert f"{tmp_path / 'b'};" in refusal(DataError, "cifar10", data_dir=str(tmp_path / "b"))


def test_nothing_is_downloaded_unasked_and_the_remedies_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = []

    def download(self: torchvision_datasets.CIFAR10) -> None:
        asked.append(self.root)
        print("Extracting")
        write_cifar(Path(self.root), monkeypatch)

    monkeypatch.setattr(torchvision_datasets.CIFAR10, "download", download)
    message = refusal(DataError, "cifar10", data_dir=str(tmp_path / "files"))
    assert "type --download" in message
    assert "--data-dir DIR" in message
    assert asked == []
    assert not (tmp_path / "files").exists()
    assert len(load_examples("cifar10", data_dir=str(tmp_path / "files"), download=True)) == 50
    assert asked == [str(tmp_path / "files")]
    assert capsys.readouterr().out == ""  # stdout is for results
    assert len(load_examples("cifar10", data_dir=str(tmp_path / "files"))) == 50


def test_a_download_that_fails_is_told_in_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def download(self: torchvision_datasets.CIFAR10) -> None:
        raise URLError("no route\nto " + self.url)

    monkeypatch.setattr(torchvision_datasets.CIFAR10, "download", download)
    message = refusal(DataError, "cifar10", data_dir=str(tmp_path), download=True)
    assert "no route to https://" in message
    assert "check the network" in message
    assert "put it into" in refusal(DataError, "fer2013", data_dir=str(tmp_path), download=True)


@pytest.mark.parametrize(
    ("name", "folder"), [("mnist", "MNIST"), ("fashion-mnist", "FashionMNIST"), ("kmnist", "KMNIST")]
)
def test_mnist_and_its_kin_are_read_from_idx_files_with_one_channel(name: str, folder: str, tmp_path: Path) -> None:
    images = write_mnist(tmp_path / folder / "raw")
    train = load_examples(name, data_dir=str(tmp_path))
    test = load_examples(name, data_dir=str(tmp_path), split="test")
    assert torch.equal(torch.cat([train.inputs, test.inputs])[:, 0], torch.from_numpy(images))
    assert train.labels.tolist() == [i % 10 for i in range(15)]
    assert train.normalization == NAMED[name]
    mean, std = NAMED[name].mean[0], NAMED[name].std[0]
    torch.testing.assert_close(test.batch(0, 5)[0], (test.inputs / 255 - mean) / std)


@pytest.mark.parametrize("split", ["train", "test"])
def test_the_files_of_the_split_that_is_asked_for_are_enough(
    split: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_mnist(tmp_path / "MNIST" / "raw")
    write_cifar(tmp_path, monkeypatch)
    batches, other = tmp_path / "cifar-10-batches-py", {"train": "t10k", "test": "train"}[split]
    for path in (tmp_path / "MNIST" / "raw").glob(f"{other}-*"):
        path.unlink()
    for path in batches.glob("test_batch" if split == "train" else "data_batch_*"):
        path.unlink()
    for name in ("mnist", "cifar10"):
        assert load_examples(name, data_dir=str(tmp_path), split=split, normalize="none").split == split
        other_split = {"train": "test", "test": "train"}[split]
        assert "no intact files" in refusal(DataError, name, data_dir=str(tmp_path), split=other_split)


def test_emnists_splits_into_classes_are_names_of_their_own(tmp_path: Path) -> None:
    raw = tmp_path / "EMNIST" / "raw"
    write_mnist(raw, ("emnist-letters-train", "emnist-letters-test"), first_label=1)
    test = load_examples("emnist-letters", data_dir=str(tmp_path), split="test", normalize="none")
    assert (test.total, test.classes, test.labels[0].item()) == (5, 27, 6)
    assert test.class_names[1] == "a"
    assert "--normalize" in refusal(DataError, "emnist-letters", data_dir=str(tmp_path))


def test_a_damaged_idx_file_or_label_is_refused(tmp_path: Path) -> None:
    write_mnist(tmp_path / "MNIST" / "raw", first_label=5)
    message = refusal(DataError, "mnist", data_dir=str(tmp_path))
    assert "example 5 has the label 10" in message
    labels = tmp_path / "MNIST" / "raw" / "train-labels-idx1-ubyte"
    labels.write_bytes(labels.read_bytes()[:9])
    assert "cannot be read" in refusal(DataError, "mnist", data_dir=str(tmp_path))


def test_svhn_is_read_with_scipy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scipy_io = pytest.importorskip("scipy.io")
    images = random_images(4, 32, 32, 3)
    path = tmp_path / "test_32x32.mat"
    scipy_io.savemat(path, {"X": images.transpose(1, 2, 3, 0), "y": np.array([[1], [10], [2], [9]], dtype=np.uint8)})
    digest = hashlib.md5(path.read_bytes()).hexdigest()
    table = {**torchvision_datasets.SVHN.split_list, "test": ["", path.name, digest]}
    monkeypatch.setattr(torchvision_datasets.SVHN, "split_list", table)
    examples = load_examples("svhn", data_dir=str(tmp_path), split="test")
    assert torch.equal(examples.inputs, torch.from_numpy(images.transpose(0, 3, 1, 2)))
    assert examples.labels.tolist() == [1, 0, 2, 9]


def test_a_dataset_that_needs_scipy_says_so_where_there_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    find_spec: Callable[[str], object] = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "scipy" else find_spec(name))
    assert "type: pip install scipy" in refusal(DataError, "svhn")


def test_a_damaged_image_of_a_dataset_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "gtsrb" / "GTSRB" / "Training" / "00000" / "1.ppm"
    path.parent.mkdir(parents=True)
    path.write_bytes(b"damaged")
    message = refusal(DataError, "gtsrb", data_dir=str(tmp_path), normalize="none")
    assert "example 0" in message
    assert "--download" in message


def each_dataset(names: Iterable[str]) -> list[object]:
    """CelebA's forty attributes differ in a column only: a part of them by default."""
    return some(sorted(names), part=0.02, always=lambda name: not name.startswith("celeba-"))


@pytest.mark.parametrize("name", each_dataset(DATASETS.keys() - {"fake-data"}))
def test_every_reader_knows_its_splits_and_makes_nothing_on_disk(name: str, tmp_path: Path) -> None:
    entry = DATASETS[name]
    for split in entry.splits or (None,):
        message = refusal(DataError, name, split=split, data_dir=str(tmp_path))
        if entry.needs is not None and importlib.util.find_spec(entry.needs) is None:
            assert f"pip install {entry.needs}" in message
        else:
            assert message.startswith(f"{name}: no intact files of it in {tmp_path}; ")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", each_dataset(WRITERS))
def test_every_layout_is_read_with_its_labels(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    entry = DATASETS[name]
    pytest.importorskip(entry.needs or "torchvision")
    expected = WRITERS[name](tmp_path, monkeypatch)
    before = sorted(tmp_path.rglob("*"))
    assert set(entry.splits) - {"test50k"} <= set(expected) | {None}
    for split, labels in expected.items():
        examples = load_examples(
            name, data_dir=str(tmp_path), split=split, limit=None, normalize="none", resize="16x16"
        )
        assert (examples.split, examples.labels.tolist()) == (split, labels)
        assert examples.inputs.shape[1] in {1, 3}
        assert examples.classes is not None
    assert sorted(tmp_path.rglob("*")) == before


def test_every_name_has_a_layout() -> None:
    assert {*WRITERS, "fake-data"} == set(DATASETS)


def test_fake_data_need_no_files() -> None:
    theirs = torchvision_datasets.FakeData()
    ours = load_examples("fake-data", limit=3, normalize="none")
    for image, label, index in zip(ours.inputs, ours.labels, ours.indices.tolist(), strict=True):
        expected, expected_label = theirs[index]
        assert torch.equal(image, torch.from_numpy(np.array(expected)).permute(2, 0, 1))
        assert label == expected_label


@pytest.mark.parametrize("name", ["sun397", "inaturalist-2021", "inaturalist-2019"])
def test_the_order_is_not_that_of_the_disk(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    WRITERS[name](tmp_path, monkeypatch)
    first = load_examples(name, data_dir=str(tmp_path), normalize="none")
    listdir, rglob = os.listdir, Path.rglob
    monkeypatch.setattr(os, "listdir", lambda path: listdir(path)[::-1])
    monkeypatch.setattr(Path, "rglob", lambda path, pattern: reversed(list(rglob(path, pattern))))
    assert load_examples(name, data_dir=str(tmp_path), normalize="none").identity == first.identity


def test_characters_are_counted_by_split(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    WRITERS["omniglot"](tmp_path, monkeypatch)
    examples = load_examples("omniglot", data_dir=str(tmp_path), normalize="none")
    assert (examples.split, examples.classes, tuple(examples.inputs.shape)) == ("background", 3, (3, 1, 105, 105))
    assert examples.inputs.unique().tolist() == [0, 255]


@pytest.mark.parametrize("name", ["cifar10", "cifar100"])
@pytest.mark.parametrize("part", range(3))
def test_a_pickle_is_not_opened_unless_its_checksum_holds(
    name: str, part: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    WRITERS[name](tmp_path, monkeypatch)
    reader = getattr(torchvision_datasets, name.upper())
    file = (reader.train_list[0][0], reader.test_list[0][0], reader.meta["filename"])[part]
    path = tmp_path / reader.base_folder / file
    path.write_bytes(b"cposix\nmkdir\n(V" + str(tmp_path / "canary").encode() + b"\ntR." + path.read_bytes())
    for number, split in enumerate(("train", "test")):
        if part in (number, 2):
            assert "no intact files" in refusal(DataError, name, data_dir=str(tmp_path), split=split)
        else:  # the file is of the other split, and is not looked at
            assert load_examples(name, data_dir=str(tmp_path), split=split).split == split
    assert not (tmp_path / "canary").exists()
    pickle.loads(path.read_bytes())  # the canary sings where it is opened
    assert (tmp_path / "canary").exists()


def test_the_tensor_files_of_old_versions_are_not_loaded(tmp_path: Path) -> None:
    for name in ("training.pt", "test.pt"):
        (tmp_path / "MNIST" / "processed").mkdir(parents=True, exist_ok=True)
        torch.save((torch.zeros(1, 28, 28, dtype=torch.uint8), torch.zeros(1)), tmp_path / "MNIST" / "processed" / name)
    assert "no intact files" in refusal(DataError, "mnist", data_dir=str(tmp_path))
    write_mnist(tmp_path / "MNIST" / "raw")
    assert load_examples("mnist", data_dir=str(tmp_path)).total == 15


@pytest.mark.parametrize(("name", "place"), [("caltech101", "101_ObjectCategories/accordion/image_0001.jpg"),
                                             ("food101", "images/waffles/1.jpg")])  # fmt: skip
def test_images_of_other_formats_are_not_opened(
    name: str, place: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    WRITERS[name](tmp_path, monkeypatch)
    path = next(tmp_path.glob(f"*/{place}"))
    Image.new("RGB", (6, 5)).save(path, format="EPS")
    assert "no JPEG, PNG" in refusal(DataError, name, data_dir=str(tmp_path), normalize="none")


@pytest.mark.parametrize("word", ["train", "training", "TRAIN"])
def test_words_for_splits_mean_the_same(word: str) -> None:
    assert load_examples("digits", split=word, limit=1).split == "train"


@pytest.mark.parametrize(
    ("name", "word", "split"),
    [
        ("imagenette", "validation", "val"),
        ("country211", "val", "valid"),
        ("celeba-smiling", "dev", "valid"),
        ("places365", "training", "train"),
        ("inaturalist-2021", "valid", "val"),
    ],
)
def test_a_split_goes_by_the_dataset_s_own_word(
    name: str, word: str, split: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    WRITERS[name](tmp_path, monkeypatch)
    assert load_examples(name, data_dir=str(tmp_path), split=word, normalize="none").split == split


def test_a_part_that_is_only_there_for_training_and_validation_together_is_not_guessed() -> None:
    assert "there are trainval, test" in refusal(UsageError, "oxford-iiit-pet", split="train")


def test_lsun_is_refused() -> None:
    assert "unpickles files" in refusal(DataError, "LSUN")
    assert "--data folder:DIR" in refusal(DataError, "lsun-bedroom")


# ImageNet itself


def write_imagenet(root: Path, classes: int = 1000) -> None:
    for split in ("train", "val"):
        for number in range(classes):
            (root / split / f"n{number:08d}").mkdir(parents=True)
        save_image(root / split / "n00000003" / "n00000003_1.JPEG", size=(40, 30))
        save_image(root / split / "n00000000" / "x.JPEG", size=(30, 40))


def test_imagenet_is_read_from_its_class_folders(tmp_path: Path) -> None:
    write_imagenet(tmp_path / "ILSVRC2012")
    examples = load_examples(
        "imagenet", data_dir=str(tmp_path), split="validation", normalize="weights:ResNet18_Weights.IMAGENET1K_V1"
    )
    assert (examples.split, examples.classes, examples.labels.tolist()) == ("val", 1000, [0, 3])
    assert examples.inputs.shape == (2, 3, 224, 224)
    direct = load_examples("ImageNet", data_dir=str(tmp_path / "ILSVRC2012"), resize=32, crop=28)
    assert direct.normalization == NAMED["imagenet"]
    assert "there are train, val" in refusal(UsageError, "imagenet", data_dir=str(tmp_path), split="test")


def test_a_part_of_imagenet_is_no_imagenet(tmp_path: Path) -> None:
    write_imagenet(tmp_path, classes=10)
    message = refusal(DataError, "imagenet", data_dir=str(tmp_path), split="val")
    assert "10 class folders, not 1000" in message
    assert f"--data folder:{tmp_path} --split val --normalize imagenet" in message
    assert "--data folder:DIR --normalize imagenet" in refusal(DataError, "imagenet", data_dir=str(tmp_path / "none"))
