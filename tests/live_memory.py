"""The bytes of all tensors that are alive at once: the same on every machine, whatever else runs there."""

import weakref
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves

from fisher_cli.curvature.torch_backend.dispatch_mode import DispatchMode


class LiveMemory(DispatchMode):
    """Counts the storages that operations make while it is entered, from their first result until they are freed.

    Views share a storage and count once; a storage that is resized counts as large as it was when it was last seen.
    What was there before counts only if it is `held`. `peak` is the most at once, `largest` the largest single one,
    `values` how many values all operations returned; `now` is what is alive at the moment.
    """

    def __init__(self, held: Any = ()) -> None:
        super().__init__()
        self.now = self.peak = self.largest = self.values = 0
        self._sizes: dict[int, int] = {}
        self._before: set[int] = set()
        for each in tensors_in(held):
            self._count(each.untyped_storage())

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if function is not torch.ops.aten.lift_fresh.default:  # that of torch.tensor, whose argument is new
            for each in tensors_in((args, kwargs)):
                self._pass_over(each.untyped_storage())
        found = function(*args, **(kwargs or {}))
        for each in tensors_in(found):
            self.values += each.numel()
            self._count(each.untyped_storage())
        return found

    def _pass_over(self, storage: torch.UntypedStorage) -> None:
        """Nobody has seen it made: it was there before."""
        key = storage._cdata
        if key not in self._sizes and key not in self._before:
            self._before.add(key)
            self._watch(storage)

    def _count(self, storage: torch.UntypedStorage) -> None:
        key, size = storage._cdata, storage.nbytes()
        if key in self._before:
            return
        if key not in self._sizes:
            self._watch(storage)
        self.now += size - self._sizes.get(key, 0)
        self._sizes[key] = size
        self.largest, self.peak = max(self.largest, size), max(self.peak, self.now)

    def _watch(self, storage: torch.UntypedStorage) -> None:
        weakref.finalize(storage, self._freed, storage._cdata).atexit = False

    def _freed(self, key: int) -> None:
        self._before.discard(key)
        self.now -= self._sizes.pop(key, 0)


def tensors_in(something: Any) -> Iterator[Tensor]:
    """All tensors in nested containers that have memory; of a sparse one its parts."""
    for each in tree_leaves(something):
        if not isinstance(each, Tensor) or each.is_meta or each._is_zerotensor():
            continue
        if each.layout is torch.strided:
            yield each
        elif each.is_sparse:
            yield from (torch.ops.aten._indices(each), torch.ops.aten._values(each))
