"""Sub-pixel super-resolution of the luminance: Shi et al. 2016, arXiv:1609.05158, as PyTorch's example has it."""

from torch import nn

from .blocks import Make


def espcn(upscale: int = 3) -> nn.Module:
    """Four convolutions; the last makes `upscale` squared pixels of each."""
    return nn.Sequential(
        nn.Conv2d(1, 64, 5, padding=2), nn.ReLU(),
        nn.Conv2d(64, 64, 3, padding=1), nn.ReLU(),
        nn.Conv2d(64, 32, 3, padding=1), nn.ReLU(),
        nn.Conv2d(32, upscale**2, 3, padding=1), nn.PixelShuffle(upscale),
    )  # fmt: skip


SUPER_RESOLUTION: dict[str, Make] = {"super_resolution": espcn}
