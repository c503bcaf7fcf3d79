"""The traces of the true and the empirical Fisher, per parameter and per example, in one sweep over the data."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from fisher_cli.curvature.gradient_norms import verification
from fisher_cli.curvature.gradient_norms.engine import Engine, Pass
from fisher_cli.curvature.moments import Moments, as_floats, ratio_of_means
from fisher_cli.curvature.problem import Batch, Problem
from fisher_cli.curvature.scores import exact
from fisher_cli.errors import NumericalError
from fisher_cli.results import LayerTrace, Predictions, Trace

Advance = Callable[[float], None]


@dataclass(frozen=True)
class Sweep:
    """What one sweep over the examples gives: predictions, both traces, and the mean gradient ḡ (P,) in float64."""

    predictions: Predictions
    trace: Trace
    mean_gradient: Tensor


@dataclass
class _Totals:
    """Running sums of a sweep."""

    loss: Moments = field(default_factory=Moments)
    accuracy: Moments = field(default_factory=Moments)
    entropy: Moments = field(default_factory=Moments)
    true_layers: dict[str, Moments] = field(default_factory=dict)
    empirical_layers: dict[str, Moments] = field(default_factory=dict)
    true_terms: list[Tensor] = field(default_factory=list)
    empirical_terms: list[Tensor] = field(default_factory=list)
    gradient: Tensor | None = None


@torch.inference_mode(mode=False)
def sweep(problem: Problem, *, verify: bool = True, advance: Advance | None = None) -> Sweep:
    """tr F = mean_n Σ_k ‖J_nᵀ s_nk‖² and tr F̂ = mean_n ‖J_nᵀ (p_n − e_y)‖², by parameter and by example.

    Natural log, mean over examples, float64 sums. One forward pass, one backward pass per score direction
    (C for softmax, 1 for two classes) without weight gradients, and one ordinary backward pass for ḡ.

    Args:
        problem: the network and its examples.
        verify: compare a few examples with plain autograd, alone and in their batch.
        advance: told the fraction of examples done after each batch.

    Raises:
        NumericalError: outputs, gradients or traces are NaN or infinite.
        VerificationError: the engine disagrees with plain autograd.
        CoupledExamplesError: an example's outputs depend on the others, on chance or on earlier calls.
    """
    engine = Engine(problem)
    if verify:
        verification.check(engine)
    totals = _Totals()
    for batch in problem.batches():
        evaluated = engine.evaluate(batch)
        outputs = evaluated.outputs.detach()
        if not bool(outputs.isfinite().all()):
            last = batch.start + len(batch) - 1
            msg = f"the network's outputs are NaN or infinite among examples {batch.start} to {last}"
            raise NumericalError(msg)
        _add_predictions(totals, problem, outputs, batch)
        _add_traces(totals, problem, evaluated, outputs, batch)
        _add_gradient(totals, problem, evaluated, outputs, batch)
        if advance is not None:
            advance((batch.start + len(batch)) / problem.examples)
    return _summarise(problem, engine.ledger(), totals)


def _add_predictions(totals: _Totals, problem: Problem, outputs: Tensor, batch: Batch) -> None:
    likelihood = problem.likelihood
    totals.loss.add(-likelihood.log_likelihood(outputs, batch.labels))
    totals.entropy.add(likelihood.entropy(outputs))
    correct = likelihood.correct(outputs, batch.labels)
    if correct is not None:
        totals.accuracy.add(correct)


def _add_traces(totals: _Totals, problem: Problem, evaluated: Pass, outputs: Tensor, batch: Batch) -> None:
    scores = exact(problem.likelihood, outputs, batch.labels)
    norms = evaluated.norms(scores.directions)
    true_terms = torch.zeros(len(batch), dtype=torch.float64, device=outputs.device)
    empirical_terms = torch.zeros_like(true_terms)
    for name, values in norms.items():
        true, empirical = (values * scores.true).sum(0), (values * scores.observed).sum(0)
        totals.true_layers.setdefault(name, Moments()).add(true)
        totals.empirical_layers.setdefault(name, Moments()).add(empirical)
        true_terms += true
        empirical_terms += empirical
    totals.true_terms.append(true_terms)
    totals.empirical_terms.append(empirical_terms)


def _add_gradient(totals: _Totals, problem: Problem, evaluated: Pass, outputs: Tensor, batch: Batch) -> None:
    score = problem.likelihood.observed_score(outputs, batch.labels)
    flat = problem.pull_back(evaluated.outputs, score)
    totals.gradient = flat if totals.gradient is None else totals.gradient + flat


def _summarise(problem: Problem, ledger: Mapping[str, str], totals: _Totals) -> Sweep:
    true_terms, empirical_terms = torch.cat(totals.true_terms), torch.cat(totals.empirical_terms)
    assert totals.gradient is not None
    if not bool(true_terms.isfinite().all() and empirical_terms.isfinite().all()):
        msg = "a gradient is NaN or infinite: the traces cannot be computed"
        raise NumericalError(msg)
    true, empirical = Moments(), Moments()
    true.add(true_terms)
    empirical.add(empirical_terms)
    layers = tuple(
        LayerTrace(
            name,
            problem.parameters[name].numel(),
            ledger[name],
            totals.true_layers[name].estimate(),
            totals.empirical_layers[name].estimate(),
        )
        for name in problem.parameters
    )
    trace = Trace(
        estimator="exact",
        true=true.estimate(),
        empirical=empirical.estimate(),
        ratio=ratio_of_means(empirical_terms, true_terms),
        layers=layers,
        per_example_true=as_floats(true_terms),
        per_example_empirical=as_floats(empirical_terms),
    )
    accuracy = totals.accuracy.estimate() if totals.accuracy.count else None
    predictions = Predictions(totals.loss.estimate(), accuracy, totals.entropy.estimate())
    return Sweep(predictions, trace, totals.gradient / problem.examples)
