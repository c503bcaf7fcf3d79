"""A run's checkpoints → its networks: built once where they share one, with each file's weights loaded in turn."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Final

import torch
from torch import nn

from fisher_cli.errors import ArchitectureError, CheckpointError, FisherError, NumericalError
from fisher_cli.inputs.checkpoints.checkpoints import (
    Checkpoint,
    CheckpointFile,
    ReadOptions,
    load_checkpoint,
    nonfinite_names,
)
from fisher_cli.inputs.checkpoints.pruning import apply_masks, remove_masks
from fisher_cli.inputs.checkpoints.weights import listed
from fisher_cli.inputs.networks.architectures import Architecture, find_architecture, find_factory
from fisher_cli.inputs.networks.fitting import load_weights, network_notes, own_masks
from fisher_cli.inputs.networks.huggingface_models import in_names_of
from fisher_cli.inputs.networks.shapes import shapes_of
from fisher_cli.inputs.networks.tensor_summaries import tensor_summaries
from fisher_cli.results import Inspection, Status
from fisher_cli.text import clipped

Found = Callable[[Checkpoint, str | None], None]


def ignore(checkpoint: Checkpoint, architecture: str | None) -> None:
    """Look at nothing of what was found."""


class Networks:
    """Networks built so far: a run's checkpoints mostly share one, and only its weights change.

    What a function of the user's makes is made once, at the start, where its failure ends the run.

    Args:
        model: what `--model` says, None for what each checkpoint names.
        arguments: for the function that makes the network.
        given: the network of a caller in Python; None for what `model` says.

    Raises:
        ArchitectureError: the function cannot be imported or fails, or `model` is the name of no known network.
    """

    def __init__(self, model: str | None, arguments: Mapping[str, str], given: Architecture | None = None) -> None:
        self._model, self._arguments = model, arguments
        self._factory = given or find_factory(self._model, self._arguments)
        self._built: dict[object, nn.Module] = {}
        self._found: tuple[object, Architecture] | None = None
        if self._factory is not None:
            self._built = {self._factory.name: self._factory.build()}

    def of(
        self, file: CheckpointFile, reading: ReadOptions, found: Found = ignore
    ) -> tuple[Checkpoint, Architecture, nn.Module]:
        """A file's weights, read anew, and in their network; the same module for the next file of its kind.

        Args:
            file: the checkpoint.
            reading: how it is read.
            found: told of the checkpoint, and again with its architecture's name, as soon as each is known.

        Raises:
            NumericalError: weights are NaN or infinite.
            FisherError: the file cannot be read, or its network is not known.
        """
        checkpoint = load_checkpoint(file, reading)
        found(checkpoint, None)
        refuse_nonfinite(checkpoint)
        architecture = self.architecture(checkpoint)
        found(checkpoint, architecture.name)
        return checkpoint, architecture, self.load(architecture, checkpoint)

    def architecture(self, checkpoint: Checkpoint) -> Architecture:
        """Find the network of a checkpoint, who named it, and what is to be said about that.

        Raises:
            ArchitectureError: no network is named and none fits, or more than one does.
        """
        if self._factory is not None:
            module = self._built[self._factory.name]
            remove_masks(module)  # those of the checkpoint before
            return replace(self._factory, notes=network_notes(module, checkpoint))
        key = _what_decides(checkpoint)
        if self._found is None or self._found[0] != key:
            # To find one, networks are built without storage, a few for every checkpoint if it were not remembered.
            self._found = key, find_architecture(checkpoint, model=self._model, arguments=self._arguments)
        return self._found[1]

    def load(self, architecture: Architecture, checkpoint: Checkpoint) -> nn.Module:
        """Load the checkpoint's weights into its network.

        Args:
            architecture: as `architecture` gives it for this checkpoint.
            checkpoint: whose weights to load; those of pruned ones are held at zero by masks.

        Returns:
            The network, which the next call may load with other weights: checkpoints of one kind share the module.

        Raises:
            ArchitectureError: the network cannot be built, or these are not its weights.
        """
        shapes = tuple(sorted((name, tuple(weight.shape)) for name, weight in checkpoint.weights.items()))
        key = architecture.name if self._factory else (architecture.name, shapes)
        if key not in self._built:
            self._built = {key: architecture.build()}
        module = self._built[key]
        remove_masks(module)
        if any(parameter.dtype is torch.bfloat16 for parameter in module.parameters()):
            module.float()  # else the weights would be rounded before anybody asks for that
        checkpoint = in_names_of(module, checkpoint)
        load_weights(module, checkpoint)
        apply_masks(module, own_masks(module, checkpoint))
        return module


def _what_decides(checkpoint: Checkpoint) -> object:
    """All of a checkpoint that says which network it is: checkpoints that agree in it are of the same one."""
    told = checkpoint.architecture, repr(checkpoint.architecture_arguments), repr(checkpoint.config)
    return *told, tuple(shapes_of(checkpoint.weights).items())


def refuse_nonfinite(checkpoint: Checkpoint) -> None:
    """Refuse weights that are NaN or infinite, by name.

    Raises:
        NumericalError: some are.
    """
    broken = nonfinite_names(checkpoint.weights)
    if broken:
        more = f" and {len(broken) - 3} more" if len(broken) > 3 else ""
        msg = f"NaN or infinite weights in {', '.join(broken[:3])}{more}: training had diverged here"
        raise NumericalError(msg)


def network_outcome(error: Exception, file: CheckpointFile) -> tuple[Status, str]:
    """The status of the row of a checkpoint that gave this error, and why, in one line.

    The row names the file itself, and tables hold no folder of a machine. A network's own code can raise anything;
    torch's longer texts say the cause in the first line.

    Args:
        error: what was raised.
        file: the checkpoint, whose name is taken off the text.

    Returns:
        REJECTED where the file or its network cannot be used, else FAILED; and the text.
    """
    if not isinstance(error, FisherError):
        why = next(iter(str(error).strip().splitlines()), "no reason given")
        return Status.FAILED, f"{type(error).__name__}: {why}"
    text = str(error)
    for name in (file.name, str(file.path)):
        text = text.removeprefix(f"{clipped(name, 500)}: ").removeprefix(f"{clipped(name)}: ")
    is_rejected = isinstance(error, (CheckpointError, ArchitectureError))
    return Status.REJECTED if is_rejected else Status.FAILED, text


_ROOT: Final = "(root)"
_SOURCES: Final = {"checkpoint": "the file", "--model": "option --model", "detected": "names and shapes"}


def inspect(
    file: CheckpointFile, networks: Networks, reading: ReadOptions, *, with_tensors: bool = False
) -> Inspection:
    """Find out what a file is: container, weights, place in training, network; all that is found before anything fails.

    The weights are loaded into the network, so that a file that is ok here is one that can be measured. No error is
    raised: the row says what went wrong.

    Args:
        file: as `find_checkpoints` gives it.
        networks: of the run.
        reading: what to take out of the file.
        with_tensors: whether each of its tensors is summed up as well.
    """
    row = Inspection(checkpoint=file.name, status=Status.OK, sha256=file.sha256, step=file.step, epoch=file.epoch)
    row = replace(row, run=file.run)
    try:
        checkpoint = load_checkpoint(file, reading)
        row = _with_contents(row, checkpoint)
        row = replace(row, summaries=tensor_summaries(checkpoint) if with_tensors else ())
        architecture = networks.architecture(checkpoint)
        source = _SOURCES.get(architecture.source, architecture.source)
        row = replace(row, architecture=architecture.name, architecture_source=source)
        row = replace(row, notes=row.notes + architecture.notes)
        module = networks.load(architecture, checkpoint)
        trainable = sum(parameter.numel() for parameter in module.parameters() if parameter.requires_grad)
        row = replace(row, parameters=trainable)
        refuse_nonfinite(checkpoint)
    except Exception as error:
        status, text = network_outcome(error, file)
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
