"""`fisher compare checkpoints A B`: KL both ways, ½ΔᵀFΔ at either end, layer by layer, and what it refuses."""

import copy
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow.parquet as pq
import pytest
import torch
from torch import nn
from typer.testing import Result

from fisher_cli.inputs.networks.digits_networks import digits_cnn, digits_mlp
from fisher_cli.reports.checkpoint_comparison import render_checkpoint_comparison, sentences
from fisher_cli.results import CheckpointComparison, Estimate
from fisher_cli.run import checkpoint_comparison as comparing
from fisher_cli.run.checkpoint_comparison import compare_checkpoints
from fisher_cli.settings import Precision, Resources, Settings
from fisher_cli.tables.registry import CHECKPOINT_LAYERS, CHECKPOINTS
from tests.command import fisher
from tests.loading import load_examples
from tests.reference import reference

SAMPLES = Path(__file__).parents[2] / "sample_checkpoints"
CLEAN, CNN = SAMPLES / "digits-clean", SAMPLES / "digits-cnn"
A, B = CLEAN / "step_00264.pt", CLEAN / "step_00440.pt"
LIMIT = 12


def compared(*words: object, code: int = 0) -> Result:
    return fisher("compare", "checkpoints", *words, code=code)


def found_of(a: Path = A, b: Path = B, **settings: Any) -> CheckpointComparison:
    return compare_checkpoints(a, b, Settings(**{"limit": LIMIT, **settings}), Resources()).found


def loaded(path: Path, network: nn.Module) -> nn.Module:
    network.load_state_dict(torch.load(path, weights_only=True)["state_dict"])
    return network.double().eval()


def plain(text: str) -> str:
    return text.replace("\N{NO-BREAK SPACE}", " ")


class TinyMlp(nn.Sequential):
    """So small that its Fisher can be written down."""

    def __init__(self) -> None:
        super().__init__(nn.Flatten(), nn.Linear(64, 3), nn.Tanh(), nn.Linear(3, 10))


@pytest.fixture
def tiny(workdir: Path) -> tuple[Path, Path]:
    """Two checkpoints of a tiny network, and the file that --model names."""
    (workdir / "net.py").write_text("from tests.cli.test_compare_checkpoints import TinyMlp as make\n")
    torch.manual_seed(0)
    model = TinyMlp()
    torch.save({"state_dict": model.state_dict(), "step": 1}, workdir / "a.pt")
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.05 * torch.randn_like(parameter)
    torch.save({"state_dict": model.state_dict(), "step": 2}, workdir / "b.pt")
    return workdir / "a.pt", workdir / "b.pt"


