"""`fisher examples` and `--per-example`: rows against the oracle, AUROC against scikit-learn, a million rows, words."""

import io
import json
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
import torch
from rich.cells import cell_len
from sklearn.metrics import roc_auc_score
from torch import Tensor

from fisher_cli import analyze
from fisher_cli.curvature.traces.example_groups import auroc, concentration, midranks, ratio_of_groups
from fisher_cli.curvature.traces.traces import sweep
from fisher_cli.inputs.networks.digits_networks import digits_mlp
from fisher_cli.reports.examples import memorisation
from fisher_cli.results import Measurement
from fisher_cli.run.per_example import with_summary, without_examples
from fisher_cli.storage.readers import read_table
from fisher_cli.tables.build import frame
from fisher_cli.tables.registry import EXAMPLES
from fisher_cli.tables.rows import example_rows
from tests.cases import case_of
from tests.command import fisher
from tests.conftest import problem_of
from tests.loading import load_examples
from tests.reference import reference

pytestmark = pytest.mark.usefixtures("workdir")

SAMPLES = Path(__file__).parents[2] / "sample_checkpoints"
NOISY, LABELS = SAMPLES / "digits-noisy", SAMPLES / "digits-noisy" / "labels.csv"
EARLY, LAST = NOISY / "step_00704.pt", NOISY / "step_05280.pt"


def measured(path: Path = LAST, labels: Path | None = LABELS, limit: int | None = None, **words: object) -> Measurement:
    return analyze(path, labels=labels, limit=limit, eigenvalues=0, **words).measurements[0]


def test_every_row_is_that_of_the_oracle() -> None:
    found = pd.read_csv(
        io.StringIO(fisher("examples", LAST, "--limit", 12, "--dtype", "float64", "--include", "5.*").stdout)
    )
    network = digits_mlp()
    network.load_state_dict(torch.load(LAST, weights_only=True)["state_dict"])
    examples = load_examples("digits", limit=12)
    inputs, labels = examples.batch(0, 12)
    for name, parameter in network.named_parameters():
        parameter.requires_grad_(name.startswith("5."))
    expected = reference(network, inputs, labels)
    true, empirical = expected.true_terms.sum(1), expected.empirical_terms.sum(1)
    p = torch.softmax(network.double().eval()(inputs.double()), 1).detach()
    assert list(found.columns) == [column.name for column in EXAMPLES.columns]
    assert list(found["index"]) == examples.indices.tolist()
    assert list(found["label"]) == list(found["label_name"]) == labels.tolist()
    assert list(found["predicted"]) == p.argmax(1).tolist()
    assert list(found["correct"]) == (p.argmax(1) == labels).double().tolist()
    assert list(found["loss"]) == pytest.approx((-p[range(12), labels].log()).tolist(), rel=1e-9)
    assert list(found["probability"]) == pytest.approx(p[range(12), labels].tolist(), rel=1e-9)
    assert list(found["entropy"]) == pytest.approx((-(p * p.log()).sum(1)).tolist(), rel=1e-9)
    assert list(found["trace_true"]) == pytest.approx(true.tolist(), rel=1e-9)
    assert list(found["trace_empirical"]) == pytest.approx(empirical.tolist(), rel=1e-9)
    assert list(found["share"]) == pytest.approx((true / true.sum()).tolist(), rel=1e-9)
    assert list(found["rank"]) == [1 + int((true > each).sum()) for each in true]
    assert found["noisy"].isna().all()


@pytest.mark.parametrize(
    ("name", "has_classes"),
    [("mlp", True), ("one logit", True), ("many labels", False), ("regression", False), ("one-hot regression", True)],
)
def test_what_a_likelihood_has_no_classes_for_stays_empty(name: str, has_classes: bool) -> None:
    case = case_of(name)
    found = sweep(problem_of(case)).per_example
    model, inputs, labels = case.make()
    outputs = model(inputs).detach()
    assert (found.labels is not None) == (found.predicted is not None) == has_classes
    if has_classes:
        assert list(found.labels or ()) == labels.tolist()
        classes = (outputs[:, 0] > 0).long() if outputs.shape[1] == 1 else outputs.argmax(1)
        assert list(found.predicted or ()) == classes.tolist()
        assert list(found.correct or ()) == (classes == labels).double().tolist()
    assert found.is_probability == (case.likelihood != "gaussian")


