"""What tests of pruning share: programs of seeded modules, their weights compared, their work counted."""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import nn

from passes.context import Context
from passes.dataset import Array, Dataset
from passes.program import Level, Program
from passes.torch_level.capture import signature_of
from passes.torch_level.layer_work import layers_of
from passes.torch_level.prune_channels import PruneChannels
from targets.graph import read_workload
from targets.target import load_stack
from toolkit.models import digits

PI = load_stack("raspberry_pi_4/onnxruntime-fp32")


def seeded(make: Callable[[], nn.Module]) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return make().eval()


def program_of(module: nn.Module, **example: Array) -> Program:
    return Program(name="net", level=Level.TORCH, model=module.eval(), signature=signature_of(module, example, {}),
                   example=example, facts=frozenset({"module_clean"}))  # fmt: skip


def labelled() -> Dataset:
    (images, labels), _ = digits.split()
    return Dataset.of_arrays("digits", {"image": images}, labels)


def state_of(module: nn.Module) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in module.state_dict().items()}


def unchanged(module: nn.Module, before: dict[str, torch.Tensor]) -> bool:
    after = module.state_dict()
    return before.keys() == after.keys() and all(torch.equal(after[name], value) for name, value in before.items())


def macs(program: Program) -> int:
    """Of the exported ONNX graph."""
    return read_workload(PruneChannels().priced(program, Context(stack=PI)).static_model).macs


def widths(program: Program) -> Any:
    return layers_of(program.model, [torch.from_numpy(a) for a in program.example.values()])


def noise(*shape: int) -> Array:
    return np.random.default_rng(0).standard_normal(shape).astype(np.float32)
