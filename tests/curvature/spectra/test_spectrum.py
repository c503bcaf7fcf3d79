"""Fisher–vector products and eigenvalues against the dense matrices of the oracle."""

from collections.abc import Callable

import pytest
import torch
from torch import nn

from fisher_cli.curvature.gradient_norms.engine import Engine
from fisher_cli.curvature.linalg.density import effective_dimension
from fisher_cli.curvature.problem.problem import TensorData, pose
from fisher_cli.curvature.products.fisher_products import empirical_product, fisher_product
from fisher_cli.curvature.spectra import eigensystems
from fisher_cli.curvature.spectra import spectrum as spectrum_module
from fisher_cli.curvature.spectra.eigensystems import matrices
from fisher_cli.curvature.spectra.solver_choice import Eigensolver
from fisher_cli.curvature.spectra.spectrum import SpectrumRequest
from fisher_cli.curvature.spectra.spectrum import spectrum as spectrum_of
from fisher_cli.curvature.traces.gradient_statistics import gradient, projections
from fisher_cli.curvature.traces.mean_gradient import MeanGradient
from fisher_cli.curvature.traces.traces import sweep
from fisher_cli.results import Density
from tests.cases import Case, case_of, mlp
from tests.conftest import problem_of, reference_of
from tests.reference import reference
from tests.spectra import empirical_eigenvalues, true_eigenvalues


def test_products_equal_the_dense_matrices(case: Case) -> None:
    problem, expected = problem_of(case), reference_of(case)
    vector = torch.randn(problem.size, generator=torch.Generator().manual_seed(0)).double()
    for product, matrix in ((fisher_product, expected.fisher), (empirical_product, expected.empirical)):
        found, truth = product(problem)(vector), matrix @ vector
        assert torch.allclose(found, truth, rtol=0, atol=1e-11 * float(truth.abs().max()))


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-10), (torch.float32, 1e-5)])
def test_eigenvalues_equal_the_dense_matrices(case: Case, dtype: torch.dtype, tolerance: float) -> None:
    problem, expected = problem_of(case, dtype), reference_of(case, dtype)
    for found, matrix in (
        (true_eigenvalues(problem, 5, tolerance=tolerance), expected.fisher),
        (empirical_eigenvalues(problem, 5, tolerance=tolerance), expected.empirical),
    ):
        truth = torch.linalg.eigvalsh(matrix).flip(0)[:5]
        assert found.converged
        assert found.values == pytest.approx(truth.tolist(), rel=0, abs=tolerance * float(truth[0]))


def test_residuals_from_a_gram_matrix_are_those_of_the_vectors_it_stands_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """For vectors that are no eigenvectors yet: v = A u / ‖A u‖ and ‖F v − θ v‖ computed at length."""
    monkeypatch.setattr(eigensystems, "WHOLE_ROWS", 0)  # so that few steps of Lanczos find u
    case = case_of("residual")
    problem, expected = problem_of(case), reference_of(case)
    for matrix, dense in zip(matrices(problem), (expected.fisher, expected.empirical), strict=True):
        found = matrix.leading(3, tolerance=0.3, route=Eigensolver.GRAM, vectors=True)
        assert found.vectors is not None
        truth = (dense @ found.vectors - found.vectors * found.values).norm(dim=0)
        assert found.residuals.tolist() == pytest.approx(truth.tolist(), rel=1e-9)
        assert float(found.residuals.max()) > 1e-4 * float(found.values[0])


def test_few_parameters_have_few_eigenvalues_and_a_note() -> None:
    model = torch.nn.Linear(1, 2).double()
    problem = pose(model, TensorData(torch.randn(5, 1).double(), torch.tensor([0, 1, 0, 1, 1])))
    found = true_eigenvalues(problem, 10)
    assert len(found.values) == 4
    assert "6 eigenvalues do not exist" in found.note


def test_projections_on_a_vector_are_those_of_the_per_example_gradients(case: Case) -> None:
    problem = problem_of(case)
    swept = sweep(problem)
    found = projections(swept.engine, swept.gradient)
    # mean_n g_nᵀ ḡ = ‖ḡ‖² exactly.
    assert float(found.mean()) == pytest.approx(float(swept.mean_gradient.square().sum()), rel=1e-10)
    vector = torch.randn(problem.size, generator=torch.Generator().manual_seed(3)).double()
    for n, value in enumerate(projections(swept.engine, MeanGradient(problem, vector)).tolist()):
        batch = problem.slice(n, n + 1)
        outputs = problem.forward(batch.inputs)
        score = problem.likelihood.observed_score(outputs.detach(), batch.labels)
        assert value == pytest.approx(float(problem.pull_back(outputs, score) @ vector), rel=1e-9, abs=1e-12)


def test_gradient_statistics_equal_their_definitions() -> None:
    case = case_of("mlp")
    problem, expected = problem_of(case), reference_of(case)
    swept = sweep(problem)
    squares = torch.tensor(swept.trace.per_example_empirical).double()
    found = gradient(swept.engine, swept.gradient, squares)
    norm = float(expected.mean_gradient.square().sum())
    assert found.norm_squared == pytest.approx(norm)
    assert found.covariance == pytest.approx(float(expected.empirical.trace()) - norm)


