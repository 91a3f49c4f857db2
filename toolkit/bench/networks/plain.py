"""Networks without shortcuts: AlexNet, VGG and SqueezeNet."""

from functools import partial

from torch import nn

from .blocks import Concat, conv

plain = partial(conv, norm=False)


def _perceptron(inputs: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Flatten(), nn.Linear(inputs, 4096), nn.ReLU(), nn.Linear(4096, 4096), nn.ReLU(), nn.Linear(4096, 1000)
    )


def alexnet() -> nn.Module:
    """AlexNet in one tower, for 224 pixels: Krizhevsky 2014, arXiv:1404.5997."""
    return nn.Sequential(
        plain(3, 64, 11, 4, padding=2),
        nn.MaxPool2d(3, 2),
        plain(64, 192, 5),
        nn.MaxPool2d(3, 2),
        plain(192, 384, 3),
        plain(384, 256, 3),
        plain(256, 256, 3),
        nn.MaxPool2d(3, 2),
        _perceptron(256 * 6 * 6),
    )


def alexnet_caffe() -> nn.Module:
    """AlexNet in two towers with response normalisation, for 227 pixels: Krizhevsky et al. 2012."""
    return nn.Sequential(
        plain(3, 96, 11, 4, padding=0),
        nn.LocalResponseNorm(5),
        nn.MaxPool2d(3, 2),
        plain(96, 256, 5, groups=2),
        nn.LocalResponseNorm(5),
        nn.MaxPool2d(3, 2),
        plain(256, 384, 3),
        plain(384, 384, 3, groups=2),
        plain(384, 256, 3, groups=2),
        nn.MaxPool2d(3, 2),
        _perceptron(256 * 6 * 6),
    )


_VGG = {11: (1, 1, 2, 2, 2), 13: (2, 2, 2, 2, 2), 16: (2, 2, 3, 3, 3), 19: (2, 2, 4, 4, 4)}


def vgg(depth: int, *, norm: bool = False) -> nn.Module:
    """VGG, for 224 pixels: Simonyan and Zisserman 2015, arXiv:1409.1556, table 1."""
    layers, width = nn.Sequential(), 3
    for channels, repeats in zip((64, 128, 256, 512, 512), _VGG[depth], strict=True):
        for _ in range(repeats):
            layers.append(
                nn.Sequential(nn.Conv2d(width, channels, 3, padding=1), nn.BatchNorm2d(channels), nn.ReLU())
                if norm
                else plain(width, channels, 3)
            )
            width = channels
        layers.append(nn.MaxPool2d(2))
    return layers.append(_perceptron(512 * 7 * 7))


def fire(inputs: int, squeezed: int, expanded: int) -> nn.Module:
    """Squeeze, then expand by 1x1 and by 3x3 side by side."""
    return nn.Sequential(plain(inputs, squeezed), Concat(plain(squeezed, expanded), plain(squeezed, expanded, 3)))


def squeezenet_features(version: str) -> list[nn.Module]:
    """Stem, fire modules and the pools between them; V1.1 pools earlier behind a smaller stem."""

    def pool() -> nn.Module:
        return nn.MaxPool2d(3, 2, ceil_mode=True)

    early = version == "1.1"
    stem = (
        [plain(3, 64, 3, 2, padding=0), pool(), fire(64, 16, 64)]
        if early
        else [plain(3, 96, 7, 2, padding=0), pool(), fire(96, 16, 64)]
    )
    first = (
        [fire(128, 16, 64), pool(), fire(128, 32, 128), fire(256, 32, 128), pool()]
        if early
        else [fire(128, 16, 64), fire(128, 32, 128), pool(), fire(256, 32, 128)]
    )
    last = [fire(256, 48, 192), fire(384, 48, 192), fire(384, 64, 256)]
    return [*stem, *first, *last, *([] if early else [pool()]), fire(512, 64, 256)]


def squeezenet(version: str) -> nn.Module:
    """SqueezeNet 1.0 and 1.1: Iandola et al. 2016, arXiv:1602.07360, table 1."""
    return nn.Sequential(*squeezenet_features(version), plain(512, 1000), nn.AdaptiveAvgPool2d(1), nn.Flatten())


ALEXNET = {"alexnet": alexnet, "alexnet_caffe": alexnet_caffe}
VGG = {f"vgg{depth}{'_bn' * norm}": partial(vgg, depth, norm=norm) for depth in _VGG for norm in (False, True)}
SQUEEZENET = {"squeezenet_1.0": partial(squeezenet, "1.0"), "squeezenet_1.1": partial(squeezenet, "1.1")}
