"""The factor A of a Fisher, A Aᵀ = F with a column J_nᵀ s_nk/√N per example and score, held parameter by parameter.

The true and the empirical Fisher differ in their scores only. A column of a linear layer is an outer product of
input and cotangent and is kept as these two; other columns are kept as they are. Each of several ranks keeps the
columns of its examples. Their inner products, a sum over the parameters, are shared out by parameter: one rank gathers
a parameter's columns, multiplies them and lets them go.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate

import torch
from torch import Tensor

from fisher_cli.curvature.gradient_norms.contributions import Contribution, OuterProducts
from fisher_cli.curvature.gradient_norms.engine import Engine
from fisher_cli.curvature.problem import Batch, Problem
from fisher_cli.curvature.scores import ScoresOf
from fisher_cli.curvature.world import World

# Products of symmetric matrices are made in blocks of so many rows, the lower ones only.
BLOCK_ROWS = 256


@dataclass
class _Outer:
    """Columns δ ⊗ a: inputs a (n, Q), cotangents δ (M, R), and the row of a that belongs to each δ."""

    inputs: Tensor
    cotangents: Tensor
    rows: Tensor

    @property
    def columns(self) -> Tensor:
        """The columns as they are, (M, R·Q)."""
        return (self.cotangents.unsqueeze(2) * self.inputs[self.rows].unsqueeze(1)).flatten(1)

    @property
    def work(self) -> int:
        """Multiplications of the inner products, about, for each pair of columns."""
        return self.inputs.shape[1] + self.cotangents.shape[1]

    def gathered(self, world: World, owner: int) -> "_Outer | None":
        """The columns of all ranks, for one of them."""
        before = sum(world.exchange(len(self.inputs))[: world.rank])
        parts = [world.gather_to(owner, part) for part in (self.inputs, self.cotangents, self.rows + before)]
        inputs, cotangents, rows = parts
        return None if inputs is None or cotangents is None or rows is None else _Outer(inputs, cotangents, rows)

    def add_inner_products(self, total: Tensor, biases: int = 0) -> None:
        """Add (aᵀa' + biases) δᵀδ' to the lower half: a bias's columns are the cotangents themselves."""
        inputs = symmetric_product(self.inputs) + biases
        each = len(self.rows) // len(inputs)
        regular = torch.equal(self.rows, torch.arange(len(inputs), device=inputs.device).repeat_interleave(each))
        for some, before in lower_blocks(len(self.rows), each if regular else 1):
            block = self.cotangents[some] @ self.cotangents[before].T
            if regular:
                shared = inputs[some.start // each : some.stop // each, : before.stop // each]
                block.view(len(shared), each, -1, each).mul_(shared.unsqueeze(1).unsqueeze(3))
            else:
                block *= inputs[self.rows[some]][:, self.rows[before]]
            total[some, before] += block

    def combined(self, weights: Tensor) -> Tensor:
        """Σ_m w_m δ_m ⊗ a_m for each column of weights (M, k): (R·Q, k)."""
        inputs = self.inputs[self.rows]
        sums = inputs.new_empty(self.cotangents.shape[1] * inputs.shape[1], weights.shape[1])
        for index, one in enumerate(weights.T.to(inputs.dtype)):
            sums[:, index] = (self.cotangents.T @ (inputs * one.unsqueeze(1))).flatten()
        return sums


@dataclass
class _Explicit:
    """Columns as they are, (M, size)."""

    columns: Tensor

    @property
    def work(self) -> int:
        return self.columns.shape[1]

    def gathered(self, world: World, owner: int) -> "_Explicit | None":
        columns = world.gather_to(owner, self.columns)
        return None if columns is None else _Explicit(columns)

    def add_inner_products(self, total: Tensor, biases: int = 0) -> None:
        """Add gᵀg' to the lower half."""
        assert not biases
        for some, before in lower_blocks(len(self.columns)):
            total[some, before] += self.columns[some] @ self.columns[before].T

    def combined(self, weights: Tensor) -> Tensor:
        """Σ_m w_m g_m for each column of weights (M, k): (size, k)."""
        return self.columns.T @ weights.to(self.columns.dtype)


def lower_blocks(rows: int, multiple: int = 1) -> Iterator[tuple[slice, slice]]:
    """Blocks of rows, and the columns up to the end of each: with them the lower half of a symmetric matrix is full."""
    height = max(BLOCK_ROWS // multiple, 1) * multiple
    for low in range(0, rows, height):
        high = min(low + height, rows)
        yield slice(low, high), slice(0, high)


def mirror(matrix: Tensor) -> None:
    """Make a matrix symmetric in place by what is below its diagonal."""
    for some, _ in lower_blocks(len(matrix)):
        matrix[: some.start, some] = matrix[some, : some.start].T
        square = matrix[some, some].tril()
        matrix[some, some] = square + square.tril(-1).T


def symmetric_product(x: Tensor) -> Tensor:
    """X Xᵀ of X (M, size), the upper half mirrored."""
    total = x.new_empty(len(x), len(x))
    for some, before in lower_blocks(len(x)):
        total[some, before] = x[some] @ x[before].T
    mirror(total)
    return total


@dataclass
class Factor:
    """The columns √N A of the chosen examples and scores, M of all ranks, in order of the examples.

    `amplitudes` (M,) are √w in float64: columns are held for unit directions, so that none underflows.
    `examples` (M,) says whose each column is. `mine` are the columns of this rank, which `parts` holds.
    """

    problem: Problem
    amplitudes: Tensor
    examples: Tensor
    mine: slice
    parts: dict[str, _Outer | _Explicit]

    def gram(self) -> Tensor:
        """AᵀA, (M, M) in float64: it has the non-zero eigenvalues of A Aᵀ."""
        world = self.problem.world
        total = torch.zeros(len(self.examples), len(self.examples), dtype=torch.float64, device=self.amplitudes.device)
        served = self._served()
        biases = Counter(served.values())
        multiplied = [name for name in self.parts if name not in served]
        multiplied.sort(key=lambda name: isinstance(self.parts[name], _Outer))
        owners = shared_out([self.parts[name].work for name in multiplied], world.size)
        for name, owner in zip(multiplied, owners, strict=True):
            part = self.parts[name].gathered(world, owner)
            if part is not None:
                part.add_inner_products(total, biases[name])
        total = world.sum(total)
        mirror(total)
        total *= self.amplitudes.unsqueeze(1)
        total *= self.amplitudes / self.problem.examples
        return total

    def _served(self) -> dict[str, str]:
        """Biases, by the layer whose products count them in: on every rank with examples its columns are the same."""
        outer = {name: part for name, part in self.parts.items() if isinstance(part, _Outer)}
        found = {
            name: next((other for other, layer in outer.items() if _is_bias(part, layer)), None)
            for name, part in self.parts.items()
            if isinstance(part, _Explicit)
        }
        said = [each for each in self.problem.world.exchange(found if self._has_columns else None) if each is not None]
        return {name: layer for name, layer in said[0].items() if layer and all(each[name] == layer for each in said)}

    @property
    def _has_columns(self) -> bool:
        return bool(self.mine.stop > self.mine.start)

    def combine(self, coefficients: Tensor) -> Tensor:
        """A c for coefficients (M, k), (P, k) in float64, in the order of the problem's parameters."""
        weights = coefficients * (self.amplitudes / self.problem.examples**0.5).unsqueeze(1)
        scale = weights.abs().amax(0).clamp_min(torch.finfo(torch.float64).tiny)
        weights = weights[self.mine]
        blocks = []
        for name, parameter in self.problem.parameters.items():
            if name in self.parts:
                blocks.append(self.parts[name].combined(weights / scale).double())
            else:
                blocks.append(weights.new_zeros(parameter.numel(), weights.shape[1]))
        combined: Tensor = self.problem.world.sum(torch.cat(blocks)) * scale
        return combined


def shared_out(work: Sequence[int], ranks: int) -> list[int]:
    """Which of so many ranks does each piece of work: the largest first, each to who has the least so far."""
    owners, loads = [0] * len(work), [0] * ranks
    for index in sorted(range(len(work)), key=lambda index: -work[index]):
        owners[index] = loads.index(min(loads))
        loads[owners[index]] += work[index]
    return owners


def _is_bias(one: _Explicit, other: _Outer) -> bool:
    return one.columns.shape == other.cotangents.shape and torch.equal(one.columns, other.cotangents)


class _Collector:
    """Gathers the parts of a factor batch by batch: what a network does may depend on the batch."""

    def __init__(self, problem: Problem) -> None:
        self._problem = problem
        self._shapes = {name: parameter.shape for name, parameter in problem.parameters.items()}
        self._pieces: dict[str, list[_Outer | _Explicit | int]] = {name: [] for name in self._shapes}

    def add(self, found: Iterable[tuple[str, list[Contribution] | Tensor]], chosen: Tensor) -> None:
        """Keep the chosen (B, K) columns of all parameters in one batch."""
        rows = torch.arange(len(chosen), device=chosen.device).unsqueeze(1).expand_as(chosen)[chosen]
        missing = set(self._shapes)
        for name, parts in found:
            missing.remove(name)
            if not isinstance(parts, Tensor) and is_outer(parts):
                part = parts[0]
                assert isinstance(part, OuterProducts)
                cotangents = part.cotangents.flatten(2).transpose(0, 1)[chosen]
                self._pieces[name].append(_Outer(part.inputs.flatten(1), cotangents, rows))
            else:
                self._pieces[name].append(_Explicit(explicit(parts, self._shapes[name]).transpose(0, 1)[chosen]))
        for name in missing:
            self._pieces[name].append(len(rows))

    def parts(self) -> dict[str, _Outer | _Explicit]:
        """The columns of all batches, outer products where they are in every batch; none of unused parameters."""
        here = {name: sorted({type(piece).__name__ for piece in pieces}) for name, pieces in self._pieces.items()}
        everywhere = self._problem.world.exchange(here)
        made: dict[str, _Outer | _Explicit] = {}
        for name, pieces in self._pieces.items():
            kinds = {kind for rank in everywhere for kind in rank[name]}
            if kinds == {_Outer.__name__}:
                made[name] = _joined([self._no_outer(name), *(each for each in pieces if isinstance(each, _Outer))])
            elif kinds != {int.__name__}:
                made[name] = _Explicit(torch.cat([self._zeros(name, 0), *(self._columns(name, e) for e in pieces)]))
        return made

    def _columns(self, name: str, piece: _Outer | _Explicit | int) -> Tensor:
        return self._zeros(name, piece) if isinstance(piece, int) else piece.columns

    def _zeros(self, name: str, columns: int) -> Tensor:
        like = self._problem.parameters[name].detach()
        return like.new_zeros(columns, like.numel())

    def _no_outer(self, name: str) -> _Outer:
        """Of a rank without examples."""
        like = self._problem.parameters[name].detach()
        none = like.new_zeros(0, len(like))
        return _Outer(like.new_zeros(0, like.numel() // len(like)), none, none.new_zeros(0, dtype=torch.int64))


def _joined(pieces: Sequence[_Outer]) -> _Outer:
    starts = accumulate((len(piece.inputs) for piece in pieces), initial=0)
    rows = [piece.rows + start for piece, start in zip(pieces, starts, strict=False)]
    inputs, cotangents = [piece.inputs for piece in pieces], [piece.cotangents for piece in pieces]
    return _Outer(torch.cat(inputs), torch.cat(cotangents), torch.cat(rows))


def is_outer(found: list[Contribution]) -> bool:
    """Whether gradients are plain outer products, cheaper to hold and to multiply as their two factors."""
    if len(found) != 1 or not isinstance(found[0], OuterProducts) or found[0].transposed:
        return False
    _, _, groups, rows, positions = found[0].cotangents.shape
    columns = found[0].inputs.shape[2]
    return groups == 1 and positions == 1 and rows * columns > rows + columns


def explicit(found: list[Contribution] | Tensor, shape: torch.Size) -> Tensor:
    """The gradients of one parameter, (K, B, size)."""
    if isinstance(found, Tensor):
        return found
    first, *others = (part.gradients(shape) for part in found)
    for other in others:
        first = first + other
    return first


def collect(engine: Engine, scores_of: ScoresOf, chosen: Tensor | None = None) -> Factor:
    """The factor of all examples, of all their scores or of those chosen, a mask (N, K).

    One forward pass, K backward passes, and a gradient per column: M · P values are held, less for linear layers.
    """
    problem = engine.problem
    collector, world = _Collector(problem), problem.world
    amplitudes, examples = [], []
    for batch, found, weights in _scored(engine, scores_of):
        some = torch.ones_like(weights.T, dtype=torch.bool) if chosen is None else chosen[batch.start :][: len(batch)]
        rows = torch.arange(batch.start, batch.start + len(batch), device=weights.device)
        amplitudes.append(weights.T[some])
        examples.append(rows.unsqueeze(1).expand_as(some)[some])
        with torch.no_grad():
            collector.add(found, some)
    counts = world.exchange(sum(map(len, amplitudes)))
    first = sum(counts[: world.rank])
    mine = slice(first, first + counts[world.rank])
    return Factor(problem, world.gather(amplitudes), world.gather(examples), mine, collector.parts())


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
    return problem.world.sum(total) / problem.examples
