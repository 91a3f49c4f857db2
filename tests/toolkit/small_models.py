"""Small models that a user might bring: a classifier of pictures, one with a branch, one in an ONNX file."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import torch
from onnx import TensorProto, helper
from torch import nn


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 4, 3)
        self.norm = nn.BatchNorm2d(4)
        self.head = nn.Linear(4, 3)

    def forward(self, picture: torch.Tensor) -> torch.Tensor:
        return self.head(torch.relu(self.norm(self.conv(picture))).mean((2, 3)))


def seeded_net() -> Net:
    """The same weights each time."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return Net().eval()


class Branches(nn.Module):
    def __init__(self, factor: float) -> None:
        super().__init__()
        self.factor = factor

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.cond(x.sum() > 0, lambda t: t * self.factor, lambda t: t - 1, (x,))


def small_onnx(path: Path, **save: object) -> None:
    weight = onnx.numpy_helper.from_array(np.eye(300, dtype=np.float32), "w")
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["y"])],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 300])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", 300])],
        [weight],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    onnx.save(model, path, **save)
