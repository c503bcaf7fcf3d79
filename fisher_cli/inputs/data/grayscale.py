"""Images of three channels → images of one, where that is asked for, or they are grey and the network takes one."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

import numpy as np
from PIL import Image

from fisher_cli.errors import DataError
from fisher_cli.inputs.data.resizing import Resizing
from fisher_cli.inputs.data.sources import DataSource, Example, Pixels

# Given height and width of an image: whether the network takes images of one channel.
TakesOneChannel = Callable[[tuple[int, int]], bool]


def in_grayscale(
    source: DataSource, index: int, resizing: Resizing, *, is_asked: bool, takes_one_channel: TakesOneChannel
) -> DataSource:
    """Return the source with images of one channel, or as it is where it has no others or the network takes three.

    Without being asked, only images that are grey in all three channels lose two of them. The source knows then how
    many channels it has, for which the first example is decoded.

    Args:
        source: of images or of other inputs.
        index: of the first example that is selected.
        resizing: what is done to images before the network takes them.
        is_asked: whether images with colours are converted as well.
        takes_one_channel: asked only where it decides.

    Raises:
        DataError: It is asked for, and the inputs are no images.
    """
    if not source.is_image:
        if is_asked:
            msg = f"{source.name}: --grayscale is for images; its inputs are numbers: leave it out"
            raise DataError(msg)
        return source
    if source.channels not in {None, 3}:
        return source
    ((pixels, _),) = source.examples([index])  # to its end: what is left half-way ends the reader
    source = replace(source, channels=pixels.shape[2] if pixels.ndim == 3 else 1)
    if source.channels != 3:
        return source
    if not is_asked:
        height, width = resizing.apply(pixels, source.place(index)).shape[:2] if resizing else pixels.shape[:2]
        if not _is_grey(pixels) or not takes_one_channel((height, width)):
            return source

    def examples(indices: Sequence[int]) -> Iterator[Example]:
        for at, (each, label) in zip(indices, source.examples(indices), strict=True):
            if not is_asked and not _is_grey(each):
                msg = f"{source.place(at)}: has colours, and the network takes one channel; convert all: --grayscale"
                raise DataError(msg)
            yield _grey(each), label

    return replace(source, examples=examples, channels=1)


def _is_grey(pixels: Pixels) -> bool:
    return bool((pixels == pixels[:, :, :1]).all())


def _grey(pixels: Pixels) -> Pixels:
    """Return (H, W, 1): 0.299 R + 0.587 G + 0.114 B as torchvision's Grayscale has it, which keeps grey as it is."""
    return np.asarray(Image.fromarray(np.ascontiguousarray(pixels)).convert("L"))[:, :, None]
