"""Along a run: every row says how far the network moved from the one before, whatever happens in between."""

import copy
import itertools
import json
import math
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from torch import Tensor, nn

import fisher_cli.run.previous_row
from fisher_cli import analyze
from fisher_cli.curvature.kl import divergence as moving
from fisher_cli.curvature.problem.problem import TensorData, pose
from fisher_cli.inputs.networks.digits_networks import digits_cnn
from fisher_cli.reports.trend import left_out_rows, verdict
from fisher_cli.results import Movement, Status
from fisher_cli.run.measurement import MeasurementContext, measure
from fisher_cli.run.preparation import run_of_files
from fisher_cli.run.previous_row import PreviousRow
from fisher_cli.settings import Resources, Settings
from tests.cases import mlp, unsettle
from tests.command import fisher
from tests.reference import reference

SAMPLES = Path(__file__).parents[2] / "sample_checkpoints"
CLEAN, CNN = SAMPLES / "digits-clean", SAMPLES / "digits-cnn"
FIRST, MIDDLE, LAST = (CLEAN / f"step_{step:05d}.pt" for step in (22, 440, 1760))
QUICK: dict[str, Any] = {"limit": 24, "eigenvalues": 0}
MOVED = ("trace_true_change", "kl_step", "kl_step_quadratic", "path_length")


def three_modules(dtype: torch.dtype = torch.float64) -> tuple[list[nn.Module], tuple[Tensor, Tensor]]:
    torch.manual_seed(11)
    first = nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 3)).to(dtype)
    modules = [first]
    for _ in range(2):
        modules.append(copy.deepcopy(modules[-1]))
        with torch.no_grad():
            for parameter in modules[-1].parameters():
                parameter += 0.1 * torch.randn_like(parameter)
    return modules, (torch.randn(15, 4, dtype=dtype), torch.randint(0, 3, (15,)))


def flat(module: nn.Module) -> Tensor:
    return torch.cat([parameter.detach().reshape(-1).double() for parameter in module.parameters()])


@pytest.mark.parametrize("precision", ["float64", "float32"])
def test_the_columns_are_their_definitions(precision: str) -> None:
    """KL from torch.distributions, ½ΔᵀFΔ from the dense matrix of the row before, the trace's terms one by one."""
    modules, (inputs, labels) = three_modules()
    references = [reference(module, inputs, labels) for module in modules]
    outputs = [torch.distributions.Categorical(logits=module(inputs).detach()) for module in modules]
    lengths, path = [flat(module) for module in modules], 0.0
    table = analyze(modules, (inputs, labels), eigenvalues=0, precision=precision).table
    rel = 1e-9 if precision == "float64" else 1e-4
    assert table.loc[0, list(MOVED)].isna().all()
    for t in (1, 2):
        row, step = table.iloc[t], lengths[t] - lengths[t - 1]
        kl = torch.distributions.kl_divergence(outputs[t - 1], outputs[t])
        assert row["kl_step"] == pytest.approx(float(kl.mean()), rel=rel)
        assert row["kl_step_se"] == pytest.approx(float(kl.std()) / 15**0.5, rel=rel)
        assert row["kl_step_parameters"] == row["kl_step"]
        squared = float(step @ references[t - 1].fisher @ step)
        assert row["kl_step_quadratic"] == pytest.approx(squared / 2, rel=rel)
        path += math.sqrt(squared)
        assert row["path_length"] == pytest.approx(path, rel=rel)
        change = references[t].true_terms.sum(1) - references[t - 1].true_terms.sum(1)
        assert row["trace_true_change"] == pytest.approx(float(change.mean()), rel=rel)
        assert row["trace_true_change_se"] == pytest.approx(float(change.std()) / 15**0.5, rel=rel)


def test_paths_give_what_modules_give_and_the_batch_does_not_matter() -> None:
    whole = analyze([FIRST, MIDDLE, LAST], **QUICK).table
    for size in (5, 24):
        table = analyze([FIRST, MIDDLE, LAST], batch_size=size, **QUICK).table
        for name in MOVED:
            assert table[name][1:].tolist() == pytest.approx(whole[name][1:].tolist(), rel=1e-5)
    alone = analyze([FIRST, MIDDLE], **QUICK).table
    assert alone.loc[1, list(MOVED)].tolist() == whole.loc[1, list(MOVED)].tolist()
    assert whole["phase"].notna().all()


