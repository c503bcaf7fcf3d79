"""`fisher spectrum` and the columns of `fisher analyze` that say what eigenvalues mean, against the dense oracle."""

import io
import json
import re
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
import torch
from rich.cells import cell_len
from torch import Tensor
from typer.testing import Result

import fisher_cli.run.measurement
from fisher_cli import analyze
from fisher_cli.curvature.spectra.spectrum import SpectrumRequest
from fisher_cli.inputs.networks.digits_networks import digits_mlp
from fisher_cli.results import Spectrum
from fisher_cli.storage.readers import read_table
from tests.command import fisher
from tests.loading import load_examples
from tests.reference import Reference, reference

pytestmark = pytest.mark.usefixtures("workdir")

CLEAN = Path(__file__).parents[2] / "sample_checkpoints" / "digits-clean"
FIRST, MIDDLE, LAST = (CLEAN / f"step_{step:05d}.pt" for step in (0, 440, 1760))
HEAD = ("--include", "5.*", "--dtype", "float64", "--limit", "20")
ROWS, WHOLE = 20 * 9, 330


def spectrum(*words: object, code: int = 0) -> Result:
    return fisher("spectrum", *words, code=code)


def table(*words: object, code: int = 0) -> pd.DataFrame:
    return pd.read_csv(io.StringIO(spectrum(*words, code=code).stdout))


def eigenvalues(found: pd.DataFrame, matrix: str) -> list[float]:
    return list(found[found["matrix"] == f"{matrix} Fisher"]["eigenvalue"])


def weights(path: Path) -> dict[str, Tensor]:
    state: dict[str, Tensor] = torch.load(path, weights_only=True)["state_dict"]
    return state


def oracle(path: Path, examples: int = 20) -> Reference:
    """The dense matrices of the last layer on the examples that `--limit` chooses."""
    network = digits_mlp()
    network.load_state_dict(weights(path))
    for name, parameter in network.named_parameters():
        parameter.requires_grad_(name.startswith("5."))
    return reference(network, *load_examples("digits", limit=examples, seed=0).batch(0, examples))


def descending(matrix: Tensor) -> Tensor:
    values: Tensor = torch.linalg.eigvalsh(matrix)
    return values.flip(0)


def test_all_eigenvalues_are_those_of_the_dense_matrices() -> None:
    found, expected = table(MIDDLE, *HEAD), oracle(MIDDLE)
    for name, matrix, rank in (("true", expected.fisher, ROWS), ("empirical", expected.empirical, 20)):
        truth, values = descending(matrix), eigenvalues(found, name)
        assert len(values) <= rank
        assert values == pytest.approx(truth[: len(values)].tolist(), rel=0, abs=1e-12 * float(truth[0]))
        assert float(truth[len(values) :].abs().max()) < 1e-12 * float(truth[0])
        rows = found[found["matrix"] == f"{name} Fisher"]
        assert list(rows["index"]) == list(range(1, len(values) + 1))
        assert list(rows["trace_share"]) == pytest.approx((truth.cumsum(0) / truth.sum())[: len(values)].tolist())
        assert rows["eigenvalue_residual"].notna().sum() == 10
        assert rows["eigenvalue_se"][:10].min() > 0
    assert set(found["status"]) == {"ok"}


