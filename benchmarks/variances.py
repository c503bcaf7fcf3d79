"""The variance of the sampled-label and the deflated estimator of tr F, checkpoint by checkpoint.

That of sampled labels is exact; that of the deflated estimator is what it states, mean over many seeds.
"""

import argparse
import math
import statistics
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from benchmarks.engine import STANDARD_ERRORS
from benchmarks.harness import Answer, ask, number, required, say, table
from fisher_cli.curvature.gradient_norms.engine import Engine
from fisher_cli.curvature.problem.likelihoods import Softmax
from fisher_cli.curvature.problem.output_scores import unit_scale
from fisher_cli.curvature.problem.problem import Problem, TensorData, pose
from fisher_cli.curvature.traces.traces import sweep
from fisher_cli.inputs.checkpoints.checkpoints import find_checkpoints, load_checkpoint
from fisher_cli.inputs.data.datasets import load_examples
from fisher_cli.inputs.networks.networks import Networks
from fisher_cli.settings import Resources, Settings

SAMPLES = Path(__file__).parent.parent / "sample_checkpoints"
LABELS = "labels.csv"
EARLY_GOAL, LATE_GOAL = 10, 300
SHARE_GOAL = 0.1
# Two exact computations of a trace in float32 agree to this relative difference.
AGREEMENT = 1e-4


@dataclass(frozen=True)
class Checkpoints:
    """A run's files, the network's name where they do not say it, and the data."""

    folder: Path
    data: str = "digits"
    model: str | None = None
    normalize: str | None = None
    labels: str | None = None


@dataclass
class EstimateRow:
    """One checkpoint: variances are of one example's term, N times those of the mean.

    sampled: exact, of one label; deflated: as stated, mean over seeds; passes: its backward passes, all scores.
    ratio: sampled / (deflated · passes), a label being one pass. z: (deflated − exact) / its own standard error, by
    seed; share: the first seed's error as a share of that over examples.
    """

    run: str
    checkpoint: str
    trace: float = math.nan
    sampled: float = math.nan
    deflated: float = math.nan
    passes: int = 0
    z: list[float] = field(default_factory=list)
    share: float = math.nan
    relative_difference: float = math.nan
    ratio: float = math.nan
    failure: str | None = None

    def verdict(self) -> str:
        """Whether the first seed is within the errors that it states."""
        if self.failure is not None:
            return self.failure
        if self.deflated == 0:
            good = self.relative_difference <= AGREEMENT
            return f"{'' if good else 'wrong: '}whole root, {self.relative_difference:.0e} from exact"
        if not self.z or not all(map(math.isfinite, [*self.z, self.ratio])):
            return "wrong: NaN"
        return "right" if abs(self.z[0]) <= STANDARD_ERRORS else f"wrong: {abs(self.z[0]):.1f} of its standard errors"


def sampled_variance(problem: Problem) -> tuple[float, float]:
    """mean_n Σ_c p_c (‖J_nᵀ s_c‖² − tr_n)², tr_n = Σ_c p_c ‖J_nᵀ s_c‖², and mean_n tr_n: one label's variance, tr F."""
    likelihood, engine = problem.likelihood, Engine(problem)
    assert isinstance(likelihood, Softmax)
    variances: list[Tensor] = []
    traces: list[Tensor] = []
    for batch in problem.batches():
        evaluated = engine.evaluate(batch)
        p, complement = likelihood.probabilities(evaluated.outputs.detach())
        scores = -p.unsqueeze(1).repeat(1, p.shape[1], 1)
        scores.diagonal(dim1=1, dim2=2).copy_(complement)
        unit, scale = unit_scale(scores.transpose(0, 1))
        norms = torch.stack(list(evaluated.norms(unit.to(evaluated.outputs.dtype)).values())).sum(0) * scale**2
        trace = (p.T * norms).sum(0)
        traces.append(trace)
        variances.append((p.T * (norms - trace).square()).sum(0))
    return float(torch.cat(variances).mean()), float(torch.cat(traces).mean())


