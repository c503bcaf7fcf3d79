"""What a large network costs in memory: a few times its parameters; and a deep one, by its depth."""

import gc
import tracemalloc
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path

import pytest
import safetensors.torch
import torch
from torch import Tensor, nn

from fisher_cli.curvature.problem.problem import TensorData, pose
from fisher_cli.curvature.spectra.eigensystems import matrices
from fisher_cli.curvature.spectra.solver_choice import Eigensolver
from fisher_cli.curvature.torch_backend import malloc
from fisher_cli.inputs.checkpoints.checkpoints import find_checkpoints, load_checkpoint
from fisher_cli.inputs.networks.networks import Networks
from fisher_cli.run.measurement import MeasurementContext, measure
from fisher_cli.settings import Activations, Settings
from tests.live_memory import LiveMemory

MEBIBYTE = 2**20
# A vector is a copy of the parameters in float32: one of weights and two of the mean gradient.
VECTORS = 3.2


class Classifier(nn.Module):
    """A transformer on sequences of 16 vectors; of width 960 with nine layers it has 99.7 million parameters."""

    def __init__(self, width: int, layers: int) -> None:
        super().__init__()
        self.inner = nn.Linear(16, width)
        layer = nn.TransformerEncoderLayer(width, 15, 4 * width, dropout=0.0, batch_first=True)
        self.encoder = nn.TransformerEncoder(layer, layers, enable_nested_tensor=False)
        self.head = nn.Linear(width, 10)

    def forward(self, inputs: Tensor) -> Tensor:
        outputs: Tensor = self.head(self.encoder(self.inner(inputs)).mean(1))
        return outputs


def vectors_of_the_traces(width: int, layers: int) -> tuple[int, float]:
    """Parameters, and how many vectors are alive at once, the weights included, in a batch of four.

    Everything that a row has but eigenvalues is asked for, the signal-to-noise ratio with its error too.
    """
    torch.manual_seed(0)
    network = Classifier(width, layers)
    data = TensorData(torch.randn(1, 16, 16) + 0.1 * torch.randn(4, 16, 16), torch.zeros(4).long())
    size = sum(each.numel() for each in network.parameters())
    with LiveMemory(network.state_dict()) as memory:
        found = measure(network, data, Settings(eigenvalues=0, data="tensors"), MeasurementContext(batch_size=4))
    assert found.trace is not None
    assert found.trace.true.value > 0
    assert found.gradient is not None
    assert found.gradient.signal_to_noise is not None
    return size, memory.peak / size / 4


@pytest.mark.ci
def test_the_traces_of_a_large_network_take_its_weights_and_mean_gradient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(malloc, "LARGE_BYTES", 2**20)
    size, vectors = vectors_of_the_traces(240, 9)
    assert size > 6_000_000
    assert vectors <= VECTORS + 1.0  # the batch is a larger part of a small network


@pytest.mark.long
def test_the_traces_of_a_hundred_million_parameters(record_property: Callable[..., None]) -> None:
    size, vectors = vectors_of_the_traces(960, 9)
    record_property("peak", f"{size:,} parameters: {vectors:.2f} vectors")
    assert size > 99_000_000
    assert vectors <= VECTORS


@pytest.mark.parametrize("form", ["safetensors", "pt"])
def test_a_file_is_held_once_beside_its_tensors_while_it_is_read(form: str, tmp_path: Path) -> None:
    """Bytes of Python, and tensors that torch has allocated: 32 layers of a mebibyte each."""
    layers = nn.Sequential(*[nn.Linear(512, 512, bias=False) for _ in range(32)])
    (tmp_path / "net.py").write_text(
        "from torch import nn\n"
        "def make(): return nn.Sequential(*[nn.Linear(512, 512, bias=False) for _ in range(32)])\n"
    )
    networks, path = Networks(f"{tmp_path}/net.py:make", {}), tmp_path / f"a.{form}"
    save = safetensors.torch.save_file if form == "safetensors" else torch.save
    save(layers.state_dict(), path)

    def loaded() -> nn.Module:
        checkpoint = load_checkpoint(find_checkpoints([path])[0])
        return networks.load(networks.architecture(checkpoint), checkpoint)

    loaded()  # what the first time imports
    with LiveMemory() as memory:
        tracemalloc.start()
        loaded()
        left, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
    assert peak + memory.peak <= 2.1 * path.stat().st_size
    assert left + memory.now <= 0.1 * path.stat().st_size


