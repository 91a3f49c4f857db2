"""TVM's static plan of a network, its rule on our reading of the graph, and the arena that we plan instead."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path

from targets.arena import pack
from targets.buffers import buffers_of
from targets.graph import read_workload
from targets.storages import storages
from toolkit.bench.memory.networks import optimized, saved

__all__ = ["FUSES", "Planned", "planned"]

FUSES = ("batch_norm", "activation", "residual_add")
"""What TVM fuses, and TensorRT."""


@dataclass(frozen=True, kw_only=True)
class Planned:
    """Bytes of activations between operators: TVM's storages, its rule on our reading of the graph, and our arenas."""

    network: str
    tvm_bytes: int
    same_rule_bytes: int
    same_rule_from_onnx_bytes: int
    arena_bytes: int
    arena_from_onnx_bytes: int


def planned(network: str, shape: str) -> Planned:
    """TVM's static plan of a network, our simulation of it, and the arena with offsets that we plan instead.

    Both rules see the same tensors: those of the function that TVM has fused, and those of the ONNX graph as we group
    it for a runtime that fuses residual additions. Results of the network lie in neither plan, nothing is overwritten.
    """
    import onnx_ir as ir

    from toolkit.bench.memory.tvm import planned_by_tvm

    with tempfile.TemporaryDirectory() as folder:
        path = saved(network, shape, Path(folder))
        work = read_workload(ir.load(path), fuses=FUSES)
        fused, storage_bytes = planned_by_tvm(optimized(path))
    own, _ = buffers_of(work, in_place=(), outside={*work.inputs, *work.outputs})
    return Planned(
        network=network,
        tvm_bytes=sum(storage_bytes),
        same_rule_bytes=sum(storages(fused)),
        same_rule_from_onnx_bytes=sum(storages(own)),
        arena_bytes=pack(fused).arena_bytes,
        arena_from_onnx_bytes=pack(own).arena_bytes,
    )
