"""What each layer was given and where its output enters the graph, recorded during one forward pass."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn
from torch.autograd.graph import GradientEdge, get_gradient_edge


@dataclass(frozen=True)
class Call:
    """One call of a layer: its input, the input's version at that moment, and the edge of its output.

    The edge is taken when the layer returns. A tensor kept and differentiated later would be wrong after an
    in-place operation on it: a ReLU in place or `out += identity` moves the tensor, not the edge.
    """

    inputs: Tensor
    version: int
    edge: GradientEdge


@dataclass
class Calls:
    """The calls of each watched layer, in order; a layer with a call that cannot be recorded is `unreadable`."""

    by_layer: dict[str, list[Call]] = field(default_factory=dict)
    unreadable: set[str] = field(default_factory=set)

    def called_once(self, name: str, examples: int) -> bool:
        """Whether a layer was called once, with the examples first, and its input still holds what it was given."""
        recorded = self.by_layer.get(name, [])
        if name in self.unreadable or len(recorded) != 1:
            return False
        (call,) = recorded
        return call.inputs.dim() > 0 and len(call.inputs) == examples and call.inputs._version == call.version


def _first_input(arguments: tuple[Any, ...], keywords: dict[str, Any]) -> object:
    return arguments[0] if arguments else keywords.get("input")


@contextmanager
def recorded_calls(layers: Mapping[str, nn.Module]) -> Iterator[Calls]:
    """Record the calls of the named layers while the context is open; hooks are removed whatever happens."""
    calls = Calls()

    def hook_for(name: str) -> Any:
        def hook(_: nn.Module, arguments: tuple[Any, ...], keywords: dict[str, Any], output: object) -> None:
            inputs = _first_input(arguments, keywords)
            if not isinstance(inputs, Tensor) or not isinstance(output, Tensor) or not output.requires_grad:
                calls.unreadable.add(name)
                return
            # Detached: the graph of earlier layers is held by the edges, not by the inputs.
            call = Call(inputs.detach(), inputs._version, get_gradient_edge(output))
            calls.by_layer.setdefault(name, []).append(call)

        return hook

    handles = [layer.register_forward_hook(hook_for(name), with_kwargs=True) for name, layer in layers.items()]
    try:
        yield calls
    finally:
        for handle in handles:
            handle.remove()
