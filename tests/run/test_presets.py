"""Presets: each reproduces its paper's definition, typed options win, and the record names it."""

import itertools
import json
from pathlib import Path

import pandas as pd
import pytest
import torch
from torch import nn

from fisher_cli import analyze
from fisher_cli.curvature.gradient_norms import per_example_gradients
from fisher_cli.curvature.gradient_norms.engine import Engine
from fisher_cli.curvature.problem.counter_based_random import of_examples
from fisher_cli.curvature.traces.diagonal import fisher_diagonal
from fisher_cli.curvature.traces.traces import sweep
from fisher_cli.errors import UsageError
from fisher_cli.inputs.networks.digits_networks import digits_cnn
from fisher_cli.run.parameters import select_parameters, without_head
from fisher_cli.settings import PRESETS, Settings, listing, settings_of
from tests.cases import CASES, Attention, Case, Residual, case_of
from tests.command import fisher
from tests.conftest import problem_of, reference_of
from tests.loading import load_examples
from tests.reference import reference

pytestmark = pytest.mark.usefixtures("workdir")

SAMPLES = Path(__file__).parents[2] / "sample_checkpoints"
CLEAN, CNN = SAMPLES / "digits-clean" / "step_00440.pt", SAMPLES / "digits-cnn" / "step_00440.pt"


def recorded(*words: object) -> dict[str, object]:
    fisher("analyze", CLEAN, *words, "-q", "-o", "run.csv", "--force")
    settings: dict[str, object] = json.loads(Path("run.fisher/record.json").read_text())["settings"]
    return settings


@pytest.mark.parametrize("name", sorted(PRESETS))
def test_a_preset_is_its_settings_and_is_named_in_the_record(name: str) -> None:
    found = recorded("--preset", name, "--limit", 20)
    expected = Settings(**{**PRESETS[name].settings, "limit": 20, "preset": name})
    assert found == json.loads(json.dumps(expected.without_folders()))
    assert found["preset"] == name


def test_what_is_typed_wins_even_where_it_is_the_default() -> None:
    ye = recorded("--preset", "ye2022", "--limit", 20)
    assert (ye["estimator"], ye["samples"], ye["weights_only"]) == ("sampled", 5, True)
    typed = ("--limit", 20, "--estimator", "auto", "--samples", 7, "--all-parameters", "--eigenvalues", 5)
    changed = recorded("--preset", "ye2022", *typed)
    assert (changed["estimator"], changed["samples"], changed["weights_only"]) == ("auto", 7, False)
    assert changed["eigenvalues"] == 5
    assert settings_of("ye2022").limit == 1000
    assert settings_of("ye2022", {"samples": 2}, samples=9).samples == 2
    assert settings_of(None, {}, samples=9).samples == 9
    assert settings_of("mccandlish2018").digest() == Settings(limit=None, eigenvalues=0).digest()


def test_an_unknown_preset_is_a_usage_error_that_lists_them() -> None:
    said = fisher("analyze", CLEAN, "--preset", "ye2021", code=2).stderr
    assert "did you mean ye2022?" in said
    assert len(listing()) == len(PRESETS) == 6
    for line in listing():
        assert line in said.splitlines()
    with pytest.raises(UsageError, match="unknown; there are ye2022"):
        analyze(CLEAN, preset="nobody1900")


