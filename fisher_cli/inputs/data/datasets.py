"""`--data` → the examples themselves: which dataset, which split, which of its examples, how normalised."""

import hashlib
import json
from dataclasses import dataclass, field, replace
from typing import Any, Final

import torch
from torch import Tensor

from fisher_cli.errors import DataError, UsageError
from fisher_cli.inputs.data.catalogue import find_source, known_datasets
from fisher_cli.inputs.data.grayscale import TakesOneChannel, in_grayscale
from fisher_cli.inputs.data.labels import read_labels
from fisher_cli.inputs.data.normalization import (
    AUTO,
    NONE,
    PREFIX,
    Normalization,
    NormalizationChoice,
    candidates,
    find_normalization,
    weight_transforms,
)
from fisher_cli.inputs.data.resizing import Resizing, read_resizing
from fisher_cli.inputs.data.sources import DataSource, read
from fisher_cli.settings import Resources, Settings, last_part
from fisher_cli.text import digest

__all__ = ["Examples", "Normalization", "known_datasets", "load_examples"]


_MOST_EXAMPLES: Final = 10**8


@dataclass(frozen=True)
class Examples:
    """The selected examples of one split, as stored, with what is needed to feed them to a network.

    Attributes:
        name: the dataset, as `fisher datasets` lists it, or the words that named it.
        split: the part of it; None where it has no parts.
        inputs: (N, C, H, W) uint8 images, or (N, …) numbers that go to the network as they are.
        labels: (N,) int64.
        noisy: (N,) bool, from the column `noisy` of a labels file.
        class_names: the classes' names, () when unknown.
        classes: how many classes the dataset declares; None if the labels came from a file.
        indices: (N,) int64, each example's place within the split.
        total: the size of the split.
        normalization: what `batch` applies, to images and to what --normalize was typed for.
        identity: "sha256:…" over indices, raw inputs, labels and normalisation: same identity, same data.
        pixel_maximum: the stored number that stands for 1.
        is_image: whether the inputs are pixels to be scaled to [0, 1].
        resizing: what was done to the images before they were stored here.
        is_converted: whether two of three channels were left out, or joined into one.
        candidates: what `--normalize auto` is still to choose from; () when there is nothing to choose.
        choice: what it chose, and how the others compared.
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
    is_image: bool = True
    resizing: Resizing = field(default_factory=Resizing)
    is_converted: bool = False
    candidates: tuple[Normalization, ...] = ()
    choice: NormalizationChoice | None = None

    def __len__(self) -> int:
        return len(self.labels)

    def batch(self, start: int, stop: int) -> tuple[Tensor, Tensor]:
        """Normalise the inputs of examples `start` to `stop` − 1.

        Returns:
            The inputs (B, …), normalised ones in float32 and all others as they are stored; and the labels, (B,) int64.

        Raises:
            UsageError: Their normalisation was never chosen.
        """
        if self.candidates:
            msg = "--normalize auto needs a network to choose by; type the name of the constants here"
            raise UsageError(msg)
        inputs, labels = self.inputs[start:stop], self.labels[start:stop]
        if not self.is_image and self.normalization.name == NONE.name:
            return inputs, labels
        return self.normalization.apply(inputs, self.pixel_maximum), labels

    def with_normalization(self, normalization: Normalization, choice: NormalizationChoice | None = None) -> "Examples":
        """Make the same examples with other constants, and so of another identity.

        Args:
            normalization: the constants, one mean and std per channel.
            choice: how `auto` came to them; None where it did not.
        """
        identity = _identity(self.indices, self.inputs, self.labels, normalization, self.pixel_maximum)
        return replace(self, normalization=normalization, identity=identity, candidates=(), choice=choice)

    def describe(self, *, with_choice: bool = True) -> dict[str, Any]:
        """Which examples these are and how they are prepared, as JSON values for the record; folders are left out.

        Args:
            with_choice: whether to say how `auto` came to its choice; other checkpoints may lead to the same one.
        """
        chosen = {} if self.choice is None or not with_choice else {"auto": self.choice.describe()}
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
                **chosen,
            },
            **(self.resizing.describe() if self.resizing else {}),
            **({"grayscale": True} if self.is_converted else {}),
        }


def _takes_colours(_: tuple[int, int]) -> bool:
    return False


def load_examples(
    settings: Settings, resources: Resources, takes_one_channel: TakesOneChannel = _takes_colours
) -> Examples:
    """Return the selected examples of a dataset.

    Only those are decoded. A `limit` of None, or not below the split's size, selects all; else the first `limit`
    of torch.randperm(size, generator seeded by `seed`), sorted.

    Args:
        settings: `data` is a name of `known_datasets` (case, - and _ do not matter), `folder:DIR`, `hf:NAME`, a file,
            or `package.module:function`, which is called with `data_arguments`. `split` is the part of it; None:
            `train` where there is one, for `folder:DIR` DIR itself. `limit` and `seed` select examples. `labels` is a
            CSV file `index,label[,noisy]` that replaces the labels. `normalize` is a name, `weights:NAME`, numbers
            `m1,m2,m3/s1,s2,s3`, or `auto`, which leaves `candidates` to choose from; None: the dataset's own
            constants. `resize`, N for the shorter side or HxW, and `crop` from the centre are of every image.
            `grayscale` converts images of three channels to one.
        resources: `data_dir` is where named datasets lie; None: FISHER_DATA_DIR, else ./data. `download` fetches one
            that is missing.
        takes_one_channel: whether the network does; images of three channels that are grey then have one.

    Raises:
        UsageError: The limit, the seed, the split, a size or the normalisation cannot be.
        DataError: The dataset is unknown, missing, damaged, or its normalisation must be given.
    """
    limit, seed, labels, normalize = settings.limit, settings.seed, settings.labels, settings.normalize
    check_limit(limit)
    if not 0 <= seed < 2**63:
        msg = f"--seed {seed}: type an integer from 0 to 2^63 − 1"
        raise UsageError(msg)
    own, resizing = _prepared(normalize, settings.resize, settings.crop)
    arguments = dict(settings.data_arguments)
    source = find_source(settings.data, settings.split, resources.data_dir, arguments, download=resources.download)
    _check_total(source)
    indices = selected(source.total, limit, seed)
    if labels is not None:  # before the images: a wrong file is told at once
        new_labels, noisy = read_labels(labels, indices.tolist(), source.total)
    stored, first = source, int(indices[0])
    source = in_grayscale(source, first, resizing, is_asked=settings.grayscale, takes_one_channel=takes_one_channel)
    channels = _channels(source, first)
    to_choose = normalize is not None and normalize.lower() == AUTO
    _check_normalize(source, normalize, own)
    tried = candidates(source.constants, source.name, channels) if to_choose else ()
    normalization = (
        tried[0]
        if to_choose
        else find_normalization(None if own else normalize, own or source.constants, source.name, channels)
    )
    inputs, own_labels = read(source, indices.tolist(), resizing)
    _check_range(source, inputs, normalization)
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
        is_image=source.is_image,
        resizing=resizing,
        is_converted=source.examples is not stored.examples,
        candidates=tried,
    )


def _prepared(normalize: str | None, resize: str | None, crop: str | None) -> tuple[Normalization | None, Resizing]:
    """Return the constants of `weights:NAME`, else None, and the sizes.

    Raises:
        UsageError: There are no such weights, or sizes are given beside theirs.
    """
    resizing = read_resizing(resize, crop)
    if normalize is None or not normalize.startswith(PREFIX):
        return None, resizing
    if resizing:
        msg = f"--normalize {normalize} brings its own sizes; leave --resize and --crop out"
        raise UsageError(msg)
    return weight_transforms(normalize)


def _check_normalize(source: DataSource, normalize: str | None, own: Normalization | None) -> None:
    """Refuse constants of pixels for what are no pixels.

    Raises:
        UsageError: They were asked for.
    """
    if source.is_image or normalize is None:
        return
    if normalize.lower() == AUTO or own is not None:
        msg = f"--normalize {normalize}: {source.name} holds numbers that go to the network as they are; leave it out"
        raise UsageError(msg)


def _check_range(source: DataSource, inputs: Tensor, normalization: Normalization) -> None:
    """Refuse constants for pixels scaled to [0, 1] where stored numbers are not.

    Raises:
        DataError: The inputs are integers, or reach beyond 1.
    """
    if source.is_image or normalization.name == NONE.name:
        return
    if not inputs.is_floating_point() or bool(inputs.abs().max() > 1.5):
        largest = inputs.abs().max().item()
        msg = (
            f"{source.name}: its inputs reach {largest:g}, and --normalize is for floating numbers from 0 to 1; "
            "divide them where they are saved, or leave --normalize out"
        )
        raise DataError(msg)


def check_limit(limit: int | None) -> None:
    """Refuse to select nothing.

    Raises:
        UsageError: `limit` is below 1.
    """
    if limit is not None and limit < 1:
        msg = f"--limit {limit}: at least 1 example is needed; type a number from 1 up, or all"
        raise UsageError(msg)


def selected(total: int, limit: int | None, seed: int) -> Tensor:
    """The places of the selected examples within the split, as `load_examples` selects them.

    Args:
        total: the size of the split.
        limit: how many are wanted; None for all.
        seed: of the permutation whose first `limit` are taken.

    Returns:
        Ascending, (N,) int64, with N the smaller of `total` and `limit`.
    """
    if limit is None or limit >= total:
        return torch.arange(total)
    order = torch.randperm(total, generator=torch.Generator().manual_seed(seed))
    return order[:limit].sort().values


def _check_total(source: DataSource) -> None:
    """Refuse a dataset without examples, and one with more than can be drawn from: the draw orders all of them.

    Raises:
        DataError: It is one of these.
    """
    fault = None
    if source.total < 1:
        fault = "holds no examples; check what it names"
    elif source.total > _MOST_EXAMPLES:
        fault = f"claims {source.total} examples, and at most {_MOST_EXAMPLES:,} are drawn from; save a part of it"
    if fault is not None:
        msg = f"{source.name}: {fault}"
        raise DataError(msg)


def _channels(source: DataSource, index: int) -> int:
    """Return how many numbers a normalisation has: the channels of images, else the first axis of an input."""
    if source.channels is not None:
        return source.channels
    first, _ = next(iter(source.examples([index])))
    if source.is_image:
        return first.shape[2] if first.ndim == 3 else 1
    return first.shape[0] if first.ndim else 1


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
    return digest(total)
