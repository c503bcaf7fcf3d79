"""What all checks of a run cost together: the same run with them and without, as a share of the whole.

    python -m benchmarks.checks [--quick] [--only samples …] [--rounds 3] [--write]

Process time on one thread; with and without take their turns in each round.
"""

import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from torch import nn

import fisher_cli.run.row
from benchmarks.harness import Answer, Report, ask, number, parsed, parser, provenance, required, say, table
from fisher_cli.curvature.problem.problem import TensorData
from fisher_cli.inputs.networks.cifar_resnets import cifar_resnet
from fisher_cli.results import Measurement
from fisher_cli.run.measurement import MeasurementContext, measure
from fisher_cli.run.preparation import run_of_files
from fisher_cli.settings import Resources, Settings

SAMPLES = Path(__file__).parents[1] / "sample_checkpoints"
RUNS = ("digits-clean", "digits-noisy", "digits-cnn")
IMAGES, CLASSES = 500, 10
ROUNDS = 3
QUICK_EXAMPLES = 32
# The goal: the share of the whole that the checks may take.
GOAL = 0.10
# Stages of a measurement that are there only with the checks.
STAGES = ("check", "ledger")

Timings = Mapping[str, float]


@dataclass
class ChecksRow:
    """CPU seconds of one run with its checks and without, and of the stages that are checks; a value per round."""

    task: str
    eigenvalues: int
    checkpoints: int = 0
    examples: int = 0
    with_checks: list[float] = field(default_factory=list)
    without: list[float] = field(default_factory=list)
    stages: dict[str, list[float]] = field(default_factory=dict)

    @property
    def shares(self) -> list[float]:
        """What of the time with checks is not there without, round by round."""
        return [1 - less / more for more, less in zip(self.with_checks, self.without, strict=True)]

    def verdict(self) -> str:
        """Beside the goal."""
        if not self.with_checks:
            return "—"
        return f"{'within' if statistics.median(self.shares) <= GOAL else 'above'} the goal of {GOAL:.0%}"


# --- in the process of one measurement ---


def of_samples(name: str, eigenvalues: int, examples: int | None, *, verify: bool) -> list[Measurement]:
    """The rows of a sample run, its files read anew.

    Raises:
        RuntimeError: a checkpoint failed.
    """
    settings = Settings(eigenvalues=eigenvalues, **({} if examples is None else {"limit": examples}))

    def measured(*words: Any) -> Measurement:
        *others, context = words
        return measure(*others, replace(context, checks=verify))

    with mock.patch.object(fisher_cli.run.row, "measure", measured):
        rows = list(run_of_files([SAMPLES / name], settings, Resources(device="cpu")))
    for row in rows:
        if row.trace is None:
            msg = f"{row.checkpoint}: {row.error}"
            raise RuntimeError(msg)
    return rows


