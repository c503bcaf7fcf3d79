"""What each use of a parameter was given and where its output enters the graph, recorded during one forward pass.

Watched are functions, not modules: a layer used functionally, twice, or inside nn.MultiheadAttention is seen
like any other. What escapes (a function imported by name elsewhere, compiled code) shows as a use in the graph
without a record, and the parameter then goes through per-example gradients.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from functools import cache, wraps
from typing import Any

import torch
from torch import Tensor
from torch._C._autograd import _get_sequence_nr
from torch._C._functorch import is_functorch_wrapped_tensor
from torch.autograd.graph import GradientEdge, get_gradient_edge
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves

from fisher_cli.curvature.gradient_norms.rules.registry import (
    DECOMPOSITIONS,
    OPERATORS,
    WATCHED,
    Decompose,
    Rule,
    WatchedFunction,
)
from fisher_cli.curvature.torch_backend.activation_checkpointing import SavedInput
from fisher_cli.curvature.torch_backend.backend_flags import reproducible_kernels
from fisher_cli.curvature.torch_backend.patches import Layer, Make, Patches

Hold = Callable[[Tensor], SavedInput]


@dataclass(frozen=True)
class WeightNorm:
    """w_i = g_i v_i/‖v_i‖ by rows i. Source: Salimans and Kingma 2016 (arXiv:1602.07868)."""

    v: Tensor
    g: Tensor


@dataclass(frozen=True)
class Call:
    """One use of parameters, or of tensors computed from them: its rule, its arguments, its input, its output.

    The edge of the output is taken when the function returns. A tensor kept and differentiated later would be wrong
    after an in-place operation on it: a ReLU in place or `out += identity` moves the tensor, not the edge.

    Attributes:
        rule: what gives its contributions.
        arguments: by name, `output_dimensions` among them. The input is left out, and other tensors that depend on
            earlier layers.
        roles: the arguments that may hold what is differentiated, as (argument name, parameter id); 0 for a tensor that
            is no parameter.
        sources: their edges, by argument name.
        weight_norms: what each of them is a norm of, by argument name; None where it is no weight normed by row.
        given: the edges of all else that it was given, as (node, output number).
        held: the input, as it is held for the backward pass; None where the rule needs none.
        itemsize: bytes of one value of the output.
        output_shape: with the examples in whichever dimension the network keeps them.
        edge: where the output enters the graph.
        nodes: the sequence numbers of the graph's nodes that the function made.
        entries: the nodes of the tensors that it returned.
    """

    rule: Rule
    arguments: Mapping[str, Any]
    roles: tuple[tuple[str, int], ...]
    sources: Mapping[str, GradientEdge]
    weight_norms: Mapping[str, WeightNorm | None]
    given: frozenset[tuple[Any, int]]
    held: SavedInput | None
    itemsize: int
    output_shape: torch.Size
    edge: GradientEdge
    nodes: range
    entries: frozenset[Any]

    @property
    def inputs(self) -> Tensor | None:
        """What the rule needs of the data, as the call had it; None where a parameter is added or expanded as it is."""
        return None if self.held is None else self.held.get()

    @property
    def unchanged(self) -> bool:
        """Whether the held input still has the values that the function was given."""
        return self.held is None or self.held.unchanged


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

    def record(
        self, watched: WatchedFunction, args: Sequence[Any], kwargs: Mapping[str, Any], output: object, first: int
    ) -> None:
        """Keep the call of a watched function, whose nodes begin with the sequence number `first`."""
        if self.depth or not isinstance(output, Tensor) or not output.requires_grad:
            return
        arguments, parameters = watched.arguments(args, kwargs), watched.rule.parameters
        if not any(self.may_be_differentiated(arguments.get(name)) for name in parameters):
            return
        inputs = arguments[watched.input] if watched.inputs is None else watched.inputs(arguments)
        others = [value for name, value in arguments.items() if name not in parameters and isinstance(value, Tensor)]
        # What is data is held as `inputs` alone: with the graph of earlier layers the rest would be.
        kept = {
            name: value
            for name, value in arguments.items()
            if name in parameters or not isinstance(value, Tensor) or not (name == watched.input or value.requires_grad)
        }
        if isinstance(inputs, Tensor):
            self.keep(watched.rule, kept, inputs, others, output, first, [output])

    def keep(
        self,
        rule: Rule,
        arguments: dict[str, Any],
        inputs: Tensor | None,
        others: Sequence[Tensor],
        output: Tensor,
        first: int,
        handed_out: Sequence[Tensor],
    ) -> None:
        """Keep a use of parameters, if any of them may have a gradient.

        What a transform of torch.func works on is not kept, whose graph is another one, nor what is complex.

        Args:
            rule: what it goes by.
            arguments: what the rule is given.
            inputs: the data that it needs.
            others: all tensors that the function was given beside parameters.
            output: whose cotangents the rule needs.
            first: the sequence number with which the function's nodes begin.
            handed_out: what the function returned.
        """
        tensors = {name: arguments[name] for name in rule.parameters if self.may_be_differentiated(arguments.get(name))}
        every = (*(() if inputs is None else (inputs,)), output, *others, *tensors.values())
        if not tensors or any(is_functorch_wrapped_tensor(each) or each.is_complex() for each in every):
            return
        # Asked for before the nodes are counted: that of a view changed in place is made now.
        entries = frozenset(get_gradient_edge(tensor).node for tensor in handed_out if tensor.requires_grad)
        nodes = range(first, max(node._sequence_nr() for node in entries) + 1)
        sources = {name: get_gradient_edge(tensor) for name, tensor in tensors.items()}
        call = Call(
            rule=rule,
            arguments=arguments | {"output_dimensions": output.dim()},
            roles=tuple((name, id(tensor) if id(tensor) in self.watched else 0) for name, tensor in tensors.items()),
            sources=sources,
            weight_norms={name: self.weight_norms.get(edge[:2]) for name, edge in sources.items()},
            given=frozenset(get_gradient_edge(tensor)[:2] for tensor in others if tensor.requires_grad),
            # Detached: the graph of earlier layers is held by the edges, not by the inputs.
            held=None if inputs is None else self.hold(inputs),
            itemsize=output.itemsize,
            output_shape=output.shape,
            edge=get_gradient_edge(output),
            nodes=nodes,
            entries=entries,
        )
        self.calls.append(call)


class _Operators(TorchFunctionMode):
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
        recorder, named = self._recorder, kwargs or {}
        if func is torch._weight_norm:
            return recorder.weight_norm(*args, **named)
        operator = OPERATORS.get(func)
        if operator is None or recorder.depth:
            return func(*args, **named)
        first = _get_sequence_nr()
        before = args
        if operator.in_place and any(recorder.may_be_differentiated(each) for each in args[1:]):
            before = (args[0].detach().clone(), *args[1:])  # what is multiplied will be gone
        output = func(*args, **named)
        if isinstance(output, Tensor) and output.requires_grad:
            for arguments, inputs in operator.operands(before, named, output):
                if inputs is None or isinstance(inputs, Tensor):
                    others = [] if inputs is None else [inputs]
                    recorder.keep(operator.rule, arguments, inputs, others, output, first, [output])
        return output


_recorder: ContextVar[_Recorder | None] = ContextVar("fisher_recorder", default=None)


@cache
def _watching(watched: WatchedFunction) -> Make:
    """What makes a function report to the recorder."""

    def make(original: Callable[..., Any]) -> Any:
        @wraps(original)
        def watching(*args: Any, **kwargs: Any) -> Any:
            recorder = _recorder.get()
            if recorder is None:
                return original(*args, **kwargs)
            first = _get_sequence_nr()
            recorder.depth += 1
            try:
                output = original(*args, **kwargs)
            finally:
                recorder.depth -= 1
            recorder.record(watched, args, kwargs, output, first)
            return output

        return watching

    return make


@cache
def _decomposing(name: str, decompose: Decompose) -> Make:
    """What makes a function go by its decomposition, whose products are reported to the recorder."""

    def make(original: Callable[..., Any]) -> Any:
        @wraps(original)
        def decomposing(*args: Any, **kwargs: Any) -> Any:
            recorder = _recorder.get()
            tensors = [leaf for leaf in tree_leaves(args) if isinstance(leaf, Tensor)]
            is_watched = recorder is not None and any(map(recorder.may_be_differentiated, tensors))
            if recorder is None or not is_watched or kwargs or any(map(is_functorch_wrapped_tensor, tensors)):
                return original(*args, **kwargs)
            first = _get_sequence_nr()
            recorder.depth += 1
            try:
                found = decompose(name, args)
            finally:
                recorder.depth -= 1
            if found is None:
                return original(*args, **kwargs)
            if not recorder.depth:
                for one in found.products:
                    recorder.keep(one.rule, dict(one.arguments), one.inputs, [], one.output, first, found.outputs)
            return found.outputs if len(found.outputs) > 1 else found.outputs[0]

        return decomposing

    return make


@contextmanager
def recorded_calls(
    parameters: Mapping[str, Tensor], hold: Hold = SavedInput.of, *patches: Patches
) -> Iterator[list[Call]]:
    """Record the uses of the parameters in reproducible kernels while the context is open.

    Args:
        parameters: whose uses are recorded, by name.
        hold: how the inputs are held; by default as they are, detached.
        patches: functions that are replaced meanwhile, besides those that are watched.

    Yields:
        The calls in their order, a list that grows while the context is open.
    """
    recorder = _Recorder(frozenset(id(parameter) for parameter in parameters.values()), hold)
    makers = {place: _watching(watched) for place, watched in WATCHED.items()}
    makers |= {place: _decomposing(place[1], decompose) for place, decompose in DECOMPOSITIONS.items()}
    token = _recorder.set(recorder)
    try:
        with reproducible_kernels(Patches(Layer.RECORDER, makers), *patches), _Operators(recorder):
            yield recorder.calls
    finally:
        _recorder.reset(token)
