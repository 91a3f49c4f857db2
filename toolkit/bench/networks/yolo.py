"""YOLOv5, YOLOv8 and YOLO11 as Ultralytics publishes and exports them: detectors with decoded boxes, classifiers.

The numbers are those of the configurations `yolov5.yaml` (7.0), `yolov8.yaml`, `yolo11.yaml` and their `-cls` kin.
No suppression follows. Detectors depend on the image size: the cells' centres are constants of the exported graph.
"""

from collections.abc import Sequence
from functools import partial
from math import ceil, prod
from typing import NamedTuple

import torch
from torch import Tensor, nn

from .blocks import Concat, Make, Residual, conv, upsample

_CLASSES, _BINS, _STRIDES = 80, 16, (8, 16, 32)
_conv = partial(conv, act=nn.SiLU)
_linear = partial(conv, act=None)


class Scale(NamedTuple):
    """How a configuration grows: repeats by `depth`, channels by `width` after they are cut at `most`."""

    depth: float
    width: float
    most: int = 1024
    deep: bool = False  # YOLO11 m, l and x: every block has inner cross stages

    def channels(self, full: int) -> int:
        return ceil(min(full, self.most) * self.width / 8) * 8

    def repeats(self, full: int) -> int:
        return max(round(full * self.depth), 1)


def _bottleneck(width: int, hidden: int, first: int, *, shortcut: bool) -> nn.Module:
    body = nn.Sequential(_conv(width, hidden, first), _conv(hidden, width, 3))
    return Residual(body) if shortcut else body


def _c3(inputs: int, outputs: int, repeats: int, *, shortcut: bool = True, first: int = 1) -> nn.Module:
    """Cross stage of YOLOv5: bottlenecks on one half, a 1x1 convolution on the other."""
    half = outputs // 2
    units = (_bottleneck(half, half, first, shortcut=shortcut) for _ in range(repeats))
    return nn.Sequential(
        Concat(nn.Sequential(_conv(inputs, half), *units), _conv(inputs, half)), _conv(2 * half, outputs)
    )


class _C2f(nn.Module):
    """Cross stage that keeps what every unit made (YOLOv8): two halves, the units in a chain, all concatenated."""

    def __init__(self, inputs: int, outputs: int, units: Sequence[nn.Module], half: int) -> None:
        super().__init__()
        self.split, self.units = _conv(inputs, 2 * half), nn.ModuleList(units)
        self.merge = _conv((2 + len(units)) * half, outputs)

    def forward(self, x: Tensor) -> Tensor:
        made = list(self.split(x).chunk(2, 1))
        for unit in self.units:
            made.append(unit(made[-1]))
        y: Tensor = self.merge(torch.cat(made, 1))
        return y


def _c2f(inputs: int, outputs: int, repeats: int, *, shortcut: bool = True) -> nn.Module:
    half = outputs // 2
    return _C2f(inputs, outputs, [_bottleneck(half, half, 3, shortcut=shortcut) for _ in range(repeats)], half)


