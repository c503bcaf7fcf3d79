"""Networks that break other libraries, and once broke this one: each against the oracle."""

from collections.abc import Callable
from itertools import product

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from fisher_cli.curvature.gradient_norms import per_example_gradients
from fisher_cli.curvature.problem.problem import Problem, TensorData, pose
from fisher_cli.curvature.traces.traces import sweep
from fisher_cli.errors import ArchitectureError, CoupledExamplesError
from tests.long_lists import some
from tests.reference import reference
from tests.spectra import true_eigenvalues


class SharedParts(nn.Module):
    """Parts registered by name and again inside a Sequential."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(5, 6), nn.Linear(6, 3)
        self.body = nn.Sequential(self.first, nn.Tanh(), self.second)
        self.head = nn.Linear(3, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.tanh(self.body(x)))


class SharedTwice(nn.Module):
    """A block that is used twice, its parts under two names."""

    def __init__(self) -> None:
        super().__init__()
        self.middle = nn.Linear(5, 5)
        self.body = nn.Sequential(self.middle, nn.Tanh(), self.middle, nn.PReLU())
        self.head = nn.Linear(5, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.body(x))


class Experts(nn.Module):
    """Each example goes to one expert; the first examples do not use the last expert."""

    def __init__(self) -> None:
        super().__init__()
        self.experts = nn.ModuleList(nn.Linear(5, 4) for _ in range(3))
        self.head = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        route = (x[:, 0] * 10).long().abs() % 3
        out = x.new_zeros(len(x), 4)
        for index, expert in enumerate(self.experts):
            if bool((route == index).any()):
                out[route == index] = torch.tanh(expert(x[route == index]))
        return self.head(out)


class Sorted(nn.Module):
    """A layer that sees the examples in an order that depends on them."""

    def __init__(self) -> None:
        super().__init__()
        self.inner, self.head = nn.Linear(5, 4), nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        order = x[:, 1].argsort()
        return self.head(torch.tanh(self.inner(x[order]))[order.argsort()])


class FirstInPlace(nn.Module):
    """Works on its inputs in place before anything else."""

    def __init__(self) -> None:
        super().__init__()
        self.inner, self.head = nn.Linear(5, 4), nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        x.sub_(0.3).relu_()
        return self.head(torch.tanh(self.inner(x)))


class Windows(nn.Module):
    """Positions folded into the batch, examples first and examples last; a parameter that scales, one that shifts."""

    def __init__(self) -> None:
        super().__init__()
        self.major, self.minor = nn.Linear(5, 4), nn.Linear(4, 4)
        self.norm = nn.LayerNorm(4)
        self.gamma, self.beta = nn.Parameter(torch.rand(4) + 0.5), nn.Parameter(torch.randn(1, 2, 4))
        self.mix = nn.Conv1d(4, 4, 1)
        self.head = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        n = len(x)
        x = torch.stack([x, x.flip(1)], 1)
        y = torch.tanh(self.major(x.reshape(2 * n, 5))).reshape(n, 2, 4)
        y = torch.tanh(self.minor(y.transpose(0, 1).reshape(2 * n, 4))).reshape(2, n, 4)
        y = self.norm(y).transpose(0, 1) * self.gamma + self.beta
        y = self.mix(y.reshape(2 * n, 4, 1)).reshape(n, 2, 4)
        return self.head(y.mean(1))


class ExtraParameter(nn.Module):
    """A parameter that lives on a layer with a rule and is used elsewhere."""

    def __init__(self) -> None:
        super().__init__()
        self.inner, self.head = nn.Linear(5, 4), nn.Linear(4, 3)
        self.inner.scale = nn.Parameter(torch.rand(4))

    def forward(self, x: Tensor) -> Tensor:
        scale = self.inner.scale
        assert isinstance(scale, Tensor)
        return self.head(torch.tanh(self.inner(x)) * torch.sigmoid(scale))


class Listed(nn.Module):
    """A parameter reached through a plain list, which substitution cannot see."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(5, 4))
        self.all = [self.weight]
        self.head = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.tanh(x @ self.all[0]))


