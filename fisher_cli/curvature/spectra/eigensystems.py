"""Leading eigenvalues and eigenvectors of the true and the empirical Fisher, by the route that is cheapest."""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from fisher_cli.curvature.gradient_norms import verification
from fisher_cli.curvature.gradient_norms.engine import Engine
from fisher_cli.curvature.linalg.lanczos import ROUNDING, Eigenpairs, largest_eigenpairs
from fisher_cli.curvature.linalg.sums import dot, squared_norm
from fisher_cli.curvature.problem.batching import memory_bytes
from fisher_cli.curvature.problem.output_scores import ScoresOf, empirical_scores, true_scores
from fisher_cli.curvature.problem.problem import Problem
from fisher_cli.curvature.products.fisher_products import Jacobian, ScoreFactor, empirical_product, fisher_product
from fisher_cli.curvature.spectra import factors
from fisher_cli.curvature.spectra.solver_choice import (
    BASIS_SHARE,
    EXPECTED_VECTORS,
    WHOLE_ROWS,
    Eigensolver,
    choose_eigensolver,
    fits,
)
from fisher_cli.errors import NumericalError

# Of the score gradients left out by `gram-leading`, the trace may be this share of tolerance · tr F; what that is of
# the largest eigenvalue is known, and checked, afterwards.
LEADING_SHARE = 0.05


@dataclass(frozen=True)
class Eigensystem:
    """The k leading eigenvalues θ of a matrix A, (P, P), and what their solver knows besides.

    Attributes:
        values: θ (k,) in descending order.
        residuals: ‖Av − θv‖, (k,); on the routes by Gram and dual those of θ not above rounding are ‖AᵀAu − θu‖, A
            being the factor there.
        route: how they were found.
        converged: whether every residual is within the tolerance and no larger eigenvalue was overlooked.
        products: products with A or its dual.
        vectors: unit eigenvectors (P, l) where asked for; on the routes by Gram and dual only of the θ above rounding.
        whole: all eigenvalues that can differ from zero, in descending order, where the route gives them.
        squared_norm: ‖A‖_F², where the route gives it.
        bound: on the route `gram-leading` values, `whole` and `squared_norm` are of A without the columns left out, and
            no eigenvalue of A exceeds the one given by more than this; the residuals include it. Else 0.
        coordinates: vᵀg_m/√N for every column g_m of the factor and every eigenvector v, (M, k), on the routes by Gram.
        examples: whose column it is, (M,), on the same routes.
        note: what a reader should know, else "".
    """

    values: Tensor
    residuals: Tensor
    route: Eigensolver
    converged: bool
    products: int = 0
    vectors: Tensor | None = None
    whole: Tensor | None = None
    squared_norm: float | None = None
    bound: float = 0.0
    coordinates: Tensor | None = None
    examples: Tensor | None = None
    note: str = ""


