import gzip
import hashlib
from pathlib import Path

import numpy as np
import pytest
import torch

import fisher_cli.inputs.data.datasets
from fisher_cli.errors import DataError, UsageError
from fisher_cli.inputs.data.datasets import known_datasets
from tests.data_files import labels_file, refusal
from tests.loading import load_examples

pytestmark = pytest.mark.usefixtures("workdir")


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
    data = (Path(fisher_cli.inputs.data.datasets.__file__).parent / "digits.csv.gz").read_bytes()
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
