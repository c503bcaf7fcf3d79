"""The factor A of a Fisher, A Aᵀ = F with a column J_nᵀ s_nk/√N per example and score, held parameter by parameter.

The true and the empirical Fisher differ in their scores only. A column of a linear layer is an outer product of
input and cotangent and is kept as these two; other columns are kept as they are.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate

import torch
from torch import Tensor

from fisher_cli.curvature.gradient_norms.contributions import Contribution, OuterProducts
from fisher_cli.curvature.gradient_norms.engine import Engine
from fisher_cli.curvature.problem import Batch, Problem
from fisher_cli.curvature.scores import ScoresOf

# Products of symmetric matrices are made in blocks of so many rows, the lower ones only.
BLOCK_ROWS = 1024


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

    def inner_products(self, biases: int) -> Tensor:
        """(aᵀa' + biases) δᵀδ': a bias's columns are the cotangents themselves."""
        inputs, products = symmetric_product(self.inputs) + biases, symmetric_product(self.cotangents)
        each = len(self.rows) // len(inputs)
        if torch.equal(self.rows, torch.arange(len(inputs), device=inputs.device).repeat_interleave(each)):
            products.view(len(inputs), each, len(inputs), each).mul_(inputs.view(len(inputs), 1, len(inputs), 1))
        else:
            products *= inputs[self.rows][:, self.rows]
        return products

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

    def inner_products(self) -> Tensor:
        return symmetric_product(self.columns)

    def combined(self, weights: Tensor) -> Tensor:
        """Σ_m w_m g_m for each column of weights (M, k): (size, k)."""
        return self.columns.T @ weights.to(self.columns.dtype)


def symmetric_product(x: Tensor) -> Tensor:
    """X Xᵀ of X (M, size), the upper half mirrored."""
    total = x.new_empty(len(x), len(x))
    for low in range(0, len(x), BLOCK_ROWS):
        some = slice(low, low + BLOCK_ROWS)
        block = x[some] @ x[: low + BLOCK_ROWS].T
        total[some, : low + BLOCK_ROWS] = block
        total[: low + BLOCK_ROWS, some] = block.T
    return total


@dataclass
class Factor:
    """The columns √N A of the chosen examples and scores, M of them, in order of the examples.

    `amplitudes` (M,) are √w in float64: columns are held for unit directions, so that none underflows.
    `examples` (M,) says whose each column is.
    """

    problem: Problem
    amplitudes: Tensor
    examples: Tensor
    parts: dict[str, _Outer | _Explicit]

    def gram(self) -> Tensor:
        """AᵀA, (M, M) in float64: it has the non-zero eigenvalues of A Aᵀ."""
        total = torch.zeros(len(self.examples), len(self.examples), dtype=torch.float64, device=self.amplitudes.device)
        outer = [part for part in self.parts.values() if isinstance(part, _Outer)]
        biases = [0] * len(outer)
        for part in self.parts.values():
            if isinstance(part, _Explicit):
                served = next((index for index, other in enumerate(outer) if _is_bias(part, other)), None)
                if served is None:
                    total += part.inner_products()
                else:
                    biases[served] += 1
        for part, count in zip(outer, biases, strict=True):
            total += part.inner_products(count)
        total *= self.amplitudes.unsqueeze(1)
        total *= self.amplitudes / self.problem.examples
        return total

    def combine(self, coefficients: Tensor) -> Tensor:
        """A c for coefficients (M, k), (P, k) in float64, in the order of the problem's parameters."""
        weights = coefficients * (self.amplitudes / self.problem.examples**0.5).unsqueeze(1)
        scale = weights.abs().amax(0).clamp_min(torch.finfo(torch.float64).tiny)
        blocks = []
        for name, parameter in self.problem.parameters.items():
            if name in self.parts:
                blocks.append(self.parts[name].combined(weights / scale).double())
            else:
                blocks.append(weights.new_zeros(parameter.numel(), weights.shape[1]))
        combined: Tensor = torch.cat(blocks) * scale
        return combined


def _is_bias(one: _Explicit, other: _Outer) -> bool:
    return one.columns.shape == other.cotangents.shape and torch.equal(one.columns, other.cotangents)


class _Collector:
    """Gathers the parts of a factor batch by batch: what a network does may depend on the batch."""

    def __init__(self, shapes: Mapping[str, torch.Size]) -> None:
        self._shapes = shapes
        self._pieces: dict[str, list[_Outer | _Explicit | int]] = {name: [] for name in shapes}

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
        made: dict[str, _Outer | _Explicit] = {}
        for name, pieces in self._pieces.items():
            outer = [piece for piece in pieces if isinstance(piece, _Outer)]
            present = [piece for piece in pieces if not isinstance(piece, int)]
            if len(outer) == len(pieces):
                made[name] = _joined(outer)
            elif present:
                like = present[0].columns
                zeros = {piece: like.new_zeros(piece, like.shape[1]) for piece in pieces if isinstance(piece, int)}
                made[name] = _Explicit(
                    torch.cat([zeros[piece] if isinstance(piece, int) else piece.columns for piece in pieces])
                )
        return made


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
    collector = _Collector({name: parameter.shape for name, parameter in problem.parameters.items()})
    amplitudes, examples = [], []
    for batch, found, weights in _scored(engine, scores_of):
        some = torch.ones_like(weights.T, dtype=torch.bool) if chosen is None else chosen[batch.start :][: len(batch)]
        rows = torch.arange(batch.start, batch.start + len(batch), device=weights.device)
        amplitudes.append(weights.T[some])
        examples.append(rows.unsqueeze(1).expand_as(some)[some])
        with torch.no_grad():
            collector.add(found, some)
    return Factor(problem, torch.cat(amplitudes), torch.cat(examples), collector.parts())


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
    return total / problem.examples
