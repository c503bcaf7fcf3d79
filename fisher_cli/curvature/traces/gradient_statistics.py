"""The mean gradient against the spread of the per-example gradients."""

import torch
from torch import Tensor

from fisher_cli.curvature.gradient_norms.engine import Engine
from fisher_cli.curvature.problem.moments import mean_of
from fisher_cli.curvature.problem.output_scores import empirical_scores
from fisher_cli.curvature.traces.mean_gradient import MeanGradient
from fisher_cli.results import Estimate, Gradient


def projections(engine: Engine, mean_gradient: MeanGradient) -> Tensor:
    """g_nᵀ ḡ for the observed score's gradients g_n = J_nᵀ s_y, (N,) in float64.

    One forward and one backward pass; layer by layer, so that neither a gradient nor a second ḡ is made.
    """
    problem, parts = engine.problem, []
    # The mean gradient is there beside the batch by now.
    size = max(1, problem.batch_size // 2) if problem.is_large else problem.batch_size
    for batch in mean_gradient.reading(problem.batches(size)):
        evaluated = engine.evaluate(batch)
        outputs = evaluated.outputs.detach()
        direction, amplitude = empirical_scores(problem.likelihood, outputs, batch.labels)
        parts.append((evaluated.project(direction, mean_gradient.part) * amplitude)[0])
    return problem.process_group.gather(parts)


def two_batch_estimates(small_norm: float, large_norm: float, small: int, large: int) -> tuple[float, float]:
    """|G|² and tr Σ without bias, from squared gradient norms at two batch sizes b < B, each a mean over batches.

    |G|² = (B|G_B|² − b|G_b|²)/(B − b) and tr Σ = (|G_b|² − |G_B|²)/(1/b − 1/B). With b = 1 and B = N over one set of
    examples they are ‖ḡ‖² − s²/N and s² = Σ_n ‖g_n − ḡ‖²/(N − 1). |G|² may come out below zero.

    Source: McCandlish et al. 2018 (arXiv:1812.06162), appendix A.1.
    """
    squared = (large * large_norm - small * small_norm) / (large - small)
    return squared, (small_norm - large_norm) / (1 / small - 1 / large)


@torch.inference_mode(mode=False)
def gradient(engine: Engine, mean_gradient: MeanGradient, squared_norms: Tensor) -> Gradient:
    """‖ḡ‖², tr Σ = mean ‖g_n‖² − ‖ḡ‖², and the signal-to-noise ratio (‖ḡ‖² − s²/N)/s², s² = N/(N − 1) · tr Σ.

    The ratio's error is the delta method's over examples: with m = ‖ḡ‖² and e = mean ‖g_n‖² the ratio is (N − 1)/N ·
    m/(e − m) − 1/N, and example n moves m by 2(ḡᵀg_n − m) and e by ‖g_n‖² − e.

    Args:
        engine: that of the network and its examples; one pass is made over them where the ratio is above zero.
        mean_gradient: ḡ.
        squared_norms: ‖g_n‖², (N,) in float64.

    Returns:
        `signal_to_noise` is None for one example, and where it is not above zero or not defined.

    Source: McCandlish et al. 2018 (arXiv:1812.06162), appendix A, for the unbiased form. Their noise scale B_simple is
    the inverse of the ratio.
    """
    n = len(squared_norms)
    m, e = mean_gradient.squared_norm(), float(squared_norms.mean())
    covariance = e - m
    if n < 2 or covariance <= 0:
        return Gradient(m, max(covariance, 0.0), None)
    squared, spread = two_batch_estimates(e, m, 1, n)
    value = squared / spread
    if not value > 0:
        return Gradient(m, covariance, None)
    moved_m = 2 * (projections(engine, mean_gradient) - m)
    moved_e = squared_norms - e
    influence = (n - 1) / n * (moved_m * e - m * moved_e) / covariance**2
    error = mean_of(influence).standard_error
    return Gradient(m, covariance, Estimate(value, error))
