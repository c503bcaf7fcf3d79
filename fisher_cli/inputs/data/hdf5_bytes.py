"""HDF5 files of images and of labels, read by a process of their own, which has h5py (`hdf5_images` asks it)."""

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from typing import Any, BinaryIO, Final

import h5py
import numpy as np

from fisher_cli.storage.decoding import Answer, Decoder
from fisher_cli.text import clipped

_LARGEST_PIECE: Final = 2**26  # numbers of a piece of an array


def _check(sources: Sequence[BinaryIO], about: Mapping[str, Any]) -> Iterator[Answer]:
    """Yield how many rows the first array of each file has: a name in them can lead to another file.

    Raises:
        ValueError: It does, or what it names is no plain array of bytes in moderate pieces.
    """
    rows = []
    for name, source in zip(about["names"], sources, strict=True):
        with h5py.File(source, "r") as file:
            for key in file:
                is_here = isinstance(file.get(key, getlink=True), h5py.HardLink)
                found: Any = file[key] if is_here else None
                is_plain = isinstance(found, h5py.Dataset) and found.dtype == np.uint8 and found.ndim == 4
                if not is_plain or found.external or found.is_virtual:
                    msg = f"{clipped(name)}: {clipped(key)} is no array of bytes in this file"
                    raise ValueError(msg)
                if math.prod(found.chunks or found.shape[1:]) > _LARGEST_PIECE:
                    msg = f"{clipped(name)}: {clipped(key)} is stored in pieces of {found.chunks}"
                    raise ValueError(msg)
            rows.append(file[next(iter(file))].shape[0])
    yield rows, b""


def _rows(sources: Sequence[BinaryIO], about: Mapping[str, Any]) -> Iterator[Answer]:
    """Yield rows of `x`, (N, H, W, 3), with those of `y`, (N, 1, 1, 1).

    Raises:
        ValueError: There are no such arrays.
    """
    list(_check(sources, about))
    with ExitStack() as stack:
        images, labels = (
            stack.enter_context(h5py.File(source, "r"))[key] for source, key in zip(sources, "xy", strict=True)
        )
        for row in about["rows"]:
            pixels = images[row]
            if pixels.shape[2] != 3:
                msg = f"images of shape {images.shape}"
                raise ValueError(msg)
            yield {"size": pixels.shape[:2], "label": int(labels[row, 0, 0, 0])}, pixels.tobytes()


DECODERS: Final[dict[str, Decoder]] = {"hdf5": _check, "hdf5 rows": _rows}
