"""A forward pass of a network in evaluation mode, with an explanation of its errors."""

import sys
from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor, nn

from fisher_cli.curvature.torch_backend.random_state import first_to_draw
from fisher_cli.errors import CoupledExamplesError


def evaluated(model: nn.Module, inputs: Tensor) -> object:
    """What a network returns for a copy of the inputs.

    In float64 a forward pass that makes tensors of torch's default type, as `torch.zeros(…)` for a first hidden state,
    may meet its own weights in another. Then, and only then, the default is float64 for its time: elsewhere it would
    change the constants that the network computes with.

    Args:
        model: in evaluation mode; what the forward pass leaves in it is not put back.
        inputs: (B, …), on the network's device; the copy lets the network work on them in place.

    Raises:
        CoupledExamplesError: it normalises by the statistics of the batch, and cannot take an example alone.
        RuntimeError: what else the network raised.
        ValueError: likewise.
    """
    try:
        with _uncompiled():
            return model(inputs.clone())
    except ValueError as error:
        if "more than 1 value per channel" not in str(error):
            raise
        msg = (
            "the network normalises by the statistics of the batch in evaluation mode, so that an example's outputs "
            "depend on the others, and the Fisher of an example is not defined; give it running statistics"
        )
        raise CoupledExamplesError(msg) from error
    except RuntimeError as error:
        before = torch.get_default_dtype()
        if before is torch.float64 or not any(word in str(error) for word in ("dtype", "scalar type", "same type")):
            raise
        if all(parameter.dtype is not torch.float64 for parameter in model.parameters()):
            raise
    torch.set_default_dtype(torch.float64)
    try:
        return evaluated(model, inputs)
    finally:
        torch.set_default_dtype(before)


def _uncompiled() -> AbstractContextManager[object]:
    """Let what torch.compile has wrapped run as it was written, whose calls and backward passes can be followed."""
    if "torch._dynamo" not in sys.modules:
        return nullcontext()
    stance: AbstractContextManager[object] = torch.compiler.set_stance("force_eager")
    return stance


def refuse_random_numbers(model: nn.Module, inputs: Tensor) -> None:
    """Evaluate the network again, module by module, and name the innermost module that draws random numbers.

    Nothing is raised where none draws this time.

    Args:
        model: the network, after a forward pass that has moved a global generator.
        inputs: (B, …), on its device.

    Raises:
        CoupledExamplesError: a module draws random numbers.
    """
    module = first_to_draw(model, inputs)
    if module is not None:
        msg = (
            f"{module} draws random numbers in its forward pass: the outputs depend on chance, and no Fisher belongs "
            "to them; make it deterministic in evaluation mode"
        )
        raise CoupledExamplesError(msg)
