"""SSD of TensorFlow's detection zoo on bodies that `ssd` does not have: raw grids, 91 classes."""

from itertools import pairwise

from torch import nn

from . import ssd
from .blocks import Make


def mobilenet_v2_pointwise() -> nn.Module:
    """The zoo's second edition (`ssd_mobilenet_v2_320x320_coco17`): MobileNet V2 with 1x1 predictors."""
    wide = (576, 1280, 512, 256, 256, 128)
    stages = [*ssd._v2_stages(), *(ssd._extra(a, b, nn.ReLU6) for a, b in pairwise(wide[1:]))]
    return ssd._heads(stages, wide, 91, (1,) * 6)


SSD_MOBILENET_V2: dict[str, Make] = {"ssd_mobilenet_v2_pointwise": mobilenet_v2_pointwise}
