"""An orthonormal basis, a positive semidefinite matrix projected onto it, and its Ritz pairs with their residuals."""

from dataclasses import dataclass

import torch
from torch import Tensor

from fisher_cli.curvature.linalg.krylov import BREAKDOWN, BlockedBasis, Operator, random_direction, step, unit
from fisher_cli.curvature.linalg.sums import dot
from fisher_cli.errors import NumericalError

# A Ritz value this far below zero, relative to the largest, is no rounding, not even that of float32 products.
INDEFINITE = 1e-4


@dataclass(frozen=True)
class RitzPairs:
    """Ritz pairs in descending order: values (n,), coordinates (n, n) in columns, and their residuals (n,).

    `residuals` is what they are if the parts of A Q outside the basis are orthogonal, `bounds` what they are at most.
    """

    values: Tensor
    coordinates: Tensor
    residuals: Tensor
    bounds: Tensor


class Subspace:
    """An orthonormal basis Q, H = QᵀAQ, and how far A leads out of it: float64 on the CPU, in the operator's scale.

    The rows from `chain` on are one Krylov chain of A projected off the rows before. One more row waits for
    its product. `outside` and `outside_bounds` (n,): norms of (I − QQᵀ) A q_i, and bounds where not known.
    """

    def __init__(self, operator: Operator, rows: BlockedBasis, images: BlockedBasis | None, seed: int) -> None:
        self.operator, self.rows, self.images = operator, rows, images
        self._generator = torch.Generator().manual_seed(seed)
        self.matrix = torch.zeros(0, 0, dtype=torch.float64)
        self.outside = self.outside_bounds = torch.zeros(0, dtype=torch.float64)
        self.largest = 0.0
        self._begin()

    def _begin(self) -> None:
        """A new chain, from a random direction orthogonal to everything so far."""
        self.chain = len(self.matrix)
        direction = random_direction(self.rows, self._generator)
        self.spanned = direction is None
        if direction is not None:
            self.rows.append(direction)

    @property
    def eps(self) -> float:
        """The unit in the last place of the vectors' precision."""
        return float(torch.finfo(self.rows.dtype).eps)

    def extend(self) -> tuple[float, float]:
        """One Lanczos step; returns α and β."""
        found = step(self.operator, self.rows, self.images)
        last = len(self.matrix)
        self.matrix = torch.nn.functional.pad(self.matrix, (0, 1, 0, 1))
        self.matrix[last, last] = found.alpha
        self.matrix[: self.chain, last] = self.matrix[last, : self.chain] = found.coefficients[: self.chain]
        if last > self.chain:
            self.matrix[last - 1, last] = self.matrix[last, last - 1] = self.outside[-1]
            self.outside[-1] = self.outside_bounds[-1] = 0
        beta = torch.tensor([found.beta], dtype=torch.float64)
        self.outside, self.outside_bounds = torch.cat([self.outside, beta]), torch.cat([self.outside_bounds, beta])
        self.largest = max(self.largest, abs(found.alpha), found.beta)
        self._continue(found.rest, found.beta)
        return found.alpha, found.beta

    def _continue(self, rest: Tensor, beta: float) -> None:
        """The next row: the rest of the product, and a random direction where nothing orthogonal is left of it."""
        if len(self.rows) == self.rows.size:
            self.spanned = True
            return
        if beta > 0:
            rest /= beta
            if beta > BREAKDOWN * self.eps * self.largest:
                self.rows.append(rest)
                return
            # Made of rounding errors, it is as good as random, but must be made orthogonal once more.
            self.rows.remove(rest)
            if float(dot(rest, rest)) > 0.25:
                self.rows.append(unit(rest, self.rows))
                return
        self._begin()

    def ritz(self) -> RitzPairs:
        """Ritz pairs of A in the whole basis.

        Raises:
            NumericalError: a Ritz value is negative beyond rounding.
        """
        values, coordinates = torch.linalg.eigh(self.matrix)
        values, coordinates = values.flip(0), coordinates.flip(1)
        lowest, top = float(values[-1]), float(values.abs().max())
        if lowest < -INDEFINITE * top:
            msg = f"the matrix is not positive semidefinite: it has an eigenvalue ≤ {lowest * self.operator.scale:.3g}"
            raise NumericalError(msg)
        residuals = (self.outside.unsqueeze(1) * coordinates).norm(dim=0)
        bounds = (self.outside_bounds.unsqueeze(1) * coordinates).abs().sum(0)
        return RitzPairs(values, coordinates, residuals, bounds)

    def keep(self, ritz: RitzPairs, chosen: Tensor) -> None:
        """The chosen Ritz vectors as the basis, and nothing else."""
        coordinates = ritz.coordinates[:, chosen]
        self.rows.combine(coordinates)
        if self.images is not None:
            self.images.combine(coordinates)
        self.matrix = torch.diag(ritz.values[chosen])
        self.outside, self.outside_bounds = ritz.residuals[chosen], ritz.bounds[chosen]

    def truncate(self, count: int) -> None:
        """Only the first basis vectors."""
        self.rows.truncate(count)
        if self.images is not None:
            self.images.truncate(count)

    def restart(self, ritz: RitzPairs, chosen: Tensor) -> None:
        """The chosen Ritz vectors as the basis, and a new chain orthogonal to them."""
        self.keep(ritz, chosen)
        self._begin()

    def chain_is_settled(self, level: float, limit: float) -> bool:
        """Whether the leading Ritz pair of the chain by itself, if above the level, has a residual within the limit."""
        block = self.matrix[self.chain :, self.chain :]
        if not len(block):
            return True
        values, coordinates = torch.linalg.eigh(block)
        return bool(values[-1] <= level) or float(self.outside[-1] * coordinates[-1, -1].abs()) <= limit
