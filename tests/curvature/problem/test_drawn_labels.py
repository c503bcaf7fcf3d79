"""Labels drawn from confident networks: what their estimator states covers what they miss, and is never zero."""

import itertools
import math
from functools import cache

import pytest
import torch
from torch import nn

from fisher_cli import analyze
from fisher_cli.curvature.comparison.null_distribution import null_distribution
from fisher_cli.curvature.gradient_norms.engine import Engine
from fisher_cli.curvature.kl.divergence import movement, snapshot
from fisher_cli.curvature.problem.counter_based_random import of_examples
from fisher_cli.curvature.problem.drawn_labels import draw_errors, odds, scores_by_size
from fisher_cli.curvature.problem.likelihoods import Gaussian, Likelihood, Sigmoid, Softmax
from fisher_cli.curvature.problem.problem import Problem, TensorData, pose
from fisher_cli.curvature.traces.traces import draw_notes, sweep
from fisher_cli.results import Estimate, Trace
from tests.cases import mlp
from tests.long_lists import some
from tests.outputs import covariance, outputs_of, saved

KINDS = [(Softmax(), 5), (Softmax(), 2), (Sigmoid(), 3), (Sigmoid(), 1), (Gaussian(), 4)]


def named(value: object) -> str:
    return getattr(value, "name", str(value))


@pytest.mark.parametrize(("kind", "classes"), KINDS, ids=named)
def test_scores_by_size_count_by_their_odds_as_those_of_the_model(kind: Likelihood, classes: int) -> None:
    """E_q (p/q) s sᵀ = Λ and E_q p/q = 1."""
    z = outputs_of(classes)
    scores = scores_by_size(kind, z, 40_000, of_examples(0, "labels by size", 5, len(z), z.device))
    ratios = 1 / odds(kind, z, scores)
    assert torch.allclose(
        torch.einsum("kb,kbc,kbd->bcd", ratios, scores, scores) / 40_000, covariance(kind, z), atol=0.02
    )
    assert ratios.mean(0).tolist() == pytest.approx([1.0] * len(z), abs=0.05)
    alone = scores_by_size(kind, z[2:3], 40_000, of_examples(0, "labels by size", 7, 1, z.device))
    assert torch.equal(alone[:, 0], scores[:, 2])


def test_classes_by_size_have_the_chances_of_their_squared_scores() -> None:
    z = torch.tensor([[4.0, 0.0, -1.0, 0.5]]).double()
    p = torch.softmax(z, 1)
    units = torch.eye(4).double()
    chances = p * (p - units).square().sum(1)
    scores = scores_by_size(Softmax(), z, 60_000, of_examples(0, "labels by size", 0, 1, z.device))
    found = (scores[:, 0] < 0).double().mean(0)
    assert found.tolist() == pytest.approx((chances / chances.sum())[0].tolist(), abs=0.008)


@pytest.mark.parametrize("gap", [40.0, 300.0, 800.0])
def test_at_saturated_outputs_a_rare_label_is_drawn_with_its_odds(gap: float) -> None:
    """Softmax and sigmoid; at 800 nothing is left to chance."""
    draws = of_examples(0, "labels by size", 0, 1, torch.device("cpu"))
    for kind, z in ((Softmax(), torch.tensor([[gap, 0.0, 0.0]])), (Sigmoid(), torch.tensor([[gap, -gap]]))):
        scores = scores_by_size(kind, z, 8, draws)
        found = odds(kind, z, scores)
        if gap < 800:
            assert float(scores.square().sum(2).min()) > 0.5
            rare = 2 * math.exp(-gap)
            assert (1 / found).flatten().tolist() == pytest.approx(
                [rare / float(scores[0].square().sum())] * 8, rel=1e-6
            )
        else:
            assert found.flatten().tolist() == [math.inf] * 8


