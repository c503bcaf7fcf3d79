"""Both traces against the oracle, and what must not change them."""

import copy
import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from fisher_cli.curvature.problem.problem import TensorData, pose
from fisher_cli.curvature.traces.traces import TraceResult, sweep
from fisher_cli.errors import (
    ArchitectureError,
    CoupledExamplesError,
    DataError,
    NumericalError,
    VerificationError,
)
from fisher_cli.results import Trace
from tests.cases import CASES, Case, case_of, mlp
from tests.conftest import problem_of, reference_of
from tests.reference import reference

PRECISIONS = [(torch.float64, 1e-10), (torch.float32, 1e-5)]


def assert_traces_match(trace: Trace, case: Case, dtype: torch.dtype, tolerance: float) -> None:
    """Per parameter and in total; a tensor whose gradient is all rounding is held against the total's rounding."""
    expected = reference_of(case, dtype)
    rounding = torch.finfo(dtype).eps
    for matrix, total, part in (
        (expected.fisher, trace.true.value, lambda layer: layer.true.value),
        (expected.empirical, trace.empirical.value, lambda layer: layer.empirical.value),
    ):
        truth = expected.traces(matrix)
        assert total == pytest.approx(sum(truth.values()), rel=tolerance)
        assert {layer.name for layer in trace.layers} == set(truth)
        for layer in trace.layers:
            allowed = max(tolerance * truth[layer.name], rounding * total)
            assert abs(part(layer) - truth[layer.name]) <= allowed, layer.name


@pytest.mark.parametrize(("dtype", "tolerance"), PRECISIONS, ids=["float64", "float32"])
def test_traces_equal_the_oracle_for_every_parameter(case: Case, dtype: torch.dtype, tolerance: float) -> None:
    assert_traces_match(sweep(problem_of(case, dtype)).trace, case, dtype, tolerance)


@pytest.mark.parametrize("batch_size", [1, 5, 6, 100])
def test_traces_do_not_depend_on_the_batch_size(case: Case, batch_size: int) -> None:
    assert_traces_match(sweep(problem_of(case, batch_size=batch_size)).trace, case, torch.float64, 1e-10)


def test_standard_errors_and_ratio_follow_from_the_per_example_terms(case: Case) -> None:
    trace, expected = sweep(problem_of(case)).trace, reference_of(case)
    true, empirical = expected.true_terms.sum(1), expected.empirical_terms.sum(1)
    n = len(true)
    assert trace.true.standard_error == pytest.approx(float(true.std()) / math.sqrt(n), rel=1e-9)
    assert trace.empirical.standard_error == pytest.approx(float(empirical.std()) / math.sqrt(n), rel=1e-9)
    assert trace.per_example_true == pytest.approx(true.tolist(), rel=1e-10)
    assert trace.per_example_empirical == pytest.approx(empirical.tolist(), rel=1e-10)
    for index, layer in enumerate(trace.layers):
        assert layer.true.standard_error == pytest.approx(
            float(expected.true_terms[:, index].std()) / math.sqrt(n), rel=1e-7, abs=1e-14
        )
    assert trace.ratio is not None
    ratio = float(empirical.mean() / true.mean())
    residual = (empirical - ratio * true) / true.mean()
    assert trace.ratio.value == pytest.approx(ratio)
    assert trace.ratio.standard_error == pytest.approx(float(residual.std()) / math.sqrt(n), rel=1e-7)


def test_the_mean_gradient_equals_the_oracle(case: Case) -> None:
    expected = reference_of(case).mean_gradient
    assert torch.allclose(sweep(problem_of(case)).mean_gradient, expected, rtol=1e-10, atol=1e-13)


def test_predictions_equal_torch_losses() -> None:
    case = case_of("mlp")
    model, inputs, labels = case.make()
    found = sweep(problem_of(case)).predictions
    logits = model(inputs).detach()
    losses = nn.functional.cross_entropy(logits, labels, reduction="none")
    assert found.loss.value == pytest.approx(float(losses.mean()))
    assert found.loss.standard_error == pytest.approx(float(losses.std()) / math.sqrt(len(labels)))
    assert found.accuracy is not None
    assert found.accuracy.value == pytest.approx(float((logits.argmax(1) == labels).double().mean()))
    entropy = torch.distributions.Categorical(logits=logits).entropy()
    assert found.entropy.value == pytest.approx(float(entropy.mean()))


def test_the_true_fisher_ignores_labels_and_the_order_of_examples() -> None:
    case = case_of("residual")
    model, inputs, labels = case.make()
    plain = sweep(problem_of(case)).trace.true.value
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(1))
    relabelled = pose(model, TensorData(inputs, (labels + 1) % 4), batch_size=4)
    reordered = pose(model, TensorData(inputs[order], labels[order]), batch_size=4)
    assert sweep(relabelled).trace.true.value == pytest.approx(plain, rel=1e-12)
    assert sweep(reordered).trace.true.value == pytest.approx(plain, rel=1e-12)


