"""torchvision's labelled image datasets by name: one adapter that reads their signatures."""

import contextlib
import functools
import importlib.util
import inspect
import itertools
import os
import stat
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final

import numpy as np
from PIL import Image

from fisher_cli.errors import DataError
from fisher_cli.inputs.data.hdf5_images import hdf5_examples, hdf5_rows
from fisher_cli.inputs.data.image_parts import FORMATS
from fisher_cli.inputs.data.images import read_image, read_images
from fisher_cli.inputs.data.normalization import NAMED
from fisher_cli.inputs.data.sources import DataSource, Example, one_by_one
from fisher_cli.text import clipped

_TRAIN_TEST: Final = ("train", "test")
_TRAIN_VAL: Final = ("train", "val")
_TRAIN_VAL_TEST: Final = ("train", "val", "test")
_AIRCRAFT: Final = ("train", "val", "trainval", "test")


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One name of `--data`, and how torchvision's reader is asked for it.

    Attributes:
        reader: the class in torchvision.datasets.
        classes: how many classes it declares; None where each split has its own, which the reader counts.
        splits: its labelled parts; () where it has only one.
        size: of its images where they have one, else "".
        constants: the name of its own normalisation, None where there is no common one.
        needs: the package that its reader imports.
        arguments: for the reader, whatever the split.
        split_argument: the argument that takes the split where it is neither `split` nor `train`.
        split_values: what the reader calls a split, where that is another word.
        below: what must be there below the data folder: some readers make folders before they look.
        located: the file and the label of an example, for readers that would open an image of any format.
        order: brings what the reader lists in the file system's order into one order on every machine.
        label: takes a label that is one column of several out of what the reader gives.
        checked: the attribute of the reader that lists file and checksum by split, where it does not look itself.
    """

    reader: str
    classes: int | None
    splits: tuple[str, ...] = _TRAIN_TEST
    size: str = ""
    constants: str | None = None
    needs: str | None = None
    arguments: Mapping[str, object] = field(default_factory=dict)
    split_argument: str | None = None
    split_values: Mapping[str, object] = field(default_factory=dict)
    below: str | None = None
    located: Callable[[Any, int], tuple[str, int]] | None = None
    order: Callable[[Any], None] | None = None
    label: Callable[[Any], int] = int
    checked: str | None = None


def _sort_images(dataset: Any) -> None:
    """SUN397 walks its folders in the file system's order."""
    pairs = sorted(zip(dataset._image_files, dataset._labels, strict=True))
    dataset._image_files, dataset._labels = [file for file, _ in pairs], [label for _, label in pairs]


def _sort_index(dataset: Any) -> None:
    """INaturalist lists the files of a class in the file system's order."""
    dataset.index.sort()


def _caltech101(dataset: Any, index: int) -> tuple[str, int]:
    label = dataset.y[index]
    name = f"image_{dataset.index[index]:04d}.jpg"
    return f"{dataset.root}/101_ObjectCategories/{dataset.categories[label]}/{name}", label


def _caltech256(dataset: Any, index: int) -> tuple[str, int]:
    label = dataset.y[index]
    name = f"{label + 1:03d}_{dataset.index[index]:04d}.jpg"
    return f"{dataset.root}/256_ObjectCategories/{dataset.categories[label]}/{name}", label


def _inaturalist(dataset: Any, index: int) -> tuple[str, int]:
    label, name = dataset.index[index]
    return f"{dataset.root}/{dataset.all_categories[label]}/{name}", label


def _pet(dataset: Any, index: int) -> tuple[str, int]:
    return str(dataset._images[index]), dataset._labels[index]


def _pet_kind(dataset: Any, index: int) -> tuple[str, int]:
    return str(dataset._images[index]), dataset._bin_labels[index]


def _celeba(column: int | None) -> Callable[[Any, int], tuple[str, int]]:
    def located(dataset: Any, index: int) -> tuple[str, int]:
        # Identities count from 1.
        label = int(dataset.identity[index, 0]) - 1 if column is None else int(dataset.attr[index, column])
        return f"{dataset.root}/{dataset.base_folder}/img_align_celeba/{dataset.filename[index]}", label

    return located


