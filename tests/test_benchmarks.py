"""The benchmarks' own arithmetic: what they call wrong, and what they write; no timing is asserted."""

import json
import math
import threading
from pathlib import Path

import pytest
import torch
from torch import nn

from benchmarks import checks, engine, gpu, harness, leading_scores, products, spectrum, variances
from benchmarks.checks import ChecksRow
from benchmarks.eigensolvers import EMPIRICAL, TRUE
from benchmarks.engine import TraceRow
from benchmarks.estimators import ClassesRow, OverheadRow
from benchmarks.harness import Row, number, record, table
from benchmarks.leading_scores import LeadingRow
from benchmarks.methods import FORWARD, true_alone
from benchmarks.networks import CASES, Case, Setting
from benchmarks.products import ProductRow
from benchmarks.ranks import GOAL, RanksRow
from benchmarks.spectrum import SpectrumRow
from benchmarks.variances import EstimateRow
from fisher_cli.curvature.problem.problem import TensorData, pose
from fisher_cli.curvature.spectra.solver_choice import Eigensolver
from tests.reference import reference
from tests.waiting import PATIENCE


def trace_row(trace: float, error: float | None = None, truth: float = 2.0) -> TraceRow:
    row = TraceRow("mlp", "some method", FORWARD.name, truth=truth)
    row.take({"seconds": 2.0, "mebibytes": 1.0, "trace": trace, "error": error}, {FORWARD.name: 0.5})
    return row


@pytest.mark.parametrize(
    ("trace", "error", "verdict"),
    [
        (2.000002, None, "1e-06"),
        (2.2, None, "wrong by 1e-01"),
        (math.nan, None, "wrong: NaN"),
        (2.02, 0.01, "1e-02 (states ± 5e-03)"),
        (2.1, 0.01, "wrong by 5e-02 (states ± 5e-03)"),
        (2.0, math.nan, "wrong: states no error"),
        (2.000002, 0.0, "1e-06 (whole root: exact)"),
        (2.02, 0.0, "wrong by 1e-02 (whole root: exact)"),
    ],
)
def test_a_trace_is_called_wrong_beyond_rounding_or_its_own_error(
    trace: float, error: float | None, verdict: str
) -> None:
    assert trace_row(trace, error).verdict() == verdict


def test_a_failure_is_the_verdict_and_ends_the_turns() -> None:
    row = trace_row(2.0)
    assert row.is_asked_again
    row.take({"failure": "fails: KeyError: 'x'"}, {})
    assert row.verdict() == "fails: KeyError: 'x'"
    assert not row.is_asked_again
    assert row.seconds == [2.0]


def test_multiples_are_of_the_unit_of_the_same_round() -> None:
    assert trace_row(2.0).multiples == [4.0]
    slow = Row("mlp", "slow", FORWARD.name)
    slow.take({"seconds": 61.0, "mebibytes": 0.0}, {})
    assert slow.multiples == []
    assert not slow.is_asked_again


REFERENCE = [1.0, 1e-2, 0.0]


@pytest.mark.parametrize(
    ("values", "verdict"),
    [
        ([1.0, 1.01e-2, 1e-9], "1e-02"),
        ([1.0, 2e-2, 0.0], "wrong by 1e-02 of the largest: 1e+00"),
        ([1.0, math.nan, 0.0], "wrong: NaN"),
        ([1.0, 1e-2], "wrong: 2 values"),
    ],
)
def test_eigenvalues_are_held_against_the_tolerance(values: list[float], verdict: str) -> None:
    row = SpectrumRow("mlp", "some method", FORWARD.name, matrix="F", reference=REFERENCE)
    row.take({"seconds": 1.0, "mebibytes": 1.0, "values": values, "products": 3, "route": ""}, {})
    assert row.verdict() == verdict
    assert spectrum.cells(row)[5:] == ["3", verdict]


def test_eigenvalues_of_the_hessian_are_not_called_wrong() -> None:
    row = SpectrumRow("mlp", "PyHessian", FORWARD.name, matrix="Hessian", reference=REFERENCE)
    row.learn({"values": [2.0, 1e-2, 0.0], "products": 3, "route": ""})
    assert row.verdict() == "1e+00 from those of F"