@pytest.mark.parametrize("samples", [1, 2, 3])
@pytest.mark.parametrize("p", [(0.5, 0.3, 0.2), (0.97, 0.02, 0.01), (1 - 1e-6, 9e-7, 1e-7)])
def test_over_all_labels_the_balanced_mean_is_the_trace_and_its_variance_errs_upwards(
    p: tuple[float, ...], samples: int
) -> None:
    """All outcomes of S labels and one by size, with their chances: no draws, no tolerance for chance."""
    chances = torch.tensor(p, dtype=torch.float64)
    squares = (chances - torch.eye(3).double()).square().sum(1)
    ratio = squares / float((chances * squares).sum())
    norms = squares * torch.tensor([1.3, 0.6, 1.0]).double()  # ‖Jᵀs‖² is not simply in proportion
    mean = float((chances * norms).sum())
    variance = float((chances * (norms - mean).square()).sum())
    expected, spread, stated, noise = 0.0, 0.0, 0.0, 0.0
    for labels in itertools.product(range(3), repeat=samples + 1):
        chosen = list(labels)
        chance = float(chances[chosen].prod() * ratio[chosen[-1]])
        found = draw_errors(norms[chosen].unsqueeze(1), ratio[chosen].unsqueeze(1))
        expected += chance * float(found.terms)
        spread += chance * float(found.spread)
        stated += chance * float(found.balanced)
        noise += chance * (float(found.terms) - mean) ** 2
    assert expected == pytest.approx(mean, rel=1e-9)
    assert 0.9 * variance / samples <= stated <= (1 + 1 / samples) * 1.05 * variance / samples
    assert noise <= variance / samples
    if samples > 1:
        assert spread == pytest.approx(variance / samples, rel=1e-9)


def test_of_labels_that_all_agree_the_one_by_size_states_the_error() -> None:
    """The first choice at 1 − 10⁻⁶ five times, and a rare label: the spread is zero, the stated variance p t²/S."""
    terms = torch.tensor([1e-12] * 5 + [2.0]).double().unsqueeze(1)
    found = draw_errors(terms, torch.tensor([1e-6] * 5 + [1e6]).double().unsqueeze(1))
    assert float(found.spread) == 0
    assert float(found.balanced) == pytest.approx(6 / 5 * 1e-6 * 4 / 5, rel=1e-4)


@cache
def confident(loss: float, seed: int, kind: str) -> Problem:
    """A network trained to a loss; labels one-hot for sigmoid."""
    torch.manual_seed(seed)
    x = torch.randn(120, 10, dtype=torch.float64)
    y = (x @ torch.randn(10, 6).double() + torch.randn(120, 6)).argmax(1)
    model = mlp(10, 24, 6).double()
    targets = y if kind == "softmax" else nn.functional.one_hot(y, 6).double()
    of = nn.functional.cross_entropy if kind == "softmax" else nn.functional.binary_cross_entropy_with_logits
    optimizer = torch.optim.Adam(model.parameters(), 0.02)
    for _ in range(5000):
        value = of(model(x), targets)
        if float(value.detach()) < loss:
            return pose(model, TensorData(x, targets), likelihood=kind, dtype=torch.float64)
        optimizer.zero_grad()
        value.backward()
        optimizer.step()
    raise AssertionError(float(value.detach()))


def covered(problem: Problem, samples: int, seeds: int) -> tuple[int, int, int]:
    """How many stated errors are none or zero, how many of the traces are within two of them, and of the layers."""
    exact = sweep(problem, verify=False).trace
    empty = within = layers = 0
    for seed in range(seeds):
        found = sweep(problem, estimator="sampled", samples=samples, seed=seed, verify=False).trace
        empty += not found.true.estimator_error
        pairs = [(found.true, exact.true), *((a.true, b.true) for a, b in zip(found.layers, exact.layers, strict=True))]
        inside = [abs(a.value - b.value) <= 2 * (a.estimator_error or 0) for a, b in pairs]
        within, layers = within + inside[0], layers + sum(inside[1:])
    return empty, within, layers