class OnceDifferentiable(torch.autograd.Function):
    @staticmethod
    def forward(_: object, x: Tensor) -> Tensor:
        return 2 * x

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(_: object, gradient: Tensor) -> Tensor:
        return 2 * gradient


class NoSecondDerivative(nn.Module):
    """An operation without forward mode and without a second derivative."""

    def __init__(self) -> None:
        super().__init__()
        self.inner, self.head = nn.Linear(5, 4), nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.tanh(OnceDifferentiable.apply(self.inner(x))))


class Bags(nn.Module):
    """An embedding bag, an ordinary embedding with odd settings, a recurrent layer."""

    def __init__(self) -> None:
        super().__init__()
        self.bag = nn.EmbeddingBag(6, 4, mode="sum")
        self.rows = nn.Embedding(6, 4, scale_grad_by_freq=True, sparse=True)
        self.recurrent = nn.GRU(4, 4, batch_first=True)
        self.head = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        ids = (x.abs() * 3).long() % 6
        return self.head(self.bag(ids) + self.recurrent(self.rows(ids))[0][:, -1])


class PaddedFromTheEnd(nn.Module):
    """A padding row counted from the end, in a function."""

    def __init__(self) -> None:
        super().__init__()
        self.rows = nn.Parameter(torch.randn(6, 4))
        self.head = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        ids = (x.abs() * 3).long() % 6
        return self.head(torch.tanh(functional.embedding(ids, self.rows, padding_idx=-1).sum(1)))


class PaddedLater(nn.Module):
    """An embedding whose padding row the first examples do not hold, on ids folded into the batch both ways."""

    def __init__(self) -> None:
        super().__init__()
        self.major, self.minor = nn.Embedding(6, 4, padding_idx=4), nn.Embedding(6, 4)
        self.head = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        ids = (x.abs() * 3).long() % 6
        major = self.major(ids.reshape(-1)).reshape(len(x), 5, 4)
        minor = self.minor(ids.T.reshape(-1)).reshape(5, len(x), 4).transpose(0, 1)
        return self.head(torch.tanh(major + minor).sum(1))