def of_resnet20(eigenvalues: int, examples: int | None, *, verify: bool) -> list[Measurement]:
    """The row of a ResNet-20 with seeded random weights on seeded random images."""
    torch.manual_seed(0)
    network: nn.Module = cifar_resnet("resnet20-cifar", num_classes=CLASSES)
    images = torch.randn(examples or IMAGES, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    labels = torch.randint(CLASSES, (len(images),), generator=torch.Generator().manual_seed(2))
    context = MeasurementContext(checks=verify)
    return [measure(network, TensorData(images, labels), Settings(eigenvalues=eigenvalues), context)]


TASKS: dict[str, Callable[..., list[Measurement]]] = {
    **{name: partial(of_samples, name) for name in RUNS},
    "resnet20": of_resnet20,
}


def work(task: str, eigenvalues: int, examples: int | None, rounds: int) -> Answer:
    """All rounds of one task, after a turn of each on few examples, which does not count."""
    torch.set_num_threads(1)
    row = ChecksRow(task, eigenvalues)
    for verify in (True, False):
        TASKS[task](0, 2, verify=verify)
    for _ in range(rounds):
        for verify, seconds in ((True, row.with_checks), (False, row.without)):
            start = time.process_time()
            found = TASKS[task](eigenvalues, examples, verify=verify)
            seconds.append(time.process_time() - start)
            row.checkpoints, row.examples = len(found), found[0].examples
            if verify:
                for stage in STAGES:
                    spent = sum(dict(each.timings).get(stage, 0.0) for each in found)
                    row.stages.setdefault(stage, []).append(spent)
    return {"row": row}


# --- in the process that asks ---


def section(heading: str, rows: Sequence[ChecksRow]) -> str:
    """The table of one network or of the sample runs."""
    columns = ["", "eigenvalues", "checkpoints", "N", "with checks, CPU s", "without", "share", "lowest", "highest",
               *(f"stage `{stage}`, s" for stage in STAGES), "verdict:"]  # fmt: skip
    cells = [
        [
            row.task,
            str(row.eigenvalues),
            str(row.checkpoints),
            f"{row.examples:,}",
            number(row.with_checks, 3),
            number(row.without, 3),
            _percent(statistics.median(row.shares)),
            _percent(min(row.shares)),
            _percent(max(row.shares)),
            *(number(row.stages.get(stage, []), 2) for stage in STAGES),
            row.verdict(),
        ]
        for row in rows
    ]
    return table(heading, columns, cells)


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %"


def together(rows: Sequence[ChecksRow]) -> ChecksRow:
    """One row of several tasks: their seconds added up, round by round."""
    first = rows[0]
    whole = ChecksRow("together", first.eigenvalues, sum(row.checkpoints for row in rows), first.examples)
    whole.with_checks = [sum(each) for each in zip(*(row.with_checks for row in rows), strict=True)]
    whole.without = [sum(each) for each in zip(*(row.without for row in rows), strict=True)]
    whole.stages = {
        stage: [sum(each) for each in zip(*(row.stages[stage] for row in rows), strict=True)] for stage in STAGES
    }
    return whole


ABOUT = """With and without checks a run takes its turn in each round; the share is what of the time with them is not
there without, and its median, lowest and highest are those of the rounds. Process time, so that what else the machine
does counts for little; stages are as the record has them, in wall time. What is done once a run counts in the run where
it is done: a run of one checkpoint bears all of it. ResNet-20: random weights, standard normal images, float32."""


def main(arguments: Sequence[str]) -> None:
    """Measure, show, and write where asked to."""
    made = parser("benchmarks.checks", __doc__, [*RUNS, "resnet20"], f"{QUICK_EXAMPLES} examples")
    made.set_defaults(rounds=ROUNDS)
    options = parsed(made, arguments)
    torch.set_num_threads(1)
    source = provenance("benchmarks.checks", arguments, ["fisher-cli"])
    about = f"Rounds: {options.rounds}, one thread. {ABOUT}"
    report = Report("What the checks of a run cost", ("CHECKS.md", "checks.json"), source, about)
    examples = QUICK_EXAMPLES if options.quick else None

    def asked(task: str, eigenvalues: int) -> ChecksRow:
        say(f"{task}, {eigenvalues} eigenvalues: {options.rounds} rounds with and without checks")
        answer = ask(work, task, eigenvalues, examples, options.rounds, limit=options.limit)
        row: ChecksRow = required(answer, f"no checks of {task}")["row"]
        return row

    for heading, tasks in (("The sample checkpoints", RUNS), ("ResNet-20", ("resnet20",))):
        wanted = [task for task in tasks if task in options.only]
        rows = []
        for eigenvalues in (Settings().eigenvalues, 0):
            of_these = [asked(task, eigenvalues) for task in wanted]
            rows += [*of_these, *([together(of_these)] if len(of_these) > 1 else [])]
        if rows:
            report.add(section(heading, rows), rows)
    if options.write:
        report.write()


if __name__ == "__main__":
    main(sys.argv[1:])
