"""ConvertOpset, down by its own table and up by onnx's converter."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from passes.contract import PassFailed
from passes.onnx_level.convert_opset import ConvertOpset
from passes.proof import Decision

Make = Callable[..., Any]
AXES = {"axes": np.array([2, 3])}
DOWN = {
    "ReduceMean": ("float[1,4,6,6] x", "float[1,4] y", "y = ReduceMean<keepdims=0>(x, axes)", AXES),
    "ReduceMax": ("float[1,4,6,6] x", "float[1,4,1,1] y", "y = ReduceMax(x, axes)", AXES),
    "ReduceL2 of all": ("float[1,4] x", "float[1,1] y", "y = ReduceL2(x)", {}),
    "ReduceSum": ("float[1,4,6,6] x", "float[1,4] y", "y = ReduceSum<keepdims=0>(x, axes)", AXES),
    "Reshape": ("float[1,4,6,6] x", "float[1,144] y", "y = Reshape<allowzero=0>(x, s)", {"s": np.array([1, 144])}),
    "Reshape with allowzero that does not matter": (
        "float[1,4,6,6] x", "float[1,144] y", "y = Reshape<allowzero=1>(x, s)", {"s": np.array([1, -1])},
    ),
    "Reshape that copies a size": (
        "float[1,4,6,6] x", "float[1,4,36] y", "y = Reshape(x, s)", {"s": np.array([0, 0, -1])},
    ),
    "Split into parts": (
        "float[1,4,6] x", "float[1,2,6] y, float[1,2,6] z", "y, z = Split<axis=1, num_outputs=2>(x)", {},
    ),
    "Split into sizes": (
        "float[1,4,6] x", "float[1,1,6] y, float[1,3,6] z", "y, z = Split<axis=1>(x, s)", {"s": np.array([1, 3])},
    ),
    "Resize": (
        "float[1,1,4,4] x", "float[1,1,8,8] y", 'y = Resize<mode="nearest">(x, , k)',
        {"k": np.array([1, 1, 2, 2], np.float32)},
    ),
    "Pad": ("float[1,4] x", "float[1,6] y", "y = Pad(x, p)", {"p": np.array([0, 1, 0, 1])}),
    "BatchNormalization": (
        "float[1,4,6,6] x", "float[1,4,6,6] y", "y = BatchNormalization(x, g, b, m, v)",
        {"g": (4,), "b": (4,), "m": (4,), "v": np.ones(4, np.float32)},
    ),
    "AveragePool": (
        "float[1,4,6,6] x", "float[1,4,3,3] y", "y = AveragePool<kernel_shape=[2,2], strides=[2,2]>(x)", {},
    ),
    "LSTM": (
        "float[3,1,4] x", "float[3,1,1,5] y", "y = LSTM<hidden_size=5>(x, w, r)", {"w": (1, 20, 4), "r": (1, 20, 5)},
    ),
    "Conv and Softmax": ("float[1,4,6,6] x", "float[1,2,4,4] y", "c = Conv(x, w) y = Softmax(c)", {"w": (2, 4, 3, 3)}),
}  # fmt: skip


@pytest.mark.parametrize("opset", [13, 15, 17])
@pytest.mark.parametrize("case", DOWN)
def test_down(case: str, opset: int, program: Make, context: Make, same_answers: Make) -> None:
    inputs, outputs, body, weights = DOWN[case]
    start = program(f"g ({inputs}) => ({outputs}) {{ {body} }}", **weights)
    after, proof = ConvertOpset(opset)(start, context())
    assert proof.decision is Decision.KEPT
    assert (after.opset, start.opset) == (opset, 18)
    assert "opset_converted" in after.facts
    same_answers(start, after, rtol=0, atol=0)


def test_axes_become_an_attribute(program: Make, context: Make) -> None:
    start = program("g (float[1,4,6,6] x) => (float[1,4] y) { y = ReduceMean<keepdims=0>(x, axes) }", **AXES)
    after, _ = ConvertOpset(13)(start, context())
    node = after.graph.node(0)
    assert list(node.attributes["axes"].as_ints()) == [2, 3]
    assert len(node.inputs) == 1


REFUSED = {
    "LayerNormalization": (
        16, "float[1,4] x", "float[1,4] y", "y = LayerNormalization(x, g)", {"g": (4,)}, "LayerNormalization",
    ),
    "allowzero": (
        13, "float[0,4] x", "float[0,4] y", "y = Reshape<allowzero=1>(x, s)", {"s": np.array([0, 4])}, "allowzero",
    ),
    "noop_with_empty_axes": (
        13, "float[1,4] x", "float[1,4] y", "y = ReduceMean<noop_with_empty_axes=1>(x)", {}, "noop_with_empty_axes",
    ),
    "computed axes": (
        13, "float[2,4] x, int64[1] a", "float[2,1] y", "y = ReduceMean(x, a)", {}, "computes its axes",
    ),
    "antialias": (
        13, "float[1,1,4,4] x", "float[1,1,2,2] y", 'y = Resize<mode="linear", antialias=1>(x, , k)',
        {"k": np.array([1, 1, 0.5, 0.5], np.float32)}, "antialias",
    ),
    "axes of Pad": (13, "float[1,4] x", "float[1,6] y", "y = Pad(x, p, , a)",
                    {"p": np.array([1, 1]), "a": np.array([1])}, "Pad"),
    "an element type": (11, "int8[1,4] x", "int8[1,1] y", "y = ReduceMax(x)", {}, "int8"),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_what_the_older_opset_lacks_is_refused_by_name(case: str, program: Make, context: Make) -> None:
    opset, inputs, outputs, body, weights, named = REFUSED[case]
    start = program(f"g ({inputs}) => ({outputs}) {{ {body} }}", **weights)
    with pytest.raises(PassFailed, match=named) as refusal:
        ConvertOpset(opset)(start, context())
    assert refusal.value.hint


def test_a_split_that_is_not_equal_is_not_made_equal(program: Make, context: Make) -> None:
    start = program("g (float[1,7] x) => (float[1,4] y, float[1,3] z) { y, z = Split<axis=1, num_outputs=2>(x) }")
    with pytest.raises(PassFailed) as refusal:
        ConvertOpset(13)(start, context())
    assert refusal.value.hint


def test_down_reaches_into_subgraphs(program: Make, context: Make, same_answers: Make) -> None:
    start = program(
        """g (float[2,4] x, bool go) => (float[2,1] y) {
        y = If (go) < then_branch = t () => (float[2,1] p) { p = ReduceMean(x, axes) },
                      else_branch = e () => (float[2,1] q) { q = ReduceMax(x, axes) } > }""",
        axes=np.array([1]),
    )
    after, proof = ConvertOpset(13)(start, context())
    assert proof.decision is Decision.KEPT
    same_answers(start, after, rtol=0, atol=0)


@pytest.mark.parametrize(
    ("opset", "body", "output", "weights"),
    [
        (13, "y = ReduceMean<axes=[1], keepdims=0>(x)", (2,), {}),
        (11, "y = Squeeze<axes=[0]>(u)  u = Unsqueeze<axes=[0]>(x)", (2, 4), {}),
        (13, "y = Softmax<axis=1>(x)", (2, 4), {}),
        (12, "y = Clip(x, lo)", (2, 4), {"lo": np.float32(0.1)}),
    ],
)
def test_up(
    opset: int,
    body: str,
    output: tuple[int, ...],
    weights: dict[str, Any],
    program: Make,
    context: Make,
    same_answers: Make,
) -> None:  # fmt: skip
    if body.startswith("y = Squeeze"):
        body = "  ".join(reversed(body.split("  ")))
    dims = ",".join(map(str, output))
    start = program(f"g (float[2,4] x) => (float[{dims}] y) {{ {body} }}", opset=opset, **weights)
    after, proof = ConvertOpset(18)(start, context())
    assert proof.decision is Decision.KEPT
    assert after.opset == 18
    same_answers(start, after, rtol=1e-6, atol=1e-7)


def test_the_same_opset_is_no_change(program: Make, context: Make) -> None:
    start = program("g (float[2,4] x) => (float[2,4] y) { y = Relu(x) }")
    after, proof = ConvertOpset(18)(start, context())
    assert proof.decision is Decision.KEPT
    assert after.onnx_bytes == start.onnx_bytes
