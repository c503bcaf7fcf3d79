"""What the estimators of tr F cost: variance per backward pass, honest errors, many classes, cost beyond the passes.

    python -m benchmarks.estimators [--quick] [--only PART …] [--rounds 3] [--write]
                                    [--checkpoints DIR --model NAME --data NAME [--normalize NAME]]

Variances are in `benchmarks.variances`.
"""

import argparse
import statistics
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import nn

from benchmarks.engine import STANDARD_ERRORS
from benchmarks.harness import (
    TURNS,
    WARM_UP_EXAMPLES,
    Answer,
    Report,
    Row,
    ask,
    costs,
    measured,
    number,
    parsed,
    parser,
    provenance,
    required,
    say,
    table,
    take_turns,
)
from benchmarks.methods import FORWARD
from benchmarks.networks import ResNet20, mlp
from benchmarks.variances import SAMPLES, variance
from fisher_cli.curvature.gradient_norms.engine import Engine
from fisher_cli.curvature.problem.output_scores import exact
from fisher_cli.curvature.problem.problem import TensorData, pose
from fisher_cli.curvature.traces.traces import sweep
from fisher_cli.inputs.checkpoints.checkpoints import find_checkpoints, load_checkpoint
from fisher_cli.inputs.data.datasets import load_examples
from fisher_cli.inputs.networks.networks import Networks
from fisher_cli.run.preparation import run_of_files
from fisher_cli.settings import Resources, Settings

PARTS = ("variance", "classes", "overhead")
CLASSES, CLASSES_EXAMPLES, CLASSES_GOAL = (10, 100, 1000), 64, 1.5
DEFLATED = "fisher deflated"
BODIES: dict[str, tuple[Callable[[int], nn.Module], tuple[int, ...], int]] = {
    "mlp": (mlp, (784,), 64),
    "resnet20": (ResNet20, (3, 32, 32), 32),
}
OVERHEAD_RUN, OVERHEAD_GOAL, OVERHEAD_REPEATS = "digits-clean", 20, 5


# --- many classes ---


@dataclass
class ClassesRow(Row):
    """The time with so many classes; `multiples` are of that with the fewest."""

    classes: int = 0

    def verdict(self) -> str:
        """Whether the deflated estimator keeps to the goal."""
        if self.failure is not None or not self.multiples or FORWARD.name in self.method:
            return self.failure or "—"
        good = statistics.median(self.multiples) <= CLASSES_GOAL
        return "within the goal" if good else f"above the goal of {CLASSES_GOAL}"


def _titled(method: str, classes: int) -> str:
    return f"{method}, {classes:,} classes"


def work_of_classes(method: str, body: str, classes: int, examples: int) -> Answer:
    """The time of one method for one number of classes."""
    make, shape, batch = BODIES[body]
    generator = torch.Generator().manual_seed(1)
    inputs = torch.randn(examples, *shape, generator=generator)
    labels = torch.randint(classes, (examples,), generator=generator)

    def build() -> nn.Module:
        torch.manual_seed(0)
        return make(classes).eval()

    def run(model: nn.Module, count: int = examples) -> None:
        if method == FORWARD.name:
            FORWARD.run(model, inputs[:count], labels[:count], batch)
        else:
            sweep(pose(model, TensorData(inputs[:count], labels[:count])), estimator="deflated", verify=False)

    run(build(), WARM_UP_EXAMPLES)
    return measured(build, run)[0]


def many_classes(options: argparse.Namespace) -> Iterator[tuple[str, list[ClassesRow]]]:
    """A section for every body."""
    examples = 4 if options.quick else CLASSES_EXAMPLES
    for body in BODIES:
        rows = [
            ClassesRow(body, _titled(method, classes), _titled(method, CLASSES[0]), classes=classes)
            for method in (FORWARD.name, DEFLATED)
            for classes in CLASSES
        ]

        def once(row: ClassesRow, body: str = body) -> Answer:
            method = row.method.partition(",")[0]
            return ask(work_of_classes, method, body, row.classes, examples, limit=options.limit)

        take_turns(rows, once, options.rounds)
        columns = ["method", "seconds", f"of the time with {CLASSES[0]}", "peak memory growth, MiB", "verdict:"]
        lines = [[row.method, *costs(row), row.verdict()] for row in rows]
        yield table(f"{body}: the same body with more classes, N = {examples}", columns, lines), rows


# --- the cost of a checkpoint beyond its passes ---


@dataclass
class OverheadRow:
    """CPU milliseconds per checkpoint: all of a run, its forward and backward passes, stages by the run's own clock."""

    run: str
    checkpoints: int
    whole: float
    passes: float
    beyond: float
    stages: dict[str, float]

    def verdict(self) -> str:
        """Whether it keeps to the goal."""
        good = self.beyond <= OVERHEAD_GOAL
        return "within the goal" if good else f"above the goal of {OVERHEAD_GOAL} ms"


