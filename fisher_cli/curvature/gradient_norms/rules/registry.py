"""The registry of layer rules: which rule serves which function, and for which of its calls it is exact.

A module of this folder, or the file that a user's network comes from, adds to it by the decorators; nothing else lists
the rules. A decorated function turns a call's arguments, inputs (B, …) and output cotangents (K, B, …) into what the
call adds to the gradient of each of its parameters, per direction and example.
"""

import inspect
import pkgutil
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import wraps
from operator import attrgetter
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.overrides import get_testing_overrides

from fisher_cli.curvature.gradient_norms.grad_factors import Given
from fisher_cli.curvature.torch_backend.out_of_memory import raise_if_out_of_memory
from fisher_cli.curvature.torch_backend.patches import Place
from fisher_cli.errors import ArchitectureError

Arguments = Mapping[str, Any]
"""A call's arguments by name, without its inputs."""
Contributions = Callable[[Arguments, Any, Tensor], Mapping[str, Given | Tensor]]
Operands = Callable[[Sequence[Any], Mapping[str, Any], object], Iterable[tuple[dict[str, Any], Any]]]
"""(args, kwargs, output) of an operator → the arguments and inputs of each of its uses of a parameter."""
AnyFunction = TypeVar("AnyFunction", bound=Callable[..., Any])


@dataclass(frozen=True)
class Rule:
    """How the calls of some functions contribute to the gradients of their parameters.

    Attributes:
        name: what the coverage ledger says.
        contributions: the decorated function.
        parameters: the arguments that it gives the gradients of.
        exact: whether it is exact for a call of these arguments, `output_dimensions` among them.
        batch_anywhere: whether the examples may lie in another dimension than the first, as in (time, batch, features).
        folds: whether an example may have several rows of the batch dimension, whose contributions add up.
        file: where a rule of the user's comes from; None for ours.
    """

    name: str
    contributions: Contributions
    parameters: tuple[str, ...]
    exact: Callable[[Arguments], bool] = lambda _: True
    batch_anywhere: bool = False
    folds: bool = True
    file: str | None = None


