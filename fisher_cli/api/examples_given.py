"""Examples that a caller has in Python: tensors, arrays, a dataset or a loader → tensors in one fixed order."""

from collections.abc import Sequence
from typing import Any, Final

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, IterableDataset, RandomSampler, SubsetRandomSampler

from fisher_cli.curvature.problem.problem import TensorData
from fisher_cli.curvature.torch_backend.random_state import RandomState
from fisher_cli.errors import DataError, UsageError
from fisher_cli.inputs.data.datasets import check_limit, selected
from fisher_cli.settings import Settings

Array = Tensor | np.ndarray[Any, Any]
Data = str | tuple[Array, Array] | Dataset[Any] | DataLoader[Any]

# An augmentation of one example in ten escapes so many with a chance of one in thirty.
_PROBED: Final = 32
_OF_NAMED_DATA: Final = ("split", "labels", "normalize", "resize", "crop", "grayscale")


def is_given(data: object) -> bool:
    """Whether these are examples, and not the name of a dataset."""
    if isinstance(data, DataLoader) or (isinstance(data, Dataset) and hasattr(data, "__len__")):
        return True
    is_pair = isinstance(data, (tuple, list)) and len(data) == 2
    return is_pair and all(isinstance(each, (Tensor, np.ndarray)) for each in data)  # type: ignore[attr-defined]


def examples_given(data: Any, settings: Settings) -> TensorData:
    """The examples as tensors, those of them that a dataset's `limit` would select.

    Args:
        data: what `is_given` accepts.
        settings: their `limit` and `seed` select.

    Raises:
        UsageError: a setting is one of named datasets, or the limit is below 1.
        DataError: there are not as many labels as inputs, examples are no pairs, or reading them again gives others.
    """
    plain = Settings()
    for name in _OF_NAMED_DATA:
        if getattr(settings, name) != getattr(plain, name):
            msg = f"{name}= is for datasets by name: these examples go to the network as they are, so leave it out"
            raise UsageError(msg)
    check_limit(settings.limit)
    before = RandomState.now(torch.device("cpu"))
    try:
        if isinstance(data, Dataset):
            return _of_dataset(data, settings)
        inputs, labels = _of_loader(data) if isinstance(data, DataLoader) else map(_tensor, data)
    finally:
        before.put_back()
    if len(inputs) != len(labels):
        msg = f"{len(inputs)} inputs and {len(labels)} labels: give one label per input"
        raise DataError(msg)
    if settings.limit is None or settings.limit >= len(inputs):
        return TensorData(inputs, labels)
    places = selected(len(inputs), settings.limit, settings.seed)
    return TensorData(inputs[places.to(inputs.device)], labels[places.to(labels.device)])


def _tensor(part: object) -> Tensor:
    """A tensor as it is, an array or a number as a tensor.

    Raises:
        DataError: it is something else.
    """
    if isinstance(part, Tensor):
        return part
    array = np.asarray(part)
    try:
        return torch.from_numpy(np.ascontiguousarray(array) if array.flags.writeable else array.copy())
    except (TypeError, ValueError) as error:
        msg = (
            f"an example holds {type(part).__name__} ({array.dtype}), which is no number: let the dataset give "
            "tensors, as with the transform torchvision.transforms.ToTensor()"
        )
        raise DataError(msg) from error


def _pair(item: object, what: str) -> tuple[Tensor, Tensor]:
    """An input and its label, or a batch of them.

    Raises:
        DataError: it is no pair.
    """
    if not isinstance(item, (tuple, list)) or len(item) != 2:
        msg = f"{what} is {type(item).__name__}, and not a pair (input, label): pass tensors (inputs, labels) instead"
        raise DataError(msg)
    return _tensor(item[0]), _tensor(item[1])


def _of_dataset(dataset: Any, settings: Settings) -> TensorData:
    """The selected examples of a dataset, some of which are read twice.

    Raises:
        DataError: they differ from reading to reading, or from each other in their shapes.
    """
    total = len(dataset)
    if not total:
        msg = f"data: the {type(dataset).__name__} has no examples"
        raise DataError(msg)
    places = selected(total, settings.limit, settings.seed).tolist()
    pairs = [_pair(dataset[place], f"data: example {place}") for place in places]
    for k in sorted({k * len(places) // _PROBED for k in range(_PROBED)}):
        _refuse_another(pairs[k], _pair(dataset[places[k]], f"data: example {places[k]}"), f"example {places[k]}")
    return TensorData(*(_joined([pair[i] for pair in pairs], torch.stack) for i in range(2)))


def _of_loader(loader: Any) -> tuple[Tensor, Tensor]:
    """All examples of a loader in its order.

    Raises:
        DataError: it shuffles, its examples differ from reading to reading, or it has none.
    """
    _refuse_shuffling(loader)
    batches = [_pair(batch, "data: a batch of the loader") for batch in loader]
    if not batches:
        msg = "data: the loader gives no batches"
        raise DataError(msg)
    _refuse_another(batches[0], _pair(next(iter(loader)), "data: a batch of the loader"), "the first batch")
    join = torch.cat if batches[0][1].ndim else torch.stack  # a loader may give single examples
    inputs, labels = (_joined([batch[i] for batch in batches], join) for i in range(2))
    return inputs, labels


def _refuse_shuffling(loader: Any) -> None:
    """Refuse a loader whose order is another each time.

    Raises:
        DataError: it is.
    """
    if isinstance(loader.dataset, IterableDataset):
        return
    order = loader.sampler if loader.batch_sampler is None else loader.batch_sampler
    is_random = isinstance(loader.sampler, (RandomSampler, SubsetRandomSampler))
    if is_random or list(order) != list(order):
        name = type(loader.sampler).__name__
        msg = (
            f"data: the loader shuffles its examples ({name}), and a run needs the same ones in the same order each "
            "time: pass DataLoader(dataset, batch_size=..., shuffle=False), or the dataset itself"
        )
        raise DataError(msg)


def _refuse_another(one: Sequence[Tensor], other: Sequence[Tensor], what: str) -> None:
    """Refuse examples that are others when they are read again.

    Raises:
        DataError: they are.
    """
    for ours, theirs in zip(one, other, strict=True):
        is_same = ours.shape == theirs.shape and torch.equal(torch.nan_to_num(ours), torch.nan_to_num(theirs))
        if not is_same:
            msg = (
                f"data: {what} is another each time it is read: leave out shuffling and random augmentation (crops, "
                "flips, noise); the evaluation's transform is what the network is measured with"
            )
            raise DataError(msg)


def _joined(parts: Sequence[Tensor], join: Any) -> Tensor:
    """The parts as one tensor.

    Raises:
        DataError: their shapes differ.
    """
    try:
        return join(list(parts))  # type: ignore[no-any-return]
    except RuntimeError as error:
        shapes = " and ".join(dict.fromkeys(str(tuple(part.shape)) for part in parts[:1] + parts[-1:]))  # type: ignore[operator]
        msg = f"data: examples differ in their shapes, such as {shapes}: bring them to one size first"
        raise DataError(msg) from error
