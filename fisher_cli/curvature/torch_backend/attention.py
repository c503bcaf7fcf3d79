"""Attention whose backward pass takes all directions at once, for CPUs.

Vectorised over directions, torch's way back multiplies matrices of every head with copies of queries, keys and values,
one for each direction. Here the directions lie side by side as rows of one product.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any, Final

import torch
from torch import Tensor

_DTYPES: Final = {torch.float32, torch.float64}


def _gradients(u: Tensor, q: Tensor, k: Tensor, v: Tensor, p: Tensor, scale: float) -> tuple[Tensor, Tensor, Tensor]:
    """The gradients of ⟨u, P V⟩ with respect to Q, K and V, P = softmax(scale · Q Kᵀ), each (K, X, …).

    Of u (K, X, L, E_v), q (X, L, E), k (X, S, E), v (X, S, E_v) and p (X, L, S): dV = Pᵀ u, dP = u Vᵀ,
    dA = P ∘ (dP − rowsum(dP ∘ P)), dQ = scale · dA K, dK = scale · dAᵀ Q.
    """
    directions, heads, length, _ = u.shape
    rows = u.transpose(0, 1).reshape(heads, directions * length, -1)
    columns = u.permute(1, 2, 0, 3).reshape(heads, length, -1)
    to_v = torch.bmm(p.mT, columns).reshape(heads, v.shape[1], directions, -1).permute(2, 0, 1, 3)
    weights = p.unsqueeze(1)
    to_p = torch.bmm(rows, v.mT).reshape(heads, directions, length, -1)
    to_a = to_p.sub_((to_p * weights).sum(3, keepdim=True)).mul_(weights)
    to_q = torch.bmm(to_a.flatten(1, 2), k * scale).reshape(heads, directions, length, -1).transpose(0, 1)
    to_k = torch.matmul(to_a.mT, (q * scale).unsqueeze(1)).transpose(0, 1)
    return to_q, to_k, to_v


class _AttentionBackward(torch.autograd.Function):
    """u ↦ `_gradients`, of all directions at once where vmap asks for many."""

    generate_vmap_rule = False

    @staticmethod
    def forward(u: Tensor, q: Tensor, k: Tensor, v: Tensor, p: Tensor, scale: float) -> Any:
        found, _ = _AttentionBackward.vmap(None, (0,), u.unsqueeze(0), q, k, v, p, scale)
        return tuple(each.squeeze(0) for each in found)

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        """Nothing: it is not differentiated again."""

    @staticmethod
    def vmap(info: Any, in_dims: Any, u: Tensor, q: Tensor, k: Tensor, v: Tensor, p: Tensor, scale: float) -> Any:  # noqa: ARG004
        u = u.movedim(in_dims[0], 0)
        q_, k_, v_, p_ = (each.reshape(-1, *each.shape[-2:]) for each in (q, k, v, p))
        found = _gradients(u.reshape(len(u), -1, *u.shape[-2:]), q_, k_, v_, p_, scale)
        return tuple(each.reshape(len(u), *like.shape) for each, like in zip(found, (q, k, v), strict=True)), (0, 0, 0)


class _Attention(torch.autograd.Function):
    """(Q, K, V) ↦ softmax(scale · Q Kᵀ + mask) V; a row of which all is masked is zero."""

    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, scale: float) -> Tensor:
        scores = torch.matmul(q * scale, k.mT)
        if mask is None:
            p = scores.softmax(-1)
        else:
            scores = scores.masked_fill(~mask, -math.inf) if mask.dtype is torch.bool else scores + mask
            p = scores.softmax(-1).masked_fill(scores.amax(-1, keepdim=True) == -math.inf, 0.0)
        ctx.save_for_backward(q, k, v, p)
        ctx.scale = scale
        return torch.matmul(p, v)

    @staticmethod
    def backward(ctx: Any, u: Tensor) -> tuple[Tensor | None, ...]:
        return *_AttentionBackward.apply(u, *ctx.saved_tensors, ctx.scale), None, None


def _is_plain(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None) -> bool:
    """Whether all heads have queries, keys and values of their own, of one precision, and the mask is a constant."""
    alike: Sequence[Tensor] = (query, key, value)
    if any(each.dtype is not query.dtype or each.shape[:-2] != query.shape[:-2] for each in alike):
        return False
    if mask is not None and (mask.requires_grad or mask.dtype not in {torch.bool, query.dtype}):
        return False
    return query.dtype in _DTYPES and query.dim() > 2


def of_all_directions(original: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """Attention as torch.nn.functional has it, that of this module where it can be: differentiable once."""

    def attention(
        query: Tensor,
        key: Tensor,
        value: Tensor,
        attn_mask: Tensor | None = None,
        dropout_p: float = 0.0,
        is_causal: bool = False,
        *,
        scale: float | None = None,
        enable_gqa: bool = False,
    ) -> Tensor:
        if (
            dropout_p
            or enable_gqa
            or (is_causal and attn_mask is not None)
            or not _is_plain(query, key, value, attn_mask)
        ):
            return original(query, key, value, attn_mask, dropout_p, is_causal, scale=scale, enable_gqa=enable_gqa)
        if is_causal:
            attn_mask = torch.ones(query.shape[-2], key.shape[-2], dtype=torch.bool, device=query.device).tril()
        found: Tensor = _Attention.apply(
            query, key, value, attn_mask, 1 / math.sqrt(query.shape[-1]) if scale is None else scale
        )
        return found

    return attention
