"""Runs are compared example by example, at equal steps, peaks and ends, and few are called different by chance."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from fisher_cli import analyze
from fisher_cli.reports.run_sentences import run_sentences
from fisher_cli.results import UNSETTLED_NOTE, Estimate, Measurement, Status, Trace
from fisher_cli.storage.readers import read_table
from fisher_cli.tables.registry import RUNS
from fisher_cli.tables.run_differences import LEVEL, RunDifference, compare_runs, holm
from tests.command import fisher

SAMPLES = Path(__file__).parents[2] / "sample_checkpoints"
N = 100


def row(terms: Sequence[float], step: int | None, run: str = "a", **changes: object) -> Measurement:
    values = np.asarray(terms)
    true = Estimate(float(values.mean()), float(values.std(ddof=1)) / math.sqrt(len(values)))
    trace = Trace("exact", true, true, None, (), tuple(values.tolist()), ())
    known = {"status": Status.OK, "architecture": "mlp", "parameters": 20, "examples": len(values), "trace": trace}
    return Measurement(**({"checkpoint": f"{run}/{step}.pt", "step": step, "run": run} | known | changes))  # type: ignore[arg-type]


def without_terms(measurement: Measurement) -> Measurement:
    assert measurement.trace is not None
    return replace(measurement, trace=replace(measurement.trace, per_example_true=()))


def at(found: Sequence[RunDifference], place: str, step: int | None = None) -> RunDifference:
    [one] = [each for each in found if each.at == place and (step is None or each.step_a == step)]
    return one


@pytest.fixture
def pair() -> Mapping[str, list[Measurement]]:
    """Two bells on the same examples, whose terms go together; the second is higher at its peak, and ends sooner."""
    generator = np.random.default_rng(0)
    common = generator.gamma(1.0, 10.0, N)
    a = [row(scale * common + generator.normal(0, 0.1, N), step) for step, scale in ((0, 1), (5, 3), (9, 1))]
    b = [row(scale * common + generator.normal(0, 0.1, N), step, "b") for step, scale in ((0, 1), (3, 4), (5, 2))]
    return {"a": a, "b": b}


def test_a_difference_is_that_of_the_means_with_the_error_of_paired_terms(
    pair: Mapping[str, list[Measurement]],
) -> None:
    found = compare_runs(pair)
    assert [(each.at, each.step_a, each.step_b) for each in found] == [
        *(("step", 0, 0), ("step", 5, 5)),
        *(("peak", 5, 3), ("end", 9, 5)),
    ]
    peak = at(found, "peak")
    one, other = (np.asarray(pair[run][1].trace.per_example_true) for run in "ab")  # type: ignore[union-attr]
    expected = one - other
    assert peak.difference.value == pytest.approx(expected.mean(), rel=1e-12)
    assert peak.difference.standard_error == pytest.approx(expected.std(ddof=1) / math.sqrt(N), rel=1e-12)
    assert peak.pairing == "paired"
    assert peak.is_clear
    assert not at(found, "step", 0).is_clear
    assert at(found, "step", 5).is_clear


def test_without_terms_the_rows_count_as_of_different_examples(pair: Mapping[str, list[Measurement]]) -> None:
    alone = {run: [without_terms(each) for each in rows] for run, rows in pair.items()}
    for one, other in zip(compare_runs(alone), compare_runs(pair), strict=True):
        errors = [each.standard_error for each in (other.trace_a, other.trace_b)]
        assert one.pairing == "independent"
        assert one.difference.value == pytest.approx(other.difference.value)
        assert one.difference.standard_error == pytest.approx(math.hypot(*errors))  # type: ignore[arg-type]
        assert one.difference.standard_error > other.difference.standard_error  # type: ignore[operator]
    assert "taken as those of different examples" in " ".join(run_sentences(alone))


def test_p_values_are_corrected_as_by_holm() -> None:
    assert holm([0.01, 0.04, None, 0.03, 0.005]) == pytest.approx([0.03, 0.06, None, 0.06, 0.02])
    assert holm([0.5, 0.9]) == [1.0, 1.0]
    assert holm([]) == []
    generator = np.random.default_rng(1)
    for _ in range(50):
        values = generator.random(6).tolist()
        corrected = holm(values)
        for level in (0.05, 0.2, 0.5):  # by the definition: steps down while p₍ᵢ₎ ≤ level/(m − i)
            rejected = 0
            for i, p in enumerate(sorted(values)):
                if p > level / (len(values) - i):
                    break
                rejected += 1
            assert sum(p is not None and p <= level for p in corrected) == rejected


def test_runs_that_do_not_differ_are_seldom_called_different() -> None:
    """Of 100 pairs of noise alone few have a clear difference at any of ten steps; one that is there is found."""
    generator = np.random.default_rng(2)
    wrong = found = 0
    for _ in range(100):
        common = generator.gamma(2.0, 5.0, N)
        rows = {
            run: [row(common + generator.normal(0, 1, N), step, run) for step in range(10)] for run in ("a", "b", "c")
        }
        rows["c"][-1] = row(common + 1 + generator.normal(0, 1, N), 9, "c")
        differences = compare_runs(rows)
        wrong += any(each.is_clear for each in differences if "c" not in (each.run_a, each.run_b))
        found += any(each.is_clear for each in differences if each.at == "end" and each.run_b == "c")
    assert wrong <= 100 * LEVEL + 3 * math.sqrt(100 * LEVEL)
    assert found >= 95


def test_runs_of_different_networks_are_not_compared(pair: Mapping[str, list[Measurement]]) -> None:
    other = [replace(each, architecture="cnn", run="c") for each in pair["a"]]
    larger = [replace(each, parameters=21, run="d") for each in pair["a"]]
    found = compare_runs({**pair, "c": other, "d": larger, "e": [*pair["a"][:1], *other[1:]]})
    assert {(each.run_a, each.run_b) for each in found} == {("a", "b")}
    said = run_sentences({**pair, "c": other})
    assert said[-1] == "Not compared, since the run is of another network: c (cnn)."


def test_doubted_rows_and_rows_without_numbers_are_compared_with_none(pair: Mapping[str, list[Measurement]]) -> None:
    a = [*pair["a"][:2], replace(pair["a"][2], notes=(f"{UNSETTLED_NOTE}: one of two",))]
    b = [replace(pair["b"][0], trace=None, status=Status.FAILED), *pair["b"][1:]]
    found = compare_runs({"a": a, "b": b})
    assert [(each.at, each.step_a, each.step_b) for each in found] == [("step", 5, 5), ("peak", 5, 3), ("end", 5, 5)]


def test_rows_without_steps_are_compared_at_peaks_and_ends(pair: Mapping[str, list[Measurement]]) -> None:
    rows = {run: [replace(each, step=None) for each in found] for run, found in pair.items()}
    assert [each.at for each in compare_runs(rows)] == ["peak", "end"]


def test_a_sentence_says_what_differs(pair: Mapping[str, list[Measurement]]) -> None:
    first, how = (text.replace("\N{NO-BREAK SPACE}", " ") for text in run_sentences(pair))
    assert first.startswith("a against b: the true trace is smaller at its peak (")
    assert "is smaller at the end" in first
    assert first.endswith("differs clearly at 1 of 2 equal steps, always larger in a.")
    assert how == (
        "Errors of these differences are paired by example; clear means p < 0.05 after Holm's correction for all 4 "
        "comparisons."
    )
    assert run_sentences({"a": pair["a"]}) == []


def test_many_pairs_get_one_sentence(pair: Mapping[str, list[Measurement]]) -> None:
    said = run_sentences({f"{run}{i}": rows for run, rows in pair.items() for i in range(3)})
    assert said[0].startswith("Of 15 pairs of runs 9 differ clearly in the true trace at their peaks")


@pytest.mark.ci
def test_runs_of_one_command_are_compared_in_its_table_its_words_and_its_page(workdir: Path) -> None:
    from fisher_cli.reports.page import render_page
    from fisher_cli.reports.reported_run import read_runs

    for run, steps in (("clean", (0, 66, 1760)), ("noisy", (0, 1760)), ("cnn", (1760,))):
        (workdir / "runs" / run).mkdir(parents=True)
        for step in steps:
            name = f"step_{step:05}.pt"
            (workdir / "runs" / run / name).write_bytes((SAMPLES / f"digits-{run}" / name).read_bytes())
    words = ("analyze", "runs", "--limit", "30", "--eigenvalues", "0", "-q")
    said = " ".join(fisher(*words, "--format", "table", "-o", "all.csv").stdout.split())
    assert "clean against noisy: the true trace does not differ clearly at its peak (" in said
    assert "; is smaller at the end (" in said
    assert "Not compared, since the run is of another network: cnn (digits-cnn)" in said
    table = read_table(Path("all.runs.csv"))
    assert list(table.columns) == [column.name for column in RUNS.columns]
    assert table["at"].tolist() == ["step", "step", "peak", "end"]
    assert set(table["pairing"]) == {"paired"}
    main = read_table(Path("all.csv")).set_index("checkpoint")["trace_true"]
    assert table["difference"].iloc[-1] == main["clean/step_01760.pt"] - main["noisy/step_01760.pt"]
    page = render_page(read_runs([Path("all.csv")])).decode()
    assert "<p>clean against noisy: the true trace does not differ clearly at its peak (" in page

    for run in ("clean", "noisy"):
        fisher("analyze", f"runs/{run}", *words[2:], "-o", f"{run}.csv")
        assert not Path(f"{run}.runs.csv").exists()
    apart = [line for line in page.splitlines() if line.startswith("<p>clean against noisy")]
    of_two = render_page(read_runs([Path("clean.csv"), Path("noisy.csv")])).decode()
    assert apart[0] in of_two

    fisher("analyze", "runs/noisy", "--limit", "29", *words[4:], "-o", "other.csv")
    of_others = render_page(read_runs([Path("clean.csv"), Path("other.csv")])).decode()
    assert "Runs of different examples are not compared." in of_others
    assert "against" not in of_others.partition("The runs beside each other")[2].partition("<figure")[0]


def test_python_has_the_table_too(workdir: Path) -> None:
    for run in ("clean", "noisy"):
        (workdir / run).mkdir()
        (workdir / run / "step_00000.pt").write_bytes((SAMPLES / f"digits-{run}" / "step_00000.pt").read_bytes())
    analysis = analyze(["clean", "noisy"], limit=8, eigenvalues=0, output="r.csv")
    assert analysis.frame("runs")["at"].tolist() == ["step", "peak", "end"]
    assert analysis.table["run"].tolist() == ["clean", "noisy"]
    assert Path("r.runs.csv").exists()
