"""A linear layer that ends in its activation: y = act(x Wᵀ + b), one operation forward and one backward.

`FusedLinear` trains in floats; product, bias and activation are one node of autograd, which holds the sum in front of
the activation (behind it, for relu and none) and takes the slope from `kernels.activation`. `served` makes the form for
serving: int8 weights, with `kernels.int8_linear`, which quantizes the input on the way and applies scales, bias and
activation where its product ends. Exported graphs hold plain operators, which the compiler fuses by its own rules.

The network here: x + narrow(act(widen(norm(x)))) in the classifier of motion. Shapes: (B, L, W) to (B, L, W), (B, W) to
(B, W). For: wide layers on a GPU, where the epilogue is time spent on memory.

Sources: Hendrycks and Gimpel 2016, arXiv:1606.08415 (gelu); Elfwing et al. 2018, arXiv:1702.03118 (silu); Dettmers et
al. 2022, arXiv:2208.07339 (int8 by row and column).
"""

from __future__ import annotations

import copy
from typing import Annotated, Any, Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from kernels.activation import activated, check_activation, slope
from kernels.exporting import exporting
from kernels.int8_linear import linear_w8a8, quantize_rows
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
    "Config", "FusedLinear", "ServedLinear", "build", "calibration", "example", "served", "training", "validation",
]  # fmt: skip

_KEPT_RESULT = ("none", "relu")
"""Whose slope can be told from their result."""


class Config(MotionConfig):
    """The layer in the middle."""

    hidden: Annotated[int, Field(ge=1, le=8192)] = 64
    """Features behind the activation."""
    activation: Literal["relu", "gelu", "silu"] = "gelu"
    """gelu is the exact one, with erf."""


class FusedLinear(nn.Linear):
    """nn.Linear and an activation.

    Args:
        activation: None, "relu", "gelu" (with erf) or "silu".

    Raises:
        ValueError: another activation.
    """

    def __init__(self, inputs: int, outputs: int, activation: str | None = None, *, bias: bool = True) -> None:
        super().__init__(inputs, outputs, bias=bias)
        self.activation = check_activation(activation)

    def forward(self, x: Tensor) -> Tensor:
        """(..., outputs) of (..., inputs)."""
        if exporting() or not torch.is_grad_enabled():
            return activated(nn.functional.linear(x, self.weight, self.bias), self.activation)
        result: Tensor = _Fused.apply(x, self.weight, self.bias, self.activation)  # type: ignore[no-untyped-call]
        return result

    def extra_repr(self) -> str:
        """Sizes, and the activation."""
        return f"{super().extra_repr()}, activation={self.activation}"


class _Fused(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, activation: str) -> Tensor:
        sums = nn.functional.linear(x, weight, bias)  # in half precision where autocast says so
        result = torch.relu_(sums) if activation == "relu" else activated(sums, activation)
        ctx.save_for_backward(x, weight, result if activation in _KEPT_RESULT else sums)
        ctx.activation, ctx.has_bias = activation, bias is not None
        return result

    @staticmethod
    @once_differentiable  # type: ignore[untyped-decorator]
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, kept = ctx.saved_tensors
        wanted = ctx.needs_input_grad
        to_sums = grad if ctx.activation == "none" else grad * slope(kept, ctx.activation)
        rows = to_sums.reshape(-1, to_sums.shape[-1])
        to_x = (to_sums @ weight.to(rows.dtype)).to(x.dtype) if wanted[0] else None
        to_weight = (rows.T @ x.reshape(-1, x.shape[-1]).to(rows.dtype)).to(weight.dtype) if wanted[1] else None
        to_bias = rows.sum(0).to(weight.dtype) if ctx.has_bias and wanted[2] else None
        return to_x, to_weight, to_bias, None


class ServedLinear(nn.Module):
    """A FusedLinear in int8: weights scaled by output, inputs by row; it has no gradient.

    Raises:
        TypeError: the layer is not in float32, bfloat16 or float16.
    """

    weight: Tensor
    scale: Tensor
    bias: Tensor | None

    def __init__(self, layer: FusedLinear) -> None:
        super().__init__()
        weight, scale = quantize_rows(layer.weight.detach())
        self.activation = layer.activation
        self.register_buffer("weight", weight)
        self.register_buffer("scale", scale)
        self.register_buffer("bias", None if layer.bias is None else layer.bias.detach().clone())

    def forward(self, x: Tensor) -> Tensor:
        """(..., outputs) of (..., inputs), of the type of `x`."""
        return linear_w8a8(x.detach(), self.weight, self.scale, bias=self.bias, activation=self.activation)


def served(model: nn.Module) -> nn.Module:
    """A copy of `model` in eval mode with every FusedLinear in int8."""
    copied = copy.deepcopy(model).eval()
    if isinstance(copied, FusedLinear):
        return ServedLinear(copied).eval()
    for name, part in list(copied.named_modules()):
        if isinstance(part, FusedLinear):
            owner, _, last = name.rpartition(".")
            setattr(copied.get_submodule(owner), last, ServedLinear(part).eval())
    return copied


class FusedFeedForward(nn.Module):
    """x + narrow(act(widen(norm(x))))."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.norm = WrittenNorm(config.width)
        self.widen = FusedLinear(config.width, config.hidden, config.activation)
        self.narrow = FusedLinear(config.hidden, config.width)

    def forward(self, x: Tensor) -> Tensor:
        """(B, L, W) or (B, W), as it came."""
        check_sequence(x, self.norm.normalized_shape[0])
        result: Tensor = x + self.narrow(self.widen(self.norm(x)))
        return result


def build(config: Config = Config()) -> nn.Module:
    """The classifier of motion with one such block."""
    with seeded(config.seed):
        return MotionClassifier(config.width, FusedFeedForward(config)).eval()
