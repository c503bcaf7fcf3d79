"""All identities of one network, in order, each with its cost."""

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

import torch

from fisher_cli.curvature.identities import expansion, heads, hessians, scores, spectra, symmetries, traces
from fisher_cli.curvature.identities.statements import Subject
from fisher_cli.curvature.problem import Problem
from fisher_cli.results import ExpansionStep, Identity, Verification

Advance = Callable[[str, float], None]
_Group = Callable[[], Sequence[Identity]]


@torch.inference_mode(mode=False)
def verify(problem: Problem, *, everything: bool = True, seed: int = 0, advance: Advance | None = None) -> Verification:
    """Every identity that applies to the network, on its examples: both sides, relative error, tolerance, verdict.

    Args:
        problem: the network and its examples, some tens of them: the other side takes a backward pass per example
            and class, for as many examples as 400 of them allow.
        everything: whether all trainable parameters were selected, so that one that is missing is a fault.
        seed: of the random vectors.
        advance: told what was checked, and the fraction that is done.
    """
    subject = Subject.of(problem, everything=everything, seed=seed)
    head = heads.find_head(subject)
    shown: list[ExpansionStep] = []

    def expanded() -> Sequence[Identity]:
        identity, rows = expansion.expansion(subject)
        shown.extend(rows)
        return [identity]

    groups: list[_Group] = [
        *_single(
            subject,
            scores.evaluation_mode,
            traces.coverage,
            scores.mean_score,
            scores.score_covariance,
            traces.true_trace,
            traces.empirical_trace,
            traces.mean_gradient,
            traces.sums,
            traces.other_labels,
            traces.batches_and_order,
            hessians.expected_hessian,
            hessians.hessian_of_divergence,
            hessians.empirical_product,
            hessians.blocks,
        ),
        expanded,
        lambda: heads.last_layer(subject, head),
        lambda: [heads.zero_head(subject, head), heads.tempered(subject, head)],
        lambda: spectra.duality(subject),
        *_single(subject, spectra.moments, spectra.by_classes),
        lambda: [symmetries.softmax_shift(subject, head), *symmetries.hidden_symmetries(subject)],
        lambda: [symmetries.radial(subject, head)],
    ]
    found = list(_timed(groups, advance))
    return Verification(identities=tuple(found), expansion=tuple(shown))


def _single(subject: Subject, *checks: Callable[[Subject], Identity]) -> list[_Group]:
    return [lambda check=check: [check(subject)] for check in checks]  # type: ignore[misc]


def _timed(groups: Sequence[_Group], advance: Advance | None) -> Iterator[Identity]:
    """The groups' identities, the seconds of a group shared among its own.

    Yields:
        Identities.
    """
    for number, group in enumerate(groups):
        start = time.perf_counter()
        identities = group()
        seconds = (time.perf_counter() - start) / max(len(identities), 1)
        for identity in identities:
            yield replace(identity, seconds=seconds)
        if advance is not None:
            advance(identities[-1].name if identities else "", (number + 1) / len(groups))
