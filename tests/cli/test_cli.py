"""The commands as a person uses them: good runs, bad input, interruptions; every failure is one line and a code."""

import json
import logging
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import pandas as pd
import pytest
import torch
from PIL import Image
from rich.cells import cell_len
from typer.testing import Result

import fisher_cli.run.preparation
import fisher_cli.run.row
from fisher_cli.errors import DataError, UsageError
from fisher_cli.results import Measurement, Status
from tests.command import error_line, fisher
from tests.waiting import PATIENCE, until

pytestmark = pytest.mark.usefixtures("workdir")

ROOT = Path(__file__).parents[2]
SAMPLES = ROOT / "sample_checkpoints"
CLEAN = SAMPLES / "digits-clean"
FIRST, MIDDLE, LAST = (CLEAN / f"step_{step:05d}.pt" for step in (0, 440, 1760))
FISHER = Path(sys.executable).with_name("fisher")
QUICK = ("--limit", "50", "--eigenvalues", "2")
BARE = ("--limit", "20", "--eigenvalues", "0")
COLUMNS = re.findall(
    r"\w+",
    """
    run checkpoint order step epoch architecture weights parameters examples classes loss loss_se accuracy accuracy_se
    entropy trace_true trace_true_se trace_true_estimator_se trace_estimator trace_empirical trace_empirical_se
    trace_ratio trace_ratio_se trace_true_change trace_true_change_se trace_covariance gradient_norm_squared
    gradient_snr gradient_snr_se eig_true_method eig_empirical_method effective_rank effective_dimension
    subspace_overlap kl_step kl_step_quadratic path_length phase status error
""",
)
EIGENVALUE_COLUMNS = [
    f"eig_{kind}_{i}{end}" for i in (1, 2) for kind in ("true", "empirical") for end in ("", "_residual")
]
LATER_COLUMNS = [
    *("effective_rank_estimator_se", "kl_step_se", "kl_step_quadratic_se"),
    *("kl_step_parameters", "kl_step_parameters_se", "noise_scale", "noise_scale_se", "doubt"),
]
LAYER_COLUMNS = re.findall(
    r"\w+",
    """
    run checkpoint order step layer parameters method trace_true trace_true_se trace_empirical trace_empirical_se share
""",
)


def analyze(*words: object, code: int = 0) -> Result:
    return fisher("analyze", *words, code=code)


def real(*words: object, **options: object) -> subprocess.CompletedProcess[str]:
    """Run the installed command in a process of its own."""
    return subprocess.run(
        [FISHER, *map(str, words)], capture_output=True, text=True, timeout=PATIENCE, check=False, **options
    )  # type: ignore[call-overload]


def table(text: str) -> pd.DataFrame:
    Path("table.csv").write_text(text)
    return pd.read_csv("table.csv")


def rows(*words: object, code: int = 0) -> pd.DataFrame:
    return table(analyze(*words, code=code).stdout)


def altered(path: Path, change: Callable[[dict[str, torch.Tensor]], None], source: Path = FIRST) -> Path:
    """A copy of a sample checkpoint with other weights."""
    content = torch.load(source, weights_only=True)
    change(content["state_dict"])
    torch.save(content, path)
    return path


def with_nan(path: Path, source: Path = FIRST) -> Path:
    return altered(path, lambda weights: weights["3.weight"][0].fill_(torch.nan), source)


class Bomb:
    """Leaves a file behind if anybody unpickles it without care."""

    def __reduce__(self) -> tuple[object, tuple[str, ...]]:
        return os.mkdir, ("canary",)


# --- good runs ---------------------------------------------------------------------------------------------------


def test_piped_output_is_csv_with_all_columns_in_order() -> None:
    result = analyze(FIRST, LAST, *QUICK)
    found = table(result.stdout)
    assert list(found) == COLUMNS + EIGENVALUE_COLUMNS + LATER_COLUMNS
    assert list(found["checkpoint"]) == [FIRST.name, LAST.name]
    assert list(found["step"]) == [0, 1760]
    assert set(found["status"]) == {"ok"}
    assert found["trace_true"].between(1, 1000).all()
    assert result.stderr.splitlines() == [
        "2 checkpoints, 50 of 1400 examples of digits train, normalised by digits, on cpu",
        result.stderr.splitlines()[1],
    ]
    assert result.stderr.splitlines()[1].startswith(f"2/2 {LAST.name}: true trace ")


def test_a_table_for_people() -> None:
    shown = analyze(FIRST, LAST, *QUICK, "--format", "table").stdout
    assert shown.startswith("Fisher information · digits train · digits-mlp · 50 examples")
    assert FIRST.name in shown
    assert "tr F" in shown
    assert all(cell_len(line) <= 100 for line in shown.splitlines())


