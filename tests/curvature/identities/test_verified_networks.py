"""`verify` finds networks whose derivatives are not those of their outputs, and raises no alarm on right ones.

Twenty-one random networks by default, two hundred and ten with `make test-long`: untrained, trained, confident,
saturated, blank, with a head of zeros, and with a part in float32.
"""

import copy
import random
from collections import Counter
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from fisher_cli.curvature.identities import suite
from fisher_cli.curvature.identities.autograd_reference import AutogradReference, loss
from fisher_cli.curvature.problem.likelihoods import Softmax
from fisher_cli.curvature.problem.problem import Problem, TensorData, pose
from fisher_cli.results import Outcome, Verification
from tests.cases import scaled_head, without_biases
from tests.conftest import identity_of
from tests.long_lists import some
from tests.random_networks import network
from tests.wrong_derivatives import WRONG, Stages, images

COUNT, SHORT = 210, 7


def verified(model: nn.Module, x: Tensor, y: Tensor | None = None, likelihood: str = "auto") -> Verification:
    x = x.double() if x.is_floating_point() else x
    labels = torch.arange(len(x)) % 3 if y is None else y
    return suite.verify(pose(model.double(), TensorData(x, labels), likelihood=likelihood, may_draw=True))


def ended(found: Verification, verdict: Outcome) -> dict[str, str]:
    return {each.name: each.reason for each in found.identities if each.verdict is verdict}


# --- wrong derivatives


@pytest.mark.parametrize("name", some(WRONG, part=0.25))
def test_a_wrong_derivative_fails_and_names_its_tensors(name: str) -> None:
    between, behind, tensors = WRONG[name]
    torch.manual_seed(2)
    found = verified(Stages(between, behind), images(5))
    identity = identity_of(found, "derivatives")
    assert identity.verdict is Outcome.FAILED
    assert identity.reason.startswith("convolution.weight, convolution.bias")
    assert ("hidden.weight" in identity.reason) == (len(tensors) > 2)
    assert found.failed


@pytest.mark.parametrize("factor", ["times 1.01", "times 1.3", "times -1.0", "times 0.0"])
def test_the_expansion_of_kl_does_not_take_a_wrong_derivative_for_a_kink(factor: str) -> None:
    between, behind, _ = WRONG[factor]
    torch.manual_seed(2)
    found = identity_of(verified(Stages(between, behind), images(5)), "KL expansion")
    assert found.verdict is Outcome.FAILED
    assert found.error is not None
    assert found.error > 1e-4


# --- right networks


class Rounded(nn.Module):
    """A network whose last layer is given numbers of float32."""

    def __init__(self, model: nn.Sequential) -> None:
        super().__init__()
        self.body, self.head = model

    def forward(self, x: Tensor) -> Tensor:
        x = self.body(x)
        return self.head(x.float().to(x.dtype))


def fitted(model: nn.Module, x: Tensor, y: Tensor, likelihood: str) -> nn.Module:
    optimiser = torch.optim.Adam(model.parameters(), 1e-2)
    for _ in range(200):
        optimiser.zero_grad()
        loss(likelihood, model(x.clone()), y).backward()
        optimiser.step()
    return model


KINDS = ("as drawn", "confident", "saturated", "zero head", "float32 inside", "blank", "fitted")


def random_case(seed: int) -> tuple[str, nn.Module, Tensor, Tensor, str]:
    kind = KINDS[seed % len(KINDS)]
    model, x, y, likelihood = network(random.Random(seed), seed)
    model, x = model.double(), x.double() if x.is_floating_point() else x
    if kind == "blank" and x.is_floating_point():
        x[0] = 0
    changed: dict[str, Callable[[], nn.Module]] = {
        "as drawn": lambda: model,
        "confident": lambda: scaled_head(model, 1e2),
        "saturated": lambda: scaled_head(model, 1e4),
        "zero head": lambda: scaled_head(model, 0),
        "float32 inside": lambda: Rounded(model),
        "blank": lambda: without_biases(model),
        "fitted": lambda: fitted(model, x, y, likelihood),
    }
    return kind, changed[kind](), x, y, likelihood


