"""The empirical Fisher against the true one, by inner products and by matrix products, against dense matrices."""

import math

import pytest
import torch
from torch import Tensor, nn

from fisher_cli.curvature.comparison import frobenius
from fisher_cli.curvature.comparison.natural_gradient import conjugate_gradients
from fisher_cli.curvature.comparison.null_distribution import null_distribution
from fisher_cli.curvature.comparison.true_and_empirical import ComparisonRequest, compare
from fisher_cli.curvature.gradient_norms.engine import Engine
from fisher_cli.curvature.problem.problem import TensorData, pose
from fisher_cli.curvature.spectra import score_gram
from fisher_cli.curvature.traces.traces import sweep
from tests.cases import Case, case_of, mlp
from tests.conftest import problem_of, reference_of

F64 = torch.float64
DAMPING = 0.01


def cosine(a: Tensor, b: Tensor) -> float:
    return float((a * b).sum() / (a.norm() * b.norm()))


def top(matrix: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Leading eigenvalues, and the eigenvectors of those above zero."""
    values, vectors = torch.linalg.eigh(matrix)
    values, vectors = values.flip(0)[:count], vectors.flip(1)[:, :count]
    return values, vectors[:, values > 1e-12 * values[0]]


def damped(matrix: Tensor, gradient: Tensor, damping: float) -> Tensor:
    return torch.linalg.solve(matrix + damping * torch.eye(len(matrix), dtype=F64), gradient)


@pytest.mark.parametrize("gram", [True, False], ids=["gram", "products"])
def test_everything_agrees_with_dense_matrices(case: Case, gram: bool) -> None:
    expected = reference_of(case)
    f, e, g = expected.fisher, expected.empirical, expected.mean_gradient
    damping = DAMPING * float(torch.linalg.eigvalsh(f)[-1])
    comparison_request = ComparisonRequest(2, damping, draws=3, tolerance=1e-10)
    found, values = compare(sweep(problem_of(case)), comparison_request, gram=gram)
    assert found.method == ("gram" if gram else "products")
    ratio = float(e.trace() / f.trace())
    assert found.difference.value == pytest.approx(float(e.trace() - f.trace()), rel=1e-9, abs=1e-12)
    assert found.z == pytest.approx(found.difference.value / (found.null_deviation or 0) / float(f.trace()), rel=1e-9)
    one, other = damped(f, g, damping), damped(e, g, damping)
    assert found.natural_gradient is not None
    assert found.natural_gradient.value.value == pytest.approx(cosine(one, other), rel=1e-7)
    assert found.gradient_true == pytest.approx(cosine(one, g), rel=1e-7)
    assert found.gradient_empirical == pytest.approx(cosine(other, g), rel=1e-7)
    assert found.residual < 2e-8
    (true_values, v), (empirical_values, w) = top(f, 2), top(e, 2)
    assert values[0].values == pytest.approx(true_values.tolist(), rel=1e-7)
    assert values[1].values == pytest.approx(empirical_values.tolist(), rel=1e-7)
    if abs(float(torch.linalg.eigvalsh(f)[-3] / true_values[1]) - 1) > 1e-3:
        assert found.overlap is not None
        overlap = float((v.T @ w).square().sum()) / min(v.shape[1], w.shape[1])
        assert found.overlap.value.value == pytest.approx(overlap, rel=1e-5, abs=1e-8)
    assert ratio == pytest.approx(found.difference.value / float(f.trace()) + 1)
    exact = [float(f.norm()), float(e.norm()), float((f * e).sum()), float((e - f).norm() / f.norm()), cosine(f, e)]
    estimates = [
        found.norm_true,
        found.norm_empirical.value,
        found.inner_product.value,
        found.difference_norm.value if found.difference_norm else None,
        found.cosine.value if found.cosine else None,
    ]
    for estimate, number in zip(estimates, exact, strict=True):
        assert estimate is not None
        if gram:
            assert estimate.value == pytest.approx(number, rel=1e-8)
            assert estimate.estimator_error == 0.0
        else:
            assert estimate.estimator_error is not None
            assert abs(estimate.value - number) < 5 * estimate.estimator_error + 1e-9 * abs(number)


def test_labels_drawn_from_the_model_have_the_nulls_in_closed_form() -> None:
    """Over 400 sets of labels: E⟨F, F̂⟩ = ‖F‖², E‖F̂ − F‖² and E tr F̂ within four standard errors, and Var tr F̂."""
    torch.manual_seed(5)
    model, x = mlp(4, 6, 3).double(), torch.randn(12, 4, dtype=F64)
    engine = Engine(pose(model, TensorData(x, torch.randint(0, 3, (12,)))))
    gram, expected = score_gram.collect(engine, draws=400), null_distribution(engine)
    norm = gram.squared_norm()
    rows = []
    for chosen in gram.drawn:
        labels = gram.labels(chosen)
        true, empirical, inner = frobenius.exact(gram, labels, norm).values.tolist()
        rows.append([inner, true + empirical - 2 * inner, empirical, float(labels.gram.trace())])
    draws = torch.tensor(rows, dtype=F64)
    means = [norm, expected.scatter, norm + expected.scatter, float(expected.traces.mean())]
    scale = draws.std(0) / 20
    assert bool(((draws.mean(0) - torch.tensor(means, dtype=F64)).abs() < 4 * scale).all())
    assert float(draws[:, 3].var()) == pytest.approx(expected.variance, rel=0.3)


def test_the_nulls_of_the_command_are_means_and_spreads_of_the_draws() -> None:
    torch.manual_seed(5)
    model, x = mlp(4, 6, 3).double(), torch.randn(15, 4, dtype=F64)
    problem = pose(model, TensorData(x, torch.randint(0, 3, (15,))), batch_size=4)
    found, _ = compare(sweep(problem), ComparisonRequest(2, DAMPING, draws=5, seed=3))
    gram = score_gram.collect(Engine(problem), draws=5, seed=3)
    fisher = gram.labels(gram.observed)  # of its form; the dense matrix comes from the definition below
    assert len(fisher.gram) == 15
    z = problem.forward(x).detach()
    jacobians = torch.func.jacrev(lambda p: torch.func.functional_call(model, p, (x,)))(dict(model.named_parameters()))
    j = torch.cat([jacobians[name].flatten(2) for name, _ in model.named_parameters()], 2).detach()
    p = z.softmax(1)
    dense = torch.einsum("ncp,ncd,ndq->pq", j, torch.diag_embed(p) - p.unsqueeze(2) * p.unsqueeze(1), j) / 15
    y = problem.data.labels
    gradient = torch.einsum("ncp,nc->p", j, p - nn.functional.one_hot(y, 3)) / 15
    cosines, differences = [], []
    for chosen in gram.drawn:
        # A label's score has its own −(1 − p) where the others have p: read off which label it is.
        labels = _labels_of(gram, chosen, z, y)
        scores = torch.einsum("ncp,nc->np", j, p - nn.functional.one_hot(labels, 3))
        drawn = scores.T @ scores / 15
        cosines.append(cosine(damped(dense, gradient, DAMPING), damped(drawn, gradient, DAMPING)))
        differences.append(float((drawn - dense).norm() / dense.norm()))
    assert found.natural_gradient is not None
    assert found.difference_norm is not None
    assert found.natural_gradient.null == pytest.approx(sum(cosines) / 5, rel=1e-8)
    assert found.natural_gradient.null_deviation == pytest.approx(float(torch.tensor(cosines).double().std()), rel=1e-6)
    assert found.difference_norm.null_deviation == pytest.approx(
        float(torch.tensor(differences).double().std()), rel=1e-6
    )
    assert found.draws == 5
    ratio = null_distribution(Engine(problem)).scatter / float(dense.norm()) ** 2
    assert found.difference_norm.null == pytest.approx(math.sqrt(ratio))
    assert found.cosine is not None
    assert found.cosine.null == pytest.approx(1 / math.sqrt(1 + ratio))


def _labels_of(gram: score_gram.ScoreGram, chosen: Tensor, outputs: Tensor, observed: Tensor) -> Tensor:
    """Which labels these coordinates belong to, by comparing with those of every label."""
    from fisher_cli.curvature.problem.likelihoods import Softmax
    from fisher_cli.curvature.spectra.label_coordinates import coordinates

    directions = coordinates(Softmax(), outputs, observed).directions
    scores = torch.einsum("nk,knc->nc", chosen, directions)
    assert len(gram.weights) == len(scores)
    return scores.argmin(1)


def test_true_and_empirical_are_one_where_every_input_has_every_label() -> None:
    """At even odds, and with each input once under each label, F̂ = F exactly: distance 0, cosines 1, overlap 1."""
    torch.manual_seed(1)
    model = nn.Linear(4, 3).double()
    nn.init.zeros_(model.weight)
    nn.init.zeros_(model.bias)
    x = torch.randn(5, 4, dtype=F64).repeat_interleave(3, 0)
    problem = pose(model, TensorData(x, torch.arange(3).repeat(5)))
    found, _ = compare(sweep(problem), ComparisonRequest(2))
    assert found.difference_norm is not None
    assert found.cosine is not None
    assert found.overlap is not None
    assert found.difference_norm.value.value < 1e-7
    assert found.cosine.value.value == pytest.approx(1)
    assert found.overlap.value.value == pytest.approx(1)
    assert found.inverse_product is not None
    assert found.inverse_product.value.value == pytest.approx(found.inverse_product.null)
    assert found.natural_gradient is None  # the mean gradient is zero


def test_probes_beside_the_leading_eigenvectors_have_the_error_that_they_state() -> None:
    """Two hundred seeds of eight probes each: mean within four errors, and the predicted error the measured one."""
    torch.manual_seed(2)
    left, right = torch.randn(12, 5, dtype=F64), torch.randn(12, 7, dtype=F64)
    a, b = left @ left.T, right @ right.T
    basis = frobenius.basis(top(a, 2)[1], top(b, 2)[1])
    assert basis.shape[1] == 4
    found = [
        frobenius.probed(lambda v: a @ v, lambda v: b @ v, basis, probes=8, seed=seed).difference for seed in range(200)
    ]
    values = torch.tensor([each.value for each in found if each], dtype=F64)
    errors = torch.tensor([each.estimator_error for each in found if each], dtype=F64)
    truth = float((b - a).norm() / a.norm())
    assert abs(float(values.mean()) - truth) < 4 * float(values.std()) / 200**0.5 + 0.01 * truth
    assert float(errors.square().mean().sqrt() / values.std()) == pytest.approx(1, abs=0.2)
    assert frobenius.basis(basis, basis).shape == basis.shape
    whole = frobenius.basis(torch.eye(12, dtype=F64))
    exact = frobenius.probed(lambda v: a @ v, lambda v: b @ v, whole, probes=2)  # nothing is left to the probes
    assert exact.values.tolist() == pytest.approx([float(a.norm()) ** 2, float(b.norm()) ** 2, float((a * b).sum())])


def test_conjugate_gradients_say_how_far_they_came() -> None:
    torch.manual_seed(3)
    factor = torch.randn(30, 20, dtype=F64) * torch.logspace(0, -3, 20, dtype=F64)
    matrix, right = factor @ factor.T, torch.randn(30, dtype=F64)
    done = conjugate_gradients(lambda v: matrix @ v, right, 1e-3, tolerance=1e-10)
    assert done.residual < 1e-10
    assert torch.allclose(done.vector, damped(matrix, right, 1e-3), rtol=1e-7)
    early = conjugate_gradients(lambda v: matrix @ v, right, 1e-3, tolerance=1e-10, maximum=3)
    rest = matrix @ early.vector + 1e-3 * early.vector - right
    assert early.residual == pytest.approx(float(rest.norm() / right.norm()))
    assert early.residual > 1e-3
    assert early.products == 4
    assert conjugate_gradients(lambda v: matrix @ v, 0 * right, 1e-3, tolerance=1e-10).residual == 0


def test_a_zero_fisher_is_said_and_not_divided_by() -> None:
    """Logits so far apart that every p is 0 or 1 to the last digit of float64, and all labels right."""
    model = nn.Linear(2, 2).double()
    with torch.no_grad():
        model.weight.copy_(torch.tensor([[5000.0, 0], [0, 5000]]))
        model.bias.zero_()
    problem = pose(model, TensorData(torch.eye(2).double(), torch.tensor([0, 1])))
    for gram in (True, False):
        found, values = compare(sweep(problem), ComparisonRequest(1), gram=gram)
        assert found.verdict.finding == "zero"
        assert found.difference_norm is found.cosine is found.natural_gradient is found.overlap is None
        assert found.ratio_interval is None
        assert values[0].values == (0.0,)


def test_fewer_examples_than_eigenvalues_leave_zeros() -> None:
    torch.manual_seed(3)
    problem = pose(mlp(6, 8, 3).double(), TensorData(torch.randn(2, 6).double(), torch.tensor([0, 2])))
    _, (true, empirical) = compare(sweep(problem), ComparisonRequest(6))
    assert true.values[4:] == (0.0, 0.0)
    assert empirical.values[2:] == (0.0,) * 4
    assert true.values[3] > 0


def test_layers_add_up_and_have_their_own_null() -> None:
    problem = problem_of(case_of("mlp"))
    swept = sweep(problem)
    found, _ = compare(swept, ComparisonRequest(1))
    expected = null_distribution(Engine(problem)).layers
    assert sum(layer.true.value for layer in found.layers) == pytest.approx(swept.trace.true.value)
    for layer in found.layers:
        deviation = math.sqrt(expected[layer.name])
        assert layer.null_deviation == pytest.approx(deviation / layer.true.value)
        assert layer.z == pytest.approx((layer.empirical.value - layer.true.value) / deviation)
        assert layer.ratio == pytest.approx(layer.empirical.value / layer.true.value)


def test_in_float32_the_figures_are_those_of_float64() -> None:
    case = case_of("residual")
    for gram in (True, False):
        double, _ = compare(sweep(problem_of(case)), ComparisonRequest(2), gram=gram)
        single, _ = compare(sweep(problem_of(case, torch.float32)), ComparisonRequest(2), gram=gram)
        for name in ("difference_norm", "cosine", "natural_gradient"):
            one, other = getattr(double, name), getattr(single, name)
            assert other.value.value == pytest.approx(one.value.value, rel=2e-3)
            assert other.null == pytest.approx(one.null, rel=2e-3) if one.null else other.null is None


def test_deflated_and_sampled_traces_put_their_error_into_z() -> None:
    torch.manual_seed(4)
    problem = pose(mlp(6, 9, 7).double(), TensorData(torch.randn(20, 6).double(), torch.randint(0, 7, (20,))))
    exact, _ = compare(sweep(problem), ComparisonRequest(1))
    swept = sweep(problem, estimator="sampled", samples=3)
    error = swept.trace.true.estimator_error
    assert error
    found, _ = compare(swept, ComparisonRequest(1))
    deviation = math.hypot(math.sqrt(null_distribution(Engine(problem)).variance), error)
    assert found.z == pytest.approx((swept.trace.empirical.value - swept.trace.true.value) / deviation)
    assert abs(found.z or 0) < 10 + abs(exact.z or 0)
