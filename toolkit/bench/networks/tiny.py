"""MLPerf Tiny's reference networks: Banbury et al. 2021, arXiv:2106.07597, as github.com/mlcommons/tiny trains them.

Classifiers stop at their logits, as those of every other network here.
"""

from itertools import pairwise

from torch import nn

from .blocks import Make, Residual, classifier, conv, separable
from .mobilenet import v1_features


def _unit(inputs: int, outputs: int) -> nn.Module:
    """Two 3x3 convolutions; where the unit widens, it halves the image, and its shortcut has no norm."""
    stride = 1 if inputs == outputs else 2
    body = nn.Sequential(conv(inputs, outputs, 3, stride), conv(outputs, outputs, 3, act=None))
    shortcut = None if inputs == outputs else conv(inputs, outputs, 1, stride, norm=False, act=None)
    return Residual(body, shortcut, nn.ReLU)


def resnet8() -> nn.Module:
    """Image classification: a stem and three residual units on 32x32x3."""
    units = (_unit(a, b) for a, b in pairwise((16, 16, 32, 64)))
    return nn.Sequential(conv(3, 16, 3), *units, classifier(64, 10))


def ds_cnn(width: int = 64) -> nn.Module:
    """Keyword spotting: one convolution and four separable ones on a spectrogram of 49x10 (1x1x49x10)."""
    units = (separable(width, width, act=nn.ReLU, middle=nn.ReLU) for _ in range(4))
    return nn.Sequential(conv(1, width, (10, 4), 2, padding=(5, 1)), *units, classifier(width, 12))


def visual_wake_words() -> nn.Module:
    """Whether a person is in an image of 96x96x3: MobileNet V1 of a quarter of the width."""
    return nn.Sequential(*v1_features(0.25), classifier(256, 2))


def autoencoder(bins: int = 640, width: int = 128, bottleneck: int = 8) -> nn.Module:
    """Anomaly detection: 640 spectrogram bins through a bottleneck of eight numbers and back."""
    layers: list[nn.Module] = []
    for a, b in pairwise((bins, *(width,) * 4, bottleneck, *(width,) * 4)):
        layers += [nn.Linear(a, b), nn.BatchNorm1d(b), nn.ReLU()]
    return nn.Sequential(*layers, nn.Linear(width, bins))


AUTOENCODER: dict[str, Make] = {"tiny_autoencoder": autoencoder}
DS_CNN: dict[str, Make] = {"tiny_ds_cnn": ds_cnn}
MOBILENET_V1: dict[str, Make] = {"tiny_mobilenet_v1": visual_wake_words}
RESNET: dict[str, Make] = {"tiny_resnet8": resnet8}
