"""ResNet-50-vd: a deep stem, and shortcuts that average before they narrow.

He et al. 2019, arXiv:1812.01187, figure 2. PaddlePaddle's PP-ResNet50 (`resnet50_vd_imagenet_ssld`).
"""

from torch import nn

from .blocks import Make, Residual, classifier, conv


def _bottleneck(inputs: int, planes: int, stride: int) -> nn.Module:
    outputs = 4 * planes
    body = nn.Sequential(conv(inputs, planes), conv(planes, planes, 3, stride), conv(planes, outputs, act=None))
    if inputs == outputs:
        return Residual(body, after=nn.ReLU)
    pool = [nn.AvgPool2d(2)] if stride == 2 else []
    return Residual(body, nn.Sequential(*pool, conv(inputs, outputs, act=None)), nn.ReLU)


def resnet50_vd() -> nn.Module:
    """Stages of 3, 4, 6 and 3 bottlenecks behind three 3x3 convolutions."""
    layers = nn.Sequential(conv(3, 32, 3, 2), conv(32, 32, 3), conv(32, 64, 3), nn.MaxPool2d(3, 2, 1))
    width = 64
    for planes, repeats, stride in ((64, 3, 1), (128, 4, 2), (256, 6, 2), (512, 3, 2)):
        for i in range(repeats):
            layers.append(_bottleneck(width, planes, stride if i == 0 else 1))
            width = 4 * planes
    return layers.append(classifier(width))


RESNET_VD: dict[str, Make] = {"resnet50_vd": resnet50_vd}
