"""Frozen results ↔ plain JSON values, by their type annotations alone; every float comes back bit by bit.

A dataclass is an object by field name, an enum its value, a tuple a list; NaN and the infinities are the words that
Python's json writes for them. A field that is missing takes its default, so that a record outlives new fields.
"""

import types
import typing
from collections.abc import Mapping
from dataclasses import MISSING, fields, is_dataclass
from enum import Enum
from functools import cache
from typing import Any, TypeVar, get_args, get_origin

_Kind = TypeVar("_Kind")


def encode(value: Any) -> Any:
    """The value as JSON values.

    Raises:
        TypeError: it is neither a dataclass, an enum, a tuple, text, a number, a truth value nor None.
    """
    if isinstance(value, Enum):
        return value.value
    if value is None or isinstance(value, str | bool | int | float):
        return value
    if isinstance(value, tuple):
        return [encode(each) for each in value]
    if is_dataclass(value) and not isinstance(value, type):
        return {field.name: encode(getattr(value, field.name)) for field in fields(value)}
    msg = f"{type(value).__name__} cannot be recorded"
    raise TypeError(msg)


def decode(kind: type[_Kind], value: Any) -> _Kind:
    """The value of this kind that was encoded.

    Raises:
        ValueError: it is no value of this kind.
    """
    return typing.cast("_Kind", _decoded(kind, value))


def _decoded(kind: Any, value: Any) -> Any:
    if is_dataclass(kind):
        return _dataclass(kind, value)
    origin, arguments = get_origin(kind), get_args(kind)
    if origin in {typing.Union, types.UnionType}:
        return _one_of(arguments, value)
    if origin is tuple:
        return _tuple(arguments, value)
    if isinstance(kind, type) and issubclass(kind, Enum):
        return kind(value)
    if kind is float and type(value) in {int, float}:
        return float(value)
    if kind in {str, int, bool} and type(value) is kind:
        return value
    if kind is type(None) and value is None:
        return None
    msg = f"{str(value)[:60]!r} is no {getattr(kind, '__name__', kind)}"
    raise ValueError(msg)


@cache
def _hints(kind: type) -> dict[str, Any]:
    return typing.get_type_hints(kind)


def _dataclass(kind: Any, value: Any) -> Any:
    if not isinstance(value, Mapping):
        msg = f"{str(value)[:60]!r} is no {kind.__name__}"
        raise ValueError(msg)  # noqa: TRY004 - one kind of error for all that a damaged record can hold
    hints = _hints(kind)
    known = {field.name for field in fields(kind)}
    needed = {f.name for f in fields(kind) if f.default is MISSING and f.default_factory is MISSING}
    if value.keys() - known or needed - value.keys():
        msg = f"a {kind.__name__} with the fields {', '.join(sorted(value))[:200]}"
        raise ValueError(msg)
    return kind(**{name: _decoded(hints[name], each) for name, each in value.items()})


def _one_of(kinds: tuple[Any, ...], value: Any) -> Any:
    for kind in sorted(kinds, key=lambda each: each is float):  # an integer before a float that it could be, too
        try:
            return _decoded(kind, value)
        except ValueError:
            continue
    msg = f"{str(value)[:60]!r} is none of {', '.join(str(kind) for kind in kinds)}"
    raise ValueError(msg)


def _tuple(kinds: tuple[Any, ...], value: Any) -> tuple[Any, ...]:
    if not isinstance(value, list) or (kinds[-1:] != (...,) and len(value) != len(kinds)):
        msg = f"{str(value)[:60]!r} is no tuple of {', '.join(str(kind) for kind in kinds)}"
        raise ValueError(msg)
    if kinds[-1:] == (...,):
        if kinds[0] is float and all(type(each) is float for each in value):
            return tuple(value)  # per-example values: a million of them
        return tuple(_decoded(kinds[0], each) for each in value)
    return tuple(_decoded(kind, each) for kind, each in zip(kinds, value, strict=True))
