import copy
import math

import mpmath
import pytest
import torch
from torch import Tensor, nn

from fisher_cli.curvature.kl.divergence import (
    all_outputs,
    divergence,
    exchanged,
    movement,
    named_tensors,
    second_order,
    second_order_by_tensor,
    snapshot,
    why_apart,
)
from fisher_cli.curvature.kl.relative_entropy import agreement, quadratic_form, relative_entropy
from fisher_cli.curvature.problem.likelihoods import Gaussian, Likelihood, Sigmoid, Softmax
from fisher_cli.curvature.problem.problem import Problem, TensorData, pose
from fisher_cli.curvature.traces.traces import sweep
from tests.cases import Case, case_of, mlp, unsettle
from tests.conftest import problem_of, reference_of

KINDS = [(Softmax(), 4), (Softmax(), 2), (Sigmoid(), 1), (Sigmoid(), 3), (Gaussian(), 2)]
IDS = [f"{kind.name}-{outputs}" for kind, outputs in KINDS]


def oracle(kind: Likelihood, z: Tensor, w: Tensor) -> mpmath.mpf:
    """KL of one example from its definition, in 400 digits."""
    with mpmath.workdps(400):
        a, b = ([mpmath.mpf(float(value)) for value in row] for row in (z, w))
        if kind.name == "gaussian":
            return sum((x - y) ** 2 for x, y in zip(a, b, strict=True)) / 2

        def categorical(a: list[mpmath.mpf], b: list[mpmath.mpf]) -> mpmath.mpf:
            log_p, log_q = ([x - mpmath.log(sum(map(mpmath.exp, row))) for x in row] for row in (a, b))
            return sum(mpmath.exp(x) * (x - y) for x, y in zip(log_p, log_q, strict=True))

        if kind.name == "softmax":
            return categorical(a, b)
        return sum(categorical([x, mpmath.mpf(0)], [y, mpmath.mpf(0)]) for x, y in zip(a, b, strict=True))


@pytest.mark.parametrize(("kind", "outputs"), KINDS, ids=IDS)
def test_the_divergence_equals_its_definition(kind: Likelihood, outputs: int) -> None:
    """Ordinary, saturated and nearly equal outputs: always to the digits that the outputs allow."""
    torch.manual_seed(3)
    z = torch.randn(6, outputs).double() * 3
    z[1] *= 20
    z[2, 0] = 700
    w = torch.randn(6, outputs).double() * 3
    w[3] = z[3] * (1 + 1e-7)
    w[4] = z[4] + 1e-10 * torch.randn(outputs).double()
    w[5, 0] = -40
    found = relative_entropy(kind, z, w)
    assert found.dtype == torch.float64
    for n in range(6):
        assert float(found[n]) == pytest.approx(float(oracle(kind, z[n], w[n])), rel=1e-12, abs=0), n


def test_it_is_exact_where_plain_arithmetic_gives_nothing() -> None:
    """Float32 logits next to one-hot: p log p − p log p' is 0 there, and the truth 1e-9."""
    z, w = torch.tensor([[20.0, 0.0, 0.0]]), torch.tensor([[21.0, 0.5, 0.0]])
    found, expected = float(relative_entropy(Softmax(), z, w)), float(oracle(Softmax(), z[0], w[0]))
    assert expected == pytest.approx(9.78e-10, rel=1e-3, abs=0)
    assert found == pytest.approx(expected, rel=1e-12, abs=0)
    p, q = z.softmax(1), w.softmax(1)
    assert float((p * (p.log() - q.log())).sum()) != pytest.approx(expected, rel=0.1, abs=0)
    huge = torch.tensor([[2000.0, 0.0]]), torch.tensor([[0.0, 2000.0]])
    assert float(relative_entropy(Softmax(), *huge)) == 2000.0
    assert float(relative_entropy(Softmax(), huge[0], huge[0])) == 0.0