class Remembers(nn.Module):
    """Keeps its last activations in a buffer, and needs per-example gradients."""

    def __init__(self) -> None:
        super().__init__()
        self.inner, self.head = nn.Linear(5, 4), nn.Linear(4, 3)
        self.slope = nn.Parameter(torch.rand(4))
        self.last: Tensor
        self.register_buffer("last", torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.inner(x)
        self.last = hidden.detach().mean()
        return self.head(torch.sigmoid(self.slope) * torch.tanh(hidden))


def unusually_normalised() -> nn.Module:
    """Several dimensions, an eps that shows, and an instance norm that goes by its running statistics."""
    instance = nn.InstanceNorm1d(3, eps=0.3, affine=True, track_running_stats=True)
    for values in (instance.running_mean, instance.running_var):
        assert values is not None
        nn.init.uniform_(values, 0.5, 2.0)
    norms = [nn.LayerNorm((3, 4), eps=0.1), nn.GroupNorm(3, 3, eps=0.2), instance, nn.RMSNorm((3, 4), eps=0.1)]
    between = [layer for norm in norms for layer in (norm, nn.Tanh())]
    return nn.Sequential(nn.Linear(5, 12), nn.Unflatten(1, (3, 4)), *between, nn.Flatten(), nn.Linear(12, 3))


def unevenly_padded() -> nn.Module:
    """Settings that differ between the dimensions, and an even kernel, which needs one more pixel on one side."""
    return nn.Sequential(
        nn.Linear(5, 24),
        nn.Unflatten(1, (2, 3, 4)),
        nn.Conv2d(2, 4, (2, 3), stride=(1, 2), padding=(0, 1), groups=2),
        nn.Tanh(),
        nn.ConvTranspose2d(4, 2, (2, 3), stride=(2, 1), padding=(0, 1), output_padding=(1, 0), dilation=(1, 2)),
        nn.Tanh(),
        nn.Conv2d(2, 2, (1, 4), padding="same"),
        nn.Flatten(),
        nn.Linear(40, 3),
    )


def redilated() -> nn.Module:
    """A convolution whose padding and dilation were changed after it was made, as dilated ResNets do."""
    convolution = nn.Conv1d(1, 3, 3, padding=1)
    convolution.padding, convolution.dilation, convolution.stride = (2,), (2,), (2,)
    return nn.Sequential(nn.Unflatten(1, (1, 5)), convolution, nn.ReLU(), nn.Flatten(), nn.Linear(9, 3))


def normalised() -> nn.Module:
    """Weight norm and spectral norm: the parameters are not the weights."""
    torch.manual_seed(0)
    first = nn.utils.parametrizations.weight_norm(nn.Linear(5, 6))
    second = nn.utils.parametrizations.spectral_norm(nn.Linear(6, 4))
    return nn.Sequential(first, nn.Tanh(), second, nn.Tanh(), nn.Linear(4, 3))


NETWORKS: list[Callable[[], nn.Module]] = [
    SharedParts,
    SharedTwice,
    Experts,
    Sorted,
    FirstInPlace,
    Windows,
    ExtraParameter,
    Listed,
    NoSecondDerivative,
    Bags,
    PaddedFromTheEnd,
    PaddedLater,
    Remembers,
    unusually_normalised,
    unevenly_padded,
    redilated,
    normalised,
]


def data() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(4)
    return torch.randn(7, 5, generator=generator).double(), torch.randint(0, 3, (7,), generator=generator)


def problem_with(build: Callable[[], nn.Module], batch_size: int) -> tuple[Problem, nn.Module, Tensor, Tensor]:
    torch.manual_seed(1)
    model = build().double().eval()
    x, y = data()
    return pose(model, TensorData(x.clone(), y), batch_size=batch_size), model, x, y


@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel:UserWarning")
@pytest.mark.parametrize(
    ("build", "batch_size"), some(product(NETWORKS, [3, 7]), part=0.5), ids=lambda each: getattr(each, "__name__", each)
)
def test_traces_and_eigenvalues_equal_the_oracle(build: Callable[[], nn.Module], batch_size: int) -> None:
    problem, model, x, y = problem_with(build, batch_size)
    names = dict(model.named_parameters())
    trace = sweep(problem).trace
    found = true_eigenvalues(problem, 3, tolerance=1e-8)
    assert dict(model.named_parameters()) == names, "a parameter was not put back"
    assert torch.equal(problem.data.batch(0, 7)[0], x), "the data were written to"
    expected = reference(model, x, y)
    traces = expected.traces(expected.fisher)
    for layer in trace.layers:
        assert layer.true.value == pytest.approx(traces[layer.name], rel=1e-10, abs=1e-15 * trace.true.value)
    assert trace.empirical.value == pytest.approx(float(expected.empirical.trace()), rel=1e-10)
    assert found.converged
    top = torch.linalg.eigvalsh(expected.fisher).flip(0)[:3]
    assert found.values == pytest.approx(top.tolist(), abs=1e-7 * float(top[0]))
    again = sweep(problem).trace.true.value
    assert again == pytest.approx(trace.true.value, rel=1e-13)


def test_what_the_first_batch_shows_is_not_taken_for_granted() -> None:
    """The examples of the first batch are in order already, those of the second are not."""
    torch.manual_seed(1)
    model = Sorted().double()
    x, y = data()
    x, y = x[:6], y[:6]
    x[:, 1] = torch.tensor([0.0, 1.0, 2.0, 2.0, 0.0, 1.0])
    trace = sweep(pose(model, TensorData(x, y), batch_size=3)).trace
    assert trace.per_example_true == pytest.approx(reference(model, x, y).true_terms.sum(1).tolist(), rel=1e-10)


def test_folded_positions_and_bare_parameters_are_covered_by_rules() -> None:
    problem, *_ = problem_with(Windows, 3)
    methods = {layer.name: layer.method for layer in sweep(problem).trace.layers}
    assert methods == {
        "gamma": "multiplied",
        "beta": "added",
        **{f"{name}.{part}": "linear" for name in ("major", "minor", "head") for part in ("weight", "bias")},
        **{f"norm.{part}": "layer-norm" for part in ("weight", "bias")},
        **{f"mix.{part}": "convolution" for part in ("weight", "bias")},
    }


def test_folded_ids_are_covered_by_the_rule_of_embeddings() -> None:
    problem, *_ = problem_with(PaddedLater, 3)
    methods = {layer.name: layer.method for layer in sweep(problem).trace.layers}
    assert methods["major.weight"] == methods["minor.weight"] == "embedding"


@pytest.mark.parametrize("at_once", [1, 130, 2**24])
@pytest.mark.parametrize("build", [SharedParts, ExtraParameter, normalised], ids=lambda build: build.__name__)
def test_vectorised_gradients_equal_those_one_by_one(
    build: Callable[[], nn.Module], at_once: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(per_example_gradients, "MAXIMUM_VALUES", at_once)
    problem, _, x, _ = problem_with(build, 3)
    directions = torch.randn(4, len(x), 3, generator=torch.Generator().manual_seed(2)).double()
    names = list(problem.parameters)
    found = per_example_gradients.by_vmap(problem, names, x, directions)
    expected = per_example_gradients.one_by_one(problem, names, x, directions)
    for name in names:
        assert torch.allclose(found[name], expected[name], rtol=1e-12), name


@pytest.mark.parametrize("likelihood", ["softmax", "gaussian"])
@pytest.mark.parametrize("examples", [2, 3, 4, 5])
def test_traces_are_right_unchecked_where_there_are_as_many_scores_as_examples(examples: int, likelihood: str) -> None:
    """Some vectorised backward functions then return the gradient of another example, in the right shape."""
    torch.manual_seed(1)
    model = nn.Sequential(nn.Unflatten(1, (1, 5)), nn.Conv1d(1, 3, 2), nn.PReLU(), nn.Flatten(), nn.Linear(12, 3))
    x, y = (each[:examples] for each in data())
    model = model.double().eval()
    trace = sweep(pose(model, TensorData(x, y), likelihood=likelihood), verify=False).trace
    expected = reference(model, x, y, likelihood)
    traces = expected.traces(expected.fisher)
    assert {layer.name: layer.true.value for layer in trace.layers} == pytest.approx(traces, rel=1e-10)
    assert trace.empirical.value == pytest.approx(float(expected.empirical.trace()), rel=1e-10)


def test_buffers_that_the_network_writes_are_put_back() -> None:
    """What the vectorised pass leaves in them is of no use outside of it."""
    problem, model, x, _ = problem_with(Remembers, 3)
    before = model.last
    per_example_gradients.by_vmap(problem, ["slope"], x, torch.ones(1, 7, 3).double())
    assert model.last is before


class Forward(nn.Module):
    """A linear head whose outputs are then changed by a function."""

    def __init__(self, change: Callable[["Forward", Tensor], Tensor]) -> None:
        super().__init__()
        self.head = nn.Linear(5, 3)
        self.change = change
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        return self.change(self, self.head(x))


def counted(network: Forward, z: Tensor) -> Tensor:
    network.calls = network.calls + 1
    return z + network.calls * torch.tensor([0.1, 0, 0])


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda _, z: z - z.mean(0).detach(), "couples"),
        (lambda _, z: z + torch.tensor([1.0, 0, 0]) * len(z), "couples"),
        (lambda _, z: z + torch.randn_like(z), "random numbers"),
        (lambda _, z: functional.dropout(z, training=True), "random numbers"),
        (counted, "keeps state"),
    ],
)
def test_outputs_that_depend_on_anything_but_the_example_are_refused(
    change: Callable[[Forward, Tensor], Tensor], words: str
) -> None:
    x, y = data()
    with pytest.raises(CoupledExamplesError, match=words):
        sweep(pose(Forward(change), TensorData(x, y)))


