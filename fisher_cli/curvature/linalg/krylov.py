"""Orthonormal bases grown by the products of a symmetric matrix: what eigenvalues and spectral densities share.

Knows nothing of Fisher. Vectors have the caller's precision, sums over their components are in float64 and run
over pieces of the vectors, so that no second copy of a basis exists in any precision.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from fisher_cli.curvature.linalg.sums import PIECE, dot
from fisher_cli.errors import NumericalError

Product = Callable[[Tensor], Tensor]
"""v (P,) ↦ A v (P,) for a symmetric A."""

# A new vector this many units in the last place of the matrix's norm long is rounding: the space is invariant.
BREAKDOWN = 50
# Numbers at a time in a change of basis.
PATCH = 2**22
# Rows are allocated in blocks of this many bytes, but never fewer or more rows than these.
BLOCK_BYTES, FEWEST_ROWS, MOST_ROWS = 2**26, 8, 512


def _pieces(size: int, width: int | None = None) -> Iterator[slice]:
    width = width or PIECE
    return (slice(low, low + width) for low in range(0, size, width))


class BlockedBasis:
    """An orthonormal basis Q (n, P) in blocks of contiguous rows: growing copies nothing."""

    def __init__(self, size: int, dtype: torch.dtype, device: torch.device | str) -> None:
        self.size, self.dtype, self.device = size, dtype, torch.device(device)
        self._count = 0
        self._blocks: list[Tensor] = []
        fitting = BLOCK_BYTES // (size * dtype.itemsize)
        self._height = min(max(fitting, FEWEST_ROWS), MOST_ROWS, size)

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, index: int) -> Tensor:
        return self._blocks[index // self._height][index % self._height]

    def append(self, vector: Tensor) -> None:
        """Copy a vector in as the last row."""
        if self._count == self._height * len(self._blocks):
            self._blocks.append(torch.empty(self._height, self.size, dtype=self.dtype, device=self.device))
        self._count += 1
        self[self._count - 1].copy_(vector)

    def _parts(self) -> list[Tensor]:
        """The filled part of each block."""
        starts = range(0, self._count, self._height)
        return [block[: self._count - start] for block, start in zip(self._blocks, starts, strict=False)]

    def remove(self, vector: Tensor) -> Tensor:
        """Subtract Qᵀ(Q v) from v in place; returns Q v (n,) in float64."""
        parts = self._parts()
        found = torch.zeros(self._count, dtype=torch.float64, device=self.device)
        if not parts:
            return found
        for piece in _pieces(self.size):
            found += torch.cat([part[:, piece] @ vector[piece] for part in parts])
        shares = torch.split(found.to(self.dtype), [len(part) for part in parts])
        for part, share in zip(parts, shares, strict=True):
            for piece in _pieces(self.size):
                vector[piece].addmv_(part[:, piece].T, share, alpha=-1)
        return found

    def truncate(self, count: int) -> None:
        """Forget all rows but the first."""
        self._count = min(count, self._count)
        del self._blocks[-(-self._count // self._height) :]

    def combine(self, coordinates: Tensor) -> None:
        """Replace the basis by its combinations Sᵀ Q, with S (n', m), n' ≤ n, m ≤ n', in place."""
        used, kept = coordinates.shape
        self._count = used
        parts = self._parts()
        weights = coordinates.T.to(self.dtype).to(self.device)
        for patch in _pieces(self.size, max(1, PATCH // max(used, 1))):
            mixed = weights @ torch.cat([part[:, patch] for part in parts])
            for part, rows in zip(parts, torch.split(mixed, self._height), strict=False):
                part[: len(rows), patch] = rows
        self.truncate(kept)

    def columns(self) -> Tensor:
        """The basis as columns, (P, n), apart from the blocks."""
        parts = self._parts()
        if not parts:
            return torch.zeros(self.size, 0, dtype=self.dtype, device=self.device)
        return (parts[0].clone() if len(parts) == 1 else torch.cat(parts)).T


class Operator:
    """v ↦ A v / scale, counted; the scale is a power of two, the size of the first product that is not zero.

    Squares of what it returns neither overflow nor vanish, and those for A and 2ᵏA are the same bits.
    """

    def __init__(self, product: Product) -> None:
        self._product = product
        self.used = 0
        self.scale = 1.0
        self._measured = False

    def __call__(self, vector: Tensor) -> Tensor:
        """The scaled product as a new tensor of the vector's precision."""
        self.used += 1
        image = self._product(vector).detach()
        if not self._measured:
            self._measure(image)
        # Divided on the way into the vector's precision, where the raw product may not be representable.
        return torch.div(image, self.scale, out=torch.empty_like(vector))

    def _measure(self, image: Tensor) -> None:
        largest = float(torch.linalg.vector_norm(image, math.inf))
        require_finite(largest)
        if largest > 0:
            reach = -math.frexp(torch.finfo(image.dtype).tiny)[1]
            self.scale = 2.0 ** max(-reach, min(reach, math.frexp(largest)[1]))
            self._measured = True


def require_finite(number: float) -> None:
    """Refuse NaN and infinity.

    Raises:
        NumericalError: the number is not finite.
    """
    if not math.isfinite(number):
        msg = "a matrix-vector product is NaN or infinite: its spectrum cannot be computed"
        raise NumericalError(msg)


@dataclass(frozen=True)
class LanczosStep:
    """What one Lanczos step found: A q_j = Σ_i c_i q_i + β q_{j+1}, all of it in units of the operator's scale.

    alpha: q_jᵀ A q_j; coefficients: c (j,) in float64 on the CPU; rest: β q_{j+1}, orthogonal to all rows.
    """

    alpha: float
    beta: float
    coefficients: Tensor
    rest: Tensor


def step(operator: Operator, rows: BlockedBasis, images: BlockedBasis | None = None) -> LanczosStep:
    """Apply the matrix to the last row and take all rows out of the result, in two full passes.

    Source: Parlett 1998, The Symmetric Eigenvalue Problem, section 6.9: twice is enough.

    Raises:
        NumericalError: the product is NaN or infinite.
    """
    vector = rows[len(rows) - 1]
    work = operator(vector)
    if images is not None:
        images.append(work)
    alpha = dot(vector, work)
    first = rows.remove(work)
    second = rows.remove(work)
    # One transfer per step: a device is waited for once.
    numbers = torch.cat([first + second, torch.stack([alpha, dot(work, work).sqrt()])]).cpu()
    require_finite(float(numbers.sum()))
    return LanczosStep(float(numbers[-2]), float(numbers[-1]), numbers[:-2], work)


def random_direction(rows: BlockedBasis, generator: torch.Generator) -> Tensor | None:
    """A unit vector, uniform on the sphere orthogonal to all rows; None when they span the space.

    Drawn on the CPU in float64, so that every device and precision starts alike.
    """
    if len(rows) >= rows.size:
        return None
    vector = torch.empty(rows.size, dtype=rows.dtype, device=rows.device)
    for piece in _pieces(rows.size):
        part = vector[piece]
        part.copy_(torch.randn(len(part), generator=generator, dtype=torch.float64))
    return unit(vector, rows)


def unit(vector: Tensor, rows: BlockedBasis) -> Tensor:
    """The vector, changed in place, without its components in the rows and of norm one."""
    for _ in range(2):
        rows.remove(vector)
        vector /= dot(vector, vector).sqrt().to(vector)
    return vector


def tridiagonalise(
    product: Product, start: Tensor, steps: int, *, locked: Tensor | None = None
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """The tridiagonal T = Qᵀ B Q, Q an orthonormal basis of span{q, Bq, …}, B = A off the locked vectors.

    Lanczos with two passes of full reorthogonalisation. Where the Krylov space is exhausted, T is smaller than asked,
    and exact. One product per row of T.

    Args:
        product: v (P,) ↦ Av (P,).
        start: q (P,), of any length, not in the span of the locked; its precision is that of the basis.
        steps: the size of T wanted.
        locked: orthonormal columns (P, l); q and all products are projected off them.

    Returns:
        The diagonal α (m,) and the couplings β (m − 1,), m ≤ steps; both empty when the locked span the space.

    Raises:
        NumericalError: a product is NaN or infinite.

    Source: Parlett 1998, The Symmetric Eigenvalue Problem, section 6.9: two passes are enough.
    """
    rows = orthonormal(locked, len(start), start.dtype, start.device)
    if len(rows) >= rows.size:
        return (), ()
    rows.append(unit(start.clone(), rows))
    return chain(Operator(product), rows, steps)


def orthonormal(columns: Tensor | None, size: int, dtype: torch.dtype, device: torch.device | str) -> BlockedBasis:
    """Orthonormal columns (P, l), or none, as the first rows of a basis."""
    rows = BlockedBasis(size, dtype, device)
    for column in () if columns is None else columns.T:
        rows.append(column)
    return rows


def chain(operator: Operator, rows: BlockedBasis, steps: int) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """The tridiagonal matrix of `tridiagonalise`, its vectors appended to the rows, of which the last is the start.

    Raises:
        NumericalError: a product is NaN or infinite.
    """
    alphas: list[float] = []
    betas: list[float] = []
    largest = 0.0
    while True:
        found = step(operator, rows)
        alphas.append(found.alpha)
        largest = max(largest, abs(found.alpha), found.beta)
        rounding = BREAKDOWN * torch.finfo(rows.dtype).eps * largest
        if len(alphas) == steps or len(rows) == rows.size or found.beta <= rounding:
            break
        betas.append(found.beta)
        rows.append(found.rest.div_(found.beta))
    scale = operator.scale
    return tuple(scale * alpha for alpha in alphas), tuple(scale * beta for beta in betas)
