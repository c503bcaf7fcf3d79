"""Models and data as a notebook has them: every form gives the numbers of the plain one, and nothing is changed."""

import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, IterableDataset, SubsetRandomSampler, TensorDataset

from fisher_cli import analyze, compare, inspect
from fisher_cli.errors import DataError, UsageError

QUICK: dict[str, Any] = {"eigenvalues": 0}


def network(seed: int = 0) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return nn.Sequential(nn.Linear(5, 4), nn.Tanh(), nn.Linear(4, 3))


def pair(count: int = 12) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(count, 5, generator=generator)
    return inputs, torch.randint(3, (count,), generator=generator)


class Noisy(Dataset[Any]):
    """Augments its examples at random."""

    def __len__(self) -> int:
        return 12

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return torch.randn(5) + random.random(), index % 3


class Stream(IterableDataset[Any]):
    """Gives its examples one after the other."""

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        return iter(zip(*pair(), strict=True))


@pytest.fixture(scope="module")
def plain() -> Any:
    return analyze(network(), pair(), **QUICK).table


@pytest.mark.parametrize(
    "data",
    [
        tuple(each.numpy() for each in pair()),
        [pair()[0].numpy(), pair()[1]],
        (pair()[0].double().numpy(), pair()[1].int().numpy()),
        TensorDataset(*pair()),
        DataLoader(TensorDataset(*pair()), batch_size=5),
        DataLoader(TensorDataset(*pair()), batch_size=None),
        DataLoader(Stream(), batch_size=4),
        DataLoader(list(zip(*pair(), strict=True)), batch_size=3),  # type: ignore[arg-type]
    ],
    ids=["arrays", "mixed", "other kinds", "dataset", "loader", "loader of examples", "stream", "loader of a list"],
)
def test_data_in_every_form_are_the_same_examples(data: Any, plain: Any) -> None:
    found = analyze(network(), data, **QUICK).table
    assert found.equals(plain)


def test_a_limit_selects_the_same_examples_of_every_form() -> None:
    forms = [pair(), TensorDataset(*pair()), DataLoader(TensorDataset(*pair()), batch_size=5)]
    tables = [analyze(network(), data, limit=7, **QUICK).table for data in forms]
    assert tables[0]["examples"].tolist() == [7]
    assert all(table.equals(tables[0]) for table in tables)


@pytest.mark.parametrize(
    "loader",
    [
        DataLoader(TensorDataset(*pair()), shuffle=True),
        DataLoader(TensorDataset(*pair(2)), shuffle=True, generator=torch.Generator().manual_seed(1)),
        DataLoader(TensorDataset(*pair()), sampler=SubsetRandomSampler(range(5))),
        DataLoader(TensorDataset(*pair()), sampler=torch.utils.data.WeightedRandomSampler([1.0] * 12, 12)),
    ],
    ids=["shuffle", "two examples", "subset", "weighted"],
)
def test_a_shuffling_loader_is_refused_with_what_to_do(loader: Any) -> None:
    with pytest.raises(DataError, match=r"shuffles its examples \(\w+\), .* pass DataLoader\(.*shuffle=False\)"):
        analyze(network(), loader, **QUICK)


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (Noisy(), "example 0 is another each time it is read: leave out shuffling and random augmentation"),
        (DataLoader(Noisy(), batch_size=4), "the first batch is another each time it is read"),
        (TensorDataset(pair()[0]), r"example 0 is tuple, and not a pair \(input, label\)"),
        (TensorDataset(torch.zeros(0, 5), torch.zeros(0)), "the TensorDataset has no examples"),
        (DataLoader([("a", 1), ("b", 2)], batch_size=None), "an example holds str"),  # type: ignore[arg-type]
        ((np.array([["a"]]), np.array([1])), "an example holds ndarray"),
    ],
    ids=["random dataset", "random loader", "no pairs", "empty", "texts", "array of texts"],
)
def test_examples_that_cannot_be_used_are_refused(data: Any, said: str) -> None:
    with pytest.raises(DataError, match=said):
        analyze(network(), data, **QUICK)


def test_settings_of_named_datasets_are_refused_beside_tensors() -> None:
    with pytest.raises(UsageError, match="normalize= is for datasets by name"):
        analyze(network(), pair(), normalize="imagenet", **QUICK)


def test_reading_a_loader_draws_nothing_from_the_callers_generators() -> None:
    torch.manual_seed(3)
    states = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].tolist()  # type: ignore[index]
    analyze(network(), DataLoader(TensorDataset(*pair()), batch_size=5), **QUICK)
    with pytest.raises(DataError):
        analyze(network(), Noisy(), **QUICK)
    assert torch.equal(torch.get_rng_state(), states[0])
    assert random.getstate() == states[1]
    assert np.random.get_state()[1].tolist() == states[2]  # type: ignore[index]