@pytest.mark.parametrize("levels", [3, 40, 10**9])
def test_auroc_is_that_of_scikit_learn_with_ties(levels: int) -> None:
    generator = torch.Generator().manual_seed(levels)
    for size in (2, 3, 50, 400):
        scores = torch.randint(levels, (size,), generator=generator).double()
        positive = torch.rand(size, generator=generator) < 0.3
        positive[0], positive[1] = True, False
        found = auroc(scores, positive)
        assert found is not None
        assert found.value == pytest.approx(roc_auc_score(positive, scores), rel=1e-12)
    assert midranks(torch.tensor([3.0, 1.0, 3.0, 2.0])).tolist() == [3.5, 1.0, 3.5, 2.0]
    assert auroc(scores, torch.zeros(400, dtype=torch.bool)) is None
    alone = auroc(torch.tensor([1.0, 0.0, 0.5]), torch.tensor([True, False, False]))
    assert alone is not None
    assert (alone.value, alone.standard_error) == (1.0, None)


def test_delongs_error_is_its_definition_and_the_spread_over_data_sets() -> None:
    generator = torch.Generator().manual_seed(0)
    positive = torch.arange(120) < 40
    values, claimed = [], []
    for _ in range(1500):
        scores = (torch.randn(120, generator=generator) + positive).mul(4).round()  # ties
        found = auroc(scores, positive)
        assert found is not None
        assert found.standard_error is not None
        values.append(found.value)
        claimed.append(found.standard_error)
    wins = (scores[:40, None] > scores[None, 40:]).double() + 0.5 * (scores[:40, None] == scores[None, 40:]).double()
    by_hand = float(wins.mean(1).var()) / 40 + float(wins.mean(0).var()) / 80
    assert claimed[-1] ** 2 == pytest.approx(by_hand, rel=1e-12)
    mean_square = float(torch.tensor(claimed).square().mean())
    assert float(torch.tensor(values).double().var()) == pytest.approx(mean_square, rel=0.1)


def test_the_interval_of_the_ratio_covers_what_it_says() -> None:
    """Data sets drawn with replacement from the terms of the sample run, heavy tails and all."""
    found = measured()
    assert found.trace is not None
    terms, noisy = torch.tensor(found.trace.per_example_true, dtype=torch.float64), noisy_of(found)
    truth = float(terms[noisy].mean() / terms[~noisy].mean())
    generator, inside = torch.Generator().manual_seed(1), 0
    for _ in range(1000):
        drawn = torch.randint(len(terms), (len(terms),), generator=generator)
        ratio = ratio_of_groups(terms[drawn][noisy[drawn]], terms[drawn][~noisy[drawn]])
        assert ratio is not None
        inside += ratio.low <= truth <= ratio.high
    assert 929 <= inside <= 971


def noisy_of(measurement: Measurement) -> Tensor:
    assert measurement.per_example is not None
    return torch.tensor(list(measurement.per_example.noisy or ()), dtype=torch.bool)


def test_groups_add_up_and_their_means_are_those_of_their_rows() -> None:
    found = with_summary(measured())
    table, summary = frame(EXAMPLES, [found]), found.example_summary
    assert summary is not None
    assert summary.noise is not None
    assert sum(group.share or 0 for group in summary.classes) == pytest.approx(1, abs=1e-12)
    assert sum(group.examples for group in summary.classes) == 1400
    assert (summary.noise.noisy.share or 0) + (summary.noise.clean.share or 0) == pytest.approx(1, abs=1e-12)
    for group, rows in [
        (summary.classes[3], table[table["label"] == 3]),
        (summary.noise.noisy, table[table["noisy"] == 1]),
        (summary.noise.clean, table[table["noisy"] == 0]),
    ]:
        assert group.examples == len(rows)
        for name in ("trace_true", "trace_empirical", "loss"):
            assert getattr(group, name).value == pytest.approx(rows[name].mean(), rel=1e-12)
            assert getattr(group, name).standard_error == pytest.approx(rows[name].sem(), rel=1e-9)
        assert group.accuracy is not None
        assert group.accuracy.value == pytest.approx(rows["correct"].mean())
    ordered = table["share"].sort_values(ascending=False)
    assert summary.concentration[0].share == pytest.approx(ordered[:14].sum())
    assert summary.concentration[1].share == pytest.approx(ordered[:140].sum())
    assert [row.rank for row in summary.top] == list(range(1, 11))
    assert summary.top[0].index == table.loc[table["rank"] == 1, "index"].item()
    assert concentration(torch.zeros(5), 0.1) is None


