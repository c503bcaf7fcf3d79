"""`fisher compare true-vs-empirical`: tables, files, gates and errors, as a user meets them."""

import io
import json
import math
from pathlib import Path

import pandas as pd
import pytest
import torch
from torch import nn

from fisher_cli import Analysis, FisherError, compare
from fisher_cli.curvature.comparison.verdicts import verdict
from fisher_cli.reports.console import Console
from fisher_cli.results import AgainstNull, ComparisonFinding, Estimate
from fisher_cli.storage.readers import read_table
from fisher_cli.tables.registry import COMPARISON, COMPARISON_LAYERS
from tests.command import fisher

SAMPLES = Path(__file__).parents[2] / "sample_checkpoints"
CLEAN = SAMPLES / "digits-clean"
EARLY, MIDDLE, LATE = (CLEAN / f"step_{step:05d}.pt" for step in (5, 176, 1760))
COMMAND = ["compare", "true-vs-empirical"]


def run(*words: object) -> tuple[int, str, str]:
    result = fisher("compare", "true-vs-empirical", *words, code=None)
    return result.exit_code, result.stdout, result.stderr


@pytest.fixture(scope="module")
def analysis() -> Analysis:
    return compare([EARLY, MIDDLE, LATE], limit=100, eigenvalues=2, draws=2, seed=3)


def test_the_table_has_every_column_and_what_the_measurement_says(analysis: Analysis) -> None:
    table, layers = analysis.comparison, analysis.comparison_layers
    assert list(table) == [column.name for column in COMPARISON.with_eigenvalues(2).columns]
    assert list(layers) == [column.name for column in COMPARISON_LAYERS.columns]
    assert len(table) == 3
    assert len(layers) == 3 * len(analysis.measurements[0].comparison.layers)
    row, found = table.iloc[1], analysis.measurements[1].comparison
    assert row["trace_ratio"] == pytest.approx(row["trace_empirical"] / row["trace_true"])
    assert row["trace_difference"] == pytest.approx(row["trace_empirical"] - row["trace_true"])
    assert row["trace_z"] == pytest.approx((row["trace_ratio"] - 1) / row["trace_ratio_null_sd"])
    assert row["matrix_difference"] == found.difference_norm.value.value
    law_of_cosines = 1 + (row["norm_empirical"] / row["norm_true"]) ** 2
    law_of_cosines -= 2 * row["matrix_cosine"] * row["norm_empirical"] / row["norm_true"]
    assert row["matrix_difference"] == pytest.approx(math.sqrt(law_of_cosines))
    assert row["inner_product"] == pytest.approx(row["matrix_cosine"] * row["norm_true"] * row["norm_empirical"])
    assert row["damping"] == pytest.approx(1e-3 * row["eig_true_1"], rel=1e-3)
    assert row["null_draws"] == 2
    assert (row["matrix_method"], row["null_method"], row["trace_estimator"]) == ("gram", "exact", "exact")
    assert row["verdict"] == found.verdict.text
    assert table["status"].tolist() == ["ok"] * 3
    numbers = table.select_dtypes("number").drop(columns="epoch")
    assert not numbers.isna().to_numpy().any(), numbers.columns[numbers.isna().any()].tolist()
    summed = layers.groupby("order")["trace_true"].sum()
    assert summed.tolist() == pytest.approx(table["trace_true"].tolist())
    # The converged network: too few examples for a 95 % interval.
    assert table["intervals"].tolist()[-1] == "nominal"
    assert table["intervals"].tolist()[0] == "95 %"


def test_bytes_do_not_depend_on_the_run_and_hardly_on_the_batch() -> None:
    words = (MIDDLE, "--limit", 60, "--draws", 2, "--eigenvalues", 2)
    first = run(*words)
    assert first[0] == 0
    assert run(*words)[1] == first[1]
    other = compare(MIDDLE, limit=60, draws=2, eigenvalues=2, batch_size=7).comparison.iloc[0]
    whole = compare(MIDDLE, limit=60, draws=2, eigenvalues=2).comparison.iloc[0]
    for name in whole.index:
        if isinstance(whole[name], float) and not name.endswith("residual"):
            assert other[name] == pytest.approx(whole[name], rel=1e-3), name


