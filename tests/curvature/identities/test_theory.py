"""Identities of the literature that need no user's network, against plain autograd: T6, T9, T10, T12–T14, T16–T18."""

import itertools
import math
from collections.abc import Sequence
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from fisher_cli.curvature.gradient_norms.engine import Engine
from fisher_cli.curvature.identities import expansion, heads, spectra
from fisher_cli.curvature.identities.identity_specs import IdentityCase
from fisher_cli.curvature.problem.problem import Problem, TensorData, pose
from fisher_cli.curvature.products.fisher_products import empirical_product, fisher_product
from fisher_cli.curvature.spectra import factors
from fisher_cli.curvature.traces.gradient_statistics import gradient
from fisher_cli.curvature.traces.traces import sweep
from fisher_cli.results import Outcome
from tests.cases import case_of
from tests.conftest import problem_of, reference_of


def flat(model: nn.Module) -> Tensor:
    return torch.cat([parameter.detach().reshape(-1) for parameter in model.parameters()])


def plain_gradients(problem: Problem, labels: Tensor | None = None) -> Tensor:
    """∇ −log q(y_n) of every example, (N, P), by plain autograd."""
    inputs, observed = problem.data.batch(0, problem.examples)
    rows = []
    for x, y in zip(inputs, observed if labels is None else labels, strict=True):
        loss = nn.functional.cross_entropy(problem.model(x.unsqueeze(0)), y.unsqueeze(0))
        rows.append(torch.cat([g.reshape(-1) for g in torch.autograd.grad(loss, list(problem.parameters.values()))]))
    return torch.stack(rows)


@pytest.mark.parametrize("name", ["linear", "mlp", "residual", "grouped", "attention", "norms", "many labels"])
def test_t6_the_deviation_of_kl_from_its_expansion_has_slope_one_and_two(name: str) -> None:
    identity, rows = expansion.expansion(IdentityCase.of(problem_of(case_of(name))))
    assert identity.verdict is Outcome.PASSED
    singles = [row.slope_single for row in rows if row.slope_single is not None]
    averaged = [row.slope_averaged for row in rows if row.slope_averaged is not None]
    assert singles[-1] == pytest.approx(1, abs=0.01)
    assert averaged[-1] == pytest.approx(2, abs=0.05)
    # The ratio one step of 10⁻¹, 10⁻², 10⁻³ and so on: off by O(ε), and averaged by O(ε²).
    assert abs(rows[-3].single) < 1e-3
    assert abs(rows[-3].averaged) < 1e-3


def test_t6_a_direction_without_effect_has_no_expansion() -> None:
    model = nn.Linear(3, 2).double()
    nn.init.zeros_(model.weight)
    problem = pose(model, TensorData(torch.zeros(2, 3).double(), torch.zeros(2).long()))
    problem = replace(problem, parameters={"weight": model.weight})
    identity, rows = expansion.expansion(IdentityCase.of(problem))
    assert (identity.verdict, rows) == (Outcome.NOT_APPLICABLE, ())


@pytest.mark.parametrize("layers", [1, 2, 3, 4])
def test_t9_the_radial_form_of_a_homogeneous_network_is_that_of_its_outputs(layers: int) -> None:
    """θᵀFθ = K² mean fᵀΛf, θᵀF̂θ = K² mean (⟨p, f⟩ − f_y)², and each layer alone gives mean fᵀΛf; Liang et al. 2019."""
    torch.manual_seed(layers)
    widths = [5, 8, 7, 6, 6][: layers + 1]
    parts: list[nn.Module] = []
    for before, after in itertools.pairwise([*widths[:-1], 4]):
        parts += [nn.Linear(before, after, bias=False), nn.ReLU()]
    model = nn.Sequential(*parts[:-1]).double()
    x, y = torch.randn(9, 5).double(), torch.randint(0, 4, (9,))
    problem = pose(model, TensorData(x, y), batch_size=4)
    f = model(x).detach()
    p = torch.softmax(f, 1)
    form = float(((p * f.square()).sum(1) - (p * f).sum(1).square()).mean())
    empirical = float(((p * f).sum(1) - f.gather(1, y.unsqueeze(1)).squeeze(1)).square().mean())
    theta = flat(model)
    assert float(theta @ fisher_product(problem)(theta)) == pytest.approx(layers**2 * form, rel=1e-12)
    assert float(theta @ empirical_product(problem)(theta)) == pytest.approx(layers**2 * empirical, rel=1e-12)
    start = 0
    for parameter in model.parameters():
        alone = torch.zeros_like(theta)
        alone[start : start + parameter.numel()] = parameter.detach().reshape(-1)
        start += parameter.numel()
        assert float(alone @ fisher_product(problem)(alone)) == pytest.approx(form, rel=1e-12)


