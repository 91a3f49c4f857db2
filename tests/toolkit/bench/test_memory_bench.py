"""What onnxruntime's arena really takes, and what TVM really plans, beside our predictions. Small networks."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnx.parser
import onnx_ir as ir
import pytest
from onnx import numpy_helper

from passes.structure import infer_shapes
from targets.buffers import buffers_of
from targets.graph import read_workload
from targets.onnxruntime_memory import arena_use
from targets.storages import storages
from targets.target import load_target
from targets.workload import Workload
from toolkit.bench.memory.runs import arena_bytes
from toolkit.bench.memory.tvm import planned_by_tvm

pytestmark = pytest.mark.slow

# Channels are multiples of 16, so that blocks of 8 (AVX2) and of 16 (AVX-512) take the same room.
RESIDUAL = """
g (float[1,3,64,64] x) => (float[1,10] y) {
    a = Conv<kernel_shape=[3,3],pads=[1,1,1,1]>(x, w0)
    b = Relu(a)
    c = Conv<kernel_shape=[1,1]>(b, w1)
    d = Relu(c)
    e = Conv<kernel_shape=[3,3],pads=[1,1,1,1],group=64>(d, w2)
    f = Relu(e)
    h = Conv<kernel_shape=[1,1]>(f, w3)
    i = Add(h, b)
    j = MaxPool<kernel_shape=[2,2],strides=[2,2]>(i)
    k = Conv<kernel_shape=[1,1]>(j, w4)
    l = Concat<axis=1>(j, k)
    m = GlobalAveragePool(l)
    n = Flatten(m)
    y = Gemm<transB=1>(n, w5)
}"""
RESIDUAL_WEIGHTS = {
    "w0": (16, 3, 3, 3), "w1": (64, 16, 1, 1), "w2": (64, 1, 3, 3), "w3": (16, 64, 1, 1), "w4": (32, 16, 1, 1),
    "w5": (10, 48),
}  # fmt: skip

SKIPS = """
g (float[1,3,64,64] x) => (float[1,2,64,64] y) {
    a = Conv<kernel_shape=[3,3],pads=[1,1,1,1]>(x, w0)
    b = MaxPool<kernel_shape=[2,2],strides=[2,2]>(a)
    c = Conv<kernel_shape=[3,3],pads=[1,1,1,1]>(b, w1)
    d = ConvTranspose<kernel_shape=[2,2],strides=[2,2]>(c, w2)
    e = Concat<axis=1>(d, a)
    y = Conv<kernel_shape=[1,1]>(e, w3)
}"""
SKIPS_WEIGHTS = {"w0": (16, 3, 3, 3), "w1": (32, 16, 3, 3), "w2": (32, 16, 2, 2), "w3": (2, 32, 1, 1)}

TOKENS = """
g (float[1,64,96] x) => (float[1,64,96] y) {
    a = LayerNormalization(x, s, b)
    c = MatMul(a, w0)
    d = Add(c, b0)
    e = Erf(d)
    f = Mul(e, d)
    h = MatMul(f, w1)
    i = Add(h, b1)
    j = Add(i, x)
    k = Softmax(j)
    y = Mul(k, j)
}"""
TOKENS_WEIGHTS = {"s": (96,), "b": (96,), "w0": (96, 384), "b0": (384,), "w1": (384, 96), "b1": (96,)}

GRAPHS = {
    "residual": (RESIDUAL, RESIDUAL_WEIGHTS),
    "skips": (SKIPS, SKIPS_WEIGHTS),
    "tokens": (TOKENS, TOKENS_WEIGHTS),
}


@pytest.fixture
def graph(tmp_path: Path) -> Callable[[str], Path]:
    def write(name: str) -> Path:
        text, weights = GRAPHS[name]
        proto = onnx.parser.parse_model(f'<ir_version: 8, opset_import: ["" : 18]>{text}')
        rng = np.random.default_rng(0)
        proto.graph.initializer.extend(
            numpy_helper.from_array(rng.standard_normal(shape).astype(np.float32), name)
            for name, shape in weights.items()
        )
        path = tmp_path / "model.onnx"
        onnx.save(proto, path)
        return path

    return write


def workload(path: Path, *fuses: str) -> Workload:
    return read_workload(infer_shapes(ir.load(path)), fuses=fuses)


@pytest.mark.parametrize("name", GRAPHS)
def test_the_arena_of_onnxruntime_is_predicted(graph: Callable[[str], Path], name: str) -> None:
    """To the byte where nothing is reordered; a tenth is what is promised."""
    path = graph(name)
    use = arena_use(workload(path, *load_target("desktop_cpu").stack("onnxruntime-fp32").fuses))
    assert use.first_run_bytes == pytest.approx(arena_bytes(path, pattern=False), rel=0.1)
    assert use.later_runs_bytes == pytest.approx(arena_bytes(path, pattern=True), rel=0.1)


@pytest.mark.parametrize("name", GRAPHS)
def test_the_storages_of_tvm_are_predicted(graph: Callable[[str], Path], name: str) -> None:
    """The rule is TVM's own: on the tensors of its function it gives its storages, one by one."""
    fused, bytes_of_storages = planned_by_tvm(graph(name))
    assert fused
    assert storages(fused) == bytes_of_storages


def test_the_storages_of_tvm_are_predicted_from_the_onnx_graph(graph: Callable[[str], Path]) -> None:
    path = graph("residual")
    _, bytes_of_storages = planned_by_tvm(path)
    work = workload(path, "batch_norm", "activation", "residual_add")
    own, _ = buffers_of(work, in_place=(), outside={*work.inputs, *work.outputs})
    assert sum(storages(own)) == pytest.approx(sum(bytes_of_storages), rel=0.03)
