"""Recurrent layers step by step, and the rules of their weights: dW = Σ_t δ_t a_tᵀ over the steps.

torch's own function is one call for all steps, layers and directions. Decomposed, every layer's pre-activations
a_t = W x_t + b + U h_{t−1} + c begin with one product for all steps, whose cotangents (B, T, …) are the δ_t of W, U,
b and c.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from fisher_cli.curvature.gradient_norms.grad_factors import Given
from fisher_cli.curvature.gradient_norms.rules.linear import linear
from fisher_cli.curvature.gradient_norms.rules.registry import Decomposed, Product, Rule, decomposition

State = tuple[Tensor, ...]
"""What a layer hands on: h (B, H), of an LSTM also its cells c."""

WEIGHTS = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")


def _lstm_step(given: Tensor, product: Tensor, state: State) -> tuple[State, Tensor | None]:
    i, f, g, o = (given + product).chunk(4, 1)
    c = f.sigmoid() * state[1] + i.sigmoid() * g.tanh()
    return (o.sigmoid() * c.tanh(), c), None


def _gru_step(given: Tensor, product: Tensor, state: State) -> tuple[State, Tensor | None]:
    (x_r, x_z, x_n), (h_r, h_z, h_n) = given.chunk(3, 1), product.chunk(3, 1)
    r, z = (x_r + h_r).sigmoid(), (x_z + h_z).sigmoid()
    n = (x_n + r * h_n).tanh()
    return (n + z * (state[0] - n),), r


def _tanh_step(given: Tensor, product: Tensor, _: State) -> tuple[State, Tensor | None]:
    return ((given + product).tanh(),), None


def _relu_step(given: Tensor, product: Tensor, _: State) -> tuple[State, Tensor | None]:
    return ((given + product).relu(),), None


Step = Callable[[Tensor, Tensor, State], tuple[State, Tensor | None]]
"""(W x + b, U h + c, state) → the next state, and what U h is multiplied with where that is not one."""


def recurrent(arguments: Mapping[str, Any], inputs: Tensor, cotangents: Tensor) -> dict[str, Given]:
    """dW = Σ_t δ_t x_tᵀ, dU = Σ_t δ_t h_{t−1}ᵀ and db = dc = Σ_t δ_t over the steps t.

    Args:
        arguments: those of the call.
        inputs: x_t beside h_{t−1}, (B, T, F + H).
        cotangents: δ, of the pre-activations, (K, B, T, …).
    """
    return _of_both(arguments, inputs, cotangents, cotangents)


def gru(arguments: Mapping[str, Any], inputs: Tensor, cotangents: Tensor) -> dict[str, Given]:
    """The same with r_t ∘ δ_t for δ_t in the last third of U and c: r_t multiplies U h + c before that is added.

    Args:
        arguments: those of the call.
        inputs: x_t beside h_{t−1} and r_t, (B, T, F + 2 H).
        cotangents: δ, of the pre-activations, (K, B, T, 3 H).
    """
    width = arguments["weight_hh"].shape[1]
    r = inputs[..., -width:]
    to_states = torch.cat([cotangents[..., : 2 * width], cotangents[..., 2 * width :] * r], -1)
    return _of_both(arguments, inputs[..., :-width], cotangents, to_states)


def _of_both(arguments: Mapping[str, Any], inputs: Tensor, to_inputs: Tensor, to_states: Tensor) -> dict[str, Given]:
    """From what the products with inputs and those with states get back."""
    width = arguments["weight_ih"].shape[1]
    x, h = inputs[..., :width], inputs[..., width:]
    found = {"ih": linear(arguments, x, to_inputs), "hh": linear(arguments, h, to_states)}
    return {f"{role}_{side}": part for side, parts in found.items() for role, part in parts.items()}


_RNN = Rule("rnn", recurrent, WEIGHTS)
# By the function's name in torch: the rule, and a step.
STEPS: dict[str, tuple[Rule, Step]] = {
    "lstm": (Rule("lstm", recurrent, WEIGHTS), _lstm_step),
    "gru": (Rule("gru", gru, WEIGHTS), _gru_step),
    "rnn_tanh": (_RNN, _tanh_step),
    "rnn_relu": (_RNN, _relu_step),
}
_PROJECTION = Rule("linear", linear, ("weight", "bias"), batch_anywhere=True)


@decomposition(*(f"torch._VF.{name}{ending}" for name in STEPS for ending in ("", "_cell")))
def unrolled(name: str, args: Sequence[Any]) -> Decomposed | None:
    """The function of torch of this name step by step; None for packed sequences and where dropout is on."""
    if name.endswith("_cell"):
        return _cell(name.removesuffix("_cell"), *args)
    if not isinstance(args[3], bool):  # packed: (data, batch_sizes, state, weights, …)
        return None
    return _layers(name, *args)


def _cell(name: str, x: Tensor, hx: Any, *weights: Tensor | None) -> Decomposed:
    """One step, whose outputs are the state: a pair for an LSTM."""
    state = tuple(hx) if name == "lstm" else (hx,)
    states, products = _steps(name, x.unsqueeze(1), state, [*weights, *(None,) * (4 - len(weights))], None)
    return Decomposed(states[-1], products)


def _layers(
    name: str,
    x: Tensor,
    hx: Any,
    flat: Sequence[Tensor],
    has_biases: bool,
    layers: int,
    dropout: float,
    train: bool,
    bidirectional: bool,
    batch_first: bool,
) -> Decomposed | None:
    """The outputs (T, B, …) or (B, T, …), then the last states (layers · directions, B, …)."""
    if dropout and train:
        return None
    initial = tuple(hx) if name == "lstm" else (hx,)
    directions, each = 1 + bidirectional, len(flat) // (layers * (1 + bidirectional))
    x = x if batch_first else x.transpose(0, 1)
    last, products, outputs = list[State](), list[Product](), list[list[Tensor]]()
    for layer in range(layers):
        outputs = []
        for direction in range(directions):
            number = layer * directions + direction
            own = flat[number * each : (number + 1) * each]
            biases = own[2:4] if has_biases else (None, None)
            projection = own[-1] if each > 2 + 2 * has_biases else None
            ordered = x.flip(1) if direction else x
            states, found = _steps(
                name, ordered, tuple(part[number] for part in initial), [*own[:2], *biases], projection
            )
            products += found
            last.append(states[-1])
            outputs.append([state[0] for state in (reversed(states) if direction else states)])
        x = torch.cat([torch.stack(steps, 1) for steps in outputs], 2)
    result = x if batch_first else torch.cat([torch.stack(steps) for steps in outputs], 2)
    return Decomposed((result, *(torch.stack(parts) for parts in zip(*last, strict=True))), products)


def _steps(
    name: str, x: Tensor, state: State, weights: Sequence[Tensor | None], projection: Tensor | None
) -> tuple[list[State], list[Product]]:
    """The states after every step of one layer in one direction, and its products."""
    own, step = STEPS[name]
    w_ih, w_hh, b_ih, b_hh = weights
    assert w_ih is not None
    assert w_hh is not None
    given = _differentiable(functional.linear(x, w_ih, b_ih))
    probe = _differentiable(x.new_zeros(*x.shape[:2], len(projection))) if projection is not None else None
    states, before, factors, projected = list[State](), list[Tensor](), list[Tensor](), list[Tensor]()
    for number, each in enumerate(given.unbind(1)):
        before.append(state[0].detach())
        state, factor = step(each, functional.linear(state[0], w_hh, b_hh), state)
        if factor is not None:
            factors.append(factor.detach())
        if projection is not None and probe is not None:
            projected.append(state[0].detach())
            state = functional.linear(state[0], projection) + probe[:, number], *state[1:]
        states.append(state)
    parts = [x.detach(), torch.stack(before, 1), *([torch.stack(factors, 1)] if factors else [])]
    products = [Product(own, dict(zip(WEIGHTS, weights, strict=True)), torch.cat(parts, 2), given)]
    if probe is not None:
        products.append(Product(_PROJECTION, {"weight": projection, "bias": None}, torch.stack(projected, 1), probe))
    return states, products


def _differentiable(values: Tensor) -> Tensor:
    """Values with an edge in the graph, also where they depend on nothing that is differentiated.

    Within a vectorised backward pass, where blocks may go forward anew, no tensor may begin to require gradients.
    """
    if values.requires_grad:
        return values
    return values + torch.zeros((), dtype=values.dtype, device=values.device, requires_grad=True)
