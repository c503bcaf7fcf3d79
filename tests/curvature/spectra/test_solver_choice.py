"""Every route to the eigenvalues against the dense matrices of the oracle, and how a route is chosen."""

import functools
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from fisher_cli.curvature.gradient_norms import verification
from fisher_cli.curvature.gradient_norms.engine import Engine
from fisher_cli.curvature.problem.output_scores import empirical_scores, true_scores
from fisher_cli.curvature.problem.problem import Problem, TensorData, pose
from fisher_cli.curvature.products.fisher_products import Jacobian
from fisher_cli.curvature.spectra import eigensystems, solver_choice
from fisher_cli.curvature.spectra.eigensystems import Eigensystem, Matrix, matrices
from fisher_cli.curvature.spectra.solver_choice import Eigensolver, choose_eigensolver
from fisher_cli.curvature.spectra.spectrum import as_result
from fisher_cli.curvature.traces.traces import sweep
from fisher_cli.errors import NumericalError
from tests.cases import mlp
from tests.long_lists import some
from tests.score_gradients import NETWORKS, factor

COUNT = 5


def pair(problem: Problem) -> tuple[Matrix, Matrix]:
    """Both matrices with the norms of their columns, so that every route is open to them."""
    engine, jacobian = Engine(problem), functools.cache(lambda: Jacobian(problem))
    verification.check(engine)
    columns = [
        factor(problem, scores).square().sum(0).reshape(problem.examples, -1) * problem.examples
        for scores in (true_scores, empirical_scores)
    ]
    return Matrix(engine, jacobian, False, columns=columns[0]), Matrix(engine, jacobian, True, columns=columns[1])


def compare(found: Eigensystem, matrix: Tensor, tolerance: float, rounding: float) -> None:
    """Eigenvalues, residuals and vectors against the dense matrix itself."""
    truth = torch.linalg.eigvalsh(matrix).flip(0)[: len(found.values)]
    largest = float(truth[0])
    assert float((found.values - truth).abs().max()) <= (tolerance + 1e-14) * largest + found.bound
    vectors = found.vectors
    assert vectors is not None
    assert vectors.dtype is torch.float64 or rounding > 1e-12
    vectors, values = vectors.double(), found.values[: vectors.shape[1]]
    assert bool((found.values[len(values) :] <= 1e-5 * largest).all()), "only null vectors may be missing"
    growth = torch.ones_like(values)
    if found.route not in {Eigensolver.LANCZOS, Eigensolver.DENSE}:
        # Rounding in Au is that of the largest eigenvalue, and grows when Au is scaled to a unit vector.
        growth = (largest / values).sqrt()
    products = vectors.T @ vectors - torch.eye(len(values))
    assert bool((products.abs() <= rounding * torch.outer(growth, growth)).all())
    residuals = (matrix @ vectors - vectors * values).norm(dim=0)
    reported = found.residuals[: len(values)]
    assert bool((residuals <= reported + rounding * growth * largest).all())
    assert bool((reported <= residuals + found.bound + rounding * growth * largest).all())


@pytest.mark.parametrize("name", some(NETWORKS, part=0.5))
def test_every_route_gives_the_eigenpairs_of_the_dense_matrix(name: str) -> None:
    problem, expected = NETWORKS[name](torch.float64)
    for matrix, dense in zip(pair(problem), (expected.fisher, expected.empirical), strict=True):
        for route in Eigensolver:
            found = matrix.leading(COUNT, tolerance=1e-10, route=route, vectors=True)
            assert found.route is route
            assert found.converged
            assert len(found.values) == len(found.residuals) == COUNT
            assert bool((found.residuals <= 1e-10 * found.values[0]).all())
            compare(found, dense, 1e-8, 1e-12)


