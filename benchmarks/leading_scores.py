"""How many score gradients leave a negligible trace behind, of networks with many classes.

    python -m benchmarks.leading_scores [--quick] [--only far near] [--write]

The eigenvalues of F from its largest score gradients alone are off by at most the trace of the others. Here all
squared lengths are known, so that the fewest that suffice can be counted: whoever estimates them needs more.
"""

import math
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from benchmarks.harness import Answer, Report, ask, number, parsed, parser, provenance, required, say, table
from fisher_cli.curvature.problem.output_scores import true_scores
from fisher_cli.curvature.problem.problem import TensorData, pose
from fisher_cli.curvature.spectra.eigensystems import matrices
from fisher_cli.curvature.spectra.solver_choice import WHOLE_ROWS, Eigensolver

# Classes, inputs and hidden units; of each class so many training examples; examples that F is of.
CLASSES, WIDTH, HIDDEN, EACH, EXAMPLES = 1000, 64, 256, 10, 64
QUICK_CLASSES, QUICK_EXAMPLES = 50, 8
STEPS = (300, 1000, 3000)
TOLERANCES = (1e-3, 1e-2, 1e-1)
NOISE = 0.5
# By part: how far the classes of a family are from each other, in units of how far families are.
PARTS = {"far": 1.0, "near": 0.3}
FAMILY = 50


@dataclass
class LeadingRow:
    """A network after some training: `needed` columns for a bound within each tolerance · λ₁, of so many."""

    classes: str
    steps: int
    loss: float
    columns: int
    trace_by_largest: float
    needed: list[int] = field(default_factory=list)

    def verdict(self) -> str:
        """The least tolerance at which a Gram matrix of the columns needed would be taken."""
        possible = [t for t, count in zip(TOLERANCES, self.needed, strict=True) if count <= WHOLE_ROWS]
        return f"from a tolerance of {possible[0]:.0e} on" if possible else "at none of these"


def needed(columns: Tensor, examples: int, bound: float) -> int:
    """The fewest columns, of squared lengths times N (N, K), that leave at most this trace to the others."""
    ordered = columns.reshape(-1).double().sort().values
    return columns.numel() - int((ordered.cumsum(0) / examples <= bound).sum())


# --- in the process of one measurement ---


def clusters(classes: int, distance: float, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Noisy points around the centres of classes, which lie around those of families."""
    generator = torch.Generator().manual_seed(seed)
    families = torch.randn(-(-classes // FAMILY), WIDTH, generator=generator).repeat_interleave(FAMILY, 0)[:classes]
    centres = distance * torch.randn(classes, WIDTH, generator=generator) + (families if distance < 1 else 0)
    points = centres.repeat(EACH, 1)
    noise = NOISE * distance * torch.randn(points.shape, generator=generator)
    return points + noise, torch.arange(classes).repeat(EACH)


def column_norms(model: nn.Module, inputs: Tensor, labels: Tensor) -> tuple[Tensor, float]:
    """w ‖Jᵀv‖² of every score of the exact root, (N, K), and λ₁ of F."""
    problem = pose(model, TensorData(inputs, labels), batch_size=8)
    true, _ = matrices(problem)
    found = []
    for batch in problem.batches():
        evaluated = true.engine.evaluate(batch)
        directions, amplitudes = true_scores(problem.likelihood, evaluated.outputs.detach(), batch.labels)
        norms = torch.stack(list(evaluated.norms(directions).values())).sum(0)
        found.append((norms * amplitudes.square()).T)
    return torch.cat(found), float(true.leading(1, route=Eigensolver.LANCZOS).values[0])


def work(part: str, classes: int, examples: int, steps: Sequence[int]) -> Answer:
    """One network, looked at on its way."""
    torch.manual_seed(0)
    inputs, labels = clusters(classes, PARTS[part])
    model = nn.Sequential(nn.Linear(WIDTH, HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, classes))
    optimizer = torch.optim.Adam(model.parameters(), lr=2e-3)
    chosen, rows, step = torch.randperm(len(inputs))[:examples], [], 0
    for target in steps:
        while step < target:
            some = torch.randint(len(inputs), (256,))
            optimizer.zero_grad()
            cross_entropy(model(inputs[some]), labels[some]).backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            step += 1
        with torch.no_grad():
            loss = float(cross_entropy(model(inputs[chosen]), labels[chosen]))
        columns, largest = column_norms(model, inputs[chosen], labels[chosen])
        trace = float(columns.sum()) / examples
        row = LeadingRow(f"{part}, {classes:,}", step, loss, columns.numel(), trace / largest if largest else math.nan)
        row.needed = [needed(columns, examples, tolerance * largest) for tolerance in TOLERANCES]
        rows.append(row)
    return {"rows": rows}


# --- in the process that asks ---


def sections(options: list[str], quick: bool, limit: float) -> Iterator[LeadingRow]:
    """The rows of all parts."""
    for part in options:
        say(f"{part}: training and counting")
        arguments = (QUICK_CLASSES, QUICK_EXAMPLES, STEPS[:1]) if quick else (CLASSES, EXAMPLES, STEPS)
        yield from required(ask(work, part, *arguments, limit=limit), f"nothing of {part}")["rows"]


def section(rows: Sequence[LeadingRow], examples: int) -> str:
    """The table."""
    columns = [
        "classes",
        "training steps",
        "loss",
        "tr F/λ₁",
        "columns",
        *(f"for {t:.0e}" for t in TOLERANCES),
        "fits:",
    ]
    cells = [
        [
            row.classes,
            f"{row.steps:,}",
            number([row.loss], 2),
            number([row.trace_by_largest], 3),
            f"{row.columns:,}",
            *(f"{count:,}" for count in row.needed),
            row.verdict(),
        ]
        for row in rows
    ]
    heading = f"A perceptron of {WIDTH} inputs and {HIDDEN} hidden units, N = {examples}"
    return table(heading, columns, cells)


ABOUT = f"""The fewest score gradients whose omission moves no eigenvalue of F by more than a tolerance times the
largest, their squared lengths being known. Up to {WHOLE_ROWS:,} of them fisher makes a Gram matrix. Data: {EACH} points
around each class's centre; “far” has all centres apart, “near” families of {FAMILY} alike classes. Examples are of the
training set."""


def main(arguments: Sequence[str]) -> None:
    """Count, show, and write where asked to."""
    made = parser("benchmarks.leading_scores", __doc__, list(PARTS), f"{QUICK_CLASSES} classes")
    options = parsed(made, arguments)
    torch.set_num_threads(1)
    source = provenance("benchmarks.leading_scores", arguments, ["fisher-cli"])
    files = "LEADING_SCORES.md", "leading_scores.json"
    report = Report("Leading scores with many classes", files, source, ABOUT)
    rows = list(sections(options.only, options.quick, options.limit))
    report.add(section(rows, QUICK_EXAMPLES if options.quick else EXAMPLES), rows)
    if options.write:
        report.write()


if __name__ == "__main__":
    main(sys.argv[1:])
