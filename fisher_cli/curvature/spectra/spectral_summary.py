"""What eigenvalues and eigenvectors say: pure functions of them, each with its formula and source."""

import math

import torch
from torch import Tensor

from fisher_cli.curvature.linalg.krylov import Product
from fisher_cli.results import Estimate

# Resamplings of the examples: 200 know a standard deviation to 5 %.
REPLICATES = 200
# Rows of eigenvectors that are held in float64 at once.
ROWS_AT_ONCE = 2**18


def effective_rank(trace: float, squared_norm: float) -> float | None:
    """(tr F)²/‖F‖_F² = (Σ λ)²/Σ λ², from 1 to the rank: how many equal eigenvalues would give the same two sums.

    None for the zero matrix. Grows with the number of examples, which bounds the rank.
    Source: R_0 of Bartlett, Long, Lugosi and Tsigler 2020 (arXiv:1906.11300); the participation ratio of physics.
    """
    return trace**2 / squared_norm if squared_norm > 0 else None


def effective_dimension(values: Tensor, damping: float) -> float:
    """Σ λ/(λ + α), α > 0: the number of directions that the data determine better than a prior of precision α.

    Negative eigenvalues are rounding and count as zero.

    Args:
        values: all eigenvalues λ that are not zero, in any order.
        damping: α, on the scale of the matrix: with the mean over N examples, α = 1/N sets N F against a prior of unit
            precision.

    Source: MacKay 1992 (doi:10.1162/neco.1992.4.3.415); Maddox, Benton and Wilson 2020 (arXiv:2003.02139).
    """
    positive = values.clamp_min(0)
    return float((positive / (positive + damping)).sum())


def normalised_effective_dimension(
    values: Tensor, size: int, trace: float, examples: int, gamma: float = 1.0
) -> float | None:
    """d_eff = Σ_i ln(1 + κ λ̂_i)/ln κ, λ̂ = d λ/tr F and κ = γ n/(2π ln n): effective dimension of one θ, d parameters.

    The global quantity of its source is an average over θ; F is divided by the average trace there, here by its own.
    It can exceed d (by d ln(1 + 1/κ)/ln κ). None for the zero matrix, and where κ is not above one (n < 18 for γ = 1).

    Args:
        values: the eigenvalues λ that are not zero; those left out contribute nothing.
        size: d.
        trace: tr F.
        examples: n.
        gamma: γ in (0, 1].

    Source: Abbas et al. 2021 (arXiv:2011.00027), equation 2.
    """
    kappa = gamma * examples / (2 * math.pi * math.log(examples)) if examples > 1 else 0.0
    if not kappa > 1 or not trace > 0:
        return None
    return float((kappa * size / trace * values.double().clamp_min(0)).log1p().sum()) / math.log(kappa)


def trace_shares(values: Tensor, trace: float) -> Tensor:
    """Σ_{i≤k} λ_i / tr F for k = 1, 2, …, (k,); NaN for the zero matrix."""
    return values.cumsum(0) / (trace if trace > 0 else float("nan"))


def gap_profile(values: Tensor) -> tuple[float, ...]:
    """λ_i/λ_{i+1} for i = 1, 2, …, (k − 1,); infinite where the second is not above zero.

    A profile and not a number of outliers: how many there are depends on the network, its training and the
    threshold (Sagun et al. 2017, arXiv:1706.04454; Papyan 2020, arXiv:2008.11865; Fort and Ganguli 2019,
    arXiv:1910.05929).
    """
    return tuple(
        one / other if other > 0 else float("inf") if one > 0 else float("nan")
        for one, other in zip(values[:-1].tolist(), values[1:].tolist(), strict=True)
    )


def gradient_share(vectors: Tensor, gradient: Tensor) -> float | None:
    """‖V_kᵀ ḡ‖²/‖ḡ‖² for orthonormal V_k (P, k) and ḡ (P,): the part of the gradient in the eigenspace.

    None for a gradient of zero. Source: Gur-Ari, Roberts and Dyer 2018 (arXiv:1812.04754), for the Hessian.
    """
    length = gradient.double().square().sum()
    return float((vectors.double().T @ gradient.double()).square().sum() / length) if length > 0 else None