def test_the_stage_is_timed_and_leaves_the_numbers_of_the_row_alone() -> None:
    analysis = analyze([FIRST, MIDDLE], **QUICK)
    assert "movement" not in dict(analysis.measurements[0].timings) or analysis.measurements[0].movement is None
    assert dict(analysis.measurements[1].timings)["movement"] > 0
    alone = analyze([MIDDLE], **QUICK).measurements[0]
    assert (alone.movement, alone.trace) == (None, analysis.measurements[1].trace)


def test_a_row_that_failed_is_stepped_over_and_said(tmp_path: Path) -> None:
    broken = tmp_path / "step_00100.pt"
    content = torch.load(MIDDLE, weights_only=True)
    content["state_dict"]["1.weight"][0, 0] = math.nan
    torch.save(content | {"step": 100}, broken)
    analysis = analyze([FIRST, broken, MIDDLE, LAST], **QUICK)
    table, plain = analysis.table, analyze([FIRST, MIDDLE, LAST], **QUICK).table
    assert table["status"].tolist() == ["ok", "failed", "ok", "ok"]
    assert table.loc[1, [*MOVED, "phase"]].isna().all()
    for name in MOVED:
        assert table[name][2:].tolist() == plain[name][1:].tolist()
    notes = [each.notes for each in analysis.measurements]
    assert "movement is from the last checkpoint with numbers: the row between gave none" in notes[2]
    assert not any("movement" in note for note in notes[3])


def test_another_network_begins_a_path_of_its_own() -> None:
    torch.manual_seed(0)
    small, other = mlp(4, 5, 3), mlp(4, 6, 3)
    moved = copy.deepcopy(other)
    with torch.no_grad():
        moved[0].weight += 0.1
    data = (torch.randn(9, 4), torch.randint(0, 3, (9,)))
    analysis = analyze([small, other, moved], data, eigenvalues=0)
    assert analysis.table["kl_step"].isna().tolist() == [True, True, False]
    assert analysis.table["path_length"].isna().tolist() == [True, True, False]
    quadratic = analysis.table["kl_step_quadratic"][2]
    assert analysis.table["path_length"][2] == pytest.approx(math.sqrt(2 * quadratic))
    said = "no movement from the previous row, which is of another network: 0.weight has the shape (6, 4) in place of"
    assert any(note.startswith(said) for note in analysis.measurements[1].notes)


def test_only_the_analysed_parameters_make_the_step() -> None:
    modules, data = three_modules()
    table = analyze(modules, data, eigenvalues=0, precision="float64", include="2.*").table
    own = reference(modules[0], *data)
    size = sum(parameter.numel() for parameter in modules[0][2].parameters())
    step = (flat(modules[1]) - flat(modules[0]))[-size:]
    expected = float(step @ own.fisher[-size:, -size:] @ step) / 2
    assert table["kl_step_quadratic"][1] == pytest.approx(expected, rel=1e-9)
    mixed = copy.deepcopy(modules[0])
    mixed[2] = modules[1][2]
    outputs = [torch.distributions.Categorical(logits=module(data[0]).detach()) for module in (modules[0], mixed)]
    kl = torch.distributions.kl_divergence(*outputs).mean()
    assert table["kl_step_parameters"][1] == pytest.approx(float(kl), rel=1e-9)
    assert table["kl_step"][1] != pytest.approx(float(kl), rel=0.1)


def with_batch_norm() -> tuple[list[nn.Module], tuple[Tensor, Tensor]]:
    torch.manual_seed(12)
    first = nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.Tanh(), nn.Linear(6, 3))
    unsettle(first)
    second = copy.deepcopy(first)
    with torch.no_grad():
        for parameter in second.parameters():
            parameter += 0.02 * torch.randn_like(parameter)
    second[1].running_mean += 0.5
    return [first, second], (torch.randn(30, 4), torch.randint(0, 3, (30,)))


