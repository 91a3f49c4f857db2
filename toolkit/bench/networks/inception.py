"""The Inception line: GoogLeNet with and without batch norm, V2, V3, V4 and Inception-ResNet V2."""

from torch import Tensor, nn

from .blocks import Concat, Residual, classifier, conv


def _average() -> nn.Module:
    return nn.AvgPool2d(3, 1, 1, count_include_pad=False)


def _chain(
    *widths: int, kernels: tuple[int | tuple[int, int], ...], stride: int = 1, padding: int | None = None
) -> nn.Sequential:
    """Convolutions one after the other; `stride` and `padding` are those of the last."""
    last = len(kernels) - 1
    return nn.Sequential(
        *(
            conv(a, b, kernel, stride if i == last else 1, padding=padding if i == last else None)
            for i, (a, b, kernel) in enumerate(zip(widths, widths[1:], kernels, strict=False))
        )
    )


# 1x1; 3x3 reduce, 3x3; 5x5 reduce, 5x5; pool projection
_GOOGLENET = (
    ((64, 96, 128, 16, 32, 32), (128, 128, 192, 32, 96, 64)),
    (
        (192, 96, 208, 16, 48, 64),
        (160, 112, 224, 24, 64, 64),
        (128, 128, 256, 24, 64, 64),
        (112, 144, 288, 32, 64, 64),
        (256, 160, 320, 32, 128, 128),
    ),
    ((256, 160, 320, 32, 128, 128), (384, 192, 384, 48, 128, 128)),
)


def googlenet(*, caffe: bool = False) -> nn.Module:
    """GoogLeNet without its training heads: Szegedy et al. 2015, arXiv:1409.4842, table 1.

    TF-Slim and torchvision have batch norm, and 3x3 in place of 5x5 kernels; `caffe` has neither.
    """
    norm, five = not caffe, 5 if caffe else 3
    local: list[nn.Module] = [nn.LocalResponseNorm(5)] if caffe else []
    layers: list[nn.Module] = [
        conv(3, 64, 7, 2, norm=norm),
        nn.MaxPool2d(3, 2, ceil_mode=True),
        *local,
        conv(64, 64, norm=norm),
        conv(64, 192, 3, norm=norm),
        *local,
    ]
    width = 192
    for i, stage in enumerate(_GOOGLENET):
        layers.append(nn.MaxPool2d(2, 2) if i == 2 and not caffe else nn.MaxPool2d(3, 2, ceil_mode=True))
        for one, three_reduce, three, five_reduce, fives, pooled in stage:
            layers.append(
                Concat(
                    conv(width, one, norm=norm),
                    nn.Sequential(conv(width, three_reduce, norm=norm), conv(three_reduce, three, 3, norm=norm)),
                    nn.Sequential(conv(width, five_reduce, norm=norm), conv(five_reduce, fives, five, norm=norm)),
                    nn.Sequential(nn.MaxPool2d(3, 1, 1), conv(width, pooled, norm=norm)),
                )
            )
            width = one + three + fives + pooled
    return nn.Sequential(*layers, classifier(width))


# 1x1; 3x3 reduce, 3x3; double 3x3 reduce, double 3x3; pool projection. A reduction has no 1x1 and no projection.
_V2 = (
    (64, 64, 64, 64, 96, 32),
    (64, 64, 96, 64, 96, 64),
    (0, 128, 160, 64, 96, 0),
    (224, 64, 96, 96, 128, 128),
    (192, 96, 128, 96, 128, 128),
    (160, 128, 160, 128, 160, 96),
    (96, 128, 192, 160, 192, 96),
    (0, 128, 192, 192, 256, 0),
    (352, 192, 320, 160, 224, 128),
    (352, 192, 320, 192, 224, 128),
)


def v2_features() -> tuple[list[nn.Module], int]:
    """Stem and the ten mixed blocks, and the channels these end with."""
    layers: list[nn.Module] = [
        nn.Conv2d(3, 24, 7, 2, 3, groups=3, bias=False),
        conv(24, 64),
        nn.MaxPool2d(3, 2, 1),
        conv(64, 64),
        conv(64, 192, 3),
        nn.MaxPool2d(3, 2, 1),
    ]
    width = 192
    for i, (one, three_reduce, three, double_reduce, double, pooled) in enumerate(_V2):
        stride = 1 if one else 2
        branches = [
            _chain(width, three_reduce, three, kernels=(1, 3), stride=stride),
            _chain(width, double_reduce, double, double, kernels=(1, 3, 3), stride=stride),
        ]
        if one:
            pool = nn.MaxPool2d(3, 1, 1) if i == len(_V2) - 1 else _average()
            branches = [conv(width, one), *branches, nn.Sequential(pool, conv(width, pooled))]
        else:
            branches.append(nn.Sequential(nn.MaxPool2d(3, 2, 1)))
            pooled = width
        layers.append(Concat(*branches))
        width = one + three + double + pooled
    return layers, width


