"""YOLOv3 on MobileNet V1 with separable convolutions in the neck, up to the raw grids.

The full network is lewes6369's `mobilenet_yolov3_test.prototxt`, the lite one eric612's of two scales, with 80 classes.
Caffe enlarges by a grouped transposed convolution of one pixel and a pool.
"""

from functools import partial

from torch import Tensor, nn

from . import mobilenet
from .blocks import Make, conv, separable, upsample

_OUTPUTS = 3 * (80 + 5)
_sep = partial(separable, act=nn.ReLU, middle=nn.ReLU)


def _layers() -> list[nn.Module]:
    """MobileNet V1 with plain ReLU."""
    layers = mobilenet.v1_features()
    for layer in layers:
        assert isinstance(layer, nn.Sequential)
        for i, m in enumerate(layer):
            if isinstance(m, nn.ReLU6):
                layer[i] = nn.ReLU()
    return layers


def _rise(inputs: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(nn.ConvTranspose2d(inputs, outputs, 1, 2, groups=outputs, bias=False), nn.MaxPool2d(2, 1, 1))


class _Full(nn.Module):
    """Three scales, the maps added."""

    def __init__(self) -> None:
        super().__init__()
        layers = _layers()
        self.low, self.middle = nn.Sequential(*layers[:6]), nn.Sequential(*layers[6:12])
        self.top = nn.Sequential(*layers[12:], _sep(1024, 1024))
        self.rises = nn.ModuleList(nn.Sequential(_rise(2 * w, w), _sep(w, w)) for w in (512, 256))
        self.laterals = nn.ModuleList(_sep(w, w) for w in (512, 256))
        self.down = nn.ModuleList([_sep(512, 512), _sep(256, 512)])
        self.grids = nn.ModuleList(nn.Conv2d(w, _OUTPUTS, 1) for w in (1024, 512, 512))

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        low = self.low(x)
        middle = self.middle(low)
        maps = [self.top(middle)]
        for rise, lateral, down, x in zip(self.rises, self.laterals, self.down, (middle, low), strict=True):
            maps.append(down(rise(maps[-1]) + lateral(x)))
        return tuple(grid(y) for grid, y in zip(self.grids, maps, strict=True))


class _Lite(nn.Module):
    """Two scales."""

    def __init__(self) -> None:
        super().__init__()
        layers = _layers()
        self.middle, self.top = nn.Sequential(*layers[:12]), nn.Sequential(*layers[12:], _sep(1024, 1024))
        self.rise = nn.Sequential(conv(1024, 512), upsample())
        self.lateral = _sep(512, 512)
        self.down = nn.Sequential(conv(512, 512), _sep(512, 1024))
        self.coarse, self.fine = nn.Conv2d(1024, _OUTPUTS, 1), nn.Conv2d(1024, _OUTPUTS, 1)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        middle = self.middle(x)
        top = self.top(middle)
        return self.coarse(top), self.fine(self.down(self.rise(top) + self.lateral(middle)))


MOBILENET_YOLOV3: dict[str, Make] = {"mobilenet_yolov3": _Full, "mobilenet_yolov3_lite": _Lite}
