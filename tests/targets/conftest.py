"""Small graphs written as text, and the stacks of every profile."""

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
import onnx.parser
import onnx_ir
import pytest
from onnx import numpy_helper

from passes.structure import infer_shapes
from targets.graph import read_workload
from targets.workload import Workload


def _read(text: str, *, fuses: str = "", opset: int = 18, domains: str = "", **weights: Any) -> Workload:
    """The workload of a graph in onnx's text form; arrays become initializers, a tuple a random float32 one."""
    rng = np.random.default_rng(0)
    proto = onnx.parser.parse_model(f'<ir_version: 8, opset_import: ["" : {opset}{domains}]>\n{text}')
    for name, value in weights.items():
        array = rng.standard_normal(value).astype(np.float32) if isinstance(value, tuple) else np.asarray(value)
        proto.graph.initializer.append(numpy_helper.from_array(array, name))
    if not domains:
        onnx.checker.check_model(proto)
    return read_workload(infer_shapes(onnx_ir.from_proto(proto)), fuses=fuses.split())


@pytest.fixture
def read() -> Callable[..., Workload]:
    return _read