@pytest.mark.parametrize("suffix", ["csv", "tsv", "json", "jsonl", "parquet"])
def test_a_report_has_two_tables_and_a_folder(suffix: str) -> None:
    result = analyze(FIRST, LAST, *QUICK, "-o", f"r.{suffix}")
    assert result.stdout == ""
    assert result.stderr.endswith(f"table: r.{suffix}\n")
    assert {path.name for path in Path().iterdir()} == {f"r.{suffix}", f"r.layers.{suffix}", "r.fisher"}
    beside = sorted(path.name for path in Path("r.fisher").iterdir())
    assert beside == ["journal.jsonl", "lock", "record.json"]
    readers = {
        "csv": pd.read_csv,
        "tsv": lambda path: pd.read_csv(path, sep="\t"),
        "json": lambda path: pd.DataFrame(json.loads(Path(path).read_text())),
        "jsonl": lambda path: pd.read_json(path, lines=True),
        "parquet": pd.read_parquet,
    }
    main, layers = readers[suffix](f"r.{suffix}"), readers[suffix](f"r.layers.{suffix}")
    assert list(main) == COLUMNS + EIGENVALUE_COLUMNS + LATER_COLUMNS
    assert list(layers) == LAYER_COLUMNS
    sums = layers.groupby("checkpoint")["trace_true"].sum()
    assert list(sums) == pytest.approx(list(main["trace_true"]), rel=1e-6)
    record = json.loads(Path("r.fisher/record.json").read_text())
    assert [row["ledger"] for row in record["checkpoints"]] == [0, 0]
    assert [ledger["values"] for ledger in record["ledgers"]] == [main["parameters"][0]]
    assert [check["checkpoint"] for check in record["run"]["checks"]] == list(main["checkpoint"])
    assert set(record["tables"]) == {f"r.{suffix}", f"r.layers.{suffix}"}
    assert record["settings"]["eigenvalues"] == 2


def test_a_file_and_a_table_at_once() -> None:
    result = analyze(FIRST, *BARE, "-o", "r.csv", "--format", "table", "--no-layers")
    assert result.stdout.startswith("Fisher information")
    assert not Path("r.layers.csv").exists()
    assert Path("r.csv").exists()


@pytest.mark.parametrize("form", [None, "csv", "tsv", "json", "jsonl"])
def test_rows_on_stdout(form: str | None) -> None:
    text = analyze(FIRST, LAST, *BARE, "-o", "-", *(["--format", form] if form else [])).stdout
    if form == "json":
        names = [row["checkpoint"] for row in json.loads(text)]
    elif form == "jsonl":
        names = [json.loads(line)["checkpoint"] for line in text.splitlines()]
    else:
        names = [line.split("\t" if form == "tsv" else ",")[1] for line in text.splitlines()[1:]]
    assert names == [FIRST.name, LAST.name]


@pytest.mark.parametrize("suffix", ["csv", "parquet"])
def test_two_runs_give_identical_tables(suffix: str) -> None:
    for folder in ("one", "two"):
        Path(folder).mkdir()
        analyze(FIRST, MIDDLE, *QUICK, "-o", f"{folder}/r.{suffix}", "--quiet")
    for name in (f"r.{suffix}", f"r.layers.{suffix}"):
        assert Path("one", name).read_bytes() == Path("two", name).read_bytes()


def test_no_place_of_the_machine_is_in_a_table(workdir: Path) -> None:
    shutil.copy(FIRST, workdir / "a.pt")
    (workdir / "b.pt").write_text("no checkpoint at all, but a text of some length\n")
    (workdir / "labels.csv").write_text("index,label\n" + "".join(f"{i},{i % 10}\n" for i in range(1400)))
    analyze(workdir, *BARE, "-o", "r.csv", "--labels", workdir / "labels.csv", code=3)
    for name in ("r.csv", "r.layers.csv"):
        assert str(workdir) not in Path(name).read_text()
    record = json.loads(Path("r.fisher/record.json").read_text())
    del record["run"]  # how it went this time: the only part that names places
    assert str(workdir) not in json.dumps(record)


def test_the_batch_size_changes_nothing() -> None:
    tables = [rows(MIDDLE, *QUICK, "-b", size).select_dtypes("number") for size in ("auto", "7", "50")]
    for other in tables[1:]:
        kept = [name for name in other if not name.endswith("_residual")]
        for name in kept:
            assert list(other[name]) == pytest.approx(list(tables[0][name]), rel=1e-5, nan_ok=True), name


