"""`--normalize weights:NAME`: how torchvision prepares images for one of its published weights."""

from typing import Any, Final

from fisher_cli.errors import UsageError
from fisher_cli.inputs.data.normalization import Normalization
from fisher_cli.inputs.data.resizing import Resizing
from fisher_cli.inputs.formats.containers import one_line

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
            f"--normalize {one_line(asked)}: torchvision has no classifier's weights of that name; type such as "
            "weights:ResNet18_Weights.IMAGENET1K_V1"
        )
        raise UsageError(msg) from error
    return Normalization(f"{PREFIX}{weight}", mean, std), Resizing(size, crop, interpolation)
