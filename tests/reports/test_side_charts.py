"""The charts of noisy and clean examples and of both matrices, held against the tables that they are drawn of."""

import json
import math
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from fisher_cli.reports.charts import draw
from fisher_cli.reports.drawing import Chart
from fisher_cli.reports.reported_run import read_run
from fisher_cli.results import UNSETTLED_NOTE
from fisher_cli.storage.readers import read_table
from fisher_cli.storage.report_folder import record_path
from tests.command import fisher
from tests.report_files import SAMPLES, computed, made

STEPS = (0, 176, 5280)


@pytest.fixture(scope="module")
def noisy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return computed(tmp_path_factory.mktemp("noisy"), "noisy", STEPS, part=0.5)


def drawn(report: Path, what: str) -> pd.DataFrame:
    """The numbers behind a chart."""
    chart = draw(what, [read_run(report)])
    assert chart is not None
    return pd.DataFrame(chart.rows, columns=chart.columns)


def auroc(noisy: np.ndarray, clean: np.ndarray) -> float:
    """How often a noisy example is above a clean one, pair by pair; ties count half."""
    difference = noisy[:, None] - clean[None, :]
    return float((difference > 0).mean() + (difference == 0).mean() / 2)


def test_noisy_and_clean_examples_are_those_of_the_table(noisy: Path) -> None:
    found, examples = drawn(noisy, "memorisation"), read_table(noisy.with_name("noisy.examples.csv"))
    assert found["checkpoint"].tolist() == [f"step {step}" for step in STEPS]
    for order, row in found.iterrows():
        part = examples[examples["order"] == order]
        marked = part["noisy"].to_numpy(dtype=bool)
        for name in ("trace_true", "trace_empirical", "loss"):
            values = part[name].to_numpy(dtype=float)
            assert row[f"auroc_{name}"] == pytest.approx(auroc(values[marked], values[~marked]))
        true = part["trace_true"].to_numpy(dtype=float)
        assert row["ratio"] == pytest.approx(true[marked].mean() / true[~marked].mean())
        assert row["low"] < row["ratio"] < row["high"]


def test_it_says_where_noisy_examples_weigh_most_and_what_tells_them(noisy: Path) -> None:
    chart, found = draw("memorisation", [read_run(noisy)]), drawn(noisy, "memorisation")
    assert chart is not None
    most = found["checkpoint"][int(found["ratio"].argmax())]
    assert f"at {most}, where it is largest (interval " in chart.finding
    assert f"the AUROC at step 5280 is {found['auroc_trace_true'].iloc[-1]:.2f} by the true term" in chart.finding


def test_a_record_that_says_something_else_draws_what_it_says_as_numbers(tmp_path: Path) -> None:
    """Anybody may have written it: what is no number is left out."""
    run = read_run(made(tmp_path / "t.csv", 3, 2))
    sides = {**run.sides, "examples": run.main[["checkpoint", "order"]]}

    def chart_of(entries: object) -> Chart | None:
        return draw("memorisation", [replace(run, sides=sides, records={"examples": {"checkpoints": entries}})])

    chart = chart_of(
        [
            {"checkpoint": "step_0.pt", "examples": {"auroc": {"loss": {"value": 0.7, "se": "x"}, "trace_true": []}}},
            {"checkpoint": "step_1.pt", "examples": "none"},
            "no entry",
            {"examples": {"auroc": {"loss": {"value": True}}}, "checkpoint": "step_2.pt"},
        ]
    )
    assert chart is not None
    found = pd.DataFrame(chart.rows, columns=chart.columns)
    assert found["auroc_loss"].fillna(-1).tolist() == [0.7, -1, -1]
    assert found[["ratio", "auroc_trace_true", "auroc_loss_se"]].isna().all(axis=None)
    for none in ([], None, [{"checkpoint": "step_0.pt", "examples": None}]):
        assert chart_of(none) is None


def test_examples_of_other_data_are_in_no_chart_of_the_run(noisy: Path, tmp_path: Path) -> None:
    """The page shows their tables apart; the chart is of what the run's own rows are of."""
    shutil.copytree(noisy.parent, tmp_path, dirs_exist_ok=True)
    files = [SAMPLES / "digits-noisy" / f"step_{step:05}.pt" for step in STEPS]
    labels = SAMPLES / "digits-noisy" / "labels.csv"
    report = tmp_path / "noisy.csv"
    fisher("examples", *files, "--labels", labels, "--limit", 20, "--force", "-q", "-o", report)
    assert draw("memorisation", [read_run(report)]) is None
    fisher("examples", *files[1:], "--labels", labels, "--limit", 32, "--force", "-q", "-o", report)
    found, before = drawn(report, "memorisation"), drawn(noisy, "memorisation")
    assert found["ratio"].isna().tolist() == [True, False, False]
    assert found["ratio"].tolist()[1:] == before["ratio"].tolist()[1:]