def test_other_labels_change_only_what_depends_on_labels() -> None:
    own = rows(LAST, *BARE)
    other = rows(LAST, *BARE, "--labels", SAMPLES / "digits-noisy" / "labels.csv")
    # The root of Λ begins with the observed class: another root of the same matrix, rounded elsewhere.
    assert other["trace_true"][0] == pytest.approx(own["trace_true"][0], rel=1e-7)
    assert other["trace_empirical"][0] != own["trace_empirical"][0]


def test_parameters_can_be_chosen() -> None:
    everything, head = rows(FIRST, *BARE), rows(FIRST, *BARE, "--include", "5.*")
    weights = rows(FIRST, *BARE, "--include", "5.*", "--exclude", "*.bias")
    assert everything["parameters"][0] > head["parameters"][0] == weights["parameters"][0] + 10
    assert everything["trace_true"][0] > head["trace_true"][0] > weights["trace_true"][0]


def test_examples_can_be_chosen() -> None:
    train = rows(FIRST, *BARE)
    assert rows(FIRST, *BARE, "--seed", 1)["loss"][0] != train["loss"][0]
    result = analyze(FIRST, "--split", "test", "--limit", "all", "--eigenvalues", 0)
    assert "all 397 examples of digits test" in result.stderr
    assert table(result.stdout)["examples"][0] == 397


def test_estimators_agree_within_their_errors_and_say_what_they_are() -> None:
    exact = rows(FIRST, *BARE, "--estimator", "exact")
    assert exact["trace_true_estimator_se"][0] == 0
    for words, name in ((["deflated"], "deflated k="), (["sampled", "--samples", "8"], "sampled S=8")):
        found = rows(FIRST, *BARE, "--estimator", *words)
        assert found["trace_estimator"][0].startswith(name)
        error = found["trace_true_estimator_se"][0]
        assert 0 < abs(found["trace_true"][0] - exact["trace_true"][0]) <= 4 * error
        assert found["trace_empirical"][0] == pytest.approx(exact["trace_empirical"][0], rel=1e-5)
    single = rows(FIRST, *BARE, "--estimator", "sampled", "--samples", "1")
    assert abs(single["trace_true"][0] - exact["trace_true"][0]) <= 4 * single["trace_true_estimator_se"][0]
    tight = rows(FIRST, *BARE, "--estimator", "deflated", "--target-error", "0.0005")
    assert tight["trace_true_estimator_se"][0] <= 0.0005 * exact["trace_true"][0]


@pytest.mark.parametrize("text", ["0", "-1", "x", "nan", "inf"])
def test_a_target_error_must_be_positive(text: str) -> None:
    assert "type a positive number" in fisher("analyze", FIRST, "--target-error", text, code=2).stderr


def test_precision_likelihood_and_no_eigenvalues() -> None:
    single, double = rows(FIRST, *BARE), rows(FIRST, *BARE, "--dtype", "float64")
    assert list(single) == COLUMNS + LATER_COLUMNS
    assert double["trace_true"][0] == pytest.approx(single["trace_true"][0], rel=1e-4)
    assert double["trace_true"][0] != single["trace_true"][0]
    assert rows(FIRST, *BARE, "--likelihood", "softmax").equals(single)
    assert rows(FIRST, *BARE, "--likelihood", "sigmoid")["trace_true"][0] > single["trace_true"][0]


def test_quiet_says_nothing() -> None:
    assert analyze(FIRST, *BARE, "-o", "r.csv", "--quiet").output == ""


def test_the_convolutional_samples_work_too() -> None:
    found = rows(SAMPLES / "digits-cnn" / "step_00440.pt", *BARE)
    assert list(found["architecture"]) == ["digits-cnn"]
    assert list(found["status"]) == ["ok"]


def test_a_report_of_ours_is_replaced() -> None:
    for count in (1, 2):
        analyze(*(FIRST, LAST)[:count], *BARE, "-o", "r.csv")
        assert len(pd.read_csv("r.csv")) == count


# --- networks of the user ----------------------------------------------------------------------------------------

NETWORK = """
import warnings
from torch import nn

def make(width=64):
    print("the network's own words")
    warnings.warn("and its warnings")
    hidden = [nn.Linear(64, width), nn.ReLU(), nn.Linear(width, 32), nn.ReLU()]
    return nn.Sequential(nn.Flatten(), *hidden, nn.Linear(32, 10))

def broken():
    raise OSError("no weather today")

def number():
    return 3
"""


@pytest.fixture
def network(workdir: Path) -> Path:
    (workdir / "ournets").mkdir()
    (workdir / "ournets" / "small.py").write_text(NETWORK.replace("warnings.warn", "str"))
    (workdir / "net.py").write_text(NETWORK)
    return workdir / "net.py"