@pytest.mark.parametrize(("kind", "outputs"), KINDS, ids=IDS)
def test_the_quadratic_form_is_half_v_lambda_v_without_cancellation(kind: Likelihood, outputs: int) -> None:
    torch.manual_seed(4)
    z, v = torch.randn(5, outputs).double() * 4, torch.randn(5, outputs).double()
    expected = 0.5 * (v * kind.covariance_product(z, v)).sum(1)
    assert torch.allclose(quadratic_form(kind, z, v), expected, rtol=1e-10, atol=0)
    if kind.name == "softmax":  # a common shift of all logits changes nothing
        assert torch.allclose(quadratic_form(kind, z, v + 1e6), expected, rtol=1e-8, atol=0)


def test_agreement_knows_labels_of_every_kind() -> None:
    z, w = torch.tensor([[2.0, 1.0], [0.0, 1.0]]), torch.tensor([[3.0, 1.0], [1.0, 0.5]])
    classes, many = torch.zeros(2).long(), torch.zeros(2, 2)
    assert agreement(Softmax(), z, w, classes).tolist() == [1, 0]
    assert agreement(Sigmoid(), z, w, many).tolist() == [1, 0.5]
    assert agreement(Sigmoid(), z[:, :1], w[:, :1] - 2, classes).tolist() == [1, 1]
    assert agreement(Sigmoid(), z[:1, :1], -w[:1, :1], classes[:1]).tolist() == [0]
    assert agreement(Gaussian(), z, w, many) is None


def step_of(problem: Problem, size: float, seed: int = 0) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {
        name: size * torch.randn(parameter.shape, generator=generator).to(parameter)
        for name, parameter in problem.parameters.items()
    }


def flat(step: dict[str, Tensor]) -> Tensor:
    return torch.cat([part.reshape(-1).double() for part in step.values()])


def test_the_quadratic_is_that_of_the_dense_fisher(case: Case) -> None:
    problem, reference = problem_of(case), reference_of(case)
    step = step_of(problem, 0.1)
    expected = 0.5 * float(flat(step) @ reference.fisher @ flat(step))
    assert second_order(problem, step).value == pytest.approx(expected, rel=1e-10)


@pytest.mark.parametrize("name", ["mlp", "residual", "sequence"])
def test_the_parts_are_the_diagonal_blocks_of_the_dense_fisher(name: str) -> None:
    case = case_of(name)
    problem, reference = problem_of(case), reference_of(case)
    step = step_of(problem, 0.1)
    total, parts = second_order_by_tensor(problem, step)
    assert total.value == pytest.approx(second_order(problem, step).value, rel=1e-12)
    start = 0
    for tensor, size in zip(reference.names, reference.sizes, strict=True):
        piece, block = flat(step)[start : start + size], reference.fisher[start : start + size, start : start + size]
        assert parts[tensor].value == pytest.approx(0.5 * float(piece @ block @ piece), rel=1e-10, abs=1e-18)
        start += size


def divergence_of_step(problem: Problem, step: dict[str, Tensor]) -> float:
    outputs = all_outputs(problem)
    moved = {name: parameter.detach() + step[name] for name, parameter in problem.parameters.items()}
    with exchanged(problem, moved):
        return divergence(problem.likelihood, outputs, all_outputs(problem)).value


