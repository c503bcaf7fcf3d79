"""ImageNet-1k as it lies on most disks: `train/` and `val/`, each with one folder per WordNet class."""

from dataclasses import replace
from typing import Final

from fisher_cli.errors import DataError
from fisher_cli.inputs.data.folders import folder
from fisher_cli.inputs.data.normalization import NAMED
from fisher_cli.inputs.data.sources import Source
from fisher_cli.inputs.data.torchvision_datasets import data_folder
from fisher_cli.inputs.formats.regular_files import shown

SPLITS: Final = ("train", "val")
CLASSES: Final = 1000
# Below --data-dir; the last is how Kaggle packs it.
_PLACES: Final = (".", "imagenet", "ImageNet", "imagenet-1k", "ILSVRC2012", "ILSVRC/Data/CLS-LOC")


def imagenet(split: str, data_dir: str | None) -> Source:
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
