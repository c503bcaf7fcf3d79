"""`fisher inspect`: every file is a row that says what it is, and with data every parameter is accounted for."""

import io
import json
import re
import shutil
from collections.abc import Sequence
from pathlib import Path

import pandas as pd
import pytest
import torch
from safetensors.torch import save_file
from typer.testing import Result

from fisher_cli import inspect as survey_of
from fisher_cli.inputs.checkpoints.checkpoints import ReadOptions, find_checkpoints
from fisher_cli.inputs.networks.networks import Networks
from fisher_cli.inputs.networks.networks import inspect as inspect_file
from fisher_cli.results import Status
from fisher_cli.storage.readers import read_table
from fisher_cli.tables.registry import COVERAGE, FILES
from tests.command import error_line, fisher

pytestmark = pytest.mark.usefixtures("workdir")

SAMPLES = Path(__file__).parents[2] / "sample_checkpoints"
CLEAN = SAMPLES / "digits-clean"
FIRST, MIDDLE, LAST = (CLEAN / f"step_{step:05d}.pt" for step in (0, 440, 1760))
CNN = SAMPLES / "digits-cnn" / "step_00440.pt"
NAMES = [column.name for column in FILES.columns]


def inspect(*words: object, code: int = 0) -> Result:
    return fisher("inspect", *words, code=code, COLUMNS="100")


def rows(*words: object, code: int = 0) -> pd.DataFrame:
    return pd.read_csv(io.StringIO(inspect(*words, code=code).stdout), keep_default_na=False).set_index("checkpoint")


@pytest.fixture
def kinds(workdir: Path) -> Path:
    """One checkpoint of every kind: zip, legacy, safetensors, a trainer's, weights alone, NaN, no checkpoint."""
    folder = workdir / "kinds"
    folder.mkdir()
    content = torch.load(LAST, weights_only=True)
    weights = content["state_dict"]
    shutil.copy(FIRST, folder / "a.pt")
    torch.save(content, folder / "b.pt", _use_new_zipfile_serialization=False)
    save_file(weights, folder / "c.safetensors", metadata={"arch": "digits-mlp", "step": "7"})
    trainer = {
        "model": {f"module.{name}": value.half() for name, value in weights.items()},
        "optimizer": {"state": {}, "param_groups": []},
        "epoch": 12,
        "rng": torch.zeros(4),
        "arch": "digits-mlp",
    }
    torch.save(trainer, folder / "d.pt")
    torch.save(weights, folder / "e.pt")
    weights["3.weight"][0] = torch.nan
    torch.save(content, folder / "f.pt")
    (folder / "g.pt").write_text("This is a note about the run.\n" * 10)
    return folder


# --- the files ----------------------------------------------------------------------------------------------------


def test_every_kind_of_file_is_a_row_that_says_what_it_is(kinds: Path) -> None:
    found = rows(kinds, code=3)
    assert [*found] == [name for name in NAMES if name != "checkpoint"]
    assert dict(found["status"]) == {
        "a.pt": "ok",
        "b.pt": "ok",
        "c.safetensors": "ok",
        "d.pt": "ok",
        "e.pt": "ok",
        "f.pt": "failed",
        "g.pt": "rejected",
    }
    assert list(found["format"]) == [
        *("torch zip", "torch legacy", "safetensors", "torch zip", "torch zip", "torch zip", ""),
    ]
    hold, none = "checksums hold", "no checksums"
    assert list(found["integrity"]) == [hold, none, none, hold, hold, hold, ""]
    root, own = "(root)", "state_dict"
    assert list(found["weights_key"]) == [own, own, root, "model", root, own, ""]
    assert list(found["tensors"]) == ["6", "6", "6", "6", "6", "6", ""]
    assert list(found["architecture_source"]) == ["the file"] * 4 + ["names and shapes", "the file", ""]
    assert list(found["parameters"]) == ["6570"] * 4 + ["6570", "6570", ""]
    assert found["step"]["c.safetensors"] == "7"
    assert found["epoch"]["d.pt"] == "12.0"
    assert found["notes"]["d.pt"] == (
        "wrapper module. removed from names; 6 float16 tensors read as float32; not used: optimizer, rng"
    )
    assert found["notes"]["a.pt"] == ""
    assert found["notes"]["e.pt"] == "all 6 names and shapes are digits-mlp's; 10 classes"
    assert found["error"]["f.pt"] == "NaN or infinite weights in 3.weight: training had diverged here"
    assert found["error"]["g.pt"].startswith("a text file, not a checkpoint")
    assert found["sha256"].str.fullmatch(r"sha256:[0-9a-f]{64}").all()
    said = inspect(kinds, code=3).stderr
    assert said == "2 of 7 checkpoints cannot be analysed: the column error says why\n"


