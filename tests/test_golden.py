"""Exact identities and golden numbers that need no training: T1–T5, G1, G2 of the Fisher literature."""

import pytest
import torch
from sklearn import datasets
from torch import Tensor, nn

from fisher_cli.curvature.problem import Problem, TensorData, pose
from fisher_cli.curvature.spectrum import empirical_eigenvalues, true_eigenvalues
from fisher_cli.curvature.traces import sweep
from tests.cases import CASES
from tests.conftest import problem_of, reference_of
from tests.reference import reference


def table(name: str) -> tuple[Tensor, Tensor]:
    bunch = getattr(datasets, f"load_{name}")()
    return torch.tensor(bunch.data).double(), torch.tensor(bunch.target).long()


def zero_linear(name: str) -> tuple[Problem, Tensor]:
    x, y = table(name)
    model = nn.Linear(x.shape[1], int(y.max()) + 1).double()
    nn.init.zeros_(model.weight)
    nn.init.zeros_(model.bias)
    return pose(model, TensorData(x, y)), x


@pytest.mark.parametrize(
    ("name", "trace", "largest", "copies"),
    [
        ("iris", 43.0635111111, 20.78339848, 2),
        ("wine", 444825.02914, 221947.0666, 2),
        ("digits", 3460.17145242, 267.7543838, 9),
        ("breast_cancer", 839252.981621, 832869.5885, 1),
    ],
)
def test_g1_zero_softmax_regression_on_raw_data(name: str, trace: float, largest: float, copies: int) -> None:
    """At W = 0 all p are 1/C: F = (I/C − 11ᵀ/C²) ⊗ mean x̃x̃ᵀ, so its top eigenvalue appears C − 1 times."""
    problem, x = zero_linear(name)
    found = sweep(problem).trace
    assert found.true.value == pytest.approx(trace, rel=1e-11)
    assert found.empirical.value == pytest.approx(trace, rel=1e-11)
    top = true_eigenvalues(problem, copies + 1, tolerance=1e-9)
    assert top.values[:copies] == pytest.approx([largest] * copies, rel=1e-9)
    extended = torch.cat([x, torch.ones(len(x), 1).double()], 1)
    covariance = torch.linalg.eigvalsh(extended.T @ extended / len(x)).flip(0) / problem.outputs
    assert top.values[copies] == pytest.approx(float(covariance[1]), rel=1e-7)


@pytest.mark.parametrize(
    ("name", "trace"), [("iris", 10 / 3), ("wine", 28 / 3), ("digits", 55.8), ("breast_cancer", 15.5)]
)
def test_g1_standardised_features_have_trace_one_minus_one_over_c_times_d_plus_one(name: str, trace: float) -> None:
    x, y = table(name)
    x = x[:, x.std(0) > 0]
    x = (x - x.mean(0)) / x.std(0, correction=0)
    model = nn.Linear(x.shape[1], int(y.max()) + 1).double()
    nn.init.zeros_(model.weight)
    nn.init.zeros_(model.bias)
    assert sweep(pose(model, TensorData(x, y))).trace.true.value == pytest.approx(trace, rel=1e-12)


def test_g1_rank_of_the_fisher_of_iris() -> None:
    """Rank (C − 1)(D + 1) = 10 of 15 parameters: the other five eigenvalues are zero, found and said to be."""
    problem, _ = zero_linear("iris")
    found = true_eigenvalues(problem, 15, tolerance=1e-12)
    assert found.converged
    assert sum(value > 1e-9 * found.values[0] for value in found.values) == 10


def test_t3_with_a_zero_head_all_other_layers_have_no_fisher() -> None:
    torch.manual_seed(0)
    body = nn.Sequential(nn.Conv2d(1, 3, 3), nn.ReLU(), nn.Flatten(), nn.Linear(48, 5), nn.Tanh())
    head = nn.Linear(5, 4)
    nn.init.zeros_(head.weight)
    nn.init.zeros_(head.bias)
    x, y = torch.randn(9, 1, 6, 6).double(), torch.randint(0, 4, (9,))
    trace = sweep(pose(nn.Sequential(body, head).double(), TensorData(x, y))).trace
    hidden = body(x).detach()
    expected = (1 - 1 / 4) * float((hidden.square().sum(1) + 1).mean())
    assert trace.true.value == pytest.approx(expected, rel=1e-13)
    assert trace.empirical.value == pytest.approx(expected, rel=1e-13)
    assert [layer.true.value for layer in trace.layers[:4]] == [0.0] * 4


