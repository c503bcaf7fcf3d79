"""How two sides become a verdict, and what all identities of one network share."""

import math
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor

from fisher_cli.curvature.gradient_norms import verification
from fisher_cli.curvature.gradient_norms.engine import Engine
from fisher_cli.curvature.identities.autograd_reference import AutogradReference, Change, ReferenceSums
from fisher_cli.curvature.identities.measured_rounding import MeasuredRounding
from fisher_cli.curvature.problem.problem import Problem, TensorData
from fisher_cli.curvature.products.fisher_products import Jacobian, empirical_product, fisher_product, split
from fisher_cli.curvature.torch_backend.finite_differences import BESIDE, moved
from fisher_cli.curvature.traces.traces import EXACT_OUTPUTS, TraceResult, sweep
from fisher_cli.errors import CoupledExamplesError, VerificationError
from fisher_cli.results import Identity, Outcome

EPSILON = torch.finfo(torch.float64).eps
# Random vectors that products are compared on.
PROBES = 2
# Backward passes that plain traces may take, one example and class at a time.
PLAIN_PASSES = 400
# Examples that are evaluated alone and together.
ALONE = 64
# What is tested tensor by tensor or step by step takes a quarter of the examples for more parameters than this.
LARGE = 10**6
# Examples that rounding is measured on.
ROUNDED = 8
# What saturated predictions may lose before an identity says no more than that it is undecided.
MOST_SATURATION = 1e-3


@dataclass(frozen=True)
class IdentitySpec:
    """What an identity says, before it is tested; the words as in `Identity`."""

    name: str
    formula: str
    source: str
    sides: str
    scale: str

    def judged(
        self,
        ours: float,
        theirs: float,
        error: float,
        tolerance: float,
        why: str,
        cause: str = "",
        rounding: Callable[[], float] | None = None,
    ) -> Identity:
        """Passed, failed, or undecided where rounding, measured if the tolerance is exceeded, explains the error.

        NaN fails. `cause` is the reason given where it failed.
        """
        reason, verdict = "", Outcome.PASSED
        if not error <= tolerance:
            limit = rounding() if rounding is not None and math.isfinite(error) else 0.0
            if error <= limit:
                verdict, reason = Outcome.UNDECIDED, f"rounding hides differences of up to {limit:.1e} on this network"
                if math.isinf(limit):
                    reason = (
                        "the predictions are so certain that autograd's softmax has no digits of the other side left"
                    )
            else:
                verdict = Outcome.FAILED
                reason = cause or "the two sides differ, and no known cause explains by how much"
        return self.with_sides(verdict, ours, theirs, error, tolerance, why, reason)

    def with_sides(
        self, verdict: Outcome, ours: float, theirs: float, error: float, tolerance: float, why: str, reason: str
    ) -> Identity:
        """A verdict that was found otherwise."""
        return replace(
            self.without(verdict, reason), ours=ours, theirs=theirs, error=error, tolerance=tolerance, why=why
        )

    def without(self, verdict: Outcome, reason: str) -> Identity:
        """A verdict for which there are no two sides."""
        return Identity(
            name=self.name,
            formula=self.formula,
            source=self.source,
            sides=self.sides,
            scale=self.scale,
            verdict=verdict,
            reason=reason,
        )

    def not_applicable(self, reason: str) -> Identity:
        """Not applicable, for this reason."""
        return self.without(Outcome.NOT_APPLICABLE, reason)

    def undecided(self, reason: str) -> Identity:
        """Undecided, for this reason."""
        return self.without(Outcome.UNDECIDED, reason)


def swept(problem: Problem, estimator: str) -> TraceResult:
    """The traces as a run finds them; where its own checks refuse them, without these: the identities tell the cause.

    The checks choose the engine's ways as well: a vectorised gradient that torch has wrong is not taken.
    """
    try:
        return sweep(problem, estimator=estimator)
    except (VerificationError, CoupledExamplesError):
        return sweep(problem, estimator=estimator, verify=False)


