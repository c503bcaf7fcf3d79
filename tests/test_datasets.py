import bz2
import gzip
import hashlib
import importlib.util
import math
import pickle  # noqa: TID251  # CIFAR's genuine files are pickles; these are written here
import struct
from collections.abc import Callable
from pathlib import Path
from urllib.error import URLError

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision import datasets as torchvision_datasets

import fisher_cli.inputs.datasets
from fisher_cli.errors import DataError, FisherError, UsageError
from fisher_cli.inputs.datasets import Examples, known_datasets, load_examples
from fisher_cli.inputs.normalization import NAMED
from fisher_cli.inputs.torchvision_datasets import DATASETS


@pytest.fixture(autouse=True)
def _no_data_dir(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("FISHER_DATA_DIR", raising=False)
    monkeypatch.chdir(tmp_path)


def refusal(kind: type[FisherError], data: str, **options: object) -> str:
    with pytest.raises(FisherError) as caught:
        load_examples(data, **options)
    assert type(caught.value) is kind
    message = str(caught.value)
    assert "\n" not in message
    return message


# The digits


def test_the_digits_are_the_ones_of_scikit_learn() -> None:
    sklearn_datasets = pytest.importorskip("sklearn.datasets")
    pixels, labels = sklearn_datasets.load_digits(return_X_y=True)
    order = np.random.RandomState(0).permutation(1797)
    train = load_examples("digits", limit=None)
    test = load_examples("digits", split="test", limit=None)
    assert (len(train), len(test)) == (1400, 397)
    inputs = torch.cat([train.inputs, test.inputs]).reshape(1797, 64)
    assert torch.equal(inputs.double(), torch.from_numpy(pixels[order]))
    assert torch.equal(torch.cat([train.labels, test.labels]), torch.from_numpy(labels[order]))


def test_digits_are_stored_as_integers_and_divided_by_sixteen_only() -> None:
    examples = load_examples("digits", limit=None)
    assert examples.inputs.shape == (1400, 1, 8, 8)
    assert examples.inputs.dtype == torch.uint8
    inputs, labels = examples.batch(10, 30)
    assert inputs.dtype == torch.float32
    assert torch.equal(inputs, examples.inputs[10:30].float() / 16)
    assert torch.equal(labels, examples.labels[10:30])
    assert examples.normalization.name == "digits"
    assert (examples.normalization.mean, examples.normalization.std) == ((0.0,), (1.0,))
    assert (examples.split, examples.classes, examples.total) == ("train", 10, 1400)
    assert examples.class_names == tuple("0123456789")
    assert examples.noisy is None


def test_the_digits_file_holds_no_time_and_no_name() -> None:
    data = (Path(fisher_cli.inputs.datasets.__file__).parent / "digits.csv.gz").read_bytes()
    assert data[3:8] == bytes(5)  # flags (no file name) and time
    text_digest = hashlib.sha256(gzip.decompress(data)).hexdigest()
    assert text_digest == "6ebb3d2fee246a4e99363262ddf8a00a3c41bee6014c373ed9d9216ba7f651b8"


# Names, splits and the selection


@pytest.mark.parametrize("name", ["digits", "DIGITS", " Digits"])
def test_names_ignore_case_hyphens_and_underscores(name: str) -> None:
    assert load_examples(name, limit=1).name == "digits"


def test_a_name_may_be_written_as_torchvision_writes_it(tmp_path: Path) -> None:
    for name in ("FashionMNIST", "fashion_mnist", "Fashion-MNIST"):
        assert refusal(DataError, name, data_dir=str(tmp_path)).startswith("fashion-mnist: ")


@pytest.mark.parametrize(("name", "near"), [("cifar", "cifar10"), ("cifra10", "cifar10"), ("emnist", "emnist-letters")])
def test_an_unknown_name_is_refused_with_its_neighbours(name: str, near: str) -> None:
    message = refusal(DataError, name)
    assert near in message
    assert "fisher datasets lists them" in message


def test_an_empty_or_odd_name_is_refused_in_one_line() -> None:
    assert "unknown dataset" in refusal(DataError, "")
    assert "unknown dataset" in refusal(DataError, "no\nsuch")


def test_a_plain_path_is_answered_with_the_word_for_folders(tmp_path: Path) -> None:
    assert f"--data folder:{tmp_path}" in refusal(DataError, str(tmp_path))
    assert "--data folder:DIR" in refusal(UsageError, "folder:")
    assert "--data folder:DIR --normalize imagenet" in refusal(DataError, "imagenet")


def test_known_datasets_are_sorted_and_each_finds_itself() -> None:
    names = known_datasets()
    assert names == sorted(names)
    assert {"digits", "cifar10", "svhn", "imagenette"} <= set(names)


def test_an_unknown_split_is_a_usage_error_that_names_those_there_are() -> None:
    assert "there are train, test" in refusal(UsageError, "digits", split="validation")
    assert "there are train, test, extra" in refusal(UsageError, "svhn", split="val")
    assert "leave --split out" in refusal(UsageError, "eurosat", split="train")


def test_the_selection_is_the_head_of_a_seeded_permutation_sorted() -> None:
    examples = load_examples("digits", limit=100, seed=3)
    expected = torch.randperm(1400, generator=torch.Generator().manual_seed(3))[:100].sort().values
    everything = load_examples("digits", limit=None)
    assert torch.equal(examples.indices, expected)
    assert torch.equal(examples.inputs, everything.inputs[expected])
    assert torch.equal(examples.labels, everything.labels[expected])


@pytest.mark.parametrize("limit", [1400, 5000, None])
def test_a_limit_that_reaches_the_size_selects_all_in_order(limit: int | None) -> None:
    assert torch.equal(load_examples("digits", limit=limit, seed=9).indices, torch.arange(1400))


@pytest.mark.parametrize("limit", [0, -3])
def test_a_limit_below_one_is_a_usage_error(limit: int) -> None:
    assert "at least 1" in refusal(UsageError, "digits", limit=limit)


def test_a_seed_that_cannot_seed_is_a_usage_error() -> None:
    assert "--seed -1" in refusal(UsageError, "digits", seed=-1)
    assert "--seed" in refusal(UsageError, "digits", seed=2**63)


# Identity


def test_the_same_data_have_the_same_identity_and_any_change_another(tmp_path: Path) -> None:
    first = load_examples("digits", limit=50)
    assert first.identity == load_examples("Digits", limit=50, split="train").identity
    assert first.identity.startswith("sha256:")
    changed = labels_file(tmp_path, [(i, (i + 1) % 10) for i in range(1400)])
    others = [
        load_examples("digits", limit=51),
        load_examples("digits", limit=50, seed=1),
        load_examples("digits", limit=50, split="test"),
        load_examples("digits", limit=50, normalize="half"),
        load_examples("digits", limit=50, labels=changed),
    ]
    assert len({first.identity, *(other.identity for other in others)}) == 6


def test_the_identity_asks_for_the_numbers_of_the_normalisation_not_its_name() -> None:
    named = load_examples("digits", limit=50, normalize="half")
    typed = load_examples("digits", limit=50, normalize="0.5/0.5")
    assert (named.normalization.name, typed.normalization.name) == ("half", "custom")
    assert named.identity == typed.identity


# Normalisation


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


@pytest.mark.parametrize("asked", ["auto", "cifra10", "", "0.5", "digits"])
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


# Labels files


def labels_file(folder: Path, rows: list[tuple[object, ...]], header: str = "index,label") -> str:
    path = folder / "labels.csv"
    path.write_text("\n".join([header, *(",".join(map(str, row)) for row in rows)]) + "\n")
    return str(path)


def test_a_labels_file_replaces_the_labels_of_the_selected_examples(tmp_path: Path) -> None:
    rows = [(i, (7 * i) % 11, i % 2) for i in reversed(range(1400))]
    path = labels_file(tmp_path, rows, header="index,label,noisy")
    examples = load_examples("digits", limit=20, labels=path)
    assert torch.equal(examples.labels, (7 * examples.indices) % 11)
    assert examples.noisy is not None
    assert torch.equal(examples.noisy, examples.indices % 2 == 1)
    assert examples.classes is None  # the network decides which labels there can be
    assert examples.class_names == ()


def test_a_labels_file_needs_only_the_selected_examples_and_may_come_from_a_spreadsheet(
    tmp_path: Path,
) -> None:
    chosen = load_examples("digits", limit=20).indices.tolist()
    path = tmp_path / "labels.csv"
    path.write_bytes(b"\xef\xbb\xbfIndex, Label\r\n" + b"".join(b"%d, 3\r\n" % i for i in chosen) + b"\r\n")
    examples = load_examples("digits", limit=20, labels=str(path))
    assert examples.labels.tolist() == [3] * 20
    assert examples.noisy is None


@pytest.mark.parametrize(
    ("text", "line", "says"),
    [
        ("", "line 1", "index,label"),
        ("index;label\n0;1\n", "line 1", "index,label,noisy"),
        ("label,index\n0,1\n", "line 1", "index,label"),
        ("index,label\n0,1\nx,1\n", "line 3", "index 'x' is no integer"),
        ("index,label\n0,1.5\n", "line 2", "label '1.5' is no integer"),
        ("index,label\n0,-1\n", "line 2", "from 0 up"),
        ("index,label\n-1,1\n", "line 2", "from 0 up"),
        ("index,label\n0,99999999999999999999\n", "line 2", "no integer"),
        ("index,label\n0,1_0\n", "line 2", "no integer"),
        ("index,label\n0,1\n1,1\n0,2\n", "line 4", "in line 2 already"),
        ("index,label\n1400,1\n", "line 2", "--split"),
        ("index,label\n0\n", "line 2", "1 cells, not 2"),
        ("index,label,noisy\n0,1,maybe\n", "line 2", "0, 1, false, true"),
        ("index,label\n0,1\n1,1\n", "line 3", "without a label for example 2 and 1397 more"),
    ],
)
def test_a_labels_file_with_a_fault_is_refused_with_the_line(text: str, line: str, says: str, tmp_path: Path) -> None:
    path = tmp_path / "labels.csv"
    path.write_text(text)
    message = refusal(DataError, "digits", limit=None, labels=str(path))
    assert message.startswith(f"{path}: ")
    assert line in message
    assert says in message


def test_a_labels_file_that_cannot_be_read_is_refused(tmp_path: Path) -> None:
    assert "No such file" in refusal(DataError, "digits", labels=str(tmp_path / "none.csv"))
    assert "--labels FILE" in refusal(DataError, "digits", labels=str(tmp_path))
    (tmp_path / "latin.csv").write_bytes(b"index,label\n0,\xff\n")
    assert "UTF-8" in refusal(DataError, "digits", labels=str(tmp_path / "latin.csv"))


# Image folders


def save_image(path: Path, size: tuple[int, int] = (6, 5), mode: str = "RGB", seed: int = 0) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    channels = {"RGB": (3,), "L": (), "RGBA": (4,)}[mode]
    pixels = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], *channels), dtype=np.uint8)
    Image.fromarray(pixels).save(path)