def _c3k2(inputs: int, outputs: int, repeats: int, *, deep: bool, share: float = 0.5) -> nn.Module:
    """YOLO11: bottlenecks of half width, or small cross stages where `deep`."""
    half = int(outputs * share)
    units = [
        _c3(half, half, 2, first=3) if deep else _bottleneck(half, half // 2, 3, shortcut=True) for _ in range(repeats)
    ]
    return _C2f(inputs, outputs, units, half)


class _Pools(nn.Module):
    """One pool of 5 pixels three times in a row, every result kept (SPPF)."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.reduce, self.pool, self.merge = (
            _conv(inputs, inputs // 2),
            nn.MaxPool2d(5, 1, 2),
            _conv(2 * inputs, outputs),
        )

    def forward(self, x: Tensor) -> Tensor:
        made = [self.reduce(x)]
        for _ in range(3):
            made.append(self.pool(made[-1]))
        y: Tensor = self.merge(torch.cat(made, 1))
        return y


class _Attention(nn.Module):
    """Heads of 64 channels whose keys are half as wide; a depthwise convolution of the values tells positions."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.heads, self.value = width // 64, 64
        self.key = self.value // 2
        self.mix = _linear(width, width + 2 * self.key * self.heads)
        self.place, self.project = _linear(width, width, 3, groups=width), _linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        batch, width, height, wide = x.shape
        mixed = self.mix(x).view(batch, self.heads, 2 * self.key + self.value, height * wide)
        q, k, v = torch.split(mixed, [self.key, self.key, self.value], 2)
        weights = (q.transpose(-2, -1) @ k * self.key**-0.5).softmax(-1)
        seen = (v @ weights.transpose(-2, -1)).view(batch, width, height, wide)
        y: Tensor = self.project(seen + self.place(v.reshape(batch, width, height, wide)))
        return y


class _Attending(nn.Module):
    """Cross stage whose one half passes blocks of attention and feed-forward (C2PSA)."""

    def __init__(self, width: int, repeats: int) -> None:
        super().__init__()
        half = width // 2
        self.split, self.merge = _conv(width, 2 * half), _conv(2 * half, width)
        self.blocks = nn.Sequential()
        for _ in range(repeats):
            self.blocks.append(Residual(_Attention(half)))
            self.blocks.append(Residual(nn.Sequential(_conv(half, 2 * half), _linear(2 * half, half))))

    def forward(self, x: Tensor) -> Tensor:
        kept, passed = self.split(x).chunk(2, 1)
        y: Tensor = self.merge(torch.cat((kept, self.blocks(passed)), 1))
        return y


class _Pyramid(nn.Module):
    """Three maps of the body, merged upwards and then downwards again; `narrow` goes before every enlargement."""

    def __init__(self, taps: Sequence[nn.Module], narrow: Sequence[nn.Module], up: Sequence[nn.Module],
                 fall: Sequence[nn.Module], down: Sequence[nn.Module]) -> None:  # fmt: skip
        super().__init__()
        self.taps, self.narrow, self.up = nn.ModuleList(taps), nn.ModuleList(narrow), nn.ModuleList(up)
        self.rise, self.fall, self.down = upsample(), nn.ModuleList(fall), nn.ModuleList(down)

    def forward(self, x: Tensor) -> list[Tensor]:
        maps = []
        for tap in self.taps:
            x = tap(x)
            maps.append(x)
        x = self.narrow[0](maps[2])
        kept = [x]
        for i, lateral in enumerate((maps[1], maps[0])):
            x = self.up[i](torch.cat((self.rise(x), lateral), 1))
            if i == 0:
                x = self.narrow[1](x)
                kept.append(x)
        made = [x]
        for fall, down, other in zip(self.fall, self.down, reversed(kept), strict=True):
            made.append(down(torch.cat((fall(made[-1]), other), 1)))
        return made


def _cells(height: int, wide: int) -> Tensor:
    """Centres of the cells of all three grids, and their strides: (3, cells)."""
    parts = []
    for stride in _STRIDES:
        y, x = torch.meshgrid(torch.arange(height // stride) + 0.5, torch.arange(wide // stride) + 0.5, indexing="ij")
        parts.append(torch.stack((x.flatten(), y.flatten(), torch.full((x.numel(),), float(stride)))))
    return torch.cat(parts, 1)


class _Detect(nn.Module):
    """Anchor-free heads: a distribution over 16 bins for each side of the box, and class scores (Li et al. 2020)."""

    cells: Tensor

    def __init__(self, widths: Sequence[int], height: int, wide: int, *, separable: bool) -> None:
        super().__init__()
        box, score = max(16, widths[0] // 4, 4 * _BINS), max(widths[0], min(_CLASSES, 100))

        def twice(inputs: int, hidden: int, *, light: bool) -> list[nn.Module]:
            if not light:
                return [_conv(inputs, hidden, 3), _conv(hidden, hidden, 3)]
            return [m for a in (inputs, hidden) for m in (_conv(a, a, 3, groups=a), _conv(a, hidden))]

        self.boxes = nn.ModuleList(
            nn.Sequential(*twice(w, box, light=False), nn.Conv2d(box, 4 * _BINS, 1)) for w in widths
        )
        self.scores = nn.ModuleList(
            nn.Sequential(*twice(w, score, light=separable), nn.Conv2d(score, _CLASSES, 1)) for w in widths
        )
        self.expect = nn.Conv2d(_BINS, 1, 1, bias=False)
        self.register_buffer("cells", _cells(height, wide))

    def forward(self, maps: list[Tensor]) -> Tensor:
        grids = [
            torch.cat((boxes(x), scores(x)), 1).flatten(2)
            for x, boxes, scores in zip(maps, self.boxes, self.scores, strict=True)
        ]
        boxes, scores = torch.split(torch.cat(grids, 2), [4 * _BINS, _CLASSES], 1)
        batch, _, count = boxes.shape
        bins = boxes.view(batch, 4, _BINS, count).transpose(2, 1).softmax(1)
        near, far = self.expect(bins).view(batch, 4, count).chunk(2, 1)
        centres, strides = self.cells[:2], self.cells[2:]
        start, stop = centres - near, centres + far
        return torch.cat((torch.cat(((start + stop) / 2, stop - start), 1) * strides, scores.sigmoid()), 1)


class _AnchorDetect(nn.Module):
    """YOLOv5: one 1x1 convolution a level, three anchors; boxes are decoded level by level."""

    def __init__(self, widths: Sequence[int], height: int, wide: int) -> None:
        super().__init__()
        self.grids = nn.ModuleList(nn.Conv2d(w, 3 * (5 + _CLASSES), 1) for w in widths)
        for i, stride in enumerate(_STRIDES):
            shape = (1, 3, height // stride, wide // stride, 2)
            self.register_buffer(f"corner{i}", torch.zeros(shape))
            self.register_buffer(f"anchor{i}", torch.ones(shape))

    def forward(self, maps: list[Tensor]) -> Tensor:
        made = []
        for i, (x, grid, stride) in enumerate(zip(maps, self.grids, _STRIDES, strict=True)):
            batch, _, height, wide = x.shape
            y = grid(x).view(batch, 3, 5 + _CLASSES, height, wide).permute(0, 1, 3, 4, 2).contiguous()
            centre, size, rest = torch.split(y.sigmoid(), [2, 2, 1 + _CLASSES], 4)
            centre = (centre * 2 + self.get_buffer(f"corner{i}")) * stride
            size = (size * 2) ** 2 * self.get_buffer(f"anchor{i}")
            made.append(torch.cat((centre, size, rest), 4).view(batch, 3 * prod((height, wide)), 5 + _CLASSES))
        return torch.cat(made, 1)


def _same() -> nn.Module:
    return nn.Identity()


def yolov5(scale: Scale, *, height: int = 640, wide: int = 640) -> nn.Module:
    """YOLOv5, release 7.0."""
    w, n = scale.channels, scale.repeats
    plain = partial(_c3, shortcut=False)
    taps = (
        nn.Sequential(
            _conv(3, w(64), 6, 2, padding=2), _conv(w(64), w(128), 3, 2), _c3(w(128), w(128), n(3)),
            _conv(w(128), w(256), 3, 2), _c3(w(256), w(256), n(6)),
        ),
        nn.Sequential(_conv(w(256), w(512), 3, 2), _c3(w(512), w(512), n(9))),
        nn.Sequential(
            _conv(w(512), w(1024), 3, 2), _c3(w(1024), w(1024), n(3)), _Pools(w(1024), w(1024)),
        ),
    )  # fmt: skip
    pyramid = _Pyramid(
        taps,
        (_conv(w(1024), w(512)), _conv(w(512), w(256))),
        (plain(2 * w(512), w(512), n(3)), plain(2 * w(256), w(256), n(3))),
        (_conv(w(256), w(256), 3, 2), _conv(w(512), w(512), 3, 2)),
        (plain(2 * w(256), w(512), n(3)), plain(2 * w(512), w(1024), n(3))),
    )
    return nn.Sequential(pyramid, _AnchorDetect((w(256), w(512), w(1024)), height, wide))


def _v8_taps(scale: Scale) -> list[nn.Module]:
    w, n = scale.channels, scale.repeats
    return [
        nn.Sequential(
            _conv(3, w(64), 3, 2), _conv(w(64), w(128), 3, 2), _c2f(w(128), w(128), n(3)),
            _conv(w(128), w(256), 3, 2), _c2f(w(256), w(256), n(6)),
        ),
        nn.Sequential(_conv(w(256), w(512), 3, 2), _c2f(w(512), w(512), n(6))),
        nn.Sequential(_conv(w(512), w(1024), 3, 2), _c2f(w(1024), w(1024), n(3))),
    ]  # fmt: skip


def yolov8(scale: Scale, *, height: int = 640, wide: int = 640) -> nn.Module:
    """YOLOv8 for detection."""
    w, n = scale.channels, scale.repeats
    plain = partial(_c2f, shortcut=False)
    low, middle, top = _v8_taps(scale)
    pyramid = _Pyramid(
        (low, middle, nn.Sequential(top, _Pools(w(1024), w(1024)))),
        (_same(), _same()),
        (plain(w(1024) + w(512), w(512), n(3)), plain(w(512) + w(256), w(256), n(3))),
        (_conv(w(256), w(256), 3, 2), _conv(w(512), w(512), 3, 2)),
        (plain(w(256) + w(512), w(512), n(3)), plain(w(512) + w(1024), w(1024), n(3))),
    )
    return nn.Sequential(pyramid, _Detect((w(256), w(512), w(1024)), height, wide, separable=False))


def _v11_taps(scale: Scale) -> list[nn.Module]:
    w, n, deep = scale.channels, scale.repeats(2), scale.deep
    return [
        nn.Sequential(
            _conv(3, w(64), 3, 2), _conv(w(64), w(128), 3, 2), _c3k2(w(128), w(256), n, deep=deep, share=0.25),
            _conv(w(256), w(256), 3, 2), _c3k2(w(256), w(512), n, deep=deep, share=0.25),
        ),
        nn.Sequential(_conv(w(512), w(512), 3, 2), _c3k2(w(512), w(512), n, deep=True)),
        nn.Sequential(_conv(w(512), w(1024), 3, 2), _c3k2(w(1024), w(1024), n, deep=True)),
    ]  # fmt: skip


def yolo11(scale: Scale, *, height: int = 640, wide: int = 640) -> nn.Module:
    """YOLO11 for detection."""
    w, n, deep = scale.channels, scale.repeats(2), scale.deep
    low, middle, top = _v11_taps(scale)
    pyramid = _Pyramid(
        (low, middle, nn.Sequential(top, _Pools(w(1024), w(1024)), _Attending(w(1024), n))),
        (_same(), _same()),
        (_c3k2(w(1024) + w(512), w(512), n, deep=deep), _c3k2(2 * w(512), w(256), n, deep=deep)),
        (_conv(w(256), w(256), 3, 2), _conv(w(512), w(512), 3, 2)),
        (_c3k2(w(256) + w(512), w(512), n, deep=deep), _c3k2(w(512) + w(1024), w(1024), n, deep=True)),
    )
    return nn.Sequential(pyramid, _Detect((w(256), w(512), w(1024)), height, wide, separable=True))


def _classify(inputs: int, classes: int = 1000) -> list[nn.Module]:
    return [_conv(inputs, 1280), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(1280, classes), nn.Softmax(1)]


def yolov8_classifier(scale: Scale) -> nn.Module:
    """YOLOv8 for classification; no size cuts its channels."""
    return nn.Sequential(*_v8_taps(scale._replace(most=1024)), *_classify(scale._replace(most=1024).channels(1024)))


def yolo11_classifier(scale: Scale) -> nn.Module:
    """YOLO11 for classification: attention, but no pools."""
    width = scale.channels(1024)
    return nn.Sequential(*_v11_taps(scale), _Attending(width, scale.repeats(2)), *_classify(width))


_V5 = {"n": Scale(0.33, 0.25), "s": Scale(0.33, 0.5), "m": Scale(0.67, 0.75)}
_V8 = {
    "n": Scale(0.33, 0.25),
    "s": Scale(0.33, 0.5),
    "m": Scale(0.67, 0.75, 768),
    "l": Scale(1.0, 1.0, 512),
    "x": Scale(1.0, 1.25, 512),
}
_V11 = {
    "n": Scale(0.5, 0.25),
    "s": Scale(0.5, 0.5),
    "m": Scale(0.5, 1.0, 512, deep=True),
    "l": Scale(1.0, 1.0, 512, deep=True),
    "x": Scale(1.0, 1.5, 512, deep=True),
}

DETECTORS: dict[str, Make] = {
    f"{name}{size}": partial(make, scale)
    for name, make, scales in (("yolov5", yolov5, _V5), ("yolov8", yolov8, _V8), ("yolo11", yolo11, _V11))
    for size, scale in scales.items()
}
CLASSIFIERS: dict[str, Make] = {
    f"{name}{size}-cls": partial(make, scale)
    for name, make, scales in (("yolov8", yolov8_classifier, _V8), ("yolo11", yolo11_classifier, _V11))
    for size, scale in scales.items()
}
YOLO: dict[str, Make] = DETECTORS | CLASSIFIERS
