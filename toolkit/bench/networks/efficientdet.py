"""EfficientDet D0 to D3 and lite0 to lite4, up to their raw grids: Tan et al. 2020, arXiv:1911.09070.

Five levels from stride 8 to 128, a bidirectional pyramid repeated, and two heads whose convolutions all levels share
while each has norms of its own. The lite variants (google/automl) drop squeeze-and-excite, use ReLU6 and plain sums.
"""

from collections.abc import Sequence
from functools import partial
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.parameter import Parameter

from . import efficientnet
from .blocks import Act, Make, Taps, conv, make_divisible

_LEVELS, _ANCHORS, _CLASSES = 5, 9, 90

# of one layer of the pyramid: the level each node makes, and its inputs by number (0 to 4 are the layer's inputs)
_NODES = (
    (3, (3, 4)),
    (2, (2, 5)),
    (1, (1, 6)),
    (0, (0, 7)),
    (1, (1, 7, 8)),
    (2, (2, 6, 9)),
    (3, (3, 5, 10)),
    (4, (4, 11)),
)
_RESULTS = (8, 9, 10, 11, 12)


def _separable(inputs: int, outputs: int, *, bias: bool = True) -> nn.Sequential:
    """Depthwise then pointwise convolution with nothing between them."""
    return nn.Sequential(
        nn.Conv2d(inputs, inputs, 3, padding=1, groups=inputs, bias=False), nn.Conv2d(inputs, outputs, 1, bias=bias)
    )


class _Node(nn.Module):
    """The weighted sum of maps brought to one level and width, activation, separable convolution, norm."""

    weights: Parameter | None

    def __init__(self, widths: Sequence[int], width: int, act: Act, *, weighted: bool) -> None:
        super().__init__()
        self.narrow = nn.ModuleList(
            nn.Sequential(nn.Conv2d(w, width, 1), nn.BatchNorm2d(width)) if w != width else nn.Identity()
            for w in widths
        )
        self.fall, self.act = nn.MaxPool2d(3, 2, 1), act()
        self.weights = Parameter(torch.ones(len(widths))) if weighted else None
        self.body = nn.Sequential(*_separable(width, width), nn.BatchNorm2d(width))

    def forward(self, maps: Sequence[Tensor], size: tuple[int, int]) -> Tensor:
        parts = [self._resized(narrow(x), size) for narrow, x in zip(self.narrow, maps, strict=True)]
        if self.weights is not None:
            positive = self.weights.relu()
            total = positive.sum() + 1e-4
            parts = [part * positive[i] / total for i, part in enumerate(parts)]
        first, *rest = parts
        for other in rest:
            first = first + other
        y: Tensor = self.body(self.act(first))
        return y

    def _resized(self, x: Tensor, size: tuple[int, int]) -> Tensor:
        if x.shape[2] > size[0]:
            y: Tensor = self.fall(x)
            return y
        return F.interpolate(x, size) if x.shape[2] < size[0] else x


class _Layer(nn.Module):
    """One pass downwards and one upwards over the five levels."""

    def __init__(self, widths: Sequence[int], width: int, act: Act, *, weighted: bool) -> None:
        super().__init__()
        made = [*widths, *(width for _ in _NODES)]
        self.nodes = nn.ModuleList(
            _Node([made[i] for i in inputs], width, act, weighted=weighted) for _, inputs in _NODES
        )

    def forward(self, maps: Sequence[Tensor]) -> list[Tensor]:
        sizes = [(x.shape[2], x.shape[3]) for x in maps]
        made = list(maps)
        for node, (level, inputs) in zip(self.nodes, _NODES, strict=True):
            made.append(node([made[i] for i in inputs], sizes[level]))
        return [made[i] for i in _RESULTS]


class _Head(nn.Module):
    """Separable convolutions shared by the levels, norms of each level, and a last convolution to `outputs`."""

    def __init__(self, width: int, repeats: int, outputs: int, act: Act) -> None:
        super().__init__()
        self.convs = nn.ModuleList(_separable(width, width) for _ in range(repeats))
        self.norms = nn.ModuleList(nn.ModuleList(nn.BatchNorm2d(width) for _ in range(repeats)) for _ in range(_LEVELS))
        self.act, self.last = act(), _separable(width, outputs)

    def forward(self, maps: Sequence[Tensor]) -> list[Tensor]:
        made = []
        for x, norms in zip(maps, self.norms, strict=True):
            assert isinstance(norms, nn.ModuleList)
            for each, norm in zip(self.convs, norms, strict=True):
                x = self.act(norm(each(x)))
            made.append(self.last(x))
        return made


class _EfficientDet(nn.Module):
    def __init__(
        self, stages: Sequence[efficientnet.Stage], stem: int, width: int, layers: int, repeats: int, act: Act,
        *, weighted: bool,
    ) -> None:  # fmt: skip
        super().__init__()
        blocks, _ = efficientnet.body(stages, stem, act)
        ends = [sum(s.repeats for s in stages[:count]) for count in (0, 3, 5, 7)]
        parts = [nn.Sequential(*blocks[a:b]) for a, b in pairwise(ends)]
        self.body = Taps(nn.Sequential(conv(3, stem, 3, 2, act=act), parts[0]), *parts[1:])
        widths = [stages[i].channels for i in (2, 4, 6)]
        self.coarse = nn.Sequential(nn.Conv2d(widths[2], width, 1), nn.BatchNorm2d(width), nn.MaxPool2d(3, 2, 1))
        self.coarser = nn.MaxPool2d(3, 2, 1)
        self.pyramid = nn.Sequential()
        for i in range(layers):
            inputs = (*widths, width, width) if i == 0 else (width,) * _LEVELS
            self.pyramid.append(_Layer(inputs, width, act, weighted=weighted))
        self.scores = _Head(width, repeats, _ANCHORS * _CLASSES, act)
        self.boxes = _Head(width, repeats, _ANCHORS * 4, act)

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        maps = self.body(x)
        coarse = self.coarse(maps[-1])
        maps = self.pyramid([*maps, coarse, self.coarser(coarse)])
        return (*self.scores(maps), *self.boxes(maps))


def efficientdet(backbone: int, width: int, layers: int, repeats: int) -> nn.Module:
    """EfficientDet by the numbers of table 1: the EfficientNet, the pyramid's channels and layers, the heads' depth."""
    scale = efficientnet._SCALES[backbone]
    stages = efficientnet.scaled(efficientnet._B0, *scale)
    return _EfficientDet(stages, make_divisible(32 * scale[0]), width, layers, repeats, nn.SiLU, weighted=True)


def lite(backbone: int, width: int, layers: int, repeats: int) -> nn.Module:
    """EfficientDet-lite on EfficientNet-lite."""
    plain = tuple(s._replace(se=0.0) for s in efficientnet._B0)
    stages = efficientnet.scaled(plain, *efficientnet._LITE_SCALES[backbone], fix_ends=True)
    return _EfficientDet(stages, 32, width, layers, repeats, nn.ReLU6, weighted=False)


_SIZES = ((64, 3, 3), (88, 4, 3), (112, 5, 3), (160, 6, 4), (224, 7, 4))  # pyramid's channels and layers, head's depth

EFFICIENTDET: dict[str, Make] = {
    f"efficientdet_{name}{i}": partial(make, i, *size)
    for name, make in (("d", efficientdet), ("lite", lite))
    for i, size in enumerate(_SIZES)
}
