"""The rule of nn.Embedding: row v of dW is the sum of the cotangents at the positions that hold v."""

from torch import Tensor, nn


def embedding(module: nn.Embedding, inputs: Tensor, cotangents: Tensor) -> dict[str, Tensor]:
    """‖dW‖² = Σ_lm [id_l = id_m] δ_lᵀδ_m, (K, B), of ids (B, …) and cotangents (K, B, …, E).

    The padding row has no gradient.
    """
    ids = inputs.reshape(len(inputs), -1)
    delta = cotangents.reshape(len(cotangents), *ids.shape, module.embedding_dim)
    same = ids.unsqueeze(1) == ids.unsqueeze(2)
    if module.padding_idx is not None:
        same &= (ids != module.padding_idx).unsqueeze(1)
    summed = same.to(delta.dtype) @ delta
    return {"weight": (summed.double() * delta.double()).sum((2, 3))}
