"""`--data package.module:function`: the user's own code returns a dataset; it must be the same each time it is read."""

import itertools
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Final

import numpy as np
import torch
from torch import Tensor

from fisher_cli.errors import DataError
from fisher_cli.inputs.data.arrays import NamedArray, pair_source, table_of
from fisher_cli.inputs.data.normalization import NONE
from fisher_cli.inputs.data.sources import Array, DataSource, Example, one_by_one
from fisher_cli.inputs.user_code import call_reason, import_function, parsed_arguments, raise_if_stopped
from fisher_cli.text import clipped

# An augmentation of one example in ten escapes four readings of so many with a chance of one in a million.
_PROBED: Final = 32
_FORM: Final = (
    "return a pair (inputs, labels) of tensors or arrays, or a dataset with __len__ and __getitem__ that gives "
    "(input, label)"
)


def function_source(data: str, arguments: Mapping[str, str]) -> DataSource:
    """Return the examples of what the user's function returns.

    The function is called twice, with different random states, and some examples of both are compared, each read
    twice: what is random in it is told before it can change a number.

    Args:
        data: `package.module:function` or `./file.py:function`, typed by the user.
        arguments: of the function; values are JSON where they can be read as that, else text.

    Raises:
        DataError: The function fails, returns something else, or returns other examples each time.
    """
    name, function = import_function(data, "--data", DataError, "the dataset")
    parsed = parsed_arguments(arguments)
    first = _source(name, _called(function, parsed, name, seed=1))
    probe = _probed(first, name)
    del first  # before the second is made: only one is held
    source = _source(name, _called(function, parsed, name, seed=2))
    if not _same(probe, _probed(source, name)):
        msg = f"{name}: returns other examples each time it is called; take a fixed order, or seed its shuffling"
        raise DataError(msg)
    return source


def _called(function: Callable[..., object], arguments: Mapping[str, object], name: str, seed: int) -> object:
    """Return what the function returns; the random states are left as they were.

    Raises:
        DataError: It raises.
    """
    try:
        with _random_state(seed):
            return function(**arguments)
    except (Exception, SystemExit) as error:
        raise_if_stopped(error)
        msg = f"{name}: making the dataset failed ({call_reason(error)}); check the function and --data-arg"
        raise DataError(msg) from error


@contextmanager
def _random_state(seed: int) -> Iterator[None]:
    before, before_numpy = random.getstate(), np.random.get_state()
    try:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            random.seed(seed)
            np.random.seed(seed)
            yield
    finally:
        random.setstate(before)
        np.random.set_state(before_numpy)


def _source(name: str, returned: object) -> DataSource:
    """Return the source for what the function returned.

    Raises:
        DataError: It is nothing that has examples.
    """
    if isinstance(returned, torch.utils.data.DataLoader):
        msg = f"{name}: returned a DataLoader, which may shuffle; return its dataset"
        raise DataError(msg)
    if isinstance(returned, Mapping):
        returned = tuple(returned.get(word) for word in ("inputs", "labels"))
    is_pair = isinstance(returned, (tuple, list)) and len(returned) == 2
    if is_pair and all(isinstance(part, (Tensor, np.ndarray)) for part in returned):  # type: ignore[attr-defined]
        inputs, labels = (_table(part, name) for part in returned)  # type: ignore[attr-defined]
        return pair_source(name, inputs, labels)
    if is_pair or not hasattr(returned, "__getitem__") or not hasattr(returned, "__len__"):
        msg = f"{name}: returned {type(returned).__name__}; {_FORM}"
        raise DataError(msg)
    return _dataset(name, returned)


def _table(part: Any, name: str) -> NamedArray:
    if isinstance(part, Tensor):
        if part.is_complex() or part.layout is not torch.strided:
            msg = f"{name}: returned a tensor {part.dtype} {part.layout}; {_FORM}"
            raise DataError(msg)
        part = part.detach().cpu()
        part = (part.float() if part.dtype is torch.bfloat16 else part).numpy()
    return table_of(part)


