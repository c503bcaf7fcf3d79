"""The processes that share the examples; here the null case, a single one that has them all."""

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor

from fisher_cli.curvature.linalg.sums import add_to


class ProcessGroup:
    """Rank 0 of 1: every sum over the ranks is whole already, and all rows are there.

    `parallel.ranks.Ranks` is one of several. Its methods that pass anything between ranks are collective: all ranks
    call them in the same order.

    Attributes:
        rank: this process's number, from 0.
        size: how many ranks there are.
    """

    rank = 0
    size = 1

    def share(self, count: int, rank: int | None = None) -> range:
        """Which of `count` things in a row are a rank's: contiguous shares, sizes differing by one at most.

        The first ranks have more.

        Args:
            count: how many things there are.
            rank: whose share; None for this one's.
        """
        rank = self.rank if rank is None else rank
        return range(-(-rank * count // self.size), -(-(rank + 1) * count // self.size))

    def sum(self, tensor: Tensor) -> Tensor:
        """Σ over the ranks of a contiguous tensor, added in float64; changed in place and returned."""
        return tensor

    def scattered(self, count: int) -> int:
        """How many of `count` values are this rank's where a vector is scattered over the ranks."""
        return count

    def add_scattered(self, vector: Tensor, total: Tensor) -> None:
        """Add Σ over the ranks of a vector (n,), in float64, to a total that is scattered over them.

        Args:
            vector: this rank's, of the same length and precision on every rank.
            total: this rank's part, (scattered(n),) in float64; changed in place.
        """
        add_to(total, vector)

    def gather_scattered(self, total: Tensor, count: int, dtype: torch.dtype) -> Tensor:  # noqa: ARG002 - all here
        """The vector (count,) of a scattered total, in another precision, on every rank.

        Args:
            total: this rank's part, (scattered(count),).
            count: the length of the whole.
            dtype: the precision of the result.
        """
        return total.to(dtype)

    def gather(self, parts: Sequence[Tensor]) -> Tensor:
        """The rows of all ranks in their order, (Σ rows, …), on every rank.

        Args:
            parts: this rank's rows in order, each part (rows, …); a rank may have none, but not all.
        """
        return parts[0] if len(parts) == 1 else torch.cat(list(parts))

    def gather_to(self, owner: int, part: Tensor) -> Tensor | None:
        """The rows of all ranks in their order, (Σ rows, …), for one rank alone; None for the others.

        Args:
            owner: the rank that gets them.
            part: this rank's rows.
        """
        return part if owner == self.rank else None

    def exchange(self, value: Any) -> list[Any]:
        """Every rank's JSON value, in order of the ranks."""
        return [value]

    def numbers(self, mine: int) -> list[int]:
        """Every rank's whole number, in order of the ranks: half of what an exchange takes."""
        return [mine]

    def broadcast(self, value: Any) -> Any:
        """The JSON value of rank 0, who alone may know it."""
        return self.exchange(value if self.rank == 0 else None)[0] if self.size > 1 else value

    def in_step(self) -> AbstractContextManager[None]:
        """Work that succeeds on all ranks or fails on all, with the same error."""
        return nullcontext()

    def sharers(self, device: torch.device) -> int:  # noqa: ARG002 - a single one shares none
        """How many ranks share the memory of a device with this one, itself counted."""
        return 1

    def own_device(self, name: str) -> str:
        """The device that a rank takes where `name` was asked for."""
        return name


ALONE = ProcessGroup()
