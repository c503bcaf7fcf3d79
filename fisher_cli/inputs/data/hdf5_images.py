"""Examples in HDF5, images in one file and labels in another; they are opened here, and a process of its own reads."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Final

from fisher_cli.inputs.data.images import pixels_of
from fisher_cli.inputs.data.sources import Example
from fisher_cli.inputs.formats.files import open_regular
from fisher_cli.storage.decoding import Answer, Decoder
from fisher_cli.storage.reader_process import ReaderOwner


def _decoders() -> Mapping[str, Decoder]:
    from fisher_cli.inputs.data.hdf5_bytes import DECODERS

    return DECODERS


OWNER: Final = ReaderOwner("fisher_cli.inputs.data.hdf5_bytes", _decoders, ["h5py", "numpy"])


def hdf5_rows(paths: Sequence[Path]) -> list[int]:
    """Return how many rows each file has.

    Raises:
        ValueError: One of them leads to another file, or holds no plain arrays of bytes.
        DataError: One cannot be opened.
    """
    [(rows, _)] = _asked("hdf5", paths, ())
    return [int(each) for each in rows]


def hdf5_examples(paths: Sequence[Path], indices: Sequence[int]) -> Iterator[Example]:
    """Yield the images of the first file with the labels of the second at ascending indices.

    Raises:
        ValueError: They are damaged.
        DataError: One cannot be opened.
    """
    for about, pixels in _asked("hdf5 rows", paths, indices):
        yield pixels_of((about["size"], pixels)), about["label"]


def _asked(decoder: str, paths: Sequence[Path], rows: Sequence[int]) -> Iterator[Answer]:
    with ExitStack() as stack:
        files = [stack.enter_context(open_regular(path)) for path in paths]
        yield from OWNER.ask(
            decoder,
            {"names": [path.name for path in paths], "rows": list(rows)},
            files,
            [file.fileno() for file in files],
            lambda text, _: ValueError(text),
        )
