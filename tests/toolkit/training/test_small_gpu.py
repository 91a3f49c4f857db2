"""A GPU of 15 GB without bfloat16: both language models learn in float16, and what was said to fit fits.

Without a GPU the same training runs on the processor, smaller; what is about a GPU's memory is left out.
"""

from collections.abc import Iterator
from math import ceil
from typing import Any

import pytest
import torch
from torch import nn

from passes.dataset import Dataset
from toolkit.bench.resnet_bk.learning import next_character_loss
from toolkit.bench.training_cost.tasks import ALPHABET, characters
from toolkit.models import resnet_bk, transformer
from toolkit.models.resnet_bk.memory import training_memory
from toolkit.training import loop
from toolkit.training.precision import Precision
from toolkit.training.trainer import Settings, Trainer
from toolkit.training.watching import Epoch, Unwatched

GPU = torch.cuda.is_available()
BYTES = 15_000_000_000
wants_gpu = pytest.mark.skipif(not GPU, reason="no GPU that torch can use: its memory cannot be filled")

CONFIG = resnet_bk.Config(
    **({"width": 128, "blocks": 4, "heads": 32, "experts": 4, "hidden": 256, "context": 256} if GPU else
       {"width": 32, "heads": 4, "experts": 2, "hidden": 64, "context": 64}), vocabulary=len(ALPHABET),
)  # fmt: skip
WINDOWS, BATCH = (2000, 32) if GPU else (320, 16)


@pytest.fixture
def small_gpu(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Where torch trains: this GPU with 15 GB of its memory and as if it had no bfloat16, or else the processor."""
    if not GPU:
        monkeypatch.setattr(loop, "kind_for", lambda _device, asked: "float16" if asked == "bfloat16" else asked)
        yield "cpu"
        return
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation=True: False)
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    torch.cuda.set_per_process_memory_fraction(min(1.0, BYTES / torch.cuda.get_device_properties(0).total_memory))
    yield "cuda"
    torch.cuda.set_per_process_memory_fraction(1.0)


@pytest.fixture
def scales(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The scale of the loss behind each step; none where nothing is scaled."""
    found: list[float] = []
    plain = Precision.step

    def step(self: Precision, optimizer: torch.optim.Optimizer, norm: float) -> bool:
        went = plain(self, optimizer, norm)
        found.extend([self.state()["scale"]] if self.state() else [])
        return went

    monkeypatch.setattr(Precision, "step", step)
    return found


class Heard(Unwatched):
    """Keeps the loss of held-out windows, that of the untrained network first."""

    def __init__(self) -> None:
        self.judged: list[float] = []

    def epoch(self, epoch: Epoch, model: nn.Module) -> None:
        assert epoch.judged_loss is not None
        self.judged.append(epoch.judged_loss)


def descent(model: nn.Module, rate: float, _weight_decay: float) -> torch.optim.Optimizer:
    """Steps that are the gradient's: AdamW's first are its signs, also where it is noise."""
    return torch.optim.SGD(model.parameters(), rate)


def built(name: str, config: resnet_bk.Config) -> nn.Module:
    return resnet_bk.build(config) if name == "resnet_bk" else transformer.build(transformer.like(config))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["resnet_bk", "transformer"])
def test_it_learns_in_float16_and_the_scale_settles(name: str, small_gpu: str, scales: list[float]) -> None:
    task, heard = characters(0, CONFIG.context), Heard()
    data = Dataset.of_arrays("help topics", {"characters": task.x[:WINDOWS].numpy()}, task.y[:WINDOWS].numpy())
    settings = Settings(batch=BATCH, patience=0, device=small_gpu)  # type: ignore[arg-type]
    trainer = Trainer(data=data, settings=settings, watcher=heard)
    trainer(built(name, CONFIG), next_character_loss, step=name, epochs=2, rate=3e-3)
    steps = len(scales)
    assert steps == 2 * ceil((len(data) - int(0.1 * len(data))) / BATCH)
    assert heard.judged[-1] < 0.8 * heard.judged[0]
    left_out = [after < before for before, after in zip([2.0**16, *scales], scales, strict=False)]
    assert sum(left_out) <= 8, "each halves a scale of 65,536: below 256 gradients of a mean loss had passed 256"
    assert not any(left_out[steps // 2 :]), "a scale that was found holds"


@wants_gpu
@pytest.mark.slow
def test_the_batch_that_was_said_to_fit_fits(small_gpu: str) -> None:
    length, steps = 4096, 3
    config = resnet_bk.Config(
        width=256, blocks=4, heads=32, experts=8, hidden=512, context=length, vocabulary=len(ALPHABET)
    )
    batch = training_memory(config, half=True).batch_for(length, BYTES)
    made = torch.Generator().manual_seed(0)
    ids = torch.randint(len(ALPHABET), (steps * batch, length + 1), generator=made).numpy()
    data = Dataset.of_arrays("noise", {"characters": ids[:, :-1]}, ids[:, 1:])
    settings = Settings(batch=batch, held_out=0.0, device="cuda")
    model = built("resnet_bk", config)
    Trainer(data=data, settings=settings)(model, next_character_loss, step="full", epochs=1, rate=1e-4)
    peak = torch.cuda.max_memory_allocated()
    assert BYTES / 2 < peak <= BYTES


@wants_gpu
@pytest.mark.slow
def test_what_is_computed_again_is_not_held(small_gpu: str) -> None:
    """The gradient of a step with and without recomputation, and the memory that it took."""
    task = characters(0, CONFIG.context)
    data = Dataset.of_arrays("help topics", {"characters": task.x[:64].numpy()}, task.y[:64].numpy())
    weights: list[dict[str, Any]] = []
    peaks = []
    for recompute in (False, True):
        torch.cuda.reset_peak_memory_stats()
        settings = Settings(batch=64, held_out=0.0, amp="float32", device="cuda", recompute=recompute)
        fit = Trainer(data=data, settings=settings, optimizer=descent)
        trained = fit(built("transformer", CONFIG), next_character_loss, step="once", epochs=1, rate=0.1)
        weights.append(trained.state_dict())
        peaks.append(torch.cuda.max_memory_allocated())
    assert peaks[1] < 0.7 * peaks[0]
    for name, value in weights[0].items():
        torch.testing.assert_close(weights[1][name], value, rtol=1e-4, atol=1e-5)