def test_on_the_noisy_run_the_verdict_is_memorising() -> None:
    run = [NOISY / f"step_{step:05d}.pt" for step in (0, 88, 1760, 5280)]
    result = fisher("examples", *run, "--labels", LABELS, "--limit", "all", "--format", "table", "-o", "run.csv")
    words = " ".join(result.stdout.split())
    record = json.loads(Path("run.examples.fisher/record.json").read_text())
    said = record["checkpoints"][-1]["examples"]
    ratio = said["noisy_to_clean"]
    assert ratio["value"] > 1.5
    assert ratio["low"] > 1.5
    assert f"The noisy examples carry {ratio['value']:.2f} times the trace of the clean ones at the last" in words
    assert "memorising; 50% of their labels are predicted." in words
    table = read_table(Path("run.examples.csv"))
    last = table[table["order"] == 3]
    for name in ("trace_true", "trace_empirical", "loss"):
        truth = roc_auc_score(last["noisy"].astype(int), last[name])
        assert said["auroc"][name]["value"] == pytest.approx(truth, rel=1e-12)
        assert f"{truth:.3f} ± {said['auroc'][name]['se']:.3f}" in words
    assert said["auroc"]["trace_true"]["value"] > 0.7
    ratios = [each["examples"]["noisy_to_clean"]["value"] for each in record["checkpoints"]]
    assert ratios[-1] == max(ratios)
    assert max(abs(each - 1) for each in ratios[:2]) < 0.05
    groups = read_table(Path("run.groups.csv"))
    noisy = groups[(groups["order"] == 3) & (groups["group"] == "noisy")]
    assert noisy["trace_true"].item() == pytest.approx(last[last["noisy"] == 1]["trace_true"].mean())
    assert (groups.groupby(["order", "grouping"])["share"].sum() - 1).abs().max() < 1e-9


def test_other_verdicts_say_what_they_rest_on() -> None:
    early = with_summary(measured(EARLY))
    assert "stand out and are not memorised yet" in memorisation([early])
    first = with_summary(measured(NOISY / "step_00000.pt"))
    assert "no clear difference" in memorisation([first])
    last = measured()
    assert last.per_example is not None
    turned = replace(last.per_example, noisy=[not each for each in last.per_example.noisy or ()])
    assert "less than the clean ones" in memorisation([with_summary(replace(last, per_example=turned))])
    unmarked = with_summary(replace(last, per_example=replace(last.per_example, noisy=None)))
    assert memorisation([unmarked]) == ""
    assert "at step_05280.pt" in memorisation([with_summary(last), replace(last, example_summary=None)])


@pytest.mark.parametrize("width", [60, 80, 100, 160])
def test_no_line_is_wider_than_the_terminal(width: int) -> None:
    words = ("examples", EARLY, LAST, "--labels", LABELS, "--limit", "all", "--format", "table", "-q")
    lines = fisher(*words, COLUMNS=str(width)).stdout.splitlines()
    assert max(map(cell_len, lines)) <= width
    assert any("noisy/clean" in line for line in lines)


def test_the_formats_hold_the_same_rows_and_carry_the_record() -> None:
    streamed = fisher("examples", LAST, "--labels", LABELS, "--limit", 40, "-q").stdout
    tables = []
    for form in ("csv", "tsv", "json", "jsonl", "parquet"):
        fisher("examples", LAST, "--labels", LABELS, "--limit", 40, "-q", "-o", f"{form}.{form}")
        tables.append(read_table(Path(f"{form}.examples.{form}")))
    assert Path("csv.examples.csv").read_text() == streamed
    for table in tables[1:]:
        pd.testing.assert_frame_equal(table, tables[0])
    assert len(tables[0]) == 40
    piped = fisher("examples", LAST, "--labels", LABELS, "--limit", 40, "-q", "--format", "json").stdout
    assert piped == Path("json.examples.json").read_text()
    assert not [path for path in Path().iterdir() if path.name.endswith(".tmp")]
    first = Path("parquet.examples.parquet").read_bytes()
    fisher("examples", LAST, "--labels", LABELS, "--limit", 40, "-q", "-o", "parquet.parquet")
    assert Path("parquet.examples.parquet").read_bytes() == first
    listed = json.loads(Path("parquet.examples.fisher/record.json").read_text())["tables"]
    assert set(listed) == {"parquet.examples.parquet", "parquet.groups.parquet"}


