"""RegNet: Radosavovic et al. 2020, arXiv:2003.13678."""

from functools import partial

from torch import nn

from .blocks import Residual, SqueezeExcite, classifier, conv


def regnet(widths: tuple[int, ...], depths: tuple[int, ...], group: int, *, se: bool) -> nn.Module:
    """Stages of grouped bottlenecks of ratio one; Y adds squeeze-and-excite at a quarter of the block's input."""
    layers: list[nn.Module] = [conv(3, 32, 3, 2)]
    width = 32
    for outputs, depth in zip(widths, depths, strict=True):
        for i in range(depth):
            stride = 2 if i == 0 else 1
            body = nn.Sequential(conv(width, outputs), conv(outputs, outputs, 3, stride, groups=outputs // group))
            if se:
                body.append(SqueezeExcite(outputs, round(width / 4)))
            body.append(conv(outputs, outputs, act=None))
            shortcut = conv(width, outputs, 1, 2, act=None) if i == 0 else None
            layers.append(Residual(body, shortcut, nn.ReLU))
            width = outputs
    return nn.Sequential(*layers, classifier(width))


REGNET = {
    "regnetx_400m": partial(regnet, (32, 64, 160, 400), (1, 2, 7, 12), 16, se=False),
    "regnety_400m": partial(regnet, (48, 104, 208, 440), (1, 3, 6, 6), 8, se=True),
    "regnety_800m": partial(regnet, (64, 144, 320, 784), (1, 3, 8, 2), 16, se=True),
}
