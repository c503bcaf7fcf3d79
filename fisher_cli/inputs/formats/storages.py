"""The bytes that a torch file stores, and tensors on them: checked against what is stored before they are made."""

import math
import sys
from dataclasses import dataclass
from typing import Final

import numpy as np
import torch
from torch import Tensor

from fisher_cli.errors import CheckpointError
from fisher_cli.inputs.formats.files import clipped

_MOST_DIMENSIONS: Final = 32
_LARGEST: Final = 1 << 60
# Bytes of a tensor with more elements than are stored for it, such as positions or a mask that were expanded over a
# batch: a view takes no memory, but whoever copies it makes all of them. The mask of 8192 positions has as many.
LARGEST_EXPANDED: Final = 64 << 20
# torch's storage classes by name; files keep these names although torch itself has only one class now.
STORAGE_DTYPES: Final = {
    "DoubleStorage": torch.float64,
    "FloatStorage": torch.float32,
    "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16,
    "LongStorage": torch.int64,
    "IntStorage": torch.int32,
    "ShortStorage": torch.int16,
    "CharStorage": torch.int8,
    "ByteStorage": torch.uint8,
    "BoolStorage": torch.bool,
    "ComplexDoubleStorage": torch.complex128,
    "ComplexFloatStorage": torch.complex64,
    "UntypedStorage": torch.uint8,
}
_LAYOUTS: Final = {
    str(layout): layout
    for layout in (torch.sparse_coo, torch.sparse_csr, torch.sparse_csc, torch.sparse_bsr, torch.sparse_bsc)
}


@dataclass(frozen=True, eq=False)
class Storage:
    """A part of a stored block, as elements of one type.

    Attributes:
        block: the bytes, (B,) uint8.
        dtype: of the elements.
        start: the first of them, counted in elements from the start of the block.
        length: how many elements there are.
    """

    block: Tensor
    dtype: torch.dtype
    start: int
    length: int

    def part(self, offset: object, length: object) -> "Storage":
        """A view of the storage; files of torch before 0.4 store these.

        Args:
            offset: in elements from the start of this storage; a value found in the file.
            length: in elements; a value found in the file.

        Raises:
            CheckpointError: It reaches beyond the storage.
        """
        if not _are_counts((offset, length)) or offset + length > self.length:  # type: ignore[operator]
            msg = "damaged: a view reaches beyond its storage"
            raise CheckpointError(msg)
        return Storage(self.block, self.dtype, self.start + offset, length)  # type: ignore[operator, arg-type]


def fill(block: Tensor, data: memoryview, dtype: torch.dtype, is_little_endian: bool) -> None:
    """Copy stored bytes into a block, swapped where the file's byte order is not this machine's."""
    if block.numel():
        block.numpy()[:] = np.frombuffer(data, np.uint8)
        size = dtype.itemsize // (2 if dtype.is_complex else 1)
        if size > 1 and is_little_endian != (sys.byteorder == "little"):
            block.copy_(block.view(-1, size).flip(1).flatten())


def tensor(storage: object, offset: object, size: object, stride: object, dtype: object = None) -> Tensor:
    """Return a tensor on a storage, of the storage's type unless told otherwise.

    Raises:
        CheckpointError: Something is malformed, or the tensor reaches beyond its storage, or is expanded to more than
            64 MiB.
    """
    if not isinstance(storage, Storage):
        msg = "damaged: a tensor without storage"
        raise CheckpointError(msg)
    kind, length = storage.dtype, storage.length
    if dtype is not None:
        if not isinstance(dtype, torch.dtype):
            msg = "damaged: a tensor of no type"
            raise CheckpointError(msg)
        kind, length = dtype, storage.length * storage.dtype.itemsize // dtype.itemsize
    if not isinstance(size, tuple) or not isinstance(stride, tuple) or len(size) != len(stride):
        msg = "damaged: a tensor without shape"
        raise CheckpointError(msg)
    if len(size) > _MOST_DIMENSIONS or not _are_counts((offset, *size, *stride)):
        msg = f"damaged: a tensor with the impossible shape {clipped(size, 80)}"
        raise CheckpointError(msg)
    _check_span(offset, size, stride, length, kind.itemsize)  # type: ignore[arg-type]
    start = offset + storage.start * storage.dtype.itemsize // kind.itemsize  # type: ignore[operator]
    return torch.empty(0, dtype=kind).set_(storage.block.untyped_storage(), start, size, stride)