@pytest.mark.parametrize("suffix", ["csv", "tsv", "json", "jsonl", "parquet"])
def test_files_are_named_after_the_stem_and_read_back(tmp_path: Path, suffix: str) -> None:
    code, _, stderr = run(MIDDLE, "--limit", 20, "--draws", 0, "-o", tmp_path / f"trend.{suffix}")
    assert code == 0, stderr
    names = {f"trend.compare.{suffix}", f"trend.compare.layers.{suffix}", "trend.compare.fisher"}
    assert {path.name for path in tmp_path.iterdir()} == names
    table = read_table(tmp_path / f"trend.compare.{suffix}")
    assert list(table) == [column.name for column in COMPARISON.with_eigenvalues(5).columns]
    assert table["finding"].tolist() == ["undecided"]
    assert table["null_draws"].tolist() == [0]
    assert pd.isna(table["natural_gradient_cosine_null"][0])
    record = json.loads((tmp_path / "trend.compare.fisher/record.json").read_text())
    assert record["settings"]["comparison"] == {"damping": None, "draws": 0}
    code, _, _ = run(MIDDLE, "--limit", 20, "--draws", 0, "--no-layers", "-o", tmp_path / f"trend.{suffix}")
    assert code == 0
    assert not (tmp_path / f"trend.compare.layers.{suffix}").exists()


def test_streamed_rows_have_one_header_and_an_output_of_another_is_not_replaced(tmp_path: Path) -> None:
    code, stdout, _ = run(EARLY, MIDDLE, "--limit", 20, "--draws", 0, "--format", "csv")
    assert code == 0
    lines = stdout.strip().splitlines()
    assert len(lines) == 3
    assert lines[0].startswith("run,checkpoint,order,step")
    assert [line.split(",")[2] for line in lines[1:]] == ["0", "1"]
    (tmp_path / "x.compare.csv").write_text("mine")
    code, _, stderr = run(EARLY, "-o", tmp_path / "x.csv")
    assert code == 1
    assert "--force" in stderr


def test_the_gate_names_the_checkpoints_after_writing_the_rows(tmp_path: Path) -> None:
    words = (EARLY, MIDDLE, "--limit", 60, "--draws", 0, "-o", tmp_path / "trend.csv")
    code, _, stderr = run(*words, "--fail-ratio-below", 0.7)
    assert code == 4
    assert "step_00176.pt: tr F̂/tr F = 0." in stderr
    assert "is below --fail-ratio-below 0.7" in stderr
    assert "step_00005" not in next(line for line in stderr.splitlines() if "below" in line)
    assert len(read_table(tmp_path / "trend.compare.csv")) == 2
    assert run(*words, "--fail-ratio-below", 0.1)[0] == 0
    for wrong in ("0", "nan", "x"):
        code, _, stderr = run(*words, "--fail-ratio-below", wrong)
        assert (code, "positive number" in stderr) == (2, True)


@pytest.mark.parametrize(
    ("words", "needle"),
    [(("--damping", "-1"), "--damping -1"), (("--draws", "-1"), "--draws -1"), (("--eigenvalues", "0"), "eigenvalues")],
)
def test_numbers_out_of_range_are_refused_at_once(words: tuple[str, str], needle: str) -> None:
    code, _, stderr = run(EARLY, *words)
    assert code == 2
    assert needle in stderr


def test_a_file_that_is_no_checkpoint_is_a_row(tmp_path: Path) -> None:
    (tmp_path / "step_00001.pt").write_bytes(b"nothing")
    (tmp_path / "step_00002.pt").write_bytes(MIDDLE.read_bytes())
    code, stdout, _ = run(tmp_path, "--limit", 20, "--draws", 0, "--format", "jsonl")
    rows = [json.loads(line) for line in stdout.splitlines()]
    assert code == 3
    assert [row["status"] for row in rows] == ["rejected", "ok"]
    assert rows[0]["verdict"] is None


