"""`--resize` and `--crop`: every image to one size, as torchvision's transforms do it on images."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from PIL import Image

from fisher_cli.errors import DataError, UsageError
from fisher_cli.inputs.containers import one_line
from fisher_cli.inputs.images import MOST_PIXELS, Pixels

_LARGEST: Final = 4096
_SIZE: Final = re.compile(r"([0-9]{1,5})(?:[x×]([0-9]{1,5}))?", re.ASCII)
Size = int | tuple[int, int]


@dataclass(frozen=True)
class Resizing:
    """Resize, then cut out the centre.

    Attributes:
        size: N: the shorter side becomes N and the longer one int(N · long/short); (H, W): exactly that; None: as is.
        crop: the side of the square cut from the centre; None: nothing is cut.
        interpolation: bilinear or another of Pillow's filters, all antialiased.

    Source: torchvision.transforms.Resize and CenterCrop on Pillow images.
    """

    size: Size | None = None
    crop: int | None = None
    interpolation: str = "bilinear"

    def __bool__(self) -> bool:
        return self.size is not None or self.crop is not None

    def apply(self, pixels: Pixels, where: str) -> Pixels:
        """Return the image (H, W) or (H, W, C) resized and cropped.

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
        size = list(self.size) if isinstance(self.size, tuple) else self.size
        return {"resize": size, "crop": self.crop, "interpolation": self.interpolation if size is not None else None}

    def _resized(self, height: int, width: int) -> tuple[int, int]:
        if not isinstance(self.size, int):
            return self.size or (height, width)
        longer = int(self.size * max(height, width) / min(height, width))
        return (self.size, longer) if height <= width else (longer, self.size)

    @staticmethod
    def _cropped(pixels: Pixels, side: int, where: str) -> Pixels:
        height, width = pixels.shape[:2]
        if min(height, width) < side:
            msg = f"{where}: {width}×{height} pixels, smaller than --crop {side}; enlarge it first with --resize {side}"
            raise DataError(msg)
        top, left = round((height - side) / 2), round((width - side) / 2)
        return pixels[top : top + side, left : left + side]


def read_resizing(resize: str | int | Sequence[int] | None, crop: str | int | None) -> Resizing:
    """Return what the words of `--resize N|HxW` and `--crop N` mean.

    Raises:
        UsageError: They are no such numbers, or the crop is larger than the resized image.
    """
    size = None if resize is None else _sides(resize)
    side = None if crop is None else _sides(crop)
    if isinstance(side, tuple):
        msg = f"--crop {one_line(crop)}: the part that is cut out is square; type one number, such as --crop 224"
        raise UsageError(msg)
    if side is not None and size is not None and side > (size if isinstance(size, int) else min(size)):
        msg = f"--crop {side} is larger than --resize {one_line(resize)}; crop at most what is there"
        raise UsageError(msg)
    return Resizing(size, side)


def _sides(asked: str | int | Sequence[int]) -> Size:
    text = asked if isinstance(asked, str) else "x".join(map(str, [asked] if isinstance(asked, int) else asked))
    found = _SIZE.fullmatch(text.strip().lower())
    sides = [int(side) for side in found.groups() if side] if found else []
    if not sides or not all(1 <= side <= _LARGEST for side in sides):
        msg = f"size {one_line(text)!r}: type N for the shorter side or HxW, from 1 to {_LARGEST}, such as --resize 256"
        raise UsageError(msg)
    return sides[0] if len(sides) == 1 else (sides[0], sides[1])