def test_t9_with_biases_the_whole_network_is_not_homogeneous() -> None:
    problem = problem_of(case_of("mlp"))
    theta = flat(problem.model)
    inputs, _ = problem.data.batch(0, problem.examples)
    f = problem.model(inputs).detach()
    p = torch.softmax(f, 1)
    form = float(((p * f.square()).sum(1) - (p * f).sum(1).square()).mean())
    assert abs(float(theta @ fisher_product(problem)(theta)) / (9 * form) - 1) > 1e-2


@pytest.mark.parametrize("name", ["mlp", "residual", "sequence"])
def test_t10_the_four_traces_by_class_are_those_of_their_definition(name: str) -> None:
    """Class means, cross-class means, their spread and the rest, from the gradients themselves; Papyan 2020."""
    problem = problem_of(case_of(name))
    inputs, labels = problem.data.batch(0, problem.examples)
    count, classes = problem.examples, problem.outputs
    p = torch.softmax(problem.model(inputs).detach(), 1)
    parameters = list(problem.parameters.values())
    s = torch.zeros(count, classes, problem.size).double()
    for n, x in enumerate(inputs):
        log_p = torch.log_softmax(problem.model(x.unsqueeze(0))[0], 0)
        for c in range(classes):
            parts = torch.autograd.grad(log_p[c], parameters, retain_graph=True, allow_unused=True)
            pairs = zip(parts, parameters, strict=True)
            s[n, c] = torch.cat([(torch.zeros_like(q) if g is None else g).reshape(-1) for g, q in pairs])
    w = p / count
    between = crossed = spread = within = 0.0
    for c in labels.unique():
        mine = labels == c
        mass = w[mine].sum(0)
        means = torch.einsum("nc,ncp->cp", w[mine], s[mine]) / mass.unsqueeze(1)
        others = [k for k in range(classes) if k != c]
        mean = (mass[others].unsqueeze(1) * means[others]).sum(0) / mass[others].sum()
        between += float(mass[c] * means[c].square().sum())
        crossed += float(mass[others].sum() * mean.square().sum())
        spread += float((mass[others] * (means[others] - mean).square().sum(1)).sum())
        within += float((w[mine] * (s[mine] - means).square().sum(2)).sum())
        # The mean score is zero: what the class itself pulls, the others push.
        assert torch.allclose(mass[others].sum() * mean, -mass[c] * means[c], atol=1e-14)
    gram = factors.collect(Engine(problem), spectra.class_scores).gram()
    found = spectra.class_traces(gram, p, labels)
    assert found == pytest.approx((between, crossed, spread, within), rel=1e-9, abs=1e-12)
    assert math.fsum(found) == pytest.approx(sweep(problem).trace.true.value, rel=1e-12)


def test_t12_the_spread_of_sampled_labels_is_the_one_that_the_classes_predict() -> None:
    """SE of one label per example: √(Σ_n v_n)/N with v_n = Σ_c p_c ‖s_c‖⁴ − tr_n²; Soen and Sun 2021."""
    problem = problem_of(case_of("linear"))
    inputs, labels = problem.data.batch(0, problem.examples)
    p = torch.softmax(problem.model(inputs).detach(), 1)
    norms = torch.stack(
        [plain_gradients(problem, torch.full_like(labels, c)).square().sum(1) for c in range(problem.outputs)], 1
    )
    trace = (p * norms).sum(1)
    predicted = math.sqrt(float(((p * norms.square()).sum(1) - trace.square()).sum())) / problem.examples
    draws = 4000
    found = sweep(problem, estimator="sampled", samples=draws, verify=False).trace.true
    assert found.estimator_error is not None
    assert found.estimator_error * math.sqrt(draws) == pytest.approx(predicted, rel=0.05)
    assert found.value == pytest.approx(float(trace.mean()), abs=4 * predicted / math.sqrt(draws))


