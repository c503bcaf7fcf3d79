"""The factor A of a Fisher, A Aᵀ = F with a column J_nᵀ s_nk/√N per example and score, held parameter by parameter.

The true and the empirical Fisher differ in their scores only. A column of a linear layer is an outer product of
input and cotangent and is kept as these two; other columns are kept as they are. Each of several ranks keeps the
columns of its examples. Their inner products, a sum over the parameters, are shared out by parameter: one rank gathers
a parameter's columns, multiplies them and lets them go.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from fisher_cli.curvature.gradient_norms.engine import Engine
from fisher_cli.curvature.gradient_norms.grad_factors import Contribution, OuterProducts
from fisher_cli.curvature.gradient_norms.score_gradients import (
    ExplicitColumns,
    OuterColumns,
    explicit,
    is_outer,
    mirror,
)
from fisher_cli.curvature.problem.output_scores import ScoresOf
from fisher_cli.curvature.problem.problem import Batch, Problem
from fisher_cli.curvature.torch_backend.malloc import large_blocks_given_back


@dataclass
class Factor:
    """The columns √N A of the chosen examples and scores, M of all ranks, in order of the examples.

    Attributes:
        problem: the network and its examples.
        amplitudes: √w (M,) in float64: columns are held for unit directions, so that none underflows.
        examples: whose each column is, (M,).
        mine: the columns of this rank.
        parts: these columns, by parameter.
    """

    problem: Problem
    amplitudes: Tensor
    examples: Tensor
    mine: slice
    parts: dict[str, OuterColumns | ExplicitColumns]

    def gram(self) -> Tensor:
        """AᵀA, (M, M) in float64: it has the non-zero eigenvalues of A Aᵀ."""
        process_group = self.problem.process_group
        total = torch.zeros(len(self.examples), len(self.examples), dtype=torch.float64, device=self.amplitudes.device)
        served = self._served()
        biases = Counter(served.values())
        multiplied = [name for name in self.parts if name not in served]
        multiplied.sort(key=lambda name: isinstance(self.parts[name], OuterColumns))
        owners = shared_out([self.parts[name].work for name in multiplied], process_group.size)
        for name, owner in zip(multiplied, owners, strict=True):
            part = self.parts[name].gathered(process_group, owner)
            if part is not None:
                part.add_inner_products(total, biases[name])
        total = process_group.sum(total)
        mirror(total)
        total *= self.amplitudes.unsqueeze(1)
        total *= self.amplitudes / self.problem.examples
        return total

    def _served(self) -> dict[str, str]:
        """Biases, by the layer whose products count them in: on every rank with examples its columns are the same."""
        outer = {name: part for name, part in self.parts.items() if isinstance(part, OuterColumns)}
        found = {
            name: next((other for other, layer in outer.items() if _is_bias(part, layer)), None)
            for name, part in self.parts.items()
            if isinstance(part, ExplicitColumns)
        }
        said = [
            each
            for each in self.problem.process_group.exchange(found if self._has_columns else None)
            if each is not None
        ]
        return {name: layer for name, layer in said[0].items() if layer and all(each[name] == layer for each in said)}

    @property
    def _has_columns(self) -> bool:
        return bool(self.mine.stop > self.mine.start)

    def combine(self, coefficients: Tensor) -> Tensor:
        """A c for coefficients (M, k), (P, k) in float64, in the order of the problem's parameters."""
        weights = coefficients * (self.amplitudes / self.problem.examples**0.5).unsqueeze(1)
        scale = weights.abs().amax(0).clamp_min(torch.finfo(torch.float64).tiny)
        weights = weights[self.mine]
        with large_blocks_given_back(large=self.problem.is_large):
            combined, start = weights.new_zeros(self.problem.size, weights.shape[1]), 0
            for name, parameter in self.problem.parameters.items():
                if name in self.parts:
                    combined[start : start + parameter.numel()] = self.parts[name].combined(weights / scale)
                start += parameter.numel()
            return self.problem.process_group.sum(combined).mul_(scale)


