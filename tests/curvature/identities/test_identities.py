"""The identities hold on every kind of network, fail on planted faults with the cause named; their sides are right."""

import copy
import math
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from fisher_cli.curvature.gradient_norms import engine, plan
from fisher_cli.curvature.gradient_norms.grad_factors import Contribution, OuterProducts
from fisher_cli.curvature.identities import autograd_reference, expansion, heads, hessians, spectra, suite
from fisher_cli.curvature.identities import traces as trace_identities
from fisher_cli.curvature.identities.identity_specs import IdentityCase
from fisher_cli.curvature.problem import moments, output_scores
from fisher_cli.curvature.problem.likelihoods import Softmax
from fisher_cli.curvature.problem.problem import Problem, TensorData, pose
from fisher_cli.curvature.products import fisher_products
from fisher_cli.curvature.torch_backend.patches import KERNELS, TRANSPOSABLE_LAYERS
from fisher_cli.curvature.traces import traces
from fisher_cli.results import Outcome, Verification
from tests.cases import Case, Normalised, case_of, unsettle
from tests.conftest import identity_of, problem_of, reference_of
from tests.long_lists import some


def failed(found: Verification) -> dict[str, str]:
    return {each.name: each.reason for each in found.identities if each.verdict is Outcome.FAILED}


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
    absent = {each.name for each in found.identities if each.verdict is Outcome.NOT_APPLICABLE}
    headless = {"last layer", "last layer, empirical", "temperature", "radial direction"}
    assert absent <= ABSENT | (headless if case.name == "sequence" else set())
    assert all(each.reason for each in found.identities if each.verdict is Outcome.NOT_APPLICABLE)
    for each in found.identities:
        assert each.formula
        assert each.source
        assert each.verdict is Outcome.NOT_APPLICABLE or (each.error is not None and each.why and each.scale)


def test_float32_networks_are_held_to_float32() -> None:
    found = suite.verify(problem_of(case_of("residual"), torch.float32))
    assert failed(found) == {}
    assert identity_of(found, "true trace").tolerance == 2e-3


def posed(seed: int = 3, dtype: torch.dtype = torch.float64) -> Problem:
    torch.manual_seed(seed)
    model = Normalised()
    unsettle(model)
    x, y = torch.randn(7, 2, 5, 5).to(dtype), torch.randint(0, 3, (7,))
    return pose(model.to(dtype), TensorData(x, y), batch_size=4)


def test_all_but_one_apply_to_a_network_with_everything() -> None:
    found = suite.verify(posed())
    assert failed(found) == {}
    assert [each.name for each in found.identities if each.verdict is Outcome.NOT_APPLICABLE] == ["zero last layer"]


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

    def of_the_batch(*given: Tensor) -> Tensor:
        input, _, _, weight, bias, *_ = given
        return torch.batch_norm(input, weight, bias, None, None, True, 0.1, 1e-5, False)

    for patches in (KERNELS, TRANSPOSABLE_LAYERS):
        patch.setitem(patches.makers, (functional, "batch_norm"), lambda _: of_the_batch)


def _silenced(part: Contribution) -> Contribution:
    assert isinstance(part, OuterProducts)
    return replace(part, cotangents=torch.zeros_like(part.cotangents))


def missing_layer(patch: pytest.MonkeyPatch) -> None:
    """The rules forget the hidden layer's weight."""
    original = plan.Uses

    def forgetful(of: plan.BackwardPlan, take: plan.TakeParts) -> plan.Uses:
        def without(name: str, parts: list[Contribution]) -> None:
            take(name, [_silenced(part) for part in parts] if name == "hidden.weight" else parts)

        return original(of, without)

    for module in (engine, plan):
        patch.setattr(module, "Uses", forgetful)


def observed_labels(patch: pytest.MonkeyPatch) -> None:
    """The dataset's labels in place of the model's own."""

    def observed(likelihood: Softmax, outputs: Tensor, labels: Tensor) -> output_scores.OutputScores:
        found = output_scores.with_observed(
            likelihood, outputs, labels, torch.zeros_like(outputs).unsqueeze(0), torch.zeros(1, len(outputs)).double()
        )
        return replace(found, true=found.observed**2)

    patch.setattr(traces, "exact", observed)