@pytest.mark.parametrize(
    "change",
    [
        lambda _, z: {"logits": z},
        lambda _, z: z.unsqueeze(2).unsqueeze(3),
        lambda _, z: z.log_softmax(1),
    ],
)
def test_common_forms_of_outputs_are_taken(change: Callable[[Forward, Tensor], Tensor]) -> None:
    x, y = data()
    torch.manual_seed(0)
    model = Forward(change).double()
    plain = Forward(lambda _, z: z).double()
    plain.load_state_dict(model.state_dict())
    found, expected = (sweep(pose(each, TensorData(x, y))).trace.true.value for each in (model, plain))
    assert found == pytest.approx(expected, rel=1e-12)


def test_a_squeezed_single_output_is_taken_for_any_batch_size() -> None:
    x, y = data()
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(5, 1), nn.Flatten(0)).double()
    squeezed = Forward(lambda _, z: z[:, :1].squeeze()).double()
    for each in (model, squeezed):
        values = [sweep(pose(each, TensorData(x, y % 2), batch_size=size)).trace.true.value for size in (1, 3, 7)]
        assert values == pytest.approx([values[0]] * 3, rel=1e-12)


def test_half_precision_networks_are_evaluated_in_float32() -> None:
    x, y = data()
    problem = pose(nn.Linear(5, 3).bfloat16(), TensorData(x, y))
    assert problem.dtype is torch.float32
    assert sweep(problem).trace.true.value > 0


