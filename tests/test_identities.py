"""The identities pass on every kind of network, fail on planted faults with the cause named, and their sides are right."""

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from fisher_cli.curvature import moments, problem, products, scores, traces
from fisher_cli.curvature.gradient_norms import engine
from fisher_cli.curvature.identities import suite
from fisher_cli.curvature.likelihoods import Softmax
from fisher_cli.curvature.problem import Problem, TensorData, pose
from fisher_cli.results import Identity, Verdict, Verification
from tests.cases import CASES, Case, unsettle
from tests.conftest import problem_of


def named(found: Verification, name: str) -> Identity:
    return next(each for each in found.identities if each.name == name)


def failed(found: Verification) -> dict[str, str]:
    return {each.name: each.reason for each in found.identities if each.verdict is Verdict.FAILED}


# What needs a linear head, a softmax, layers in a row or batch norm, and is not there.
ABSENT = {
    "zero last layer",
    "softmax shift",
    "trace by classes",
    "ReLU rescaling",
    "batch-norm channel",
    "bias before batch norm",
}


def test_every_identity_that_applies_holds_on_every_kind_of_network(case: Case) -> None:
    found = suite.verify(problem_of(case))
    assert failed(found) == {}
    absent = {each.name for each in found.identities if each.verdict is Verdict.NOT_APPLICABLE}
    headless = {"last layer", "last layer, empirical", "temperature", "radial direction"}
    assert absent <= ABSENT | (headless if case.name == "sequence" else set())
    assert all(each.reason for each in found.identities if each.verdict is Verdict.NOT_APPLICABLE)
    for each in found.identities:
        assert each.formula
        assert each.source
        assert each.verdict is Verdict.NOT_APPLICABLE or (each.error is not None and each.why and each.scale)


def test_float32_networks_are_held_to_float32() -> None:
    found = suite.verify(problem_of(next(case for case in CASES if case.name == "residual"), torch.float32))
    assert failed(found) == {}
    assert named(found, "true trace").tolerance == 2e-3


class Normalised(nn.Module):
    """Convolution with a bias, batch norm, ReLU, two linear layers: every identity but the zero head applies."""

    def __init__(self) -> None:
        super().__init__()
        self.convolution, self.norm = nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4)
        self.hidden, self.head = nn.Linear(36, 7), nn.Linear(7, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.norm(self.convolution(x))).flatten(1)
        return self.head(torch.relu(self.hidden(x)))


def posed(seed: int = 3, dtype: torch.dtype = torch.float64) -> Problem:
    torch.manual_seed(seed)
    model = Normalised()
    unsettle(model)
    x, y = torch.randn(7, 2, 5, 5).to(dtype), torch.randint(0, 3, (7,))
    return pose(model.to(dtype), TensorData(x, y), batch_size=4)


def test_all_but_one_apply_to_a_network_with_everything() -> None:
    found = suite.verify(posed())
    assert failed(found) == {}
    assert [each.name for each in found.identities if each.verdict is Verdict.NOT_APPLICABLE] == ["zero last layer"]


# --- planted faults: what fails, and the words that name the cause

Plant = Callable[[pytest.MonkeyPatch], None]


def half(patch: pytest.MonkeyPatch) -> None:
    """A factor ½ too many in F v."""
    original = Softmax.covariance_product
    patch.setattr(Softmax, "covariance_product", lambda *given: original(*given) / 2)


def forgotten_half(patch: pytest.MonkeyPatch) -> None:
    """F v twice as large: the ½ of the expansion is missing."""
    original = Softmax.covariance_product
    patch.setattr(Softmax, "covariance_product", lambda *given: original(*given) * 2)


def training_mode(patch: pytest.MonkeyPatch) -> None:
    """Batch norm takes the statistics of the batch."""

    def of_the_batch(input: Tensor, mean: Tensor, var: Tensor, weight: Tensor, bias: Tensor, *_: object) -> Tensor:
        return torch.batch_norm(input, weight, bias, None, None, True, 0.1, 1e-5, False)

    patch.setattr(problem, "_batch_norm", of_the_batch)