def engine_of(problem: Problem) -> Engine:
    """The engine, with the ways chosen by the checks that a run makes."""
    engine = Engine(problem)
    with suppress(VerificationError, CoupledExamplesError):
        verification.check(engine)
    return engine


@dataclass(frozen=True)
class IdentityCase:
    """A problem and its reference in plain autograd; what several identities need is computed once.

    `everything`: whether all trainable parameters were asked for, so that a missing one is a fault.
    """

    problem: Problem
    plain: AutogradReference
    everything: bool = True
    seed: int = 0

    @classmethod
    def of(cls, problem: Problem, *, everything: bool = True, seed: int = 0) -> "IdentityCase":
        """The problem with its examples held in memory, so that both sides see the same.

        Raises:
            CoupledExamplesError: the network takes several examples only.
        """
        data = TensorData(*problem.data.batch(0, problem.examples))
        problem = replace(problem, data=data, batch_size=min(problem.batch_size, problem.examples))
        plain = AutogradReference.of(problem)
        try:
            plain.outputs(0, 1)
        except ValueError as error:  # batch norm on a single value per channel
            msg = f"the network behaves as in training mode: it cannot evaluate an example alone ({error})"
            raise CoupledExamplesError(msg) from error
        return cls(problem, plain, everything, seed)

    def first(self, count: int) -> "IdentityCase":
        """The same on the first examples only."""
        count = min(count, self.problem.examples)
        if count == self.problem.examples:
            return self
        inputs, labels = self.problem.data.batch(0, count)
        problem = replace(self.problem, data=TensorData(inputs, labels), batch_size=min(self.problem.batch_size, count))
        return IdentityCase(problem, self.plain.first(count), self.everything, self.seed)

    def some(self, most: int) -> "IdentityCase":
        """On so many of the first examples, or a quarter of these for a large network."""
        return self.first(most if self.problem.size <= LARGE else max(1, most // 4))

    @property
    def is_double(self) -> bool:
        """Whether our side is in float64."""
        return self.problem.dtype is torch.float64

    def tolerance(self, double: float) -> float:
        """A tolerance of float64, or that of float32."""
        return double if self.is_double else 2e-3

    def saturated_tolerance(self, double: float) -> float:
        """The same where the other side goes through autograd's own softmax."""
        return self.tolerance(double) + min(self.saturation, MOST_SATURATION)

    @cached_property
    def measured(self) -> MeasuredRounding:
        """What rounding may be on this network, measured on some examples."""
        return MeasuredRounding(self.plain.first(ROUNDED), torch.finfo(self.problem.dtype).eps)

    def lost(self) -> float:
        """What rounding may be of a gradient, relative."""
        return self.measured.of_gradients

    def lost_to_saturation(self) -> float:
        """The same of what goes through autograd's own softmax."""
        return math.inf if self.saturation >= 1 else self.lost() + 10 * self.saturation

    @contextmanager
    def beside(self) -> Iterator["IdentityCase"]:
        """The same at parameters next to these while the context is open; both sides' networks are moved."""
        change = {name: BESIDE * part for name, part in self.probes[0].items()}
        ours = {name: part.to(self.problem.dtype) for name, part in change.items()}
        with ExitStack() as stack:
            stack.enter_context(moved(self.problem.parameters, ours))
            if self.plain.model is not self.problem.model:
                stack.enter_context(moved(self.plain.parameters, change))
            yield IdentityCase(self.problem, self.plain, self.everything, self.seed)

    def rounding(self, what: str) -> str:
        """Why a tolerance is what it is."""
        return f"rounding of float64 {what}" if self.is_double else f"rounding of float32 {what}"

    @cached_property
    def saturation(self) -> float:
        """What autograd's own softmax loses where predictions are certain: 1 − p is then a difference of ones."""
        outputs = self.plain.outputs().detach()
        if self.plain.kind == "gaussian":
            return 0.0
        p = torch.softmax(outputs, 1) if self.plain.kind == "softmax" else torch.sigmoid(outputs)
        spread = 1 - p.square().sum(1) if self.plain.kind == "softmax" else (p * (1 - p)).sum(1)
        return 100 * EPSILON / max(float(spread.mean()), EPSILON)

    @cached_property
    def noise(self) -> float:
        """Rounding of the outputs, measured: examples evaluated alone and together."""
        outputs = self.plain.outputs().detach()
        alone = self.plain.outputs(0, 1).detach()
        measured = max(float((alone - outputs[:1]).abs().max()), 4 * EPSILON * float(outputs.abs().max()))
        return max(measured, self.measured.change_of_outputs) if self.measured.is_coarse else measured

    @cached_property
    def probes(self) -> list[dict[str, Tensor]]:
        """Random vectors whose part in each tensor is as long as the tensor, or as √size/100 where that is more."""
        generator = torch.Generator().manual_seed(self.seed)
        return [
            {name: self._random(parameter, generator) for name, parameter in self.plain.parameters.items()}
            for _ in range(PROBES)
        ]

    def _random(self, parameter: Tensor, generator: torch.Generator) -> Tensor:
        drawn: Tensor = torch.randn(parameter.shape, generator=generator, dtype=torch.float64).to(parameter.device)
        length = max(float(parameter.detach().norm()), parameter.numel() ** 0.5 / 100)
        drawn *= length / max(float(drawn.norm()), EPSILON)
        return drawn

    @cached_property
    def few(self) -> "IdentityCase":
        """The examples that plain traces are taken of."""
        return self.first(max(1, PLAIN_PASSES // (self.problem.outputs + 1)))

    @cached_property
    def swept(self) -> TraceResult:
        """Our traces, exact."""
        return swept(self.problem, "exact")

    @cached_property
    def summed(self) -> TraceResult:
        """Our traces of all examples by the estimator that suits the number of classes."""
        return self.swept if self.problem.outputs <= EXACT_OUTPUTS else swept(self.problem, "auto")

    @cached_property
    def sums(self) -> ReferenceSums:
        """Plain traces."""
        return self.plain.sums(self.probes)

    @cached_property
    def jacobian(self) -> Jacobian:
        """Ours, shared by all products."""
        return Jacobian(self.problem)

    @cached_property
    def products(self) -> list[dict[str, Tensor]]:
        """F v of every probe, ours."""
        return [self.multiplied(probe) for probe in self.probes]

    def multiplied(self, vector: Change, *, empirical: bool = False) -> dict[str, Tensor]:
        """F v or F̂ v, ours, by tensor."""
        make = empirical_product if empirical else fisher_product
        found = make(self.problem, self.jacobian)(self.flat(vector))
        return {name: part.double() for name, part in self.shaped(found).items()}

    def quadratic(self, vector: Change) -> float:
        """vᵀF v = mean (J v)ᵀΛ(J v), ours."""
        tangents, found = self.shaped(self.flat(vector)), []
        for piece in self.jacobian.pieces():
            pushed = self.jacobian.push(piece, tangents)
            found.append(float((self.problem.likelihood.covariance_product(piece.outputs, pushed) * pushed).sum()))
        return math.fsum(found) / self.problem.examples

    def flat(self, change: Change) -> Tensor:
        """A vector by tensor as a flat one, zeros where it says nothing."""
        return torch.cat(
            [
                change[name].reshape(-1).double()
                if name in change
                else torch.zeros(parameter.numel(), dtype=torch.float64, device=self.problem.device)
                for name, parameter in self.problem.parameters.items()
            ]
        )

    def shaped(self, vector: Tensor) -> dict[str, Tensor]:
        """A flat vector by tensor."""
        return split(self.problem, vector)

    def zeros(self) -> dict[str, Tensor]:
        """The zero vector by tensor."""
        return {name: torch.zeros_like(parameter) for name, parameter in self.plain.parameters.items()}