@pytest.mark.parametrize(
    ("row", "verdict"),
    [
        (EstimateRow("a", "b", deflated=1.0, z=[3.9, 9.0], ratio=5.0), "right"),
        (EstimateRow("a", "b", deflated=1.0, z=[-4.1, 0.0], ratio=5.0), "wrong: 4.1 of its standard errors"),
        (EstimateRow("a", "b", deflated=1.0, z=[math.nan], ratio=5.0), "wrong: NaN"),
        (EstimateRow("a", "b", deflated=0.0, relative_difference=1e-7), "whole root, 1e-07 from exact"),
        (EstimateRow("a", "b", deflated=0.0, relative_difference=1e-2), "wrong: whole root, 1e-02 from exact"),
        (EstimateRow("a", "b", failure="fails: x"), "fails: x"),
        (ClassesRow("a", "fisher deflated", "u", multiples=[1.4, 1.6, 1.3]), "within the goal"),
        (ClassesRow("a", "fisher deflated", "u", multiples=[1.6]), "above the goal of 1.5"),
        (OverheadRow("a", 14, 30.0, 5.0, 25.0, {}), "above the goal of 20 ms"),
    ],
)
def test_estimators_are_held_against_their_goals(row: EstimateRow | ClassesRow | OverheadRow, verdict: str) -> None:
    assert row.verdict() == verdict
    assert record(row)["verdict"] == verdict


def test_tables_are_markdown_with_what_is_missing_as_a_dash() -> None:
    case = CASES[0]
    rows = [trace_row(2.0), TraceRow("mlp", "a|b", FORWARD.name, failure="n/a: P")]
    lines = engine.section(case, Setting(), 4, rows).splitlines()
    assert lines[0] == f"### mlp: P = 669,706, N = 4, {Setting().words}"
    assert lines[3] == "|---|---:|---:|---:|---|"
    assert lines[4:] == ["| some method | 2.00 | 4.00 | 1.0 | 0e+00 |", "| a\\|b | — | — | — | n/a: P |"]
    assert table("t", ["a", "b", "c:"], [["1", "2", "3"]]).splitlines()[3] == "|---|---:|---|"


def test_numbers_have_no_exponent() -> None:
    shown = [number(values, 3) for values in ([], [math.nan], [math.inf], [0.0], [0.01234], [1.0, 3.0], [12345.6])]
    assert shown == ["—", "—", "∞", "0", "0.0123", "2.00", "12,346"]


def test_two_ranks_are_held_against_the_goal_and_the_trace_of_one() -> None:
    row = RanksRow("traces", 2, seconds=[6.0], ratios=[0.6], trace=1.0, difference=1e-12)
    assert row.verdict() == "within the goal"
    row.ratios = [0.6, 0.7, 0.7]
    assert row.verdict() == f"above the goal of {GOAL}"
    row.difference = 1e-5
    assert row.verdict() == "wrong by 1e-05"
    assert RanksRow("traces", 3, difference=0.0).verdict() == "—"


def small() -> nn.Module:
    return nn.Sequential(nn.Linear(6, 4), nn.Tanh(), nn.Linear(4, 10)).double()


SMALL = Case("small", small, (6,), examples=5, batch=5)


def test_the_truths_of_the_benchmarks_are_the_oracle() -> None:
    model = SMALL.network(Setting())
    inputs, labels = SMALL.data(Setting(), 5)
    oracle = reference(model, inputs.double(), labels)
    trace = float(oracle.fisher.trace())
    assert engine.truth(SMALL, Setting(), 5)["trace"] == pytest.approx(trace, rel=1e-12)
    assert true_alone(model, inputs.double(), labels, 5).trace == pytest.approx(trace, rel=1e-12)
    for matrix, dense in ((TRUE, oracle.fisher), (EMPIRICAL, oracle.empirical)):
        values = torch.linalg.eigvalsh(dense).flip(0)[:10].tolist()
        explicit = spectrum.explicit_reference(SMALL, Setting(), 5, matrix)["values"]
        lanczos = spectrum.lanczos_reference(SMALL, Setting(), 5, matrix, Eigensolver.LANCZOS)["values"]
        assert explicit == pytest.approx(values, rel=1e-9, abs=1e-12 * values[0])
        assert lanczos == pytest.approx(values, rel=1e-9, abs=1e-12 * values[0])