def test_a_subset_of_parameters_has_the_traces_of_those_parameters() -> None:
    case = case_of("residual")
    model, inputs, labels = case.make()
    chosen = {name: p for name, p in model.named_parameters() if name.startswith("second")}
    problem = pose(model, TensorData(inputs, labels), parameters=chosen, batch_size=4)
    whole = {layer.name: layer.true.value for layer in sweep(problem_of(case)).trace.layers}
    found = {layer.name: layer.true.value for layer in sweep(problem).trace.layers}
    assert found == pytest.approx({name: whole[name] for name in chosen}, rel=1e-12)


def test_every_method_of_the_ledger_is_the_expected_one() -> None:
    methods: dict[str, dict[str, str]] = {}
    for case in CASES:
        methods[case.name] = {layer.name: layer.method for layer in sweep(problem_of(case)).trace.layers}
    assert set(methods["mlp"].values()) == {"linear"}
    assert set(methods["residual"].values()) == {"convolution", "batch-norm", "linear"}
    assert methods["grouped"]["up.weight"] == "transposed-convolution"
    assert methods["norms"]["instance.weight"] == "instance-norm"
    assert methods["norms"]["group.weight"] == "group-norm"
    sequence = methods["sequence"]
    assert sequence["embed.weight"] == "embedding + linear ×2"  # tied to the head
    assert sequence["mix.weight"] == "linear ×2"
    assert sequence["position"] == "added"
    assert sequence["norm.weight"] == "layer-norm"
    assert sequence["rms.weight"] == "rms-norm"
    assert sequence["unused.weight"] == "unused"
    assert set(methods["time first"].values()) == {"linear"}
    attention = methods["attention"]
    assert attention["token"] == "added"
    assert {method for name, method in attention.items() if "attn" in name} == {"linear"}
    assert "per-example" not in {method for each in methods.values() for method in each.values()}


def test_what_no_rule_covers_goes_through_per_example_gradients() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 3), nn.PReLU(), nn.Linear(3, 3)).double()
    layers = sweep(pose(model, TensorData(torch.randn(5, 4).double(), torch.zeros(5).long()))).trace.layers
    assert [layer.method for layer in layers] == ["linear", "linear", "per-example", "linear", "linear"]


def saturated(scale: float, dtype: torch.dtype) -> TraceResult:
    torch.manual_seed(3)
    model = mlp(6, 8, 3).to(dtype)
    with torch.no_grad():
        model[-1].weight *= scale  # type: ignore[operator]
    return sweep(pose(model, TensorData(torch.randn(8, 6).to(dtype), torch.arange(8) % 3), batch_size=3))


@pytest.mark.parametrize("scale", [30.0, 300.0])
def test_saturated_logits_in_float32_agree_with_float64(scale: float) -> None:
    low, high = saturated(scale, torch.float32).trace, saturated(scale, torch.float64).trace
    # Logits of float32 weights carry errors of 1e-7 · |z|, which the probabilities' logarithms show.
    assert low.true.value == pytest.approx(high.true.value, rel=1e-4 * scale / 30)
    assert low.per_example_true == pytest.approx(high.per_example_true, rel=1e-3 * scale / 30)
    assert all(math.isfinite(value) and value >= 0 for value in low.per_example_true)


def test_gradients_whose_squares_underflow_in_float32_keep_their_traces() -> None:
    torch.manual_seed(0)
    body = nn.Sequential(nn.Conv1d(2, 3, 2), nn.Tanh(), nn.Conv1d(3, 4, 2), nn.Flatten(), nn.Linear(12, 3))
    inputs, labels = torch.randn(6, 2, 5) * 1e-22, torch.arange(6) % 3
    trace = sweep(pose(body, TensorData(inputs, labels), batch_size=4)).trace
    expected = reference(body, inputs, labels)
    truth = expected.traces(expected.fisher)
    for layer in trace.layers:
        assert layer.true.value == pytest.approx(truth[layer.name], rel=1e-5, abs=0), layer.name


def test_one_example_has_a_trace_and_no_error() -> None:
    case = case_of("mlp")
    model, inputs, labels = case.make()
    trace = sweep(pose(model, TensorData(inputs[:1], labels[:1]))).trace
    assert trace.true.value > 0
    assert trace.true.standard_error is None


def test_buffers_and_weights_are_left_as_they_were() -> None:
    case = case_of("residual")
    problem = problem_of(case)
    before = copy.deepcopy(problem.model.state_dict())
    sweep(problem)
    for name, value in problem.model.state_dict().items():
        assert torch.equal(value, before[name]), name
    assert not any(module._forward_hooks for module in problem.model.modules())


