"""ShuffleNet V1 and V2."""

from functools import partial

import torch
from torch import Tensor, nn

from .blocks import Act, Concat, Residual, Shuffle, classifier, conv


def v1(groups: int = 3) -> nn.Module:
    """ShuffleNet V1, width 1: Zhang et al. 2018, arXiv:1707.01083, table 1 (three groups)."""
    layers: list[nn.Module] = [conv(3, 24, 3, 2), nn.MaxPool2d(3, 2, 1)]
    width = 24
    for outputs, repeats in ((240, 4), (480, 8), (960, 4)):
        hidden = outputs // 4
        for i in range(repeats):
            first = width == 24
            made = outputs - width if i == 0 else outputs
            squeezed = made // 4 if first else hidden
            body = nn.Sequential(
                conv(width, squeezed, groups=1 if first else groups),
                *([] if first else [Shuffle(groups)]),
                conv(squeezed, squeezed, 3, 2 if i == 0 else 1, groups=squeezed, act=None),
                conv(squeezed, made, groups=groups, act=None),
            )
            layers += [Concat(nn.AvgPool2d(3, 2, 1), body), nn.ReLU()] if i == 0 else [Residual(body, after=nn.ReLU)]
            width = outputs
    return nn.Sequential(*layers, classifier(width))


class _Split(nn.Module):
    """Half of the channels pass by, the other half go through `body`; then all are shuffled."""

    def __init__(self, body: nn.Module) -> None:
        super().__init__()
        self.body, self.shuffle = body, Shuffle(2)

    def forward(self, x: Tensor) -> Tensor:
        half = x.shape[1] // 2
        kept, changed = x[:, :half], x[:, half:]
        y: Tensor = self.shuffle(torch.cat((kept, self.body(changed)), 1))
        return y


def v2_stages(widths: tuple[int, ...], act: Act = nn.ReLU) -> list[nn.Module]:
    """Stem, then one module a stage: a unit of stride 2 on two full branches, then split units."""
    width, *rest = widths
    stages: list[nn.Module] = [nn.Sequential(conv(3, width, 3, 2, act=act), nn.MaxPool2d(3, 2, 1))]
    for outputs, repeats in zip(rest, (4, 8, 4), strict=True):
        half = outputs // 2
        stage = nn.Sequential(
            Concat(
                nn.Sequential(conv(width, width, 3, 2, groups=width, act=None), conv(width, half, act=act)),
                nn.Sequential(
                    conv(width, half, act=act), conv(half, half, 3, 2, groups=half, act=None), conv(half, half, act=act)
                ),
            ),
            Shuffle(2),
        )
        stage.extend(
            _Split(
                nn.Sequential(
                    conv(half, half, act=act), conv(half, half, 3, groups=half, act=None), conv(half, half, act=act)
                )
            )
            for _ in range(repeats - 1)
        )
        stages.append(stage)
        width = outputs
    return stages


def v2(*widths: int, head: int) -> nn.Module:
    """ShuffleNet V2: Ma et al. 2018, arXiv:1807.11164, table 5."""
    return nn.Sequential(*v2_stages(widths), conv(widths[-1], head), classifier(head))


V1 = {"shufflenet_v1_g3": v1}
V2 = {
    "shufflenet_v2_0.5": partial(v2, 24, 48, 96, 192, head=1024),
    "shufflenet_v2_1.0": partial(v2, 24, 116, 232, 464, head=1024),
    "shufflenet_v2_1.5": partial(v2, 24, 176, 352, 704, head=1024),
    "shufflenet_v2_2.0": partial(v2, 24, 244, 488, 976, head=2048),
}
