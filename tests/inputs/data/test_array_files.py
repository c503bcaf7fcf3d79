"""Arrays and tensors in files: .npz, .pt, .safetensors."""

from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch

from fisher_cli.errors import DataError, UsageError
from tests.data_files import random_images, refusal
from tests.loading import load_examples

IMAGES = random_images(12, 5, 7, 3)
LABELS = np.arange(12) % 4
CHANNELS_FIRST = torch.from_numpy(IMAGES).permute(0, 3, 1, 2)


def save(path: Path, **arrays: object) -> str:
    if path.suffix == ".npz":
        np.savez(path, **arrays)
        return str(path)
    tensors = {name: torch.tensor(np.asarray(array)) for name, array in arrays.items()}
    if path.suffix == ".safetensors":
        safetensors.torch.save_file(tensors, path)
    else:
        torch.save(tensors, path)
    return str(path)


@pytest.fixture(params=[".npz", ".pt", ".pth", ".safetensors"])
def path(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    return tmp_path / f"data{request.param}"


@pytest.mark.parametrize(
    ("inputs", "labels"), [("images", "labels"), ("x", "y"), ("inputs", "targets"), ("data", "target"), ("X", "Y")]
)
def test_a_pair_of_arrays_is_found_by_its_names(inputs: str, labels: str, path: Path) -> None:
    file = save(path, **{inputs: IMAGES, labels: LABELS})
    examples = load_examples(file, normalize="none", limit=None)
    assert torch.equal(examples.inputs, CHANNELS_FIRST)
    assert examples.labels.tolist() == LABELS.tolist()
    assert (examples.split, examples.total, examples.classes) == (None, 12, None)
    assert examples.describe()["name"] == path.name


@pytest.mark.parametrize(
    "names",
    [("{}_images", "{}_labels"), ("x_{}", "y_{}"), ("X_{}", "y_{}"), ("{}_x", "{}_y"), ("images_{}", "labels_{}")],
)
def test_splits_go_by_their_names(names: tuple[str, str], path: Path) -> None:
    parts = {"train": slice(0, 6), "val": slice(6, 9), "test": slice(9, 12)}
    arrays = {
        name.format(split): array[part]
        for split, part in parts.items()
        for name, array in zip(names, (IMAGES, LABELS[:, None]), strict=True)
    }
    file = save(path, **arrays)
    assert torch.equal(load_examples(file, normalize="none").inputs, CHANNELS_FIRST[:6])
    validation = load_examples(file, normalize="none", split="validation")
    assert (validation.split, validation.labels.tolist()) == ("val", LABELS[6:9].tolist())
    assert "there are train, val, test" in refusal(UsageError, file, split="extra", normalize="none")


def test_a_file_of_tensors_may_be_a_pair_or_nested_by_split(tmp_path: Path) -> None:
    pair = (CHANNELS_FIRST.contiguous(), torch.from_numpy(LABELS))
    torch.save(pair, tmp_path / "pair.pt")
    assert torch.equal(load_examples(str(tmp_path / "pair.pt"), normalize="none").inputs, CHANNELS_FIRST)
    torch.save({"train": pair, "test": {"x": pair[0][:3], "y": pair[1][:3]}}, tmp_path / "nested.pt")
    assert load_examples(str(tmp_path / "nested.pt"), normalize="none", split="test").total == 3
    assert load_examples(str(tmp_path / "nested.pt"), normalize="none").split == "train"


@pytest.mark.parametrize("compressed", [False, True])
def test_only_the_selected_rows_are_kept(compressed: bool, tmp_path: Path) -> None:
    images, labels = random_images(5000, 16, 16), np.arange(5000)
    (np.savez_compressed if compressed else np.savez)(tmp_path / "data.npz", images=images, labels=labels)
    examples = load_examples(str(tmp_path / "data.npz"), limit=40, normalize="none")
    assert torch.equal(examples.inputs[:, 0], torch.from_numpy(images)[examples.indices])
    assert torch.equal(examples.labels, examples.indices)


@pytest.mark.parametrize(
    ("shape", "expected"),
    [((12, 8, 8), (1, 8, 8)), ((12, 8, 6, 1), (1, 8, 6)), ((12, 1, 8, 6), (1, 8, 6)), ((12, 3, 8, 6), (3, 8, 6))],
)
def test_the_axes_of_images_are_recognised(shape: tuple[int, ...], expected: tuple[int, ...], path: Path) -> None:
    file = save(path, images=np.zeros(shape, dtype=np.uint8), labels=LABELS)
    assert load_examples(file, normalize="none").inputs.shape == (12, *expected)


@pytest.mark.parametrize(
    ("shape", "says"),
    [
        ((12, 3, 8, 3), "can be (N, H, W, C) or (N, C, H, W)"),
        ((12, 1, 8, 1), "without the axis of 1"),
        ((12, 64), "1 or 3 channels"),
        ((12, 4, 8, 8), "1 or 3 channels"),
        ((12,), "1 or 3 channels"),
        ((12, 0, 8), "1 or 3 channels"),
        ((11, 8, 8), "one label per example"),
    ],
)
def test_bytes_that_are_no_images_are_refused_with_the_remedy(shape: tuple[int, ...], says: str, path: Path) -> None:
    file = save(path, images=np.zeros(shape, dtype=np.uint8), labels=LABELS)
    assert says in refusal(DataError, file, normalize="none")


@pytest.mark.parametrize(
    ("labels", "says"),
    [
        (np.eye(4, dtype=np.int64)[LABELS], "of one-hot labels the argmax"),
        (LABELS.astype(np.float32), "save them as int64"),
        (np.where(LABELS == 3, -1, LABELS), "has the label -1"),
        (np.array(3), "one class per example"),
    ],
)
def test_labels_that_are_no_classes_are_refused(labels: np.ndarray, says: str, path: Path) -> None:
    assert says in refusal(DataError, save(path, images=IMAGES, labels=labels), normalize="none", limit=None)


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.int64, np.int32])
def test_numbers_go_to_the_network_as_they_are(dtype: type, path: Path) -> None:
    inputs = (np.random.default_rng(0).normal(size=(12, 5)) * 40).astype(dtype)
    examples = load_examples(save(path, x=inputs, y=LABELS))
    given, labels = examples.batch(2, 7)
    assert given.dtype == (torch.int64 if np.issubdtype(dtype, np.integer) else torch.from_numpy(inputs).dtype)
    assert np.array_equal(given.numpy(), inputs[2:7])
    assert labels.tolist() == LABELS[2:7].tolist()


