"""Networks of the bench on the meta device, where no weight is ever drawn."""

import torch
from torch import Tensor, nn

from toolkit.bench.networks import build


def on_meta(model: str, input_shape: str) -> tuple[nn.Module, Tensor]:
    """The network and an image, both without data."""
    with torch.device("meta"):
        built = build(model, input_shape)
        assert built is not None
        return built[0], torch.empty(built[1])
