"""A dataset as the readers of folders, torchvision files and the digits hand it over: examples by index."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from fisher_cli.errors import DataError
from fisher_cli.inputs.normalization import Normalization

Pixels = npt.NDArray[np.uint8]


@dataclass(frozen=True, kw_only=True)
class Source:
    """One split of a dataset; nothing of it is decoded until `example` asks.

    `example` gives the pixels of one image, (H, W) or (H, W, C), and its label; `place` says in messages where
    it came from. `constants` None means: nobody knows how the networks' inputs were normalised.
    """

    name: str
    split: str | None
    total: int
    classes: int
    class_names: tuple[str, ...]
    example: Callable[[int], tuple[Pixels, int]]
    place: Callable[[int], str] = field(default="example {}".format)
    constants: Normalization | None
    pixel_maximum: float = 255.0


def read(source: Source, indices: Sequence[int]) -> tuple[Tensor, Tensor]:
    """Return the images (N, C, H, W) uint8 and labels (N,) int64 of these examples.

    Raises:
        DataError: Two images differ in size, or a label is none of the dataset's classes.
    """
    inputs, labels = torch.empty(0), torch.empty(len(indices), dtype=torch.int64)
    for row, index in enumerate(indices):
        pixels, label = source.example(index)
        # Copied: the readers' own arrays may be read-only, which torch does not accept.
        image = torch.from_numpy(np.array(np.atleast_3d(pixels).transpose(2, 0, 1), order="C"))
        if row == 0:
            inputs = torch.empty((len(indices), *image.shape), dtype=torch.uint8)
        if image.shape != inputs.shape[1:]:
            first = f"{source.place(indices[0])} is {_size(inputs.shape[1:])}"
            second = f"{source.place(index)} is {_size(image.shape)}"
            msg = (
                f"{source.name}: the images differ in size: {first} and {second}; "
                "resize a copy of them to one size and name it with --data folder:DIR"
            )
            raise DataError(msg)
        if not 0 <= label < source.classes:
            msg = (
                f"{source.name}: {source.place(index)} has the label {label}, and there are {source.classes} "
                "classes (0 and up); the file is damaged: fetch it again with --download into an empty --data-dir"
            )
            raise DataError(msg)
        inputs[row], labels[row] = image, label
    return inputs, labels


def _size(shape: Sequence[int]) -> str:
    channels, height, width = shape
    return f"{width}×{height} with {channels} channel{'s' if channels > 1 else ''}"