def test_every_number_is_its_definition(tiny: tuple[Path, Path]) -> None:
    a, b = tiny
    found = found_of(a, b, model="./net.py:make", precision=Precision.FLOAT64)
    inputs, labels = load_examples("digits", limit=LIMIT).batch(0, LIMIT)
    one, other = (loaded(path, TinyMlp()) for path in tiny)
    ours, theirs = (reference(model, inputs, labels) for model in (one, other))
    p, q = (torch.distributions.Categorical(logits=model(inputs.double()).detach()) for model in (one, other))
    there, back = torch.distributions.kl_divergence(p, q), torch.distributions.kl_divergence(q, p)
    for estimate, terms in ((found.kl_ab, there), (found.kl_ba, back)):
        assert estimate.value == pytest.approx(float(terms.mean()), rel=1e-9)
        assert estimate.standard_error == pytest.approx(float(terms.std()) / LIMIT**0.5, rel=1e-9)
    assert found.kl_ab_parameters is None
    same = (p.probs.argmax(1) == q.probs.argmax(1)).double()
    assert found.agreement == Estimate(float(same.mean()), pytest.approx(float(same.std()) / LIMIT**0.5))
    for accuracy, model in ((found.accuracy_a, one), (found.accuracy_b, other)):
        assert accuracy is not None
        assert accuracy.value == pytest.approx(float((model(inputs.double()).argmax(1) == labels).double().mean()))
    start, blocks = 0, {"a": 0.0, "b": 0.0}
    step = torch.cat([(y - x).reshape(-1) for x, y in zip(one.parameters(), other.parameters(), strict=True)]).detach()
    for layer, (name, x) in zip(found.layers, one.named_parameters(), strict=True):
        piece = step[start : start + x.numel()]
        for end, matrix, estimate in (
            *(("a", ours.fisher, layer.quadratic_a), ("b", theirs.fisher, layer.quadratic_b)),
        ):
            block = matrix[start : start + x.numel(), start : start + x.numel()]
            expected = float(piece @ block @ piece) / 2
            blocks[end] += expected
            assert estimate.value == pytest.approx(expected, rel=1e-9)
        assert (layer.name, layer.parameters) == (name, x.numel())
        assert layer.distance == pytest.approx(float(piece.norm()), rel=1e-12)
        assert layer.relative_distance == pytest.approx(float(piece.norm() / x.detach().norm()), rel=1e-12)
        cosine = torch.nn.functional.cosine_similarity(x.detach().reshape(-1), x.detach().reshape(-1) + piece, 0)
        assert layer.cosine == pytest.approx(float(cosine), rel=1e-12)
        start += x.numel()
    for whole, matrix, cross, end in (
        (found.whole.quadratic_a, ours.fisher, found.cross_terms_a, "a"),
        (found.whole.quadratic_b, theirs.fisher, found.cross_terms_b, "b"),
    ):
        assert whole.value == pytest.approx(float(step @ matrix @ step) / 2, rel=1e-9)
        assert cross == pytest.approx(whole.value - blocks[end], rel=1e-6)
    assert found.whole.distance == pytest.approx(float(step.norm()), rel=1e-12)


def test_exchanging_the_two_exchanges_their_numbers() -> None:
    """In the given order, which need not be that of training."""
    there, back = found_of(A, B), found_of(B, A)
    assert (there.checkpoint_a, there.step_a, back.step_a) == ("step_00264.pt", 264, 440)
    assert there.kl_ab == back.kl_ba
    assert there.whole.quadratic_a.value == pytest.approx(back.whole.quadratic_b.value, rel=1e-5)
    assert there.loss_a == back.loss_b
    assert there.agreement == back.agreement
    assert there.whole.distance == pytest.approx(back.whole.distance, rel=1e-6)


def test_what_batch_norms_remember_is_said_apart() -> None:
    found = found_of(CNN / "step_00088.pt", CNN / "step_00132.pt")
    assert found.kl_ab_parameters is not None
    mixed = loaded(CNN / "step_00132.pt", digits_cnn())
    before = loaded(CNN / "step_00088.pt", digits_cnn())
    for name, buffer in before.named_buffers():
        dict(mixed.named_buffers())[name].copy_(buffer)
    inputs, _ = load_examples("digits", limit=LIMIT).batch(0, LIMIT)
    p, q = (torch.distributions.Categorical(logits=model(inputs.double()).detach()) for model in (before, mixed))
    expected = float(torch.distributions.kl_divergence(p, q).mean())
    assert found.kl_ab_parameters.value == pytest.approx(expected, rel=1e-3)
    assert "by the analysed parameters alone KL(a‖b) is" in sentences(found)[0]
    settled = found_of(CNN / "step_00000.pt", CNN / "step_00005.pt", recalibrate_bn=True)
    assert settled.notes == ("batch-norm statistics of 3 layers were recomputed on the 12 examples, as of one batch",)


def test_two_copies_are_one_point(tmp_path: Path) -> None:
    (tmp_path / "copy.pt").write_bytes(A.read_bytes())
    found = found_of(A, tmp_path / "copy.pt")
    assert (found.kl_ab.value, found.whole.distance, found.whole.quadratic_a.value) == (0, 0, 0)
    assert found.agreement == Estimate(1.0, 0.0)
    assert sentences(found)[0] == "The predictions are the same for every example."


