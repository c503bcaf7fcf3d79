"""Image files → pixels: they are opened here, and decoded in a process of their own."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import BinaryIO, Final

import numpy as np
import numpy.typing as npt

from fisher_cli.errors import DataError
from fisher_cli.inputs.data.image_parts import FORMATS
from fisher_cli.inputs.formats.files import open_regular, shown
from fisher_cli.storage.decoding import Answer, Decoder
from fisher_cli.storage.reader_limits import MOST_FILES
from fisher_cli.storage.reader_process import ReaderOwner

Pixels = npt.NDArray[np.uint8]

_LONGEST_FILE: Final = 256 * 2**20


def _decoders() -> Mapping[str, Decoder]:
    from fisher_cli.inputs.data.image_bytes import DECODERS

    return DECODERS


OWNER: Final = ReaderOwner("fisher_cli.inputs.data.image_bytes", _decoders, ["PIL"])


def read_image(path: Path | str, formats: Sequence[str] = FORMATS) -> Pixels:
    """Return the image of a file as (H, W, 3), converted to RGB as torchvision's ImageFolder converts it.

    Raises:
        DataError: The file cannot be read as a single 8-bit image of one of the formats.
    """
    [pixels] = read_images([path], formats)
    return pixels


def read_images(paths: Sequence[Path | str], formats: Sequence[str] = FORMATS) -> Iterator[Pixels]:
    """Yield the images of files, one after the other, as `read_image` returns them.

    Raises:
        DataError: As for `read_image`.
    """
    start = 0
    while start < len(paths):
        with ExitStack() as stack:
            files = _opened(paths[start : start + MOST_FILES], stack)
            names = [shown(path) for path in paths[start : start + len(files)]]
            start += len(files)
            yield from map(pixels_of, _decoded(files, names, formats))


def _opened(paths: Sequence[Path | str], stack: ExitStack) -> list[BinaryIO]:
    """Open the files up to one that cannot be.

    Raises:
        DataError: It is the first.
    """
    files: list[BinaryIO] = []
    for path in paths:
        try:
            files.append(stack.enter_context(open_regular(path, _LONGEST_FILE)))
        except DataError:
            if not files:
                raise
            break
    return files


def _decoded(files: Sequence[BinaryIO], names: Sequence[str], formats: Sequence[str]) -> Iterator[Answer]:
    return OWNER.ask(
        "images",
        {"where": names, "formats": formats},
        files,
        [file.fileno() for file in files],
        lambda text, count: DataError(f"{names[count]}: {text}"),
    )


def pixels_of(answer: Answer) -> Pixels:
    """Return the pixels of an answer, (H, W, 3)."""
    size, numbers = answer
    return np.frombuffer(numbers, dtype=np.uint8).reshape(*size, 3)