def test_the_network_can_be_named_and_then_it_must_fit(kinds: Path) -> None:
    found = rows(kinds / "e.pt", "--model", "digits-mlp")
    assert (found["architecture"]["e.pt"], found["architecture_source"]["e.pt"]) == ("digits-mlp", "option --model")
    assert found["parameters"]["e.pt"] == 6570
    result = inspect(kinds / "a.pt", "--model", "digits-cnn", code=1)
    assert error_line(result).startswith("a.pt: weights do not fit the network")
    (row,) = pd.read_csv(io.StringIO(result.stdout)).to_dict("records")
    assert (row["status"], row["weights_key"], row["architecture"]) == ("rejected", "state_dict", "digits-cnn")


def test_what_inspect_calls_ok_analyze_can_measure(kinds: Path) -> None:
    words = [str(kinds), "--limit", "10", "--eigenvalues", "0"]
    measured = fisher("analyze", *words, code=None)
    analysed = pd.read_csv(io.StringIO(measured.stdout), keep_default_na=False).set_index("checkpoint")
    inspected = rows(kinds, code=3)
    for name in ("status", "error", "order", "step", "epoch", "architecture"):
        told, same = inspected[name].astype(str), analysed[name].astype(str)
        if name == "architecture":
            assert (told.pop("f.pt"), same.pop("f.pt")) == ("digits-mlp", ""), "inspect looks on where analyze stops"
        assert dict(told) == dict(same), name


def test_files_are_in_training_order_and_two_runs_give_identical_bytes() -> None:
    first, again = inspect(CLEAN).stdout, inspect(CLEAN).stdout
    assert first == again
    found = pd.read_csv(io.StringIO(first))
    assert list(found["step"]) == sorted(found["step"])
    assert list(found["order"]) == list(range(14))


def test_a_broken_network_of_the_users_is_a_row(workdir: Path, kinds: Path) -> None:
    (workdir / "odd.py").write_text(
        "from torch import nn\n"
        "class Odd(nn.Module):\n"
        "    def state_dict(self, *a, **k):\n"
        "        raise KeyError('mask')\n"
    )
    result = inspect(kinds / "a.pt", "--model", "./odd.py:Odd", code=1)
    assert error_line(result) == "a.pt: KeyError: 'mask'"


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (("none.pt",), 1, "none.pt: there is no such file or folder"),
        ((), 2, "missing argument 'CHECKPOINTS'; for example: fisher inspect ckpts/"),
        ((FIRST, "--modle", "x"), 2, "no such option: --modle"),
        ((FIRST, "--model", "digits-mpl"), 1, "did you mean digits-mlp"),
        ((FIRST, "--model-arg", "foo"), 2, "--model-arg foo: type KEY=VALUE"),
        ((FIRST, "--data", "digts"), 1, "did you mean digits"),
        ((FIRST, "--data", "digits", "--split", "validation"), 2, "there are train, test"),
        ((FIRST, "--data", "digits", "--device", "tpu"), 2, "unknown device 'tpu'"),
        ((FIRST, "--data", "digits", "--include", "nothing.*"), 2, "leave none of the 6 parameters"),
        ((FIRST, "-o", "report"), 2, "for instance -o report.csv"),
        ((FIRST, "-o", "-", "--format", "table"), 2, "-o - writes rows"),
    ],
)
def test_words_that_do_not_fit_are_one_line(words: Sequence[object], code: int, said: str) -> None:
    result = inspect(*words, code=code)
    assert said in error_line(result)
    assert result.stdout == ""


