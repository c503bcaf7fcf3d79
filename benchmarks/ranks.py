"""Wall time against the number of ranks: the same command by one process, and shared out by torchrun.

    python -m benchmarks.ranks [--quick] [--only traces eigenvalues] [--ranks 1 2] [--rounds 5] [--write]

One thread each. All numbers of ranks take their turn in each round.
"""

import argparse
import json
import math
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from benchmarks.harness import Report, number, parsed, parser, provenance, say, table
from benchmarks.networks import ResNet20

ROOT = Path(__file__).parents[1]
# By part: examples, and what is asked of them.
TASKS = {"traces": (384, ["--eigenvalues", "0"]), "eigenvalues": (128, ["--eigenvalues", "3"])}
CHECKPOINTS = 2
QUICK_EXAMPLES = 32
# The goal: the wall time with two ranks in that with one.
GOAL = 0.65
NETWORK = "from benchmarks.networks import ResNet20\n\n\ndef make():\n    return ResNet20()\n"


@dataclass
class RanksRow:
    """One number of ranks: seconds of the checkpoints, of the whole command, of all its processors, one per round.

    `ratios` are of the checkpoints' seconds with one rank in the same round; `trace` is what was found.
    """

    task: str
    ranks: int
    seconds: list[float] = field(default_factory=list)
    whole: list[float] = field(default_factory=list)
    processor: list[float] = field(default_factory=list)
    ratios: list[float] = field(default_factory=list)
    trace: float = math.nan
    difference: float = math.nan
    failure: str | None = None

    def verdict(self) -> str:
        """Whether two ranks reach the goal, and all find the same."""
        if self.failure:
            return self.failure
        if self.difference > 1e-6:
            return f"wrong by {self.difference:.0e}"
        if self.ranks != 2:
            return "—"
        return "within the goal" if statistics.median(self.ratios) <= GOAL else f"above the goal of {GOAL}"


def prepare(folder: Path, examples: int) -> None:
    """Checkpoints of a ResNet-20 with random weights, and images of noise."""
    generator = np.random.default_rng(0)
    images = generator.integers(0, 256, (examples, 32, 32, 3), dtype=np.uint8)
    np.savez(folder / "data.npz", images=images, labels=np.arange(examples) % 10)
    (folder / "net.py").write_text(NETWORK)
    (folder / "ckpts").mkdir(exist_ok=True)
    for step in range(CHECKPOINTS):
        torch.manual_seed(step)
        torch.save(ResNet20().state_dict(), folder / "ckpts" / f"step_{step}.pt")


def run(folder: Path, row: RanksRow, words: Sequence[str]) -> None:
    """One run of the command; its time, and the trace of the last checkpoint."""
    launcher = [sys.executable, "-m"]
    if row.ranks > 1:
        launcher += ["torch.distributed.run", "--standalone", f"--nproc-per-node={row.ranks}", "-m"]
    command = [*launcher, "fisher_cli", "analyze", "ckpts", "--data", "data.npz", "--normalize", "none"]
    command += ["--model", "./net.py:make", "--limit", "all", "-o", "r.csv", "--no-resume", *words]
    start, before = time.perf_counter(), resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run(
        command,
        cwd=folder,
        env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        row.failure = f"fails: {next((each for each in done.stderr.splitlines() if 'error' in each), 'no word')[:120]}"
        return
    row.whole.append(time.perf_counter() - start)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    row.processor.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    row.seconds.append(json.loads((folder / "r.fisher/record.json").read_text())["run"]["seconds"])
    row.trace = float(pd.read_csv(folder / "r.csv")["trace_true"].iloc[-1])


def measured(task: str, options: argparse.Namespace) -> list[RanksRow]:
    """All rounds of one task."""
    examples, words = TASKS[task]
    rows = [RanksRow(task, ranks) for ranks in options.ranks]
    with tempfile.TemporaryDirectory() as name:
        prepare(Path(name), QUICK_EXAMPLES if options.quick else examples)
        for turn in range(options.rounds):
            for row in rows:
                if row.failure is None:
                    say(f"{task}, round {turn + 1}: {row.ranks} ranks")
                    run(Path(name), row, words)
    alone = next((row for row in rows if row.ranks == 1), rows[0])
    for row in rows:
        row.ratios = [mine / theirs for mine, theirs in zip(row.seconds, alone.seconds, strict=False)]
        row.difference = abs(row.trace / alone.trace - 1)
    return rows


def section(task: str, rows: Iterable[RanksRow], examples: int) -> str:
    """The table of one task."""
    columns = [
        "ranks",
        "seconds",
        "of the time with one",
        "whole command, seconds",
        "CPU seconds",
        "trace differs by",
        "verdict:",
    ]
    cells = [
        [
            str(row.ranks),
            number(row.seconds, 3),
            number(row.ratios, 3),
            number(row.whole, 3),
            number(row.processor, 3),
            f"{row.difference:.0e}",
            row.verdict(),
        ]
        for row in rows
    ]
    return table(f"{task}: {CHECKPOINTS} checkpoints of a ResNet-20, {examples} images", columns, cells)


ABOUT = f"""Rows are medians over the rounds, in which the numbers of ranks take turns. “Seconds” are those of the
checkpoints by the run's own clock, from loading to the finished row; the whole command has the imports and the start of
torchrun as well; CPU seconds are of all processes of the command, torchrun counted. Goal: {GOAL} of the time with
two ranks, one thread each. What all ranks do alike, such as loading, the check against autograd and the algebra of the
eigenvalues, is not shared out."""


def main(arguments: Sequence[str]) -> None:
    """Measure, show, and write where asked to."""
    made = parser("benchmarks.ranks", __doc__, list(TASKS), "few examples")
    made.add_argument("--ranks", type=int, nargs="+", default=[1, 2], help="numbers of processes")
    options = parsed(made, arguments)
    torch.set_num_threads(1)
    source = provenance("benchmarks.ranks", arguments, ["fisher-cli"])
    report = Report(
        "Ranks", ("RANKS.md", "ranks.json"), source, f"Rounds: {options.rounds}, one thread per rank. {ABOUT}"
    )
    for task in options.only:
        rows = measured(task, options)
        examples = QUICK_EXAMPLES if options.quick else TASKS[task][0]
        report.add(section(task, rows, examples), rows)
    if options.write:
        report.write()


if __name__ == "__main__":
    main(sys.argv[1:])
