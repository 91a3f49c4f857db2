"""Several modalities, any of which may be missing, read by a few latent vectors through cross-attention.

Each modality has its own number of tokens and features and its own linear layer into a common width, where a learned
vector says which it is. Latent queries attend, within each sample, to the tokens of all modalities that are there, and
to one learned token that always is. What stands in a missing modality, NaN included, changes nothing: its tokens are
replaced by zeros and have weight exactly 0, so that the answers are those of the network without it.

Shapes: for modality m (B, tokens[m], features[m]), or (B, features[m]) for one token; `present` (B, M) with 1 where a
sample has the modality. To logits (B, 4). For: devices whose sensors fail, or are switched on by turns.

Sources: Jaegle et al. 2021, arXiv:2103.03206 (latent queries); Vaswani et al. 2017, arXiv:1706.03762 (attention).
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Self

import numpy as np
import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from passes.dataset import Array, Dataset
from targets.errors import InvalidInput
from toolkit.models.blueprints.config import BlueprintConfig
from toolkit.models.blueprints.masked_softmax import masked_softmax
from toolkit.models.blueprints.sizes import length_of, tracing
from toolkit.models.blueprints.written_norm import WrittenNorm
from toolkit.models.seeded import seeded
from toolkit.models.signals import MOTION_KINDS, motion

__all__ = [
    "Config", "CrossModalAdapter", "CrossModalClassifier", "build", "calibration", "example", "training", "validation",
]  # fmt: skip

_PRESENT = "present"
_UNITS = np.array([9.81] * 3 + [1.0] * 3, np.float32)
_CALIBRATION, _TRAINING, _VALIDATION = 64, 512, 256
_EVERY = 4
"""One sample in so many lacks a modality, each in turn."""

_Name = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]*$", max_length=40)]
_Size = Annotated[int, Field(ge=1, le=4096)]


class Config(BlueprintConfig):
    """The modalities, and the latent vectors that read them. Three lists of one length describe the modalities."""

    modalities: Annotated[tuple[_Name, ...], Field(min_length=1, max_length=16)] = (
        "acceleration",
        "turning",
        "summary",
    )
    """Names; the network's inputs are called so."""
    tokens: Annotated[tuple[_Size, ...], Field(min_length=1, max_length=16)] = (32, 16, 1)
    """Tokens of each."""
    features: Annotated[tuple[_Size, ...], Field(min_length=1, max_length=16)] = (3, 3, 6)
    """Features of a token of each."""
    width: Annotated[int, Field(ge=4, le=1024, multiple_of=4)] = 32
    """Features of a latent vector."""
    latents: Annotated[int, Field(ge=1, le=256)] = 8
    """Latent vectors."""
    heads: Annotated[int, Field(ge=1, le=64)] = 4
    """Of attention; they divide `width`."""

    @model_validator(mode="after")
    def _agrees(self) -> Self:
        if not len(self.modalities) == len(self.tokens) == len(self.features):
            raise InvalidInput(
                f"cross_modal_adapter: {len(self.modalities)} modalities, {len(self.tokens)} numbers of tokens and "
                f"{len(self.features)} numbers of features",
                hint="give one of each for every modality",
            )
        if len({*self.modalities, _PRESENT}) <= len(self.modalities):
            raise InvalidInput(
                f"cross_modal_adapter: modalities are {', '.join(self.modalities)}",
                hint=f"every name may occur once, and {_PRESENT!r} says which are there",
            )
        if self.width % self.heads:
            raise InvalidInput(
                f"cross_modal_adapter: {self.heads} heads do not divide a width of {self.width}",
                hint="choose a width that is a multiple of heads",
            )
        return self


# Legend: B samples, H heads, Q latents, T tokens of all modalities and one more, C features of a head, W width


