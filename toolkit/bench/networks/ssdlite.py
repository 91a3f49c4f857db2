"""SSDLite of TensorFlow's detection zoo on MobileNets and MobileDets: separable extras and predictors, raw grids.

Two maps of the body, at strides 16 and 32, and four smaller ones; 3 anchors on the first and 6 on the others, 91
classes. The tables are those of TensorFlow's models and of MobileDets (Xiong et al. 2021, arXiv:2004.14525).
"""

from collections.abc import Iterable, Sequence
from functools import partial
from itertools import pairwise
from typing import NamedTuple

from torch import Tensor, nn

from . import mobilenet
from .blocks import (
    Act,
    Make,
    Residual,
    SqueezeExcite,
    Taps,
    classifier,
    conv,
    inverted_residual,
    make_divisible,
    separable,
)

_EXTRAS, _ANCHORS, _OUTPUTS = (512, 256, 256, 128), (3, 6, 6, 6, 6, 6), 91


class _SsdLite(nn.Module):
    """Extras and predictors on the two maps that `body` returns, `widths` channels wide."""

    def __init__(self, body: nn.Module, widths: tuple[int, int]) -> None:
        super().__init__()
        self.body = body
        self.extras = nn.ModuleList(
            nn.Sequential(conv(a, b // 2, act=nn.ReLU6), *separable(b // 2, b, 3, 2))
            for a, b in pairwise((widths[1], *_EXTRAS))
        )
        self.boxes, self.scores = (
            nn.ModuleList(
                nn.Sequential(conv(w, w, 3, groups=w, act=nn.ReLU6), nn.Conv2d(w, count * outputs, 1))
                for w, count in zip((*widths, *_EXTRAS), _ANCHORS, strict=True)
            )
            for outputs in (4, _OUTPUTS)
        )

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        maps = list(self.body(x))
        for extra in self.extras:
            maps.append(extra(maps[-1]))
        heads = zip(maps, self.boxes, self.scores, strict=True)
        return tuple(grid for y, boxes, scores in heads for grid in (boxes(y), scores(y)))


class _InsideTaps(nn.Module):
    """A chain of blocks whose first map is taken behind the expansion of one, which may have a shortcut."""

    def __init__(self, layers: Sequence[nn.Module], block: int) -> None:
        super().__init__()
        cut = layers[block]
        self.shortcut = isinstance(cut, Residual)
        inner = cut.body if isinstance(cut, Residual) else cut
        assert isinstance(inner, nn.Sequential)
        self.expand, *rest = inner
        self.rest = nn.Sequential(*rest)
        self.before, self.after = nn.Sequential(*layers[:block]), nn.Sequential(*layers[block + 1 :])

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        x = self.before(x)
        tap = self.expand(x)
        y = self.rest(tap)
        return tap, self.after(y + x if self.shortcut else y)


def mobilenet_v1() -> nn.Module:
    """On MobileNet V1."""
    layers = mobilenet.v1_features()
    return _SsdLite(Taps(nn.Sequential(*layers[:12]), nn.Sequential(*layers[12:])), (512, 1024))


class Block(NamedTuple):
    """One block of a searched body.

    `kind` is ibn (inverted bottleneck), narrow (the same without expansion), fused, tucker, or project (one pointwise
    convolution). `ratio` is the expansion; for tucker it and `out_ratio` are the shares of the input and the output
    channels that the full convolution sees.
    """

    kind: str
    channels: int
    ratio: float = 8
    kernel: int = 3
    stride: int = 1
    shortcut: bool = True
    out_ratio: float = 0.25


def _eighths(channels: float) -> int:
    return max(8, int(channels / 8 + 0.5) * 8)


def _block(width: int, b: Block, act: Act, *, excite: bool) -> nn.Module:
    if b.kind == "project":
        return conv(width, b.channels, act=None)
    if b.kind == "tucker":
        a, c = _eighths(width * b.ratio), _eighths(b.channels * b.out_ratio)
        body = nn.Sequential(conv(width, a, act=act), conv(a, c, b.kernel, b.stride, act=act))
        body.append(conv(c, b.channels, act=None))
    else:
        hidden = width if b.kind == "narrow" else int(width * b.ratio)
        layers: list[nn.Module] = []
        if b.kind == "fused":
            layers.append(conv(width, hidden, b.kernel, b.stride, act=act))
        else:
            layers += [conv(width, hidden, act=act)] if b.kind == "ibn" else []
            layers.append(conv(hidden, hidden, b.kernel, b.stride, groups=hidden, act=act))
        if excite:
            layers.append(SqueezeExcite(hidden, _eighths(hidden / 4), act))
        body = nn.Sequential(*layers, conv(hidden, b.channels, act=None))
    same = b.stride == 1 and width == b.channels and b.shortcut
    return Residual(body) if same and b.kind != "narrow" else body


def mobiledet(
    stem: int, low: Iterable[Block], high: Iterable[Block], act: Act = nn.ReLU6, *, excite: bool = False
) -> nn.Module:
    """On a searched body of `low` blocks down to stride 16 and `high` ones down to stride 32."""
    width, parts, widths = stem, list[nn.Module](), list[int]()
    for blocks in (low, high):
        part = nn.Sequential() if parts else nn.Sequential(conv(3, stem, 3, 2, act=act))
        for b in blocks:
            part.append(_block(width, b, act, excite=excite))
            width = b.channels
        parts.append(part)
        widths.append(width)
    return _SsdLite(Taps(*parts), (widths[0], widths[1]))


_Ibn = partial(Block, "ibn")
_Fused = partial(Block, "fused")
_Tucker = partial(Block, "tucker")

_CPU = (
    (
        Block("narrow", 8),
        _Ibn(16, 4, stride=2),
        _Ibn(32, 8, stride=2),
        *(_Ibn(32, 4),) * 3,
        _Ibn(72, 8, 5, 2),
        _Ibn(72, 8),
        _Ibn(72, 4, 5),
        _Ibn(72, 4),
        _Ibn(72, 8, shortcut=False),
        *(_Ibn(72, 8),) * 3,
    ),
    (
        _Ibn(104, 8, 5, 2),
        *(_Ibn(104, 4, 5),) * 2,
        _Ibn(104, 4),
        _Ibn(144, 8),
    ),
)
_DSP = (
    (
        Block("narrow", 24),
        _Fused(32, 4, stride=2),
        _Fused(32, 4),
        _Ibn(32, 4),
        _Tucker(32, 0.25, out_ratio=0.75),
        _Fused(64, 8, stride=2),
        _Ibn(64, 4),
        *(_Fused(64, 4),) * 2,
        _Fused(120, 8, stride=2),
        _Ibn(120, 4),
        *(_Ibn(120, 8),) * 2,
        _Fused(144, 8),
        *(_Ibn(144, 8),) * 3,
    ),
    (
        _Ibn(160, 4, stride=2),
        _Ibn(160, 4),
        _Fused(160, 4),
        _Tucker(160, 0.75, out_ratio=0.75),
        _Ibn(240, 8),
    ),
)
_EDGETPU = (
    (
        _Tucker(16, 0.25, out_ratio=0.75),
        _Fused(16, 8, stride=2),
        _Fused(16, 4),
        _Fused(16, 8),
        _Fused(16, 4),
        _Fused(40, 8, 5, 2),
        *(_Fused(40, 4),) * 3,
        _Ibn(72, 8, stride=2),
        _Ibn(72, 8),
        *(_Fused(72, 4),) * 2,
        *(_Ibn(96, 8, 5),) * 2,
        *(_Ibn(96, 8),) * 2,
    ),
    (
        _Ibn(120, 8, 5, 2),
        _Ibn(120, 8),
        _Ibn(120, 4, 5),
        _Ibn(120, 8),
        _Ibn(384, 8, 5),
    ),
)
_GPU = (
    (
        _Tucker(16, 0.25),
        _Fused(32, 8, stride=2),
        *(_Tucker(32, 0.25),) * 3,
        _Fused(64, 8, stride=2),
        *(_Fused(64, 8),) * 2,
        _Fused(64, 4),
        _Fused(128, 8, stride=2),
        *(_Fused(128, 4),) * 3,
        _Fused(128, 8, shortcut=False),
        *(_Fused(128, 8),) * 3,
    ),
    (
        _Fused(128, 4, stride=2),
        *(_Fused(128, 4),) * 3,
        _Ibn(384, 8),
    ),
)

# the blocks behind the first map have half their width: kernel, hidden, channels, squeeze, hard-swish, stride
_V3_SMALL = (*mobilenet._V3_SMALL[:8], (5, 288, 48, 1, 1, 2), *((5, 288, 48, 1, 1, 1),) * 2)
_V3_LARGE = (*mobilenet._V3_LARGE[:12], (5, 672, 80, 1, 1, 2), *((5, 480, 80, 1, 1, 1),) * 2)


def mobilenet_v3(size: str) -> nn.Module:
    """On MobileNet V3, whose last blocks keep half their channels (arXiv:1905.02244, section 6.3)."""
    table, cut, last = (_V3_SMALL, 8, 288) if size == "small" else (_V3_LARGE, 12, 480)
    layers: list[nn.Module] = [conv(3, 16, 3, 2, act=nn.Hardswish)]
    width = 16
    for kernel, hidden, channels, se, swished, stride in table:
        excite = SqueezeExcite(hidden, make_divisible(hidden / 4), gate=nn.Hardsigmoid) if se else None
        act: Act = nn.Hardswish if swished else nn.ReLU
        layers.append(inverted_residual(width, channels, kernel, stride, hidden, act=act, se=excite))
        width = channels
    body = _InsideTaps([*layers, conv(width, last, act=nn.Hardswish)], cut + 1)
    return _SsdLite(body, (table[cut][1], last))


_MOBILENET_EDGETPU = (
    Block("project", 16),
    _Fused(32, 8, stride=2),
    *(_Fused(32, 4),) * 3,
    _Fused(48, 8, stride=2),
    *(_Fused(48, 4),) * 3,
    _Ibn(96, 8, stride=2),
    *(_Ibn(96, 4),) * 3,
    _Ibn(96, 8, shortcut=False),
    *(_Ibn(96, 4),) * 3,
    _Ibn(160, 8, 5, 2),
    *(_Ibn(160, 4, 5),) * 3,
    _Ibn(192, 8),
)


def _mobilenet_edgetpu_layers(alpha: float = 1.0) -> list[nn.Module]:
    width = make_divisible(32 * alpha)
    layers: list[nn.Module] = [conv(3, width, 3, 2)]
    for b in _MOBILENET_EDGETPU:
        scaled = b._replace(channels=make_divisible(b.channels * alpha))
        layers.append(_block(width, scaled, nn.ReLU, excite=False))
        width = scaled.channels
    return layers


def mobilenet_edgetpu_classifier(alpha: float = 1.0) -> nn.Module:
    """MobileNetEdgeTPU (Google AI blog, November 2019): fused early blocks, ReLU, no squeeze-and-excite."""
    width = make_divisible(192 * alpha)
    return nn.Sequential(*_mobilenet_edgetpu_layers(alpha), conv(width, 1280), classifier(1280))


def mobilenet_edgetpu() -> nn.Module:
    """On MobileNetEdgeTPU; the first map lies behind the last expansion at stride 16."""
    return _SsdLite(_InsideTaps(_mobilenet_edgetpu_layers(), 17), (384, 192))


# by body, because a network that shares its body is no independent evidence
SSDLITE_MOBILENET_V1: dict[str, Make] = {"ssdlite_mobilenet_v1": mobilenet_v1}
SSDLITE_MOBILENET_V3: dict[str, Make] = {
    f"ssdlite_mobilenet_v3_{size}": partial(mobilenet_v3, size) for size in ("small", "large")
}
MOBILEDET: dict[str, Make] = {
    "ssdlite_mobiledet_cpu": partial(mobiledet, 16, *_CPU, nn.Hardswish, excite=True),
    "ssdlite_mobiledet_dsp": partial(mobiledet, 32, *_DSP),
    "ssdlite_mobiledet_edgetpu": partial(mobiledet, 32, *_EDGETPU),
    "ssdlite_mobiledet_gpu": partial(mobiledet, 32, *_GPU),
}
MOBILENET_EDGETPU: dict[str, Make] = {
    "mobilenet_edgetpu_1.0": mobilenet_edgetpu_classifier,
    "mobilenet_edgetpu_0.75": partial(mobilenet_edgetpu_classifier, 0.75),
    "ssdlite_mobilenet_edgetpu": mobilenet_edgetpu,
}
