"""One-shot detectors of TensorFlow's zoo on feature pyramids, with predictors that all levels share; raw grids.

Lin et al. 2017, arXiv:1708.02002 and arXiv:1612.03144. "Lite" means separable convolutions. Convolutions of the
predictors are shared by the levels, norms are each level's own; 91 classes.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch.nn.functional as F
from torch import Tensor, nn

from . import mobilenet, resnet
from .blocks import Make, Taps, conv

_CLASSES = 91


def _conv(inputs: int, outputs: int, stride: int = 1, *, lite: bool, bias: bool = False) -> list[nn.Module]:
    """A 3x3 convolution, or where `lite` a depthwise and a pointwise one with nothing between."""
    if not lite:
        return [nn.Conv2d(inputs, outputs, 3, stride, 1, bias=bias)]
    return [
        nn.Conv2d(inputs, inputs, 3, stride, 1, groups=inputs, bias=False), nn.Conv2d(inputs, outputs, 1, bias=bias)
    ]  # fmt: skip


class _Pyramid(nn.Module):
    """Three maps brought to one width and added on the way down; two coarser ones made of the last."""

    def __init__(self, widths: Sequence[int], width: int, *, lite: bool) -> None:
        super().__init__()
        self.laterals = nn.ModuleList(nn.Conv2d(w, width, 1) for w in widths)

        def unit(stride: int) -> nn.Module:
            return nn.Sequential(*_conv(width, width, stride, lite=lite), nn.BatchNorm2d(width), nn.ReLU6())

        self.smooth = nn.ModuleList(unit(1) for _ in widths[1:])
        self.coarser = nn.ModuleList(unit(2) for _ in range(2))

    def forward(self, maps: Sequence[Tensor]) -> list[Tensor]:
        low, middle, y = (lateral(x) for lateral, x in zip(self.laterals, maps, strict=True))
        made = [y]
        for smooth, lateral in zip(self.smooth, (middle, low), strict=True):
            y = F.interpolate(y, scale_factor=2.0) + lateral
            made.insert(0, smooth(y))
        for coarser in self.coarser:
            made.append(coarser(made[-1]))
        return made


class _Tower(nn.Module):
    """Four convolutions shared by the levels, each followed by the level's own norm."""

    def __init__(self, inputs: int, width: int, levels: int, *, lite: bool) -> None:
        super().__init__()
        self.convs = nn.ModuleList(
            nn.Sequential(*_conv(inputs if i == 0 else width, width, lite=lite)) for i in range(4)
        )
        self.norms = nn.ModuleList(nn.ModuleList(nn.BatchNorm2d(width) for _ in range(4)) for _ in range(levels))
        self.act = nn.ReLU6()

    def forward(self, maps: Sequence[Tensor]) -> list[Tensor]:
        made = []
        for x, norms in zip(maps, self.norms, strict=True):
            assert isinstance(norms, nn.ModuleList)
            for each, norm in zip(self.convs, norms, strict=True):
                x = self.act(norm(each(x)))
            made.append(x)
        return made


class _Detector(nn.Module):
    """Body, pyramid, one tower for boxes and scores or one each, and the two last convolutions."""

    def __init__(
        self, body: nn.Module, pyramid: nn.Module, inputs: int, width: int, *, levels: int = 5, anchors: int = 6,
        lite: bool = False,
    ) -> None:  # fmt: skip
        super().__init__()
        self.body, self.pyramid = body, pyramid
        self.towers = nn.ModuleList(_Tower(inputs, width, levels, lite=lite) for _ in range(1 if lite else 2))
        self.boxes = nn.Sequential(*_conv(width, anchors * 4, lite=lite, bias=True))
        self.scores = nn.Sequential(*_conv(width, anchors * _CLASSES, lite=lite, bias=True))

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        maps = self.pyramid(self.body(x))
        towers = [tower(maps) for tower in self.towers]
        return (*(self.boxes(y) for y in towers[0]), *(self.scores(y) for y in towers[-1]))


def mobilenet_v1_fpn() -> nn.Module:
    """On MobileNet V1, 256 channels."""
    layers = mobilenet.v1_features()
    body = Taps(nn.Sequential(*layers[:6]), nn.Sequential(*layers[6:12]), nn.Sequential(*layers[12:]))
    return _Detector(body, _Pyramid((256, 512, 1024), 256, lite=False), 256, 256)


def resnet50_fpn() -> nn.Module:
    """On the ResNet-50 whose blocks shrink in their first 1x1 convolution, 256 channels."""
    stem, first, *rest = resnet.features(50, caffe=True)
    body = Taps(nn.Sequential(stem, first, rest[0]), *rest[1:])
    return _Detector(body, _Pyramid((512, 1024, 2048), 256, lite=False), 256, 256)