@pytest.mark.usefixtures("network")
def test_the_network_of_a_file_or_a_package() -> None:
    by_name = rows(FIRST, *BARE)
    result = analyze(FIRST, *BARE, "--model", "ournets.small:make")
    assert "the network's own words" in result.stderr
    by_package = table(result.stdout)
    assert by_package["trace_true"][0] == pytest.approx(by_name["trace_true"][0], rel=1e-6)
    assert by_package["architecture"][0] == "ournets.small:make"


@pytest.mark.ci
@pytest.mark.usefixtures("network")
def test_a_networks_words_and_warnings_do_not_mix_with_data() -> None:
    done = real("analyze", FIRST, *BARE, "--model", "./net.py:make")
    assert done.returncode == 0, done.stderr
    assert table(done.stdout)["architecture"][0] == "net.py:make"
    words, header, progress = done.stderr.splitlines()
    assert words == "the network's own words"
    assert header.startswith("1 checkpoint, 20 of 1400 examples")
    assert progress.startswith("1/1 step_00000.pt: true trace")


@pytest.mark.parametrize(
    ("model", "said"),
    [
        ("./none.py:make", "there is no file none.py"),
        ("nopackage.net:make", "No module named 'nopackage'"),
        ("./net.py:mak", "did you mean make?"),
        ("./net.py:broken", "OSError: no weather today"),
        ("./net.py:number", "returned int, no torch.nn.Module"),
        ("resnt18", "did you mean resnet18"),
    ],
)
@pytest.mark.usefixtures("network")
def test_no_network(model: str, said: str) -> None:
    result = fisher("analyze", CLEAN, *BARE, "--model", model, code=1)
    assert said in error_line(result)
    assert result.stdout == ""
    assert len(result.stderr.splitlines()) == 1


@pytest.mark.usefixtures("network")
def test_a_wrong_argument_of_the_network() -> None:
    said = error_line(fisher("analyze", CLEAN, *BARE, "--model", "./net.py:number", "--model-arg", "depth=3", code=1))
    assert "unexpected keyword argument 'depth'" in said
    assert "--model-arg" in said


# --- bad checkpoints ---------------------------------------------------------------------------------------------


def test_folders_without_checkpoints(workdir: Path) -> None:
    (workdir / "empty").mkdir()
    assert "empty: no checkpoint files inside (.bin" in error_line(fisher("analyze", "empty", code=1))
    assert "did you mean empty?" in error_line(fisher("analyze", "emty", code=1))
    assert "no file matches this pattern" in error_line(fisher("analyze", "*.pt", code=1))


def test_a_bad_file_among_good_ones_is_a_row(workdir: Path) -> None:
    shutil.copy(FIRST, workdir / "a.pt")
    (workdir / "b.pt").write_text("This is a note about the run.\n" * 10)
    (workdir / "c.pt").write_bytes(FIRST.read_bytes()[:5000])
    torch.save({"state_dict": Bomb()}, workdir / "d.pt")
    with_nan(workdir / "e.pt", MIDDLE)
    shutil.copy(LAST, workdir / "f.pt")
    result = analyze(workdir, *BARE, "-o", "r.csv", code=3)
    found = pd.read_csv("r.csv", keep_default_na=False).set_index("checkpoint")
    assert dict(found["status"]) == {
        "a.pt": "ok",
        "b.pt": "rejected",
        "c.pt": "rejected",
        "d.pt": "rejected",
        "e.pt": "failed",
        "f.pt": "ok",
    }
    assert "truncated or damaged" in found["error"]["c.pt"]
    assert "asks to run posix.mkdir, which is never done" in found["error"]["d.pt"]
    assert "NaN or infinite weights in 3.weight" in found["error"]["e.pt"]
    assert not Path("canary").exists()
    said = result.stderr.splitlines()
    for name in "bcde":
        assert sum(f" {name}.pt: " in line for line in said) == 1
    assert "error:" not in result.stderr
    shown = analyze(workdir, *BARE, "--format", "table", code=3).stdout
    assert "failed: e.pt: NaN or infinite weights in 3.weight" in shown