@pytest.mark.parametrize("name", ["mlp", "one logit", "grouped", "sequence", "attention", "Experts"])
def test_every_route_gives_the_eigenpairs_in_single_precision(name: str) -> None:
    problem, expected = NETWORKS[name](torch.float32)
    for matrix, dense in zip(pair(problem), (expected.fisher, expected.empirical), strict=True):
        for route in Eigensolver:
            found = matrix.leading(COUNT, tolerance=1e-5, route=route, vectors=True)
            assert found.converged
            compare(found, dense, 1e-5, 1e-5)


def saturated(examples: int, clear: int) -> Problem:
    """A softmax regression that is certain of all but the first few examples."""
    generator = torch.Generator().manual_seed(3)
    x = torch.randn(examples, 4, generator=generator).double()
    model = nn.Linear(5, 3).double()
    with torch.no_grad():
        model.weight.copy_(torch.randn(3, 5, generator=generator))
        model.weight[:, 4] = torch.tensor([30.0, 0.0, -5.0])
    far = (torch.arange(examples) >= clear).double().unsqueeze(1)
    return pose(model, TensorData(torch.cat([x, far], 1), torch.randint(0, 3, (examples,), generator=generator)))


def exactly(problem: Problem) -> tuple[Matrix, Tensor]:
    """The true Fisher with the columns that an exact sweep gives, and all its eigenvalues by the dense route."""
    columns = sweep(problem, estimator="exact").columns
    true, _ = matrices(problem, columns=columns)
    return true, true.leading(problem.size, route=Eigensolver.DENSE).values


def test_columns_of_the_sweep_are_the_squared_lengths_of_the_score_gradients() -> None:
    problem, _ = NETWORKS["attention"](torch.float64)
    columns = sweep(problem, estimator="exact").columns
    assert columns is not None
    expected = factor(problem, true_scores).square().sum(0) * problem.examples
    assert torch.allclose(columns.reshape(-1), expected, rtol=1e-10, atol=0)


@pytest.mark.parametrize(("tolerance", "rows"), [(1e-3, 8), (1e-10, 60), (1e-13, 119)])
def test_negligible_columns_are_left_out_and_bound_every_eigenvalue(tolerance: float, rows: int) -> None:
    """Four examples of sixty are undecided, and the others next to certain, by e⁻³⁰ or so."""
    problem = saturated(60, 4)
    true, exact = exactly(problem)
    found = true.leading(6, tolerance=tolerance, route=Eigensolver.LEADING, vectors=True, whole=True)
    assert found.examples is not None
    assert found.whole is not None
    assert true.columns is not None
    kept = torch.zeros(60, dtype=torch.bool)
    kept[found.examples] = True
    assert bool(kept[:4].all())
    assert 8 <= len(found.examples) <= rows
    assert found.bound > 0
    ordered = true.columns.reshape(-1).sort().values
    assert found.bound == pytest.approx(float(ordered[: 120 - len(found.examples)].sum()) / 60, rel=1e-12)
    assert found.bound <= eigensystems.LEADING_SHARE * tolerance * float(exact.sum())
    rounding = 1e-14 * float(exact[0])
    for values in (found.values, found.whole):
        below = exact[: len(values)] - values[: len(exact)]
        assert bool(((below >= -rounding) & (below <= found.bound + rounding)).all())
    assert bool((exact[len(found.whole) :] <= found.bound + rounding).all())
    assert found.converged


def test_nothing_is_left_out_where_nothing_is_negligible() -> None:
    true, exact = exactly(saturated(12, 12))
    found = true.leading(5, route=Eigensolver.LEADING)
    assert found.examples is not None
    assert len(found.examples) == 24
    assert found.bound == 0
    assert torch.allclose(found.values, exact[:5], rtol=1e-12)


