"""The library: `analyze` with paths and with modules gives what the command gives, and refuses what cannot be."""

import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from typer.testing import CliRunner

import fisher_cli
from fisher_cli import Analysis, FisherError, analyze
from fisher_cli.cli.app import app
from fisher_cli.errors import CheckpointError, DataError, UsageError
from fisher_cli.inputs.networks.digits_networks import digits_mlp
from fisher_cli.results import Status
from fisher_cli.settings import Estimator, Settings

CLEAN = Path(__file__).parents[1] / "sample_checkpoints" / "digits-clean"
FIRST, LAST = CLEAN / "step_00000.pt", CLEAN / "step_01760.pt"
QUICK: dict[str, Any] = {"limit": 20, "eigenvalues": 0}


def loaded(path: Path) -> nn.Module:
    network = digits_mlp()
    network.load_state_dict(torch.load(path, weights_only=True)["state_dict"])
    return network


def tensors(examples: int = 12) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    inputs = torch.rand(examples, 1, 8, 8, generator=generator)
    return inputs, torch.randint(10, (examples,), generator=generator)


def test_what_the_package_offers() -> None:
    functions = {"analyze", "compare", "examples", "inspect", "spectrum", "verify"}
    assert set(fisher_cli.__all__) == {"Analysis", "FisherError", "Result", "Settings"} | functions
    assert all(callable(getattr(fisher_cli, name)) for name in functions)
    assert fisher_cli.Settings is Settings
    with pytest.raises(AttributeError, match="no attribute 'analyse'"):
        _ = fisher_cli.analyse


def test_paths_in_every_form() -> None:
    results = [analyze(form, **QUICK) for form in (str(FIRST), FIRST, [FIRST], (str(FIRST),), iter([FIRST]))]
    for result in results:
        assert isinstance(result, Analysis)
        assert list(result.table["checkpoint"]) == [FIRST.name]
        assert result.succeeded == 1
        assert result.table.equals(results[0].table)
        assert result.layers["trace_true"].sum() == pytest.approx(result.table["trace_true"][0], rel=1e-6)


def test_a_folder_is_a_run_in_order() -> None:
    result = analyze(str(CLEAN), limit=5, eigenvalues=0)
    assert list(result.table["step"]) == sorted(result.table["step"])
    assert len(result.table) == 14
    assert result.seconds > 0


def test_a_named_output_is_the_report_of_the_command(tmp_path: Path) -> None:
    words = ["analyze", str(FIRST), str(LAST), "--limit", "20", "--eigenvalues", "0", "-q"]
    assert CliRunner().invoke(app, [*words, "-o", str(tmp_path / "command.csv")]).exit_code == 0
    for _ in range(2):
        analyze([FIRST, LAST], output=tmp_path / "library.csv", **QUICK)
        for suffix in ("csv", "layers.csv"):
            own, other = (tmp_path / f"{name}.{suffix}" for name in ("library", "command"))
            assert own.read_bytes() == other.read_bytes()
    journals = [tmp_path / f"{name}.fisher" / "journal.jsonl" for name in ("library", "command")]
    assert len({journal.read_bytes().splitlines()[0] for journal in journals}) == 1
    result = CliRunner().invoke(app, [*words[:-1], "-o", str(tmp_path / "library.csv")])
    assert result.exit_code == 0, result.output
    assert "2 of 2 checkpoints were finished before and are kept" in result.stderr
    assert CliRunner().invoke(app, ["check", str(tmp_path / "library.csv")]).exit_code == 0


def test_modules_give_what_their_files_give() -> None:
    by_path = analyze([FIRST, LAST], **QUICK)
    by_module = analyze([loaded(FIRST), loaded(LAST)], "digits", **QUICK)
    assert list(by_module.table["checkpoint"]) == ["module-0", "module-1"]
    assert set(by_module.table["architecture"]) == {"Sequential"}
    for name in ("loss", "trace_true", "trace_empirical", "trace_ratio_se"):
        assert list(by_module.table[name]) == pytest.approx(list(by_path.table[name]), rel=1e-6)


def test_a_module_with_tensors() -> None:
    result = analyze(loaded(FIRST), tensors(), eigenvalues=1)
    assert list(result.table["examples"]) == [12]
    assert result.data == {"name": "tensors", "examples": 12}
    assert result.table["eig_true_1"][0] <= result.table["trace_true"][0]
    assert result.stable_metadata()["settings"]["data"] == "tensors"


