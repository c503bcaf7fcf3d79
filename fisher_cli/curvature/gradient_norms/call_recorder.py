"""What each use of a parameter was given and where its output enters the graph, recorded during one forward pass.

Watched are functions, not modules: a layer used functionally, twice, or inside nn.MultiheadAttention is seen
like any other. What escapes (a function imported by name elsewhere, compiled code) shows as a use in the graph
without a record, and the parameter then goes through per-example gradients.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import wraps
from typing import Any

import torch
from torch import _VF, Tensor
from torch._C._autograd import _get_sequence_nr
from torch._C._functorch import is_functorch_wrapped_tensor
from torch.autograd.graph import GradientEdge, get_gradient_edge
from torch.nn import functional
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves

from fisher_cli.curvature.gradient_norms.rules.embedding import bags
from fisher_cli.curvature.gradient_norms.rules.recurrent import FUNCTIONS, unrolled
from fisher_cli.curvature.torch_backend.activation_checkpointing import SavedInput

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
    "embedding_bag": {
        "input": None,
        "weight": None,
        "offsets": None,
        "max_norm": None,
        "norm_type": 2.0,
        "scale_grad_by_freq": False,
        "mode": "mean",
        "sparse": False,
        "per_sample_weights": None,
        "include_last_offset": False,
        "padding_idx": None,
    },
}


Hold = Callable[[Tensor], SavedInput]

_INDEXING = {torch.Tensor.__getitem__, torch.index_select, torch.Tensor.index_select}
# (x, W) and (bias, x, W).
_MATRIX_PRODUCTS = {torch.matmul, torch.Tensor.matmul, torch.Tensor.__matmul__, torch.mm, torch.Tensor.mm}
_MATRIX_PRODUCTS |= {torch.addmm, torch.Tensor.addmm}
_ADDITIONS = {
    torch.add,
    torch.Tensor.add,
    torch.Tensor.__add__,
    torch.Tensor.__radd__,
    torch.Tensor.add_,
    torch.Tensor.__iadd__,
}
# Functions whose recorded input is the parameter itself.
BARE = {"add", "expand"}
_PRODUCTS_IN_PLACE = {torch.Tensor.mul_, torch.Tensor.__imul__}
_PRODUCTS = {torch.mul, torch.Tensor.mul, torch.Tensor.__mul__, torch.Tensor.__rmul__} | _PRODUCTS_IN_PLACE


@dataclass(frozen=True)
class WeightNorm:
    """w_i = g_i v_i/‖v_i‖ by rows i. Source: Salimans and Kingma 2016 (arXiv:1602.07868)."""

    v: Tensor
    g: Tensor


@dataclass(frozen=True)
class Call:
    """One use of parameters, or of tensors computed from them: the function, its arguments, its input, its output.

    The edge of the output is taken when the function returns. A tensor kept and differentiated later would be wrong
    after an in-place operation on it: a ReLU in place or `out += identity` moves the tensor, not the edge.
    `roles` are the arguments that may hold what is differentiated, as (argument name, parameter id, 0 for a tensor that
    is none), and `sources` their edges; `weight_norms` says which of them are weights normed by row. `given` is the
    input's edge, as (node, output number), None where it has none. `nodes` are the sequence numbers of the nodes of the
    graph that the function made, `entries` those that it handed out.
    """

    function: str
    arguments: Mapping[str, Any]
    roles: tuple[tuple[str, int], ...]
    sources: Mapping[str, GradientEdge]
    weight_norms: Mapping[str, WeightNorm | None]
    given: tuple[Any, int] | None
    held: SavedInput
    itemsize: int
    output_shape: torch.Size
    edge: GradientEdge
    nodes: range
    entries: frozenset[Any]

    @property
    def inputs(self) -> Tensor:
        """What the function was given."""
        return self.held.get()

    @property
    def is_bare(self) -> bool:
        """Whether the parameter is added or expanded as it is, so that `inputs` is no data."""
        return self.function in BARE

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
    weight_norms: dict[tuple[Any, int], WeightNorm] = field(default_factory=dict)

    def may_be_differentiated(self, value: object) -> bool:
        """Whether it is a watched parameter, or a tensor that may have been computed from one."""
        return isinstance(value, Tensor) and (id(value) in self.watched or (value.requires_grad and not value.is_leaf))

    def weight_norm(self, v: Tensor, g: Tensor, dim: int = 0) -> Tensor:
        """g v/‖v‖, whose way back goes for many gradients at once, unlike that of torch's fused function."""
        normed = v * (g / torch.norm_except_dim(v, 2, dim))
        if normed.requires_grad and dim == 0 and not is_functorch_wrapped_tensor(normed):
            self.weight_norms[get_gradient_edge(normed)[:2]] = WeightNorm(v, g)
        return normed

    def record(self, function: str, arguments: dict[str, Any], inputs: object, output: object, first: int) -> None:
        """Keep a call whose nodes begin with the sequence number `first`, if any of its arguments may have a gradient.

        What a transform of torch.func works on is not kept, whose graph is another one, nor what is complex.
        """
        if self.depth or not isinstance(inputs, Tensor) or not isinstance(output, Tensor) or not output.requires_grad:
            return
        arguments.pop("input", None)
        arguments["output_dimensions"] = output.dim()
        self.keep(function, arguments, inputs, output, first, [output])

    def keep(
        self,
        function: str,
        arguments: Mapping[str, Any],
        inputs: Tensor,
        output: Tensor,
        first: int,
        handed_out: Sequence[Tensor],
    ) -> None:
        """The same of a tensor `output` whose cotangents the rule needs, and of what the function returned."""
        tensors = {name: value for name, value in arguments.items() if self.may_be_differentiated(value)}
        every = (inputs, output, *tensors.values())
        if not tensors or any(is_functorch_wrapped_tensor(each) or each.is_complex() for each in every):
            return
        # Asked for before the nodes are counted: that of a view changed in place is made now.
        entries = frozenset(get_gradient_edge(tensor).node for tensor in handed_out if tensor.requires_grad)
        nodes = range(first, max(node._sequence_nr() for node in entries) + 1)
        sources = {name: get_gradient_edge(tensor) for name, tensor in tensors.items()}
        call = Call(
            function=function,
            arguments=arguments,
            roles=tuple((name, id(tensor) if id(tensor) in self.watched else 0) for name, tensor in tensors.items()),
            sources=sources,
            weight_norms={name: self.weight_norms.get(edge[:2]) for name, edge in sources.items()},
            given=get_gradient_edge(inputs)[:2] if inputs.requires_grad and function not in BARE else None,
            # Detached: the graph of earlier layers is held by the edges, not by the inputs.
            held=self.hold(inputs),
            itemsize=output.itemsize,
            output_shape=output.shape,
            edge=get_gradient_edge(output),
            nodes=nodes,
            entries=entries,
        )
        self.calls.append(call)


