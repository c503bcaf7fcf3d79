"""What docs/architecture.md says about adding things, done: a likelihood, a checkpoint format, a command."""

import struct
from pathlib import Path
from typing import Annotated

import pytest
import torch
import typer
from torch import Tensor, nn

from fisher_cli.cli.app import app
from fisher_cli.curvature.problem import likelihoods
from fisher_cli.curvature.problem.counter_based_random import Draws
from fisher_cli.curvature.problem.likelihoods import Likelihood, Root
from fisher_cli.curvature.problem.problem import TensorData, pose
from fisher_cli.curvature.traces.traces import sweep
from fisher_cli.errors import DataError
from fisher_cli.inputs.checkpoints.checkpoints import find_checkpoints, load_checkpoint
from fisher_cli.inputs.formats import checkpoint_reader, recognition
from fisher_cli.inputs.formats.files import FileBytes
from fisher_cli.inputs.formats.number_types import NUMBER_TYPES
from fisher_cli.inputs.formats.recognition import Description
from fisher_cli.inputs.formats.storages import DenseTensor, StoredBlock
from tests.command import fisher


class Poisson(Likelihood):
    """q(y | z) = Π_c e^(−μ_c) μ_c^y_c / y_c! with μ = exp(z): counts, so that Λ = diag μ and s = μ − y."""

    name = "poisson"

    def root(self, outputs: Tensor, labels: Tensor) -> Root:  # noqa: ARG002 - no direction holds the observed score
        z = outputs.double()
        directions = torch.eye(z.shape[1], dtype=torch.float64).unsqueeze(1).expand(-1, len(z), -1)
        return Root(directions, z.exp().T.contiguous())

    def observed_score(self, outputs: Tensor, labels: Tensor) -> Tensor:
        return outputs.double().exp() - labels.double()

    def sampled_scores(self, outputs: Tensor, samples: int, draws: Draws) -> Tensor:
        raise NotImplementedError

    def covariance_product(self, outputs: Tensor, vectors: Tensor) -> Tensor:
        return outputs.double().exp() * vectors

    def log_likelihood(self, outputs: Tensor, labels: Tensor) -> Tensor:
        z, y = outputs.double(), labels.double()
        return (y * z - z.exp() - torch.lgamma(y + 1)).sum(1)

    def entropy(self, outputs: Tensor) -> Tensor:
        counts = torch.arange(200.0, dtype=torch.float64).reshape(-1, 1, 1)
        z = outputs.double()
        log_probability = counts * z - z.exp() - torch.lgamma(counts + 1)
        return -(log_probability.exp() * log_probability).sum(dim=(0, 2))

    def correct(self, outputs: Tensor, labels: Tensor) -> Tensor | None:  # noqa: ARG002 - a count is not right or wrong
        return None

    def check_labels(self, outputs: int, labels: Tensor) -> None:
        if labels.shape[1:] != (outputs,) or bool((labels < 0).any()):
            msg = "poisson takes counts, one for every output"
            raise DataError(msg)


def test_a_likelihood_is_a_class_and_its_name_in_one_table(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(likelihoods.LIKELIHOODS, "poisson", Poisson)
    network = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2)).double()
    inputs, counts = torch.randn(5, 3, dtype=torch.float64), torch.tensor([[0, 1], [2, 0], [1, 1], [3, 0], [0, 0]])
    problem = pose(network, TensorData(inputs, counts), likelihood="poisson")
    found = sweep(problem, seed=0)

    true, empirical = 0.0, 0.0
    for x, y in zip(inputs, counts, strict=True):
        distribution = torch.distributions.Poisson(network(x).exp())
        for label in torch.cartesian_prod(torch.arange(25.0), torch.arange(25.0)).double():
            probability = distribution.log_prob(label).sum().exp().item()
            gradients = torch.autograd.grad(
                -distribution.log_prob(label).sum(), [*network.parameters()], retain_graph=True
            )
            true += probability * sum(float(each.square().sum()) for each in gradients) / len(inputs)
        gradients = torch.autograd.grad(-distribution.log_prob(y.double()).sum(), [*network.parameters()])
        empirical += sum(float(each.square().sum()) for each in gradients) / len(inputs)
    assert found.trace.true.value == pytest.approx(true, rel=1e-9)
    assert found.trace.empirical.value == pytest.approx(empirical, rel=1e-9)


def test_a_checkpoint_format_is_a_reader_and_a_line_in_one_table(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def load(data: FileBytes) -> Description:
        tensors, position = {}, 8
        while position < len(data):
            count = data[position + 1]
            block = StoredBlock(position + 2, 4 * count, 1)
            tensors[chr(data[position])] = DenseTensor(block, NUMBER_TYPES["float32"], 0, (count,), (1,))
            position += 2 + block.length
        return Description("numbers", tensors)

    monkeypatch.setattr(recognition, "FORMATS", [(lambda data: data[:8] == b"numbers\n", load), *recognition.FORMATS])
    monkeypatch.setattr(checkpoint_reader.OWNER, "reader", None)  # one that was started knows no new line
    monkeypatch.setattr(checkpoint_reader.OWNER, "is_possible", False)
    numbers = {"w": [1.0, 2.0, 3.0], "b": [4.0]}
    parts = (name.encode() + bytes([len(each)]) + struct.pack(f"{len(each)}f", *each) for name, each in numbers.items())
    (tmp_path / "step_3.pt").write_bytes(b"numbers\n" + b"".join(parts))
    [file] = find_checkpoints([tmp_path])
    checkpoint = load_checkpoint(file)
    assert {name: value.tolist() for name, value in checkpoint.weights.items()} == numbers
    assert checkpoint.step == 3


def test_a_command_is_a_function_and_a_line_in_the_app(monkeypatch: pytest.MonkeyPatch, workdir: Path) -> None:
    def count(checkpoints: Annotated[list[Path], typer.Argument(help="Files or folders.")]) -> None:
        """Count checkpoints."""
        typer.echo(len(find_checkpoints(checkpoints)))

    monkeypatch.setattr(app, "registered_commands", [*app.registered_commands])
    app.command("count")(count)
    torch.save({"weight": torch.ones(2)}, workdir / "step_1.pt")
    assert fisher("count", workdir).stdout == "1\n"
    assert "Count checkpoints." in fisher("--help").stdout
    assert fisher("count", "missing", code=1).stderr.count("\n") == 1