# --- the coverage --------------------------------------------------------------------------------------------------


def test_with_data_every_parameter_is_listed_with_a_total_and_the_check() -> None:
    shown = inspect(CNN, "--data", "digits", "--format", "table").stdout
    lines = shown.splitlines()
    weights = torch.load(CNN, weights_only=True)["state_dict"]
    expected = {name: value for name, value in weights.items() if "running" not in name and "num_batches" not in name}
    for name, value in expected.items():
        (line,) = (line for line in lines if line.startswith(f"{name} "))
        assert re.fullmatch(rf"{re.escape(name)} +{value.numel():,}  [a-z-]+ +\d+\.\d %.*", line)
    (total,) = (line for line in lines if line.startswith("total"))
    assert total.split() == ["total", "7,514", "100.0", "%"]
    works = [float(match[1]) for line in lines if (match := re.match(r"[\w. ]+ .* (\d+\.\d) %", line))]
    assert sum(works[: len(expected) + 1]) == pytest.approx(100, abs=0.7)
    for method, tensors, values in (("batch-norm", 6, 128), ("convolution", 3, 7056), ("linear", 2, 330)):
        assert any(re.match(rf"{method} +{tensors} +{values:,} ", line) for line in lines)
    assert re.search(
        r"Check against plain autograd, [1-4] examples in 2 directions: largest relative difference \d\.\de-0\d", shown
    )
    assert "Coverage of the parameters · digits-cnn · step_00440.pt · digits train · 8 examples" in shown


def test_the_number_of_examples_that_are_looked_at_can_be_chosen() -> None:
    shown = inspect(CNN, "--data", "digits", "--limit", "3", "--format", "table").stdout
    assert "digits train · 3 examples" in shown
    assert "positive" in inspect(CNN, "--data", "digits", "--limit", "0", code=2).stderr


def test_piped_with_data_the_rows_go_out_and_one_line_says_what_covers_the_parameters() -> None:
    result = inspect(CNN, "--data", "digits")
    assert len(result.stdout.splitlines()) == 2
    said, check = result.stderr.splitlines()
    assert said == (
        "step_00440.pt: 11 tensors with 7,514 values: 6 by batch-norm, 3 by convolution, 2 by linear; "
        "--format table or -o FILE lists them"
    )
    assert check.startswith("Check against plain autograd, 4 examples in 2 directions")
    assert inspect(CNN, "--data", "digits", "--quiet").stderr == ""


def test_only_the_chosen_parameters_are_covered() -> None:
    shown = inspect(FIRST, "--data", "digits", "--exclude", "*.bias", "--format", "table").stdout
    assert "bias" not in shown
    assert "6,464" in shown


def test_the_first_good_file_is_the_one_that_is_covered(kinds: Path) -> None:
    shutil.copy(kinds / "g.pt", kinds / "0.pt")
    assert "a.pt: 6 tensors with 6,570 values: 6 by linear" in inspect(kinds, "--data", "digits", code=3).stderr


def test_data_that_do_not_fit_fail_the_rows_in_words(workdir: Path) -> None:
    (workdir / "labels.csv").write_text("index,label\n" + "".join(f"{i},10\n" for i in range(1400)))
    result = inspect(FIRST, LAST, "--data", "digits", "--labels", "labels.csv", code=1)
    assert "none of the 2 checkpoints could be analysed: labels run from 10 to 10" in error_line(result)
    found = pd.read_csv(io.StringIO(result.stdout))
    assert set(found["status"]) == {"failed"}
    assert set(found["parameters"]) == {6570}


