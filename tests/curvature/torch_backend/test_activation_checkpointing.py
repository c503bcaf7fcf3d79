"""Activations that are computed anew: the same numbers to the last bit, and fewer bytes in a deep network."""

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.multiprocessing.reductions import StorageWeakRef  # type: ignore[attr-defined]
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from fisher_cli.curvature.gradient_norms.engine import Engine
from fisher_cli.curvature.problem.problem import Problem, TensorData, pose
from fisher_cli.curvature.torch_backend.activation_checkpointing import Block, blocks_of
from fisher_cli.curvature.traces.traces import sweep
from fisher_cli.errors import ArchitectureError, UsageError
from fisher_cli.run.parameters import recomputing as posed_anew
from tests.command import fisher


class Inner(nn.Module):
    """A residual block that adds and rectifies in place, with batch norm and dropout in evaluation."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(width, width, 3, padding=1), nn.Conv2d(width, width, 3, padding=1)
        self.norm, self.relu, self.dropout = nn.BatchNorm2d(width), nn.ReLU(inplace=True), nn.Dropout(0.5)

    def forward(self, x: Tensor) -> Tensor:
        y = self.second(self.dropout(self.relu(self.norm(self.first(x)))))
        y += x
        return self.relu(y)


class Greedy(nn.Module):
    """A block that works in place on what it is given."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.layer = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        x.mul_(2)
        outputs: Tensor = self.layer(torch.tanh(x))
        return outputs


def images() -> nn.Module:
    blocks = [Inner(4) for _ in range(5)]
    layers = [nn.Conv2d(2, 4, 3), nn.Sequential(*blocks), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3)]
    return nn.Sequential(*layers)


def flat() -> nn.Module:
    return nn.Sequential(*[each for _ in range(12) for each in (nn.Linear(6, 6), nn.Tanh())], nn.Linear(6, 3))


def in_place() -> nn.Module:
    return nn.Sequential(nn.Linear(6, 6), *[Greedy(6) for _ in range(6)], nn.LeakyReLU(inplace=True), nn.Linear(6, 3))


class Tied(nn.Module):
    """One block used three times, its weight tied to another layer's, keyword arguments, a tuple passed on."""

    class Part(nn.Module):
        """A block of two inputs."""

        def __init__(self) -> None:
            super().__init__()
            self.layer, self.norm = nn.Linear(6, 6), nn.LayerNorm(6)

        def forward(self, pair: tuple[Tensor, Tensor], *, scale: float = 1.0) -> tuple[Tensor, Tensor]:
            x, y = pair
            return torch.tanh(self.layer(self.norm(x))) * scale + y, x

    def __init__(self) -> None:
        super().__init__()
        self.parts = nn.ModuleList(self.Part() for _ in range(3))
        self.again, self.head = nn.Linear(6, 6, bias=False), nn.Linear(6, 3)
        self.again.weight = self.parts[0].layer.weight  # type: ignore[union-attr, assignment]
        self.bare = nn.Parameter(torch.randn(6))

    def forward(self, x: Tensor) -> Tensor:
        pair = (x + self.bare, self.again(x))
        for part in (*self.parts, self.parts[1]):
            pair = part(pair, scale=0.5)
        outputs: Tensor = self.head(pair[0])
        return outputs


def transformer() -> nn.Module:
    layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
    encoder = nn.TransformerEncoder(layer, 4, enable_nested_tensor=False)
    return nn.Sequential(encoder, nn.Flatten(), nn.Linear(40, 3))


NETWORKS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "residual, in place": (images, (2, 8, 8)),
    "single layers": (flat, (6,)),
    "inputs changed": (in_place, (6,)),
    "tied and reused": (Tied, (6,)),
    "transformer": (transformer, (5, 8)),
}


def problem_of(name: str) -> Problem:
    torch.manual_seed(0)
    make, shape = NETWORKS[name]
    data = TensorData(torch.randn(6, *shape, dtype=torch.float64), torch.arange(6) % 3)
    return pose(make().double(), data, batch_size=3)


def recomputing(problem: Problem) -> Problem:
    return replace(problem, blocks=blocks_of(problem.model, problem.slice(0, 1).inputs))


@pytest.mark.ci
@pytest.mark.parametrize("estimator", ["exact", "deflated"])
@pytest.mark.parametrize("name", NETWORKS)
def test_all_numbers_are_the_same_bit_by_bit(name: str, estimator: str) -> None:
    problem = problem_of(name)
    other = recomputing(problem)
    assert other.blocks
    expected, found = (sweep(each, estimator=estimator) for each in (problem, other))
    assert found.trace == expected.trace
    assert torch.equal(found.mean_gradient, expected.mean_gradient)
    assert found.ledger == expected.ledger
    assert found.check == expected.check
    assert not any("forward" in vars(module) for module in problem.model.modules())


def test_a_block_that_changes_its_input_is_known_after_one_batch() -> None:
    problem = recomputing(problem_of("inputs changed"))
    Engine(problem).evaluate(problem.slice(0, 3))
    assert any(block.in_place for block in problem.blocks)


