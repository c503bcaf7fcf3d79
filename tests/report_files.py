"""Reports for the tests of pages and figures: one that was computed, and made ones of any size and with any names."""

import math
from collections.abc import Sequence
from pathlib import Path
from unittest.mock import patch

from fisher_cli.storage.formats import format_of
from fisher_cli.storage.report_files import ReportFiles, RunRecord
from fisher_cli.tables.build import make_table
from fisher_cli.tables.dialects import Dialect
from fisher_cli.tables.registry import LAYERS, MAIN
from tests.command import fisher

SAMPLES = Path(__file__).parent.parent / "sample_checkpoints"
EXAMPLES = 64
COMMANDS = (
    ("analyze", ()),
    ("compare true-vs-empirical", ("--draws", "8")),
    ("spectrum", ()),
    ("examples", ()),
)


def computed(folder: Path, run: str = "clean", steps: Sequence[int] = (0, 22, 66, 1760), part: float = 1.0) -> Path:
    """A report of some checkpoints of a sample run, with its side tables; of a part of the examples, sooner."""
    checkpoints = SAMPLES / f"digits-{run}"
    files = [str(checkpoints / f"step_{step:05}.pt") for step in steps]
    labels = ["--labels", str(checkpoints / "labels.csv")] if (checkpoints / "labels.csv").exists() else []
    report = folder / f"{run}.csv"
    for command, options in COMMANDS:
        limit = ("--limit", str(int(EXAMPLES * part)))
        arguments = [*command.split(), *files, *labels, *limit, "-q", *options, "-o", str(report)]
        with patch("sys.argv", ["fisher", *arguments]):  # the record keeps the command
            fisher(*arguments)
    return report


def made(
    path: Path,
    checkpoints: int,
    layers: int,
    name: str = "step_{}.pt",
    eigenvalues: int = 5,
    dialect: Dialect = Dialect.PLAIN,
) -> Path:
    """A report whose numbers are made up, without a journal: a bell with its peak in the middle."""
    rows, layer_rows = [], []
    for i in range(checkpoints):
        true = 10.0 + 70.0 * math.exp(-(((i - checkpoints / 2) / (checkpoints / 6)) ** 2))
        checkpoint = name.format(i)
        rows.append(
            {
                **{"checkpoint": checkpoint, "order": i, "step": 10 * i, "architecture": name, "status": "ok"},
                **{"loss": 2.0 / (i + 1), "loss_se": 0.01, "accuracy": i / checkpoints, "accuracy_se": 0.01},
                **{"trace_true": true, "trace_true_se": 0.5, "trace_empirical": true / 3, "trace_empirical_se": 0.2},
                **{"trace_ratio": 1 / 3, "trace_ratio_se": 0.01, "gradient_snr": 0.1, "kl_step": 0.1 if i else None},
                **{"kl_step_quadratic": 0.12 if i else None, "phase": "high", "trace_true_estimator_se": 0.0},
                **{f"eig_true_{k}": true / (k + 1) for k in range(1, eigenvalues + 1)},
            }
        )
        layer_rows += [
            {"checkpoint": checkpoint, "order": i, "layer": f"{name}.{k}", "parameters": 9, "share": 1 / layers}
            for k in range(layers)
        ]
    files = ReportFiles(path, format_of(path), dialect=dialect)
    stable = {"data": {"name": name, "examples": 9, "of": 10}, "checkpoints": [{"notes": [name]}], "settings": {}}
    run = {"command": ["main.py", "analyze", name]}
    files.write(
        make_table(rows, MAIN.with_eigenvalues(eigenvalues).columns),
        make_table(layer_rows, LAYERS.columns),
        RunRecord(stable, run),
    )
    return path
