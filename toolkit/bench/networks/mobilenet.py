"""MobileNet V1, V2 and V3 at every width."""

from functools import partial

from torch import nn

from .blocks import Act, SqueezeExcite, classifier, conv, inverted_residual, make_divisible, separable

_V1 = ((64, 1), (128, 2), (128, 1), (256, 2), (256, 1), (512, 2), *((512, 1),) * 5, (1024, 2), (1024, 1))


def v1_features(alpha: float = 1.0) -> list[nn.Module]:
    """The stem and the thirteen separable convolutions."""
    wide = [max(int(channels * alpha), 8) for channels in (32, *(channels for channels, _ in _V1))]
    return [
        conv(3, wide[0], 3, 2, act=nn.ReLU6),
        *(separable(a, b, 3, stride) for a, b, (_, stride) in zip(wide, wide[1:], _V1, strict=False)),
    ]


def v1(alpha: float = 1.0) -> nn.Module:
    """MobileNet V1: Howard et al. 2017, arXiv:1704.04861, table 1; widths as in TF-Slim, never below 8."""
    return nn.Sequential(*v1_features(alpha), classifier(max(int(1024 * alpha), 8)))


# expansion, channels, repeats, first stride
_V2 = ((1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1))


def v2_features(alpha: float = 1.0, *, caffe: bool = False) -> tuple[list[nn.Module], int]:
    """Stem, seventeen inverted residuals and the last pointwise convolution, and the channels these end with.

    `caffe`: the port that ncnn measures, whose first block has a 32-to-32 expansion that the paper leaves out.
    """
    act = nn.ReLU if caffe else nn.ReLU6
    width = make_divisible(32 * alpha)
    layers: list[nn.Module] = [conv(3, width, 3, 2, act=act)]
    for expansion, channels, repeats, first in _V2:
        outputs = make_divisible(channels * alpha)
        for i in range(repeats):
            layers.append(
                inverted_residual(
                    width,
                    outputs,
                    3,
                    first if i == 0 else 1,
                    width * expansion,
                    act=act,
                    expand=caffe or expansion != 1,
                )
            )
            width = outputs
    last = make_divisible(1280 * max(1.0, alpha))
    return [*layers, conv(width, last, act=act)], last


def v2(alpha: float = 1.0, *, caffe: bool = False) -> nn.Module:
    """MobileNet V2: Sandler et al. 2018, arXiv:1801.04381, table 2; the last convolution keeps 1280 below width 1."""
    layers, last = v2_features(alpha, caffe=caffe)
    return nn.Sequential(*layers, classifier(last))


# kernel, hidden channels at width 1, channels, squeeze-and-excite, hard-swish, stride
_V3_SMALL = (
    (3, 16, 16, 1, 0, 2),
    (3, 72, 24, 0, 0, 2),
    (3, 88, 24, 0, 0, 1),
    (5, 96, 40, 1, 1, 2),
    (5, 240, 40, 1, 1, 1),
    (5, 240, 40, 1, 1, 1),
    (5, 120, 48, 1, 1, 1),
    (5, 144, 48, 1, 1, 1),
    (5, 288, 96, 1, 1, 2),
    (5, 576, 96, 1, 1, 1),
    (5, 576, 96, 1, 1, 1),
)
_V3_LARGE = (
    (3, 16, 16, 0, 0, 1),
    (3, 64, 24, 0, 0, 2),
    (3, 72, 24, 0, 0, 1),
    (5, 72, 40, 1, 0, 2),
    (5, 120, 40, 1, 0, 1),
    (5, 120, 40, 1, 0, 1),
    (3, 240, 80, 0, 1, 2),
    (3, 200, 80, 0, 1, 1),
    (3, 184, 80, 0, 1, 1),
    (3, 184, 80, 0, 1, 1),
    (3, 480, 112, 1, 1, 1),
    (3, 672, 112, 1, 1, 1),
    (5, 672, 160, 1, 1, 2),
    (5, 960, 160, 1, 1, 1),
    (5, 960, 160, 1, 1, 1),
)


def v3(size: str, alpha: float = 1.0, *, minimalistic: bool = False) -> nn.Module:
    """MobileNet V3: Howard et al. 2019, arXiv:1905.02244, tables 1 and 2.

    `minimalistic` is TF-Slim's variant without squeeze-and-excite, hard-swish and 5x5 kernels. The classifier keeps
    its 1024 or 1280 hidden channels at every width.
    """
    table, head = (_V3_SMALL, 1024) if size == "small" else (_V3_LARGE, 1280)
    swish: Act = nn.ReLU if minimalistic else nn.Hardswish
    width, unscaled = make_divisible(16 * alpha), 16
    layers: list[nn.Module] = [conv(3, width, 3, 2, act=swish)]
    for kernel, hidden_full, channels, se, swished, stride in table:
        hidden, outputs = make_divisible(width * hidden_full / unscaled), make_divisible(channels * alpha)
        excite = SqueezeExcite(hidden, make_divisible(hidden / 4), gate=nn.Hardsigmoid)
        layers.append(
            inverted_residual(
                width,
                outputs,
                3 if minimalistic else kernel,
                stride,
                hidden,
                act=swish if swished else nn.ReLU,
                se=excite if se and not minimalistic else None,
            )
        )
        width, unscaled = outputs, channels
    last = make_divisible(width * 6)
    return nn.Sequential(
        *layers,
        conv(width, last, act=swish),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(last, head),
        swish(),
        nn.Linear(head, 1000),
    )


_V1_WIDTHS, _V2_WIDTHS = (0.25, 0.5, 0.75, 1.0), (0.35, 0.5, 0.75, 1.0, 1.3, 1.4)
V1 = {f"mobilenet_v1_{alpha}": partial(v1, alpha) for alpha in _V1_WIDTHS}
V2 = {f"mobilenet_v2_{alpha}": partial(v2, alpha) for alpha in _V2_WIDTHS} | {
    "mobilenet_v2_caffe": partial(v2, caffe=True)
}
V3 = {
    f"mobilenet_v3_{size}_{alpha}": partial(v3, size, alpha) for size in ("small", "large") for alpha in (0.75, 1.0)
} | {f"mobilenet_v3_{size}_minimalistic": partial(v3, size, minimalistic=True) for size in ("small", "large")}
