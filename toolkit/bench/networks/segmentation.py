"""Dense prediction on MobileNet V2: the two networks of Coral's table that its file names identify."""

from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from . import mobilenet
from .blocks import conv


class _DeepLab(nn.Module):
    """DeepLab V3 at stride 16 with image pooling only: Sandler et al. 2018, arXiv:1801.04381, section 6.3."""

    def __init__(self, classes: int = 21) -> None:
        super().__init__()
        layers, _ = mobilenet.v2_features()
        for block in layers[14:18]:
            for m in block.modules():
                if isinstance(m, nn.Conv2d) and m.groups > 1:
                    if m.stride == (2, 2):
                        m.stride = (1, 1)
                    else:
                        m.dilation, m.padding = (2, 2), (2, 2)
        self.body = nn.Sequential(*layers[:18])
        self.local = conv(320, 256)
        self.image = nn.Sequential(nn.AdaptiveAvgPool2d(1), conv(320, 256))
        self.head = nn.Sequential(conv(512, 256), nn.Conv2d(256, classes, 1))

    def forward(self, x: Tensor) -> Tensor:
        y = self.body(x)
        local = self.local(y)
        image = self.image(y).expand(-1, -1, *local.shape[2:])
        grid = self.head(torch.cat((image, local), 1))
        return F.interpolate(grid, x.shape[2:], mode="bilinear", align_corners=True)


class _Unet(nn.Module):
    """A U-Net from TensorFlow's segmentation tutorial: taps behind four expansions, transposed convolutions upwards."""

    def __init__(self, classes: int = 3) -> None:
        super().__init__()
        layers, _ = mobilenet.v2_features()
        self.stages, start, held = nn.ModuleList(), 0, list[nn.Module]()
        for cut in (2, 4, 7, 14):
            block = layers[cut]
            assert isinstance(block, nn.Sequential)
            expand, *rest = block
            self.stages.append(nn.Sequential(*held, *layers[start:cut], expand))
            start, held = cut + 1, rest
        self.top = nn.Sequential(*held, *layers[start:18])
        widths, taps = (320, 512, 256, 128, 64), (0, 576, 192, 144, 96)
        self.rises = nn.ModuleList(
            nn.Sequential(nn.ConvTranspose2d(a + tap, b, 3, 2, 1, 1, bias=False), nn.BatchNorm2d(b), nn.ReLU())
            for (a, b), tap in zip(pairwise(widths), taps, strict=False)
        )
        self.last = nn.ConvTranspose2d(64 + 96, classes, 3, 2, 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        taps = []
        for stage in self.stages:
            x = stage(x)
            taps.append(x)
        x = self.top(x)
        for rise, tap in zip(self.rises, reversed(taps), strict=True):
            x = torch.cat((rise(x), tap), 1)
        y: Tensor = self.last(x)
        return y


MOBILENET_V2 = {"deeplab_mobilenet_v2": _DeepLab, "unet_mobilenet_v2": _Unet}
