"""Squared per-example gradient norms of every parameter, for many score directions at once, batch after batch."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field

import torch
from torch import Tensor

from fisher_cli.curvature.gradient_norms import per_example_gradients
from fisher_cli.curvature.gradient_norms.autograd_graph import GraphKinds, read_graph
from fisher_cli.curvature.gradient_norms.batch_dim import BatchDim, find_batch_dim, only_batch_dim, ratios_for
from fisher_cli.curvature.gradient_norms.call_recorder import Call, Hold, recorded_calls
from fisher_cli.curvature.gradient_norms.deferred_checks import DeferredChecks, runs_behind
from fisher_cli.curvature.gradient_norms.grad_factors import Contribution, ObservedRows
from fisher_cli.curvature.gradient_norms.joint_norms import joined, norms_and_sum, squared_norms
from fisher_cli.curvature.gradient_norms.operation_count import spent_on, uncounted
from fisher_cli.curvature.gradient_norms.plan import UNUSED, BackwardPlan, Uses, one_after_another
from fisher_cli.curvature.gradient_norms.streamed_vjp import cotangents_in_turn
from fisher_cli.curvature.linalg.sums import dot
from fisher_cli.curvature.problem.batching import directions_at_once
from fisher_cli.curvature.problem.problem import Batch, Problem
from fisher_cli.curvature.torch_backend.activation_checkpointing import (
    ActivationCheckpointing,
    SavedInput,
    checkpointed,
)
from fisher_cli.curvature.torch_backend.backend_flags import reproducible_kernels
from fisher_cli.curvature.torch_backend.out_of_memory import raise_if_out_of_memory
from fisher_cli.curvature.torch_backend.patches import ATTENTION_OF_ALL_DIRECTIONS, CONVOLUTIONS_OF_ALL_DIRECTIONS
from fisher_cli.curvature.torch_backend.vjp import Take, gradients_in_turn
from fisher_cli.errors import ArchitectureError

NOT_CHECKED = " (not checked: the gradient is rounding)"

PartOf = Callable[[str], Tensor]
"""A parameter's name → what a vector has for it, in its shape."""


