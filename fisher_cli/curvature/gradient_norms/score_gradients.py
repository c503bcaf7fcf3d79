"""The score gradients of one parameter as a factor holds them: as they are, or as inputs and cotangents.

A column of a linear layer is an outer product of input and cotangent and is kept as these two; other columns are kept
as they are.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from fisher_cli.curvature.gradient_norms.grad_factors import Contribution, OuterProducts
from fisher_cli.curvature.problem.process_group import ProcessGroup

# Products of symmetric matrices are made in blocks of so many rows, the lower ones only.
BLOCK_ROWS = 256


@dataclass
class OuterColumns:
    """M columns δ_m ⊗ a_{r_m} of one parameter, held as their two factors.

    Attributes:
        inputs: a, (n, Q), one row per example.
        cotangents: δ, (M, R).
        rows: r, (M,): the row of a that belongs to each δ.
    """

    inputs: Tensor
    cotangents: Tensor
    rows: Tensor

    @property
    def columns(self) -> Tensor:
        """The columns as they are, (M, R·Q), in the order of the parameter's entries."""
        return (self.cotangents.unsqueeze(2) * self.inputs[self.rows].unsqueeze(1)).flatten(1)

    def first(self, count: int) -> "OuterColumns":
        """The first `count` columns; the inputs are shared with this."""
        return OuterColumns(self.inputs, self.cotangents[:count], self.rows[:count])

    @property
    def work(self) -> int:
        """Multiplications of an inner product of two columns, about."""
        return self.inputs.shape[1] + self.cotangents.shape[1]

    def gathered(self, process_group: ProcessGroup, owner: int) -> "OuterColumns | None":
        """The columns of all ranks in their order, on the rank `owner`; None on the others. Collective."""
        before = sum(process_group.exchange(len(self.inputs))[: process_group.rank])
        parts = [process_group.gather_to(owner, part) for part in (self.inputs, self.cotangents, self.rows + before)]
        inputs, cotangents, rows = parts
        return None if inputs is None or cotangents is None or rows is None else OuterColumns(inputs, cotangents, rows)

    def add_inner_products(self, total: Tensor, biases: int = 0) -> None:
        """Add (a_mᵀa_m' + b) δ_mᵀδ_m' for all pairs of columns with m' ≤ m.

        Args:
            total: (M, M) in float64, changed in place. Above the diagonal it is only partly filled: `mirror` completes
                it.
            biases: b, how many bias vectors are counted in, whose columns are the cotangents δ themselves.
        """
        inputs = symmetric_product(self.inputs) + biases
        each = len(self.rows) // len(inputs)
        regular = torch.equal(self.rows, torch.arange(len(inputs), device=inputs.device).repeat_interleave(each))
        for some, before in lower_blocks(len(self.rows), each if regular else 1):
            block = self.cotangents[some] @ self.cotangents[before].T
            if regular:
                shared = inputs[some.start // each : some.stop // each, : before.stop // each]
                block.view(len(shared), each, -1, each).mul_(shared.unsqueeze(1).unsqueeze(3))
            else:
                block *= inputs[self.rows[some]][:, self.rows[before]]
            total[some, before] += block

    def combined(self, weights: Tensor) -> Tensor:
        """Σ_m w_m δ_m ⊗ a_m for every column of weights, (R·Q, k) in the columns' precision.

        Args:
            weights: w, (M, k).
        """
        inputs = self.inputs[self.rows]
        sums = inputs.new_empty(self.cotangents.shape[1] * inputs.shape[1], weights.shape[1])
        for index, one in enumerate(weights.T.to(inputs.dtype)):
            sums[:, index] = (self.cotangents.T @ (inputs * one.unsqueeze(1))).flatten()
        return sums


@dataclass
class ExplicitColumns:
    """M columns g_m of one parameter as they are.

    Attributes:
        columns: (M, size), in the order of the parameter's entries.
    """

    columns: Tensor

    @property
    def work(self) -> int:
        """Multiplications of an inner product of two columns."""
        return self.columns.shape[1]

    def gathered(self, process_group: ProcessGroup, owner: int) -> "ExplicitColumns | None":
        """The columns of all ranks in their order, on the rank `owner`; None on the others. Collective."""
        columns = process_group.gather_to(owner, self.columns)
        return None if columns is None else ExplicitColumns(columns)

    def add_inner_products(self, total: Tensor, biases: int = 0) -> None:
        """Add g_mᵀg_m' for all pairs of columns with m' ≤ m.

        Args:
            total: (M, M) in float64, changed in place; `mirror` completes it.
            biases: zero; only outer products count biases in.
        """
        assert not biases
        for some, before in lower_blocks(len(self.columns)):
            total[some, before] += self.columns[some] @ self.columns[before].T

    def combined(self, weights: Tensor) -> Tensor:
        """Σ_m w_m g_m for every column of weights, (size, k) in the columns' precision.

        Args:
            weights: w, (M, k).
        """
        return self.columns.T @ weights.to(self.columns.dtype)


def lower_blocks(rows: int, multiple: int = 1) -> Iterator[tuple[slice, slice]]:
    """Blocks of rows, and the columns up to the end of each: with them the lower half of a symmetric matrix is full."""
    height = max(BLOCK_ROWS // multiple, 1) * multiple
    for low in range(0, rows, height):
        high = min(low + height, rows)
        yield slice(low, high), slice(0, high)


def mirror(matrix: Tensor) -> None:
    """Make a matrix (M, M) symmetric in place by what is on and below its diagonal."""
    for some, _ in lower_blocks(len(matrix)):
        matrix[: some.start, some] = matrix[some, : some.start].T
        square = matrix[some, some].tril()
        matrix[some, some] = square + square.tril(-1).T


def symmetric_product(x: Tensor) -> Tensor:
    """X Xᵀ of X (M, size), the upper half mirrored."""
    total = x.new_empty(len(x), len(x))
    for some, before in lower_blocks(len(x)):
        total[some, before] = x[some] @ x[before].T
    mirror(total)
    return total


def is_outer(found: list[Contribution]) -> bool:
    """Whether gradients are plain outer products δ ⊗ a, cheaper to hold and to multiply as their two factors.

    Args:
        found: the contributions to one parameter.

    Returns:
        True for one `OuterProducts` with a single group and position, not transposed, of more than R + Q entries.
    """
    if len(found) != 1 or not isinstance(found[0], OuterProducts) or found[0].transposed:
        return False
    _, _, groups, rows, positions = found[0].cotangents.shape
    columns = found[0].inputs.shape[2]
    return groups == 1 and positions == 1 and rows * columns > rows + columns


def explicit(found: list[Contribution] | Tensor, shape: torch.Size) -> Tensor:
    """The gradients Jᵀ v of one parameter, (K, B, size), in the order of its entries.

    Args:
        found: what `BatchBackward.contributions` gives of it.
        shape: the parameter's.
    """
    if isinstance(found, Tensor):
        return found
    first, *others = (part.gradients(shape) for part in found)
    for other in others:
        first = first + other
    return first