@pytest.mark.parametrize("method", ["whole", "density"])
def test_quantities_are_those_of_the_dense_matrices(method: str) -> None:
    spectrum(FIRST, MIDDLE, *HEAD, "--method", method, "--probes", "30", "--damping", "0.01", "-o", "run.csv")
    record = json.loads(Path("run.spectrum.fisher/record.json").read_text())
    before, expected = oracle(FIRST), oracle(MIDDLE)
    said = {each["matrix"]: each for each in record["checkpoints"][1]["spectra"]}
    for name, matrix, earlier in (
        ("true", expected.fisher, before.fisher),
        ("empirical", expected.empirical, before.empirical),
    ):
        values, vectors = torch.linalg.eigh(matrix)
        values, top = values.clamp_min(0).flip(0), vectors[:, -10:]
        gradient, found = expected.mean_gradient, said[name]
        loose = {} if method == "whole" or name == "empirical" else {"rel": 1e-4}
        assert found["trace"] == pytest.approx(float(values.sum()), rel=1e-9)
        assert found["leading_share"] == pytest.approx(float(values[:10].sum() / values.sum()), rel=1e-6)
        assert found["gap_profile"] == pytest.approx((values[:9] / values[1:10]).tolist(), rel=1e-4)
        share = float((top.T @ gradient).square().sum() / gradient.square().sum())
        assert found["gradient_share"] == pytest.approx(share, **(loose or {"rel": 1e-8}))
        overlap = float((top.T @ torch.linalg.eigh(earlier).eigenvectors[:, -10:]).square().sum()) / 10
        assert found["subspace_overlap"] == pytest.approx(overlap, **(loose or {"rel": 1e-8}))
        for quantity, truth in (
            ("effective_rank", float(values.sum()) ** 2 / float(values.square().sum())),
            ("effective_dimension", float((values / (values + 0.01)).sum())),
        ):
            error = found[quantity]["estimator_se"]
            assert found[quantity]["value"] == pytest.approx(truth, rel=1e-8, abs=4 * error)
            assert error < 0.1 * truth
    assert record["checkpoints"][0]["spectra"][0]["subspace_overlap"] is None


def test_the_columns_of_analyze_say_the_same() -> None:
    words: dict[str, object] = {"limit": 20, "eigenvalues": 4, "include": "5.*", "precision": "float64"}
    found = analyze([FIRST, MIDDLE], **words).table
    for row, expected in enumerate((oracle(FIRST), oracle(MIDDLE))):
        values = descending(expected.fisher).clamp_min(0)
        rank = float(values.sum()) ** 2 / float(values.square().sum())
        assert found["effective_rank"][row] == pytest.approx(rank, rel=1e-8)
        assert found["effective_dimension"][row] == pytest.approx(float((values / (values + 1 / 20)).sum()), rel=1e-8)
        assert found["effective_rank_estimator_se"][row] == 0
    spaces = [torch.linalg.eigh(oracle(path).fisher).eigenvectors[:, -4:] for path in (FIRST, MIDDLE)]
    assert pd.isna(found["subspace_overlap"][0])
    assert found["subspace_overlap"][1] == pytest.approx(float((spaces[0].T @ spaces[1]).square().sum()) / 4)
    assert list(found["eig_true_method"]) == list(found["eig_empirical_method"]) == ["gram", "gram"]
    single = analyze([FIRST], **words).table
    assert single["effective_rank"][0] == found["effective_rank"][0]


def test_an_overlap_needs_a_row_before_and_the_same_parameters(workdir: Path) -> None:
    state = weights(FIRST)
    state["1.weight"][0, 0] = torch.nan
    torch.save({"state_dict": state, "arch": "digits-mlp", "step": 300}, workdir / "bad.pt")
    words: dict[str, object] = {"limit": 10, "eigenvalues": 2}
    found = analyze([FIRST, workdir / "bad.pt", MIDDLE, LAST], **words).table
    assert list(found["status"]) == ["ok", "failed", "ok", "ok"]
    assert list(found["subspace_overlap"].isna()) == [True, True, True, False]
    cnn = CLEAN.parent / "digits-cnn" / LAST.name
    mixed = analyze([MIDDLE, cnn], **words).table
    assert list(mixed["subspace_overlap"].isna()) == [True, True]


def test_more_eigenvalues_than_the_rank_are_zeros_and_said() -> None:
    found = table(MIDDLE, "--limit", "1", "--eigenvalues", "12")
    assert len(eigenvalues(found, "true")) == len(eigenvalues(found, "empirical")) == 12
    assert eigenvalues(found, "true")[9:] == [0, 0, 0]
    assert eigenvalues(found, "empirical")[1:] == [0] * 11
    assert eigenvalues(found, "empirical")[0] > 0
    assert found["eigenvalue_se"].isna().all()  # one example knows no spread
    said = spectrum(MIDDLE, "--limit", "1", "--eigenvalues", "12", "--format", "table").stdout
    assert "the rank is at most 9: 3 of the eigenvalues are zero" in said
    assert "9 of 6,570 eigenvalues by gram; 6,561 zero" in said


