"""All identities of one network, in order, each with its cost."""

import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace

import torch

from fisher_cli.curvature.identities import (
    derivatives,
    diagnosis,
    expansion,
    heads,
    hessians,
    output_scores,
    spectra,
    symmetries,
    traces,
)
from fisher_cli.curvature.identities.identity_specs import IdentityCase, IdentitySpec
from fisher_cli.curvature.problem.problem import Problem
from fisher_cli.curvature.torch_backend.gradient_hooks import without_gradient_hooks
from fisher_cli.curvature.torch_backend.out_of_memory import raise_if_out_of_memory
from fisher_cli.errors import CoupledExamplesError, NumericalError, VerificationError
from fisher_cli.results import ExpansionStep, Identity, Outcome, Verification

Advance = Callable[[str, float], None]


@dataclass(frozen=True)
class _Check:
    """What is stated, and the function that finds a verdict for each statement."""

    statements: tuple[IdentitySpec, ...]
    judge: Callable[[IdentityCase], Sequence[Identity]]

    @classmethod
    def of(cls, statement: IdentitySpec, judge: Callable[[IdentityCase], Identity]) -> "_Check":
        """Of one statement."""
        return cls((statement,), lambda subject: [judge(subject)])

    def identities(self, subject: IdentityCase) -> Sequence[Identity]:
        """The verdicts; where the numbers are refused by the checks that every run makes, each fails with the cause.

        Where torch has no way back through the network that a side needs, they are undecided with torch's reason.
        """
        try:
            return self.judge(subject)
        except (VerificationError, CoupledExamplesError, NumericalError) as refusal:
            return [_refused(statement, refusal, subject) for statement in self.statements]
        except (RuntimeError, NotImplementedError) as error:
            raise_if_out_of_memory(error)
            reason = f"torch cannot compute one of the sides: {str(error).strip().partition(chr(10))[0]}"
            return [statement.undecided(reason) for statement in self.statements]


def _unless_at_a_kink(subject: IdentityCase, check: _Check, found: Sequence[Identity]) -> Sequence[Identity]:
    """The verdicts; undecided in place of failed where the identity holds at parameters next to these.

    Autograd takes any of the slopes at a kink, and not the same one on every way. What is wrong is wrong beside it too.
    """
    if not any(each.verdict is Outcome.FAILED for each in found):
        return found
    with subject.beside() as there:
        others = check.identities(there)
    reason = "it holds at parameters next to these, where no unit of the network is exactly at a kink (zero)"
    return [
        replace(each, verdict=Outcome.UNDECIDED, reason=reason)
        if each.verdict is Outcome.FAILED and other.verdict is Outcome.PASSED
        else each
        for each, other in zip(found, others, strict=True)
    ]


def _refused(statement: IdentitySpec, error: Exception, subject: IdentityCase) -> Identity:
    said = str(error)
    cause = said if isinstance(error, CoupledExamplesError) else diagnosis.training_mode(subject) or said
    sides = error.sides if isinstance(error, VerificationError) else None
    ours, theirs = sides or (math.nan, math.nan)
    apart = abs(ours / theirs - 1) if theirs else math.nan
    if apart < diagnosis.SINGLE:
        cause = f"{diagnosis.FLOAT32} (sums: {ours:.12g} and {theirs:.12g})"
    return statement.judged(ours, theirs, apart, 0.0, "refused by the checks that every run makes", cause)


@torch.inference_mode(mode=False)
def verify(problem: Problem, *, everything: bool = True, seed: int = 0, advance: Advance | None = None) -> Verification:
    """Every identity that applies to the network, on its examples: both sides, relative error, tolerance, verdict.

    Hooks that change gradients are off meanwhile: they are no part of q(y | x, θ). What the checks of every run refuse
    is a failed identity here, and no error.

    Args:
        problem: the network and its examples, some tens of them: the other side takes a backward pass per example and
            class, for as many examples as 400 of them allow.
        everything: whether all trainable parameters were selected, so that one that is missing is a fault.
        seed: of the random vectors.
        advance: told what was checked, and the fraction that is done.

    Returns:
        The identities in order, each with its seconds, and the steps of the KL expansion.

    Raises:
        CoupledExamplesError: the network cannot evaluate an example alone.
    """
    subject = IdentityCase.of(problem, everything=everything, seed=seed)
    with ExitStack() as stack:
        for model in {id(each): each for each in (problem.model, subject.plain.model)}.values():
            stack.enter_context(without_gradient_hooks(model))
        shown: list[ExpansionStep] = []

        def expanded(subject: IdentityCase) -> Identity:
            identity, rows = expansion.expansion(subject)
            shown[:] = shown or rows
            return identity

        checks = (
            _Check.of(output_scores.CHANCE, output_scores.chance),
            _Check.of(output_scores.MODE, output_scores.evaluation_mode),
            _Check.of(derivatives.STATEMENT, derivatives.derivatives),
            _Check.of(traces.COVERAGE, traces.coverage),
            _Check.of(output_scores.MEAN_SCORE, output_scores.mean_score),
            _Check.of(output_scores.ROOT, output_scores.score_covariance),
            _Check.of(traces.TRUE, traces.true_trace),
            _Check.of(traces.EMPIRICAL, traces.empirical_trace),
            _Check.of(traces.GRADIENT, traces.mean_gradient),
            _Check.of(traces.SUMS, traces.sums),
            _Check.of(traces.LABELS, traces.other_labels),
            _Check.of(traces.ORDER, traces.batches_and_order),
            _Check.of(hessians.LEMMA, hessians.expected_hessian),
            _Check.of(hessians.DIVERGENCE, hessians.hessian_of_divergence),
            _Check.of(hessians.EMPIRICAL, hessians.empirical_product),
            _Check.of(hessians.BLOCKS, hessians.blocks),
            _Check.of(expansion.STATEMENT, expanded),
            _Check((heads.TRUE, heads.EMPIRICAL), heads.last_layer),
            _Check.of(heads.ZERO, heads.zero_head),
            _Check.of(heads.TEMPERED, heads.tempered),
            _Check((spectra.GRAM, spectra.LANCZOS, spectra.GRAM_TRACE), spectra.duality),
            _Check.of(spectra.MOMENTS, spectra.moments),
            _Check.of(spectra.CLASSES, spectra.by_classes),
            _Check.of(symmetries.SHIFT.statement, symmetries.softmax_shift),
            _Check(symmetries.HIDDEN, symmetries.hidden_symmetries),
            _Check.of(symmetries.RADIAL, symmetries.radial),
        )
        found = list(_timed(subject, checks, advance))
    return Verification(identities=tuple(found), expansion=tuple(shown))


def _timed(subject: IdentityCase, checks: Sequence[_Check], advance: Advance | None) -> Iterator[Identity]:
    """The checks' identities, the seconds of a check shared among its own.

    Yields:
        Identities.
    """
    for number, check in enumerate(checks):
        start = time.perf_counter()
        identities = _unless_at_a_kink(subject, check, check.identities(subject))
        seconds = (time.perf_counter() - start) / len(identities)
        for identity in identities:
            yield replace(identity, seconds=seconds)
        if advance is not None:
            advance(identities[-1].name, (number + 1) / len(checks))
