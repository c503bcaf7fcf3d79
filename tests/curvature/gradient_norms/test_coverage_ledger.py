"""The coverage ledger and the sums that must hold before a number is shown; each check is seen to fail."""

import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from fisher_cli import analyze
from fisher_cli.curvature.gradient_norms.engine import BatchBackward, Engine
from fisher_cli.curvature.gradient_norms.operation_count import OperationCounter, counted, spent_on
from fisher_cli.curvature.problem.moments import Moments
from fisher_cli.curvature.problem.problem import Batch, Problem, TensorData, pose
from fisher_cli.curvature.traces import coverage_ledger
from fisher_cli.curvature.traces.traces import sweep
from fisher_cli.errors import VerificationError
from fisher_cli.results import Ledger, Status, Trace
from fisher_cli.run.measurement import StageTimer
from tests.cases import Case, case_of, mlp
from tests.conftest import problem_of

CLEAN = Path(__file__).parents[3] / "sample_checkpoints" / "digits-clean"
FIRST, LAST = CLEAN / "step_00000.pt", CLEAN / "step_01760.pt"
MLP = case_of("mlp")


# --- sums ---------------------------------------------------------------------------------------------------------


def traced(case: Case) -> tuple[Trace, dict[str, int], int]:
    """A case's trace with the sizes of its parameters and the number of its examples."""
    problem = problem_of(case)
    sizes = {name: parameter.numel() for name, parameter in problem.parameters.items()}
    return sweep(problem).trace, sizes, problem.examples


def test_the_sums_of_every_case_hold(case: Case) -> None:
    coverage_ledger.check(*traced(case))


def altered(trace: Trace, matrix: str, factor: float) -> Trace:
    """The trace with the last layer's part of one matrix changed by this factor of the total."""
    total, last = getattr(trace, matrix), trace.layers[-1]
    part = getattr(last, matrix)
    changed = replace(last, **{matrix: replace(part, value=part.value + factor * total.value)})
    return replace(trace, layers=(*trace.layers[:-1], changed))


@pytest.mark.parametrize("matrix", ["true", "empirical"])
def test_a_layer_that_is_off_by_two_billionths_of_the_total_is_found(matrix: str) -> None:
    trace, sizes, examples = traced(MLP)
    coverage_ledger.check(altered(trace, matrix, 1e-10), sizes, examples)
    with pytest.raises(VerificationError, match=f"the layers' {matrix} traces add up to"):
        coverage_ledger.check(altered(trace, matrix, -2e-9), sizes, examples)
    with pytest.raises(VerificationError, match=f"the layers' {matrix} traces add up to nan"):
        coverage_ledger.check(altered(trace, matrix, float("nan")), sizes, examples)


@pytest.mark.parametrize("matrix", ["true", "empirical"])
def test_an_example_that_is_missing_doubled_or_wrong_is_found(matrix: str) -> None:
    trace, sizes, examples = traced(MLP)
    field = f"per_example_{matrix}"
    terms = getattr(trace, field)
    for changed in (terms[:-1], (*terms, 0.0), (*terms[:-1], terms[-1] + 1e-8 * sum(terms))):
        words: dict[str, Any] = {field: changed}
        with pytest.raises(VerificationError, match=rf"{matrix} trace.* examples"):
            coverage_ledger.check(replace(trace, **words), sizes, examples)


def test_a_ledger_that_leaves_values_out_or_miscounts_them_is_found() -> None:
    trace, sizes, examples = traced(MLP)
    assert sum(sizes.values()) == 125
    with pytest.raises(VerificationError, match=r"holds 121 of the 125 .* what was selected and not measured: 4\.bias"):
        coverage_ledger.check(replace(trace, layers=trace.layers[:-1]), sizes, examples)
    twice = replace(trace, layers=(*trace.layers, trace.layers[0]))
    with pytest.raises(VerificationError, match="holds 173 of the 125"):
        coverage_ledger.check(twice, sizes, examples)
    small = replace(trace, layers=(replace(trace.layers[0], parameters=7), *trace.layers[1:]))
    with pytest.raises(VerificationError, match=r"holds 84 of the 125 .* 0\.weight"):
        coverage_ledger.check(small, sizes, examples)


