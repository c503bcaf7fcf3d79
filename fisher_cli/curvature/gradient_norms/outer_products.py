"""Squared Frobenius norms of sums of outer products over positions: the arithmetic all weight rules share."""

import torch
from torch import Tensor


def squared_norms(inputs: Tensor, cotangents: Tensor) -> Tensor:
    """‖Σ_l δ_l a_lᵀ‖² for every direction k, example b, summed over groups g: (K, B) in float64.

    Args:
        inputs: a, (B, G, Q, L): Q input entries at each of L positions, in G groups.
        cotangents: δ, (K, B, G, R, L): R output entries at the same positions, for K directions.

    Two routes give the same number. Explicit: form the R × Q gradient, K·R·Q·L multiplications. Gram:
    Σ_lm (a_lᵀa_m)(δ_lᵀδ_m), L²·(Q + K·R), where the input side serves all directions. The cheaper is taken.
    One position needs neither: ‖δ‖²‖a‖². Source: Goodfellow 2015 (arXiv:1510.01799) for one position;
    Rochette, Manoel and Tramel 2019 (arXiv:1912.06015) for the convolution's Gram form.
    """
    directions, examples, groups, rows, positions = cotangents.shape
    columns = inputs.shape[2]
    if positions == 1:
        a = inputs.squeeze(3).double().square().sum(2)
        return (cotangents.squeeze(4).double().square().sum(3) * a).sum(2)
    stacked = cotangents.permute(1, 2, 0, 3, 4).reshape(examples * groups, directions * rows, positions)
    a = inputs.reshape(examples * groups, columns, positions)
    if directions * rows * columns <= positions * (columns + directions * rows):
        gradient = torch.bmm(stacked, a.transpose(1, 2)).reshape(examples, groups, directions, rows * columns)
        return gradient.square().sum(3).double().sum(1).T
    gram_in = torch.bmm(a.transpose(1, 2), a)
    by_direction = stacked.reshape(examples * groups, directions, rows, positions)
    gram_out = torch.matmul(by_direction.transpose(2, 3), by_direction)
    products = torch.einsum("xlm,xklm->xk", gram_in.double(), gram_out.double())
    return products.reshape(examples, groups, directions).sum(1).T
