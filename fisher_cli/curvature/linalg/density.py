"""The density of all eigenvalues of any symmetric positive semidefinite product, by stochastic Lanczos quadrature.

Knows nothing of Fisher. Each random probe turns into a Gauss quadrature of its spectral measure
(Golub and Welsch 1969, doi:10.1090/S0025-5718-69-99647-1); averages over probes estimate the spectrum's
(Ubaru, Chen and Saad 2017, doi:10.1137/16M1104974; Ghorbani, Krishnan and Xiao 2019, arXiv:1901.10159).
"""

import math
import statistics
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from fisher_cli.curvature.linalg.krylov import BlockedBasis, Operator, Product, chain, orthonormal, random_direction
from fisher_cli.curvature.linalg.lanczos import Eigenpairs
from fisher_cli.results import Density, Estimate, SpectralAxis

# Standard deviation of the Gaussian that stands for an eigenvalue: in decades on the logarithmic axis, as a share of
# the largest eigenvalue on the linear one. The second is that of Ghorbani, Krishnan and Xiao for a range of one,
# σ² = 1e-5; theirs, σ² = 1e-5 · max(1, range), depends on the unit of the eigenvalues, and ours does not.
WIDTHS = {SpectralAxis.LOGARITHMIC: 0.1, SpectralAxis.LINEAR: math.sqrt(1e-5)}
# The grid goes this many standard deviations beyond the eigenvalues.
MARGIN = 4
# An eigenvalue below this share of the largest counts as zero, and in any case one below so many units of rounding.
FLOOR, ROUNDING = 1e-8, 100


@dataclass(frozen=True)
class _Measure:
    """The spectral measure of one probe: nodes θ ascending and weights w, (m,), Σ w f(θ) ≈ share · qᵀ f(A) q."""

    nodes: Tensor
    weights: Tensor

    def cumulative(self, grid: Tensor) -> Tensor:
        """Its mass at or below each grid value, and the least and the most that it can be, (3, G).

        With c nodes at or below λ, the mass lies between the weights of the first c − 1 and the first c + 1.
        Source: inequalities of Chebyshev, Markov and Stieltjes, Szegő 1975, Orthogonal Polynomials, section 3.41.
        """
        sums = torch.cat([torch.zeros(1, dtype=torch.float64), self.weights.cumsum(0)])
        counts = torch.searchsorted(self.nodes, grid, right=True)
        return torch.stack([sums[counts], sums[(counts - 1).clamp(min=0)], sums[(counts + 1).clamp(max=len(sums) - 1)]])


def _gauss(alphas: tuple[float, ...], betas: tuple[float, ...], share: float) -> _Measure:
    """The Gauss quadrature of the tridiagonal T: its eigenvalues, and the squares of their first components."""
    off = torch.diag(torch.tensor(betas, dtype=torch.float64), 1)
    nodes, vectors = torch.linalg.eigh(torch.diag(torch.tensor(alphas, dtype=torch.float64)) + off + off.T)
    return _Measure(nodes, share * vectors[0].square())


def _measures(operator: Operator, rows: BlockedBasis, probes: int, steps: int, seed: int, total: int) -> list[_Measure]:
    """Of independent probes orthogonal to the rows, as shares of so many eigenvalues; none when they span the space."""
    generator = torch.Generator().manual_seed(seed)
    outside, found = len(rows), []
    for _ in range(probes):
        direction = random_direction(rows, generator)
        if direction is None:
            break
        rows.append(direction)
        found.append(_gauss(*chain(operator, rows, steps), (rows.size - outside) / total))
        rows.truncate(outside)
    return found


def _grid(axis: SpectralAxis, floor: float, top: float, width: float, points: int) -> Tensor:
    """Evenly spaced on the axis, from MARGIN widths below the floor to as much above the top; none of nothing."""
    if top <= 0:
        return torch.zeros(0, dtype=torch.float64)
    if axis is SpectralAxis.LINEAR:
        return torch.linspace(floor - MARGIN * width, top + MARGIN * width, points, dtype=torch.float64)
    low, high = math.log10(floor) - MARGIN * width, math.log10(top) + MARGIN * width
    return 10 ** torch.linspace(low, high, points, dtype=torch.float64)


