"""The functions and their commands are one thing: the same files, the same journal, the same keywords as settings."""

import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

import fisher_cli
from fisher_cli.api.keywords import Keywords
from fisher_cli.api.result import Result
from fisher_cli.cli.app import app
from fisher_cli.errors import RecordError, UsageError
from fisher_cli.settings import Resources, Settings
from tests.small_run import measured_from_now_on

CLEAN = Path(__file__).parents[2] / "sample_checkpoints" / "digits-clean"
FIRST, LAST = CLEAN / "step_00000.pt", CLEAN / "step_01760.pt"

RUNS: dict[str, tuple[Callable[..., Result], list[str]]] = {
    "analyze": (fisher_cli.analyze, ["analyze", "--limit", "6", "--eigenvalues", "1"]),
    "compare": (fisher_cli.compare, ["compare", "true-vs-empirical", "--limit", "6", "--eigenvalues", "1"]),
    "spectrum": (fisher_cli.spectrum, ["spectrum", "--limit", "6", "--eigenvalues", "1"]),
    "examples": (fisher_cli.examples, ["examples", "--limit", "6"]),
    "verify": (fisher_cli.verify, ["verify", "--limit", "6"]),
}


@pytest.mark.parametrize("name", RUNS)
def test_a_function_writes_and_resumes_what_its_command_does(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    function, words = RUNS[name]
    asked: dict[str, Any] = {"limit": 6, **({"eigenvalues": 1} if "--eigenvalues" in words else {})}
    folders = [tmp_path / each for each in ("library", "command")]
    for folder in folders:
        folder.mkdir()
    found = function([FIRST, LAST], output=folders[0] / "t.csv", **asked)
    command = [words[0], *([words[1]] if name == "compare" else []), str(FIRST), str(LAST)]
    command += [*words[2 if name == "compare" else 1 :], "-q", "-o"]
    assert CliRunner().invoke(app, [*command, str(folders[1] / "t.csv")]).exit_code == 0
    tables = [{path.name: path.read_bytes() for path in folder.glob("*.csv")} for folder in folders]
    assert tables[0] == tables[1]
    assert {path.name for path in found.files} == {*tables[0], found.files[-1].name}
    measured = measured_from_now_on(monkeypatch)
    again = function([FIRST, LAST], output=folders[0] / "t.csv", **asked)
    assert CliRunner().invoke(app, [*command, str(folders[0] / "t.csv")]).exit_code == 0
    assert measured == []
    assert again.asked.equals(found.asked)
    with pytest.raises(RecordError, match="force=True"):
        function([FIRST, LAST], output=folders[0] / "t.csv", **{**asked, "seed": 1})
    function([FIRST], output=folders[0] / "t.csv", resume=False, **{**asked, "seed": 1})
    assert len(measured) == 1


def test_every_setting_is_a_keyword_under_the_name_of_its_option() -> None:
    internal = {"data", "precision", "spectrum", "comparison", "verify", "movement", "task2vec", "eigenvalue_tolerance"}
    of_processes = {"shard", "devices", "ranks"}
    fields = {*Settings.__dataclass_fields__, *Resources.__dataclass_fields__}
    assert set(Keywords.__annotations__) == fields - internal - of_processes | {"dtype"}


@pytest.mark.parametrize("name", [*RUNS, "inspect"])
def test_help_lists_the_keywords_with_their_defaults(name: str) -> None:
    parameters = inspect.signature(getattr(fisher_cli, name)).parameters
    assert set(Keywords.__annotations__) <= set(parameters)
    assert parameters["limit"].default == {"verify": 32, "inspect": 8}.get(name, 1000)
    assert "precision" not in parameters


def test_the_defaults_that_help_lists_are_those_that_are_taken() -> None:
    inputs = {"verify": {}, "spectrum": {"limit": 6}, "examples": {"limit": 6}, "compare": {"limit": 6}}
    for name, words in inputs.items():
        parameters = inspect.signature(getattr(fisher_cli, name)).parameters
        settings = RUNS[name][0](FIRST, **words).settings
        assert (settings.eigenvalues, settings.precision) == tuple(
            parameters[each].default for each in ("eigenvalues", "dtype")
        )
        assert settings.limit == words.get("limit", parameters["limit"].default)


@pytest.mark.parametrize(
    ("function", "words", "said"),
    [
        (fisher_cli.analyze, {"dtyp": "float64"}, r"unknown argument 'dtyp'; did you mean dtype\?"),
        (fisher_cli.analyze, {"dtype": "float16"}, "float16: gradients of confident examples"),
        (fisher_cli.analyze, {"dtype": "bfloat16"}, "dtype='bfloat16' has two to three digits.*add eigenvalues=0"),
        (fisher_cli.analyze, {"activations": "drop"}, "activations='drop': there are keep, recompute"),
        (fisher_cli.analyze, {"preset": "ye"}, "preset='ye': unknown"),
        (fisher_cli.spectrum, {"matrix": "both!"}, "matrix='both!', .*: there are the matrices true, empirical, both"),
        (fisher_cli.spectrum, {"method": "gram"}, "the methods auto, whole, density"),
        (fisher_cli.compare, {"draws": -1}, "draws -1: give a positive whole number"),
        (fisher_cli.inspect, {"model": "resnet81"}, None),
    ],
)
def test_what_cannot_be_is_said_in_keywords(function: Callable[..., Any], words: dict[str, Any], said: str) -> None:
    with pytest.raises(fisher_cli.FisherError, match=said or "model='resnet81': unknown") as caught:
        function(FIRST, **words)
    assert said is None or isinstance(caught.value, UsageError)
    assert "--" not in str(caught.value)
