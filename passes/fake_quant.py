"""Fake quantization: floats rounded to the grid of an integer, with gradients, and its form in ONNX.

    fake_quantize(x) = (clamp(round(x / s) + z, low, high) - z) * s

The same arithmetic runs in training, in evaluation and, as QuantizeLinear and DequantizeLinear, in the exported graph.
`round` has the gradient of the identity (straight through); what is clamped has none. Where the scale is trained, its
gradient is that of learned step size quantization.

Sources: Jacob et al. 2018, arXiv:1712.05877 (fake quantization); Bengio et al. 2013, arXiv:1308.3432 (straight-through
estimator); Esser et al. 2020, arXiv:1902.08153 (learned step size).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

__all__ = ["FakeQuantize", "Grid", "dequantize", "fake_quantize", "translations"]


@dataclass(frozen=True)
class Grid:
    """The integers that values are rounded to.

    Args:
        bits: 2 to 8.
        signed: Whether they go below zero.
        symmetric: Zero is the middle: 0, or 2^(bits-1) where unsigned.
        narrow: The lowest integer is not used, as TensorFlow Lite wants it of weights.
    """

    bits: int = 8
    signed: bool = True
    symmetric: bool = True
    narrow: bool = False

    @property
    def low(self) -> int:
        """The lowest integer."""
        return (-(1 << (self.bits - 1)) if self.signed else 0) + self.narrow

    @property
    def high(self) -> int:
        """The highest integer."""
        return (1 << (self.bits - 1)) - 1 if self.signed else (1 << self.bits) - 1

    def covering(self, low: Tensor, high: Tensor) -> tuple[Tensor, Tensor]:
        """(scale, zero point) with which the grid reaches from `low` to `high`, zero among them."""
        low, high = low.clamp(max=0).double(), high.clamp(min=0).double()
        tiny = torch.finfo(torch.float32).tiny
        if self.symmetric:
            middle = (self.high + self.low + 1) // 2
            scale = torch.maximum(-low, high) / (self.high - middle)
            return scale.clamp(min=tiny).float(), torch.full_like(scale, middle, dtype=torch.int32)
        scale = ((high - low) / (self.high - self.low)).clamp(min=tiny)
        zero = (self.low - low / scale).round().clamp(self.low, self.high)
        return scale.float(), zero.to(torch.int32)


# ---- the operators


@torch.library.custom_op("edge_toolkit::fake_quantize", mutates_args=())
def fake_quantize(x: Tensor, scale: Tensor, zero_point: Tensor, low: int, high: int, axis: int) -> Tensor:
    """`x` rounded to the integers from `low` to `high`, as floats of its own type.

    Args:
        x: (...) floating point.
        scale: () or, for one scale a channel, (channels,); above zero.
        zero_point: Shaped as `scale`; uint8, or int8 where `low` is below zero.
        axis: Of the channels; without meaning where there is one scale.
    """
    s, z = _along(scale, x, axis), _along(zero_point, x, axis)
    return ((torch.round(x / s) + z).clamp(low, high) - z) * s


@torch.library.custom_op("edge_toolkit::dequantize", mutates_args=())
def dequantize(q: Tensor, scale: Tensor, zero_point: Tensor, axis: int) -> Tensor:
    """(q - zero_point) * scale: how weights are stored.

    Args:
        q: Integers.
        scale: () or (channels,), along `axis`; `zero_point` is shaped as it is, of the type of `q`.
    """
    return (q - _along(zero_point, q, axis)) * _along(scale, q, axis)


def _along(scale: Tensor, x: Tensor, axis: int) -> Tensor:
    if scale.ndim == 0:
        return scale
    return scale.reshape([-1 if d == axis % x.ndim else 1 for d in range(x.ndim)])


@fake_quantize.register_fake
def _(x: Tensor, scale: Tensor, zero_point: Tensor, low: int, high: int, axis: int) -> Tensor:
    return torch.empty_like(x)


@dequantize.register_fake
def _(q: Tensor, scale: Tensor, zero_point: Tensor, axis: int) -> Tensor:
    return torch.empty_like(q, dtype=scale.dtype)


def _remember(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    x, scale, zero_point, ctx.low, ctx.high, ctx.axis = inputs
    ctx.save_for_backward(x, scale, zero_point)


def _gradients(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    x, scale, zero_point = ctx.saved_tensors
    s, z = _along(scale, x, ctx.axis), _along(zero_point, x, ctx.axis)
    steps = x / s
    inside = (steps + z >= ctx.low) & (steps + z <= ctx.high)
    to_x = torch.where(inside, grad, 0.0)
    if not ctx.needs_input_grad[1]:
        return to_x, None, None, None, None, None
    slope = torch.where(inside, torch.round(steps) - steps, (steps + z).clamp(ctx.low, ctx.high) - z)
    rows = grad * slope
    others = [d for d in range(x.ndim) if d != ctx.axis % x.ndim]
    to_scale = rows.sum() if scale.ndim == 0 else rows.sum(others)
    values = x.numel() / scale.numel()
    return to_x, to_scale / (values * max(ctx.high, 1)) ** 0.5, None, None, None, None


fake_quantize.register_autograd(_gradients, setup_context=_remember)


# ---- the module


class FakeQuantize(nn.Module):
    """Rounds what it is given to a grid; it has one behaviour, in training and in evaluation.

    Args:
        scale: () or (channels,).
        zero_point: Shaped as `scale`.
        axis: Of the channels.
        learned: Train the scale (LSQ); else it stays.
    """

    scale: Tensor
    zero_point: Tensor

    def __init__(self, grid: Grid, scale: Tensor, zero_point: Tensor, axis: int = 0, *, learned: bool = False) -> None:
        super().__init__()
        self.grid, self.axis, self.learned = grid, axis, learned
        if learned:
            self.scale = nn.Parameter(scale.clone())
        else:
            self.register_buffer("scale", scale.clone())
        self.register_buffer("zero_point", zero_point.to(self._kind))

    @property
    def _kind(self) -> torch.dtype:
        return torch.int8 if self.grid.signed else torch.uint8

    def step(self) -> Tensor:
        """The scale, kept above zero while it is trained."""
        return self.scale.abs().clamp(min=torch.finfo(torch.float32).tiny) if self.learned else self.scale

    def forward(self, x: Tensor) -> Tensor:
        """`x` on the grid."""
        grid = self.grid
        rounded: Tensor = fake_quantize(x, self.step(), self.zero_point, grid.low, grid.high, self.axis)
        return rounded

    def integers(self, x: Tensor) -> Tensor:
        """The integers that stand for `x`: int8, or uint8 where the grid is unsigned."""
        s, z = _along(self.step(), x, self.axis), _along(self.zero_point, x, self.axis)
        return (torch.round(x / s) + z).clamp(self.grid.low, self.grid.high).to(self._kind)

    def extra_repr(self) -> str:
        """The grid, and how many scales there are."""
        return f"{self.grid}, {self.scale.numel()} scales"


# ---- their form in ONNX


def translations() -> dict[Callable[..., Any], Callable[..., Any]]:
    """What `torch.onnx.export(custom_translation_table=...)` wants for these operators."""
    from passes.fake_quant_onnx import dequantize_linear, quantize_dequantize

    operators: Any = torch.ops.edge_toolkit
    return {
        operators.fake_quantize.default: quantize_dequantize,
        operators.dequantize.default: dequantize_linear,
    }
