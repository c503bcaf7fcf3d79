"""Named arrays, from a file or a function → examples: which are inputs and labels, and what their axes mean."""

import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from fisher_cli.errors import DataError
from fisher_cli.inputs.data.normalization import NONE
from fisher_cli.inputs.data.sources import Array, DataSource, Example
from fisher_cli.inputs.data.splits import choose_split, in_order
from fisher_cli.text import clipped

_INPUT_WORDS: Final = ("inputs", "input", "images", "image", "x", "data", "features")
_LABEL_WORDS: Final = ("labels", "label", "y", "targets", "target")
_PART: Final = re.compile(r"([a-z]+)[._/]([a-z]+)", re.ASCII)
_GRAY_OR_COLOUR: Final = (1, 3)
# A header that says more than this for one example is wrong, or it is no example.
_LARGEST_EXAMPLE: Final = 256 * 2**20
_NAMES: Final = "images and labels, x and y, train_images and train_labels, or x_train and y_train"


@dataclass(frozen=True)
class NamedArray:
    """An array whose shape and type are known before a number of it is read.

    Attributes:
        shape: (N, …).
        dtype: of its numbers.
        rows: reads the rows at ascending indices, one after the other.
    """

    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    rows: Callable[[Sequence[int]], Iterator[Array]]


def table_of(array: Array) -> NamedArray:
    """Return an array that is in memory as a table."""
    return NamedArray(array.shape, array.dtype, lambda indices: (array[index] for index in indices))


def array_source(name: str, tables: Mapping[str, NamedArray], split: str | None) -> DataSource:
    """Return the split of a file of arrays.

    uint8 arrays are images, (N, H, W), (N, H, W, C) or (N, C, H, W); floating ones and integers go to the network
    as they are.

    Raises:
        UsageError: There is no such split.
        DataError: The arrays are not told apart, or they are no inputs and labels of one number of examples.
    """
    pairs = _pairs(name, list(tables))
    chosen = choose_split(split, in_order(each for each in pairs if each is not None), name)
    inputs_name, labels_name = pairs[chosen]
    return pair_source(name, tables[inputs_name], tables[labels_name], chosen, (inputs_name, labels_name))


def pair_source(
    name: str,
    inputs: NamedArray,
    labels: NamedArray,
    split: str | None = None,
    words: tuple[str, str] = ("inputs", "labels"),
) -> DataSource:
    """Return examples from a table of inputs and a table of labels.

    Raises:
        DataError: They are no inputs and labels of one number of examples.
    """
    _check_labels(name, labels, words[1])
    total = inputs.shape[0] if inputs.shape else 0
    if total != labels.shape[0]:
        msg = (
            f"{name}: {words[0]} has {total} examples and {words[1]} {labels.shape[0]}; one label per example is needed"
        )
        raise DataError(msg)
    row_bytes = inputs.dtype.itemsize * math.prod(inputs.shape[1:])
    if row_bytes > _LARGEST_EXAMPLE:
        msg = f"{name}: one example of {words[0]} {inputs.shape} has {row_bytes} bytes; is its first axis the examples?"
        raise DataError(msg)
    is_image = inputs.dtype == np.uint8
    arranged = _arranged(name, inputs, words[0]) if is_image else _numbers(name, inputs, words[0])

    def examples(indices: Sequence[int]) -> Iterator[Example]:
        classes = [int(label.reshape(())) for label in labels.rows(indices)]
        for stored, label in zip(inputs.rows(indices), classes, strict=True):
            yield arranged(stored), label

    return DataSource(
        name=name,
        split=split,
        total=total,
        classes=None,
        class_names=(),
        examples=examples,
        constants=None if is_image else NONE,
        is_image=is_image,
        channels=_channels(arranged, inputs) if is_image else next(iter(inputs.shape[1:]), 1),
        remedy="mend the labels, or give others with --labels",
    )


def _channels(arranged: Callable[[Array], Array], inputs: NamedArray) -> int:
    """Return the channels of the images, by the axes of one that has no memory."""
    image = arranged(np.broadcast_to(np.uint8(0), inputs.shape[1:]))
    return int(image.shape[2]) if image.ndim == 3 else 1


