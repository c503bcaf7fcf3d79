"""Gradients of parameters from those of what is computed from them: weight norm, masks, slices, transposes, LoRA.

By the chain rule the gradient of a parameter θ that enters through tensors r(θ) alone is Σ_r (∂r/∂θ)ᵀ G_r, whatever
the function r; what is pulled back is as large as r, and not the network's activations.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.autograd.graph import get_gradient_edge
from torch.func import vmap

from fisher_cli.curvature.gradient_norms.attribution import GradientSource
from fisher_cli.curvature.gradient_norms.autograd_graph import refuse_wrong_vectorisation
from fisher_cli.curvature.gradient_norms.call_recorder import WeightNorm
from fisher_cli.curvature.gradient_norms.deferred_checks import DeferredChecks
from fisher_cli.curvature.gradient_norms.grad_factors import FormedGradients, Given, OuterProducts
from fisher_cli.curvature.torch_backend.backend_flags import reproducible_kernels
from fisher_cli.curvature.torch_backend.out_of_memory import raise_if_out_of_memory


@dataclass(frozen=True)
class WeightNormGradients(FormedGradients):
    """Those of v or g in w_i = g_i v_i/‖v_i‖, whose norms need no gradient at a single position.

    With u_i = v_i/‖v_i‖ and G_i = δ_i a: ∂g_i = ⟨G_i, u_i⟩ = δ_i ⟨a, u_i⟩ and ∂v_i = (g_i/‖v_i‖)(G_i − ∂g_i u_i), so
    ‖∂v_i‖² = (g_i/‖v_i‖)² δ_i² (‖a‖² − ⟨a, u_i⟩²). In float64: the difference may be all but zero.
    """

    outer: OuterProducts
    norm: WeightNorm
    of_g: bool

    def squared_norms(self, deferred_checks: DeferredChecks | None = None) -> Tensor:  # noqa: ARG002 - in float64: exact
        """‖∂g‖² or ‖∂v‖², (K, B) in float64."""
        v, g = self.norm.v.detach().double().flatten(1), self.norm.g.detach().double().reshape(-1)
        a, lengths = self.outer.inputs.flatten(1).double(), v.norm(dim=1)
        along = (a @ (v / lengths.unsqueeze(1)).T).square()
        factors = along if self.of_g else (a.square().sum(1, keepdim=True) - along) * (g / lengths).square()
        return torch.stack([(each.flatten(1).double().square() * factors).sum(1) for each in self.outer.cotangents])


def pulled_back_to(
    parameter: Tensor, sources: Sequence[GradientSource], parts: Sequence[Sequence[Given]]
) -> FormedGradients:
    """The contribution to a parameter of what calls contribute to its sources: Σ_r (∂r/∂θ)ᵀ G_r.

    Args:
        parameter: θ.
        sources: r, which are all through which θ enters.
        parts: for every source what its uses add to G_r.
    """
    given = [(each, source.shape) for each, source in zip(parts, sources, strict=True)]
    pull = _pull_back_to(parameter, sources)
    norm, (first, *others) = sources[0].weight_norm, parts[0]
    is_alone = len(sources) == 1 and not others and norm is not None and (parameter is norm.v or parameter is norm.g)
    if is_alone and norm is not None and isinstance(first, OuterProducts):
        _, _, groups, _, positions = first.cotangents.shape
        if groups == positions == 1 and not first.transposed:
            return WeightNormGradients(given, pull, first, norm, parameter is norm.g)
    return FormedGradients(given, pull)


def _pull_back_to(parameter: Tensor, sources: Sequence[GradientSource]) -> Callable[[Sequence[Tensor]], Tensor]:
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
            return total.reshape(len(total), -1)
        given = [gradients[index].to(dtype) for index, dtype in zip(through, types, strict=True)]
        with reproducible_kernels():
            try:
                refuse_wrong_vectorisation(edge.node for edge in edges)
                found = vmap(one)(*given)
            except (RuntimeError, NotImplementedError) as error:  # torch's alone: nothing of ours runs in there
                raise_if_out_of_memory(error)
                found = torch.stack([one(*each) for each in zip(*given, strict=True)])
        return (found + total).reshape(len(found), -1)  # also of a parameter that is a single number

    return pull_back
