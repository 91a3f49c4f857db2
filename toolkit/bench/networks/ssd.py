"""Single-shot detectors and the small YOLOs of ncnn's benchmark, up to their raw grids (no decoding, no suppression).

Liu et al. 2016, arXiv:1512.02325. What follows the grids (priors, softmax, suppression) runs on the host or in a
plugin, and differs from one published measurement to the next.
"""

from collections.abc import Sequence
from functools import partial
from itertools import pairwise

import torch
from torch import Tensor, nn

from . import mobilenet, resnet, shufflenet
from .blocks import Act, Concat, Make, Residual, conv, inverted_residual, separable, upsample
from .plain import fire, plain, squeezenet_features


class Ssd(nn.Module):
    """A chain of stages; two convolutions on what each made: boxes and class scores for every anchor."""

    def __init__(self, stages: Sequence[nn.Module], boxes: Sequence[nn.Module], scores: Sequence[nn.Module]) -> None:
        super().__init__()
        self.stages = nn.ModuleList(stages)
        self.boxes, self.scores = nn.ModuleList(boxes), nn.ModuleList(scores)

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        made = []
        for stage, boxes, scores in zip(self.stages, self.boxes, self.scores, strict=True):
            x = stage(x)
            made += [boxes(x), scores(x)]
        return tuple(made)