def test_a_bound_that_is_not_small_beside_the_eigenvalues_is_not_convergence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(eigensystems, "LEADING_SHARE", 300.0)
    true, exact = exactly(saturated(12, 12))
    found = true.leading(3, route=Eigensolver.LEADING)
    assert not found.converged
    assert bool((found.residuals >= found.bound).all())
    assert float(found.bound) > 1e-3 * float(exact[0])
    below = exact[:3] - found.values
    assert bool(((below >= -1e-14) & (below <= found.bound)).all())
    assert true.leading(3).converged, "the automatic route goes on to one that converges"


def test_the_bound_is_reached_when_what_is_left_out_points_one_way() -> None:
    """One kept and one dropped score gradient that are parallel: the eigenvalue moves by all of the dropped trace."""
    model = nn.Linear(1, 1, bias=False).double()
    data = TensorData(torch.tensor([[1.0], [1e-3]]).double(), torch.zeros(2, 1).double())
    problem = pose(model, data, likelihood="gaussian")
    columns = torch.tensor([[1.0], [1e-6]]).double()
    true = matrices(problem, columns=columns)[0]
    found = true.leading(1, tolerance=1e-3, route=Eigensolver.LEADING)
    assert found.bound == pytest.approx(5e-7, rel=1e-12)
    assert float(found.values[0]) + found.bound == pytest.approx((1 + 1e-6) / 2, rel=1e-14)


def test_leading_columns_without_their_norms_are_refused() -> None:
    true, _ = matrices(saturated(5, 5))
    with pytest.raises(ValueError, match="norms of the columns"):
        true.leading(2, route=Eigensolver.LEADING)


ROUTES = [Eigensolver.LANCZOS, Eigensolver.DUAL, Eigensolver.GRAM, Eigensolver.DENSE]


@pytest.mark.parametrize("route", ROUTES)
@pytest.mark.parametrize("tolerance", [1e-3, 1e-10])
def test_wide_spectra_converge_to_small_residuals_of_the_returned_pairs(route: Eigensolver, tolerance: float) -> None:
    """Eigenvalues over ten decades, as a linear regression has them whose inputs are scaled."""
    torch.manual_seed(8)
    x = torch.diag(torch.logspace(0, -5, 30).double()) @ torch.linalg.qr(torch.randn(30, 30).double())[0]
    problem = pose(nn.Linear(30, 1, bias=False).double(), TensorData(x, torch.zeros(30, 1)), likelihood="gaussian")
    found = pair(problem)[0].leading(12, tolerance=tolerance, route=route, vectors=True)
    assert found.converged
    matrix = x.T @ x / 30
    assert found.vectors is not None
    residuals = (matrix @ found.vectors - found.vectors * found.values).norm(dim=0)
    assert bool((residuals <= found.residuals + 1e-11 * found.values[0]).all())
    assert bool((found.residuals <= residuals + 1e-11 * found.values[0]).all())
    assert bool(
        ((found.values - torch.linalg.eigvalsh(matrix).flip(0)[:12]).abs() <= tolerance * found.values[0]).all()
    )


def of_rank_three() -> tuple[Problem, Tensor]:
    """Nine columns in three dimensions, of seven."""
    torch.manual_seed(2)
    x = torch.randn(9, 3).double() @ torch.randn(3, 7).double()
    problem = pose(nn.Linear(7, 1, bias=False).double(), TensorData(x, torch.zeros(9, 1)), likelihood="gaussian")
    return problem, x.T @ x / 9


@pytest.mark.parametrize("route", Eigensolver)
def test_eigenvalues_behind_the_rank_are_zero_with_small_residuals(route: Eigensolver) -> None:
    problem, matrix = of_rank_three()
    found = pair(problem)[0].leading(20, route=route, vectors=True)
    assert found.converged
    assert len(found.values) == len(found.residuals) == 7
    assert float(found.values[3:].abs().max()) <= 1e-13 * float(found.values[0])
    compare(found, matrix, 1e-6, 1e-12)
    result = as_result(found, 20, problem.size)
    assert result.note == "only 7 parameters: 13 eigenvalues do not exist"


