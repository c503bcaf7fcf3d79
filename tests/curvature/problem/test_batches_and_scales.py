"""G6 and T12–T14, T16–T18: batches, sampled labels, reparametrisation, weight decay, multi-label heads, temperature."""

import itertools
import math

import pytest
import torch
from torch import Tensor, nn

from fisher_cli import analyze
from fisher_cli.curvature.problem.problem import Problem, TensorData, pose
from fisher_cli.curvature.spectra.spectral_summary import normalised_effective_dimension
from fisher_cli.curvature.traces.gradient_statistics import gradient, two_batch_estimates
from fisher_cli.curvature.traces.traces import sweep
from tests.cases import mlp
from tests.reference import Reference, reference


def data(examples: int, features: int, classes: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(examples, features, generator=generator).double()
    return x, torch.randint(0, classes, (examples,), generator=generator)


def network(*widths: int, seed: int = 0) -> nn.Sequential:
    torch.manual_seed(seed)
    return mlp(*widths).double()


def posed(model: nn.Module, x: Tensor, y: Tensor, likelihood: str = "auto") -> Problem:
    return pose(model, TensorData(x, y), likelihood=likelihood)


def per_label_norms(model: nn.Module, x: Tensor) -> tuple[Tensor, Tensor]:
    """p_c and ‖∇ log p_c‖² of every example and class by plain autograd, both (N, C)."""
    rows = []
    for one in x:
        log_p = torch.log_softmax(model(one.unsqueeze(0)), 1)[0]
        norms = [
            sum(g.square().sum() for g in torch.autograd.grad(value, list(model.parameters()), retain_graph=True))
            for value in log_p
        ]
        rows.append((log_p.exp().detach(), torch.stack([torch.as_tensor(norm) for norm in norms])))
    return torch.stack([p for p, _ in rows]), torch.stack([norm for _, norm in rows])


# --- G6


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([1 / 7] * 7, 7.094800224636686),
        ([7.0], 1.62223338),
        ([0.2, 0.2, 0.2], 3.82785818),
    ],
)
def test_g6_isotropic_and_rank_r_spectra(values: list[float], expected: float) -> None:
    """d = 7, n = 1000: d ln(1 + κ)/ln κ, which exceeds d, and r ln(1 + κ d/r)/ln κ; the trace does not matter."""
    for scale in (1.0, 3e-9, 2e7):
        spectrum = torch.tensor(values, dtype=torch.float64) * scale
        found = normalised_effective_dimension(spectrum, 7, float(spectrum.sum()), 1000)
        assert found == pytest.approx(expected, rel=1e-8)
    kappa = 1000 / (2 * math.pi * math.log(1000))
    closed = len(values) * math.log1p(kappa * 7 / len(values)) / math.log(kappa)
    assert found == pytest.approx(closed, rel=1e-14)


def test_the_normalised_dimension_needs_enough_examples_and_a_trace() -> None:
    one = torch.ones(3).double()
    assert normalised_effective_dimension(one, 3, 3.0, 17) is None
    assert normalised_effective_dimension(one, 3, 3.0, 19) is not None
    assert normalised_effective_dimension(one, 3, 3.0, 1000, gamma=0.02) is None
    assert normalised_effective_dimension(0 * one, 3, 0.0, 1000) is None
    half = normalised_effective_dimension(one, 3, 3.0, 1000, gamma=0.5)
    kappa = 500 / (2 * math.pi * math.log(1000))
    assert half == pytest.approx(3 * math.log1p(kappa) / math.log(kappa))


def test_spectrum_states_it_where_all_eigenvalues_are_known() -> None:
    from fisher_cli.settings import SpectrumMethod, SpectrumSettings

    x, y = data(60, 5, 3)
    model = network(5, 6, 3)
    dense = reference(model, x, y)
    words: dict[str, object] = {"data": (x, y), "precision": "float64"}
    spectra = analyze(model, **words, spectrum=SpectrumSettings()).measurements[0].spectra
    for found, matrix in zip(spectra, (dense.fisher, dense.empirical), strict=True):
        size = len(matrix)
        kappa = 60 / (2 * math.pi * math.log(60))
        scaled = torch.eye(size).double() + kappa * size / matrix.trace() * matrix
        expected = float(torch.linalg.slogdet(scaled).logabsdet) / math.log(kappa)
        assert found.normalised_dimension == pytest.approx(expected, rel=1e-9)
        assert found.examples == 60
    density = SpectrumSettings(method=SpectrumMethod.DENSITY)
    spectra = analyze(model, **words, spectrum=density).measurements[0].spectra
    assert [each.normalised_dimension for each in spectra] == [None, None]