def _extra(inputs: int, outputs: int, act: Act) -> nn.Module:
    """Halve the map: a pointwise convolution to half the channels, a 3x3 of stride 2."""
    return nn.Sequential(conv(inputs, outputs // 2, act=act), conv(outputs // 2, outputs, 3, 2, act=act))


def _heads(
    stages: Sequence[nn.Module],
    widths: Sequence[int],
    classes: int,
    kernels: Sequence[int],
    anchors: Sequence[int] = (3, 6, 6, 6, 6, 6),
) -> Ssd:
    def heads(outputs: int) -> list[nn.Module]:
        return [
            nn.Conv2d(width, count * outputs, kernel, padding=kernel // 2)
            for width, count, kernel in zip(widths, anchors, kernels, strict=True)
        ]

    return Ssd(stages, heads(4), heads(classes))


def mobilenet_v1(alpha: float = 1.0, classes: int = 91, act: Act = nn.ReLU6) -> nn.Module:
    """SSD on MobileNet V1 with 1x1 predictors, as TensorFlow's detection zoo and MLPerf have it."""
    layers = mobilenet.v1_features(alpha)
    wide = [int(channels * alpha) for channels in (512, 1024, 512, 256, 256, 128)]
    stages = [
        nn.Sequential(*layers[:12]),
        nn.Sequential(*layers[12:]),
        *(_extra(a, b, act) for a, b in pairwise(wide[1:])),
    ]
    return _heads(stages, wide, classes, (1,) * 6)


def _v2_stages() -> list[nn.Module]:
    """MobileNet V2, cut behind the expansion of its fourteenth block, where SSD takes its first map."""
    layers, _ = mobilenet.v2_features()
    cut = layers[14]
    assert isinstance(cut, nn.Sequential)
    expand, *rest = cut
    return [nn.Sequential(*layers[:14], expand), nn.Sequential(*rest, *layers[15:])]


def mobilenet_v2() -> nn.Module:
    """SSD on MobileNet V2 with 3x3 predictors (TensorFlow's detection zoo); kernels shrink with the smallest maps."""
    wide = (576, 1280, 512, 256, 256, 128)
    stages = [*_v2_stages(), *(_extra(a, b, nn.ReLU6) for a, b in pairwise(wide[1:]))]
    return _heads(stages, wide, 91, (3, 3, 3, 3, 1, 1))


def ssdlite_mobilenet_v2() -> nn.Module:
    """SSDLite on MobileNet V2: separable extras and predictors (arXiv:1801.04381, section 6.2)."""
    wide, anchors = (576, 1280, 512, 256, 256, 128), (3, 6, 6, 6, 6, 6)
    stages = [
        *_v2_stages(),
        *(nn.Sequential(conv(a, b // 2, act=nn.ReLU6), *separable(b // 2, b, 3, 2)) for a, b in pairwise(wide[1:])),
    ]

    def heads(outputs: int) -> list[nn.Module]:
        return [
            nn.Sequential(conv(width, width, 3, groups=width, act=nn.ReLU6), nn.Conv2d(width, count * outputs, 1))
            for width, count in zip(wide, anchors, strict=True)
        ]

    return Ssd(stages, heads(4), heads(91))


def squeezenet() -> nn.Module:
    """SSD on SqueezeNet 1.1, 21 classes, two more fire modules (ncnn's benchmark)."""
    layers = squeezenet_features("1.1")

    def pool() -> nn.Module:
        return nn.MaxPool2d(3, 2, ceil_mode=True)

    stages = [
        nn.Sequential(*layers[:7]),
        nn.Sequential(*layers[7:]),
        nn.Sequential(pool(), fire(512, 96, 384)),
        nn.Sequential(pool(), fire(768, 96, 384)),
        nn.Sequential(conv(768, 128), conv(128, 256, 3, 2)),
        nn.Sequential(conv(256, 64), conv(64, 128, 3, 2)),
    ]
    return _heads(stages, (256, 512, 768, 768, 256, 128), 21, (3,) * 6, (4, 6, 6, 6, 6, 4))


class _Merge(nn.Module):
    """A lower map and a chain above it; `top` on the chain's end, `low` on both maps."""

    def __init__(self, below: nn.Module, above: nn.Module, top: nn.Module, low: nn.Module) -> None:
        super().__init__()
        self.below, self.above, self.top, self.low = below, above, top, low

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        lower = self.below(x)
        upper = self.above(lower)
        top: Tensor | tuple[Tensor, ...] = self.top(upper)
        low: Tensor | tuple[Tensor, ...] = self.low((lower, upper))
        return (*(top if isinstance(top, tuple) else (top,)), *(low if isinstance(low, tuple) else (low,)))


class _Join(nn.Module):
    """Bring the upper map to the lower one's size and width, concatenate or add, and go on."""

    def __init__(self, lower: nn.Module, upper: nn.Module, body: nn.Module, *, add: bool = False) -> None:
        super().__init__()
        self.lower, self.upper, self.body, self.add = lower, upper, body, add

    def forward(self, maps: tuple[Tensor, Tensor]) -> Tensor | tuple[Tensor, ...]:
        lower, upper = self.lower(maps[0]), self.upper(maps[1])
        y: Tensor | tuple[Tensor, ...] = self.body(upper + lower if self.add else torch.cat((upper, lower), 1))
        return y


class _Fork(nn.Module):
    """Several modules on one map."""

    def __init__(self, *branches: nn.Module) -> None:
        super().__init__()
        self.branches = nn.ModuleList(branches)

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        made: list[Tensor] = []
        for branch in self.branches:
            y = branch(x)
            made.extend(y if isinstance(y, tuple) else (y,))
        return tuple(made)


def mobilenet_yolo() -> nn.Module:
    """YOLO on MobileNet V1: 125 grid channels at two scales, the finer from a transposed convolution."""
    body = nn.Sequential(*mobilenet.v1_features(), conv(1024, 256), conv(256, 1024, 3))
    rise = nn.ConvTranspose2d(1024, 256, 4, 2, 1, groups=256, bias=False)
    return nn.Sequential(
        body,
        _Fork(
            nn.Conv2d(1024, 125, 1),
            nn.Sequential(rise, conv(256, 1024, 3), conv(1024, 256), conv(256, 1024, 3), nn.Conv2d(1024, 125, 1)),
        ),
    )


def mobilenet_v2_yolov3() -> nn.Module:
    """YOLOv3 on MobileNet V2 with separable heads of 576 channels, the scales added."""
    below, top = _v2_stages()
    sep = partial(separable, act=nn.ReLU, middle=nn.ReLU)
    above = nn.Sequential(top, sep(1280, 576))
    fine = _Join(sep(576, 576), upsample(), nn.Sequential(sep(576, 576), nn.Conv2d(576, 75, 1)), add=True)
    return _Merge(below, above, nn.Conv2d(576, 75, 1), fine)


_leaky = partial(nn.LeakyReLU, 0.1)


class _Pools(nn.Module):
    """Pools of 3, 5 and 9 pixels beside the input."""

    def __init__(self) -> None:
        super().__init__()
        self.pools = nn.ModuleList(nn.MaxPool2d(size, 1, size // 2) for size in (9, 5, 3))

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([*(pool(x) for pool in self.pools), x], 1)


def yolo_fastest() -> nn.Module:
    """Yolo-Fastest 1.1: narrow inverted residuals, a small pyramid of pools, separable 5x5 heads (80 classes)."""
    rows = (  # hidden, channels, stride
        (8, 4, 1),
        (8, 4, 1),
        (24, 8, 2),
        (32, 8, 1),
        (32, 8, 1),
        (32, 8, 2),
        (48, 8, 1),
        (48, 8, 1),
        (48, 16, 1),
        *((96, 16, 1),) * 4,
        (96, 24, 2),
        *((136, 24, 1),) * 4,
        (136, 48, 2),
        *((224, 48, 1),) * 5,
    )
    layers, width = [conv(3, 8, 3, 2, act=_leaky)], 8
    blocks: list[nn.Module] = []
    for hidden, outputs, stride in rows:
        blocks.append(inverted_residual(width, outputs, 3, stride, hidden, act=_leaky, expand=True))
        width = outputs

    def head(channels: int) -> nn.Module:
        return nn.Sequential(
            *(separable(channels, channels, 5, act=None, middle=_leaky) for _ in range(2)), nn.Conv2d(channels, 255, 1)
        )

    above = nn.Sequential(*blocks[18:], _Pools(), conv(192, 96, act=_leaky))
    return _Merge(nn.Sequential(*layers, *blocks[:18]), above, head(96), _Join(nn.Identity(), upsample(), head(120)))


_TINY_SHUFFLE = (24, 48, 96, 192)


def yolo_fastest_v2() -> nn.Module:
    """Yolo-FastestV2: a narrow ShuffleNet V2 and two levels of separable 5x5 heads (80 classes)."""
    stages = shufflenet.v2_stages(_TINY_SHUFFLE)

    def chain() -> nn.Module:
        return nn.Sequential(*(separable(72, 72, 5, act=None, middle=nn.ReLU) for _ in range(2)))

    def level() -> _Fork:
        return _Fork(
            nn.Sequential(
                chain(),
                _Fork(
                    nn.Sequential(nn.Conv2d(72, 3, 1), nn.Sigmoid()), nn.Sequential(nn.Conv2d(72, 80, 1), nn.Softmax(1))
                ),
            ),
            nn.Sequential(chain(), nn.Conv2d(72, 12, 1), nn.Sigmoid()),
        )

    return _Merge(
        nn.Sequential(*stages[:3]),
        stages[3],
        nn.Sequential(conv(192, 72), level()),
        _Join(nn.Identity(), upsample(), nn.Sequential(conv(288, 72), level())),
    )


class _FastestDet(nn.Module):
    """FastestDet: three scales of a narrow ShuffleNet V2 on one grid, one separable head."""

    def __init__(self) -> None:
        super().__init__()
        stages = shufflenet.v2_stages(_TINY_SHUFFLE)
        self.low, self.middle, self.top = nn.Sequential(*stages[:2]), stages[2], stages[3]
        self.fall, self.rise, self.join = nn.AvgPool2d(3, 2, 1), upsample(), conv(336, 96)

        def filters(count: int) -> nn.Module:
            return nn.Sequential(*(conv(96, 96, 5, groups=96) for _ in range(count)))

        def head(outputs: int, act: nn.Module) -> nn.Module:
            return nn.Sequential(filters(1), nn.Conv2d(96, outputs, 1), act)

        context = nn.Sequential(Concat(filters(1), filters(2), filters(3)), conv(288, 96, act=None))
        self.heads = nn.Sequential(
            Residual(context, after=nn.ReLU),
            conv(96, 96),
            Concat(head(1, nn.Sigmoid()), head(4, nn.Identity()), head(80, nn.Softmax(1))),
        )

    def forward(self, x: Tensor) -> Tensor:
        low = self.low(x)
        middle = self.middle(low)
        top = self.top(middle)
        y: Tensor = self.heads(self.join(torch.cat((self.fall(low), middle, self.rise(top)), 1)))
        return y


class _NanoDet(nn.Module):
    """NanoDet-m: ShuffleNet V2, a path aggregation of plain sums and resizes, separable heads of 96 channels."""

    def __init__(self) -> None:
        super().__init__()
        stages = shufflenet.v2_stages((24, 116, 232, 464), _leaky)
        self.stages = nn.ModuleList([nn.Sequential(*stages[:2]), stages[2], stages[3]])
        self.laterals = nn.ModuleList(nn.Conv2d(width, 96, 1) for width in (116, 232, 464))
        self.rise = nn.Upsample(scale_factor=2, mode="bilinear")
        self.fall = nn.Upsample(scale_factor=0.5, mode="bilinear")
        self.heads = nn.ModuleList(
            nn.Sequential(*(separable(96, 96, act=_leaky, middle=_leaky) for _ in range(2)), nn.Conv2d(96, 112, 1))
            for _ in range(3)
        )

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        maps = []
        for stage, lateral in zip(self.stages, self.laterals, strict=True):
            x = stage(x)
            maps.append(lateral(x))
        low, middle, top = maps
        middle = middle + self.rise(top)
        low = low + self.rise(middle)
        middle = middle + self.fall(low)
        top = top + self.fall(middle)
        return tuple(head(y) for head, y in zip(self.heads, (low, middle, top), strict=True))


class _WidenPool(nn.Module):
    """BlazeFace's shortcut: pool where the map shrinks, zeros where the channels grow."""

    def __init__(self, more: int, stride: int) -> None:
        super().__init__()
        self.pool = nn.MaxPool2d(2) if stride == 2 else nn.Identity()
        self.pad = nn.ConstantPad3d((0, 0, 0, 0, 0, more), 0.0) if more else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.pad(self.pool(x))
        return y


def blazeface() -> nn.Module:
    """BlazeFace's single-block body for 128 pixels: Bazarevsky et al. 2019, arXiv:1907.05047, as in ncnn."""
    layers: list[nn.Module] = [plain(3, 24, 5, 2)]
    width = 24
    for outputs, stride in (
        (24, 1),
        (28, 1),
        (32, 2),
        (36, 1),
        (42, 1),
        (48, 2),
        (56, 1),
        (64, 1),
        (72, 1),
        (80, 1),
        (88, 1),
        (96, 2),
        *((96, 1),) * 4,
    ):
        body = nn.Sequential(plain(width, width, 3, stride, groups=width, act=None), plain(width, outputs, act=None))
        layers.append(Residual(body, _WidenPool(outputs - width, stride), nn.ReLU))
        width = outputs
    return nn.Sequential(*layers)


def resnet34() -> nn.Module:
    """MLPerf's SSD-ResNet34 for 1200 pixels: the third stage keeps its size, predictors have stride 3 (81 classes)."""
    wide, anchors = (256, 512, 512, 256, 256, 256), (4, 6, 6, 6, 4, 4)
    stages: list[nn.Module] = [nn.Sequential(*resnet.features(34, strides=(1, 2, 1)))]
    for (a, b), stride, pad in zip(pairwise(wide), (2, 2, 2, 2, 1), (1, 1, 1, 0, 0), strict=True):
        stages.append(nn.Sequential(plain(a, b // 2), plain(b // 2, b, 3, stride, padding=pad)))

    def heads(outputs: int) -> list[nn.Module]:
        return [nn.Conv2d(width, count * outputs, 3, 3, 1) for width, count in zip(wide, anchors, strict=True)]

    return Ssd(stages, heads(4), heads(81))


# by backbone, because a network that shares its backbone is no independent evidence
SSD_MOBILENET_V1: dict[str, Make] = {
    "ssd_mobilenet_v1_1.0": mobilenet_v1,
    "ssd_mobilenet_v1_0.75": partial(mobilenet_v1, 0.75),
    "ssd_mobilenet_v1_caffe": partial(mobilenet_v1, 1.0, 21, nn.ReLU),
    "mobilenet_yolo": mobilenet_yolo,
}
SSD_MOBILENET_V2: dict[str, Make] = {
    "ssd_mobilenet_v2": mobilenet_v2,
    "ssdlite_mobilenet_v2": ssdlite_mobilenet_v2,
    "mobilenet_v2_yolov3": mobilenet_v2_yolov3,
}
SSD_SHUFFLENET_V2: dict[str, Make] = {
    "yolo_fastest_v2": yolo_fastest_v2,
    "fastestdet": _FastestDet,
    "nanodet_m": _NanoDet,
}
SSD_SQUEEZENET: dict[str, Make] = {"squeezenet_ssd": squeezenet}
SSD_RESNET: dict[str, Make] = {"ssd_resnet34": resnet34}
YOLO_FASTEST: dict[str, Make] = {"yolo_fastest_1.1": yolo_fastest}
BLAZEFACE: dict[str, Make] = {"blazeface": blazeface}
