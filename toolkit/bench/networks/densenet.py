"""Densely connected networks: Huang et al. 2017, arXiv:1608.06993, table 1."""

from functools import partial

from torch import nn

from .blocks import Concat, Make, classifier, conv
from .resnet import PoseHead


def features(growth: int, stem: int, depths: tuple[int, ...]) -> tuple[list[nn.Module], int]:
    """Stem, dense blocks, halving transitions and the last norm, and the channels these end with."""
    layers: list[nn.Module] = [conv(3, stem, 7, 2), nn.MaxPool2d(3, 2, 1)]
    width = stem
    for block, depth in enumerate(depths):
        for _ in range(depth):
            layers.append(
                Concat(
                    nn.Identity(),
                    nn.Sequential(
                        nn.BatchNorm2d(width),
                        nn.ReLU(),
                        conv(width, 4 * growth),
                        nn.Conv2d(4 * growth, growth, 3, padding=1, bias=False),
                    ),
                )
            )
            width += growth
        layers += [nn.BatchNorm2d(width), nn.ReLU()]
        if block < len(depths) - 1:
            layers += [nn.Conv2d(width, width // 2, 1, bias=False), nn.AvgPool2d(2)]
            width //= 2
    return layers, width


def densenet(growth: int, stem: int, depths: tuple[int, ...]) -> nn.Module:
    """Features and classifier."""
    layers, width = features(growth, stem, depths)
    return nn.Sequential(*layers, classifier(width))


def pose() -> nn.Module:
    """trt_pose's `densenet121_baseline_att`."""
    layers, width = features(32, 64, (6, 12, 24, 16))
    return nn.Sequential(*layers, PoseHead(width))


DENSENET: dict[str, Make] = {
    "densenet121": partial(densenet, 32, 64, (6, 12, 24, 16)),
    "densenet161": partial(densenet, 48, 96, (6, 12, 36, 24)),
    "densenet169": partial(densenet, 32, 64, (6, 12, 32, 32)),
    "densenet201": partial(densenet, 32, 64, (6, 12, 48, 32)),
    "densenet121_pose": pose,
}