# --- T12: sampled labels


def test_t12_the_error_of_sampled_labels_is_the_predicted_one() -> None:
    """Var = Σ_n v_n/(N² S) with v_n = Σ_c p_c ‖s_c‖⁴ − tr_n²: against the spread, and what is reported, within 5 %."""
    x, y = data(12, 4, 3, seed=3)
    model = network(4, 5, 3, seed=3)
    p, norms = per_label_norms(model, x)
    traces = (p * norms).sum(1)
    predicted = math.sqrt(float(((p * norms.square()).sum(1) - traces.square()).sum()) / (12**2 * 4))
    # Labels belong to an example's place in the data: each repetition of the twelve is a draw of its own.
    repeated = posed(model, x.repeat(1200, 1), y.repeat(1200))
    found = sweep(repeated, estimator="sampled", samples=4, verify=False).trace
    values = torch.tensor(found.per_example_true, dtype=torch.float64).reshape(1200, 12).mean(1)
    assert float(values.std()) == pytest.approx(predicted, rel=0.05)
    assert found.true.estimator_error == pytest.approx(predicted / 1200**0.5, rel=0.05)
    assert float(values.mean()) == pytest.approx(float(traces.mean()), abs=4 * predicted / 1200**0.5)


# --- T13: batches


def test_t13_the_norm_of_a_batch_gradient_under_drawn_labels_is_the_trace_over_its_size() -> None:
    """E_ŷ ‖(1/B) Σ_i s_i‖² = tr F/B, exactly, over all labels that a batch of B can draw (Jastrzębski et al. 2021)."""
    x, y = data(3, 4, 3)
    model = network(4, 5, 3)
    log_p = torch.log_softmax(model(x), 1)
    parameters = list(model.parameters())

    def score(n: int, c: int) -> Tensor:
        parts = torch.autograd.grad(log_p[n, c], parameters, retain_graph=True)
        return torch.cat([g.reshape(-1) for g in parts])

    gradients = [[score(n, c) for c in range(3)] for n in range(3)]
    expected = 0.0
    for labels in itertools.product(range(3), repeat=3):
        chance = math.exp(sum(float(log_p[n, c].detach()) for n, c in enumerate(labels)))
        mean = torch.stack([gradients[n][c] for n, c in enumerate(labels)]).mean(0)
        expected += chance * float(mean.square().sum())
    assert sweep(posed(model, x, y)).trace.true.value / 3 == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("size", [1, 2, 3, 5])
def test_t13_the_norm_of_a_batch_gradient_under_the_datas_labels(size: int) -> None:
    """Over all batches without repetition E‖ḡ_B‖² = (N − B)/(B(N − 1)) tr Σ + ‖ḡ‖² (McCandlish et al. 2018)."""
    x, y = data(6, 4, 3)
    model = network(4, 5, 3)
    rows = []
    for one, label in zip(x, y, strict=True):
        loss = nn.functional.cross_entropy(model(one.unsqueeze(0)), label.unsqueeze(0))
        rows.append(torch.cat([g.reshape(-1) for g in torch.autograd.grad(loss, list(model.parameters()))]))
    gradients = torch.stack(rows)
    norms = [float(gradients[list(batch)].mean(0).square().sum()) for batch in itertools.combinations(range(6), size)]
    mean_norm = sum(norms) / len(norms)
    problem = posed(model, x, y)
    found = sweep(problem)
    squares = torch.tensor(found.trace.per_example_empirical, dtype=torch.float64)
    signal = gradient(found.engine, found.gradient, squares)
    expected = (6 - size) / (size * 5) * signal.covariance + signal.norm_squared
    assert mean_norm == pytest.approx(expected, rel=1e-12)
    # Two batch sizes give what per-example gradients give, B_b the whole data or not.
    squared, spread = two_batch_estimates(mean_norm, float(gradients.mean(0).square().sum()), size, 6)
    unbiased = float((gradients - gradients.mean(0)).square().sum()) / 5
    assert spread == pytest.approx(unbiased, rel=1e-10)
    assert squared == pytest.approx(signal.norm_squared - unbiased / 6, rel=1e-10)
    assert found.trace.empirical.value == pytest.approx(5 / 6 * spread + signal.norm_squared, rel=1e-12)
    if signal.noise_scale is not None:
        assert signal.noise_scale.value == pytest.approx(spread / squared, rel=1e-10)


# --- T14: reparametrisation


