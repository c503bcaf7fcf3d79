"""The rule of nn.Linear: dW = Σ_l δ_l a_lᵀ, db = Σ_l δ_l over any number of leading positions."""

from torch import Tensor, nn

from fisher_cli.curvature.gradient_norms import outer_products


def linear(module: nn.Linear, inputs: Tensor, cotangents: Tensor) -> dict[str, Tensor]:
    """‖dW‖² and ‖db‖², (K, B), of inputs (B, …, I) and cotangents (K, B, …, O)."""
    examples, directions = len(inputs), len(cotangents)
    a = inputs.reshape(examples, 1, -1, module.in_features).transpose(2, 3)
    delta = cotangents.reshape(directions, examples, 1, -1, module.out_features).transpose(3, 4)
    norms = {"weight": outer_products.squared_norms(a, delta)}
    if module.bias is not None:
        norms["bias"] = delta.sum(4).double().square().sum((2, 3))
    return norms
