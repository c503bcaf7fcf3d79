"""The network that is analysed is the caller's, and the caller has it back: in its precision, its mode, its state."""

import copy
import random
import weakref
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from fisher_cli import analyze
from fisher_cli.curvature.torch_backend.network_state import NetworkState
from fisher_cli.curvature.torch_backend.precision import copy_in_precision, in_precision
from fisher_cli.errors import ArchitectureError, CoupledExamplesError, NumericalError
from tests.wrong_networks.coupling import Stateful

GENERATOR = torch.Generator().manual_seed(5)
INPUTS = torch.randn(9, 6, generator=GENERATOR)
LABELS = torch.randint(0, 3, (9,), generator=GENERATOR)


class Turned(nn.Module):
    """Features as complex numbers that are turned by fixed angles, and a frozen complex scale."""

    def __init__(self) -> None:
        super().__init__()
        self.inner, self.head = nn.Linear(6, 8), nn.Linear(8, 3)
        self.register_buffer("angles", torch.polar(torch.ones(4), torch.linspace(0.3, 2.9, 4)), persistent=False)
        self.scale = nn.Parameter(torch.tensor([1 + 2j, 0.5j, 1, -1j]), requires_grad=False)

    def forward(self, x: Tensor) -> Tensor:
        pairs = torch.view_as_complex(self.inner(x).reshape(len(x), 4, 2)) * self.angles * self.scale
        return self.head(torch.tanh(torch.view_as_real(pairs).flatten(1)))


class Derived(nn.Module):
    """A gate that is computed once from a parameter and kept until training begins again."""

    def __init__(self) -> None:
        super().__init__()
        self.inner, self.gate, self.head = nn.Linear(6, 8), nn.Parameter(torch.rand(8)), nn.Linear(8, 3)
        self.kept: Tensor | None = None

    def forward(self, x: Tensor) -> Tensor:
        if self.kept is None:
            self.kept = 2 * torch.sigmoid(self.gate)
        return self.head(torch.tanh(self.inner(x)) * self.kept)


class Counting(nn.Module):
    """A count of calls in a buffer, in an attribute and in a list, which no output depends on."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(6, 3)
        self.register_buffer("calls", torch.zeros(()))
        self.count, self.seen = 0, list[int]()

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        self.count += 1
        self.seen.append(len(x))
        return self.inner(x)


def traces_by_definition(model: nn.Module, inputs: Tensor = INPUTS) -> dict[str, float]:
    """Σ_c p_c ‖∇ log p_c‖² of one example at a time, in the network's own precision, by tensor."""
    parameters = {name: p for name, p in model.named_parameters() if p.requires_grad}
    found = dict.fromkeys(parameters, 0.0)
    for n in range(len(inputs)):
        for c in range(3):
            again = copy_in_precision(model, torch.float64).eval()
            own = dict(again.named_parameters())
            log_p = again(inputs[n : n + 1].double()).log_softmax(1)[0]
            gradients = torch.autograd.grad(log_p[c], [own[name] for name in parameters])
            for name, gradient in zip(parameters, gradients, strict=True):
                found[name] += float(log_p[c].detach().exp() * gradient.square().sum()) / len(inputs)
    return found


@pytest.mark.parametrize("make", [Turned, Derived, Counting])
@pytest.mark.parametrize("batch_size", [None, 1, 4])
def test_traces_are_those_of_the_network_as_it_came(make: Callable[[], nn.Module], batch_size: int | None) -> None:
    torch.manual_seed(0)
    model = make()
    expected = traces_by_definition(model)
    layers = analyze(model, (INPUTS, LABELS), eigenvalues=0, precision="float64", batch_size=batch_size).layers
    assert dict(zip(layers.layer, layers.trace_true, strict=True)) == pytest.approx(expected, rel=1e-10)
    assert "unused" not in set(layers.method)


def fingerprint(model: nn.Module) -> dict[str, object]:
    tensors = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    return {
        "values": {name: (t.dtype, t.device, t.detach().clone().tolist()) for name, t in tensors.items()},
        "identities": {name: (id(t), t.data_ptr()) for name, t in tensors.items()},
        "trained": {name: p.requires_grad for name, p in model.named_parameters()},
        "modes": {name: module.training for name, module in model.named_modules()},
        "attributes": {
            f"{name}.{key}": id(value)
            for name, module in model.named_modules()
            for key, value in vars(module).items()
            if not key.startswith("_")
        },
        "hooks": [len(module._backward_hooks) for module in model.modules()],
        "chance": (torch.get_rng_state().tolist(), random.getstate(), np.random.get_state()[1].tolist()),
    }


def hooked() -> nn.Module:
    model = nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 3))
    model[0].register_full_backward_hook(lambda _module, inputs, _outputs: (inputs[0],))
    model[2].weight.register_hook(lambda gradient: gradient / 2)
    return model.train()


def sparse() -> nn.Module:
    return nn.Sequential(nn.Embedding(9, 4, sparse=True, max_norm=0.5), nn.Flatten(), nn.Linear(24, 3))


@pytest.mark.parametrize(
    "make", [Turned, Derived, Counting, hooked, sparse, lambda: Turned().double(), lambda: hooked().half()]
)
@pytest.mark.parametrize("precision", ["float32", "float64"])
def test_the_callers_network_comes_back_as_it_was(make: Callable[[], nn.Module], precision: str) -> None:
    torch.manual_seed(1)
    model = make()
    inputs = torch.randint(0, 9, (9, 6)) if isinstance(next(iter(model.children())), nn.Embedding) else INPUTS
    before = fingerprint(model)
    analyze(model, (inputs, LABELS), eigenvalues=1, precision=precision)
    assert fingerprint(model) == before