# --- the tensors ---------------------------------------------------------------------------------------------------


def test_the_tensors_of_a_file_of_no_known_network_are_listed_with_their_values(workdir: Path) -> None:
    weights = {
        "conv.weight": torch.arange(-9.0, 9.0).reshape(2, 1, 3, 3).half(),
        "head.weight": torch.tensor([[0.0, 1.0], [0.0, -3.0]], dtype=torch.float64),
        "head.bias": torch.tensor([torch.inf, 0.0]),
        "count": torch.tensor(7),
        "none": torch.zeros(0, 4),
    }
    torch.save({f"module.{name}": value for name, value in weights.items()}, workdir / "step_3.pt")
    result = inspect("step_3.pt", "--tensors", code=1)
    assert "fisher inspect --tensors those of the file" in error_line(result)
    found = pd.read_csv(io.StringIO(result.stdout)).set_index("tensor")
    assert list(found.index) == list(weights)
    assert list(found["shape"]) == ["2×1×3×3", "2×2", "2", "scalar", "0×4"]
    assert list(found["dtype"]) == ["float16", "float64", "float32", "int64", "float32"]
    assert list(found["values"]) == [18, 4, 2, 1, 0]
    assert found["looks_like"].fillna("").tolist() == ["convolution 3×3, 1→2", "linear, 2→2", "linear, 2→2", "", ""]
    assert set(found["step"]) == {3}
    for name, value in weights.items():
        row, exact = found.loc[name], value.double()
        told = [row["mean"], row["std"], row["minimum"], row["maximum"]]
        if name in ("head.bias", "none"):
            assert pd.isna(told).all(), "not finite, or no values"
        else:
            exact_values = [exact.mean(), exact.std(correction=0), exact.min(), exact.max()]
            assert told == pytest.approx([float(each) for each in exact_values])
        assert pd.isna(row["zeros"]) if name == "none" else row["zeros"] == float((value == 0).double().mean())


@pytest.mark.parametrize("form", ["table", "json", "jsonl", "tsv"])
def test_tensors_in_every_form(form: str) -> None:
    text = inspect(CNN, "--tensors", "--format", form).stdout
    if form == "table":
        assert "Tensors · step_00440.pt · 20 tensors, 7,645 values" in text
        (line,) = (line for line in text.splitlines() if line.startswith("3.weight "))
        assert "16×16×3×3" in line
        assert "convolution 3×3, 16→16" in line
        assert max(map(len, text.splitlines())) <= 100
    elif form == "json":
        assert [row["tensor"] for row in json.loads(text)] == list(torch.load(CNN, weights_only=True)["state_dict"])
    else:
        assert len(text.splitlines()) == 20 + (form == "tsv")


def test_the_table_of_tensors_lies_beside_that_of_files() -> None:
    result = inspect(FIRST, CNN, "--tensors", "-o", "r.csv")
    assert result.stderr.endswith("table: r.csv\n")
    assert list(read_table(Path("r.csv"))) == NAMES
    found = read_table(Path("r.tensors.csv"))
    names = ["digits-clean/step_00000.pt"] * 6 + ["digits-cnn/step_00440.pt"] * 20
    assert list(found["checkpoint"]) == names
    again = Path("r.tensors.csv").read_bytes()
    inspect(FIRST, CNN, "--tensors", "-o", "r.csv")
    assert Path("r.tensors.csv").read_bytes() == again
    assert survey_of(FIRST, tensors=True).tensors["tensor"].tolist() == found["tensor"].tolist()[:6]
    assert survey_of(FIRST).tensors is None


