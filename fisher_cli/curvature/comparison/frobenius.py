"""‖F‖, ‖F̂‖ and ⟨F, F̂⟩ in the Frobenius norm, and what follows from them: how far apart the two matrices are."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from fisher_cli.curvature.linalg.krylov import Product
from fisher_cli.curvature.spectra.score_gram import LabelSet, ScoreGram
from fisher_cli.results import Estimate

# Random vectors for what the deflated subspace leaves: each costs a product with both matrices.
PROBES = 16


@dataclass(frozen=True)
class SquaredNorms:
    """‖F‖_F², ‖F̂‖_F² and ⟨F, F̂⟩, each an exact part and the mean of random ones.

    exact: (3,). probes: (probes, 3), none where all is exact.
    """

    exact: Tensor
    probes: Tensor

    @property
    def values(self) -> Tensor:
        """The three numbers, (3,)."""
        return self.exact + self.probes.mean(0) if len(self.probes) else self.exact

    def _estimate(self, value: float, slopes: tuple[float, float, float]) -> Estimate:
        """A function of the three with the delta method's error over the probes, which share their randomness."""
        if not len(self.probes):
            return Estimate(value)
        if len(self.probes) < 2:
            return Estimate(value, None, None)
        moved = self.probes @ torch.tensor(slopes, dtype=self.probes.dtype)
        return Estimate(value, None, float(moved.std()) / len(self.probes) ** 0.5)

    @property
    def norm_true(self) -> Estimate:
        """‖F‖_F."""
        norm = math.sqrt(max(float(self.values[0]), 0.0))
        return self._estimate(norm, (0.5 / norm if norm else 0.0, 0.0, 0.0))

    @property
    def norm_empirical(self) -> Estimate:
        """‖F̂‖_F."""
        norm = math.sqrt(max(float(self.values[1]), 0.0))
        return self._estimate(norm, (0.0, 0.5 / norm if norm else 0.0, 0.0))

    @property
    def inner_product(self) -> Estimate:
        """⟨F, F̂⟩ = tr F F̂."""
        return self._estimate(float(self.values[2]), (0.0, 0.0, 1.0))

    @property
    def difference(self) -> Estimate | None:
        """‖F̂ − F‖_F/‖F‖_F; None where F is zero."""
        true, empirical, inner = self.values.tolist()
        if not true > 0:
            return None
        value = math.sqrt(max(true + empirical - 2 * inner, 0.0) / true)
        slope = 0.5 / (value * true) if value else 0.0
        return self._estimate(value, (slope * (1 - value**2), slope, -2 * slope))

    @property
    def cosine(self) -> Estimate | None:
        """⟨F, F̂⟩/(‖F‖_F ‖F̂‖_F), from 0 to 1; None where a matrix is zero."""
        true, empirical, inner = self.values.tolist()
        if not (true > 0 and empirical > 0):
            return None
        value = inner / math.sqrt(true * empirical)
        return self._estimate(value, (-value / 2 / true, -value / 2 / empirical, value / inner if inner else 0.0))


def exact(gram: ScoreGram, labels: LabelSet, squared_norm: float) -> SquaredNorms:
    """‖F‖_F², ‖F̂‖_F² and ⟨F, F̂⟩ from the inner products of the score gradients; `squared_norm` is ‖F‖_F²."""
    values = [squared_norm, float(labels.gram.square().sum()), gram.inner_product(labels)]
    return SquaredNorms(torch.tensor(values, dtype=torch.float64), torch.zeros(0, 3, dtype=torch.float64))


def probed(true: Product, empirical: Product, vectors: Tensor, *, probes: int = PROBES, seed: int = 0) -> SquaredNorms:
    """tr AB = Σ_i (A v_i)ᵀ(B v_i) + E (A P⊥z)ᵀ(B P⊥z) for A, B out of F, F̂; P⊥ = I − V Vᵀ, z of random signs.

    Unbiased for any orthonormal V (P, k); with the leading eigenvectors of both matrices in it the error is that of
    what they leave. All three numbers share their probes. k + `probes` products with each matrix.
    Source: Hutchinson 1990 (doi:10.1080/03610919008812866); deflation as in Meyer et al. 2021 (arXiv:2010.09649).
    """

    def squares(vector: Tensor) -> Tensor:
        one, other = true(vector).double(), empirical(vector).double()
        return torch.stack([one @ one, other @ other, one @ other]).cpu()

    generator = torch.Generator().manual_seed(seed)
    known = torch.zeros(3, dtype=torch.float64)
    for vector in vectors.T:
        known += squares(vector.contiguous())
    draws = []
    for _ in range(probes):
        signs = torch.randint(2, (len(vectors),), generator=generator, dtype=torch.int8)
        probe = signs.to(vectors.device, vectors.dtype).mul_(2).sub_(1)
        probe -= vectors @ (vectors.T @ probe)
        draws.append(squares(probe))
    return SquaredNorms(known, torch.stack(draws))


def basis(*spaces: Tensor) -> Tensor:
    """An orthonormal basis of the sum of some spaces of orthonormal columns, (P, k) in float64."""
    joint = torch.cat([space.double() for space in spaces], 1)
    if not joint.shape[1]:
        return joint
    left, values, _ = torch.linalg.svd(joint, full_matrices=False)
    found: Tensor = left[:, values > 1e-6]
    return found


@dataclass(frozen=True)
class NullNorms:
    """What labels drawn from the model would show: √(E‖F̂ − F‖_F²)/‖F‖_F and ‖F‖_F/√(E‖F̂‖_F²).

    E⟨F, F̂⟩ = ‖F‖_F² and E‖F̂‖_F² = ‖F‖_F² + E‖F̂ − F‖_F², so that the latter is the cosine of the expected numbers.
    """

    difference: float
    cosine: float


def null_squares(squared_norm: float, scatter: float) -> NullNorms | None:
    """From ‖F‖_F² and E‖F̂ − F‖_F²; None where F is zero."""
    if not squared_norm > 0:
        return None
    ratio = scatter / squared_norm
    return NullNorms(math.sqrt(ratio), 1 / math.sqrt(1 + ratio))