def test_ye2022_is_the_mean_over_five_drawn_labels_of_weights_alone() -> None:
    """By hand: plain autograd of every label, of which those drawn; weights of linear and convolutional layers only."""
    row = analyze(CNN, preset="ye2022", limit=8, precision="float64").measurements[0]
    assert row.trace is not None
    assert row.trace.estimator == "sampled S=5"
    assert {layer.name for layer in row.trace.layers} == {
        f"{name}.weight" for name, layer in digits_cnn().named_modules() if isinstance(layer, nn.Linear | nn.Conv2d)
    }
    network = digits_cnn().double().eval()
    network.load_state_dict(torch.load(CNN, weights_only=True)["state_dict"])
    inputs, _ = load_examples("digits", limit=8).batch(0, 8)
    parameters = [dict(network.named_parameters())[layer.name] for layer in row.trace.layers]
    log_p = torch.log_softmax(network(inputs.double()), 1)
    norms = torch.zeros_like(log_p)
    for n, c in itertools.product(range(8), range(10)):
        gradients = torch.autograd.grad(log_p[n, c], parameters, retain_graph=True)
        norms[n, c] = sum(float(gradient.square().sum()) for gradient in gradients)
    p = log_p.detach().exp()
    exact = analyze(CNN, limit=8, precision="float64", weights_only=True, eigenvalues=0).measurements[0].trace
    assert exact is not None
    assert exact.true.value == pytest.approx(float((p * norms).sum(1).mean()), rel=1e-9)
    labels = of_examples(0, "labels", 0, 8, p.device).classes(p, 5)
    assert row.trace.true.value == pytest.approx(float(norms.gather(1, labels).mean()), rel=1e-9)
    # Whatever five labels of eight confident examples are, most seeds miss the rare ones that carry the trace.
    draws = of_examples(1, "labels", 0, 8, p.device).classes(p, 20_000)
    drawn = norms.gather(1, draws).mean(0)
    assert exact.true.value == pytest.approx(float(drawn.mean()), abs=5 * float(drawn.std()) / 20_000**0.5)


def test_kunstner2019_compares_means_over_all_examples_uncentred() -> None:
    row = analyze(CLEAN, preset="kunstner2019", limit=12, include="5.*", eigenvalues=0).measurements[0]
    network = torch.nn.Sequential(nn.Flatten(), *(layer for layer in digits_layers()))
    expected = reference(network, *load_examples("digits", limit=12).batch(0, 12))
    assert row.trace is not None
    assert row.trace.true.value == pytest.approx(float(expected.fisher.trace()), rel=1e-9)
    assert row.trace.empirical.value == pytest.approx(float(expected.empirical.trace()), rel=1e-9)
    assert settings_of("kunstner2019").limit is None


def digits_layers() -> nn.Sequential:
    from fisher_cli.inputs.networks.digits_networks import digits_mlp

    network = digits_mlp()
    network.load_state_dict(torch.load(CLEAN, weights_only=True)["state_dict"])
    for name, parameter in network.named_parameters():
        parameter.requires_grad_(name.startswith("5."))
    assert isinstance(network, nn.Sequential)
    return network


def test_achille2019_gives_each_layers_share_of_the_exact_trace() -> None:
    found = analyze(CLEAN, preset="achille2019", limit=30)
    assert found.layers["share"].sum() == pytest.approx(1)
    assert found.measurements[0].trace is not None
    assert found.measurements[0].trace.estimator == "exact"


def test_mccandlish2018_gives_the_noise_scale() -> None:
    found = analyze(SAMPLES / "digits-clean" / "step_00044.pt", preset="mccandlish2018", limit=100).table
    scale, ratio = found["noise_scale"][0], found["gradient_snr"][0]
    assert scale == pytest.approx(1 / ratio)
    assert found["noise_scale_se"][0] / scale == pytest.approx(found["gradient_snr_se"][0] / ratio)
    norm, covariance = found["gradient_norm_squared"][0], found["trace_covariance"][0]
    spread = covariance * 100 / 99
    assert scale == pytest.approx(spread / (norm - spread / 100))


@pytest.mark.parametrize("maximum", [2**24, 1])
def test_the_diagonal_is_that_of_the_dense_matrix(case: Case, maximum: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        "fisher_cli.curvature.traces.diagonal.MAXIMUM_VALUES", maximum
    )  # whole, and a gradient at a time
    monkeypatch.setattr(per_example_gradients, "MAXIMUM_VALUES", maximum)
    expected, found = reference_of(case), fisher_diagonal(Engine(problem_of(case)))
    assert list(found) == expected.names
    flat = torch.cat([found[name].reshape(-1) for name in expected.names])
    truth = expected.fisher.diagonal()
    assert float((flat - truth).abs().max()) <= 1e-10 * float(truth.max())
    assert float((flat.sum() - truth.sum()).abs()) <= 1e-10 * float(truth.sum())