_CELEBA_SPLITS: Final = ("train", "valid", "test")
# The columns of list_attr_celeba.txt, in its order.
_ATTRIBUTES: Final = (
    "5-o-clock-shadow arched-eyebrows attractive bags-under-eyes bald bangs big-lips big-nose black-hair blond-hair "
    "blurry brown-hair bushy-eyebrows chubby double-chin eyeglasses goatee gray-hair heavy-makeup high-cheekbones male "
    "mouth-slightly-open mustache narrow-eyes no-beard oval-face pale-skin pointy-nose receding-hairline rosy-cheeks "
    "sideburns smiling straight-hair wavy-hair wearing-earrings wearing-hat wearing-lipstick wearing-necklace "
    "wearing-necktie young"
)
CELEBA_ATTRIBUTES: Final = tuple(_ATTRIBUTES.split())


def _emnist(split: str, classes: int) -> Entry:
    return Entry(reader="EMNIST", classes=classes, size="28×28", arguments={"split": split})


def _celeba_entry(column: int | None, classes: int) -> Entry:
    return Entry(
        reader="CelebA", classes=classes, splits=_CELEBA_SPLITS, size="178×218", located=_celeba(column), below="celeba"
    )


def _inaturalist_entry(year: str, classes: int) -> Entry:
    return Entry(
        reader="INaturalist",
        classes=classes,
        splits=(),
        arguments={"version": year},
        below=year,
        located=_inaturalist,
        order=_sort_index,
    )


def _imagenette(size: str, shown: str) -> Entry:
    return Entry(
        reader="Imagenette",
        classes=10,
        splits=_TRAIN_VAL,
        size=shown,
        constants="imagenet",
        arguments={"size": size},
    )


def _aircraft(level: str, classes: int) -> Entry:
    return Entry(reader="FGVCAircraft", classes=classes, splits=_AIRCRAFT, arguments={"annotation_level": level})


def _places(small: bool) -> Entry:
    return Entry(
        reader="Places365",
        classes=365,
        splits=("train", "train-challenge", "val"),
        size="256×256" if small else "",
        arguments={"small": small},
        split_values={"train": "train-standard"},
    )