def estimate(problem: Problem, row: EstimateRow, seeds: int) -> EstimateRow:
    """The row filled in.

    Raises:
        ArithmeticError: the exact trace depends on the root it is computed with.
    """
    truth = sweep(problem).trace.true
    row.trace, (row.sampled, again) = truth.value, sampled_variance(problem)
    if abs(again - truth.value) > AGREEMENT * truth.value:
        msg = f"tr F is {truth.value:.6g} by the engine's root and {again:.6g} by the scores of all labels"
        raise ArithmeticError(msg)
    squares = []
    for seed in range(seeds):
        swept = sweep(problem, estimator="deflated", seed=seed, verify=False)
        found, row.passes = swept.trace.true, swept.ledger.directions
        error = math.nan if found.estimator_error is None else found.estimator_error
        squares.append(error**2)
        row.z.append((found.value - truth.value) / error if error else 0.0)
        if seed == 0:
            row.share = error / (truth.standard_error or math.nan)
            row.relative_difference = abs(found.value - truth.value) / truth.value
    row.deflated = statistics.fmean(squares) * problem.examples
    row.ratio = row.sampled / (row.deflated * row.passes) if row.deflated else math.inf
    return row


def estimate_run(source: Checkpoints, examples: int, seeds: int, most: int | None) -> Answer:
    """All checkpoints of a run, or the first and the last few."""
    chosen = load_examples(
        Settings(data=source.data, limit=examples, labels=source.labels, normalize=source.normalize), Resources()
    )
    data = TensorData(*chosen.batch(0, len(chosen)))
    networks, files, rows = Networks(source.model, {}), find_checkpoints([source.folder]), []
    for file in files if most is None else [*files[: most - 1], files[-1]]:
        row = EstimateRow(source.folder.name, file.name)
        try:
            checkpoint = load_checkpoint(file)
            module = networks.load(networks.architecture(checkpoint), checkpoint)
            rows.append(estimate(pose(module, data), row, seeds))
        except Exception as error:
            row.failure = f"fails: {type(error).__name__}: {error}"
            rows.append(row)
    return {"rows": [asdict(row) for row in rows]}


def variance(options: argparse.Namespace) -> Iterator[tuple[str, list[EstimateRow]]]:
    """A section for every run."""
    for source in sources(options):
        say(f"{source.folder.name}: variance")
        answer = ask(estimate_run, source, options.examples, options.seeds, 2 if options.quick else None)
        found = required(answer, f"{source.folder.name} cannot be measured")["rows"]
        rows = [EstimateRow(**fields) for fields in found]
        yield variance_section(source, rows, options.examples, options.seeds), rows


def sources(options: argparse.Namespace) -> list[Checkpoints]:
    """The sample checkpoints, and what was given."""
    folders = sorted({file.parent for file in SAMPLES.glob("*/*.pt")})
    found = [
        Checkpoints(folder, labels=str(folder / LABELS) if (folder / LABELS).exists() else None) for folder in folders
    ]
    if options.checkpoints is not None:
        found.append(Checkpoints(options.checkpoints, options.data, options.model, options.normalize))
    return found


def variance_section(source: Checkpoints, rows: Sequence[EstimateRow], examples: int, seeds: int) -> str:
    """The table of a run and what it says about the goals."""
    columns = ["checkpoint", "tr F", "passes", "variance ratio", "difference, own s.e.", "over seeds"]
    lines = []
    for row in rows:
        exactly = row.deflated == 0
        spread = math.sqrt(statistics.fmean([z**2 for z in row.z])) if row.z else math.nan
        cells = [number([row.ratio], 3), "—" if exactly else number([abs(z) for z in row.z[:1]], 2)]
        cells += ["—" if exactly else number([spread], 2), number([row.share], 2), row.verdict()]
        lines.append([row.checkpoint, f"{row.trace:.3g}", f"{row.passes}", *cells])
    found = table(
        f"{source.folder.name}: N = {examples}, {seeds} seeds",
        [*columns, "its s.e. / that over examples", "verdict:"],
        lines,
    )
    good = [row for row in rows if row.failure is None]
    if not good:
        return found
    shares = [row.share for row in good]
    return (
        f"{found}\n\nVariance ratio early {number([good[0].ratio], 3)} (goal {EARLY_GOAL}), late "
        f"{number([good[-1].ratio], 3)} (goal {LATE_GOAL}); standard error as a share of that over examples: median "
        f"{number(shares, 2)}, largest {number([max(shares)], 2)} (goal about {SHARE_GOAL})."
    )