# The goal for the leading eigenvalues: beside the parameters themselves.
DUAL_VECTORS = 6.0


def vectors_of_the_dual(width: int) -> tuple[int, float, int]:
    """Parameters, vectors alive at once beside them, and products, for ten eigenvalues by the dual."""
    torch.manual_seed(0)
    layers = [nn.Linear(before, after) for before, after in pairwise((784, width, width, 10))]
    network = nn.Sequential(layers[0], nn.ReLU(), layers[1], nn.ReLU(), layers[2])
    x, y = torch.randn(16, 784), torch.arange(16) % 10
    size = sum(each.numel() for each in network.parameters())
    with LiveMemory() as memory:
        found = matrices(pose(network, TensorData(x, y)))[0].leading(10, route=Eigensolver.DUAL)
    assert found.converged
    assert bool((found.residuals <= 1e-3 * found.values[0]).all())
    return size, memory.peak / size / 4, found.products


def test_eigenvalues_by_the_dual_take_a_few_vectors_of_the_parameters() -> None:
    """Its own vectors are as long as there are columns."""
    size, vectors, _ = vectors_of_the_dual(1200)
    assert size > 2_000_000
    assert vectors <= DUAL_VECTORS


@pytest.mark.long
def test_ten_eigenvalues_of_a_hundred_million_parameters(record_property: Callable[..., None]) -> None:
    size, vectors, products = vectors_of_the_dual(9610)
    record_property("dual", f"{size:,} parameters: {vectors:.2f} vectors in {products} products")
    assert size > 99_000_000
    assert vectors <= DUAL_VECTORS


class _Residual(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(width, width, 3, padding=1), nn.Conv2d(width, width, 3, padding=1)
        self.norm = nn.BatchNorm2d(width)

    def forward(self, x: Tensor) -> Tensor:
        gc.collect()  # what waits for the collector is freed here, and not when it happens to come
        outputs: Tensor = x + self.second(torch.relu(self.norm(self.first(x))))
        return outputs


@pytest.fixture
def _few_objects_to_collect() -> Iterator[None]:
    """Only what a test makes is looked through, which is quick."""
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()


@pytest.mark.ci
@pytest.mark.usefixtures("_few_objects_to_collect")
def test_recomputed_activations_take_less_the_deeper_a_network_is(record_property: Callable[..., None]) -> None:
    """Traces of four images by ten classes, in a network of four times the depth."""
    taken: dict[tuple[int, Activations], tuple[int, float]] = {}
    for depth in (4, 16):
        for activations in Activations:
            torch.manual_seed(0)
            blocks = [_Residual(8) for _ in range(depth)]
            ends = nn.Conv2d(3, 8, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 10)
            network = nn.Sequential(ends[0], *blocks, *ends[1:])
            data = TensorData(torch.randn(4, 3, 26, 26), torch.arange(4) % 10)
            settings = Settings(eigenvalues=0, data="tensors")
            with LiveMemory() as memory:
                found = measure(network, data, settings, MeasurementContext(batch_size=4, activations=activations))
            assert found.trace is not None
            taken[depth, activations] = memory.peak, found.trace.true.value
            record_property(f"{depth} {activations}", f"{memory.peak / MEBIBYTE:.1f} MiB")
        assert taken[depth, Activations.KEEP][1] == taken[depth, Activations.RECOMPUTE][1]
    kept, anew = (taken[16, each][0] - taken[4, each][0] for each in (Activations.KEEP, Activations.RECOMPUTE))
    assert anew <= kept / 2.5
