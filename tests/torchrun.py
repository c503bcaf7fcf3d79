"""A module under torchrun, and the comparison of what its ranks write with what one process does."""

import os
import subprocess
import sys
from pathlib import Path

import pandas as pd

ROOT = Path(__file__).parents[1]
SAMPLES = ROOT / "sample_checkpoints"
MLP = [f"{SAMPLES}/digits-clean/step_{step:05d}.pt" for step in (66, 440, 1760)]
LAUNCHER = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
# Most columns agree to 1e-12; overlaps of eigenvectors that are kept in float32 to 1e-7.
TOLERANCE = 1e-6


def environment(**words: str) -> dict[str, str]:
    kept = {key: value for key, value in os.environ.items() if not key.startswith(("PYTEST", "COV"))}
    return kept | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "default"} | words


def torchrun(ranks: int, module: str, *words: str, cwd: Path) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [*LAUNCHER, f"--nproc-per-node={ranks}", "-m", module, *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=cwd,
        env=environment(),
        start_new_session=True,
    )


def assert_equal(one: Path, other: Path) -> None:
    """All columns but residuals, numbers to TOLERANCE and everything else to the letter."""
    first, second = (pd.read_csv(each) for each in (one, other))
    assert list(first) == list(second)
    assert len(first) == len(second)
    for name in first:
        if name.endswith("_residual"):
            continue
        a, b = first[name], second[name]
        assert (a.isna() == b.isna()).all(), name
        if a.dtype.kind == "f":
            pd.testing.assert_series_equal(a, b, rtol=TOLERANCE, atol=0, obj=f"{one.name}: {name}")
        else:
            assert a.fillna("").astype(str).tolist() == b.fillna("").astype(str).tolist(), name
