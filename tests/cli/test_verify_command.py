"""`fisher verify`: holds on the sample runs and on ResNet-18, fails with exit code 4 and words; tables and files."""

import io
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
import torch
from rich.cells import cell_len
from rich.console import Console
from torch import nn
from typer.testing import Result

from fisher_cli import verify as verified
from fisher_cli.curvature.problem.likelihoods import Softmax
from fisher_cli.errors import CoupledExamplesError
from fisher_cli.reports.identities import render_identities
from fisher_cli.results import Measurement, Outcome
from fisher_cli.storage.readers import read_table
from tests.command import fisher
from tests.long_lists import some

pytestmark = pytest.mark.usefixtures("workdir")

SAMPLES = Path(__file__).parents[2] / "sample_checkpoints"
CLEAN = SAMPLES / "digits-clean" / "step_00066.pt"
# The head alone of few examples: what the tests of words and files need.
QUICK = ("--limit", "3", "--include", "5.*")


def run(*words: object, code: int = 0) -> Result:
    return fisher("verify", *words, code=code)


def rows(result: Result) -> pd.DataFrame:
    return pd.read_csv(io.StringIO(result.stdout))


def labels_of(name: str) -> list[str]:
    return ["--labels", str(SAMPLES / name / "labels.csv")] if name == "digits-noisy" else []


def assert_holds(found: pd.DataFrame, absent: set[str]) -> None:
    assert set(found["verdict"]) == {"pass", "not applicable"}
    assert set(found[found["verdict"] == "not applicable"]["identity"]) == absent
    applied = found[found["verdict"] == "pass"]
    assert (applied["identity_error"] <= applied["tolerance"]).all()


ABSENT = {
    "digits-clean": {"zero last layer", "batch-norm channel", "bias before batch norm"},
    "digits-noisy": {"zero last layer", "batch-norm channel", "bias before batch norm"},
    "digits-cnn": {"zero last layer", "bias before batch norm"},
}


@pytest.mark.parametrize(
    ("name", "steps"),
    some([("digits-clean", (0, 66, 1760)), ("digits-noisy", (0, 5280)), ("digits-cnn", (0, 66, 1760))]),
)
def test_all_identities_hold_at_the_first_the_peak_and_the_last_checkpoint_of_a_sample_run(
    name: str, steps: tuple[int, ...]
) -> None:
    files = [SAMPLES / name / f"step_{step:05d}.pt" for step in steps]
    found = rows(run(*files, "--limit", "4", *labels_of(name)))
    assert set(found["step"]) == set(steps)
    assert_holds(found, ABSENT[name])


@pytest.mark.long
@pytest.mark.parametrize("name", list(ABSENT))
def test_all_identities_hold_along_every_sample_run(name: str) -> None:
    found = rows(run(SAMPLES / name, *labels_of(name)))
    assert len(found["step"].unique()) == len(list((SAMPLES / name).glob("*.pt")))
    assert_holds(found, ABSENT[name])


@pytest.mark.long
def test_all_identities_hold_on_a_resnet18_with_random_weights() -> None:
    import torchvision

    torch.manual_seed(0)
    model = torchvision.models.resnet18(num_classes=10)
    analysis = verified(model, (torch.randn(4, 3, 32, 32), torch.randint(0, 10, (4,))))
    assert analysis.verified
    assert_holds(analysis.identities, {"zero last layer", "bias before batch norm"})


def test_a_zero_head_makes_its_identity_apply() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(5, 6), nn.ReLU(), nn.Linear(6, 3))
    nn.init.zeros_(model[2].weight)
    nn.init.zeros_(model[2].bias)
    analysis = verified(model, (torch.randn(5, 5), torch.randint(0, 3, (5,))))
    found = analysis.identities.set_index("identity")["verdict"]
    assert found["zero last layer"] == "pass"
    assert analysis.verified


class BatchStatistics(nn.Module):
    """Calls batch norm with the statistics of the batch, whatever the mode."""

    def __init__(self, positions: int) -> None:
        super().__init__()
        self.first, self.norm, self.head = nn.Conv1d(2, 6, 1), nn.BatchNorm1d(6), nn.Linear(6, 3)
        self.positions = positions

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.first(x[:, :, : self.positions])
        x = nn.functional.batch_norm(x, None, None, self.norm.weight, self.norm.bias, training=True)
        return self.head(torch.relu(x).mean(2))


def test_a_network_that_stays_in_training_mode_fails_in_these_words() -> None:
    torch.manual_seed(0)
    data = torch.randn(6, 2, 4), torch.randint(0, 3, (6,))
    analysis = verified(BatchStatistics(4), data, batch_size=3)
    assert not analysis.verified
    found = analysis.identities.set_index("identity")
    assert found.loc["evaluation mode", "verdict"] == "fail"
    assert "behaves as in training mode" in found.loc["evaluation mode", "reason"]
    with pytest.raises(CoupledExamplesError, match="normalises by the statistics of the batch"):
        verified(BatchStatistics(1), data, batch_size=3)


def test_python_takes_modules_and_paths_and_settings() -> None:
    analysis = verified(CLEAN, limit=3, include="5.*")
    assert analysis.verified
    assert (analysis.settings.precision, analysis.settings.limit) == ("float64", 3)
    reasons = analysis.identities.set_index("identity")["reason"]
    assert reasons["coverage"] == "--include or --exclude leave parameters out"


def test_recalibrated_batch_norms_are_those_that_are_verified() -> None:
    cnn = SAMPLES / "digits-cnn" / "step_00005.pt"
    plain, settled = (
        verified(cnn, limit=3, include="11.*", recalibrate_bn=asked).measurements[0] for asked in (False, True)
    )
    assert plain.verification is not None
    assert settled.verification is not None
    ours = [
        next(each.ours for each in found.identities if each.name == "evaluation mode")
        for found in (plain.verification, settled.verification)
    ]
    assert ours[0] != ours[1]
    assert any("batch-norm statistics of 3 layers were recomputed" in note for note in settled.notes)
    assert not settled.verification.failed