def _dataset(name: str, dataset: Any) -> DataSource:
    """Return the source for a map-style dataset.

    Raises:
        DataError: It has no examples, or they are no pairs.
    """
    try:
        total = len(dataset)
    except Exception as error:
        msg = f"{name}: its len() failed ({call_reason(error)}); {_FORM}"
        raise DataError(msg) from error
    if total < 1:
        msg = f"{name}: returned a dataset without examples; check the function and --data-arg"
        raise DataError(msg)

    def example(index: int) -> Example:
        try:
            item = dataset[index]
        except Exception as error:
            msg = f"{name}: example {index} failed ({call_reason(error)}); correct the dataset"
            raise DataError(msg) from error
        if not isinstance(item, (tuple, list)) or len(item) != 2:
            msg = f"{name}: example {index} is {type(item).__name__}; {_FORM}"
            raise DataError(msg)
        return _array(item[0], index, name), _label(item[1], index, name)

    is_image = _is_picture(example(0)[0])
    names = getattr(dataset, "classes", ())
    known = isinstance(names, Sequence) and not isinstance(names, str) and all(isinstance(each, str) for each in names)
    return DataSource(
        name=name,
        split=None,
        total=total,
        classes=None,
        class_names=tuple(names) if known else (),
        examples=one_by_one(example),
        constants=None if is_image else NONE,
        is_image=is_image,
        remedy="correct the dataset, or give labels with --labels",
    )


def _is_picture(example: Array) -> bool:
    """Whether it is (H, W) or (H, W, C) of bytes, as images of Pillow are."""
    return example.dtype == np.uint8 and (example.ndim == 2 or (example.ndim == 3 and example.shape[2] in {1, 3}))


def _array(item: object, index: int, name: str) -> Array:
    """Return an input as an array: tensors, arrays, numbers, and images of Pillow as their pixels.

    Raises:
        DataError: It is none of them.
    """
    if isinstance(item, Tensor):
        item = item.detach().cpu()
        item = (item.float() if item.dtype in {torch.bfloat16, torch.float16} else item).numpy()
        if item.dtype == np.uint8 and item.ndim == 3 and item.shape[0] in {1, 3}:
            item = item.transpose(1, 2, 0)  # torch's order of an image's axes
    array = np.asarray(item)
    is_bytes = array.dtype == np.uint8
    if is_bytes and not _is_picture(array):
        msg = f"{name}: example {index} is uint8 of shape {array.shape}, no image; return floating numbers or int64"
        raise DataError(msg)
    if not is_bytes and (array.dtype.kind not in "fiu" or array.dtype == np.uint64):
        what = f"{type(item).__name__} ({array.dtype})"
        msg = f"{name}: example {index} has an input of {what}; return a tensor or an array"
        raise DataError(msg)
    return array if is_bytes or array.dtype.kind == "f" else array.astype(np.int64)


def _label(item: object, index: int, name: str) -> int:
    """Return a label as an int.

    Raises:
        DataError: It is no integer.
    """
    number = np.asarray(item.detach().cpu() if isinstance(item, Tensor) else item)
    if number.size != 1 or number.dtype.kind not in "iu":
        msg = f"{name}: example {index} has the label {clipped(item, 60)}; class numbers are integers from 0 up"
        raise DataError(msg)
    return int(number.reshape(()))


def _probed(source: DataSource, name: str) -> list[Example]:
    """Return some examples, evenly over all of them.

    Raises:
        DataError: Read again, one of them is another.
    """
    if source.total < 1:
        msg = f"{name}: returned no examples; check the function and --data-arg"
        raise DataError(msg)
    count = min(_PROBED, source.total)
    places = sorted({0, source.total - 1, *(index * source.total // count for index in range(count))})
    first, again = list(source.examples(places)), list(source.examples(places))
    for index, one, other in zip(places, first, again, strict=True):
        if not _same([one], [other]):
            msg = (
                f"{name}: example {index} is another each time it is read: leave out random augmentation (crops, "
                "flips, noise); the evaluation's transform is what the network is measured with"
            )
            raise DataError(msg)
    return [(np.array(stored), label) for stored, label in first]


def _same(ours: Sequence[Example], theirs: Sequence[Example]) -> bool:
    pairs = itertools.zip_longest(ours, theirs)
    return all(
        one is not None
        and other is not None
        and one[1] == other[1]
        and one[0].dtype == other[0].dtype
        and np.array_equal(one[0], other[0], equal_nan=one[0].dtype.kind == "f")
        for one, other in pairs
    )
