"""`analyze` with modules and tensors: generators that reload one module, lists that repeat it, limits, labels."""

import copy
import itertools
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from fisher_cli import analyze, compare, verify
from fisher_cli.errors import CheckpointError, DataError, FisherError, RecordError, UsageError
from fisher_cli.inputs.networks.digits_networks import digits_mlp
from fisher_cli.tables.build import to_csv
from tests.cases import mlp, unsettle
from tests.loading import load_examples
from tests.reference import reference
from tests.small_run import measured_from_now_on

States = list[dict[str, Tensor]]


def trained() -> tuple[nn.Module, States, tuple[Tensor, Tensor]]:
    """A network with batch norm, its weights and statistics at three times, and examples."""
    torch.manual_seed(5)
    network = nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.Tanh(), nn.Linear(6, 3))
    unsettle(network)
    states = list[dict[str, Tensor]]()
    for _ in range(3):
        states.append(copy.deepcopy(network.state_dict()))
        with torch.no_grad():
            for tensor in (*network.parameters(), network[1].running_mean):
                tensor += 0.2 * torch.randn_like(tensor)
    return network, states, (torch.randn(20, 4), torch.randint(3, (20,)))


def reloaded(network: nn.Module, states: States) -> Iterator[nn.Module]:
    for state in states:
        network.load_state_dict(state)
        yield network


def copies(network: nn.Module, states: States) -> list[nn.Module]:
    return [copy.deepcopy(each) for each in reloaded(network, states)]


@pytest.mark.parametrize("words", [{"eigenvalues": 2}, {"eigenvalues": 0, "movement": False}])
def test_a_generator_that_reloads_one_module_gives_the_rows_of_separate_modules(words: dict[str, Any]) -> None:
    network, states, data = trained()
    separate = analyze(copies(network, states), data, precision="float64", **words)
    found = analyze(reloaded(network, states), data, precision="float64", **words)
    assert found.table.equals(separate.table)
    assert found.layers.equals(separate.layers)
    assert found.table["trace_true"].nunique() == 3
    for module, trace in zip(copies(network, states), found.table["trace_true"], strict=True):
        assert trace == pytest.approx(
            float(reference(module.double().eval(), data[0].double(), data[1]).fisher.trace()), rel=1e-9
        )


def test_the_movement_of_a_reloaded_module_is_the_divergence_of_its_outputs() -> None:
    network, states, data = trained()
    table = analyze(reloaded(network, states), data, precision="float64", eigenvalues=0).table
    outputs = [
        torch.distributions.Categorical(logits=module.double().eval()(data[0].double()).detach())
        for module in copies(network, states)
    ]
    steps = [float(torch.distributions.kl_divergence(*pair).mean()) for pair in itertools.pairwise(outputs)]
    assert table["kl_step"][1:].tolist() == pytest.approx(steps, rel=1e-9)


def test_a_module_is_measured_before_the_next_one_is_asked_for() -> None:
    network, states, data = trained()
    seen = list[float]()

    def watched() -> Iterator[nn.Module]:
        for each in reloaded(network, states):
            yield each
            # What a training loop does between two checkpoints reaches no row.
            seen.append(float(each[0].weight.detach().sum()))
            with torch.no_grad():
                each[0].weight.zero_()

    found = analyze(watched(), data, eigenvalues=0).table
    assert seen == pytest.approx([float(state["0.weight"].sum()) for state in states], rel=1e-5)
    assert found.equals(analyze(copies(network, states), data, eigenvalues=0).table)


def test_a_generator_of_one_module_gives_what_the_module_gives() -> None:
    network, _, data = trained()
    assert analyze(iter([network]), data, eigenvalues=1).table.equals(analyze(network, data, eigenvalues=1).table)


