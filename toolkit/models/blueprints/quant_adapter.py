"""Any network with its linear layers and convolutions on integer grids of 2 to 8 bits, while it trains and after.

`adapt` replaces every such layer by one that rounds its input and its weight with the operators of
`passes.fake_quant`; the arithmetic is the same in training and evaluation, and in the exported graph it is
QuantizeLinear and DequantizeLinear with the same scales. Scales start from the ranges seen on samples and are trained
with the weights; `frozen` stores the weights as the integers that they are rounded to. Results are not rounded until
the next layer reads them: runtimes then read weights of 8 bits, and most of them multiply floats.

For ONNX use `toolkit export` or `toolkit.compile`. A bare `torch.onnx.export` knows none of these operators and ends in
a ConversionError; it wants `custom_translation_table=passes.fake_quant.translations()`, which is what these hand it.

The network here: an adapter x + up(relu(down(norm(x)))) in the classifier of motion, all of it adapted.
Shapes: (B, L, W) to (B, L, W), (B, W) to (B, W). For: devices with integer arithmetic; few bits without surprises.

Sources: Jacob et al. 2018, arXiv:1712.05877 (fake quantization); Esser et al. 2020, arXiv:1902.08153 (learned scales);
Houlsby et al. 2019, arXiv:1902.00751 (the adapter).
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping
from functools import partial
from typing import Annotated, Any

import torch
from pydantic import Field
from torch import Tensor, nn

from passes.fake_quant import FakeQuantize, Grid, dequantize
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
from toolkit.models.blueprints.sizes import tracing
from toolkit.models.blueprints.written_norm import WrittenNorm
from toolkit.models.seeded import seeded

__all__ = [
    "Config", "FrozenLayer", "QuantizedLayer", "adapt", "build", "calibration", "example", "frozen", "training",
    "validation",
]  # fmt: skip

_Bits = Annotated[int, Field(ge=2, le=8)]
_KINDS = (nn.Linear, nn.Conv1d, nn.Conv2d)
_OBSERVED = 16
"""Calibration samples that the first ranges come from."""


class Config(MotionConfig):
    """Bits of weights and of what flows between layers."""

    bottleneck: Annotated[int, Field(ge=2, le=1024)] = 16
    """Features inside the adapter."""
    weight_bits: _Bits = 8
    """Of weights: symmetric, one scale for each output."""
    activation_bits: _Bits = 8
    """Of the inputs of layers: symmetric, one scale."""


class QuantizedLayer(nn.Module):
    """A linear layer or convolution whose input and weight are rounded to grids.

    Args:
        layer: nn.Linear, nn.Conv1d or nn.Conv2d; its parameters become this one's.
        low: () the least value of its input; `high`: () the greatest.
    """

    def __init__(self, layer: Any, low: Tensor, high: Tensor, *, weight: Grid, activation: Grid) -> None:
        super().__init__()
        self.layer = layer
        initial: Tensor = self.layer.weight
        largest = initial.detach().abs().flatten(1).amax(1)
        self.weight_grid = FakeQuantize(weight, *weight.covering(-largest, largest), axis=0, learned=True)
        self.input_grid = FakeQuantize(activation, *activation.covering(low, high), learned=True)

    def forward(self, x: Tensor) -> Tensor:
        """What the layer gives; rounding is in float32, also under autocast."""
        weight, grid = self.layer.weight, self.weight_grid
        x = _on_grid(self.input_grid, x.float())
        if torch.compiler.is_exporting():  # type: ignore[attr-defined]  # weights are written as the integers
            integers = grid.integers(weight)
            return _exported(self.layer, x, integers, grid.step(), torch.zeros_like(grid.zero_point))
        return _applied(self.layer, x, _on_grid(grid, weight))


class FrozenLayer(nn.Module):
    """A QuantizedLayer that cannot be trained any more: weights as int8, scales as constants."""

    integers: Tensor
    scale: Tensor
    zero: Tensor

    def __init__(self, trained: QuantizedLayer) -> None:
        super().__init__()
        grid, rounding = trained.weight_grid, trained.input_grid
        integers = grid.integers(trained.layer.weight.detach())
        self.register_buffer("integers", integers)
        self.register_buffer("scale", grid.step().detach().clone())
        self.register_buffer("zero", torch.zeros(len(integers), dtype=integers.dtype))
        self.input_grid = FakeQuantize(rounding.grid, rounding.step().detach(), rounding.zero_point)
        self.layer = copy.deepcopy(trained.layer).requires_grad_(False)
        self.layer.weight = None

    def forward(self, x: Tensor) -> Tensor:
        """What the layer that was trained gives."""
        x = _on_grid(self.input_grid, x.float())
        if torch.compiler.is_exporting():  # type: ignore[attr-defined]
            return _exported(self.layer, x, self.integers, self.scale, self.zero)
        return _applied(self.layer, x, self.integers * _along(self.scale, self.integers))


def _on_grid(grid: FakeQuantize, x: Tensor) -> Tensor:
    """`grid(x)`; in TorchScript, which knows no operators of ours, in plain arithmetic."""
    if not tracing():
        rounded: Tensor = grid(x)
        return rounded
    scale, zero = _along(grid.step(), x), _along(grid.zero_point, x)
    return (grid.integers(x) - zero.float()) * scale


def _exported(layer: Any, x: Tensor, integers: Tensor, scale: Tensor, zero: Tensor) -> Tensor:
    """The layer with its weight behind a DequantizeLinear; beyond a matrix as ONNX writes it, without a transpose.

    The bias has as many axes as the sum: onnxruntime would make a Gemm with one axis, and take it out of the integers.
    """
    if not isinstance(layer, nn.Linear) or x.ndim == 2:
        return _applied(layer, x, dequantize(integers, scale, zero, 0))
    product: Tensor = x @ dequantize(integers.T, scale, zero, 1)
    bias: Tensor | None = layer.bias
    return product if bias is None else product + bias.reshape([1] * (x.ndim - 1) + [-1])


def _along(scale: Tensor, x: Tensor) -> Tensor:
    return scale if scale.ndim == 0 else scale.reshape([-1] + [1] * (x.ndim - 1))


def _applied(layer: Any, x: Tensor, weight: Tensor) -> Tensor:
    made: Tensor
    if isinstance(layer, nn.Linear):
        made = nn.functional.linear(x, weight, layer.bias)
    else:
        made = layer._conv_forward(x, weight, layer.bias)
    return made


# ---- any network


def adapt(model: nn.Module, samples: Iterable[Tensor], *, weight_bits: int = 8, activation_bits: int = 8) -> nn.Module:
    """A copy of `model` with every linear layer and convolution quantized.

    Args:
        samples: Inputs of the model; what its layers see of them gives the first ranges.
        weight_bits: 2 to 8; symmetric, one scale for each output.
        activation_bits: 2 to 8; symmetric, one scale.

    Raises:
        InvalidInput: bits out of range, no such layer, no sample, or values that are not finite.
    """
    for bits in (weight_bits, activation_bits):
        if not 2 <= bits <= 8:
            raise InvalidInput(f"{bits} bits cannot be faked", hint="choose 2 to 8 bits")
    copied = copy.deepcopy(model)
    layers = {
        name: part for name, part in copied.named_modules() if isinstance(part, (nn.Linear, nn.Conv1d, nn.Conv2d))
    }
    if not layers:
        raise InvalidInput("the model has no linear layer and no convolution", hint="give a model that has one")
    ranges = _ranges(copied, layers, samples)
    weight = Grid(weight_bits, narrow=True)
    activation = Grid(activation_bits)
    for name, layer in layers.items():
        low, high = ranges[name]
        quantized = QuantizedLayer(layer, low, high, weight=weight, activation=activation).train(layer.training)
        if not name:
            return quantized
        _replace(copied, name, quantized)
    return copied


def frozen(model: nn.Module) -> nn.Module:
    """A copy in eval mode whose quantized layers hold integers in place of float weights."""
    copied = copy.deepcopy(model).eval()
    if isinstance(copied, QuantizedLayer):
        return FrozenLayer(copied).eval()
    for name, part in list(copied.named_modules()):
        if isinstance(part, QuantizedLayer):
            _replace(copied, name, FrozenLayer(part).eval())
    return copied


def _replace(model: nn.Module, name: str, part: nn.Module) -> None:
    owner, _, last = name.rpartition(".")
    setattr(model.get_submodule(owner), last, part)


def _ranges(
    model: nn.Module, layers: Mapping[str, nn.Module], samples: Iterable[Tensor]
) -> dict[str, tuple[Tensor, Tensor]]:
    """The least and greatest value that enters each layer, in evaluation."""
    seen: dict[str, tuple[Tensor, Tensor]] = {}

    def note(name: str, module: nn.Module, args: tuple[Tensor, ...]) -> None:
        low, high = torch.aminmax(args[0].detach().float())
        before = seen.get(name, (low, high))
        seen[name] = torch.minimum(before[0], low), torch.maximum(before[1], high)

    modes = [(part, part.training) for part in model.modules()]
    hooks = [layer.register_forward_pre_hook(partial(note, name)) for name, layer in layers.items()]
    try:
        with torch.no_grad():
            model.eval()
            for sample in samples:
                model(sample)
    finally:
        for hook in hooks:
            hook.remove()
        for part, was in modes:
            part.training = was
    if missing := sorted(set(layers) - set(seen)):
        raise InvalidInput(
            f"no sample went through {missing[0] or 'the model'}", hint="give samples that use every layer"
        )
    for name, (low, high) in seen.items():
        if not bool(torch.isfinite(high - low)):
            raise InvalidInput(
                f"what enters {name or 'the model'} is not finite", hint="look for infinities and NaN in the samples"
            )
    return seen


# ---- the network of the zoo


class Adapter(nn.Module):
    """x + up(relu(down(norm(x))))."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.norm = WrittenNorm(config.width)
        self.down = nn.Linear(config.width, config.bottleneck)
        self.up = nn.Linear(config.bottleneck, config.width)

    def forward(self, x: Tensor) -> Tensor:
        """(B, L, W) or (B, W), as it came."""
        check_sequence(x, self.norm.normalized_shape[0])
        result: Tensor = x + self.up(torch.relu(self.down(self.norm(x))))
        return result


def build(config: Config = Config()) -> nn.Module:
    """The classifier of motion, adapted with the ranges of 16 calibration signals."""
    with seeded(config.seed):
        plain = MotionClassifier(config.width, Adapter(config)).eval()
    signals = (torch.from_numpy(sample["signal"].copy()) for sample in calibration(config).take(_OBSERVED))
    return adapt(plain, signals, weight_bits=config.weight_bits, activation_bits=config.activation_bits)
