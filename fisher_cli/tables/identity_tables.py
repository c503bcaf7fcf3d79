"""What was verified about each checkpoint, as two tables: the identities, and KL over its expansion."""

from collections.abc import Iterator, Sequence

import pandas as pd

from fisher_cli.results import Measurement
from fisher_cli.tables.build import make_table
from fisher_cli.tables.columns import EXPANSION_COLUMNS, IDENTITY_COLUMNS
from fisher_cli.tables.rows import Value


def identity_table(measurements: Sequence[Measurement], first_order: int = 0) -> pd.DataFrame:
    """One row per checkpoint and identity; one without an identity for a checkpoint that could not be verified."""
    rows = [row for i, each in enumerate(measurements) for row in identity_rows(each, first_order + i)]
    return make_table(rows, IDENTITY_COLUMNS)


def expansion_table(measurements: Sequence[Measurement]) -> pd.DataFrame:
    """One row per checkpoint and length of the step ε of KL(q_θ ‖ q_θ+ε)."""
    rows = [row for i, each in enumerate(measurements) for row in expansion_rows(each, i)]
    return make_table(rows, EXPANSION_COLUMNS)


def identity_rows(measurement: Measurement, order: int) -> Iterator[dict[str, Value]]:
    """One checkpoint's rows of the table of identities.

    Yields:
        One row per identity; for a checkpoint that could not be verified a row that says why.
    """
    place: dict[str, Value] = {"checkpoint": measurement.checkpoint, "order": order, "step": measurement.step}
    ending: dict[str, Value] = {"status": measurement.status, "error": measurement.error}
    if measurement.verification is None:
        yield place | ending
        return
    for each in measurement.verification.identities:
        yield (
            place
            | ending
            | {
                "identity": each.name,
                "formula": each.formula,
                "source": each.source,
                "verdict": each.verdict,
                "ours": each.ours,
                "independent": each.theirs,
                "identity_error": each.error,
                "tolerance": each.tolerance,
                "scale": each.scale,
                "sides": each.sides,
                "why": each.why,
                "reason": each.reason,
            }
        )


def expansion_rows(measurement: Measurement, order: int) -> Iterator[dict[str, Value]]:
    """One checkpoint's rows of the table of KL over its expansion.

    Yields:
        One row per length of the step.
    """
    place: dict[str, Value] = {"checkpoint": measurement.checkpoint, "order": order, "step": measurement.step}
    for each in measurement.verification.expansion if measurement.verification else ():
        yield place | {
            "epsilon": each.step,
            "deviation_single": each.single,
            "slope_single": each.slope_single,
            "deviation_averaged": each.averaged,
            "slope_averaged": each.slope_averaged,
        }