@pytest.mark.parametrize("kind", ["text", "truncated", "bomb", "nan"])
def test_a_bad_file_alone(kind: str, workdir: Path) -> None:
    path = workdir / "only.pt"
    if kind == "text":
        path.write_text("This is a note about the run.\n" * 10)
    elif kind == "truncated":
        path.write_bytes(FIRST.read_bytes()[:5000])
    elif kind == "bomb":
        torch.save(Bomb(), path)
    else:
        with_nan(path)
    result = fisher("analyze", path, *BARE, "-o", "r.csv", code=1)
    assert error_line(result).startswith("only.pt: ")
    assert len(result.stderr.splitlines()) == 3
    assert result.stderr.splitlines()[1] == "table: r.csv"
    (row,) = pd.read_csv("r.csv").to_dict("records")
    assert row["status"] == ("failed" if kind == "nan" else "rejected")
    assert error_line(result) == f"only.pt: {row['error']}"
    assert not Path("canary").exists()


def test_files_of_other_suffixes_are_named_as_passed_over(workdir: Path) -> None:
    shutil.copy(FIRST, workdir / "a.pt")
    beside = (
        "a.t7",
        "b.t7",
        "c.T7",
        "d.pytorch_state",
        "notes.txt",
        "log.csv",
        "events.out.tfevents.1.host.0",
        ".x.t7",
    )
    for name in beside:
        (workdir / name).write_bytes(b"")
    said = "not looked at: 1 file .pytorch_state, 3 files .t7; name a file to have it read"
    assert said in analyze(workdir, *BARE).stderr.splitlines()
    assert said in fisher("inspect", workdir).stderr.splitlines()
    assert "not looked at" not in fisher("inspect", workdir / "a.pt").stderr
    (workdir / "a.pt").unlink()
    assert error_line(fisher("analyze", workdir, code=1)).endswith(
        "; not looked at: 1 file .pytorch_state, 3 files .t7; name one to have it read"
    )


def test_a_run_without_results_is_in_no_way_of_the_one_that_was_meant(workdir: Path) -> None:
    """Its table has no numbers, and its journal no row: neither is lost when the command is corrected."""
    (workdir / "net.py").write_text("from torch import nn\n\n\ndef make():\n    return nn.Linear(3, 2)\n")
    assert analyze(FIRST, *BARE, "--model", "net.py:make", "-o", "r.csv", code=1).stderr
    assert pd.read_csv("r.csv")["status"].tolist() == ["rejected"]
    analyze(FIRST, *BARE, "-o", "r.csv")
    assert pd.read_csv("r.csv")["status"].tolist() == ["ok"]
    assert "other settings" in error_line(analyze(FIRST, *BARE, "--limit", 7, "-o", "r.csv", code=1))


def test_a_run_without_results_leaves_an_earlier_report_alone() -> None:
    analyze(FIRST, *BARE, "-o", "r.csv")
    before = Path("r.csv").read_bytes()
    error_line(fisher("analyze", FIRST, *BARE, "-o", "r.csv", "--state-key", "nope", code=1))
    assert Path("r.csv").read_bytes() == before


@pytest.mark.parametrize("form", ["table", "json"])
def test_all_nan(form: str, workdir: Path) -> None:
    for name in ("a.pt", "b.pt"):
        with_nan(workdir / name)
    result = fisher("analyze", workdir, *BARE, "--format", form, code=1)
    said = error_line(result)
    assert said == (
        "none of the 2 checkpoints could be analysed: NaN or infinite weights in 3.weight: training had diverged here"
    )
    if form == "json":
        assert [row["status"] for row in json.loads(result.stdout)] == ["failed"] * 2
    else:
        assert result.stdout == ""


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--state-key", "nope"), "no weights under --state-key nope; weights are under state_dict"),
        (("--model", "resnet18"), "102 missing: conv1.weight (64, 3, 7, 7)"),
        (("--model", "resnet18"), "6 unexpected: 1.weight (64, 64), 1.bias (64)"),
        (("--model", "digits-cnn"), "check --model"),
    ],
)
def test_one_reason_for_all_is_one_line(words: Sequence[str], said: str) -> None:
    result = fisher("analyze", CLEAN, *BARE, *words, code=1)
    line = error_line(result)
    assert line.startswith("none of the 14 checkpoints could be analysed: ")
    assert said in line
    assert len(result.stderr.splitlines()) == 2
    assert len(result.stdout.splitlines()) == 15  # the rows are data all the same


def test_different_reasons_are_all_said(workdir: Path) -> None:
    with_nan(workdir / "a.pt")
    (workdir / "b.pt").write_text("This is a note about the run.\n" * 10)
    result = fisher("analyze", workdir, *BARE, code=1)
    assert error_line(result) == "none of the 2 checkpoints could be analysed: the lines above say why"
    assert result.stderr.count("NaN") == 1, "each reason is said once"
    assert result.stderr.splitlines()[1].startswith("1/2 a.pt: failed: NaN")
    assert result.stderr.splitlines()[2].startswith("2/2 b.pt: rejected: ")


