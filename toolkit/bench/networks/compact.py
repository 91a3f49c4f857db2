"""Two compact networks whose blocks are their own: GhostNet and PP-LCNet."""

from functools import partial

from torch import nn

from .blocks import Act, Concat, Residual, SqueezeExcite, conv, make_divisible


def _ghost(inputs: int, outputs: int, act: Act | None = nn.ReLU) -> nn.Module:
    """Half of the channels by a pointwise convolution, the other half by a cheap depthwise one on the first."""
    half = outputs // 2
    return nn.Sequential(conv(inputs, half, act=act), Concat(nn.Identity(), conv(half, half, 3, groups=half, act=act)))


# kernel, hidden channels, channels, squeeze-and-excite, stride
_GHOSTNET = (
    (3, 16, 16, 0, 1),
    (3, 48, 24, 0, 2),
    (3, 72, 24, 0, 1),
    (5, 72, 40, 1, 2),
    (5, 120, 40, 1, 1),
    (3, 240, 80, 0, 2),
    (3, 200, 80, 0, 1),
    (3, 184, 80, 0, 1),
    (3, 184, 80, 0, 1),
    (3, 480, 112, 1, 1),
    (3, 672, 112, 1, 1),
    (5, 672, 160, 1, 2),
    (5, 960, 160, 0, 1),
    (5, 960, 160, 1, 1),
    (5, 960, 160, 0, 1),
    (5, 960, 160, 1, 1),
)


def ghostnet() -> nn.Module:
    """GhostNet 1.0: Han et al. 2020, arXiv:1911.11907, table 7."""
    layers, width = nn.Sequential(conv(3, 16, 3, 2)), 16
    for kernel, hidden, outputs, se, stride in _GHOSTNET:
        body = nn.Sequential(_ghost(width, hidden))
        if stride == 2:
            body.append(conv(hidden, hidden, kernel, 2, groups=hidden, act=None))
        if se:
            body.append(SqueezeExcite(hidden, make_divisible(hidden / 4, 4), gate=nn.Hardsigmoid))
        body.append(_ghost(hidden, outputs, None))
        shortcut = (
            nn.Sequential(conv(width, width, kernel, stride, groups=width, act=None), conv(width, outputs, act=None))
            if stride == 2 or width != outputs
            else None
        )
        layers.append(Residual(body, shortcut))
        width = outputs
    return layers.extend(
        [
            conv(width, 960),
            nn.AdaptiveAvgPool2d(1),
            nn.Conv2d(960, 1280, 1),
            nn.ReLU(),
            nn.Flatten(),
            nn.Linear(1280, 1000),
        ]
    )


# kernel, channels at width 1, stride, squeeze-and-excite
_LCNET = (
    (3, 32, 1, 0),
    (3, 64, 2, 0),
    (3, 64, 1, 0),
    (3, 128, 2, 0),
    (3, 128, 1, 0),
    (3, 256, 2, 0),
    *((5, 256, 1, 0),) * 5,
    (5, 512, 2, 1),
    (5, 512, 1, 1),
)


def lcnet(alpha: float) -> nn.Module:
    """PP-LCNet: Cui et al. 2021, arXiv:2109.15099, table 1."""
    act, width = nn.Hardswish, make_divisible(16 * alpha)
    layers = nn.Sequential(conv(3, width, 3, 2, act=act))
    for kernel, channels, stride, se in _LCNET:
        outputs = make_divisible(channels * alpha)
        layers.append(conv(width, width, kernel, stride, groups=width, act=act))
        if se:
            layers.append(SqueezeExcite(width, width // 4, gate=nn.Hardsigmoid))
        layers.append(conv(width, outputs, act=act))
        width = outputs
    return layers.extend(
        [nn.AdaptiveAvgPool2d(1), nn.Conv2d(width, 1280, 1), act(), nn.Flatten(), nn.Linear(1280, 1000)]
    )


GHOSTNET = {"ghostnet_1.0": ghostnet}
LCNET = {f"lcnet_{alpha}": partial(lcnet, alpha) for alpha in (0.5, 1.0)}