@dataclass
class Matrix:
    """The true or the empirical Fisher of a problem, and how its eigenvalues are found.

    Attributes:
        engine: that of the problem; it may be shared between matrices.
        jacobian: makes the Jacobian, or gives the one that is shared.
        empirical: which of the two it is.
        trace: the exact trace where it is known.
        columns: w ‖J_nᵀ v_nk‖² of every score, (N, K): with it, the small ones can be left out and bounded.
        seed: of the start vectors.
        advance: told by Lanczos in words how far it is, and as a fraction from 0 to 1.
    """

    engine: Engine
    jacobian: Callable[[], Jacobian]
    empirical: bool = False
    trace: float | None = None
    columns: Tensor | None = None
    seed: int = 0
    advance: Callable[[str, float], None] = lambda _text, _fraction: None

    @property
    def problem(self) -> Problem:
        """The network and its examples."""
        return self.engine.problem

    @property
    def scores_of(self) -> ScoresOf:
        """The scores s_nk of the matrix mean_n Σ_k J_nᵀ s_nk s_nkᵀ J_n."""
        return empirical_scores if self.empirical else true_scores

    @property
    def scores(self) -> int:
        """K, the scores per example: C − 1 of a softmax network, else C; 1 of the empirical Fisher."""
        softmax = self.problem.likelihood.name == "softmax"
        return 1 if self.empirical else self.problem.outputs - softmax

    def product(self, vector: Tensor) -> Tensor:
        """A v, (P,) in float64, for v (P,); collective."""
        make = empirical_product if self.empirical else fisher_product
        return make(self.problem, self.jacobian())(vector)

    @torch.inference_mode(mode=False)
    def leading(
        self,
        count: int,
        *,
        tolerance: float = 1e-3,
        route: Eigensolver | None = None,
        vectors: bool = False,
        whole: bool = False,
    ) -> Eigensystem:
        """The `count` largest eigenvalues, residuals ≤ tolerance · θ₁; all others too where `whole` is possible.

        Args:
            count: with more than P wanted, P are returned.
            tolerance: relative to the largest eigenvalue.
            route: how; by default the cheapest by an estimate from the network's shapes.
            vectors: whether eigenvectors are wanted.
            whole: prefer a route that gives the whole spectrum.

        Returns:
            The eigenvalues; what has not converged keeps its values and residuals.

        Raises:
            NumericalError: a gradient or a product is NaN or infinite.
            ValueError: the route is `gram-leading`, and the norms of the columns are not known.
        """
        count = min(count, self.problem.size)
        if route is None:
            route = choose_eigensolver(self.engine, self.scores, count, whole=whole)
            few = self.few_columns(tolerance) if route in {Eigensolver.LANCZOS, Eigensolver.DUAL} else None
            rows = 0 if few is None else int(few.sum())
            if few is not None and rows <= WHOLE_ROWS and fits(self.engine, self.scores, rows):
                found = self._by_gram(count, tolerance, vectors, whole, few)
                if found.converged:
                    return found
        if route is Eigensolver.LEADING and self.columns is None:
            msg = "the route gram-leading needs the norms of the columns"
            raise ValueError(msg)
        if route is Eigensolver.GRAM or route is Eigensolver.LEADING:
            few = self.few_columns(tolerance) if route is Eigensolver.LEADING else None
            return self._by_gram(count, tolerance, vectors, whole, few)
        if route is Eigensolver.DENSE:
            return self._by_matrix(count, vectors)
        if route is Eigensolver.DUAL:
            return self._by_dual(count, tolerance, vectors)
        return self._by_lanczos(count, tolerance, vectors)

    def few_columns(self, tolerance: float) -> Tensor | None:
        """The mask (N, K) of the largest columns, at least one, that leave a trace of at most tolerance · tr F/20.

        Args:
            tolerance: that of the eigenvalues, relative to the largest.

        Returns:
            None where the norms of the columns are not known.
        """
        if self.columns is None:
            return None
        ordered, order = self.columns.reshape(-1).sort(descending=True, stable=True)
        behind = ordered.flip(0).cumsum(0).flip(0)
        few = int((behind > LEADING_SHARE * tolerance * behind[0]).sum())
        mask = torch.zeros_like(order, dtype=torch.bool)
        mask[order[: max(few, 1)]] = True
        return mask.reshape(self.columns.shape)

    def _by_gram(self, count: int, tolerance: float, vectors: bool, whole: bool, chosen: Tensor | None) -> Eigensystem:
        factor = factors.collect(self.engine, self.scores_of, chosen)
        gram = factor.gram()
        _require_finite(gram)
        bound = 0.0 if chosen is None or self.columns is None else _dropped(self.columns, chosen)
        if whole or len(gram) <= WHOLE_ROWS:
            values, inner = torch.linalg.eigh(gram)
            values, inner, products = values.flip(0), inner.flip(1), 0
            converged, note = True, ""
        else:
            pairs = self._pairs(lambda v: gram @ v, len(gram), count, tolerance, gram)
            values, inner, products, converged = pairs.values, pairs.vectors, pairs.products, pairs.converged
            note = pairs.note
        rank = self._rank(values[:count])
        residuals = _primal_residuals(gram, values[:count], inner[:, :count], rank) + bound
        found = Eigensystem(
            values[:count],
            residuals,
            Eigensolver.GRAM if chosen is None else Eigensolver.LEADING,
            converged and _small(residuals, values, tolerance),
            products,
            whole=values if whole or len(gram) <= WHOLE_ROWS else None,
            squared_norm=float(squared_norm(gram)),
            bound=bound,
            coordinates=inner[:, :count] * values[:count].clamp_min(0).sqrt(),
            examples=factor.examples,
            note=note,
        )
        if vectors:
            found = replace(found, vectors=_unit_columns(factor.combine(inner[:, :rank])))
        return self._filled(found, count, len(gram))

    def _by_matrix(self, count: int, vectors: bool) -> Eigensystem:
        matrix = factors.dense(self.engine, self.scores_of)
        _require_finite(matrix)
        values, inner = torch.linalg.eigh(matrix)
        values, inner = values.flip(0), inner.flip(1)
        some = inner[:, :count]
        residuals = (matrix @ some - some * values[:count]).norm(dim=0)
        return Eigensystem(
            values[:count],
            residuals,
            Eigensolver.DENSE,
            True,
            vectors=some if vectors else None,
            whole=values,
            squared_norm=float(squared_norm(matrix)),
        )

    def _by_lanczos(self, count: int, tolerance: float, vectors: bool) -> Eigensystem:
        size, memory = self.problem.size, memory_bytes(self.problem.device)
        doubled = 2 * EXPECTED_VECTORS * size * 8 <= memory * BASIS_SHARE
        dtype = torch.float64 if doubled else self.problem.dtype
        images = 2 * EXPECTED_VECTORS * size * dtype.itemsize <= memory * BASIS_SHARE
        pairs = self._pairs(self.product, size, count, tolerance, dtype=dtype, images=images)
        return Eigensystem(
            pairs.values,
            pairs.residuals,
            Eigensolver.LANCZOS,
            pairs.converged,
            pairs.products,
            vectors=pairs.vectors if vectors else None,
            note=pairs.note,
        )

    def _by_dual(self, count: int, tolerance: float, vectors: bool) -> Eigensystem:
        dual = ScoreFactor(self.jacobian(), self.scores_of, self.problem.dtype)
        pairs = self._pairs(dual, dual.size, count, tolerance / 2)
        found, kept = pairs.residuals.clone(), []
        for index in range(self._rank(pairs.values)):
            vector = dual.combine(pairs.vectors[:, index])
            vector /= dot(vector, vector).sqrt()
            if vectors:
                kept.append(vector.double())
            image = dual.combine(dual.project(vector)).sub_(vector, alpha=float(pairs.values[index]))
            found[index] = dot(image, image).sqrt()
            del vector, image  # before the next ones are made
        result = Eigensystem(
            pairs.values,
            found,
            Eigensolver.DUAL,
            pairs.converged and _small(found, pairs.values, tolerance),
            pairs.products,
            vectors=torch.stack(kept, 1) if kept else found.new_zeros(self.problem.size, 0) if vectors else None,
            note=pairs.note,
        )
        return self._filled(result, count, dual.size)

    def _rank(self, values: Tensor) -> int:
        """How many eigenvalues of a dual are above rounding: for the others, Aᵀ's null vectors, A u is rounding too."""
        return int((values > ROUNDING * torch.finfo(self.problem.dtype).eps * values[:1].clamp_min(0)).sum())

    def _pairs(
        self,
        product: Callable[[Tensor], Tensor],
        size: int,
        count: int,
        tolerance: float,
        gram: Tensor | None = None,
        *,
        dtype: torch.dtype = torch.float64,
        images: bool = True,
    ) -> Eigenpairs:
        return largest_eigenpairs(
            product,
            size,
            count,
            tolerance=tolerance,
            seed=self.seed,
            device=self.problem.device,
            dtype=dtype,
            trace=self.trace if gram is None else float(gram.trace()),
            squared_norm=None if gram is None else float(squared_norm(gram)),
            keep_images=images,
            advance=lambda products, residual: self.advance(*lanczos_progress(products, residual, tolerance)),
        )

    def _filled(self, found: Eigensystem, count: int, rank: int) -> Eigensystem:
        """Exact zeros behind the eigenvalues of a dual that has fewer rows than eigenvalues are wanted."""
        missing = count - rank
        if missing <= 0:
            return found
        zeros = torch.zeros(missing, dtype=torch.float64, device=found.values.device)
        note = f"the rank is at most {rank}: {missing} of the eigenvalues are zero"
        if found.bound:
            note = f"{missing} of the eigenvalues are between zero and {found.bound:.3g}"
        return replace(
            found,
            values=torch.cat([found.values, zeros]),
            residuals=torch.cat([found.residuals, zeros + found.bound]),
            note=note,
        )


