"""EfficientNet and its relatives: lite, EdgeTPU, V2, TinyNet; and the searched networks of the same vocabulary."""

from collections.abc import Callable, Iterable
from functools import partial
from math import ceil
from typing import NamedTuple

from torch import nn

from .blocks import Act, SqueezeExcite, classifier, conv, inverted_residual, make_divisible


class Stage(NamedTuple):
    """A run of equal blocks; only the first has the stride. `se` is the squeezed share of the block's input."""

    repeats: int
    kernel: int
    stride: int
    expansion: int
    channels: int
    se: float = 0.0
    fused: bool = False
    hidden: int = 0  # channels of the first block's expansion, where they do not follow from its input
    expand: bool = False  # a pointwise expansion even by a factor of one
    plain: bool = False  # one convolution with its activation and no projection


def body(stages: Iterable[Stage], width: int, act: Act) -> tuple[list[nn.Module], int]:
    """The blocks of `stages` on `width` channels, and the channels that they end with."""
    layers: list[nn.Module] = []
    for s in stages:
        for i in range(s.repeats):
            stride = s.stride if i == 0 else 1
            hidden = s.hidden if s.hidden and i == 0 else make_divisible(width * s.expansion)
            if s.plain:
                layers.append(conv(width, s.channels, s.kernel, stride, act=act))
            else:
                se = SqueezeExcite(hidden, max(1, int(width * s.se)), act) if s.se else None
                layers.append(
                    inverted_residual(
                        width,
                        s.channels,
                        s.kernel,
                        stride,
                        hidden,
                        act=act,
                        se=se,
                        expand=True if s.expand else None,
                        fused=s.fused,
                    )
                )
            width = s.channels
    return layers, width


def network(stages: Iterable[Stage], stem: int, head: int, act: Act) -> nn.Module:
    """Stem of stride 2, the stages, a pointwise convolution to `head` channels, classifier."""
    layers, width = body(stages, stem, act)
    return nn.Sequential(conv(3, stem, 3, 2, act=act), *layers, conv(width, head, act=act), classifier(head))


def scaled(
    stages: tuple[Stage, ...],
    width: float,
    depth: float,
    *,
    fix_ends: bool = False,
    count: Callable[[float], int] = ceil,
) -> list[Stage]:
    """Compound scaling: `width` on channels, `depth` on repeats (not on the first and last stage if `fix_ends`)."""
    ends = (0, len(stages) - 1) if fix_ends else ()
    return [
        s._replace(
            channels=make_divisible(s.channels * width), repeats=s.repeats if i in ends else count(s.repeats * depth)
        )
        for i, s in enumerate(stages)
    ]


_B0 = (
    Stage(1, 3, 1, 1, 16, 0.25),
    Stage(2, 3, 2, 6, 24, 0.25),
    Stage(2, 5, 2, 6, 40, 0.25),
    Stage(3, 3, 2, 6, 80, 0.25),
    Stage(3, 5, 1, 6, 112, 0.25),
    Stage(4, 5, 2, 6, 192, 0.25),
    Stage(1, 3, 1, 6, 320, 0.25),
)
_SCALES = ((1.0, 1.0), (1.0, 1.1), (1.1, 1.2), (1.2, 1.4), (1.4, 1.8), (1.6, 2.2), (1.8, 2.6), (2.0, 3.1))
_LITE_SCALES = ((1.0, 1.0), (1.0, 1.1), (1.1, 1.2), (1.2, 1.4), (1.4, 1.8))


def efficientnet(width: float, depth: float) -> nn.Module:
    """EfficientNet-B0 to B7: Tan and Le 2019, arXiv:1905.11946, table 1."""
    return network(scaled(_B0, width, depth), make_divisible(32 * width), make_divisible(1280 * width), nn.SiLU)


def lite(width: float, depth: float) -> nn.Module:
    """EfficientNet-Lite (TensorFlow blog, March 2020): ReLU6, no squeeze-and-excite, stem and head not scaled."""
    stages = tuple(s._replace(se=0.0) for s in _B0)
    return network(scaled(stages, width, depth, fix_ends=True), 32, 1280, nn.ReLU6)


_EDGETPU = (
    Stage(1, 3, 1, 4, 24, fused=True, hidden=96),
    Stage(2, 3, 2, 8, 32, fused=True),
    Stage(4, 3, 2, 8, 48, fused=True),
    Stage(5, 5, 2, 8, 96),
    Stage(4, 5, 1, 8, 144),
    Stage(2, 5, 2, 8, 192),
)


def edgetpu(width: float, depth: float) -> nn.Module:
    """EfficientNet-EdgeTPU S, M and L (Gupta and Tan, Google AI blog, August 2019): fused early blocks, ReLU."""
    stages = scaled(_EDGETPU, width, depth)
    stages[0] = stages[0]._replace(hidden=4 * stages[0].channels)
    return network(stages, make_divisible(32 * width), make_divisible(1280 * width), nn.ReLU)


