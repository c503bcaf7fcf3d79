"""Whose turn it is, among things that all ranks do together and each comes to in an order of its own."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from fisher_cli.curvature.problem.problem import Batch
from fisher_cli.curvature.problem.process_group import ProcessGroup

_NONE = -1


@dataclass
class CollectiveOrder:
    """The order in which all ranks come together to the parameters in the backward passes of their batches.

    Ranks may have different numbers of batches, and a network that looks at its inputs may use other layers, in another
    order, for the examples of another rank. So it is agreed each time: whose batch is the earliest goes first, and of
    those whose parameter is the last one of the network, where backward passes begin. No rank ever waits for one that
    waits itself, whatever the orders are, and ranks of one order go in step.

    Attributes:
        process_group: the ranks.
        names: of the parameters, in the network's order, the same on every rank.
        batch: the number of the batch that this rank is at, from 0.
    """

    process_group: ProcessGroup
    names: Sequence[str]
    batch: int = 0

    def of(self, batches: Iterable[Batch]) -> Iterator[Batch]:
        """This rank's batches, counted; `until(None)` is what is left to do after them, with ranks that have more.

        Args:
            batches: of this rank, in order.

        Yields:
            Each of them.
        """
        self.batch = 0
        for batch in batches:
            yield batch
            self.batch += 1

    def until(self, name: str | None) -> Iterator[str]:
        """The parameters whose turn it is, up to and with this one; for None, until no rank has any left.

        Collective: every name is yielded on all ranks together.

        Args:
            name: the parameter that this rank has come to, None where its batches are done.

        Yields:
            Names of parameters; this rank does its part of what all do with each.
        """
        mine = _NONE if name is None else self._place(name)
        while True:
            wanted = [place for place in self.process_group.numbers(mine) if place != _NONE]
            if not wanted:
                return
            turn = self.names[-1 - min(wanted) % len(self.names)]
            yield turn
            if turn == name:  # be it in a later batch than that of the rank whose turn it is
                return

    def _place(self, name: str) -> int:
        """In the order of all batches' parameters, the last one's first."""
        return (self.batch + 1) * len(self.names) - 1 - self.names.index(name)