@pytest.mark.parametrize("width", [60, 80, 100, 160, 220])
def test_the_table_fits_and_says_a_verdict_for_each(analysis: Analysis, width: int) -> None:
    out = io.StringIO()
    Console(stdout=out, stderr=io.StringIO(), width=width).comparison(analysis.measurements, "digits", layers=True)
    text = out.getvalue()
    assert max(map(len, text.replace("\u0302", "").splitlines())) <= width
    for step in (5, 176, 1760):
        assert f"\nstep {step}: " in text
    assert "F̂/F" in text
    assert "null" in text
    assert "step 1760 by parameter" in text
    if width >= 160:
        for heading in ("tr F̂", "95 % interval", "‖F̂−F‖/‖F‖", "cos nat.grad.", "top-2 space", "λ̂₁"):
            assert heading in text
        assert "no 95 % interval" in text


def test_damping_changes_the_natural_gradients_alone() -> None:
    one = compare(MIDDLE, limit=40, draws=1).measurements[0].comparison
    other = compare(MIDDLE, limit=40, draws=1, damping=1e3).measurements[0].comparison
    assert one is not None
    assert other is not None
    assert one.natural_gradient is not None
    assert other.natural_gradient is not None
    # Damped without measure both are the gradient itself.
    assert other.natural_gradient.value.value == pytest.approx(1, abs=1e-3)
    assert one.natural_gradient.value.value < 0.9
    assert (one.cosine, one.z, one.overlap) == (other.cosine, other.z, other.overlap)


def test_from_python_modules_and_tensors_are_compared() -> None:
    torch.manual_seed(0)
    x, y = torch.randn(30, 4), torch.randint(0, 3, (30,))
    found = compare(nn.Linear(4, 3), (x, y), draws=3)
    assert found.measurements[0].comparison is not None
    assert found.comparison["null_draws"].tolist() == [3]
    for words in ({"damping": 0.0}, {"draws": -1}, {"damping": math.nan}):
        with pytest.raises(FisherError, match="give a positive"):
            compare(nn.Linear(4, 3), (x, y), **words)


def test_where_the_gradients_cannot_be_held_probes_take_over_and_it_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    from fisher_cli.curvature.spectra import score_gram

    exact = compare(MIDDLE, limit=60, draws=2).measurements[0]
    monkeypatch.setattr(score_gram, "LARGEST_ROWS", 100)
    found = compare(MIDDLE, limit=60, draws=2).measurements[0]
    assert exact.comparison is not None
    assert found.comparison is not None
    assert found.comparison.method == "products"
    assert any("random probes" in note for note in found.notes)
    one, other = exact.comparison.difference_norm, found.comparison.difference_norm
    assert one is not None
    assert other is not None
    assert other.value.estimator_error
    assert abs(one.value.value - other.value.value) < 5 * other.value.estimator_error
    assert other.null == pytest.approx(one.null, rel=0.05)
    assert found.comparison.natural_gradient is not None
    assert exact.comparison.natural_gradient is not None
    cosines = (found.comparison.natural_gradient.value.value, exact.comparison.natural_gradient.value.value)
    assert cosines[0] == pytest.approx(cosines[1], abs=1e-3)


NOISE = AgainstNull(Estimate(0.3), 0.28, 0.02)
APART = AgainstNull(Estimate(0.6), 0.28, 0.02)
WITHOUT_DRAWS = AgainstNull(Estimate(0.4, None, 0.02), 0.28)


