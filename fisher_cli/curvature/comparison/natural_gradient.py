"""The natural gradient (F + αI)⁻¹ḡ and its empirical form (F̂ + αI)⁻¹ḡ: how far their directions differ."""

from dataclasses import dataclass

import torch
from torch import Tensor

from fisher_cli.curvature.linalg.krylov import Product
from fisher_cli.curvature.spectra.score_gram import LabelSet, ScoreGram

# Damping relative to the largest eigenvalue of F: a condition number of at most a thousand, which both float32 products
# and conjugate gradients bear; the directions do not change when F is scaled.
DAMPING = 1e-3
MAXIMUM_PRODUCTS = 500


@dataclass(frozen=True)
class LinearSolution:
    """x with (A + αI) x ≈ b, ‖(A + αI) x − b‖/‖b‖ explicitly, and the products with A that it took."""

    vector: Tensor
    residual: float
    products: int


def conjugate_gradients(
    product: Product, right: Tensor, damping: float, *, tolerance: float, maximum: int = MAXIMUM_PRODUCTS
) -> LinearSolution:
    """(A + αI)⁻¹b for a positive semidefinite A by conjugate gradients; the residual is recomputed at the end.

    Source: Hestenes and Stiefel 1952 (doi:10.6028/jres.049.044).
    """
    right = right.double()
    length = float(right.norm())
    if not length:
        return LinearSolution(torch.zeros_like(right), 0.0, 0)
    x, rest, direction = torch.zeros_like(right), right.clone(), right.clone()
    square, products = float(rest @ rest), 0
    while products < maximum and square**0.5 > tolerance * length / 2:
        image = product(direction).double() + damping * direction
        products += 1
        step = square / float(direction @ image)
        x += step * direction
        rest -= step * image
        before, square = square, float(rest @ rest)
        direction = rest + square / before * direction
    residual = float((product(x).double() + damping * x - right).norm()) / length
    return LinearSolution(x, residual, products + 1)


@dataclass(frozen=True)
class DirectionCosines:
    """Cosines of the angles between (F + αI)⁻¹ḡ, (F̂ + αI)⁻¹ḡ and ḡ, and the larger relative residual of the two.

    between: of the two natural gradients; true, empirical: of each with ḡ. All None for a gradient of zero.
    """

    between: float | None = None
    true: float | None = None
    empirical: float | None = None
    residual: float = 0.0


def _cosine(product: float, one: float, other: float) -> float | None:
    """None where one of the squared lengths is zero."""
    return product / (one * other) ** 0.5 if one > 0 and other > 0 else None


def directions(
    true: Product, empirical: Product, gradient: Tensor, damping: float, *, tolerance: float, maximum: int
) -> DirectionCosines:
    """The cosines by conjugate gradients on products with the two matrices."""
    gradient = gradient.double()
    one = conjugate_gradients(true, gradient, damping, tolerance=tolerance, maximum=maximum)
    other = conjugate_gradients(empirical, gradient, damping, tolerance=tolerance, maximum=maximum)

    def cosine(a: Tensor, b: Tensor) -> float | None:
        return _cosine(float(a @ b), float(a @ a), float(b @ b))

    return DirectionCosines(
        cosine(one.vector, other.vector),
        cosine(one.vector, gradient),
        cosine(other.vector, gradient),
        max(one.residual, other.residual),
    )


@dataclass(frozen=True)
class TrueDirection:
    """x = (F + αI)⁻¹ḡ = D ξ by ξ (M,) and U ξ (M,), its relative residual, and ḡ = D b by b and U b."""

    coordinates: Tensor
    image: Tensor
    residual: float
    gradient: Tensor
    gradient_image: Tensor


def true_direction(gram: ScoreGram, damping: float) -> TrueDirection:
    """(F + αI)⁻¹ḡ = (ḡ − A (αI + AᵀA)⁻¹ Aᵀḡ)/α for the factor A of F (Woodbury), by conjugate gradients on AᵀA."""
    b = gram.gradient
    image = gram.products @ b
    inner = conjugate_gradients(gram.true_product, gram.roots * image, damping, tolerance=1e-11)
    xi = (b - gram.roots * inner.vector) / damping
    moved = gram.products @ xi
    rest = gram.roots.square() * moved + damping * xi - b
    length = float(b @ image)
    squared = float(rest @ (gram.products @ rest))
    residual = (max(squared, 0.0) / length) ** 0.5 if length > 0 else 0.0
    return TrueDirection(xi, moved, residual, b, image)


def directions_of(true: TrueDirection, labels: LabelSet, damping: float) -> DirectionCosines:
    """The cosines for F̂ of these labels, (F̂ + αI)⁻¹ḡ = (ḡ − Â (αI + ÂᵀÂ)⁻¹ Âᵀḡ)/α, ḡ that of the dataset's labels."""
    number, each = labels.coordinates.shape
    values, vectors = labels.eigenpairs
    projected = labels.images @ true.gradient  # Cᵀ U b
    solved = vectors @ ((vectors.T @ projected) / (values.clamp_min(0) + damping)) / number
    xi = (true.gradient - (labels.coordinates * solved.unsqueeze(1)).reshape(-1)) / damping
    image = (true.gradient_image - labels.images.T @ solved) / damping
    assert each * number == len(xi)
    length = float(xi @ image)
    return DirectionCosines(
        _cosine(float(xi @ true.image), length, float(true.coordinates @ true.image)),
        _cosine(
            float(true.gradient @ true.image),
            float(true.gradient @ true.gradient_image),
            float(true.coordinates @ true.image),
        ),
        _cosine(float(true.gradient @ image), float(true.gradient @ true.gradient_image), length),
        true.residual,
    )
