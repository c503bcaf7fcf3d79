"""Spectral densities against dense matrices: exact moments, exact shapes, honest errors."""

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from fisher_cli.curvature.linalg import krylov
from fisher_cli.curvature.linalg.density import density, effective_dimension, spectral_sum
from fisher_cli.curvature.linalg.krylov import tridiagonalise
from fisher_cli.curvature.linalg.lanczos import largest_eigenpairs
from fisher_cli.errors import NumericalError
from fisher_cli.results import Density, Estimate, SpectralAxis
from tests.spectra import ZOO, diagonal_product, matrix_with, product_of, rotation

SIZE = 120
# Three outliers, a bulk over three decades, and more zeros than anything else: what Fisher matrices look like.
SPECTRUM = [10.0, 5.0, 2.0] + torch.logspace(-1, -4, 50).tolist() + [0.0] * 67
MATRIX = matrix_with(SPECTRUM)
TRUTH = torch.tensor(SPECTRUM, dtype=torch.float64)


def quadrature(alphas: tuple[float, ...], betas: tuple[float, ...]) -> tuple[Tensor, Tensor]:
    """Nodes and weights of a tridiagonal matrix."""
    off = torch.diag(torch.tensor(betas, dtype=torch.float64), 1)
    nodes, vectors = torch.linalg.eigh(torch.diag(torch.tensor(alphas, dtype=torch.float64)) + off + off.T)
    return nodes, vectors[0].square()


@pytest.mark.parametrize("steps", [2, 5, 8])
@pytest.mark.parametrize("name", ["flat", "geometric"])
def test_a_quadrature_of_m_steps_is_exact_up_to_the_power_2m_minus_1(name: str, steps: int) -> None:
    """T11, and its control: the next power is not reproduced."""
    matrix = matrix_with(ZOO[name])
    start = torch.randn(len(matrix), generator=torch.Generator().manual_seed(steps)).double()
    start /= start.norm()
    nodes, weights = quadrature(*tridiagonalise(product_of(matrix), start, steps))
    vector, errors = start, []
    for power in range(2 * steps + 1):
        moment = float(start @ vector)
        errors.append(abs(float((weights * nodes**power).sum()) / moment - 1))
        vector = matrix @ vector
    assert max(errors[:-1]) < 1e-13
    assert errors[-1] > 1e-9


def test_tridiagonalise_projects_off_locked_vectors_and_stops_where_the_space_ends() -> None:
    locked = torch.linalg.eigh(MATRIX).eigenvectors[:, -3:]
    start = torch.randn(SIZE, generator=torch.Generator().manual_seed(0)).double()
    alphas, betas = tridiagonalise(product_of(MATRIX), start, 500, locked=locked)
    # Fifty different positive eigenvalues are left, and zero.
    assert 40 < len(alphas) <= SIZE - 3
    assert len(betas) == len(alphas) - 1
    assert max(quadrature(alphas, betas)[0]) == pytest.approx(0.1)
    assert tridiagonalise(product_of(MATRIX), start, 5, locked=torch.eye(SIZE).double()) == ((), ())
    short = tridiagonalise(product_of(matrix_with(ZOO["two values"])), torch.ones(200).double(), 50)
    assert len(short[0]) == 2


def test_tridiagonalise_scales_with_the_matrix() -> None:
    start = torch.ones(SIZE)
    plain = tridiagonalise(product_of(MATRIX), start, 10)
    small = tridiagonalise(product_of(MATRIX * 2.0**-66), start, 10)
    assert [2.0**66 * alpha for alpha in small[0]] == list(plain[0])
    assert [2.0**66 * beta for beta in small[1]] == list(plain[1])


def test_the_trace_is_hutchinsons_from_the_same_probes() -> None:
    probes: list[Tensor] = []

    def remembering(vector: Tensor) -> Tensor:
        probes.append(vector.clone())
        return MATRIX @ vector

    found = density(remembering, SIZE, probes=4, steps=6)
    assert found.products == 24
    hutchinson = torch.stack([probe @ MATRIX @ probe for probe in probes[::6]])
    assert trace(found).value == pytest.approx(SIZE * float(hutchinson.mean()), rel=1e-12)
    assert trace(found).estimator_error == pytest.approx(SIZE * float(hutchinson.std()) / 2, rel=1e-10)
    norms = torch.stack([(MATRIX @ probe).square().sum() for probe in probes[::6]])
    assert squared_norm(found).value == pytest.approx(SIZE * float(norms.mean()), rel=1e-12)


