"""A classifier of sensor streams by causal convolutions of several scales, with attention between the scales.

Signals (B, L, channels), or one sample of each (B, channels), to logits (B, classes) of now, or (B, L // stride,
classes) of every step. For ECG and motion sensors: `step` takes `stride` new samples and a state, costs the same
however long the stream is, and answers what the whole recording up to there would have given.

An answer never sees a later sample. Convolutions look back alone; pooling is the mean of the last `window` steps, in
which what lies before the beginning counts as zero; normalisation goes by running statistics in training as well, those
of the batches before. A block filters each channel at each scale (kernel and dilation), weighs the scales at every step
by a softmax of what they found, mixes channels and adds what came in.

Sources: Bai, Kolter and Koltun 2018, arXiv:1803.01271 (dilated causal convolutions with residuals); Li et al. 2019,
arXiv:1903.06586 (attention between kernels; here over the scales of one step, not over the pooled picture).
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import reduce
from typing import Annotated, Literal, Protocol

import numpy as np
import torch
from pydantic import Field, model_validator
from torch import Tensor, nn
from torch.nn import functional as F

from passes.dataset import Array, Dataset
from targets.errors import InvalidInput
from toolkit.models.blueprints.config import BlueprintConfig
from toolkit.models.blueprints.running_norm import RunningNorm
from toolkit.models.seeded import he_weights, seeded
from toolkit.models.signals import BEAT_KINDS, Signals, heartbeats, motion

__all__ = [
    "Config", "SlidingConv", "Streaming", "build", "calibration", "example", "streaming",
    "streaming_calibration", "training", "validation",
]  # fmt: skip

_MOTION_CHANNELS = 6


class Config(BlueprintConfig):
    """A stem of some stride, blocks of several scales, running mean, classes."""

    signal: Literal["heartbeats", "motion"] = "heartbeats"
    """What is synthesised to calibrate and train with; motion has 6 channels."""
    channels: Annotated[int, Field(ge=1, le=64)] = 1
    """Channels of the sensor."""
    length: Annotated[int, Field(ge=1, le=65_536)] = 256
    """Samples of the example; the network takes any number from `stride` on."""
    classes: Annotated[int, Field(ge=2, le=1000)] = len(BEAT_KINDS)
    """Length of the answer."""
    width: Annotated[int, Field(ge=1, le=512)] = 32
    """Channels within."""
    blocks: Annotated[int, Field(ge=1, le=12)] = 2
    """Blocks of all scales."""
    kernels: Annotated[tuple[Annotated[int, Field(ge=1, le=63)], ...], Field(min_length=1, max_length=8)] = (3, 5, 9)
    """Steps that each scale looks at."""
    dilations: Annotated[tuple[Annotated[int, Field(ge=1, le=64)], ...], Field(min_length=1, max_length=8)] = (1, 2, 4)
    """Steps from one to the next of them."""
    stem_kernel: Annotated[int, Field(ge=1, le=63)] = 7
    """Samples that the stem looks at, no fewer than the stride."""
    stride: Annotated[int, Field(ge=1, le=16)] = 2
    """Samples in a step."""
    window: Annotated[int, Field(ge=1, le=1024)] = 32
    """Steps whose mean is classified."""
    answer: Literal["last", "each"] = "last"
    """Logits of the last step alone, or of every step."""

    @model_validator(mode="after")
    def _check(self) -> Config:
        for wrong, problem, hint in (
            (
                len(self.kernels) != len(self.dilations),
                f"{len(self.kernels)} kernels and {len(self.dilations)} dilations make no scales",
                "give one dilation for each kernel",
            ),
            (
                self.stem_kernel < self.stride,
                f"a stem of {self.stem_kernel} samples misses some of a stride of {self.stride}",
                "choose a stem_kernel from the stride on",
            ),
            (
                self.length < self.stride,
                f"{self.length} samples are less than one step of {self.stride}",
                "choose a longer length",
            ),
            (
                self.signal == "motion" and self.channels != _MOTION_CHANNELS,
                f"motion has {_MOTION_CHANNELS} channels, not {self.channels}",
                f"say channels={_MOTION_CHANNELS}",
            ),
        ):
            if wrong:
                raise InvalidInput(f"sliding_conv: {problem}", hint=hint)
        return self


# ---- what lies before the first step: zeros, or what a stream brought


class _Past(Protocol):
    def join(self, x: Tensor, width: int) -> Tensor:
        """`x` (B, C, T) behind the `width` steps before it."""


class _Zeros:
    def join(self, x: Tensor, width: int) -> Tensor:
        return F.pad(x, (width, 0)) if width else x


class _Carried:
    """Steps that each layer takes from a flat state (B, N), in the order of the layers, and those it leaves."""

    def __init__(self, state: Tensor) -> None:
        self._state, self._position = state, 0
        self._left: list[Tensor] = []

    def join(self, x: Tensor, width: int) -> Tensor:
        if width == 0:
            return x
        size = x.shape[1] * width
        past = self._state[:, self._position : self._position + size].reshape(-1, x.shape[1], width)
        self._position += size
        joined = torch.cat((past, x), 2)
        self._left.append(joined[:, :, -width:].flatten(1))
        return joined

    def next(self) -> Tensor:
        return torch.cat(self._left, 1) if self._left else self._state


class _Measured:
    """Zeros, and a count of what a stream has to carry."""

    def __init__(self) -> None:
        self.size = 0

    def join(self, x: Tensor, width: int) -> Tensor:
        self.size += x.shape[1] * width
        return F.pad(x, (width, 0))


# ---- layers


class _Filter(nn.Module):
    """(B, inputs, before + T) to (B, outputs, T // stride): a convolution that looks back, its norm, ReLU if wanted."""

    def __init__(self, inputs: int, outputs: int, kernel: int, *, stride: int = 1, dilation: int = 1, groups: int = 1,
                 relu: bool = True) -> None:  # fmt: skip
        super().__init__()
        self.before = (kernel - 1) * dilation + 1 - stride
        self.conv = nn.Conv1d(inputs, outputs, kernel, stride, dilation=dilation, groups=groups, bias=False)
        self.norm, self.relu = RunningNorm(outputs), relu

    def forward(self, joined: Tensor) -> Tensor:
        y: Tensor = self.norm(self.conv(joined))
        return y.relu() if self.relu else y


class _Scales(nn.Module):
    """(B, width, T) to the same: filters of several scales, weighed at every step, mixed and added."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        width = config.width
        scales = list(zip(config.kernels, config.dilations, strict=True))
        self.scales = nn.ModuleList(_Filter(width, width, k, dilation=d, groups=width) for k, d in scales)
        self.weigh = nn.Conv1d(width, len(scales), 1)
        self.mix = _Filter(width, width, 1, relu=False)
        self.looks = tuple((kernel - 1) * dilation for kernel, dilation in scales)

    def forward(self, x: Tensor, past: _Past) -> Tensor:
        before = max(self.looks)
        joined = past.join(x, before)
        found = [scale(joined[:, :, before - look :]) for scale, look in zip(self.scales, self.looks, strict=True)]
        weights = self.weigh(reduce(torch.add, found)).softmax(1).split(1, 1)  # (B, 1, T) of each scale
        fused = reduce(torch.add, map(torch.mul, found, weights))
        mixed: Tensor = self.mix(fused)
        return (x + mixed).relu()


class SlidingConv(nn.Module):
    """See the module's docstring."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.config = config
        self.stem = _Filter(config.channels, config.width, config.stem_kernel, stride=config.stride)
        self.blocks = nn.ModuleList(_Scales(config) for _ in range(config.blocks))
        self.classify = nn.Conv1d(config.width, config.classes, 1)

    def forward(self, signal: Tensor) -> Tensor:
        """Logits (B, classes), or (B, L // stride, classes), of a signal (B, L, channels) or (B, channels).

        Raises:
            InvalidInput: L is less than one step.
        """
        signal = signal if signal.ndim == 3 else signal[:, None]
        tracing = torch.jit.is_tracing()  # type: ignore[attr-defined, no-untyped-call]
        if not tracing and signal.shape[1] < self.config.stride:
            raise InvalidInput(
                f"{signal.shape[1]} samples are less than one step of {self.config.stride}",
                hint="give a longer signal",
            )
        each = self.config.answer == "each"
        logits = self._logits(signal, _Zeros(), each=each)
        return logits if each else logits[:, 0]

    def step(self, samples: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        """Logits (B, classes) of now and the next state, of `stride` new samples (B, stride, channels).

        With a stride of 1 the samples may be (B, channels). The state is (B, N); it begins as `initial_state`.
        """
        samples = samples if samples.ndim == 3 else samples[:, None]
        past = _Carried(state)
        logits = self._logits(samples, past)
        return logits[:, 0], past.next()

    def initial_state(self, batch: int = 1) -> Tensor:
        """The state (batch, N) before the first sample: zeros."""
        measured = _Measured()
        with torch.no_grad():
            weight = self.classify.weight
            self._logits(weight.new_zeros(1, self.config.stride, self.config.channels), measured)
        return self.classify.weight.new_zeros(batch, measured.size)

    def _logits(self, signal: Tensor, past: _Past, *, each: bool = False) -> Tensor:
        """(B, T, classes) of each step, or of the last one with T = 1."""
        x = self.stem(past.join(signal.transpose(1, 2), self.stem.before))
        for block in self.blocks:
            x = block(x, past)
        x, window = past.join(x, self.config.window - 1), self.config.window
        mean = F.avg_pool1d(x, window, 1) if each else x[:, :, -window:].mean(2, keepdim=True)
        logits: Tensor = self.classify(mean)
        return logits.transpose(1, 2)


class Streaming(nn.Module):
    """`step` as a network of its own, for devices: (samples, state) to (logits, next state)."""

    def __init__(self, model: SlidingConv) -> None:
        super().__init__()
        self.model = model

    def forward(self, samples: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        """See `SlidingConv.step`."""
        return self.model.step(samples, state)


# ---- what the registry asks for


def build(config: Config = Config()) -> SlidingConv:
    """The network in eval mode, with weights from `config.seed`."""
    with seeded(config.seed):
        return he_weights(SlidingConv(config)).eval()


def streaming(config: Config = Config()) -> tuple[nn.Module, Mapping[str, Array]]:
    """One step of the network and an example of its inputs: `toolkit compile` takes it as MODULE:streaming."""
    model = build(config)
    samples = np.zeros((1, config.stride, config.channels), np.float32)
    return Streaming(model).eval(), {"samples": samples, "state": model.initial_state().numpy()}


def streaming_calibration(config: Config = Config()) -> Dataset:
    """128 steps, four of each of 32 synthesised signals, with the states that the network came to by then."""
    model = build(config)
    stops = {int(stop) for stop in np.linspace(0, config.length // config.stride - 1, 4)}
    samples: dict[str, list[Array]] = {"samples": [], "state": []}
    with torch.no_grad():
        state, signals = model.initial_state(32), torch.from_numpy(_signals(config, 32, 1).values)
        for i in range(config.length // config.stride):
            hop = signals[:, i * config.stride : (i + 1) * config.stride]
            if i in stops:
                samples["samples"].append(hop.numpy())
                samples["state"].append(state.numpy())
            _, state = model.step(hop, state)
    return Dataset.of_arrays(
        f"steps of synthesised {config.signal}", {name: np.concatenate(parts) for name, parts in samples.items()}
    )


def example(config: Config = Config()) -> Mapping[str, Array]:
    """One signal of silence."""
    return {"signal": np.zeros((1, config.length, config.channels), np.float32)}


def calibration(config: Config = Config()) -> Dataset:
    """96 synthesised signals."""
    return _data(config, 96, 1, labelled=False)


def training(config: Config = Config()) -> Dataset:
    """600 synthesised signals with labels, where the classes are enough for them."""
    return _data(config, 600, 1)


def validation(config: Config = Config()) -> Dataset:
    """300 others."""
    return _data(config, 300, 2)


def _data(config: Config, count: int, seed: int, *, labelled: bool = True) -> Dataset:
    made = _signals(config, count, seed)
    name = f"synthesised {config.signal}, {'labelled' if labelled else 'unlabelled'}, seed {seed}"
    return Dataset.of_arrays(name, {"signal": made.values}, made.labels if labelled else None)


def _signals(config: Config, count: int, seed: int) -> Signals:
    if config.signal == "motion":
        return motion(count, config.length, seed=seed)
    return heartbeats(count, config.length, seed=seed, channels=config.channels)
