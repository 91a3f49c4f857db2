"""GRU and LSTM written out step by step, for targets that have no recurrent operator.

The same parameters and answers as `nn.GRU` and `nn.LSTM` of one layer, of which only the last state is given. Exported,
they are products and activations of a fixed number of steps: an unrolled layer quantizes step by step, where a
recurrent operator of ONNX computes in floats between integers.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

__all__ = ["WrittenGRU", "WrittenLSTM"]


class WrittenGRU(nn.GRU):
    """(B, T, inputs) to the last state (B, hidden), from a state of zeros. Source: Cho et al. 2014, arXiv:1406.1078."""

    weight_ih_l0: Tensor
    weight_hh_l0: Tensor
    bias_ih_l0: Tensor
    bias_hh_l0: Tensor

    def __init__(self, inputs: int, hidden: int) -> None:
        super().__init__(inputs, hidden, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:  # type: ignore[override]
        """See the class."""
        first, *others = F.linear(x, self.weight_ih_l0, self.bias_ih_l0).unbind(1)
        keep, candidate = _gates(first, self.bias_hh_l0)
        h = candidate - keep * candidate
        for given in others:
            keep, candidate = _gates(given, F.linear(h, self.weight_hh_l0, self.bias_hh_l0))
            h = candidate + keep * (h - candidate)
        return h


def _gates(given: Tensor, own: Tensor) -> tuple[Tensor, Tensor]:
    """How much of the state is kept, and what comes in its place."""
    (reset, update, new), (own_reset, own_update, own_new) = given.chunk(3, -1), own.chunk(3, -1)
    return torch.sigmoid(update + own_update), torch.tanh(new + torch.sigmoid(reset + own_reset) * own_new)


class WrittenLSTM(nn.LSTM):
    """(B, T, inputs) to the last state (B, hidden), from states of zeros. Source: Hochreiter and Schmidhuber 1997."""

    weight_ih_l0: Tensor
    weight_hh_l0: Tensor
    bias_ih_l0: Tensor
    bias_hh_l0: Tensor

    def __init__(self, inputs: int, hidden: int) -> None:
        super().__init__(inputs, hidden, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:  # type: ignore[override]
        """See the class."""
        first, *others = F.linear(x, self.weight_ih_l0, self.bias_ih_l0).unbind(1)
        enter, _, value, leave = (first + self.bias_hh_l0).chunk(4, 1)
        cell = torch.sigmoid(enter) * torch.tanh(value)
        h = torch.sigmoid(leave) * torch.tanh(cell)
        for given in others:
            gates = given + F.linear(h, self.weight_hh_l0, self.bias_hh_l0)
            enter, forget, value, leave = gates.chunk(4, 1)
            cell = torch.sigmoid(forget) * cell + torch.sigmoid(enter) * torch.tanh(value)
            h = torch.sigmoid(leave) * torch.tanh(cell)
        return h