def trace(found: Density) -> Estimate:
    return spectral_sum(found, lambda value: value)


def squared_norm(found: Density) -> Estimate:
    return spectral_sum(found, lambda value: value * value)


SUMS: dict[str, tuple[Callable[[Density], Estimate], float]] = {
    "trace": (trace, float(TRUTH.sum())),
    "squared norm": (squared_norm, float(TRUTH.square().sum())),
    "effective dimension": (lambda found: effective_dimension(found, 0.01), float((TRUTH / (TRUTH + 0.01)).sum())),
    "count": (
        lambda found: spectral_sum(found, lambda value: float(value > 0.01)),
        float((TRUTH > 0.01).sum()),
    ),
    "zeros": (lambda found: found.zeros, 67 / SIZE),
}


@pytest.mark.ci
@pytest.mark.parametrize("outliers", [0, 3], ids=["plain", "outliers locked"])
def test_sums_over_the_spectrum_are_unbiased(outliers: int) -> None:
    """Over 200 probes each is within four standard errors of the dense matrix, and the errors are not large."""
    locked = largest_eigenpairs(product_of(MATRIX), SIZE, outliers, tolerance=1e-10) if outliers else None
    found = density(product_of(MATRIX), SIZE, probes=200, steps=60, locked=locked)
    assert len(found.exact) == outliers
    for name, (function, expected) in SUMS.items():
        estimate = function(found)
        assert estimate.estimator_error is not None, name
        assert 0 < estimate.estimator_error < 0.1 * expected, name
        assert abs(estimate.value - expected) < 4 * estimate.estimator_error, name


def test_locking_outliers_removes_their_sampling_noise() -> None:
    locked = largest_eigenpairs(product_of(MATRIX), SIZE, 3, tolerance=1e-10)
    plain, exact = (density(product_of(MATRIX), SIZE, steps=20, locked=pairs) for pairs in (None, locked))
    for function in (trace, squared_norm):
        errors = [function(found).estimator_error for found in (plain, exact)]
        assert errors[0] is not None
        assert errors[1] is not None
        assert errors[1] < errors[0] / 20
    for found in (plain, exact):
        assert spectral_sum(found, lambda _: 1.0).value == pytest.approx(SIZE, rel=1e-12)


def test_the_error_over_probes_is_the_spread_of_repetitions() -> None:
    runs = [density(product_of(MATRIX), SIZE, probes=10, steps=3, seed=seed, points=2) for seed in range(200)]
    values = torch.tensor([trace(run).value for run in runs]).double()
    errors = torch.tensor([trace(run).estimator_error or math.nan for run in runs]).double()
    # Two hundred runs know the spread to 5 %, and the predicted one better; three times both.
    assert float(values.std() / errors.square().mean().sqrt()) == pytest.approx(1, abs=0.2)


def test_the_cumulative_share_lies_within_its_range() -> None:
    """For one probe the exact measure is known; the quadrature's own steps are off, its range is not."""
    values, vectors = torch.linalg.eigh(MATRIX)
    probes: list[Tensor] = []

    def remembering(vector: Tensor) -> Tensor:
        probes.append(vector.clone())
        return MATRIX @ vector

    found = density(remembering, SIZE, probes=1, steps=12, points=500)
    assert found.cumulative_error is None
    masses = (vectors.T @ probes[0]).square()
    exact = torch.stack([masses[values <= value].sum() for value in torch.tensor(found.grid).double()])
    low, high = torch.tensor(found.cumulative_range).double().T
    assert bool((low - 1e-12 <= exact).all())
    assert bool((exact <= high + 1e-12).all())
    assert float((torch.tensor(found.cumulative).double() - exact).abs().max()) > 0.01


@pytest.mark.parametrize("axis", SpectralAxis)
@pytest.mark.parametrize("scale", [1e-12, 1.0, 1e12])
def test_the_curve_and_the_zeros_add_up_to_one_at_any_scale(axis: SpectralAxis, scale: float) -> None:
    found = density(product_of(MATRIX * scale), SIZE, axis=axis, points=4000)
    plain = density(product_of(MATRIX), SIZE, axis=axis, points=4000)
    grid = torch.tensor(found.grid).double()
    place = grid.log10() if axis is SpectralAxis.LOGARITHMIC else grid
    mass = float(torch.trapezoid(torch.tensor(found.density).double(), place))
    assert mass + found.zeros.value == pytest.approx(1, abs=1e-3)
    assert found.zeros.value == pytest.approx(plain.zeros.value, rel=1e-6)
    unit = 1.0 if axis is SpectralAxis.LOGARITHMIC else scale
    assert found.density == pytest.approx([value / unit for value in plain.density], rel=1e-4, abs=1e-6 / unit)
    assert found.grid == pytest.approx([value * scale for value in plain.grid], rel=1e-6, abs=1e-9 * scale)


