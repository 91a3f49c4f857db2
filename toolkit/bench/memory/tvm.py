"""What TVM plans for the activations of an ONNX file: the function before its plan, and the storages after it."""

from __future__ import annotations

import re
from math import prod
from pathlib import Path
from typing import Any

from targets.arena import Buffer

__all__ = ["planned_by_tvm"]


def planned_by_tvm(path: Path) -> tuple[list[Buffer], list[int]]:
    """The intermediate tensors of TVM's fused function with their lifetimes, and the bytes of its storages.

    A tensor that is the function's result has no storage in the plan, and is no buffer here.
    """
    import onnx
    import tvm
    from tvm.relax import transform
    from tvm.relax.frontend.onnx import from_onnx

    steps = [
        transform.DecomposeOpsForInference(),
        transform.CanonicalizeBindings(),
        transform.FoldConstant(),
        transform.LegalizeOps(),
        transform.FoldConstant(),
        transform.AnnotateTIROpPattern(),
        transform.FuseOps(),
        transform.FuseTIR(),
        transform.DeadCodeElimination(),
        transform.ToNonDataflow(),
        transform.RemovePurityChecking(),
        transform.CallTIRRewrite(),
    ]
    with tvm.target.Target("llvm"):
        lowered = tvm.transform.Sequential(steps)(from_onnx(onnx.load(path)))
        planned = transform.StaticPlanBlockMemory()(lowered)
    return _buffers(lowered["main"]), _storage_bytes(planned["main"])


def _storage_bytes(function: Any) -> list[int]:
    calls = [value for _, value in _bindings(function) if _operator(value) == "relax.memory.alloc_storage"]
    return [int(call.args[0].values[0]) for call in calls]


def _buffers(function: Any) -> list[Buffer]:
    """A buffer for each tensor that is allocated, from the first call that is given it to the last."""
    from tvm import relax

    root: dict[Any, Any] = {}
    sizes: dict[Any, int] = {}
    spans: dict[Any, tuple[int, int]] = {}
    results: set[Any] = set()
    step = -1
    for variable, value in _bindings(function):
        if isinstance(value, relax.Var):
            root[variable] = root.get(value, value)
        elif isinstance(value, relax.Tuple):  # what the function returns
            results |= {root.get(field, field) for field in value.fields}
        elif _operator(value) == "relax.builtin.alloc_tensor":
            root[variable] = variable
            sizes[variable] = prod(int(d) for d in value.args[0].values) * _item_bytes(str(value.args[1].value))
        elif isinstance(value, relax.Call):
            step += 1
            for given in {root[a] for a in value.args if isinstance(a, relax.Var) and a in root}:
                spans[given] = (spans.get(given, (step, step))[0], step)
    results.add(root.get(function.body.body, function.body.body))
    return [Buffer(str(v), size, *spans[v]) for v, size in sizes.items() if v in spans and v not in results]


def _bindings(function: Any) -> list[tuple[Any, Any]]:
    return [(binding.var, binding.value) for block in function.body.blocks for binding in block.bindings]


def _operator(value: Any) -> str:
    return str(getattr(getattr(value, "op", None), "name", ""))


def _item_bytes(dtype: str) -> int:
    bits = re.search(r"\d+", dtype)
    return int(bits[0]) // 8 if bits else 1