def mobilenet_v2_fpnlite() -> nn.Module:
    """On MobileNet V2 whose last convolution has 256 channels, 128 channels above."""
    layers, _ = mobilenet.v2_features()
    top = nn.Sequential(*layers[14:18], conv(320, 256, act=nn.ReLU6))
    body = Taps(nn.Sequential(*layers[:7]), nn.Sequential(*layers[7:14]), top)
    return _Detector(body, _Pyramid((32, 96, 256), 128, lite=True), 128, 128, lite=True)


class _Merge(NamedTuple):
    """One block of a MnasFPN cell: two inputs by number, the level it makes, its kernel and inner channels."""

    inputs: tuple[int, int]
    level: int
    kernel: int
    hidden: int


# inputs 0 to 3 are the cell's, at levels 3 to 6; the last four blocks are its results
_CELL = (
    _Merge((1, 2), 4, 3, 256),
    _Merge((0, 4), 3, 3, 128),
    _Merge((5, 4), 4, 3, 128),
    _Merge((4, 3), 5, 5, 128),
    _Merge((4, 3), 6, 3, 96),
)


def _brought(inputs: int, hidden: int, rise: int) -> nn.Module:
    """1x1 convolution and, `rise` levels away, enlargement after it or a pool before it."""
    narrow = nn.Sequential(nn.Conv2d(inputs, hidden, 1, bias=False), nn.BatchNorm2d(hidden))
    if rise > 0:
        return nn.Sequential(narrow, nn.Upsample(scale_factor=2**rise))
    return nn.Sequential(nn.MaxPool2d(3, 2**-rise, 1), narrow) if rise else narrow


class _MnasCell(nn.Module):
    def __init__(self, widths: Sequence[int], width: int) -> None:
        super().__init__()
        made, levels = [*widths, *(width for _ in _CELL)], [3, 4, 5, 6, *(b.level for b in _CELL)]
        self.sides = nn.ModuleList(
            nn.ModuleList(_brought(made[i], b.hidden, levels[i] - b.level) for i in b.inputs) for b in _CELL
        )
        self.bodies = nn.ModuleList(
            nn.Sequential(
                nn.ReLU6(),
                nn.Conv2d(b.hidden, b.hidden, b.kernel, padding=b.kernel // 2, groups=b.hidden, bias=False),
                nn.Conv2d(b.hidden, width, 1, bias=False),
                nn.BatchNorm2d(width),
            )
            for b in _CELL
        )
        self.shortcuts = [w == width for w in widths]

    def forward(self, maps: Sequence[Tensor]) -> list[Tensor]:
        made = list(maps)
        for b, sides, body in zip(_CELL, self.sides, self.bodies, strict=True):
            assert isinstance(sides, nn.ModuleList)
            one, other = (side(made[i]) for side, i in zip(sides, b.inputs, strict=True))
            made.append(body(one + other))
        ends = zip(made[-4:], maps, self.shortcuts, strict=True)
        return [y + x if add else y for y, x, add in ends]


class _MnasFpn(nn.Module):
    """A coarser level and four cells: Chen et al. 2020, arXiv:1912.01106."""

    def __init__(self, widths: Sequence[int], width: int) -> None:
        super().__init__()
        self.coarse = nn.Sequential(
            nn.MaxPool2d(3, 2, 1), nn.Conv2d(widths[-1], width, 1, bias=False), nn.BatchNorm2d(width)
        )
        self.cells = nn.Sequential(*(_MnasCell((*widths, width) if i == 0 else (width,) * 4, width) for i in range(4)))

    def forward(self, maps: list[Tensor]) -> list[Tensor]:
        made: list[Tensor] = self.cells([*maps, self.coarse(maps[-1])])
        return made


def mnasfpn() -> nn.Module:
    """MnasFPN on MobileNet V2 without its last convolution, 48 channels and a lite predictor of 64."""
    layers, _ = mobilenet.v2_features()
    body = Taps(nn.Sequential(*layers[:7]), nn.Sequential(*layers[7:14]), nn.Sequential(*layers[14:18]))
    return _Detector(body, _MnasFpn((32, 96, 320), 48), 48, 64, levels=4, anchors=9, lite=True)


# by body, because a network that shares its body is no independent evidence
FPN_MOBILENET_V1: dict[str, Make] = {"ssd_mobilenet_v1_fpn": mobilenet_v1_fpn}
FPN_MOBILENET_V2: dict[str, Make] = {"ssd_mobilenet_v2_fpnlite": mobilenet_v2_fpnlite, "ssd_mnasfpn": mnasfpn}
FPN_RESNET: dict[str, Make] = {"ssd_resnet50_fpn": resnet50_fpn}
