"""nn.MultiheadAttention taken apart into plain linear layers, so that it may lose heads: torch's own one may not."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

__all__ = ["OpenAttention", "open_attention"]


class OpenAttention(nn.Module):
    """Multi-head attention (Vaswani et al. 2017) with the call of nn.MultiheadAttention and any number of heads."""

    in_proj_bias = None  # what nn.TransformerEncoderLayer asks before it takes a path that wants torch's own module
    _qkv_same_embed_dim = False

    def __init__(self, source: nn.MultiheadAttention) -> None:
        super().__init__()
        self.heads, self.batch_first, self.dropout = source.num_heads, source.batch_first, source.dropout
        if source._qkv_same_embed_dim:
            assert source.in_proj_weight is not None
            weights = source.in_proj_weight.chunk(3)
        else:
            assert isinstance(source.q_proj_weight, Tensor)
            assert isinstance(source.k_proj_weight, Tensor)
            assert isinstance(source.v_proj_weight, Tensor)
            weights = (source.q_proj_weight, source.k_proj_weight, source.v_proj_weight)
        biases = source.in_proj_bias.chunk(3) if source.in_proj_bias is not None else (None, None, None)
        self.q, self.k, self.v = (_linear(w, b) for w, b in zip(weights, biases, strict=True))
        self.out = _linear(source.out_proj.weight, source.out_proj.bias)
        self.train(source.training)

    def forward(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        key_padding_mask: Tensor | None = None,
        need_weights: bool = True,
        attn_mask: Tensor | None = None,
        average_attn_weights: bool = True,
        is_causal: bool = False,
    ) -> tuple[Tensor, Tensor | None]:
        """As nn.MultiheadAttention: (N, L, E) batch first, (L, N, E) or (L, E) otherwise; weights (N, L, S) or None."""
        single = query.ndim == 2
        if single:
            query, key, value = (x.unsqueeze(0) for x in (query, key, value))
        elif not self.batch_first:
            query, key, value = (x.transpose(0, 1) for x in (query, key, value))
        q, k, v = (self._split(layer(x)) for layer, x in ((self.q, query), (self.k, key), (self.v, value)))
        mask = self._mask(attn_mask, key_padding_mask, q)
        rate = self.dropout if self.training else 0.0
        weights = None
        if need_weights:
            scores = q @ k.transpose(-1, -2) * q.shape[-1] ** -0.5
            weights = functional.dropout((scores if mask is None else scores + mask).softmax(-1), rate)
            mixed = weights @ v
            weights = weights.mean(1) if average_attn_weights else weights
        else:
            mixed = functional.scaled_dot_product_attention(q, k, v, mask, rate)
        answer = self.out(mixed.transpose(1, 2).flatten(2))
        if single:
            return answer.squeeze(0), weights if weights is None else weights.squeeze(0)
        return (answer if self.batch_first else answer.transpose(0, 1)), weights

    def _split(self, x: Tensor) -> Tensor:
        """(N, L, heads x width) as (N, heads, L, width)."""
        return x.reshape(*x.shape[:-1], self.heads, -1).transpose(1, 2)

    def _mask(self, mask: Tensor | None, padding: Tensor | None, like: Tensor) -> Tensor | None:
        """One mask to add to the scores: of every pair, (L, S) or (N x heads, L, S), and of keys, (N, S)."""
        total = None
        if mask is not None:
            total = _to_add(mask, like)
            total = total.reshape(-1, self.heads, *total.shape[1:]) if total.ndim == 3 else total
        if padding is not None:
            padded = _to_add(padding, like).reshape(-1, 1, 1, padding.shape[-1])
            total = padded if total is None else total + padded
        return total


def open_attention(model: nn.Module) -> list[str]:
    """Take apart every nn.MultiheadAttention of `model` that can be, in place; their names."""
    opened = [
        name
        for name, module in model.named_modules()
        if isinstance(module, nn.MultiheadAttention) and module.bias_k is None and not module.add_zero_attn
    ]
    for name in opened:
        parent, _, child = name.rpartition(".")
        source = model.get_submodule(name)
        assert isinstance(source, nn.MultiheadAttention)
        setattr(model.get_submodule(parent), child, OpenAttention(source))
    for module in model.modules():
        if opened and isinstance(module, nn.TransformerEncoder):
            module.use_nested_tensor = False
    return opened


def _linear(weight: Tensor, bias: Tensor | None) -> nn.Linear:
    layer = nn.Linear(weight.shape[1], weight.shape[0], bias=bias is not None, device="meta")  # draws no numbers
    layer.weight = nn.Parameter(weight.detach().clone())
    if bias is not None:
        layer.bias = nn.Parameter(bias.detach().clone())
    return layer


def _to_add(mask: Tensor, like: Tensor) -> Tensor:
    if mask.dtype != torch.bool:
        return mask
    return torch.zeros(mask.shape, dtype=like.dtype).masked_fill(mask, -torch.inf)
