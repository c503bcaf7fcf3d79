"""Cost against examples, classes, parameters and ranks, with fitted slopes.

    python -m benchmarks.scaling [--quick] [--only examples classes deflated parameters ranks] [--rounds 3] [--write]

Seconds of the processor, one thread, so that neighbours matter less. All that a row has but eigenvalues.
"""

import argparse
import math
import sys
import tempfile
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from benchmarks import cluster, ranks
from benchmarks.harness import Answer, Report, ask, number, parsed, parser, provenance, say, table
from benchmarks.networks import small_vit
from fisher_cli.curvature.problem.problem import TensorData
from fisher_cli.run.measurement import measure
from fisher_cli.settings import Settings

# What is varied, over which values; the quick ones are the first of these.
AXES = {
    "examples": (16, 32, 64, 128, 256),
    "classes": (4, 8, 16, 32),
    "deflated": (64, 256, 1024, 4096),
    "parameters": (128, 256, 512, 1024),
    "ranks": (1, 2, 3),
}
ABOUT_AXES = {
    "examples": "a ViT of 0.6 million parameters, 10 classes, exact",
    "classes": "a transformer of four layers of width 128 and 16 tokens, 96 examples, exact: C − 1 backward passes",
    "deflated": "the same, six backward passes whatever C is",
    "parameters": "the same with 32 examples, 10 classes, exact; the width is varied",
    "ranks": "the traces of benchmarks/ranks.py: processor seconds of all processes",
}
QUICK_VALUES = 2
FEW, MANY = 32, 96


class Transformer(nn.Module):
    """Four layers on sequences of 16 vectors; P = 48 width² and little more."""

    def __init__(self, width: int, classes: int = 10) -> None:
        super().__init__()
        self.inner = nn.Linear(16, width)
        layer = nn.TransformerEncoderLayer(width, 4, 4 * width, dropout=0.0, batch_first=True)
        self.encoder = nn.TransformerEncoder(layer, 4, enable_nested_tensor=False)
        self.head = nn.Linear(width, classes)

    def forward(self, x: Tensor) -> Tensor:
        outputs: Tensor = self.head(self.encoder(self.inner(x)).mean(1))
        return outputs


@dataclass
class ScaleRow:
    """Processor seconds at one value of an axis, one per round; `forward` are those of forward passes alone."""

    axis: str
    value: int
    size: int = 0
    seconds: list[float] = field(default_factory=list)
    forward: list[float] = field(default_factory=list)
    failure: str | None = None

    @property
    def x(self) -> int:
        """What the slope is over: the parameters themselves, not the width."""
        return self.size if self.axis == "parameters" else self.value

    def verdict(self) -> str:
        return self.failure or "—"


def slope(x: Sequence[float], y: Sequence[float]) -> float:
    """The exponent a of y ∝ xᵃ: least squares of logarithms; NaN with fewer than two points."""
    if len(x) < 2:
        return math.nan
    return float(np.polyfit(np.log(x), np.log(y), 1)[0])


def _case(axis: str, value: int) -> tuple[nn.Module, TensorData]:
    torch.manual_seed(0)
    if axis == "examples":
        return small_vit(), TensorData(torch.randn(value, 3, 32, 32), torch.arange(value) % 10)
    if axis in {"classes", "deflated"}:
        return Transformer(128, value), TensorData(torch.randn(MANY, 16, 16), torch.arange(MANY) % value)
    return Transformer(value), TensorData(torch.randn(FEW, 16, 16), torch.arange(FEW) % 10)


def processor_seconds(axis: str, value: int) -> Answer:
    """In a process of its own, after a run on two examples."""
    torch.set_num_threads(1)
    network, data = _case(axis, value)
    estimator = "deflated" if axis == "deflated" else "exact"
    settings = Settings(data="tensors", eigenvalues=0, estimator=estimator)  # type: ignore[arg-type]
    measure(network, TensorData(data.inputs[:2], data.labels[:2]), settings)
    start = time.process_time()
    measure(network, data, settings)
    spent = time.process_time() - start
    start = time.process_time()
    with torch.no_grad():
        for some in data.inputs.split(FEW):
            network(some)
    forward = time.process_time() - start
    return {"seconds": spent, "forward": forward, "size": sum(each.numel() for each in network.parameters())}


