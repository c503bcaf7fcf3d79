"""Lanczos on matrices built from chosen eigenvalues, beside what goes wrong without each of its protections."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from fisher_cli.curvature.linalg import krylov, sums
from fisher_cli.curvature.linalg.lanczos import Eigenpairs, StopReason, largest_eigenpairs
from fisher_cli.errors import NumericalError
from tests.spectra import (
    REFUSED,
    SIZE,
    ZOO,
    diagonal_product,
    matrix_with,
    product_of,
    stopped_like_arpack,
    textbook_lanczos,
)

TOLERANCE = {torch.float64: 1e-8, torch.float32: 1e-4}
ORTHOGONALITY = {torch.float64: 1e-12, torch.float32: 1e-5}


def solve(name: str, dtype: torch.dtype, count: int, **options: Any) -> Eigenpairs:
    product = product_of(matrix_with(ZOO[name]))
    options = {"tolerance": TOLERANCE[dtype], "maximum_products": 3000} | options
    return largest_eigenpairs(product, len(ZOO[name]), count, dtype=dtype, **options)


def faults(name: str, dtype: torch.dtype, found: Eigenpairs, count: int) -> list[str]:
    """Which of the promises the result breaks, the dense matrix in float64 being the judge."""
    # The solver sees the matrix in the precision of its vectors, and so does the judge.
    matrix, size = matrix_with(ZOO[name]).to(dtype).double(), len(ZOO[name])
    truth = torch.linalg.eigvalsh(matrix).flip(0)
    count, top = min(count, size), float(truth[0])
    rounding = 10 * size * torch.finfo(dtype).eps * top
    vectors = found.vectors.double()
    explicit = (matrix @ vectors - vectors * found.values).norm(dim=0)
    distance = (found.values.unsqueeze(1) - truth).abs().amin(1)
    gram = vectors.T @ vectors - torch.eye(vectors.shape[1]).double()
    near = 1e-6 * top + rounding
    copies = ((found.values.unsqueeze(1) - found.values).abs() <= 1e-6 * top).sum(1)
    multiplicity = ((found.values.unsqueeze(1) - truth).abs() <= near).sum(1)
    promises = {
        "converged": found.converged,
        "as many as wanted": len(found.values) == count,
        "residuals within the tolerance": bool((explicit <= TOLERANCE[dtype] * top + rounding).all()),
        "residuals as reported": bool(((explicit - found.residuals).abs() <= rounding).all()),
        "an eigenvalue within the residual": bool((distance <= found.residuals + rounding).all()),
        "the largest ones": bool(((found.values - truth[:count]).abs() <= 2 * TOLERANCE[dtype] * top + rounding).all()),
        "orthonormal": float(gram.abs().max()) <= ORTHOGONALITY[dtype],
        "no ghosts": bool((copies <= multiplicity).all()),
    }
    return [promise for promise, kept in promises.items() if not kept]


def test_sixteen_spectra_in_both_precisions_keep_all_promises() -> None:
    """N2: 16 spectra × 2 precisions × k ∈ {1, 5, 10}; two of the spectra are none and must be refused."""
    broken: list[str] = []
    for name in ZOO:
        for dtype in TOLERANCE:
            for count in (1, 5, 10):
                try:
                    found = solve(name, dtype, count)
                except NumericalError:
                    wrong = [] if name in REFUSED else ["solved"]
                else:
                    wrong = ["refused"] if name in REFUSED else faults(name, dtype, found, count)
                broken += [f"{name}, {dtype}, k = {count}: {', '.join(wrong)}"] if wrong else []
    print(f"N2 {96 - len(broken)}/96")
    assert broken == []


def test_twenty_copies_of_a_value_are_found_among_two_hundred() -> None:
    found = solve("two values", torch.float64, 20)
    assert faults("two values", torch.float64, found, 20) == []
    assert found.values.tolist() == pytest.approx([3.0] * 20)


def test_progress_tells_of_each_product_and_ends_within_the_tolerance() -> None:
    told = list[tuple[int, float]]()
    found = solve("two values", torch.float64, 20, advance=lambda *each: told.append(each), keep_images=True)
    assert [products for products, _ in told] == list(range(1, found.products + 1))
    assert found.searched  # products that only rule out overlooked eigenvalues are told as well
    residuals = [residual for _, residual in told]
    assert residuals[0] == math.inf
    assert residuals[-1] <= 1


SPIKES = torch.cat([torch.tensor([100.0, 20.0, 10.0]), torch.linspace(1, 0, 197)]).double()


def test_without_reorthogonalisation_ghosts_appear() -> None:
    """The control: the bare recursion finds its top value many times, in a basis that is none."""
    for dtype in TOLERANCE:
        bare = textbook_lanczos(diagonal_product(SPIKES), SIZE, 120, dtype)
        assert int((bare.values > 99).sum()) > 5
        assert float((bare.basis @ bare.basis.T - torch.eye(120).double()).abs().max()) > 0.5
        ours = largest_eigenpairs(diagonal_product(SPIKES), SIZE, 10, tolerance=1e-5, dtype=dtype)
        assert ours.converged
        assert int((ours.values > 99).sum()) == 1


def test_estimated_residuals_lie_where_explicit_ones_do_not() -> None:
    """The control: |β s_m| of the bare recursion is far below ‖Av − θv‖ / ‖v‖ of the vectors that it returns."""
    bare = textbook_lanczos(diagonal_product(SPIKES), SIZE, 120)
    explicit = (SPIKES.unsqueeze(1) * bare.vectors - bare.vectors * bare.values).norm(dim=0) / bare.vectors.norm(dim=0)
    ghosts = bare.values > 99
    assert float((explicit[ghosts] / bare.estimates[ghosts]).max()) > 1e3
    ours = largest_eigenpairs(diagonal_product(SPIKES), SIZE, 10, tolerance=1e-8)
    explicit = (SPIKES.unsqueeze(1) * ours.vectors - ours.vectors * ours.values).norm(dim=0)
    assert torch.allclose(explicit, ours.residuals, rtol=1e-3, atol=1e-12)


@pytest.mark.parametrize(
    ("dtype", "exponents", "accuracy"),
    [(torch.float64, range(-30, 31), 1e-6), (torch.float32, range(-20, 21), 1e-4)],
    ids=["float64", "float32"],
)
def test_eigenvalues_scale_with_the_matrix(dtype: torch.dtype, exponents: range, accuracy: float) -> None:
    """N3: λ(cA) = c λ(A), c = 10ᵉ."""
    diagonal = torch.tensor([1 / k**2 for k in range(1, 101)], dtype=torch.float64)
    plain = largest_eigenpairs(diagonal_product(diagonal), 100, 3, tolerance=1e-5, dtype=dtype)
    wrong = []
    for exponent in exponents:
        scaled = largest_eigenpairs(diagonal_product(diagonal * 10.0**exponent), 100, 3, tolerance=1e-5, dtype=dtype)
        same = torch.allclose(scaled.values / 10.0**exponent, plain.values, rtol=accuracy, atol=0)
        if not (same and scaled.converged and abs(scaled.products - plain.products) <= 1):
            wrong.append(exponent)
    print(f"N3 {len(exponents) - len(wrong)}/{len(exponents)} in {dtype}")
    assert wrong == []


@pytest.mark.parametrize(("dtype", "exponent"), [(torch.float64, 200), (torch.float32, 60)], ids=["float64", "float32"])
def test_products_that_the_vectors_could_not_hold_squared_or_at_all_are_scaled(
    dtype: torch.dtype, exponent: int
) -> None:
    """The control is the cast itself: 10²⁰⁰ squared is no float64, 10⁶⁰ is no float32."""
    diagonal = torch.tensor([1 / k**2 for k in range(1, 101)], dtype=torch.float64)
    for scale in (10.0**-exponent, 10.0**exponent):
        square = torch.tensor(scale, dtype=torch.float64).to(dtype).square()
        assert float(square) in (0.0, math.inf)

        def product(vector: Tensor, scale: float = scale) -> Tensor:
            return scale * (diagonal * vector)

        found = largest_eigenpairs(product, 100, 3, dtype=dtype)
        assert found.converged
        assert found.values.tolist() == pytest.approx([scale, scale / 4, scale / 9], rel=1e-2, abs=0)


def test_sums_over_float32_vectors_are_in_float64() -> None:
    """A million components, relative to exact summation; the control is one float32 running sum."""
    vector = torch.rand(1_000_000, generator=torch.Generator().manual_seed(0))
    exact = math.fsum(value * value for value in vector.tolist())
    assert float(krylov.dot(vector, vector)) == pytest.approx(exact, rel=1e-12)
    assert abs(float(vector.square().cumsum(0)[-1]) / exact - 1) > 1e-9


def test_powers_of_two_change_no_bit() -> None:
    product = diagonal_product(SPIKES)
    plain = largest_eigenpairs(product, SIZE, 5)
    scaled = largest_eigenpairs(lambda vector: 2.0**-70 * product(vector), SIZE, 5)
    assert torch.equal(scaled.values * 2.0**70, plain.values)
    assert torch.equal(scaled.vectors, plain.vectors)


def test_without_scaling_small_and_large_matrices_go_wrong() -> None:
    """The controls: an absolute term in the stopping rule, and squares that are too small or too large for float32."""
    flat = torch.linspace(1, 0, 200).double()
    assert stopped_like_arpack(diagonal_product(flat), 200, 1e-3) == pytest.approx(1, rel=1e-3)
    assert stopped_like_arpack(diagonal_product(flat * 1e-13), 200, 1e-3) != pytest.approx(1e-13, rel=2e-2, abs=0)
    for scale in (1e-25, 1e20):
        lengths = (flat * scale).float().square().sum().sqrt()
        assert float(lengths) in (0.0, math.inf)
        found = largest_eigenpairs(diagonal_product(flat * scale), 200, 1, dtype=torch.float32)
        assert float(found.values[0]) == pytest.approx(scale, rel=1e-3, abs=0)
    found = largest_eigenpairs(diagonal_product(flat * 1e-13), 200, 1)
    assert float(found.values[0]) == pytest.approx(1e-13, rel=1e-3, abs=0)


def test_forced_non_convergence_is_said_and_keeps_its_values() -> None:
    """N4: one or two products, tolerance zero: nothing converges, nothing is dropped."""
    wrong = []
    for name in ("flat", "1/k²", "geometric", "eight copies", "one spike"):
        for products in (1, 2):
            for count in (1, 5):
                found = solve(name, torch.float64, count, tolerance=0.0, maximum_products=products)
                kept = len(found.values) == min(products, count) and bool(found.values.isfinite().all())
                said = found.status is StopReason.NOT_CONVERGED and not found.converged
                if not (kept and said and bool((found.residuals > 0).all())):
                    wrong.append((name, products, count))
    print(f"N4 {20 - len(wrong)}/20")
    assert wrong == []


def test_what_did_not_converge_has_its_true_residuals() -> None:
    found = solve("flat", torch.float64, 5, tolerance=1e-10, maximum_products=8)
    assert found.status is StopReason.NOT_CONVERGED
    matrix = matrix_with(ZOO["flat"])
    explicit = (matrix @ found.vectors - found.vectors * found.values).norm(dim=0)
    assert torch.allclose(explicit, found.residuals, rtol=1e-6, atol=0)
    assert float(explicit.max()) > 1e-3


def test_kept_images_give_the_same_residuals_without_further_products() -> None:
    for name in ("1/k²", "eight copies", "rank five"):
        for dtype in TOLERANCE:
            plain, kept = solve(name, dtype, 5), solve(name, dtype, 5, keep_images=True)
            assert kept.products == plain.products - 5
            assert faults(name, dtype, kept, 5) == []
            assert torch.allclose(kept.values, plain.values, rtol=1e-5)


def test_small_blocks_and_pieces_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"PIECE": 70, "PATCH": 1000, "MOST_ROWS": 3, "FEWEST_ROWS": 3}.items():
        monkeypatch.setattr(krylov, name, value)
    monkeypatch.setattr(sums, "PIECE", 70)
    for spectrum in ("1/k²", "rank five", "two values"):
        for dtype in TOLERANCE:
            found = solve(spectrum, dtype, 5, keep_images=True)
            assert faults(spectrum, dtype, found, 5) == []


@pytest.mark.parametrize("bad", [math.nan, math.inf])
@pytest.mark.parametrize("call", [1, 3, 8])
@pytest.mark.parametrize("dtype", TOLERANCE)
def test_nan_and_infinity_are_errors_and_not_eigenvalues(bad: float, call: int, dtype: torch.dtype) -> None:
    calls = 0

    def product(vector: Tensor) -> Tensor:
        nonlocal calls
        calls += 1
        result = SPIKES.to(vector.dtype) * vector
        if calls == call:
            result[17] = bad
        return result

    with pytest.raises(NumericalError, match="NaN or infinite"):
        largest_eigenpairs(product, SIZE, 5, dtype=dtype)


def test_a_matrix_with_negative_eigenvalues_is_refused_by_name() -> None:
    with pytest.raises(NumericalError, match=r"not positive semidefinite: it has an eigenvalue ≤ -0\.[0-9]+"):
        solve("plus and minus", torch.float64, 1)


def test_rounding_below_zero_stays_as_it_is() -> None:
    diagonal = torch.tensor([1.0] + [-1e-17] * 9, dtype=torch.float64)
    found = largest_eigenpairs(diagonal_product(diagonal), 10, 2)
    assert found.converged
    assert -1e-16 < float(found.values[1]) < 0


NOTES: list[tuple[str, int, str]] = [
    ("zero", 3, "the matrix is zero"),
    ("rank five", 10, "rank 5: the other eigenvalues are zero to rounding"),
    ("rank five", 5, ""),
    ("fewer than wanted", 5, "the matrix has only 3 eigenvalues"),
    ("one dimension", 1, ""),
]


@pytest.mark.parametrize(("name", "count", "note"), NOTES)
def test_a_note_says_why_there_is_less_than_wanted(name: str, count: int, note: str) -> None:
    found = solve(name, torch.float64, count)
    assert found.converged
    assert found.note == note


def test_a_zero_matrix_has_zero_eigenvalues_without_error() -> None:
    found = solve("zero", torch.float32, 3)
    assert found.values.tolist() == [0, 0, 0]
    assert found.residuals.tolist() == [0, 0, 0]


def test_too_few_values_are_not_called_converged() -> None:
    found = solve("flat", torch.float64, 5, maximum_products=3)
    assert found.status is StopReason.NOT_CONVERGED
    assert found.note == "only 3 of 5 found before products ran out"


def test_the_same_seed_gives_the_same_bits_and_another_seed_the_same_values() -> None:
    first, again, other = (solve("1/k²", torch.float64, 5, seed=seed) for seed in (0, 0, 1))
    assert torch.equal(first.values, again.values)
    assert torch.equal(first.vectors, again.vectors)
    assert torch.allclose(first.values, other.values, rtol=1e-9)


def test_the_vectors_of_the_product_are_not_written_to() -> None:
    """A product may return its argument, or something that it keeps."""
    kept = torch.ones(10, dtype=torch.float64)
    assert largest_eigenpairs(lambda vector: vector, 10, 2).values.tolist() == pytest.approx([1, 1])

    def outer(vector: Tensor) -> Tensor:
        kept.fill_(float(vector.sum()))
        return kept

    assert largest_eigenpairs(outer, 10, 2).values.tolist() == pytest.approx([10, 0])