@pytest.mark.ci
@pytest.mark.parametrize(
    ("kind", "loss", "samples"),
    some(itertools.product(["softmax", "sigmoid"], [1e-2, 1e-3, 1e-4], [1, 2, 5]), part=0.5),
)
def test_two_stated_errors_cover_the_exact_trace_of_confident_networks(kind: str, loss: float, samples: int) -> None:
    """Three networks and fifteen seeds each; the spread of the labels alone covers 3 to 31 %."""
    networks, seeds = 3, 15
    counts = [covered(confident(loss, network, kind), samples, seeds) for network in range(networks)]
    empty, within, layers = (sum(each) for each in zip(*counts, strict=True))
    all_of_them = networks * seeds
    print(f"{kind} {loss} S={samples}: {within} of {all_of_them} cover, of layers {layers / 4 / all_of_them:.1%}")
    assert empty == 0
    assert within >= 0.9 * all_of_them
    assert layers >= 0.9 * all_of_them * 4


@pytest.mark.parametrize(
    ("run", "step"), [("digits-clean", "00176"), ("digits-clean", "01760"), ("digits-cnn", "01760")]
)
def test_two_stated_errors_cover_the_exact_trace_of_the_sample_runs(run: str, step: str) -> None:
    problem = saved(run, step, 150)
    seeds = 20
    empty, within, layers = covered(problem, 5, seeds)
    assert empty == 0
    assert within >= 0.9 * seeds
    assert layers >= 0.9 * seeds * len(problem.parameters)


def test_the_error_over_examples_of_drawn_labels_is_that_of_the_exact_trace() -> None:
    """Where all labels are the first choice, their terms' own spread would be that of next to nothing."""
    problem = confident(1e-3, 0, "softmax")
    exact = sweep(problem, verify=False).trace
    assert exact.true.standard_error is not None
    for seed in range(5):
        found = sweep(problem, estimator="sampled", samples=3, seed=seed, verify=False).trace
        assert found.true.standard_error == pytest.approx(exact.true.standard_error, rel=0.25)
        for ours, theirs in zip(found.layers, exact.layers, strict=True):
            assert ours.true.standard_error == pytest.approx(theirs.true.standard_error, rel=0.3)
        assert found.ratio is not None
        assert exact.ratio is not None
        assert found.ratio.standard_error is not None
        relative = (found.true.estimator_error or 0) / found.true.value
        assert found.ratio.standard_error >= 0.99 * found.ratio.value * relative


def test_differences_between_checkpoints_hold_what_the_labels_miss() -> None:
    """Two networks whose drawn labels are all first choices: the spread of the differences knows nothing."""
    problems = [confident(loss, 0, "softmax") for loss in (1e-3, 1e-4)]
    exact = [sweep(problem, verify=False) for problem in problems]
    change = exact[1].trace.true.value - exact[0].trace.true.value
    hidden = within = 0
    for seed in range(20):
        swept = [sweep(problem, estimator="sampled", samples=2, seed=seed, verify=False) for problem in problems]
        before = snapshot(problems[0], swept[0].outputs, swept[0].trace)
        found = movement(problems[1], swept[1].outputs, swept[1].trace, before).trace_change
        assert found.standard_error is not None
        within += abs(found.value - change) <= 2 * found.standard_error
        hidden += swept[0].trace.hidden_error > 0
    assert hidden >= 15
    assert within >= 18


def test_an_exact_trace_hides_nothing_and_labels_that_vary_hide_little() -> None:
    torch.manual_seed(0)
    problem = pose(mlp(6, 12, 8).double(), TensorData(torch.randn(300, 6).double(), torch.randint(0, 8, (300,))))
    for estimator in ("exact", "deflated"):
        assert sweep(problem, estimator=estimator, verify=False).trace.hidden_error == 0
    found = sweep(problem, estimator="sampled", samples=5, verify=False).trace
    assert found.hidden_error < 0.5 * found.true.estimator_error