DATASETS: Final[Mapping[str, Entry]] = MappingProxyType(
    {
        "cifar10": Entry(reader="CIFAR10", classes=10, size="32×32", constants="cifar10"),
        "cifar100": Entry(reader="CIFAR100", classes=100, size="32×32", constants="cifar100"),
        "mnist": Entry(reader="MNIST", classes=10, size="28×28", constants="mnist"),
        "fashion-mnist": Entry(reader="FashionMNIST", classes=10, size="28×28", constants="fashion-mnist"),
        "kmnist": Entry(reader="KMNIST", classes=10, size="28×28", constants="kmnist"),
        # MNIST rebuilt from the same scans: its training images are MNIST's.
        "qmnist": Entry(
            reader="QMNIST",
            classes=10,
            splits=("train", "test", "test10k", "test50k", "nist"),
            size="28×28",
            constants="mnist",
            split_argument="what",
        ),
        # Six ways to split EMNIST into classes, each with a train and a test part.
        "emnist-balanced": _emnist("balanced", 47),
        "emnist-byclass": _emnist("byclass", 62),
        "emnist-bymerge": _emnist("bymerge", 47),
        "emnist-digits": _emnist("digits", 10),
        # Its labels run from 1 to 26; torchvision declares a class 0 without examples.
        "emnist-letters": _emnist("letters", 27),
        "emnist-mnist": _emnist("mnist", 10),
        "svhn": Entry(
            reader="SVHN", classes=10, splits=("train", "test", "extra"), size="32×32", constants="svhn", needs="scipy"
        ),
        # Without the unlabelled parts.
        "stl10": Entry(reader="STL10", classes=10, size="96×96", constants="stl10"),
        "usps": Entry(reader="USPS", classes=10, size="16×16", checked="split_list"),
        "semeion": Entry(reader="SEMEION", classes=10, splits=(), size="16×16"),
        "fer2013": Entry(reader="FER2013", classes=7, size="48×48"),
        "gtsrb": Entry(
            reader="GTSRB",
            classes=43,
            located=lambda dataset, index: (str(dataset._samples[index][0]), dataset._samples[index][1]),
        ),
        "eurosat": Entry(reader="EuroSAT", classes=10, splits=(), size="64×64"),
        "pcam": Entry(reader="PCAM", classes=2, splits=_TRAIN_VAL_TEST, size="96×96", needs="h5py"),
        "rendered-sst2": Entry(reader="RenderedSST2", classes=2, splits=_TRAIN_VAL_TEST, size="448×448"),
        "food101": Entry(reader="Food101", classes=101),
        "flowers102": Entry(reader="Flowers102", classes=102, splits=_TRAIN_VAL_TEST, needs="scipy"),
        "stanford-cars": Entry(reader="StanfordCars", classes=196, needs="scipy"),
        "dtd": Entry(reader="DTD", classes=47, splits=_TRAIN_VAL_TEST),
        "oxford-iiit-pet": Entry(reader="OxfordIIITPet", classes=37, splits=("trainval", "test"), located=_pet),
        # Cat or dog.
        "oxford-iiit-pet-binary": Entry(
            reader="OxfordIIITPet", classes=2, splits=("trainval", "test"), located=_pet_kind
        ),
        "fgvc-aircraft": _aircraft("variant", 100),
        "fgvc-aircraft-family": _aircraft("family", 70),
        "fgvc-aircraft-manufacturer": _aircraft("manufacturer", 30),
        "country211": Entry(reader="Country211", classes=211, splits=("train", "valid", "test")),
        "caltech101": Entry(
            reader="Caltech101", classes=101, splits=(), below="caltech101/101_ObjectCategories", located=_caltech101
        ),
        # 256 categories and one of clutter.
        "caltech256": Entry(
            reader="Caltech256", classes=257, splits=(), below="caltech256/256_ObjectCategories", located=_caltech256
        ),
        "sun397": Entry(reader="SUN397", classes=397, splits=(), order=_sort_images),
        "places365": _places(small=False),
        "places365-small": _places(small=True),
        # The number of objects; test has no labels.
        "clevr": Entry(reader="CLEVRClassification", classes=11, splits=_TRAIN_VAL, size="480×320"),
        "lfw-people": Entry(reader="LFWPeople", classes=5749, splits=("train", "test", "10fold"), size="250×250"),
        # 964 characters to learn from and 659 others.
        "omniglot": Entry(
            reader="Omniglot",
            classes=None,
            splits=("background", "evaluation"),
            size="105×105",
            split_argument="background",
            split_values={"background": True, "evaluation": False},
        ),
        "inaturalist-2017": _inaturalist_entry("2017", 5089),
        "inaturalist-2018": _inaturalist_entry("2018", 8142),
        "inaturalist-2019": _inaturalist_entry("2019", 1010),
        "inaturalist-2021": Entry(
            reader="INaturalist",
            classes=10000,
            splits=("train", "train-mini", "val"),
            split_argument="version",
            split_values={"train": "2021_train", "train-mini": "2021_train_mini", "val": "2021_valid"},
            below="{}",
            located=_inaturalist,
            order=_sort_index,
        ),
        # Ten classes of ImageNet.
        "imagenette": _imagenette("full", ""),
        "imagenette-320px": _imagenette("320px", ""),
        "imagenette-160px": _imagenette("160px", ""),
        # Noise with labels, to try things out: needs no files.
        "fake-data": Entry(reader="FakeData", classes=10, splits=(), size="224×224"),
        "celeba-identity": _celeba_entry(None, 10177),
        **{f"celeba-{attribute}": _celeba_entry(column, 2) for column, attribute in enumerate(CELEBA_ATTRIBUTES)},
    }
)


# GTSRB's images are in Netpbm's format, which can hold nothing but pixels.
_FORMATS: Final = (*FORMATS, "PPM")
# Files of a data folder that are looked at before a reader of torchvision's is.
_MOST_LOOKED_AT: Final = 10_000
_AGAIN: Final = "fetch the files again with --download into an empty --data-dir"


def data_folder(data_dir: str | None) -> Path:
    """Return where named datasets lie: --data-dir, else FISHER_DATA_DIR, else ./data."""
    return Path(data_dir or os.environ.get("FISHER_DATA_DIR") or "data").expanduser()


