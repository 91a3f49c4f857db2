"""Aligned Xception-41: Chollet 2017, arXiv:1610.02357, in the form of DeepLab V3+ (arXiv:1802.02611, figure 4)."""

from torch import nn

from .blocks import Residual, classifier, conv, separable


def xception41() -> nn.Module:
    """Entry, middle and exit flow; the stride sits in the last of a module's three separable convolutions."""

    def module(inputs: int, outputs: tuple[int, int, int], stride: int, *, skip: bool = True) -> nn.Module:
        layers, width = nn.Sequential(), inputs
        for i, made in enumerate(outputs):
            if skip:  # norm before, activation before: the sum is not activated
                layers.append(nn.ReLU())
            sep = separable(
                width, made, 3, stride if i == 2 else 1, act=None if skip else nn.ReLU, middle=None if skip else nn.ReLU
            )
            layers.append(sep)
            width = made
        if not skip:
            return layers
        shortcut = conv(inputs, width, 1, stride, act=None) if stride > 1 or inputs != width else None
        return Residual(layers, shortcut)

    return nn.Sequential(
        conv(3, 32, 3, 2),
        conv(32, 64, 3),
        module(64, (128,) * 3, 2),
        module(128, (256,) * 3, 2),
        module(256, (728,) * 3, 2),
        *(module(728, (728,) * 3, 1) for _ in range(8)),
        module(728, (728, 1024, 1024), 2),
        module(1024, (1536, 1536, 2048), 1, skip=False),
        classifier(2048),
    )


XCEPTION = {"xception41": xception41}