@pytest.mark.parametrize("batch", [1, 2, 3])
def test_t13_the_squared_gradient_of_a_batch_with_the_models_labels_is_the_trace_over_its_size(batch: int) -> None:
    """E_ŷ ‖(1/B) Σ_i s_i‖² = (1/B) mean tr_x, over all labels of a batch; Jastrzębski et al. 2021."""
    problem = problem_of(case_of("linear"))
    inputs, labels = problem.data.batch(0, batch)
    p = torch.softmax(problem.model(inputs).detach(), 1)
    some = replace(problem, data=TensorData(inputs, labels))
    by_class = [plain_gradients(some, torch.full_like(labels, c)) for c in range(problem.outputs)]
    expected = 0.0
    for drawn in itertools.product(range(problem.outputs), repeat=batch):
        chance = math.prod(float(p[n, c]) for n, c in enumerate(drawn))
        expected += chance * float(sum(by_class[c][n] for n, c in enumerate(drawn)).square().sum()) / batch**2
    assert expected == pytest.approx(sweep(some).trace.true.value / batch, rel=1e-12)


@pytest.mark.parametrize("batch", [1, 2, 3, 6])
def test_t13_the_squared_gradient_of_a_batch_with_the_data_s_labels(batch: int) -> None:
    """E ‖ḡ_B‖² = (N − B)/(B(N − 1)) tr Σ + ‖ḡ‖² over all batches drawn without replacement."""
    problem = problem_of(case_of("mlp"))
    rows, count = plain_gradients(problem), problem.examples
    batches = list(itertools.combinations(range(count), batch))
    mean = sum(float(rows[list(some)].mean(0).square().sum()) for some in batches) / len(batches)
    swept = sweep(problem)
    squares = torch.tensor(swept.trace.per_example_empirical, dtype=torch.float64)
    found = gradient(swept.engine, swept.gradient, squares)
    expected = (count - batch) / (batch * (count - 1)) * found.covariance + found.norm_squared
    assert mean == pytest.approx(expected, rel=1e-12)


def test_t13_the_noise_scale_of_mccandlish() -> None:
    """From batches of 1 and N: tr Σ = (|G_s|² − |G_b|²)/(1/B_s − 1/B_b), |G|² = (B_b|G_b|² − B_s|G_s|²)/(B_b − B_s)."""
    problem = problem_of(case_of("mlp"))
    n, rows = problem.examples, plain_gradients(problem)
    small, large = float(rows.square().sum(1).mean()), float(rows.mean(0).square().sum())
    covariance, squared = (small - large) / (1 - 1 / n), (n * large - small) / (n - 1)
    swept = sweep(problem)
    squares = torch.tensor(swept.trace.per_example_empirical, dtype=torch.float64)
    found = gradient(swept.engine, swept.gradient, squares)
    assert found.covariance * n / (n - 1) == pytest.approx(covariance, rel=1e-12)
    assert found.norm_squared - covariance / n == pytest.approx(squared, rel=1e-10)
    assert swept.trace.empirical.value == pytest.approx((n - 1) / n * covariance + found.norm_squared, rel=1e-12)
    if found.signal_to_noise is not None:
        assert found.signal_to_noise.value == pytest.approx(squared / covariance, rel=1e-10)


def test_t14_the_trace_depends_on_the_parameterisation_and_the_natural_gradient_does_not() -> None:
    """(W₁, b₁) · a and W₂ / a: the traces of the first layer over a², of the second times a²; ḡᵀF⁺ḡ as it was."""
    torch.manual_seed(7)
    model = nn.Sequential(nn.Linear(5, 6), nn.ReLU(), nn.Linear(6, 3)).double()
    data = TensorData(torch.randn(12, 5).double(), torch.randint(0, 3, (12,)))

    def measured() -> tuple[Tensor, float]:
        problem = pose(model, data)
        swept = sweep(problem)
        product = fisher_product(problem)
        matrix = torch.stack([product(unit) for unit in torch.eye(problem.size).double()])
        natural = float(
            swept.mean_gradient @ torch.linalg.pinv(matrix, hermitian=True, rtol=1e-11) @ swept.mean_gradient
        )
        return torch.tensor([layer.true.value for layer in swept.trace.layers], dtype=torch.float64), natural

    before, natural = measured()
    a = 3.0
    with torch.no_grad():
        for index, factor in ((0, a), (2, 1 / a)):
            model[index].weight.mul_(factor)
        model[0].bias.mul_(a)
    after, same = measured()
    expected = before * torch.tensor([a**-2, a**-2, a**2, 1], dtype=torch.float64)
    assert torch.allclose(after, expected, rtol=1e-12, atol=0)
    assert same == pytest.approx(natural, rel=1e-9)


