"""Batch normalisation that goes by what was seen before, in training as well."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

__all__ = ["RunningNorm"]


class RunningNorm(nn.BatchNorm1d):
    """(B, C, T) to the same: normalised by the running mean and variance of earlier batches.

    `nn.BatchNorm1d` normalises a training batch by its own statistics, in which every step sees every other, later ones
    included. Here a batch only adds to the statistics, after it has been normalised; the first replaces what was there,
    and each of the first ten counts alike. In eval mode both are the same, and fold into the convolution before them.
    """

    def forward(self, x: Tensor) -> Tensor:
        """See the class."""
        if not self.training:
            return super().forward(x)
        assert self.running_mean is not None
        assert self.running_var is not None
        mean, variance = self.running_mean.clone(), self.running_var.clone()
        y = F.batch_norm(x, mean, variance, self.weight, self.bias, training=False, eps=self.eps)
        self._add(x.detach(), self.running_mean, self.running_var)
        return y

    def _add(self, x: Tensor, mean: Tensor, variance: Tensor) -> None:
        assert self.num_batches_tracked is not None
        assert self.momentum is not None
        self.num_batches_tracked.add_(1)
        share = torch.clamp(1 / self.num_batches_tracked, min=self.momentum)
        mean.lerp_(x.mean((0, 2)), share)
        variance.lerp_(x.var((0, 2), unbiased=x.shape[0] * x.shape[2] > 1), share)
