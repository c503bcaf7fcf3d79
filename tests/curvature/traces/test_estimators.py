"""The deflated and the sampled estimator: unbiased, with errors that are what they say, and the same in any batches."""

import itertools
import math
from collections.abc import Callable
from functools import partial
from itertools import product
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from fisher_cli.curvature.gradient_norms.engine import BatchBackward, Engine
from fisher_cli.curvature.problem.counter_based_random import of_examples
from fisher_cli.curvature.problem.likelihoods import Gaussian, Likelihood, Sigmoid, Softmax
from fisher_cli.curvature.problem.output_scores import OutputScores, sampled
from fisher_cli.curvature.problem.problem import Problem, TensorData, pose
from fisher_cli.curvature.traces import deflation
from fisher_cli.curvature.traces.deflation import (
    AIM,
    PilotResult,
    antithetic_signs,
    deflated,
    paired_products,
    pilot,
    roots,
)
from fisher_cli.curvature.traces.traces import draw_notes, sweep
from tests.cases import CASES, Case, case_of, mlp
from tests.conftest import problem_of, reference_of
from tests.long_lists import some
from tests.outputs import covariance, outputs_of, saved

KINDS = [(Softmax(), 5), (Softmax(), 2), (Sigmoid(), 3), (Gaussian(), 4)]


@pytest.mark.parametrize(("kind", "classes"), KINDS, ids=lambda value: getattr(value, "name", str(value)))
def test_the_turned_root_is_a_root(kind: Likelihood, classes: int) -> None:
    z = outputs_of(classes)
    kernel = torch.randn(classes, classes, generator=torch.Generator().manual_seed(0)).double()
    for label in range(classes):
        r = roots(kind, z, torch.full((len(z),), label), kernel @ kernel.T)
        assert torch.allclose(r @ r.mT, covariance(kind, z), atol=1e-14)


@pytest.mark.parametrize(("kind", "classes"), KINDS, ids=lambda value: getattr(value, "name", str(value)))
def test_turned_columns_are_orthogonal_and_carry_less_and_less(kind: Likelihood, classes: int) -> None:
    """Under K̄, after the first, which is a multiple of the observed score where the likelihood is softmax."""
    z, mixed = outputs_of(classes), torch.randn(classes, classes, generator=torch.Generator().manual_seed(0)).double()
    kernel = mixed @ mixed.T
    r = roots(kind, z, torch.zeros(len(z), dtype=torch.long), kernel)[:, :, 1 if kind.name == "softmax" else 0 :]
    products = r.mT @ kernel @ r
    carried = products.diagonal(dim1=1, dim2=2)
    assert torch.allclose(products, torch.diag_embed(carried), atol=1e-12)
    assert bool((carried.diff(dim=1) <= 1e-15).all())


def closed_form(kind: Likelihood, z: Tensor, columns: int) -> Callable[[], OutputScores]:
    """Makes the deflated estimator's scores for these outputs from so many columns of the closed-form root."""
    classes = z.shape[1]
    labels = torch.zeros(len(z)).long() if kind.name == "softmax" else torch.zeros(len(z), classes).double()
    problem = pose(mlp(2, classes), TensorData(torch.ones(len(z), 2), labels), likelihood=kind.name)
    return partial(deflated(Engine(problem), PilotResult(None, columns), 0), z, labels, 0)


def over_all_signs(kind: Likelihood, z: Tensor, columns: int, patch: pytest.MonkeyPatch) -> Tensor:
    """Leading columns of the closed-form root, and the mean over every sign pattern of its mixtures."""
    scores, total = closed_form(kind, z, columns), torch.zeros(len(z), z.shape[1], z.shape[1]).double()
    pairs = torch.tensor([*product((1.0, -1.0), repeat=z.shape[1])]).double().split(2)
    for pair in pairs:
        signs = pair.unsqueeze(1).expand(-1, len(z), -1)
        patch.setattr(deflation, "antithetic_signs", lambda *_, signs=signs: signs)
        found = scores()
        assert found.draws == range(columns, columns + 2)
        total += torch.einsum("kb,kbc,kbd->bcd", found.true, found.directions, found.directions)
    return total / len(pairs)