def test_what_batch_norm_statistics_move_is_said_apart() -> None:
    modules, data = with_batch_norm()
    held = copy.deepcopy(modules[1])
    held[1].load_state_dict(modules[1][1].state_dict() | {"running_mean": modules[0][1].running_mean})
    expected = analyze([modules[0], held], data, eigenvalues=0).table.iloc[1]
    analysis = analyze(modules, data, eigenvalues=0)
    row = analysis.table.iloc[1]
    assert row["kl_step_parameters"] == pytest.approx(expected["kl_step"], rel=1e-4)
    assert row["kl_step_quadratic"] == pytest.approx(expected["kl_step_quadratic"], rel=1e-6)
    assert row["kl_step"] > 2 * row["kl_step_parameters"]
    assert any("more than a tenth of kl_step" in note for note in analysis.measurements[1].notes)
    quiet = analyze([modules[0], held], data, eigenvalues=0).measurements[1]
    assert not any("kl_step" in note for note in quiet.notes)


def test_recalibration_is_asked_for_and_recorded() -> None:
    modules, data = with_batch_norm()
    plain = analyze(copy.deepcopy(modules), data, eigenvalues=0)
    assert all("see other data than in training" in " ".join(each.notes) for each in plain.measurements)
    assert not any(each.doubt for each in plain.measurements)
    analysis = analyze(copy.deepcopy(modules), data, eigenvalues=0, recalibrate_bn=True)
    said = "batch-norm statistics of 1 layer were recomputed on the 30 examples, as of one batch"
    assert all(said in each.notes for each in analysis.measurements)
    assert not any("other data" in note for each in analysis.measurements for note in each.notes)
    record = analysis.stable_metadata()
    assert record["settings"]["recalibrate_bn"] is True
    assert said in record["checkpoints"][0]["notes"]
    settled = copy.deepcopy(modules[0]).train()
    settled[1].momentum = None
    settled[1].reset_running_stats()
    settled(data[0])
    expected = analyze(settled, data, eigenvalues=0).table["trace_true"][0]
    assert analysis.table["trace_true"][0] == pytest.approx(expected, rel=1e-5)
    assert plain.table["trace_true"][0] != pytest.approx(expected, rel=0.05)
    assert dict(analysis.measurements[0].timings)["normalization"] > 0


def test_early_batch_norms_of_the_sample_run_are_named() -> None:
    """The running statistics of digits-cnn are those of initialisation at first, and settled when it is trained."""
    files = [CNN / f"step_{step:05d}.pt" for step in (0, 5, 1760)]
    analysis = analyze(files, limit=100, eigenvalues=0)
    notes = [" ".join(each.notes) for each in analysis.measurements]
    assert "not yet settled: 3 of 3 layers, most in 7, whose" in notes[0]
    assert "after no batch the initial values still weigh 100%" in notes[0]
    assert "after 5 batches the initial values still weigh 59%" in notes[1]
    assert [bool(each.doubt) for each in analysis.measurements] == [True, True, False]
    assert "other data" not in notes[2]
    assert verdict(analysis.measurements).startswith("The true trace is ")
    assert left_out_rows(analysis.measurements)[0] == (
        "Left out of this: step 0 and step 5; their batch-norm statistics are not yet settled."
    )
    network = digits_cnn()
    network.load_state_dict(torch.load(files[0], weights_only=True)["state_dict"])
    assert float(network[7].running_var.sum()) == 32  # nothing was written into it by the analysis of the file


