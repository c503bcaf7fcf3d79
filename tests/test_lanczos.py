"""Lanczos on matrices built from chosen eigenvalues, the awkward ones above all."""

import math

import pytest
import torch
from torch import Tensor

from fisher_cli.curvature.lanczos import Product, largest_eigenpairs
from fisher_cli.errors import NumericalError

SIZE = 60

SPECTRA: dict[str, list[float]] = {
    "decaying": [1 / k**2 for k in range(1, SIZE + 1)],
    "spikes on a bulk": [100.0, 20.0, 10.0] + [1.0 - k / SIZE for k in range(SIZE - 3)],
    "nine copies": [5.0] * 9 + [1.0] * 20 + [0.0] * (SIZE - 29),
    "pairs": [float(SIZE - k // 2) for k in range(SIZE)],
    "identity": [1.0] * SIZE,
    "two values": [3.0] * 30 + [1.0] * 30,
    "rank one": [2.0] + [0.0] * (SIZE - 1),
    "rank three": [4.0, 2.0, 1.0] + [0.0] * (SIZE - 3),
    "zero": [0.0] * SIZE,
    "clustered": [1.0 + 1e-6 * k for k in range(5)] + [0.1] * (SIZE - 5),
    "graded": [10.0**-k for k in range(SIZE // 4)] + [0.0] * (SIZE - SIZE // 4),
}


def matrix_with(eigenvalues: list[float], seed: int = 0) -> Tensor:
    """A symmetric matrix of exactly this spectrum in a random basis."""
    generator = torch.Generator().manual_seed(seed)
    basis, _ = torch.linalg.qr(torch.randn(len(eigenvalues), len(eigenvalues), generator=generator).double())
    return basis @ torch.diag(torch.tensor(eigenvalues).double()) @ basis.T


def product_of(matrix: Tensor) -> Product:
    return lambda vector: matrix.to(vector.dtype) @ vector


@pytest.mark.parametrize("count", [1, 5, 10])
@pytest.mark.parametrize("name", SPECTRA)
def test_the_largest_eigenvalues_are_found_with_their_copies(name: str, count: int) -> None:
    matrix = matrix_with(SPECTRA[name])
    found = largest_eigenpairs(product_of(matrix), SIZE, count, tolerance=1e-8, maximum_products=2000)
    expected = torch.tensor(sorted(SPECTRA[name], reverse=True)[:count]).double()
    assert found.converged
    scale = float(expected[0])
    assert torch.allclose(found.values, expected, rtol=0, atol=2e-8 * scale)
    # Within its residual of every value there is an eigenvalue.
    distance = (found.values.unsqueeze(1) - torch.tensor(SPECTRA[name]).double()).abs().amin(1)
    assert bool((distance <= found.residuals + 1e-12 * scale).all())
    gram = found.vectors.T @ found.vectors
    assert torch.allclose(gram, torch.eye(count).double(), atol=1e-7)
    explicit = (matrix @ found.vectors - found.vectors * found.values).norm(dim=0)
    assert torch.allclose(explicit, found.residuals, atol=1e-13 * max(scale, 1))


@pytest.mark.parametrize("name", SPECTRA)
def test_float32_vectors_meet_the_default_tolerance(name: str) -> None:
    matrix = matrix_with(SPECTRA[name])
    found = largest_eigenpairs(product_of(matrix), SIZE, 5, dtype=torch.float32, maximum_products=500)
    expected = torch.tensor(sorted(SPECTRA[name], reverse=True)[:5]).double()
    assert found.converged
    assert torch.allclose(found.values, expected, rtol=0, atol=2e-3 * float(expected[0]))


@pytest.mark.parametrize("scale", [1e-30, 1e-12, 1e30])
def test_the_scale_of_the_operator_does_not_matter(scale: float) -> None:
    spectrum = SPECTRA["spikes on a bulk"]
    plain = largest_eigenpairs(product_of(matrix_with(spectrum)), SIZE, 5, tolerance=1e-6)
    scaled = largest_eigenpairs(product_of(matrix_with(spectrum) * scale), SIZE, 5, tolerance=1e-6)
    assert torch.allclose(scaled.values / scale, plain.values, rtol=1e-9)
    assert scaled.products == plain.products


def without_search(product: Product, size: int, count: int) -> Tensor:
    """The control: textbook Lanczos that stops at the first convergence, one copy of each eigenvalue."""
    from fisher_cli.curvature import lanczos

    operator = lanczos._Operator(product, torch.zeros(size, 0).double(), 100)
    return lanczos._leading(operator, count, 1e-8, 0.0, torch.Generator().manual_seed(0))[0]


def test_without_the_second_search_copies_are_overlooked() -> None:
    values = without_search(product_of(matrix_with(SPECTRA["nine copies"])), SIZE, 3)
    assert values[0] == pytest.approx(5.0)
    assert values[1] == pytest.approx(1.0)


def test_without_reorthogonalisation_ghosts_appear() -> None:
    """The control for full reorthogonalisation: the bare three-term recurrence finds its top value several times."""
    matrix = torch.diag(torch.cat([torch.tensor([100.0, 20.0, 10.0]), torch.linspace(1, 0, 197)]).double())
    generator = torch.Generator().manual_seed(0)
    previous, current = torch.zeros(200).double(), torch.randn(200, generator=generator).double()
    current /= current.norm()
    alphas, betas = [], [0.0]
    for _ in range(120):
        image = matrix @ current - betas[-1] * previous
        alphas.append(float(image @ current))
        image -= alphas[-1] * current
        betas.append(float(image.norm()))
        previous, current = current, image / betas[-1]
    off = torch.tensor(betas[1:-1]).double()
    bare = torch.linalg.eigvalsh(torch.diag(torch.tensor(alphas).double()) + torch.diag(off, 1) + torch.diag(off, -1))
    assert int((bare > 99).sum()) > 3
    ours = largest_eigenpairs(product_of(matrix), 200, 10, tolerance=1e-8, maximum_products=1000)
    assert int((ours.values > 99).sum()) == 1


def test_what_did_not_converge_is_returned_and_called_so() -> None:
    slow = [1.0 + k / 1000 for k in range(SIZE)]
    found = largest_eigenpairs(product_of(matrix_with(slow)), SIZE, 5, tolerance=1e-10, maximum_products=8)
    assert not found.converged
    assert len(found.values) == 5
    assert bool((found.residuals > 0).all())
    assert bool(found.values.isfinite().all())


def test_more_eigenvalues_than_dimensions_gives_all_of_them() -> None:
    found = largest_eigenpairs(product_of(matrix_with([3.0, 2.0, 1.0])), 3, 10)
    assert found.values.tolist() == pytest.approx([3.0, 2.0, 1.0])


def test_one_dimension() -> None:
    found = largest_eigenpairs(lambda vector: 7 * vector, 1, 1)
    assert found.values.tolist() == pytest.approx([7.0])
    assert found.converged


def test_nan_is_an_error_and_not_an_eigenvalue() -> None:
    with pytest.raises(NumericalError):
        largest_eigenpairs(lambda vector: vector * math.nan, SIZE, 3)


def test_the_same_seed_gives_the_same_bits_and_another_seed_the_same_values() -> None:
    product = product_of(matrix_with(SPECTRA["decaying"]))
    first, again, other = (largest_eigenpairs(product, SIZE, 5, tolerance=1e-9, seed=seed) for seed in (0, 0, 1))
    assert torch.equal(first.values, again.values)
    assert torch.equal(first.vectors, again.vectors)
    assert torch.allclose(first.values, other.values, rtol=1e-9)


def test_a_search_that_ran_out_of_products_is_not_called_converged() -> None:
    spectrum = [10.0] * 4 + torch.linspace(9.5, 0, 196).tolist()
    short = largest_eigenpairs(product_of(torch.diag(torch.tensor(spectrum).double())), 200, 5, maximum_products=60)
    assert not short.converged
    found = largest_eigenpairs(product_of(torch.diag(torch.tensor(spectrum).double())), 200, 5, maximum_products=2000)
    assert found.converged
    assert found.values.tolist() == pytest.approx([10.0] * 4 + [9.5], abs=0.01)


def test_too_few_values_are_not_called_converged() -> None:
    found = largest_eigenpairs(product_of(matrix_with(SPECTRA["identity"])), SIZE, 5, maximum_products=3)
    assert len(found.values) == 3
    assert not found.converged


@pytest.mark.parametrize("seed", range(3))
def test_a_second_copy_behind_a_dense_bulk_is_found(seed: int) -> None:
    spectrum = [1, 0.5, 0.3, 0.2, 0.105, 0.105] + [0.1] * 1000 + torch.linspace(0.09, 0, 4000).tolist()
    diagonal = torch.tensor(spectrum).double()
    found = largest_eigenpairs(lambda vector: diagonal * vector, len(spectrum), 6, seed=seed, maximum_products=1000)
    assert found.converged
    assert found.values.tolist() == pytest.approx(spectrum[:6], abs=1.5e-3)
