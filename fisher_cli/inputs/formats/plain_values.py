"""Stand-ins that are only containers of plain values → those values; and how much there is of them.

argparse.Namespace and its kind become a dict, subclasses of dict and list dict and list, NumPy's scalars and arrays
numbers and arrays, paths and enumerations text, and a whole pickled network its state dict. All others stay inert.
"""

import math
import re
import struct
from collections.abc import Mapping
from pathlib import PurePosixPath, PureWindowsPath
from typing import Final, TypeGuard

from fisher_cli.errors import CheckpointError
from fisher_cli.inputs.formats.budgets import Budget
from fisher_cli.inputs.formats.stand_ins import Named, StandIn
from fisher_cli.inputs.formats.storages import DenseTensor, SparseTensor

DEEPEST: Final = 100  # levels of containers; real files have a dozen
_NUMBER: Final = re.compile(r"\s*[-+.\d]|nan|inf", re.IGNORECASE)
_MOST_WEIGHTS: Final = 100_000
_LONGEST_WORD: Final = 1000  # of an enumeration
_NAMESPACES: Final = {"argparse.Namespace", "types.SimpleNamespace", "optparse.Values"}
_PATHS: Final = {
    **dict.fromkeys(("Path", "PosixPath", "PurePosixPath", "PurePath"), PurePosixPath),
    **dict.fromkeys(("WindowsPath", "PureWindowsPath"), PureWindowsPath),
}
# NumPy's types of numbers by name, as `struct` has them; complex ones are two of these.
_NUMPY_TYPES: Final = {
    **{"b1": "?", "i1": "b", "i2": "h", "i4": "i", "i8": "q", "u1": "B", "u2": "H", "u4": "I", "u8": "Q"},
    **{"f2": "e", "f4": "f", "f8": "d", "c8": "ff", "c16": "dd"},
}


class StoredArray:
    """An array of NumPy.

    Args:
        kind: its type as NumPy writes it, byte order first: `<f4`.
        shape: one number per dimension.
        is_fortran: whether the first index runs fastest.
        data: its numbers.
    """

    __slots__ = ("data", "is_fortran", "kind", "shape")

    def __init__(self, kind: str, shape: tuple[int, ...], is_fortran: bool, data: bytes) -> None:
        self.kind = kind
        self.shape = shape
        self.is_fortran = is_fortran
        self.data = data


def plain(content: object, budget: Budget) -> object:
    """Return the content with those stand-ins that are only containers of plain values turned back into these.

    Raises:
        CheckpointError: It is nested deeper than any checkpoint, or more than its budget would come of it.
    """
    return _Conversion(budget).of(content, 0)


