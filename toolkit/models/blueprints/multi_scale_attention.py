"""Self-attention at three scales, at a cost that grows linearly with the length.

    local    windows of `window` positions, which do not overlap
    strided  every `stride`-th position, `window` of them at a time: far neighbours at low resolution
    global   all positions, as the means of at most `global_tokens` equal parts of the sequence

A position mixes the three by weights of its own. For a length L each costs at most L · (window or global_tokens) · W
products, so that attention over 16,384 positions costs 16 times what it costs over 1,024. There are no positions in it:
what must tell early from late adds them before.

Shapes: (B, L, W) to (B, L, W), (B, W) to (B, W); samples of a batch never meet. For: long signals on small devices.

Sources: Child et al. 2019, arXiv:1904.10509 (strided and local patterns); Beltagy et al. 2020, arXiv:2004.05150
(windows); Zhang et al. 2021, arXiv:2107.14795, and Wang et al. 2020, arXiv:2006.04768 (keys that are pooled).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from targets.errors import InvalidInput
from toolkit.models.blueprints.masked_softmax import masked_softmax
from toolkit.models.blueprints.motion_classifier import (
    MotionClassifier,
    MotionConfig,
    calibration,
    check_sequence,
    example,
    training,
    validation,
)
from toolkit.models.blueprints.sizes import length_of
from toolkit.models.blueprints.written_norm import WrittenNorm
from toolkit.models.seeded import seeded

__all__ = [
    "Config", "MultiScaleAttention", "build", "calibration", "example", "training", "validation",
]  # fmt: skip


_Turn = Callable[[Tensor], Tensor]


class Config(MotionConfig):
    """How far each scale reaches."""

    heads: Annotated[int, Field(ge=1, le=64)] = 4
    """Of attention; they divide `width`."""
    window: Annotated[int, Field(ge=1, le=1024)] = 16
    """Positions that attend to each other, near or strided."""
    stride: Annotated[int, Field(ge=2, le=1024)] = 8
    """Distance between those that are strided."""
    global_tokens: Annotated[int, Field(ge=1, le=1024)] = 16
    """Means that stand for the whole sequence."""

    @model_validator(mode="after")
    def _divides(self) -> Self:
        if self.width % self.heads:
            raise InvalidInput(
                f"multi_scale_attention: {self.heads} heads do not divide a width of {self.width}",
                hint="choose a width that is a multiple of heads",
            )
        return self


# Legend: N batch times heads, L positions, C features of a head, S parts of the sequence, T positions in a part


class MultiScaleAttention(nn.Module):
    """x + mixed attention of norm(x)."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.config = config
        self.norm = WrittenNorm(config.width)
        self.project = nn.Linear(config.width, 3 * config.width)
        self.mix = nn.Linear(config.width, 3)
        self.out = nn.Linear(config.width, config.width)

    def forward(self, x: Tensor) -> Tensor:
        """(B, L, W) or (B, W), as it came."""
        check_sequence(x, self.config.width)
        if x.ndim == 2:
            one: Tensor = self.forward(x.unsqueeze(1)).squeeze(1)
            return one
        normed = self.norm(x)
        q, k, v = (self._heads(part) for part in self.project(normed).chunk(3, dim=-1))
        scales = (self._local(q, k, v), self._strided(q, k, v), self._global(q, k, v))
        shares = torch.softmax(self.mix(normed), dim=-1)
        mixed = sum(self._joined(scale) * shares[..., i : i + 1] for i, scale in enumerate(scales))
        result: Tensor = x + self.out(mixed)
        return result

    def _heads(self, x: Tensor) -> Tensor:
        """(B, L, W) to (N, L, C)."""
        heads, length = self.config.heads, length_of(x)
        apart = x.reshape(-1, length, heads, self.config.width // heads).transpose(1, 2)
        return apart.reshape(-1, length, self.config.width // heads)

    def _joined(self, x_NLC: Tensor) -> Tensor:
        """(N, L, C) to (B, L, W)."""
        heads, length = self.config.heads, length_of(x_NLC)
        apart = x_NLC.reshape(-1, heads, length, self.config.width // heads).transpose(1, 2)
        return apart.reshape(-1, length, self.config.width)

    def _local(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        length = length_of(q)
        window = min(self.config.window, length)
        return _in_parts(q, k, v, window, lambda x: x.reshape(-1, window, x.shape[-1]), _flat(length))

    def _strided(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        length, stride = length_of(q), self.config.stride
        window = min(self.config.window, -(-length // stride))

        def apart(x: Tensor) -> Tensor:  # (…, blocks, window, stride, C) to (…, blocks, stride, window, C)
            blocks = x.reshape(-1, window, stride, x.shape[-1]).transpose(1, 2)
            return blocks.reshape(-1, window, x.shape[-1])

        def together(x: Tensor) -> Tensor:
            blocks = x.reshape(-1, stride, window, x.shape[-1]).transpose(1, 2)
            return blocks.reshape(-1, _padded(length, window * stride), x.shape[-1])[:, :length]

        return _in_parts(q, k, v, window * stride, apart, together)

    def _global(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        length = length_of(q)
        part = -(-length // self.config.global_tokens)
        scores = q @ _means(k, part).transpose(1, 2) * q.shape[-1] ** -0.5
        return torch.softmax(scores, dim=-1) @ _means(v, part)


def _in_parts(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    multiple: int,
    apart: Callable[[Tensor], Tensor],
    together: Callable[[Tensor], Tensor],
) -> Tensor:
    """Attention within parts of the sequence: (N, L, C) to (N, L, C). What fills up the last part is not seen."""
    length = length_of(q)
    padding = _padded(length, multiple) - length
    q, k, v = (apart(_pad(x, padding)) for x in (q, k, v))
    scores = q @ k.transpose(1, 2) * q.shape[-1] ** -0.5
    if not padding:
        return together(torch.softmax(scores, dim=-1) @ v)
    real = (torch.arange(length + padding, device=q.device) < length).float().reshape(1, -1, 1)
    keep = apart(real).transpose(1, 2)  # (S, 1, T)
    keep = torch.where(keep.amax(-1, keepdim=True) > 0, keep, 1.0)  # a part of nothing but filling is cut off later
    batched = masked_softmax(scores.reshape(-1, *keep.shape[:1], *scores.shape[1:]), keep)
    return together(batched.reshape(scores.shape) @ v)


def _flat(length: int) -> _Turn:
    return lambda x: x.reshape(-1, _padded(length, length_of(x)), x.shape[-1])[:, :length]


def _padded(length: int, multiple: int) -> int:
    return -(-length // multiple) * multiple


def _pad(x: Tensor, positions: int) -> Tensor:
    return nn.functional.pad(x, (0, 0, 0, positions)) if positions else x


def _means(x: Tensor, part: int) -> Tensor:
    """(N, L, C) to (N, ceil(L / part), C): the mean of each part, the last of which may be shorter."""
    length = length_of(x)
    parts = -(-length // part)
    sums = _pad(x, parts * part - length).reshape(-1, parts, part, x.shape[-1]).sum(2)
    if length % part == 0:
        return sums / part
    counts = torch.full((parts, 1), float(part), dtype=x.dtype, device=x.device)
    counts[-1] = float(length - (parts - 1) * part)
    return sums / counts


def build(config: Config = Config()) -> nn.Module:
    """The classifier of motion with one such layer."""
    with seeded(config.seed):
        return MotionClassifier(config.width, MultiScaleAttention(config)).eval()
