"""Residual networks: the original, its two Caffe and TF-Slim variants, wider and grouped ones, and heads on top."""

from collections.abc import Sequence
from functools import partial
from itertools import pairwise

from torch import Tensor, nn

from .blocks import Act, Residual, SqueezeExcite, classifier, conv

_DEPTHS = {18: (2, 2, 2, 2), 34: (3, 4, 6, 3), 50: (3, 4, 6, 3), 101: (3, 4, 23, 3), 152: (3, 8, 36, 3)}


def _basic(inputs: int, planes: int, stride: int) -> nn.Module:
    body = nn.Sequential(conv(inputs, planes, 3, stride), conv(planes, planes, 3, act=None))
    shortcut = conv(inputs, planes, 1, stride, act=None) if stride > 1 or inputs != planes else None
    return Residual(body, shortcut, nn.ReLU)


def _bottleneck(
    inputs: int, planes: int, stride: int, *, groups: int = 1, base: int = 64, se: bool = False, caffe: bool = False
) -> nn.Module:
    outputs, width = planes * 4, planes * base // 64 * groups
    first, second = (stride, 1) if caffe else (1, stride)
    body = nn.Sequential(
        conv(inputs, width, 1, first), conv(width, width, 3, second, groups=groups), conv(width, outputs, act=None)
    )
    if se:
        body.append(SqueezeExcite(outputs, outputs // 16))
    shortcut = conv(inputs, outputs, 1, stride, act=None) if stride > 1 or inputs != outputs else None
    return Residual(body, shortcut, nn.ReLU)


def features(
    depth: int,
    *,
    groups: int = 1,
    base: int = 64,
    se: bool = False,
    caffe: bool = False,
    strides: Sequence[int] = (1, 2, 2, 2),
) -> list[nn.Module]:
    """Stem and residual stages, one module each; `strides` may be shorter than four to stop early."""
    layers: list[nn.Module] = [nn.Sequential(conv(3, 64, 7, 2), nn.MaxPool2d(3, 2, 1))]
    width = 64
    for planes, repeats, stride in zip((64, 128, 256, 512), _DEPTHS[depth], strides, strict=False):
        stage = nn.Sequential()
        for i in range(repeats):
            step = stride if i == 0 else 1
            if depth < 50:
                stage.append(_basic(width, planes, step))
            else:
                stage.append(_bottleneck(width, planes, step, groups=groups, base=base, se=se, caffe=caffe))
            width = planes if depth < 50 else planes * 4
        layers.append(stage)
    return layers


def resnet(depth: int, *, groups: int = 1, base: int = 64, se: bool = False, caffe: bool = False) -> nn.Module:
    """ResNet: He et al. 2016, arXiv:1512.03385, table 1; the stride sits in the 3x3 convolution ("v1.5").

    `groups` and `base` give ResNeXt (arXiv:1611.05431) and Wide ResNet (arXiv:1605.07146), `se` SE-ResNet
    (arXiv:1709.01507), `caffe` the first release, whose stride sits in the first 1x1 convolution.
    """
    stages = features(depth, groups=groups, base=base, se=se, caffe=caffe)
    return nn.Sequential(*stages, classifier(512 if depth < 50 else 2048))


class _PreActivation(nn.Module):
    """A bottleneck whose norm and activation come first; both paths of a widening unit read the activated input."""

    def __init__(self, inputs: int, planes: int, stride: int) -> None:
        super().__init__()
        outputs = planes * 4
        self.before = nn.Sequential(nn.BatchNorm2d(inputs), nn.ReLU())
        self.body = nn.Sequential(
            conv(inputs, planes), conv(planes, planes, 3, stride), conv(planes, outputs, norm=False, act=None)
        )
        self.project = conv(inputs, outputs, 1, stride, norm=False, act=None) if inputs != outputs else None
        self.subsample = nn.MaxPool2d(1, stride) if stride > 1 else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        active = self.before(x)
        shortcut = self.project(active) if self.project is not None else self.subsample(x)
        y: Tensor = self.body(active) + shortcut
        return y


def slim(depth: int, *, preactivation: bool = False) -> nn.Module:
    """ResNet V1 and V2 of TF-Slim: the stride sits in the last unit of a stage, so most units see the smaller map.

    V2: He et al. 2016, arXiv:1603.05027.
    """
    stem = conv(3, 64, 7, 2, norm=not preactivation, act=None if preactivation else nn.ReLU)
    layers: list[nn.Module] = [stem, nn.MaxPool2d(3, 2, 1)]
    width = 64
    for planes, repeats, stride in zip((64, 128, 256, 512), _DEPTHS[depth], (2, 2, 2, 1), strict=True):
        for i in range(repeats):
            step, outputs = stride if i == repeats - 1 else 1, planes * 4
            if preactivation:
                layers.append(_PreActivation(width, planes, step))
            else:
                body = nn.Sequential(
                    conv(width, planes), conv(planes, planes, 3, step), conv(planes, outputs, act=None)
                )
                shortcut = (
                    conv(width, outputs, 1, step, act=None)
                    if width != outputs
                    else nn.MaxPool2d(1, step)
                    if step > 1
                    else None
                )
                layers.append(Residual(body, shortcut, nn.ReLU))
            width = outputs
    if preactivation:
        layers += [nn.BatchNorm2d(width), nn.ReLU()]
    return nn.Sequential(*layers, classifier(width))


def fcn(depth: int, classes: int = 21) -> nn.Module:
    """FCN on an undilated ResNet, raw 1/32 grid, as NVIDIA's jetson-inference runs it; Long et al., arXiv:1411.4038."""
    return nn.Sequential(*features(depth), conv(512, 128, 3), nn.Conv2d(128, classes, 1))


class PoseHead(nn.Module):
    """NVIDIA trt_pose: two branches of three transposed convolutions, each weighted by its own attention map."""

    def __init__(self, inputs: int, parts: int = 18, fields: int = 42, width: int = 256) -> None:
        super().__init__()
        self.parts, self.fields = (
            self._branch(inputs, outputs, width, act) for outputs, act in ((parts, nn.Sigmoid), (fields, nn.Tanh))
        )

    @staticmethod
    def _branch(inputs: int, outputs: int, width: int, act: Act) -> nn.ModuleList:
        rise = nn.Sequential()
        for a, b in pairwise((inputs, width, width, width)):
            rise.extend([nn.ConvTranspose2d(a, b, 4, 2, 1), nn.BatchNorm2d(b), nn.ReLU()])
        return nn.ModuleList([rise, conv(width, width, 3, norm=False, act=act), nn.Conv2d(width, outputs, 1)])

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        def run(branch: nn.ModuleList) -> Tensor:
            rise, attend, last = branch
            up = rise(x)
            y: Tensor = last(up * attend(up))
            return y

        return run(self.parts), run(self.fields)


def pose(depth: int) -> nn.Module:
    """trt_pose's `resnet18_baseline_att`: ResNet features and `PoseHead`."""
    return nn.Sequential(*features(depth), PoseHead(512))


RESNET = (
    {f"resnet{depth}": partial(resnet, depth) for depth in _DEPTHS}
    | {
        f"resnet_v{version}_{depth}_slim": partial(slim, depth, preactivation=version == 2)
        for depth in (50, 101, 152)
        for version in (1, 2)
    }
    | {
        "resnet50_caffe": partial(resnet, 50, caffe=True),
        "seresnet50": partial(resnet, 50, se=True),
        "resnext50_32x4d": partial(resnet, 50, groups=32, base=4),
        "resnext101_32x8d": partial(resnet, 101, groups=32, base=8),
        "wide_resnet50_2": partial(resnet, 50, base=128),
        "fcn_resnet18": partial(fcn, 18),
        "resnet18_pose": partial(pose, 18),
    }
)
