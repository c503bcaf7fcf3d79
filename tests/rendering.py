"""Measurements of a run that are made up, and the lines that the console shows of them."""

import io
import math
from typing import Any

import rich.console
from rich.console import Group

from fisher_cli.reports.summary import render_summary
from fisher_cli.results import (
    Eigenvalues,
    Estimate,
    Gradient,
    LayerTrace,
    Measurement,
    Predictions,
    Status,
    Trace,
    WeightsKind,
)


def checkpoint(i: int, true: float | None = None, **changes: Any) -> Measurement:
    """Row i of 14: the true trace is a bell whose top is row 6 unless given."""
    x = i / 13
    value = 6 + 71 * math.exp(-(((x - 0.45) / 0.18) ** 2)) + 12 * x if true is None else true
    ratio = 0.98 * math.exp(-1.8 * x)
    layers = tuple(
        LayerTrace(name, 10, "linear", Estimate(value * share), Estimate(value * share * ratio))
        for name, share in (("body.weight", 0.4), ("head.weight", 0.6))
    )
    trace = Trace(
        "exact",
        Estimate(value, abs(value) * 0.0142 + 0.1),
        Estimate(value * ratio, 0.3),
        Estimate(ratio, 0.01 + 0.02 * ratio),
        layers,
        (value,),
        (value,),
    )

    def eigenvalues(top: float) -> Eigenvalues:
        return Eigenvalues((top, top / 2), (1e-4 * top, 2e-4 * top), "gram", True, 40)

    values: dict[str, Any] = {
        "checkpoint": f"step_{11 * i * (i + 1):05d}.pt",
        "status": Status.OK,
        "step": 11 * i * (i + 1),
        "architecture": "mlp-64-32-10",
        "weights": WeightsKind.RAW,
        "parameters": 2410,
        "examples": 1000,
        "classes": 10,
        "predictions": Predictions(
            Estimate(2.3 * math.exp(-4 * x), 0.02), Estimate(1 - 0.9 * math.exp(-5 * x)), Estimate(1.2 - x)
        ),
        "trace": trace,
        "gradient": Gradient(0.1, 0.2, Estimate(0.02)),
        "eigenvalues_true": eigenvalues(value / 5),
        "eigenvalues_empirical": eigenvalues(value * ratio / 5),
    }
    return Measurement(**(values | changes))


def lines_of(group: Group, width: int) -> list[str]:
    stream = io.StringIO()
    rich.console.Console(file=stream, width=width, color_system=None).print(group, crop=False)
    return stream.getvalue().splitlines()


def rendered(rows: list[Measurement], width: int, data: str | None = "digits") -> list[str]:
    return lines_of(render_summary(rows, width, data), width)