def test_g2_two_softmax_logits_have_twice_the_fisher_of_one_sigmoid_logit() -> None:
    torch.manual_seed(1)
    x, y = torch.randn(20, 3).double(), torch.randint(0, 2, (20,))
    single, double = nn.Linear(3, 1).double(), nn.Linear(3, 2).double()
    with torch.no_grad():
        double.weight.copy_(torch.cat([torch.zeros(1, 3), single.weight]))
        double.bias.copy_(torch.cat([torch.zeros(1), single.bias]))
    one, two = pose(single, TensorData(x, y)), pose(double, TensorData(x, y))
    assert sweep(two).trace.true.value == pytest.approx(2 * sweep(one).trace.true.value, rel=1e-13)
    assert sweep(two).trace.empirical.value == pytest.approx(2 * sweep(one).trace.empirical.value, rel=1e-13)
    few, many = true_eigenvalues(one, 4, tolerance=1e-12).values, true_eigenvalues(two, 4, tolerance=1e-12).values
    assert many == pytest.approx([2 * value for value in few], rel=1e-9)


def test_for_two_classes_true_and_empirical_agree_at_even_odds_only() -> None:
    problem, _ = zero_linear("breast_cancer")
    true, empirical = true_eigenvalues(problem, 3), empirical_eigenvalues(problem, 3)
    assert true.values == pytest.approx(empirical.values, rel=1e-6)


@pytest.mark.parametrize("shift", [0, 1])
def test_t1_the_hessian_has_the_trace_of_the_fisher_tensor_by_tensor(shift: int) -> None:
    """ReLU, residual, evaluation batch norm: logits are affine in each tensor, so tr H_ll = tr F_ll for any labels."""
    case = next(case for case in CASES if case.name == "residual")
    model, x, y = case.make()
    y = (y + shift) % 4
    trace = sweep(pose(model, TensorData(x, y), batch_size=4)).trace
    named = dict(model.named_parameters())
    loss = nn.functional.cross_entropy(model(x), y)
    gradients = torch.autograd.grad(loss, list(named.values()), create_graph=True)
    for layer, gradient, parameter in zip(trace.layers, gradients, named.values(), strict=True):
        flat, diagonal = gradient.reshape(-1), 0.0
        for index in range(flat.numel()):
            (row,) = torch.autograd.grad(flat[index], parameter, retain_graph=True)
            diagonal += float(row.reshape(-1)[index])
        assert layer.true.value == pytest.approx(diagonal, rel=1e-9, abs=1e-15), layer.name


def test_t1_fails_as_it_must_for_a_smooth_activation() -> None:
    torch.manual_seed(2)
    model = nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 3)).double()
    x, y = torch.randn(8, 4).double(), torch.randint(0, 3, (8,))
    weight = model[0].weight
    assert isinstance(weight, Tensor)
    (gradient,) = torch.autograd.grad(nn.functional.cross_entropy(model(x), y), weight, create_graph=True)
    diagonal = sum(
        float(torch.autograd.grad(value, weight, retain_graph=True)[0].reshape(-1)[index])
        for index, value in enumerate(gradient.reshape(-1))
    )
    layer = sweep(pose(model, TensorData(x, y))).trace.layers[0]
    assert abs(layer.true.value - diagonal) > 1e-3 * layer.true.value


@pytest.mark.parametrize("name", ["mlp", "residual", "grouped", "norms"])
def test_t2_the_last_linear_layer_has_a_closed_form(name: str) -> None:
    case = next(case for case in CASES if case.name == name)
    model, x, y = case.make()
    head = [module for module in model.modules() if isinstance(module, nn.Linear)][-1]
    seen: list[Tensor] = []
    head.register_forward_pre_hook(lambda _, arguments: seen.append(arguments[0].detach()))
    p = torch.softmax(model(x).detach(), 1)
    size, own = seen[0].square().sum(1) + 1, p.gather(1, y.unsqueeze(1)).squeeze(1)
    true = float(((1 - p.square().sum(1)) * size).mean())
    empirical = float(((1 - 2 * own + p.square().sum(1)) * size).mean())
    layers = sweep(problem_of(case)).trace.layers[-2:]
    assert sum(layer.true.value for layer in layers) == pytest.approx(true, rel=1e-12)
    assert sum(layer.empirical.value for layer in layers) == pytest.approx(empirical, rel=1e-12)