def _curve(axis: SpectralAxis, grid: Tensor, atoms: Tensor, masses: Tensor, width: float) -> Tensor:
    """Σ mass · Gaussian of the distance on the axis, in masses per unit of the axis."""
    place = torch.log10 if axis is SpectralAxis.LOGARITHMIC else torch.clone
    distance = (place(grid).unsqueeze(1) - place(atoms)) / width
    return (-0.5 * distance.square()).exp() @ masses / (width * math.sqrt(2 * math.pi))


def _positive(values: Tensor, least: float) -> Tensor:
    """Which values do not count as zero."""
    return (values >= least) & (values > 0)


def _cumulative(
    measures: list[_Measure], exact: Tensor, null: int, total: int, grid: Tensor
) -> tuple[Tensor, Tensor | None]:
    """Share of eigenvalues ≤ λ with the range that the quadratures leave to it, (3, G), and its error over probes."""
    known = ((exact.unsqueeze(1) <= grid).double().sum(0) + null * (grid >= 0)) / total
    if not measures:
        return known.expand(3, -1), torch.zeros_like(grid)
    draws = torch.stack([measure.cumulative(grid) for measure in measures])
    if len(draws) == 1:
        return draws[0] + known, None
    mean = draws.mean(0)
    squares = (draws[:, 0] - mean[0]).square().sum(0)
    return mean + known, (squares / (len(draws) * (len(draws) - 1))).sqrt()


def _mean(draws: list[float], exact: float) -> Estimate:
    """The mean over probes plus what is exact, with the standard error of the mean."""
    if not draws:
        return Estimate(exact)
    error = statistics.stdev(draws) / math.sqrt(len(draws)) if len(draws) > 1 else None
    return Estimate(statistics.fmean(draws) + exact, None, error)