def test_t14_rescaling_a_relu_unit_moves_the_trace_and_not_what_is_invariant() -> None:
    """(W₁, b₁) × a, W₂/a: traces × a⁻² and × a², that of b₂, the rank and ḡᵀF⁺ḡ as before."""
    x, y = data(6, 4, 3)
    model, scaled, a = network(4, 6, 3), network(4, 6, 3), 2.5
    with torch.no_grad():
        for parameter, factor in zip(scaled.parameters(), (a, a, 1 / a, 1), strict=True):
            parameter.mul_(factor)
    assert torch.allclose(model(x), scaled(x))
    before, after = ({layer.name: layer for layer in sweep(posed(each, x, y)).trace.layers} for each in (model, scaled))
    for name, factor in zip(before, (a**-2, a**-2, a**2, 1), strict=True):
        assert after[name].true.value == pytest.approx(factor * before[name].true.value, rel=1e-10)
        assert after[name].empirical.value == pytest.approx(factor * before[name].empirical.value, rel=1e-10)
    ranks, lengths = zip(*map(invariants, (reference(model, x, y), reference(scaled, x, y))), strict=True)
    assert ranks[0] == ranks[1]
    assert lengths[0] == pytest.approx(lengths[1], rel=1e-8)


def invariants(found: Reference) -> tuple[int, float]:
    """The rank of F and ḡᵀF⁺ḡ."""
    values, vectors = torch.linalg.eigh(found.fisher)
    kept = values > 1e-10 * values[-1]
    along = vectors[:, kept].T @ found.mean_gradient
    return int(kept.sum()), float((along.square() / values[kept]).sum())


# --- T16–T18


def test_t16_weight_decay_is_no_part_of_either_fisher() -> None:
    """tr F̂ of the decayed loss is tr F̂ + 2λ θᵀḡ + λ²‖θ‖² with the tool's own tr F̂ and ḡ, which know no decay."""
    x, y = data(9, 4, 3)
    model, decay = network(4, 5, 3), 0.3
    found = sweep(posed(model, x, y))
    theta = torch.cat([parameter.detach().reshape(-1) for parameter in model.parameters()])
    total = 0.0
    for one, label in zip(x, y, strict=True):
        loss = nn.functional.cross_entropy(model(one.unsqueeze(0)), label.unsqueeze(0))
        loss = loss + decay / 2 * sum(parameter.square().sum() for parameter in model.parameters())
        total += sum(float(g.square().sum()) for g in torch.autograd.grad(loss, list(model.parameters())))
    cross = 2 * decay * float(theta @ found.mean_gradient)
    expected = found.trace.empirical.value + cross + decay**2 * float(theta.square().sum())
    assert total / 9 == pytest.approx(expected, rel=1e-12)


def test_t17_a_multi_label_head_is_the_sum_over_its_labels() -> None:
    """F = mean_n Σ_k p_k(1 − p_k) ∇f_k ∇f_kᵀ."""
    x, _ = data(7, 4, 3)
    y = torch.randint(0, 2, (7, 3), generator=torch.Generator().manual_seed(1)).double()
    model = network(4, 5, 3)
    expected = 0.0
    for one in x:
        outputs = model(one.unsqueeze(0))[0]
        for value in outputs:
            p = float(torch.sigmoid(value.detach()))
            parts = torch.autograd.grad(value, list(model.parameters()), retain_graph=True)
            expected += p * (1 - p) * sum(float(g.square().sum()) for g in parts)
    found = sweep(posed(model, x, y, "sigmoid")).trace.true.value
    assert found == pytest.approx(expected / 7, rel=1e-12)


class Tempered(nn.Module):
    """f/τ."""

    def __init__(self, model: nn.Module, temperature: float) -> None:
        super().__init__()
        self.model, self.temperature = model, temperature

    def forward(self, x: Tensor) -> Tensor:
        return self.model(x) / self.temperature


@pytest.mark.parametrize("temperature", [0.5, 1.0, 4.0])
def test_t18_temperature_divides_the_last_layers_trace_by_its_square(temperature: float) -> None:
    """tr F_last = τ⁻² mean (1 − ‖p_τ‖²)(‖h‖² + 1)."""
    x, y = data(8, 4, 3)
    model = network(4, 5, 3)
    p = torch.softmax(model(x) / temperature, 1).detach()
    h = model[:-1](x).detach()
    expected = ((1 - p.square().sum(1)) * (h.square().sum(1) + 1)).mean() / temperature**2
    layers = sweep(posed(Tempered(model, temperature), x, y)).trace.layers
    found = sum(layer.true.value for layer in layers if layer.name.startswith("model.2."))
    assert found == pytest.approx(float(expected), rel=1e-12)
