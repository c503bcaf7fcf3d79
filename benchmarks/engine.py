"""Time, memory and error of exact Fisher traces: ours beside its peers, on one machine, in turns.

    python -m benchmarks.engine [--quick] [--only NAME …] [--rounds 3] [--trained] [--weights FILE] [--write]

The truth is a loop over examples and classes in float64.
"""

import argparse
import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass

from benchmarks import training
from benchmarks.harness import (
    TURNS,
    WARM_UP_EXAMPLES,
    Answer,
    Report,
    Row,
    ask,
    costs,
    measured,
    parsed,
    parser,
    provenance,
    required,
    table,
    take_turns,
)
from benchmarks.methods import FORWARD, METHODS, autograd_loop
from benchmarks.networks import CASES, LAYERS, Case, Setting, case_named, examples_of

QUICK_EXAMPLES = 4
# Relative errors above this are not rounding in float32.
WRONG = 1e-3
# An estimate further from the truth than so many of its own standard errors is wrong.
STANDARD_ERRORS = 4
ABOUT = (
    f"{TURNS} The error is relative to a loop over examples and classes in float64; above {WRONG:.0e}, or for an "
    f"estimate above {STANDARD_ERRORS} of its own standard errors, it is called wrong. Everything else computes in "
    "float32. “True trace alone” is the engine without the empirical Fisher, the mean gradient and all statistics. "
    "“Wrong” and “fails” hold for each library as `benchmarks/methods.py` calls it, at the batch sizes of "
    "`benchmarks/networks.py`; their causes were not traced."
)


@dataclass
class TraceRow(Row):
    """A trace beside the truth; `stated_error` is None from an exact method."""

    weights: str = ""
    truth: float = math.nan
    trace: float = math.nan
    stated_error: float | None = None
    relative_error: float = math.nan

    def learn(self, answer: Answer) -> None:
        """Keep the trace, and |trace − truth| / truth."""
        self.trace, self.stated_error = answer["trace"], answer["error"]
        self.relative_error = abs(self.trace - self.truth) / self.truth if self.truth else math.nan

    def verdict(self) -> str:
        """Right, wrong, or what went wrong."""
        if self.failure is not None or self.method == FORWARD.name:
            return self.failure or "—"
        if math.isnan(self.relative_error):
            return "wrong: NaN"
        allowed, states = WRONG, ""
        if self.stated_error is not None:
            stated = self.stated_error / abs(self.truth) if self.truth else math.inf
            if math.isnan(stated):
                return "wrong: states no error"
            # Nothing is drawn when the whole root is taken, and the error then has to be rounding.
            states = f" (states ± {stated:.0e})" if self.stated_error else " (whole root: exact)"
            allowed = WRONG + STANDARD_ERRORS * stated if self.stated_error else WRONG
        wrong = "" if self.relative_error <= allowed else "wrong by "
        return f"{wrong}{self.relative_error:.0e}{states}"


# --- in the process of one measurement ---


def truth(case: Case, setting: Setting, examples: int) -> Answer:
    """The trace by plain autograd in float64."""
    inputs, labels = case.data(setting, examples)
    inputs = inputs.double() if inputs.is_floating_point() else inputs
    return {"trace": autograd_loop(case.network(setting).double(), inputs, labels, 1).trace}


def work(name: str, case: Case, setting: Setting, examples: int) -> Answer:
    """One method's time, memory and trace."""
    method = next(method for method in METHODS if method.name == name)
    inputs, labels = case.data(setting, examples)
    if method.warm_up:
        few = slice(WARM_UP_EXAMPLES)
        method.run(case.network(setting), inputs[few], labels[few], case.batch)
    cost, found = measured(lambda: case.network(setting), lambda model: method.run(model, inputs, labels, case.batch))
    return cost | {"trace": found.trace, "error": found.error}


# --- in the process that asks ---


def measure(case: Case, setting: Setting, examples: int, options: argparse.Namespace) -> list[TraceRow]:
    """All methods on one network, in turns."""
    answer = required(ask(truth, case, setting, examples), f"no truth for {case.name}")
    rows = [
        TraceRow(case.name, method.name, FORWARD.name, weights=setting.words, truth=answer["trace"])
        for method in METHODS
    ]
    take_turns(rows, lambda row: ask(work, row.method, case, setting, examples, limit=options.limit), options.rounds)
    return rows


def section(case: Case, setting: Setting, examples: int, rows: Sequence[TraceRow]) -> str:
    """The table of one network."""
    size = sum(parameter.numel() for parameter in case.build().parameters())
    columns = ["method", "seconds", "forward passes", "peak memory growth, MiB", "relative error:"]
    heading = f"{case.name}: P = {size:,}, N = {examples}, {setting.words}"
    return table(heading, columns, [[row.method, *costs(row), row.verdict()] for row in rows])


def main(arguments: Sequence[str]) -> None:
    """Measure, show, and write where asked to."""
    made = parser("benchmarks.engine", __doc__, [case.name for case in (*CASES, *LAYERS)], f"{QUICK_EXAMPLES} examples")
    training.add_options(made)
    options = parsed(made, arguments)
    packages = [method.distribution for method in METHODS if method.distribution]
    source = provenance("benchmarks.engine", arguments, packages)
    report = Report(
        "The exact Fisher trace: time, memory, error",
        ("RESULTS.md", "results.json"),
        source,
        f"Rounds: {options.rounds}. {ABOUT}",
    )
    for case in map(case_named, options.only):
        examples = examples_of(case, QUICK_EXAMPLES if options.quick else None)
        with training.settings(case, options) as settings:
            for setting in settings:
                rows = measure(case, setting, examples, options)
                report.add(section(case, setting, examples, rows), rows)
    if options.write:
        report.write()


if __name__ == "__main__":
    main(sys.argv[1:])