def matrices(
    problem: Problem,
    *,
    engine: Engine | None = None,
    trace_true: float | None = None,
    trace_empirical: float | None = None,
    columns: Tensor | None = None,
    seed: int = 0,
) -> tuple[Matrix, Matrix]:
    """The true and the empirical Fisher of a problem, which share one engine and one Jacobian.

    Args:
        problem: the network and its examples.
        engine: one that was checked; None for a new one, checked here.
        trace_true: tr F where it is known exactly.
        trace_empirical: tr F̂ likewise.
        columns: w ‖J_nᵀ v_nk‖² of every score of F, (N, K).
        seed: of the start vectors.

    Raises:
        CoupledExamplesError: outputs depend on the other examples, on chance or on earlier calls.
        VerificationError: the engine disagrees with plain autograd.
    """
    if engine is None:
        engine = Engine(problem)
        verification.check(engine, derivatives=False)
    made: list[Jacobian] = []

    def jacobian() -> Jacobian:
        if not made:
            made.append(Jacobian(problem))
        return made[0]

    return (
        Matrix(engine, jacobian, False, trace_true, columns, seed),
        Matrix(engine, jacobian, True, trace_empirical, None, seed),
    )


def lanczos_progress(products: int, residual: float, tolerance: float) -> tuple[str, float]:
    """How far Lanczos is: in words, and as the share of the digits to gain that its worst residual has gained.

    Args:
        products: done so far.
        residual: the worst of the wanted eigenvalues, as a multiple of the tolerance; infinite while it is not known.
        tolerance: relative to the largest eigenvalue, which no residual exceeds.
    """
    done = "1 product" if products == 1 else f"{products:,} products"
    if not math.isfinite(residual):
        return done, 0.0
    missing = math.log(max(residual, 1.0)) / max(-math.log(tolerance), math.ulp(1.0))
    return f"{done}, residual {residual:,.{0 if residual >= 10 else 1}f} × tolerance", 1.0 - min(missing, 1.0)


