"""RepVGG and MobileOne with every training branch in place, as a framework runs them unless it is told to fuse."""

from functools import partial
from itertools import chain

from torch import nn

from .blocks import Sum, classifier, conv


def _block(
    inputs: int, outputs: int, kernel: int, stride: int, *, copies: int = 1, groups: int = 1, point: bool = True
) -> nn.Module:
    """`copies` convolutions, a 1x1 one if `point`, and a batch norm of the input where shapes allow, summed."""
    branches: list[nn.Module] = [nn.BatchNorm2d(inputs)] if inputs == outputs and stride == 1 else []
    if point:
        branches.append(conv(inputs, outputs, 1, stride, groups=groups, act=None))
    branches += [conv(inputs, outputs, kernel, stride, groups=groups, act=None) for _ in range(copies)]
    return Sum(branches, nn.ReLU)


def repvgg(widths: tuple[int, ...], depths: tuple[int, ...]) -> nn.Module:
    """RepVGG: Ding et al. 2021, arXiv:2101.03697, table 2."""
    layers, width = nn.Sequential(_block(3, min(64, widths[0]), 3, 2)), min(64, widths[0])
    for outputs, depth in zip(widths, depths, strict=True):
        for stride in chain((2,), (1,) * (depth - 1)):
            layers.append(_block(width, outputs, 3, stride))
            width = outputs
    return layers.append(classifier(width))


def mobileone(widths: tuple[int, ...], copies: int) -> nn.Module:
    """MobileOne: Vasu et al. 2023, arXiv:2206.04040, table 2."""
    width = min(64, widths[0])
    layers = nn.Sequential(_block(3, width, 3, 2))
    for outputs, depth in zip(widths, (2, 8, 10, 1), strict=True):
        for stride in chain((2,), (1,) * (depth - 1)):
            layers.append(_block(width, width, 3, stride, copies=copies, groups=width))
            layers.append(_block(width, outputs, 1, 1, copies=copies, point=False))
            width = outputs
    return layers.append(classifier(width))


REPVGG = {
    "repvgg_a0": partial(repvgg, (48, 96, 192, 1280), (2, 4, 14, 1)),
    "repvgg_b0": partial(repvgg, (64, 128, 256, 1280), (4, 6, 16, 1)),
}
MOBILEONE = {
    "mobileone_s0": partial(mobileone, (48, 128, 256, 1024), 4),
    "mobileone_s1": partial(mobileone, (96, 192, 512, 1280), 1),
}