@pytest.mark.parametrize(
    ("ratio", "deviation", "z", "difference", "carriers", "finding", "words"),
    [
        (
            0.17,
            0.06,
            -13.8,
            APART,
            500.0,
            ComparisonFinding.FITTED,
            "0.17 of the true one (labels from the model: 1.00 ± 0.06)",
        ),
        (0.17, 0.06, -13.8, APART, 500.0, ComparisonFinding.FITTED, "labels are fitted; do not use it as a stand-in"),
        (0.17, 0.26, -3.2, APART, 13.2, ComparisonFinding.FITTED, "about 13 examples carry this null"),
        (0.8, 0.02, -10.0, APART, 500.0, ComparisonFinding.FITTED, "labels surprise the network less than it expects"),
        (1.21, 0.02, 10.5, APART, 500.0, ComparisonFinding.SURPRISED, "1.21 times the true one"),
        (
            1.21,
            0.02,
            10.5,
            APART,
            500.0,
            ComparisonFinding.SURPRISED,
            "labels are noisy, or the network is overconfident",
        ),
        (0.95, 0.01, -5.0, NOISE, 500.0, ComparisonFinding.SHIFTED, "5.0% smaller than the true one's (z = -5.0)"),
        (1.05, 0.01, 5.0, NOISE, 500.0, ComparisonFinding.SHIFTED, "5.0% larger"),
        (1.01, 0.02, 0.5, NOISE, 500.0, ComparisonFinding.INDISTINGUISHABLE, "30% off, label noise alone 28%"),
        (1.01, 0.02, 0.5, APART, 500.0, ComparisonFinding.INDISTINGUISHABLE, "not a stand-in for the matrix"),
        (1.01, 0.02, 0.5, WITHOUT_DRAWS, 500.0, ComparisonFinding.INDISTINGUISHABLE, "40% off, label noise alone 28%"),
        (
            0.36,
            0.22,
            -2.9,
            NOISE,
            12.0,
            ComparisonFinding.INDISTINGUISHABLE,
            "the trace may be smaller than the true one's (0.36",
        ),
        (
            0.36,
            0.22,
            -2.9,
            NOISE,
            12.0,
            ComparisonFinding.INDISTINGUISHABLE,
            "z = -2.9, labels from the model: 1.00 ± 0.22): take",
        ),
        (
            1.05,
            0.02,
            2.5,
            NOISE,
            500.0,
            ComparisonFinding.INDISTINGUISHABLE,
            "the trace may be larger than the true one's (1.05",
        ),
        (0.2, 0.8, -1.0, APART, 3.0, ComparisonFinding.UNDECIDED, "take more examples; about 3 examples carry"),
        (
            0.04,
            1.6,
            -0.6,
            APART,
            1.2,
            ComparisonFinding.UNDECIDED,
            "noise alone can be as large (labels from the model: 1.00 ± 1",
        ),
        (
            0.04,
            1.6,
            -0.6,
            APART,
            1.2,
            ComparisonFinding.UNDECIDED,
            "take more examples; about 1 example carries this null",
        ),
        (0.2, 0.35, -2.3, APART, 3.0, ComparisonFinding.UNDECIDED, "label noise alone is seldom as large"),
        (None, None, None, None, None, ComparisonFinding.ZERO, "the true Fisher is zero"),
    ],
)
def test_verdicts(
    ratio: float | None,
    deviation: float | None,
    z: float | None,
    difference: AgainstNull | None,
    carriers: float | None,
    finding: ComparisonFinding,
    words: str,
) -> None:
    found = verdict(ratio, deviation, z, difference, carriers)
    assert found.finding is finding
    assert words in found.text
    assert ("not a stand-in for the matrix" in found.text) == (difference is APART and "as a matrix" in found.text)


def test_a_verdict_says_where_the_natural_gradient_points_elsewhere() -> None:
    for value, words in ((0.29, "points elsewhere (cosine 0.29, label noise alone 0.54)"), (0.5, "")):
        cosine = AgainstNull(Estimate(value), 0.54, 0.03)
        text = verdict(1.0, 0.02, 0.5, NOISE, 500.0, cosine).text
        assert text.endswith(words)
        assert ("elsewhere" in text) == bool(words)
    assert "elsewhere" not in verdict(1.0, 0.02, 0.5, NOISE, 500.0, AgainstNull(Estimate(0.1), None, None)).text


def test_the_verdict_of_drawn_labels_is_that_they_cannot_be_told_apart() -> None:
    """Labels drawn from the network itself, 25 times: |z| averages as a standard normal's, and no false alarm."""
    torch.manual_seed(0)
    model, x = nn.Linear(5, 3), torch.randn(200, 5)
    with torch.no_grad():
        p = torch.softmax(model(x), 1)
    findings, z = [], []
    for seed in range(25):
        y = torch.multinomial(p, 1, generator=torch.Generator().manual_seed(seed)).squeeze(1)
        found = compare(model, (x, y), draws=0, eigenvalues=1).measurements[0].comparison
        assert found is not None
        findings.append(found.verdict.finding)
        z.append(found.z or 0.0)
    assert set(findings) == {ComparisonFinding.INDISTINGUISHABLE}
    assert float(torch.tensor(z).double().square().mean()) == pytest.approx(1, abs=4 * (2 / 25) ** 0.5)