def test_top_gives_the_largest_of_each_checkpoint_first() -> None:
    every = pd.read_csv(io.StringIO(fisher("examples", EARLY, LAST, "--limit", 60, "-q").stdout))
    top = pd.read_csv(io.StringIO(fisher("examples", EARLY, LAST, "--limit", 60, "--top", 3, "-q").stdout))
    assert list(top["rank"]) == [1, 2, 3, 1, 2, 3]
    for order in (0, 1):
        rows = every[every["order"] == order].nlargest(3, "trace_true")
        assert list(top[top["order"] == order]["index"]) == list(rows["index"])


def test_nothing_is_said_or_kept_of_movement_which_is_not_asked(workdir: Path) -> None:
    cnn = SAMPLES / "digits-cnn"
    words = (cnn / "step_00088.pt", cnn / "step_00440.pt", "--limit", 30, "--format", "table")
    assert "kl_step" in fisher("analyze", *words, "--eigenvalues", 0).stdout
    assert "kl_step" not in fisher("examples", *words, "-o", "a.csv").stdout
    assert "kl_step" not in (workdir / "a.examples.fisher/record.json").read_text().partition('"columns"')[0]


def test_a_remark_on_a_column_stays_with_its_table() -> None:
    words = (LAST, "--limit", 5, "--seed", 1, "--format", "table")  # where the ratio is not above zero
    assert "gradient_snr" in fisher("analyze", *words).stdout
    assert "gradient_snr" not in fisher("examples", *words).stdout


def test_a_checkpoint_that_fails_is_a_row_and_leaves_the_others(workdir: Path) -> None:
    (workdir / "broken_step_9.pt").write_bytes(b"no checkpoint")
    result = fisher("examples", LAST, workdir / "broken_step_9.pt", "--limit", 5, "-q", "-o", "run.csv", code=3)
    table = read_table(Path("run.examples.csv"))
    assert list(table["status"]).count("ok") == 5
    assert list(table["status"]).count("rejected") == 1
    assert "rejected" in result.stdout or not result.stdout
    fisher("examples", workdir / "broken_step_9.pt", "-q", "-o", "none.csv", code=1)
    assert not list(Path().glob(".*"))
    assert list(read_table(Path("none.examples.csv"))["status"]) == ["rejected"]


def test_rows_that_were_finished_before_are_the_same_when_resumed(monkeypatch: pytest.MonkeyPatch) -> None:
    words = ("examples", EARLY, LAST, "--labels", LABELS, "--limit", 25, "-q", "-o", "run.csv")
    fisher(*words)
    whole = Path("run.examples.csv").read_bytes(), Path("run.groups.csv").read_bytes()
    Path("run.examples.csv").unlink()
    monkeypatch.setattr("fisher_cli.run.row.ThisProcess.measure_row", None)
    fisher(*words)
    assert (Path("run.examples.csv").read_bytes(), Path("run.groups.csv").read_bytes()) == whole


def test_analyze_writes_the_same_rows_beside_its_report() -> None:
    fisher("examples", LAST, "--labels", LABELS, "--limit", 30, "-q", "-o", "one.csv")
    words = ("analyze", LAST, "--labels", LABELS, "--limit", 30, "--eigenvalues", 0, "-q", "-o", "two.csv")
    fisher(*words, "--per-example")
    assert Path("two.examples.csv").read_bytes() == Path("one.examples.csv").read_bytes()
    record = json.loads(Path("two.fisher/record.json").read_text())
    assert set(record["tables"]) == {"two.csv", "two.layers.csv", "two.examples.csv"}
    assert record["checkpoints"][0]["examples"]["noisy_to_clean"]["value"] > 1
    fisher(*words)
    assert not Path("two.examples.csv").exists()
    Path("two.examples.csv").write_text("mine")
    assert "--force" in fisher(*words, "--per-example", code=1).stderr
    assert Path("two.examples.csv").read_text() == "mine"
    assert "add -o trend.csv" in fisher("analyze", LAST, "--limit", 5, "--per-example", code=2).stderr


