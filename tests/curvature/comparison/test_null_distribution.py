"""What the empirical Fisher shows under labels drawn from the model, against enumeration and against draws."""

import itertools

import pytest
import torch
from torch import Tensor, nn

from fisher_cli.curvature.comparison.null_distribution import LABELS, null_distribution, require_agreement
from fisher_cli.curvature.gradient_norms.engine import Engine
from fisher_cli.curvature.problem.problem import Problem, TensorData, pose
from fisher_cli.curvature.spectra.label_coordinates import coordinates, drawn
from fisher_cli.curvature.traces.traces import sweep
from fisher_cli.errors import VerificationError
from tests.cases import CASES, Case, case_of, mlp
from tests.conftest import problem_of
from tests.reference import labels_and_probabilities
from tests.score_gradients import jacobian

F64 = torch.float64


def labelled(problem: Problem, kind: str) -> list[list[tuple[Tensor, float]]]:
    """For every example the gradients (P,) of all labels with their probabilities, by autograd on one example."""
    jacobians, found = jacobian(problem), []
    for example in range(problem.examples):
        batch = problem.slice(example, example + 1)
        outputs = problem.forward(batch.inputs).detach().double()
        gradients = []
        for label, probability in labels_and_probabilities(kind, outputs[0]):
            target = label if label.dim() or kind == "softmax" else label.reshape(1)
            score = problem.likelihood.observed_score(outputs, target.unsqueeze(0).to(outputs.device))
            gradients.append((jacobians[example].T @ score[0], probability))
        found.append(gradients)
    return found


@pytest.mark.parametrize("case", [case for case in CASES if case.likelihood != "gaussian"], ids=lambda case: case.name)
def test_moments_are_those_of_the_enumerated_labels(case: Case) -> None:
    """Var tr F̂, E‖F̂ − F‖_F² and the variance of each parameter's part, from their definitions."""
    problem = problem_of(case)
    found, n = null_distribution(Engine(problem)), problem.examples
    sizes = [parameter.numel() for parameter in problem.parameters.values()]
    variance, scatter, layers = 0.0, 0.0, torch.zeros(len(sizes), dtype=F64)
    for gradients in labelled(problem, case.likelihood):
        matrix = sum((p * torch.outer(g, g) for g, p in gradients), torch.zeros(problem.size, problem.size, dtype=F64))
        variance += sum(p * float(g @ g - matrix.trace()) ** 2 for g, p in gradients)
        scatter += sum(p * float((torch.outer(g, g) - matrix).square().sum()) for g, p in gradients)
        parts = torch.stack([torch.stack([piece.square().sum() for piece in g.split(sizes)]) for g, _ in gradients])
        weights = torch.tensor([p for _, p in gradients], dtype=F64).unsqueeze(1)
        layers += (weights * (parts - (weights * parts).sum(0)).square()).sum(0)
    assert found.method == "exact"
    assert found.variance == pytest.approx(variance / n**2, rel=1e-9)
    assert found.scatter == pytest.approx(scatter / n**2, rel=1e-9)
    assert list(found.layers.values()) == pytest.approx((layers / n**2).tolist(), rel=1e-8, abs=1e-12 * variance)


def test_all_outcomes_of_three_examples_together() -> None:
    """Mean and variance of tr F̂ and E‖F̂ − F‖_F² over all 27 sets of labels: F̂ itself, not its independent terms."""
    torch.manual_seed(3)
    model, x = mlp(4, 5, 3).double(), torch.randn(3, 4, dtype=F64)
    problem = pose(model, TensorData(x, torch.tensor([0, 2, 1])))
    gradients = labelled(problem, "softmax")
    fisher = sum((p * torch.outer(g, g) for each in gradients for g, p in each), torch.zeros(1)) / 3
    mean = variance = scatter = total = 0.0
    for outcome in itertools.product(*gradients):
        probability = torch.tensor([p for _, p in outcome]).prod().item()
        matrix = sum((torch.outer(g, g) for g, _ in outcome), torch.zeros(1)) / 3
        total += probability
        mean += probability * float(matrix.trace())
        variance += probability * float(matrix.trace() - fisher.trace()) ** 2
        scatter += probability * float((matrix - fisher).square().sum())
    found = null_distribution(Engine(problem))
    assert total == pytest.approx(1)
    assert float(found.traces.mean()) == pytest.approx(mean, rel=1e-6)
    assert found.variance == pytest.approx(variance, rel=1e-6)  # probabilities in float32 above
    assert found.scatter == pytest.approx(scatter, rel=1e-6)


