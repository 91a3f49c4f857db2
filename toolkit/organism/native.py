"""A whole model made of organisms: tokens in, answers out; trained, saved, opened again, frozen for a device."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from toolkit.models.norm import Norm
from toolkit.models.seeded import seeded
from toolkit.models.token_ids import check_ids
from toolkit.organism.errors import ShapeError
from toolkit.organism.freezing import freeze
from toolkit.organism.organism import Organism
from toolkit.organism.settings import SlimeConfig
from toolkit.organism.torch_compat import Lifecycle, SlimeMoldEncoder, organisms_of

__all__ = ["SlimeModel"]

Report = TypeVar("Report")


class SlimeModel(nn.Module):
    """Embedding, places, an encoder of organisms, norm, linear.

    Args:
        config: Its sizes.
    """

    def __init__(self, config: SlimeConfig) -> None:
        super().__init__()
        self.config = config
        limits = Lifecycle(max_size=config.max_components, min_size=config.min_components,
                           budget_bytes=config.budget_bytes, grace_steps=config.grace_steps)  # fmt: skip
        with seeded(config.seed):
            width = config.d_model
            self.embed = nn.Embedding(config.inputs, width) if config.ids else nn.Linear(config.inputs, width)
            self.place = nn.Parameter(torch.randn(config.length, width) * 0.02)
            self.norm, self.answer = Norm(width), nn.Linear(width, config.outputs)
        self.encoder = SlimeMoldEncoder(
            width, config.founders, config.layers, config.hidden, config.dropout, "gelu", batch_first=True,
            norm_first=True, lifecycle=limits, head_dim=config.head_dim, rank=config.rank, seed=config.seed,
        )  # fmt: skip

    def forward(self, x: Tensor) -> Tensor:
        """(B, L, outputs) where each token answers, else (B, outputs).

        Args:
            x: (B, L) int64 ids, or (B, L, inputs) features; L at most `length`.

        Raises:
            ShapeError: features of another shape.
            InvalidInput: ids that the model cannot read.
        """
        if self.config.ids:
            check_ids(x, self.config.inputs, self.config.length)
        elif x.ndim != 3 or x.shape[2] != self.config.inputs or x.shape[1] > self.config.length:
            raise ShapeError(
                f"features are (B, L <= {self.config.length}, {self.config.inputs}), got {tuple(x.shape)}",
                hint="put the batch first, and cut longer sequences",
            )
        h = self.embed(x) + self.place[: x.shape[1]]
        h = self.norm(self.encoder(h, is_causal=self.config.causal))
        if self.config.asked != "each":
            h = h[:, -1] if self.config.asked == "last" else h.mean(1)
        answers: Tensor = self.answer(h)
        return answers

    @property
    def organisms(self) -> dict[str, Organism]:
        """Of each layer, by its name in the model."""
        return organisms_of(self)

    def fit(self, trainer: Callable[[SlimeModel], Report]) -> Report:
        """Have `trainer` train it, births and deaths included; what it reports.

        The loop, its checkpoints and its data are the trainer's: see toolkit.training.organism.
        """
        self.train()
        try:
            return trainer(self)
        finally:
            self.eval()

    @torch.no_grad()
    def predict(self, x: NDArray[Any]) -> NDArray[np.float32]:
        """Answers to an array of ids or features, as `forward` gives them in eval mode."""
        was_training = self.training
        self.eval()
        try:
            given = torch.from_numpy(np.ascontiguousarray(x))
            given = given.to(self.place.device) if self.config.ids else given.to(self.place)
            found: NDArray[np.float32] = self(given).float().cpu().numpy()
        finally:
            self.train(was_training)
        return found

    def freeze(self, prune_below: float = 0.0) -> nn.Module:
        """A static copy for a device; see `freezing.freeze`."""
        return freeze(self, prune_below=prune_below)

    def save(
        self, folder: Path | str, *, examples: Mapping[str, NDArray[Any]] | None = None, force: bool = False,
        write_archive: Callable[[Path], Any] | None = None,
    ) -> Path:  # fmt: skip
        """Write a folder that `toolkit compile` and `load` read; see `folder.write_folder`."""
        from toolkit.organism.folder import write_folder

        return write_folder(self, Path(folder), examples=examples, force=force, write_archive=write_archive)

    @classmethod
    def load(cls, folder: Path | str) -> SlimeModel:
        """The model in a folder, in eval mode; see `folder.read_folder`."""
        from toolkit.organism.folder import read_folder

        return read_folder(Path(folder)).model