class _Storages(TorchDispatchMode):
    """Remembers every storage that an operation returned, without holding it."""

    def __init__(self) -> None:
        super().__init__()
        self.found: dict[int, tuple[StorageWeakRef, int]] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for each in tree_leaves(result):
            if isinstance(each, Tensor):
                storage = each.untyped_storage()
                self.found[storage._cdata] = (StorageWeakRef(storage), storage.nbytes())
        return result


def held_bytes(problem: Problem) -> int:
    """Bytes that the forward pass of a batch leaves behind: saved tensors and inputs of calls, each storage once."""
    engine = Engine(problem)
    engine.evaluate(problem.slice(0, 3))  # the layouts are known from here on
    with _Storages() as storages:
        evaluated = engine.evaluate(problem.slice(0, 3))
    held = sum(size for storage, size in storages.found.values() if not storage.expired())
    assert evaluated.outputs.requires_grad
    return held


@pytest.mark.parametrize("depth", [16, 64])
def test_what_the_forward_pass_leaves_behind_grows_with_the_blocks_inputs_alone(depth: int) -> None:
    """What a residual block is given is one of the tensors that it saves."""
    torch.manual_seed(0)
    blocks = [Inner(4) for _ in range(depth)]
    network = nn.Sequential(nn.Conv2d(2, 4, 3), *blocks, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3))
    data = TensorData(torch.randn(3, 2, 18, 18), torch.arange(3))
    problem = pose(network, data, batch_size=3)
    one = 3 * 4 * 16 * 16 * 4
    kept, anew = held_bytes(problem), held_bytes(recomputing(problem))
    assert kept >= 3 * depth * one
    assert anew <= 1.5 * math.sqrt(6 * depth) * one + kept / depth


def test_no_numbers_are_changed_by_a_block_that_is_not_deterministic() -> None:
    """It is refused: the coupling is not found by the check where it is left out."""

    class Chance(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer, self.calls = nn.Linear(6, 6), 0

        def forward(self, x: Tensor) -> Tensor:
            self.calls += 1
            outputs: Tensor = torch.tanh(self.layer(x)) * self.calls
            return outputs

    data = TensorData(torch.randn(6, 6), torch.arange(6) % 3)
    problem = pose(nn.Sequential(*[Chance() for _ in range(5)], nn.Linear(6, 3)), data, batch_size=3)
    with pytest.raises(ArchitectureError, match="does not compute the same twice"):
        sweep(recomputing(problem), verify=False)


def test_blocks_are_even_shares_of_the_activations() -> None:
    torch.manual_seed(0)
    [block] = blocks_of(flat(), torch.randn(1, 6))
    assert block == Block("", (*(range(start, start + 4) for start in range(0, 20, 4)), range(20, 25)))
    named = {block.name for block in blocks_of(Tied(), torch.randn(1, 6))}
    assert named == {"parts.0", "parts.1", "parts.2"}


NETWORK = """
from torch import nn

def make():
    blocks = [nn.Sequential(nn.Linear(64, 64), nn.Tanh(), nn.Linear(64, 64)) for _ in range(12)]
    return nn.Sequential(nn.Flatten(), *blocks, nn.Linear(64, 10))

def plain():
    return nn.Linear(64, 10)
"""


@pytest.fixture
def folder(workdir: Path) -> Path:
    (workdir / "net.py").write_text(NETWORK)
    names: dict[str, Any] = {}
    exec(NETWORK, names)
    for step in range(2):
        torch.manual_seed(step)
        torch.save(names["make"]().state_dict(), workdir / f"step{step}.pt")
    torch.save(names["plain"]().state_dict(), workdir / "plain.pt")
    return workdir


ASKED = ["--limit", "12", "--model", "./net.py:make", "--eigenvalues", "0", "-b", "4"]


def test_the_command_writes_the_same_tables(folder: Path) -> None:
    for name in ("keep", "recompute"):
        words = ["analyze", "step0.pt", "step1.pt", *ASKED, "--activations", name, "-o", f"{name}.csv"]
        fisher(*words)
    for suffix in (".csv", ".layers.csv"):
        assert (folder / f"keep{suffix}").read_bytes() == (folder / f"recompute{suffix}").read_bytes()


@pytest.mark.usefixtures("folder")
def test_what_it_cannot_do_is_refused_in_one_line_with_what_to_type() -> None:
    with_eigenvalues = ["analyze", "step0.pt", *ASKED, "--activations", "recompute", "--eigenvalues", "2"]
    assert "add --eigenvalues 0" in fisher(*with_eigenvalues, code=2).stderr


def test_a_network_without_blocks_is_refused() -> None:
    problem = pose(nn.Linear(6, 3), TensorData(torch.randn(6, 6), torch.arange(6) % 3), batch_size=3)
    with pytest.raises(UsageError, match="no blocks were found"):
        posed_anew(problem)