def density(
    product: Product,
    size: int,
    *,
    probes: int = 10,
    steps: int = 60,
    seed: int = 0,
    points: int = 1000,
    width: float | None = None,
    axis: SpectralAxis = SpectralAxis.LOGARITHMIC,
    floor: float | None = None,
    locked: Eigenpairs | None = None,
    null: int = 0,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float64,
) -> Density:
    """The distribution of the P eigenvalues, (1/P) Σ_i δ(λ − λ_i) ≈ mean over probes of Σ_j w_j δ(λ − θ_j).

    The θ_j and w_j of a probe q give qᵀAᵏq exactly for k ≤ 2m − 1 after m steps. Probes are uniform on the unit sphere:
    the mean of qᵀf(A)q is tr f(A) / P, and errors depend on A by its eigenvalues only. Locked eigenpairs enter exactly,
    and the probes are orthogonal to them, so that outliers are free of sampling noise; their residuals ρ add an error
    of order ρ² / gap. Costs probes · steps products.

    Args:
        product: v (P,) ↦ Av (P,).
        size: P.
        probes: independent random vectors; standard errors are over them.
        steps: of Lanczos per probe, m; the memory is as many vectors.
        seed: of the probes, drawn on the CPU so that every device starts alike.
        points: of the grid.
        width: of the Gaussian that stands for an eigenvalue, in decades or as a share of λ₁; default WIDTHS.
        axis: logarithmic (density per decade) or linear (density per unit of λ).
        floor: share of λ₁ below which an eigenvalue counts as zero; default FLOOR, in float32 1.2e-5.
        locked: eigenpairs to take as exact.
        null: so many more eigenvalues that are zero for certain: those of AAᵀ that AᵀA lacks. Left to the quadrature,
            they would be found where its smallest node is.
        device: where the vectors live.
        dtype: of the vectors.

    Returns:
        Density of P + `null` eigenvalues; what counts as zero is in `zeros` and not in the curve.

    Raises:
        NumericalError: a product is NaN or infinite.

    Source: Golub and Welsch 1969 (doi:10.1090/S0025-5718-69-99647-1); Ubaru, Chen and Saad 2017
    (doi:10.1137/16M1104974); Ghorbani, Krishnan and Xiao 2019 (arXiv:1901.10159).
    """
    rows = orthonormal(None if locked is None else locked.vectors, size, dtype, device)
    exact = torch.zeros(0, dtype=torch.float64) if locked is None else locked.values
    operator, total = Operator(product), size + null
    measures = _measures(operator, rows, probes, steps, seed, total)
    atoms = torch.cat([exact, *(measure.nodes for measure in measures)])
    masses = torch.cat([torch.full_like(exact, 1 / total), *(measure.weights / len(measures) for measure in measures)])
    top = max(float(atoms.max()), 0.0)
    least = top * (floor or max(FLOOR, ROUNDING * torch.finfo(dtype).eps))
    spread = (width or WIDTHS[axis]) * (top if axis is SpectralAxis.LINEAR else 1)
    grid = _grid(axis, least, top, spread, points)
    shown, dark = _positive(atoms, least), [~_positive(measure.nodes, least) for measure in measures]
    zeros = [float(measure.weights[zero].sum()) for measure, zero in zip(measures, dark, strict=True)]
    cumulative, error = _cumulative(measures, exact, null, total, grid)
    return Density(
        size=total,
        axis=axis,
        width=spread,
        floor=least,
        zeros=_mean(zeros, (float((~_positive(exact, least)).sum()) + null) / total),
        grid=tuple(grid.tolist()),
        density=tuple(_curve(axis, grid, atoms[shown], masses[shown], spread).tolist()),
        cumulative=tuple(cumulative[0].tolist()),
        cumulative_error=None if error is None else tuple(error.tolist()),
        cumulative_range=tuple(zip(cumulative[1].tolist(), cumulative[2].tolist(), strict=True)),
        nodes=tuple(tuple(measure.nodes.tolist()) for measure in measures),
        weights=tuple(tuple(measure.weights.tolist()) for measure in measures),
        exact=tuple(exact.tolist()),
        products=operator.used,
        null=null,
    )


def spectral_sum(density: Density, function: Callable[[float], float]) -> Estimate:
    """tr f(A) = Σ_i f(λ_i) ≈ P · mean over probes of Σ_j w_j f(θ_j) + Σ f(given eigenvalues).

    Unbiased for polynomials up to degree 2m − 1, else with the error of the quadrature besides; f must take
    eigenvalues that are negative by rounding. The estimator's error is over probes, None with one of them.
    Source: Ubaru, Chen and Saad 2017 (doi:10.1137/16M1104974).
    """
    draws = [
        density.size * math.fsum(weight * function(node) for node, weight in zip(nodes, weights, strict=True))
        for nodes, weights in zip(density.nodes, density.weights, strict=True)
    ]
    return _mean(draws, math.fsum(map(function, density.exact)) + (density.null * function(0.0) if density.null else 0))


def effective_dimension(density: Density, damping: float) -> Estimate:
    """Σ λ_i / (λ_i + α), the number of directions that data at damping α > 0 determine.

    Negative nodes and eigenvalues are rounding and count as zero.

    Args:
        density: of A, P eigenvalues.
        damping: α, in the unit of the eigenvalues.

    Returns:
        The estimate; its estimator error is over the probes, None with one of them, and 0 where the exact eigenvalues
        are all. It has no error over examples.

    Source: MacKay 1992 (doi:10.1162/neco.1992.4.3.415); Maddox, Benton and Wilson 2020 (arXiv:2003.02139).
    """
    return spectral_sum(density, lambda value: max(value, 0.0) / (max(value, 0.0) + damping))
