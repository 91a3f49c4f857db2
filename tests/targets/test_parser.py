"""What TensorRT's parser reads: its list by version, the forms that it wants, and the script that builds an engine."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import numpy_helper

from targets.errors import UnknownName
from targets.parser import load_parser, parser_names, unread
from targets.target import load_target, target_names

OLD, MIDDLE, NEW = (load_parser(f"tensorrt-{version}") for version in ("8.2", "8.5", "10.3"))


def graph(text: str, **constants: Any) -> ir.Model:
    proto = onnx.parser.parse_model(f'<ir_version: 8, opset_import: ["" : 17, "com.microsoft" : 1]> {text}')
    proto.graph.initializer.extend(numpy_helper.from_array(np.asarray(v), k) for k, v in constants.items())
    return ir.from_proto(onnx.shape_inference.infer_shapes(proto))


def test_later_versions_read_more() -> None:
    assert OLD.operators < MIDDLE.operators < NEW.operators
    assert (OLD.opset, MIDDLE.opset, NEW.opset) == (13, 17, 20)
    assert {"Conv", "Gemm", "Einsum", "LSTM"} <= OLD.operators
    assert "GridSample" in MIDDLE.operators - OLD.operators
    assert "LayerNormalization" in NEW.operators - MIDDLE.operators


@pytest.mark.parametrize("name", parser_names())
def test_its_operators_are_those_of_onnx(name: str) -> None:
    """But for a few that onnx has dropped, or never had: the parser still knows them."""
    known = {schema.name for schema in onnx.defs.get_all_schemas_with_history() if not schema.domain}
    assert load_parser(name).operators - known <= {"ImageScaler", "ParametricSoftplus", "ScaledTanh"}


def test_stacks_ask_for_no_opset_that_their_parser_cannot_read() -> None:
    stacks = [stack for name in target_names() for stack in load_target(name).stacks.values()]
    asking = [stack for stack in stacks if stack.backend == "tensorrt"]
    assert len(asking) > 15
    for stack in asking:
        assert stack.opset <= load_parser(stack.parser).opset, stack.id


REFUSED = {
    "an operator that came later": (
        OLD, "g (float[1,2,4,4] x, float[1,4,4,2] p) => (float[1,2,4,4] y) { y = GridSample(x, p) }", {},
        "it is not in the operator list of TensorRT 8.2",
    ),
    "an operator of another domain": (
        NEW, "g (float[1,4] x) => (float[1,4] y) { y = com.microsoft.Gelu(x) }", {}, "com.microsoft need a plugin",
    ),
    "a zero point": (
        NEW, "g (float[1,4] x) => (float[1,4] y) { q = QuantizeLinear(x, s, z)  y = DequantizeLinear(q, s, z) }",
        {"s": np.float32(0.1), "z": np.int8(3)}, "its zero point is not 0",
    ),
    "unsigned integers": (
        NEW, "g (float[1,4] x) => (float[1,4] y) { q = QuantizeLinear(x, s)  y = DequantizeLinear(q, s) }",
        {"s": np.float32(0.1)}, "reads signed integers alone",
    ),
    "indices of a maximum": (
        NEW, "g (float[1,1,4,4] x) => (float[1,1,2,2] y, int64[1,1,2,2] i)"
        " { y, i = MaxPool<kernel_shape=[2,2], strides=[2,2]>(x) }", {}, "does not give the indices",
    ),
    "cubic": (
        MIDDLE, 'g (float[1,1,4,4] x) => (float[1,1,8,8] y) { y = Resize<mode="cubic">(x, , k) }',
        {"k": np.array([1, 1, 2, 2], np.float32)}, "not cubic",
    ),
    "computed weights": (
        OLD, "g (float[1,1,4,4] x, float[1,1,3,3] w) => (float[1,1,2,2] y) { y = Conv(x, w) }", {}, "weights constant",
    ),
    "uint8 inputs": (
        OLD, "g (uint8[1,4] x) => (float[1,4] y) { y = Cast<to=1>(x) }", {}, "takes no uint8 inputs",
    ),
    "a body": (
        OLD, "g (bool c, float[1,4] x) => (float[1,4] y) { y = If(c) <then_branch = a () => (float[1,4] u)"
        " { u = Hardmax(x) }, else_branch = b () => (float[1,4] v) { v = Relu(x) }> }", {}, "it is not in the operator",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_not_read(case: str) -> None:
    parser, text, constants, reason = REFUSED[case]
    found = unread(graph(text, **constants), parser)
    assert found
    assert all(reason in node.reason for node in found)


READ = {
    "weights of eight bits": (
        OLD, "g (float[1,1,4,4] x) => (float[1,1,2,2] y) { w = DequantizeLinear(q, s)  y = Conv(x, w) }",
        {"q": np.ones((1, 1, 3, 3), np.int8), "s": np.float32(0.1)},
    ),
    "computed weights, later": (
        MIDDLE, "g (float[1,1,4,4] x, float[1,1,3,3] w) => (float[1,1,2,2] y) { y = Conv(x, w) }", {},
    ),
    "signed integers around zero": (
        OLD, "g (float[1,4] x) => (float[1,4] y) { q = QuantizeLinear(x, s, z)  y = DequantizeLinear(q, s, z) }",
        {"s": np.float32(0.1), "z": np.int8(0)},
    ),
    "linear": (
        OLD, 'g (float[1,1,4,4] x) => (float[1,1,8,8] y) { y = Resize<mode="linear">(x, , k) }',
        {"k": np.array([1, 1, 2, 2], np.float32)},
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", READ)
def test_what_is_read(case: str) -> None:
    parser, text, constants = READ[case]
    assert unread(graph(text, **constants), parser) == []


@pytest.mark.parametrize("name", ["tensorrt-3", "tensorrt", "onnx-8.2", "../tensorrt-8.2"])
def test_unknown_parsers(name: str) -> None:
    with pytest.raises(UnknownName, match="parser"):
        load_parser(name)