def test_half_the_batch_when_memory_runs_out(monkeypatch: pytest.MonkeyPatch) -> None:
    expected, original, calls = found_of(), comparing.second_order_by_tensor, []

    def short(problem: Any, step: Any) -> Any:
        calls.append(problem.batch_size)
        if problem.batch_size > 6:
            raise torch.OutOfMemoryError
        return original(problem, step)

    monkeypatch.setattr(comparing, "second_order_by_tensor", short)
    found = found_of()
    assert calls == [12, 6, 6]
    assert found.batch_size == 6
    assert found.kl_ab.value == pytest.approx(expected.kl_ab.value, rel=1e-4)
    assert "6 examples at once, since memory ran out" in found.notes
    monkeypatch.setattr(comparing, "all_outputs", lambda _: (_ for _ in ()).throw(torch.OutOfMemoryError()))
    with pytest.raises(Exception, match="memory ran out on cpu even with 1 example at once"):
        found_of()


def test_a_report_with_a_table_of_layers_and_a_record(tmp_path: Path) -> None:
    target = tmp_path / "trend.csv"
    compared(A, B, "--limit", LIMIT, "-o", target)
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        *("trend.checkpoints.csv", "trend.checkpoints.fisher", "trend.checkpoints.layers.csv")
    ]
    main, layers = (pd.read_csv(tmp_path / f"trend.checkpoints{end}.csv") for end in ("", ".layers"))
    assert list(main.columns) == [column.name for column in CHECKPOINTS.columns]
    assert list(layers.columns) == [column.name for column in CHECKPOINT_LAYERS.columns]
    assert layers["layer"].tolist() == [name for name, _ in digits_mlp().named_parameters()]
    row = main.iloc[0]
    assert row["quadratic_a"] == pytest.approx(layers["quadratic_a"].sum() + row["cross_terms_a"])
    assert row["distance"] ** 2 == pytest.approx((layers["distance"] ** 2).sum())
    assert row["kl_ab_parameters"] == row["kl_ab"]
    record = json.loads((tmp_path / "trend.checkpoints.fisher/record.json").read_text())
    assert [each["checkpoint"] for each in record["checkpoints"]] == ["step_00264.pt", "step_00440.pt"]
    assert set(record["tables"]) == {"trend.checkpoints.csv", "trend.checkpoints.layers.csv"}
    first = (tmp_path / "trend.checkpoints.csv").read_bytes()
    compared(A, B, "--limit", LIMIT, "-o", target)
    assert (tmp_path / "trend.checkpoints.csv").read_bytes() == first
    compared(A, B, "--limit", LIMIT, "-o", tmp_path / "x.parquet", "--no-layers")
    assert not (tmp_path / "x.checkpoints.layers.parquet").exists()
    field = pq.read_schema(tmp_path / "x.checkpoints.parquet").field("kl_ab")
    assert field.metadata[b"description"] == b"mean KL divergence from the predictions of a to those of b"


def test_the_two_comparisons_of_one_stem_leave_each_other_alone(tmp_path: Path) -> None:
    words = (str(A), str(B), "--limit", "5", "-o", str(tmp_path / "trend.csv"), "-q", "--include", "5.bias")
    matrices = ["compare", "true-vs-empirical", *words, "--eigenvalues", "1"]
    fisher(*matrices)
    first = (tmp_path / "trend.compare.csv").read_bytes()
    compared(*words)
    assert (tmp_path / "trend.compare.csv").read_bytes() == first
    for report in ("trend.compare.csv", "trend.checkpoints.csv"):
        fisher("check", tmp_path / report)