def test_held_back_failures_are_said_once_something_works(workdir: Path) -> None:
    for name in ("a.pt", "b.pt"):
        with_nan(workdir / name)
    shutil.copy(LAST, workdir / "step_9.pt")
    said = analyze(workdir / "a.pt", workdir / "b.pt", workdir / "step_9.pt", *BARE, code=3).stderr.splitlines()
    assert [line.split(":")[0] for line in said[1:]] == ["1/3 a.pt", "2/3 b.pt", "3/3 step_9.pt"]


def test_any_exception_of_a_network_is_a_row(workdir: Path) -> None:
    (workdir / "odd.py").write_text(
        "from torch import nn\n"
        "class Odd(nn.Module):\n"
        "    def __init__(self):\n"
        "        super().__init__()\n"
        "        self.layer = nn.Linear(64, 10)\n"
        "    def forward(self, x):\n"
        "        raise KeyError('mask')\n"
    )
    torch.save({"layer.weight": torch.zeros(10, 64), "layer.bias": torch.zeros(10)}, workdir / "odd.pt")
    said = error_line(fisher("analyze", "odd.pt", *BARE, "--model", "./odd.py:Odd", code=1))
    assert said.startswith("odd.pt: KeyError: 'mask'")
    debugged = real("analyze", "odd.pt", *BARE, "--model", "./odd.py:Odd", "--debug")
    assert "Traceback" in debugged.stderr
    assert "raise KeyError('mask')" in debugged.stderr


# --- bad data ----------------------------------------------------------------------------------------------------


@pytest.fixture
def images(workdir: Path) -> str:
    for name in "ab":
        (workdir / "images" / name).mkdir(parents=True)
        Image.new("RGB", (16, 16), (90, 20, 200)).save(workdir / "images" / name / "one.png")
    return "folder:images"


def test_images_of_the_wrong_shape(images: str) -> None:
    result = fisher("analyze", CLEAN, "--data", images, "--normalize", "none", "--eigenvalues", 0, code=1)
    line = error_line(result)
    assert "the network does not accept inputs of shape (3, 16, 16)" in line
    assert "check --model and --data" in line
    assert "2 examples of folder:images, not normalised" in result.stderr
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fisher_cli.run.row, "measure", lambda *_, **__: Measurement(checkpoint="", status=Status.OK))
        analyze(FIRST, "--data", f"folder:{Path('images').absolute()}", "--normalize", "none", "-o", "r.csv")
    record = json.loads(Path("r.fisher/record.json").read_text())
    assert record["data"]["name"] == record["settings"]["data"] == "folder:images"
    assert "type --normalize with one of" in error_line(fisher("analyze", FIRST, "--data", images, code=1))


@pytest.mark.parametrize(
    ("classes", "said"), [(7, "the network has 7 outputs"), (12, "12 outputs and the data 10 cla")]
)
def test_another_number_of_classes(classes: int, said: str, workdir: Path) -> None:
    def cut(weights: dict[str, torch.Tensor]) -> None:
        for name in ("5.weight", "5.bias"):
            weights[name] = torch.zeros(classes, *weights[name].shape[1:])

    altered(workdir / "c.pt", cut)
    assert said in error_line(fisher("analyze", "c.pt", *BARE, "--data", "digits", code=1))


def test_labels_that_cannot_be(workdir: Path) -> None:
    (workdir / "labels.csv").write_text("index,label\n" + "".join(f"{i},10\n" for i in range(1400)))
    said = error_line(fisher("analyze", CLEAN, *BARE, "--labels", "labels.csv", code=1))
    assert "labels run from 10 to 10, the network has 10 outputs" in said
    assert "nolabels.csv: there is no such file" in error_line(
        fisher("analyze", FIRST, "--labels", "nolabels.csv", code=1)
    )


def test_datasets_that_are_not_there() -> None:
    said = error_line(fisher("analyze", FIRST, "--data", "cifar10", code=1))
    assert "--download" in said
    assert "--data-dir" in said
    assert "did you mean cifar10, cifar100?" in error_line(fisher("analyze", FIRST, "--data", "cifr10", code=1))
    assert "there are train, test" in error_line(fisher("analyze", FIRST, "--split", "validation", code=2))