def no_mean(patch: pytest.MonkeyPatch) -> None:
    """1/N dropped in F v."""
    original = fisher_products.product

    def summed(
        jacobian: fisher_products.Jacobian, output_product: fisher_products.OutputProduct
    ) -> Callable[[Tensor], Tensor]:
        multiply = original(jacobian, output_product)
        return lambda vector: multiply(vector) * jacobian.problem.examples

    patch.setattr(fisher_products, "product", summed)


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

    def uniform(likelihood: Softmax, outputs: Tensor, labels: Tensor) -> output_scores.OutputScores:
        count = outputs.shape[1]
        every = [likelihood.observed_score(outputs, torch.full_like(labels, c)) for c in range(count)]
        flat = torch.full((count, len(outputs)), 1 / count, dtype=torch.float64)
        return output_scores.with_observed(likelihood, outputs, labels, torch.stack(every), flat)

    patch.setattr(traces, "exact", uniform)


def single_sums(patch: pytest.MonkeyPatch) -> None:
    """Terms rounded to float32 before they are added up."""
    original = moments.Moments.add
    patch.setattr(moments.Moments, "add", lambda self, values, *rest: original(self, values.float(), *rest))


def mixed_examples(patch: pytest.MonkeyPatch) -> None:
    """The engine hands the examples of a batch out in another order."""
    alone, with_sum = engine.squared_norms, engine.norms_and_sum

    def flipped(norms: Tensor, total: Tensor) -> tuple[Tensor, Tensor]:
        return norms.flip(1), total

    patch.setattr(engine, "squared_norms", lambda *given: alone(*given).flip(1))
    patch.setattr(engine, "norms_and_sum", lambda *given: flipped(*with_sum(*given)))


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


