"""The tree of a file's content → the content, with torch's tensors on the file's bytes."""

import warnings
from base64 import b64decode
from collections import OrderedDict
from collections.abc import Callable, Mapping
from typing import Any, Final

import numpy as np
import torch
from torch import Tensor

from fisher_cli.errors import CheckpointError
from fisher_cli.inputs.formats.answers import Tree
from fisher_cli.inputs.formats.files import FileBytes
from fisher_cli.inputs.formats.number_types import NumberType
from fisher_cli.inputs.formats.stand_ins import Named, StandIn

_ALIGNED: Final = 8  # bytes; the largest number, or the larger half of a complex one
_LAYOUTS: Final = {
    str(layout): layout
    for layout in (
        *(torch.strided, torch.sparse_coo),
        *(torch.sparse_csr, torch.sparse_csc, torch.sparse_bsr, torch.sparse_bsc),
    )
}


def content_of(answer: Mapping[str, Any], data: FileBytes) -> object:
    """Return what a file holds.

    Args:
        answer: of `answers.answer`.
        data: the whole file, in memory that may be written: the tensors are views of it wherever they can.

    Raises:
        CheckpointError: A sparse tensor's indices do not fit it, or torch here does not know a type.
    """
    blocks = [_block(data, *block) for block in answer["blocks"]]
    tensors: list[Tensor] = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch's remarks on prototypes, such as sparse layouts
        for entry in answer["tensors"]:
            is_sparse = isinstance(entry[0], str)
            tensors.append(_sparse(tensors, *entry) if is_sparse else _dense(blocks, *entry))
    return _Content(tensors).of(answer["content"])


def _block(data: FileBytes, start: int, length: int, swapped: int) -> Tensor:
    """Return stored bytes; a view of the file, unless their order or place is not this machine's."""
    if not length:
        return torch.empty(0, dtype=torch.uint8)
    block = torch.frombuffer(data, dtype=torch.uint8, count=length, offset=start)
    if swapped > 1:
        return block.view(-1, swapped).flip(1).flatten()
    return block.clone() if start % _ALIGNED else block


def _dense(
    blocks: list[Tensor], block: int | None, kind: str, offset: int, size: list[int], stride: list[int]
) -> Tensor:
    dtype = _dtype_named(kind)
    if block is None:
        return torch.empty_strided(size, stride, dtype=dtype, device="meta")
    return torch.empty(0, dtype=dtype).set_(blocks[block].untyped_storage(), offset, size, stride)


def _sparse(tensors: list[Tensor], layout: str, parts: list[int], size: list[int], is_coalesced: bool | None) -> Tensor:
    *indices, values = (tensors[part] for part in parts)
    try:
        if layout == "torch.sparse_coo":
            return torch.sparse_coo_tensor(
                indices[0], values, tuple(size), check_invariants=True, is_coalesced=is_coalesced
            )
        outer, inner = indices
        return torch.sparse_compressed_tensor(
            outer, inner, values, tuple(size), layout=_LAYOUTS[layout], check_invariants=True
        )
    except (RuntimeError, TypeError, ValueError) as error:
        msg = "damaged: a sparse tensor whose indices do not fit"
        raise CheckpointError(msg) from error


def dtype_of(kind: NumberType) -> torch.dtype:
    """Return torch's own name of a type of numbers.

    Raises:
        CheckpointError: Torch here does not know it.
    """
    return _dtype_named(kind.name)


def _dtype_named(name: str) -> torch.dtype:
    found = getattr(torch, name, None)
    if not isinstance(found, torch.dtype):
        msg = f"holds numbers of type {name}, which torch {torch.__version__} does not know; use a newer torch"
        raise CheckpointError(msg)
    return found


def _device(kind: str, index: int | None) -> object:
    try:
        return torch.device(kind) if index is None else torch.device(kind, index)
    except (RuntimeError, ValueError, TypeError):
        return f"{kind}:{index}"  # a device of another machine's torch


def _array(kind: str, shape: list[int], is_fortran: bool, data: list[str]) -> object:
    return np.frombuffer(b64decode(data[1]), kind).reshape(shape, order="F" if is_fortran else "C")


_LEAVES: Final[dict[str, Callable[..., object]]] = {
    "bytes": b64decode,
    "complex": complex,
    "array": _array,
    "type": _dtype_named,
    "layout": _LAYOUTS.__getitem__,
    "device": _device,
    "name": Named,
    "stand-in": lambda path: StandIn(Named(path), ()),
    "left out": lambda what: StandIn(Named(what), ()),
}
_CONTAINERS: Final[dict[str, Callable[[Any], object]]] = {
    "list": list,
    "tuple": tuple,
    "set": set,
    "frozenset": frozenset,
    "size": torch.Size,
}


class _Content:
    """One walk through the tree."""

    def __init__(self, tensors: list[Tensor]) -> None:
        self.tensors = tensors

    def of(self, tree: Tree) -> object:
        if not isinstance(tree, list):
            return tree
        word, *rest = tree
        assert isinstance(word, str)
        if word == "tensor":
            return self.tensors[rest[0]]  # type: ignore[index]
        if word in _CONTAINERS:
            return _CONTAINERS[word](self.of(each) for each in rest)
        if word in {"dict", "ordered"}:
            values = iter(self.of(each) for each in rest)
            return (OrderedDict if word == "ordered" else dict)(zip(values, values, strict=True))
        return _LEAVES[word](*rest)