@pytest.mark.parametrize("name", ["mlp", "residual", "grouped"])
def test_t5_enumerated_scores_generalised_gauss_newton_and_gram_agree(name: str) -> None:
    case = next(case for case in CASES if case.name == name)
    model, x, _ = case.make()
    parameters = list(model.parameters())
    rows = []
    for example in x:
        z = model(example.unsqueeze(0)).squeeze(0)
        jacobian = torch.stack(
            [torch.cat([g.reshape(-1) for g in torch.autograd.grad(zc, parameters, retain_graph=True)]) for zc in z]
        )
        p = torch.softmax(z.detach(), 0)
        root = torch.diag(p.sqrt()) - torch.outer(p, p.sqrt())  # S Sᵀ = diag p − ppᵀ
        rows.append(root.T @ jacobian)
    factor = torch.cat(rows) / len(x) ** 0.5
    gram = torch.linalg.eigvalsh(factor @ factor.T).flip(0)
    gauss_newton = factor.T @ factor
    expected = reference_of(case).fisher
    assert torch.allclose(gauss_newton, expected, atol=1e-13 * float(expected.trace()) * 10)
    assert sweep(problem_of(case)).trace.true.value == pytest.approx(float(gram.sum()), rel=1e-12)
    found = true_eigenvalues(problem_of(case), 5, tolerance=1e-10)
    assert found.values == pytest.approx(gram[:5].tolist(), rel=1e-8)


@pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated:FutureWarning")  # torch's own forward mode
@pytest.mark.parametrize("name", ["linear", "mlp", "two classes", "residual", "grouped"])
def test_curvlinops_agrees(name: str) -> None:
    """An independent implementation: its Gauss–Newton matrix of the mean loss is F, its empirical Fisher is F̂."""
    from curvlinops import EFLinearOperator, GGNLinearOperator

    case = next(case for case in CASES if case.name == name)
    model, x, y = case.make()
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    data = [(x[:4], y[:4]), (x[4:], y[4:])]
    loss = nn.CrossEntropyLoss()
    size = sum(parameter.numel() for parameter in parameters)
    identity = torch.eye(size).double()
    problem = problem_of(case)
    trace = sweep(problem).trace
    for operator, total, eigenvalues in (
        (GGNLinearOperator, trace.true.value, true_eigenvalues),
        (EFLinearOperator, trace.empirical.value, empirical_eigenvalues),
    ):
        dense = operator(model, loss, parameters, data, check_deterministic=False) @ identity
        assert total == pytest.approx(float(dense.trace()), rel=1e-10)
        top = torch.linalg.eigvalsh(dense).flip(0)[:3]
        found = eigenvalues(problem, 3, tolerance=1e-10)
        assert found.values == pytest.approx(top.tolist(), rel=1e-8, abs=1e-12 * float(top[0]))


def test_the_oracle_itself_follows_the_closed_form_of_softmax_regression() -> None:
    """F = mean Λ ⊗ x̃x̃ᵀ, so that the oracle does not stand on autograd alone."""
    torch.manual_seed(5)
    model = nn.Linear(3, 4).double()
    x, y = torch.randn(6, 3).double(), torch.randint(0, 4, (6,))
    found = reference(model, x, y)
    p = torch.softmax(model(x).detach(), 1)
    covariance = torch.diag_embed(p) - p.unsqueeze(2) * p.unsqueeze(1)
    weights = torch.einsum("nij,na,nb->iajb", covariance, x, x).reshape(12, 12) / 6
    biases = covariance.mean(0)
    assert torch.allclose(found.fisher[:12, :12], weights, atol=1e-15)
    assert torch.allclose(found.fisher[12:, 12:], biases, atol=1e-15)