def test_a_module_that_stands_twice_in_what_is_given_at_once_is_refused() -> None:
    network, _, data = trained()
    other = copy.deepcopy(network)
    for given in ([network, other, network], (network, other, network), {1: network, 2: other, 3: network}.values()):
        with pytest.raises(UsageError, match=r"modules 0 and 2 are one object.*generator.*deepcopy"):
            analyze(given, data, eigenvalues=0)
    assert len(analyze([network, other], data, eigenvalues=0).table) == 2


def test_a_generator_of_modules_yields_nothing_else() -> None:
    network, _, data = trained()
    with pytest.raises(UsageError, match="after 1 modules came str"):
        analyze(iter([network, "step_0.pt"]), data, eigenvalues=0)
    with pytest.raises(CheckpointError, match="no checkpoints given"):
        analyze((each for each in ()), data)


def test_constants_are_not_chosen_by_a_module_that_is_yet_to_come() -> None:
    words: dict[str, Any] = {"limit": 20, "eigenvalues": 0, "normalize": "auto"}
    torch.manual_seed(0)
    network = digits_mlp()
    with pytest.raises(UsageError, match="'auto' asks the last module, which a generator has not made yet"):
        analyze(iter([network]), "digits", **words)
    assert len(analyze([network], "digits", **words).table) == 1


def test_a_limit_selects_of_tensors_what_it_selects_of_a_dataset() -> None:
    torch.manual_seed(0)
    network, everything = digits_mlp(), load_examples("digits", limit=None)
    data = everything.batch(0, len(everything))
    for seed in (0, 4):
        words: dict[str, Any] = {"limit": 10, "seed": seed, "eigenvalues": 0}
        by_name, by_tensors = analyze(network, "digits", **words), analyze(network, data, **words)
        assert by_tensors.table["examples"].tolist() == [10]
        assert by_tensors.table["trace_true"].tolist() == by_name.table["trace_true"].tolist()
        assert by_tensors.settings.limit == 10
        assert by_tensors.data == {"name": "tensors", "examples": 10}


def test_without_a_limit_tensors_are_taken_whole() -> None:
    network, inputs, labels = mlp(2, 3), torch.randn(1200, 2), torch.randint(3, (1200,))
    for words in ({}, {"limit": None}, {"limit": 5000}, {"preset": "mccandlish2018"}):
        assert analyze(network, (inputs, labels), **{"eigenvalues": 0, **words}).table["examples"].tolist() == [1200]
    assert analyze(network, (inputs, labels), preset="ye2022").table["examples"].tolist() == [1000]
    with pytest.raises(UsageError, match="at least 1 example is needed"):
        analyze(network, (inputs, labels), limit=0)


def test_identities_are_verified_on_all_of_the_tensors_or_on_so_many() -> None:
    network, data = mlp(2, 3), (torch.randn(40, 2), torch.randint(3, (40,)))
    assert [verify(network, data, **words).data["examples"] for words in ({}, {"limit": 12})] == [40, 12]


NAN = float("nan")


