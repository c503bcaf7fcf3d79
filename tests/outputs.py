"""Outputs with large entries, the covariance of labels given them, and problems of the sample checkpoints."""

from pathlib import Path

import torch
from torch import Tensor

from fisher_cli.curvature.problem.likelihoods import Likelihood
from fisher_cli.curvature.problem.problem import Problem, TensorData, pose
from fisher_cli.inputs.checkpoints.checkpoints import find_checkpoints, load_checkpoint
from fisher_cli.inputs.networks.architectures import find_architecture
from fisher_cli.inputs.networks.fitting import load_weights
from tests.loading import load_examples

SAMPLES = Path(__file__).parent.parent / "sample_checkpoints"


def outputs_of(classes: int, examples: int = 4) -> Tensor:
    return 2 * torch.randn(examples, classes, generator=torch.Generator().manual_seed(classes)).double()


def covariance(kind: Likelihood, z: Tensor) -> Tensor:
    units = torch.eye(z.shape[1]).double()
    return torch.stack([kind.covariance_product(z, unit.expand_as(z)) for unit in units], 1)


def saved(run: str, step: str, count: int) -> Problem:
    """A sample checkpoint on digits."""
    (file,) = [f for f in find_checkpoints([SAMPLES / run]) if step in f.name]
    checkpoint = load_checkpoint(file)
    model = find_architecture(checkpoint).build()
    load_weights(model, checkpoint)
    examples = load_examples("digits", limit=count)
    return pose(model, TensorData(*examples.batch(0, count)))