_V2_B0 = (
    Stage(1, 3, 1, 1, 16, plain=True),
    Stage(2, 3, 2, 4, 32, fused=True),
    Stage(2, 3, 2, 4, 48, fused=True),
    Stage(3, 3, 2, 4, 96, 0.25),
    Stage(5, 3, 1, 6, 112, 0.25),
    Stage(8, 3, 2, 6, 192, 0.25),
)
_V2_RW_S = (
    Stage(2, 3, 1, 1, 24, fused=True),
    Stage(4, 3, 2, 4, 48, fused=True),
    Stage(4, 3, 2, 4, 64, fused=True),
    Stage(6, 3, 2, 4, 128, 0.25),
    Stage(9, 3, 1, 6, 160, 0.25),
    Stage(15, 3, 2, 6, 272, 0.25),
)
_TINYNET = scaled(_B0, 1.0, 1.2, count=round)

EFFICIENTNET = (
    {f"efficientnet_b{i}": partial(efficientnet, *scale) for i, scale in enumerate(_SCALES)}
    | {f"efficientnet_lite{i}": partial(lite, *scale) for i, scale in enumerate(_LITE_SCALES)}
    | {
        f"efficientnet_edgetpu_{name}": partial(edgetpu, *scale)
        for name, scale in (("s", (1.0, 1.0)), ("m", (1.0, 1.1)), ("l", (1.2, 1.4)))
    }
    | {  # Tan and Le 2021, arXiv:2104.00298; the rw variant is timm's reading of its figure 2
        "efficientnetv2_b0": partial(network, _V2_B0, 32, 1280, nn.SiLU),
        "efficientnetv2_rw_s": partial(network, _V2_RW_S, 24, 1792, nn.SiLU),
        # Han et al. 2020, arXiv:2010.14819
        "tinynet_a": partial(network, _TINYNET, 32, 1280, nn.SiLU),
    }
)

# Tan et al. 2019, arXiv:1807.11626 (B1, without squeeze-and-excite, is torchvision's mnasnet1_0)
_MNASNET_B1 = (
    Stage(1, 3, 1, 1, 16),
    Stage(3, 3, 2, 3, 24),
    Stage(3, 5, 2, 3, 40),
    Stage(3, 5, 2, 6, 80),
    Stage(2, 3, 1, 6, 96),
    Stage(4, 5, 2, 6, 192),
    Stage(1, 3, 1, 6, 320),
)
_MNASNET_SMALL = (
    Stage(1, 3, 1, 1, 8),
    Stage(1, 3, 2, 3, 16),
    Stage(2, 3, 2, 6, 16),
    Stage(4, 5, 2, 6, 32, 0.25),
    Stage(3, 3, 1, 6, 32, 0.25),
    Stage(3, 5, 2, 6, 88, 0.25),
    Stage(1, 3, 1, 6, 144),
)
# Stamoulis et al. 2019, arXiv:1904.02877
_SPNASNET = (
    Stage(1, 3, 1, 1, 16),
    Stage(3, 3, 2, 3, 24),
    Stage(1, 5, 2, 6, 40),
    Stage(3, 3, 1, 3, 40),
    Stage(1, 5, 2, 6, 80),
    Stage(3, 3, 1, 3, 80),
    Stage(1, 5, 1, 6, 96),
    Stage(3, 5, 1, 3, 96),
    Stage(4, 5, 2, 6, 192),
    Stage(1, 3, 1, 6, 320),
)
MNASNET = {
    "mnasnet_1.0": partial(network, _MNASNET_B1, 32, 1280, nn.ReLU),
    "mnasnet_small": partial(network, _MNASNET_SMALL, 8, 1280, nn.ReLU),
    "spnasnet_1.0": partial(network, _SPNASNET, 32, 1280, nn.ReLU),
}

# Wu et al. 2019, arXiv:1812.03443, figure 4
_FBNET_C = (
    Stage(1, 3, 1, 1, 16, expand=True),
    Stage(1, 3, 2, 6, 24),
    Stage(2, 3, 1, 1, 24, expand=True),
    Stage(1, 5, 2, 6, 32),
    Stage(1, 5, 1, 3, 32),
    Stage(1, 5, 1, 6, 32),
    Stage(1, 3, 1, 6, 32),
    Stage(1, 5, 2, 6, 64),
    Stage(1, 5, 1, 3, 64),
    Stage(2, 5, 1, 6, 64),
    Stage(3, 5, 1, 6, 112),
    Stage(1, 5, 1, 3, 112),
    Stage(4, 5, 2, 6, 184),
    Stage(1, 3, 1, 6, 352),
)
FBNET = {"fbnetc_1.0": partial(network, _FBNET_C, 16, 1984, nn.ReLU)}

# Cai et al. 2019, arXiv:1812.00332, figure 5 (mobile)
_PROXYLESS = (
    Stage(1, 3, 1, 1, 32),
    Stage(1, 5, 2, 3, 32, hidden=48),
    Stage(1, 3, 1, 3, 32),
    Stage(1, 7, 2, 3, 40),
    Stage(1, 3, 1, 3, 40),
    Stage(2, 5, 1, 3, 40),
    Stage(1, 7, 2, 6, 80),
    Stage(3, 5, 1, 3, 80),
    Stage(1, 5, 1, 6, 96),
    Stage(3, 5, 1, 3, 96),
    Stage(1, 7, 2, 6, 192),
    Stage(1, 7, 1, 6, 192),
    Stage(2, 7, 1, 3, 192),
    Stage(1, 7, 1, 6, 320),
)
PROXYLESSNAS = {"proxylessnas_mobile": partial(network, _PROXYLESS, 32, 1280, nn.ReLU)}