@pytest.mark.parametrize("route", [Eigensolver.DUAL, Eigensolver.GRAM, Eigensolver.LEADING])
def test_fewer_columns_than_eigenvalues_wanted_leave_exact_zeros_and_a_note(route: Eigensolver) -> None:
    problem = saturated(2, 2)
    found = pair(problem)[0].leading(9, route=route, vectors=True)
    assert found.converged
    assert found.values[4:].tolist() == found.residuals[4:].tolist() == [0.0] * 5
    assert "the rank is at most 4: 5 of the eigenvalues are zero" in found.note
    assert found.vectors is not None
    assert found.vectors.shape == (18, 4)


def test_eigenvalues_that_were_left_out_are_not_called_zero() -> None:
    problem = saturated(60, 2)
    found = exactly(problem)[0].leading(9, route=Eigensolver.LEADING)
    assert found.examples is not None
    assert len(found.examples) < 9
    assert "between zero and" in found.note
    assert found.residuals[-1] == found.bound > 0


@pytest.mark.parametrize("route", Eigensolver)
def test_a_zero_matrix_has_zero_eigenvalues(route: Eigensolver) -> None:
    """Inputs that are zero, so that no weight has a gradient."""
    model = nn.Linear(4, 3, bias=False).double()
    problem = pose(model, TensorData(torch.zeros(5, 4).double(), torch.tensor([0, 1, 2, 0, 1])))
    for matrix in pair(problem):
        found = matrix.leading(3, route=route, vectors=True)
        assert found.values.tolist() == found.residuals.tolist() == [0.0] * 3
        assert found.converged
        assert found.vectors is not None
        assert found.vectors.shape[0] == problem.size


@pytest.mark.parametrize("route", Eigensolver)
def test_one_example_has_a_rank_below_the_number_of_classes(route: Eigensolver) -> None:
    torch.manual_seed(4)
    problem = pose(mlp(4, 5, 3).double(), TensorData(torch.randn(1, 4).double(), torch.tensor([1])))
    true, empirical = pair(problem)
    for matrix, rank, scores in ((true, 2, true_scores), (empirical, 1, empirical_scores)):
        columns = factor(problem, scores)
        found = matrix.leading(4, tolerance=1e-10, route=route, vectors=True)
        assert found.converged
        compare(found, columns @ columns.T, 1e-10, 1e-12)
        assert float(found.values[rank:].abs().max()) <= 1e-14 * float(found.values[0])


@pytest.mark.parametrize("route", Eigensolver)
def test_two_classes_of_which_one_is_present(route: Eigensolver) -> None:
    torch.manual_seed(5)
    problem = pose(mlp(4, 5, 2).double(), TensorData(torch.randn(7, 4).double(), torch.ones(7).long()))
    for matrix, scores in zip(pair(problem), (true_scores, empirical_scores), strict=True):
        assert matrix.scores == 1
        columns = factor(problem, scores)
        compare(matrix.leading(3, tolerance=1e-10, route=route, vectors=True), columns @ columns.T, 1e-10, 1e-12)


@pytest.mark.parametrize("route", Eigensolver)
def test_weights_that_are_not_numbers_are_an_error_and_not_an_eigenvalue(route: Eigensolver) -> None:
    torch.manual_seed(6)
    model = mlp(4, 5, 3).double()
    problem = pose(model, TensorData(torch.randn(6, 4).double(), torch.tensor([0, 1, 2, 0, 1, 2])))
    both = pair(problem)
    with torch.no_grad():
        next(model.parameters())[0, 0] = float("nan")
    for matrix in both:
        with pytest.raises(NumericalError):
            matrix.leading(2, route=route)


