"""Files of arrays: of numpy.savez, which a process of its own reads, and of tensors."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from torch import Tensor

from fisher_cli.errors import CheckpointError, DataError
from fisher_cli.inputs.data.arrays import NamedArray, table_of
from fisher_cli.inputs.data.sources import Array
from fisher_cli.inputs.formats.containers import decode, read_bytes
from fisher_cli.inputs.formats.files import open_regular, shown
from fisher_cli.storage.decoding import Answer, Decoder
from fisher_cli.storage.reader_process import ReaderOwner
from fisher_cli.text import clipped


def _decoders() -> Mapping[str, Decoder]:
    from fisher_cli.inputs.data.npz_bytes import DECODERS

    return DECODERS


OWNER: Final = ReaderOwner("fisher_cli.inputs.data.npz_bytes", _decoders, ["numpy"])


def npz_tables(path: Path) -> dict[str, NamedArray]:
    """Return the arrays of the file by name; their headers are read, not their numbers.

    Raises:
        DataError: It is no such file, it is damaged, or an array's header does not fit its bytes.
    """
    [(found, _)] = _asked("npz", path, shown(path))
    return {name: _table(path, name, tuple(shape), np.dtype(kind)) for name, shape, kind in found}


def _table(path: Path, name: str, shape: tuple[int, ...], dtype: np.dtype[Any]) -> NamedArray:
    def rows(indices: Sequence[int]) -> Iterator[Array]:
        about = {"where": shown(path), "name": name, "rows": list(indices)}
        for count, numbers in _asked("npz rows", path, about):
            yield from np.frombuffer(numbers, dtype).reshape(count, *shape[1:])

    return NamedArray(shape, dtype, rows)


def _asked(decoder: str, path: Path, about: Any) -> Iterator[Answer]:
    with open_regular(path) as file:
        yield from OWNER.ask(
            decoder,
            about,
            [file],
            [file.fileno()],
            lambda text, _: DataError(f"{shown(path)}: {text}"),
        )


_SAVE: Final = "save it as torch.save({'inputs': inputs, 'labels': labels}, FILE)"


def tensor_tables(path: Path) -> dict[str, NamedArray]:
    """Return the tensors of the file by name; a pair is inputs and labels, nested names are joined by a dot.

    Raises:
        DataError: The file cannot be read without running code, or it holds no tensors in such an order.
    """
    try:
        content = decode(read_bytes(path), path).content
    except CheckpointError as error:
        raise DataError(str(error)) from error
    tables = {name: _tensor_table(tensor, f"{shown(path)}: {clipped(name)}") for name, tensor in _named(content)}
    if not tables:
        msg = f"{shown(path)}: holds {type(content).__name__} and no named tensors; {_SAVE}"
        raise DataError(msg)
    return tables


def _named(content: object, prefix: str = "") -> list[tuple[str, Tensor]]:
    """Return (name, tensor) of a mapping or pair, at most two levels deep: splits, then inputs and labels."""
    if isinstance(content, Sequence) and len(content) == 2 and all(isinstance(item, Tensor) for item in content):
        content = {"inputs": content[0], "labels": content[1]}
    if not isinstance(content, Mapping):
        return []
    found: list[tuple[str, Tensor]] = []
    for key, value in content.items():
        if isinstance(value, Tensor):
            found.append((f"{prefix}{key}", value))
        elif not prefix:
            found += _named(value, f"{key}.")
    return found


def _tensor_table(tensor: Tensor, where: str) -> NamedArray:
    """Return a tensor as a table.

    Raises:
        DataError: It is sparse, quantised, complex, or of a type without arithmetic.
    """
    is_plain = tensor.layout is torch.strided and not tensor.is_quantized and not tensor.is_meta
    if not is_plain or tensor.is_complex() or str(tensor.dtype).startswith("torch.float8"):
        msg = f"{where} is {clipped(tensor.dtype)} {tensor.layout}; save uint8 images, floating numbers or int64"
        raise DataError(msg)
    tensor = tensor.detach()
    if tensor.numel() * tensor.element_size() > tensor.untyped_storage().nbytes():
        msg = f"{where} has more elements, {tuple(tensor.shape)}, than the file has numbers; save a .clone() of it"
        raise DataError(msg)
    return table_of((tensor.float() if tensor.dtype is torch.bfloat16 else tensor).numpy())