class _BareParameters(TorchFunctionMode):
    """Records parameters that are added, multiplied, expanded or indexed as they are, or multiply from the right."""

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
        is_pair = len(args) == 2 and not kwargs and (func in _ADDITIONS or func in _PRODUCTS)
        if func is torch._weight_norm:
            return self._recorder.weight_norm(*args, **(kwargs or {}))
        first = _get_sequence_nr()
        before = args
        if is_pair and func in _PRODUCTS_IN_PLACE and self._recorder.may_be_differentiated(args[1]):
            before = (args[0].detach().clone(), args[1])  # what is multiplied will be gone
        output = func(*args, **(kwargs or {}))
        if func is torch.Tensor.expand:
            if id(args[0]) in self._recorder.watched:
                self._recorder.record("expand", {"parameter": args[0]}, args[0], output, first)
        elif func in _INDEXING:
            ids = _rows_taken(args, kwargs) if id(args[0]) in self._recorder.watched else None
            if ids is not None:
                arguments = {**SIGNATURES["embedding"], "weight": args[0]}
                self._recorder.record("embedding", arguments, ids, output, first)
        elif func in _MATRIX_PRODUCTS and not kwargs:
            *bias, inputs, weight = args
            if isinstance(weight, Tensor) and weight.dim() == 2 and not any(each.dim() != 1 for each in bias):
                arguments = {"weight": weight, "bias": bias[0] if bias else None}
                self._recorder.record("matmul", arguments, inputs, output, first)
        elif is_pair and isinstance(output, Tensor):
            for parameter, other in ((before[0], before[1]), (before[1], before[0])):
                if self._is_bare(parameter, output):
                    # A product's rule needs a factor with an entry per output; a sum's needs only the cotangent.
                    full = isinstance(other, Tensor) and other.shape == output.shape
                    kind = "add" if func in _ADDITIONS else "multiply"
                    inputs = parameter if kind == "add" else other if full else None
                    self._recorder.record(kind, {"parameter": parameter}, inputs, output, first)
        return output

    def _is_bare(self, value: object, output: Tensor) -> bool:
        """Whether it is a watched parameter, or may be computed from one and is spread over the batch."""
        if id(value) in self._recorder.watched:
            return True
        if not isinstance(value, Tensor) or not self._recorder.may_be_differentiated(value):
            return False
        return value.dim() < output.dim() or (value.dim() == output.dim() > 0 and len(value) == 1)


