"""Train the built-in example and write its weights: `python -m toolkit.training.digits [OUTPUT]`.

Cross entropy with label smoothing, AdamW, cosine decay, images shifted by up to one pixel; seed 0. Takes about a
minute on one core.
"""

from __future__ import annotations

import sys
from math import cos, pi
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from toolkit.models.digits import DigitsNet, split
from toolkit.rng import generator

__all__ = ["accuracy", "train"]

_EPOCHS, _BATCH, _RATE = 60, 64, 3e-3


def train(seed: int = 0) -> nn.Module:
    """A trained DigitsNet. Equal seeds give equal weights on equal versions and processors."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = DigitsNet()
    (images, labels), _ = split()
    x, y = torch.from_numpy(images), torch.from_numpy(labels)
    rng = generator(seed, "digits", "train")
    optimizer = torch.optim.AdamW(model.parameters(), lr=_RATE, weight_decay=1e-2)
    for epoch in range(_EPOCHS):
        for group in optimizer.param_groups:
            group["lr"] = _RATE * (1 + cos(pi * epoch / _EPOCHS)) / 2
        model.train()
        for batch in np.array_split(rng.permutation(len(x)), len(x) // _BATCH):
            loss = nn.functional.cross_entropy(model(_shifted(x[batch], rng)), y[batch], label_smoothing=0.05)
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
    return model.eval()


def _shifted(images: Tensor, rng: np.random.Generator) -> Tensor:
    padded = nn.functional.pad(images, (1, 1, 1, 1))
    corners = rng.integers(0, 3, (len(images), 2))
    return torch.stack([p[:, r : r + 8, c : c + 8] for p, (r, c) in zip(padded, corners, strict=True)])


def accuracy(model: nn.Module) -> float:
    """Share of the 360 test images that `model` classifies correctly."""
    _, (images, labels) = split()
    with torch.no_grad():
        return float((model(torch.from_numpy(images)).argmax(1).numpy() == labels).mean())


def main() -> None:
    from safetensors.torch import save_file

    default = Path(__file__).parents[1] / "models" / "weights" / "digits.safetensors"
    output = Path(sys.argv[1]) if len(sys.argv) > 1 else default
    model = train()
    output.parent.mkdir(parents=True, exist_ok=True)
    weights = {name: value.contiguous() for name, value in model.state_dict().items()}
    save_file(weights, output, {"made_by": "toolkit.training.digits", "seed": "0", "license": "Apache-2.0"})
    print(f"test accuracy {accuracy(model):.4f} on 360 images; {output.stat().st_size} bytes in {output}")


if __name__ == "__main__":
    main()