@pytest.mark.parametrize("choice", ["weights_only", "without_head"])
def test_parameters_left_out_on_purpose_are_not_missing(choice: str) -> None:
    found = verified(CLEAN, limit=3, **{choice: True}).measurements[0].verification
    assert found is not None
    assert not found.failed


def test_a_failure_ends_with_exit_code_4_and_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    original = Softmax.covariance_product
    monkeypatch.setattr(Softmax, "covariance_product", lambda *given: original(*given) / 2)
    found = rows(run(CLEAN, *QUICK, code=4)).set_index("identity")
    assert found.loc["expected Hessian", "verdict"] == "fail"
    assert found.loc["true trace", "verdict"] == "pass"
    printed = run(CLEAN, *QUICK, "--format", "table", code=4).stdout
    assert "✗ step 66: expected Hessian: all values are half of what they must be: a factor ½ too many" in " ".join(
        printed.split()
    )
    assert "do not rely on the numbers" in printed


def test_a_file_that_cannot_be_used_is_a_row_and_the_others_go_on(workdir: Path) -> None:
    (workdir / "broken.pt").write_bytes(b"no checkpoint")
    found = rows(run(CLEAN, workdir / "broken.pt", *QUICK, code=3))
    assert set(found["status"]) == {"ok", "rejected"}
    assert found[found["status"] == "rejected"]["error"].notna().all()


def test_a_report_has_both_tables_and_a_record_with_the_cost_of_each_identity(workdir: Path) -> None:
    run(CLEAN, *QUICK, "-o", "trend.csv")
    names = {path.name for path in workdir.iterdir() if path.is_file()}
    assert names == {"trend.expansion.csv", "trend.verify.csv"}
    identities, expansion = read_table(workdir / "trend.verify.csv"), read_table(workdir / "trend.expansion.csv")
    assert identities["ours"].dtype == "Float64"
    assert expansion["slope_averaged"].dropna().iloc[-1] == pytest.approx(2, abs=0.05)
    record = json.loads((workdir / "trend.verify.fisher/record.json").read_text())
    seconds = record["run"]["identities"][0]["seconds"]
    assert set(seconds) == set(identities["identity"])
    first = (workdir / "trend.verify.csv").read_bytes()
    run(CLEAN, *QUICK, "-o", "trend.csv")
    assert (workdir / "trend.verify.csv").read_bytes() == first


@pytest.mark.parametrize("form", ["tsv", "json", "jsonl", "parquet"])
def test_every_format_has_the_same_rows(workdir: Path, form: str) -> None:
    run(CLEAN, *QUICK, "-o", f"trend.{form}")
    found = read_table(workdir / f"trend.verify.{form}")
    assert len(found) == 31
    assert set(found["verdict"]) == {"pass", "not applicable"}


def drawn(measurements: Sequence[Measurement], width: int) -> str:
    console = Console(width=width, file=io.StringIO(), color_system=None)
    console.print(render_identities(measurements, width, "digits train"), crop=False)
    return console.file.getvalue()  # type: ignore[attr-defined]


def test_the_table_fits_every_width_and_shows_every_identity(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    assert "identities hold" in run(CLEAN, *QUICK, "--format", "table").stdout
    analysis = verified([CLEAN, CLEAN.with_name("step_01760.pt")], limit=3, include="5.*")
    for width in (80, 100, 130, 160, 200):
        for count in (1, 2):
            printed = drawn(analysis.measurements[:count], width)
            assert max(cell_len(line) for line in printed.splitlines()) <= width
            assert all(name in printed for name in analysis.identities["identity"])
            assert "does not apply: the last layer is not" in " ".join(printed.split())
            assert "‖ε‖/‖θ‖" in printed
            assert ("independent" in printed) == (width >= 130)
            assert ("worst at" in printed) == (count == 2 and width >= 100)
            assert "slopes 1.00 (expected 1) and 2.00 (expected 2)" in " ".join(printed.split())


def test_of_several_checkpoints_the_worst_is_shown_and_failures_are_all_named() -> None:
    analysis = verified([CLEAN, CLEAN.with_name("step_01760.pt")], limit=3, include="5.*")
    last = analysis.measurements[1]
    assert last.verification is not None
    first, *others = last.verification.identities
    broken = replace(first, verdict=Outcome.FAILED, error=0.5, reason="because of this")
    spoiled = replace(last, verification=replace(last.verification, identities=(broken, *others)))
    printed = " ".join(drawn([analysis.measurements[0], spoiled], 100).split())
    assert "✗ step 1760: chance: because of this" in printed
    assert "1 of 52 identities fail, at 1 of 2 checkpoints" in printed


def test_an_undecided_identity_is_neither_a_pass_nor_a_failure() -> None:
    analysis = verified(CLEAN, limit=3, include="5.*")
    measurement = analysis.measurements[0]
    assert measurement.verification is not None
    first, *others = measurement.verification.identities
    unsure = replace(first, verdict=Outcome.UNDECIDED, reason="rounding hides it")
    found = replace(measurement, verification=replace(measurement.verification, identities=(unsure, *others)))
    again = replace(analysis, measurements=(found,))
    assert again.verified
    assert again.identities["verdict"][0] == "undecided"
    printed = " ".join(drawn([found], 100).split())
    assert "? step 66: chance: rounding hides it" in printed
    passed = found.verification.count(Outcome.PASSED) if found.verification else 0
    assert f"All {passed} identities that can be decided hold; 1 more is undecided;" in printed
