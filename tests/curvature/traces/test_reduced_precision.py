"""Evaluation in bfloat16: its error against float32, what is summed in which precision, what is refused."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from fisher_cli import analyze
from fisher_cli.curvature.gradient_norms import engine as engine_module
from fisher_cli.curvature.gradient_norms.engine import Engine
from fisher_cli.curvature.gradient_norms.rules.registry import OPERATORS, WATCHED
from fisher_cli.curvature.problem.problem import Problem, TensorData, pose
from fisher_cli.curvature.torch_backend.backend_flags import tf32_products
from fisher_cli.curvature.traces.reduced_precision import round_network
from fisher_cli.curvature.traces.traces import sweep
from fisher_cli.errors import UsageError
from fisher_cli.settings import Settings
from tests.cases import CASES, Case, case_of
from tests.command import fisher
from tests.conftest import problem_of

SAMPLES = Path(__file__).parents[3] / "sample_checkpoints"
# Of traces of networks with a few layers: 2⁻⁸ is the unit of bfloat16, and confident examples' scores, 1 − p_y, have
# more error than their outputs.
TRUE, EMPIRICAL = 0.01, 0.1


def posed(case: Case) -> Problem:
    """In float32, all examples at once."""
    return problem_of(case, torch.float32, batch_size=6)


def rounded(case: Case) -> Problem:
    problem = posed(case)
    round_network(problem)
    return problem


def test_traces_are_those_of_float32_within_a_few_units(case: Case) -> None:
    expected, problem = sweep(posed(case)), rounded(case)
    found = sweep(problem, is_checked=True)
    assert {each.dtype for each in problem.parameters.values()} == {torch.bfloat16}
    assert found.outputs.dtype is torch.float32
    assert found.trace.true.value == pytest.approx(expected.trace.true.value, rel=TRUE)
    assert found.trace.empirical.value == pytest.approx(expected.trace.empirical.value, rel=EMPIRICAL)
    methods = [{each.name: each.method for each in swept.trace.layers} for swept in (found, expected)]
    assert methods[0] == methods[1]


def test_the_shown_error_is_the_true_one(case: Case) -> None:
    """Both traces of the first four examples alone, each by a sweep of its own, exact in all of these networks."""
    precise, coarse = posed(case), posed(case)
    check, shown = round_network(coarse)
    assert check is not None
    assert check.precision in {"float32", "float64"}
    few = TensorData(precise.data.batch(0, 4)[0], precise.data.labels[:4])
    before = sweep(replace(precise, data=few), estimator="exact").trace
    after = sweep(replace(coarse, data=few), estimator="exact", is_checked=True).trace
    if precise.outputs <= 5:
        assert shown.trace_true_float32 == pytest.approx(before.true.value, rel=1e-5)
        assert shown.trace_true_rounded == pytest.approx(after.true.value, rel=2e-2)
        assert shown.trace_true_error == pytest.approx(
            abs(shown.trace_true_rounded / shown.trace_true_float32 - 1), rel=1e-9
        )
    assert shown.trace_empirical_float32 == pytest.approx(before.empirical.value, rel=1e-5)
    assert shown.trace_empirical_rounded == pytest.approx(after.empirical.value, rel=2e-2)
    assert shown.examples == 4


def test_squares_are_summed_in_more_digits_than_the_network_has() -> None:
    """Of one linear layer nothing is rounded but inputs and scores, and ‖δ‖²‖a‖² of these is exact to seven digits."""
    torch.manual_seed(0)
    model, inputs = nn.Linear(3000, 3), torch.randn(5, 3000)
    problem = pose(model, TensorData(inputs, torch.zeros(5).long()))
    problem.model.to(torch.bfloat16)
    batch = problem.slice(0, 5)
    direction = torch.randn(1, 5, 3).bfloat16()
    found = Engine(problem).evaluate(batch).norms(direction.float())
    squares = direction[0].double().square().sum(1)
    assert torch.allclose(found["weight"][0], squares * inputs.bfloat16().double().square().sum(1), rtol=1e-6)
    assert torch.allclose(found["bias"][0], squares, rtol=1e-6)


@pytest.mark.parametrize("name", ["residual", "sequence", "attention", "norms", "grouped"])
def test_rules_are_given_float32(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    problem = rounded(case_of(name))
    seen = set[torch.dtype]()

    def watching(rule: Any) -> Callable[..., Any]:
        def contributions(arguments: Any, inputs: Tensor, cotangents: Tensor) -> Any:
            parts = rule.contributions(arguments, inputs, cotangents)
            seen.update(
                each.dtype
                for part in parts.values()
                for each in vars(part).values()
                if isinstance(each, Tensor) and each.is_floating_point()
            )
            return parts

        return contributions

    for table in (WATCHED, OPERATORS):
        for key, entry in table.items():
            watched = replace(entry, rule=replace(entry.rule, contributions=watching(entry.rule)))
            monkeypatch.setitem(table, key, watched)
    sweep(problem, is_checked=True)
    assert seen == {torch.float32}


def test_saved_in_bfloat16_is_read_as_float32(tmp_path: Path) -> None:
    """The usual precision computes in float32 with the numbers that the file has."""
    state = torch.load(SAMPLES / "digits-clean" / "step_00066.pt", weights_only=True)["state_dict"]
    coarse = {name: value.bfloat16() for name, value in state.items()}
    torch.save(coarse, tmp_path / "coarse.pt")
    torch.save({name: value.float() for name, value in coarse.items()}, tmp_path / "fine.pt")
    words: dict[str, Any] = {"model": "digits-mlp", "limit": 20, "eigenvalues": 0}
    first, second = (
        analyze(tmp_path / name, "digits", **words).measurements[0].trace for name in ("coarse.pt", "fine.pt")
    )
    assert first is not None
    assert first == second


def test_the_error_is_said_once_and_recorded_for_each(tmp_path: Path) -> None:
    out = tmp_path / "trend.csv"
    words = ["analyze", str(SAMPLES / "digits-clean"), "--limit", "20", "--eigenvalues", "0", "-o", str(out)]
    found = fisher(*words, "--dtype", "bfloat16")
    lines = [line for line in found.stderr.splitlines() if line.startswith("bfloat16: ")]
    assert len(lines) == 1
    assert "the traces of the first 4 examples are off by" in lines[0]
    record = json.loads((tmp_path / "trend.fisher/record.json").read_text())
    errors = [each["rounding"]["trace_true_error"] for each in record["checkpoints"]]
    assert len(errors) > 1
    assert all(0 < error < TRUE * 5 for error in errors)
    assert f"{errors[0]:.1e} (true)" in lines[0]
    fisher(*words, code=1)  # no row of one precision stands for the other
    fisher(*words, "--no-resume")
    assert "rounding" not in json.loads((tmp_path / "trend.fisher/record.json").read_text())["checkpoints"][0]


def test_precision_belongs_to_the_question() -> None:
    digests = {Settings(precision=name, eigenvalues=0).digest() for name in ("float32", "float64", "bfloat16")}
    assert len(digests) == 3


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["analyze", "X", "--dtype", "bfloat16"], "too few for eigenvalues: add --eigenvalues 0"),
        (["spectrum", "X", "--dtype", "bfloat16"], "enough for traces alone: type --dtype float32"),
        (["compare", "true-vs-empirical", "X", "--dtype", "bfloat16"], "enough for traces alone"),
        (["compare", "checkpoints", "X", "X", "--dtype", "bfloat16"], "enough for traces alone"),
        (["verify", "X", "--dtype", "bfloat16"], "enough for traces alone"),
        (["analyze", "X", "--dtype", "float16"], "below its smallest number, 6e-8"),
        (["verify", "X", "--dtype", "half"], "type float32, float64, bfloat16 or tf32"),
        (["analyze", "X", "--dtype", "int8"], "type float32, float64, bfloat16 or tf32"),
    ],
)
def test_what_has_too_few_digits_is_refused_in_one_line(words: list[str], told: str) -> None:
    path = str(SAMPLES / "digits-clean" / "step_00066.pt")
    found = fisher(*(path if word == "X" else word for word in words), code=2)
    text = " ".join(found.stderr.split())
    assert told in text
    assert text.count("--dtype") >= 1


def test_from_python_it_is_refused_as_well() -> None:
    model, inputs, labels = CASES[1].make(torch.float32)
    with pytest.raises(UsageError, match="too few for eigenvalues"):
        analyze(model, (inputs, labels), precision="bfloat16")
    found = analyze(model, (inputs, labels), precision="bfloat16", eigenvalues=0)
    assert found.measurements[0].rounding is not None


def test_tf32_is_refused_where_there_is_none() -> None:
    words = ("--dtype", "tf32", "--eigenvalues", "0", "--device", "cpu")
    said = fisher("analyze", SAMPLES / "digits-clean", *words, code=2).stderr
    assert "--dtype tf32 is how NVIDIA GPUs multiply, and this is the CPU: type --dtype float32" in said


def test_tf32_has_too_few_digits_for_eigenvalues() -> None:
    said = fisher("analyze", SAMPLES / "digits-clean", "--dtype", "tf32", code=2).stderr
    assert "--dtype tf32 has three digits, too few for eigenvalues: add --eigenvalues 0" in said


def test_networks_alone_multiply_in_tf32(case: Case) -> None:
    """Forward and backward passes may; norms, sums and whoever called are left in float32."""
    allowed: set[tuple[str, bool]] = set()
    matmul = torch.backends.cuda.matmul
    problem, norms = posed(case), engine_module.norms_and_sum
    problem.model.register_forward_hook(lambda *_: allowed.add(("network", matmul.allow_tf32)))

    def watched(*given: Any) -> tuple[Tensor, Tensor]:
        allowed.add(("norms", matmul.allow_tf32))
        return norms(*given)

    with pytest.MonkeyPatch.context() as patch, tf32_products():
        patch.setattr(engine_module, "norms_and_sum", watched)
        expected = sweep(problem, verify=False).trace.true.value
    assert ("network", True) in allowed
    assert ("norms", False) in allowed
    assert ("norms", True) not in allowed
    assert not matmul.allow_tf32
    assert sweep(posed(case), verify=False).trace.true.value == pytest.approx(expected, rel=1e-6)
    problem = posed(case)
    _, shown = round_network(problem, tf32=True)
    assert {each.dtype for each in problem.parameters.values()} == {torch.float32}
    assert shown.precision == "tf32"