def test_the_library_gives_the_same_tables() -> None:
    words = ("examples", EARLY, LAST, "--labels", LABELS, "--limit", 30, "-q", "-o", "run.csv")
    fisher(*words)
    found = analyze([EARLY, LAST], labels=LABELS, limit=30, eigenvalues=0)
    pd.testing.assert_frame_equal(found.frame("examples"), read_table(Path("run.examples.csv")))
    pd.testing.assert_frame_equal(found.frame("groups"), read_table(Path("run.groups.csv")))
    loose = analyze(digits_mlp(), data=load_examples("digits", limit=5).batch(0, 5), eigenvalues=0)
    assert list(loose.frame("examples")["index"]) == [0, 1, 2, 3, 4]


def test_only_one_checkpoint_is_held_at_a_time() -> None:
    found = without_examples(with_summary(measured(limit=20)))
    assert found.trace is not None
    assert found.per_example is None
    assert not found.trace.per_example_true
    assert not list(example_rows(found))
    assert found.example_summary is not None


# What Python, NumPy and Arrow hold at once at most, with the first chunk and with all.
GROWTH = """
import sys, tracemalloc
from array import array
from pathlib import Path
from fisher_cli.tables.build import frames
from fisher_cli.tables.registry import EXAMPLES
from fisher_cli.results import Estimate, Measurement, PerExample, Status, Trace
from fisher_cli.storage.row_files import RowFile
import pyarrow

form, count = sys.argv[1], int(sys.argv[2])
reals, classes = array("d", (i % 97 / 7 for i in range(count))), array("q", (i % 10 for i in range(count)))
examples = PerExample(loss=reals, entropy=reals, labels=classes, predicted=classes, correct=reals, indices=classes)
trace = Trace("exact", Estimate(1.0), Estimate(1.0), None, (), reals, reals)
found = Measurement(checkpoint="a", status=Status.OK, trace=trace, per_example=examples)
file = RowFile(Path(sys.argv[3]), form, EXAMPLES.columns)
tracemalloc.start()
held = []
for table in frames(EXAMPLES, found, 0):
    file.write(table)
    held.append(tracemalloc.get_traced_memory()[1] + pyarrow.total_allocated_bytes())
done = file.finish({"tool": "fisher"})
done.temporary.rename(sys.argv[3])
print(held[0], max(*held, tracemalloc.get_traced_memory()[1] + pyarrow.total_allocated_bytes()))
"""


@pytest.mark.ci
@pytest.mark.parametrize(
    ("form", "count"),
    [
        ("csv", 21_000),
        pytest.param("parquet", 25_000, marks=pytest.mark.long),
        pytest.param("csv", 1_000_000, marks=pytest.mark.long),
        pytest.param("parquet", 1_000_000, marks=pytest.mark.long),
    ],
)
def test_many_rows_take_no_more_memory_than_a_chunk_of_them(form: str, count: int, workdir: Path) -> None:
    path = workdir / f"rows.{form}"
    command = [sys.executable, "-c", GROWTH, form, str(count), str(path)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    first, most = map(int, done.stdout.split())
    assert most < 1.2 * first  # a million rows as tables would take gigabytes
    if form == "csv":
        with path.open() as file:
            assert sum(1 for _ in file) == count + 1
    else:
        import pyarrow.parquet as pq

        parquet = pq.ParquetFile(path)
        assert parquet.metadata.num_rows == count
        assert parquet.metadata.num_row_groups == count // 20_000 + (count % 20_000 > 0)
        assert parquet.read_row_group(1)["rank"].to_pylist() != parquet.read_row_group(0)["rank"].to_pylist()


def test_what_a_run_says_does_not_depend_on_a_row_per_example(tmp_path: Path) -> None:
    """Phases and the verdict are told from paired differences, which need the terms of every row."""
    run = str(Path(__file__).parents[2] / "sample_checkpoints/digits-clean")
    words = ["analyze", run, "--limit", "100", "--eigenvalues", "0", "-q", "--format", "table", "-o"]
    said = [
        fisher(*words, tmp_path / f"{name}.csv", *more).stdout
        for name, more in (("with", ["--per-example"]), ("without", []))
    ]
    assert said[0] == said[1]
    assert re.search("The true trace rises .* at step .*: a skewed bell", said[0].replace("\n", " "))
    assert read_table(tmp_path / "with.csv").equals(read_table(tmp_path / "without.csv"))
