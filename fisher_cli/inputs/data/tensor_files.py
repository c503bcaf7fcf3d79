"""Files of tensors, written by torch.save or safetensors: read through the same door as checkpoints."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

import torch
from torch import Tensor

from fisher_cli.errors import CheckpointError, DataError
from fisher_cli.inputs.data.arrays import Table, table_of
from fisher_cli.inputs.formats.containers import decode, one_line, read_bytes
from fisher_cli.inputs.formats.regular_files import shown

_SAVE: Final = "save it as torch.save({'inputs': inputs, 'labels': labels}, FILE)"


def tensor_tables(path: Path) -> dict[str, Table]:
    """Return the tensors of the file by name; a pair is inputs and labels, nested names are joined by a dot.

    Raises:
        DataError: The file cannot be read without running code, or it holds no tensors in such an order.
    """
    try:
        content = decode(read_bytes(path), path).content
    except CheckpointError as error:
        raise DataError(str(error)) from error
    tables = {name: _tensor_table(tensor, f"{shown(path)}: {one_line(name)}") for name, tensor in _named(content)}
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


def _tensor_table(tensor: Tensor, where: str) -> Table:
    """Return a tensor as a table.

    Raises:
        DataError: It is sparse, quantised, complex, or of a type without arithmetic.
    """
    is_plain = tensor.layout is torch.strided and not tensor.is_quantized and not tensor.is_meta
    if not is_plain or tensor.is_complex() or str(tensor.dtype).startswith("torch.float8"):
        msg = f"{where} is {one_line(tensor.dtype)} {tensor.layout}; save uint8 images, floating numbers or int64"
        raise DataError(msg)
    tensor = tensor.detach()
    if tensor.numel() * tensor.element_size() > tensor.untyped_storage().nbytes():
        msg = f"{where} has more elements, {tuple(tensor.shape)}, than the file has numbers; save a .clone() of it"
        raise DataError(msg)
    return table_of((tensor.float() if tensor.dtype is torch.bfloat16 else tensor).numpy())
