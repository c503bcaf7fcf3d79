"""What a product with the true Fisher costs, in forward passes over the same examples: with kept graphs, and without.

    python -m benchmarks.products [--quick] [--only NAME …] [--rounds 9] [--write]

Process time on one thread; a forward pass and both products take their turn in each round.
"""

import statistics
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from benchmarks.harness import Answer, Report, ask, number, parsed, parser, provenance, required, say, table
from benchmarks.networks import CASES, Case, Setting, case_named, examples_of
from fisher_cli.curvature.problem.problem import Problem, TensorData, pose
from fisher_cli.curvature.products.fisher_products import Jacobian, fisher_product

QUICK_EXAMPLES = 8
ROUNDS = 9
FORWARD, KEPT, ANEW = "forward pass", "product, graphs kept", "product, graphs made anew"
# The most that the documents say: forward passes per product.
STATED = {KEPT: 6, ANEW: 10}


@dataclass
class ProductRow:
    """CPU seconds of one way on one network, a value per round, and how many forward passes of that round these are."""

    network: str
    way: str
    batch: int
    seconds: list[float] = field(default_factory=list)
    passes: list[float] = field(default_factory=list)
    first: float | None = None

    def verdict(self) -> str:
        """Beside what the documents say."""
        stated = STATED.get(self.way)
        if stated is None:
            return "—"
        # In whole numbers, as it is stated.
        return f"{'within' if round(statistics.median(self.passes)) <= stated else 'above'} the {stated} stated"


# --- in the process of one measurement ---


def ways(problem: Problem) -> dict[str, Callable[[], object]]:
    """A forward pass over all examples without gradients, and a product with F by either way, by name."""
    generator = torch.Generator().manual_seed(0)
    vector = torch.randn(problem.size, generator=generator, dtype=torch.float64).to(problem.dtype)
    kept = fisher_product(problem, Jacobian(problem))
    anew = fisher_product(problem, Jacobian(replace(problem, keep_graphs=False)))

    def forward() -> list[Tensor]:
        with torch.no_grad():
            return [problem.forward(batch.inputs) for batch in problem.batches(problem.product_batch_size)]

    return {FORWARD: forward, KEPT: lambda: kept(vector), ANEW: lambda: anew(vector)}


def work(case: Case, examples: int, rounds: int) -> Answer:
    """All rounds on one network, each way having had a turn that does not count, in which graphs are made."""
    torch.set_num_threads(1)
    problem = pose(case.network(Setting()), TensorData(*case.data(Setting(), examples)))
    rows = [(ProductRow(case.name, way, problem.product_batch_size), run) for way, run in ways(problem).items()]
    for row, run in rows:
        row.first = _seconds(run)
    for _ in range(rounds):
        for row, run in rows:
            row.seconds.append(_seconds(run))
    unit = rows[0][0].seconds
    for row, _ in rows:
        row.passes = [mine / one for mine, one in zip(row.seconds, unit, strict=True)]
    return {"rows": [row for row, _ in rows], "parameters": problem.size}


def _seconds(run: Callable[[], object]) -> float:
    start = time.process_time()
    run()
    return time.process_time() - start


# --- in the process that asks ---


def section(case: Case, examples: int, answer: Answer) -> str:
    """The table of one network."""
    rows: list[ProductRow] = answer["rows"]
    columns = ["", "CPU ms", "forward passes", "lowest", "highest", "first, with its graphs, CPU ms", "verdict:"]
    cells = [
        [
            row.way,
            number([1000 * seconds for seconds in row.seconds], 3),
            number(row.passes, 3),
            number([min(row.passes)], 3),
            number([max(row.passes)], 3),
            "—" if row.first is None else number([1000 * row.first], 3),
            row.verdict(),
        ]
        for row in rows
    ]
    heading = f"{case.name}: P = {answer['parameters']:,}, N = {examples}, {rows[0].batch} at once"
    return table(heading, columns, cells)


ABOUT = """A product is v ↦ F v over all examples. Medians over the rounds, in which all three take turns; forward
passes are those of the same round, over as many examples at once, without gradients. Process time, so that what else
the machine does counts for little. The first product also makes the graphs, tries which way to J v is the transpose of
backward mode, and is not in the medians. Graphs are kept where they fit into an eighth of the memory; where they do
not, both rows are the same. Random weights, standard normal inputs, float32."""


def main(arguments: Sequence[str]) -> None:
    """Measure, show, and write where asked to."""
    made = parser("benchmarks.products", __doc__, [case.name for case in CASES], f"{QUICK_EXAMPLES} examples")
    made.set_defaults(rounds=ROUNDS)
    options = parsed(made, arguments)
    torch.set_num_threads(1)
    source = provenance("benchmarks.products", arguments, ["fisher-cli"])
    about = f"Rounds: {options.rounds}, one thread. {ABOUT}"
    report = Report("What a product costs", ("PRODUCTS.md", "products.json"), source, about)
    for case in map(case_named, options.only):
        examples = examples_of(case, QUICK_EXAMPLES if options.quick else None)
        say(f"{case.name}: {options.rounds} rounds of products")
        answer = required(ask(work, case, examples, options.rounds, limit=options.limit), f"no products of {case.name}")
        report.add(section(case, examples, answer), answer["rows"])
    if options.write:
        report.write()


if __name__ == "__main__":
    main(sys.argv[1:])
