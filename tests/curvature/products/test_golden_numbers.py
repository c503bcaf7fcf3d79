"""Exact identities and golden numbers that need no training: T1–T5, T7, T8, G1–G4 of the Fisher literature."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from fisher_cli.curvature.problem.output_scores import empirical_scores, true_scores
from fisher_cli.curvature.problem.problem import Problem, TensorData, pose
from fisher_cli.curvature.products.fisher_products import Jacobian, ScoreFactor, empirical_product, fisher_product
from fisher_cli.curvature.spectra.eigensystems import matrices
from fisher_cli.curvature.spectra.solver_choice import Eigensolver
from fisher_cli.curvature.traces.traces import sweep
from tests.cases import Normalised, case_of, unsettle
from tests.conftest import problem_of, reference_of
from tests.golden import newton_step, single_logit, table, toy
from tests.reference import reference
from tests.spectra import empirical_eigenvalues, true_eigenvalues


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


@pytest.mark.parametrize(
    ("name", "rank", "zero", "route"),
    [
        ("iris", 10, 1e-9, Eigensolver.LANCZOS),
        ("iris", 10, 1e-9, Eigensolver.DUAL),
        ("iris", 10, 1e-9, Eigensolver.GRAM),
        ("wine", 28, 1e-11, Eigensolver.GRAM),
        ("wine", 28, 1e-11, Eigensolver.DENSE),
        ("digits", 558, 1e-9, Eigensolver.DENSE),
        ("breast_cancer", 31, 1e-13, Eigensolver.DENSE),
    ],
)
def test_g1_whole_spectrum_and_rank(name: str, rank: int, zero: float, route: Eigensolver) -> None:
    """C − 1 copies of the eigenvalues of X̃ᵀX̃/(N·C), and zeros; digits has three pixels that are always white.

    What counts as zero lies between the smallest eigenvalue, 1e-4, 2e-9, 2e-7 and 4e-13 of the largest, and rounding.
    """
    problem, x = zero_linear(name)
    found = matrices(problem)[0].leading(problem.size, tolerance=1e-10, route=route, whole=True)
    assert found.converged
    values = found.values if found.whole is None else found.whole
    assert int((values > zero * values[0]).sum()) == rank
    extended = torch.cat([x, torch.ones(len(x), 1).double()], 1)
    truth = torch.linalg.svdvals(extended).square() / len(x) / problem.outputs
    expected = truth.repeat_interleave(problem.outputs - 1)
    assert float((found.values[: len(expected)] - expected).abs().max()) <= 1e-12 * float(truth[0])
    assert float(found.values[len(expected) :].abs().max()) <= 1e-12 * float(truth[0])


@pytest.mark.parametrize(
    ("name", "optimum", "trace", "trace_empirical", "eigenvalues", "eigenvalues_empirical", "trace_at_zero"),
    [
        (
            "correct",
            (-0.489588, -0.506373),
            1.100951,
            1.075960,
            (0.642630, 0.458321),
            (0.674065, 0.401895),
            2.354928153,
        ),
        ("A", (-0.588650, -0.594138), 0.947869, 1.443755, (0.534439, 0.413430), (0.873234, 0.570521), 3.443975405),
        ("B", (-0.736535, -0.749526), 0.702374, 0.575439, (0.457282, 0.245092), (0.389727, 0.185712), 1.928013481),
    ],
)
def test_g3_toys_of_kunstner(
    name: str,
    optimum: tuple[float, ...],
    trace: float,
    trace_empirical: float,
    eigenvalues: tuple[float, ...],
    eigenvalues_empirical: tuple[float, ...],
    trace_at_zero: float,
) -> None:
    """Two Gaussians of 500 points each and logistic regression without a bias, Kunstner et al. 2019, figure 2."""
    x, y = toy(name)
    weights = torch.zeros(2).double()
    found = sweep(single_logit(x, y, weights)).trace
    assert found.true.value == pytest.approx(trace_at_zero, rel=1e-9)
    assert found.empirical.value == pytest.approx(trace_at_zero, rel=1e-9)
    for _ in range(30):
        weights = newton_step(x, y, weights)
    assert weights.tolist() == pytest.approx(optimum, abs=1e-6)
    problem = single_logit(x, y, weights)
    found = sweep(problem).trace
    assert found.true.value == pytest.approx(trace, abs=1e-6)
    assert found.empirical.value == pytest.approx(trace_empirical, abs=1e-6)
    for route in (Eigensolver.LANCZOS, Eigensolver.GRAM, Eigensolver.DENSE):
        true = true_eigenvalues(problem, 2, tolerance=1e-9, route=route)
        empirical = empirical_eigenvalues(problem, 2, tolerance=1e-9, route=route)
        assert true.values == pytest.approx(eigenvalues, abs=1e-6)
        assert empirical.values == pytest.approx(eigenvalues_empirical, abs=1e-6)


def test_g4_breast_cancer_in_raw_features() -> None:
    """At θ = 0 all residuals are ½, and both Fishers are X̃ᵀX̃/4N."""
    x, y = table("breast_cancer")
    extended = torch.cat([x, torch.ones(len(x), 1).double()], 1)
    problem = single_logit(extended, y, torch.zeros(31).double())
    found = sweep(problem).trace
    assert found.true.value == pytest.approx(419626.49081, rel=1e-10)
    assert found.empirical.value == pytest.approx(419626.49081, rel=1e-10)
    for eigenvalues in (true_eigenvalues, empirical_eigenvalues):
        assert eigenvalues(problem, 1, tolerance=1e-9).values[0] == pytest.approx(416434.79423, rel=1e-10)


def test_g4_traces_along_damped_newton_steps() -> None:
    """The empirical Fisher falls away from the true one as the fit gets better, Kunstner et al. 2019, figure 3."""
    x, y = table("breast_cancer")
    x = (x - x.mean(0)) / x.std(0, correction=0)
    x = torch.cat([x, torch.ones(len(x), 1).double()], 1)
    weights, true, empirical = torch.zeros(31).double(), [], []
    for _ in range(6):
        trace = sweep(single_logit(x, y, weights)).trace
        true.append(trace.true.value)
        empirical.append(trace.empirical.value)
        weights = newton_step(x, y, weights, 1e-3)
    assert true == pytest.approx([7.75, 3.7010, 1.8132, 1.0030, 0.6382, 0.4466], abs=6e-5)
    assert empirical == pytest.approx([7.75, 1.1686, 0.5319, 0.3225, 0.2335, 0.1890], abs=6e-5)


@pytest.mark.parametrize("seed", [0, 1])
def test_largest_eigenvalue_of_a_wide_random_network(seed: int) -> None:
    """Three layers of 1000 units, ReLU, no biases, He initialisation, squared loss: λ₁ ≈ α((T − 1)/T κ₂ + κ₁/T)M.

    708.9 for T = 100 standard normal inputs and two outputs, and tr F ≈ 6000. Source: Karakida, Akaho and Amari 2019
    (arXiv:1806.01316).
    """
    torch.manual_seed(seed)
    layers = [nn.Linear(before, after, bias=False) for before, after in ((1000, 1000), (1000, 1000), (1000, 2))]
    for layer in layers:
        nn.init.normal_(layer.weight, 0, (2 / 1000) ** 0.5)
    model = nn.Sequential(layers[0], nn.ReLU(), layers[1], nn.ReLU(), layers[2])
    problem = pose(model, TensorData(torch.randn(100, 1000), torch.zeros(100, 2)), likelihood="gaussian")
    found = matrices(problem)[0].leading(2, route=Eigensolver.GRAM)
    assert found.whole is not None
    assert float(found.values[0]) == pytest.approx(708.9, rel=0.15)
    assert float(found.whole.sum()) == pytest.approx(6000, rel=0.15)
    dual = true_eigenvalues(problem, 1, tolerance=1e-4, route=Eigensolver.DUAL)
    assert dual.values[0] == pytest.approx(float(found.values[0]), rel=1e-4)


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
    case = case_of("residual")
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
    case = case_of(name)
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
    case = case_of(name)
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
    curvlinops = pytest.importorskip("curvlinops", reason="needs a later torch than the oldest that is supported")
    case = case_of(name)
    model, x, y = case.make()
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    data = [(x[:4], y[:4]), (x[4:], y[4:])]
    loss = nn.CrossEntropyLoss()
    size = sum(parameter.numel() for parameter in parameters)
    identity = torch.eye(size).double()
    problem = problem_of(case)
    trace = sweep(problem).trace
    for operator, total, eigenvalues in (
        (curvlinops.GGNLinearOperator, trace.true.value, true_eigenvalues),
        (curvlinops.EFLinearOperator, trace.empirical.value, empirical_eigenvalues),
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


@pytest.mark.parametrize("name", ["mlp", "grouped", "sequence", "attention", "norms"])
def test_t7_the_dual_has_the_whole_spectrum(name: str) -> None:
    """All non-zero eigenvalues of F are those of the Gram of its N(C − 1) score gradients, whatever P."""
    case = case_of(name)
    problem, dense = problem_of(case), torch.linalg.eigvalsh(reference_of(case).fisher).flip(0)
    found = matrices(problem)[0].leading(3, route=Eigensolver.GRAM, whole=True).whole
    assert found is not None
    assert len(found) == problem.examples * (problem.outputs - 1)
    assert float((found - dense[: len(found)]).abs().max()) <= 1e-13 * float(dense[0])
    assert float(dense[len(found) :].abs().max()) <= 1e-13 * float(dense[0])


def softmax_shift(_: Normalised, change: dict[str, Tensor]) -> None:
    """The same amount added to all logits."""
    change["head.weight"] += torch.linspace(-1, 1, 7)
    change["head.bias"] += 1


def relu_rescaling(model: Normalised, change: dict[str, Tensor]) -> None:
    """A hidden unit scaled up before and down behind its ReLU."""
    change["hidden.weight"][2], change["hidden.bias"][2] = model.hidden.weight[2], model.hidden.bias[2]
    change["head.weight"][:, 2] = -model.head.weight[:, 2]


def deviation(norm: nn.BatchNorm2d) -> Tensor:
    assert norm.running_var is not None
    found: Tensor = (norm.running_var + norm.eps).sqrt()
    return found


def channel_rescaling(model: Normalised, change: dict[str, Tensor]) -> None:
    """A channel scaled before its batch norm: γ gives way, and β for the mean that does not."""
    convolution, norm = model.convolution, model.norm
    assert norm.running_mean is not None
    assert convolution.bias is not None
    change["convolution.weight"][1], change["convolution.bias"][1] = convolution.weight[1], convolution.bias[1]
    change["norm.weight"][1] = -norm.weight[1]
    change["norm.bias"][1] = -norm.weight[1] * norm.running_mean[1] / deviation(norm)[1]


def convolution_shift(model: Normalised, change: dict[str, Tensor]) -> None:
    """A bias before batch norm against one behind it."""
    change["convolution.bias"][3] = 1
    change["norm.bias"][3] = -model.norm.weight[3] / deviation(model.norm)[3]


@pytest.mark.parametrize("symmetry", [softmax_shift, relu_rescaling, channel_rescaling, convolution_shift])
def test_t8_directions_that_change_no_prediction_are_null_vectors(
    symmetry: Callable[[Normalised, dict[str, Tensor]], None],
) -> None:
    """F v = F̂ v = 0 and Aᵀv = 0; and not so for a vector whose entries are out of proportion."""
    torch.manual_seed(11)
    model = Normalised()
    unsettle(model)
    model.double().eval()
    problem = pose(model, TensorData(torch.randn(12, 2, 5, 5).double(), torch.randint(0, 3, (12,))), batch_size=5)
    change = {name: torch.zeros_like(parameter) for name, parameter in problem.parameters.items()}
    with torch.no_grad():
        symmetry(model, change)
    null = torch.cat([part.reshape(-1) for part in change.values()])
    broken = null * (0.5 + torch.rand(problem.size))
    maps = Jacobian(problem)
    for product, eigenvalues, scores in (
        (fisher_product, true_eigenvalues, true_scores),
        (empirical_product, empirical_eigenvalues, empirical_scores),
    ):
        largest, dual = eigenvalues(problem, 1).values[0], ScoreFactor(maps, scores)
        multiply = product(problem, maps)
        assert float(multiply(null).norm()) <= 1e-12 * largest * float(null.norm())
        assert float(dual.project(null).norm()) <= 1e-12 * largest**0.5 * float(null.norm())
        assert float(multiply(broken).norm()) > 1e-6 * largest * float(broken.norm())