def torchvision_dataset(name: str, split: str | None, data_dir: str | None, *, download: bool) -> DataSource:
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
    root = data_folder(data_dir)
    dataset = _opened(name, entry, split, root, download=download)
    if entry.order is not None:
        entry.order(dataset)
    names = getattr(dataset, "classes", ())
    stored = _hdf5_files(entry, split, type(dataset), root)
    try:
        total = hdf5_rows(stored)[0] if stored else len(dataset)
    except (ValueError, DataError) as error:
        msg = f"{name}: its files in {_shown(root)} cannot be read ({_reason(error)}); {_AGAIN}"
        raise DataError(msg) from error
    return DataSource(
        name=name,
        split=split,
        total=total,
        classes=entry.classes or len(dataset._characters),
        # ImageNet's classes have several names each; the first is the usual one.
        class_names=tuple(item if isinstance(item, str) else item[0] for item in names),
        examples=_examples(name, entry, dataset, root, stored),
        constants=NAMED[entry.constants] if entry.constants else None,
        remedy=f"the file is damaged: {_AGAIN}",
    )


def _examples(
    name: str, entry: Entry, dataset: Any, root: Path, stored: Sequence[Path]
) -> Callable[[Sequence[int]], Iterator[Example]]:
    """Return what gives the pixels and the label of each example at ascending indices."""
    if entry.located is None and not stored:
        return one_by_one(functools.partial(_example, name, dataset, root))

    def examples(indices: Sequence[int]) -> Iterator[Example]:
        count = 0
        try:
            for example in hdf5_examples(stored, indices) if stored else _at(dataset, entry.located, indices):
                yield example
                count += 1
        except Exception as error:
            raise DataError(_unreadable(name, indices[count], root, error)) from error

    return examples


def _at(dataset: Any, located: Any, indices: Sequence[int]) -> Iterator[Example]:
    found = [located(dataset, index) for index in indices]
    pixels = read_images([place for place, _ in found], _FORMATS)
    return zip(pixels, (label for _, label in found), strict=True)


def _example(name: str, dataset: Any, root: Path, index: int) -> Example:
    """Return the pixels and the label of one example.

    Raises:
        DataError: The reader cannot read it, or it has no label.
    """
    try:
        image, label = dataset[index]
        if label is not None:
            return np.asarray(image), int(label)
    # A damaged image makes Pillow and the readers raise nearly anything.
    except Exception as error:
        raise DataError(_unreadable(name, index, root, error)) from error
    msg = f"{name}: example {index} has no label in these files; choose another --split, or give labels with --labels"
    raise DataError(msg)


def _unreadable(name: str, index: int, root: Path, error: Exception) -> str:
    """What to say of an example that cannot be read."""
    return f"{name}: example {index} in {_shown(root)} cannot be read ({_reason(error)}); {_AGAIN}"


def _opened(name: str, entry: Entry, split: str | None, root: Path, *, download: bool) -> Any:
    """Return torchvision's own dataset object.

    Raises:
        DataError: The files are missing or damaged, or cannot be fetched.
    """
    from torchvision import datasets  # a second that a run on the digits need not wait

    reader = _of_split(getattr(datasets, entry.reader), split)
    parameters = inspect.signature(reader).parameters
    passes_on = any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values())
    arguments = _arguments(entry, split, parameters)
    # LFW's and StanfordCars' addresses are gone, and their readers say so.
    can_download = "download" in parameters or passes_on
    if can_download:
        arguments["download"] = download
    elif download and "root" in parameters:
        msg = f"{name}: it cannot be fetched automatically; get it from its makers and put it into {_shown(root)}"
        raise DataError(msg)
    if "root" in parameters:
        arguments["root"] = str(root)
    try:
        _check_files(entry, split, reader, root, download=download)
        # torchvision reports its downloads on stdout, where only results belong.
        with contextlib.redirect_stdout(sys.stderr):
            return reader(**arguments)
    # Readers raise nearly anything on damaged files, and any network error on a download.
    except Exception as error:
        missing = isinstance(error, FileNotFoundError) or "not found" in str(error) or "does not exist" in str(error)
        if download:
            msg = f"{name}: fetching it into {_shown(root)} failed ({_reason(error)}); check the network and try again"
        elif missing:
            fetch = "type --download to fetch it there, or " if can_download else ""
            msg = f"{name}: no intact files of it in {_shown(root)}; {fetch}type --data-dir DIR if it lies elsewhere"
        else:
            msg = f"{name}: its files in {_shown(root)} cannot be read ({_reason(error)}); {_AGAIN}"
        raise DataError(msg) from error