def shared_out(work: Sequence[int], ranks: int) -> list[int]:
    """Which of so many ranks does each piece of work: the largest first, each to who has the least so far."""
    owners, loads = [0] * len(work), [0] * ranks
    for index in sorted(range(len(work)), key=lambda index: -work[index]):
        owners[index] = loads.index(min(loads))
        loads[owners[index]] += work[index]
    return owners


def _is_bias(one: ExplicitColumns, other: OuterColumns) -> bool:
    return one.columns.shape == other.cotangents.shape and torch.equal(one.columns, other.cotangents)


class _Collector:
    """Gathers the parts of a factor batch by batch: what a network does may depend on the batch.

    Every part is made once, in full length, and filled: what is held is the factor, and a batch's columns of one
    parameter beside it.
    """

    def __init__(self, problem: Problem, examples: int, columns: int) -> None:
        self._problem = problem
        self._shapes = {name: parameter.shape for name, parameter in problem.parameters.items()}
        self._parts: dict[str, OuterColumns | ExplicitColumns] = {}
        self._examples, self._columns = examples, columns
        self._seen = self._filled = 0  # examples and columns so far

    def add(self, found: Iterable[tuple[str, list[Contribution] | Tensor]], chosen: Tensor) -> None:
        """Keep the chosen (B, K) columns of all parameters in one batch."""
        batch, directions = chosen.shape
        examples, which = chosen.nonzero(as_tuple=True)
        order, some = which * batch + examples, slice(self._filled, self._filled + len(examples))
        missing = set(self._shapes)
        for name, parts in found:
            missing.remove(name)
            if not isinstance(parts, Tensor) and is_outer(parts):
                outer = parts[0]
                assert isinstance(outer, OuterProducts)
                cotangents = outer.cotangents.flatten(2).flatten(0, 1)[order]
                self._keep_outer(name, OuterColumns(outer.inputs.flatten(1), cotangents, examples), some)
            else:
                columns = explicit(parts, self._shapes[name]).reshape(directions * batch, -1)
                torch.index_select(columns, 0, order, out=self._explicit(name, columns).columns[some])
                del columns  # before the next ones are made
        for name in [*self._parts]:
            if name in missing:
                self._explicit(name, self._parameter(name)).columns[some] = 0
        self._seen, self._filled = self._seen + batch, some.stop

    def _keep_outer(self, name: str, piece: OuterColumns, some: slice) -> None:
        """An outer product as its two factors, if that is what the parameter has been in every batch before."""
        part = self._parts.get(name)
        if part is None and not self._seen:
            self._parts[name] = part = OuterColumns(
                piece.inputs.new_empty(self._examples, piece.inputs.shape[1]),
                piece.cotangents.new_empty(self._columns, piece.cotangents.shape[1]),
                piece.rows.new_empty(self._columns),
            )
        if isinstance(part, OuterColumns):
            part.inputs[self._seen : self._seen + len(piece.inputs)] = piece.inputs
            part.cotangents[some] = piece.cotangents
            part.rows[some] = piece.rows + self._seen
        else:
            self._explicit(name, piece.inputs).columns[some] = piece.columns

    def _explicit(self, name: str, like: Tensor) -> ExplicitColumns:
        """The part of a parameter that has not been outer products alone, and its columns so far as they are."""
        part = self._parts.get(name)
        if isinstance(part, ExplicitColumns):
            return part
        made = ExplicitColumns(like.new_empty(self._columns, self._shapes[name].numel()))
        before = slice(self._filled)
        made.columns[before] = 0 if part is None else part.first(self._filled).columns
        self._parts[name] = made
        return made

    def parts(self) -> dict[str, OuterColumns | ExplicitColumns]:
        """The columns of all batches, outer products where they are in every batch; none of unused parameters."""
        here = {name: type(self._parts[name]).__name__ if name in self._parts else "" for name in self._shapes}
        everywhere = [each for each in self._problem.process_group.exchange(here if self._examples else None) if each]
        made: dict[str, OuterColumns | ExplicitColumns] = {}
        for name in self._shapes:
            kinds = {each[name] for each in everywhere}
            if kinds == {OuterColumns.__name__}:
                made[name] = self._parts.get(name) or self._no_outer(name)
            elif kinds != {""}:
                made[name] = self._explicit(name, self._parameter(name))
        return made

    def _parameter(self, name: str) -> Tensor:
        return self._problem.parameters[name].detach()

    def _no_outer(self, name: str) -> OuterColumns:
        """Of a rank without examples."""
        like = self._parameter(name)
        none = like.new_zeros(0, len(like))
        return OuterColumns(like.new_zeros(0, like.numel() // len(like)), none, none.new_zeros(0, dtype=torch.int64))


def collect(engine: Engine, scores_of: ScoresOf, chosen: Tensor | None = None) -> Factor:
    """The factor A of a Fisher, A Aᵀ = F, with a column J_nᵀ s_nk/√N per example and score.

    One forward pass, K backward passes, and a gradient per column: M · P values are held, less for linear layers, and
    those of a batch's columns of one parameter besides. Collective.

    Args:
        engine: that of the network and its examples.
        scores_of: the scores s_nk, K of each example.
        chosen: the mask (N, K) of the columns to make; None for all.
    """
    problem, here = engine.problem, _examples_here(engine.problem)
    process_group, collector = problem.process_group, None
    amplitudes, examples = [], []
    for batch, found, weights in _scored(engine, scores_of):
        every = torch.ones_like(weights.T, dtype=torch.bool)
        some = every if chosen is None else chosen[batch.start :][: len(batch)].to(every.device)
        rows = torch.arange(batch.start, batch.start + len(batch), device=weights.device)
        amplitudes.append(weights.T[some])
        examples.append(rows.unsqueeze(1).expand_as(some)[some])
        if collector is None:
            count = len(here) * len(weights) if chosen is None else int(chosen[here.start : here.stop].sum())
            collector = _Collector(problem, len(here), count)
        with torch.no_grad(), large_blocks_given_back(large=problem.is_large):
            collector.add(found, some)
    counts = process_group.exchange(sum(map(len, amplitudes)))
    first = sum(counts[: process_group.rank])
    mine = slice(first, first + counts[process_group.rank])
    parts = (collector or _Collector(problem, 0, 0)).parts()
    return Factor(problem, process_group.gather(amplitudes), process_group.gather(examples), mine, parts)


def _examples_here(problem: Problem) -> range:
    """Which examples this rank's batches have."""
    size = problem.batch_size
    batches = problem.process_group.share(-(-problem.examples // size))
    return range(batches.start * size, min(batches.stop * size, problem.examples))


def _scored(
    engine: Engine, scores_of: ScoresOf
) -> Iterator[tuple[Batch, Iterator[tuple[str, list[Contribution] | Tensor]], Tensor]]:
    """Each batch with its contributions by parameter and its amplitudes (K, B)."""
    for batch in engine.problem.batches():
        evaluated = engine.evaluate(batch)
        directions, amplitudes = scores_of(engine.problem.likelihood, evaluated.outputs.detach(), batch.labels)
        yield batch, evaluated.contributions(directions), amplitudes


def dense(engine: Engine, scores_of: ScoresOf) -> Tensor:
    """A Aᵀ itself, (P, P) in float64, summed batch by batch: for networks of few parameters."""
    problem = engine.problem
    total = torch.zeros(problem.size, problem.size, dtype=torch.float64, device=problem.device)
    for _, found, amplitudes in _scored(engine, scores_of):
        by_name = {name: explicit(parts, problem.parameters[name].shape) for name, parts in found}
        count = amplitudes.numel()
        columns = [
            by_name[name].reshape(count, -1).double()
            if name in by_name
            else amplitudes.new_zeros(count, parameter.numel())
            for name, parameter in problem.parameters.items()
        ]
        flat = torch.cat(columns, dim=1) * amplitudes.reshape(-1, 1)
        total.addmm_(flat.T, flat)
    return problem.process_group.sum(total) / problem.examples
