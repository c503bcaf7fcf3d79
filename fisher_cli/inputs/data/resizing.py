"""`--resize` and `--crop`: every image to one size, as torchvision's transforms do it on images."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from PIL import Image

from fisher_cli.errors import DataError, UsageError
from fisher_cli.inputs.data.image_parts import MOST_PIXELS
from fisher_cli.inputs.data.images import Pixels
from fisher_cli.text import clipped

_LARGEST: Final = 4096
_SIZE: Final = re.compile(r"([0-9]{1,5})(?:[x×]([0-9]{1,5}))?", re.ASCII)
Size = int | tuple[int, int]


@dataclass(frozen=True)
class Resizing:
    """Resize, then cut out the centre.

    Attributes:
        size: N: the shorter side becomes N and the longer one int(N · long/short); (H, W): exactly that; None: as is.
        crop: (H, W) of the part cut from the centre, N for a square; None: nothing is cut.
        interpolation: bilinear or another of Pillow's filters, all antialiased.

    Source: torchvision.transforms.Resize and CenterCrop on Pillow images.
    """

    size: Size | None = None
    crop: Size | None = None
    interpolation: str = "bilinear"

    def __bool__(self) -> bool:
        return self.size is not None or self.crop is not None

    def apply(self, pixels: Pixels, where: str) -> Pixels:
        """Resize an image, then cut out its centre.

        Args:
            pixels: (H, W) or (H, W, C).
            where: the image, for messages.

        Raises:
            DataError: It is smaller than the part to be cut out, or would become too large.
        """
        if self.size is not None:
            height, width = self._resized(*pixels.shape[:2])
            if height * width > MOST_PIXELS:
                msg = f"{where}: --resize would make it {width}×{height} pixels; leave it out, or give HxW"
                raise DataError(msg)
            if (height, width) != pixels.shape[:2]:
                image = Image.fromarray(np.ascontiguousarray(pixels.squeeze(2) if pixels.shape[2:] == (1,) else pixels))
                pixels = np.asarray(image.resize((width, height), Image.Resampling[self.interpolation.upper()]))
        return pixels if self.crop is None else self._cropped(pixels, self.crop, where)

    def describe(self) -> dict[str, object]:
        """The sizes as JSON values for the record."""
        size, crop = (list(each) if isinstance(each, tuple) else each for each in (self.size, self.crop))
        return {"resize": size, "crop": crop, "interpolation": self.interpolation if size is not None else None}

    def _resized(self, height: int, width: int) -> tuple[int, int]:
        if not isinstance(self.size, int):
            return self.size or (height, width)
        longer = int(self.size * max(height, width) / min(height, width))
        return (self.size, longer) if height <= width else (longer, self.size)

    @staticmethod
    def _cropped(pixels: Pixels, crop: Size, where: str) -> Pixels:
        height, width = pixels.shape[:2]
        high, wide = (crop, crop) if isinstance(crop, int) else crop
        if height < high or width < wide:
            msg = f"{where}: {width}×{height} pixels, smaller than --crop {high}x{wide}; enlarge it first with --resize"
            raise DataError(msg)
        top, left = round((height - high) / 2), round((width - wide) / 2)
        return pixels[top : top + high, left : left + wide]


def read_resizing(resize: str | int | Sequence[int] | None, crop: str | int | Sequence[int] | None) -> Resizing:
    """Return what the words of `--resize N|HxW` and `--crop N|HxW` mean.

    Raises:
        UsageError: They are no such sizes, or the crop is larger than the resized image.
    """
    size = None if resize is None else _sides(resize, "--resize")
    part = None if crop is None else _sides(crop, "--crop")
    if size is not None and part is not None:
        there, wanted = ((each, each) if isinstance(each, int) else each for each in (size, part))
        # Of an image whose shorter side is N the longer one is at least that, whichever it is.
        if (wanted[0] > there[0] or wanted[1] > there[1]) and (isinstance(size, tuple) or min(wanted) > size):
            msg = f"--crop {clipped(crop)} is larger than --resize {clipped(resize)}; crop at most what is there"
            raise UsageError(msg)
    return Resizing(size, part)


def _sides(asked: str | int | Sequence[int], option: str) -> Size:
    """Return N or (H, W).

    Raises:
        UsageError: They are no such numbers.
    """
    text = asked if isinstance(asked, str) else "x".join(map(str, [asked] if isinstance(asked, int) else asked))
    found = _SIZE.fullmatch(text.strip().lower())
    sides = [int(side) for side in found.groups() if side] if found else []
    if not sides or not all(1 <= side <= _LARGEST for side in sides):
        msg = f"{option} {clipped(text)!r}: type N or HxW, numbers from 1 to {_LARGEST}, such as {option} 224"
        raise UsageError(msg)
    return sides[0] if len(sides) == 1 else (sides[0], sides[1])
