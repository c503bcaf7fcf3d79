"""Time, memory and error of the ten largest eigenvalues of F and F̂: ours by each route beside its peers, in turns.

    python -m benchmarks.spectrum [--quick] [--only NAME …] [--rounds 3] [--weights FILE] [--large] [--write]

The truth is the spectrum of the score gradients by plain autograd in float64 where these fit into memory, else our own
Lanczos in float64 at a tolerance of 1e-8.
"""

import argparse
import functools
import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor, nn

from benchmarks import training
from benchmarks.eigensolvers import (
    EMPIRICAL,
    FORWARD,
    HESSIAN,
    LARGE_SOLVERS,
    SOLVERS,
    TOLERANCE,
    TRUE,
    Solver,
    fits_at_once,
)
from benchmarks.harness import (
    TURNS,
    WARM_UP_EXAMPLES,
    Answer,
    NotApplicableError,
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
from benchmarks.networks import Case, Setting, case_named, examples_of, mlp
from fisher_cli.curvature.problem.problem import TensorData, pose
from fisher_cli.curvature.spectra.eigensystems import matrices
from fisher_cli.curvature.spectra.solver_choice import Eigensolver

COUNT = 10
QUICK_EXAMPLES = 32
REFERENCE_TOLERANCE = 1e-8
# The score gradients of all examples, in float64, may take so many bytes.
EXPLICIT_BYTES = 3 * 2**30
# Eigenvalues below this share of the largest are rounding in float32: their error is taken relative to the largest.
ROUNDING = 1e-6
CASES = ("mlp", "digits-cnn", "resnet20", "vit")
LARGE_WIDTH, QUICK_WIDTH, LARGE_GOAL = 9610, 610, 6
LANCZOS, AUTOGRAD, GRAM = (
    f"our Lanczos in float64 at {REFERENCE_TOLERANCE:.0e}",
    "all score gradients by plain autograd in float64",
    "our Gram matrix in float64",
)
ABOUT = (
    f"The {COUNT} largest eigenvalues at a tolerance of {TOLERANCE:.0e} of the largest. {TURNS} The reference of each "
    "matrix is named above its table; the error is the largest of the ten relative errors (of an eigenvalue below "
    f"{ROUNDING:.0e} of the largest, relative to the largest), and it is called wrong when an eigenvalue is off by "
    f"more than {TOLERANCE:.0e} of the largest. Everything but the references computes in float32. PyHessian's are "
    "eigenvalues of the Hessian of the loss, not of F: how far they are from those of F is no error. “Wrong” and "
    "“fails” hold for each library as `benchmarks/eigensolvers.py` calls it; their causes were not traced."
)


@dataclass
class SpectrumRow(Row):
    """Eigenvalues in descending order beside those of the reference."""

    matrix: str = ""
    weights: str = ""
    reference: list[float] = field(default_factory=list)
    values: list[float] = field(default_factory=list)
    products: int | None = None
    route: str = ""
    relative_error: float = math.nan
    error_by_largest: float = math.nan

    def learn(self, answer: Answer) -> None:
        """Keep the eigenvalues and what they are off by."""
        self.values, self.products, self.route = answer["values"], answer["products"], answer["route"]
        self.relative_error, self.error_by_largest = errors(self.values, self.reference)

    def verdict(self) -> str:
        """Right, wrong, or what went wrong."""
        if self.failure is not None or self.method == FORWARD.name:
            return self.failure or "—"
        if math.isnan(self.relative_error):
            return "wrong: NaN" if len(self.values) == len(self.reference) else f"wrong: {len(self.values)} values"
        if self.matrix == HESSIAN:
            return f"{self.relative_error:.0e} from those of F"
        wrong = "" if self.error_by_largest <= TOLERANCE else f"wrong by {self.error_by_largest:.0e} of the largest: "
        return f"{wrong}{self.relative_error:.0e}"


def errors(values: Sequence[float], reference: Sequence[float]) -> tuple[float, float]:
    """The largest relative error, and the largest error relative to the largest eigenvalue."""
    if len(values) != len(reference) or not values or not all(map(math.isfinite, values)) or not reference[0] > 0:
        return math.nan, math.nan
    largest = reference[0]
    pairs = [(abs(value - truth), truth) for value, truth in zip(values, reference, strict=True)]
    relative = [error / (truth if truth > ROUNDING * largest else largest) for error, truth in pairs]
    return max(relative), max(error for error, _ in pairs) / largest


# --- in the process of one measurement ---


def lanczos_reference(case: Case, setting: Setting, examples: int, matrix: str, route: Eigensolver) -> Answer:
    """The eigenvalues in float64 by one of our routes."""
    inputs, labels = case.data(setting, examples)
    problem = pose(case.network(setting).double(), TensorData(inputs.double(), labels))
    found = matrices(problem)[matrix == EMPIRICAL].leading(COUNT, tolerance=REFERENCE_TOLERANCE, route=route)
    if not found.converged:
        msg = f"the reference of {matrix} did not converge: {found.note}"
        raise ArithmeticError(msg)
    return {"values": found.values.tolist()}


def explicit_reference(case: Case, setting: Setting, examples: int, matrix: str) -> Answer:
    """The eigenvalues of A Aᵀ, A with a row √(w/N) ∇ log p per score, by autograd, one at a time."""
    model = case.network(setting).double()
    inputs, labels = case.data(setting, examples)
    size = sum(parameter.numel() for parameter in model.parameters())
    classes = model(inputs[:1].double()).shape[1]
    rows = examples * (1 if matrix == EMPIRICAL else classes)
    if rows * size * 8 > EXPLICIT_BYTES:
        msg = f"{rows:,} gradients of {size:,} values"
        raise NotApplicableError(msg)
    factor = torch.empty(rows, size, dtype=torch.float64)
    row = 0
    for example, label in zip(inputs.double(), labels.tolist(), strict=True):
        log_p = torch.log_softmax(model(example.unsqueeze(0))[0], dim=0)
        for chosen in [label] if matrix == EMPIRICAL else range(classes):
            weight = 1.0 if matrix == EMPIRICAL else float(log_p[chosen].detach().exp())
            factor[row] = _gradient(model, log_p[chosen]) * math.sqrt(weight / examples)
            row += 1
    values = torch.linalg.eigvalsh(factor @ factor.T).flip(0)[:COUNT].tolist()
    return {"values": values + [0.0] * (min(COUNT, size) - len(values))}


def _gradient(model: nn.Module, value: Tensor) -> Tensor:
    found = torch.autograd.grad(value, list(model.parameters()), retain_graph=True)
    return torch.cat([gradient.reshape(-1) for gradient in found])


def work(name: str, matrix: str, case: Case, setting: Setting, examples: int) -> Answer:
    """One method's time, memory and eigenvalues."""
    solver = next(solver for solver in SOLVERS if (solver.name, solver.matrix) == (name, matrix))
    inputs, labels = case.data(setting, examples)
    batch = len(inputs) if solver.at_once else case.batch
    if solver.at_once and not fits_at_once(case.network(setting), inputs):
        msg = f"{examples} examples at once do not fit into memory"
        raise NotApplicableError(msg)
    few = slice(WARM_UP_EXAMPLES)
    solver.run(case.network(setting), inputs[few], labels[few], case.batch, 1)
    cost, found = measured(lambda: case.network(setting), lambda model: solver.run(model, inputs, labels, batch, COUNT))
    return cost | {"values": list(found.values), "products": found.products, "route": found.route}


# --- in the process that asks ---


def reference(case: Case, setting: Setting, examples: int, matrix: str) -> tuple[list[float], str]:
    """The best eigenvalues there are, and in words what they are."""
    found = ask(lanczos_reference, case, setting, examples, matrix, Eigensolver.LANCZOS)
    values: list[float] = required(found, f"no reference for {case.name}")["values"]
    explicit = ask(explicit_reference, case, setting, examples, matrix)
    if str(explicit.get("failure", "")).startswith("n/a"):
        return values, f"{matrix}: {LANCZOS}"
    better: list[float] = required(explicit, f"no reference for {case.name}")["values"]
    _, apart = errors(values, better)
    return better, f"{matrix}: {AUTOGRAD}, from which {LANCZOS} is {apart:.0e} of the largest away"


def measure(
    case: Case,
    setting: Setting,
    solvers: Sequence[Solver],
    references: dict[str, list[float]],
    options: argparse.Namespace,
) -> list[SpectrumRow]:
    """All methods on one network, in turns."""
    examples = examples_of(case, QUICK_EXAMPLES if options.quick else None)
    rows = []
    for solver in solvers:
        if solver.at_once and case.batch >= examples:
            continue
        truth = references.get(TRUE if solver.matrix == HESSIAN else solver.matrix, [])
        row = SpectrumRow(case.name, solver.name, FORWARD.name, matrix=solver.matrix, weights=setting.words)
        rows.append(replace(row, reference=truth))
    take_turns(
        rows,
        lambda row: ask(work, row.method, row.matrix, case, setting, examples, limit=options.limit),
        options.rounds,
    )
    return rows


COLUMNS = ["method", "matrix:", "seconds", "forward passes", "peak memory growth, MiB", "products", "relative error:"]


def cells(row: SpectrumRow) -> list[str]:
    """A line of the table."""
    chosen = f" ({row.route})" if row.method == "fisher" and row.route else ""
    return [
        row.method + chosen,
        row.matrix,
        *costs(row),
        "—" if row.products is None else f"{row.products:,}",
        row.verdict(),
    ]


def ordinary(case: Case, setting: Setting, options: argparse.Namespace) -> tuple[str, list[SpectrumRow]]:
    """The section of a network beside the peers, and its rows."""
    examples = examples_of(case, QUICK_EXAMPLES if options.quick else None)
    true, about_true = reference(case, setting, examples, TRUE)
    empirical, about_empirical = reference(case, setting, examples, EMPIRICAL)
    rows = measure(case, setting, SOLVERS, {TRUE: true, EMPIRICAL: empirical}, options)
    size = sum(parameter.numel() for parameter in case.build().parameters())
    heading = f"{case.name}: P = {size:,}, N = {examples}, {setting.words}"
    found = table(heading, COLUMNS, map(cells, rows))
    return f"{found}\n\nReferences: {about_true}; {about_empirical}.", rows


def large(options: argparse.Namespace) -> tuple[str, list[SpectrumRow]]:
    """A perceptron of 100 million parameters: is the memory at most six vectors of its length?"""
    width = QUICK_WIDTH if options.quick else LARGE_WIDTH
    case = Case("wide-mlp", functools.partial(mlp, width=width), (784,), examples=16, batch=16)
    setting, size = Setting(), width**2 + 796 * width + 10
    found = ask(lanczos_reference, case, setting, case.examples, TRUE, Eigensolver.GRAM)
    truth = required(found, "no reference for the wide perceptron")["values"]
    rows = measure(case, setting, LARGE_SOLVERS, {TRUE: truth}, options)
    lines = []
    for row in rows:
        vectors = [mebibytes * 2**20 / (4 * size) for mebibytes in row.mebibytes]
        lines.append([*cells(row)[:-1], f"{max(vectors):.1f}" if vectors else "—", row.verdict()])
    columns = [*COLUMNS[:-1], "in parameter vectors", COLUMNS[-1]]
    heading = f"{case.name}: P = {size:,}, N = {case.examples}, {setting.words}"
    return (
        f"{table(heading, columns, lines)}\n\nReference: {GRAM}. The memory is beside the network's own parameters; "
        f"the goal by the dual route is at most {LARGE_GOAL} vectors of {4 * size / 2**20:,.0f} MiB.",
        rows,
    )


def main(arguments: Sequence[str]) -> None:
    """Measure, show, and write where asked to."""
    made = parser("benchmarks.spectrum", __doc__, CASES, f"{QUICK_EXAMPLES} examples")
    made.add_argument("--large", action="store_true", help="also a perceptron of 100 million parameters")
    training.add_options(made)
    options = parsed(made, arguments)
    packages = {solver.distribution for solver in SOLVERS if solver.distribution} | {"scipy"}
    source = provenance("benchmarks.spectrum", arguments, packages)
    report = Report(
        "The largest eigenvalues: time, memory, error",
        ("SPECTRUM.md", "spectrum.json"),
        source,
        f"Rounds: {options.rounds}. {ABOUT}",
    )
    for case in map(case_named, options.only):
        with training.settings(case, options) as settings:
            for setting in settings:
                report.add(*ordinary(case, setting, options))
    if options.large:
        report.add(*large(options))
    if options.write:
        report.write()


if __name__ == "__main__":
    main(sys.argv[1:])
