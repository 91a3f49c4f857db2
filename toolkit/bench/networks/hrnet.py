"""HRNet-W18 with its classification head: Sun et al. 2019, arXiv:1908.07919."""

from torch import Tensor, nn

from .blocks import Residual, classifier, conv, upsample


def _basic(width: int) -> nn.Module:
    return Residual(nn.Sequential(conv(width, width, 3), conv(width, width, 3, act=None)), after=nn.ReLU)


def _bottleneck(inputs: int, width: int) -> nn.Module:
    body = nn.Sequential(conv(inputs, width), conv(width, width, 3), conv(width, 4 * width, act=None))
    return Residual(body, conv(inputs, 4 * width, act=None) if inputs != 4 * width else None, nn.ReLU)


def _exchange(widths: tuple[int, ...], source: int, target: int) -> nn.Module:
    """From one scale to another: pointwise and enlarge, or 3x3 convolutions of stride 2."""
    if source == target:
        return nn.Identity()
    if source > target:
        return nn.Sequential(conv(widths[source], widths[target], act=None), upsample(2 ** (source - target)))
    a, b, steps = widths[source], widths[target], target - source
    return nn.Sequential(*(conv(a, a, 3, 2) for _ in range(steps - 1)), conv(a, b, 3, 2, act=None))


class _Module(nn.Module):
    """Four basic blocks on every scale, then every scale gets the sum of all."""

    def __init__(self, widths: tuple[int, ...]) -> None:
        super().__init__()
        scales = range(len(widths))
        self.branches = nn.ModuleList(nn.Sequential(*(_basic(width) for _ in range(4))) for width in widths)
        self.exchanges = nn.ModuleList(nn.ModuleList(_exchange(widths, j, i) for j in scales) for i in scales)
        self.act = nn.ReLU()

    def forward(self, maps: list[Tensor]) -> list[Tensor]:
        ran = [branch(x) for branch, x in zip(self.branches, maps, strict=True)]
        fused: list[Tensor] = []
        for row in self.exchanges:
            assert isinstance(row, nn.ModuleList)
            first, *rest = [exchange(x) for exchange, x in zip(row, ran, strict=True)]
            for other in rest:
                first = first + other
            fused.append(self.act(first))
        return fused


class _HrNet(nn.Module):
    """Four stages, each adding a scale of half the size; a head that walks the scales down."""

    def __init__(self, width: int) -> None:
        super().__init__()
        wide = tuple(width << i for i in range(4))
        self.stem = nn.Sequential(
            conv(3, 64, 3, 2), conv(64, 64, 3, 2), _bottleneck(64, 64), *(_bottleneck(256, 64) for _ in range(3))
        )
        self.start = nn.ModuleList([conv(256, wide[0], 3), conv(256, wide[1], 3, 2)])
        self.grow = nn.ModuleList(conv(wide[i], wide[i + 1], 3, 2) for i in (1, 2))
        self.stages = nn.ModuleList(
            nn.Sequential(*(_Module(wide[:scales]) for _ in range(count))) for scales, count in ((2, 1), (3, 4), (4, 3))
        )
        self.widen = nn.ModuleList(_bottleneck(w, 32 << i) for i, w in enumerate(wide))
        self.walk = nn.ModuleList(
            nn.Sequential(nn.Conv2d(128 << i, 256 << i, 3, 2, 1), nn.BatchNorm2d(256 << i), nn.ReLU()) for i in range(3)
        )
        self.head = nn.Sequential(nn.Conv2d(1024, 2048, 1), nn.BatchNorm2d(2048), nn.ReLU(), classifier(2048))

    def forward(self, x: Tensor) -> Tensor:
        stem = self.stem(x)
        maps = [start(stem) for start in self.start]
        for i, stage in enumerate(self.stages):
            if i:
                maps.append(self.grow[i - 1](maps[-1]))
            maps = stage(maps)
        total = self.widen[0](maps[0])
        for i, walk in enumerate(self.walk):
            total = walk(total) + self.widen[i + 1](maps[i + 1])
        y: Tensor = self.head(total)
        return y


def hrnet_w18() -> nn.Module:
    """The narrowest published width."""
    return _HrNet(18)


HRNET = {"hrnet_w18": hrnet_w18}