# --- where it goes ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", ["csv", "tsv", "json", "jsonl", "parquet"])
def test_a_report_has_a_table_of_files_one_of_parameters_and_a_record(suffix: str) -> None:
    result = inspect(FIRST, CNN, "--data", "digits", "-o", f"r.{suffix}")
    assert result.stdout == ""
    assert result.stderr.endswith(f"table: r.{suffix}\n")
    assert {path.name for path in Path().iterdir()} == {f"r.{suffix}", f"r.layers.{suffix}", "r.fisher"}
    main, layers = read_table(Path(f"r.{suffix}")), read_table(Path(f"r.layers.{suffix}"))
    assert list(main) == NAMES
    assert list(layers) == [column.name for column in COVERAGE.columns]
    assert list(main["architecture"]) == ["digits-mlp", "digits-cnn"]
    record = json.loads(Path("r.fisher/record.json").read_text())
    (ledger,) = record["ledgers"]
    assert layers["parameters"].sum() == ledger["values"] == 6570
    assert layers["work"].sum() + ledger["work_of_backward_passes"] == pytest.approx(1)
    assert record["check"]["examples"] == 4


def test_reports_are_identical_and_an_earlier_one_is_replaced() -> None:
    inspect(FIRST, "--data", "digits", "-o", "r.parquet")
    before = {path.name: path.read_bytes() for path in Path().glob("*.parquet")}
    inspect(FIRST, "--data", "digits", "-o", "r.parquet")
    assert {path.name: path.read_bytes() for path in Path().glob("*.parquet")} == before
    inspect(FIRST, "-o", "r.parquet")
    assert not Path("r.layers.parquet").exists(), "without data there is no such table"
    Path("mine.csv").write_text("a,b\n")
    assert "--force" in error_line(inspect(FIRST, "-o", "mine.csv", code=1))


@pytest.mark.parametrize("form", ["csv", "tsv", "json", "jsonl"])
def test_rows_in_every_format(form: str) -> None:
    text = inspect(FIRST, LAST, "-o", "-", "--format", form).stdout
    if form in ("json", "jsonl"):
        found = json.loads(text) if form == "json" else [json.loads(line) for line in text.splitlines()]
        assert [list(row) for row in found] == [NAMES] * 2
        assert [row["checkpoint"] for row in found] == [FIRST.name, LAST.name]
    else:
        header, *lines = (line.split("\t" if form == "tsv" else ",") for line in text.splitlines())
        assert header == NAMES
        assert [line[1] for line in lines] == [FIRST.name, LAST.name]


def test_a_table_is_shown_even_when_no_file_is_good(kinds: Path) -> None:
    result = inspect(kinds / "g.pt", "--format", "table", code=1)
    assert "g.pt" in result.stdout
    assert "rejected: g.pt: a text file, not a checkpoint" in result.stdout
    assert error_line(result) == "the checkpoint could not be analysed: the table says why"


def test_rows_are_written_when_no_file_is_good_but_replace_no_earlier_table(kinds: Path) -> None:
    result = inspect(kinds / "g.pt", "-o", "r.csv", code=1)
    assert result.stderr.splitlines()[0] == "table: r.csv"
    (row,) = pd.read_csv("r.csv").to_dict("records")
    assert (row["checkpoint"], row["status"]) == ("g.pt", "rejected")
    inspect(kinds / "a.pt", "-o", "r.csv")
    before = Path("r.csv").read_bytes()
    assert "table:" not in inspect(kinds / "g.pt", "-o", "r.csv", code=1).stderr
    assert Path("r.csv").read_bytes() == before


def test_the_help_shows_an_example() -> None:
    assert "Example: fisher inspect ckpts/ --model resnet18 --data cifar10" in inspect("--help").stdout


def test_a_file_that_changes_under_way_is_told(workdir: Path) -> None:
    shutil.copy(FIRST, workdir / "a.pt")
    (file,) = find_checkpoints([workdir / "a.pt"])
    shutil.copy(LAST, workdir / "a.pt")
    row = inspect_file(file, Networks(None, {}), ReadOptions())
    assert (row.status, row.format) == (Status.REJECTED, None)
    assert row.error == "changed since this run began; run again once it is written"
