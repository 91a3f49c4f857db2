"""How far above their lower bounds the arenas of every exported graph lie."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass

from targets.buffers import POINTWISE
from targets.graph import read_workload
from targets.memory_plan import plan_memory
from toolkit.bench.memory.plans import FUSES
from toolkit.cache import cache_folder

__all__ = ["Gap", "zoo_gaps"]


@dataclass(frozen=True, kw_only=True)
class Gap:
    """A graph's arena above its lower bound, as a share, the time the plan took, and the heuristic that found it."""

    graph: str
    operators: int
    gap: float
    plan_s: float
    heuristic: str


def zoo_gaps() -> Iterator[Gap]:
    """Every exported graph that the cache holds, grouped as onnxruntime and as TensorRT fuse, in place and not."""
    import onnx_ir as ir

    for path in sorted((cache_folder() / "graphs").glob("*.onnx")):
        graph = ir.load(path)
        for fuses in (("batch_norm", "activation"), FUSES):
            work = read_workload(graph, fuses=fuses)
            for in_place in (POINTWISE, frozenset[str]()):
                started = time.perf_counter()
                plan = plan_memory(work, in_place=in_place)
                yield Gap(
                    graph=path.stem,
                    operators=len(work.operators),
                    gap=plan.gap,
                    plan_s=time.perf_counter() - started,
                    heuristic=plan.heuristic,
                )