@pytest.mark.parametrize("place", ["quadratic_form", "all_outputs", "jvp_of"])
def test_when_memory_runs_out_in_the_movement_the_row_is_begun_anew(
    place: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    modules, data = with_batch_norm()
    expected = analyze(copy.deepcopy(modules), data, eigenvalues=0, batch_size=8).measurements[1]
    states = [{name: tensor.clone() for name, tensor in module.state_dict().items()} for module in modules]
    original, calls = getattr(moving, place), itertools.count()

    def once(*arguments: object, **words: object) -> object:
        if next(calls) == 0:
            raise torch.OutOfMemoryError
        return original(*arguments, **words)

    monkeypatch.setattr(moving, place, once)
    found = analyze(modules, data, eigenvalues=0, batch_size=16).measurements[1]
    assert (found.batch_size, found.memory_ran_out_at) == (8, 16)
    assert isinstance(found.movement, Movement)
    assert isinstance(expected.movement, Movement)
    for name in ("kl", "kl_quadratic", "kl_parameters", "trace_change"):
        ours, theirs = getattr(found.movement, name), getattr(expected.movement, name)
        assert ours.value == pytest.approx(theirs.value, rel=1e-4), name
    for module, state in zip(modules, states, strict=True):
        assert all(torch.equal(state[name], tensor) for name, tensor in module.state_dict().items())


def test_an_attempt_that_failed_leaves_no_footprint() -> None:
    modules, (inputs, labels) = three_modules(torch.float32)
    previous_row = PreviousRow()
    data, settings = TensorData(inputs, labels), Settings(eigenvalues=0)
    previous_row.advance()
    measure(modules[0], data, settings, MeasurementContext(previous_row=previous_row))
    previous_row.advance()
    assert previous_row.last is not None
    wrong = TensorData(inputs, torch.full_like(labels, 7))
    with pytest.raises(Exception, match="labels run from"):
        measure(modules[1], wrong, settings, MeasurementContext(previous_row=previous_row))
    kept = previous_row.last
    previous_row.advance()
    assert (previous_row.last, previous_row.missed) == (kept, 1)
    found = measure(modules[2], data, settings, MeasurementContext(previous_row=previous_row))
    step = {name: parameter.detach() - kept.tensors[name] for name, parameter in modules[2].named_parameters()}
    expected = moving.second_order(pose(modules[0], data), step)
    assert found.movement is not None
    assert found.movement.kl_quadratic.value == pytest.approx(expected.value, rel=1e-5)


def test_what_is_kept_of_a_network_does_not_change_with_it() -> None:
    """Networks of one run share a module, into which the next weights are copied."""
    modules, (inputs, labels) = three_modules(torch.float32)
    problem = pose(modules[0], TensorData(inputs, labels))
    kept = moving.snapshot(problem, moving.all_outputs(problem))
    before = {name: tensor.clone() for name, tensor in kept.tensors.items()}
    modules[0].load_state_dict(modules[1].state_dict())
    assert all(torch.equal(before[name], tensor) for name, tensor in kept.tensors.items())


def test_nothing_is_kept_of_a_single_checkpoint(monkeypatch: pytest.MonkeyPatch) -> None:
    kept = list[object]()
    monkeypatch.setattr(fisher_cli.run.previous_row, "snapshot", lambda *of: kept.append(of))
    (row,) = run_of_files([FIRST], Settings(limit=5, eigenvalues=0), Resources())
    assert row.status == Status.OK
    assert row.movement is None
    assert not kept


def test_streamed_rows_have_the_path_and_no_phase_and_files_have_both(tmp_path: Path) -> None:
    words = ["analyze", str(FIRST), str(MIDDLE), str(LAST), "--limit", "24", "--eigenvalues", "0"]
    for form, read in (("csv", pd.read_csv), ("jsonl", lambda path: pd.read_json(path, lines=True))):
        (tmp_path / form).write_text(fisher(*words, "--format", form).stdout)
        streamed = read(tmp_path / form)
        if form == "csv":
            fisher(*words, "-o", tmp_path / "whole.csv")
        whole = pd.read_csv(tmp_path / "whole.csv")
        assert whole["path_length"][1:].is_monotonic_increasing
        assert streamed["path_length"][1:].tolist() == pytest.approx(whole["path_length"][1:].tolist(), rel=1e-14)
        assert streamed["phase"].isna().all()
        assert whole["phase"].notna().all()
        assert set(whole["phase"]) <= {"low early", "rising", "high", "falling", "low, converged"}


def test_a_resumed_run_has_the_bytes_of_one_that_was_not_stopped(tmp_path: Path) -> None:
    for name, files in (("part", [FIRST, MIDDLE]), ("part", [FIRST, MIDDLE, LAST]), ("whole", [FIRST, MIDDLE, LAST])):
        fisher("analyze", *files, "--limit", 24, "--eigenvalues", 0, "-o", tmp_path / f"{name}.csv")
    assert (tmp_path / "part.csv").read_bytes() == (tmp_path / "whole.csv").read_bytes()
    notes = [
        json.loads((tmp_path / f"{name}.fisher/record.json").read_text())["checkpoints"] for name in ("part", "whole")
    ]
    assert notes[0] == notes[1]


def test_status_of_rows_does_not_depend_on_the_movement() -> None:
    analysis = analyze([FIRST, LAST], limit=24, eigenvalues=1)
    assert [each.status for each in analysis.measurements] == [Status.OK, Status.OK]
    assert analysis.measurements[1].movement is not None
