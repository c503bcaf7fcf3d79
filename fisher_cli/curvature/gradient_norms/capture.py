"""What each use of a parameter was given and where its output enters the graph, recorded during one forward pass.

Watched are functions, not modules: a layer used functionally, twice, or inside nn.MultiheadAttention is seen
like any other. What escapes (a function imported by name elsewhere, compiled code) shows as a use in the graph
without a record, and the parameter then goes through per-example gradients.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import wraps
from typing import Any

import torch
from torch import Tensor
from torch.autograd.graph import GradientEdge, get_gradient_edge
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from fisher_cli.curvature.recomputation import Held

_CONVOLUTION = {"input": None, "weight": None, "bias": None, "stride": 1, "padding": 0, "dilation": 1, "groups": 1}
_TRANSPOSED = {
    "input": None,
    "weight": None,
    "bias": None,
    "stride": 1,
    "padding": 0,
    "output_padding": 0,
    "groups": 1,
    "dilation": 1,
}

Hold = Callable[[Tensor], Held]

# Argument names with defaults, in order, of the watched functions of torch.nn.functional.
SIGNATURES: dict[str, dict[str, Any]] = {
    "linear": {"input": None, "weight": None, "bias": None},
    **{f"conv{d}d": _CONVOLUTION for d in (1, 2, 3)},
    **{f"conv_transpose{d}d": _TRANSPOSED for d in (1, 2, 3)},
    "batch_norm": {
        "input": None,
        "running_mean": None,
        "running_var": None,
        "weight": None,
        "bias": None,
        "training": False,
        "momentum": 0.1,
        "eps": 1e-5,
    },
    "instance_norm": {
        "input": None,
        "running_mean": None,
        "running_var": None,
        "weight": None,
        "bias": None,
        "use_input_stats": True,
        "momentum": 0.1,
        "eps": 1e-5,
    },
    "layer_norm": {"input": None, "normalized_shape": None, "weight": None, "bias": None, "eps": 1e-5},
    "rms_norm": {"input": None, "normalized_shape": None, "weight": None, "eps": None},
    "group_norm": {"input": None, "num_groups": None, "weight": None, "bias": None, "eps": 1e-5},
    "embedding": {
        "input": None,
        "weight": None,
        "padding_idx": None,
        "max_norm": None,
        "norm_type": 2.0,
        "scale_grad_by_freq": False,
        "sparse": False,
    },
}

_ADDITIONS = {
    torch.add,
    torch.Tensor.add,
    torch.Tensor.__add__,
    torch.Tensor.__radd__,
    torch.Tensor.add_,
    torch.Tensor.__iadd__,
}
_PRODUCTS = {
    torch.mul,
    torch.Tensor.mul,
    torch.Tensor.__mul__,
    torch.Tensor.__rmul__,
    torch.Tensor.mul_,
    torch.Tensor.__imul__,
}


@dataclass(frozen=True)
class Call:
    """One use of one or two parameters: the function, its arguments, its input, and the edge of its output.

    The edge is taken when the function returns. A tensor kept and differentiated later would be wrong after
    an in-place operation on it: a ReLU in place or `out += identity` moves the tensor, not the edge.
    `roles` are the arguments that hold watched parameters, as (argument name, parameter id).
    """

    function: str
    arguments: Mapping[str, Any]
    roles: tuple[tuple[str, int], ...]
    held: Held
    itemsize: int
    output_shape: torch.Size
    edge: GradientEdge

    @property
    def inputs(self) -> Tensor:
        """What the function was given."""
        return self.held.get()

    @property
    def is_bare(self) -> bool:
        """Whether the parameter is added or expanded as it is, so that `inputs` is no data."""
        return self.function in {"add", "expand"}

    @property
    def unchanged(self) -> bool:
        """Whether the input still holds what the function was given."""
        return self.held.unchanged


@dataclass
class _Recorder:
    """Collects calls that read watched parameters; what a watched function calls in turn is part of its call."""

    watched: frozenset[int]
    hold: Hold
    depth: int = 0
    calls: list[Call] = field(default_factory=list)

    def record(self, function: str, arguments: dict[str, Any], inputs: object, output: object) -> None:
        if self.depth:
            return
        roles = tuple((name, id(value)) for name, value in arguments.items() if id(value) in self.watched)
        if not roles or not isinstance(inputs, Tensor) or not isinstance(output, Tensor) or not output.requires_grad:
            return
        arguments["output_dimensions"] = output.dim()
        # Detached: the graph of earlier layers is held by the edges, not by the inputs.
        held, edge = self.hold(inputs), get_gradient_edge(output)
        arguments.pop("input", None)
        self.calls.append(Call(function, arguments, roles, held, inputs.itemsize, output.shape, edge))


class _BareParameters(TorchFunctionMode):
    """Records parameters that are added, multiplied or expanded as they are."""

    def __init__(self, recorder: _Recorder) -> None:
        super().__init__()
        self._recorder = recorder

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        output = func(*args, **(kwargs or {}))
        if func is torch.Tensor.expand:
            self._recorder.record("expand", {"parameter": args[0]}, args[0], output)
        elif len(args) == 2 and not kwargs and (func in _ADDITIONS or func in _PRODUCTS):
            first, second = args
            kind = "add" if func in _ADDITIONS else "multiply"
            for parameter, other in ((first, second), (second, first)):
                if id(parameter) in self._recorder.watched and isinstance(output, Tensor):
                    # A product's rule needs a factor with an entry per output; a sum's needs only the cotangent.
                    full = isinstance(other, Tensor) and other.shape == output.shape
                    inputs = parameter if kind == "add" else other if full else None
                    self._recorder.record(kind, {"parameter": parameter}, inputs, output)
        return output


def _watching(name: str, original: Callable[..., Any], recorder: _Recorder) -> Callable[..., Any]:
    """The function, reporting to the recorder."""
    defaults = SIGNATURES[name]

    @wraps(original)
    def watching(*args: Any, **kwargs: Any) -> Any:
        recorder.depth += 1
        try:
            output = original(*args, **kwargs)
        finally:
            recorder.depth -= 1
        arguments = {**defaults, **dict(zip(defaults, args, strict=False)), **kwargs}
        recorder.record(name, arguments, arguments["input"], output)
        return output

    return watching


@contextmanager
def recorded_calls(parameters: Mapping[str, Tensor], hold: Hold = Held.of) -> Iterator[list[Call]]:
    """Record the uses of the parameters while the context is open; everything is put back whatever happens.

    `hold` says how the inputs are held.
    """
    recorder = _Recorder(frozenset(id(parameter) for parameter in parameters.values()), hold)
    originals = {name: getattr(functional, name) for name in SIGNATURES}
    try:
        for name, original in originals.items():
            setattr(functional, name, _watching(name, original, recorder))
        with _BareParameters(recorder):
            yield recorder.calls
    finally:
        for name, original in originals.items():
            setattr(functional, name, original)