@pytest.mark.ci
@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel:UserWarning")
@pytest.mark.parametrize("count", [SHORT, pytest.param(COUNT, marks=pytest.mark.long)])
def test_no_right_random_network_fails(count: int, record_property: Callable[[str, object], None]) -> None:
    verdicts: Counter[tuple[str, Outcome]] = Counter()
    for seed in range(count):
        kind, *case = random_case(seed)
        found = verified(*case)
        assert ended(found, Outcome.FAILED) == {}, (seed, kind)
        assert all(ended(found, Outcome.UNDECIDED).values())
        verdicts.update((kind, each.verdict) for each in found.identities)
    for kind in KINDS:
        undecided, applied = verdicts[kind, Outcome.UNDECIDED], sum(verdicts[kind, each] for each in Outcome)
        record_property(f"undecided of {kind}", f"{undecided} of {applied}")
        limit = {"float32 inside": 0.5, "saturated": 0.3, "confident": 0.1}.get(kind, 0.02)
        assert undecided <= limit * applied, kind


@pytest.mark.ci
@pytest.mark.parametrize("activation", [nn.ReLU, nn.Tanh, nn.GELU])
def test_networks_that_are_certain_of_their_labels_hold(activation: type[nn.Module]) -> None:
    """At a loss of 1e-6 and 1e-8: every label's probability is one to so many digits."""
    torch.manual_seed(1)
    y = torch.randint(0, 3, (16,))
    x = torch.randn(16, 6).double() + 2 * functional.one_hot(y, 6)
    model = nn.Sequential(nn.Linear(6, 24), activation(), nn.Linear(24, 24), activation(), nn.Linear(24, 3)).double()
    optimiser = torch.optim.Adam(model.parameters(), 1e-2)
    for _ in range(200):
        optimiser.zero_grad()
        functional.cross_entropy(model(x), y).backward()
        optimiser.step()
    for goal in (1e-6, 1e-8):
        while float(functional.cross_entropy(model(x), y).detach()) > goal:
            scaled_head(model, 1.1)
        found = verified(copy.deepcopy(model), x, y)
        assert ended(found, Outcome.FAILED) == {}
        assert ended(found, Outcome.UNDECIDED) == {}


def test_a_fisher_of_zero_is_undecided_where_there_is_nothing_to_compare_with() -> None:
    torch.manual_seed(1)
    model = nn.Sequential(nn.Linear(4, 5), nn.ReLU(), nn.Linear(5, 3))
    model[2].bias.data[0] = 1e4
    found = verified(model, torch.randn(6, 4))
    assert ended(found, Outcome.FAILED) == {}
    assert "F is zero" in ended(found, Outcome.UNDECIDED)["softmax shift"]


def test_rounding_excuses_no_fault_that_is_larger_than_it(monkeypatch: pytest.MonkeyPatch) -> None:
    original = Softmax.covariance_product
    monkeypatch.setattr(Softmax, "covariance_product", lambda *given: original(*given) / 2)
    torch.manual_seed(1)
    model = Rounded(nn.Sequential(nn.Sequential(nn.Linear(4, 5), nn.Tanh()), nn.Linear(5, 3)))
    found = ended(verified(model, torch.randn(6, 4)), Outcome.FAILED)
    assert {"expected Hessian", "Hessian of KL", "KL expansion"} <= set(found)


def test_gradient_hooks_change_no_verdict_and_stay() -> None:
    torch.manual_seed(1)
    model = nn.Sequential(nn.Linear(4, 5), nn.ReLU(), nn.Linear(5, 3))
    model[0].weight.register_hook(lambda gradient: 0.5 * gradient)
    model[2].register_full_backward_hook(lambda _module, given, _: (0.5 * given[0],))
    found = verified(model, torch.randn(6, 4))
    assert ended(found, Outcome.FAILED) == {}
    x = torch.randn(2, 4).double()
    hooked = torch.autograd.grad(model(x).sum(), model[0].bias)[0]
    model[2]._backward_hooks.clear()
    assert torch.allclose(2 * hooked, torch.autograd.grad(model(x).sum(), model[0].bias)[0])


# --- networks of other kinds


class Named(nn.Module):
    """Its outputs are in a dictionary."""

    def __init__(self) -> None:
        super().__init__()
        self.hidden, self.head = nn.Linear(6, 5), nn.Linear(5, 3)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        return {"logits": self.head(torch.tanh(self.hidden(x)))}


class Bags(nn.Module):
    """Means of embeddings: torch has no second derivative of them."""

    def __init__(self, sparse: bool) -> None:
        super().__init__()
        self.bag, self.head = nn.EmbeddingBag(9, 4, sparse=sparse), nn.Linear(4, 3)

    def forward(self, ids: Tensor) -> Tensor:
        return self.head(self.bag(ids))


