"""`--normalize auto`: the constants under which a network's loss on one batch is lowest."""

from dataclasses import replace

import torch
from torch import Tensor, nn

from fisher_cli.curvature.problem.problem import TensorData, pose
from fisher_cli.curvature.problem.process_group import ALONE, ProcessGroup
from fisher_cli.inputs.data.datasets import Examples, Normalization
from fisher_cli.inputs.data.normalization import CHOICE_EXAMPLES, choose_normalization
from fisher_cli.settings import Settings


def choose_from_first_batch(
    examples: Examples, module: nn.Module, settings: Settings, device: torch.device, process_group: ProcessGroup = ALONE
) -> Examples:
    """The examples normalised by argmin over candidates of the mean −log q, in nats, on at most 1024 of them.

    The examples are taken evenly over the selection, whose order may be by class.

    Args:
        examples: with the candidates.
        module: the network whose loss decides.
        settings: what is asked: likelihood and precision.
        device: where the losses are computed.
        process_group: ranks that share the examples; all choose the same.

    Returns:
        The examples with the constants, and with the losses of all candidates for the record.

    Raises:
        DataError: the network does not take them, or its loss is finite under no candidate.
    """
    count = min(CHOICE_EXAMPLES, len(examples))
    places = torch.arange(count) * len(examples) // count
    pixels, labels = examples.inputs[places], examples.labels[places]

    def data(normalization: Normalization) -> TensorData:
        return TensorData(normalization.apply(pixels, examples.pixel_maximum), labels)

    likelihood = str(settings.likelihood)
    first = data(examples.candidates[0])
    dtype = getattr(torch, settings.precision.storage)
    problem = pose(module, first, likelihood=likelihood, device=device, dtype=dtype, process_group=process_group)

    def losses_of(normalization: Normalization) -> Tensor:
        tried = replace(problem, data=data(normalization))
        with torch.no_grad():
            parts = [
                -problem.likelihood.log_likelihood(tried.forward(batch.inputs), batch.labels)
                for batch in tried.batches()
            ]
        return process_group.gather(parts).cpu()

    choice = choose_normalization(examples.candidates, losses_of)
    return examples.with_normalization(choice.normalization, choice)