@pytest.mark.parametrize(("likelihood", "outputs"), [("softmax", 3), ("sigmoid", 1), ("sigmoid", 3), ("gaussian", 2)])
def test_kl_over_quadratic_tends_to_one_with_slope_one_and_two_when_symmetrised(likelihood: str, outputs: int) -> None:
    """T6, Corollary A.2: KL(θ‖θ+ε) = ½εᵀFε + O(‖ε‖³), and the average of ±ε has no third order; off by 2 without ½."""
    torch.manual_seed(2)
    model = nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.Tanh(), nn.Linear(6, outputs)).double()
    unsettle(model)
    labels = (
        torch.randn(9, outputs).double() if likelihood == "gaussian" else torch.randint(0, 2, (9, outputs)).double()
    )
    labels = torch.randint(0, outputs, (9,)) if likelihood == "softmax" else labels
    problem = pose(model, TensorData(torch.randn(9, 4).double(), labels), likelihood=likelihood)
    single, both = [], []
    for size in (1e-1, 1e-2, 1e-3):
        step = step_of(problem, size, seed=5)
        there = divergence_of_step(problem, step)
        back = divergence_of_step(problem, {tensor: -part for tensor, part in step.items()})
        quadratic = second_order(problem, step).value
        single.append(abs(there / quadratic - 1))
        both.append(abs((there + back) / 2 / quadratic - 1))
    assert single[-1] < 1e-2
    assert math.log10(single[1] / single[2]) == pytest.approx(1, abs=0.1)
    assert math.log10(both[1] / both[2]) == pytest.approx(2, abs=0.1)


def two_networks(dtype: torch.dtype = torch.float64) -> tuple[nn.Module, nn.Module, TensorData]:
    torch.manual_seed(8)
    first = nn.Sequential(nn.Linear(5, 6), nn.BatchNorm1d(6), nn.Tanh(), nn.Linear(6, 3)).to(dtype)
    unsettle(first)
    second = copy.deepcopy(first)
    with torch.no_grad():
        for parameter in second.parameters():
            parameter += 0.05 * torch.randn_like(parameter)
    return first, second, TensorData(torch.randn(23, 5, dtype=dtype), torch.randint(0, 3, (23,)))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_movement_is_that_from_the_earlier_network(dtype: torch.dtype) -> None:
    first, second, data = two_networks(dtype)
    before = pose(first, data, batch_size=7)
    swept = sweep(before, verify=False)
    kept = snapshot(before, swept.outputs, swept.trace)
    step = {name: dict(second.named_parameters())[name].detach() - p.detach() for name, p in before.parameters.items()}
    quadratic = second_order(before, step)

    now = pose(second, data, batch_size=7)
    held = {name: tensor.clone() for name, tensor in named_tensors(now).items()}
    found_now = sweep(now, verify=False)
    assert why_apart(now, kept) == ""
    found = movement(now, found_now.outputs, found_now.trace, kept)

    rtol = 1e-12 if dtype is torch.float64 else 1e-5
    kl = relative_entropy(Softmax(), all_outputs(before), all_outputs(now))
    assert found.kl.value == pytest.approx(float(kl.mean()), rel=rtol)
    assert found.kl.standard_error == pytest.approx(float(kl.std()) / 23**0.5, rel=rtol)
    assert found.kl_quadratic.value == pytest.approx(quadratic.value, rel=rtol)
    assert found.kl_quadratic.standard_error == pytest.approx(quadratic.standard_error, rel=rtol)
    assert found.kl_parameters is None
    ours, theirs = (torch.tensor(each.trace.per_example_true) for each in (found_now, swept))
    assert found.trace_change.value == pytest.approx(found_now.trace.true.value - swept.trace.true.value)
    assert found.trace_change.standard_error == pytest.approx(float((ours - theirs).double().std()) / 23**0.5, rel=1e-4)
    assert found.trace_change.estimator_error == 0
    assert all(torch.equal(tensor, held[name]) for name, tensor in named_tensors(now).items())


def test_a_network_that_stands_still_has_moved_by_nothing() -> None:
    first, _, data = two_networks(torch.float32)
    problem = pose(first, data, batch_size=7)
    swept = sweep(problem, verify=False)
    found = movement(problem, swept.outputs, swept.trace, snapshot(problem, swept.outputs, swept.trace))
    assert (found.kl.value, found.kl_quadratic.value, found.trace_change.value) == (0, 0, 0)