@pytest.mark.parametrize(
    ("kind", "classes", "columns"),
    [
        *product([Softmax()], [5], [1, 3]),
        *product([Sigmoid()], [3], [0, 1, 2]),
        *product([Gaussian()], [4], [0, 1, 3]),
    ],
    ids=lambda value: getattr(value, "name", str(value)),
)
def test_the_closed_form_root_is_a_root_over_all_signs(
    kind: Likelihood, classes: int, columns: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    z = outputs_of(classes)
    assert torch.allclose(over_all_signs(kind, z, columns, monkeypatch), covariance(kind, z), atol=1e-13)


@pytest.mark.parametrize("columns", [1, 2])
def test_the_closed_form_root_keeps_its_digits_at_saturated_outputs(
    columns: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    z = torch.tensor([[40.0, 0.0, -3.0, 1.0], [0.0, 1.0, 90.0, 2.0]]).double()
    truth = covariance(Softmax(), z)
    sizes = truth.diagonal(dim1=1, dim2=2).sqrt()
    found = over_all_signs(Softmax(), z, columns, monkeypatch)
    assert float(((found - truth) / (sizes.unsqueeze(1) * sizes.unsqueeze(2))).abs().max()) < 1e-9


def test_the_closed_form_root_survives_saturation_and_21841_classes() -> None:
    z = torch.zeros(2, 21841).double()
    z[0, 7], z[1, 3] = 60.0, 800.0
    found = closed_form(Softmax(), z, 3)()
    assert bool(found.directions.isfinite().all() and found.true.isfinite().all())
    p, complement = Softmax().probabilities(z)
    diagonal = p * complement
    carried = found.true * found.directions.square().sum(2)
    assert float(carried[0, 0]) <= float(diagonal[0].sum()) * (1 + 1e-9)


# Those in which faults are planted are always among them.
@pytest.mark.parametrize(
    ("case", "estimator"),
    some(
        product(CASES, ["deflated", "sampled"]),
        always=lambda pair: pair[0].name in {"linear", "one logit", "sequence"},
    ),
    ids=lambda value: value.name if isinstance(value, Case) else value,
)
def test_the_mean_over_many_seeds_is_the_exact_trace(case: Case, estimator: str) -> None:
    truth = float(reference_of(case).fisher.trace())
    problem, values, errors = problem_of(case), [], []
    for seed in range(40):
        trace = sweep(problem, estimator=estimator, samples=3, seed=seed, verify=False).trace
        values.append(trace.true.value)
        errors.append(trace.true.estimator_error)
        assert trace.empirical.value == pytest.approx(float(reference_of(case).empirical.trace()), rel=1e-9)
    found = torch.tensor(values, dtype=torch.float64)
    mean, spread = found.mean(), found.std()
    assert float((mean - truth).abs()) <= 4 * float(spread) / math.sqrt(40) + 1e-9 * truth
    # The claimed errors, in the mean of squares, are the spread; 40 seeds of six examples know it to a factor of two.
    # Those of antithetic signs may be larger, by what is within pairs.
    claimed = float(torch.tensor(errors, dtype=torch.float64).square().mean().sqrt())
    assert 0.5 * float(spread) - 1e-9 * truth <= claimed
    assert estimator == "deflated" or claimed <= 2 * float(spread) + 1e-9 * truth


def many_examples() -> Problem:
    torch.manual_seed(0)
    x, y = torch.randn(200, 6).double(), torch.randint(0, 8, (200,))
    return pose(mlp(6, 12, 8).double(), TensorData(x, y), batch_size=64)


def draws_of(problem: Problem, estimator: str, seeds: int) -> tuple[Tensor, Tensor]:
    """Values and claimed errors, by seed."""
    swept = (sweep(problem, estimator=estimator, samples=4, seed=seed, verify=False) for seed in range(seeds))
    estimates = [each.trace.true for each in swept]
    return (
        torch.tensor([estimate.value for estimate in estimates]).double(),
        torch.tensor([estimate.estimator_error for estimate in estimates]).double(),
    )


def variances(problem: Problem) -> tuple[float, float]:
    """That of the deflated trace, and the one that it states in expectation, from all products of tail columns."""
    engine = Engine(problem)
    found = pilot(engine, None)
    assert found.kernel is not None
    assert found.columns < 5
    variance = stated = 0.0
    for batch in problem.batches():
        evaluated = engine.evaluate(batch)
        kernels = evaluated.gram(torch.eye(problem.outputs).double().unsqueeze(1).repeat(1, len(batch), 1))
        r = roots(problem.likelihood, evaluated.outputs.detach(), batch.labels, found.kernel)[:, :, found.columns :]
        squares = (r.mT @ kernels @ r).square()
        for i, j in itertools.combinations(range(r.shape[2]), 2):
            neighbours = i % 2 == 0 and j == i + 1
            variance += 0 if neighbours else 2 * float(squares[:, i, j].sum())
            stated += (4 if neighbours else 2) * float(squares[:, i, j].sum())
    return variance / problem.examples**2, stated / problem.examples**2


@pytest.mark.ci
def test_the_claimed_error_is_the_spread_on_many_examples() -> None:
    problem = many_examples()
    truth, (variance, stated) = sweep(problem, verify=False).trace.true.value, variances(problem)
    assert stated > 1.1 * variance
    for name in ("sampled", "deflated"):
        values, errors = draws_of(problem, name, 60)
        claimed = float(errors.square().mean().sqrt())
        expected = math.sqrt(stated / variance) if name == "deflated" else 1.0
        assert claimed / float(values.std()) == pytest.approx(expected, rel=0.3), name
        assert float(values.mean()) == pytest.approx(truth, abs=4 * float(values.std()) / 60**0.5), name
    assert float(values.std()) == pytest.approx(math.sqrt(variance), rel=0.3)
    assert claimed == pytest.approx(math.sqrt(stated), rel=0.1)


def test_the_claimed_error_holds_where_few_examples_carry_the_trace() -> None:
    """Two independent draws of one example may agree by chance, and then state an error near zero."""
    problem = saved("digits-clean", "01760", 400)
    exact = sweep(problem, verify=False).trace
    carried = sorted(exact.per_example_true, reverse=True)
    assert sum(carried[:20]) > 0.5 * sum(carried)
    values, errors = draws_of(problem, "deflated", 60)
    assert float(((values - exact.true.value).abs() / errors).max()) <= 3


@pytest.mark.parametrize("estimator", ["deflated", "sampled"])
def test_draws_belong_to_the_example_and_not_to_the_batch(estimator: str) -> None:
    torch.manual_seed(0)
    model, x, y = mlp(5, 9, 12).double(), torch.randn(14, 5).double(), torch.arange(14) % 12

    def value(batch_size: int, seed: int = 0) -> float:
        problem = pose(model, TensorData(x, y), batch_size=batch_size)
        return sweep(problem, estimator=estimator, samples=2, seed=seed, target_error=0.02).trace.true.value

    values = [value(size) for size in (1, 4, 14)]
    assert values == pytest.approx([values[0]] * 3, rel=1e-8)
    assert value(14, seed=1) != pytest.approx(values[0], rel=1e-9)


def test_the_deflated_estimator_gives_the_empirical_fisher_without_a_direction_of_its_own() -> None:
    torch.manual_seed(0)
    model, x, y = mlp(5, 9, 12).double(), torch.randn(14, 5).double(), torch.arange(14) % 12
    problem = pose(model, TensorData(x, y))
    engine, outputs = Engine(problem), model(x).detach()
    scores = deflated(engine, PilotResult(torch.eye(12).double(), 3), 0)(outputs, y, 0)
    assert len(scores.directions) == 3 + 2
    observed = torch.einsum("kb,kbc->bc", scores.observed, scores.directions.double())
    assert torch.allclose(observed, Softmax().observed_score(outputs, y), atol=1e-15)
    many = deflated(engine, PilotResult(None, 4), 0)(outputs, y, 0)
    assert len(many.directions) == 4 + 2
    assert torch.allclose(torch.einsum("kb,kbc->bc", many.observed, many.directions.double()), observed, atol=1e-15)


@pytest.mark.parametrize("gap", [0.0, 30.0, 800.0])
@pytest.mark.parametrize("kernel", [None, torch.eye(12).double()], ids=["closed form", "turned"])
def test_the_observed_score_survives_saturation(gap: float, kernel: Tensor | None) -> None:
    torch.manual_seed(0)
    problem = pose(mlp(5, 9, 12), TensorData(torch.randn(12, 5), torch.arange(12)))
    z, labels = torch.randn(12, 12).double(), torch.arange(12)
    z[:, 3] += gap
    scores = deflated(Engine(problem), PilotResult(kernel, 4), 0)(z, labels, 0)
    observed = torch.einsum("kb,kbc->bc", scores.observed, scores.directions)
    assert torch.allclose(observed, Softmax().observed_score(z, labels), rtol=1e-12, atol=0)
    assert bool(scores.true.isfinite().all() and scores.directions.isfinite().all())


def test_sampled_labels_have_the_models_frequencies() -> None:
    z = torch.tensor([[1.0, 0.0, -1.0], [-2.0, 0.0, 1.5]]).double()
    scores = Softmax().sampled_scores(z, 20_000, of_examples(0, "labels", 0, 2, z.device))
    frequencies = (scores < 0).double().mean(0)
    assert frequencies.flatten().tolist() == pytest.approx(torch.softmax(z, 1).flatten().tolist(), abs=0.012)


@pytest.mark.parametrize(("kind", "classes"), KINDS, ids=lambda value: getattr(value, "name", str(value)))
def test_sampled_scores_of_a_batch_are_those_of_its_examples_with_the_covariance_of_the_score(
    kind: Likelihood, classes: int
) -> None:
    z = outputs_of(classes)
    scores = kind.sampled_scores(z, 40_000, of_examples(1, "labels", 3, len(z), z.device))
    for n in range(len(z)):
        alone = kind.sampled_scores(z[n : n + 1], 40_000, of_examples(1, "labels", 3 + n, 1, z.device))
        assert torch.equal(alone[:, 0], scores[:, n])
    second = torch.einsum("sbc,sbd->bcd", scores, scores) / len(scores)
    assert torch.allclose(second, covariance(kind, z), atol=0.04)
    assert float(scores.mean(0).abs().max()) < 0.03


@pytest.mark.parametrize("columns", [0, 1, 4])
def test_signs_are_antithetic_within_pairs_and_fair(columns: int) -> None:
    first, second = antithetic_signs(9, columns, of_examples(0, "signs", 0, 4000, torch.device("cpu")))
    turned = first * second
    assert bool((turned[:, :columns] == 1).all())
    for column in range(columns, 8, 2):
        assert bool((turned[:, column] == -turned[:, column + 1]).all())
    for signs in (first, second):
        products = (signs.T @ signs).fill_diagonal_(0)
        assert float(products.abs().max()) < 5 * 4000**0.5
        assert float(signs.sum(0).abs().max()) < 5 * 4000**0.5


def test_the_error_of_one_label_is_known_from_the_one_drawn_by_size() -> None:
    """Errors of S = 1 against the spread over seeds; they err upwards, by up to a factor of two in the square."""
    case = case_of("mlp")
    swept = [sweep(problem_of(case), estimator="sampled", samples=1, seed=seed, verify=False) for seed in range(60)]
    assert swept[0].trace.estimator == "sampled S=1"
    values, errors = (
        torch.tensor([getattr(each.trace.true, name) for each in swept]).double()
        for name in ("value", "estimator_error")
    )
    assert 0.8 <= float(errors.square().mean().sqrt() / values.std()) <= 1.8
    assert all(layer.true.estimator_error for layer in swept[0].trace.layers)
    assert swept[0].trace.empirical.estimator_error == 0.0


@pytest.mark.parametrize("target", [0.3, 0.01, 1e-3, 1e-4])
@pytest.mark.parametrize(("classes", "examples"), [(12, 300), (40, 64), (64, 64), (65, 64), (100, 300), (300, 64)])
def test_the_target_error_is_kept_or_what_was_reached_is_said(classes: int, examples: int, target: float) -> None:
    """Beyond sixteen columns and 64 outputs too; and the stated error holds against the exact trace."""
    torch.manual_seed(classes)
    x, y = torch.randn(examples, 8).double(), torch.randint(0, classes, (examples,))
    problem = pose(mlp(8, 20, classes).double(), TensorData(x, y), batch_size=100, dtype=torch.float64)
    trace = sweep(problem, estimator="deflated", target_error=target, verify=False).trace
    true, exact = trace.true, sweep(problem, estimator="exact", verify=False).trace.true.value
    print(f"{classes} outputs, target {target}: {trace.estimator}, {true.estimator_error / true.value:.2g} stated")
    assert true.estimator_error <= target * true.value or draw_notes(trace, target)
    assert true.estimator_error <= 1.5 * target * true.value
    assert abs(true.value - exact) <= 4 * true.estimator_error + 1e-12 * exact


def test_columns_that_the_memory_does_not_hold_are_not_taken_and_the_row_says_so(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(deflation, "MOST_VALUES", 64 * 100 * 8)
    torch.manual_seed(0)
    x, y = torch.randn(64, 8).double(), torch.randint(0, 100, (64,))
    problem = pose(mlp(8, 20, 100).double(), TensorData(x, y), batch_size=64, dtype=torch.float64)
    trace = sweep(problem, estimator="deflated", target_error=1e-6, verify=False).trace
    assert trace.estimator == "deflated k=6"
    (note,) = draw_notes(trace, 1e-6)
    assert note.startswith("target error 1e-06 was asked for, ")


# What two mixtures of the columns from k on add: squares of 8, 8 and 1 above the diagonal, the pair's not at all; it
# states them all twice, the pair's four times.
INNER = torch.zeros(6, 6).double()
INNER[:3, :3] = torch.tensor([[3.0, 8**0.5, 8**0.5], [8**0.5, 2.0, 1.0], [8**0.5, 1.0, 1.0]])


@pytest.fixture
def _columns_are_outputs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(deflation, "roots", lambda _, outputs, *__: torch.eye(6).double().expand(len(outputs), 6, 6))


def columns_for(kernels: Tensor, examples: int, target: float | None, patch: pytest.MonkeyPatch) -> int:
    """How many columns a pilot takes whose examples have these J Jᵀ, in turn."""
    patch.setattr(BatchBackward, "gram", lambda found, _: kernels[torch.arange(len(found.batch)) % len(kernels)])
    data = TensorData(torch.ones(examples, 2), torch.zeros(examples, 6))
    return pilot(Engine(pose(mlp(2, 6), data, likelihood="gaussian", batch_size=examples)), target).columns


@pytest.mark.usefixtures("_columns_are_outputs")
@pytest.mark.parametrize(("stated", "columns"), [(50 * 1.01, 0), (50 * 0.99, 1), (4 * 1.01, 1), (4 * 0.99, 2)])
def test_a_target_holds_for_the_error_that_is_stated(
    stated: float, columns: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = math.sqrt(stated / 50 / AIM) / 6
    assert columns_for(INNER.unsqueeze(0), 50, target, monkeypatch) == columns


@pytest.mark.usefixtures("_columns_are_outputs")
@pytest.mark.parametrize(("variance", "columns"), [(18 * 1.01, 0), (18 * 0.99, 1), (1e-9, 1)])
def test_no_more_columns_are_taken_exactly_than_the_error_asks_for(
    variance: float, columns: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without a target: a tenth of the spread of the traces over examples, here ±d around six."""
    apart, share = INNER.repeat(2, 1, 1), 0.1
    apart[0, 0, 0] += math.sqrt(variance / 2) / share
    apart[1, 0, 0] -= math.sqrt(variance / 2) / share
    assert columns_for(apart, 2, None, monkeypatch) == columns


@pytest.mark.parametrize("columns", [0, 1, 2])
def test_the_error_of_columns_is_predicted_for_examples_that_have_not_turned_them(
    columns: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each half with the mean kernel of the other half, by which its columns are not orthogonal; one example alone."""
    mixed = torch.randn(2, 6, 6, generator=torch.Generator().manual_seed(3)).double()
    kernels = mixed @ mixed.mT
    z = torch.zeros(1, 6).double()
    turned = torch.cat([roots(Gaussian(), z, z, kernel) for kernel in kernels.flip(0)])
    tail = (turned.mT @ kernels @ turned)[:, columns:, columns:]
    off_diagonal = tail - torch.diag_embed(tail.diagonal(dim1=1, dim2=2))
    stated = float((off_diagonal.square().sum((1, 2)) + paired_products(tail)).mean())
    for factor, expected in ((1.01, columns), (0.99, columns + 1)):
        target = math.sqrt(factor * stated / 50 / AIM) / float(torch.einsum("bcc->b", kernels).mean())
        assert columns_for(kernels, 50, target, monkeypatch) == expected
    assert columns_for(kernels[:1], 1, 1e-9, monkeypatch) == 0


@pytest.mark.parametrize(("run", "step", "factor"), [("digits-clean", "00000", 10), ("digits-cnn", "01760", 300)])
def test_variance_per_pass_is_far_below_that_of_sampled_labels(run: str, step: str, factor: float) -> None:
    """Ten times early in training, three hundred times late, at the same number of backward passes."""
    problem = saved(run, step, 500)
    found = sweep(problem, estimator="deflated").trace
    passes = int(found.estimator.split("=")[1]) + 2
    labels = sweep(problem, estimator="sampled", samples=passes).trace
    assert found.true.estimator_error**2 < labels.true.estimator_error**2 / factor
    truth = sweep(problem).trace.true
    assert abs(found.true.value - truth.value) <= 4 * found.true.estimator_error
    assert truth.standard_error is not None
    assert found.true.estimator_error < 0.25 * truth.standard_error


def test_auto_is_exact_for_few_classes_and_deflated_for_many() -> None:
    torch.manual_seed(0)
    x = torch.randn(20, 4).double()
    few, many = nn.Linear(4, 32).double(), nn.Linear(4, 100).double()
    labels = torch.randint(0, 32, (20,))
    assert sweep(pose(few, TensorData(x, labels)), estimator="auto").trace.estimator == "exact"
    trace = sweep(pose(many, TensorData(x, labels)), estimator="auto").trace
    assert trace.estimator.startswith("deflated")
    truth = sweep(pose(many, TensorData(x, labels))).trace.true.value
    assert abs(trace.true.value - truth) <= 4 * trace.true.estimator_error


def test_scores_of_the_deflated_estimator_hold_lambda_in_expectation() -> None:
    torch.manual_seed(0)
    x, y = torch.randn(5, 4).double(), torch.randint(0, 3, (5,))
    problem = pose(mlp(4, 3).double(), TensorData(x, y))
    z = problem.forward(x).detach()
    total = torch.zeros(5, 3, 3).double()
    for seed in range(300):
        found: OutputScores = deflated(Engine(problem), PilotResult(torch.eye(3).double(), 1), seed)(z, y, 0)
        total += torch.einsum("kb,kbc,kbd->bcd", found.true, found.directions, found.directions)
    assert torch.allclose(total / 300, covariance(Softmax(), z), atol=0.05)
    assert isinstance(sampled(Softmax(), 2, 0)(z, y, 0), OutputScores)


def test_the_deflated_estimator_makes_nothing_of_size_classes_squared() -> None:
    """With 3,000 classes a root of Λ would hold 9 million entries per example."""

    class Largest(TorchFunctionMode):
        entries = 0

        def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            result = func(*args, **(kwargs or {}))
            self.entries = max(self.entries, result.numel() if isinstance(result, Tensor) else 0)
            return result

    torch.manual_seed(0)
    classes = 3000
    problem = pose(mlp(3, 4, classes), TensorData(torch.randn(2, 3), torch.tensor([5, 2999])))
    with Largest() as largest:
        sweep(problem, estimator="deflated")
    assert largest.entries < 100 * classes
