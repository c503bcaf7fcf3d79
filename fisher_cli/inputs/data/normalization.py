"""How pixels become network inputs: named constants, and what the user types instead of them."""

import difflib
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

import torch
from torch import Tensor

from fisher_cli.errors import DataError, UsageError
from fisher_cli.inputs.data.resizing import Resizing
from fisher_cli.text import clipped


@dataclass(frozen=True)
class Normalization:
    """(x − mean)/std per channel, after the pixels were scaled to [0, 1].

    Scaled means divided by the largest value that a pixel can have: 255, and 16 for the digits. The digits' own
    normalisation is that division only: mean 0, std 1.

    Attributes:
        name: of the constants, `custom` for numbers that were typed.
        mean: one number per channel, or one for all of them.
        std: the same, each above 0.
    """

    name: str
    mean: tuple[float, ...]
    std: tuple[float, ...]

    def apply(self, pixels: Tensor, largest: float) -> Tensor:
        """(x/largest − mean)/std per channel.

        Args:
            pixels: (N, C, H, W), or (N, C, …); floating ones are in [0, 1] already and are not divided.
            largest: the stored number that stands for 1.

        Returns:
            Inputs of the same shape in float32.
        """
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
        # OpenAI's CLIP and what is fine-tuned from it.
        Normalization("clip", (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)),
    )
}

AUTO: Final = "auto"
# What `auto` tries beside the dataset's own constants, by the number of channels.
_COMMON: Final = {
    1: ("mnist", "fashion-mnist", "kmnist", "half", "none"),
    3: ("cifar10", "cifar10-kuangliu", "cifar100", "imagenet", "half", "none"),
}
_NEITHER: Final = ("half", "none")
# Statistics of one dataset are not another's; a network that is not sure enough yet has a lower loss on any inputs of
# more contrast, so that each implausible candidate is a chance to be wrong.
_OF_ONE_DATASET: Final = frozenset({"mnist", "fashion-mnist", "kmnist"})
# At most so many examples are compared: on 256 sampling noise still hid ImageNet's constants behind CIFAR-10's.
CHOICE_EXAMPLES: Final = 1024
# Within so many standard errors of the difference two losses are not told apart.
_NOISE: Final = 2.0

_FORMS: Final = (
    f"{', '.join(sorted(NAMED))}, auto, weights:NAME, or numbers MEAN,…/STD,… such as 0.5,0.5,0.5/0.25,0.25,0.25"
)


@dataclass(frozen=True)
class NormalizationChoice:
    """Which constants `auto` took, and how the others compared.

    Attributes:
        normalization: those with the lowest loss.
        losses: (name, mean loss in nats) of all that were tried, lowest first; NaN where the outputs were not finite.
        examples: on how many examples.
        close: names of those within the noise of the lowest: two standard errors of the paired difference.
    """

    normalization: Normalization
    losses: tuple[tuple[str, float], ...]
    examples: int
    close: tuple[str, ...]

    def sentence(self) -> str:
        """What was chosen, beside the losses of all that were tried, in one line."""
        (name, best), *others = self.losses
        listed = ", ".join(f"{other} {loss:.4g}" for other, loss in others)
        noise = (
            f"; within the noise of it: {', '.join(self.close)}: name one of them with --normalize"
            if self.close
            else ""
        )
        return f"--normalize auto: {name} (loss {best:.4g} on {self.examples} examples; {listed}){noise}"

    def describe(self) -> dict[str, Any]:
        """Return the choice as JSON values for the record."""
        losses = [{"name": name, "loss": loss if math.isfinite(loss) else None} for name, loss in self.losses]
        return {"tried": losses, "examples": self.examples, "within_noise": list(self.close)}


def candidates(own: Normalization | None, name: str, channels: int) -> tuple[Normalization, ...]:
    """Return what `auto` tries, one number per channel: the dataset's own first, the same numbers once."""
    names = _COMMON.get(channels, _NEITHER)
    common = [NAMED[each] for each in names if own is None or each not in _OF_ONE_DATASET]
    found: dict[tuple[object, ...], Normalization] = {}
    for each in [own, *common] if own is not None else common:
        fitted = _fitted(each, channels, name)
        found.setdefault((fitted.mean, fitted.std), fitted)
    return tuple(found.values())


def choose_normalization(
    candidates: Sequence[Normalization], losses_of: Callable[[Normalization], Tensor]
) -> NormalizationChoice:
    """Choose the constants argmin over candidates of mean_n loss_n, in nats, on one batch.

    Args:
        candidates: at least one; the first of equals is taken.
        losses_of: the losses (N,) of the same N examples, normalised so.

    Returns:
        The constants with the losses of all candidates, and those that two standard errors of the paired difference do
        not tell from the lowest.

    Raises:
        DataError: No candidate gives finite losses.
    """
    losses = {each.name: losses_of(each).double() for each in candidates}
    means = {name: float(each.mean()) for name, each in losses.items()}
    finite = [each for each in candidates if math.isfinite(means[each.name])]
    if not finite:
        msg = "--normalize auto: the network's loss is NaN or infinite however its inputs are normalised"
        raise DataError(msg)
    best = min(finite, key=lambda each: means[each.name])
    ordered = sorted(means.items(), key=lambda item: (not math.isfinite(item[1]), item[1]))
    close = [each.name for each in finite if each is not best and _alike(losses[each.name] - losses[best.name])]
    first = [(best.name, means[best.name]), *((name, mean) for name, mean in ordered if name != best.name)]
    return NormalizationChoice(best, tuple(first), len(losses[best.name]), tuple(close))


def _alike(differences: Tensor) -> bool:
    """Whether the mean difference lies within the noise of its examples."""
    if len(differences) < 2:
        return True
    return float(differences.mean()) <= _NOISE * float(differences.std()) / math.sqrt(len(differences))


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
    return _fitted(constants, channels, name)


def _fitted(constants: Normalization, channels: int, name: str) -> Normalization:
    """Return the constants with one number per channel.

    Raises:
        DataError: There are several numbers, and not as many as channels.
    """
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


PREFIX: Final = "weights:"


def weight_transforms(asked: str) -> tuple[Normalization, Resizing]:
    """Return the constants and sizes of `weights:ResNet18_Weights.IMAGENET1K_V1`; nothing is downloaded.

    Raises:
        UsageError: There are no weights of that name, or they are not a classifier's.
    """
    from torchvision.models import get_weight

    name = asked.removeprefix(PREFIX)
    try:
        weight: Any = get_weight(name)
        transforms = weight.transforms()
        size, crop = transforms.resize_size[0], transforms.crop_size[0]
        mean, std = tuple(transforms.mean), tuple(transforms.std)
        interpolation = transforms.interpolation.value
    # An unknown name, or transforms of another kind, fail in half a dozen ways.
    except Exception as error:
        msg = (
            f"--normalize {clipped(asked)}: torchvision has no classifier's weights of that name; type such as "
            "weights:ResNet18_Weights.IMAGENET1K_V1"
        )
        raise UsageError(msg) from error
    return Normalization(f"{PREFIX}{weight}", mean, std), Resizing(size, crop, interpolation)
