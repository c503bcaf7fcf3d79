"""What one call of a layer adds to a parameter's per-example gradient, and the squared norm of the sum.

Three forms, none of which is the gradient itself where that would be large, and one for what has no such form.
Contributions of several calls are joined before the norm is taken (`joint_norms.py`), so cross terms are exact.
Shapes: K directions, B examples, G groups, L positions.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from fisher_cli.curvature.gradient_norms.deferred_checks import DeferredChecks
from fisher_cli.curvature.gradient_norms.position_products import (
    WeightedSum,
    explicitly,
    squared_rows,
    through_gram,
)


@dataclass(frozen=True)
class ObservedRows:
    """For every example one of K directions and its coefficient: the weighted sum Σ_kb c_kb g_kb takes those alone.

    Attributes:
        index: the direction of each example, (B,), whole numbers.
        coefficients: c of that direction, (B,).
        row: the direction where it is the same one for all examples, else None.
    """

    index: Tensor
    coefficients: Tensor
    row: int | None

    @classmethod
    def of(cls, coefficients: Tensor, row: int | None = None) -> "ObservedRows | None":
        """What coefficients pick; None where all are zero.

        Args:
            coefficients: c, (K, B), of which at most one of each b is not zero.
            row: the direction whose coefficients may differ from zero, where the caller knows that it is one for all
                examples. Nothing then waits for the device to tell.
        """
        if row is not None:
            chosen = coefficients[row]
            return cls(torch.full_like(chosen, row, dtype=torch.int64), chosen, row)
        rows = [row for row, taken in enumerate(coefficients.ne(0).any(1).tolist()) if taken]
        if not rows:
            return None
        index = coefficients.abs().argmax(0)
        chosen = coefficients.gather(0, index.unsqueeze(0)).squeeze(0)
        return cls(index, chosen, rows[0] if len(rows) == 1 else None)

    def combined(self, values: Tensor) -> Tensor:
        """Σ_k c_kb v_kb, (B, …), of values (K, B, …)."""
        examples = torch.arange(len(self.index), device=self.index.device)
        picked = values[self.index, examples] if self.row is None else values[self.row]
        return picked * self.coefficients.to(values.dtype).reshape(-1, *(1,) * (values.dim() - 2))


def _split(tensor: Tensor, dimension: int, times: int) -> Tensor:
    """A dimension of B·T entries as two, B and T."""
    shape = tensor.shape
    return tensor.reshape(*shape[:dimension], -1, times, *shape[dimension + 1 :])


# Values of a vector of parameters that are converted to the network's precision at once.
VECTOR_VALUES = 2**20
# Values of gradients that are formed at once where more is done with them than taking norms.
FORMED_VALUES = 2**20


@dataclass(frozen=True)
class OuterProducts:
    """Σ_l δ_l a_lᵀ per group of channels and over positions l: the gradient g (R × Q per group) in its factors.

    Attributes:
        inputs: a, (B, G, Q, L).
        cotangents: δ, (K, B, G, R, L).
        transposed: whether the parameter holds every group's gradient as (Q, R), as transposed convolutions do.
    """

    inputs: Tensor
    cotangents: Tensor
    transposed: bool = False  # the parameter holds the gradient as inputs × cotangents

    def folded(self, times: int) -> "OuterProducts":
        """The same with every `times` consecutive examples made into positions of one example."""
        if times == 1:
            return self
        a = _split(self.inputs, 0, times).permute(0, 2, 3, 1, 4).flatten(3)
        delta = _split(self.cotangents, 1, times).permute(0, 1, 3, 4, 2, 5).flatten(4)
        return OuterProducts(a, delta, self.transposed)

    def some(self, directions: slice, examples: slice) -> "OuterProducts":
        """The gradients of some directions and examples, as views of the same factors."""
        return OuterProducts(self.inputs[examples], self.cotangents[directions, examples], self.transposed)

    def squared_norms(self, deferred_checks: DeferredChecks | None = None) -> Tensor:
        """‖Σ_l δ_l a_lᵀ‖² summed over groups, (K, B) in float64.

        Two routes give the same number. Explicit: form the R × Q gradient, K·R·Q·L multiplications. Gram: Σ_lm
        (a_lᵀa_m)(δ_lᵀδ_m), L²·(Q + K·R), where the input side serves all directions. The cheaper is taken. One position
        needs neither: ‖δ‖²‖a‖². Source: Goodfellow 2015 (arXiv:1510.01799) for one position; Rochette, Manoel and
        Tramel 2019 (arXiv:1912.06015) for the convolution's Gram form.

        Args:
            deferred_checks: keeps what speaks against a quick route, to be asked later; None to ask at once and to take
                an exact route where needed.
        """
        return self.measured(None, deferred_checks)[0]

    def measured(
        self, observed_rows: ObservedRows | None, deferred_checks: DeferredChecks | None = None
    ) -> tuple[Tensor, Tensor | None]:
        """The squared norms, and the weighted sum of the gradients that are picked where these were formed anyway.

        Args:
            observed_rows: what is picked; None for norms alone.
            deferred_checks: as for `squared_norms`.

        Returns:
            ‖g‖², (K, B) in float64, and Σ_b c_b g_b, (G, R, Q). The sum is None where no gradient was formed and where
            examples pick different directions.
        """
        examples, groups, columns, positions = self.inputs.shape
        directions, rows = len(self.cotangents), self.cotangents.shape[3]
        if positions == 1:
            left, right = (
                squared_rows(self.cotangents.squeeze(4), deferred_checks),
                squared_rows(self.inputs.squeeze(3), deferred_checks),
            )
            return (left * right).sum(2), None
        a, delta = self.inputs.flatten(0, 1), self.cotangents.flatten(1, 2)
        products, total = None, None
        if directions * rows * columns > positions * (columns + directions * rows):
            products = through_gram(a, delta, deferred_checks)
        if products is None:
            weighted = (
                None
                if observed_rows is None or observed_rows.row is None
                else WeightedSum(observed_rows.row, observed_rows.coefficients, groups)
            )
            products, total = explicitly(a, delta, deferred_checks, weighted)
        return products.reshape(directions, examples, groups).sum(2), total

    def weighted_sum(self, observed_rows: ObservedRows, shape: torch.Size) -> Tensor:
        """Σ_kb c_kb Σ_l δ_l a_lᵀ, in the parameter's shape and the factors' precision."""
        combined = observed_rows.combined(self.cotangents)
        _, groups, rows, positions = combined.shape
        columns = self.inputs.shape[2]
        a, delta = self.inputs.transpose(2, 3), combined.transpose(2, 3)
        if groups == 1 and a.is_contiguous() and delta.is_contiguous():
            # Features of all positions of all examples lie side by side: one product, of what is there.
            gradient = torch.mm(delta.reshape(-1, rows).T, a.reshape(-1, columns)).unsqueeze(0)
        elif rows * columns <= positions * (rows + columns):
            gradient = torch.matmul(combined, a).sum(0)
        else:
            gradient = torch.einsum("bgrl,bgql->grq", combined, self.inputs)
        return self.oriented(gradient, shape)

    def oriented(self, gradient: Tensor, shape: torch.Size) -> Tensor:
        """A gradient (G, R, Q) in the parameter's shape."""
        return (gradient.transpose(1, 2) if self.transposed else gradient).reshape(shape)

    def gradients(self, shape: torch.Size) -> Tensor:
        """The gradients g themselves, (K, B, size), in the order of the parameter's entries."""
        gradient = torch.matmul(self.cotangents, self.inputs.mT)
        oriented = gradient.transpose(3, 4) if self.transposed else gradient
        return oriented.reshape(*gradient.shape[:2], shape.numel())

    def projections(self, vector: Tensor) -> Tensor:
        """⟨g, V⟩ = Σ_l δ_lᵀ V a_l, (K, B) in float64, for V in the parameter's shape and any precision."""
        groups, columns, rows = self.inputs.shape[1], self.inputs.shape[2], self.cotangents.shape[3]
        v = vector.reshape(groups, columns, rows).mT if self.transposed else vector.reshape(groups, rows, columns)
        # All examples side by side: broadcast over them, V would be copied for each. A few rows of V at a time, whose
        # copy in the network's precision is no second V.
        a = self.inputs.permute(1, 2, 0, 3)
        beside, some = a.flatten(2), max(1, VECTOR_VALUES // (groups * columns))
        total = torch.zeros(self.cotangents.shape[:2], dtype=torch.float64, device=a.device)
        for low in range(0, rows, some):
            values = v[:, low : low + some].to(a.dtype) @ beside
            cotangents = self.cotangents[:, :, :, low : low + some]
            total += _dots(cotangents, values.reshape(groups, -1, *a.shape[2:]).permute(2, 0, 1, 3))
        return total

    def gram(self) -> Tensor:
        """g_kᵀ g_k' of all pairs of directions, (B, K, K) in float64; products are made in the factors' precision."""
        directions, examples, groups, rows, positions = self.cotangents.shape
        a = self.inputs.reshape(examples * groups, -1, positions)
        delta = self.cotangents.permute(1, 2, 0, 3, 4).reshape(examples * groups, directions * rows, positions)
        if directions * rows * a.shape[1] <= positions * (a.shape[1] + directions * rows):
            products = _inner_products((delta @ a.mT).reshape(len(a), directions, -1))
        else:
            weighted = delta @ (a.mT @ a)
            products = (weighted.reshape(len(a), directions, -1) @ delta.reshape(len(a), directions, -1).mT).double()
        return products.reshape(examples, groups, directions, directions).sum(1)


def _dots(cotangents: Tensor, values: Tensor) -> Tensor:
    """Sums of products (K, B) in float64 of cotangents (K, B, …) and values (B, …)."""
    return torch.stack([(each.double() * values.double()).flatten(1).sum(1) for each in cotangents])


def _inner_products(gradient: Tensor) -> Tensor:
    """gₖᵀgₖ' over the last dimension of (…, K, size), (…, K, K) in float64."""
    return (gradient @ gradient.mT).double()


@dataclass(frozen=True)
class ExplicitGradients:
    """The gradients g of a parameter that is small enough for that.

    Attributes:
        values: g, (K, B, size), in the order of the parameter's entries.
    """

    values: Tensor

    def folded(self, times: int) -> "ExplicitGradients":
        """The same with every `times` consecutive examples summed into one."""
        return self if times == 1 else ExplicitGradients(_split(self.values, 1, times).sum(2))

    def some(self, directions: slice, examples: slice) -> "ExplicitGradients":
        """The gradients of some directions and examples, as views of the same values."""
        return ExplicitGradients(self.values[directions, examples])

    def squared_norms(self, deferred_checks: DeferredChecks | None = None) -> Tensor:
        """‖g‖², (K, B) in float64."""
        return squared_rows(self.values, deferred_checks)

    def weighted_sum(self, observed_rows: ObservedRows, shape: torch.Size) -> Tensor:
        """Σ_kb c_kb g_kb, in the parameter's shape."""
        return observed_rows.combined(self.values).sum(0).reshape(shape)

    def projections(self, vector: Tensor) -> Tensor:
        """⟨g, V⟩, (K, B) in float64, for V in the parameter's shape."""
        return self.values.double() @ vector.double().reshape(-1)

    def gradients(self, shape: torch.Size) -> Tensor:
        """The gradients g themselves, (K, B, size), in the order of the parameter's entries."""
        return self.values.reshape(*self.values.shape[:2], shape.numel())

    def gram(self) -> Tensor:
        """g_kᵀ g_k' of all pairs of directions, (B, K, K) in float64."""
        return _inner_products(self.values.transpose(0, 1))


@dataclass(frozen=True)
class EmbeddingRows:
    """Σ_l e_{id_l} δ_lᵀ over positions l that count: the gradient g of a table whose rows are taken by number.

    Attributes:
        ids: the row that each position takes, (B, L).
        cotangents: δ, (K, B, L, E).
        counted: whether a position counts, (B, L); a padding row has no gradient.
    """

    ids: Tensor
    cotangents: Tensor
    counted: Tensor

    def folded(self, times: int) -> "EmbeddingRows":
        """The same with every `times` consecutive examples made into positions of one example."""
        if times == 1:
            return self
        delta = _split(self.cotangents, 1, times).flatten(2, 3)
        return EmbeddingRows(
            self.ids.reshape(-1, times * self.ids.shape[1]), delta, self.counted.reshape(len(self.ids) // times, -1)
        )

    def some(self, directions: slice, examples: slice) -> "EmbeddingRows":
        """The gradients of some directions and examples, as views of the same tensors."""
        return EmbeddingRows(self.ids[examples], self.cotangents[directions, examples], self.counted[examples])

    def squared_norms(self, deferred_checks: DeferredChecks | None = None) -> Tensor:  # noqa: ARG002 - added in float64: exact
        """Σ_lm [id_l = id_m] δ_lᵀδ_m, (K, B) in float64."""
        same = (self.ids.unsqueeze(1) == self.ids.unsqueeze(2)) & self.counted.unsqueeze(1) & self.counted.unsqueeze(2)
        summed = same.to(self.cotangents.dtype) @ self.cotangents
        return (summed.double() * self.cotangents.double()).sum((2, 3))

    def weighted_sum(self, observed_rows: ObservedRows, shape: torch.Size) -> Tensor:
        """Σ_kb c_kb Σ_l e_{id_l} δ_lᵀ, in the parameter's shape."""
        combined = observed_rows.combined(self.cotangents) * self.counted.unsqueeze(2)
        total = torch.zeros(shape[0], combined.shape[2], dtype=combined.dtype, device=combined.device)
        return total.index_add_(0, self.ids.reshape(-1), combined.flatten(0, 1)).reshape(shape)

    def projections(self, vector: Tensor) -> Tensor:
        """⟨g, V⟩ = Σ_l δ_lᵀ V_{id_l}, (K, B) in float64, for V in the parameter's shape."""
        return _dots(self.cotangents, vector.reshape(len(vector), -1)[self.ids] * self.counted.unsqueeze(2))

    def gradients(self, shape: torch.Size) -> Tensor:
        """The gradients g themselves, (K, B, size), in the order of the parameter's entries."""
        directions, examples, _, width = self.cotangents.shape
        full = self.cotangents.new_zeros(directions, examples, shape.numel() // width, width)
        index = self.ids.unsqueeze(0).unsqueeze(3).expand_as(self.cotangents)
        full.scatter_add_(2, index, self.cotangents * self.counted.unsqueeze(2))
        return full.flatten(2)

    def gram(self) -> Tensor:
        """g_kᵀ g_k' of all pairs of directions, (B, K, K) in float64."""
        same = (self.ids.unsqueeze(1) == self.ids.unsqueeze(2)) & self.counted.unsqueeze(1) & self.counted.unsqueeze(2)
        summed = same.to(self.cotangents.dtype) @ self.cotangents
        left, right = summed.flatten(2).transpose(0, 1), self.cotangents.flatten(2).transpose(0, 1)
        return (left @ right.mT).double()


Given = OuterProducts | ExplicitGradients | EmbeddingRows
"""What one call adds."""


def given(contribution: Given | Tensor) -> Given:
    """What one call adds, in one of the three forms.

    Args:
        contribution: one of these forms already, or the gradient itself in the parameter's shape, (K, B, …).
    """
    if isinstance(contribution, Tensor):
        return ExplicitGradients(contribution.reshape(*contribution.shape[:2], -1))
    return contribution


@dataclass(frozen=True)
class FormedGradients:
    """Σ_r P_r(G_r) of gradients G_r that are formed, a few at a time, each as the sum of what several calls add.

    Attributes:
        parts: for every r these calls' contributions, and the shape of G_r.
        pull: the linear map from G_r (n, *shape), one for each r, to the gradients of the parameter, (n, size).
    """

    parts: Sequence[tuple[Sequence[Given], torch.Size]]
    pull: Callable[[Sequence[Tensor]], Tensor]

    @property
    def _counts(self) -> tuple[int, int]:
        first = self.parts[0][0][0]
        directions, examples, *_ = (
            first.values.shape if isinstance(first, ExplicitGradients) else first.cotangents.shape
        )
        return directions, examples

    def _pieces(self, *, all_directions: bool = False) -> Iterator[tuple[slice, slice, Tensor]]:
        """Gradients (k, b, size) of some directions and some examples, all of them after each other."""
        directions, examples = self._counts
        at_once = max(1, FORMED_VALUES // sum(shape.numel() for _, shape in self.parts))
        columns = directions if all_directions else min(directions, at_once)
        rows = max(1, at_once // columns)
        for low in range(0, directions, columns):
            for start in range(0, examples, rows):
                some = slice(low, low + columns), slice(start, start + rows)
                yield *some, self._formed([[part.some(*some) for part in parts] for parts, _ in self.parts])

    def _formed(self, parts: Sequence[Sequence[Given]]) -> Tensor:
        made = []
        for given, (_, shape) in zip(parts, self.parts, strict=True):
            first, *others = (part.gradients(shape) for part in given)
            total = sum(others, first)
            made.append(total.reshape(-1, *shape))
        return self.pull(made).reshape(*total.shape[:2], -1)

    def squared_norms(self, deferred_checks: DeferredChecks | None = None) -> Tensor:
        """‖g‖², (K, B) in float64."""
        found = torch.zeros(self._counts, dtype=torch.float64, device=self._device)
        for directions, examples, gradients in self._pieces():
            found[directions, examples] = squared_rows(gradients, deferred_checks)
        return found

    @property
    def _device(self) -> torch.device:
        first = self.parts[0][0][0]
        return first.values.device if isinstance(first, ExplicitGradients) else first.cotangents.device

    def weighted_sum(self, observed_rows: ObservedRows, shape: torch.Size) -> Tensor:
        """Σ_kb c_kb g_kb, in the parameter's shape: P_r of the sums, since it is linear."""
        sums = [
            torch.stack([part.weighted_sum(observed_rows, each) for part in parts]).sum(0, keepdim=True)
            for parts, each in self.parts
        ]
        return self.pull(sums).reshape(shape)

    def projections(self, vector: Tensor) -> Tensor:
        """⟨g, V⟩, (K, B) in float64, for V in the parameter's shape."""
        found = torch.zeros(self._counts, dtype=torch.float64, device=vector.device)
        for directions, examples, gradients in self._pieces():
            found[directions, examples] = gradients.double() @ vector.double().reshape(-1)
        return found

    def gradients(self, shape: torch.Size) -> Tensor:
        """The gradients g themselves, (K, B, size), in the order of the parameter's entries."""
        pieces = [gradients for _, _, gradients in self._pieces(all_directions=True)]
        return torch.cat(pieces, 1).reshape(*self._counts, shape.numel())

    def gram(self) -> Tensor:
        """g_kᵀ g_k' of all pairs of directions, (B, K, K) in float64."""
        pieces = self._pieces(all_directions=True)
        return torch.cat([_inner_products(gradients.transpose(0, 1)) for _, _, gradients in pieces])


Contribution = Given | FormedGradients
