"""A feed-forward adapter that masks what it can do without, and can be made smaller by what is masked.

    y = x + narrow(mask · relu(widen(norm(x))))       structured: one mask element a hidden feature
    y = x + (mask₂ · narrow)(relu((mask₁ · widen)(norm(x))))   unstructured: one a weight

`prune` masks the share `ratio` of smallest magnitude: hidden features by the product of the norms of the weights that
enter and leave them, or single weights over both layers together. Masked weights have no gradient and stay as they
were, so that a later `prune` may take them up again. `bake` gives an adapter with the same outputs and without masks:
smaller layers where whole features were masked, stored zeros where single weights were, which dense runtimes multiply
as well: those save bytes of a compressed file and no time.

Shapes: (B, L, W) to (B, L, W), (B, W) to (B, W). For: a network that is to shrink while it trains.

Sources: Han et al. 2015, arXiv:1506.02626 (by magnitude); Zhu and Gupta 2017, arXiv:1710.01878 (the cubic schedule);
Li et al. 2017, arXiv:1608.08710 (whole filters by their norm).
"""

from __future__ import annotations

import copy
from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn.utils import skip_init

from targets.errors import InvalidInput
from toolkit.models.blueprints.motion_classifier import (
    MotionClassifier,
    MotionConfig,
    calibration,
    check_sequence,
    example,
    training,
    validation,
)
from toolkit.models.blueprints.written_norm import WrittenNorm
from toolkit.models.seeded import seeded

__all__ = [
    "BakedAdapter", "Config", "PruningAdapter", "bake", "build", "calibration", "example", "ratio_at", "training",
    "validation",
]  # fmt: skip


class Config(MotionConfig):
    """How much is masked, and by what."""

    hidden: Annotated[int, Field(ge=2, le=4096)] = 64
    """Hidden features before pruning."""
    ratio: Annotated[float, Field(ge=0, lt=1)] = 0.5
    """Share that is masked when the network is built."""
    mode: Literal["structured", "unstructured"] = "structured"
    """Whole hidden features, or single weights."""


class PruningAdapter(nn.Module):
    """Norm, widen, relu, narrow, residual; masked by what `prune` decided last."""

    mask: Tensor
    widen_mask: Tensor
    narrow_mask: Tensor

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.mode = config.mode
        self.norm = WrittenNorm(config.width)
        self.widen = nn.Linear(config.width, config.hidden)
        self.narrow = nn.Linear(config.hidden, config.width)
        if self.mode == "structured":
            self.register_buffer("mask", torch.ones(config.hidden))
        else:
            self.register_buffer("widen_mask", torch.ones_like(self.widen.weight))
            self.register_buffer("narrow_mask", torch.ones_like(self.narrow.weight))

    def forward(self, x: Tensor) -> Tensor:
        """(B, L, W) or (B, W), as it came."""
        check_sequence(x, self.widen.in_features)
        normed = self.norm(x)
        if self.mode == "structured":
            hidden = torch.relu(self.widen(normed)) * self.mask.to(x.dtype)
            return x + self.narrow(hidden)  # type: ignore[no-any-return]
        hidden = nn.functional.linear(normed, self.widen.weight * self.widen_mask, self.widen.bias)
        return x + nn.functional.linear(torch.relu(hidden), self.narrow.weight * self.narrow_mask, self.narrow.bias)

    @torch.no_grad()
    def prune(self, ratio: float) -> None:
        """Mask the share `ratio`, rounded to whole features or weights, and unmask the rest.

        Raises:
            InvalidInput: the share is not from 0 up to, not including, 1.
        """
        if not 0 <= ratio < 1:
            raise InvalidInput(f"a share of {ratio} cannot be pruned", hint="choose at least 0 and less than 1")
        if self.mode == "structured":
            worth = self.widen.weight.norm(dim=1) * self.narrow.weight.norm(dim=0)
            self.mask.copy_(_kept(worth, min(ratio, 1 - 1 / len(worth))))
            return
        weights = torch.cat([self.widen.weight.reshape(-1), self.narrow.weight.reshape(-1)])
        kept, first = _kept(weights.abs(), ratio), self.widen.weight.numel()
        self.widen_mask.copy_(kept[:first].view_as(self.widen_mask))
        self.narrow_mask.copy_(kept[first:].view_as(self.narrow_mask))

    @property
    def pruned(self) -> float:
        """The share that is masked."""
        masks = [self.mask] if self.mode == "structured" else [self.widen_mask, self.narrow_mask]
        kept = sum(float(mask.sum()) for mask in masks)
        return 1 - kept / sum(mask.numel() for mask in masks)

    @torch.no_grad()
    def bake(self) -> BakedAdapter:
        """The same outputs without masks."""
        if self.mode == "structured":
            kept = self.mask.bool()
            parts = self.widen.weight[kept], self.widen.bias[kept], self.narrow.weight[:, kept], self.narrow.bias
        else:
            masked = self.widen.weight * self.widen_mask, self.narrow.weight * self.narrow_mask
            parts = masked[0], self.widen.bias, masked[1], self.narrow.bias
        return BakedAdapter(self.norm, *parts).train(self.training)


class BakedAdapter(nn.Module):
    """x + narrow(relu(widen(norm(x)))) with copies of what it is given."""

    def __init__(
        self, norm: WrittenNorm, widen: Tensor, widen_bias: Tensor, narrow: Tensor, narrow_bias: Tensor
    ) -> None:
        super().__init__()
        self.norm = copy.deepcopy(norm)
        self.widen, self.narrow = _linear(widen, widen_bias), _linear(narrow, narrow_bias)

    def forward(self, x: Tensor) -> Tensor:
        """(B, L, W) or (B, W), as it came."""
        check_sequence(x, self.widen.in_features)
        result: Tensor = x + self.narrow(torch.relu(self.widen(self.norm(x))))
        return result


def _linear(weight: Tensor, bias: Tensor) -> nn.Linear:
    layer: nn.Linear = skip_init(nn.Linear, weight.shape[1], weight.shape[0])  # type: ignore[no-untyped-call]
    layer.load_state_dict({"weight": weight, "bias": bias})
    return layer


def _kept(worth: Tensor, ratio: float) -> Tensor:
    """1 for all but the round(ratio · n) least worthy, of which the first stays where several are equal."""
    order = worth.argsort(descending=True, stable=True)
    kept = torch.zeros_like(worth)
    kept[order[: worth.numel() - round(ratio * worth.numel())]] = 1.0
    return kept


def ratio_at(step: int, steps: int, ratio: float) -> float:
    """The share to prune at `step` of `steps`: it rises fast at first, to `ratio` at the end.

    Source: Zhu and Gupta 2017, arXiv:1710.01878, equation 1, from zero.
    """
    left = 1 - min(max(step / steps, 0.0), 1.0)
    return ratio * (1 - left**3)


def bake(model: nn.Module) -> nn.Module:
    """A copy of `model` with every PruningAdapter in it baked."""
    if isinstance(model, PruningAdapter):
        return model.bake()
    copied = copy.deepcopy(model)
    for name, part in list(copied.named_modules()):
        if isinstance(part, PruningAdapter):
            owner, _, last = name.rpartition(".")
            setattr(copied.get_submodule(owner), last, part.bake())
    return copied


def build(config: Config = Config()) -> nn.Module:
    """The classifier of motion with one such adapter, pruned to the ratio."""
    with seeded(config.seed):
        adapter = PruningAdapter(config)
        model = MotionClassifier(config.width, adapter)
    adapter.prune(config.ratio)
    return model.eval()
