"""Activation recomputation: blocks of a network keep what they are given, and go forward anew in the backward pass.

Source: Chen et al. 2016 (arXiv:1604.06174). torch.utils.checkpoint keeps what it recomputed for a backward pass until
the graph ends, where that pass asks for no weight gradients, and knows nothing of calls recorded beside the graph.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks
from torch.utils._pytree import tree_leaves, tree_map

from fisher_cli.errors import ArchitectureError

Again = Callable[[Callable[[Tensor], object]], AbstractContextManager[object]]
"""Given what is to be told of every recorded input: the surroundings in which a network goes forward."""


@dataclass
class Block:
    """A module by its name: its own forward pass is a segment, or those of runs of children of an nn.Sequential.

    `in_place` are the segments that were seen to work on what they are given, or whose inputs others work on.
    """

    name: str
    runs: tuple[range, ...] = ()
    in_place: set[int] = field(default_factory=set)


def blocks_of(model: nn.Module, inputs: Tensor) -> tuple[Block, ...]:
    """The blocks in nn.Sequential and nn.ModuleList, each at most 1/√(modules) of all activations where that can be.

    Found in one forward pass. Of an nn.Sequential so many children in a row are taken together; a layer by itself,
    which would save nothing, is none.
    """
    values = dict[nn.Module, int]()

    def count(module: nn.Module, _: object, output: object) -> None:
        if isinstance(output, Tensor):
            values[module] = values.get(module, 0) + output.numel()

    leaves = [module for module in model.modules() if next(module.children(), None) is None]
    handles = [module.register_forward_hook(count) for module in leaves]
    try:
        with torch.no_grad():
            model(inputs.clone())
    finally:
        for handle in handles:
            handle.remove()

    def size(module: nn.Module) -> int:
        return sum(values.get(each, 0) for each in module.modules())

    limit = size(model) / math.sqrt(max(1, len(values)))
    return tuple(_blocks_in(model, "", size, limit))


def _blocks_in(module: nn.Module, name: str, size: Callable[[nn.Module], int], limit: float) -> Iterator[Block]:
    """Those of a module that is no block itself."""
    is_list = isinstance(module, (nn.Sequential, nn.ModuleList))
    whole = []
    for index, (child_name, child) in enumerate(module.named_children()):
        inner = f"{name}.{child_name}" if name else child_name
        if size(child) > limit and any(isinstance(each, (nn.Sequential, nn.ModuleList)) for each in child.modules()):
            yield from _blocks_in(child, inner, size, limit)
        elif is_list and type(module).forward is nn.Sequential.forward:
            whole.append((index, size(child)))
        elif is_list and next(child.children(), None) is not None:
            yield Block(inner)
    if whole:
        yield Block(name, tuple(_runs(whole, limit)))


def _runs(children: Sequence[tuple[int, int]], limit: float) -> Iterator[range]:
    """Children in a row whose sizes add up to no more than the limit, or single ones."""
    start, total, last = children[0][0], 0, children[0][0] - 1
    for index, size in children:
        if index != last + 1 or (total and total + size > limit):
            yield range(start, last + 1)
            start, total = index, 0
        total, last = total + size, index
    yield range(start, last + 1)


@dataclass
class SavedInput:
    """A recorded call's input: the tensor itself, or where it will be when its segment has gone forward anew."""

    tensor: Tensor | None
    version: int
    _unchanged: bool = True
    _again: Callable[[], Tensor] | None = None

    @classmethod
    def of(cls, tensor: Tensor) -> "SavedInput":
        """An input as the function was given it."""
        return cls(tensor.detach(), tensor._version)

    @property
    def unchanged(self) -> bool:
        """Whether it still holds, or held when its segment ended, what the function was given."""
        return self._unchanged if self.tensor is None else self.tensor._version == self.version

    def get(self) -> Tensor:
        """The input."""
        if self.tensor is not None:
            return self.tensor
        assert self._again is not None
        return self._again()

    def let_go(self, again: Callable[[], Tensor]) -> None:
        """Hold the tensor no longer."""
        self._unchanged, self.tensor, self._again = self.unchanged, None, again


@dataclass(eq=False)
class _Segment:
    """One run of a block: what it was given, how many tensors it saved, what came out in short."""

    run: Callable[..., Any]
    given: Any
    versions: list[tuple[Tensor, int]]
    memory: "ActivationCheckpointing"
    saved: int = 0
    fingerprint: list[Tensor] = field(default_factory=list)
    held: list[tuple[SavedInput, int]] = field(default_factory=list)

    def pack(self, _tensor: Tensor) -> int:
        """The place among the saved tensors of the next one."""
        self.saved += 1
        return self.saved - 1

    def get(self, place: int) -> Tensor:
        """A saved tensor.

        Raises:
            RuntimeError: an operation in place has changed it since.
        """
        tensor, version = self.memory.saved_of(self)[place]
        if tensor._version != version:
            msg = "a tensor needed for the gradient has been modified by an inplace operation"
            raise RuntimeError(msg)
        return tensor

    def get_input(self, place: int) -> Tensor:
        """A recorded input, of which it is known that nothing changed it."""
        return self.memory.saved_of(self)[place][0]


def _fingerprint(result: Any) -> list[Tensor]:
    return [leaf.detach().sum() for leaf in tree_leaves(result) if isinstance(leaf, Tensor)]


