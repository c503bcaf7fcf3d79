"""Eigenvalues, what they say, and how they are distributed."""

from dataclasses import dataclass
from enum import StrEnum

from fisher_cli.results.traces import Estimate


@dataclass(frozen=True, slots=True)
class Eigenvalues:
    """The largest eigenvalues, in descending order, each with its explicit residual ‖Fv − θv‖.

    `method` says how they were found; `converged` whether every residual is below tolerance · θ₁;
    `products` how many matrix–vector products it took; `note` what a reader should know, else "".
    """

    values: tuple[float, ...]
    residuals: tuple[float, ...]
    method: str
    converged: bool
    products: int
    note: str = ""


class SpectralAxis(StrEnum):
    """The axis on which a density of eigenvalues is shown."""

    LOGARITHMIC = "logarithmic"
    LINEAR = "linear"


@dataclass(frozen=True, slots=True, kw_only=True)
class Density:
    """The distribution of all P = `size` eigenvalues λ of one matrix, from the quadratures of random probes.

    nodes, weights: per probe, with Σ_j w_j f(θ_j) + (Σ f(exact) + null · f(0)) / P ≈ tr f / P; `exact` are eigenvalues
    known already, and `null` is the number of those that are zero because the matrix has too few columns for others.
    zeros: share of the eigenvalues below `floor`, which the curve leaves out.
    grid, density: share of the eigenvalues per decade (logarithmic axis) or per unit of λ (linear), each of them a
    Gaussian with the standard deviation `width` in that unit; the curve's integral and `zeros` add up to one.
    cumulative: share of the eigenvalues ≤ λ, not broadened, with its standard error over probes (None for one
    probe); cumulative_range: what it can be at least and at most, given these probes.
    """

    size: int
    axis: SpectralAxis
    width: float
    floor: float
    zeros: Estimate
    grid: tuple[float, ...]
    density: tuple[float, ...]
    cumulative: tuple[float, ...]
    cumulative_error: tuple[float, ...] | None
    cumulative_range: tuple[tuple[float, float], ...]
    nodes: tuple[tuple[float, ...], ...]
    weights: tuple[tuple[float, ...], ...]
    exact: tuple[float, ...]
    products: int
    null: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Spectrum:
    """The eigenvalues λ of the true or the empirical Fisher, all or the leading ones, and what they say.

    values: the leading ones and, where `is_whole`, all others above `floor`, below which an eigenvalue cannot be told
    from zero; no true one exceeds its value by more than `bound`. shares: Σ_{i≤k} λ_i / tr for each of them.
    gaps: λ_i/λ_{i+1} of the leading. errors: their standard errors over examples, by bootstrap.
    effective_rank: (Σ λ)²/Σ λ², from `norm_probes` random vectors where Σ λ² is not known exactly;
    effective_dimension: Σ λ/(λ + `damping`). normalised_dimension: Σ ln(1 + κ d λ/tr F)/ln κ of this one θ,
    κ = n/(2π ln n) for n = `examples`, where all eigenvalues are known.
    gradient_share: ‖V_kᵀ ḡ‖²/‖ḡ‖² of the leading eigenvectors; overlap: ‖V_kᵀ W_l‖_F²/min(k, l) with those
    of the checkpoint before. products: those beyond `leading.products`.
    """

    matrix: str
    parameters: int
    leading: Eigenvalues
    values: tuple[float, ...]
    is_whole: bool
    floor: float
    bound: float
    trace: float
    shares: tuple[float, ...]
    gaps: tuple[float, ...]
    damping: float
    errors: tuple[float, ...] | None = None
    effective_rank: Estimate | None = None
    norm_probes: int = 0
    effective_dimension: Estimate | None = None
    normalised_dimension: float | None = None
    gradient_share: float | None = None
    overlap: float | None = None
    density: Density | None = None
    products: int = 0
    notes: tuple[str, ...] = ()
    examples: int | None = None

    @property
    def rank(self) -> int | None:
        """The number of eigenvalues above the floor; None where not all are known."""
        return sum(value > self.floor for value in self.values) if self.is_whole else None
