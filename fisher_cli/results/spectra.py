"""Eigenvalues, what they say, and how they are distributed."""

from dataclasses import dataclass
from enum import StrEnum

from fisher_cli.results.traces import Estimate


@dataclass(frozen=True, slots=True)
class Eigenvalues:
    """The largest eigenvalues of a Fisher, each with its explicit residual.

    Attributes:
        values: θ_1 ≥ θ_2 ≥ …, (k,), in 1/weight².
        residuals: ‖Fv − θv‖ of each value, (k,), for unit vectors v.
        method: how they were found: `gram`, `gram-leading`, `dense`, `lanczos` or `lanczos-dual`.
        converged: whether every residual is below tolerance · θ_1, and the search for overlooked ones came to its end.
        products: how many matrix–vector products it took.
        note: what a reader should know, else "".
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
    """The distribution of all P eigenvalues λ of one matrix, from the quadratures of random probes.

    A sum over eigenvalues is tr f/P ≈ Σ_j w_j f(θ_j) + (Σ f(exact) + null · f(0))/P, averaged over the probes.

    Attributes:
        size: P.
        axis: logarithmic or linear; the unit of `density` and `width` depends on it.
        width: standard deviation of the Gaussian that stands for an eigenvalue, in decades (logarithmic) or as a
            difference of λ (linear).
        floor: the λ below which an eigenvalue counts as zero.
        zeros: share of the eigenvalues below `floor`, which the curve leaves out.
        grid: the λ of the points of the curve, ascending, (G,).
        density: share of the eigenvalues per decade (logarithmic) or per unit of λ (linear), (G,). The integral of the
            curve and `zeros` add up to one.
        cumulative: share of the eigenvalues ≤ λ, not broadened, (G,).
        cumulative_error: its standard error over probes, (G,); None for one probe.
        cumulative_range: what it can be at least and at most, given these probes, (G, 2).
        nodes: the θ_j of each probe.
        weights: the w_j of each probe, in the same order.
        exact: eigenvalues that were known already and are no part of the quadratures.
        products: how many matrix–vector products it took.
        null: how many eigenvalues are zero because the matrix has too few columns for others.

    Source: Ubaru, Chen and Saad 2017 (doi:10.1137/16M1104974); Ghorbani, Krishnan and Xiao 2019 (arXiv:1901.10159).
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

    Attributes:
        matrix: `true` or `empirical`.
        parameters: P, the number of rows of the matrix.
        leading: the largest eigenvalues with their residuals, (k,).
        values: the leading ones and, where `is_whole`, all others above `floor`, in descending order, in 1/weight².
        is_whole: whether all eigenvalues were found.
        floor: below it an eigenvalue cannot be told from zero.
        bound: no true eigenvalue exceeds its value by more than this; 0 where no columns were left out.
        trace: tr F or tr F̂, to which the shares are relative.
        shares: Σ_{i≤j} λ_i/tr for each j of `values`; NaN for the zero matrix.
        gaps: λ_i/λ_{i+1} of the leading ones, (k − 1,); infinite where the second is not above zero.
        damping: the α of the effective dimension.
        errors: standard errors of the leading ones over examples, by bootstrap; None where not known.
        effective_rank: (Σ λ)²/Σ λ².
        norm_probes: how many random vectors estimate Σ λ²; 0 where it is known exactly.
        effective_dimension: Σ λ/(λ + α); None where neither all eigenvalues nor their density are known.
        normalised_dimension: Σ ln(1 + κ d λ/tr F)/ln κ of this one θ, with κ = n/(2π ln n), n = `examples` and d = P;
            None where not all eigenvalues are known.
        gradient_share: ‖V_kᵀ ḡ‖²/‖ḡ‖² of the leading eigenvectors.
        overlap: ‖V_kᵀ W_l‖_F²/min(k, l) with the leading eigenvectors W_l of the checkpoint before.
        density: how the eigenvalues are distributed, where not all of them are known.
        products: matrix–vector products beyond `leading.products`.
        notes: remarks that do not make the row fail.
        examples: N.
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
