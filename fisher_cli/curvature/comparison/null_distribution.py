"""What the empirical Fisher would show if the dataset's labels came from the model itself: its null.

Then F̂ = (1/N) Σ_n g_n g_nᵀ has independent terms with E g_n g_nᵀ = F_n, the example's part of the true Fisher, and
moments in closed form from the inner products of the score gradients of each example alone.
"""

import math
from dataclasses import dataclass, field

import torch
from torch import Tensor

from fisher_cli.curvature.gradient_norms.engine import Engine
from fisher_cli.curvature.gradient_norms.grad_factors import Contribution
from fisher_cli.curvature.gradient_norms.joint_norms import joined
from fisher_cli.curvature.gradient_norms.score_gradients import explicit
from fisher_cli.curvature.problem.problem import Problem
from fisher_cli.curvature.spectra.label_coordinates import coordinates, drawn_scores
from fisher_cli.errors import VerificationError

# Up to so many outputs all labels are summed over: as many passes as the exact trace takes.
EXACT_OUTPUTS = 32
# Beyond, so many labels are drawn per example.
LABELS = 16
# What two ways to the same trace may differ by, relative: the inner products are of the network's precision.
AGREEMENT = {torch.float32: 1e-3, torch.float64: 1e-9}


@dataclass(frozen=True)
class NullDistribution:
    """Moments of F̂ under labels drawn from the model.

    Attributes:
        method: `exact` or `sampled S=…`.
        traces: tr F_n = E‖g_n‖², (N,).
        fourth: E‖g_n‖⁴, (N,).
        variance: Var tr F̂ = (1/N²) Σ_n Var ‖g_n‖².
        scatter: E‖F̂ − F‖_F² = (1/N²) Σ_n E‖g_n g_nᵀ − F_n‖_F².
        layers: the variance of each parameter's part of tr F̂, by name.
    """

    method: str
    traces: Tensor
    fourth: Tensor
    variance: float
    scatter: float
    layers: dict[str, float]

    @property
    def carriers(self) -> float:
        """(Σ_n tr F_n)²/Σ_n E‖g_n‖⁴: how many equal terms would scatter like those of tr F̂; NaN for the zero matrix."""
        total = float(self.fourth.sum())
        return float(self.traces.sum()) ** 2 / total if total > 0 else math.nan


@dataclass
class _Sums:
    traces: list[Tensor] = field(default_factory=list)
    fourth: list[Tensor] = field(default_factory=list)
    variance: float = 0.0
    scatter: float = 0.0
    layers: dict[str, float] = field(default_factory=dict)


@torch.inference_mode(mode=False)
def null_distribution(engine: Engine, *, seed: int = 0, labels: int | None = None) -> NullDistribution:
    """Var tr F̂ = (1/N²) Σ_n Σ_c p_c (‖g_c‖² − tr_n)² and E‖F̂ − F‖_F² under labels drawn from the model.

    Exact up to 32 outputs, from inner products of the gradients of the root's columns: one forward pass and the
    backward passes of the exact trace, whose norms become products, (C − 1)² values per example and parameter. Beyond,
    16 labels are drawn per example, by size, and all three are unbiased estimates.

    Args:
        engine: of the problem.
        seed: of the labels drawn.
        labels: how many to draw per example, at least two; None for the rule above.

    Source: Soen and Sun 2021 (arXiv:2107.04205), there for estimates of F with one drawn label per example.
    """
    problem, sums = engine.problem, _Sums()
    if labels is None and problem.outputs > EXACT_OUTPUTS:
        labels = LABELS
    for batch in problem.batches():
        evaluated = engine.evaluate(batch)
        outputs, likelihood = evaluated.outputs.detach(), problem.likelihood
        scores = (
            coordinates(likelihood, outputs, batch.labels)
            if labels is None
            else drawn_scores(likelihood, outputs, batch.start, labels, seed)
        )
        number = len(scores.directions)
        total = torch.zeros(len(batch), number, number, dtype=torch.float64, device=outputs.device)
        with torch.no_grad():
            for name, parts in evaluated.contributions(scores.directions):
                products = inner_products(parts, problem.parameters[name].shape)
                sums.layers[name] = sums.layers.get(name, 0.0) + float(scores.moments(products)[1].sum())
                total += products
        trace, variance, scatter = scores.moments(total)
        sums.traces.append(trace)
        sums.fourth.append(variance + trace.square())
        sums.variance += float(variance.sum())
        sums.scatter += float(scatter.sum())
    return _summarised(problem, sums, "exact" if labels is None else f"sampled S={labels}")


def _summarised(problem: Problem, sums: _Sums, method: str) -> NullDistribution:
    count = problem.examples**2
    # Unbiased estimates of what is next to zero may be negative.
    layers = {name: max(sums.layers.get(name, 0.0), 0.0) / count for name in problem.parameters}
    return NullDistribution(
        method,
        torch.cat(sums.traces),
        torch.cat(sums.fourth),
        max(sums.variance, 0.0) / count,
        max(sums.scatter, 0.0) / count,
        layers,
    )


def inner_products(parts: list[Contribution] | Tensor, shape: torch.Size) -> Tensor:
    """(Jᵀv_k)ᵀ(Jᵀv_k') of one parameter for all pairs of directions, (B, K, K) in float64."""
    one = None if isinstance(parts, Tensor) else joined(parts)
    if one is not None:
        return one.gram()
    gradients = explicit(parts, shape).transpose(0, 1)
    return (gradients @ gradients.mT).double()


def require_agreement(found: NullDistribution, traces: Tensor, dtype: torch.dtype) -> None:
    """Hold the traces of an exact null against those of the sweep, (N,), example by example.

    Raises:
        VerificationError: they differ by more than the network's precision explains.
    """
    if found.method != "exact":
        return
    difference = float((found.traces - traces.to(found.traces)).abs().max())
    largest = float(traces.max())
    if not difference <= AGREEMENT[dtype] * largest:
        msg = (
            f"the inner products of the score gradients give tr F of an example that differs by {difference:.3g} from "
            f"the {largest:.3g} of their norms: the null of the empirical Fisher cannot be trusted; please report it"
        )
        raise VerificationError(msg)