def test_task2vec_writes_the_filters_means_without_the_head() -> None:
    words = ("analyze", CNN, "--preset", "task2vec", "--limit", 6, "--dtype", "float64", "-q")
    assert "add -o trend.csv" in fisher(*words, code=2).stderr
    fisher(*words, "-o", "run.csv")
    vector = pd.read_csv("run.task2vec.csv")
    network = digits_cnn()
    network.load_state_dict(torch.load(CNN, weights_only=True)["state_dict"])
    named = dict(network.named_parameters())
    weights = [name for name, each in named.items() if each.dim() > 1]
    first = weights[0]
    assert list(vector["layer"].drop_duplicates()) == weights[:-1]  # the last is the head
    for name, parameter in named.items():
        parameter.requires_grad_(name == first)
    expected = reference(network, *load_examples("digits", limit=6).batch(0, 6)).fisher.diagonal()
    by_filter = expected.reshape(named[first].shape).flatten(1).mean(1)
    rows = vector[vector["layer"] == first]
    assert list(rows["filter"]) == list(range(len(by_filter)))
    assert list(rows["task2vec"]) == pytest.approx(by_filter.tolist(), rel=1e-9)
    assert "run.task2vec.csv" in json.loads(Path("run.fisher/record.json").read_text())["tables"]
    assert analyze(CNN, preset="task2vec", limit=6).frame("task2vec")["task2vec"].notna().all()


@pytest.mark.parametrize(
    ("build", "head"), [(Residual, {"head.weight", "head.bias"}), (Attention, {"head.weight", "head.bias"})]
)
def test_the_head_is_the_layer_that_is_called_last(build: type[nn.Module], head: set[str]) -> None:
    case = next(each for each in CASES if each.build is build)
    problem = problem_of(case)
    assert set(problem.parameters) - set(without_head(problem).parameters) == head


def test_a_head_alone_cannot_be_left_out() -> None:
    case = case_of("linear")
    with pytest.raises(UsageError, match="no other parameter is left"):
        without_head(problem_of(case))


def test_weights_only_are_those_of_linear_and_convolutional_layers() -> None:
    found = set(select_parameters(Residual(), Settings(weights_only=True)))
    convolutions = {"stem.weight", "first.weight", "second.weight", "project.weight"}
    assert found == {*convolutions, "head.weight"}
    assert set(select_parameters(Residual(), Settings(weights_only=True, exclude=("head*",)))) == convolutions


def test_the_record_says_which_distribution_the_outputs_parameterise() -> None:
    """G2: one logit and two have Fishers that differ by a factor of two, so the record says which it is."""
    x, y = torch.randn(20, 3), torch.randint(0, 2, (20,))
    one, two = nn.Linear(3, 1, bias=False), nn.Linear(3, 2, bias=False)
    with torch.no_grad():
        two.weight.copy_(torch.cat([torch.zeros(1, 3), one.weight]))
    analyses = [analyze(model, data=(x, y), eigenvalues=0) for model in (one, two)]
    traces = [each.measurements[0].trace for each in analyses]
    assert traces[0] is not None
    assert traces[1] is not None
    assert traces[1].true.value == pytest.approx(2 * traces[0].true.value, rel=1e-5)
    said = [each.stable_metadata()["checkpoints"][0]["likelihood"] for each in analyses]
    assert said[0] == "sigmoid: one logit; the same classifier with two softmax logits would have twice this Fisher"
    assert said[1] == "softmax over 2 logits; the same classifier with one logit would have half this Fisher"
    ten = analyze(CLEAN, limit=5, eigenvalues=0).stable_metadata()["checkpoints"][0]["likelihood"]
    assert ten == "softmax over 10 logits"
    assert sweep(problem_of(case_of("regression"))).per_example.labels is None
