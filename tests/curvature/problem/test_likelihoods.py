"""Scores and output-space covariances against the definition, in float64 and at saturated logits."""

import math

import pytest
import torch
from torch import Tensor

from fisher_cli.curvature.problem.likelihoods import Gaussian, Likelihood, Sigmoid, Softmax, likelihood_named
from fisher_cli.curvature.problem.output_scores import exact
from fisher_cli.errors import DataError, UsageError
from tests.reference import labels_and_probabilities, log_probability, observed_label

KINDS = [(Softmax(), 4), (Softmax(), 2), (Sigmoid(), 1), (Sigmoid(), 3), (Gaussian(), 1), (Gaussian(), 3)]
IDS = [f"{kind.name}-{outputs}" for kind, outputs in KINDS]


def sample(kind: Likelihood, outputs: int, examples: int = 5) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(outputs)
    z = 2 * torch.randn(examples, outputs, generator=generator).double()
    if isinstance(kind, Gaussian) and outputs == 1:
        return z, torch.randn(examples, generator=generator).double()
    return z, torch.randint(0, max(outputs, 2), (examples,), generator=generator)


def score(kind: Likelihood, z: Tensor, label: Tensor) -> Tensor:
    """∂(−log q)/∂z by autograd through torch.distributions."""
    z = z.clone().requires_grad_()
    return torch.autograd.grad(-log_probability(kind.name, z, label), z)[0]


@pytest.mark.parametrize(("kind", "outputs"), KINDS, ids=IDS)
def test_the_exact_scores_have_the_covariance_of_the_score(kind: Likelihood, outputs: int) -> None:
    z, labels = sample(kind, outputs)
    scores = exact(kind, z, labels)
    for n in range(len(z)):
        v = scores.directions[:, n]
        expected = torch.zeros(outputs, outputs).double()
        for label, probability in labels_and_probabilities(kind.name, z[n]):
            s = score(kind, z[n], label)
            expected += probability * torch.outer(s, s)
        assert torch.allclose((scores.true[:, n, None] * v).T @ v, expected, atol=1e-15)
        s = score(kind, z[n], observed_label(kind.name, z[n], labels[n]))
        assert torch.allclose(scores.observed[:, n] @ v, s, atol=1e-14)
        assert torch.allclose(kind.observed_score(z, labels)[n], s, atol=1e-15)
        u = torch.randn(outputs).double()
        assert torch.allclose(kind.covariance_product(z[n : n + 1], u.unsqueeze(0))[0], expected @ u, atol=1e-14)


@pytest.mark.parametrize(("kind", "outputs"), KINDS, ids=IDS)
def test_log_likelihood_and_entropy_equal_torch_distributions(kind: Likelihood, outputs: int) -> None:
    z, labels = sample(kind, outputs)
    for n in range(len(z)):
        label = observed_label(kind.name, z[n], labels[n])
        assert float(kind.log_likelihood(z, labels)[n]) == pytest.approx(float(log_probability(kind.name, z[n], label)))
    entropies = {
        "softmax": lambda: torch.distributions.Categorical(logits=z).entropy(),
        "sigmoid": lambda: torch.distributions.Bernoulli(logits=z).entropy().sum(1),
        "gaussian": lambda: torch.distributions.Normal(z, torch.ones_like(z)).entropy().sum(1),
    }
    assert torch.allclose(kind.entropy(z), entropies[kind.name]())


def test_the_expected_score_of_the_classes_is_zero() -> None:
    """T4: Σ_c p_c (p − e_c) = 0, so the true Fisher needs no centring."""
    z, _ = sample(Softmax(), 5)
    p, _ = Softmax().probabilities(z)
    scores = torch.stack([Softmax().observed_score(z, torch.full((len(z),), c)) for c in range(z.shape[1])])
    assert torch.allclose((p.T.unsqueeze(2) * scores).sum(0), torch.zeros(z.shape[1]).double(), atol=1e-16)


@pytest.mark.parametrize("gap", [0.0, 20.0, 300.0])
def test_the_root_serves_every_observed_label(gap: float) -> None:
    """C − 1 directions, w vvᵀ summing to Λ, whichever class is observed, the improbable ones included."""
    z = torch.tensor([[gap, 0.0, 1.0, -gap]], dtype=torch.float64).repeat(4, 1)
    labels = torch.arange(4)
    scores = exact(Softmax(), z, labels)
    assert scores.directions.shape == (3, 4, 4)
    covariance = torch.einsum("kb,kbi,kbj->bij", scores.true, scores.directions, scores.directions)
    for row, unit in enumerate(torch.eye(4, dtype=torch.float64)):
        wanted = Softmax().covariance_product(z, unit.expand_as(z))
        assert torch.allclose(covariance[:, row], wanted, rtol=1e-12, atol=1e-14 * float(wanted.abs().max()))
    observed = torch.einsum("kb,kbi->bi", scores.observed, scores.directions)
    assert torch.allclose(observed, Softmax().observed_score(z, labels), rtol=1e-12, atol=0)
    first = Softmax().observed_column(z, labels)
    for one, other in zip(first, (scores.directions[:1], scores.true[:1], scores.observed[:1]), strict=True):
        assert one is not None
        assert torch.allclose(one, other, rtol=1e-12, atol=0)