class ActivationCheckpointing:
    """The segments of one forward pass, of which one at a time is there with the tensors that it saved."""

    def __init__(self, again: Again) -> None:
        self._again = again
        self._current: _Segment | None = None
        self._present: tuple[_Segment, list[tuple[Tensor, int]]] | None = None
        self._segments: list[tuple[Block, int, _Segment]] = []

    def hold(self, tensor: Tensor) -> SavedInput:
        """A recorded input, which is let go when the segment that it is in ends."""
        held = SavedInput.of(tensor)
        if self._current is not None:
            self._current.held.append((held, self._current.pack(tensor)))
        return held

    def saved_of(self, segment: _Segment) -> list[tuple[Tensor, int]]:
        """What a segment saved, each with its version; whatever another one saved is let go first.

        Raises:
            ArchitectureError: it does not compute the same twice.
        """
        if self._present is None or self._present[0] is not segment:
            self._present = None
            self._present = (segment, self._gone_forward(segment))
        return self._present[1]

    def _gone_forward(self, segment: _Segment) -> list[tuple[Tensor, int]]:
        saved: list[tuple[Tensor, int]] = []

        def keep(tensor: Tensor) -> int:
            saved.append((tensor.detach(), tensor._version))
            return len(saved) - 1

        with self._again(keep), torch.enable_grad():
            arguments, named = tree_map(_fresh, segment.given)
            with saved_tensors_hooks(keep, lambda place: saved[place][0]):
                result = segment.run(*arguments, **named)
            before, now = segment.fingerprint, _fingerprint(result)
            is_same = len(before) == len(now) and all(map(torch.equal, before, now))
        if not is_same or len(saved) != segment.saved:
            msg = "--activations recompute: a block does not compute the same twice; type --activations keep"
            raise ArchitectureError(msg)
        return saved

    def run(self, block: Block, index: int, forward: Callable[..., Any], arguments: Any, named: Any) -> Any:
        """A segment's forward pass."""
        if not torch.is_grad_enabled() or self._current is not None:
            return forward(*arguments, **named)
        is_copied = index in block.in_place
        tensors = [leaf for leaf in tree_leaves((arguments, named)) if isinstance(leaf, Tensor)]
        given = tree_map(lambda leaf: _kept(leaf, copy=is_copied), (arguments, named))
        versions = [] if is_copied else [(tensor.detach(), tensor._version) for tensor in tensors]
        segment = self._current = _Segment(forward, given, versions, self)
        try:
            with saved_tensors_hooks(segment.pack, segment.get):
                result = forward(*arguments, **named)
        finally:
            self._current = None
        segment.fingerprint = _fingerprint(result)
        for held, place in segment.held:
            held.let_go(lambda place=place: segment.get_input(place))  # type: ignore[misc]
        segment.held.clear()
        self._segments.append((block, index, segment))
        return result

    def is_sound(self) -> bool:
        """Whether every segment still has what it was given; if not, those that have not are known from now on."""
        changed = [
            (block, index)
            for block, index, segment in self._segments
            if any(tensor._version != version for tensor, version in segment.versions)
        ]
        for block, index in changed:
            block.in_place.add(index)
        return not changed


@dataclass(frozen=True)
class _Kept:
    """What a segment was given without its graph."""

    tensor: Tensor


def _kept(leaf: Any, *, copy: bool) -> Any:
    if not isinstance(leaf, Tensor) or isinstance(leaf, nn.Parameter):
        return leaf
    tensor = leaf.detach()
    # Asked for here, since within a vectorised backward pass torch does not let a tensor begin to require gradients.
    return _Kept((tensor.clone() if copy else tensor).requires_grad_(leaf.requires_grad))


def _fresh(leaf: Any) -> Any:
    """What the segment is given the second time: a copy, on which it may work in place."""
    return leaf.tensor.clone() if isinstance(leaf, _Kept) else leaf


@contextmanager
def checkpointed(model: nn.Module, blocks: Sequence[Block], memory: ActivationCheckpointing) -> Iterator[None]:
    """Let the blocks of a network be segments of the recomputation while the context is open."""
    with ExitStack() as stack:
        for block in blocks:
            module = model.get_submodule(block.name)
            before = vars(module).get("forward")
            forward = _in_runs(module, block, memory) if block.runs else _whole(module, block, memory)
            vars(module)["forward"] = forward
            stack.callback(_put_back, module, before)
        yield


def _put_back(module: nn.Module, before: Any) -> None:
    if before is None:
        del vars(module)["forward"]
    else:
        vars(module)["forward"] = before


def _whole(module: nn.Module, block: Block, memory: ActivationCheckpointing) -> Callable[..., Any]:
    original = module.forward

    def forward(*arguments: Any, **named: Any) -> Any:
        return memory.run(block, 0, original, arguments, named)

    return forward


def _in_runs(module: nn.Module, block: Block, memory: ActivationCheckpointing) -> Callable[[Any], Any]:
    children = list(module.children())
    starts = {run.start: (number, run) for number, run in enumerate(block.runs)}

    def forward(input: Any) -> Any:
        place = 0
        while place < len(children):
            number, run = starts.get(place, (-1, range(place, place + 1)))
            some = children[run.start : run.stop]
            input = memory.run(block, number, _chain(some), (input,), {}) if number >= 0 else some[0](input)
            place = run.stop
        return input

    return forward


def _chain(modules: Sequence[nn.Module]) -> Callable[[Any], Any]:
    def forward(input: Any) -> Any:
        for module in modules:
            input = module(input)
        return input

    return forward
