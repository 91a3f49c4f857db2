"""What a training step takes, before it is tried: counted on a small one, since all of it is linear in the tokens.

Weights, gradients and the optimizer's two moments are 16 bytes a parameter. What a step keeps for its gradient is
counted on the CPU with two short sequences; on top of that comes what the backward pass works with.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from targets.errors import InvalidInput
from toolkit.models.resnet_bk.config import Config
from toolkit.models.resnet_bk.model import ResNetBK
from toolkit.models.resnet_bk.objectives import hidden_ids, next_id
from toolkit.models.seeded import seeded

__all__ = ["TrainingMemory", "kept_bytes", "training_memory"]

_PARAMETER_BYTES = 16
_SHORT = (128, 256)
_WORKING = {False: 1.2, True: 1.5}
"""Of what is kept, in 16 bits or not: gradients that live for a moment, rows sorted by expert, pieces between them. An
H100 took 1.34 and 1.05 times what is kept, for four blocks of width 256."""


@dataclass(frozen=True)
class TrainingMemory:
    """Bytes of one training step: `fixed_bytes` whatever the batch, and `token_bytes` for each of its tokens."""

    fixed_bytes: int
    token_bytes: float

    def bytes_for(self, tokens: int) -> int:
        """Of a step with so many tokens in its batch."""
        return self.fixed_bytes + int(self.token_bytes * tokens)

    def batch_for(self, length: int, memory_bytes: int) -> int:
        """Sequences of `length` that fit.

        Raises:
            InvalidInput: not one does.
        """
        batch = int((memory_bytes - self.fixed_bytes) / (self.token_bytes * length))
        if batch < 1:
            raise InvalidInput(
                f"a sequence of {length} ids takes {self.bytes_for(length) / 1e9:.1f} GB to train on, and there are "
                f"{memory_bytes / 1e9:.1f} GB",
                hint="shorten it, lower width, hidden or blocks, or set storage = 'int8' or kept_share below 1",
            )
        return batch


def training_memory(config: Config, *, half: bool) -> TrainingMemory:
    """Of a step with AdamW.

    Args:
        half: Whether products are in 16 bits, whichever: float16 or bfloat16.
    """
    with seeded(config.seed):
        model = ResNetBK(config.model_copy(update={"context": max(config.context, *_SHORT)}))
    few, many = (kept_bytes(model, length, half=half) for length in _SHORT)
    parameters = sum(p.numel() for p in model.parameters())
    return TrainingMemory(_PARAMETER_BYTES * parameters, _WORKING[half] * (many - few) / (_SHORT[1] - _SHORT[0]))


def kept_bytes(model: ResNetBK, length: int, *, half: bool = False) -> int:
    """What autograd holds between the forward and the backward pass of one sequence, without weights; on the CPU."""
    weights = {t.untyped_storage().data_ptr() for t in (*model.parameters(), *model.buffers())}
    held: dict[int, Tensor] = {}

    def keep(tensor: Tensor) -> Tensor:
        held[tensor.untyped_storage().data_ptr()] = tensor
        return tensor

    ids = torch.arange(length)[None] % model.config.vocabulary
    hooks = torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor)
    with hooks, torch.autocast("cpu", torch.bfloat16, enabled=half):
        if model.config.mode == "causal":
            next_id(model, ids, ids)
        else:
            hidden_ids(model, ids, share=0.15, generator=torch.Generator().manual_seed(0))
    return sum(t.untyped_storage().nbytes() for address, t in held.items() if address not in weights)
