"""An image file → its pixels; only common formats are opened, and nothing is decoded that would not fit.

Decoders of a process of their own, which has Pillow and not NumPy (`images` asks it).
"""

import io
import warnings
from collections.abc import Iterator, Sequence
from typing import Any, Final

from PIL import Image, MpoImagePlugin, TiffImagePlugin, UnidentifiedImageError, WebPImagePlugin

from fisher_cli.errors import DataError
from fisher_cli.inputs.data.image_parts import FORMATS, MOST_PIXELS, structure_fault
from fisher_cli.storage.decoding import Answer, Decoder
from fisher_cli.text import clipped

# What Pillow would load when it meets a file of its kind is here before no file can be opened any more.
_LATE: Final = (MpoImagePlugin, TiffImagePlugin, WebPImagePlugin)
Image.preinit()


def decode_image(data: bytes, where: str, formats: Sequence[str] = FORMATS) -> Answer:
    """Return the height and width of the image in these bytes, and its pixels, (H, W, 3); `where` names it in messages.

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
                pixels = image.convert("RGB")
                return [pixels.height, pixels.width], pixels.tobytes()
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


def _images(sources: Sequence[Any], about: Any) -> Iterator[Answer]:
    for source, where in zip(sources, about["where"], strict=True):
        try:
            data = source.read()
        except (OSError, MemoryError) as error:
            reason = getattr(error, "strerror", None) or type(error).__name__
            msg = f"{where}: cannot be read ({reason}); copy it again, or move it elsewhere"
            raise DataError(msg) from error
        yield decode_image(data, where, about["formats"])


DECODERS: Final[dict[str, Decoder]] = {"images": _images}
