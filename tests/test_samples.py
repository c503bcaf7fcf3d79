import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pandas as pd
import pytest
import torch

from fisher_cli import analyze
from tests.loading import load_examples

FOLDER = Path(__file__).parents[1] / "sample_checkpoints"


def load_make() -> ModuleType:
    spec = importlib.util.spec_from_file_location("make_samples", FOLDER / "make.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["make_samples"] = module  # dataclasses look their module up there
    spec.loader.exec_module(module)
    return module


make = load_make()
every_run = pytest.mark.parametrize("run", make.RUNS, ids=lambda run: run.name)


@every_run
def test_a_second_training_gives_the_same_bytes(run: "make.Run", tmp_path: Path) -> None:
    threads = torch.get_num_threads()
    try:
        first = make.train(run, tmp_path / "first", last_step=50)
        make.train(run, tmp_path / "second", last_step=50)
    finally:
        torch.set_num_threads(threads)
    assert [path.name for path in first] == [f"step_{step:05d}.pt" for step in run.steps if step <= 50]
    names = sorted(path.name for path in (tmp_path / "first").iterdir())
    assert names == sorted(path.name for path in (tmp_path / "second").iterdir())
    for name in names:
        assert (tmp_path / "first" / name).read_bytes() == (tmp_path / "second" / name).read_bytes()


@every_run
def test_the_committed_checkpoints_load_and_say_what_their_names_say(run: "make.Run") -> None:
    files = sorted((FOLDER / run.name).glob("*.pt"))
    assert [file.name for file in files] == [f"step_{step:05d}.pt" for step in run.steps]
    for file, step in zip(files, run.steps, strict=True):
        checkpoint = torch.load(file, weights_only=True)
        assert checkpoint.keys() == {"state_dict", "step", "epoch", "arch"}
        assert (checkpoint["step"], checkpoint["epoch"]) == (step, step / 44)
        assert checkpoint["arch"] == run.architecture
        run.network().load_state_dict(checkpoint["state_dict"], strict=True)


def test_the_perceptrons_start_from_the_same_weights() -> None:
    clean, noisy = (
        torch.load(FOLDER / name / "step_00000.pt", weights_only=True)["state_dict"]
        for name in ("digits-clean", "digits-noisy")
    )
    assert all(torch.equal(clean[key], noisy[key]) for key in clean)


def test_the_committed_files_take_less_than_three_megabytes() -> None:
    files = [file for file in FOLDER.rglob("*") if file.is_file() and "__pycache__" not in file.parts]
    assert sum(file.stat().st_size for file in files) < 3_000_000


def test_the_labels_file_marks_exactly_the_wrong_labels() -> None:
    true = load_examples("digits", limit=None)
    noisy = load_examples("digits", limit=None, labels=str(FOLDER / "digits-noisy" / "labels.csv"))
    assert noisy.noisy is not None
    assert torch.equal(noisy.noisy, noisy.labels != true.labels)
    assert noisy.noisy.sum().item() == 420  # 30 % of 1,400


def test_the_last_networks_have_learned_their_labels() -> None:
    examples = load_examples("digits", limit=None)
    inputs, labels = examples.batch(0, len(examples))
    for run in make.RUNS:
        network = run.network().eval()
        file = FOLDER / run.name / f"step_{run.steps[-1]:05d}.pt"
        network.load_state_dict(torch.load(file, weights_only=True)["state_dict"])
        with torch.no_grad():
            right = (network(inputs).argmax(1) == labels).double().mean().item()
        assert (right > 0.99) == (run.wrong_labels == 0)


def traces_of(run: str) -> list[float]:
    table = analyze(FOLDER / run, limit=None, eigenvalues=0).table
    assert list(table["status"]) == ["ok"] * len(table)
    return [float(value) for value in table["trace_true"]]


@pytest.mark.ci
@pytest.mark.parametrize("run", ["digits-clean", "digits-cnn"])
def test_on_true_labels_the_trace_rises_peaks_and_falls(run: str) -> None:
    traces = traces_of(run)
    peak = max(traces)
    assert 0 < traces.index(peak) < len(traces) - 1
    assert peak / traces[0] > 1.5
    assert traces[-1] / peak < 0.5


def test_on_noisy_labels_it_keeps_rising_and_the_noisy_examples_carry_it() -> None:
    labels = FOLDER / "digits-noisy" / "labels.csv"
    analysis = analyze(FOLDER / "digits-noisy", limit=None, eigenvalues=0, labels=labels)
    traces = [float(value) for value in analysis.table["trace_true"]]
    assert traces[-1] == max(traces)
    assert traces[-1] / traces[0] > 3
    last = analysis.measurements[-1].trace
    assert last is not None
    noisy = pd.read_csv(labels)["noisy"].astype(bool)
    terms = pd.Series(last.per_example_true)
    assert terms[noisy].mean() / terms[~noisy].mean() > 1.5