def v2() -> nn.Module:
    """Inception V2 as in TF-Slim, with a separable stem: Ioffe and Szegedy 2015, arXiv:1502.03167, figure 5."""
    layers, width = v2_features()
    return nn.Sequential(*layers, classifier(width))


def v3() -> nn.Module:
    """Inception V3 without its training head: Szegedy et al. 2016, arXiv:1512.00567, table 1."""

    def wide(inputs: int, pooled: int) -> nn.Module:
        return Concat(
            conv(inputs, 64),
            _chain(inputs, 48, 64, kernels=(1, 5)),
            _chain(inputs, 64, 96, 96, kernels=(1, 3, 3)),
            nn.Sequential(_average(), conv(inputs, pooled)),
        )

    def factored(c: int) -> nn.Module:
        return Concat(
            conv(768, 192),
            _chain(768, c, c, 192, kernels=(1, (1, 7), (7, 1))),
            _chain(768, c, c, c, c, 192, kernels=(1, (7, 1), (1, 7), (7, 1), (1, 7))),
            nn.Sequential(_average(), conv(768, 192)),
        )

    def fanned(inputs: int) -> nn.Module:
        def fan() -> nn.Module:
            return Concat(conv(384, 384, (1, 3)), conv(384, 384, (3, 1)))

        return Concat(
            conv(inputs, 320),
            nn.Sequential(conv(inputs, 384), fan()),
            nn.Sequential(_chain(inputs, 448, 384, kernels=(1, 3)), fan()),
            nn.Sequential(_average(), conv(inputs, 192)),
        )

    return nn.Sequential(
        conv(3, 32, 3, 2, padding=0),
        conv(32, 32, 3, padding=0),
        conv(32, 64, 3),
        nn.MaxPool2d(3, 2),
        conv(64, 80),
        conv(80, 192, 3, padding=0),
        nn.MaxPool2d(3, 2),
        wide(192, 32),
        wide(256, 64),
        wide(288, 64),
        Concat(
            conv(288, 384, 3, 2, padding=0),
            _chain(288, 64, 96, 96, kernels=(1, 3, 3), stride=2, padding=0),
            nn.MaxPool2d(3, 2),
        ),
        factored(128),
        factored(160),
        factored(160),
        factored(192),
        Concat(
            _chain(768, 192, 320, kernels=(1, 3), stride=2, padding=0),
            _chain(768, 192, 192, 192, 192, kernels=(1, (1, 7), (7, 1), 3), stride=2, padding=0),
            nn.MaxPool2d(3, 2),
        ),
        fanned(1280),
        fanned(2048),
        classifier(2048),
    )


def v4() -> nn.Module:
    """Inception V4: Szegedy et al. 2017, arXiv:1602.07261, figures 3 to 9."""

    def a() -> nn.Module:
        return Concat(
            conv(384, 96),
            _chain(384, 64, 96, kernels=(1, 3)),
            _chain(384, 64, 96, 96, kernels=(1, 3, 3)),
            nn.Sequential(_average(), conv(384, 96)),
        )

    def b() -> nn.Module:
        return Concat(
            conv(1024, 384),
            _chain(1024, 192, 224, 256, kernels=(1, (1, 7), (7, 1))),
            _chain(1024, 192, 192, 224, 224, 256, kernels=(1, (7, 1), (1, 7), (7, 1), (1, 7))),
            nn.Sequential(_average(), conv(1024, 128)),
        )

    def c() -> nn.Module:
        def fan(inputs: int) -> nn.Module:
            return Concat(conv(inputs, 256, (1, 3)), conv(inputs, 256, (3, 1)))

        return Concat(
            conv(1536, 256),
            nn.Sequential(conv(1536, 384), fan(384)),
            nn.Sequential(_chain(1536, 384, 448, 512, kernels=(1, (3, 1), (1, 3))), fan(512)),
            nn.Sequential(_average(), conv(1536, 256)),
        )

    return nn.Sequential(
        conv(3, 32, 3, 2, padding=0),
        conv(32, 32, 3, padding=0),
        conv(32, 64, 3),
        Concat(nn.MaxPool2d(3, 2), conv(64, 96, 3, 2, padding=0)),
        Concat(
            _chain(160, 64, 96, kernels=(1, 3), padding=0),
            _chain(160, 64, 64, 64, 96, kernels=(1, (1, 7), (7, 1), 3), padding=0),
        ),
        Concat(conv(192, 192, 3, 2, padding=0), nn.MaxPool2d(3, 2)),
        *(a() for _ in range(4)),
        Concat(
            conv(384, 384, 3, 2, padding=0),
            _chain(384, 192, 224, 256, kernels=(1, 3, 3), stride=2, padding=0),
            nn.MaxPool2d(3, 2),
        ),
        *(b() for _ in range(7)),
        Concat(
            _chain(1024, 192, 192, kernels=(1, 3), stride=2, padding=0),
            _chain(1024, 256, 256, 320, 320, kernels=(1, (1, 7), (7, 1), 3), stride=2, padding=0),
            nn.MaxPool2d(3, 2),
        ),
        *(c() for _ in range(3)),
        classifier(1536),
    )


