"""Measurements that are made up, texts that are hostile, and what tables of them are when they are read back."""

import math
import random
import struct
import sys
from pathlib import Path

import pandas as pd

from fisher_cli.results import Eigenvalues, Estimate, Gradient, LayerTrace, Measurement, Movement, Status, Trace
from fisher_cli.storage.readers import read_table
from fisher_cli.tables.build import make_table
from fisher_cli.tables.registry import column_named

MOVEMENT = Movement(
    kl=Estimate(0.75, 0.125), kl_quadratic=Estimate(0.5, 0.0625), kl_parameters=None, trace_change=Estimate(-1.5, 0.25)
)
HOSTILE = [
    "=1+1",
    '=HYPERLINK("http://evil","x")',
    "+1",
    "-1+cmd|' /C calc'!A0",
    "@SUM(1)",
    "\t=1",
    "\r=1",
    " =1",
    "\xa0=1",
    "\u3000@x",
    "＝1+1",
    "harmless\n=1+1",
    "a\r\n-2",
    "a;=1+1",
    "a,=1+1",
    'a;"=1+1',
    'x",=1',
    "'=1",
    "''+1",
    "plain",
    "'quoted'",
    "\x1b[31mred\x1b[0m",
    "\x00nul",
    "\x9bC1",
    "\udc80lone",
    "both \\udc80 and \udc80",
    "C:\\users\\x41",
    "\\",
    "\\\\x1b",
    "\\\x1b",
    "right\u202eleft",
    "line\u2028separator",
    "[/] [link=x]",
    "NA",
    "nan",
    "null",
    "1e5",
    "ünïcødé 漢字 🎉",
    "\U0010ffff",
]
TRIGGERS = "=+-@\t\r＝＋－＠"


def sample(name: str = "run/step_1.pt", i: int = 1, **changes: object) -> Measurement:
    layers = tuple(
        LayerTrace(layer, 10, "linear", Estimate(0.1 * i, 0.01), Estimate(0.2 * i, 0.02))
        for layer in ("weight", "-bias")
    )
    values = {
        "checkpoint": name,
        "status": Status.OK,
        "step": 10 * i,
        "epoch": i / 3,
        "architecture": "mlp",
        "parameters": 20,
        "trace": Trace(
            "exact", Estimate(0.2 * i, 0.1 / 3), Estimate(0.4, None), Estimate(2.0, 0.1), layers, (1.0,), (1.0,)
        ),
        "gradient": Gradient(1e-300, -0.12, None),
        "eigenvalues_true": Eigenvalues((0.3, 0.1), (1e-17, 2e-17), "gram", True, 3),
    }
    return Measurement(**(values | changes))  # type: ignore[arg-type]


def broken(name: str = "bad.pt", error: str = "bad.pt: no weights") -> Measurement:
    return Measurement(checkpoint=name, status=Status.REJECTED, error=error)


def read_back(text: str | bytes, folder: Path, suffix: str) -> pd.DataFrame:
    path = folder / f"table{suffix}"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return read_table(path)


def bits(value: float) -> bytes:
    return struct.pack("<d", value)


def odd_table() -> pd.DataFrame:
    """Text that is a danger, numbers that are hard to write, and what is no number."""
    generator = random.Random(1)
    numbers = [generator.uniform(-1, 1) * 10.0 ** generator.randint(-300, 300) for _ in HOSTILE]
    numbers[:6] = [0.1 + 0.2, 5e-324, sys.float_info.max, math.nan, math.inf, -1 / 3]
    steps = [generator.randint(-(2**62), 2**62) for _ in HOSTILE]
    rows = [
        {"checkpoint": text, "step": step, "loss": number, "error": text[::-1]}
        for text, step, number in zip(HOSTILE, steps, numbers, strict=True)
    ]
    return make_table(rows, [column_named(name, ()) for name in ("checkpoint", "step", "loss", "error")])
