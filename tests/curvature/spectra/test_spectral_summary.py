"""What eigenvalues say, against constructed truths and dense matrices."""

import math

import pytest
import torch
from torch import Tensor

from fisher_cli.curvature.problem.problem import TensorData, pose
from fisher_cli.curvature.spectra import eigensystems, spectrum
from fisher_cli.curvature.spectra.eigensystems import Matrix, matrices
from fisher_cli.curvature.spectra.solver_choice import Eigensolver
from fisher_cli.curvature.spectra.spectral_summary import (
    bootstrap,
    bootstrap_errors,
    effective_dimension,
    effective_rank,
    gap_profile,
    gradient_share,
    squared_norm,
    subspace_overlap,
    trace_shares,
)
from fisher_cli.curvature.spectra.spectrum import SpectrumRequest
from tests.cases import mlp

F64 = torch.float64


def orthogonal(size: int, seed: int = 0) -> Tensor:
    return torch.linalg.qr(torch.randn(size, size, generator=torch.Generator().manual_seed(seed), dtype=F64))[0]


def with_eigenvalues(values: list[float], seed: int = 0) -> tuple[Tensor, Tensor]:
    """A matrix of these eigenvalues and its eigenvectors."""
    vectors = orthogonal(len(values), seed)
    return vectors @ torch.diag(torch.tensor(values, dtype=F64)) @ vectors.T, vectors


@pytest.mark.parametrize("rank", [1, 3, 7])
def test_the_effective_rank_of_equal_eigenvalues_is_their_number(rank: int) -> None:
    matrix, _ = with_eigenvalues([2.5] * rank + [0.0] * (9 - rank))
    found = effective_rank(float(matrix.trace()), float(matrix.square().sum()))
    assert found == pytest.approx(rank, rel=1e-12)
    assert effective_rank(0.0, 0.0) is None


def test_the_effective_dimension_is_a_trace_of_the_matrix_and_its_inverse() -> None:
    """Σ λ/(λ + α) = P − α tr (F + αI)⁻¹."""
    values = [30.0, 4.0, 1.0, 0.2, 1e-3, 0.0, 0.0]
    matrix, _ = with_eigenvalues(values)
    for damping in (1e-4, 0.01, 1.0, 100.0):
        inverse = torch.linalg.inv(matrix + damping * torch.eye(7, dtype=F64))
        truth = 7 - damping * float(inverse.trace())
        assert effective_dimension(torch.tensor(values, dtype=F64), damping) == pytest.approx(truth, rel=1e-9)
    assert effective_dimension(torch.tensor([1.0, -1e-9]), 1e-12) == pytest.approx(1.0)


def test_shares_and_gaps_are_ratios() -> None:
    values = torch.tensor([6.0, 3.0, 1.0, 0.0, 0.0], dtype=F64)
    assert trace_shares(values, 10.0).tolist() == pytest.approx([0.6, 0.9, 1.0, 1.0, 1.0])
    assert gap_profile(values)[:2] == (2.0, 3.0)
    assert gap_profile(values)[2] == math.inf
    assert math.isnan(gap_profile(values)[3])
    assert bool(trace_shares(values * 0, 0.0).isnan().all())
    assert gap_profile(values[:1]) == ()


def test_the_gradients_share_is_one_inside_the_space_and_zero_outside() -> None:
    vectors = orthogonal(8)
    inside, outside = vectors[:, :3] @ torch.tensor([1.0, -2.0, 0.5], dtype=F64), vectors[:, 5]
    assert gradient_share(vectors[:, :3], inside) == pytest.approx(1.0, rel=1e-12)
    assert gradient_share(vectors[:, :3], outside) == pytest.approx(0.0, abs=1e-25)
    mixed = 3 * inside / inside.norm() + 4 * outside
    assert gradient_share(vectors[:, :3], mixed) == pytest.approx(9 / 25, rel=1e-12)
    assert gradient_share(vectors[:, :3], 0 * inside) is None


def test_the_overlap_counts_common_directions_whatever_the_basis() -> None:
    vectors, turn = orthogonal(8), orthogonal(3, seed=1)
    assert subspace_overlap(vectors[:, :3], vectors[:, :3] @ turn) == pytest.approx(1.0, rel=1e-12)
    assert subspace_overlap(vectors[:, :3], vectors[:, 3:6]) == pytest.approx(0.0, abs=1e-25)
    assert subspace_overlap(vectors[:, :4], vectors[:, 3:7]) == pytest.approx(1 / 4, rel=1e-12)
    assert subspace_overlap(vectors[:, :2], vectors[:, :5]) == pytest.approx(1.0, rel=1e-12)
    assert subspace_overlap(vectors[:, :0], vectors[:, :5]) is None