def test_a_trace_of_zero_adds_up() -> None:
    trace, sizes, examples = traced(MLP)
    none = replace(trace.true, value=0.0)
    layers = tuple(replace(layer, true=none, empirical=none) for layer in trace.layers)
    nothing = (0.0,) * examples
    zero = replace(
        trace, true=none, empirical=none, layers=layers, per_example_true=nothing, per_example_empirical=nothing
    )
    coverage_ledger.check(zero, sizes, examples)


# --- planted faults: the row fails, and only that row -------------------------------------------------------------


def drop_a_parameter(patch: pytest.MonkeyPatch) -> None:
    """A parameter is lost on the way."""
    original = BatchBackward.measure

    def forgetful(*given: Any) -> dict[str, Tensor]:
        return {name: norm for name, norm in original(*given).items() if name != "3.bias"}

    patch.setattr(BatchBackward, "measure", forgetful)


def tamper(patch: pytest.MonkeyPatch, change: Callable[[Moments, str], None]) -> None:
    """Change the running sums of the layers' traces after every batch."""
    original = Moments.add

    def changed(sums: Moments, values: Tensor, *variances: Tensor) -> None:
        original(sums, values, *variances)
        if values.dim() == 2:  # a row for each layer
            change(sums, "true" if variances else "empirical")

    patch.setattr(Moments, "add", changed)


def spoil_a_layer(patch: pytest.MonkeyPatch) -> None:
    tamper(patch, lambda sums, matrix: sums.mean[2].fill_(0.5) if matrix == "empirical" else None)


def count_examples_twice(patch: pytest.MonkeyPatch) -> None:
    """Every batch comes twice."""
    original = Problem.batches

    def twice(*given: Any) -> Iterator[Batch]:
        for batch in original(*given):
            yield from (batch, batch)

    patch.setattr(Problem, "batches", twice)