@dataclass
class Engine:
    """The squared norms ‖J_nᵀ v‖² of a problem's parameters; it keeps what earlier batches told about the network.

    Attributes:
        problem: the network, its parameters and its examples.
        methods: the coverage ledger: for every parameter the rules that it went through, `per-example`, or `unused` (no
            path to the outputs: its gradient is zero). Empty before the first batch.
        user_rules: rules of the user's by parameter, each with its file; only parameters that have some.
        vectorise: whether per-example gradients go through `torch.func.vmap`. It is set to False for good where that
            fails or gives other norms than autograd.
        unchecked: parameters whose gradient is rounding alone, so that no check can tell whether it is right.
        careful: parameters whose quick route was inexact once, and which go the exact one from then on.
    """

    problem: Problem
    methods: dict[str, set[str]] = field(default_factory=dict)
    user_rules: dict[str, set[str]] = field(default_factory=dict)
    vectorise: bool = True
    unchecked: set[str] = field(default_factory=set)
    _layouts: dict[object, tuple[BatchDim | None, ...]] = field(default_factory=dict)
    careful: set[str] = field(default_factory=set)  # parameters whose quick route was inexact once

    def ledger(self) -> dict[str, str]:
        """How every parameter's norms were found: its methods in one text, by name in the order of the problem.

        The text says where the gradient is rounding alone and could not be checked. A parameter that no batch has met
        yet is `unused`.
        """
        words = {
            name: ", ".join(sorted(found - {UNUSED})) or UNUSED
            for name, found in ((name, self.methods.get(name, set())) for name in self.problem.parameters)
        }
        return {name: word + (NOT_CHECKED if name in self.unchecked else "") for name, word in words.items()}

    def share_methods(self) -> None:
        """Add the methods that other ranks have met to the ledger: a network may treat other examples in other ways.

        Collective.
        """
        for methods in self.problem.process_group.exchange(
            {name: sorted(found) for name, found in self.methods.items()}
        ):
            for name, found in methods.items():
                self.methods.setdefault(name, set()).update(found)

    def evaluate(self, batch: Batch) -> "BatchBackward":
        """Run a batch forward in reproducible kernels, ready for any number of directions.

        Where each call keeps the examples is found by a backward pass of two directions, unless an earlier batch has
        told it.

        Args:
            batch: B examples.

        Returns:
            The outputs, and what goes back from them. The graph lives as long as this does.

        Raises:
            ArchitectureError: the outputs do not depend on the analysed parameters.
        """
        outputs, calls = self._forward(batch.inputs)
        if not outputs.requires_grad:
            msg = "the network's outputs do not depend on the analysed parameters: check --include and --exclude"
            raise ArchitectureError(msg)
        graph = read_graph(outputs, len(batch))
        usable = [call for call in calls if call.edge.node in graph.nodes and call.unchanged]
        plan = self._plan(outputs, usable, self._find_layouts(outputs, usable, graph, len(batch)))

        return BatchBackward(self, batch, outputs, plan)

    def _forward(self, inputs: Tensor) -> tuple[Tensor, list[Call]]:
        """The outputs with their graph, and the calls on the way; what blocks save is there in the backward pass."""
        problem = self.problem
        if not problem.blocks:
            with self._recorded(SavedInput.of) as calls:
                return problem.forward(inputs), calls
        while True:
            memory = ActivationCheckpointing(self._recorded_again)
            with self._recorded(memory.hold) as calls, checkpointed(problem.model, problem.blocks, memory):
                outputs = problem.forward(inputs)
            if memory.is_sound():
                return outputs, calls

    def _recorded(self, hold: Hold) -> AbstractContextManager[list[Call]]:
        """What a batch goes forward in."""
        gpu = runs_behind(self.problem.device)
        at_once = CONVOLUTIONS_OF_ALL_DIRECTIONS if gpu else ATTENTION_OF_ALL_DIRECTIONS
        return recorded_calls(self.problem.parameters, hold, at_once)

    @contextmanager
    def _recorded_again(self, keep: Callable[[Tensor], object]) -> Iterator[None]:
        """The same for a block that goes forward a second time, whose operations nobody counts."""

        def hold(tensor: Tensor) -> SavedInput:
            keep(tensor)
            return SavedInput.of(tensor)

        with uncounted(), self._recorded(hold):
            yield

    def _find_layouts(
        self, outputs: Tensor, calls: Sequence[Call], graph: GraphKinds, examples: int
    ) -> tuple[BatchDim | None, ...]:
        """Each call's layout, by a test on this batch or remembered from another.

        Remembered is what the cotangents of a batch told, for graphs that move entries in the same way whatever the
        data are. A single example has every entry, wherever it lies.
        """
        if not calls:
            return ()
        signature = (examples, graph.places, tuple((call.rule, call.roles, call.output_shape) for call in calls))
        known = self._layouts.get(signature) if graph.places is not None else None
        if known is not None:
            return known
        if examples == 1:
            return tuple(only_batch_dim(call) for call in calls)
        generator = torch.Generator().manual_seed(0)
        direction = torch.randn(outputs.shape, generator=generator, dtype=torch.float64).to(outputs)
        ratios = ratios_for(examples, outputs)
        pair = torch.stack([direction, direction * ratios.unsqueeze(1)])
        layouts, told = list[BatchDim | None]([None] * len(calls)), [False] * len(calls)

        def find(index: int, both: Tensor) -> None:
            layouts[index], told[index] = find_batch_dim(calls[index], both[0], both[1], ratios)

        cotangents_in_turn(outputs, [call.edge for call in calls], pair, find)
        if graph.places is not None and all(told):
            self._layouts[signature] = tuple(layouts)
        return tuple(layouts)

    def _plan(self, outputs: Tensor, calls: Sequence[Call], layouts: Sequence[BatchDim | None]) -> BackwardPlan:
        """Which calls serve which parameter; the ledger keeps it."""
        plan = BackwardPlan.of(outputs, self.problem.parameters, calls, layouts)
        for name in self.problem.parameters:
            self.methods.setdefault(name, set()).add(plan.method(name))
            if files := plan.user_rules(name):
                self.user_rules.setdefault(name, set()).update(files)
        return plan


