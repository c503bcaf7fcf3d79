"""Batch norms whose running statistics are not those of the data: found, named, and recomputed where asked.

In evaluation a batch norm divides by what it remembers of the batches of training. In the first steps that is mostly
what it was initialised with, and the network of the checkpoint is not yet the one that was being trained.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from fisher_cli.curvature.problem.problem import Problem
from fisher_cli.curvature.problem.process_group import ProcessGroup
from fisher_cli.curvature.torch_backend.backend_flags import reproducible_kernels
from fisher_cli.errors import ArchitectureError
from fisher_cli.results import UNSETTLED_NOTE

BatchNorm = nn.modules.batchnorm._BatchNorm

# A layer is named when its normalised inputs are further than this from mean 0 and variance 1, in nats per channel: the
# divergence of a Gaussian with twice the variance is 0.15, that of one whose mean is off by half a deviation 0.125.
# Where the initial values are still seen half of it is enough.
UNSETTLED = 0.1
# Mean and variance of N values alone make it 1/N on average; so much more is allowed.
CHANCE = 3.0
# What the initial statistics weigh after n batches, (1 − momentum)ⁿ; above this they are still seen.
INITIAL_WEIGHT = 0.01


@dataclass
class _ChannelMoments:
    """Count, mean and Σ (x − mean)² of a layer's inputs by channel, in float64.

    Source: Chan, Golub and LeVeque 1983 (doi:10.1080/00031305.1983.10483115).
    """

    calls: int = 0
    count: int = 0
    mean: Tensor = field(default_factory=lambda: torch.zeros(()))
    squares: Tensor = field(default_factory=lambda: torch.zeros(()))

    def add(self, inputs: Tensor) -> None:
        """Take in inputs (B, channels, …)."""
        rows = inputs.detach().double().transpose(0, 1).flatten(1)
        mean = rows.mean(1)
        self._merge(rows.shape[1], mean, (rows - mean.unsqueeze(1)).square().sum(1))
        self.calls += 1

    def _merge(self, count: int, mean: Tensor, squares: Tensor) -> None:
        shift, total = mean - self.mean.to(mean), self.count + count
        self.squares = self.squares.to(mean) + squares + shift.square() * (self.count * count / total)
        self.mean = self.mean.to(mean) + shift * (count / total)
        self.count = total

    def over_ranks(self, process_group: ProcessGroup) -> "_ChannelMoments":
        """Those of all ranks, merged in their order; a rank without examples has none."""
        if process_group.size == 1:
            return self
        mine = []
        if self.count:
            mine = [torch.cat([self.mean.new_tensor([self.count]), self.mean, self.squares]).unsqueeze(0)]
        merged = _ChannelMoments(calls=self.calls)
        for row in process_group.gather(mine):
            mean, squares = row[1:].chunk(2)
            merged._merge(int(row[0]), mean, squares)
        return merged

    @property
    def variance(self) -> Tensor:
        """Σ (x − mean)²/n, as a batch norm in training divides by it."""
        return self.squares / self.count


@dataclass(frozen=True)
class StatisticsDiscrepancy:
    """How far the running statistics (μ, σ²) of one batch norm are from the data's (m, s²).

    The layer's ε is added to both variances.

    Attributes:
        layer: its name.
        nats: mean over channels of KL(N(m, s²) ‖ N(μ, σ²)) = ½(s²/σ² + (m − μ)²/σ² − 1 − ln s²/σ²).
        shift: root mean square over channels of (m − μ)/σ.
        scale: geometric mean over channels of s/σ.
        batches: n, how many the layer has seen in training; None where that is not known.
        initial_weight: (1 − momentum)ⁿ, the share that its initial values still have; None where n is not known.
    """

    layer: str
    nats: float
    shift: float
    scale: float
    batches: int | None
    initial_weight: float | None


def _statistics(module: BatchNorm) -> tuple[Tensor, Tensor]:
    assert module.running_mean is not None  # pose refuses a batch norm without
    assert module.running_var is not None
    return module.running_mean, module.running_var


def _batch_norms(model: nn.Module) -> dict[str, BatchNorm]:
    return {name: module for name, module in model.named_modules() if isinstance(module, BatchNorm)}


@contextmanager
def _watched(layers: Mapping[str, BatchNorm], see: Callable[[str, Tensor], None]) -> Iterator[None]:
    """Show the inputs of these layers to a function, in the order in which the network uses them."""

    def hook(name: str) -> Callable[[nn.Module, tuple[Tensor, ...]], None]:
        return lambda _, inputs: see(name, inputs[0])

    handles = [module.register_forward_pre_hook(hook(name)) for name, module in layers.items()]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


class _Reached(Exception):
    """The layer that is looked at has been reached."""


@torch.inference_mode(mode=False)
def statistics_discrepancies(
    problem: Problem, evaluate_all: Callable[[], None] | None = None
) -> tuple[StatisticsDiscrepancy, ...]:
    """The batch norms in order of use, each with how far its running statistics are from those of the examples.

    One forward pass in evaluation, nothing without batch norms; a layer sees its inputs as the layers below make them
    from their running statistics. Collective: every rank gives its share of the examples.

    Args:
        problem: the network and its examples.
        evaluate_all: makes a forward pass of every example, once, for a purpose of its own that can serve here too; it
            is called without batch norms as well.

    Returns:
        One per batch norm that the network uses, over the examples of all ranks.
    """
    layers, moments = _batch_norms(problem.model), dict[str, _ChannelMoments]()
    if not layers:
        if evaluate_all is not None:
            evaluate_all()
        return ()
    with (
        _watched(layers, lambda name, inputs: moments.setdefault(name, _ChannelMoments()).add(inputs)),
        reproducible_kernels(),
        torch.no_grad(),
    ):
        if evaluate_all is not None:
            evaluate_all()
        else:
            for batch in problem.batches(problem.product_batch_size):
                problem.forward(batch.inputs)
    used = max(problem.process_group.exchange(list(moments)), key=len)
    whole = {name: moments.get(name, _ChannelMoments()).over_ranks(problem.process_group) for name in used}
    return tuple(_discrepancy(name, layers[name], found) for name, found in whole.items())


def _discrepancy(name: str, module: BatchNorm, found: _ChannelMoments) -> StatisticsDiscrepancy:
    mean, variance = (each.double() for each in _statistics(module))
    variance = variance + module.eps
    ratio = (found.variance + module.eps) / variance
    shift = (found.mean - mean).square() / variance
    nats = 0.5 * (ratio + shift - 1 - ratio.log())
    batches = None if module.num_batches_tracked is None else int(module.num_batches_tracked)
    has_initial = bool((mean == 0).all()) and bool((_statistics(module)[1] == 1).all())
    if batches == 0 and not has_initial:
        batches = None  # a checkpoint without the counter
    weight = None
    if batches is not None:
        momentum = module.momentum
        weight = float((1 - momentum) ** batches) if momentum is not None else float(batches == 0)
    return StatisticsDiscrepancy(
        layer=name,
        nats=float(nats.mean()),
        shift=float(shift.mean().sqrt()),
        scale=float(ratio.log().mean().div(2).exp()),
        batches=batches,
        initial_weight=weight,
    )


def remark(found: tuple[StatisticsDiscrepancy, ...], examples: int) -> str:
    """What to say about batch norms whose statistics are not those of the N examples, with the worst; "" if all are.

    Args:
        found: what `statistics_discrepancies` gave.
        examples: N. Mean and variance of few examples differ by chance, which is allowed for.
    """
    off = [each for each in found if not each.nats <= (0.5 if _is_new(each) else 1) * UNSETTLED + CHANCE / examples]
    if not off:
        return ""
    worst = max([each for each in off if _is_new(each)] or off, key=lambda each: each.nats)
    how = (
        f"{len(off)} of {len(found)} layers, most in {worst.layer}, whose inputs have {worst.scale:.2g} times the "
        f"running standard deviation and a mean {worst.shift:.2g} of it away"
    )
    if _is_new(worst):
        seen = "no batch" if not worst.batches else "1 batch" if worst.batches == 1 else f"{worst.batches} batches"
        return (
            f"{UNSETTLED_NOTE}: {how}; after {seen} the initial values still weigh "
            f"{worst.initial_weight:.0%}; --recalibrate-bn recomputes them on the data"
        )
    return (
        f"batch norms see other data than in training: {how}; small differences are usual, large ones come from "
        "another normalisation (check --normalize) or from weights that move fast; --recalibrate-bn recomputes the "
        "statistics on the data"
    )


def _is_new(found: StatisticsDiscrepancy) -> bool:
    """Whether the values that the layer was initialised with are still seen."""
    return (found.initial_weight or 0.0) > INITIAL_WEIGHT


@torch.inference_mode(mode=False)
def recalibrate(problem: Problem) -> tuple[str, ...]:
    """Set the running statistics of every batch norm to those of all examples, layer by layer; names in order of use.

    As one forward pass in training mode of all examples as one batch with `momentum=None` would leave them, whatever
    the batch size: each layer sees what the layers before it make of the examples with the statistics of all of them.
    Mean and variance in float64, running variance with n − 1. Dropout and all else stay in evaluation. One forward pass
    up to every layer; no parameter and no other buffer is touched but the counter of batches, which becomes 1.

    Args:
        problem: the network, changed in place, and its examples; the new statistics become a part of its `state`.

    Raises:
        ArchitectureError: a batch norm is used more than once in a forward pass, and has no statistics of its own.
    """
    layers = _batch_norms(problem.model)
    order = _order_of_use(problem, layers)
    moments: dict[str, _ChannelMoments] = {}
    for name in order:
        moments[name] = _moments_of(problem, name, layers[name])
        mean, variance = _statistics(layers[name])
        mean.copy_(moments[name].mean)
        variance.copy_(moments[name].variance)  # what training normalises by, as long as layers after it look
        problem.state.renew()
    for name, found in moments.items():
        _statistics(layers[name])[1].copy_(found.squares / max(1, found.count - 1))
        counter = layers[name].num_batches_tracked
        if counter is not None:
            counter.fill_(1)
    problem.state.renew()
    return tuple(order)


def recalibration(layers: tuple[str, ...], examples: int) -> str:
    """What to say about the layers that were recalibrated on N examples."""
    if not layers:
        return "--recalibrate-bn: the network has no batch norm"
    count = "1 layer" if len(layers) == 1 else f"{len(layers)} layers"
    return f"batch-norm statistics of {count} were recomputed on the {examples} examples, as of one batch"


def _order_of_use(problem: Problem, layers: Mapping[str, BatchNorm]) -> list[str]:
    """The names of the batch norms that a forward pass uses, in that order.

    Raises:
        ArchitectureError: it uses one more than once.
    """
    order: list[str] = []
    if not layers:
        return order
    with _watched(layers, lambda name, _: order.append(name)), reproducible_kernels(), torch.no_grad():
        problem.forward(problem.slice(0, 1).inputs)
    twice = next((name for name in order if order.count(name) > 1), None)
    if twice is not None:
        msg = (
            f"--recalibrate-bn: the batch norm {twice} is used {order.count(twice)} times in a forward pass, and one "
            "pair of statistics cannot be those of all uses: leave the option out"
        )
        raise ArchitectureError(msg)
    return order


def _moments_of(problem: Problem, name: str, layer: BatchNorm) -> _ChannelMoments:
    """The moments of one layer's inputs over all examples, going forward no further than there."""
    found = _ChannelMoments()

    def see(_: str, inputs: Tensor) -> None:
        found.add(inputs)
        raise _Reached

    with _watched({name: layer}, see), reproducible_kernels(), torch.no_grad():
        for batch in problem.batches(problem.product_batch_size):
            try:
                problem.forward(batch.inputs)
            except _Reached:
                continue
    return found.over_ranks(problem.process_group)
