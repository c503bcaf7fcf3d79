"""Every double comes back bit for bit from CSV and Parquet, by whatever program reads them."""

import csv
import io
import math
import random
import struct
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.csv as pa_csv
import pyarrow.parquet as pq
import pytest

from fisher_cli.tables.build import make_table, to_csv, to_jsonl, to_parquet
from fisher_cli.tables.columns import Column, Kind
from tests.measurements import bits, read_back


def come_back(count: int, tmp_path: Path) -> None:
    """Random bit patterns through CSV and Parquet, read by us, pandas, pyarrow, and csv with float."""
    draw = random.Random(0)
    numbers = [0.0, -0.0, 5e-324, -5e-324, 2.2250738585072014e-308, 1.7976931348623157e308, 0.1, 1 / 3, 1e22, 1e23]
    while len(numbers) < count:
        value = struct.unpack("<d", draw.randbytes(8))[0]
        if math.isfinite(value):
            numbers.append(value)
    table = make_table(({"loss": value} for value in numbers), [Column("loss", Kind.REAL, "", "")])
    expected, text, content = np.array(numbers).view(np.int64), to_csv(table), to_parquet(table, {})
    (tmp_path / "t.csv").write_text(text)
    readers = {
        "csv by pandas": pd.read_csv(io.StringIO(text))["loss"].to_numpy(),
        "csv by pyarrow": pa_csv.read_csv(tmp_path / "t.csv")["loss"].to_numpy(),
        "csv by float": np.array([float(row["loss"]) for row in csv.DictReader(io.StringIO(text))]),
        "csv by us": read_back(text, tmp_path, ".csv")["loss"].to_numpy(dtype=float),
        "parquet by pandas": pd.read_parquet(io.BytesIO(content))["loss"].to_numpy(),
        "parquet by pyarrow": pq.read_table(io.BytesIO(content))["loss"].to_numpy(),
        "parquet by us": read_back(content, tmp_path, ".parquet")["loss"].to_numpy(dtype=float),
    }
    different = {name: int((found.view(np.int64) != expected).sum()) for name, found in readers.items()}
    assert different == dict.fromkeys(readers, 0)
    first = table.head(1000)
    assert [bits(v) for v in read_back(to_jsonl(first), tmp_path, ".jsonl")["loss"]] == [
        bits(v) for v in numbers[:1000]
    ]
    shortened = pd.read_csv(io.StringIO(table.to_csv(index=False, float_format="%.15g")))["loss"].to_numpy()
    assert (shortened.view(np.int64) != expected).mean() > 0.1  # the control


@pytest.mark.ci
def test_a_hundred_thousand_doubles_come_back_bit_for_bit(tmp_path: Path) -> None:
    """O2, a tenth."""
    come_back(100_000, tmp_path)


@pytest.mark.long
def test_a_million_doubles_come_back_bit_for_bit(tmp_path: Path) -> None:
    """O2."""
    come_back(1_000_000, tmp_path)
