"""torchvision's labelled image datasets by name: one table, and one adapter that reads their signatures."""

import contextlib
import importlib.util
import inspect
import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import numpy as np

from fisher_cli.errors import DataError
from fisher_cli.inputs.normalization import NAMED
from fisher_cli.inputs.sources import Pixels, Source

_TRAIN_TEST: Final = ("train", "test")
_TRAIN_VAL_TEST: Final = ("train", "val", "test")


@dataclass(frozen=True)
class Entry:
    """What torchvision's signatures do not tell about one of its datasets.

    `splits` is empty where the dataset has only one part. `constants` names its own normalisation, None where
    there is no common one. `needs` is the package that its reader imports.
    """

    reader: str
    classes: int
    splits: tuple[str, ...] = _TRAIN_TEST
    constants: str | None = None
    needs: str | None = None
    arguments: Mapping[str, object] = field(default_factory=dict)


DATASETS: Final[Mapping[str, Entry]] = {
    "cifar10": Entry("CIFAR10", 10, constants="cifar10"),
    "cifar100": Entry("CIFAR100", 100, constants="cifar100"),
    "mnist": Entry("MNIST", 10, constants="mnist"),
    "fashion-mnist": Entry("FashionMNIST", 10, constants="fashion-mnist"),
    "kmnist": Entry("KMNIST", 10, constants="kmnist"),
    # MNIST rebuilt from the same scans: its training images are MNIST's.
    "qmnist": Entry("QMNIST", 10, constants="mnist"),
    # Six ways to split EMNIST into classes, each with a train and a test part.
    "emnist-balanced": Entry("EMNIST", 47, arguments={"split": "balanced"}),
    "emnist-byclass": Entry("EMNIST", 62, arguments={"split": "byclass"}),
    "emnist-bymerge": Entry("EMNIST", 47, arguments={"split": "bymerge"}),
    "emnist-digits": Entry("EMNIST", 10, arguments={"split": "digits"}),
    # Its labels run from 1 to 26; torchvision declares a class 0 without examples.
    "emnist-letters": Entry("EMNIST", 27, arguments={"split": "letters"}),
    "emnist-mnist": Entry("EMNIST", 10, arguments={"split": "mnist"}),
    "svhn": Entry("SVHN", 10, splits=("train", "test", "extra"), constants="svhn", needs="scipy"),
    # Without the unlabelled parts.
    "stl10": Entry("STL10", 10, constants="stl10"),
    "usps": Entry("USPS", 10),
    "semeion": Entry("SEMEION", 10, splits=()),
    "fer2013": Entry("FER2013", 7),
    "gtsrb": Entry("GTSRB", 43),
    "eurosat": Entry("EuroSAT", 10, splits=()),
    "pcam": Entry("PCAM", 2, splits=_TRAIN_VAL_TEST, needs="h5py"),
    "rendered-sst2": Entry("RenderedSST2", 2, splits=_TRAIN_VAL_TEST),
    "food101": Entry("Food101", 101),
    "flowers102": Entry("Flowers102", 102, splits=_TRAIN_VAL_TEST, needs="scipy"),
    "dtd": Entry("DTD", 47, splits=_TRAIN_VAL_TEST),
    "oxford-iiit-pet": Entry("OxfordIIITPet", 37, splits=("trainval", "test")),
    "fgvc-aircraft": Entry("FGVCAircraft", 100, splits=("train", "val", "trainval", "test")),
    "country211": Entry("Country211", 211, splits=("train", "valid", "test")),
    # Ten classes of ImageNet.
    "imagenette": Entry("Imagenette", 10, splits=("train", "val"), constants="imagenet"),
    "imagenette-320px": Entry(
        "Imagenette", 10, splits=("train", "val"), constants="imagenet", arguments={"size": "320px"}
    ),
    "imagenette-160px": Entry(
        "Imagenette", 10, splits=("train", "val"), constants="imagenet", arguments={"size": "160px"}
    ),
}


def torchvision_dataset(name: str, split: str | None, data_dir: str | None, *, download: bool) -> Source:
    """Return the split of a dataset of the table, fetched from the network only when asked to.

    Args:
        name: a key of the table.
        split: one of its splits, None if it has none.
        data_dir: where its files lie as torchvision lays them out; None: FISHER_DATA_DIR, else ./data.
        download: fetch what is missing into that folder.

    Raises:
        DataError: A package or the files are missing, damaged, or cannot be fetched.
    """
    entry = DATASETS[name]
    if entry.needs is not None and importlib.util.find_spec(entry.needs) is None:
        msg = f"{name}: torchvision needs {entry.needs} to read its files; type: pip install {entry.needs}"
        raise DataError(msg)
    root = Path(data_dir or os.environ.get("FISHER_DATA_DIR") or "data").expanduser()
    dataset = _opened(name, entry, split, root, download=download)

    def example(index: int) -> tuple[Pixels, int]:
        try:
            image, label = dataset[index]
            return np.asarray(image), int(label)
        # A damaged image makes Pillow and the readers raise nearly anything.
        except Exception as error:
            msg = (
                f"{name}: example {index} in {_shown(root)} cannot be read ({_reason(error)}); "
                "fetch the files again with --download into an empty --data-dir"
            )
            raise DataError(msg) from error

    names = getattr(dataset, "classes", ())
    return Source(
        name=name,
        split=split,
        total=len(dataset),
        classes=entry.classes,
        # ImageNet's classes have several names each; the first is the usual one.
        class_names=tuple(item if isinstance(item, str) else item[0] for item in names),
        example=example,
        constants=NAMED[entry.constants] if entry.constants else None,
    )


def _opened(name: str, entry: Entry, split: str | None, root: Path, *, download: bool) -> Any:
    """Return torchvision's own dataset object.

    Raises:
        DataError: The files are missing or damaged, or cannot be fetched.
    """
    from torchvision import datasets  # a second that a run on the digits need not wait

    reader = getattr(datasets, entry.reader)
    parameters = inspect.signature(reader).parameters
    passes_on = any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values())
    arguments: dict[str, object] = dict(entry.arguments)
    if split is not None and ("split" not in parameters or "split" in arguments):
        arguments["train"] = split == "train"
    elif split is not None:
        arguments["split"] = split
    can_download = "download" in parameters or passes_on
    if can_download:
        arguments["download"] = download
    elif download:
        msg = f"{name}: it cannot be fetched automatically; get it from its makers and put it into {_shown(root)}"
        raise DataError(msg)
    try:
        # torchvision reports its downloads on stdout, where only results belong.
        with contextlib.redirect_stdout(sys.stderr):
            return reader(str(root), **arguments)
    # Readers raise nearly anything on damaged files, and any network error on a download.
    except Exception as error:
        if download:
            msg = f"{name}: fetching it into {_shown(root)} failed ({_reason(error)}); check the network and try again"
        elif isinstance(error, FileNotFoundError) or "not found" in str(error):
            fetch = "type --download to fetch it there, or " if can_download else ""
            msg = f"{name}: no intact files of it in {_shown(root)}; {fetch}type --data-dir DIR if it lies elsewhere"
        else:
            msg = (
                f"{name}: its files in {_shown(root)} cannot be read ({_reason(error)}); "
                "fetch them again with --download into an empty --data-dir"
            )
        raise DataError(msg) from error


def _shown(root: Path) -> str:
    return str(root.absolute())


def _reason(error: Exception) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__