def test_simple_forms_of_settings() -> None:
    plain = analyze(FIRST, **QUICK, estimator="exact", likelihood="softmax", precision="float64", include="5.*")
    assert plain.settings.estimator is Estimator.EXACT
    assert plain.settings.include == ("5.*",)
    assert list(plain.table["parameters"]) == [330]
    network = analyze(FIRST, **QUICK, model="digits-mlp", model_arguments={"num_classes": 10})
    assert network.settings.model_arguments == (("num_classes", "10"),)
    assert list(network.table["status"]) == ["ok"]
    noisy = analyze(FIRST, **QUICK, labels=CLEAN.parent / "digits-noisy" / "labels.csv", exclude=["*.bias"])
    assert noisy.settings.digest().startswith("sha256:")
    assert list(noisy.table["status"]) == ["ok"]


def test_a_bad_file_is_a_row(tmp_path: Path) -> None:
    (tmp_path / "bad.pt").write_text("This is a note about the run.\n" * 10)
    result = analyze([FIRST, tmp_path / "bad.pt"], **QUICK)
    assert {row.status for row in result.measurements} == {Status.OK, Status.REJECTED}
    assert result.succeeded == 1
    with pytest.raises(CheckpointError, match="no such file"):
        analyze(tmp_path / "none.pt")
    with pytest.raises(CheckpointError, match="no checkpoints given"):
        analyze([])


@pytest.mark.parametrize(
    ("checkpoints", "data", "said"),
    [
        (FIRST, [FIRST], "not PosixPath with data list"),
        ([FIRST, nn.Linear(2, 2)], "digits", "not PosixPath and Linear with data str"),
        (5, "digits", "not int with data str"),
        ([5], "digits", "not int with data str"),
        ({"weight": torch.zeros(2)}, "digits", "not dict with data str"),
        (iter([FIRST, nn.Linear(2, 2)]), "digits", "not PosixPath and Linear with data str"),
        (nn.Linear(2, 2), torch.zeros(2, 2), "not Linear with data Tensor"),
        (nn.Linear(2, 2), None, "not Linear with data NoneType"),
        (nn.Linear(2, 2), (torch.zeros(2, 2),), "not Linear with data tuple"),
        (nn.Linear(2, 2), ([[0.0, 1.0]], [1]), "not Linear with data tuple"),
    ],
)
def test_what_does_not_go_together(checkpoints: Any, data: Any, said: str) -> None:
    with pytest.raises(UsageError, match="give paths or torch modules, and as data a dataset's name") as caught:
        analyze(checkpoints, data)
    assert said in str(caught.value)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ({"limt": 3}, r"unknown argument 'limt'; did you mean limit\?"),
        ({"zzz": 3}, "unknown argument 'zzz'; there are batch_size, device"),
        ({"estimator": "best"}, "'best' is none of auto, exact"),
        ({"precision": "float16"}, "float16: gradients of confident examples lie below its smallest number"),
        ({"precision": "int8"}, "'int8' is none of float32, float64, bfloat16, tf32"),
        ({"likelihood": "poisson"}, "'poisson' is none of auto, softmax"),
        ({"eigenvalues": -1}, "eigenvalues -1: give a positive whole number, or 0 for none"),
        ({"limit": 0}, "at least 1 example is needed"),
        ({"batch_size": 0}, "batch_size 0: give a positive whole number"),
        ({"device": "tpu"}, "unknown device 'tpu'"),
        ({"split": "validation"}, "there are train, test"),
        ({"include": "nothing.*"}, "leave none of the 6 parameters"),
    ],
)
def test_settings_that_cannot_be(words: dict[str, Any], said: str) -> None:
    with pytest.raises(UsageError, match=said):
        analyze(FIRST, **words)


def test_modules_and_tensors_that_do_not_fit() -> None:
    network, (inputs, labels) = loaded(FIRST), tensors()
    with pytest.raises(DataError, match="12 inputs and 11 labels"):
        analyze(network, (inputs, labels[:11]), eigenvalues=0)
    with pytest.raises(DataError, match="does not accept inputs of shape"):
        analyze(network, (torch.zeros(3, 5), labels[:3]), eigenvalues=0)
    with pytest.raises(FisherError, match="no examples"):
        analyze(network, (inputs[:0], labels[:0]), eigenvalues=0)
    with pytest.raises(FisherError, match="labels run from"):
        analyze(network, (inputs, labels + 10), eigenvalues=0)


def test_the_callers_world_stays_as_it_was() -> None:
    torch.manual_seed(3)
    state, threads = torch.get_rng_state(), torch.get_num_threads()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        analyze(FIRST, limit=20, eigenvalues=2)
    assert not caught
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.get_num_threads() == threads