@pytest.mark.parametrize("route", Eigensolver)
def test_saturated_logits_in_single_precision_keep_their_digits(route: Eigensolver) -> None:
    """All examples are certain by e⁻⁵⁰: 1 − p is zero in float32, and the eigenvalues are about 1e-21."""
    torch.manual_seed(7)
    model = nn.Linear(4, 3)
    with torch.no_grad():
        model.bias.copy_(torch.tensor([50.0, 0.0, 1.0]))
    x, y = torch.randn(8, 4), torch.zeros(8).long()
    found = pair(pose(model, TensorData(x, y)))[0].leading(3, route=route, tolerance=1e-5)
    doubled = pose(model, TensorData(x, y), dtype=torch.float64)
    truth = torch.linalg.svdvals(factor(doubled, true_scores)).square()[:3]
    assert found.converged
    assert 0 < float(truth[0]) < 1e-19
    assert torch.allclose(found.values, truth, rtol=1e-3, atol=1e-5 * float(truth[0]))


def test_results_hold_no_graph() -> None:
    """A graph would keep the activations of every batch alive."""
    problem, _ = NETWORKS["mlp"](torch.float64)
    for matrix in pair(problem):
        for route in Eigensolver:
            found = matrix.leading(3, route=route, vectors=True)
            held = (found.values, found.residuals, found.vectors, found.whole, found.coordinates)
            assert not any(tensor.requires_grad for tensor in held if tensor is not None)


@pytest.mark.parametrize("route", [Eigensolver.GRAM, Eigensolver.LEADING])
@pytest.mark.parametrize("name", ["mlp", "Sorted"])
def test_coordinates_are_those_of_the_columns_on_the_eigenvectors(route: Eigensolver, name: str) -> None:
    problem, _ = NETWORKS[name](torch.float64)
    for matrix, scores in zip(pair(problem), (true_scores, empirical_scores), strict=True):
        found = matrix.leading(4, route=route, vectors=True)
        assert found.vectors is not None
        assert found.coordinates is not None
        assert found.examples is not None
        columns = factor(problem, scores)
        assert found.coordinates.shape == (columns.shape[1], 4)
        inner = columns.T @ found.vectors
        assert torch.allclose(inner, found.coordinates, rtol=0, atol=1e-12 * float(inner.abs().max()))
        assert torch.equal(found.examples, torch.arange(problem.examples).repeat_interleave(matrix.scores))


def test_large_grams_go_by_lanczos_to_the_same_eigenpairs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(eigensystems, "WHOLE_ROWS", 4)
    problem, expected = NETWORKS["mlp"](torch.float64)
    found = pair(problem)[0].leading(COUNT, tolerance=1e-10, route=Eigensolver.GRAM, vectors=True)
    assert found.products > 0
    assert found.whole is None
    assert found.converged
    compare(found, expected.fisher, 1e-8, 1e-12)
    whole = pair(problem)[0].leading(COUNT, route=Eigensolver.GRAM, whole=True)
    assert whole.whole is not None
    assert whole.squared_norm == pytest.approx(float(expected.fisher.square().sum()), rel=1e-12)


# Choosing a route, from shapes alone.


def chosen(
    build: Callable[[], nn.Module], shape: tuple[int, ...], count: int = 5, seed: int = 0, **settings: bool
) -> Eigensolver:
    torch.manual_seed(seed)
    data = TensorData(torch.randn(shape), torch.zeros(shape[0]).long())
    engine = Engine(pose(build(), data))
    return choose_eigensolver(engine, engine.problem.outputs - 1, count, **settings)


def convolutions() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(2, 16, 3, padding=1), nn.ReLU(), nn.Conv2d(16, 64, 3, padding=1), nn.ReLU(), nn.AdaptiveAvgPool2d(1),
        nn.Flatten(), nn.Linear(64, 10),
    )  # fmt: skip


NETWORK_OF_ROUTE = {
    Eigensolver.GRAM: (lambda: mlp(20, 100, 100, 3), (30, 20)),
    Eigensolver.DENSE: (lambda: mlp(4, 6, 3), (3000, 4)),
    Eigensolver.LANCZOS: (lambda: mlp(20, 100, 100, 10), (4000, 20)),
}