class _Conversion:
    """One walk over the content; what occurs several times is converted once and stays one object."""

    def __init__(self, budget: Budget) -> None:
        self.budget = budget
        # The originals are kept, since the names of objects that are gone are used again.
        self.done: dict[int, tuple[object, object]] = {}

    def of(self, value: object, depth: int) -> object:
        if not isinstance(value, dict | list | tuple | set | frozenset | StandIn | Named):
            return value
        if depth > DEEPEST:
            msg = f"nested more than {DEEPEST} levels deep, which no checkpoint is"
            raise CheckpointError(msg)
        if id(value) in self.done:
            return self.done[id(value)][1]
        if isinstance(value, StandIn):
            return self._stand_in(value, depth)
        if isinstance(value, dict | list):
            self.done[id(value)] = value, value
            self._inside(value, depth)
            return value
        converted: object = value
        if isinstance(value, tuple):
            entries = [self.of(entry, depth + 1) for entry in value]
            is_same = all(old is new for old, new in zip(value, entries, strict=True))
            converted = value if is_same else tuple(entries)
        self.done[id(value)] = value, converted
        return converted

    def _inside(self, container: dict[object, object] | list[object], depth: int) -> None:
        if isinstance(container, list):
            container[:] = [self.of(entry, depth + 1) for entry in container]
            return
        if any(isinstance(key, StandIn | tuple) for key in container):
            entries = [(self._key(key, depth), entry) for key, entry in container.items()]
            container.clear()
            container.update(entries)
        for key, entry in container.items():
            container[key] = self.of(entry, depth + 1)

    def _key(self, key: object, depth: int) -> object:
        converted = self.of(key, depth + 1)
        if isinstance(converted, dict | list):
            return key
        self.budget.check_key(converted)
        return converted

    def _stand_in(self, value: StandIn, depth: int) -> object:
        self.done[id(value)] = value, value  # a cycle ends here
        state = value.state
        container: dict[object, object] | list[object] | None = None
        if is_module(value):
            weights = state_dict(value, self.budget)
            self.done[id(value)] = value, weights
            return weights
        if value.path in _NAMESPACES and isinstance(state, dict):
            container = state
        elif value.entries:
            container = value.entries
        elif value.items:
            container = value.items
        elif value.path == "collections.defaultdict":
            container = {}
        if container is not None:
            self.done[id(value)] = value, container
            self._inside(container, depth + 1)
            return container
        converted = self._leaf(value, depth)
        self.done[id(value)] = value, converted
        return converted

    def _leaf(self, value: StandIn, depth: int) -> object:
        arguments = tuple(self.of(argument, depth + 1) for argument in value.arguments)
        module, _, name = value.path.rpartition(".")
        if module.startswith("pathlib") and name in _PATHS and all(isinstance(part, str) for part in arguments):
            words = [str(part) for part in arguments]
            self.budget.spend_text(sum(map(len, words)))
            self.budget.spend_entries(sum(1 + word.count("/") + word.count("\\") for word in words))
            return str(_PATHS[name](*words))
        if value.path == "builtins.frozenset" and len(arguments) == 1 and isinstance(arguments[0], list | tuple):
            return arguments[0]
        if value.path == "builtins.getattr" and len(arguments) == 2 and isinstance(arguments[1], str):
            return arguments[1]
        if module.startswith("numpy"):
            return _numpy_value(value, name, arguments)
        # Enumerations, and what else is made of one piece of text or one number. What comes out must not be mistaken
        # for a number of the file's own, such as its step.
        if len(arguments) == 1 and value.state is None and type(arguments[0]) in {str, int}:
            if isinstance(arguments[0], str) and len(arguments[0]) > _LONGEST_WORD:
                return value
            is_word = isinstance(arguments[0], str) and not _NUMBER.match(arguments[0])
            return arguments[0] if is_word else f"{name or 'call'}({arguments[0]})"
        return value


def is_module(value: object) -> bool:
    """Return whether this stands in for a network or a part of one."""
    state = value.state if isinstance(value, StandIn) else None
    return isinstance(state, dict) and all(isinstance(state.get(key), dict) for key in ("_parameters", "_modules"))


def state_dict(module: StandIn, budget: Budget) -> dict[str, object]:
    """Return what the network's own `state_dict()` would: parameters and persistent buffers under dotted names.

    Raises:
        CheckpointError: The network contains itself, or has more parts, tensors or longer names than any.
    """
    weights: dict[str, object] = {}
    _collect(module, "", weights, [], budget)
    return weights


def _collect(module: StandIn, prefix: str, weights: dict[str, object], around: list[StandIn], budget: Budget) -> None:
    if len(around) > DEEPEST or any(module is outer for outer in around):
        msg = "a network that contains itself"
        raise CheckpointError(msg)
    state = module.state
    assert isinstance(state, dict)  # what is_module says
    hidden = state.get("_non_persistent_buffers_set")
    hidden = hidden if isinstance(hidden, set | frozenset) else frozenset()
    buffers = state.get("_buffers")
    for group in (state["_parameters"], buffers if isinstance(buffers, dict) else {}):
        budget.spend_entries(1 + len(group))  # each time: a part may be shared by 2⁶⁰ others
        for name, tensor in group.items():
            if (
                isinstance(name, str)
                and isinstance(tensor, DenseTensor | SparseTensor)
                and not (group is buffers and name in hidden)
            ):
                budget.spend_text(len(prefix) + len(name))
                budget.check_name(prefix + name)
                weights[prefix + name] = tensor
    budget.spend_entries(1 + len(state["_modules"]))
    for name, child in state["_modules"].items():
        if isinstance(name, str) and is_module(child):
            budget.spend_text(len(prefix) + len(name))
            _collect(child, f"{prefix}{name}.", weights, [*around, module], budget)
        if len(weights) > _MOST_WEIGHTS:
            msg = f"a network of more than {_MOST_WEIGHTS} tensors"
            raise CheckpointError(msg)