def test_a_gaussian_has_the_moments_of_normal_scores() -> None:
    """‖g‖² = sᵀRs with s ~ N(0, I): variance 2 ‖R‖_F², and E‖g‖⁴ = (tr R)² + 2 ‖R‖_F²."""
    case = case_of("regression")
    problem = problem_of(case)
    products = torch.stack([j @ j.T for j in jacobian(problem)])
    squares, traces = products.square().sum((1, 2)), products.diagonal(dim1=1, dim2=2).sum(1)
    found, n = null_distribution(Engine(problem)), problem.examples
    assert found.variance == pytest.approx(float(2 * squares.sum()) / n**2, rel=1e-10)
    assert found.scatter == pytest.approx(float((traces.square() + squares).sum()) / n**2, rel=1e-10)
    assert found.fourth.tolist() == pytest.approx((traces.square() + 2 * squares).tolist(), rel=1e-10)


@pytest.mark.parametrize("name", ["mlp", "two classes", "one logit", "many labels", "residual", "attention"])
def test_the_traces_agree_with_the_sweep(name: str) -> None:
    case = case_of(name)
    for dtype in (torch.float64, torch.float32):
        problem = problem_of(case, dtype)
        traces = torch.tensor(sweep(problem).trace.per_example_true, dtype=F64)
        found = null_distribution(Engine(problem))
        require_agreement(found, traces, dtype)
        with pytest.raises(VerificationError, match="cannot be trusted"):
            require_agreement(found, traces * (1 + 3e-3), dtype)


def test_scores_survive_probabilities_that_underflow() -> None:
    """At logits 0, −50, −900 every label's score is still the combination of the directions that it should be."""
    outputs = torch.tensor([[0.0, -50.0, -900.0, -1.0], [900.0, 0.0, 0.0, -900.0]], dtype=F64)
    problem = pose(nn.Linear(2, 4).double(), TensorData(torch.zeros(2, 2).double(), torch.tensor([1, 3])))
    for labels in (torch.tensor([0, 0]), torch.tensor([2, 3]), torch.tensor([1, 1])):
        found = coordinates(problem.likelihood, outputs, labels)
        assert found.labels is not None
        assert found.probabilities is not None
        assert bool(found.labels.isfinite().all())
        scores = torch.einsum("bk,kbc->bc", found.observed, found.directions)
        assert torch.allclose(scores, problem.likelihood.observed_score(outputs, labels), rtol=1e-14, atol=0)
        covariance = torch.einsum("bl,blk,blj->bkj", found.probabilities, found.labels, found.labels)
        scale = (found.weights.unsqueeze(1) * found.weights.unsqueeze(2)).sqrt()
        assert bool(((covariance - torch.diag_embed(found.weights)).abs() <= 1e-13 * scale + 1e-300).all())


def test_drawn_labels_have_the_models_frequencies_and_belong_to_their_example() -> None:
    torch.manual_seed(0)
    outputs = 2 * torch.randn(5, 3, dtype=F64)
    problem = pose(nn.Linear(2, 3).double(), TensorData(torch.zeros(5, 2).double(), torch.tensor([0, 1, 2, 0, 1])))
    found = coordinates(problem.likelihood, outputs, problem.data.labels)
    sets = drawn(problem.likelihood, outputs, found, 0, 4000, 1)
    second = torch.einsum("dbk,dbj->bkj", sets, sets) / 4000
    assert torch.allclose(second, torch.diag_embed(found.weights), atol=0.02)
    some = coordinates(problem.likelihood, outputs[2:], problem.data.labels[2:])
    assert torch.equal(drawn(problem.likelihood, outputs[2:], some, 2, 4000, 1), sets[:, 2:])


def test_many_classes_are_estimated_from_drawn_labels_without_bias() -> None:
    """The mean of 200 estimates from two labels each against the exact moments, within four standard errors."""
    torch.manual_seed(4)
    problem = pose(mlp(4, 6, 5).double(), TensorData(torch.randn(8, 4).double(), torch.randint(0, 5, (8,))))
    engine = Engine(problem)
    exact = null_distribution(engine)
    draws = [null_distribution(engine, labels=2, seed=seed) for seed in range(200)]
    for name in ("variance", "scatter"):
        values = torch.tensor([getattr(each, name) for each in draws])
        assert abs(float(values.mean()) - getattr(exact, name)) < 4 * float(values.std()) / 200**0.5
    assert draws[0].method == "sampled S=2"


def test_more_than_32_classes_are_sampled() -> None:
    torch.manual_seed(4)
    wide = pose(mlp(3, 33).double(), TensorData(torch.randn(4, 3).double(), torch.randint(0, 33, (4,))))
    assert null_distribution(Engine(wide)).method == f"sampled S={LABELS}"