def missing_layer(patch: pytest.MonkeyPatch) -> None:
    """The rules forget the hidden layer's weight."""
    original = engine._contributions

    def without(*given: object) -> object:
        return (each for each in original(*given) if each[0] != "hidden.weight")  # type: ignore[arg-type]

    patch.setattr(engine, "_contributions", without)


def observed_labels(patch: pytest.MonkeyPatch) -> None:
    """The dataset's labels in place of the model's own."""

    def observed(likelihood: Softmax, outputs: Tensor, labels: Tensor) -> scores.Scores:
        found = scores.with_observed(
            likelihood, outputs, labels, torch.zeros_like(outputs).unsqueeze(0), torch.zeros(1, len(outputs)).double()
        )
        return replace(found, true=found.observed**2)

    patch.setattr(traces, "exact", observed)


def no_mean(patch: pytest.MonkeyPatch) -> None:
    """1/N dropped in F v."""
    original = products.product

    def summed(jacobian: products.Jacobian, output_product: products.OutputProduct) -> Callable[[Tensor], Tensor]:
        multiply = original(jacobian, output_product)
        return lambda vector: multiply(vector) * jacobian.problem.examples

    patch.setattr(products, "product", summed)


def class_weight(patch: pytest.MonkeyPatch) -> None:
    """One class too heavy in the root of Λ."""
    original = Softmax.root

    def wrong(self: Softmax, outputs: Tensor, labels: Tensor) -> object:
        root = original(self, outputs, labels)
        weights = root.weights.clone()
        weights[1] *= 1.5
        return root._replace(weights=weights)

    patch.setattr(Softmax, "root", wrong)


def alike(patch: pytest.MonkeyPatch) -> None:
    """All classes weighted alike in the trace."""

    def uniform(likelihood: Softmax, outputs: Tensor, labels: Tensor) -> scores.Scores:
        count = outputs.shape[1]
        every = [likelihood.observed_score(outputs, torch.full_like(labels, c)) for c in range(count)]
        flat = torch.full((count, len(outputs)), 1 / count, dtype=torch.float64)
        return scores.with_observed(likelihood, outputs, labels, torch.stack(every), flat)

    patch.setattr(traces, "exact", uniform)


def single_sums(patch: pytest.MonkeyPatch) -> None:
    """Terms rounded to float32 before they are added up."""
    original = moments.Moments.add
    patch.setattr(moments.Moments, "add", lambda self, values, *rest: original(self, values.float(), *rest))


def mixed_examples(patch: pytest.MonkeyPatch) -> None:
    """The engine hands the examples of a batch out in another order."""
    original = engine.squared_norms
    patch.setattr(engine, "squared_norms", lambda parts: original(parts).flip(1))


FAULTS: list[tuple[Plant, set[str], str]] = [
    (half, {"expected Hessian", "Hessian of KL", "KL expansion", "Lanczos moments"}, "a factor ½ too many"),
    (forgotten_half, {"expected Hessian", "Hessian of KL", "KL expansion"}, "a factor ½ was forgotten"),
    (training_mode, {"evaluation mode", "expected Hessian"}, "behaves as in training mode"),
    (missing_layer, {"true trace", "empirical trace", "Gram duality"}, "a layer is missing: hidden.weight"),
    (observed_labels, {"true trace", "other labels"}, "the labels of the dataset were used"),
    (no_mean, {"expected Hessian", "empirical product", "Lanczos duality"}, "the mean's 1/N was dropped"),
    (class_weight, {"score covariance", "true trace"}, "the classes have wrong weights"),
    (alike, {"true trace"}, "weighted alike"),
    (single_sums, {"sums"}, "float32"),
    (mixed_examples, {"true trace", "batches and order"}, "examples of a batch are mixed up"),
]


@pytest.mark.parametrize(("plant", "expected", "words"), FAULTS, ids=lambda each: getattr(each, "__name__", ""))
def test_a_planted_fault_fails_and_is_named(
    plant: Plant, expected: set[str], words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    plant(monkeypatch)
    found = failed(suite.verify(posed()))
    assert expected <= set(found), found
    assert words in " ".join(found.values()), found
    assert words in found[next(iter(sorted(expected, key=lambda name: words not in found[name])))]