@dataclass(frozen=True, eq=False)
class WatchedFunction:
    """A function of a module or class whose calls have a rule.

    Attributes:
        rule: of its calls.
        defaults: its argument names in order, with their defaults.
        inputs: what the rule needs of the data, where that is not the first argument that is no parameter; else None.
        is_forward: whether it is the forward pass of modules, which hold the parameters.
    """

    rule: Rule
    defaults: Mapping[str, Any]
    inputs: Callable[[Arguments], Tensor] | None
    is_forward: bool

    @property
    def input(self) -> str:
        """The argument that holds the examples: the first that is no parameter."""
        return next(name for name in self.defaults if name not in self.rule.parameters)

    def arguments(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> dict[str, Any]:
        """All arguments of a call by name; of a module also its parameters, and itself as `module`."""
        if not self.is_forward:
            return {**self.defaults, **dict(zip(self.defaults, args, strict=False)), **kwargs}
        module, *args = args
        held = {name: attrgetter(name)(module) for name in self.rule.parameters}
        return {**self.defaults, **dict(zip(self.defaults, args, strict=False)), **kwargs, **held, "module": module}


@dataclass(frozen=True, eq=False)
class TensorOperator:
    """A function of torch that is no name in a module (`x + y`, `x[ids]`), and how its arguments are read."""

    rule: Rule
    operands: Operands
    in_place: bool


@dataclass(frozen=True)
class Product:
    """A use of parameters within a decomposition.

    Attributes:
        rule: what gives its contributions.
        arguments: the parameters by name, with None where there is none.
        inputs: what the rule is given of the data, (B, …).
        output: (B, …), whose cotangents the rule is given.
    """

    rule: Rule
    arguments: dict[str, Tensor | None]
    inputs: Tensor
    output: Tensor


@dataclass(frozen=True)
class Decomposed:
    """What the function returns, and the products on the way."""

    outputs: tuple[Tensor, ...]
    products: Sequence[Product]


Decompose = Callable[[str, Sequence[Any]], Decomposed | None]

WATCHED: dict[Place, WatchedFunction] = {}
OPERATORS: dict[object, TensorOperator] = {}
DECOMPOSITIONS: dict[Place, Decompose] = {}


def rule(
    *functions: Any,
    parameters: tuple[str, ...],
    name: str = "",
    exact: Callable[[Arguments], bool] = lambda _: True,
    inputs: Callable[[Arguments], Tensor] | None = None,
    operands: Operands | None = None,
    in_place: bool = False,
    batch_anywhere: bool = False,
    folds: bool = True,
) -> Callable[[AnyFunction], AnyFunction]:
    """Register the decorated function (arguments, inputs, cotangents) → {parameter: contribution}.

    A contribution is the gradient of each direction and example, (K, B, *parameter's shape), or one of the forms of
    `grad_factors`. A call's inputs come with the B examples in the first dimension, its cotangents (K, B, …) with the
    K directions before them; arguments are as the call was given them. All calls within a watched function are its own.

    Args:
        functions: Whose calls it serves: a name ("torch.nn.functional.linear"), a function of a module, a
            torch.autograd.Function, or the class of modules whose forward it is; with `operands`, functions of torch
            itself.
        parameters: The arguments that are parameters, or computed from them; of modules the names of their parameters.
        name: What the ledger says; else the decorated function's name.
        exact: Whether it is exact for a call of these arguments; other calls go through per-example gradients.
        inputs: What the rule needs of the data, examples first; else the first argument that is no parameter.
        operands: How an operator's arguments are read, of which those are used that hold parameters.
        in_place: Whether the operator overwrites its first argument, which the rule needs.
        batch_anywhere: Whether the examples may lie in another dimension than the first.
        folds: Whether an example may have several rows, whose contributions add up.

    Raises:
        ValueError: A function cannot be watched.
    """

    def register(contributions: AnyFunction) -> AnyFunction:
        word = name or contributions.__name__.replace("_", "-")
        give: Contributions = contributions
        holds, data, file = exact, inputs, None
        if not contributions.__module__.startswith("fisher_cli."):
            file = Path(inspect.getfile(contributions)).name
            guard = _guarded(word, file)
            give, holds = guard(_whole(contributions, parameters)), guard(exact)
            data = None if inputs is None else guard(inputs)
        made = Rule(word, give, parameters, holds, batch_anywhere, folds, file)
        for function in functions:
            if operands is not None:
                OPERATORS[function] = TensorOperator(made, operands, in_place)
                continue
            place, defaults, is_forward = _place_of(function)
            if not defaults.keys() - set(parameters):
                msg = f"{function}: a rule needs an argument that is no parameter"
                raise ValueError(msg)
            WATCHED[place] = WatchedFunction(made, defaults, data, is_forward)
        return contributions

    return register


def decomposition(*functions: str) -> Callable[[Decompose], Decompose]:
    """Register the decorated function (name, args) → what a function of torch does, by products that have rules.

    It returns None for calls that it has no products for, which then go the usual way.

    Args:
        *functions: names, such as "torch._VF.lstm".
    """

    def register(decompose: Decompose) -> Decompose:
        DECOMPOSITIONS.update({_named(function): decompose for function in functions})
        return decompose

    return register


def _named(function: str) -> Place:
    owner, _, name = function.rpartition(".")
    return pkgutil.resolve_name(owner), name


def _place_of(function: Any) -> tuple[Place, dict[str, Any], bool]:
    """Where a function lies, its arguments with their defaults, and whether it is the forward pass of modules.

    Raises:
        ValueError: It lies nowhere by its name.
    """
    if isinstance(function, str):
        place = _named(function)
        return place, _defaults(getattr(*place)), False
    if isinstance(function, type) and issubclass(function, nn.Module):
        return (function, "forward"), _defaults(function.forward, skip=1), True
    if isinstance(function, type) and issubclass(function, torch.autograd.Function):
        is_apart = function.setup_context is not torch.autograd.Function.setup_context
        return (function, "apply"), _defaults(function.forward, skip=0 if is_apart else 1), False
    owner, name = sys.modules.get(getattr(function, "__module__", "")), getattr(function, "__name__", "")
    if getattr(owner, name, None) is not function:
        msg = f"{function}: no module has this function by its name, so that its calls cannot be watched"
        raise ValueError(msg)
    return (owner, name), _defaults(function), False


def _defaults(function: Any, skip: int = 0) -> dict[str, Any]:
    """Argument names in order, with defaults; None where there is none."""
    try:
        signature = inspect.signature(function)
    except ValueError:  # of torch's own functions in C++ torch says itself what they are given
        signature = inspect.signature(get_testing_overrides()[function])
    given = [each for each in signature.parameters.values() if each.kind not in {each.VAR_POSITIONAL, each.VAR_KEYWORD}]
    return {each.name: None if each.default is each.empty else each.default for each in given[skip:]}


def _guarded(name: str, file: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """What makes the errors of a user's function say whose they are."""

    def guard(function: Callable[..., Any]) -> Callable[..., Any]:
        @wraps(function)
        def guarded(*given: Any) -> Any:
            try:
                return function(*given)
            except Exception as error:
                if isinstance(error, RuntimeError):
                    raise_if_out_of_memory(error)
                msg = f"the rule {name} of {file} failed ({type(error).__name__}: {error}); mend it, or take it away"
                raise ArchitectureError(msg) from error

        return guarded

    return guard


def _whole(contributions: Contributions, parameters: Sequence[str]) -> Contributions:
    """A user's rule, held to what it has to return."""

    @wraps(contributions)
    def checked(arguments: Arguments, inputs: Any, cotangents: Tensor) -> Mapping[str, Given | Tensor]:
        found = contributions(arguments, inputs, cotangents)
        for name in parameters:
            if not isinstance(arguments.get(name), Tensor):
                continue  # a bias that is None
            if name not in found:
                msg = f"it gives no gradient of {name}"
                raise ValueError(msg)
            gradient, expected = found[name], (*cotangents.shape[:2], *arguments[name].shape)
            if isinstance(gradient, Tensor) and gradient.shape != expected:
                msg = f"the gradient of {name} has shape {(*gradient.shape,)}, {expected} is wanted"
                raise ValueError(msg)
        return found

    return checked
