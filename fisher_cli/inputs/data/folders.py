"""Images in class folders, in torchvision's ImageFolder order; only the selected ones are opened."""

import os
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Final

from fisher_cli.errors import DataError, UsageError
from fisher_cli.inputs.data.images import read_images
from fisher_cli.inputs.data.normalization import NAMED
from fisher_cli.inputs.data.sources import DataSource, Example
from fisher_cli.inputs.data.splits import SPLIT_WORDS, find_split
from fisher_cli.inputs.data.torchvision_datasets import data_folder
from fisher_cli.inputs.formats.files import shown
from fisher_cli.text import clipped

_READ: Final = (".jpg", ".jpeg", ".png", ".webp")
# ImageFolder would count these too; leaving them out silently would shift every index.
_NOT_READ: Final = (".ppm", ".bmp", ".pgm", ".tif", ".tiff")


def folder(place: str, split: str | None) -> DataSource:
    """Return the images below the folder, or below its sub-folder named by the split; nothing is opened.

    Raises:
        UsageError: There is no such split, or there are splits and none was named.
        DataError: The folder is missing, or it holds no images in class folders.
    """
    root, place = Path(os.path.expanduser(place)), shown(place)
    if not os.path.isdir(root):  # of a name that is too long, Path's own methods raise what nobody expects
        what = "is no folder" if os.path.exists(root) else "there is no such folder"
        msg = f"folder:{place}: {what}; type --data folder:DIR with a DIR that holds one folder per class"
        raise DataError(msg)
    names = _folders_in(root)
    chosen = None if split is None else find_split(split, names)
    if split is not None and chosen is None:
        there = f"there are {clipped(', '.join(names))}" if names else "it holds no folders"
        msg = f"--split {clipped(split)}: no such folder in {shown(root)}; {there}"
        raise UsageError(msg)
    if split is None and names and SPLIT_WORDS.issuperset(name.lower() for name in names):
        msg = f"folder:{place}: its folders are splits, not classes; choose with --split {names[0]}"
        raise UsageError(msg)
    root = root if chosen is None else root / chosen

    # Every folder is a class, also a hidden or an empty one: so ImageFolder numbered them in training.
    classes = _folders_in(root)
    samples = [(path, label) for label, name in enumerate(classes) for path in _images_below(root / name)]
    if not samples:
        msg = f"{shown(root)}: no JPEG, PNG or WEBP files in class folders; expected DIR/CLASS/IMAGE.jpg"
        raise DataError(msg)
    return DataSource(
        name=f"folder:{place}",
        split=chosen,
        total=len(samples),
        classes=len(classes),
        class_names=tuple(classes),
        examples=lambda indices: _examples([samples[index] for index in indices]),
        place=lambda index: shown(samples[index][0]),
        constants=None,
    )


def _examples(samples: Sequence[tuple[Path, int]]) -> Iterator[Example]:
    return zip(read_images([path for path, _ in samples]), (label for _, label in samples), strict=True)


def _folders_in(root: Path) -> list[str]:
    """Return the names of the sub-folders, sorted as ImageFolder sorts them.

    Raises:
        DataError: The folder cannot be listed.
    """
    try:
        with os.scandir(root) as entries:
            return sorted(entry.name for entry in entries if entry.is_dir())
    except OSError as error:
        msg = f"{shown(root)}: cannot be listed ({error.strerror}); check its permissions with: ls -ld"
        raise DataError(msg) from error


def _images_below(root: Path) -> Iterator[Path]:
    """Yield the image files at any depth in ImageFolder's order.

    Raises:
        DataError: A link leads back into its own folder, or a file is an image of a format that is not read.
    """
    walked: set[str] = set()
    for place, _, files in sorted(_walk(root, walked)):
        for name in sorted(files):
            suffix = os.path.splitext(name)[1].lower()
            path = Path(place, name)
            if suffix in _NOT_READ:
                msg = f"{shown(path)}: only JPEG, PNG and WEBP are read; convert it to PNG, or move it elsewhere"
                raise DataError(msg)
            if suffix in _READ:
                yield path


def _walk(root: Path, walked: set[str]) -> Iterator[tuple[str, list[str], list[str]]]:
    """Yield what os.walk yields, links followed.

    Raises:
        DataError: A link leads back to a folder that was walked already.
    """
    for place, folders, files in os.walk(root, followlinks=True):
        real = os.path.realpath(place)
        if real in walked:
            msg = f"{shown(place)}: a link to {shown(real)}, which is in this class already; remove the link"
            raise DataError(msg)
        walked.add(real)
        yield place, folders, files


SPLITS: Final = ("train", "val")
CLASSES: Final = 1000
# Below --data-dir; the last is how Kaggle packs it.
_PLACES: Final = (".", "imagenet", "ImageNet", "imagenet-1k", "ILSVRC2012", "ILSVRC/Data/CLS-LOC")


def imagenet(split: str, data_dir: str | None) -> DataSource:
    """Return a split of ImageNet, its classes numbered in the order of their WordNet names.

    torchvision's own reader is not used: it would unpack archives, and pickles beside them, unasked.

    Raises:
        DataError: It is not there, or has not ImageNet's thousand classes.
    """
    root = data_folder(data_dir)
    place = next((root / each for each in _PLACES if (root / each / split).is_dir()), None)
    if place is None:
        msg = (
            f"imagenet: no folder {split} with one folder per class in {shown(root.absolute())}; type --data-dir DIR, "
            "or --data folder:DIR --normalize imagenet"
        )
        raise DataError(msg)
    source = folder(str(place), split)
    if source.classes != CLASSES:
        msg = (
            f"imagenet: {shown(place / split)} holds {source.classes} class folders, not {CLASSES}, and labels would "
            f"be other numbers; type --data folder:{shown(place)} --split {split} --normalize imagenet"
        )
        raise DataError(msg)
    return replace(source, name="imagenet", constants=NAMED["imagenet"])
