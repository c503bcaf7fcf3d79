"""No wrong number is printed as ok by `analyze` and let through by `verify`; right networks that look wrong are right.

A wrong network passes where `analyze` refuses it, or its row says what is wrong, or `verify` has an identity that
fails. By default a seeded part of the networks is tried, each under one batch size and seed; with `make test-long` all
of them under all of theirs. The counts are shown at the end.
"""

import random
from collections import Counter
from collections.abc import Callable, Iterator
from functools import cache

import numpy as np
import pandas as pd
import pytest
import torch
from torch import Tensor, nn

from fisher_cli import analyze, verify
from fisher_cli.errors import FisherError
from tests.long_lists import draw
from tests.reference import layer_traces
from tests.wrong_networks import chance, coupling, derivatives, detached, layouts, states
from tests.wrong_networks.networks import BATCH, FEATURES, Network, data

NETWORKS = [
    network for module in (derivatives, detached, chance, coupling, layouts, states) for network in module.NETWORKS
]
WRONG = [network for network in NETWORKS if network.must_be != "right"]
RIGHT = [network for network in NETWORKS if network.must_be == "right"]
# What autograd and torch's own layers say about such networks.
pytestmark = [
    pytest.mark.filterwarnings("ignore:.*:UserWarning"),
    pytest.mark.filterwarnings("ignore:.*:FutureWarning"),
]

Rounds = list[tuple[int | None, int]]
Tally = Callable[[str, object], None]


def some_once_all_always(networks: list[Network], part: float) -> list[object]:
    """A part of them in one round, the same ones every time; and all of them in every round for `make test-long`."""
    return [
        *(pytest.param(each, [each.one_round], id=each.name) for each in draw(networks, part)),
        *(pytest.param(each, each.rounds, id=f"{each.name}, every round", marks=pytest.mark.long) for each in networks),
    ]


def set_chance(seed: int) -> None:
    torch.manual_seed(seed)
    random.seed(seed)
    np.random.seed(seed)


@cache
def expected(network: Network) -> dict[str, tuple[float, float]]:
    """The right traces, true and empirical, of every parameter."""
    return layer_traces(network.right(), *network.data())


def printed(network: Network, batch_size: int | None, seed: int) -> pd.DataFrame | str:
    """The layers' traces that `analyze` gives as ok, or why it does not."""
    model, (inputs, labels) = network.make(), network.data()
    set_chance(seed)
    try:
        found = analyze(model, (inputs, labels), eigenvalues=0, batch_size=batch_size, precision=network.precision)
    except FisherError as error:
        return str(error)
    (row,) = found.table.itertuples()
    return found.layers if row.status == "ok" and pd.isna(row.error) else str(row.error)


def failed(network: Network, batch_size: int | None, seed: int) -> str:
    """What `verify` says against the network: the identities that fail, or its refusal; empty where nothing."""
    model, (inputs, labels) = network.make(), network.data()
    set_chance(seed + 1000)
    try:
        found = verify(model, (inputs, labels), batch_size=batch_size).identities
    except FisherError as error:
        return str(error)
    return ", ".join(found.loc[found["verdict"] == "fail", "identity"])


def differences(network: Network, layers: pd.DataFrame) -> dict[str, str]:
    """Traces that are not the right ones, by parameter."""
    right = expected(network)
    assert set(layers["layer"]) == set(right)
    scale = sum(true for true, _ in right.values())
    wrong = {}
    for row in layers.itertuples():
        for found, own in zip((row.trace_true, row.trace_empirical), right[row.layer], strict=True):
            if not abs(found - own) <= network.tolerance * own + 1e-14 * scale:
                wrong[row.layer] = f"{found:.6g} for {own:.6g}"
    return wrong


@pytest.mark.parametrize(("network", "rounds"), some_once_all_always(WRONG, 0.15))
def test_a_wrong_network_is_refused_or_named(network: Network, rounds: Rounds, record_property: Tally) -> None:
    found_by, missed = set(), []
    for batch_size, seed in rounds:
        layers = printed(network, batch_size, seed)
        if isinstance(layers, str):
            found_by.add("analyze")
        elif network.must_be == "right or refused" and not differences(network, layers):
            found_by.add("no one, its numbers being right,")
        elif failed(network, batch_size, seed):
            found_by.add("verify")
        else:
            missed.append((batch_size, seed, differences(network, layers)))
    found = "printed as ok and missed" if missed else f"found by {' and '.join(sorted(found_by))}"
    record_property("tally", f"wrong networks, {network.kind}: {found.rstrip(',')}")
    assert not missed, f"printed as ok, and nothing fails in verify (batch size, seed, found for right): {missed}"


