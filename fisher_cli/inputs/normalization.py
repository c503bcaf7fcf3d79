"""How pixels become network inputs: named constants, and what the user types instead of them."""

import difflib
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor

from fisher_cli.errors import DataError, UsageError


@dataclass(frozen=True)
class Normalization:
    """(x − mean)/std per channel, after the pixels were scaled to [0, 1].

    Scaled means divided by the largest value that a pixel can have: 255, and 16 for the digits. The digits'
    own normalisation is that division only: mean 0, std 1.
    """

    name: str
    mean: tuple[float, ...]
    std: tuple[float, ...]

    def apply(self, pixels: Tensor, largest: float) -> Tensor:
        """Return float32 inputs from stored pixels (N, C, H, W); floating pixels are in [0, 1] already."""
        scaled = pixels.to(torch.float32)
        if not pixels.is_floating_point():
            scaled = scaled / largest
        channels = (1, -1) + (1,) * (pixels.ndim - 2)
        mean = torch.tensor(self.mean, dtype=torch.float32).reshape(channels)
        std = torch.tensor(self.std, dtype=torch.float32).reshape(channels)
        return (scaled - mean) / std


NONE: Final = Normalization("none", (0.0,), (1.0,))
_CIFAR10_MEAN: Final = (0.4914, 0.4822, 0.4465)

NAMED: Final = {
    constants.name: constants
    for constants in (
        NONE,
        # The older PyTorch tutorials: pixels from −1 to 1.
        Normalization("half", (0.5,), (0.5,)),
        # Statistics of the training pixels; PyTorch's CIFAR-10 tutorials since 2023 (pytorch/tutorials#2405).
        Normalization("cifar10", _CIFAR10_MEAN, (0.2470, 0.2435, 0.2616)),
        # github.com/kuangliu/pytorch-cifar and what follows it: these std are means over single images' std.
        Normalization("cifar10-kuangliu", _CIFAR10_MEAN, (0.2023, 0.1994, 0.2010)),
        # Statistics of the training pixels; github.com/weiaicunzai/pytorch-cifar100 has them with more digits.
        Normalization("cifar100", (0.5071, 0.4867, 0.4408), (0.2675, 0.2565, 0.2761)),
        # github.com/pytorch/examples, mnist/main.py.
        Normalization("mnist", (0.1307,), (0.3081,)),
        # Statistics of the training pixels, as github.com/chatflip/CalculationMeanStd lists them.
        Normalization("fashion-mnist", (0.2860,), (0.3530,)),
        # Statistics of the training pixels, as used with torchvision.datasets.KMNIST.
        Normalization("kmnist", (0.1918,), (0.3483,)),
        # Statistics of the training pixels of the 32 × 32 crops, as used with torchvision.datasets.SVHN.
        Normalization("svhn", (0.4377, 0.4438, 0.4728), (0.1980, 0.2010, 0.1970)),
        # Statistics of the 5,000 labelled training images, as used with torchvision.datasets.STL10.
        Normalization("stl10", (0.4467, 0.4398, 0.4066), (0.2603, 0.2566, 0.2713)),
        # torchvision's transforms.Normalize presets for every ImageNet network.
        Normalization("imagenet", (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    )
}

_FORMS: Final = f"{', '.join(sorted(NAMED))}, or numbers MEAN,…/STD,… such as 0.5,0.5,0.5/0.25,0.25,0.25"


def find_normalization(asked: str | None, own: Normalization | None, name: str, channels: int) -> Normalization:
    """Return the constants to use, one mean and std per channel: those asked for, else the dataset's own.

    Args:
        asked: a name, numbers `m1,m2,m3/s1,s2,s3`, or None.
        own: the dataset's own constants, if it has any.
        name: the dataset, for messages.
        channels: how many channels its images have; single numbers are used for every channel.

    Raises:
        UsageError: The name is unknown, or the numbers cannot be read.
        DataError: Nothing was asked and the dataset has no constants, or the count of channels differs.
    """
    if asked is None:
        if own is None:
            msg = (
                f"{name}: how its pixels were normalised in training is not known and changes every number; "
                f"type --normalize with one of {_FORMS}"
            )
            raise DataError(msg)
        constants = own
    elif own is not None and asked.lower() == own.name:
        constants = own
    elif "/" in asked:
        constants = _from_numbers(asked)
    else:
        constants = _from_name(asked)
    return Normalization(
        constants.name,
        _per_channel(constants.mean, channels, name, constants.name),
        _per_channel(constants.std, channels, name, constants.name),
    )


def _from_name(asked: str) -> Normalization:
    """Return the named constants.

    Raises:
        UsageError: There are no constants of that name.
    """
    found = NAMED.get(asked.lower())
    if found is None:
        near = difflib.get_close_matches(asked.lower(), NAMED, n=1)
        guess = f"did you mean {near[0]}? There are" if near else "there are"
        msg = f"--normalize {asked!r}: unknown; {guess} {_FORMS}"
        raise UsageError(msg)
    return found


def _from_numbers(asked: str) -> Normalization:
    """Return the constants written as `m1,m2,m3/s1,s2,s3`.

    Raises:
        UsageError: They are not numbers, a std is not positive, or a mean lies outside the scaled pixels.
    """
    parts = asked.split("/")
    try:
        mean, std = (tuple(float(number) for number in part.split(",")) for part in parts)
    except ValueError as error:
        msg = f"--normalize {asked!r}: not numbers of the form MEAN,…/STD,… such as 0.5,0.5,0.5/0.25,0.25,0.25"
        raise UsageError(msg) from error
    if not all(math.isfinite(number) and number > 0 for number in std):
        msg = f"--normalize {asked!r}: every std (behind the /) must be a number above 0"
        raise UsageError(msg)
    if not all(abs(number) <= 1 for number in mean):
        msg = f"--normalize {asked!r}: a mean above 1; give them for pixels scaled to [0, 1] (divide by 255)"
        raise UsageError(msg)
    return Normalization("custom", mean, std)


def _per_channel(numbers: Sequence[float], channels: int, dataset: str, name: str) -> tuple[float, ...]:
    """Return one number per channel.

    Raises:
        DataError: There are several numbers, and not as many as channels.
    """
    if len(numbers) == 1:
        return tuple(numbers) * channels
    if len(numbers) != channels:
        msg = (
            f"{dataset}: its images have {channels} channel{'s' if channels > 1 else ''} and --normalize {name} "
            f"has numbers for {len(numbers)}; give {channels} or 1 of each, or --normalize none"
        )
        raise DataError(msg)
    return tuple(numbers)