def test_half_precision_is_brought_to_single(tmp_path: Path) -> None:
    inputs = torch.randn(4, 6)
    torch.save({"x": inputs.bfloat16(), "y": torch.arange(4)}, tmp_path / "a.pt")
    assert load_examples(str(tmp_path / "a.pt")).batch(0, 4)[0].dtype == torch.float32
    np.savez(tmp_path / "a.npz", x=inputs.half().numpy(), y=np.arange(4))
    assert torch.equal(load_examples(str(tmp_path / "a.npz")).batch(0, 4)[0], inputs.half().float())


def test_floating_images_may_be_normalised_only_from_zero_to_one(path: Path) -> None:
    scaled = np.random.default_rng(0).random((12, 3, 4, 4), dtype=np.float32)
    given, _ = load_examples(save(path, x=scaled, y=LABELS), normalize="half").batch(0, 12)
    torch.testing.assert_close(given, (torch.from_numpy(scaled) - 0.5) / 0.5)
    assert "its inputs reach" in refusal(DataError, save(path, x=scaled * 255, y=LABELS), normalize="half")
    assert "leave it out" in refusal(UsageError, save(path, x=scaled, y=LABELS), normalize="auto")
    assert "are for images" in refusal(DataError, save(path, x=scaled, y=LABELS), resize="8")


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_numbers_that_are_not_finite_are_refused_with_their_example(bad: float, path: Path) -> None:
    inputs = np.zeros((12, 5))
    inputs[7, 2] = bad
    assert "example 7 holds NaN or infinite numbers" in refusal(DataError, save(path, x=inputs, y=LABELS))


@pytest.mark.parametrize("dtype", [bool, np.complex64, "S4", "datetime64[s]", np.uint64])
def test_arrays_of_other_types_are_refused(dtype: object, tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", x=np.zeros((12, 5), dtype=dtype), y=LABELS)
    assert "save it as uint8 images, floating numbers, or int64" in refusal(DataError, str(tmp_path / "a.npz"))


def test_names_that_do_not_say_what_is_what_are_refused(path: Path) -> None:
    assert "holds first, second" in refusal(DataError, save(path, first=IMAGES, second=LABELS))
    file = save(path, images=IMAGES, x=IMAGES, y=LABELS)
    assert "could both be meant" in refusal(DataError, file)
    assert "x_train and y_train" in refusal(DataError, save(path, images=IMAGES))


def test_the_identity_is_that_of_the_numbers_whatever_the_file(tmp_path: Path) -> None:
    files = [save(tmp_path / f"a{suffix}", x=IMAGES, y=LABELS) for suffix in (".npz", ".pt", ".safetensors")]
    assert len({load_examples(file, normalize="half").identity for file in files}) == 1


def test_other_files_are_refused_with_what_to_do(tmp_path: Path) -> None:
    assert "numpy.savez" in refusal(DataError, "a.npy")
    assert "a pickle runs code" in refusal(DataError, "a.pkl")
    assert "unpack it" in refusal(DataError, "a.zip")
    assert "there is no such file" in refusal(DataError, str(tmp_path / "none.npz"))
    assert "no such file" in refusal(DataError, str(tmp_path / "none.pt"))
