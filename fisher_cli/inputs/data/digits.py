"""The 1,797 handwritten digits that come with fisher: 8 × 8 pixels, integers from 0 to 16.

Source: E. Alpaydin and C. Kaynak 1998, Optical Recognition of Handwritten Digits, DOI 10.24432/C50P49 (CC BY 4.0;
see NOTICE), the test part in UCI's order.
"""

import gzip
from functools import cache
from importlib import resources
from typing import Final

import numpy as np

from fisher_cli.inputs.data.normalization import Normalization
from fisher_cli.inputs.data.sources import DataSource, Pixels, one_by_one

SPLITS: Final = ("train", "test")
TRAIN_EXAMPLES: Final = 1400
CONSTANTS: Final = Normalization("digits", (0.0,), (1.0,))


def digits(split: str) -> DataSource:
    """Return the digits: train is the first 1,400 and test the other 397 of a fixed permutation."""
    images, labels = _table()
    # numpy promises that RandomState's streams never change; the split is the same on every machine.
    order = np.random.RandomState(0).permutation(len(labels))
    order = order[:TRAIN_EXAMPLES] if split == "train" else order[TRAIN_EXAMPLES:]
    images, labels = images[order], labels[order]
    return DataSource(
        name="digits",
        split=split,
        total=len(labels),
        classes=10,
        class_names=tuple("0123456789"),
        examples=one_by_one(lambda index: (images[index], int(labels[index]))),
        constants=CONSTANTS,
        pixel_maximum=16.0,
    )


@cache
def _table() -> tuple[Pixels, Pixels]:
    file = resources.files("fisher_cli.inputs.data") / "digits.csv.gz"
    text = gzip.decompress(file.read_bytes()).decode("ascii")
    rows = np.array([line.split(",") for line in text.splitlines()], dtype=np.uint8)
    return rows[:, :64].reshape(-1, 8, 8), rows[:, 64]
