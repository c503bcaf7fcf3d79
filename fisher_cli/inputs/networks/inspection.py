"""A checkpoint file → what it is, as far as the file and the network's code tell."""

from dataclasses import replace
from typing import Final

from fisher_cli.inputs.checkpoints.checkpoints import Checkpoint, CheckpointFile, Reading, load_checkpoint
from fisher_cli.inputs.checkpoints.weights import listed
from fisher_cli.inputs.networks.networks import Networks, outcome, refuse_nonfinite
from fisher_cli.results import Inspection, Status

_ROOT: Final = "(root)"
_SOURCES: Final = {"checkpoint": "the file", "--model": "option --model", "detected": "names and shapes"}


def inspect(file: CheckpointFile, networks: Networks, reading: Reading) -> Inspection:
    """What a file is: container, weights, place in training, network; all that is found before anything fails.

    The weights are loaded into the network, so that a file that is ok here is one that can be measured.
    """
    row = Inspection(checkpoint=file.name, status=Status.OK, sha256=file.sha256, step=file.step, epoch=file.epoch)
    try:
        checkpoint = load_checkpoint(file, reading)
        row = _with_contents(row, checkpoint)
        architecture = networks.architecture(checkpoint)
        source = _SOURCES.get(architecture.source, architecture.source)
        row = replace(row, architecture=architecture.name, architecture_source=source)
        row = replace(row, notes=row.notes + architecture.notes)
        module = networks.load(architecture, checkpoint)
        trainable = sum(parameter.numel() for parameter in module.parameters() if parameter.requires_grad)
        row = replace(row, parameters=trainable)
        refuse_nonfinite(checkpoint)
    except Exception as error:
        status, text = outcome(error, file)
        return replace(row, status=status, error=text)
    return row


def _with_contents(row: Inspection, checkpoint: Checkpoint) -> Inspection:
    notes = checkpoint.notes
    if checkpoint.ignored:
        notes += (f"not used: {listed(checkpoint.ignored)}",)
    return replace(
        row,
        step=checkpoint.step,
        epoch=checkpoint.epoch,
        step_source=checkpoint.step_source,
        format=checkpoint.format,
        integrity=checkpoint.integrity,
        weights_key=checkpoint.state_key or _ROOT,
        weights=checkpoint.weights_kind,
        tensors=len(checkpoint.weights),
        notes=notes,
    )