@pytest.mark.parametrize("route", NETWORK_OF_ROUTE)
def test_each_route_is_chosen_where_it_should_be_whatever_the_weights(route: Eigensolver) -> None:
    build, shape = NETWORK_OF_ROUTE[route]

    def zeroed() -> nn.Module:
        model = build()
        for parameter in model.parameters():
            nn.init.zeros_(parameter)
        return model

    assert [chosen(build, shape, seed=seed) for seed in (0, 0, 1)] == [route] * 3
    assert chosen(zeroed, shape) is route


@pytest.mark.parametrize("memory", [1e5, 1e6, 1e7, 1e8, 1e10])
@pytest.mark.parametrize("network", [(lambda: mlp(20, 100, 3), (60, 20)), (convolutions, (20, 2, 8, 8))])
def test_no_route_is_chosen_that_does_not_fit_into_memory(
    network: tuple[Callable[[], nn.Module], tuple[int, ...]], memory: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What each route holds, counted from the parameters' sizes."""
    monkeypatch.setattr(solver_choice, "memory_bytes", lambda _: int(memory))
    build, shape = network
    for whole in (False, True):
        route = chosen(build, shape, whole=whole)
        model = build()
        size, outputs = sum(p.numel() for p in model.parameters()), 3 if len(shape) == 2 else 10
        columns = shape[0] * (outputs - 1)
        outer = sum(sum(p.shape) for p in model.parameters() if p.dim() == 2)
        explicit = sum(p.numel() for p in model.parameters() if p.dim() != 2)
        gram = 4 * columns * (outer + explicit) + 8 * columns**2
        vectors = 4 * solver_choice.EXPECTED_VECTORS
        if route is Eigensolver.GRAM:
            assert gram <= memory / 4
        elif route is Eigensolver.DENSE:
            assert 8 * size**2 <= memory / 4
        elif route is Eigensolver.LANCZOS:
            assert vectors * size <= memory / 4 or columns >= size
        else:
            assert route is Eigensolver.DUAL
            assert vectors * columns < vectors * size


def test_vectors_too_long_for_memory_go_by_the_dual(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(solver_choice, "memory_bytes", lambda _: 1_000_000)
    assert chosen(convolutions, (20, 2, 8, 8)) is Eigensolver.DUAL


def test_leading_columns_are_tried_only_where_they_fit_into_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    problem = saturated(60, 4)
    columns = sweep(problem, estimator="exact").columns
    monkeypatch.setattr(eigensystems, "choose_eigensolver", lambda *_, **__: Eigensolver.LANCZOS)
    assert matrices(problem, columns=columns)[0].leading(3).route is Eigensolver.LEADING
    monkeypatch.setattr(solver_choice, "memory_bytes", lambda _: 10_000)
    assert matrices(problem, columns=columns)[0].leading(3).route is Eigensolver.LANCZOS


def test_a_batch_from_which_columns_are_chosen_must_fit_as_well(monkeypatch: pytest.MonkeyPatch) -> None:
    """Eight columns of eighteen parameters take 4 kB, and the 120 of the batch that holds them at once 0.5 MB."""
    engine = Engine(saturated(60, 4))
    for memory, expected in ((1e5, False), (2e6, False), (2e7, True)):
        monkeypatch.setattr(solver_choice, "memory_bytes", lambda _, memory=memory: int(memory))
        assert solver_choice.fits(engine, 2, 8) is expected


def test_a_route_that_was_chosen_does_not_depend_on_the_batch_size_of_the_products() -> None:
    problem, _ = NETWORKS["mlp"](torch.float64)
    engines = [Engine(replace(problem, product_batch_size=size)) for size in (1, 4, 6)]
    assert len({choose_eigensolver(engine, 3, 5) for engine in engines}) == 1