@dataclass
class BatchBackward:
    """One batch that has gone forward, and what goes back from its outputs for any directions.

    Directions v are (K, B, C): K of them for each of the B examples. J is the Jacobian of an example's outputs, (C, P).

    Attributes:
        engine: whose ledger and layouts the batch has added to.
        batch: the examples.
        outputs: z (B, C), with their graph.
        plan: which recorded calls serve which parameter.
    """

    engine: Engine
    batch: Batch
    outputs: Tensor
    plan: BackwardPlan

    def norms(self, directions: Tensor) -> dict[str, Tensor]:
        """‖Jᵀ v‖² by parameter, (K, B) in float64; zero for parameters without a path to the outputs.

        Args:
            directions: v, (K, B, C), in the outputs' precision.
        """
        return self.measure(directions, None, None)

    def measure(
        self, directions: Tensor, coefficients: Tensor | None, take: Take | None, row: int | None = None
    ) -> dict[str, Tensor]:
        """‖Jᵀ v‖² by parameter, and their weighted sum Σ_nk c_kn J_nᵀ v_kn on the way.

        Args:
            directions: v, (K, B, C).
            coefficients: c, (K, B), of which at most one of each example is not zero; None where nobody takes sums.
            take: given a parameter's name and a part of its sum, in the parameter's shape and in the precision in which
                it was computed. The parts of a parameter add up to its sum, which is over the batch and not a mean.
                Sums are given as soon as they are there: of a large network no two parameters' are held at once. A
                parameter without a path to the outputs is left out.
            row: the direction whose coefficients are not zero, where it is the same for all examples. It saves asking
                the device.

        Returns:
            By parameter (K, B) in float64.
        """
        problem, pieces = self.engine.problem, list[dict[str, Tensor]]()
        at_once = directions_at_once(problem.model, self.plan.bytes_per_direction, problem.device)
        for start in range(0, len(directions), at_once):
            some = slice(start, start + at_once)
            chosen, there = None if coefficients is None else coefficients[some], row
            if row is not None:
                there = row - start
                chosen = chosen if 0 <= there < at_once else None
            found = self._norms_by_rules(directions[some], chosen, take, there)
            if self.plan.by_example:
                with spent_on(self.plan.by_example):
                    found |= self._by_example(directions[some])
                    if chosen is not None and take is not None:
                        self._sums_by_autograd(directions[some], chosen, take)
            pieces.append(found)
        zero = torch.zeros_like(directions[:, :, 0], dtype=torch.float64)
        used = {*self.plan.by_rules, *self.plan.by_example}
        return {
            name: torch.cat([piece[name] for piece in pieces]) if name in used else zero for name in problem.parameters
        }

    def project(self, directions: Tensor, part_of: PartOf) -> Tensor:
        """Σ_parameters (Jᵀ v)ᵀ u, (K, B) in float64, for a vector u (P,).

        Args:
            directions: v, (K, B, C).
            part_of: gives the part of u that belongs to a parameter, in its shape. It is asked once for each parameter
                with a path to the outputs.
        """
        total = torch.zeros(directions.shape[:2], dtype=torch.float64, device=directions.device)

        def add(name: str, parts: list[Contribution]) -> None:
            vector = part_of(name)
            total.add_(sum(part.projections(vector) for part in parts))

        with torch.no_grad():
            cotangents_in_turn(self.outputs, self.plan.edges, directions, Uses(self.plan, add).receive)

        # All before the transforms of per-example gradients, in which ranks could not meet.
        vectors = {name: part_of(name) for name in self.plan.by_example}

        def product(name: str, gradient: Tensor) -> Tensor:
            return dot(gradient, vectors[name])

        if vectors:
            total += sum(self._by_example(directions, product).values())
        return total

    def gram(self, directions: Tensor) -> Tensor:
        """Σ_parameters (Jᵀ v_k)ᵀ(Jᵀ v_k'), (B, K, K) in float64, over parameters that go by rules.

        Left out are parameters that go through per-example gradients, and those with contributions of several forms,
        such as an embedding that is tied to a linear layer. It is the whole Gram matrix of an example only where that
        is none.

        Args:
            directions: v, (K, B, C).
        """
        shape = (directions.shape[1], len(directions), len(directions))
        total = torch.zeros(shape, dtype=torch.float64, device=directions.device)

        def add(_name: str, parts: list[Contribution]) -> None:
            one = joined(parts)
            if one is not None:
                total.add_(one.gram())

        cotangents_in_turn(self.outputs, self.plan.edges, directions, Uses(self.plan, add).receive)
        return total

    def contributions(self, directions: Tensor) -> Iterator[tuple[str, list[Contribution] | Tensor]]:
        """Every parameter with a path to the outputs, one after the other, with its gradients Jᵀ v of all directions.

        Args:
            directions: v, (K, B, C).

        Yields:
            A parameter's name, and its contributions, whose sum is Jᵀ v; or (K, B, size) where no rule covers it.
            `explicit` makes (K, B, size) of either.
        """
        yield from one_after_another(self.plan, self.outputs, directions)
        if self.plan.by_example:
            yield from self._by_example(directions, per_example_gradients.flat).items()

    def _norms_by_rules(
        self, directions: Tensor, coefficients: Tensor | None, take: Take | None, row: int | None
    ) -> dict[str, Tensor]:
        """Norms of all parameters with a rule; `take` is given the weighted sums.

        On the CPU each route is judged when it is taken, elsewhere at the end: there the norms of a parameter whose
        quick route was inexact are taken again, and judged at once from then on.
        """
        observed_rows = None if coefficients is None else ObservedRows.of(coefficients, row)
        deferred_checks = DeferredChecks() if runs_behind(directions.device) else None
        parameters, careful = self.engine.problem.parameters, self.engine.careful
        found: dict[str, Tensor] = {}

        def first(name: str, parts: list[Contribution]) -> None:
            shape = parameters[name].shape
            checks = None if deferred_checks is None or name in careful else deferred_checks.of(name)
            with spent_on([name]):
                if observed_rows is None or take is None:
                    found[name] = squared_norms(parts, shape, checks)
                else:
                    found[name], total = norms_and_sum(parts, observed_rows, shape, checks)
                    take(name, total)

        def again(name: str, parts: list[Contribution]) -> None:
            if name in inexact:
                with spent_on([name]):
                    found[name] = squared_norms(parts, parameters[name].shape)

        with torch.no_grad():
            cotangents_in_turn(self.outputs, self.plan.edges, directions, Uses(self.plan, first).receive)
            inexact = set[str]() if deferred_checks is None else set(deferred_checks.owners())
            careful |= inexact
            if inexact:
                cotangents_in_turn(self.outputs, self.plan.edges, directions, Uses(self.plan, again).receive)
        return found

    def _sums_by_autograd(self, directions: Tensor, coefficients: Tensor, take: Take) -> None:
        """Σ_nk c_kn J_nᵀ v_kn of the parameters without a rule, by one ordinary backward pass."""
        cotangents = (directions.double() * coefficients.unsqueeze(2)).sum(0).to(self.outputs.dtype)
        parameters = {name: self.engine.problem.parameters[name] for name in self.plan.by_example}
        with reproducible_kernels():
            gradients_in_turn(self.outputs, parameters, cotangents, take, keep=True)

    def _by_example(
        self, directions: Tensor, reduction: per_example_gradients.Reduction = per_example_gradients.norm
    ) -> dict[str, Tensor]:
        """The norms, or another reduction, of the gradients of the parameters without a rule."""
        given = self.engine.problem, self.plan.by_example, self.batch.inputs, directions, reduction
        if self.engine.vectorise:
            try:
                return per_example_gradients.by_vmap(*given)
            except (RuntimeError, NotImplementedError, TypeError, ValueError) as error:
                raise_if_out_of_memory(error)
                self.engine.vectorise = False
        return per_example_gradients.one_by_one(*given)