def _check_span(offset: int, size: tuple[int, ...], stride: tuple[int, ...], length: int, width: int) -> None:
    count = math.prod(size)
    beyond = sum((n - 1) * step for n, step in zip(size, stride, strict=True)) + 1 if count else 0
    if offset + beyond > length:
        msg = f"damaged: a tensor of shape {clipped(size, 80)} reaches beyond the {length} elements that are stored"
        raise CheckpointError(msg)
    if count * width > LARGEST_EXPANDED and _meets_itself(size, stride):
        msg = (
            f"a tensor of shape {clipped(size, 80)} is expanded to more than {LARGEST_EXPANDED >> 20} MiB, larger "
            "than what is stored; save it with .contiguous()"
        )
        raise CheckpointError(msg)


def _meets_itself(size: tuple[int, ...], stride: tuple[int, ...]) -> bool:
    """Return whether two elements may lie in one place."""
    reach = 0
    for step, n in sorted((step, n) for step, n in zip(stride, size, strict=True) if n > 1):
        if step <= reach:
            return True
        reach += (n - 1) * step
    return False


def sparse_tensor(layout: object, parts: object) -> Tensor:
    """Return a sparse tensor whose indices were checked.

    Raises:
        CheckpointError: It is malformed.
    """
    if not isinstance(parts, tuple) or not isinstance(layout, torch.layout) or layout not in _LAYOUTS.values():
        msg = "damaged: a sparse tensor without layout"
        raise CheckpointError(msg)
    try:
        if layout is torch.sparse_coo:
            indices, values, size, *is_coalesced = parts
            return torch.sparse_coo_tensor(
                indices, values, _shape(size), check_invariants=True, is_coalesced=(is_coalesced or [None])[0]
            )
        outer, inner, values, size = parts
        return torch.sparse_compressed_tensor(outer, inner, values, _shape(size), layout=layout, check_invariants=True)
    except (RuntimeError, TypeError, ValueError) as error:
        msg = "damaged: a sparse tensor whose indices do not fit"
        raise CheckpointError(msg) from error


def tensor_without_data(dtype: object, size: object, stride: object) -> Tensor:
    """Return a tensor of the meta device, which has a shape alone.

    Raises:
        CheckpointError: It is malformed.
    """
    if isinstance(dtype, torch.dtype) and isinstance(stride, tuple) and _are_counts((*stride, *_shape(size))):
        try:
            return torch.empty_strided(_shape(size), stride, dtype=dtype, device="meta")
        except RuntimeError:
            pass
    msg = "damaged: a tensor without shape"
    raise CheckpointError(msg)


def layout_named(name: object) -> object:
    """Return the layout of sparse tensors that is called so.

    Raises:
        CheckpointError: There is none.
    """
    if not isinstance(name, str) or name not in _LAYOUTS:
        msg = f"damaged: it asks for the layout {clipped(name, 80)}"
        raise CheckpointError(msg)
    return _LAYOUTS[name]


def _shape(size: object) -> tuple[int, ...]:
    if not isinstance(size, tuple) or not _are_counts(size):
        msg = "damaged: a tensor without shape"
        raise CheckpointError(msg)
    return size


def _are_counts(numbers: tuple[object, ...]) -> bool:
    return all(type(number) is int and 0 <= number < _LARGEST for number in numbers)
