"""A column by its name, as the glossaries of all tables explain it."""

import re
from collections.abc import Iterable
from typing import Any

from fisher_cli.tables.columns import (
    COLUMNS,
    DENSITY_COLUMNS,
    EXAMPLE_COLUMNS,
    EXPANSION_COLUMNS,
    GROUP_COLUMNS,
    IDENTITY_COLUMNS,
    INSPECTION_COLUMNS,
    LATER_COLUMNS,
    LAYER_COLUMNS,
    LEDGER_COLUMNS,
    LONG_COLUMNS,
    SPECTRUM_COLUMNS,
    TASK2VEC_COLUMNS,
    Column,
    Kind,
    eigenvalue_columns,
)
from fisher_cli.tables.comparison_columns import (
    CHECKPOINT_COMPARISON_COLUMNS,
    COMPARISON_COLUMNS,
    COMPARISON_LAYER_COLUMNS,
    LAYER_STEP_COLUMNS,
)

# Where tables share a name, the later one's words are taken; the kind is the same.
KNOWN: dict[str, Column] = {
    column.name: column
    for columns in (
        LONG_COLUMNS,
        *(EXPANSION_COLUMNS, IDENTITY_COLUMNS, TASK2VEC_COLUMNS, GROUP_COLUMNS, EXAMPLE_COLUMNS),
        *(DENSITY_COLUMNS, SPECTRUM_COLUMNS),
        *(LAYER_STEP_COLUMNS, CHECKPOINT_COMPARISON_COLUMNS, COMPARISON_LAYER_COLUMNS, COMPARISON_COLUMNS),
        *(LEDGER_COLUMNS, INSPECTION_COLUMNS, LAYER_COLUMNS, COLUMNS, LATER_COLUMNS),
    )
    for column in columns
}
INTEGER_TEXT = re.compile(r"-?[0-9]+")
_EIGENVALUE = re.compile(r"eig_(?:true|empirical)_([1-9][0-9]{0,3})(?:_residual)?")
_NUMBER = re.compile(r"-?[0-9]+(\.[0-9]+)?(e[-+]?[0-9]+)?")


def column_named(name: str, values: Iterable[Any]) -> Column:
    """What the glossary says about a column; else a column of the narrowest kind that holds all values."""
    if name in KNOWN:
        return KNOWN[name]
    if match := _EIGENVALUE.fullmatch(name):
        return next(column for column in eigenvalue_columns(int(match[1])) if column.name == name)
    texts = [str(value) for value in values if value not in (None, "")]
    for kind, pattern in ((Kind.INTEGER, INTEGER_TEXT), (Kind.REAL, _NUMBER)):
        if texts and all(pattern.fullmatch(text) for text in texts):
            return Column(name, kind, "", "")
    return Column(name, Kind.TEXT, "", "")