@pytest.mark.parametrize(
    ("likelihood", "outputs", "labels", "said"),
    [
        ("sigmoid", 1, torch.full((8,), 1.7), "running from 1.7 to 1.7 do not fit"),
        ("sigmoid", 1, torch.full((8,), -0.7), "running from -0.7 to -0.7 do not fit"),
        ("sigmoid", 1, torch.full((8,), 0.5), "labels 0 or 1"),
        ("sigmoid", 1, torch.full((8,), NAN), "running from nan to nan do not fit"),
        ("sigmoid", 1, torch.tensor([0.0, 1.0, 1.0, NAN]).repeat(2), "do not fit"),
        ("sigmoid", 1, torch.full((8,), 2), "running from 2 to 2 do not fit"),
        ("sigmoid", 3, torch.full((8,), 1.5), "classes 0 to 2, or 3 labels 0 or 1 each"),
        ("sigmoid", 3, torch.full((8, 3), 0.5), "do not fit"),
        ("sigmoid", 3, torch.full((8, 3), NAN), "do not fit"),
        ("sigmoid", 3, torch.ones(8, 2), "do not fit"),
        ("sigmoid", 3, torch.ones(8, 3, 1), "do not fit"),
        ("gaussian", 1, torch.full((8,), NAN), "the targets of 8 of 8 examples are NaN or infinite"),
        ("gaussian", 2, torch.tensor([[0.0, float("inf")]] + 7 * [[0.0, 0.0]]), "of 1 of 8 examples"),
        ("gaussian", 3, torch.full((8,), 1.5), "do not fit a Gaussian network with 3 outputs"),
        ("gaussian", 3, torch.full((8, 2), 1.5), "do not fit a Gaussian network with 3 outputs"),
        ("softmax", 3, torch.full((8,), 1.5), "one integer label per example, the data has float32 labels"),
        ("softmax", 3, torch.ones(8, 3), "one integer label per example"),
        ("softmax", 3, torch.full((8,), 3), "labels run from 3 to 3"),
        ("softmax", 1, torch.zeros(8, dtype=torch.long), "softmax over one output has probability 1 always"),
    ],
)
def test_labels_that_the_likelihood_gives_no_probability_are_refused(
    likelihood: str, outputs: int, labels: Tensor, said: str
) -> None:
    with pytest.raises(DataError, match=said) as caught:
        analyze(nn.Linear(4, outputs), (torch.randn(8, 4), labels), likelihood=likelihood, eigenvalues=0)
    assert len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize(
    ("likelihood", "outputs", "labels"),
    [
        ("sigmoid", 1, torch.tensor([0.0, 1.0] * 4)),
        ("sigmoid", 1, torch.tensor([False, True] * 4)),
        ("sigmoid", 1, torch.tensor([[0], [1]] * 4)),
        ("sigmoid", 3, torch.tensor([0, 2] * 4)),
        ("sigmoid", 3, torch.tensor([[0.0, 1.0, 1.0]] * 8)),
        ("gaussian", 1, torch.tensor([-3.5, 1e9] * 4)),
        ("gaussian", 3, torch.tensor([0, 2] * 4)),
        ("softmax", 2, torch.tensor([0, 1] * 4, dtype=torch.uint8)),
    ],
)
def test_labels_that_it_gives_a_probability_are_taken(likelihood: str, outputs: int, labels: Tensor) -> None:
    found = analyze(nn.Linear(4, outputs), (torch.randn(8, 4), labels), likelihood=likelihood, eigenvalues=0)
    assert found.table["status"].tolist() == ["ok"]


def test_networks_without_anything_to_analyse_are_refused_in_words() -> None:
    data = (torch.randn(8, 4), torch.randint(3, (8,)))
    with pytest.raises(UsageError, match=r"all 2 parameters are frozen: .*requires_grad_\(True\)"):
        analyze(nn.Linear(4, 3).requires_grad_(False), data)
    with pytest.raises(UsageError, match="the network has no parameters"):
        analyze(nn.Flatten(), data)


# --- rows that are kept


