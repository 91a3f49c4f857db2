"""An encoder that stands where nn.TransformerEncoder stood, with organisms in place of its attention.

With its lifecycle off and weights copied it answers as nn.TransformerEncoder does, apart from three things. A query
that attends to nothing gets 0 from attention, where torch gives NaN. Attention probabilities are not dropped out in
training; what attention answers is. Masks for single heads are refused, because heads come and go.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from toolkit.models.norm import Norm
from toolkit.models.seeded import seeded
from toolkit.organism.attending import check_inputs
from toolkit.organism.errors import ShapeError
from toolkit.organism.freezing import freeze
from toolkit.organism.organism import Organism
from toolkit.organism.species import Species

__all__ = ["Lifecycle", "SlimeMoldEncoder", "SlimeMoldEncoderLayer", "organisms_of"]

_ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {"relu": F.relu, "gelu": F.gelu}


@dataclass(frozen=True, kw_only=True)
class Lifecycle:
    """Limits of each layer's pool; see Pool."""

    max_size: int = 64
    min_size: int = 1
    budget_bytes: int = 2**30
    grace_steps: int = 200


class SlimeMoldEncoderLayer(nn.Module):
    """Attention by an organism, then two linear layers at each position; each with its norm and its residual."""

    def __init__(
        self, d_model: int, species: Species, count: int, dim_feedforward: int, *, dropout: float,
        activation: Literal["relu", "gelu"], layer_norm_eps: float, norm_first: bool, bias: bool, lifecycle: Lifecycle,
        seed: int,
    ) -> None:  # fmt: skip
        super().__init__()
        if activation not in _ACTIVATIONS:
            raise ShapeError(f"no activation {activation!r}", hint="relu or gelu")
        self.organism = Organism.of_founders(
            d_model, species, count, budget_bytes=lifecycle.budget_bytes, max_size=lifecycle.max_size,
            min_size=lifecycle.min_size, grace_steps=lifecycle.grace_steps, seed=seed, norm=False, bias=bias,
        )  # fmt: skip
        self.norm1, self.norm2 = (_norm(d_model, layer_norm_eps, bias) for _ in range(2))
        with seeded(seed):
            self.linear1 = nn.Linear(d_model, dim_feedforward, bias=bias)
            self.linear2 = nn.Linear(dim_feedforward, d_model, bias=bias)
        self.dropout, self.norm_first, self.activation = nn.Dropout(dropout), norm_first, activation

    def forward(
        self, x: Tensor, *, causal: bool = False, key_padding: Tensor | None = None, mask: Tensor | None = None
    ) -> Tensor:
        """(B, S, E) of (B, S, E)."""
        h = self.norm1(x) if self.norm_first else x
        x = x + self.dropout(self.organism.contribution(h, h, causal=causal, key_padding=key_padding, mask=mask))
        if self.norm_first:
            return x + self._feed(self.norm2(x))
        x = self.norm1(x)
        normal: Tensor = self.norm2(x + self._feed(x))
        return normal

    def _feed(self, x: Tensor) -> Tensor:
        fed: Tensor = self.dropout(self.linear2(self.dropout(_ACTIVATIONS[self.activation](self.linear1(x)))))
        return fed


