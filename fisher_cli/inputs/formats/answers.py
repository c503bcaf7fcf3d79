"""What was read of a file as a tree of JSON values, small and flat: what a reader in another process hands over.

A value that JSON has is itself; all others are lists that begin with a word. Tensors stand in a table, and where they
are found in the content is their number there: what the file shares stays shared.
"""

from base64 import b64encode
from collections import OrderedDict
from typing import Final, TypeAlias

from fisher_cli.inputs.formats.budgets import Budget
from fisher_cli.inputs.formats.constructions import Device, Size
from fisher_cli.inputs.formats.number_types import NumberType
from fisher_cli.inputs.formats.plain_values import StoredArray
from fisher_cli.inputs.formats.recognition import Description
from fisher_cli.inputs.formats.stand_ins import Named, StandIn
from fisher_cli.inputs.formats.storages import DenseTensor, Layout, SparseTensor, StoredBlock

Tree: TypeAlias = "bool | int | float | str | list[Tree] | dict[str, Tree] | None"

_LONGEST: Final = 10_000  # characters or bytes of one value; nobody asks for longer ones
_WORDS: Final[dict[type, str]] = {list: "list", tuple: "tuple", set: "set", frozenset: "frozenset", Size: "size"}


def answer(found: Description) -> dict[str, Tree]:
    """Return what a file holds as JSON values.

    Raises:
        CheckpointError: That would be far larger than any checkpoint's.
    """
    tensors = _Tensors()
    tree = _tree(found.content, tensors, Budget())
    refusal = found.refusal
    return {
        "format": found.format,
        "content": tree,
        "tensors": tensors.entries,
        "blocks": [[block.start, block.length, block.swapped] for block in tensors.blocks],
        "metadata": dict(found.metadata),
        "ignored_types": list(found.ignored_types),
        "integrity": found.integrity,
        "identity": list(found.identity),
        "refusal": None if refusal is None else [type(refusal).__name__, str(refusal)],
    }


class _Tensors:
    """The table of tensors, and that of the blocks that they are on."""

    def __init__(self) -> None:
        self.entries: list[Tree] = []
        self.blocks: list[StoredBlock] = []
        self._numbers: dict[int, int] = {}  # by identity; the content holds what is counted here

    def number(self, tensor: DenseTensor | SparseTensor) -> int:
        if id(tensor) not in self._numbers:
            entry = self._dense(tensor) if isinstance(tensor, DenseTensor) else self._sparse(tensor)
            self._numbers[id(tensor)] = len(self.entries)
            self.entries.append(entry)
        return self._numbers[id(tensor)]

    def _dense(self, tensor: DenseTensor) -> Tree:
        block = tensor.block
        if block is not None and id(block) not in self._numbers:
            self._numbers[id(block)] = len(self.blocks)
            self.blocks.append(block)
        number = None if block is None else self._numbers[id(block)]
        return [number, tensor.kind.name, tensor.offset, list(tensor.size), list(tensor.stride)]

    def _sparse(self, tensor: SparseTensor) -> Tree:
        parts: list[Tree] = [self.number(part) for part in tensor.parts]
        return [tensor.layout.name, parts, list(tensor.size), tensor.is_coalesced]


def _tree(value: object, tensors: _Tensors, budget: Budget) -> Tree:
    kind = type(value)
    if value is None or kind is bool or kind is int or kind is float:
        return value  # type: ignore[return-value]
    if isinstance(value, str):
        return _text(value, budget)
    if isinstance(value, DenseTensor | SparseTensor):
        return ["tensor", tensors.number(value)]
    if isinstance(value, dict):
        word = "ordered" if isinstance(value, OrderedDict) else "dict"
        return [word, *(_tree(each, tensors, budget) for entry in value.items() for each in entry)]
    if kind in _WORDS:
        return [_WORDS[kind], *(_tree(entry, tensors, budget) for entry in value)]  # type: ignore[attr-defined]
    return _leaf(value, budget)


def _text(value: str, budget: Budget) -> Tree:
    if len(value) > _LONGEST:
        return ["left out", f"text of {len(value)} characters"]
    budget.spend_text(len(value))
    return value


def _leaf(value: object, budget: Budget) -> Tree:
    if isinstance(value, bytes):
        if len(value) > _LONGEST:
            return ["left out", f"{len(value)} bytes"]
        budget.spend_text(len(value))
        return ["bytes", b64encode(value).decode()]
    if isinstance(value, complex):
        return ["complex", value.real, value.imag]
    if isinstance(value, StoredArray):
        data = _leaf(value.data, budget)
        return ["array", value.kind, list(value.shape), value.is_fortran, data] if "bytes" in data else data  # type: ignore[operator]
    if isinstance(value, NumberType):
        return ["type", value.name]
    if isinstance(value, Layout):
        return ["layout", value.name]
    if isinstance(value, Device):
        return ["device", value.kind, value.index]
    if isinstance(value, Named):
        return ["name", value.path]
    return ["stand-in", value.path if isinstance(value, StandIn) else type(value).__name__]