def subspace_overlap(vectors: Tensor, others: Tensor) -> float | None:
    """‖V_kᵀ W_l‖_F²/min(k, l) for orthonormal V_k (P, k) and W_l (P, l): 1 if one space contains the other.

    Two random spaces have k·l/(P·min(k, l)) on average. Where the eigenvalues k and k + 1 nearly agree the space is
    hardly defined, and the overlap says little.

    Args:
        vectors: V_k.
        others: W_l, on the same device.

    Returns:
        From 0 to 1; None when one of the two is empty.

    Source: Gur-Ari, Roberts and Dyer 2018 (arXiv:1812.04754), for k = l.
    """
    least = min(vectors.shape[1], others.shape[1])
    if not least:
        return None
    inner = torch.zeros(vectors.shape[1], others.shape[1], dtype=torch.float64, device=vectors.device)
    for one, other in zip(torch.split(vectors, ROWS_AT_ONCE), torch.split(others, ROWS_AT_ONCE), strict=True):
        inner += one.double().T @ other.double()
    return float(inner.square().sum()) / least


def squared_norm(
    product: Product, values: Tensor, residuals: Tensor, vectors: Tensor, *, probes: int, seed: int = 0
) -> Estimate:
    """‖F‖_F² = Σ_i ‖F v_i‖² + E ‖F P⊥ z‖², P⊥ = I − V Vᵀ and z of random signs; ‖F v_i‖² = λ_i² + ‖F v_i − λ_i v_i‖².

    Unbiased for any orthonormal V (P, k); what leads is exact, so that the error, over the probes, is that of
    the rest alone. One product each. `values` are Rayleigh quotients.
    Source: Hutchinson 1990 (doi:10.1080/03610919008812866); deflation as in Meyer et al. 2021 (arXiv:2010.09649).
    """
    generator, draws = torch.Generator().manual_seed(seed), []
    for _ in range(probes):
        signs = torch.randint(2, (len(vectors),), generator=generator, dtype=torch.int8)
        probe = signs.to(vectors.device, vectors.dtype).mul_(2).sub_(1)
        probe -= vectors @ (vectors.T @ probe)
        draws.append(product(probe).double().square().sum())
    exact = float(values.square().sum() + residuals.square().sum())
    found = torch.stack(draws)
    error = float(found.std()) / probes**0.5 if probes > 1 else None
    return Estimate(exact + float(found.mean()), None, error)


def bootstrap(
    coordinates: Tensor, columns: Tensor, examples: int, *, replicates: int = REPLICATES, seed: int = 0
) -> Tensor:
    """Eigenvalues of Vᵀ F* V for resampled data sets F* = (1/N) Σ_n w_n G_n, w multinomial: (replicates, k).

    G_n = Σ_k g_nk g_nkᵀ enters as V_kᵀ G_n V_k, so that no pass over the data is needed. The standard deviation over
    the replicates is the standard error of each eigenvalue over examples, as far as the eigenvectors beyond
    the leading k do not mix in. Eigenvalues of few examples are biased upwards; no interval is claimed.

    Args:
        coordinates: v_iᵀ g_m/√N of every column of the factor, (M, k).
        columns: the example of each column, (M,).
        examples: N.
        replicates: how many data sets.
        seed: of the weights, drawn on the CPU.

    Source: Efron and Tibshirani 1993, An Introduction to the Bootstrap, section 7.2 (eigenvalues of a covariance).
    """
    rows, columns = coordinates.double().cpu(), columns.cpu()
    count = rows.shape[1]
    each = torch.zeros(examples, count, count, dtype=torch.float64)
    for start in range(0, len(rows), 4096):
        some = rows[start : start + 4096]
        each.index_add_(0, columns[start : start + 4096], some.unsqueeze(2) * some.unsqueeze(1))
    generator = torch.Generator().manual_seed(seed)
    drawn = torch.randint(examples, (replicates, examples), generator=generator)
    weights = torch.zeros(replicates, examples, dtype=torch.float64)
    weights.scatter_add_(1, drawn, torch.ones_like(weights))
    resampled = (weights @ each.flatten(1)).reshape(replicates, count, count)
    values: Tensor = torch.linalg.eigvalsh(resampled)
    return values.flip(1)


def bootstrap_errors(
    coordinates: Tensor, columns: Tensor, examples: int, *, replicates: int = REPLICATES, seed: int = 0
) -> tuple[float, ...] | None:
    """Standard errors of the leading eigenvalues over examples, the spread of `bootstrap`; None for one example."""
    if examples < 2:
        return None
    found = bootstrap(coordinates, columns, examples, replicates=replicates, seed=seed)
    return tuple(found.std(dim=0).tolist())
