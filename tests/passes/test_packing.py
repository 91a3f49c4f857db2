"""Packing changes bytes, never answers: integers in fewer bits, short names, and the way back."""

from __future__ import annotations

import importlib
import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnx_ir
import onnxruntime
import pytest
import torch
from onnx import TensorProto
from torch import nn

import toolkit
from passes.compare import compare
from passes.context import Context
from passes.contract import PassFailed
from passes.dataset import Dataset
from passes.onnx_level.pack_weights import PackWeights
from passes.onnx_level.quantize_int8 import QuantizeInt8
from passes.onnx_level.shorten_names import ShortenNames, names_of, restore_names
from passes.program import Level, Program
from passes.recipe import float32, int8
from passes.running import run
from passes.signature import Signature
from targets.errors import InvalidInput
from targets.target import load_stack
from toolkit.explaining import explain_bundle
from toolkit.models import digits
from toolkit.sources import load_source

STACK = load_stack("desktop_cpu/onnxruntime-int8")
PI = load_stack("raspberry_pi_4/onnxruntime-int8")
NODE = "onnx.backend.test.case.node"


def _quantized(source: Program, ctx: Context) -> Program:
    """Folded, fused and quantized, whatever the stack's model says of the speed."""
    ready = run(float32(STACK, source.level), source, ctx).program
    return QuantizeInt8(activation="uint8").apply(ready, ctx)


@pytest.fixture(scope="module")
def ctx() -> Context:
    return Context(stack=STACK, data=digits.calibration().take(32))


@pytest.fixture(scope="module")
def quantized(ctx: Context) -> Program:
    return _quantized(load_source("digits").program, ctx)


class Reader(nn.Module):
    """An embedding, attention, norms, linear layers and a transposed convolution."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(64, 32)
        self.layer = nn.TransformerEncoderLayer(32, 4, 64, batch_first=True)
        self.out = nn.Linear(32, 64)
        self.wave = nn.ConvTranspose1d(64, 8, 4, 2)

    def forward(self, letters: torch.Tensor) -> torch.Tensor:
        wide: torch.Tensor = self.wave(self.out(self.layer(self.table(letters))).transpose(1, 2))
        return wide


@pytest.fixture(scope="module")
def reader() -> tuple[Program, Context]:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        module = Reader().eval()
    program = load_source((module, (torch.zeros(1, 16, dtype=torch.int64),))).program
    letters = np.random.default_rng(0).integers(0, 64, (8, 16))
    ctx = Context(stack=STACK, data=Dataset.of_arrays("letters", {program.signature.inputs[0].name: letters}))
    return _quantized(program, ctx), ctx


def _to_four_bits(program: Program) -> Program:
    """The same graph with weights of fewer steps, as training to 4 bits leaves them."""
    model = program.clone()
    for value in model.graph.initializers.values():
        assert value.const_value is not None
        if value.const_value.dtype == onnx_ir.DataType.INT8 and value.const_value.size > 16:
            coarse = (value.const_value.numpy() // 16).astype(np.int8)
            value.const_value = onnx_ir.tensor(coarse, name=value.name)
    return program.with_model(model)


@pytest.mark.slow
def test_four_bits_are_stored_in_four_and_answer_the_same(quantized: Program, ctx: Context) -> None:
    coarse = _to_four_bits(quantized)
    packed, proof = PackWeights()(coarse, ctx)
    assert [d.sqnr_db for d in compare(coarse, packed, ctx.proof_data(coarse))] == [np.inf]
    stored = onnx.load_model_from_string(packed.onnx_bytes).graph.initializer
    assert sum(t.data_type == TensorProto.INT4 for t in stored) == 6
    weights = sum(p.numel() for p in digits.build().parameters() if p.ndim > 1)
    assert proof.size_bytes is not None
    assert proof.size_bytes[0] - proof.size_bytes[1] > weights / 2


@pytest.mark.slow
def test_the_runtime_computes_with_the_same_kernels(
    quantized: Program, reader: tuple[Program, Context], ctx: Context, tmp_path: Path
) -> None:
    small = load_source((digits.Small().eval(), (torch.zeros(1, 1, 8, 8),))).program
    viewed = _quantized(small, ctx)
    for program, given in ((quantized, ctx), (viewed, ctx), reader):
        for graph in (program, _to_four_bits(program)):
            packed = ShortenNames().apply(PackWeights().apply(graph, given), given)
            kernels = [_kernels(p, tmp_path / f"{i}.onnx") for i, p in enumerate((graph, packed))]
            assert not kernels[1] - kernels[0], "nothing that was fused is apart"
            assert set((kernels[0] - kernels[1]).elements()) <= {"DequantizeLinear"}, "of biases, computed at load now"
            assert kernels[0]["QGemm"] == 1


def _kernels(program: Program, file: Path) -> Counter[str]:
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(file)
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
    onnxruntime.InferenceSession(program.onnx_bytes, options)
    return Counter(node.op_type for node in onnx.load(file).graph.node)


def test_the_price_is_that_of_the_graph_before(quantized: Program, ctx: Context) -> None:
    _, proof = PackWeights()(_to_four_bits(quantized), ctx)
    assert proof.cost_s is not None
    assert proof.cost_s[0] == proof.cost_s[1]


def test_an_old_opset_has_no_four_bits(program: Callable[..., Program], context: Callable[..., Context]) -> None:
    old = program("net (float[1,4] x) => (float[1,4] y) { y = Relu(x) }")
    with pytest.raises(PassFailed, match="opset 21"):
        PackWeights()(old, context())


def test_only_what_stands_for_a_float_changes_its_type(
    program: Callable[..., Program], context: Callable[..., Context]
) -> None:
    """The INT32 that Gather reads is an index, however small its values are."""
    graph = program(
        "net (float[64,4] x) => (float[64,4] y) { y = Gather <axis: int = 0> (x, index) }",
        opset=21, index=np.arange(64, dtype=np.int32),
    )  # fmt: skip
    packed = PackWeights().apply(graph, context())
    (stored,) = onnx.load_model_from_string(packed.onnx_bytes).graph.initializer
    assert stored.data_type == TensorProto.INT32
    assert not packed.graph[0].attributes, "an axis of 0 is the default"


def test_a_rounding_keeps_its_zero_point(program: Callable[..., Program], context: Callable[..., Context]) -> None:
    """Without one QuantizeLinear would make uint8, and onnxruntime would fuse less."""
    graph = program(
        "net (float[1,4] x) => (float[1,4] y) { q = QuantizeLinear(x, s, z)  y = DequantizeLinear(q, s, z) }",
        opset=21, s=np.float32(0.1), z=np.int8(0),
    )  # fmt: skip
    packed = PackWeights().apply(graph, context())
    assert [len([v for v in node.inputs if v]) for node in packed.graph] == [3, 3]
    sample = {"x": np.array([[-20, -0.3, 0.3, 20]], np.float32)}
    np.testing.assert_array_equal(packed.run(sample)["y"], graph.run(sample)["y"])


@pytest.mark.parametrize(("module", "name"), [("if_", "test_if"), ("loop", "test_loop11"), ("scan", "test_scan9_sum")])
def test_short_names_in_bodies_answer_as_onnx_says(module: str, name: str, context: Callable[..., Context]) -> None:
    """Every output, against what the standard's own case expects."""
    importlib.import_module(f"{NODE}.{module}")  # which makes its cases
    case = next(c for c in importlib.import_module(NODE)._NodeTestCases if c.name == name)
    found = onnx_ir.from_proto(case.model)
    before = names_of(found)
    program = Program(name="net", level=Level.ONNX, model=found, signature=Signature((), ()), example={})
    short = ShortenNames().apply(program, context())
    onnx.checker.check_model(short.onnx_bytes)
    inputs, outputs = case.data_sets[0]
    session = onnxruntime.InferenceSession(short.onnx_bytes)
    feeds = dict(zip((i.name for i in session.get_inputs()), inputs, strict=True))
    for mine, expected in zip(session.run(None, feeds), outputs, strict=True):
        np.testing.assert_allclose(mine, expected, rtol=1e-6)
    again = short.clone()
    restore_names(again, json.loads(before.model_dump_json()))
    assert names_of(again) == before