def test_the_callers_gradient_mode_does_not_matter() -> None:
    x, y = data()
    torch.manual_seed(0)
    model = nn.Linear(5, 3).double()
    expected = sweep(pose(model, TensorData(x, y))).trace.true.value
    for mode in (torch.no_grad(), torch.inference_mode()):
        with mode:
            assert sweep(pose(model, TensorData(x, y))).trace.true.value == expected


@pytest.mark.parametrize(
    ("model", "words"),
    [
        (nn.Sequential(nn.Linear(5, 4), nn.LazyLinear(3)), "lazy"),
        (nn.Sequential(nn.Linear(5, 3), nn.ParameterList([torch.zeros(2, dtype=torch.complex64)])), "complex"),
        (Forward(lambda _, z: z.detach() * 1), "do not depend"),
    ],
)
def test_networks_without_a_fisher_are_refused_by_name(model: nn.Module, words: str) -> None:
    x, y = data()
    with pytest.raises(ArchitectureError, match=words):
        sweep(pose(model, TensorData(x.float(), y)))


@pytest.mark.parametrize("mean", [0.0, 10.0, 100.0])
def test_cancellation_in_float32_stays_that_of_autograd(mean: float) -> None:
    """Many positions with a large common input and centred cotangents: the Gram form alone is off by 3e-4 at 100."""

    class Centred(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner, self.head = nn.Linear(64, 64), nn.Linear(64, 3)

        def forward(self, x: Tensor) -> Tensor:
            y = self.inner(x)
            return self.head(torch.tanh(y - y.mean(1, keepdim=True))[:, 0])

    torch.manual_seed(0)
    x, y = mean + torch.randn(4, 8, 64), torch.tensor([0, 1, 2, 0])
    model = Centred()
    low = sweep(pose(model, TensorData(x, y))).trace
    high = sweep(pose(model, TensorData(x, y), dtype=torch.float64)).trace
    for one, other in zip(low.layers, high.layers, strict=True):
        assert one.true.value == pytest.approx(other.true.value, rel=3e-5, abs=1e-7 * high.true.value)


class Exchanging(nn.Module):
    """A slope in whose vectorised gradient torch 2.14 exchanges examples and directions."""

    def __init__(self) -> None:
        super().__init__()
        self.inner, self.slope, self.head = nn.Linear(5, 4), nn.Parameter(torch.rand(1)), nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        outputs: Tensor = self.head(torch.prelu(self.inner(x), self.slope))
        return outputs


@pytest.mark.parametrize("directions", [1, 2, 3, 7])
@pytest.mark.parametrize("examples", [1, 2, 3, 7])
def test_vectorised_gradients_are_right_or_an_error_for_any_counts(examples: int, directions: int) -> None:
    problem, _, x, _ = problem_with(Exchanging, 7)
    vectors = torch.randn(directions, examples, 3, generator=torch.Generator().manual_seed(2)).double()
    expected = per_example_gradients.one_by_one(problem, ["slope"], x[:examples], vectors)["slope"]
    try:
        found = per_example_gradients.by_vmap(problem, ["slope"], x[:examples], vectors)["slope"]
    except RuntimeError:
        assert examples > 1, "there is nothing to exchange"
        return
    assert torch.allclose(found, expected, rtol=1e-12)