@pytest.mark.parametrize("gap", [20.0, 80.0, 300.0])
def test_saturated_softmax_loses_nothing(gap: float) -> None:
    """Two tiny probabilities q beside one: tr Λ = 2·2q to first order; 1 − Σp² in float32 is 0 at a gap of 20."""
    z = torch.tensor([[gap, 0.0, 0.0]], dtype=torch.float32)
    scores = exact(Softmax(), z, torch.tensor([0]))
    q = math.exp(-gap) / (1 + 2 * math.exp(-gap))
    trace = float((scores.true * scores.directions.double().square().sum(2)).sum())
    assert trace == pytest.approx(2 * q * (2 - 3 * q), rel=1e-6, abs=0)
    observed = float((scores.observed**2 * scores.directions.double().square().sum(2)).sum())
    assert observed == pytest.approx(6 * q**2, rel=1e-6, abs=0)
    loss = float(-Softmax().log_likelihood(z, torch.tensor([0])))
    assert loss == pytest.approx(math.log1p(2 * math.exp(-gap)), rel=1e-12, abs=0)
    u = torch.tensor([[1.0, 0.0, 0.0]])
    assert float(Softmax().covariance_product(z, u)[0, 0]) == pytest.approx(2 * q * (1 - 2 * q), rel=1e-6, abs=0)


@pytest.mark.parametrize("gap", [20.0, 80.0, 300.0])
def test_saturated_sigmoid_loses_nothing(gap: float) -> None:
    """On either side the variance is e^−gap to first order; p(1 − p) is 0 beyond a gap of 37, even in float64."""
    z = torch.tensor([[gap], [-gap]], dtype=torch.float32)
    q = math.exp(-gap) / (1 + math.exp(-gap))
    likelihood, labels = Sigmoid(), torch.tensor([1, 0])
    variance, score = [q * (1 - q)] * 2, [-q, q]
    scores, ones = exact(likelihood, z, labels), torch.ones(2, 1)
    squares = scores.directions.double().square().sum(2)
    assert (scores.true * squares).sum(0).tolist() == pytest.approx(variance, rel=1e-12, abs=0)
    assert likelihood.covariance_product(z, ones)[:, 0].tolist() == pytest.approx(variance, rel=1e-12, abs=0)
    assert likelihood.observed_score(z, labels)[:, 0].tolist() == pytest.approx(score, rel=1e-12, abs=0)
    loss = (-likelihood.log_likelihood(z, labels)).tolist()
    assert loss == pytest.approx([math.log1p(math.exp(-gap))] * 2, rel=1e-12, abs=0)


def test_a_perfect_fit_has_no_empirical_fisher_and_no_nan() -> None:
    for kind, z, labels in (
        (Gaussian(), torch.tensor([[1.0, 2.0]]), torch.tensor([[1.0, 2.0]])),
        (Sigmoid(), torch.tensor([[1e4, -1e4]]), torch.tensor([[1.0, 0.0]])),
    ):
        scores = exact(kind, z, labels)
        assert bool(scores.directions.isfinite().all())
        assert float(scores.observed.abs().sum()) == 0.0


def test_accuracy_is_the_fraction_of_the_labels_predicted_right() -> None:
    z = torch.tensor([[1.0, -1.0, 2.0], [-1.0, -2.0, -3.0]])
    several = torch.tensor([[1.0, 1.0, 1.0], [0.0, 0.0, 0.0]])
    accuracies = {Sigmoid(): (several, [2 / 3, 1.0]), Softmax(): (torch.tensor([2, 1]), [1.0, 0.0])}
    for kind, (labels, expected) in accuracies.items():
        found = kind.correct(z, labels)
        assert found is not None
        assert found.tolist() == pytest.approx(expected)
    assert Sigmoid().correct(z[:, :1], torch.tensor([1, 1])).tolist() == [1.0, 0.0]
    assert Gaussian().correct(z, several) is None


def test_overflowing_logits_stay_finite() -> None:
    z = torch.tensor([[1e4, -1e4, 0.0], [-1e30, 1e30, 1e30]], dtype=torch.float32)
    scores = exact(Softmax(), z, torch.tensor([1, 2]))
    for values in (scores.directions, scores.true, scores.observed, Softmax().entropy(z)):
        assert bool(values.isfinite().all())


def test_a_single_output_is_a_sigmoid_and_more_are_a_softmax() -> None:
    assert isinstance(likelihood_named("auto", 1), Sigmoid)
    assert isinstance(likelihood_named("auto", 2), Softmax)
    assert isinstance(likelihood_named("gaussian", 3), Gaussian)


@pytest.mark.parametrize(
    ("kind", "outputs", "labels"),
    [
        (Softmax(), 3, torch.tensor([0, 3])),
        (Softmax(), 3, torch.tensor([-1, 0])),
        (Softmax(), 3, torch.tensor([0.0, 1.0])),
        (Sigmoid(), 1, torch.tensor([0, 2])),
        (Sigmoid(), 2, torch.tensor([[0.0, 0.5]])),
        (Gaussian(), 3, torch.tensor([0.5, 1.0])),
        (Gaussian(), 3, torch.zeros(2, 2)),
    ],
)
def test_labels_that_do_not_fit_are_refused(kind: Likelihood, outputs: int, labels: Tensor) -> None:
    with pytest.raises(DataError) as caught:
        kind.check_labels(outputs, labels)
    assert "\n" not in str(caught.value)


def test_an_unknown_likelihood_is_refused_with_the_names_that_there_are() -> None:
    with pytest.raises(UsageError, match=r"no likelihood 'poison': there are auto, softmax, sigmoid, gaussian"):
        likelihood_named("poison", 3)