def test_labels_that_all_agree_with_the_one_by_size_leave_the_error_empty_and_say_so() -> None:
    """One output that is zero: both labels have gradients of one length, and a draw cannot know that it is so."""
    model = nn.Linear(3, 1).double()
    nn.init.zeros_(model.weight)
    nn.init.zeros_(model.bias)
    problem = pose(model, TensorData(torch.ones(4, 3).double(), torch.ones(4).long()), dtype=torch.float64)
    trace = sweep(problem, estimator="sampled", samples=3, verify=False).trace
    assert trace.true.value > 0
    assert trace.true.estimator_error is None
    assert trace.hidden_error is None
    (note,) = draw_notes(trace, None)
    assert "left empty" in note
    assert "--estimator exact" in note


def test_a_network_without_any_chance_has_no_error() -> None:
    """Logits 800 apart: of no other label is there a probability in float64."""
    model = nn.Linear(2, 3).double()
    nn.init.zeros_(model.weight)
    with torch.no_grad():
        model.bias.copy_(torch.tensor([800.0, 0.0, 0.0]))
    problem = pose(model, TensorData(torch.ones(5, 2).double(), torch.zeros(5).long()), dtype=torch.float64)
    trace = sweep(problem, estimator="sampled", samples=2, verify=False).trace
    assert (trace.true.value, trace.true.estimator_error, trace.hidden_error) == (0.0, 0.0, 0.0)


@pytest.mark.parametrize("loss", [1e-2, 1e-4])
def test_the_null_of_many_classes_is_known_for_confident_networks(loss: float) -> None:
    """From sixteen labels by size; of sixteen labels of the model itself nearly all runs would state a null of zero."""
    engine = Engine(confident(loss, 1, "softmax"))
    exact = null_distribution(engine)
    for seed in range(5):
        found = null_distribution(engine, labels=16, seed=seed)
        assert found.variance == pytest.approx(exact.variance, rel=0.2)
        assert found.scatter == pytest.approx(exact.scatter, rel=0.2)
        assert found.carriers == pytest.approx(exact.carriers, rel=0.2)
        for name, variance in exact.layers.items():
            assert found.layers[name] == pytest.approx(variance, rel=0.3)


def test_a_target_that_is_missed_is_said_with_what_was_reached() -> None:
    def traced(estimator: str, error: float | None) -> Trace:
        return Trace(estimator, Estimate(2.0, 0.1, error), Estimate(1.0), None, (), (), ())

    assert draw_notes(traced("deflated k=4", 0.02), 0.01) == []
    assert draw_notes(traced("exact", 0.0), 1e-9) == []
    (missed,) = draw_notes(traced("deflated k=4", 0.0206), 0.01)
    assert missed == "target error 0.01 was asked for, 0.0103 reached: type --estimator exact"
    (drawn,) = draw_notes(traced("sampled S=5", 0.5), 0.01)
    assert drawn.endswith("0.25 reached: type --estimator deflated")


def test_an_error_over_examples_that_is_hidden_is_said() -> None:
    hidden = Trace("deflated k=4", Estimate(2.0, None, 0.5), Estimate(1.0), None, (), (1.0, 3.0), (1.0, 1.0))
    (note,) = draw_notes(hidden, None)
    assert note.startswith("trace_true_se is left empty")
    alone = Trace("deflated k=4", Estimate(2.0, None, 0.5), Estimate(1.0), None, (), (2.0,), (1.0,))
    assert draw_notes(alone, None) == []


def test_the_row_says_what_was_reached() -> None:
    model, x, y = nn.Linear(4, 5), torch.randn(30, 4), torch.arange(30) % 5
    row = analyze(model, (x, y), estimator="sampled", target_error=1e-9, eigenvalues=0).measurements[0]
    assert any(note.startswith("target error 1e-09 was asked for, ") for note in row.notes)