def test_the_program_before_keeps_its_names(quantized: Program, ctx: Context) -> None:
    before = onnx_ir.to_proto(quantized.model).SerializeToString(deterministic=True)
    short, proof = ShortenNames()(quantized, ctx)
    assert onnx_ir.to_proto(quantized.model).SerializeToString(deterministic=True) == before
    assert short.named is quantized
    assert proof.size_bytes is not None
    assert proof.size_bytes[1] < proof.size_bytes[0] - 5000
    assert [v.name for v in short.graph.inputs] == ["image"]


@pytest.mark.parametrize("names", [None, {}, {"values": 3, "nodes": []}, {"values": ["a"], "nodes": [["b", {}]]}])
def test_names_of_another_graph_are_refused(quantized: Program, names: object) -> None:
    with pytest.raises(InvalidInput, match="the names are"):
        restore_names(quantized.clone(), names)


@pytest.mark.slow
def test_a_packed_bundle_is_reported_and_explained_by_its_old_names(tmp_path: Path) -> None:
    plain = [step for step in int8(PI, Level.TORCH).to_data() if step["pass"] != "PackWeights"]
    packed = [*plain, {"pass": "PackWeights"}, {"pass": "ShortenNames"}]
    one, other, again = (
        toolkit.compile(target="raspberry_pi_4", stack=PI.name, passes=passes, output=tmp_path / name)
        for name, passes in (("plain", plain), ("packed", packed), ("from the cache", packed))
    )
    assert (again.path / "names.json").read_bytes() == (other.path / "names.json").read_bytes()
    sizes = [bundle.report["after"]["size_bytes"] for bundle in (one, other)]
    assert sizes[1] < 0.8 * sizes[0]
    for part in ("layers", "estimate"):
        assert one.report[part] == other.report[part]
    explained = [explain_bundle(bundle.path, samples=2).to_json() for bundle in (one, other)]
    assert explained[0]["layers"] == explained[1]["layers"]


def test_what_is_packed_has_the_same_bytes_when_it_was_written_and_read_again(quantized: Program, ctx: Context) -> None:
    packed = PackWeights().apply(quantized, ctx)
    again = packed.with_model(onnx_ir.from_proto(onnx.load_model_from_string(packed.onnx_bytes)))
    assert again.onnx_bytes == packed.onnx_bytes