def test_batch_norm_statistics_move_the_divergence_and_not_the_quadratic() -> None:
    first, second, data = two_networks()
    before = pose(first, data)
    swept = sweep(before, verify=False)
    kept = snapshot(before, swept.outputs, swept.trace)
    alone = movement(pose(second, data), *_swept(second, data), kept)
    second[1].running_mean += 1
    found = movement(pose(second, data), *_swept(second, data), kept)
    assert found.kl_quadratic.value == pytest.approx(alone.kl_quadratic.value, rel=1e-12)
    assert found.kl.value > 2 * alone.kl.value
    assert found.kl_parameters is not None
    assert found.kl_parameters.value == pytest.approx(alone.kl.value, rel=1e-12)
    assert float(second[1].running_mean[0]) == float(first[1].running_mean[0]) + 1


def test_a_counter_of_batches_moves_nothing() -> None:
    first, second, data = two_networks()
    before = pose(first, data)
    swept = sweep(before, verify=False)
    second[1].num_batches_tracked += 1
    kept = snapshot(before, swept.outputs, swept.trace)
    assert movement(pose(second, data), *_swept(second, data), kept).kl_parameters is None


def _swept(model: nn.Module, data: TensorData) -> tuple[Tensor, object]:
    found = sweep(pose(model, data), verify=False)
    return found.outputs, found.trace


def test_what_is_not_analysed_moves_the_divergence_and_not_the_quadratic() -> None:
    first, second, data = two_networks()
    head = {name: parameter for name, parameter in first.named_parameters() if name.startswith("3.")}
    before = pose(first, data, parameters=head)
    swept = sweep(before, verify=False)
    kept = snapshot(before, swept.outputs, swept.trace)
    now = pose(second, data, parameters={name: dict(second.named_parameters())[name] for name in head})
    after = sweep(now, verify=False)
    found = movement(now, after.outputs, after.trace, kept)
    assert found.kl_parameters is not None
    assert found.kl_quadratic.value == pytest.approx(found.kl_parameters.value, rel=0.1)
    assert found.kl.value > 1.5 * found.kl_parameters.value


def test_the_paired_error_holds_what_drawn_signs_add() -> None:
    first, second, data = two_networks()
    swept = [sweep(pose(model, data), estimator="sampled", samples=40, verify=False) for model in (first, second)]
    problem = pose(second, data)
    before = snapshot(pose(first, data), swept[0].outputs, swept[0].trace)
    found = movement(problem, swept[1].outputs, swept[1].trace, before).trace_change
    ours, theirs = (torch.tensor(each.trace.per_example_true).double() for each in (swept[1], swept[0]))
    shown = float((ours - theirs).std()) / 23**0.5
    hidden = [each.trace.hidden_error for each in swept]
    assert found.standard_error == pytest.approx(math.hypot(shown, *hidden), rel=1e-6)
    assert found.estimator_error is None


def test_networks_that_cannot_be_compared_say_why() -> None:
    torch.manual_seed(0)
    data = TensorData(torch.randn(5, 4), torch.randint(0, 3, (5,)))

    def kept(model: nn.Module, data: TensorData = data, **words: object) -> tuple[Problem, object]:
        problem = pose(model, data, **words)
        swept = sweep(problem, verify=False)
        return problem, snapshot(problem, swept.outputs, swept.trace)

    problem, ours = kept(mlp(4, 5, 3))
    assert why_apart(problem, ours) == ""
    assert "only one of the two networks has 4.bias" in why_apart(problem, kept(mlp(4, 5, 4, 3))[1])
    assert "0.weight has the shape (5, 4) in place of (6, 4)" in why_apart(problem, kept(mlp(4, 6, 3))[1])
    model = mlp(4, 5, 3)
    assert "analysed" in why_apart(problem, kept(model, parameters={"0.bias": model[0].bias})[1])
    assert "mean something else" in why_apart(problem, kept(mlp(4, 5, 3), likelihood="gaussian")[1])
    fewer = TensorData(data.inputs[:4], data.labels[:4])
    assert "4 examples in place of 5" in why_apart(problem, kept(mlp(4, 5, 3), fewer)[1])