FAULTS = {
    "a parameter is dropped": (drop_a_parameter, "the coverage ledger holds 6538 of the 6570 analysed values"),
    "a layer's sum is spoilt": (spoil_a_layer, "the layers' empirical traces add up to"),
    "examples count twice": (count_examples_twice, "the true trace has terms of 40 examples where there are 20"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_fails_the_row_and_nothing_of_it_is_shown(fault: str) -> None:
    plant, said = FAULTS[fault]
    with pytest.MonkeyPatch.context() as patch:
        plant(patch)
        found = analyze([FIRST, LAST], limit=20, eigenvalues=0, batch_size=7)
    assert [row.status for row in found.measurements] == [Status.FAILED] * 2
    assert all(said in row.error and "\n" not in row.error for row in found.measurements)
    assert found.table[["trace_true", "trace_empirical", "loss", "eig_true_1"][:3]].isna().all(axis=None)
    assert len(found.layers) == 0
    assert found.succeeded == 0


def test_a_fault_in_one_checkpoint_leaves_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Moments] = []

    def once(sums: Moments, matrix: str) -> None:
        if matrix == "true":
            seen.append(sums)
            if sums is seen[0]:
                sums.mean[-1] += 1.0

    tamper(monkeypatch, once)
    found = analyze([FIRST, LAST], limit=20, eigenvalues=0)
    assert [row.status for row in found.measurements] == [Status.FAILED, Status.OK]
    assert "the layers' true traces add up to" in found.measurements[0].error


def test_sums_hold_where_terms_are_as_small_as_numbers_get() -> None:
    """A saturated network: squares of gradients below 1e-300 cannot keep nine digits, and nothing is wrong."""
    torch.manual_seed(0)
    case = replace(MLP, build=lambda: torch.nn.Sequential(MLP.build(), Scaled()))
    coverage_ledger.check(*traced(case))


class Scaled(torch.nn.Module):
    """Outputs of which one is far above the others."""

    def forward(self, x: Tensor) -> Tensor:
        return x + torch.tensor([720.0, 0.0, 0.0, 0.0], dtype=x.dtype)


# --- the work -----------------------------------------------------------------------------------------------------


def test_operations_are_multiplications_of_products_and_elements_of_all_else() -> None:
    a, b = torch.ones(2, 3, 4), torch.ones(2, 4, 5)
    images, kernels = torch.ones(2, 3, 8, 8), torch.ones(6, 3, 3, 3)
    with counted() as operations:
        with spent_on(["product"]):
            torch.bmm(a, b)
        with spent_on(["convolution"]):
            torch.conv2d(images, kernels)
        with spent_on(["elements"]):
            a.sum()  # reads 24
            a.expand(7, 2, 3, 4).contiguous()  # writes 168
            a.reshape(6, 4).T[:2]  # views
        a + 1
    assert operations.by_owners == {
        ("product",): 2 * 3 * 4 * 5,
        ("convolution",): 2 * 6 * 3 * 3 * 3 * 6 * 6,
        ("elements",): 24 + 168,
        (): 24,
    }


def test_what_parameters_share_is_divided_by_their_numbers_of_values() -> None:
    operations = OperationCounter()
    operations.by_owners.update({("a", "b"): 60, ("b",): 20, ("a", "c"): 10, (): 10})
    spent, rest = operations.shares({"a": 10, "b": 20, "c": 0, "d": 5})
    assert spent == pytest.approx({"a": 0.2 + 0.1 * 10 / 11, "b": 0.6, "c": 0.1 / 11, "d": 0.0})
    assert rest == pytest.approx(0.1)


def test_nobody_counts_unasked_and_the_marks_nest() -> None:
    with spent_on(["a"]):
        torch.ones(3).sum()
    with counted() as operations:
        with spent_on(["a"]):
            with spent_on(["b"]):
                torch.ones(3)
            torch.ones(5)
        torch.ones(7)
    assert operations.by_owners == {("b",): 3, ("a",): 5, (): 7}


def ledger_of(case: Case, **words: Any) -> Ledger:
    return sweep(problem_of(case), **words).ledger


def test_shares_of_the_work_add_up_to_one_and_the_unused_have_none(case: Case) -> None:
    ledger = ledger_of(case)
    assert ledger.backward is not None
    works = {entry.name: entry.work or 0.0 for entry in ledger.entries}
    assert sum(works.values()) + ledger.backward == pytest.approx(1.0)
    for entry in ledger.entries:
        assert (works[entry.name] > 0) == (entry.method != "unused"), entry.name


def test_the_work_of_a_convolution_is_that_of_its_shapes() -> None:
    """Explicit products of one convolution, K · R · Q · L multiplications per example, are nearly all there is."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(16, 8, 3, padding=1, bias=False), Pooled(), nn.Linear(8, 4, bias=False))
    problem = pose(model.double(), TensorData(torch.randn(4, 16, 12, 12).double(), torch.arange(4)), batch_size=4)
    engine, products = Engine(problem), 2 * 4 * 8 * (16 * 9) * 144
    batch = problem.slice(0, 2)
    evaluated = engine.evaluate(batch)
    with counted() as operations:
        evaluated.norms(torch.randn(4, 2, 4).double())
    assert products < operations.by_owners["0.weight",] < 1.2 * products


class Pooled(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.mean((2, 3))


def test_the_ledger_is_the_same_in_every_run_for_all_weights_and_batch_sizes() -> None:
    case = case_of("residual")
    problem = problem_of(case)
    ledgers = {sweep(problem).ledger, ledger_of(case), sweep(problem_of(case, batch_size=3)).ledger}
    with torch.no_grad():
        for parameter in problem.parameters.values():
            parameter.mul_(1.01)
    assert len(ledgers | {sweep(problem).ledger}) == 1


def test_the_fallbacks_work_is_that_of_its_own_passes() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(32, 32), nn.PReLU(), nn.Linear(32, 4)).double()
    ledger = sweep(pose(model, TensorData(torch.randn(5, 32).double(), torch.zeros(5).long()))).ledger
    work = {entry.name: entry.work or 0.0 for entry in ledger.entries}
    slope = next(entry for entry in ledger.entries if entry.method == "per-example")
    assert (slope.name, slope.values) == ("1.weight", 1)
    assert ledger.backward is not None
    assert work["1.weight"] > ledger.backward, "one number takes forward and backward passes of its own"


def test_more_directions_take_more_backward_work() -> None:
    many = Case("many", lambda: mlp(6, 8, 40), MLP.inputs, MLP.labels)
    exact, deflated = ledger_of(many, estimator="exact"), ledger_of(many, estimator="deflated")
    assert exact.directions >= 39
    assert deflated.directions < 12
    assert exact.backward is not None
    assert deflated.backward is not None


def test_counting_touches_no_number_and_can_be_left_out(case: Case) -> None:
    counted_, plain = sweep(problem_of(case)), sweep(problem_of(case), verify=False)
    assert counted_.trace == plain.trace
    assert torch.equal(counted_.mean_gradient, plain.mean_gradient)
    assert plain.check is None
    assert plain.ledger.backward is None
    assert {entry.work for entry in plain.ledger.entries} == {None}
    assert [entry.name for entry in plain.ledger.entries] == [entry.name for entry in counted_.ledger.entries]


def test_a_known_ledger_serves_while_all_but_the_work_is_the_same() -> None:
    known = ledger_of(MLP)
    marked = replace(known, backward=0.25)
    assert ledger_of(MLP, known=marked) is marked
    assert ledger_of(MLP, known=replace(marked, directions=known.directions + 1)) == known
    other = (replace(marked.entries[0], method="per-example"), *marked.entries[1:])
    assert ledger_of(MLP, known=replace(marked, entries=other)) == known


def test_a_network_that_cannot_be_watched_has_a_ledger_without_work(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse() -> None:
        msg = "no dispatch here"
        raise NotImplementedError(msg)

    expected = ledger_of(MLP, verify=False)
    monkeypatch.setattr(coverage_ledger, "counted", refuse)
    assert ledger_of(MLP) == expected


# --- the check ----------------------------------------------------------------------------------------------------


def test_the_check_says_what_it_compared_and_the_largest_difference(monkeypatch: pytest.MonkeyPatch) -> None:
    good = sweep(problem_of(MLP)).check
    assert good is not None
    assert (good.examples, good.directions, good.precision) == (4, 2, "float64")
    assert good.largest_relative_difference < 1e-13
    original = BatchBackward.norms

    def inexact(found: BatchBackward, directions: Tensor) -> dict[str, Tensor]:
        return {name: n * (1 + 1e-5 * (name == "2.weight")) for name, n in original(found, directions).items()}

    monkeypatch.setattr(BatchBackward, "norms", inexact)
    low = sweep(problem_of(MLP, torch.float32)).check
    assert low is not None
    assert low.precision == "float32"
    assert low.largest_relative_difference == pytest.approx(1e-5, rel=0.2)
    with pytest.raises(VerificationError, match=r"parameter 2\.weight: squared gradient norm"):
        sweep(problem_of(MLP))


def test_a_stage_inside_another_is_taken_out_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    seconds = iter([0.0, 1.0, 4.0, 5.0, 5.5, 10.0, 20.0, 23.0])
    monkeypatch.setattr("time.perf_counter", lambda: next(seconds))
    clock = StageTimer()
    with clock("traces"):
        with clock("check"):
            pass
        with clock("ledger"):
            pass
    with clock("check"):
        pass
    assert clock.seconds == {"check": 6.0, "ledger": 0.5, "traces": 6.5}


# --- in the record ------------------------------------------------------------------------------------------------


def test_the_record_holds_each_ledger_once_and_what_the_check_cost() -> None:
    cnn = CLEAN.parent / "digits-cnn" / "step_00440.pt"
    first, again = (analyze([FIRST, cnn, LAST], limit=20, eigenvalues=0) for _ in range(2))
    stable, run = first.stable_metadata(), first.run_metadata()
    assert stable == again.stable_metadata()
    order = {row["checkpoint"]: row["ledger"] for row in stable["checkpoints"]}
    assert [order[name] for name in order if "clean" in name] == [order["digits-clean/step_00000.pt"]] * 2
    assert sorted(set(order.values())) == [0, 1]
    for index, measured in zip(order.values(), first.measurements, strict=True):
        ledger = stable["ledgers"][index]
        assert ledger["values"] == measured.parameters == sum(each["values"] for each in ledger["parameters"])
        works = [each["work"] for each in ledger["parameters"]]
        assert sum(works) + ledger["work_of_backward_passes"] == pytest.approx(1.0)
    for timing, check in zip(run["timings"], run["checks"], strict=True):
        total = sum(value for name, value in timing.items() if name != "checkpoint")
        assert check["checkpoint"] == timing["checkpoint"]
        assert check["seconds"] == timing["check"]
        assert check["share_of_time"] == pytest.approx(timing["check"] / total)
        assert check["examples"] == 4
        assert 0 < check["largest_relative_difference"] < 1e-3
    assert "check" not in json.dumps(stable).replace("checkpoint", "")


def test_a_failed_row_has_no_ledger(tmp_path: Path) -> None:
    (tmp_path / "bad.pt").write_text("This is a note about the run.\n" * 10)
    found = analyze([FIRST, tmp_path / "bad.pt"], limit=20, eigenvalues=0)
    assert [row["ledger"] for row in found.stable_metadata()["checkpoints"]] == [0, None]
    assert len(found.run_metadata()["checks"]) == 1
