"""A pickle read without running anything: values are made here, and what the pickle names is never imported or called.

This is an interpreter of the opcodes that torch.save and Python's pickle write in protocols 2 to 5. Values are plain
Python objects, tensors on storages checked by `storages`, and stand-ins for everything else. Memory and time are
bounded by the number of opcodes, and by budgets on text and numbers.
"""

import struct
from _compat_pickle import IMPORT_MAPPING, NAME_MAPPING  # names of Python 2's modules
from collections.abc import Callable
from typing import Final, NoReturn

from fisher_cli.errors import CheckpointError, UnsafeCheckpointError
from fisher_cli.inputs.formats.budgets import Budget, excessive
from fisher_cli.inputs.formats.constructions import constant, construct
from fisher_cli.inputs.formats.files import FileBytes
from fisher_cli.inputs.formats.stand_ins import Named, StandIn, called, named
from fisher_cli.inputs.formats.storages import DenseTensor
from fisher_cli.text import clipped

LONGEST_NAME: Final = 500
_UNSIGNED: Final = {1: struct.Struct("<B"), 2: struct.Struct("<H"), 4: struct.Struct("<I"), 8: struct.Struct("<Q")}


class ByteStream:
    """The bytes from `position` to `end`; `position` moves with what is taken."""

    def __init__(self, data: FileBytes, position: int, end: int) -> None:
        self.data = data
        self.position = position
        self.end = end

    def take(self, count: int) -> bytes:
        """Return the next bytes.

        Raises:
            CheckpointError: There are fewer.
        """
        begin, finish = self.position, self.position + count
        if finish > self.end:
            msg = "truncated: a pickle without end"
            raise CheckpointError(msg)
        self.position = finish
        return self.data[begin:finish]

    def number(self, width: int) -> int:
        """Return the next unsigned number of so many bytes."""
        value: int = _UNSIGNED[width].unpack(self.take(width))[0]
        return value

    def line(self) -> str:
        """Return the text up to the next end of line.

        Raises:
            CheckpointError: There is none near.
        """
        finish = self.data.find(b"\n", self.position, min(self.end, self.position + LONGEST_NAME))
        if finish < 0:
            msg = "damaged: a name without end"
            raise CheckpointError(msg)
        text = self.take(finish - self.position).decode("utf-8")
        self.position += 1
        return text


_LONGEST_NUMBER: Final = 32  # bytes; the state of NumPy's generators takes 17
_PROTOCOLS: Final = range(2, 6)
_MARK: Final = object()
_SIGNED: Final = struct.Struct("<i")
_FLOAT: Final = struct.Struct(">d")

Persistent = Callable[[object], object]


def refuse_reference(_: object) -> object:
    """Refuse a reference to something outside of the pickle, with a CheckpointError."""
    _damaged("it refers to something that is not stored here")


