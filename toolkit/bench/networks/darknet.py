"""Darknet classifiers and the YOLO V3 and V4 detectors, up to their raw grids (no decoding, no suppression)."""

from functools import partial

import torch
from torch import Tensor, nn

from .blocks import Act, Concat, Make, Residual, Taps, classifier, conv, upsample

_leaky = partial(nn.LeakyReLU, 0.1)
_CLASSES = 3 * (80 + 5)


def _conv(inputs: int, outputs: int, kernel: int = 1, stride: int = 1, act: Act = _leaky) -> nn.Sequential:
    return conv(inputs, outputs, kernel, stride, act=act)


def _grid(inputs: int) -> nn.Module:
    return nn.Conv2d(inputs, _CLASSES, 1)


def _unit(width: int, hidden: int, act: Act = _leaky) -> nn.Module:
    return Residual(nn.Sequential(_conv(width, hidden, act=act), _conv(hidden, width, 3, act=act)))


def darknet53_stages() -> list[nn.Module]:
    """Stem and the five residual stages."""
    stages: list[nn.Module] = [_conv(3, 32, 3)]
    for width, repeats in ((64, 1), (128, 2), (256, 8), (512, 8), (1024, 4)):
        stages.append(
            nn.Sequential(_conv(width // 2, width, 3, 2), *(_unit(width, width // 2) for _ in range(repeats)))
        )
    return stages


def darknet53() -> nn.Module:
    """Darknet-53: Redmon and Farhadi 2018, arXiv:1804.02767, table 1."""
    return nn.Sequential(*darknet53_stages(), classifier(1024))


class _CrossStage(nn.Module):
    """One half of the channels passes the residual units, both halves meet again (Wang et al., arXiv:1911.11929).

    The halves are two 1x1 convolutions where `split` is false, and the two parts of one where it is true.
    """

    def __init__(self, width: int, half: int, hidden: int, repeats: int, act: Act) -> None:
        super().__init__()
        self.side, self.main = _conv(width, half, act=act), _conv(width, half, act=act)
        self.units = nn.Sequential(*(_unit(half, hidden, act) for _ in range(repeats)), _conv(half, half, act=act))
        self.merge = _conv(2 * half, width, act=act)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.merge(torch.cat((self.units(self.main(x)), self.side(x)), 1))
        return y


def cspdarknet53_stages(act: Act) -> list[nn.Module]:
    """Stem and the five cross-stage stages; the first keeps the full width in both halves."""
    stages: list[nn.Module] = [_conv(3, 32, 3, act=act)]
    for width, repeats in ((64, 1), (128, 2), (256, 8), (512, 8), (1024, 4)):
        first = width == 64
        half = width if first else width // 2
        stages.append(
            nn.Sequential(
                _conv(width // 2, width, 3, 2, act),
                _CrossStage(width, half, half // 2 if first else half, repeats, act),
            )
        )
    return stages


def cspdarknet53() -> nn.Module:
    """CSPDarknet-53: Bochkovskiy et al. 2020, arXiv:2004.10934."""
    return nn.Sequential(*cspdarknet53_stages(_leaky), classifier(1024))


def _five(inputs: int, width: int) -> nn.Sequential:
    """1x1 and 3x3 convolutions in turn, ending on 1x1."""
    return nn.Sequential(
        _conv(inputs, width),
        _conv(width, 2 * width, 3),
        _conv(2 * width, width),
        _conv(width, 2 * width, 3),
        _conv(2 * width, width),
    )


class _Pyramid(nn.Module):
    """Pools of 5, 9 and 13 pixels beside the input (He et al., arXiv:1406.4729)."""

    def __init__(self) -> None:
        super().__init__()
        self.pools = nn.ModuleList(nn.MaxPool2d(size, 1, size // 2) for size in (13, 9, 5))

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([*(pool(x) for pool in self.pools), x], 1)


class _YoloV3(nn.Module):
    """Darknet-53 and three grids, each after five convolutions on a merged map."""

    def __init__(self, *, pyramid: bool = False) -> None:
        super().__init__()
        self.body = Taps(*darknet53_stages())
        top = (
            nn.Sequential(
                _conv(1024, 512),
                _conv(512, 1024, 3),
                _conv(1024, 512),
                _Pyramid(),
                _conv(2048, 512),
                _conv(512, 1024, 3),
                _conv(1024, 512),
            )
            if pyramid
            else _five(1024, 512)
        )
        self.fives = nn.ModuleList([top, _five(768, 256), _five(384, 128)])
        self.rises = nn.ModuleList(nn.Sequential(_conv(w, w // 2), upsample()) for w in (512, 256))
        self.grids = nn.ModuleList(nn.Sequential(_conv(w, 2 * w, 3), _grid(2 * w)) for w in (512, 256, 128))

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        *_, small, middle, y = self.body(x)
        grids = []
        for i, lateral in enumerate((middle, small, None)):
            y = self.fives[i](y)
            grids.append(self.grids[i](y))
            if lateral is not None:
                y = torch.cat((self.rises[i](y), lateral), 1)
        return tuple(grids)


class _YoloV4(nn.Module):
    """CSPDarknet-53 with Mish, a pyramid of pools, a way up and a way down (arXiv:2004.10934)."""

    def __init__(self) -> None:
        super().__init__()
        self.body = Taps(*cspdarknet53_stages(nn.Mish))
        self.top = nn.Sequential(
            _conv(1024, 512),
            _conv(512, 1024, 3),
            _conv(1024, 512),
            _Pyramid(),
            _conv(2048, 512),
            _conv(512, 1024, 3),
            _conv(1024, 512),
        )
        self.rises = nn.ModuleList(nn.Sequential(_conv(w, w // 2), upsample()) for w in (512, 256))
        self.laterals = nn.ModuleList(_conv(w, w // 2) for w in (512, 256))
        self.up = nn.ModuleList(_five(w, w // 2) for w in (512, 256))
        self.falls = nn.ModuleList(_conv(w, 2 * w, 3, 2) for w in (128, 256))
        self.down = nn.ModuleList(_five(2 * w, w) for w in (256, 512))
        self.grids = nn.ModuleList(nn.Sequential(_conv(w, 2 * w, 3), _grid(2 * w)) for w in (128, 256, 512))

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        *_, small, middle, y = self.body(x)
        y = self.top(y)
        kept = [y]
        for i, lateral in enumerate((middle, small)):
            y = self.up[i](torch.cat((self.laterals[i](lateral), self.rises[i](y)), 1))
            kept.append(y)
        grids = [self.grids[0](y)]
        for i, other in enumerate((kept[1], kept[0])):
            y = self.down[i](torch.cat((self.falls[i](y), other), 1))
            grids.append(self.grids[i + 1](y))
        return tuple(grids)


class _Tiny(nn.Module):
    """A small body and two grids: one on the top, one on the top enlarged and joined with the map below it."""

    def __init__(self, below: nn.Module, above: nn.Module, lateral: int) -> None:
        super().__init__()
        self.below, self.above = below, above
        self.coarse = nn.Sequential(_conv(256, 512, 3), _grid(512))
        self.rise = nn.Sequential(_conv(256, 128), upsample())
        self.fine = nn.Sequential(_conv(lateral + 128, 256, 3), _grid(256))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        middle = self.below(x)
        top = self.above(middle)
        return self.coarse(top), self.fine(torch.cat((self.rise(top), middle), 1))


def yolov3_tiny() -> nn.Module:
    """YOLOv3-tiny (arXiv:1804.02767): seven convolutions and six pools."""
    below, width = nn.Sequential(), 3
    for outputs in (16, 32, 64, 128, 256):
        below.extend([nn.MaxPool2d(2)] if width > 3 else []).append(_conv(width, outputs, 3))
        width = outputs
    above = nn.Sequential(
        nn.MaxPool2d(2),
        _conv(256, 512, 3),
        nn.ZeroPad2d((0, 1, 0, 1)),
        nn.MaxPool2d(2, 1),
        _conv(512, 1024, 3),
        _conv(1024, 256),
    )
    return _Tiny(below, above, 256)


class _Half(nn.Module):
    """The second half of the channels."""

    def forward(self, x: Tensor) -> Tensor:
        return x[:, x.shape[1] // 2 :]


def _tiny_stage(width: int, *, joined: bool = True) -> nn.Sequential:
    """YOLOv4-tiny's cross stage: 3x3; two 3x3 on half of it, both kept; 1x1; beside the first."""
    half = width // 2
    inner = nn.Sequential(
        _Half(), _conv(width // 2, half, 3), Concat(_conv(half, half, 3), nn.Identity()), _conv(width, width)
    )
    return nn.Sequential(_conv(width, width, 3), Concat(nn.Identity(), inner) if joined else inner)


class _TinyV4(nn.Module):
    """YOLOv4-tiny (Wang et al. 2021, arXiv:2011.08036): three cross stages and two grids."""

    def __init__(self) -> None:
        super().__init__()
        self.below = nn.Sequential(
            _conv(3, 32, 3, 2),
            _conv(32, 64, 3, 2),
            _tiny_stage(64),
            nn.MaxPool2d(2),
            _tiny_stage(128),
            nn.MaxPool2d(2),
            _conv(256, 256, 3),
        )
        self.inner = _tiny_stage(256, joined=False)[1]
        self.above = nn.Sequential(nn.MaxPool2d(2), _conv(512, 512, 3), _conv(512, 256))
        self.coarse = nn.Sequential(_conv(256, 512, 3), _grid(512))
        self.rise = nn.Sequential(_conv(256, 128), upsample())
        self.fine = nn.Sequential(_conv(384, 256, 3), _grid(256))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        route = self.below(x)
        inner = self.inner(route)
        top = self.above(torch.cat((route, inner), 1))
        return self.coarse(top), self.fine(torch.cat((self.rise(top), inner), 1))


DARKNET: dict[str, Make] = {
    "darknet53": darknet53,
    "cspdarknet53": cspdarknet53,
    "yolov3": _YoloV3,
    "yolov3_spp": partial(_YoloV3, pyramid=True),
    "yolov3_tiny": yolov3_tiny,
    "yolov4": _YoloV4,
    "yolov4_tiny": _TinyV4,
}
