"""What onnxruntime takes on this machine beside arithmetic: for an inference, and for every operator.

    python -m toolkit.bench.dispatch

Chains of convolutions so small that they are nothing but dispatch; the slope over their length is an operator's, what
is left an inference's. `prior` of the stacks of `desktop_cpu` holds what is printed.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from passes.dataset import Array
from toolkit.calibration.timing import latency_s

__all__ = ["chain", "dispatch_s"]

_SHAPE = (1, 16, 4, 4)
_LENGTHS = (2, 42)
_ROUNDS = 6


def dispatch_s(precision: str) -> tuple[float, float]:
    """Seconds of an inference without operators, and of one operator, in `fp32` or `int8`."""
    sample = {"x": np.random.default_rng(0).random(_SHAPE, np.float32)}
    short_s, long_s = (
        min(latency_s(model, sample, seconds=0.5) for _ in range(_ROUNDS))
        for model in (chain(precision, length) for length in _LENGTHS)
    )
    operator_s = (long_s - short_s) / (_LENGTHS[1] - _LENGTHS[0])
    return short_s - _LENGTHS[0] * operator_s, operator_s


def chain(precision: str, length: int) -> bytes:
    """The serialized model of `length` pointwise convolutions of x (1, 16, 4, 4) to y; between two conversions where
    `precision` is int8."""
    weights = np.random.default_rng(1).normal(0, 0.3, (length, 16, 16, 1, 1))
    constants, nodes = (_integers if precision == "int8" else _floats)(weights)
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, _SHAPE) for name in "xy")
    tensors = [numpy_helper.from_array(value, name) for name, value in constants.items()]
    graph = helper.make_graph(nodes, "chain", [x], [y], tensors)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    return bytes(model.SerializeToString())


def _floats(weights: Array) -> tuple[dict[str, Array], list[onnx.NodeProto]]:
    names = ["x", *(f"x{i}" for i in range(1, len(weights))), "y"]
    nodes = [helper.make_node("Conv", [names[i], f"w{i}"], [names[i + 1]]) for i in range(len(weights))]
    return {f"w{i}": w.astype(np.float32) for i, w in enumerate(weights)}, nodes


def _integers(weights: Array) -> tuple[dict[str, Array], list[onnx.NodeProto]]:
    constants: dict[str, Array] = {"s": np.array(0.02, np.float32), "z": np.array(128, np.uint8)}
    constants |= {"ws": np.array(0.01, np.float32), "wz": np.array(0, np.int8)}
    constants |= {f"w{i}": np.clip(np.rint(w / 0.01), -127, 127).astype(np.int8) for i, w in enumerate(weights)}
    nodes = [helper.make_node("QuantizeLinear", ["x", "s", "z"], ["q0"])]
    for i in range(len(weights)):
        nodes.append(helper.make_node("QLinearConv", [f"q{i}", "s", "z", f"w{i}", "ws", "wz", "s", "z"], [f"q{i + 1}"]))
    return constants, [*nodes, helper.make_node("DequantizeLinear", [f"q{len(weights)}", "s", "z"], ["y"])]


def main(arguments: Sequence[str] | None = None) -> None:
    argparse.ArgumentParser(prog="python -m toolkit.bench.dispatch", description=__doc__,
                            formatter_class=argparse.RawDescriptionHelpFormatter).parse_args(arguments)  # fmt: skip
    for precision in ("fp32", "int8"):
        fixed_s, operator_s = dispatch_s(precision)
        print(f"{precision}: {fixed_s * 1e6:.1f} µs an inference, {operator_s * 1e6:.2f} µs an operator")


if __name__ == "__main__":
    main()