def _pairs(name: str, names: Sequence[str]) -> dict[str | None, tuple[str, str]]:
    """Return the names of inputs and labels by split; None is the split of a file without parts.

    Raises:
        DataError: There are none, or several for one split.
    """
    inputs: dict[str | None, list[str]] = {}
    labels: dict[str | None, list[str]] = {}
    for each in names:
        word, part = _word_and_part(each.lower())
        if word in _INPUT_WORDS:
            inputs.setdefault(part, []).append(each)
        elif word in _LABEL_WORDS:
            labels.setdefault(part, []).append(each)
    shown = clipped(", ".join(sorted(names)), 300) or "nothing"
    doubled = [each for each in (*inputs.values(), *labels.values()) if len(each) > 1]
    if doubled:
        msg = f"{name}: {clipped(' and '.join(doubled[0]))} could both be meant; keep one of them in the file"
        raise DataError(msg)
    both = {part: (inputs[part][0], labels[part][0]) for part in inputs if part in labels}
    if not both:
        msg = f"{name}: holds {shown}; save it with the names {_NAMES}"
        raise DataError(msg)
    if None in both and len(both) > 1:
        del both[None]
    return both


def _word_and_part(name: str) -> tuple[str, str | None]:
    """`x_train`, `train_x` and `train.x` as (x, train); `x` as (x, None)."""
    found = _PART.fullmatch(name)
    if found is None:
        return name, None
    first, second = found.groups()
    return (first, second) if first in {*_INPUT_WORDS, *_LABEL_WORDS} else (second, first)


def _check_labels(name: str, labels: NamedArray, word: str) -> None:
    fault = None
    if labels.shape[1:] not in {(), (1,)} or not labels.shape:
        fault = f"has the shape {labels.shape}; one class per example, (N,), is needed (of one-hot labels the argmax)"
    elif labels.dtype.kind not in "iu":
        fault = f"is {labels.dtype}; class numbers are integers from 0 up: save them as int64"
    if fault is not None:
        msg = f"{name}: {word} {fault}"
        raise DataError(msg)


def _arranged(name: str, inputs: NamedArray, word: str) -> Callable[[Array], Array]:
    """Return what brings a stored image into (H, W) or (H, W, C).

    Raises:
        DataError: The shape is no image's, or could be read in two ways.
    """
    shape = inputs.shape
    channels_last = len(shape) == 4 and shape[3] in _GRAY_OR_COLOUR
    channels_first = len(shape) == 4 and shape[1] in _GRAY_OR_COLOUR
    if channels_last and channels_first:
        msg = (
            f"{name}: {word} of shape {shape} can be (N, H, W, C) or (N, C, H, W); save it as floating numbers in the "
            "order that the network takes, divided by 255, or without the axis of 1"
        )
        raise DataError(msg)
    if (len(shape) != 3 and not channels_first and not channels_last) or 0 in shape[1:]:
        msg = (
            f"{name}: {word} is uint8 of shape {shape}, and images are (N, H, W), (N, H, W, C) or (N, C, H, W) with "
            "1 or 3 channels; save it in one of these shapes, or as floating numbers, which are left as they are"
        )
        raise DataError(msg)
    return (lambda stored: stored.transpose(1, 2, 0)) if channels_first else (lambda stored: stored)


def _numbers(name: str, inputs: NamedArray, word: str) -> Callable[[Array], Array]:
    """Return what brings stored numbers into a type that networks take: floating as it is, integers as int64.

    Raises:
        DataError: They are of another type.
    """
    kind, size = inputs.dtype.kind, inputs.dtype.itemsize
    if kind == "f" and size in {4, 8}:
        return lambda stored: stored
    if kind == "f" and size == 2:
        return lambda stored: stored.astype(np.float32)
    if kind == "i" or (kind == "u" and size < 8):
        return lambda stored: stored.astype(np.int64)
    msg = f"{name}: {word} is {inputs.dtype}; save it as uint8 images, floating numbers, or int64"
    raise DataError(msg)