def test_the_squared_norm_by_probes_is_exact_where_nothing_is_left_and_unbiased_elsewhere() -> None:
    values = torch.tensor([9.0, 5.0, 2.0, 1.0, 0.5, 0.3, 0.1, 0.0], dtype=F64)
    matrix, vectors = with_eigenvalues(values.tolist())
    truth, none = float(values.square().sum()), torch.zeros(8, dtype=F64)
    whole = squared_norm(lambda v: matrix @ v, values, none, vectors, probes=3)
    assert whole.value == pytest.approx(truth, rel=1e-12)
    draws = [
        squared_norm(lambda v: matrix @ v, values[:2], none[:2], vectors[:, :2], probes=8, seed=s) for s in range(300)
    ]
    errors = torch.tensor([each.estimator_error for each in draws], dtype=F64)
    spread = float(torch.tensor([each.value - truth for each in draws], dtype=F64).square().mean().sqrt())
    assert sum(each.value for each in draws) / 300 == pytest.approx(truth, abs=4 * spread / 300**0.5)
    # 300 draws know the spread to 4 %; the errors are over 8 probes, which are not normal.
    assert float(errors.square().mean().sqrt()) == pytest.approx(spread, rel=0.15)
    # Any orthonormal vectors will do: the explicit residuals complete ‖F v‖².
    wrong = orthogonal(8, seed=5)[:, :3]
    quotients = (wrong * (matrix @ wrong)).sum(0)
    rest = (matrix @ wrong - wrong * quotients).norm(dim=0)
    found = [squared_norm(lambda v: matrix @ v, quotients, rest, wrong, probes=50, seed=s) for s in range(40)]
    mean = sum(each.value for each in found) / 40
    error = sum((each.estimator_error or 0.0) ** 2 for each in found) ** 0.5 / 40
    assert mean == pytest.approx(truth, abs=4 * error)


def test_the_bootstrap_of_one_score_per_example_is_that_of_the_projected_matrix() -> None:
    """Against the definition: columns drawn again, the matrix made anew, projected and decomposed."""
    generator = torch.Generator().manual_seed(3)
    columns = torch.randn(40, 6, generator=generator, dtype=F64) * torch.tensor([3, 2, 1, 0.5, 0.2, 0.1], dtype=F64)
    matrix = columns.T @ columns / 40
    vectors = torch.linalg.eigh(matrix).eigenvectors.flip(1)[:, :3]
    found = bootstrap(columns @ vectors / 40**0.5, torch.arange(40), 40, replicates=25, seed=4)
    drawn = torch.randint(40, (25, 40), generator=torch.Generator().manual_seed(4))
    for one, chosen in zip(found, drawn, strict=True):
        again = columns[chosen].T @ columns[chosen] / 40
        truth = torch.linalg.eigvalsh(vectors.T @ again @ vectors).flip(0)
        assert torch.allclose(one, truth, rtol=1e-12)
    assert bootstrap_errors(columns[:1] @ vectors, torch.zeros(1).long(), 1) is None


@pytest.mark.parametrize("route", [Eigensolver.LANCZOS, Eigensolver.DUAL, Eigensolver.DENSE])
def test_the_errors_are_the_same_by_every_route(route: Eigensolver, monkeypatch: pytest.MonkeyPatch) -> None:
    """Coordinates from a Gram matrix, and from a pass over the data per eigenvector; none without eigenvectors."""
    torch.manual_seed(2)
    data = TensorData(torch.randn(30, 4, dtype=F64), torch.randint(3, (30,)))
    question = SpectrumRequest(3, tolerance=1e-9, full=True, whole=False, probes=1, steps=4)

    def errors(matrix: Matrix, route: Eigensolver) -> tuple[float, ...] | None:
        monkeypatch.setattr(eigensystems, "choose_eigensolver", lambda *_, **__: route)
        found, _ = spectrum.spectrum(matrix, question, 1.0)
        assert found.leading.method == route.value
        return found.errors

    for matrix in matrices(pose(mlp(4, 6, 3).double(), data, batch_size=7)):
        expected = errors(matrix, Eigensolver.GRAM)
        assert expected is not None
        assert errors(matrix, route) == pytest.approx(expected, rel=1e-6)
        with monkeypatch.context() as patch:
            patch.setattr(spectrum, "vectors_fit", lambda *_: False)
            assert errors(matrix, route) is None


def test_the_bootstraps_errors_are_the_spread_of_eigenvalues_over_data_sets() -> None:
    """λ₁ … λ₃ of one network on sixty independent data sets: predicted error against what it measures."""
    torch.manual_seed(2)
    model = mlp(4, 6, 3).double()
    values, errors = [], []
    for seed in range(60):
        generator = torch.Generator().manual_seed(100 + seed)
        inputs = torch.randn(150, 4, generator=generator, dtype=F64)
        labels = torch.randint(3, (150,), generator=generator)
        true, _ = matrices(pose(model, TensorData(inputs, labels), batch_size=150))
        found = true.leading(6, route=Eigensolver.GRAM)
        assert found.coordinates is not None
        assert found.examples is not None
        values.append(found.values[:3])
        errors.append(bootstrap_errors(found.coordinates, found.examples, 150, seed=seed))
    spread = torch.stack(values).std(0)
    predicted = torch.tensor([each[:3] for each in errors if each], dtype=F64).square().mean(0).sqrt()
    # Sixty data sets know a spread to 9 %; three times that, both ways.
    assert (predicted / spread).tolist() == pytest.approx([1.0] * 3, abs=0.28)