def test_with_all_steps_the_cumulative_share_is_that_of_the_eigenvalues() -> None:
    """Eleven different eigenvalues are resolved by eleven steps; what remains is sampling noise."""
    spectrum = [k / 10 for k in range(1, 11) for _ in range(8)] + [0.0] * 40
    found = density(product_of(matrix_with(spectrum)), SIZE, probes=200, steps=11)
    truth = torch.tensor(spectrum, dtype=torch.float64)
    assert found.cumulative_error is not None
    compared = 0
    for value, share, error in zip(found.grid, found.cumulative, found.cumulative_error, strict=True):
        if float((truth / value - 1).abs().min()) > 1e-3:
            compared += 1
            assert abs(share - float((truth <= value).double().mean())) <= 4 * error + 1e-12
    assert compared > 900
    assert max(found.cumulative_error) < 0.01


def test_peaks_stand_where_eigenvalues_are() -> None:
    found = density(product_of(MATRIX), SIZE, locked=largest_eigenpairs(product_of(MATRIX), SIZE, 3, tolerance=1e-8))
    assert found.exact == pytest.approx([10, 5, 2])
    # An outlier is one eigenvalue of 120, a Gaussian of a tenth of a decade.
    peak = 1 / SIZE / (0.1 * math.sqrt(2 * math.pi))
    at_ten = min(range(len(found.grid)), key=lambda index: abs(found.grid[index] - 10))
    assert found.density[at_ten] == pytest.approx(peak, rel=0.05)


def test_a_zero_matrix_is_all_zeros() -> None:
    found = density(lambda vector: 0 * vector, SIZE)
    assert found.zeros == Estimate(1.0, None, 0.0)
    assert found.grid == found.density == found.cumulative == ()
    assert trace(found).value == 0


def test_given_eigenpairs_that_are_all_there_are_leave_nothing_to_draw() -> None:
    pairs = largest_eigenpairs(product_of(matrix_with([3.0, 2.0, 1.0])), 3, 3, tolerance=1e-12)
    found = density(product_of(matrix_with([3.0, 2.0, 1.0])), 3, locked=pairs)
    assert found.products == 0
    assert trace(found).value == pytest.approx(6.0)
    assert trace(found).estimator_error == 0
    assert found.cumulative[-1] == pytest.approx(1)


def test_one_probe_has_no_error() -> None:
    found = density(product_of(MATRIX), SIZE, probes=1)
    assert trace(found).estimator_error is None
    assert spectral_sum(found, lambda _: 1.0).value == pytest.approx(SIZE)


def test_float32_vectors_give_the_same_sums() -> None:
    double, single = (
        density(product_of(MATRIX), SIZE, steps=20, dtype=dtype) for dtype in (torch.float64, torch.float32)
    )
    for name in ("trace", "squared norm", "effective dimension"):
        function, _ = SUMS[name]
        assert function(single).value == pytest.approx(function(double).value, rel=1e-4), name
    assert single.floor > double.floor


def test_without_reorthogonalisation_the_quadrature_is_not_exact(monkeypatch: pytest.MonkeyPatch) -> None:
    """The control: outliers that have converged come back as copies, and high moments drift."""
    start = torch.ones(200).double() / math.sqrt(200)
    diagonal = torch.tensor([1.0, 0.1, 0.05] + [1e-3 * k / 197 for k in range(197)]).double()
    exact = quadrature(*tridiagonalise(diagonal_product(diagonal), start, 60))
    assert int((exact[0] > 0.99).sum()) == 1

    def last_two(rows: krylov.BlockedBasis, vector: Tensor) -> Tensor:
        found = torch.zeros(len(rows)).double()
        for index in range(max(0, len(rows) - 2), len(rows)):
            found[index] = torch.dot(rows[index], vector)
            vector -= found[index] * rows[index]
        return found

    monkeypatch.setattr(krylov.BlockedBasis, "remove", last_two)
    bare = quadrature(*tridiagonalise(diagonal_product(diagonal), start, 60))
    assert int((bare[0] > 0.99).sum()) > 1


def test_nan_is_an_error() -> None:
    with pytest.raises(NumericalError):
        density(lambda vector: vector * math.nan, SIZE)