# --- bad words ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--limit", "0"), "--limit 0: type a positive whole number, or all"),
        (("--limit", "x"), "--limit x: type a positive whole number, or all"),
        (("--limit", "²"), "--limit ²: type a positive whole number, or all"),
        (("-b", "0"), "--batch-size 0: type a positive whole number, or auto"),
        (("--eigenvalues", "-1"), "--eigenvalues -1: type a positive whole number, or 0 for none"),
        (("--eigenvalues", "x"), "valid integer"),
        (("--seed", "-1"), "--seed -1"),
        (("--model-arg", "foo"), "--model-arg foo: type KEY=VALUE"),
        (("--device", "tpu"), "unknown device 'tpu': use auto, cpu, cuda"),
        (("--device", "mps"), "device 'mps' is not supported"),
        (("--device", "cuda:77"), "device 'cuda:77' is not here"),
        (("--format", "table", "-o", "-"), "-o - writes rows"),
        (("--format", "excel"), "'excel' is not one of 'table', 'csv'"),
        (("--estimator", "best"), "'best' is not one of"),
        (("--frobnicate",), "no such option: --frobnicate"),
        (("--limt", "3"), "--limit"),
        (("--include", "nothing.*"), "--include and --exclude leave none of the 6 parameters"),
        (("--normalize", "cifar11"), "did you mean cifar10"),
        (("-o", "report"), "for instance -o report.csv"),
        (("-o", "r.csv", "--format", "json"), "contradicts --format json"),
        (("-o", "."), "it is a folder: type -o table.csv"),
        (("-o", "/dev/full"), "it is not a regular file"),
    ],
)
def test_words_that_do_not_fit(words: Sequence[str], said: str) -> None:
    result = fisher("analyze", FIRST, *words, code=2)
    assert said in error_line(result)
    assert result.stdout == ""


def test_outputs_that_cannot_be(workdir: Path) -> None:
    assert "mkdir -p none" in error_line(fisher("analyze", FIRST, "-o", "none/r.csv", code=1))
    (workdir / "folder.csv").mkdir()
    assert "it is a folder" in error_line(fisher("analyze", FIRST, "-o", "folder.csv", code=1))
    Path("mine.csv").write_text("a,b\n")
    assert "--force" in error_line(fisher("analyze", FIRST, *BARE, "-o", "mine.csv", code=1))
    assert Path("mine.csv").read_text() == "a,b\n"
    analyze(FIRST, *BARE, "-o", "mine.csv", "--force")
    assert len(pd.read_csv("mine.csv")) == 1
    said = error_line(fisher("analyze", FIRST, *BARE, "-o", "mine.tsv", code=1))
    assert said.startswith("mine.fisher/record.json belongs to the table mine.csv, mine.layers.csv")


def test_a_checkpoint_is_never_overwritten(workdir: Path) -> None:
    shutil.copy(FIRST, workdir / "a.csv")
    before = (workdir / "a.csv").read_bytes()
    said = error_line(fisher("analyze", "a.csv", *BARE, "-o", "a.csv", "--force", code=1))
    assert "is one of the checkpoints of this run" in said
    assert (workdir / "a.csv").read_bytes() == before


def test_the_commands_introduce_themselves() -> None:
    assert fisher("--version").stdout == f"fisher {fisher_cli.__version__}\n"
    for words in ("--help", "-h"):
        assert "Usage: fisher [OPTIONS] COMMAND" in fisher(words).stdout
    assert "did you mean 'analyze'? see fisher --help" in error_line(fisher("analyse", CLEAN, code=2)).lower()


def test_the_help_fits_eighty_columns_and_shows_every_default() -> None:
    shown = real("analyze", "--help-all", env={**os.environ, "TERMINAL_WIDTH": "80"}).stdout
    assert max(map(len, shown.splitlines())) <= 80
    for text in ("./data", "train, if it", "the dataset's con", "read from the checkpoint", "1000", "table on a term"):
        assert f"[default: {text}" in shown.replace("(", "") or f"[default: ({text}" in shown, text


def test_names_are_listed() -> None:
    assert {"digits-mlp", "digits-cnn", "resnet18"} <= set(fisher("models").stdout.splitlines())
    lines = fisher("datasets").stdout.splitlines()
    assert {"digits", "cifar10", "mnist", "imagenet"} <= {line.split(" ")[0] for line in lines}
    assert next(line for line in lines if line.startswith("svhn")).split("  ")[-1].strip() == "scipy"
    assert all(len(line) <= 120 for line in lines)
    assert any(line.startswith("hf:NAME") for line in lines)


