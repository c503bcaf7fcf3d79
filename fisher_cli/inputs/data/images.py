"""An image file → its pixels; only common formats are opened, and nothing is decoded that would not fit."""

import io
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt
from PIL import Image, UnidentifiedImageError

from fisher_cli.errors import DataError
from fisher_cli.inputs.data.image_parts import structure_fault
from fisher_cli.inputs.formats.files import open_regular, shown
from fisher_cli.text import clipped

Pixels = npt.NDArray[np.uint8]

# Pillow knows formats that run programs (EPS) or unpack without bound (FITS); these are the ones that datasets use.
FORMATS: Final = ("JPEG", "PNG", "WEBP")
# Twice the largest image of ImageNet; some 300 MB while it is decoded.
MOST_PIXELS: Final = 40_000_000
_LONGEST_FILE: Final = 256 * 2**20


def read_image(path: Path | str, formats: Sequence[str] = FORMATS) -> Pixels:
    """Return the image of a file as (H, W, 3), converted to RGB as torchvision's ImageFolder converts it.

    Raises:
        DataError: The file cannot be read as a single 8-bit image of one of the formats.
    """
    try:
        with open_regular(path, _LONGEST_FILE) as file:
            data = file.read()
    except OSError as error:
        msg = f"{shown(path)}: cannot be read ({error.strerror}); copy it again, or move it elsewhere"
        raise DataError(msg) from error
    return decode_image(data, shown(path), formats)


def decode_image(data: bytes, where: str, formats: Sequence[str] = FORMATS) -> Pixels:
    """Return the image in these bytes as (H, W, 3); `where` names it in messages.

    Transparency and CMYK inks are converted as Pillow does it and so as ImageFolder did in training; orientation
    tags are not followed, as ImageFolder does not.

    Raises:
        DataError: The bytes cannot be read as a single 8-bit image of one of the formats.
    """
    fault = structure_fault(data)
    if fault is not None:
        msg = f"{where}: {fault}; save a copy of it, or move it out of the folder"
        raise DataError(msg)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # remarks on transparency and metadata, which are not looked at
            with Image.open(io.BytesIO(data), formats=tuple(formats)) as image:
                _refuse(image, where)
                pixels = np.asarray(image.convert("RGB"))
    except DataError:
        raise
    except UnidentifiedImageError as error:
        msg = f"{where}: its content is no {_listed(formats)} image; replace it, or move it out of the folder"
        raise DataError(msg) from error
    # A damaged file makes Pillow raise nearly anything: OSError, SyntaxError, ValueError, struct.error, …
    except Exception as error:
        reason = clipped(error) or type(error).__name__
        msg = f"{where}: cannot be read as an image ({reason}); replace it, or move it out of the folder"
        raise DataError(msg) from error
    return pixels


def _refuse(image: Image.Image, where: str) -> None:
    """Refuse, by its header, an image that would not fit, or of which only a part would be read.

    Raises:
        DataError: It is one of these.
    """
    width, height = image.size
    fault = None
    if width * height > MOST_PIXELS:
        fault = f"{width}×{height} pixels, and at most {MOST_PIXELS:,} are read; save a smaller copy of it"
    elif image.mode[0] in "IF":
        fault = "its pixels have more than 8 bits, which RGB would cut off; save it with 8 bits"
    # A photograph's preview is a second picture of the format MPO, not a film.
    elif image.format in {"PNG", "WEBP"} and getattr(image, "n_frames", 1) > 1:
        fault = "an animation, of which only the first picture would be seen; save that one alone"
    if fault is not None:
        msg = f"{where}: {fault}"
        raise DataError(msg)


def _listed(formats: Sequence[str]) -> str:
    return f"{', '.join(formats[:-1])} or {formats[-1]}"