class Reader(ByteStream):
    """Reads pickles one behind the other out of the same bytes.

    `position` is where the next one begins. `globals` collects the names that stand-ins were made for.
    """

    def __init__(
        self, data: FileBytes, position: int = 0, end: int | None = None, budget: Budget | None = None
    ) -> None:
        super().__init__(data, position, len(data) if end is None else end)
        self.globals: dict[str, Named] = {}
        self.persistent: Persistent = refuse_reference
        self.budget = Budget(len(data)) if budget is None else budget

    def load(self, persistent: Persistent = refuse_reference) -> object:
        """Return the object that the next pickle describes.

        `persistent` makes what the pickle refers to by an id: storages.

        Raises:
            CheckpointError: It is damaged, or larger than any checkpoint.
            UnsafeCheckpointError: It cannot be read without running what it names.
        """
        self.persistent = persistent
        self.stack: list[object] = []
        self.memo: dict[int, object] = {}
        data, end, steps = self.data, self.end, _STEPS
        stack, spend = self.stack, self.budget.spend_entries
        while True:
            position = self.position
            if position >= end:
                msg = "truncated: a pickle without end"
                raise CheckpointError(msg)
            code = data[position]
            self.position = position + 1
            if code == _STOP:
                if len(stack) != 1:
                    _damaged("a pickle of several objects")
                return stack[0]
            step = steps[code]
            if step is None:
                msg = f"a pickle with the operation {code}, which only an unsafe reader understands"
                raise UnsafeCheckpointError(msg)
            spend(1)
            step(self)

    def push_text(self, width: int) -> None:
        """Push text whose length is a number of so many bytes."""
        length = self.number(width)
        self.budget.spend_text(length)
        self.stack.append(self.take(length).decode("utf-8", "surrogatepass"))

    def push_old_text(self, width: int) -> None:
        """Push what Python 2 called a string: text where it can be."""
        data = self.take(self.number(width))
        try:
            self.stack.append(data.decode("utf-8"))
        except UnicodeDecodeError:
            self.stack.append(data)

    def push_bytes(self, width: int) -> None:
        """Push bytes."""
        self.stack.append(self.take(self.number(width)))

    def push_long(self, width: int) -> None:
        """Push a whole number, if it is one that files have."""
        length = self.number(width)
        if length > _LONGEST_NUMBER:
            excessive(f"a whole number of {length} bytes")
        self.stack.append(int.from_bytes(self.take(length), "little", signed=True))

    # Stack and memo

    def marked(self) -> list[object]:
        """Pop and return what was pushed since the last mark."""
        stack = self.stack
        index = len(stack) - 1
        while stack[index] is not _MARK:
            index -= 1
            if index < 0:
                _damaged("a pickle out of order")
        items = stack[index + 1 :]
        del stack[index:]
        return items

    def remember(self, index: int) -> None:
        """Keep the last value under a number."""
        self.memo[index] = self.stack[-1]

    def recall(self, index: int) -> None:
        """Push what was kept under a number."""
        self.stack.append(self.memo[index])

    def join(self, count: int) -> None:
        """Make a tuple of the last values."""
        stack = self.stack
        if len(stack) < count:
            _damaged("a pickle out of order")
        stack[-count:] = [tuple(stack[-count:])]

    # Containers

    def append(self, items: list[object]) -> None:
        """Extend the list below."""
        target = self.stack[-1]
        if type(target) is list:
            target.extend(items)
        elif type(target) is StandIn:
            target.items.extend(items)
        else:
            _damaged(_not_a("list", target))

    def add(self, items: list[object]) -> None:
        """Extend the set below."""
        target = self.stack[-1]
        if type(target) is not set:
            _damaged(_not_a("set", target))
        for item in items:
            self.budget.check_key(item)
            target.add(item)

    def enter(self, items: list[object]) -> None:
        """Enter keys and values, in turns, into the dict below."""
        target = self.stack[-1]
        if type(target) is StandIn:
            target = target.entries
        if not isinstance(target, dict):
            _damaged(_not_a("dict", target))
        if len(items) % 2:
            _damaged("a key without value")
        check_key = self.budget.check_key
        for index in range(0, len(items), 2):
            key = items[index]
            check_key(key)
            target[key] = items[index + 1]

    # Names and calls

    def name(self, module: object, name: object) -> None:
        """Push what a name stands for."""
        if not isinstance(module, str) or not isinstance(name, str) or len(module) + len(name) > LONGEST_NAME:
            _damaged("a name that is none")
        self.budget.spend_text(len(module) + len(name))
        module, name = NAME_MAPPING.get((module, name), (IMPORT_MAPPING.get(module, module), name))
        known = constant(module, name)
        if known is None:
            known = self.globals.get(f"{module}.{name}") or named(module, name)
            self.globals[f"{module}.{name}"] = known
        self.stack.append(known)

    def call(self, function: object, arguments: object) -> None:
        """Push what a call makes: something known, or a stand-in."""
        if not isinstance(arguments, tuple):
            _damaged("a call without arguments")
        self.budget.spend_entries(4)  # what is made may be larger than a number
        if isinstance(function, Named | StandIn):
            self.stack.append(called(function, arguments))
        else:
            self.stack.append(construct(function, arguments, self.budget))

    def build(self) -> None:
        """Give a stand-in its state."""
        state = self.stack.pop()
        target = self.stack[-1]
        if type(target) is StandIn:
            target.state = state
            return
        # Attributes of an OrderedDict, such as a state dict's versions; until torch 0.3 a parameter's three flags.
        is_parameter = isinstance(target, DenseTensor) and isinstance(state, tuple)
        if not is_parameter and not isinstance(target, dict):
            _damaged(_not_a("built object", target))


def _damaged(reason: str) -> NoReturn:
    msg = f"damaged: {reason}"
    raise CheckpointError(msg)


def _not_a(kind: str, found: object) -> str:
    return f"not a {kind} but a {clipped(type(found).__name__)} is filled"


