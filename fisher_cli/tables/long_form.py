"""Wide tables → the long, tidy form: one row per checkpoint, layer and quantity, with its errors beside it."""

import re
from collections.abc import Iterator, Mapping

import pandas as pd

from fisher_cli.tables.build import make_table
from fisher_cli.tables.columns import Value
from fisher_cli.tables.registry import LONG, column_named

_PLACE = ("run", "checkpoint", "order", "step", "layer")
_ENDING = ("status", "error")
# Columns that say something about the column named before them; the longest ending counts.
_ASIDES = ("_estimator_se", "_null_sd", "_residual", "_null", "_high", "_low", "_se")
_NUMBERED = re.compile(r"(eig_(?:true|empirical))_([1-9][0-9]*)")


def long_table(main: pd.DataFrame, layers: pd.DataFrame | None = None) -> pd.DataFrame:
    """One row per checkpoint and quantity of the main table, and per layer and quantity where that table is given.

    An empty cell has no row. A checkpoint without any quantity has one row that says why. Nothing else is lost: the
    wide table's cells are `value` or `value_text`, and its `…_se`, `…_residual` and so on are `value_se` and so on.

    Args:
        main: with a row per checkpoint.
        layers: with a row per checkpoint and parameter tensor.

    Returns:
        A table with the columns of `LONG`, in order of training, layers after the whole network.
    """
    rows: list[Mapping[str, Value]] = []
    asides, names = _asides(main), [name for name in main.columns if name not in _PLACE + _ENDING]
    units = {name: column_named(name, ()).unit for name in main.columns}
    below = [] if layers is None else _records(layers)
    layer_asides = {} if layers is None else _asides(layers)
    units |= {} if layers is None else {name: column_named(name, ()).unit for name in layers.columns}
    for each in _records(main):
        ending = {name: each.get(name) for name in _ENDING}
        found = list(_melted(each, asides, units, ending)) if any(each[name] is not None for name in names) else []
        rows += found or [{name: each.get(name) for name in _PLACE} | ending]
        for layer in below:
            if (layer["run"], layer["order"]) == (each["run"], each["order"]):
                rows += _melted(layer, layer_asides, units, ending)
    return make_table(rows, LONG.columns)


def _records(table: pd.DataFrame) -> list[dict[str, Value]]:
    """The rows as Python values, None where a cell is empty."""
    columns = [[None if value is pd.NA else value for value in table[name].tolist()] for name in table.columns]
    return [dict(zip(table.columns, row, strict=True)) for row in zip(*columns, strict=True)]


def _asides(table: pd.DataFrame) -> dict[str, dict[str, str]]:
    """Of every quantity the columns beside it: `trace_true` → {"_se": "trace_true_se", …}."""
    names = [name for name in table.columns if name not in _PLACE + _ENDING]
    found: dict[str, dict[str, str]] = {}
    for name in names:
        ending = next((each for each in _ASIDES if name.endswith(each)), "")
        if ending and name.removesuffix(ending) in names:
            found.setdefault(name.removesuffix(ending), {})[ending] = name
        else:
            found.setdefault(name, {})
    return found


def _melted(
    row: Mapping[str, Value],
    asides: Mapping[str, Mapping[str, str]],
    units: Mapping[str, str],
    ending: dict[str, Value],
) -> Iterator[dict[str, Value]]:
    """One row's cells.

    Yields:
        One row per quantity that is not empty.
    """
    place = {name: row.get(name) for name in _PLACE}
    for name, beside in asides.items():
        value = row[name]
        if value is None:
            continue
        numbered = _NUMBERED.fullmatch(name)
        yield (
            place
            | {
                "quantity": numbered[1] if numbered else name,
                "index": int(numbered[2]) if numbered else None,
                "value_text" if isinstance(value, str) else "value": value,
                "unit": units[name],
            }
            | {f"value{aside}": row[column] for aside, column in beside.items()}
            | ending
        )