@pytest.mark.parametrize("form", ["csv", "tsv", "json", "jsonl"])
def test_rows_on_stdout(form: str) -> None:
    text = compared(A, B, "--limit", LIMIT, "--format", form).stdout
    if form.startswith("json"):
        value = json.loads(text)
        row = value if form == "jsonl" else value[0]
    else:
        names, cells = (line.split("\t" if form == "tsv" else ",") for line in text.splitlines())
        row = dict(zip(names, cells, strict=True))
    assert row["checkpoint_b"] == "step_00440.pt"
    assert float(row["kl_ab"]) == pytest.approx(found_of().kl_ab.value)


def test_the_table_for_people(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERMINAL_WIDTH", "100")
    text = compared(A, B, "--limit", LIMIT, "--format", "table").stdout
    assert text.startswith("step_00264.pt → step_00440.pt · digits train · digits-mlp · 12 examples")
    assert "‖Δ‖/‖θ‖" in text
    assert "all together" in text
    assert "1.weight" in text


@pytest.mark.parametrize("width", [40, 70, 100, 200])
def test_no_line_is_longer_than_the_width(width: int) -> None:
    import io

    import rich.console

    stream = io.StringIO()
    rich.console.Console(file=stream, width=width, color_system=None).print(
        render_checkpoint_comparison(found_of(), width, "digits"), crop=False
    )
    assert max(map(len, stream.getvalue().splitlines())) <= width


def test_the_words_follow_the_numbers() -> None:
    found = found_of()
    close = replace(found, kl_ab=found.whole.quadratic_a)
    assert "the second-order view of the step holds, with a ratio of 1.00" in plain(sentences(close)[0])
    far = replace(found, kl_ab=Estimate(3 * found.whole.quadratic_a.value))
    assert "moved farther than the second-order view says, by a factor of 3.00" in plain(sentences(far)[0])
    near = replace(found, kl_ab=Estimate(found.whole.quadratic_a.value / 4))
    assert "moved less far than the second-order view says, by a factor of 0.250" in plain(sentences(near)[0])
    assert "Both predict the same for" in sentences(found)[1]
    assert "5.bias moved most" in plain(sentences(found)[2])
    assert "5.weight counts most" in plain(sentences(found)[2])
    assert not any("Both" in each for each in sentences(replace(found, agreement=None)))


def test_what_detection_assumes_is_said(tmp_path: Path) -> None:
    for step in (5, 11):
        weights = torch.load(CNN / f"step_{step:05d}.pt", weights_only=True)["state_dict"]
        torch.save({"state_dict": weights, "step": step}, tmp_path / f"{step}.pt")
    notes = found_of(tmp_path / "5.pt", tmp_path / "11.pt").notes
    assert sum("names and shapes are digits-cnn's" in note for note in notes) == 1


def test_two_networks_are_refused_in_one_line(tmp_path: Path) -> None:
    other = compared(A, CNN / "step_00088.pt", code=1).stderr
    assert "are of two different networks (digits-mlp and digits-cnn): compare two checkpoints of one" in other
    assert len(other.strip().splitlines()) == 1
    assert "is a folder: name two checkpoints" in compared(CLEAN, B, code=2).stderr
    assert "are one file: name two checkpoints" in compared(A, A, code=2).stderr
    assert "no such" in compared(A, tmp_path / "none.pt", code=1).stderr.lower()
    content = torch.load(B, weights_only=True)
    broken = copy.deepcopy(content)
    broken["state_dict"]["1.weight"][0, 0] = float("nan")
    torch.save(broken, tmp_path / "broken.pt")
    assert "NaN or infinite weights in 1.weight" in compared(A, tmp_path / "broken.pt", code=1).stderr
    assert "is one of the checkpoints" in compared(A, _as_csv(tmp_path), "-o", tmp_path / "t.csv", code=1).stderr


def _as_csv(folder: Path) -> Path:
    """A checkpoint under the name of the report."""
    path = folder / "t.checkpoints.csv"
    path.write_bytes(B.read_bytes())
    return path
