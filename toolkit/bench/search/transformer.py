"""The small transformer of the comparison: `vision_transformer` on digits of 16 x 16 pixels, trained once.

Its weights come with the toolkit in half precision; `python -m toolkit.bench.search.transformer` makes them anew, in a
minute or two, from seed 0 on the training split of `toolkit.models.digits`.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.nn.functional import cross_entropy

from toolkit.bench.trained import Task
from toolkit.models.blueprints import vision_transformer
from toolkit.rng import generator
from toolkit.sources import load_source

__all__ = ["CONFIG", "WEIGHTS", "build", "task", "train"]

CONFIG = vision_transformer.Config(image_size=16, patch=4, width=48, depth=3, heads=4, expansion=4)
WEIGHTS = Path(__file__).parent / "rows" / "transformer.safetensors"
_EPOCHS, _BATCH, _RATE, _DECAY = 60, 32, 2e-3, 0.05


def build() -> nn.Module:
    """The network with its shipped weights, in eval mode."""
    from safetensors.torch import load_file

    model = vision_transformer.build(CONFIG)
    model.load_state_dict({name: tensor.float() for name, tensor in load_file(WEIGHTS).items()})
    return model


def task() -> Task:
    """Calibrated on digits of the training split, asked about those that it has never seen."""
    example = torch.zeros(1, CONFIG.channels, CONFIG.image_size, CONFIG.image_size)
    program = load_source((build(), (example,))).program
    return Task("transformer", program, vision_transformer.calibration(CONFIG), vision_transformer.validation(CONFIG))


def train() -> nn.Module:
    """From seed 0, by AdamW at a falling rate; digits are shifted by a pixel of the original at most."""
    data = vision_transformer.training(CONFIG)
    images = torch.from_numpy(np.concatenate([sample["image"] for sample in data]))
    assert data.labels is not None
    labels = torch.from_numpy(np.asarray(data.labels, np.int64))
    model = vision_transformer.build(CONFIG).train()
    steps = _EPOCHS * (len(images) // _BATCH)
    optimiser = torch.optim.AdamW(model.parameters(), lr=_RATE, weight_decay=_DECAY)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, _RATE, steps)
    rng = generator(0, "search bench", "transformer")
    for _ in range(_EPOCHS):
        order = rng.permutation(len(images))
        for at in range(0, len(images) - _BATCH + 1, _BATCH):
            rows = torch.from_numpy(order[at : at + _BATCH])
            shift = tuple(int(n) for n in rng.integers(-2, 3, 2))
            loss = cross_entropy(model(torch.roll(images[rows], shift, (2, 3))), labels[rows])
            optimiser.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimiser.step()
            schedule.step()
    return model.eval()


def main() -> None:
    """Train, and keep the weights."""
    from safetensors.torch import save_file

    model = train()
    save_file({name: tensor.half().contiguous() for name, tensor in model.state_dict().items()}, WEIGHTS)
    data = vision_transformer.validation(CONFIG)
    images = torch.from_numpy(np.concatenate([sample["image"] for sample in data]))
    with torch.no_grad():
        right = build()(images).argmax(1).numpy() == np.asarray(data.labels)
    print(f"{right.mean():.4f} of {len(right)} digits right")


if __name__ == "__main__":
    main()