class _Scaled(nn.Module):
    """A body whose output is scaled down before it joins the sum."""

    def __init__(self, body: nn.Module, scale: float) -> None:
        super().__init__()
        self.body, self.scale = body, scale

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.body(x) * self.scale
        return y


def inception_resnet_v2() -> nn.Module:
    """Inception-ResNet V2: Szegedy et al. 2017, arXiv:1602.07261, with the channel counts of the release."""

    def unit(inputs: int, branches: Concat, joined: int, scale: float, *, act: bool = True) -> nn.Module:
        project = nn.Conv2d(joined, inputs, 1)
        return Residual(_Scaled(nn.Sequential(branches, project), scale), after=nn.ReLU if act else None)

    def a() -> nn.Module:
        return unit(
            320,
            Concat(conv(320, 32), _chain(320, 32, 32, kernels=(1, 3)), _chain(320, 32, 48, 64, kernels=(1, 3, 3))),
            128,
            0.17,
        )

    def b() -> nn.Module:
        return unit(1088, Concat(conv(1088, 192), _chain(1088, 128, 160, 192, kernels=(1, (1, 7), (7, 1)))), 384, 0.1)

    def c(*, act: bool = True) -> nn.Module:
        branches = Concat(conv(2080, 192), _chain(2080, 192, 224, 256, kernels=(1, (1, 3), (3, 1))))
        return unit(2080, branches, 448, 0.2 if act else 1.0, act=act)

    return nn.Sequential(
        conv(3, 32, 3, 2, padding=0),
        conv(32, 32, 3, padding=0),
        conv(32, 64, 3),
        nn.MaxPool2d(3, 2),
        conv(64, 80),
        conv(80, 192, 3, padding=0),
        nn.MaxPool2d(3, 2),
        Concat(
            conv(192, 96),
            _chain(192, 48, 64, kernels=(1, 5)),
            _chain(192, 64, 96, 96, kernels=(1, 3, 3)),
            nn.Sequential(_average(), conv(192, 64)),
        ),
        *(a() for _ in range(10)),
        Concat(
            conv(320, 384, 3, 2, padding=0),
            _chain(320, 256, 256, 384, kernels=(1, 3, 3), stride=2, padding=0),
            nn.MaxPool2d(3, 2),
        ),
        *(b() for _ in range(20)),
        Concat(
            _chain(1088, 256, 384, kernels=(1, 3), stride=2, padding=0),
            _chain(1088, 256, 288, kernels=(1, 3), stride=2, padding=0),
            _chain(1088, 256, 288, 320, kernels=(1, 3, 3), stride=2, padding=0),
            nn.MaxPool2d(3, 2),
        ),
        *(c() for _ in range(9)),
        c(act=False),
        conv(2080, 1536),
        classifier(1536),
    )


def googlenet_caffe() -> nn.Module:
    """The first release of GoogLeNet, as ncnn measures it."""
    return googlenet(caffe=True)


INCEPTION = {
    "googlenet": googlenet,
    "googlenet_caffe": googlenet_caffe,
    "inception_v2": v2,
    "inception_v3": v3,
    "inception_v4": v4,
    "inception_resnet_v2": inception_resnet_v2,
}
