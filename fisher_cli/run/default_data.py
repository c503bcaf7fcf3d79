"""The data that are taken where nobody names any, and networks that they do not fit."""

import torch

from fisher_cli.curvature.torch_backend.out_of_memory import is_out_of_memory
from fisher_cli.errors import FisherError, UsageError
from fisher_cli.inputs.checkpoints.checkpoints import CheckpointFile
from fisher_cli.run.row import Inputs

# What a network raises on inputs of a shape that it was not made for.
_MISFITS = (RuntimeError, ValueError, IndexError, AssertionError)


def ask_for_data(inputs: Inputs, file: CheckpointFile) -> None:
    """Ask for the dataset of a checkpoint whose network does not fit the data that nobody has asked for.

    Args:
        inputs: of a run without `--data`.
        file: a checkpoint without numbers.

    Raises:
        UsageError: the question, with what does not fit.
    """
    examples = inputs.examples
    try:
        network = inputs.network(file)[2].eval()
    except FisherError:
        return  # the row says what is wrong with the file
    if examples is None:
        return
    example, _ = examples.batch(0, 1)
    shape = tuple(example.shape[1:])
    try:
        with torch.no_grad():
            outputs = network.cpu()(example.to(next(network.parameters(), example).dtype))
    except _MISFITS as error:
        if is_out_of_memory(error):
            return
        misfit = f"it does not accept inputs of shape {shape}"
    except Exception:
        return
    else:
        known = isinstance(outputs, torch.Tensor) and examples.classes is not None
        if not known or outputs.shape[-1] in {1, examples.classes}:
            return
        misfit = f"it has {outputs.shape[-1]} outputs, and {examples.name} has {examples.classes} classes"
    msg = (
        f"which data? without --data fisher takes {examples.name}, which do not fit {file.name}: {misfit}; name your "
        "dataset, for example --data cifar10 or --data folder:DIR (fisher datasets lists the names)"
    )
    raise UsageError(msg)