def test_debug_shows_where(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("logging.basicConfig", lambda **_: None)
    monkeypatch.setattr(logging.getLogger("fisher_cli"), "level", logging.WARNING)  # and back afterwards
    for words in (["analyze", FIRST, "--debug"], ["--debug", "analyze", FIRST]):
        with pytest.raises(DataError):
            fisher(*words, "--data", "cifr10")


def test_a_defect_of_ours_is_one_line_too(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> None:
        msg = "strange"
        raise ZeroDivisionError(msg)

    monkeypatch.setattr(fisher_cli.run.preparation, "find_checkpoints", lambda *_, **__: broken())
    assert "unexpected ZeroDivisionError: strange; add --debug" in error_line(fisher("analyze", FIRST, code=1))


# --- processes ---------------------------------------------------------------------------------------------------


def started(*words: object) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [FISHER, *map(str, words)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, bufsize=1
    )


# A network that goes forward forty times, more than one row takes, and then waits until it is stopped.
STOPPING = """
import time
from fisher_cli.inputs.networks.digits_networks import digits_mlp

def make():
    network, calls = digits_mlp(), []
    def wait(*_):
        calls.append(1)
        while len(calls) >= 40:
            open("waiting", "w").close()
            time.sleep(0.05)
    network.register_forward_hook(wait)
    return network
"""


def test_rows_appear_one_by_one() -> None:
    Path("slow.py").write_text(STOPPING)
    with started("analyze", CLEAN, *BARE, "--model", "./slow.py:make") as process:
        until(lambda: Path("waiting").exists() or process.poll() is not None)
        process.kill()
        lines = process.communicate(timeout=PATIENCE)[0].splitlines()
    assert lines[0].startswith("run,checkpoint,order,step")
    assert lines[1].startswith("digits-clean,step_00000.pt,0,0")
    assert len(lines) < 15


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_an_interrupted_run_keeps_its_rows(number: signal.Signals, code: int) -> None:
    Path("slow.py").write_text(STOPPING)
    with started("analyze", CLEAN, *BARE, "-o", "r.csv", "--model", "./slow.py:make") as process:
        until(lambda: Path("waiting").exists() or process.poll() is not None)
        process.send_signal(number)
        out, err = process.communicate(timeout=PATIENCE)
    assert process.returncode == code, err
    assert out == ""
    assert "Traceback" not in err
    found = pd.read_csv("r.csv")
    assert 1 <= len(found) < 14
    assert set(found["status"]) == {"ok"}
    assert err.splitlines()[-1] == (
        f"interrupted: {len(found)} of 14 checkpoints are in r.csv; the same command continues from there"
    )


def test_an_interruption_without_a_file_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(fisher_cli.run.row, "measure", interrupted)
    result = fisher("analyze", CLEAN, *BARE, code=130)
    assert result.stderr.splitlines()[-1] == "interrupted: 0 of 14 checkpoints were finished"


def test_an_error_in_the_middle_keeps_the_finished_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    measure, calls = fisher_cli.run.row.measure, []

    def once(*words: object, **options: object) -> object:
        calls.append(1)
        if len(calls) > 1:
            raise UsageError("no more")  # noqa: EM101, TRY003
        return measure(*words, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(fisher_cli.run.row, "measure", once)
    result = fisher("analyze", CLEAN, *BARE, "-o", "r.csv", code=2)
    assert error_line(result) == "no more"
    assert "stopped: 1 of 14 checkpoints are in r.csv" in result.stderr
    assert len(pd.read_csv("r.csv")) == 1


def shell(command: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PATH": f"{FISHER.parent}:{os.environ['PATH']}", "CLEAN": str(CLEAN)}
    words = ["bash", "-o", "pipefail", "-c", command]
    return subprocess.run(words, env=environment, capture_output=True, text=True, timeout=PATIENCE, check=False)


def test_a_reader_that_has_seen_enough() -> None:
    done = shell("fisher analyze $CLEAN --limit 20 --eigenvalues 0 | head -n 2")
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.splitlines()) == 2
    assert len(done.stderr.splitlines()) <= 2
    assert "Exception" not in done.stderr
    assert "error" not in done.stderr


@pytest.mark.ci
def test_closed_and_full_outputs() -> None:
    done = shell("fisher analyze $CLEAN >&-")
    assert done.returncode == 1
    assert done.stderr == "error: standard output is closed: write the table to a file with -o FILE\n"
    done = shell("fisher analyze $CLEAN/step_00000.pt --limit 20 --eigenvalues 0 > /dev/full")
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1] == "error: cannot write to standard output: No space left on device"
    done = shell("fisher --help > /dev/full")
    assert done.returncode == 1
    assert done.stderr == "error: cannot write to standard output: No space left on device\n"
    done = shell("fisher analyze $CLEAN/step_00000.pt --limit 20 --eigenvalues 0 --quiet -o r.csv >&- 2>&-")
    assert done.returncode == 0
    assert len(pd.read_csv("r.csv")) == 1
