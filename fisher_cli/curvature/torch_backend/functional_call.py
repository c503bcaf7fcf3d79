"""A network evaluated at other parameters, each slot swapped once and put back."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from torch import Tensor, nn


@contextmanager
def parameters_replaced(
    model: nn.Module, parameters: Mapping[str, nn.Parameter], values: Mapping[str, Tensor]
) -> Iterator[None]:
    """Let the network use `values` in place of the parameters of the same names while the context is open.

    Tied parameters are replaced wherever they are held. `torch.func.functional_call` swaps a module that is registered
    under two names twice and restores it wrongly; here every module is visited once. What the forward pass leaves in
    buffers and attributes is put back by `NetworkState.restore`.

    Args:
        model: the network.
        parameters: its parameters by name.
        values: tensors of the parameters' shapes for some or all of these names.
    """
    by_id: dict[int, Tensor] = {id(parameter): values[name] for name, parameter in parameters.items() if name in values}
    slots = [
        (module, name, parameter)
        for module in model.modules()
        for name, parameter in module._parameters.items()
        if parameter is not None and id(parameter) in by_id
    ]
    try:
        for module, name, parameter in slots:
            module._parameters[name] = by_id[id(parameter)]  # type: ignore[assignment]
        yield
    finally:
        for module, name, parameter in slots:
            module._parameters[name] = parameter