def test_the_variance_of_one_sampled_label_is_that_of_all_labels_by_their_probability() -> None:
    model = SMALL.network(Setting())
    inputs, labels = SMALL.data(Setting(), 5)
    expected = []
    for example in inputs.double():
        log_p = torch.log_softmax(model(example.unsqueeze(0))[0], 0)
        gradients = [torch.autograd.grad(value, list(model.parameters()), retain_graph=True) for value in log_p]
        p = log_p.exp().detach()
        norms = torch.tensor([sum(float(part.square().sum()) for part in parts) for parts in gradients], dtype=p.dtype)
        expected.append(float(p @ norms.square() - (p @ norms) ** 2))
    found, _ = variances.sampled_variance(pose(model, TensorData(inputs.double(), labels)))
    assert found == pytest.approx(sum(expected) / len(expected), rel=1e-10)


def test_a_report_is_written_as_markdown_and_json(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(harness, "HERE", tmp_path)
    source = harness.provenance("benchmarks.engine", ["--weights", "/a/b.pt", "--data", "folder:/a/images"], ["torch"])
    assert source["command"] == "python -m benchmarks.engine --weights b.pt --data folder:images"
    report = harness.Report("Title", ("A.md", "a.json"), source, "About.")
    report.add("### Section", [trace_row(math.nan)])
    report.write()
    assert (tmp_path / "A.md").read_text().endswith("\n\nAbout.\n\n### Section\n")
    written = json.loads((tmp_path / "a.json").read_text())
    assert written["rows"][0]["trace"] is None
    assert written["rows"][0]["verdict"] == "wrong: NaN"


def test_products_are_timed_in_turns_and_are_those_of_the_oracle() -> None:
    """What is timed: F v by both ways, graphs kept or not. Multiples are of the forward pass of the same round."""
    model = SMALL.network(Setting())
    inputs, labels = SMALL.data(Setting(), 5)
    problem = pose(model, TensorData(inputs.double(), labels))
    found = products.ways(problem)
    generator = torch.Generator().manual_seed(0)
    vector = torch.randn(problem.size, generator=generator, dtype=torch.float64)
    expected = reference(model, inputs.double(), labels).fisher @ vector
    for way in (products.KEPT, products.ANEW):
        for _ in range(2):
            product = found[way]()
            assert isinstance(product, torch.Tensor)
            assert torch.allclose(product, expected, rtol=1e-9, atol=1e-12)
    outputs = found[products.FORWARD]()
    assert isinstance(outputs, list)
    assert torch.equal(torch.cat(outputs), model(inputs.double()))
    answer = products.work(CASES[1], 3, 2)
    unit, *others = answer["rows"]
    assert [row.way for row in answer["rows"]] == [products.FORWARD, products.KEPT, products.ANEW]
    assert unit.passes == [1.0, 1.0]
    for row in others:
        assert row.passes == [mine / one for mine, one in zip(row.seconds, unit.seconds, strict=True)]
    assert products.section(CASES[1], 3, answer).splitlines()[0] == "### digits-cnn: P = 7,514, N = 3, 3 at once"


def test_products_are_held_against_what_is_stated() -> None:
    row = ProductRow("mlp", products.KEPT, 4, seconds=[1.0, 2.0], passes=[4.0, 6.0])
    assert row.verdict() == "within the 6 stated"
    row.passes = [6.0, 6.6, 6.6]
    assert row.verdict() == "above the 6 stated"
    assert record(ProductRow("mlp", products.FORWARD, 4))["verdict"] == "—"


def test_checks_are_held_against_their_share_of_the_whole() -> None:
    row = ChecksRow("digits-clean", 5, 14, 1000, [10.0, 10.0, 20.0], [9.5, 8.0, 18.4], {"check": [1.0, 2.0, 1.5]})
    assert row.shares == pytest.approx([0.05, 0.2, 0.08])
    assert row.verdict() == "within the goal of 10%"
    other = ChecksRow("digits-cnn", 5, 14, 1000, [10.0, 10.0, 10.0], [8.5, 8.0, 8.4], {"check": [1.0, 1.0, 1.0]})
    row.stages["ledger"] = other.stages["ledger"] = [0.1, 0.1, 0.1]
    both = checks.together([row, other])
    assert (both.with_checks, both.checkpoints) == ([20.0, 20.0, 30.0], 28)
    assert both.without == pytest.approx([18.0, 16.0, 26.8])
    assert both.stages == {"check": [2.0, 3.0, 2.5], "ledger": [0.2, 0.2, 0.2]}
    assert both.verdict() == record(both)["verdict"] == "above the goal of 10%"
    assert (
        checks.section("Samples", [row]).splitlines()[4].startswith("| digits-clean | 5 | 14 | 1,000 | 10.0 | 9.50 |")
    )
    assert ChecksRow("resnet20", 0).verdict() == "—"


def test_the_same_run_is_measured_with_checks_and_without() -> None:
    with_checks, without = (checks.of_samples("digits-clean", 0, 2, verify=verify) for verify in (True, False))
    assert len(with_checks) == len(without) == 14
    assert all(row.check is not None for row in with_checks)
    assert all(row.check is None for row in without)
    assert [row.trace for row in with_checks if row.trace] == [row.trace for row in without if row.trace]


@pytest.mark.parametrize(("bound", "count"), [(0.0, 4), (0.4, 4), (0.5, 3), (1.4, 3), (1.5, 2), (4.9, 1), (5.0, 0)])
def test_the_fewest_columns_leave_at_most_the_bound(bound: float, count: int) -> None:
    """Squared lengths of 1, 2, 3 and 4, two examples: without the smallest the trace left is ½, without two 1½."""
    assert leading_scores.needed(torch.tensor([[4.0, 1.0], [2.0, 3.0]]), 2, bound) == count


def test_lengths_of_columns_and_the_largest_eigenvalue_are_the_oracles() -> None:
    model = SMALL.network(Setting())
    inputs, labels = SMALL.data(Setting(), 5)
    columns, largest = leading_scores.column_norms(model, inputs.double(), labels)
    oracle = reference(model, inputs.double(), labels)
    assert columns.shape == (5, 9)
    assert float(columns.sum()) / 5 == pytest.approx(float(oracle.fisher.trace()), rel=1e-10)
    assert largest == pytest.approx(float(torch.linalg.eigvalsh(oracle.fisher)[-1]), rel=1e-3)


def test_leading_scores_that_fit_at_a_tolerance_are_said_to() -> None:
    row = LeadingRow("far, 50", 1, 0.1, 4000, 10.0, needed=[3000, 1500, 1000])
    assert row.verdict() == "from a tolerance of 1e-02 on"
    assert LeadingRow("far, 50", 1, 0.1, 4000, 10.0, needed=[3000, 2000, 1501]).verdict() == "at none of these"
    assert leading_scores.section([row], 64).splitlines()[4] == (
        "| far, 50 | 1 | 0.10 | 10.0 | 4,000 | 3,000 | 1,500 | 1,000 | from a tolerance of 1e-02 on |"
    )


def test_without_a_gpu_its_benchmark_says_so_and_measures_nothing(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    gpu.main([])
    assert capsys.readouterr() == ("", "no CUDA device is here: nothing was measured\n")


def test_the_share_of_the_matrix_rate_is_that_of_the_median() -> None:
    late = gpu.Late("ResNet-18", [0.2, 0.1, 0.4], flops=5e12, rate=50e12)
    assert late.share() == pytest.approx(0.5)
    assert late.verdict() == "reached"
    assert gpu.Late("ResNet-18", [0.3], flops=5e12, rate=50e12).verdict() == "below 50%"


def test_a_method_that_takes_too_long_is_given_up() -> None:
    with pytest.raises(TimeoutError, match="no answer within 0 s"), gpu.at_most(0.05):
        threading.Event().wait(PATIENCE)
