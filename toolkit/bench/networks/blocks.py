"""The pieces that the published networks share: convolution with normalisation, residual sums, concatenations, heads.

Padding is `kernel // 2`: TensorFlow's SAME pads one side only at stride 2, but the shapes, and so the cost, agree.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

Act = Callable[[], nn.Module]
Make = Callable[..., nn.Module]


def make_divisible(channels: float, divisor: int = 8) -> int:
    """Round to a multiple of `divisor`, never below it and never down by more than a tenth (MobileNet's rule)."""
    rounded = max(divisor, int(channels + divisor / 2) // divisor * divisor)
    return rounded + divisor if rounded < 0.9 * channels else rounded


def conv(
    inputs: int,
    outputs: int,
    kernel: int | tuple[int, int] = 1,
    stride: int = 1,
    *,
    groups: int = 1,
    act: Act | None = nn.ReLU,
    norm: bool = True,
    padding: int | tuple[int, int] | None = None,
) -> nn.Sequential:
    """Convolution, batch norm (or a bias when there is none) and activation, in this order."""
    if padding is None:
        padding = kernel // 2 if isinstance(kernel, int) else (kernel[0] // 2, kernel[1] // 2)
    layers: list[nn.Module] = [
        nn.Conv2d(inputs, outputs, kernel, stride, padding, groups=groups, bias=not norm),
    ]
    if norm:
        layers.append(nn.BatchNorm2d(outputs))
    if act is not None:
        layers.append(act())
    return nn.Sequential(*layers)


def separable(
    inputs: int,
    outputs: int,
    kernel: int = 3,
    stride: int = 1,
    *,
    act: Act | None = nn.ReLU6,
    middle: Act | None = nn.ReLU6,
) -> nn.Sequential:
    """Depthwise convolution, then pointwise: `middle` follows the first, `act` the second."""
    return nn.Sequential(
        *conv(inputs, inputs, kernel, stride, groups=inputs, act=middle), *conv(inputs, outputs, act=act)
    )


def upsample(factor: int = 2) -> nn.Upsample:
    """Nearest-neighbour enlargement."""
    return nn.Upsample(scale_factor=factor, mode="nearest")


class Residual(nn.Module):
    """body(x) + shortcut(x), then `after`; the shortcut is the identity unless one is given."""

    def __init__(self, body: nn.Module, shortcut: nn.Module | None = None, after: Act | None = None) -> None:
        super().__init__()
        self.body = body
        self.shortcut = shortcut or nn.Identity()
        self.after = after() if after else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.after(self.body(x) + self.shortcut(x))
        return y


class Concat(nn.Module):
    """The channels of every branch, side by side; an `nn.Identity()` branch keeps the input."""

    def __init__(self, *branches: nn.Module) -> None:
        super().__init__()
        self.branches = nn.ModuleList(branches)

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([branch(x) for branch in self.branches], 1)


class Sum(nn.Module):
    """The sum of every branch, then `after`."""

    def __init__(self, branches: Sequence[nn.Module], after: Act | None = None) -> None:
        super().__init__()
        self.branches = nn.ModuleList(branches)
        self.after = after() if after else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        first, *rest = [branch(x) for branch in self.branches]
        for other in rest:
            first = first + other
        y: Tensor = self.after(first)
        return y


class Taps(nn.Module):
    """A chain of stages that returns what each stage made, for detectors that look at several scales."""

    def __init__(self, *stages: nn.Module) -> None:
        super().__init__()
        self.stages = nn.ModuleList(stages)

    def forward(self, x: Tensor) -> list[Tensor]:
        made = []
        for stage in self.stages:
            x = stage(x)
            made.append(x)
        return made


class Shuffle(nn.Module):
    """Interleave the channels of `groups` groups (ShuffleNet)."""

    def __init__(self, groups: int) -> None:
        super().__init__()
        self.groups = groups

    def forward(self, x: Tensor) -> Tensor:
        batch, channels, height, width = x.shape
        y = x.view(batch, self.groups, channels // self.groups, height, width).transpose(1, 2)
        return y.reshape(batch, channels, height, width)


class SqueezeExcite(nn.Module):
    """Scale every channel by a gate computed from the global average (Hu et al. 2018, arXiv:1709.01507)."""

    def __init__(self, channels: int, squeezed: int, act: Act = nn.ReLU, gate: Act = nn.Sigmoid) -> None:
        super().__init__()
        self.gate = nn.Sequential(
            nn.AdaptiveAvgPool2d(1), nn.Conv2d(channels, squeezed, 1), act(), nn.Conv2d(squeezed, channels, 1), gate()
        )

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = x * self.gate(x)
        return y


def inverted_residual(
    inputs: int,
    outputs: int,
    kernel: int,
    stride: int,
    hidden: int,
    *,
    act: Act = nn.ReLU6,
    se: nn.Module | None = None,
    expand: bool | None = None,
    fused: bool = False,
) -> nn.Module:
    """Expand to `hidden` channels, filter depthwise, project linearly (Sandler et al. 2018, arXiv:1801.04381).

    `se` gates the hidden channels. `expand` says whether the first pointwise convolution exists; by default where it
    changes the width. `fused` puts one full convolution in place of expansion and filter (EfficientNet-EdgeTPU).
    """
    if fused:
        layers: list[nn.Module] = [conv(inputs, hidden, kernel, stride, act=act)]
    else:
        layers = [conv(inputs, hidden, act=act)] if (hidden != inputs if expand is None else expand) else []
        layers.append(conv(hidden, hidden, kernel, stride, groups=hidden, act=act))
    if se is not None:
        layers.append(se)
    layers.append(conv(hidden, outputs, act=None))
    body = nn.Sequential(*layers)
    return Residual(body) if stride == 1 and inputs == outputs else body


def classifier(channels: int, classes: int = 1000) -> nn.Sequential:
    """Global average and one linear layer."""
    return nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, classes))
