"""A branch is a network of its own in the file: LiteRT answers like onnxruntime whichever is taken, and runs one."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from passes.onnxruntime import Session
from passes.program import Program, onnx_program
from passes.signature import Signature, TensorSpec
from targets.errors import InvalidInput
from targets.target import load_target
from toolkit.backends.litert.runtime import Interpreter
from toolkit.backends.litert.tflite import drafted, tflite_bytes

FLOATS = load_target("raspberry_pi_4").stack("tflite-fp32")
HEAD = '<ir_version: 9, opset_import: ["" : 18]>\n'

PLAIN = """g (float[1,4] x) => (float[1,3] y)
<float[4,3] w = {1,2,3,-1,-2,-3,4,5,6,-4,0.5,2}, float zero = {0}, float[3] b = {0.5,-1,2}> {
    total = ReduceSum <keepdims = 0> (x)
    positive = Greater (total, zero)
    base = Relu (x)
    y = If (positive) <
        then_branch = t () => (float[1,3] p) { m = MatMul (base, w)  p = Add (m, b) },
        else_branch = e () => (float[1,3] q) <float[3] c = {3,2,1}> { n = MatMul (x, w)  o = Tanh (n)  q = Mul (o, c) }>
}"""
AS_IT_IS = """g (float[1,4] x) => (float[1,4] y)
<float zero = {0}, float[1,4] fixed = {1,2,3,4}> {
    total = ReduceSum <keepdims = 0> (x)
    positive = Greater (total, zero)
    y = If (positive) <
        then_branch = t () => (float[1,4] p) { p = Identity (x) },
        else_branch = e () => (float[1,4] q) { q = Identity (fixed) }>
}"""
NESTED = """g (float[1,4] x) => (float[1,4] y)
<float zero = {0}, float two = {2}> {
    total = ReduceSum <keepdims = 0> (x)
    positive = Greater (total, zero)
    large = Greater (total, two)
    first = Abs (x)
    y = If (positive) <
        then_branch = t () => (float[1,4] p) {
            r = If (large) <
                then_branch = tt () => (float[1,4] a) { a = Add (first, two) },
                else_branch = te () => (float[1,4] b) { b = Neg (first) }>
            p = Mul (r, two) },
        else_branch = e () => (float[1,4] q) { q = Sub (x, first) }>
}"""
IMAGE = """g (float[1,2,4,4] x) => (float[1,3,4,4] y)
<float zero = {0}, float[3,2,1,1] w = {1,2,3,-1,-2,-3}, float[3,2,1,1] u = {4,5,6,-4,0.5,2}> {
    total = ReduceSum <keepdims = 0> (x)
    positive = Greater (total, zero)
    inner = Sigmoid (x)
    r = If (positive) <
        then_branch = t () => (float[1,3,4,4] p) { p = Conv (inner, w) },
        else_branch = e () => (float[1,3,4,4] q) { m = Conv (inner, u)  q = Relu (m) }>
    y = Tanh (r)
}"""
ALL = {"plain": PLAIN, "as it is": AS_IT_IS, "nested": NESTED, "image": IMAGE}


def program(text: str) -> Program:
    model = ir.from_proto(onnx.shape_inference.infer_shapes(onnx.parser.parse_model(HEAD + text)))
    specs = [[TensorSpec(str(v.name), "float32", tuple(map(int, v.shape))) for v in side]
             for side in (model.graph.inputs, model.graph.outputs)]  # fmt: skip
    example = {spec.name: np.zeros(spec.shape, np.float32) for spec in specs[0]}
    return onnx_program("branching", model, Signature(tuple(specs[0]), tuple(specs[1])), example)


def feeds(model: Program) -> list[dict[str, np.ndarray]]:
    rng = np.random.default_rng(0)
    (spec,) = model.signature.inputs
    return [{"x": (rng.uniform(0.1, 0.4, spec.shape) * sign).astype(np.float32)} for sign in (1, -1, 5, 1, -3)]


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("xnnpack", [True, False])
def test_either_branch_answers_like_onnxruntime(name: str, xnnpack: bool) -> None:
    model = program(ALL[name])
    truth, here = Session(model.onnx_bytes, optimize=False), Interpreter(tflite_bytes(model, FLOATS), xnnpack=xnnpack)
    for sample in feeds(model):
        np.testing.assert_allclose(here(sample)["y"], truth(sample)["y"], rtol=1e-5, atol=1e-5)


def test_a_branch_holds_its_own_operators_alone() -> None:
    content, draft = drafted(program(PLAIN), FLOATS)
    outside = [operator.code for operator in draft.operators]
    assert sorted(outside) == ["GREATER", "IF", "RELU", "SUM"]
    (branch,) = (operator for operator in draft.operators if operator.code == "IF")
    inside = {key: [operator.code for operator in body.operators] for key, body in branch.bodies.items()}
    assert inside == {
        "then_subgraph_index": ["FULLY_CONNECTED", "ADD"],
        "else_subgraph_index": ["FULLY_CONNECTED", "TANH", "MUL"],
    }
    assert all(list(body.inputs) == ["base", "x"] for body in branch.bodies.values())
    assert content == drafted(program(PLAIN), FLOATS)[0], "equal programs give equal bytes"


def test_the_file_is_read_by_litert_as_three_networks() -> None:
    from ai_edge_litert import schema_py_generated as schema

    model = schema.Model.GetRootAs(tflite_bytes(program(PLAIN), FLOATS), 0)
    names = [model.Subgraphs(i).Name().decode() for i in range(model.SubgraphsLength())]
    assert names == ["branching", "branching/then_subgraph_index", "branching/else_subgraph_index"]
    assert [model.Subgraphs(i).InputsLength() for i in range(3)] == [1, 2, 2]


def test_what_cannot_be_written_within_a_branch_is_named() -> None:
    text = PLAIN.replace("o = Tanh (n)", "o = Asin (n)")
    with pytest.raises(InvalidInput, match=r"If .* holds Asin .*, which has no form in a \.tflite here"):
        tflite_bytes(program(text), FLOATS)


def test_a_size_that_is_not_known_within_a_branch_is_refused() -> None:
    """onnx infers no sizes in a branch from constants of the graph around it."""
    text = PLAIN.replace("o = Tanh (n)", "k = Reshape (n, s)  o = Reshape (k, s2)")
    text = text.replace("float zero = {0}", "float zero = {0}, int64[1] s = {3}, int64[2] s2 = {1, 3}")
    with pytest.raises(InvalidInput, match=r"holds Reshape .*, which has a result whose size is not known"):
        tflite_bytes(program(text), FLOATS)