class CrossModalAdapter(nn.Module):
    """Latent vectors that have read the modalities."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.config = config
        self.embed = nn.ModuleList(nn.Linear(features, config.width) for features in config.features)
        self.kinds = nn.Parameter(torch.randn(len(config.features), config.width) * 0.02)
        self.always = nn.Parameter(torch.randn(1, 1, config.width) * 0.02)
        self.latents = nn.Parameter(torch.randn(1, config.latents, config.width))
        self.token_norm, self.latent_norm = WrittenNorm(config.width), WrittenNorm(config.width)
        self.query = nn.Linear(config.width, config.width)
        self.key_value = nn.Linear(config.width, 2 * config.width)
        self.out = nn.Linear(config.width, config.width)
        self.norm = WrittenNorm(config.width)
        self.think = nn.Sequential(
            nn.Linear(config.width, 2 * config.width), nn.ReLU(), nn.Linear(2 * config.width, config.width)
        )

    def forward(self, inputs: Sequence[Tensor | None], present: Tensor | None = None) -> Tensor:
        """Latents (B, Q, W).

        Args:
            inputs: One tensor for each modality, or None for one that no sample has; one at least is a tensor.
            present: (B, M), 1 where a sample has the modality and 0 where not; None: all that are given.

        Raises:
            InvalidInput: another number of inputs, another shape, or nothing at all.
        """
        given = self._checked(inputs)
        tokens, keep = [], []
        for position, x in given:
            there = torch.ones_like(x[:, 0, 0]) if present is None else present[:, position]
            real = torch.where(there.reshape(-1, 1, 1) > 0.5, x, torch.zeros_like(x))
            tokens.append(self.embed[position](real) + self.kinds[position])
            keep.append(there.reshape(-1, 1).expand(-1, length_of(x)))
        always = self.always.expand(tokens[0].shape[0], -1, -1)
        everything = torch.cat([*tokens, always.to(tokens[0].dtype)], dim=1)
        counted = torch.cat([*keep, torch.ones_like(keep[0][:, :1])], dim=1)
        latents = self.latents.expand(tokens[0].shape[0], -1, -1)
        latents = latents + self._read(latents, everything, counted)
        result: Tensor = latents + self.think(self.norm(latents))
        return result

    def _checked(self, inputs: Sequence[Tensor | None]) -> list[tuple[int, Tensor]]:
        names, features = self.config.modalities, self.config.features
        if len(inputs) != len(names):
            raise InvalidInput(
                f"{len(inputs)} inputs for {len(names)} modalities: {', '.join(names)}",
                hint="give None for one that is missing",
            )
        given = [(i, x.unsqueeze(1) if x.ndim == 2 else x) for i, x in enumerate(inputs) if x is not None]
        if not given:
            raise InvalidInput("no modality is there at all", hint="give one at least")
        for i, x in given:
            if not tracing() and (x.ndim != 3 or x.shape[-1] != features[i]):
                raise InvalidInput(
                    f"{names[i]} is (batch, tokens, {features[i]}), this one is {tuple(x.shape)}",
                    hint="features are the last axis, the batch is the first",
                )
        return given

    def _read(self, latents: Tensor, tokens: Tensor, keep_BT: Tensor) -> Tensor:
        q_BHQC = self._heads(self.query(self.latent_norm(latents)))
        key, value = self.key_value(self.token_norm(tokens)).chunk(2, dim=-1)
        k_BHTC, v_BHTC = self._heads(key), self._heads(value)
        scores = q_BHQC @ k_BHTC.transpose(2, 3) * k_BHTC.shape[-1] ** -0.5
        weights = masked_softmax(scores, keep_BT.unsqueeze(1).unsqueeze(1))
        read = (weights @ v_BHTC).transpose(1, 2)
        result: Tensor = self.out(read.reshape(-1, length_of(latents), self.config.width))
        return result

    def _heads(self, x: Tensor) -> Tensor:
        """(B, n, W) to (B, H, n, C)."""
        heads = self.config.heads
        return x.reshape(-1, length_of(x), heads, self.config.width // heads).transpose(1, 2)


class CrossModalClassifier(nn.Module):
    """The adapter, mean over latents, linear; its inputs have the names of the modalities, then `present`.

    `forward` takes them in this order, or by name. Made by `classifier`, which writes the names into its signature:
    exporters call the inputs of the graph so.
    """

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.adapter = CrossModalAdapter(config)
        self.classify = nn.Linear(config.width, len(MOTION_KINDS))

    def forward(self, *inputs: Tensor, **named: Tensor) -> Tensor:
        """Logits (B, 4)."""
        names = (*self.adapter.config.modalities, _PRESENT)
        *values, present = _in_order(names, inputs, named)
        logits: Tensor = self.classify(self.adapter(values, present).mean(1))
        return logits


def _in_order(names: Sequence[str], inputs: Sequence[Tensor], named: Mapping[str, Tensor]) -> list[Tensor]:
    taken = dict(zip(names, inputs, strict=False)) | dict(named)
    if len(inputs) + len(named) != len(names) or set(taken) != set(names):
        raise InvalidInput(
            f"{len(inputs)} inputs without a name and {', '.join(named) or 'none'} with one are not {', '.join(names)}",
            hint="give each once",
        )
    return [taken[name] for name in names]


def classifier(config: Config) -> CrossModalClassifier:
    """A CrossModalClassifier whose `forward` has the signature (self, <modality>, ..., present)."""

    def forward(self: CrossModalClassifier, *inputs: Tensor, **named: Tensor) -> Tensor:
        """Logits (B, 4)."""
        return CrossModalClassifier.forward(self, *inputs, **named)

    names = ("self", *config.modalities, _PRESENT)
    stated: Any = forward
    stated.__signature__ = inspect.Signature(
        [inspect.Parameter(name, inspect.Parameter.POSITIONAL_OR_KEYWORD) for name in names]
    )
    kind = type("CrossModalClassifier", (CrossModalClassifier,), {"forward": forward})
    made: CrossModalClassifier = kind(config)
    return made


def build(config: Config = Config()) -> nn.Module:
    """The classifier of motion from its modalities."""
    with seeded(config.seed):
        return classifier(config).eval()


# ---- data


def example(config: Config = Config()) -> Mapping[str, Array]:
    """One sample in which every modality is there."""
    arrays, _ = _samples(config, 1, seed=0)
    return {**arrays, _PRESENT: np.ones((1, len(config.modalities)), np.float32)}


def calibration(config: Config = Config()) -> Dataset:
    """64 of the samples to train on; one in four lacks a modality."""
    return training(config).take(_CALIBRATION)


def training(config: Config = Config()) -> Dataset:
    """512 labelled samples; one in four lacks a modality."""
    return _dataset(config, "synthesised motion by modality", _TRAINING, seed=0)


def validation(config: Config = Config()) -> Dataset:
    """256 labelled samples of another seed; one in four lacks a modality."""
    return _dataset(config, "synthesised motion by modality, held out", _VALIDATION, seed=1)


def _dataset(config: Config, name: str, count: int, *, seed: int) -> Dataset:
    arrays, labels = _samples(config, count, seed=seed)
    present = np.ones((count, len(config.modalities)), np.float32)
    if len(config.modalities) > 1:
        lacking = np.arange(0, count, _EVERY)
        present[lacking, (lacking // _EVERY) % len(config.modalities)] = 0.0
    return Dataset.of_arrays(name, {**arrays, _PRESENT: present}, labels)


def _samples(config: Config, count: int, *, seed: int) -> tuple[dict[str, Array], Array]:
    """The same motion in every modality: tokens are means of equal times, features go round the six axes.

    The first modality begins with the first axis, and each next one where the one before it ended.
    """
    longest = max(config.tokens)
    made = motion(count, 4 * longest, seed=seed)
    values = made.values / _UNITS
    arrays, first = {}, 0
    for name, tokens, features in zip(config.modalities, config.tokens, config.features, strict=True):
        parts = np.array_split(values, tokens, axis=1)
        means = np.stack([part.mean(1) for part in parts], axis=1)
        arrays[name] = np.ascontiguousarray(means[:, :, (first + np.arange(features)) % means.shape[2]])
        first += features
    return arrays, made.labels