@pytest.mark.parametrize("decay", [0.01, 1.0])
def test_t16_weight_decay_moves_the_empirical_trace_and_the_hessian_as_it_must(decay: float) -> None:
    """tr F̂ + 2λ θᵀḡ + λ²‖θ‖² and tr H + λP, with tr H = tr F of a network of ReLUs; F does not know the decay."""
    problem = problem_of(case_of("mlp"))
    swept, theta = sweep(problem), flat(problem.model)
    mean = float((plain_gradients(problem) + decay * theta).square().sum(1).mean())
    expected = swept.trace.empirical.value + float(2 * decay * theta @ swept.mean_gradient + decay**2 * theta @ theta)
    assert mean == pytest.approx(expected, rel=1e-12)
    inputs, labels = problem.data.batch(0, problem.examples)
    parameters = list(problem.parameters.values())
    squares = torch.stack([parameter.square().sum() for parameter in parameters]).sum()
    loss = nn.functional.cross_entropy(problem.model(inputs), labels) + decay / 2 * squares
    first = torch.autograd.grad(loss, parameters, create_graph=True)
    trace = diagonal_sum(first, parameters)
    assert trace == pytest.approx(swept.trace.true.value + decay * problem.size, rel=1e-10)


def diagonal_sum(first: Sequence[Tensor], parameters: Sequence[Tensor]) -> float:
    """The trace of the Hessian, one entry of the diagonal at a time."""
    found = 0.0
    for part, parameter in zip(first, parameters, strict=True):
        for index, value in enumerate(part.reshape(-1)):
            (row,) = torch.autograd.grad(value, parameter, retain_graph=True)
            found += float(row.reshape(-1)[index])
    return found


@pytest.mark.parametrize("name", ["one logit", "many labels"])
def test_t17_a_sigmoid_head_adds_up_its_outputs(name: str) -> None:
    """F = mean Σ_k p_k (1 − p_k) ∇f_k ∇f_kᵀ, and it is the oracle's sum over all 2^C labels."""
    problem = problem_of(case_of(name))
    inputs, _ = problem.data.batch(0, problem.examples)
    matrix = torch.zeros(problem.size, problem.size).double()
    for x in inputs:
        f = problem.model(x.unsqueeze(0))[0]
        for value, p in zip(f, torch.sigmoid(f.detach()), strict=True):
            parts = torch.autograd.grad(value, list(problem.parameters.values()), retain_graph=True)
            g = torch.cat([part.reshape(-1) for part in parts])
            matrix += p * (1 - p) * torch.outer(g, g) / len(inputs)
    product = fisher_product(problem)
    ours = torch.stack([product(unit) for unit in torch.eye(problem.size).double()])
    assert torch.allclose(ours, matrix, atol=1e-14)
    assert torch.allclose(matrix, reference_of(case_of(name)).fisher, atol=1e-14)
    assert sweep(problem).trace.true.value == pytest.approx(float(matrix.trace()), rel=1e-12)


@pytest.mark.parametrize("temperature", [0.5, 2.0, 10.0])
@pytest.mark.parametrize("name", ["mlp", "residual", "attention", "regression", "many labels"])
def test_t18_a_temperature_scales_the_last_layer(
    name: str, temperature: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """τ⁻² mean (1 − ‖p_τ‖²)(‖h‖² + 1) for f/τ."""
    monkeypatch.setattr(heads, "TEMPERATURE", temperature)
    subject = IdentityCase.of(problem_of(case_of(name)))
    assert heads.tempered(subject).verdict is Outcome.PASSED
