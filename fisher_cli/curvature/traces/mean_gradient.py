"""ḡ = (1/N) Σ_n g_n in float64: whole on every rank, or of a large network shared out among the ranks."""

from collections.abc import Iterable, Iterator

import torch
from torch import Tensor

from fisher_cli.curvature.linalg.sums import add_to, squared_norm
from fisher_cli.curvature.problem.collective_order import CollectiveOrder
from fisher_cli.curvature.problem.problem import Batch, Problem
from fisher_cli.curvature.products.fisher_products import views


class MeanGradient:
    """ḡ in float64, whole on every rank: sums are added batch by batch, then it is completed, and read.

    All methods but `add` and `part` are collective; of a `SharedMeanGradient` these two are as well.
    """

    def __init__(self, problem: Problem, vector: Tensor | None = None) -> None:
        """That of a vector (P,), which is the mean already; without one zero, to be added to."""
        if vector is None:
            vector = torch.zeros(problem.size, dtype=torch.float64, device=problem.device)
        self._problem, self._vector, self._parts = problem, vector, views(problem, vector)

    def adding(self, batches: Iterable[Batch]) -> Iterator[Batch]:
        """This rank's batches, during which sums are added."""
        yield from batches

    def reading(self, batches: Iterable[Batch]) -> Iterator[Batch]:
        """This rank's batches, during which parts are read."""
        yield from batches

    def add(self, name: str, part: Tensor) -> None:
        """Add a sum of gradients by one parameter, in its shape and any precision."""
        add_to(self._parts[name], part.detach())

    def part(self, name: str) -> Tensor:
        """ḡ of one parameter, in its shape."""
        return self._parts[name]

    def complete(self) -> None:
        """Make the mean over the examples of all ranks."""
        self._problem.process_group.sum(self._vector).div_(self._problem.examples)

    def squared_norm(self) -> float:
        """‖ḡ‖²."""
        return float(squared_norm(self._vector))

    def whole(self) -> Tensor:
        """ḡ, (P,) in float64, on every rank."""
        return self._vector

    def forget(self) -> None:
        """Free its memory; it cannot be read afterwards."""
        self._vector, self._parts = self._vector.new_empty(0), {}


class SharedMeanGradient(MeanGradient):
    """ḡ of which each of R ranks keeps P/R values, scattered so that each has its share of every parameter.

    So the ranks hold equally much whatever the sizes of the parameters, and a batch's sums are sent once, in the
    precision that they have: if a whole parameter were one rank's, all would send to this one, in float64. For that
    ranks go from parameter to parameter together, by `CollectiveOrder`. Parts are read in the network's precision, at
    least float32, in which layers' products with them are made.
    """

    def __init__(self, problem: Problem) -> None:
        """Zero, to be added to."""
        self._problem, self._collective_order = (
            problem,
            CollectiveOrder(problem.process_group, list(problem.parameters)),
        )
        self._dtype = torch.promote_types(problem.dtype, torch.float32)
        self._totals = {
            name: torch.zeros(problem.process_group.scattered(each.numel()), dtype=torch.float64, device=problem.device)
            for name, each in problem.parameters.items()
        }

    def adding(self, batches: Iterable[Batch]) -> Iterator[Batch]:
        """This rank's batches, during which sums are added; after them it takes part in the sums of others."""
        yield from self._collective_order.of(batches)
        for turn in self._collective_order.until(None):
            self._add(turn, None)

    def reading(self, batches: Iterable[Batch]) -> Iterator[Batch]:
        """This rank's batches, during which parts are read; after them it takes part when others read."""
        yield from self._collective_order.of(batches)
        for turn in self._collective_order.until(None):
            self._gathered(turn, self._dtype)

    def add(self, name: str, part: Tensor) -> None:
        """Add a sum of gradients by one parameter, in its shape, and what other ranks have to add to it now."""
        for turn in self._collective_order.until(name):
            self._add(turn, part if turn == name else None)

    def _add(self, name: str, part: Tensor | None) -> None:
        """Add this rank's sum, or nothing, and those of others."""
        if part is None:
            zero = torch.zeros(1, dtype=self._dtype, device=self._problem.device)
            part = zero.expand(self._problem.parameters[name].numel())
        self._problem.process_group.add_scattered(part.detach().to(self._dtype).reshape(-1), self._totals[name])

    def part(self, name: str) -> Tensor:
        """ḡ of one parameter, in its shape, gathered for this reader alone."""
        for turn in self._collective_order.until(name):
            found = self._gathered(turn, self._dtype)
        return found.view(self._problem.parameters[name].shape)

    def _gathered(self, name: str, dtype: torch.dtype) -> Tensor:
        size = self._problem.parameters[name].numel()
        return self._problem.process_group.gather_scattered(self._totals[name], size, dtype)

    def complete(self) -> None:
        """Make the mean over the examples of all ranks, whose sums are here already."""
        for total in self._totals.values():
            total.div_(self._problem.examples)

    def squared_norm(self) -> float:
        """‖ḡ‖²."""
        mine = torch.stack([squared_norm(total) for total in self._totals.values()]).sum()
        return float(self._problem.process_group.sum(mine.reshape(1)))

    def whole(self) -> Tensor:
        """ḡ, (P,) in float64, gathered on every rank."""
        vector = torch.empty(self._problem.size, dtype=torch.float64, device=self._problem.device)
        for name, part in views(self._problem, vector).items():
            part.copy_(self._gathered(name, torch.float64).view(part.shape))
        return vector

    def forget(self) -> None:
        """Free its memory; it cannot be read afterwards."""
        self._totals = {}


def mean_gradient(problem: Problem) -> MeanGradient:
    """Zero, to be added to: shared out where several ranks have a large network.

    Of a small one each rank adds up its own, and there is a single sum over the ranks at the end, which costs less than
    to go from layer to layer together.
    """
    is_shared = problem.is_large and problem.process_group.size > 1
    return SharedMeanGradient(problem) if is_shared else MeanGradient(problem)
