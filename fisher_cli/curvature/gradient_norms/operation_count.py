"""What each parameter's norms cost, as a count of operations: the same in every run, unlike seconds.

A multiplication of a matrix product or convolution is one operation; every other function counts one for each
element that it reads or writes, whichever are more; views count nothing. Counted is what torch is really asked
to do, so the count follows the engine's choice between explicit and Gram form and the fallback's passes through
the network. Seconds would say more about speed and less about the method: they differ from run to run, and on
a GPU they are those of the slowest queue, not of the parameter.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

from torch import Tensor

from fisher_cli.curvature.torch_backend.dispatch_mode import DispatchMode

# Functions that touch no element, besides those that torch itself calls views.
_NOTHING = {"_unsafe_view", "empty", "empty_like", "empty_strided", "new_empty", "new_empty_strided"}

_active: ContextVar["OperationCounter | None"] = ContextVar("fisher_operations", default=None)


class OperationCounter(DispatchMode):  # type: ignore[no-untyped-call]
    """Counts operations while it is entered, by the parameters that they are `spent_on`.

    Attributes:
        by_owners: operations by the names of the parameters that share them; () for all the rest.
        owners: whose the operations are that come next.
        is_paused: whether nothing is counted.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.by_owners: Counter[tuple[str, ...]] = Counter()
        self.owners: tuple[str, ...] = ()
        self.is_paused = False
        from torch.utils.flop_counter import flop_registry  # here: it takes a while, and a first line would wait for it

        self._counts: Mapping[Any, Callable[..., int]] = flop_registry

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        named = dict(kwargs or {})
        result = func(*args, **named)
        if not self.is_paused:
            self.by_owners[self.owners] += self._operations(func, args, named, result)
        return result

    def _operations(self, func: Any, args: Sequence[Any], kwargs: Mapping[str, Any], result: Any) -> int:
        packet = func._overloadpacket
        if packet in self._counts:
            return int(self._counts[packet](*args, **kwargs, out_val=result)) // 2  # a flop is half a multiply-add
        if func.is_view or packet.__name__ in _NOTHING:
            return 0
        return max((tensor.numel() for tensor in _tensors([*args, *kwargs.values(), result])), default=0)

    def shares(self, sizes: Mapping[str, int]) -> tuple[dict[str, float], float]:
        """Each parameter's share of all operations, from 0 to 1, and the share that belongs to none.

        What several parameters have in common (a call's patches, the fallback's passes) is divided among them by their
        numbers of values.

        Args:
            sizes: the number of values of every parameter by name, those without operations too.

        Returns:
            Shares by parameter, which add up to one with the last number; all are 0 where nothing was counted.
        """
        total = sum(self.by_owners.values()) or 1
        spent = dict.fromkeys(sizes, 0.0)
        for owners, operations in self.by_owners.items():
            weights = {name: max(1, sizes[name]) for name in owners}
            for name, weight in weights.items():
                spent[name] += operations * weight / sum(weights.values()) / total
        return spent, self.by_owners[()] / total


@contextmanager
def counted() -> Iterator[OperationCounter]:
    """Count the operations of everything inside.

    Yields:
        The counter, complete when the context is left.
    """
    operations = OperationCounter()
    token = _active.set(operations)
    try:
        with operations:
            yield operations
    finally:
        _active.reset(token)


@contextmanager
def spent_on(names: Sequence[str]) -> Iterator[None]:
    """Count what is inside for these parameters, where operations are `counted`; else do nothing."""
    operations = _active.get()
    if operations is None:
        yield
        return
    before, operations.owners = operations.owners, tuple(names)
    try:
        yield
    finally:
        operations.owners = before


@contextmanager
def uncounted() -> Iterator[None]:
    """Count nothing of what is inside, where operations are `counted`; else do nothing."""
    operations = _active.get()
    if operations is None:
        yield
        return
    before, operations.is_paused = operations.is_paused, True
    try:
        yield
    finally:
        operations.is_paused = before


def _tensors(values: Sequence[Any]) -> Iterator[Tensor]:
    for value in values:
        if isinstance(value, Tensor):
            yield value
        elif isinstance(value, list | tuple):
            yield from _tensors(value)