def _require_finite(matrix: Tensor) -> None:
    if not math.isfinite(float(torch.linalg.vector_norm(matrix, math.inf))):
        msg = "a gradient is NaN or infinite: eigenvalues cannot be computed"
        raise NumericalError(msg)


def _dropped(columns: Tensor, chosen: Tensor) -> float:
    """The trace of what was left out: by Weyl no eigenvalue moves by more."""
    return float(columns[~chosen].sum()) / len(columns)


def _small(residuals: Tensor, values: Tensor, tolerance: float) -> bool:
    return bool((residuals <= tolerance * values[:1].clamp_min(0)).all())


def _primal_residuals(gram: Tensor, values: Tensor, vectors: Tensor, rank: int) -> Tensor:
    """‖AAᵀv − θv‖ of v = Au/‖Au‖ from G = AᵀA: with r = Gu − θu it is √(rᵀGr/uᵀGu); ‖r‖ behind the rank."""
    images = gram @ vectors
    rest = images - vectors * values
    lengths = (vectors * images).sum(0)
    squares = (rest * (gram @ rest)).sum(0).clamp_min(0)
    residuals: Tensor = rest.norm(dim=0)
    residuals[:rank] = (squares[:rank] / lengths[:rank]).sqrt()
    return residuals


def _unit_columns(vectors: Tensor) -> Tensor:
    """The same columns, at unit length in place."""
    lengths: Tensor = vectors.norm(dim=0)
    return vectors.div_(lengths.clamp_min(torch.finfo(torch.float64).tiny))


# The whole spectrum is taken without being asked for up to so many rows: about twenty seconds on two cores.
AUTOMATIC_ROWS = 4000


@dataclass(frozen=True)
class SpectrumRequest:
    """What is asked of a matrix: how many leading eigenvalues, to which tolerance, and how far beyond them.

    Attributes:
        count: leading eigenvalues, k.
        tolerance: of their residuals, relative to the largest.
        seed: of start vectors, probes and resampling.
        full: whether eigenvalues beyond the leading ones are looked for; without it only what is almost free beside
            these is answered.
        whole: whether all eigenvalues are wanted; None for up to AUTOMATIC_ROWS rows.
        damping: α of the effective dimension; None for 1/N.
        probes: random vectors of a density.
        steps: of Lanczos for each.
    """

    count: int
    tolerance: float = 1e-3
    seed: int = 0
    full: bool = False
    whole: bool | None = None
    damping: float | None = None
    probes: int = 5
    steps: int = 40

    def wants_all(self, rows: int) -> bool:
        """Whether all eigenvalues of a matrix of so many rows are asked for, and not only the leading ones."""
        return self.full and (rows <= AUTOMATIC_ROWS if self.whole is None else self.whole)