@pytest.fixture
def measured(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the rows that are measured from now on."""
    return measured_from_now_on(monkeypatch)


@pytest.mark.parametrize("given", [copies, reloaded])
def test_modules_that_were_measured_before_are_not_measured_again(
    given: Callable[[nn.Module, States], Iterable[nn.Module]], tmp_path: Path, measured: list[str]
) -> None:
    network, states, data = trained()
    words: dict[str, Any] = {"precision": "float64", "eigenvalues": 2}
    whole = analyze(given(network, states), data, **words)
    measured.clear()
    analyze(given(network, states[:2]), data, output=tmp_path / "r.csv", **words)
    found = analyze(given(network, states), data, output=tmp_path / "r.csv", **words)
    assert measured == ["module-0", "module-1", "module-2"]
    assert found.table.equals(whole.table)
    assert found.layers.equals(whole.layers)
    assert (tmp_path / "r.csv").read_text() == to_csv(whole.table)
    again = analyze(given(network, states), data, output=tmp_path / "r.csv", **words)
    assert measured == ["module-0", "module-1", "module-2"]
    assert again.table.equals(whole.table)
    (tmp_path / "r.csv").unlink()
    newcomer = analyze(given(network, [states[1], states[2], states[0]]), data, output=tmp_path / "r.csv", **words)
    assert measured == ["module-0", "module-1", "module-2"]
    expected = analyze(given(network, [states[1], states[2], states[0]]), data, **words)
    assert newcomer.table.equals(expected.table)


def test_modules_are_given_back_as_they_came_when_their_rows_are_recalled(tmp_path: Path) -> None:
    network, states, data = trained()
    network.train()
    for _ in range(2):
        analyze(copies(network, states)[:2], data, output=tmp_path / "r.csv", eigenvalues=0)
        (given,) = copies(network, states[:1])
        before = copy.deepcopy(given.state_dict())
        analyze(given, data, output=tmp_path / "r.csv", eigenvalues=0)
        assert given.training
        assert all(torch.equal(before[name], tensor) for name, tensor in given.state_dict().items())


class Scaled(nn.Linear):
    """A layer whose outputs depend on a number that is no tensor."""

    factor = 1.0

    def forward(self, inputs: Tensor) -> Tensor:
        return self.factor * super().forward(inputs)


def test_a_module_that_computes_something_else_is_measured_anew(tmp_path: Path, measured: list[str]) -> None:
    data = torch.randn(8, 4), torch.randint(3, (8,))
    module = Scaled(4, 3)
    changes: list[Callable[[], object]] = [
        lambda: None,
        lambda: setattr(module, "factor", 2.0),
        lambda: module.weight.data.mul_(2),
        lambda: module.bias.requires_grad_(False),
        lambda: module.register_forward_hook(lambda _module, _given, outputs: outputs + outputs.square()),
    ]
    for change in changes:
        change()
        for _ in range(2):
            found = analyze(module, data, output=tmp_path / "r.csv", eigenvalues=0)
            assert found.table.equals(analyze(module, data, eigenvalues=0).table)
    # Each of them once for the file, and each time without one.
    assert len(measured) == len(changes) + 2 * len(changes)


def test_other_tensors_are_another_question(tmp_path: Path) -> None:
    network, data = mlp(2, 3), (torch.randn(12, 2), torch.randint(3, (12,)))
    analyze(network, data, output=tmp_path / "r.csv", eigenvalues=0)
    with pytest.raises(RecordError, match=r"made with other settings: data.identity was"):
        analyze(network, (data[0], (data[1] + 1) % 3), output=tmp_path / "r.csv", eigenvalues=0)


def test_rows_that_were_finished_before_a_module_failed_are_kept(tmp_path: Path, measured: list[str]) -> None:
    network, states, data = trained()
    broken = {name: tensor * NAN for name, tensor in states[2].items()}
    broken["1.num_batches_tracked"] = states[2]["1.num_batches_tracked"]
    with pytest.raises(FisherError):
        analyze(reloaded(network, [*states[:2], broken]), data, output=tmp_path / "r.csv", eigenvalues=0)
    assert (tmp_path / "r.csv").read_text().count("\n") == 3
    measured.clear()
    found = analyze(reloaded(network, states), data, output=tmp_path / "r.csv", eigenvalues=0)
    assert measured == ["module-2"]
    assert found.table.equals(analyze(copies(network, states), data, eigenvalues=0).table)


def test_what_compare_and_verify_find_goes_into_files_beside_those_of_analyze(tmp_path: Path) -> None:
    network, data = mlp(2, 3), (torch.randn(12, 2), torch.randint(3, (12,)))
    for act, word in ((compare, "compare"), (verify, "verify")):
        act(network, data, output=tmp_path / "r.csv")
        assert (tmp_path / f"r.{word}.csv").exists()
    assert not (tmp_path / "r.csv").exists()