def test_one_class_present(workdir: Path) -> None:
    (workdir / "labels.csv").write_text("index,label\n" + "".join(f"{i},3\n" for i in range(1400)))
    found = table(MIDDLE, *HEAD, "--labels", "labels.csv", "--eigenvalues", "3")
    plain = table(MIDDLE, *HEAD, "--eigenvalues", "3")
    # The true Fisher knows no labels; the last digit may, by the order of a sum.
    assert eigenvalues(found, "true")[:99] == pytest.approx(eigenvalues(plain, "true")[:99], abs=1e-12)
    assert eigenvalues(found, "empirical")[:3] != pytest.approx(eigenvalues(plain, "empirical")[:3], rel=0.01)
    assert set(found["status"]) == {"ok"}


@pytest.mark.parametrize("method", ["whole", "density"])
def test_a_matrix_of_zeros_is_said_and_no_crash(method: str, workdir: Path) -> None:
    state = weights(MIDDLE)
    state["5.weight"].zero_()
    torch.save({"state_dict": state, "arch": "digits-mlp"}, workdir / "zero.pt")
    words = ("zero.pt", "--exclude", "5.*", "--limit", "30", "--eigenvalues", "3", "--method", method)
    found = table(*words)
    assert list(found["eigenvalue"]) == [0] * 6
    assert found["trace_share"].isna().all()
    said = spectrum(*words, "--format", "table").stdout
    assert "the true Fisher is zero" in said
    assert "the empirical Fisher is zero" in said


def test_a_checkpoint_without_eigenvalues_is_a_row_that_says_why(workdir: Path) -> None:
    state = weights(FIRST)
    state["1.weight"][0, 0] = torch.nan
    torch.save({"state_dict": state, "arch": "digits-mlp", "step": 3}, workdir / "bad.pt")
    found = table("bad.pt", MIDDLE, "--limit", "5", "--matrix", "true", "--eigenvalues", "2", code=3)
    assert list(found["status"][:2]) == ["failed", "ok"]
    assert "NaN or infinite weights in 1.weight" in found["error"][0]
    assert pd.isna(found["eigenvalue"][0])
    assert set(found["matrix"].dropna()) == {"true Fisher"}
    alone = spectrum("bad.pt", "--limit", "5", "--format", "table", code=1)
    assert alone.stdout == ""
    assert "error: bad.pt: NaN or infinite weights" in alone.stderr


def test_what_did_not_converge_keeps_its_values_and_residuals(monkeypatch: pytest.MonkeyPatch) -> None:
    """A tolerance that no residual meets."""

    def strict(*words: object) -> SpectrumRequest:
        return replace(question(*words), tolerance=1e-300)  # type: ignore[arg-type]

    question = fisher_cli.run.measurement.question_of
    plain = table(MIDDLE, *HEAD, "--eigenvalues", "2")
    monkeypatch.setattr(fisher_cli.run.measurement, "question_of", strict)
    found = table(MIDDLE, *HEAD, "--eigenvalues", "2", code=3)
    assert set(found["status"]) == {"not-converged"}
    assert found["error"].str.contains("did not reach the tolerance").all()
    assert eigenvalues(found, "true") == pytest.approx(eigenvalues(plain, "true"), abs=1e-12)
    assert found["eigenvalue_residual"][:2].notna().all()
    assert "not-converged: step_00440.pt" in spectrum(MIDDLE, *HEAD, "--format", "table", code=3).stdout


