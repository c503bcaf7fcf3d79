"""What torchvision's signatures do not tell about its labelled image datasets: names, splits, classes, needs."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Final

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
