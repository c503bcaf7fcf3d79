"""A dataset as its readers hand it over: a split whose examples are decoded when they are asked for."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from fisher_cli.errors import DataError
from fisher_cli.inputs.data.images import Pixels
from fisher_cli.inputs.data.normalization import Normalization
from fisher_cli.inputs.data.resizing import Resizing
from fisher_cli.inputs.formats.files import available_memory

__all__ = ["DataSource", "Example", "Pixels", "one_by_one", "read"]

Array = npt.NDArray[Any]
_MOST_CLASSES: Final = 2**31
Example = tuple[Array, int]


@dataclass(frozen=True, kw_only=True)
class DataSource:
    """One split of a dataset; nothing of it is decoded until `examples` is asked for some.

    Attributes:
        name: the dataset, for the report and for messages.
        split: the part of it; None where it has no parts.
        total: how many examples it has.
        classes: how many classes it declares; None: the network decides.
        class_names: by class number; () when unknown.
        examples: takes ascending indices and gives, for each, the input and its label: the pixels of an image, (H, W)
            or (H, W, C) uint8, or where `is_image` is False an array that goes to the network as it is.
        place: says in messages where the example of an index came from.
        constants: how its inputs are normalised; None: nobody knows.
        pixel_maximum: the stored number that stands for 1.
        is_image: whether the inputs are pixels.
        channels: how many they have, or how long the first axis of other inputs is, where that is known beforehand.
        remedy: what to do about a damaged example, for messages.
    """

    name: str
    split: str | None
    total: int
    classes: int | None
    class_names: tuple[str, ...]
    examples: Callable[[Sequence[int]], Iterator[Example]]
    place: Callable[[int], str] = field(default="example {}".format)
    constants: Normalization | None
    pixel_maximum: float = 255.0
    is_image: bool = True
    channels: int | None = None
    remedy: str = "the file is damaged: copy or download it again"


def one_by_one(example: Callable[[int], Example]) -> Callable[[Sequence[int]], Iterator[Example]]:
    """Return the `examples` of a source that reaches each example by itself."""
    return lambda indices: map(example, indices)


def read(source: DataSource, indices: Sequence[int], resizing: Resizing) -> tuple[Tensor, Tensor]:
    """Return the inputs (N, …) and labels (N,) int64 of these examples; images as (N, C, H, W) uint8.

    Raises:
        DataError: Two examples differ in size, one is NaN or infinite, a label is none of the dataset's classes, or
            all of them together do not fit into memory.
    """
    inputs, labels = torch.empty(0), torch.empty(len(indices), dtype=torch.int64)
    first: tuple[int, ...] | None = None
    for row, (index, (stored, label)) in enumerate(zip(indices, source.examples(indices), strict=True)):
        example = _tensor(source, index, stored, resizing)
        if first is None:
            first = tuple(example.shape)
            _check_memory(source, example, len(indices))
            inputs = torch.empty((len(indices), *first), dtype=example.dtype)
        if tuple(example.shape) != first or example.dtype != inputs.dtype:
            raise DataError(_differ(source, indices[0], inputs[0], index, example))
        _check_label(source, index, label)
        inputs[row], labels[row] = example, label
    return inputs, labels


def _tensor(source: DataSource, index: int, stored: Array, resizing: Resizing) -> Tensor:
    """Return one input as a tensor of its own memory.

    Raises:
        DataError: It holds a number that is NaN or infinite, or it is to be resized and is no image.
    """
    # Copied: the readers' own arrays may be read-only, which torch does not accept.
    if source.is_image:
        pixels = resizing.apply(stored, source.place(index)) if resizing else stored
        return torch.from_numpy(np.array(np.atleast_3d(pixels).transpose(2, 0, 1), order="C"))
    if resizing:
        msg = f"{source.name}: --resize and --crop are for images; its inputs are numbers: leave these options out"
        raise DataError(msg)
    if stored.dtype.kind == "f" and not np.isfinite(stored).all():
        msg = f"{source.name}: {source.place(index)} holds NaN or infinite numbers; leave it out, or mend it"
        raise DataError(msg)
    return torch.from_numpy(np.array(stored, dtype=stored.dtype.newbyteorder("="), order="C"))


def _check_memory(source: DataSource, example: Tensor, count: int) -> None:
    needed, there = example.numel() * example.element_size() * count, available_memory()
    if needed > there:
        fitting = max(1, there // max(1, needed // count))
        msg = (
            f"{source.name}: {count} examples of {example.numel() * example.element_size()} bytes do not fit into "
            f"memory; type --limit with at most {fitting}, or a smaller --resize"
        )
        raise DataError(msg)


def _check_label(source: DataSource, index: int, label: int) -> None:
    classes = _MOST_CLASSES if source.classes is None else source.classes
    if not 0 <= label < classes:
        there = (
            f"labels count from 0 to {classes - 1}"
            if source.classes is None
            else f"there are {classes} classes (0 and up)"
        )
        msg = f"{source.name}: {source.place(index)} has the label {label}, and {there}; {source.remedy}"
        raise DataError(msg)


def _differ(source: DataSource, earlier: int, one: Tensor, later: int, other: Tensor) -> str:
    first = f"{source.place(earlier)} is {_size(source, one)}"
    second = f"{source.place(later)} is {_size(source, other)}"
    remedy = (
        "bring them to one size with --resize and --crop" if source.is_image else "all examples must have one shape"
    )
    return (
        f"{source.name}: the {'images' if source.is_image else 'inputs'} differ in size: {first} and {second}; {remedy}"
    )


def _size(source: DataSource, example: Tensor) -> str:
    if not source.is_image:
        return f"{tuple(example.shape)} {str(example.dtype).removeprefix('torch.')}"
    channels, height, width = example.shape
    return f"{width}×{height} with {channels} channel{'s' if channels > 1 else ''}"