def test_vectors_that_do_not_fit_are_left_out_and_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fisher_cli.curvature.spectra.solver_choice.BASIS_SHARE", 1e-12)
    found = analyze([FIRST, MIDDLE], limit=10, eigenvalues=2)
    assert found.table["subspace_overlap"].isna().all()
    assert found.table["eig_true_1"].notna().all()
    assert any("2 eigenvectors of 6570 values" in note for note in found.measurements[0].notes)


def test_a_report_has_its_own_files_and_they_read_back(workdir: Path) -> None:
    words = (MIDDLE, "--limit", "20", "--matrix", "true", "--method", "density", "--probes", "2", "--steps", "10")
    assert spectrum(*words, "-o", "run.parquet").stdout == ""
    assert {path.name for path in workdir.iterdir()} == {
        "run.spectrum.parquet",
        "run.density.parquet",
        "run.spectrum.fisher",
    }
    density = read_table(workdir / "run.density.parquet")
    assert len(density) == 1000
    assert (density["cumulative"].diff().dropna() >= -1e-12).all()
    assert (density["cumulative_least"] <= density["cumulative"]).all()
    assert float(density["cumulative"].iloc[-1]) == pytest.approx(1.0, abs=1e-9)
    assert len(read_table(workdir / "run.spectrum.parquet")) == 10
    spectrum(*words[:-6], "--method", "whole", "-o", "run.spectrum.parquet", "--force")  # the same stem
    left = {"run.spectrum.parquet", "run.spectrum.fisher"}
    assert {path.name for path in workdir.iterdir()} == left
    assert len(read_table(workdir / "run.spectrum.parquet")) > 100


@pytest.mark.parametrize("width", [80, 120])
@pytest.mark.parametrize("method", ["whole", "density"])
def test_the_table_for_people_fits_and_counts_every_eigenvalue(
    width: int, method: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", str(width))
    words = (FIRST, LAST, "--limit", "40", "--matrix", "true", "--method", method)
    said = spectrum(*words, "--format", "table").stdout
    assert max(map(cell_len, said.splitlines())) <= width
    assert "\x1b" not in said
    counted = [float(number) for number in re.findall(r"… [−\d.]+ +([\d.]+)  ", said)]
    if method == "density":
        assert "10 leading of 6,570 eigenvalues by" in said
        assert "stochastic Lanczos quadrature (5 probes of 40 steps)" in " ".join(said.split())
        share = re.search(r"([\d.]+)% of\s+them\s+below", said)
        assert share is not None
        # All but those below the floor; the share and each count are rounded.
        assert sum(counted) == pytest.approx(6570 * (1 - float(share[1]) / 100), abs=6570 * 0.0006 + len(counted))
    else:
        match = re.search(r"step 1760: (\d+) of 6,570 eigenvalues by \S+; ([\d,]+) zero", said)
        assert match is not None
        assert sum(counted) == float(match[1])
        assert float(match[1]) + float(match[2].replace(",", "")) == 6570


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--damping", "0"), "--damping 0: type a positive number, such as 0.001"),
        (("--eigenvalues", "0"), "invalid value for '--eigenvalues'"),
        (("--matrix", "hessian"), "invalid value for '--matrix'"),
        (("--limit", "none"), "--limit none: type a positive whole number, or all"),
        (("-o", "run.docx"), "the suffix must say the format"),
    ],
)
def test_words_that_do_not_fit(words: tuple[str, ...], said: str) -> None:
    result = spectrum(MIDDLE, *words, code=2)
    assert said in result.stderr
    assert len(result.stderr.splitlines()) == 1


def test_the_damping_is_one_over_the_examples_unless_given() -> None:
    def dimensions(*words: object) -> Spectrum:
        spectrum(MIDDLE, "--limit", "20", "--matrix", "true", "-o", "run.csv", "--force", *words)
        record = json.loads(Path("run.spectrum.fisher/record.json").read_text())
        return record["checkpoints"][0]["spectra"][0]  # type: ignore[no-any-return]

    assert dimensions() == dimensions("--damping", "0.05")
    assert dimensions() != dimensions("--damping", "0.1")