def test_hooks_on_gradients_change_no_number_and_are_named() -> None:
    torch.manual_seed(2)
    plain = nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 3))
    halved = copy.deepcopy(plain)
    halved[0].register_full_backward_hook(lambda _module, inputs, _outputs: (inputs[0] / 2,))
    halved[2].weight.register_hook(lambda gradient: gradient / 2)
    one, other = (analyze(model, (INPUTS, LABELS), eigenvalues=2) for model in (plain, halved))
    assert other.layers.equals(one.layers)
    assert any(
        "hooks that change gradients were left out" in note and "2.weight" in note
        for note in other.measurements[0].notes
    )


class Fading(nn.Module):
    """A buffer that every call changes in place, and that scales the outputs."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(6, 3)
        self.register_buffer("strength", torch.ones(()))

    def forward(self, x: Tensor) -> Tensor:
        self.strength.mul_(0.9)
        return self.inner(x) * self.strength


@pytest.mark.parametrize(("make", "name"), [(Stateful, "state"), (Fading, "strength")])
@pytest.mark.parametrize("precision", ["float32", "float64"])
def test_outputs_that_depend_on_earlier_calls_are_refused_by_the_name_of_what_is_kept(
    make: Callable[[], nn.Module], name: str, precision: str
) -> None:
    with pytest.raises(CoupledExamplesError, match=f"keeps state between calls, and its outputs depend on it: {name}"):
        analyze(make(), (INPUTS, LABELS), eigenvalues=0, precision=precision)


class Branching(nn.Module):
    """Another function in half precision than in any other."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.inner(x) * (2 if self.inner.weight.dtype in {torch.float16, torch.float64} else 1)


def test_outputs_that_depend_on_the_precision_are_refused() -> None:
    with pytest.raises(NumericalError, match="float16 and float32 differ by more than rounding"):
        analyze(Branching().half(), (INPUTS, LABELS), eigenvalues=0)
    with pytest.raises(NumericalError, match="float32 and float64 differ by more than rounding"):
        analyze(Branching(), (INPUTS, LABELS), eigenvalues=0, precision="float64")
    assert analyze(nn.Linear(6, 3).half(), (INPUTS, LABELS), eigenvalues=0).succeeded == 1


@pytest.mark.filterwarnings("ignore:.*torch.jit:FutureWarning", "ignore:.*torch.jit:DeprecationWarning")
def test_a_network_of_torch_jit_is_refused_with_what_to_give() -> None:
    traced = torch.jit.trace(nn.Linear(6, 3), INPUTS)
    for model in (traced, nn.Sequential(traced)):
        with pytest.raises(ArchitectureError, match=r"compiled by torch\.jit.*give the module that it was made from"):
            analyze(model, (INPUTS, LABELS), eigenvalues=0)


def test_a_conversion_keeps_imaginary_parts_and_whole_numbers() -> None:
    model = Turned()
    model.register_buffer("numbers", torch.arange(3))
    wide = copy_in_precision(model, torch.float64)
    assert {name: t.dtype for name, t in [*wide.named_parameters(), *wide.named_buffers()]} == {
        "scale": torch.complex128,
        **dict.fromkeys(["inner.weight", "inner.bias", "head.weight", "head.bias"], torch.float64),
        "angles": torch.complex128,
        "numbers": torch.int64,
    }
    assert model.angles.dtype is torch.complex64
    assert torch.equal(in_precision(wide, torch.float32).scale, model.scale)


@pytest.mark.filterwarnings("ignore:.*weight_norm:FutureWarning")
def test_a_copy_has_what_modules_computed_and_kept() -> None:
    model = nn.utils.weight_norm(nn.Linear(6, 3))
    wide = copy_in_precision(model, torch.float64)
    assert torch.allclose(wide(INPUTS.double()).float(), model(INPUTS), atol=1e-5)


def test_a_buffer_changed_in_place_leaves_graphs_as_they_are() -> None:
    model = Fading()
    state = NetworkState(model)
    outputs = model(INPUTS)
    assert state.changed() == ["strength"]
    state.restore()
    assert float(model.strength) == 1
    (gradient,) = torch.autograd.grad(outputs.sum(), model.inner.bias)
    assert torch.allclose(gradient, torch.full((3,), 9 * 0.9))


def test_modules_that_share_a_buffer_share_what_takes_its_place_and_nothing_piles_up() -> None:
    model = nn.ModuleList([Fading(), Fading()])
    model[1].strength = model[0].strength
    state, taken = NetworkState(model), list[weakref.ref[Tensor]]()
    for _ in range(5):
        model[0](INPUTS)
        state.restore()
        assert model[0].strength is model[1].strength
        assert float(model[0].strength) == 1
        taken.append(weakref.ref(model[0].strength))
    assert [reference() is not None for reference in taken] == [False] * 4 + [True]


def test_a_state_that_was_made_to_stay_is_the_one_that_is_restored() -> None:
    model = nn.BatchNorm1d(6).eval()
    state = NetworkState(model)
    model.running_mean.fill_(3)
    state.renew()
    state.restore()
    assert bool((model.running_mean == 3).all())
    assert functional.batch_norm(INPUTS, model.running_mean, model.running_var).shape == INPUTS.shape
