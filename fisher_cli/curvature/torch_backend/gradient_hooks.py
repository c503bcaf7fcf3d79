"""Hooks that change gradients on their way back: they are a part of training, not of the function q(y | x, θ)."""

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn


def with_gradient_hooks(model: nn.Module) -> list[str]:
    """The names of parameters and modules that have such hooks."""
    modules = [name or type(module).__name__ for name, module in model.named_modules() if _of_module(module)]
    return modules + [name for name, parameter in model.named_parameters() if parameter._backward_hooks]


def _of_module(module: nn.Module) -> bool:
    return bool(module._backward_hooks or module._backward_pre_hooks)


@contextmanager
def without_gradient_hooks(model: nn.Module) -> Iterator[None]:
    """Evaluate a network without the hooks that change its gradients while the context is open; all are put back.

    These are `register_hook` of its parameters and `register_full_backward_hook`, `register_full_backward_pre_hook`
    and `register_backward_hook` of its modules. A hook that `forward` itself puts on a tensor stays: it is a part of
    the network's code, and a wrong derivative.
    """
    owners = [(module, name) for module in model.modules() for name in ("_backward_hooks", "_backward_pre_hooks")]
    kept = [(module, name, getattr(module, name)) for module, name in owners]
    hooked = [(parameter, parameter._backward_hooks) for parameter in model.parameters()]
    try:
        for module, name, hooks in kept:
            setattr(module, name, type(hooks)())
        for parameter, hooks in hooked:
            if hooks:
                parameter._backward_hooks = None
        yield
    finally:
        for module, name, hooks in kept:
            setattr(module, name, hooks)
        for parameter, hooks in hooked:
            if hooks:
                parameter._backward_hooks = hooks