def rectangular(values: Tensor, size: int) -> tuple[Tensor, Tensor]:
    """AAᵀ (size, size) and AᵀA, square of as many rows as there are values, with these as their eigenvalues."""
    count = len(values)
    factor = rotation(size, 1)[:, :count] @ torch.diag(values.sqrt()) @ rotation(count, 2)
    return factor @ factor.T, factor.T @ factor


@pytest.mark.parametrize("locked", [0, 3])
def test_zeros_that_the_number_of_columns_leaves_are_no_matter_of_the_quadrature(locked: int) -> None:
    """60 eigenvalues over eight decades beside 1,140 zeros, which the control finds at its smallest node."""
    values = torch.logspace(0, -8, 60, dtype=torch.float64)
    large, small = rectangular(values, 1200)
    grams = [
        largest_eigenpairs(product_of(m), len(m), locked, tolerance=1e-12) if locked else None for m in (large, small)
    ]
    control = density(product_of(large), 1200, probes=20, steps=20, locked=grams[0])
    found = density(product_of(small), 60, probes=20, steps=20, locked=grams[1], null=1140)
    assert found.size == control.size == 1200
    assert found.zeros.value == pytest.approx(1140 / 1200, abs=1 / 1200)
    truth = torch.cat([values, torch.zeros(1140, dtype=torch.float64)])

    def off(one: Density, place: float) -> float:
        index = min(range(len(one.grid)), key=lambda i: abs(math.log10(one.grid[i] / place)))
        return abs(one.cumulative[index] - float((truth <= one.grid[index]).double().mean()))

    errors = [(off(found, 10.0**power), off(control, 10.0**power)) for power in range(-7, 0)]
    print("cumulative share off by", [f"{one:.3f} ({other:.3f})" for one, other in errors])
    assert max(one for one, _ in errors) < 0.03
    assert errors[0][1] > 0.9
    for function, expected in (
        (trace, float(values.sum())),
        (squared_norm, float(values.square().sum())),
        (lambda each: spectral_sum(each, lambda _: 1.0), 1200.0),
        (lambda each: effective_dimension(each, 0.01), float((values / (values + 0.01)).sum())),
    ):
        estimate = function(found)
        assert estimate.estimator_error is not None
        assert abs(estimate.value - expected) <= 4 * estimate.estimator_error + 1e-9 * expected
    assert found.cumulative[-1] == pytest.approx(1.0, abs=1e-12)


def test_moments_of_a_density_beside_zeros_are_exact_up_to_the_power_2m_minus_1() -> None:
    """T11 for what `density` returns: P Σ w θᵏ = M qᵀ(AᵀA)ᵏq, and the next power is off."""
    _, small = rectangular(torch.logspace(0, -2, 40, dtype=torch.float64), 100)
    probes: list[Tensor] = []

    def remembering(vector: Tensor) -> Tensor:
        probes.append(vector.clone())
        return small @ vector

    found = density(remembering, 40, probes=1, steps=4, null=60)
    nodes, weights = (torch.tensor(each[0], dtype=torch.float64) for each in (found.nodes, found.weights))
    vector, errors = probes[0], []
    for power in range(9):
        moment = 40 * float(probes[0] @ vector)
        errors.append(abs(100 * float((weights * nodes**power).sum()) / moment - 1))
        vector = small @ vector
    assert max(errors[:-1]) < 1e-12
    assert errors[-1] > 1e-9


def test_forty_steps_resolve_three_decades_of_an_even_spectrum_and_bound_the_rest() -> None:
    """What the documents say of the resolution: 2,000 eigenvalues evenly over eight decades of λ."""
    values = torch.logspace(0, -8, 2000, dtype=torch.float64)
    found = density(diagonal_product(values), 2000, probes=5, steps=40)
    grid, share = torch.tensor(found.grid, dtype=torch.float64), torch.tensor(found.cumulative, dtype=torch.float64)
    truth = (values.unsqueeze(1) <= grid).double().mean(0)
    least, most = torch.tensor(found.cumulative_range, dtype=torch.float64).T
    off = (share - truth).abs()
    resolved = grid >= 10.0**-2.5
    print(f"off by {float(off[resolved].max()):.3f} above, {float(off[~resolved].max()):.3f} below")
    assert float(off[resolved].max()) < 0.05
    assert float(off[~resolved].max()) > 0.3
    # Five probes know a share to some hundredths.
    assert bool(((least - 0.04 <= truth) & (truth <= most + 0.04)).all())
