"""`--data` → the examples themselves: which dataset, which split, which of its examples, how normalised."""

import difflib
import hashlib
import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor

from fisher_cli.errors import DataError, UsageError
from fisher_cli.inputs import digits
from fisher_cli.inputs.containers import one_line
from fisher_cli.inputs.folders import folder
from fisher_cli.inputs.labels import read_labels
from fisher_cli.inputs.normalization import Normalization, find_normalization
from fisher_cli.inputs.sources import Source, read
from fisher_cli.inputs.torchvision_datasets import DATASETS, torchvision_dataset
from fisher_cli.settings import last_part

__all__ = ["Examples", "Normalization", "known_datasets", "load_examples"]

_FOLDER: Final = "folder:"


@dataclass(frozen=True)
class Examples:
    """The selected examples of one split, as stored, with what is needed to feed them to a network.

    Attributes:
        name: the dataset, as `fisher datasets` lists it, or `folder:DIR`.
        split: the part of it; None where it has no parts.
        inputs: (N, C, H, W) uint8 images, or floating numbers.
        labels: (N,) int64.
        noisy: (N,) bool, from the column `noisy` of a labels file.
        class_names: the classes' names, () when unknown.
        classes: how many classes the dataset declares; None if the labels came from a file.
        indices: (N,) int64, each example's place within the split.
        total: the size of the split.
        normalization: what `batch` applies.
        identity: "sha256:…" over indices, raw inputs, labels and normalisation: same identity, same data.
        pixel_maximum: the stored number that stands for 1.
    """

    name: str
    split: str | None
    inputs: Tensor
    labels: Tensor
    noisy: Tensor | None
    class_names: tuple[str, ...]
    classes: int | None
    indices: Tensor
    total: int
    normalization: Normalization
    identity: str
    pixel_maximum: float = 255.0

    def __len__(self) -> int:
        return len(self.labels)

    def batch(self, start: int, stop: int) -> tuple[Tensor, Tensor]:
        """Return normalised float32 inputs and the labels of examples `start` to `stop` − 1."""
        inputs = self.normalization.apply(self.inputs[start:stop], self.pixel_maximum)
        return inputs, self.labels[start:stop]

    def describe(self) -> dict[str, Any]:
        """Which examples these are and how they are normalised, as JSON values for the record."""
        return {
            "name": last_part(self.name),
            "split": self.split,
            "examples": len(self),
            "of": self.total,
            "identity": self.identity,
            "normalization": {
                "name": self.normalization.name,
                "mean": list(self.normalization.mean),
                "std": list(self.normalization.std),
            },
        }


def known_datasets() -> list[str]:
    """Return the names that `--data` knows, sorted; `folder:DIR` is not one of them."""
    return sorted(["digits", *DATASETS])


def load_examples(
    data: str,
    *,
    data_dir: str | None = None,
    split: str | None = None,
    limit: int | None = 1000,
    labels: str | None = None,
    normalize: str | None = None,
    download: bool = False,
    seed: int = 0,
) -> Examples:
    """Return the selected examples of a dataset.

    Only those are decoded. `limit` None, or not below the split's size, selects all; else the first `limit`
    of torch.randperm(size, generator seeded by `seed`), sorted.

    Args:
        data: a name of `known_datasets` (case, - and _ do not matter) or `folder:DIR`.
        data_dir: where named datasets lie; None: FISHER_DATA_DIR, else ./data.
        split: the part of it; None: `train` where there is one, for `folder:DIR` DIR itself.
        limit: how many examples, at least 1.
        labels: a CSV file `index,label[,noisy]` that replaces the labels.
        normalize: a name or numbers `m1,m2,m3/s1,s2,s3`; None: the dataset's own constants.
        download: fetch a named dataset that is missing.
        seed: of the selection.

    Raises:
        UsageError: The limit, the seed, the split or the normalisation cannot be.
        DataError: The dataset is unknown, missing, damaged, or its normalisation must be given.
    """
    if limit is not None and limit < 1:
        msg = f"--limit {limit}: at least 1 example is needed; type a number from 1 up, or all"
        raise UsageError(msg)
    if not 0 <= seed < 2**63:
        msg = f"--seed {seed}: type an integer from 0 to 2^63 − 1"
        raise UsageError(msg)
    source = _source(data, split, data_dir, download=download)
    indices = _selected(source.total, limit, seed)
    if labels is not None:  # before the images: a wrong file is told at once
        new_labels, noisy = read_labels(labels, indices.tolist(), source.total)
    channels = _channels(source, int(indices[0]))
    normalization = find_normalization(normalize, source.constants, source.name, channels)
    inputs, own_labels = read(source, indices.tolist())
    chosen = own_labels if labels is None else new_labels
    return Examples(
        name=source.name,
        split=source.split,
        inputs=inputs,
        labels=chosen,
        noisy=None if labels is None else noisy,
        class_names=source.class_names if labels is None else (),
        classes=source.classes if labels is None else None,
        indices=indices,
        total=source.total,
        normalization=normalization,
        identity=_identity(indices, inputs, chosen, normalization, source.pixel_maximum),
        pixel_maximum=source.pixel_maximum,
    )