# Of readers that look for the files of all splits: how those of a split begin (MNIST), and what lists the other's.
_BEGINNINGS: Final = {"train": "train-", "test": "t10k-"}
_OTHERS: Final = {"train": "test_list", "test": "train_list"}


def _of_split(reader: type, split: str | None) -> type:
    """Return the reader, such that it looks for the files of this split alone, and not for `.pt` of older versions.

    Those would be loaded without the checks that this program makes of every file of tensors. The name is kept:
    the readers make the folder's name from it.
    """
    own: dict[str, object] = {}
    if hasattr(reader, "_check_legacy_exist"):
        own["_check_legacy_exist"] = lambda _: False
    if hasattr(reader, _OTHERS.get(split or "", "")):
        own[_OTHERS[split or ""]] = []
    if isinstance(resources := getattr(reader, "resources", None), list) and split in _BEGINNINGS:
        own["resources"] = [each for each in resources if each[0].startswith(_BEGINNINGS[split])]
    return type(reader.__name__, (reader,), own) if own else reader


def _arguments(entry: Entry, split: str | None, parameters: Any) -> dict[str, object]:
    """Return the reader's arguments for the split, with a loader of ours where it takes one."""
    arguments: dict[str, object] = dict(entry.arguments)
    if "loader" in parameters and entry.located is None:
        arguments["loader"] = _loader("L" if entry.reader == "Omniglot" else "RGB")
    if split is None:
        return arguments
    value = entry.split_values.get(split, split)
    if entry.split_argument is not None:
        arguments[entry.split_argument] = value
    elif "split" not in parameters or "split" in arguments:
        arguments["train"] = split == "train"
    else:
        arguments["split"] = value
    return arguments


def _loader(mode: str) -> Callable[[str], Image.Image]:
    return lambda path: Image.fromarray(read_image(path, _FORMATS)).convert(mode)


def _check_files(entry: Entry, split: str | None, reader: type, root: Path, *, download: bool) -> None:
    """Look for the files before readers that make folders or trust any file are called.

    Raises:
        FileNotFoundError: They are not there, or not intact.
        OSError: A pipe or a device is among them, which a reader would wait for.
        ValueError: They lead to other files.
    """
    from torchvision.datasets.utils import check_integrity

    _refuse_special_files(root)
    if paths := [path for path in _hdf5_files(entry, split, reader, root) if path.exists()]:
        hdf5_rows(paths)
    if download:
        return
    if entry.below is not None and not (root / entry.below.format(entry.split_values.get(split or ""))).is_dir():
        msg = "dataset not found"
        raise FileNotFoundError(msg)
    if entry.checked is not None:
        _, file, digest = getattr(reader, entry.checked)[split]
        if not check_integrity(root / file, digest):
            msg = f"{file} not found or corrupted"
            raise FileNotFoundError(msg)


def _refuse_special_files(root: Path) -> None:
    """Refuse a folder with pipes, sockets or devices in it, as far as it is looked through.

    Raises:
        OSError: There is one.
    """
    listed = (os.path.join(place, name) for place, _, files in os.walk(root) for name in files)
    for path in itertools.islice(listed, _MOST_LOOKED_AT):
        with contextlib.suppress(FileNotFoundError):  # a link that leads nowhere
            if not stat.S_ISREG(os.stat(path).st_mode):
                msg = f"{clipped(path)} is not a regular file"
                raise OSError(msg)


def _hdf5_files(entry: Entry, split: str | None, reader: type, root: Path) -> list[Path]:
    """Return the files of images and of labels where they are of HDF5, else none."""
    if entry.reader != "PCAM":
        return []
    return [root / "pcam" / str(name) for name, *_ in reader._FILES[split].values()]  # type: ignore[attr-defined]


def _shown(root: Path) -> str:
    return str(root.absolute())


def _reason(error: Exception) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__