@pytest.mark.parametrize(
    ("plant", "expected", "words"), some(FAULTS, part=0.5), ids=lambda each: getattr(each, "__name__", "")
)
def test_a_planted_fault_fails_and_is_named(
    plant: Plant, expected: set[str], words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    plant(monkeypatch)
    found = failed(suite.verify(posed()))
    assert expected <= set(found), found
    assert words in " ".join(found.values()), found
    assert words in found[next(iter(sorted(expected, key=lambda name: words not in found[name])))]


# --- the independent side against the oracle, and what it decides


def test_the_plain_sums_are_those_of_the_oracle(case: Case) -> None:
    """Neither shares code with the engine, nor with the other."""
    expected = reference_of(case)
    subject = IdentityCase.of(problem_of(case))
    found = subject.sums
    assert torch.allclose(found.true, expected.true_terms, rtol=1e-10, atol=1e-14)
    assert torch.allclose(found.empirical, expected.empirical_terms, rtol=1e-10, atol=1e-14)
    gradient = subject.flat(found.gradient) / len(found)
    assert torch.allclose(gradient, expected.mean_gradient, rtol=1e-10, atol=1e-14)
    for probe, product in zip(subject.probes, found.empirical_products, strict=True):
        truth = expected.empirical @ subject.flat(probe)
        assert torch.allclose(subject.flat(product) / len(found), truth, rtol=1e-9, atol=1e-13)


def test_the_plain_product_and_spectrum_are_those_of_the_oracle(case: Case) -> None:
    expected, subject = reference_of(case), IdentityCase.of(problem_of(case))
    probe = subject.probes[0]
    product = subject.flat(spectra.plain_product(subject, probe))
    assert torch.allclose(product, expected.fisher @ subject.flat(probe), rtol=1e-9, atol=1e-13)
    values = spectra.plain_gram_eigenvalues(subject)
    dense = torch.linalg.eigvalsh(expected.fisher).flip(0)
    count = min(len(values), len(dense))
    assert float((values[:count] - dense[:count]).abs().max()) <= 1e-13 * float(dense[0])


@pytest.mark.parametrize("kind", ["softmax", "sigmoid", "gaussian"])
@pytest.mark.parametrize("step", [1.0, 1e-2, 1e-4, 1e-6])
def test_small_divergences_keep_their_digits(kind: str, step: float) -> None:
    """Against torch.distributions where that has digits left, and ½ dᵀΛd where it has none."""
    torch.manual_seed(0)
    z = 3 * torch.randn(5, 4).double()
    d = step * torch.randn(5, 4).double()
    found = autograd_reference.small_divergence(kind, z, z + d)
    exact = float(autograd_reference.divergence(kind, z, z + d))
    assert found == pytest.approx(exact, rel=1e-9, abs=1e-14)
    form = 0.5 * float((d * (autograd_reference.covariance(kind, z) @ d.unsqueeze(2)).squeeze(2)).sum())
    assert found == pytest.approx(form, rel=3 * step)


class Curved(nn.Module):
    """The last layer and the one behind the last curve are affine, the first is not."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.head = nn.Linear(4, 6), nn.Linear(6, 5), nn.Linear(5, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.relu(self.second(torch.tanh(self.first(x)))))


def test_affine_tensors_are_found_by_numbers_and_not_by_names() -> None:
    torch.manual_seed(4)
    data = TensorData(torch.randn(6, 4).double(), torch.randint(0, 3, (6,)))
    found = hessians.blocks(IdentityCase.of(pose(Curved().double(), data)))
    assert found.verdict is Outcome.PASSED
    assert "4 of 6 tensors" in found.why
    assert found.reason == "the outputs are not affine in first.weight, first.bias: there H and F differ by design"


def test_a_network_that_is_curved_in_every_tensor_has_no_such_block() -> None:
    torch.manual_seed(4)
    model = nn.Sequential(nn.Linear(4, 3), nn.Tanh()).double()
    found = hessians.blocks(
        IdentityCase.of(pose(model, TensorData(torch.randn(6, 4).double(), torch.randint(0, 3, (6,)))))
    )
    assert found.verdict is Outcome.NOT_APPLICABLE
    assert "not affine in 0.weight, 0.bias" in found.reason


def test_units_exactly_at_a_kink_are_named_and_left_out() -> None:
    """Blank inputs and no biases: at θ itself KL has one slope to each side in the first layer."""
    torch.manual_seed(1)
    model = nn.Sequential(nn.Linear(4, 30), nn.ReLU(), nn.Linear(30, 20), nn.ReLU(), nn.Linear(20, 3)).double()
    nn.init.zeros_(model[0].bias)
    x = torch.randn(4, 4).double()
    x[::2] = 0
    identity, rows = expansion.expansion(IdentityCase.of(pose(model, TensorData(x, torch.tensor([0, 1, 2, 0])))))
    assert identity.verdict is Outcome.PASSED
    assert "exactly at a kink" in identity.why
    assert rows[-3].single == pytest.approx(0, abs=1e-3)


def test_a_head_that_is_used_elsewhere_or_is_none_is_not_taken() -> None:
    tied = case_of("sequence")
    assert heads.find_head(IdentityCase.of(problem_of(tied))) is None
    found = heads.find_head(IdentityCase.of(posed()))
    assert found is not None
    assert found.names == ["head.weight", "head.bias"]


def test_networks_and_buffers_are_left_as_they_were() -> None:
    case = posed()
    before = copy.deepcopy(case.model.state_dict())
    suite.verify(case)
    assert all(torch.equal(value, before[name]) for name, value in case.model.state_dict().items())
    assert all(parameter.grad is None for parameter in case.model.parameters())


def test_a_parameter_that_was_not_selected_is_missing_unless_it_was_left_out_on_purpose() -> None:
    whole = posed()
    part = {name: parameter for name, parameter in whole.parameters.items() if not name.startswith("hidden")}
    some = replace(whole, parameters=part)
    found = trace_identities.coverage(IdentityCase.of(some))
    assert found.verdict is Outcome.FAILED
    assert found.reason == "a layer is missing: hidden.weight, hidden.bias"
    assert trace_identities.coverage(IdentityCase.of(some, everything=False)).verdict is Outcome.NOT_APPLICABLE


@pytest.mark.parametrize("seed", range(3))
def test_other_random_vectors_give_the_same_verdicts(seed: int) -> None:
    found = suite.verify(posed(), seed=seed)
    assert failed(found) == {}
    assert math.isfinite(sum(each.seconds for each in found.identities))


class Tied(nn.Module):
    """A linear head whose weight is an embedding's."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.head = nn.Embedding(5, 4), nn.Linear(4, 5, bias=False)
        self.head.weight = self.embed.weight

    def forward(self, ids: Tensor) -> Tensor:
        return self.head(torch.tanh(self.embed(ids).mean(1)))


def test_a_tied_head_has_no_closed_form() -> None:
    torch.manual_seed(2)
    data = TensorData(torch.randint(0, 5, (6, 3)), torch.randint(0, 5, (6,)))
    subject = IdentityCase.of(pose(Tied().double(), data))
    assert heads.find_head(subject) is None
    assert failed(suite.verify(subject.problem)) == {}


@pytest.mark.parametrize("name", ["two classes", "many labels"])
def test_no_slope_is_told_between_steps_where_a_unit_switches(name: str) -> None:
    _, rows = expansion.expansion(IdentityCase.of(problem_of(case_of(name))))
    assert (rows[0].slope_averaged, rows[0].slope_single) == (None, None)
    assert any(row.slope_averaged is not None for row in rows)