@pytest.fixture
def image_folder(tmp_path: Path) -> Path:
    root = tmp_path / "images"
    save_image(root / "cat" / "b.png", seed=1)
    save_image(root / "cat" / "a.jpg", seed=2)
    save_image(root / "cat" / "deeper" / "0.webp", seed=3)
    save_image(root / "Dog" / "10.PNG", mode="L", seed=4)
    save_image(root / "Dog" / "9.jpeg", mode="L", seed=5)
    save_image(root / "Dog" / "x.png", mode="RGBA", seed=6)
    (root / "Dog" / "notes.txt").write_text("no image")
    (root / "readme.md").write_text("no class")
    return root


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
    assert "--data folder:DIR" in message


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


# torchvision's datasets, in the layouts of their makers


def random_images(count: int, *shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (count, *shape), dtype=np.uint8)


def write_cifar10(root: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[np.ndarray, list[int]]:
    folder = root / "cifar-10-batches-py"
    folder.mkdir(parents=True)
    pixels, labels = random_images(60, 3 * 32 * 32), [i % 10 for i in range(60)]

    def write(name: str, content: object) -> str:
        data = pickle.dumps(content, protocol=2)
        (folder / name).write_bytes(data)
        return hashlib.md5(data).hexdigest()

    names = [*(f"data_batch_{i}" for i in range(1, 6)), "test_batch"]
    digests = [
        [name, write(name, {"data": pixels[10 * i : 10 * i + 10], "labels": labels[10 * i : 10 * i + 10]})]
        for i, name in enumerate(names)
    ]
    class_names = [f"class {i}" for i in range(10)]
    meta = {"filename": "batches.meta", "key": "label_names"}
    monkeypatch.setattr(torchvision_datasets.CIFAR10, "train_list", digests[:5])
    monkeypatch.setattr(torchvision_datasets.CIFAR10, "test_list", digests[5:])
    monkeypatch.setattr(
        torchvision_datasets.CIFAR10,
        "meta",
        {**meta, "md5": write("batches.meta", {"label_names": class_names})},
    )
    return pixels, labels


def test_cifar10_is_read_from_its_python_batches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pixels, labels = write_cifar10(tmp_path / "files", monkeypatch)
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
    write_cifar10(tmp_path, monkeypatch)
    (tmp_path / "cifar-10-batches-py" / "data_batch_2").write_bytes(pickle.dumps({"data": 1}))
    assert "no intact files" in refusal(DataError, "cifar10", data_dir=str(tmp_path))


def test_the_data_folder_is_the_option_then_the_environment_then_data(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_cifar10(tmp_path / "a" / "data", monkeypatch)
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
        write_cifar10(Path(self.root), monkeypatch)

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


def write_idx(path: Path, array: np.ndarray, code: int = 8) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    head = struct.pack(f">HBB{array.ndim}I", 0, code, array.ndim, *array.shape)
    path.write_bytes(head + array.tobytes())


def write_mnist(raw: Path, prefixes: tuple[str, str] = ("train", "t10k"), first_label: int = 0) -> np.ndarray:
    images = random_images(20, 28, 28)
    labels = (np.arange(20) % 10 + first_label).astype(np.uint8)
    for prefix, part in zip(prefixes, (slice(0, 15), slice(15, 20)), strict=True):
        write_idx(raw / f"{prefix}-images-idx3-ubyte", images[part])
        write_idx(raw / f"{prefix}-labels-idx1-ubyte", labels[part])
    return images


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


def test_emnists_splits_into_classes_are_names_of_their_own(tmp_path: Path) -> None:
    raw = tmp_path / "EMNIST" / "raw"
    write_mnist(raw, ("emnist-letters-train", "emnist-letters-test"), first_label=1)
    test = load_examples("emnist-letters", data_dir=str(tmp_path), split="test", normalize="none")
    assert (test.total, test.classes, test.labels[0].item()) == (5, 27, 6)
    assert test.class_names[1] == "a"
    assert "--normalize" in refusal(DataError, "emnist-letters", data_dir=str(tmp_path))


def test_qmnist_is_read_with_its_extended_labels(tmp_path: Path) -> None:
    labels = np.zeros((4, 8), dtype=">i4")
    labels[:, 0] = [3, 1, 4, 1]
    write_idx(tmp_path / "QMNIST" / "raw" / "qmnist-test-images-idx3-ubyte", random_images(4, 28, 28))
    write_idx(tmp_path / "QMNIST" / "raw" / "qmnist-test-labels-idx2-int", labels, code=12)
    assert load_examples("qmnist", data_dir=str(tmp_path), split="test").labels.tolist() == [3, 1, 4, 1]


def test_a_damaged_idx_file_or_label_is_refused(tmp_path: Path) -> None:
    write_mnist(tmp_path / "MNIST" / "raw", first_label=5)
    message = refusal(DataError, "mnist", data_dir=str(tmp_path))
    assert "example 5 has the label 10" in message
    labels = tmp_path / "MNIST" / "raw" / "train-labels-idx1-ubyte"
    labels.write_bytes(labels.read_bytes()[:9])
    assert "cannot be read" in refusal(DataError, "mnist", data_dir=str(tmp_path))


def test_usps_is_read_from_its_compressed_text(tmp_path: Path) -> None:
    lines = "".join(
        f"{label} " + " ".join(f"{i + 1}:{math.cos(i * label):.4f}" for i in range(256)) + "\n" for label in (1, 10, 4)
    )
    (tmp_path / "usps.bz2").write_bytes(bz2.compress(lines.encode()))
    examples = load_examples("usps", data_dir=str(tmp_path), normalize="half")
    assert examples.inputs.shape == (3, 1, 16, 16)
    assert examples.labels.tolist() == [0, 9, 3]


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


def test_a_dataset_without_parts_has_no_split(tmp_path: Path) -> None:
    save_image(tmp_path / "eurosat" / "2750" / "Forest" / "Forest_1.jpg", size=(64, 64))
    save_image(tmp_path / "eurosat" / "2750" / "River" / "River_1.jpg", size=(64, 64))
    examples = load_examples("EuroSAT", data_dir=str(tmp_path), normalize="imagenet")
    assert (examples.split, examples.labels.tolist()) == (None, [0, 1])
    assert "--normalize" in refusal(DataError, "eurosat", data_dir=str(tmp_path))


def test_imagenettes_classes_go_by_their_first_name(tmp_path: Path) -> None:
    save_image(tmp_path / "imagenette2-160" / "train" / "n01440764" / "1.JPEG", size=(16, 16))
    examples = load_examples("imagenette-160px", data_dir=str(tmp_path))
    assert examples.class_names == ("tench",)
    assert examples.normalization == NAMED["imagenet"]


def test_a_damaged_image_of_a_dataset_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "gtsrb" / "GTSRB" / "Training" / "00000" / "1.ppm"
    path.parent.mkdir(parents=True)
    path.write_bytes(b"damaged")
    message = refusal(DataError, "gtsrb", data_dir=str(tmp_path), normalize="none")
    assert "example 0" in message
    assert "--download" in message


@pytest.mark.parametrize("name", sorted(DATASETS))
def test_every_reader_knows_its_splits_and_makes_nothing_on_disk(name: str, tmp_path: Path) -> None:
    entry = DATASETS[name]
    for split in entry.splits or (None,):
        message = refusal(DataError, name, split=split, data_dir=str(tmp_path))
        if entry.needs is not None and importlib.util.find_spec(entry.needs) is None:
            assert f"pip install {entry.needs}" in message
        else:
            assert message.startswith(f"{name}: no intact files of it in {tmp_path}; ")
    assert list(tmp_path.iterdir()) == []
