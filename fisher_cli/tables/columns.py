"""What a column is: its name, its kind, its unit, what it means, and where its cells come from."""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

Value = str | int | float | None


class Kind(StrEnum):
    """What the cells of a column hold; any cell may be empty."""

    TEXT = "text"
    INTEGER = "integer"
    REAL = "real"


@dataclass(frozen=True, slots=True)
class Column:
    """A column of a report.

    Attributes:
        name: in files and data frames.
        kind: what its cells hold.
        unit: "" for pure numbers and for text.
        description: what the glossary says.
        source: the path of names from what a row is about to the cell, "trace.true.value"; "" for the attribute or the
            key of the column's own name. A path that begins with "measurement", "order" or "sequence" begins there: at
            the checkpoint's measurement, at its place in the run, at what the other rows say about it. A None on the
            way is an empty cell.
    """

    name: str
    kind: Kind
    unit: str
    description: str
    source: str = ""

    @property
    def path(self) -> list[str]:
        """The names of the source, one by one."""
        return (self.source or self.name).split(".")


NATS = "nats"
CURVATURE = "1/weight²"  # a trace or an eigenvalue: nats per squared unit of the weights
INTEGER_TEXT = re.compile(r"-?[0-9]+")
NUMBER_TEXT = re.compile(r"-?[0-9]+(\.[0-9]+)?(e[-+]?[0-9]+)?")


def text(name: str, description: str, source: str = "") -> Column:
    """A column of text."""
    return Column(name, Kind.TEXT, "", description, source)


def integer(name: str, unit: str, description: str, source: str = "") -> Column:
    """A column of whole numbers."""
    return Column(name, Kind.INTEGER, unit, description, source)


def real(name: str, unit: str, description: str, source: str = "") -> Column:
    """A column of real numbers."""
    return Column(name, Kind.REAL, unit, description, source)


def estimate(name: str, unit: str, description: str, source: str = "", over: str = "examples") -> tuple[Column, Column]:
    """The columns `name` and `name_se` of an Estimate, with its standard error over the examples."""
    source = source or name
    error = f"standard error of {name} over {over}"
    return (
        real(name, unit, description, f"{source}.value"),
        real(f"{name}_se", unit, error, f"{source}.standard_error"),
    )


def eigenvalue_columns(count: int) -> tuple[Column, ...]:
    """The columns of the `count` largest eigenvalues of both Fishers, each with its residual."""
    return tuple(column for i in range(1, count + 1) for column in columns_of_eigenvalue(i))


def columns_of_eigenvalue(i: int) -> Iterator[Column]:
    """The columns of the i-th eigenvalue, from 1, of both Fishers.

    Yields:
        Each of them, and its residual.
    """
    for kind in ("true", "empirical"):
        name, found = f"eig_{kind}_{i}", f"eigenvalues_{kind}"
        meaning = f"eigenvalue {i} of the {kind} Fisher, in descending order"
        yield real(name, CURVATURE, meaning, f"{found}.values.{i - 1}")
        meaning = f"residual ‖Fv − θv‖ of {name}, explicitly recomputed"
        yield real(f"{name}_residual", CURVATURE, meaning, f"{found}.residuals.{i - 1}")


def follow(item: Any, path: list[str]) -> Any:
    """What a path of attributes, keys and places leads to; None where it ends early.

    Args:
        item: where the path begins.
        path: a key of a mapping, a place in a sequence in decimal digits, or the name of an attribute, each.
    """
    for step in path:
        if item is None:
            return None
        if isinstance(item, Mapping):
            item = item.get(step)
        elif step.isdecimal():
            item = item[int(step)] if int(step) < len(item) else None
        else:
            item = getattr(item, step)
    return item
