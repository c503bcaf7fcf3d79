"""Pickles that hold nothing but records → the records, without running a pickle.

Python's own reader would let a pickle run anything. Here it is read by a machine that knows the few instructions that
dictionaries, lists, texts, numbers and records need, and that makes a record where the file names a class:
nothing that the file names is imported or called, and what is not on the list is refused.
"""

import pickletools
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final, TypeVar

import torch

from fisher_cli.errors import UnsafeCheckpointError
from fisher_cli.inputs.formats.containers import clipped

TYPES: Final = {str(kind): kind for kind in vars(torch).values() if isinstance(kind, torch.dtype)}
SAVE_AGAIN: Final = "save it again with torch.distributed.checkpoint.save"
_CLASS: Final = "class"
_MOST_INSTRUCTIONS: Final = 5_000_000  # a piece of a tensor takes about 60

_Kind = TypeVar("_Kind")


@dataclass(eq=False)
class PickledRecord:
    """What the file calls an object of the class `kind`, made of these arguments and given this state."""

    kind: str
    arguments: tuple[object, ...]
    state: object = None


def read_records(data: bytes, allowed: frozenset[str], where: str) -> object:
    """Return what the pickle holds: plain values, records of the classes allowed, and torch's dtypes.

    Raises:
        UnsafeCheckpointError: It names another class, or has an instruction that records do not need.
        ValueError: It is damaged; also TypeError, KeyError, IndexError and OverflowError.
    """
    return _Machine(allowed, where).run(data)


def of(kind: type[_Kind], value: object) -> _Kind:
    """Return the value where it is of this kind.

    Raises:
        ValueError: it is not.
    """
    if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
        msg = f"a {type(value).__name__} in place of a {kind.__name__}"
        raise ValueError(msg)
    return value


class _Machine:
    """The machine's stack, the places marked on it, and the values kept for later use."""

    def __init__(self, allowed: frozenset[str], where: str) -> None:
        self._allowed = allowed
        self._where = where
        self._stack: list[object] = []
        self._marks: list[int] = []
        self._memo: dict[int, object] = {}

    def run(self, data: bytes) -> object:
        """Return what is left on the stack at the end.

        Raises:
            ValueError: The pickle has no end.
        """
        for count, (opcode, argument, _) in enumerate(pickletools.genops(data)):
            name = opcode.name
            if count > _MOST_INSTRUCTIONS:
                self._refuse(f"more than {_MOST_INSTRUCTIONS} instructions")
            if name == "STOP":
                (result,) = self._stack
                return result
            if name in _CONSTANTS:
                self._stack.append(_CONSTANTS[name]())
            elif name in _LITERALS:
                self._stack.append(argument)
            elif name in _STEPS:
                _STEPS[name](self, argument)
            elif name not in _IGNORED:
                self._refuse(f"the instruction {name}")
        msg = "it has no end"
        raise ValueError(msg)

    def _refuse(self, what: str) -> None:
        msg = f"{self._where}: asks for {clipped(what)}, which is not done; {SAVE_AGAIN}"
        raise UnsafeCheckpointError(msg)

    def _since_mark(self) -> list[object]:
        mark = self._marks.pop()
        items = self._stack[mark:]
        del self._stack[mark:]
        return items

    def _take(self, count: int) -> list[object]:
        if len(self._stack) < count:
            msg = "its stack is empty"
            raise ValueError(msg)
        items = self._stack[-count:]
        del self._stack[-count:]
        return items

    def mark(self, _: object) -> None:
        self._marks.append(len(self._stack))

    def collect(self, _: object) -> None:
        self._stack.append(tuple(self._since_mark()))

    def append(self, _: object) -> None:
        (item,) = self._take(1)
        of(list, self._stack[-1]).append(item)

    def extend(self, _: object) -> None:
        items = self._since_mark()
        of(list, self._stack[-1]).extend(items)

    def set_item(self, _: object) -> None:
        self._set(self._take(2))

    def set_items(self, _: object) -> None:
        self._set(self._since_mark())

    def _set(self, items: list[object]) -> None:
        mapping = of(dict, self._stack[-1])
        for key, value in zip(items[::2], items[1::2], strict=True):
            # Only texts and records, which compare by identity: nested tuples could be hashed without end.
            mapping[key if isinstance(key, PickledRecord) else of(str, key)] = value

    def put(self, argument: object) -> None:
        self._memo[of(int, argument)] = self._stack[-1]

    def memoize(self, _: object) -> None:
        self._memo[len(self._memo)] = self._stack[-1]

    def get(self, argument: object) -> None:
        self._stack.append(self._memo[of(int, argument)])

    def name_in_text(self, argument: object) -> None:
        module, _, name = str(argument).partition(" ")
        self._name(module, name)

    def name_on_stack(self, _: object) -> None:
        module, name = self._take(2)
        self._name(of(str, module), of(str, name))

    def _name(self, module: str, name: str) -> None:
        full = f"{module}.{name}"
        if full in TYPES:
            self._stack.append(TYPES[full])
        elif full in self._allowed:
            self._stack.append(PickledRecord(_CLASS, (full,)))
        else:
            self._refuse(full)

    def make(self, _: object) -> None:
        kind, arguments = self._take(2)
        named = of(PickledRecord, kind)
        if named.kind != _CLASS:
            msg = "an object in place of a class"
            raise ValueError(msg)
        self._stack.append(PickledRecord(str(named.arguments[0]), of(tuple, arguments)))

    def build(self, _: object) -> None:
        (state,) = self._take(1)
        record = of(PickledRecord, self._stack[-1])
        record.state = state


_CONSTANTS: Final[Mapping[str, Callable[[], object]]] = {
    "NONE": lambda: None,
    "NEWTRUE": lambda: True,
    "NEWFALSE": lambda: False,
    "EMPTY_DICT": dict,
    "EMPTY_LIST": list,
    "EMPTY_TUPLE": tuple,
}
_LITERALS: Final = frozenset({
    "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8", "BININT", "BININT1", "BININT2", "LONG1", "BINFLOAT",
})  # fmt: skip
_IGNORED: Final = frozenset({"PROTO", "FRAME"})
_STEPS: Final[Mapping[str, Callable[[_Machine, object], None]]] = {
    "MARK": _Machine.mark,
    "TUPLE": _Machine.collect,
    "TUPLE1": lambda machine, _: machine._stack.append(tuple(machine._take(1))),
    "TUPLE2": lambda machine, _: machine._stack.append(tuple(machine._take(2))),
    "TUPLE3": lambda machine, _: machine._stack.append(tuple(machine._take(3))),
    "APPEND": _Machine.append,
    "APPENDS": _Machine.extend,
    "SETITEM": _Machine.set_item,
    "SETITEMS": _Machine.set_items,
    "BINPUT": _Machine.put,
    "LONG_BINPUT": _Machine.put,
    "MEMOIZE": _Machine.memoize,
    "BINGET": _Machine.get,
    "LONG_BINGET": _Machine.get,
    "GLOBAL": _Machine.name_in_text,
    "STACK_GLOBAL": _Machine.name_on_stack,
    "REDUCE": _Machine.make,
    "NEWOBJ": _Machine.make,
    "BUILD": _Machine.build,
}
