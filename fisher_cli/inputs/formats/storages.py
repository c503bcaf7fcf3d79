"""The bytes that a file stores, and descriptions of tensors on them: checked against what is stored, and not made.

Nothing here needs torch: `tensors` makes tensors of the descriptions, on the same bytes.
"""

import math
from typing import Final

from fisher_cli.errors import CheckpointError
from fisher_cli.inputs.formats.budgets import Budget
from fisher_cli.inputs.formats.number_types import NumberType
from fisher_cli.text import clipped

_MOST_DIMENSIONS: Final = 32
_LARGEST: Final = 1 << 60
# Bytes of a tensor with more elements than are stored for it, such as positions or a mask that were expanded over a
# batch: a view takes no memory, but whoever copies it makes all of them. The mask of 8192 positions has as many.
LARGEST_EXPANDED: Final = 64 << 20
_SPARSE: Final = {f"torch.sparse_{name}" for name in ("coo", "csr", "csc", "bsr", "bsc")}
_LAYOUTS: Final = {"torch.strided", *_SPARSE}


class StoredBlock:
    """A stored block.

    Args:
        start: its first byte, counted in bytes from the start of the file; legacy files tell it late.
        length: in bytes.
        swapped: the bytes of a number whose order is not this machine's; 1 where nothing is swapped.
    """

    __slots__ = ("length", "start", "swapped")

    def __init__(self, start: int, length: int, swapped: int) -> None:
        self.start = start
        self.length = length
        self.swapped = swapped


class Storage:
    """A part of a stored block, as elements of one type.

    Args:
        block: where the bytes are.
        kind: of the elements.
        start: the first of them, counted in elements from the start of the block.
        length: how many elements there are.
    """

    __slots__ = ("block", "kind", "length", "start")

    def __init__(self, block: StoredBlock, kind: NumberType, start: int, length: int) -> None:
        self.block = block
        self.kind = kind
        self.start = start
        self.length = length

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
        return Storage(self.block, self.kind, self.start + offset, length)  # type: ignore[operator, arg-type]


class DenseTensor:
    """A tensor on a block.

    Args:
        block: where its numbers are; None for a tensor that has a shape alone.
        kind: of the numbers.
        offset: its first number, counted in numbers from the start of the block.
        size: its shape.
        stride: in numbers, one per dimension.
    """

    __slots__ = ("block", "kind", "offset", "size", "stride")

    def __init__(
        self, block: StoredBlock | None, kind: NumberType, offset: int, size: tuple[int, ...], stride: tuple[int, ...]
    ) -> None:
        self.block = block
        self.kind = kind
        self.offset = offset
        self.size = size
        self.stride = stride


class Layout:
    """A layout of tensors, by torch's name."""

    __slots__ = ("name",)

    def __init__(self, name: str) -> None:
        self.name = name


class SparseTensor:
    """A sparse tensor, whose indices are checked where it is made.

    Args:
        layout: which of them.
        parts: indices and values: two of the coordinate layout, three of all others.
        size: its shape.
        is_coalesced: as the file says; None where it says nothing.
    """

    __slots__ = ("is_coalesced", "layout", "parts", "size")

    def __init__(
        self, layout: Layout, parts: tuple[DenseTensor, ...], size: tuple[int, ...], is_coalesced: bool | None
    ) -> None:
        self.layout = layout
        self.parts = parts
        self.size = size
        self.is_coalesced = is_coalesced


def tensor(storage: object, offset: object, size: object, stride: object, kind: object = None) -> DenseTensor:
    """Return a tensor on a storage, of the storage's type unless told otherwise.

    Raises:
        CheckpointError: Something is malformed, or the tensor reaches beyond its storage, or is expanded to more than
            64 MiB.
    """
    if not isinstance(storage, Storage):
        msg = "damaged: a tensor without storage"
        raise CheckpointError(msg)
    length = storage.length
    if kind is None:
        kind = storage.kind
    elif isinstance(kind, NumberType):
        length = storage.length * storage.kind.itemsize // kind.itemsize
    if not isinstance(kind, NumberType):
        msg = "damaged: a tensor of no type"
        raise CheckpointError(msg)
    if not isinstance(size, tuple) or not isinstance(stride, tuple) or len(size) != len(stride):
        msg = "damaged: a tensor without shape"
        raise CheckpointError(msg)
    if len(size) > _MOST_DIMENSIONS or not _are_counts((offset, *size, *stride)):
        msg = f"damaged: a tensor with the impossible shape {clipped(size, 80)}"
        raise CheckpointError(msg)
    _check_span(offset, size, stride, length, kind.itemsize)  # type: ignore[arg-type]
    start = offset + storage.start * storage.kind.itemsize // kind.itemsize  # type: ignore[operator]
    return DenseTensor(storage.block, kind, start, tuple(size), tuple(stride))


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


def sparse_tensor(budget: Budget, layout: object, parts: object) -> SparseTensor:
    """Return a sparse tensor.

    Raises:
        CheckpointError: It is malformed.
    """
    if not isinstance(parts, tuple) or not isinstance(layout, Layout) or layout.name not in _SPARSE:
        msg = "damaged: a sparse tensor without layout"
        raise CheckpointError(msg)
    count = 2 if layout.name == "torch.sparse_coo" else 3
    tensors, size, rest = parts[:count], _shape(parts[count] if len(parts) > count else None), parts[count + 1 :]
    is_whole = len(tensors) == count and all(isinstance(each, DenseTensor) and each.block for each in tensors)
    if not is_whole or len(rest) > 3 - count or not (not rest or rest[0] is None or isinstance(rest[0], bool)):
        msg = "damaged: a sparse tensor whose indices do not fit"
        raise CheckpointError(msg)
    for each in tensors:  # whoever checks the indices looks through them
        budget.spend_numbers(math.prod(each.size) * each.kind.itemsize)
    return SparseTensor(layout, tensors, size, rest[0] if rest else None)


def tensor_without_data(kind: object, size: object, stride: object) -> DenseTensor:
    """Return a tensor of the meta device, which has a shape alone.

    Raises:
        CheckpointError: It is malformed.
    """
    if isinstance(kind, NumberType) and isinstance(stride, tuple) and _are_counts((*stride, *_shape(size))):
        shape = _shape(size)
        reach = sum(n * step for n, step in zip(shape, stride, strict=False)) * kind.itemsize
        if len(shape) == len(stride) <= _MOST_DIMENSIONS and reach < _LARGEST > math.prod(shape) * kind.itemsize:
            return DenseTensor(None, kind, 0, tuple(shape), tuple(stride))
    msg = "damaged: a tensor without shape"
    raise CheckpointError(msg)


def layout_named(name: object) -> Layout:
    """Return the layout of tensors that is called so.

    Raises:
        CheckpointError: There is none.
    """
    if not isinstance(name, str) or name not in _LAYOUTS:
        msg = f"damaged: it asks for the layout {clipped(name, 80)}"
        raise CheckpointError(msg)
    return Layout(name)


def _shape(size: object) -> tuple[int, ...]:
    if not isinstance(size, tuple) or len(size) > _MOST_DIMENSIONS or not _are_counts(size):
        msg = "damaged: a tensor without shape"
        raise CheckpointError(msg)
    return tuple(size)


def _are_counts(numbers: tuple[object, ...]) -> bool:
    return all(type(number) is int and 0 <= number < _LARGEST for number in numbers)