class SlimeMoldEncoder(nn.Module):
    """Layers of organisms, with the arguments and masks of nn.TransformerEncoder.

    Args:
        d_model: Width E.
        nhead: Founders of each layer, of one head each.
        num_layers: Layers.
        dim_feedforward: Hidden features at a position.
        lifecycle: Limits of the pools; None keeps each at its founders.
        head_dim: Of a head; E / nhead where None.
        rank: Of the components' matrices, kept as factors; None keeps them whole.
        norm: Behind the last layer.
        seed: Of the weights.

    Raises:
        ShapeError: `nhead` does not divide E, and no `head_dim` is given; an activation that does not exist.
    """

    def __init__(
        self, d_model: int, nhead: int, num_layers: int, dim_feedforward: int = 2048, dropout: float = 0.1,
        activation: Literal["relu", "gelu"] = "relu", layer_norm_eps: float = 1e-5, batch_first: bool = False,
        norm_first: bool = False, bias: bool = True, *, lifecycle: Lifecycle | None = None, head_dim: int | None = None,
        rank: int | None = None, norm: nn.Module | None = None, seed: int = 0,
    ) -> None:  # fmt: skip
        super().__init__()
        if nhead < 1 or (head_dim is None and d_model % nhead):
            raise ShapeError(
                f"{nhead} heads cannot share a width of {d_model}", hint="choose heads that divide it, or give head_dim"
            )
        species = Species(head_dim or d_model // nhead, 1, rank, bias)
        limits = lifecycle or Lifecycle(max_size=nhead, min_size=nhead)
        self.layers = nn.ModuleList(
            SlimeMoldEncoderLayer(
                d_model, species, nhead, dim_feedforward, dropout=dropout, activation=activation,
                layer_norm_eps=layer_norm_eps, norm_first=norm_first, bias=bias, lifecycle=limits, seed=seed + k,
            ) for k in range(num_layers)
        )  # fmt: skip
        self.norm, self.batch_first, self.d_model = norm, batch_first, d_model

    def forward(
        self, src: Tensor, mask: Tensor | None = None, src_key_padding_mask: Tensor | None = None,
        is_causal: bool | None = None,
    ) -> Tensor:  # fmt: skip
        """What nn.TransformerEncoder answers to the same arguments.

        Args:
            src: (B, S, E) with batch_first, else (S, B, E); or one sequence (S, E).
            mask: (S, S) bool, True where not attended, or numbers that are added to the scores.
            src_key_padding_mask: (B, S), for one sequence (S,): bool, True where nobody attends; or numbers.
            is_causal: Attend to the own position and before; with it, `mask` is taken for that one and not looked at.

        Raises:
            ShapeError: shapes do not go together, or the mask is for single heads.
        """
        if src.ndim not in (2, 3):
            raise ShapeError(f"src is {tuple(src.shape)}", hint="(B, S, E), (S, B, E) or (S, E)")
        is_batch = src.ndim == 3
        x = src if is_batch and self.batch_first else src.transpose(0, 1) if is_batch else src[None]
        padding = src_key_padding_mask
        if padding is not None and not is_batch:
            padding = padding[None]
        check_inputs(x, x, self.d_model)
        if padding is not None and padding.shape != x.shape[:2]:
            raise ShapeError(
                f"a padding mask of {tuple(padding.shape)} for {x.shape[0]} sequences of {x.shape[1]}",
                hint="give (B, S)",
            )
        mask = None if is_causal else _checked_mask(mask, x)
        if padding is not None and padding.dtype != torch.bool:
            mask, padding = _numbers_added(mask, padding), None
        for layer in self.layers:
            x = layer(x, causal=bool(is_causal), key_padding=padding, mask=mask)
        x = x if self.norm is None else self.norm(x)
        return x[0] if not is_batch else x if self.batch_first else x.transpose(0, 1)

    def freeze(self, prune_below: float = 0.0) -> nn.Module:
        """A static copy; see `freezing.freeze`."""
        return freeze(self, prune_below=prune_below)

    @classmethod
    def from_encoder(
        cls, encoder: nn.TransformerEncoder, *, lifecycle: Lifecycle | None = None, seed: int = 0
    ) -> SlimeMoldEncoder:
        """An encoder with the weights of torch's, one founder for each of its heads.

        Raises:
            ShapeError: its activation is neither relu nor gelu.
        """
        first: Any = encoder.layers[0]
        attention: nn.MultiheadAttention = first.self_attn
        names = {F.relu: "relu", F.gelu: "gelu"}
        made = cls(
            attention.embed_dim, attention.num_heads, len(encoder.layers), first.linear1.out_features,
            dropout=first.dropout.p, activation=names.get(first.activation, str(first.activation)),  # type: ignore[arg-type]
            layer_norm_eps=first.norm1.eps, batch_first=attention.batch_first, norm_first=first.norm_first,
            bias=attention.in_proj_bias is not None, lifecycle=lifecycle, norm=copy.deepcopy(encoder.norm), seed=seed,
        )  # fmt: skip
        for mine, theirs in zip(made.layers, encoder.layers, strict=True):
            _copy_layer(mine, theirs)
        return made.to(first.linear1.weight.device, first.linear1.weight.dtype).train(encoder.training)


def organisms_of(module: nn.Module) -> dict[str, Organism]:
    """Every organism within `module`, by its name there."""
    return {name: part for name, part in module.named_modules() if isinstance(part, Organism)}


def _copy_layer(mine: Any, theirs: Any) -> None:
    for name in ("norm1", "norm2", "linear1", "linear2"):
        getattr(mine, name).load_state_dict(getattr(theirs, name).state_dict())
    attention, organism = theirs.self_attn, mine.organism
    with torch.no_grad():
        for k, pod in enumerate(organism.pool):
            rows = slice(k * pod.head_dim, (k + 1) * pod.head_dim)
            for part, weight in zip((pod.query, pod.key, pod.value), attention.in_proj_weight.chunk(3), strict=True):
                part.weight.copy_(weight[rows])
            pod.out.weight.copy_(attention.out_proj.weight[:, rows])
            if attention.in_proj_bias is not None:
                for part, bias in zip((pod.query, pod.key, pod.value), attention.in_proj_bias.chunk(3), strict=True):
                    part.bias.copy_(bias[rows])
        if organism.bias is not None:
            organism.bias.copy_(attention.out_proj.bias)


def _checked_mask(mask: Tensor | None, x: Tensor) -> Tensor | None:
    if mask is None:
        return None
    if mask.ndim != 2 or mask.shape != (x.shape[1], x.shape[1]):
        raise ShapeError(
            f"a mask of shape {tuple(mask.shape)} for sequences of {x.shape[1]}",
            hint="give (S, S), one for all heads: heads of an organism come and go",
        )
    return mask


def _numbers_added(mask: Tensor | None, padding: Tensor) -> Tensor:
    """(B, 1, S, S) or (B, 1, 1, S): what is added to scores for both."""
    added = padding[:, None, None, :]
    if mask is None:
        return added.expand(-1, -1, padding.shape[1], -1)
    return added + (torch.zeros_like(mask, dtype=added.dtype).masked_fill(mask, -math.inf)
                    if mask.dtype == torch.bool else mask)  # fmt: skip


def _norm(features: int, eps: float, bias: bool) -> nn.LayerNorm:
    """A layer norm that is exported in operators that every board has, where it has a bias."""
    if not bias:
        return nn.LayerNorm(features, eps=eps, bias=False)
    made = Norm(features)
    made.eps = eps
    return made
