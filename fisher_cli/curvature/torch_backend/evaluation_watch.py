"""What one evaluation of a network uses: the coarsest numbers inside, and rows of embeddings without a gradient."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.weak import WeakIdKeyDictionary

# The place of `padding_idx` among the arguments of what looks rows of a table up.
_PADDING = {torch.ops.aten.embedding: 2, torch.ops.aten._embedding_bag: 8}


@dataclass
class Watched:
    """`coarsest` is the least precise type of what depends on parameters; `padding` the rows left out, by parameter."""

    coarsest: torch.dtype = torch.float64
    padding: dict[str, set[int]] = field(default_factory=dict)

    @property
    def unit(self) -> float:
        """The largest relative rounding."""
        return torch.finfo(self.coarsest).eps


class _Watch(TorchDispatchMode):  # type: ignore[no-untyped-call]
    def __init__(self, parameters: Mapping[str, Tensor], watched: Watched) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._watched = watched
        self._names = {parameter.data_ptr(): name for name, parameter in parameters.items()}
        self._storages = {parameter.untyped_storage().data_ptr() for parameter in parameters.values()}
        # Of tensors that were computed from parameters.
        self._dependent = WeakIdKeyDictionary()

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        found = func(*args, **(kwargs or {}))
        given = [each for each in tree_leaves((args, kwargs)) if isinstance(each, Tensor)]
        if any(each in self._dependent or self._is_view(each) for each in given):
            for each in tree_leaves(found):
                if isinstance(each, Tensor):
                    self._dependent[each] = True
                    if each.is_floating_point() or each.is_complex():
                        seen = (self._watched.coarsest, each.dtype)
                        self._watched.coarsest = max(seen, key=lambda dtype: torch.finfo(dtype).eps)
        place = _PADDING.get(func.overloadpacket)
        if place is not None:
            self._look_up(args, kwargs or {}, place)
        return found

    def _is_view(self, tensor: Tensor) -> bool:
        """Whether it is a parameter, or a view of one."""
        return tensor.layout is torch.strided and tensor.untyped_storage().data_ptr() in self._storages

    def _look_up(self, args: tuple[Any, ...], kwargs: Mapping[str, Any], place: int) -> None:
        row = args[place] if len(args) > place else kwargs.get("padding_idx", -1)
        name = self._names.get(args[0].data_ptr())
        if row >= 0 and name is not None:
            self._watched.padding.setdefault(name, set()).add(row)


@contextmanager
def watched_evaluation(parameters: Mapping[str, Tensor]) -> Iterator[Watched]:
    """Watch every operation while the context is open."""
    watched = Watched()
    with _Watch(parameters, watched):
        yield watched