def test_an_analysis_of_every_example_has_the_chart_too(tmp_path: Path, noisy: Path) -> None:
    files = [SAMPLES / "digits-noisy" / f"step_{step:05}.pt" for step in STEPS]
    words = ("--labels", SAMPLES / "digits-noisy" / "labels.csv", "--limit", 32, "--eigenvalues", 0, "--per-example")
    fisher("analyze", *files, *words, "-q", "-o", tmp_path / "t.csv")
    assert drawn(tmp_path / "t.csv", "memorisation")["ratio"].tolist() == drawn(noisy, "memorisation")["ratio"].tolist()


def test_doubted_rows_are_in_no_sentence(noisy: Path) -> None:
    run = read_run(noisy)
    doubted = [*run.measurements[:-1], replace(run.measurements[-1], notes=(UNSETTLED_NOTE,))]
    for what in ("memorisation", "comparison"):
        chart = draw(what, [replace(run, measurements=tuple(doubted))])
        assert chart is not None
        assert "step 5280" not in chart.finding


def test_the_comparison_is_that_of_the_table_with_gaps_where_nothing_was_compared(noisy: Path) -> None:
    run, compared = read_run(noisy), read_table(noisy.with_name("noisy.compare.csv"))
    found = drawn(noisy, "comparison")
    for name in ("matrix_cosine", "matrix_cosine_null", "matrix_difference", "matrix_difference_null_sd"):
        assert found[name].tolist() == compared[name].tolist()
    sides = {**run.sides, "compare": compared[compared["order"] != 1]}
    chart = draw("comparison", [replace(run, sides=sides)])
    assert chart is not None
    part = pd.DataFrame(chart.rows, columns=chart.columns)
    assert part["matrix_cosine"].isna().tolist() == [False, True, False]
    below = sum(compared["matrix_cosine"] < compared["matrix_cosine_null"] - 2 * compared["matrix_cosine_null_sd"])
    whole = draw("comparison", [run])
    assert whole is not None
    assert (
        f"of 3 checkpoints it is below that by more than two standard deviations at {below}, above at" in whole.finding
    )


def test_without_such_tables_it_is_said_what_makes_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    made(Path("t.csv"), 3, 2)
    for what, command in {"memorisation": "fisher examples", "comparison": "fisher compare true-vs-empirical"}.items():
        assert f"run `{command}" in fisher("plot", "t.csv", "--what", what, code=1).stderr


def test_several_runs_share_the_panels(noisy: Path) -> None:
    record = json.loads(record_path(noisy.with_name("noisy.examples.csv")).read_text())
    assert record["checkpoints"][0]["examples"]["auroc"]
    run = read_run(noisy)
    other = replace(run, name="other")
    for what in ("memorisation", "comparison"):
        chart = draw(what, [run, other])
        assert chart is not None
        assert chart.columns[0] == "run"
        assert len(chart.rows) == 6
        assert chart.finding.count("\n") == 1
        assert not any(isinstance(cell, float) and math.isinf(cell) for row in chart.rows for cell in row)


@pytest.mark.parametrize("what", ["memorisation", "comparison"])
@pytest.mark.parametrize("count", [1, 3, 30])
def test_one_legend_names_every_run_and_covers_no_other(noisy: Path, what: str, count: int) -> None:
    run = read_run(noisy)
    runs = [run] if count == 1 else [replace(run, name=f"seed-{i:02}") for i in range(count)]
    chart = draw(what, runs)
    assert chart is not None
    chart.figure.draw_without_rendering()
    inside = [each for axes in chart.figure.axes if (each := axes.get_legend()) is not None]
    legends = [*inside, *chart.figure.legends]
    assert len(legends) == 1
    texts = [text.get_text() for text in legends[0].get_texts()]
    assert len(set(texts)) == len(texts)
    if count > 1:
        assert {text.split(":")[0] for text in texts} == {each.name for each in runs}
    if count == 30:
        assert "dashed: " in chart.note.lower(), "of many runs the legend names but one line each"
        lowest = min(axes.get_tightbbox().y0 for axes in chart.figure.axes)
        assert 0 <= legends[0].get_window_extent().y0 < legends[0].get_window_extent().y1 <= lowest