Step = Callable[[Reader], object]
_STOP: Final = ord(".")


def _two(step: Callable[[Reader, object, object], None]) -> Step:
    def run(reader: Reader) -> None:
        second = reader.stack.pop()
        step(reader, reader.stack.pop(), second)

    return run


def _protocol(reader: Reader) -> None:
    protocol = reader.number(1)
    if protocol not in _PROTOCOLS:
        msg = f"a pickle of protocol {protocol}, which only an unsafe reader understands"
        raise UnsafeCheckpointError(msg)


def _call_with_keywords(reader: Reader) -> None:
    keywords, arguments, function = (reader.stack.pop() for _ in range(3))
    if not isinstance(arguments, tuple) or not isinstance(function, Named | StandIn):
        _damaged("a call without arguments")
    reader.call(function, (*arguments, keywords))


def _frozen(reader: Reader) -> None:
    items = reader.marked()
    for item in items:
        reader.budget.check_key(item)
    reader.stack.append(frozenset(items))


def _global(reader: Reader) -> None:
    module = reader.line()
    reader.name(module, reader.line())


def _persistent(reader: Reader) -> None:
    reader.stack.append(reader.persistent(reader.stack.pop()))


_BY_NAME: Final[dict[str, Step]] = {
    "\x80": _protocol,
    "\x95": lambda reader: reader.take(8),  # the length of a frame, for readers of pipes
    "(": lambda reader: reader.stack.append(_MARK),
    "0": lambda reader: reader.stack.pop(),
    "1": Reader.marked,
    "N": lambda reader: reader.stack.append(None),
    "\x88": lambda reader: reader.stack.append(True),
    "\x89": lambda reader: reader.stack.append(False),
    "J": lambda reader: reader.stack.append(_SIGNED.unpack(reader.take(4))[0]),
    "K": lambda reader: reader.stack.append(reader.number(1)),
    "M": lambda reader: reader.stack.append(reader.number(2)),
    "G": lambda reader: reader.stack.append(_FLOAT.unpack(reader.take(8))[0]),
    "\x8a": lambda reader: reader.push_long(1),
    "\x8b": lambda reader: reader.push_long(4),
    "U": lambda reader: reader.push_old_text(1),
    "T": lambda reader: reader.push_old_text(4),
    "\x8c": lambda reader: reader.push_text(1),
    "X": lambda reader: reader.push_text(4),
    "\x8d": lambda reader: reader.push_text(8),
    "C": lambda reader: reader.push_bytes(1),
    "B": lambda reader: reader.push_bytes(4),
    "\x8e": lambda reader: reader.push_bytes(8),
    "\x96": lambda reader: reader.push_bytes(8),  # a bytearray; nothing here is changed in place
    "h": lambda reader: reader.recall(reader.number(1)),
    "j": lambda reader: reader.recall(reader.number(4)),
    "q": lambda reader: reader.remember(reader.number(1)),
    "r": lambda reader: reader.remember(reader.number(4)),
    "\x94": lambda reader: reader.remember(len(reader.memo)),
    ")": lambda reader: reader.stack.append(()),
    "\x85": lambda reader: reader.join(1),
    "\x86": lambda reader: reader.join(2),
    "\x87": lambda reader: reader.join(3),
    "t": lambda reader: reader.stack.append(tuple(reader.marked())),
    "]": lambda reader: reader.stack.append([]),
    "a": lambda reader: reader.append([reader.stack.pop()]),
    "e": lambda reader: reader.append(reader.marked()),
    "}": lambda reader: reader.stack.append({}),
    "s": lambda reader: reader.enter([reader.stack.pop(-2), reader.stack.pop()]),
    "u": lambda reader: reader.enter(reader.marked()),
    "\x8f": lambda reader: reader.stack.append(set()),
    "\x90": lambda reader: reader.add(reader.marked()),
    "\x91": _frozen,
    "c": _global,
    "\x93": _two(lambda reader, module, name: reader.name(module, name)),
    "R": _two(lambda reader, function, arguments: reader.call(function, arguments)),
    "\x81": _two(lambda reader, function, arguments: reader.call(function, arguments)),
    "\x92": _call_with_keywords,
    "b": Reader.build,
    "Q": _persistent,
}
_STEPS: Final[list[Step | None]] = [_BY_NAME.get(chr(code)) for code in range(256)]