def _rows_taken(args: Sequence[Any], kwargs: Mapping[str, Any] | None) -> Tensor | None:
    """The numbers of the rows that `table[ids]` or `index_select(table, 0, ids)` takes, from the start; else None."""
    table, *_, ids = args
    is_along_rows = len(args) == 2 or (len(args) == 3 and args[1] == 0)
    if kwargs or not is_along_rows or not isinstance(ids, Tensor) or not ids.dim():
        return None
    if ids.dtype not in {torch.int32, torch.int64}:
        return None
    return ids.detach() % len(table)  # −1 is the last one


def _watching(name: str, original: Callable[..., Any], recorder: _Recorder) -> Callable[..., Any]:
    """The function, reporting to the recorder."""
    defaults = SIGNATURES[name]

    @wraps(original)
    def watching(*args: Any, **kwargs: Any) -> Any:
        first = _get_sequence_nr()
        recorder.depth += 1
        try:
            output = original(*args, **kwargs)
        finally:
            recorder.depth -= 1
        arguments = {**defaults, **dict(zip(defaults, args, strict=False)), **kwargs}
        inputs = arguments["input"]
        if name == "embedding_bag" and recorder.may_be_differentiated(arguments["weight"]):
            inputs = bags(arguments)
        recorder.record(name, arguments, inputs, output, first)
        return output

    return watching


def _unrolling(name: str, original: Callable[..., Any], recorder: _Recorder) -> Callable[..., Any]:
    """The recurrent function step by step, reporting its products with weights to the recorder."""

    @wraps(original)
    def unrolling(*args: Any, **kwargs: Any) -> Any:
        tensors = [leaf for leaf in tree_leaves(args) if isinstance(leaf, Tensor)]
        is_watched = any(recorder.may_be_differentiated(tensor) for tensor in tensors)
        if not is_watched or kwargs or any(map(is_functorch_wrapped_tensor, tensors)):
            return original(*args, **kwargs)
        first = _get_sequence_nr()
        recorder.depth += 1
        try:
            found = unrolled(name, args)
        finally:
            recorder.depth -= 1
        if found is None:
            return original(*args, **kwargs)
        if not recorder.depth:
            for product in found.products:
                recorder.keep(product.function, product.arguments, product.inputs, product.output, first, found.outputs)
        return found.outputs if len(found.outputs) > 1 else found.outputs[0]

    return unrolling


@contextmanager
def recorded_calls(parameters: Mapping[str, Tensor], hold: Hold = SavedInput.of) -> Iterator[list[Call]]:
    """Record the uses of the parameters while the context is open; everything is put back whatever happens.

    `hold` says how the inputs are held.
    """
    recorder = _Recorder(frozenset(id(parameter) for parameter in parameters.values()), hold)
    with ExitStack() as stack:
        for name in SIGNATURES:
            original = getattr(functional, name)
            setattr(functional, name, _watching(name, original, recorder))
            stack.callback(setattr, functional, name, original)
        for name in FUNCTIONS:
            setattr(_VF, name, _unrolling(name, getattr(_VF, name), recorder))
            stack.callback(delattr, _VF, name)  # torch looks it up elsewhere
        with _BareParameters(recorder):
            yield recorder.calls
