"""The run-time check: some examples against plain autograd, one example and one direction at a time."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from fisher_cli.curvature.gradient_norms import per_example_gradients
from fisher_cli.curvature.gradient_norms.engine import Engine
from fisher_cli.curvature.gradient_norms.plan import UNUSED
from fisher_cli.curvature.gradient_norms.score_gradients import explicit
from fisher_cli.curvature.problem.batch_independence import outputs_of, refuse_coupling_in, refuse_state
from fisher_cli.curvature.problem.problem import Batch, Problem
from fisher_cli.curvature.torch_backend.backend_flags import reproducible_kernels
from fisher_cli.curvature.torch_backend.finite_differences import derivatives_by_tensor
from fisher_cli.curvature.torch_backend.network_state import derives_weights
from fisher_cli.curvature.torch_backend.out_of_memory import raise_if_out_of_memory
from fisher_cli.errors import VerificationError
from fisher_cli.results import Check, Outcome

EXAMPLES = 2
DIRECTIONS = 2

# Tensors are moved together in at most so many groups: a group takes two evaluations of one example.
MOST_GROUPS = 64

# Largest accepted difference of a squared norm, relative to itself.
TOLERANCE = {torch.float32: 1e-3, torch.float64: 1e-7}
# Rounding of a gradient in float64, relative to that of all tensors together: what is left where terms cancel.
ROUNDING = 1e-12
# In float32 every look at a tensor must be off by so much of its gradient, beyond rounding, before the row fails: a
# unit whose input is all but zero may be on in one run and off in the other.
OFF = 0.03

Norms = Mapping[str, Tensor]
"""Squared gradient norms by parameter, (K, n) in float64 for K directions and n examples."""


@dataclass
class Checker:
    """Holds an engine's norms against plain autograd's, each tensor against its own.

    Attributes:
        engine: whose norms are looked at.
        unchecked: the tensors whose gradient is no more than rounding (a key's bias, which no attention weight depends
            on): nothing can be held against it.
        largest: the largest relative difference of all others.
        examples: how many examples were compared.
        precision: in which they were compared at last, such as `float32`; "" before the first.
        derivatives: how many tensors' derivatives were held against finite differences.
        undecided: those of them of which no example could tell.
    """

    engine: Engine
    unchecked: set[str] = field(default_factory=set)
    largest: float = 0.0
    examples: int = 0
    precision: str = ""
    derivatives: int = 0
    undecided: tuple[str, ...] = ()

    def compare(self, batch: Batch, places: Sequence[int], directions: Tensor, ours: Norms) -> None:
        """Hold the norms of some examples of a batch against those of each example alone.

        What differs in float32 is looked at in float64, where rounding does not hide what a small tensor has.

        Args:
            batch: B examples.
            places: the numbers of the examples in the batch that are compared.
            directions: (K, B, C).
            ours: the engine's squared norms for them, (K, B) in float64 by parameter.

        Raises:
            VerificationError: a parameter's norms differ by more than rounding.
        """
        problem, names = self.engine.problem, list(self.engine.problem.parameters)
        index = torch.tensor(places, device=directions.device)
        theirs = per_example_gradients.one_by_one(problem, names, batch.inputs[index], directions[:, index])
        mine = {name: ours[name][:, index] for name in names if name in ours}  # what is missing fails the ledger
        self.examples += len(places)
        self.precision = str(problem.dtype).removeprefix("torch.")
        if problem.dtype is torch.float64:
            self._compare_doubles(mine, theirs, batch, places)
            return
        limits = {name: TOLERANCE[torch.float32] * theirs[name] for name in names}
        differing = [name for name in _beyond(mine, theirs, limits) if name not in self.unchecked]
        if differing:
            self._look_again(batch, places, directions, mine, theirs, differing)
        self._note(mine, theirs, mine.keys() - self.unchecked - set(differing))

    def look_at(self, batch: Batch, directions: Tensor, norms: Norms) -> None:
        """Compare the norms of an example from the middle of the data and of the last, where this batch has them.

        Args:
            batch: one of a sweep.
            directions: all that the sweep took for it, (K, B, C); at most two of them are compared.
            norms: the engine's squared norms for them, (K, B) in float64 by parameter.

        Raises:
            CoupledExamplesError: an example's outputs depend on the others of the batch.
            VerificationError: a parameter's norms differ by more than rounding.
        """
        places = sorted(number - batch.start for number in later_examples(self.engine.problem.examples))
        places = [place for place in places if 0 <= place < len(batch)]
        if places:
            chosen = torch.linspace(0, len(directions) - 1, min(DIRECTIONS, len(directions))).long().tolist()
            some = {name: norm[chosen] for name, norm in norms.items()}
            try:
                self.compare(batch, places, directions[chosen], some)
            except VerificationError:
                refuse_coupling_in(self.engine.problem, batch, places)  # which is another thing to mend
                raise

    def _compare_doubles(self, ours: Norms, theirs: Norms, batch: Batch, places: Sequence[int]) -> None:
        """In float64: to 1e-7 of the tensor's own norm, or to rounding of all tensors' gradient.

        Raises:
            VerificationError: one is further off.
        """
        rounding = ROUNDING * torch.stack(list(theirs.values())).sum(0).sqrt()
        limits = {
            name: TOLERANCE[torch.float64] * norm + 2 * norm.sqrt() * rounding + rounding**2
            for name, norm in theirs.items()
        }
        differing = _beyond(ours, theirs, limits)
        if differing:
            raise VerificationError(self._said(differing[0], ours, theirs, batch, places))
        lost = {name for name, norm in theirs.items() if bool((norm.sqrt() <= 10 * rounding).all() and norm.any())}
        self.unchecked |= lost
        self._note(ours, theirs, ours.keys() - lost)

    def _look_again(
        self,
        batch: Batch,
        places: Sequence[int],
        directions: Tensor,
        ours: Norms,
        theirs: Norms,
        differing: Sequence[str],
    ) -> None:
        """The same in float64, and what of the difference in float32 is rounding.

        Raises:
            VerificationError: the norms differ in float64, or in float32 alone by more than rounding wherever looked.
        """
        double = in_double(self.engine.problem)
        if double is None:
            total = torch.stack(list(theirs.values())).sum(0)
            limits = {name: TOLERANCE[torch.float32] * torch.maximum(theirs[name], 1e-3 * total) for name in differing}
            if beyond := _beyond({name: ours[name] for name in differing}, theirs, limits):
                raise VerificationError(self._said(beyond[0], ours, theirs, batch, places))
            return
        engine, inputs, wide = (
            replace(self.engine, problem=double, methods={}),
            _double(batch.inputs),
            directions.double(),
        )
        index = torch.tensor(places, device=directions.device)
        norms = engine.evaluate(replace(batch, inputs=inputs)).norms(wide)
        exact = per_example_gradients.one_by_one(double, list(double.parameters), inputs[index], wide[:, index])
        self.precision = "float64"
        self._compare_doubles({name: norm[:, index] for name, norm in norms.items()}, exact, batch, places)
        for name in differing:
            true, rounding = exact[name].sqrt(), (theirs[name].sqrt() - exact[name].sqrt()).abs()
            off = (ours[name].sqrt() - true).abs()
            if bool((rounding >= 0.3 * true).all()):
                self.unchecked.add(name)
            elif bool((off > torch.maximum(OFF * true, 10 * rounding)).all()):
                raise VerificationError(self._said(name, ours, theirs, batch, places))

    def _said(self, name: str, ours: Norms, theirs: Norms, batch: Batch, places: Sequence[int]) -> str:
        apart = torch.nan_to_num((ours[name] - theirs[name]).abs(), nan=torch.inf)
        k, place = divmod(int(apart.argmax()), apart.shape[1])
        defect = "this is a defect of fisher: please report the layer"
        if name in self.engine.user_rules:
            defect = f"{self._user_rules(name)} is wrong: mend it, or take it away"
        return (
            f"parameter {name}: squared gradient norm {float(ours[name][k, place]):.9g} among others, "
            f"{float(theirs[name][k, place]):.9g} by autograd on example {batch.start + places[place]} alone; either "
            f"the network couples the examples of a batch or {defect}"
        )

    def _user_rules(self, name: str) -> str:
        return f"the rule {' or '.join(sorted(self.engine.user_rules[name]))}"

    def compare_gradients(self, batch: Batch, directions: Tensor) -> None:
        """Hold the gradients that rules of the user's give against autograd's: a norm does not tell entries apart.

        Args:
            batch: a few examples, of which each is compared.
            directions: (K, B, C).

        Raises:
            VerificationError: the gradients differ.
        """
        problem, inputs = self.engine.problem, batch.inputs
        if (double := in_double(problem)) is not None:
            problem, inputs, directions = double, _double(inputs), directions.double()
        engine = replace(self.engine, problem=problem, methods={})
        tolerance = TOLERANCE[problem.dtype] ** 0.5
        for name, parts in engine.evaluate(replace(batch, inputs=inputs)).contributions(directions):
            if name in self.engine.user_rules and name not in self.unchecked:
                ours = explicit(parts, problem.parameters[name].shape)
                given = problem, [name], inputs, directions, per_example_gradients.flat
                theirs = per_example_gradients.one_by_one(*given)[name]
                if not bool((ours - theirs).norm() <= tolerance * theirs.norm()):
                    msg = (
                        f"parameter {name}: the gradients are others than by autograd, in the order of their entries "
                        f"or their signs: {self._user_rules(name)} is wrong: mend it, or take it away"
                    )
                    raise VerificationError(msg)

    def _note(self, ours: Norms, theirs: Norms, names: Iterable[str]) -> None:
        for name in names:
            there = theirs[name] > 0
            relative = ((ours[name] - theirs[name]).abs() / theirs[name])[there]
            self.largest = max(self.largest, float(relative.max()) if relative.numel() else 0.0)

    def result(self) -> Check:
        """How many examples were compared, how far the worst norm was off, and the tolerance, for the record."""
        dtype = torch.float64 if self.precision == "float64" else torch.float32
        return Check(
            self.examples,
            DIRECTIONS,
            self.largest,
            TOLERANCE[dtype],
            self.precision,
            self.derivatives,
            self.undecided,
        )


def _beyond(ours: Norms, theirs: Norms, limits: Norms) -> list[str]:
    """The tensors of which some norm is further off than its limit; NaN is."""
    return [name for name in ours if not bool(((ours[name] - theirs[name]).abs() <= limits[name]).all())]


def _double(inputs: Tensor) -> Tensor:
    return inputs.double() if inputs.is_floating_point() else inputs


def in_double(problem: Problem) -> Problem | None:
    """The same problem with a copy of the network in float64; None for a network that cannot be copied.

    An error of memory that runs out is let through.
    """
    try:
        return problem.double()
    except RuntimeError as error:
        raise_if_out_of_memory(error)
        return None


def check(engine: Engine, *, unchecked: Iterable[str] = (), derivatives: bool = True) -> Checker:
    """Hold a few examples against themselves evaluated alone: their outputs, and the engine's norms against autograd's.

    Where vectorised per-example gradients are what differs, the engine is told to take them one by one.

    Args:
        engine: of the network and its examples; its `unchecked` tensors are noted there.
        unchecked: tensors known from other weights of this network to have a gradient that is rounding.
        derivatives: whether to hold autograd's derivatives against finite differences of the outputs, too. Networks
            that count as large are left out.

    Returns:
        A checker that goes on with later batches by `look_at`, and gives the record by `result`.

    Raises:
        CoupledExamplesError: outputs depend on the other examples, on chance or on earlier calls.
        VerificationError: a parameter's norms differ, or autograd's derivatives from those of the outputs.
    """
    problem = engine.problem
    batch = problem.slice(0, min(problem.batch_size, problem.examples))
    few = replace(batch, inputs=batch.inputs[:EXAMPLES], labels=batch.labels[:EXAMPLES])
    refuse_state(problem, few.inputs)
    refuse_coupling_in(problem, batch)
    evaluated = engine.evaluate(few)
    shape = evaluated.outputs.shape
    generator = torch.Generator().manual_seed(0)
    directions = torch.randn(min(DIRECTIONS, shape[1]), *shape, generator=generator, dtype=torch.float64)
    directions = directions.to(device=evaluated.outputs.device, dtype=evaluated.outputs.dtype)
    checker = Checker(engine, set(unchecked))
    try:
        checker.compare(few, range(len(few)), directions, evaluated.norms(directions))
    except VerificationError:
        if not engine.vectorise:
            raise
        engine.vectorise = False
        checker = Checker(engine, set(unchecked))
        checker.compare(few, range(len(few)), directions, evaluated.norms(directions))
    if engine.user_rules:
        checker.compare_gradients(few, directions)
    engine.unchecked |= checker.unchecked
    if derivatives and not problem.is_large:
        refuse_kept_weights(problem, [name for name in problem.parameters if engine.methods[name] == {UNUSED}], few)
        checker.derivatives = len(problem.parameters)
        checker.undecided = check_derivatives(problem)
    return checker


def refuse_kept_weights(problem: Problem, unused: Sequence[str], batch: Batch) -> None:
    """Move parameters that no output depends on in a copy, put it into training mode and back, and look at the outputs.

    Raises:
        VerificationError: they are others: weights are computed from these parameters once, in evaluation mode.
    """
    if not unused or not any(derives_weights(module) for module in problem.model.modules()):
        return
    double = in_double(problem)
    if double is None:
        return
    inputs = _double(batch.inputs)
    before = outputs_of(double, inputs)
    for name in unused:
        parameter = double.parameters[name]
        kept = parameter.detach().clone()
        with torch.no_grad():
            double.model.train()
            parameter.mul_(1.5).add_(0.1)
            double.model.eval()
            double.state.renew()
            moved = outputs_of(double, inputs)
            double.model.train()
            parameter.copy_(kept)
            double.model.eval()
            double.state.renew()
        if float((moved - before).abs().amax()) > 1e-6 * float(before.abs().amax()):
            msg = (
                f"{name}: the network computes weights from it when it is put into evaluation mode and keeps them, so "
                "that its gradient is zero; compute them in the forward pass, or leave this tensor out with --exclude"
            )
            raise VerificationError(msg)


def check_derivatives(problem: Problem) -> tuple[str, ...]:
    """Hold J v against finite differences of the outputs, tensor by tensor, on one example in float64.

    What a kink or rounding hides there is looked at on two other examples.

    Returns:
        The tensors of which no example could tell.

    Raises:
        VerificationError: autograd's derivative is not that of the outputs; the tensors are named.
    """
    double = in_double(problem) if problem.dtype is not torch.float64 else problem
    if double is None:
        return tuple(problem.parameters)
    undecided = dict(double.parameters)
    for example in dict.fromkeys((0, problem.examples // 2, problem.examples - 1)):
        inputs = double.slice(example, example + 1).inputs

        def outputs(inputs: Tensor = inputs) -> Tensor:
            with reproducible_kernels():
                return double.forward(inputs)

        found = derivatives_by_tensor(outputs, undecided, most_groups=MOST_GROUPS)
        failed = [each for each in found if each.outcome is Outcome.FAILED]
        if failed:
            names = [name for each in failed for name in each.names]
            more = f" and {len(names) - 3} more" if len(names) > 3 else ""
            msg = (
                f"{', '.join(names[:3])}{more}: {failed[0].reason} (finite differences on example {example}), and the "
                "numbers would be those of another network; if it is meant so, leave these tensors out with --exclude"
            )
            raise VerificationError(msg)
        names = [name for each in found if each.outcome is Outcome.UNDECIDED for name in each.names]
        undecided = {name: undecided[name] for name in names}
        if not undecided:
            break
    return tuple(undecided)


def later_examples(examples: int) -> set[int]:
    """The numbers of an example from the middle of the data, and of the last."""
    return {int(0.382 * examples), examples - 1}