def _numpy_value(value: StandIn, name: str, arguments: tuple[object, ...]) -> object:
    """Return NumPy's scalar as a number, its array as an array, and anything malformed as it was."""
    if name == "scalar" and len(arguments) == 2 and isinstance(arguments[1], bytes):
        kind = _dtype(value.arguments[0])
        if kind is not None and len(arguments[1]) == _itemsize(kind):
            parts = struct.unpack(_layout(kind), arguments[1])
            return complex(*parts) if len(parts) == 2 else parts[0]
    if name == "_frombuffer" and len(value.arguments) == 4:  # protocol 5
        data, dtype, shape, order = value.arguments
        return _array(data, dtype, shape, isinstance(order, str) and order == "F", value)
    if name == "_reconstruct" and isinstance(value.state, tuple) and len(value.state) == 5:
        _, shape, dtype, is_fortran, data = value.state
        return _array(data, dtype, shape, is_fortran is True, value)
    return value


def _array(data: object, dtype: object, shape: object, is_fortran: bool, otherwise: object) -> object:
    kind = _dtype(dtype)
    if (
        kind is not None
        and isinstance(data, bytes)
        and _is_shape(shape)
        and math.prod(shape) * _itemsize(kind) == len(data)
    ):
        return StoredArray(kind, tuple(shape), is_fortran, data)
    return otherwise


def _dtype(value: object) -> str | None:
    """Return byte order and name of a type of numbers, `<f4`; None for anything else."""
    if not isinstance(value, StandIn) or value.path != "numpy.dtype" or not value.arguments:
        return None
    name = value.arguments[0]
    state = value.state
    order = state[1] if isinstance(state, tuple) and len(state) > 1 and isinstance(state[1], str) else "|"
    if not isinstance(name, str) or name not in _NUMPY_TYPES:
        return None
    return f"{order if order in {'<', '>'} else '|'}{name}"


def _layout(kind: str) -> str:
    return f"{'=' if kind[0] == '|' else kind[0]}{_NUMPY_TYPES[kind[1:]]}"


def _itemsize(kind: str) -> int:
    return struct.calcsize(_layout(kind))


def _is_shape(shape: object) -> TypeGuard[tuple[int, ...]]:
    return isinstance(shape, tuple) and len(shape) <= 32 and all(type(n) is int and 0 <= n < 1 << 48 for n in shape)


def extent(content: object, most: int) -> int:
    """Return how many entries a walk through the content meets, counting what occurs several times each time.

    A few bytes can describe a structure of 2⁶⁰ leaves, or one that contains itself.

    Raises:
        CheckpointError: There are more than `most`, or it contains itself.
    """
    sizes: dict[int, int] = {}
    active: set[int] = set()

    def size(value: object, depth: int) -> int:
        if not isinstance(value, dict | list | tuple | set | frozenset):
            return 1
        name = id(value)
        if name in sizes:
            return sizes[name]
        if name in active or depth > DEEPEST:
            msg = "contains itself, or is nested too deeply, which no checkpoint is"
            raise CheckpointError(msg)
        active.add(name)
        entries = value.values() if isinstance(value, Mapping) else value
        total = 1 + sum(size(entry, depth + 1) for entry in entries)
        if total > most:
            msg = f"holds more than {most} entries, which no checkpoint does"
            raise CheckpointError(msg)
        active.remove(name)
        sizes[name] = total
        return total

    return size(content, 0)
