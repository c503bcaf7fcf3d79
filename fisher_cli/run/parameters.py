"""Which of a network's parameters are analysed, and which of its blocks keep no activations."""

from dataclasses import replace
from fnmatch import fnmatchcase
from functools import partial

import torch
from torch import nn

from fisher_cli.curvature.problem.problem import Problem
from fisher_cli.curvature.torch_backend.activation_checkpointing import blocks_of
from fisher_cli.curvature.torch_backend.backend_flags import reproducible_kernels
from fisher_cli.errors import UsageError
from fisher_cli.inputs.checkpoints.pruning import plain_name
from fisher_cli.settings import Settings

WEIGHTED = (nn.Linear, nn.modules.conv._ConvNd)


def select_parameters(module: nn.Module, settings: Settings) -> dict[str, nn.Parameter]:
    """The trainable parameters whose names match one of `include` and none of `exclude`, tied ones once.

    With `weights_only` of these the weights of linear and convolutional layers.

    Returns:
        By name, in the order of the module; the names are those before pruning.

    Raises:
        UsageError: no parameter is left, or there was none.
    """
    weights = {id(own["weight"]) for own in _layers(module).values() if "weight" in own}
    names = {plain_name(name): parameter for name, parameter in module.named_parameters()}
    chosen = {
        name: parameter
        for name, parameter in names.items()
        if parameter.requires_grad
        and (not settings.weights_only or id(parameter) in weights)
        and any(fnmatchcase(name, pattern) for pattern in settings.include)
        and not any(fnmatchcase(name, pattern) for pattern in settings.exclude)
    }
    if not any(parameter.requires_grad for parameter in names.values()):
        msg = f"all {len(names)} parameters are frozen: give those to analyse gradients, with requires_grad_(True)"
        raise UsageError(msg if names else "the network has no parameters: nothing can be analysed")
    if not chosen:
        some = ", ".join(list(names)[:4])
        msg = f"--include and --exclude leave none of the {len(names)} parameters (such as {some}): loosen the patterns"
        raise UsageError(msg)
    return chosen


def without_head(problem: Problem) -> Problem:
    """The problem without the parameters of the linear or convolutional layer that a forward pass calls last.

    Raises:
        UsageError: no such layer is called, or no other parameter is left.
    """
    layers, called = _layers(problem.model), list[nn.Module]()
    handles = [layer.register_forward_hook(partial(_note, called)) for layer in layers]
    try:
        with reproducible_kernels(), torch.no_grad():
            problem.forward(problem.slice(0, 1).inputs)
    finally:
        for handle in handles:
            handle.remove()
    head = {id(parameter) for parameter in layers[called[-1]].values()} if called else set()
    kept = {name: parameter for name, parameter in problem.parameters.items() if id(parameter) not in head}
    if not called or not kept:
        what = "no other parameter is left" if called else "the network calls no linear or convolutional layer"
        msg = f"--without-head: {what}: choose parameters with --with-head and --exclude"
        raise UsageError(msg)
    return replace(problem, parameters=kept)


def _note(called: list[nn.Module], layer: nn.Module, *_: object) -> None:
    called.append(layer)


def _layers(module: nn.Module) -> dict[nn.Module, dict[str, nn.Parameter]]:
    """The linear and convolutional layers, each with its own parameters by their plain names."""
    return {
        layer: {plain_name(name): parameter for name, parameter in layer.named_parameters()}
        for layer in module.modules()
        if isinstance(layer, WEIGHTED)
    }


def recomputing(problem: Problem) -> Problem:
    """The same problem, with the activations of its network's blocks computed anew in the backward pass.

    Raises:
        UsageError: there are no blocks.
    """
    blocks = blocks_of(problem.model, problem.slice(0, 1).inputs)
    if not blocks:
        msg = (
            "--activations recompute: no blocks were found in the network (children of nn.Sequential or "
            "nn.ModuleList); type --activations keep"
        )
        raise UsageError(msg)
    return replace(problem, blocks=blocks)
