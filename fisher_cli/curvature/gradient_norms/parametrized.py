"""Gradients of parameters from those of what is computed from them: weight norm, masks, slices, transposes, LoRA.

By the chain rule the gradient of a parameter θ that enters through tensors r(θ) alone is Σ_r (∂r/∂θ)ᵀ G_r, whatever
the function r; what is pulled back is as large as r, and not the network's activations.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.autograd.graph import get_gradient_edge
from torch.func import vmap

from fisher_cli.curvature.gradient_norms.attribution import Source
from fisher_cli.curvature.kernels import reproducible_kernels
from fisher_cli.curvature.memory import raise_if_out_of_memory


def pull_back_to(parameter: Tensor, sources: Sequence[Source]) -> Callable[[Sequence[Tensor]], Tensor]:
    """The map from gradients G_r (n, *shape), one per source, to the parameter's (n, size), through their graph."""
    through = [index for index, source in enumerate(sources) if not source.is_parameter]
    edges = [sources[index].edge for index in through]
    types = [edge.node._input_metadata[edge.output_nr].dtype for edge in edges]
    itself = [index for index, source in enumerate(sources) if source.edge.node is get_gradient_edge(parameter).node]

    def one(*gradients: Tensor) -> Tensor:
        (found,) = torch.autograd.grad(edges, parameter, gradients, retain_graph=True)
        return found

    def pull_back(gradients: Sequence[Tensor]) -> Tensor:
        total = sum(gradients[index] for index in itself)
        if not through:
            assert isinstance(total, Tensor)
            return total.flatten(1)
        given = [gradients[index].to(dtype) for index, dtype in zip(through, types, strict=True)]
        with reproducible_kernels():
            try:
                found = vmap(one)(*given)
            except (RuntimeError, NotImplementedError) as error:  # torch's alone: nothing of ours runs in there
                raise_if_out_of_memory(error)
                found = torch.stack([one(*each) for each in zip(*given, strict=True)])
        return (found + total).flatten(1)

    return pull_back