class Dropping(Named):
    """Dropout that is on in evaluation mode too."""

    def forward(self, x: Tensor) -> Tensor:
        return self.head(functional.dropout(torch.tanh(self.hidden(x)), 0.1, training=True))


class Counting(Named):
    """Its outputs grow from call to call."""

    calls = 0

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        return self.head(torch.tanh(self.hidden(x))) * (1 + 1e-3 * self.calls)


class Rational(nn.Module):
    """A function with a backward and no second one."""

    class _Square(torch.autograd.Function):
        @staticmethod
        def forward(ctx: torch.autograd.function.FunctionCtx, x: Tensor) -> Tensor:
            ctx.save_for_backward(x)
            return x**2

        @staticmethod
        @torch.autograd.function.once_differentiable
        def backward(ctx: torch.autograd.function.FunctionCtx, gradient: Tensor) -> Tensor:
            return 2 * ctx.saved_tensors[0] * gradient

    def __init__(self) -> None:
        super().__init__()
        self.hidden, self.head = nn.Linear(6, 5), nn.Linear(5, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self._Square.apply(self.hidden(x)))


def test_outputs_in_a_dictionary_are_found() -> None:
    torch.manual_seed(1)
    found = verified(Named(), torch.randn(6, 6))
    assert ended(found, Outcome.FAILED) == {}
    assert identity_of(found, "temperature").verdict is Outcome.PASSED


@pytest.mark.parametrize("sparse", [False, True])
def test_embedding_bags_hold_and_their_second_derivatives_are_undecided(sparse: bool) -> None:
    torch.manual_seed(1)
    found = verified(Bags(sparse), torch.randint(0, 9, (6, 5)))
    assert ended(found, Outcome.FAILED) == {}
    assert identity_of(found, "derivatives").verdict is Outcome.PASSED


def test_second_derivatives_that_torch_leaves_out_without_a_word_are_undecided() -> None:
    torch.manual_seed(1)
    found = verified(Rational(), torch.randn(6, 6))
    assert ended(found, Outcome.FAILED) == {}
    reasons = ended(found, Outcome.UNDECIDED)
    assert {"expected Hessian", "Hessian of KL", "Lanczos moments"} <= set(reasons)
    assert "a backward function lacks its own derivative" in reasons["expected Hessian"]


def test_chance_fails_as_an_identity_of_its_own() -> None:
    torch.manual_seed(1)
    found = verified(Dropping(), torch.randn(6, 6))
    assert "draws random numbers in its forward pass" in identity_of(found, "chance").reason
    assert found.failed


def test_a_state_that_the_next_evaluation_sees_fails() -> None:
    torch.manual_seed(1)
    found = verified(Counting(), torch.randn(6, 6))
    assert "keeps state between calls" in ended(found, Outcome.FAILED)["chance"]


class Phases(nn.Module):
    """A complex buffer, and a state that torch makes in its default type."""

    def __init__(self) -> None:
        super().__init__()
        self.hidden, self.cell, self.head = nn.Linear(6, 4), nn.GRUCell(4, 4), nn.Linear(4, 3)
        self.register_buffer("phase", torch.ones(4))

    def forward(self, x: Tensor) -> Tensor:
        turned = torch.fft.ifft(torch.fft.fft(self.hidden(x)) * self.phase)
        return self.head(self.cell(turned.real, torch.zeros(len(x), 4)))


def test_the_plain_twin_in_float64_is_the_same_function() -> None:
    torch.manual_seed(1)
    model = Phases()
    x = torch.randn(5, 6)
    problem = pose(model, TensorData(x, torch.arange(5) % 3))
    model.phase = torch.randn(4, dtype=torch.complex64)
    twin = AutogradReference.of(problem)
    assert twin.model is not model
    assert twin.outputs().dtype is torch.float64
    assert torch.allclose(twin.outputs(), model(x).double(), atol=1e-6)
    assert torch.get_default_dtype() is torch.float32


def test_float32_networks_are_verified_beside_their_twin() -> None:
    torch.manual_seed(1)
    problem: Problem = pose(Stages(lambda x: x), TensorData(images(5).float(), torch.arange(5) % 4))
    found = suite.verify(problem)
    assert ended(found, Outcome.FAILED) == {}
    torch.manual_seed(1)
    wrong = pose(Stages(WRONG["times 1.01"][0]), TensorData(images(5).float(), torch.arange(5) % 4))
    assert "derivatives" in ended(suite.verify(wrong), Outcome.FAILED)