def overhead_of(repeats: int) -> Answer:
    """The CPU time of whole runs without eigenvalues, on one thread, and of their passes alone."""
    torch.set_num_threads(1)
    folder, settings = SAMPLES / OVERHEAD_RUN, Settings(eigenvalues=0)
    list(run_of_files([folder], settings, Resources(device="cpu")))
    times, stages, count = [], dict[str, list[float]](), 0
    for _ in range(repeats):
        start = time.process_time()
        measurements = list(run_of_files([folder], settings, Resources(device="cpu")))
        times.append((time.process_time() - start) / len(measurements))
        count = len(measurements)
        for measurement in measurements:
            for stage, seconds in measurement.timings:
                stages.setdefault(stage, []).append(seconds)
    medians = {stage: 1000 * statistics.median(seconds) for stage, seconds in stages.items()}
    whole, passes = 1000 * statistics.median(times), 1000 * _passes(folder, settings)
    return {"row": asdict(OverheadRow(folder.name, count, whole, passes, whole - passes, medians))}


def _passes(folder: Path, settings: Settings) -> float:
    """CPU seconds of one checkpoint's forward and backward passes with their norms, on an engine that knows it."""
    examples = load_examples(settings, Resources())
    checkpoint = load_checkpoint(find_checkpoints([folder])[-1])
    networks = Networks(None, {})
    module = networks.load(networks.architecture(checkpoint), checkpoint)
    problem = pose(module, TensorData(*examples.batch(0, len(examples))))
    engine, prepared = Engine(problem), []
    times: list[float] = []
    for batch in problem.batches():
        scores = exact(problem.likelihood, engine.evaluate(batch).outputs.detach(), batch.labels)
        prepared.append((batch, scores))
    while not times or sum(times) < 1:
        start = time.process_time()
        for batch, scores in prepared:
            engine.evaluate(batch).measure(
                scores.directions, scores.observed, lambda _name, _sum: None, scores.observed_row
            )
        times.append(time.process_time() - start)
    return statistics.median(times)


def overhead(options: argparse.Namespace) -> Iterator[tuple[str, list[OverheadRow]]]:
    """The section of one run."""
    say(f"{OVERHEAD_RUN}: cost beyond the passes")
    answer = ask(overhead_of, 1 if options.quick else OVERHEAD_REPEATS, limit=options.limit)
    row = OverheadRow(**required(answer, "no cost of a checkpoint")["row"])
    columns = ["run", "checkpoints", "whole, CPU ms each", "its passes", "beyond them", "verdict:"]
    cells = [number([value], 3) for value in (row.whole, row.passes, row.beyond)]
    found = table(
        "What a checkpoint costs beyond its passes, one thread, no eigenvalues",
        columns,
        [[row.run, f"{row.checkpoints}", *cells, row.verdict()]],
    )
    stages = ", ".join(f"{stage} {number([value], 2)}" for stage, value in row.stages.items())
    yield f"{found}\n\nMedian milliseconds by the run's own clock: {stages}.", [row]


ABOUT = f"""{TURNS}

Variance ratio: the exact variance of the sampled-label estimator, Σ_n Σ_c p_c (‖s_c‖² − tr_n)²/N², at one backward pass
per label, over the variance that the deflated estimator states, mean over the seeds, times its backward passes; ∞
where these take the whole root. The difference from the exact trace and the standard error are those of the first
seed; “over seeds” is the root mean square of the differences in their own standard errors, one where these are right.
More than {STANDARD_ERRORS} of them: wrong. With more classes the last layer grows too, and with it the forward pass,
whose times stand beside. The cost beyond the passes is the process time of whole runs, loading included, less that of
forward passes, backward passes and norms alone."""


def main(arguments: Sequence[str]) -> None:
    """Measure, show, and write where asked to."""
    made = parser("benchmarks.estimators", __doc__, PARTS, "two checkpoints of each run")
    made.add_argument("--checkpoints", type=Path, help="another folder of checkpoints")
    made.add_argument("--model", help="their network, as for fisher's --model")
    made.add_argument("--data", default="digits", help="their data, as for fisher's --data")
    made.add_argument("--normalize", help="its normalisation, as for fisher's --normalize")
    made.add_argument("--examples", type=int, default=500, help="of each run for the variances")
    made.add_argument("--seeds", type=int, default=10, help="of the deflated estimator")
    options = parsed(made, arguments)
    if options.quick:
        options.examples, options.seeds = min(options.examples, 64), min(options.seeds, 2)
    source = provenance("benchmarks.estimators", arguments, ["fisher-cli"])
    files = "ESTIMATORS.md", "estimators.json"
    report = Report("The estimators of the trace", files, source, f"Rounds: {options.rounds}. {ABOUT}")
    parts: dict[str, Callable[[argparse.Namespace], Iterable[tuple[str, Sequence[object]]]]] = {
        "variance": variance,
        "classes": many_classes,
        "overhead": overhead,
    }
    for part in options.only:
        for section, rows in parts[part](options):
            report.add(section, rows)
    if options.write:
        report.write()


if __name__ == "__main__":
    main(sys.argv[1:])
