"""The network: embeddings of ids and places, blocks, norm, linear."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from toolkit.models.norm import Norm
from toolkit.models.resnet_bk.block import Block
from toolkit.models.resnet_bk.config import Config
from toolkit.models.resnet_bk.pondering import Pondering
from toolkit.models.token_ids import check_ids

__all__ = ["Answer", "ResNetBK"]


class Answer(NamedTuple):
    """Logits (B, N, vocabulary), and scalars of this forward that the loss is made of.

    `balance` is the mean over blocks of how uneven their experts are used, 1 at best; `ponder` the mean ponder cost of
    a token, 0 where the model does not ponder; `density` the share of positions that are sites.
    """

    logits: Tensor
    balance: Tensor
    ponder: Tensor
    density: Tensor


class ResNetBK(nn.Module):
    """A language model whose tokens meet in the resolvent of a chain, in time and memory linear in their number."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.config = config
        hidden_one = config.mode == "both_sides"
        self.embed = nn.Embedding(config.vocabulary + hidden_one, config.width)
        self.place = nn.Embedding(config.context, config.width) if config.positions == "learned" else None
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.blocks))
        self.pondering = Pondering(config.width, config.ponder_steps) if config.ponder_steps else None
        self.norm = Norm(config.width)
        self.classify = nn.Linear(config.width, config.vocabulary)
        if self.place is not None:
            nn.init.normal_(self.place.weight, std=0.02)

    def forward(self, characters: Tensor) -> Tensor:
        """Logits (B, N, vocabulary) of ids (B, N) int64: causal, of the id behind each from those up to it; with both
        sides, of the id at each place from all that are not hidden.

        Raises:
            InvalidInput: as `answer` does.
        """
        return self.answer(characters).logits

    def answer(self, characters: Tensor) -> Answer:
        """`forward`, and what its loss is made of.

        Raises:
            InvalidInput: as `token_ids.check_ids` does.
        """
        check_ids(characters, self.embed.num_embeddings, None if self.place is None else self.config.context)
        x = self.embed(characters)
        if self.place is not None:
            x = x + self.place.weight[: characters.shape[1]]
        balances: list[Tensor] = []
        densities: list[Tensor] = []

        def step(state: Tensor) -> Tensor:
            for block in self.blocks:
                state, balance, density = block(state)
                balances.append(balance)
                densities.append(density)
            return state

        if self.pondering is None:
            x, ponder = step(x), x.new_zeros(())
        else:
            pondered = self.pondering(x, step)
            x, ponder = pondered.out, pondered.cost.mean()
        logits = self.classify(self.norm(x))
        return Answer(logits, torch.stack(balances).mean(), ponder, torch.stack(densities).mean())
