"""Frozen results ↔ plain JSON values, by their type annotations alone; every float comes back bit by bit.

A dataclass is an object by field name, an enum its value, a tuple a list; NaN and the infinities are the words that
Python's json writes for them. A field that is missing takes its default, so that a record outlives new fields. JSON
objects themselves are told by a TypedDict, which says of some of their entries what they must be.
"""

import reprlib
import sys
import types
import typing
from collections.abc import Callable
from dataclasses import MISSING, fields, is_dataclass
from enum import Enum
from functools import cache
from typing import Any, Final, TypeVar, get_args, get_origin

_Kind = TypeVar("_Kind")
Decoder = Callable[[Any], Any]
_PLAIN: Final = frozenset({str, int, float, bool, type(None)})


def encode(value: Any) -> Any:
    """Turn a result into JSON values; every float comes back bit by bit from `decode`.

    Args:
        value: a dataclass, an enum, a tuple, text, a number, a truth value or None, and dataclasses and tuples of
            these.

    Returns:
        A dataclass as a dict by field name, an enum as its value, a tuple as a list, all else as it is.

    Raises:
        TypeError: it is something else.
    """
    kind = type(value)
    if kind in _PLAIN:
        return value
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, tuple):
        return [encode(each) for each in value]
    if (names := _names(typing.cast("Any", kind))) is not None:
        return {name: encode(getattr(value, name)) for name in names}
    if isinstance(value, str | int | float):
        return value
    msg = f"{kind.__name__} cannot be recorded"
    raise TypeError(msg)


@cache
def _names(kind: type) -> tuple[str, ...] | None:
    """The fields of a dataclass; None for another type."""
    return tuple(field.name for field in fields(kind)) if is_dataclass(kind) else None


def decode(kind: type[_Kind], value: Any) -> _Kind:
    """Turn JSON values back into a result.

    Args:
        kind: the dataclass or other type that was encoded, or a TypedDict; its annotations say what the parts are.
        value: what `encode` gave; a field that is missing takes its default. Of a TypedDict entries may be missing that
            are not required, and others than its own stay as they are.

    Raises:
        ValueError: it is no value of this kind.
    """
    make: Decoder = _decoder(typing.cast("Any", kind))
    return typing.cast("_Kind", make(value))


@cache
def _decoder(kind: Any) -> Decoder:
    """The function that makes a value of this kind out of JSON values; made once, since a journal has many rows."""
    origin, arguments = get_origin(kind), get_args(kind)
    if kind is Any:
        return lambda value: value
    if is_dataclass(kind):
        return _dataclass(kind)
    if typing.is_typeddict(kind):
        return _object(kind)
    if origin is dict:
        return _entries(arguments[1])
    if origin is list:
        return _list(arguments[0])
    if origin in {typing.Union, types.UnionType}:
        return _one_of(arguments)
    if origin is tuple:
        return _sequence(arguments[0]) if arguments[-1] is ... else _tuple(arguments)
    if isinstance(kind, type) and issubclass(kind, Enum):
        return kind
    return _plain(kind)


def _refuse(value: Any, what: str) -> typing.NoReturn:
    shown = reprlib.repr(value)  # however large and deep the value is
    msg = f"{shown[:60]} is no {what}"
    raise ValueError(msg)


def _plain(kind: Any) -> Decoder:
    accepted = {int, float} if kind is float else {kind}
    # Names come again in every record: one text for all of them.
    make: Decoder | None = float if kind is float else sys.intern if kind is str else None

    def decoded(value: Any) -> Any:
        if type(value) not in accepted:
            _refuse(value, getattr(kind, "__name__", str(kind)))
        try:
            return value if make is None else make(value)
        except OverflowError:
            return _refuse(value, "float")

    return decoded


def _dataclass(kind: Any) -> Decoder:
    hints = typing.get_type_hints(kind)
    parts = {field.name: _decoder(hints[field.name]) for field in fields(kind)}
    needed = {f.name for f in fields(kind) if f.default is MISSING and f.default_factory is MISSING}

    def decoded(value: Any) -> Any:
        # Most records have just these fields, in this order, and comparing sets of them costs more than all else here.
        is_usual = type(value) is dict and value.keys() == parts.keys()
        if not is_usual and (not isinstance(value, dict) or value.keys() - parts.keys() or needed - value.keys()):
            _refuse(value, f"{kind.__name__}: it needs the fields {', '.join(parts)}")
        return kind(**{name: parts[name](each) for name, each in value.items()})

    return decoded


def _object(kind: Any) -> Decoder:
    hints = typing.get_type_hints(kind)
    parts, needed = {name: _decoder(hint) for name, hint in hints.items()}, kind.__required_keys__

    def decoded(value: Any) -> Any:
        if not isinstance(value, dict):
            _refuse(value, "object")
        if missing := sorted(needed - value.keys()):
            msg = f"there is no {missing[0]}"
            raise ValueError(msg)
        return {name: _named(name, parts[name], each) if name in parts else each for name, each in value.items()}

    return decoded


def _named(name: str, part: Decoder, value: Any) -> Any:
    """The part of this name.

    Raises:
        ValueError: it is no value of its kind; the text says where.
    """
    try:
        return part(value)
    except ValueError as error:
        msg = f"{name}: {error}"
        raise ValueError(msg) from error


def _entries(kind: Any) -> Decoder:
    part = _decoder(kind)

    def decoded(value: Any) -> Any:
        if not isinstance(value, dict):
            _refuse(value, "object")
        return {name: part(each) for name, each in value.items()}

    return decoded


def _list(kind: Any) -> Decoder:
    part = _decoder(kind)

    def decoded(value: Any) -> Any:
        if not isinstance(value, list):
            _refuse(value, "list")
        return [part(each) for each in value]

    return decoded


def _one_of(kinds: tuple[Any, ...]) -> Decoder:
    may_be_none = type(None) in kinds
    # An integer before a float that it could be, too. None is told without trying: a refusal costs more than a value.
    ways = [_decoder(kind) for kind in sorted(kinds, key=lambda kind: kind is float) if kind is not type(None)]

    def decoded(value: Any) -> Any:
        if value is None and may_be_none:
            return None
        if len(ways) == 1:
            return ways[0](value)
        for way in ways:
            try:
                return way(value)
            except ValueError:
                continue
        return _refuse(value, f"{' | '.join(str(kind) for kind in kinds)}")

    return decoded


def _sequence(kind: Any) -> Decoder:
    part = _decoder(kind)

    def decoded(value: Any) -> Any:
        if not isinstance(value, list):
            _refuse(value, f"tuple of {kind}")
        if kind is float and all(type(each) is float for each in value):
            return tuple(value)  # per-example values: a million of them
        return tuple([part(each) for each in value])

    return decoded


def _tuple(kinds: tuple[Any, ...]) -> Decoder:
    parts = [_decoder(kind) for kind in kinds]

    def decoded(value: Any) -> Any:
        if not isinstance(value, list) or len(value) != len(parts):
            _refuse(value, f"tuple of {len(parts)}")
        return tuple([part(each) for part, each in zip(parts, value, strict=True)])

    return decoded
