"""Frozen results ↔ nested tuples of plain values, by position: small and quickly made, to be held in memory.

`codec` is for files: there names and types are written out and checked. Here neither is, so that these tuples are for
the process that made them.
"""

import operator
import types
import typing
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass
from enum import Enum
from functools import cache
from typing import Any, Final, TypeVar, get_args, get_origin

_Kind = TypeVar("_Kind")
_Step = Callable[[Any], Any]
_PLAIN: Final = frozenset({str, int, float, bool, type(None)})
_FLAT: Final = _PLAIN | {tuple}


@dataclass(frozen=True)
class _Way:
    """How values of a kind become tuples and plain values, and these the values again; None: they stay as they are."""

    there: _Step | None = None
    back: _Step | None = None


def compact(value: Any) -> tuple[Any, ...]:
    """A dataclass as a tuple of its fields, and so on inside; nothing but tuples, text, numbers, truth values and None.

    Raises:
        TypeError: it holds something that its annotations do not allow, or that cannot be told from them.
    """
    there = _way(typing.cast("Any", type(value))).there
    if there is None or not is_dataclass(value):
        msg = f"{type(value).__name__} is no dataclass"
        raise TypeError(msg)
    return typing.cast("tuple[Any, ...]", there(value))


def restored(kind: type[_Kind], parts: tuple[Any, ...]) -> _Kind:
    """The value of this kind that was made compact."""
    back = _way(typing.cast("Any", kind)).back
    assert back is not None
    return typing.cast("_Kind", back(parts))


@cache
def _way(kind: Any) -> _Way:
    """The way of a kind, made once.

    Raises:
        TypeError: values of this kind have no compact form.
    """
    origin, arguments = get_origin(kind), get_args(kind)
    if is_dataclass(kind):
        return _of_dataclass(kind)
    if origin in {typing.Union, types.UnionType}:
        return _of_union(kind, arguments)
    if origin is tuple and arguments[-1] is ...:
        return _of_sequence(_way(arguments[0]))
    if origin is tuple:
        ways = [_way(each) for each in arguments]
        return _of_parts(tuple, tuple, [way.there for way in ways], [way.back for way in ways])
    if isinstance(kind, type) and issubclass(kind, Enum):
        return _Way(operator.attrgetter("value"), kind)
    if kind in _PLAIN:
        return _Way()
    msg = f"{kind} has no compact form"
    raise TypeError(msg)


def _of_dataclass(kind: Any) -> _Way:
    hints, names = typing.get_type_hints(kind), [field.name for field in fields(kind)]
    ways = [_way(hints[name]) for name in names]

    def named(parts: Iterable[Any]) -> Any:
        return kind(**dict(zip(names, parts, strict=True)))

    def by_position(parts: Iterable[Any]) -> Any:
        return kind(*parts)

    make = named if any(field.kw_only for field in fields(kind)) else by_position
    return _of_parts(_getter(names), make, [way.there for way in ways], [way.back for way in ways])


def _getter(names: Sequence[str]) -> Callable[[Any], tuple[Any, ...]]:
    """All these attributes of a value at once."""
    getter = operator.attrgetter(*names)
    return getter if len(names) > 1 else lambda value: (getter(value),)


def _of_parts(
    taken: Callable[[Any], Sequence[Any]],
    made: Callable[[Any], Any],
    there: Sequence[_Step | None],
    back: Sequence[_Step | None],
) -> _Way:
    """The way of a value of so many parts; most of the parts stay as they are."""
    forth = {i: step for i, step in enumerate(there) if step is not None}
    home = {i: step for i, step in enumerate(back) if step is not None}
    return _Way(lambda value: _flat(_stepped(taken(value), forth)), lambda parts: made(_stepped(parts, home)))


def _stepped(parts: Sequence[Any], steps: Mapping[int, _Step]) -> Sequence[Any]:
    if not steps:
        return parts
    found = list(parts)
    for i, step in steps.items():
        found[i] = step(found[i])
    return found


def _of_sequence(part: _Way) -> _Way:
    there, back = part.there, part.back
    return _Way(
        _flat if there is None else lambda value: tuple([there(each) for each in value]),
        None if back is None else lambda parts: tuple([back(each) for each in parts]),
    )


def _of_union(kind: Any, arguments: tuple[Any, ...]) -> _Way:
    ways = [way for way in (_way(each) for each in arguments if each is not type(None)) if way != _Way()]
    if not ways:
        return _Way()
    if len(ways) > 1 or len(arguments) != 2:
        msg = f"which of {kind} it was cannot be told"
        raise TypeError(msg)
    return _Way(_unless_none(ways[0].there), _unless_none(ways[0].back))


def _unless_none(step: _Step | None) -> _Step | None:
    return None if step is None else lambda value: None if value is None else step(value)


def _flat(parts: Sequence[Any]) -> tuple[Any, ...]:
    """The parts as a tuple; what is a kind of number or text, such as numpy's float, is made Python's own."""
    if _FLAT.issuperset(map(type, parts)):
        return tuple(parts)
    return tuple([each if type(each) in _FLAT else _own(each) for each in parts])


def _own(value: Any) -> Any:
    for kind in (str, int, float):
        if isinstance(value, kind):
            return str.__str__(value) if kind is str else kind(value)
    msg = f"{type(value).__name__} has no compact form"
    raise TypeError(msg)