class CenteredOnBatch(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(x - 0.5 * x.mean(0))


class Cut(nn.Module):
    """Correct outputs whose graph the rule cannot know about: part of the gradient is cut off by hand."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Linear(4, 4)
        self.head = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        if len(x) == 1:
            return self.head(self.body(x).detach())
        return self.head(self.body(x))


class CutLater(nn.Module):
    """The first example's gradient is whole, the second's is cut off when it is alone."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Linear(4, 4)
        self.head = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.body(x)
        return self.head(hidden.detach() if len(x) == 1 and float(x[0, 0]) > 0 else hidden)


class Running(nn.Module):
    """Each example sees those before it: the first is the same alone."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(x.cumsum(0))


def refused(model: nn.Module, inputs: Tensor, labels: Tensor) -> Callable[[], object]:
    return lambda: sweep(pose(model, TensorData(inputs, labels)))


FIVE = torch.zeros(5).long()
RISING = torch.arange(20.0).reshape(5, 4) / 10 - 0.1
COUPLED = nn.Sequential(nn.BatchNorm1d(4, track_running_stats=False), nn.Linear(4, 2))
FROZEN = nn.Linear(4, 3).requires_grad_(False)


@pytest.mark.parametrize(
    ("run", "error", "words"),
    [
        (refused(CenteredOnBatch(), torch.randn(5, 4), FIVE), CoupledExamplesError, "couples"),
        (refused(Running(), torch.ones(5, 4), FIVE), CoupledExamplesError, "couples"),
        (refused(Cut(), torch.randn(5, 4), FIVE), VerificationError, "autograd"),
        (refused(CutLater(), RISING, FIVE), VerificationError, "autograd on example 1"),
        (refused(COUPLED, torch.randn(5, 4), FIVE), CoupledExamplesError, "running statistics"),
        (refused(nn.Linear(4, 3), torch.randn(5, 3), FIVE), DataError, "--model and --data"),
        (refused(nn.Linear(4, 3), torch.randn(5, 4), torch.full((5,), 3)), DataError, "labels run from 3 to 3"),
        (refused(nn.Linear(4, 1), torch.randn(5, 4), torch.full((5,), 2)), DataError, "sigmoid"),
        (refused(nn.Linear(4, 3), torch.full((5, 4), float("nan")), FIVE), NumericalError, "NaN"),
        (refused(nn.Linear(4, 3), torch.randn(5, 2, 4), FIVE), ArchitectureError, "logits"),
        (refused(FROZEN, torch.randn(5, 4), FIVE), ArchitectureError, "--include"),
        (refused(nn.Linear(4, 3), torch.randn(0, 4), torch.zeros(0).long()), DataError, "no examples"),
    ],
)  # fmt: skip
def test_what_cannot_be_measured_is_refused_in_one_line(
    run: Callable[[], object], error: type[Exception], words: str
) -> None:
    with pytest.raises(error, match=words) as caught:
        run()
    assert "\n" not in str(caught.value)


class Stubborn(nn.Dropout):
    """Does not let itself be put into evaluation mode."""

    def train(self, mode: bool = True) -> "Stubborn":
        del mode
        return super().train(True)


def test_a_part_that_stays_in_training_mode_is_refused_by_name() -> None:
    with pytest.raises(CoupledExamplesError, match="1 stays in training mode"):
        pose(nn.Sequential(nn.Linear(4, 3), Stubborn()), TensorData(torch.randn(5, 4), FIVE))


def test_nan_among_later_examples_is_found() -> None:
    inputs = torch.randn(6, 4)
    inputs[5, 0] = float("nan")
    with pytest.raises(NumericalError, match="among examples 4 to 5"):
        sweep(pose(nn.Linear(4, 3), TensorData(inputs, torch.zeros(6).long()), batch_size=2))


class _Positions(nn.Module):
    """A linear layer on three positions, whose norms go through inner products of positions."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(40, 30), nn.Linear(30, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        result: torch.Tensor = self.second(self.first(x).mean(1))
        return result


@pytest.mark.parametrize("scale", [1e3, 1e15, 1e18])
def test_products_that_overflow_in_float32_are_found_all_the_same(scale: float) -> None:
    """Inputs and cotangents so large that their products have no place in float32, where their gradients have."""
    torch.manual_seed(0)
    model, x, labels = _Positions(), scale * torch.randn(5, 3, 40), torch.arange(5) % 3
    with torch.no_grad():
        model.first.weight.mul_(1e-5 / scale)
        model.second.weight.mul_(1e5)
    single, double = (
        sweep(pose(model, TensorData(x, labels), dtype=dtype)).trace.layers[0].true.value
        for dtype in (torch.float32, torch.float64)
    )
    assert single == pytest.approx(double, rel=1e-5, abs=0)


def test_inputs_whose_squares_underflow_lose_nothing() -> None:
    torch.manual_seed(0)
    model, x, labels = _Positions(), 1e-24 * torch.randn(5, 3, 40), torch.arange(5) % 3
    single, double = (
        sweep(pose(model, TensorData(x, labels), dtype=dtype)).trace.layers[0].true.value
        for dtype in (torch.float32, torch.float64)
    )
    assert double > 0
    assert single == pytest.approx(double, rel=1e-5, abs=0)