@pytest.mark.parametrize(("network", "rounds"), some_once_all_always(RIGHT, 0.15))
def test_a_right_network_that_looks_wrong_is_right(network: Network, rounds: Rounds, record_property: Tally) -> None:
    for batch_size, seed in network.rounds:
        model, (inputs, labels) = network.make(), network.data()
        set_chance(seed)
        layers = analyze(model, (inputs, labels), eigenvalues=0, batch_size=batch_size, precision="float64").layers
        assert differences(network, layers) == {}, batch_size
    for batch_size, seed in rounds:
        assert failed(network, batch_size, seed) == "", batch_size
    record_property("tally", f"right networks beside the wrong ones, {network.kind}: right")


# The suite's own faults: a network that is not wrong would be a test that cannot fail.


def evaluations(network: Network) -> Iterator[Tensor]:
    """The outputs of all examples: together, with others, in batches, alone, and together once more."""
    inputs = network.data()[0].double()
    known = network.make().double()
    for seed in range(400):
        set_chance(seed)
        yield known(inputs)
        yield network.make().double()(torch.cat([inputs, inputs + 1]))[: len(inputs)]
        for size in (BATCH, 1):
            model = network.make().double()
            yield torch.cat([model(inputs[start : start + size]) for start in range(0, len(inputs), size)])


def outputs_differ(network: Network) -> bool:
    """Whether an example's outputs depend on the company it is evaluated in, on the call, or on chance."""
    with torch.no_grad():
        found = evaluations(network)
        first = next(found)
        return any(not torch.allclose(first, other, rtol=1e-9, atol=1e-12) for other in found)


def gradients(model: nn.Module, inputs: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
    """The outputs, and their gradients along fixed random directions, one by tensor."""
    outputs = model.double()(inputs.double())
    direction = torch.randn(outputs.shape, generator=torch.Generator().manual_seed(1)).double()
    parameters = dict(model.named_parameters())
    found = torch.autograd.grad(outputs, list(parameters.values()), direction, allow_unused=True)
    return outputs.detach(), {
        name: torch.zeros_like(parameter) if part is None else part
        for (name, parameter), part in zip(parameters.items(), found, strict=True)
    }


@pytest.mark.parametrize(
    "network",
    [network for network in WRONG if network.kind in {chance.KIND, coupling.KIND} and network.must_be == "refused"],
    ids=lambda network: network.name,
)
def test_an_example_has_other_outputs_in_other_company_at_another_time_or_by_chance(network: Network) -> None:
    assert outputs_differ(network)


@pytest.mark.parametrize(
    "network",
    [network for network in WRONG if network.kind in {derivatives.KIND, detached.KIND}],
    ids=lambda network: network.name,
)
def test_the_outputs_are_those_of_the_twin_and_the_gradients_are_not(network: Network) -> None:
    inputs, _ = network.data()
    outputs, wrong = gradients(network.make(), inputs)
    of_twin, right = gradients(network.right(), inputs)
    assert torch.allclose(outputs, of_twin, rtol=1e-12)
    assert any(
        float((wrong[name] - right[name]).norm()) > 5e-4 * max(float(right[name].norm()), 1e-9) for name in right
    )


def test_there_are_enough_of_every_kind() -> None:
    refused = Counter(network.kind for network in WRONG)
    assert sum(refused.values()) >= 60
    assert min(refused[kind] for kind in (chance.KIND, coupling.KIND, detached.KIND, derivatives.KIND)) >= 10
    factors = {name.rpartition(" ")[2] for name in (each.name for each in WRONG) if ", times " in name}
    assert {f"{factor:g}" for factor in derivatives.FACTORS} <= factors
    assert max(Counter(network.name for network in NETWORKS).values()) == 1
    assert len(RIGHT) >= 20


def test_the_examples_are_what_the_networks_go_by() -> None:
    inputs, _ = data()
    assert inputs.shape[1] == FEATURES
    assert (inputs[:-BATCH, 0] < 1.5).all()
    assert (inputs[-BATCH:, 0] > 1.5).all()
    assert len(inputs[:, 0].unique()) == len(inputs)