def test_the_signal_to_noise_ratio_of_few_examples_equals_its_definition() -> None:
    """(‖ḡ‖² − s²/N)/s² with s² = Σ ‖g_n − ḡ‖² / (N − 1); with five examples the bias of the plain ratio is a fifth."""
    torch.manual_seed(1)
    model, x, y = mlp(3, 4, 3).double(), 1 + 0.3 * torch.randn(5, 3).double(), torch.zeros(5).long()
    rows = []
    for example in range(5):
        loss = torch.nn.functional.cross_entropy(model(x[example : example + 1]), y[example : example + 1])
        rows.append(torch.cat([g.reshape(-1) for g in torch.autograd.grad(loss, list(model.parameters()))]))
    gradients = torch.stack(rows)
    mean = gradients.mean(0)
    spread = float((gradients - mean).square().sum()) / 4
    problem = pose(model, TensorData(x, y), batch_size=2)
    found = gradient(Engine(problem), MeanGradient(problem, mean), gradients.square().sum(1))
    assert found.signal_to_noise is not None
    assert found.signal_to_noise.value == pytest.approx((float(mean.square().sum()) - spread / 5) / spread, rel=1e-12)


def signal_of(examples: int, seed: int) -> tuple[float, float]:
    """SNR and its error for a weak network on one draw of data; labels depend on the inputs."""
    torch.manual_seed(7)
    model = mlp(3, 2).double()
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(examples, 3, generator=generator).double()
    problem = pose(model, TensorData(x, (x[:, 0] > 0).long()), batch_size=1000)
    swept = sweep(problem, verify=False)
    found = gradient(swept.engine, swept.gradient, torch.tensor(swept.trace.per_example_empirical).double())
    assert found.signal_to_noise is not None
    assert found.signal_to_noise.standard_error is not None
    return found.signal_to_noise.value, found.signal_to_noise.standard_error


def test_the_error_of_the_signal_to_noise_ratio_is_its_spread_over_draws_of_data() -> None:
    draws = [signal_of(200, seed) for seed in range(60)]
    values = torch.tensor([value for value, _ in draws])
    predicted = torch.tensor([error for _, error in draws]).mean()
    # 60 draws know the spread to 9 %; three times that, both ways.
    assert float(values.std() / predicted) == pytest.approx(1.0, abs=0.28)
    # … and the ratio is unbiased: the mean over draws agrees with that of a large sample.
    truth, _ = signal_of(20_000, 99)
    assert float(values.mean()) == pytest.approx(truth, abs=4 * float(values.std()) / 60**0.5)


class _Padded(nn.Module):
    """An embedding by function, whose padding row has a forward derivative and no backward one; mostly convolution."""

    def __init__(self) -> None:
        super().__init__()
        self.rows, self.head = nn.Parameter(torch.randn(6, 4)), nn.Linear(4, 3)
        self.conv = nn.Conv1d(4, 4, 9, padding=4)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        x = nn.functional.embedding(ids, self.rows, padding_idx=5).transpose(1, 2)
        result: torch.Tensor = self.head(torch.tanh(self.conv(x).sum(2)))
        return result


def test_padding_that_only_later_examples_have_is_no_part_of_a_product() -> None:
    torch.manual_seed(0)
    model, ids, labels = _Padded().double(), torch.randint(0, 5, (8, 3)), torch.randint(0, 3, (8,))
    ids[4:, 0] = 5
    problem = pose(model, TensorData(ids, labels))
    v, truth = torch.randn(problem.size).double(), reference(model, ids, labels).fisher
    assert torch.allclose(fisher_product(problem)(v), truth @ v, rtol=1e-10, atol=1e-12 * float(truth.trace()))


@pytest.mark.parametrize("examples", [4, 40])
def test_a_density_knows_the_zeros_that_few_columns_leave(examples: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Eight columns of 75 parameters, and eighty, of which symmetries leave seventeen zeros that nobody counts.

    These are found where the smallest node is, as all zeros were if the question were put to vectors of length P; the
    range that a quadrature leaves to the share has them.
    """
    torch.manual_seed(0)
    model, x = mlp(5, 8, 3).double(), torch.randn(examples, 5).double()
    labels = torch.randint(0, 3, (examples,))
    problem = pose(model, TensorData(x, labels))
    truth = torch.linalg.eigvalsh(reference(model, x, labels).fisher).clamp_min(0)
    question = SpectrumRequest(2, tolerance=1e-10, full=True, whole=False, probes=30, steps=30, damping=0.01)

    def asked() -> Density:
        found, _ = spectrum_of(matrices(problem)[0], question, float(truth.sum()))
        assert found.density is not None
        return found.density

    assert problem.size == 75
    density = asked()
    assert density.null == max(0, 75 - 2 * examples)
    assert density.size == 75
    zeros = float((truth < density.floor).double().mean())
    first = next(index for index, place in enumerate(density.grid) if place >= density.floor)
    least, most = density.cumulative_range[first]
    assert least <= zeros <= most
    if examples == 4:
        assert density.zeros.value == pytest.approx(zeros, abs=1e-12)
        assert not density.zeros.estimator_error
    expected = float((truth / (truth + 0.01)).sum())
    for found in (density, asked_of_parameters(asked, monkeypatch)):
        estimate = effective_dimension(found, 0.01)
        assert estimate.value == pytest.approx(expected, rel=1e-6, abs=4 * (estimate.estimator_error or 0))


def asked_of_parameters(asked: Callable[[], Density], monkeypatch: pytest.MonkeyPatch) -> Density:
    """The same with vectors of length P, whatever the number of columns."""
    monkeypatch.setattr(spectrum_module, "density_vectors", lambda *_: (75, torch.float64, False))
    found = asked()
    assert found.null == 0
    return found
