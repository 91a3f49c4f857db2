"""Each operator alone: as floats LiteRT answers like onnxruntime, as integers within one step of its QDQ answer.

Both ways of LiteRT are asked: XNNPACK, which boards use by default, and LiteRT's own kernels. What an int8 kernel may
differ by is one step of the result's scale: the same real number rounded once, in another arithmetic.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
import onnx_ir
import pytest
from onnx import TensorProto, helper, numpy_helper

from passes.dataset import Array
from passes.onnxruntime import Session
from passes.program import Program, onnx_program
from passes.signature import Signature, TensorSpec
from targets.target import load_target
from toolkit.backends.litert.lowering import Edges
from toolkit.backends.litert.runtime import Interpreter
from toolkit.backends.litert.tflite import drafted, tflite_bytes
from toolkit.rng import generator

FLOATS, INTEGERS = (load_target("raspberry_pi_4").stack(f"tflite-{p}") for p in ("fp32", "int8"))


@dataclass(frozen=True)
class Case:
    """One operator. `inputs` are shapes of what varies, `constants` shapes or arrays of the operands behind that."""

    op: str
    inputs: Sequence[tuple[int, ...]]
    constants: Sequence[Any] = ()
    attributes: Mapping[str, Any] = field(default_factory=dict)
    outputs: int = 1
    low: float = -2.0
    high: float = 3.0
    note: str = ""

    def __str__(self) -> str:
        return f"{self.op}{'-' if self.note else ''}{self.note}"


def case(op: str, *inputs: tuple[int, ...], constants: Sequence[Any] = (), note: str = "", low: float = -2.0,
         high: float = 3.0, outputs: int = 1, **attributes: Any) -> Case:  # fmt: skip
    return Case(op, inputs, constants, attributes, outputs, low, high, note)


def ints(*values: int) -> Array:
    return np.array(values, np.int64)


def number(value: float) -> Array:
    return np.array(value, np.float32)


IMAGE = (1, 8, 9, 10)
CASES = [
    # convolutions
    case("Conv", IMAGE, constants=[(6, 8, 3, 3), (6,)], note="valid"),
    case("Conv", IMAGE, constants=[(6, 8, 3, 3), (6,)], pads=[1, 1, 1, 1], note="same"),
    case("Conv", IMAGE, constants=[(6, 8, 3, 3)], pads=[1, 1, 1, 1], strides=[2, 2], note="strided, no bias"),
    case("Conv", IMAGE, constants=[(6, 8, 3, 2), (6,)], pads=[2, 0, 1, 1], note="uneven padding"),
    case("Conv", IMAGE, constants=[(6, 8, 3, 3), (6,)], dilations=[2, 2], pads=[2, 2, 2, 2], note="dilated"),
    case("Conv", IMAGE, constants=[(6, 8, 3, 3), (6,)], auto_pad="SAME_LOWER", strides=[2, 2], note="same lower"),
    case("Conv", IMAGE, constants=[(8, 1, 3, 3), (8,)], group=8, pads=[1, 1, 1, 1], note="depthwise"),
    case("Conv", IMAGE, constants=[(16, 1, 5, 5), (16,)], group=8, strides=[2, 2], note="depthwise, two each"),
    case("Conv", IMAGE, constants=[(8, 2, 3, 3), (8,)], group=4, note="groups"),
    case("Conv", (1, 6, 40), constants=[(8, 6, 5), (8,)], pads=[2, 2], strides=[2], note="one dimension"),
    case("ConvTranspose", IMAGE, constants=[(8, 5, 3, 3), (5,)], strides=[2, 2], note="valid"),
    case("ConvTranspose", IMAGE, constants=[(8, 5, 4, 4), (5,)], strides=[2, 2], pads=[1, 1, 1, 1], note="same"),
    case("ConvTranspose", IMAGE, constants=[(8, 5, 3, 3), (5,)], strides=[2, 2], pads=[1, 1, 1, 1],
         output_padding=[1, 1], note="cut"),
    case("ConvTranspose", (1, 6, 12), constants=[(6, 5, 4)], strides=[2], note="one dimension"),
    # products
    case("Gemm", (1, 12), constants=[(7, 12), (7,)], transB=1, note="transposed"),
    case("Gemm", (1, 12), constants=[(12, 7)], note="no bias"),
    case("MatMul", (1, 5, 12), constants=[(12, 7)], note="constant"),
    case("MatMul", (1, 2, 5, 6), (1, 2, 6, 4), note="two activations"),
    # element by element
    *(case(op, IMAGE, IMAGE) for op in ("Add", "Sub", "Mul", "Max", "Min")),
    *(case(op, IMAGE, (1, 8, 1, 1), note="repeated") for op in ("Add", "Sub", "Mul", "Max")),
    *(case(op, IMAGE, constants=[(8, 1, 1)], note="constant") for op in ("Add", "Mul", "Sub")),
    case("Mul", IMAGE, constants=[number(0.5)], note="number"),
    case("Div", IMAGE, constants=[number(3)], note="number"),
    case("Pow", IMAGE, constants=[number(2)], note="square"),
    case("Pow", IMAGE, constants=[number(0.5)], note="root", low=0.1),
    case("Pow", IMAGE, constants=[number(1.5)], note="other", low=0.1),
    # functions
    *(case(op, IMAGE) for op in ("Relu", "Sigmoid", "Tanh", "HardSwish", "Abs", "Neg", "Exp", "Floor", "Ceil", "Round",
                                 "Sin", "Cos", "Elu", "Erf", "Softplus", "HardSigmoid", "Identity")),
    *(case(op, IMAGE, low=0.1) for op in ("Sqrt", "Log", "Reciprocal")),
    case("Sigmoid", IMAGE, low=-9.0, high=-4.0, note="small"),
    case("Tanh", IMAGE, low=-0.1, high=0.1, note="small"),
    case("HardSwish", IMAGE, low=-8.0, high=8.0, note="wide"),
    case("Gelu", IMAGE, approximate="none"),
    case("Gelu", IMAGE, approximate="tanh", note="tanh"),
    case("Clip", IMAGE, constants=[number(0), number(6)], high=9.0, note="relu6"),
    case("Clip", IMAGE, constants=[number(-1), number(1)], note="one"),
    case("Clip", IMAGE, constants=[number(-1), number(2)], note="other"),
    case("LeakyRelu", IMAGE, alpha=0.1),
    case("PRelu", IMAGE, constants=[(8, 1, 1)]),
    case("Softmax", (1, 12), axis=-1),
    case("Softmax", IMAGE, axis=1, note="channels"),
    case("LogSoftmax", (1, 12), axis=-1),
    # pools
    case("MaxPool", IMAGE, kernel_shape=[2, 2], strides=[2, 2]),
    case("MaxPool", IMAGE, kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1], note="padded"),
    case("MaxPool", IMAGE, kernel_shape=[2, 3], strides=[2, 2], ceil_mode=1, note="ceil"),
    case("MaxPool", (1, 6, 21), kernel_shape=[3], strides=[2], note="one dimension"),
    case("AveragePool", IMAGE, kernel_shape=[2, 2], strides=[2, 2]),
    case("AveragePool", IMAGE, kernel_shape=[3, 3], pads=[1, 1, 1, 1], note="padded"),
    case("AveragePool", IMAGE, kernel_shape=[3, 3], pads=[1, 1, 1, 1], count_include_pad=1, note="padding counted"),
    case("AveragePool", IMAGE, kernel_shape=[3, 3], pads=[1, 1, 1, 1], strides=[2, 2], note="uneven"),
    case("GlobalAveragePool", IMAGE),
    case("GlobalMaxPool", IMAGE),
    # reductions
    *(case(op, IMAGE, constants=[ints(2, 3)], keepdims=0) for op in
      ("ReduceMean", "ReduceSum", "ReduceMax", "ReduceMin", "ReduceL2", "ReduceSumSquare")),
    case("ReduceMean", IMAGE, constants=[ints(1)], note="channels"),
    case("ReduceProd", (1, 4, 3), constants=[ints(2)], keepdims=0),
    case("LayerNormalization", (1, 5, 12), constants=[(12,), (12,)], axis=-1),
    case("InstanceNormalization", IMAGE, constants=[(8,), (8,)]),
    case("LpNormalization", (1, 12), axis=-1, p=2),
    # movements
    case("Concat", IMAGE, (1, 3, 9, 10), axis=1),
    case("Reshape", IMAGE, constants=[ints(1, 4, 2, 90)]),
    case("Flatten", IMAGE, axis=1),
    case("Transpose", IMAGE, perm=[0, 3, 1, 2]),
    case("Squeeze", (1, 8, 1, 5), constants=[ints(2)]),
    case("Unsqueeze", (1, 8, 5), constants=[ints(2)]),
    case("Slice", IMAGE, constants=[ints(1, 2), ints(7, 9), ints(1, 3)]),
    case("Slice", IMAGE, constants=[ints(0, -1), ints(8, -20), ints(2, 3), ints(2, -3)], note="steps"),
    case("Split", IMAGE, axis=1, num_outputs=2, outputs=2),
    case("Split", IMAGE, constants=[ints(2, 6)], axis=1, outputs=2, note="uneven"),
    case("Pad", IMAGE, constants=[ints(0, 0, 1, 2, 0, 0, 3, 1)]),
    case("Pad", IMAGE, constants=[ints(0, 0, 1, 2, 0, 0, 3, 1), number(1.5)], note="number"),
    case("Pad", IMAGE, constants=[ints(0, 0, 1, 2, 0, 0, 3, 1)], mode="reflect", note="reflect"),
    case("Gather", IMAGE, constants=[ints(0, 5, -1)], axis=2),
    case("Expand", (1, 8, 1, 1), constants=[ints(1, 8, 4, 5)]),
    case("Tile", (1, 3, 4), constants=[ints(1, 2, 3)]),
    case("DepthToSpace", IMAGE, blocksize=2),
    case("DepthToSpace", IMAGE, blocksize=2, mode="CRD", note="crd"),
    case("SpaceToDepth", (1, 3, 8, 10), blocksize=2),
    # images of another size
    *(case("Resize", IMAGE, constants=[np.zeros(0, np.float32), np.zeros(0, np.float32), ints(1, 8, *size)], mode=mode,
           coordinate_transformation_mode=way, note=f"{mode}, {way}, {size}")
      for mode in ("nearest", "linear") for size in ((18, 20), (13, 7))
      for way in ("asymmetric", "half_pixel", "align_corners", "pytorch_half_pixel")),
]  # fmt: skip


# ---- the graphs


def random_constants(given: Case) -> list[Array]:
    rng = generator(1, str(given))
    return [c if isinstance(c, np.ndarray) else rng.normal(0, 0.4, c).astype(np.float32) for c in given.constants]


def feeds(given: Case, count: int = 3) -> list[dict[str, Array]]:
    rng = generator(2, str(given))
    return [{f"x{i}": rng.uniform(given.low, given.high, s).astype(np.float32) for i, s in enumerate(given.inputs)}
            for _ in range(count)]  # fmt: skip


def floating(given: Case) -> onnx.ModelProto:
    constants = random_constants(given)
    names = [f"x{i}" for i in range(len(given.inputs))]
    blank = [("" if c.size == 0 else f"c{i}") for i, c in enumerate(constants)]
    outputs = [f"y{i}" for i in range(given.outputs)]
    node = helper.make_node(given.op, [*names, *blank], outputs, name="it", **given.attributes)
    stored = [numpy_helper.from_array(c, f"c{i}") for i, c in enumerate(constants) if c.size]
    return finished([node], names, given.inputs, outputs, stored)


def finished(nodes: Sequence[Any], names: Sequence[str], shapes: Sequence[Sequence[int]], outputs: Sequence[str],
             stored: Sequence[Any]) -> onnx.ModelProto:  # fmt: skip
    inputs = [helper.make_tensor_value_info(n, TensorProto.FLOAT, s) for n, s in zip(names, shapes, strict=True)]
    results = [helper.make_tensor_value_info(n, TensorProto.FLOAT, None) for n in outputs]
    graph = helper.make_graph(nodes, "case", inputs, results, stored)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9)
    return onnx.shape_inference.infer_shapes(model, strict_mode=True)


def program_of(model: onnx.ModelProto, example: Mapping[str, Array]) -> Program:
    def specs(values: Any) -> tuple[TensorSpec, ...]:
        return tuple(TensorSpec(v.name, "float32", tuple(d.dim_value for d in v.type.tensor_type.shape.dim))
                     for v in values)  # fmt: skip

    signature = Signature(specs(model.graph.input), specs(model.graph.output))
    return onnx_program("case", onnx_ir.from_proto(model), signature, example)


PRODUCTS = ("Conv", "ConvTranspose", "Gemm", "MatMul")
"""Operators whose constants are rounded: weights to int8 with a scale for each output, biases to int32."""


def output_axis(given: Case) -> int:
    return {"Conv": 0, "Gemm": 0 if given.attributes.get("transB") else 1}.get(given.op, 1)


def affine(low: float, high: float) -> tuple[np.float32, np.int8]:
    low, high = min(low, 0.0), max(high, 0.0)
    scale = np.float32((high - low) / 255 or 1.0)
    return scale, np.int8(np.clip(np.rint(-128 - low / scale), -128, 127))


def rounded(given: Case) -> onnx.ModelProto:
    """The case between QuantizeLinear and DequantizeLinear, with the ranges that its samples have."""
    plain = floating(given)
    samples = feeds(given)
    answers = [Session(plain.SerializeToString(), optimize=False)(feed) for feed in samples]
    nodes: list[Any] = []
    stored: list[Any] = []

    def keep(name: str, values: Any) -> str:
        stored.append(numpy_helper.from_array(np.asarray(values), name))
        return name

    def pair(name: str, scale: np.float32, zero: np.int8, outer: str, inner: str) -> None:
        params = [keep(f"{name}_scale", scale), keep(f"{name}_zero", zero)]
        nodes.append(helper.make_node("QuantizeLinear", [outer, *params], [f"{name}_q"]))
        nodes.append(helper.make_node("DequantizeLinear", [f"{name}_q", *params], [inner]))

    names = [f"x{i}" for i in range(len(given.inputs))]
    scales = {n: affine(min(s[n].min() for s in samples), max(s[n].max() for s in samples)) for n in names}
    for name in names:
        pair(name, *scales[name], name, f"{name}_dq")
    operands = [f"{n}_dq" for n in names]
    constants = random_constants(given)
    for i, values in enumerate(constants):
        if given.op not in PRODUCTS:
            operands.append(keep(f"c{i}", values) if values.size else "")
            continue
        axis = output_axis(given)
        steps = (np.abs(constants[0]).max(axis=tuple({*range(constants[0].ndim)} - {axis})) / 127).astype(np.float32)
        if i == 0:
            along = [-1 if a == axis else 1 for a in range(values.ndim)]
            stored_as: Any = np.rint(values / steps.reshape(along)).astype(np.int8)
        else:
            steps, axis = steps * scales["x0"][0], 0
            stored_as = np.rint(values / steps).astype(np.int32)
        parts = (stored_as, steps, np.zeros(steps.shape, stored_as.dtype))
        inputs = [keep(f"c{i}_{name}", part) for name, part in zip(("q", "scale", "none"), parts, strict=True)]
        nodes.append(helper.make_node("DequantizeLinear", inputs, [f"c{i}"], axis=axis))
        operands.append(f"c{i}")
    outputs = [f"y{i}" for i in range(given.outputs)]
    nodes.append(helper.make_node(given.op, operands, [f"{o}_real" for o in outputs], name="it", **given.attributes))
    for name in outputs:
        found = np.stack([answer[name] for answer in answers])
        pair(name, *affine(float(found.min()), float(found.max())), f"{name}_real", name)
    return finished(nodes, names, given.inputs, outputs, stored)


def steps_of(model: onnx.ModelProto) -> dict[str, float]:
    """The scale of each output."""
    constants = {t.name: numpy_helper.to_array(t) for t in model.graph.initializer}
    return {o.name: float(constants[f"{o.name}_scale"]) for o in model.graph.output}


# ---- the claims


@pytest.mark.parametrize("given", CASES, ids=str)
def test_as_floats(given: Case) -> None:
    model = floating(given)
    samples = feeds(given)
    content = tflite_bytes(program_of(model, samples[0]), FLOATS)
    truth = Session(model.SerializeToString(), optimize=False)
    for xnnpack in (True, False):
        here = Interpreter(content, xnnpack=xnnpack)
        for sample in samples:
            for name, want in truth(sample).items():
                got = here(sample)[name]
                assert got.shape == want.shape
                np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-4 * np.abs(want).max())


@pytest.mark.parametrize("given", CASES, ids=str)
def test_as_integers(given: Case) -> None:
    model = rounded(given)
    samples = feeds(given)
    content = tflite_bytes(program_of(model, samples[0]), INTEGERS)
    truth = Session(model.SerializeToString(), optimize=False)
    for xnnpack in (True, False):
        here = Interpreter(content, xnnpack=xnnpack)
        for sample in samples:
            for name, want in truth(sample).items():
                steps = np.rint((here(sample)[name] - want) / steps_of(model)[name])
                assert np.abs(steps).max() <= 1, f"xnnpack {xnnpack}: {np.abs(steps).max():g} steps"


ON_CHIP = ("Conv", "ConvTranspose", "Gemm", "Add", "Mul", "Concat", "MaxPool", "AveragePool", "ReduceMean", "PRelu")


@pytest.mark.parametrize("given", [c for c in CASES if c.op in ON_CHIP], ids=str)
def test_as_the_edge_tpu_wants_it(given: Case) -> None:
    """int8 goes in, channels last, and int8 comes out; the signature is kept by who runs the file."""
    model = rounded(given)
    samples = feeds(given)
    content = tflite_bytes(program_of(model, samples[0]), INTEGERS, Edges(integers=True, channels_last=True))
    truth = Session(model.SerializeToString(), optimize=False)
    here = Interpreter(content)
    for sample in samples:
        for name, want in truth(sample).items():
            got = here(sample)[name]
            assert got.dtype == np.float32
            assert np.abs(np.rint((got - want) / steps_of(model)[name])).max() <= 1


@pytest.mark.parametrize("op", ["Gemm", "MatMul"])
def test_weights_of_one_scale_make_a_fully_connected_layer(op: str) -> None:
    given = next(c for c in CASES if c.op == op)
    model = rounded(given)
    whole = np.float32(np.abs(random_constants(given)[0]).max() / 127)
    for node in [n for n in model.graph.node if n.output[0].startswith("c")]:
        del node.attribute[:]
    for tensor in model.graph.initializer:
        i, _, part = tensor.name.partition("_")
        if i not in ("c0", "c1"):
            continue
        step = (
            whole
            if i == "c0"
            else whole * next(numpy_helper.to_array(t) for t in model.graph.initializer if t.name == "x0_scale")
        )
        stored_as = np.rint(random_constants(given)[int(i[1])] / step).astype(np.int8 if i == "c0" else np.int32)
        values = {"q": stored_as, "scale": step, "none": np.zeros((), stored_as.dtype)}[part]
        tensor.CopyFrom(numpy_helper.from_array(np.asarray(values), tensor.name))
    model = onnx.shape_inference.infer_shapes(bare(model), strict_mode=True)
    sample = feeds(given)[0]
    content, draft = drafted(program_of(model, sample), INTEGERS)
    assert [o.code for o in draft.operators] == ["QUANTIZE", "FULLY_CONNECTED", "DEQUANTIZE"]
    want = Session(model.SerializeToString(), optimize=False)(sample)["y0"]
    for xnnpack in (True, False):
        got = Interpreter(content, xnnpack=xnnpack)(sample)["y0"]
        assert np.abs(np.rint((got - want) / steps_of(model)["y0"])).max() <= 1


UNSIGNED = ("Conv-same", "Gemm-transposed", "Add", "MaxPool-padded", "Concat", "Sigmoid")


@pytest.mark.parametrize("given", [c for c in CASES if str(c) in UNSIGNED], ids=str)
def test_unsigned_integers_of_other_quantizers(given: Case) -> None:
    """The same numbers as uint8, a zero point further on: what quantizers for x86 write."""
    signed = rounded(given)
    model = onnx.ModelProto()
    model.CopyFrom(signed)
    for tensor in model.graph.initializer:
        if tensor.name.endswith("_zero") and tensor.name[0] in "xy":
            moved = numpy_helper.to_array(tensor).astype(np.int16) + 128
            tensor.CopyFrom(numpy_helper.from_array(moved.astype(np.uint8), tensor.name))
    model = onnx.shape_inference.infer_shapes(bare(model), strict_mode=True)
    example = feeds(given)[0]
    files = [tflite_bytes(program_of(m, example), INTEGERS) for m in (signed, model)]
    assert files[0] == files[1]


def bare(model: onnx.ModelProto) -> onnx.ModelProto:
    """Without the types that inference found."""
    del model.graph.value_info[:]
    return model