def _source(data: str, split: str | None, data_dir: str | None, *, download: bool) -> Source:
    """Return the split of the dataset that `data` names.

    Raises:
        UsageError: `folder:` names no folder, or the dataset has no such split.
        DataError: There is no such dataset.
    """
    if data.startswith(_FOLDER):
        place = data.removeprefix(_FOLDER)
        if not place:
            msg = "--data folder: names no folder; type --data folder:DIR"
            raise UsageError(msg)
        return folder(place, split)
    name = _canonical(data)
    splits = digits.SPLITS if name == "digits" else DATASETS[name].splits
    if split is None:
        split = "train" if "train" in splits else next(iter(splits), None)
    elif split not in splits:
        there = f"there are {', '.join(splits)}" if splits else "it has only one part; leave --split out"
        msg = f"--split {one_line(split)}: {name} has no such split; {there}"
        raise UsageError(msg)
    if name == "digits":
        return digits.digits(split or "train")
    return torchvision_dataset(name, split, data_dir, download=download)


def _canonical(data: str) -> str:
    """Return the name as `known_datasets` spells it.

    Raises:
        DataError: It names none of them.
    """
    by_key = {_key(name): name for name in known_datasets()}
    key = _key(data)
    if key in by_key:
        return by_key[key]
    if data and Path(data).expanduser().is_dir():
        shown = one_line(data)
        msg = f"--data {shown}: a folder of images is named --data folder:{shown}"
        raise DataError(msg)
    if key == "imagenet":
        msg = "--data imagenet: name the folder that holds its class folders: --data folder:DIR --normalize imagenet"
        raise DataError(msg)
    near = [name for k, name in by_key.items() if k.startswith(key)] if key else []
    near += [by_key[k] for k in difflib.get_close_matches(key, by_key, n=3)]
    guess = f"did you mean {', '.join(dict.fromkeys(near))}? " if near else ""
    msg = f"--data {data!r}: unknown dataset; {guess}fisher datasets lists them, and folder:DIR reads class folders"
    raise DataError(msg)


def _key(name: str) -> str:
    return re.sub(r"[-_\s]", "", name.lower())


def _selected(total: int, limit: int | None, seed: int) -> Tensor:
    if limit is None or limit >= total:
        return torch.arange(total)
    order = torch.randperm(total, generator=torch.Generator().manual_seed(seed))
    return order[:limit].sort().values


def _channels(source: Source, index: int) -> int:
    pixels, _ = source.example(index)
    return pixels.shape[2] if pixels.ndim == 3 else 1


def _identity(
    indices: Tensor, inputs: Tensor, labels: Tensor, normalization: Normalization, pixel_maximum: float
) -> str:
    """SHA-256 over everything that reaches the network and the loss; the normalisation by its numbers."""
    head = {
        "shape": list(inputs.shape),
        "type": str(inputs.dtype),
        "mean": normalization.mean,
        "std": normalization.std,
        "pixel maximum": pixel_maximum,
    }
    total = hashlib.sha256(json.dumps(head, sort_keys=True).encode())
    for tensor in (indices, inputs, labels):
        array = tensor.numpy()
        # Least significant byte first, so that the identity is the same on every machine.
        total.update(array.astype(array.dtype.newbyteorder("<"), copy=False).tobytes())
    return f"sha256:{total.hexdigest()}"