def _of_ranks(value: int, quick: bool) -> Answer:
    """Processor seconds of all processes of a command less those of the same with hardly any examples."""
    spent = []
    for examples in (ranks.QUICK_EXAMPLES * (2 if quick else 8), ranks.QUICK_EXAMPLES):
        row = ranks.RanksRow("traces", value)
        with tempfile.TemporaryDirectory() as folder:
            ranks.prepare(Path(folder), examples)
            ranks.run(Path(folder), row, ["--eigenvalues", "0", "-b", "8"])
        if row.failure:
            return {"failure": row.failure}
        spent.append(row.processor[0])
    return {"seconds": spent[0] - spent[1], "forward": math.nan, "size": 0}


def measured(axis: str, options: argparse.Namespace) -> list[ScaleRow]:
    """All rounds of one axis."""
    values = AXES[axis][:QUICK_VALUES] if options.quick else AXES[axis]
    rows = [ScaleRow(axis, value) for value in values]
    for turn in range(options.rounds):
        for row in (each for each in rows if each.failure is None):
            say(f"{axis}, round {turn + 1}: {row.value}")
            answer = (
                _of_ranks(row.value, options.quick)
                if axis == "ranks"
                else ask(processor_seconds, axis, row.value, limit=options.limit)
            )
            if "failure" in answer:
                row.failure = answer["failure"]
                continue
            row.size = answer["size"]
            row.seconds.append(answer["seconds"])
            row.forward.append(answer["forward"])
    return rows


def section(axis: str, rows: Iterable[ScaleRow]) -> str:
    """The table of one axis, with its slopes below."""
    good = [row for row in rows if row.failure is None and row.seconds]
    cells = [
        [
            f"{row.value:,}",
            f"{row.size:,}" if row.size else "—",
            number(row.seconds, 3),
            number([mine / one for mine, one in zip(row.seconds, row.forward, strict=True)], 3),
        ]
        for row in good
    ]
    x, y = [row.x for row in good], [min(row.seconds) for row in good]
    found = (
        f"Cost ∝ {'parameters' if axis == 'parameters' else 'value'}^a: a = {slope(x, y):.2f} over all, "
        f"{slope(x[-2:], y[-2:]):.2f} between the last two."
    )
    heading = f"{axis}: {ABOUT_AXES[axis]}"
    return f"{table(heading, ['value', 'parameters', 'processor seconds', 'forward passes'], cells)}\n\n{found}"


ABOUT = """“Forward passes” are the processor seconds in those of one forward pass over the same examples. Slopes are of
the least seconds of the rounds. What does not grow, such as the check against autograd on two examples, makes a slope
over all values smaller than the last one. Of ranks the seconds of a run on a few examples are taken off, which hold
imports, the start of torchrun and what every rank does alike: without cost of sharing out the slope is zero."""


def main(arguments: Sequence[str]) -> None:
    """Measure, show, and write where asked to."""
    options = parsed(parser("benchmarks.scaling", __doc__, list(AXES), "two values of each"), arguments)
    torch.set_num_threads(1)
    source = provenance("benchmarks.scaling", arguments, ["fisher-cli"])
    report = Report("Scaling", ("SCALING.md", "scaling.json"), source, f"Rounds: {options.rounds}. {ABOUT}")
    for axis in options.only:
        rows = measured(axis, options)
        report.add(section(axis, rows), rows)
    predicted = "\n".join(cluster.predicted())
    report.add(f"### A cluster, by the model of benchmarks/cluster.py and not measured\n\n{predicted}")
    if options.write:
        report.write()


if __name__ == "__main__":
    main(sys.argv[1:])