def test_modules_by_name_stand_in_the_order_of_their_numbers() -> None:
    named = {"step_100": network(2), "step_20": network(1), "step_3": network(0)}
    found = analyze(named, pair(), **QUICK).table
    assert found["checkpoint"].tolist() == ["step_3", "step_20", "step_100"]
    assert found["step"].tolist() == [3, 20, 100]
    plain = analyze([network(0), network(1), network(2)], pair(), **QUICK).table
    assert found["trace_true"].tolist() == plain["trace_true"].tolist()
    assert found["kl_step"].equals(plain["kl_step"])
    words = analyze({"start": network(0), "end": network(1)}, pair(), **QUICK).table
    assert words["checkpoint"].tolist() == ["start", "end"]
    assert words["step"].isna().all()
    with pytest.raises(UsageError, match=r"two modules have one name among 1, '1'"):
        analyze({1: network(0), "1": network(1)}, pair(), **QUICK)  # type: ignore[dict-item]
    assert analyze({"epoch_2": network(0)}, pair(), **QUICK).table["epoch"].tolist() == [2]


def files(folder: Path) -> list[Path]:
    paths = [folder / f"step_{step}.pt" for step in (0, 10)]
    for seed, path in enumerate(paths):
        torch.save(network(seed).state_dict(), path)
    return paths


def make(width: int = 4) -> nn.Module:
    return nn.Sequential(nn.Linear(5, width), nn.Tanh(), nn.Linear(width, 3))


def test_files_take_their_network_from_a_module_a_function_or_a_name(tmp_path: Path) -> None:
    files(tmp_path)
    expected = analyze([network(0), network(1)], pair(), **QUICK).table["trace_true"].tolist()
    given = network(7)
    before = {name: value.clone() for name, value in given.state_dict().items()}
    for model in (given, make, lambda: make(), f"{__name__}:make"):
        found = analyze(tmp_path, pair(), model=model, **QUICK)
        assert found.table["trace_true"].tolist() == pytest.approx(expected, rel=1e-6)
        assert found.table["step"].tolist() == [0, 10]
    for name, value in given.state_dict().items():
        assert torch.equal(value, before[name])
    wide = analyze(tmp_path, pair(), model=make, model_arguments={"width": 6}, **QUICK)
    assert wide.table["status"].tolist() == ["rejected", "rejected"]
    with pytest.raises(UsageError, match="model= is for checkpoint files"):
        analyze(network(), pair(), model=given, **QUICK)


def test_a_row_is_known_again_only_with_the_same_network_and_data(tmp_path: Path) -> None:
    files(tmp_path)
    output = tmp_path / "t.csv"
    first = analyze(tmp_path, pair(), model=network(), output=output, **QUICK)
    again = analyze(tmp_path, pair(), model=network(3), output=output, **QUICK)
    assert again.table.equals(first.table)
    other = nn.Sequential(nn.Linear(5, 4), nn.ReLU(), nn.Linear(4, 3))
    for words in ({"model": other, "data": pair()}, {"model": network(), "data": (pair()[0] + 1, pair()[1])}):
        with pytest.raises(UsageError.__mro__[1], match="force=True"):
            analyze(tmp_path, output=output, **words, **QUICK)


def test_files_are_inspected_with_a_module_and_tensors(tmp_path: Path) -> None:
    paths = files(tmp_path)
    survey = inspect(tmp_path, model=network())
    assert survey.table["status"].tolist() == ["ok", "ok"]
    assert survey.coverage is None
    assert repr(survey) == "2 checkpoints: 2 of 2 checkpoints can be analysed: Sequential, steps 0 to 10."
    covered = inspect(paths[0], pair(), model=network())
    assert covered.coverage is not None
    assert len(covered.coverage) == 4
    assert covered.save(tmp_path / "files.csv").exists()
    assert (tmp_path / "files.layers.csv").exists()
    assert "weights_key" in covered._repr_html_()
    with pytest.raises(UsageError, match="give paths, and for modules call analyze"):
        inspect(network())  # type: ignore[arg-type]


def test_the_callers_module_comes_back_as_it_was() -> None:
    module = nn.Sequential(nn.Linear(5, 4), nn.BatchNorm1d(4), nn.Dropout(0.5), nn.Linear(4, 3)).double()
    module.train()
    module[0].weight.requires_grad_(False)
    module[3].eval()
    calls: list[int] = []
    module[0].register_forward_hook(lambda *_: calls.append(1))
    module(pair()[0].double())
    hooks = dict(module[0]._forward_hooks)
    state = {name: value.clone() for name, value in module.state_dict().items()}
    wishes = [parameter.requires_grad for parameter in module.parameters()]
    pointers = [parameter.data_ptr() for parameter in module.parameters()]
    for function in (analyze, compare):
        function(module, pair(), dtype="float32", recalibrate_bn=True)
    assert [each.training for each in module.modules()] == [True, True, True, True, False]
    assert [parameter.requires_grad for parameter in module.parameters()] == wishes
    assert [parameter.data_ptr() for parameter in module.parameters()] == pointers
    assert all(parameter.grad is None for parameter in module.parameters())
    assert dict(module[0]._forward_hooks) == hooks
    assert not module[1]._forward_hooks
    for name, value in module.state_dict().items():
        assert value.dtype == state[name].dtype
        assert torch.equal(value, state[name]), name
