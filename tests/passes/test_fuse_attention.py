"""FuseAttention on what exporters write: every scale and mask that it may take, and what it leaves alone."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from passes.onnx_level.fuse_attention import FuseAttention
from passes.program import Program
from tests.passes.spelled_out import (
    ATTENTION,
    ATTENTION_WEIGHTS,
    ATTENTIONS,
    CAUSAL,
    SOFT,
    TURN,
    mentioned,
    number,
)

Make = Callable[..., Any]


def attributes(after: Program, op_type: str) -> dict[str, Any]:
    (node,) = [n for n in after.graph if n.op_type == op_type]
    return {name: a.value for name, a in node.attributes.items()}


@pytest.mark.parametrize("form", ATTENTIONS)
def test_attention_becomes_one_operator(form: str, program: Make, fuse: Make, op_types: Make) -> None:
    body = ATTENTIONS[form]
    after = fuse(FuseAttention(), program(ATTENTION % body, opset=23, **mentioned(body, ATTENTION_WEIGHTS)))
    assert op_types(after) == (["Mul", "Attention"] if form == "k multiplied" else ["Attention"])
    unscaled = form in ("not scaled", "axis counted from the front", "k multiplied")
    assert attributes(after, "Attention")["scale"] == pytest.approx(1.0 if unscaled else 0.5)


# ---- masks

MASKS = [(7,), (1, 7), (5, 7), (3, 5, 7), (1, 5, 7), (2, 3, 5, 7), (2, 1, 1, 7), (1, 3, 5, 7), (1, 1, 5, 7), (5, 1), (),
         (2, 3, 5, 1)]  # fmt: skip


@pytest.mark.parametrize("shape", MASKS, ids=str)
def test_masks_of_every_shape(shape: tuple[int, ...], program: Make, fuse: Make, op_types: Make) -> None:
    """ONNX lets the rows of a mask broadcast; onnxruntime 1.31 refuses that."""
    body = ATTENTIONS["mask"]
    rng = np.random.default_rng(1)
    weights = {"scale": number(0.5), "mask": rng.standard_normal(shape).astype(np.float32)}
    after = fuse(FuseAttention(), program(ATTENTION % body, opset=23, **weights))
    assert ("Attention" in op_types(after)) == (shape[-2:] == (5, 7))


@pytest.mark.parametrize("shape", ["3,5,7", "2,3,5,7", "5,7", "1,1,5,7"])
def test_a_mask_may_be_computed(shape: str, program: Make, fuse: Make, op_types: Make) -> None:
    inputs = f"float[2,3,5,4] q, float[2,3,7,4] k, float[2,3,7,6] v, float[{shape}] mask"
    body = ATTENTIONS["mask"]
    text = f"g ({inputs}) => (float[2,3,5,6] y) {{ {body} }}"
    after = fuse(FuseAttention(), program(text, opset=23, scale=number(0.5)))
    assert op_types(after) == ["Attention"]


def test_a_mask_that_makes_a_batch_is_left_alone(program: Make, fuse: Make, op_types: Make) -> None:
    """Added to the scores of one sample it gives those of two; Attention knows but one."""
    inputs = "float[1,3,5,4] q, float[1,3,7,4] k, float[1,3,7,6] v, float[2,1,5,7] mask"
    text = f"g ({inputs}) => (float[2,3,5,6] y) {{ {ATTENTIONS['mask']} }}"
    assert "Attention" not in op_types(fuse(FuseAttention(), program(text, opset=23, scale=number(0.5))))


def test_a_mask_that_makes_rows_is_left_alone(program: Make, fuse: Make, op_types: Make) -> None:
    inputs = "float[1,3,1,4] q, float[1,3,7,4] k, float[1,3,7,6] v, float[5,7] mask"
    text = f"g ({inputs}) => (float[1,3,5,6] y) {{ {ATTENTIONS['mask']} }}"
    assert "Attention" not in op_types(fuse(FuseAttention(), program(text, opset=23, scale=number(0.5))))


def test_a_mask_of_a_batch_that_may_differ_is_left_alone(program: Make, fuse: Make, op_types: Make) -> None:
    inputs = "float[n,3,5,4] q, float[n,3,7,4] k, float[n,3,7,6] v, float[m,1,5,7] mask"
    text = f"g ({inputs}) => (float[n,3,5,6] y) {{ {ATTENTIONS['mask']} }}"
    assert "Attention" not in op_types(fuse(FuseAttention(), program(text, opset=23, scale=number(0.5))))


def test_a_boolean_mask_is_left_alone(program: Make, fuse: Make, op_types: Make) -> None:
    """The value that stands for "no" is a finite number in many a network, and Attention knows minus infinity alone."""
    body = f"{TURN}  a = MatMul(q, t)  b = Mul(a, scale)  s = Where(seen, b, low)  {SOFT}"
    weights = {"scale": number(0.5), "seen": np.isfinite(CAUSAL), "low": number(-5)}
    assert "Attention" not in op_types(fuse(FuseAttention(), program(ATTENTION % body, opset=23, **weights)))


# ---- what stays

NO_ATTENTIONS = {
    "softmax over rows": ATTENTIONS["not scaled"].replace("axis=-1", "axis=2"),
    "softmax over heads": ATTENTIONS["not scaled"].replace("axis=-1", "axis=1"),
    "weights on the right": f"{TURN}  s = MatMul(q, t)  p = Softmax<axis=-1>(s)  y = MatMul(w, p)",
    "a scale for each head": f"{TURN}  a = MatMul(q, t)  s = Mul(a, heads)  {SOFT}",
    "scaled after the mask": f"{TURN}  a = MatMul(q, t)  b = Add(a, mask)  s = Mul(b, scale)  {SOFT}",
    "no product": "s = Add(mask, mask)  p = Softmax<axis=-1>(s)  y = MatMul(p, v)",
    "reciprocal of the scores": f"{TURN}  a = MatMul(q, t)  s = Div(root, a)  {SOFT}",
    "divided by nothing": f"{TURN}  a = MatMul(q, t)  b = Div(a, nothing)  s = Clip(b, low, root)  {SOFT}",
}


@pytest.mark.parametrize("case", NO_ATTENTIONS)
def test_what_only_looks_like_attention_stays(case: str, program: Make, fuse: Make, op_types: Make) -> None:
    body = NO_ATTENTIONS[case]
    weights = {
        **ATTENTION_WEIGHTS, "heads": np.array([1, 2, 3], np.float32).reshape(3, 1, 1), "w": (6, 5),
        "nothing": number(0), "low": number(-2),
    }  # fmt: skip
    shape = {"weights on the right": "2,3,6,7", "no product": "2,3,5,6"}.get(case, "2,3,5,6")
    text = (ATTENTION % body).replace("float[2,3,5,6] y", f"float[{shape}] y")
    assert "Attention" not in op_types(fuse(FuseAttention(), program(text, opset=23, **mentioned(body, weights))))


def test_a_division_by_zero_does_not_stop_the_pass(program: Make, context: Make) -> None:
    body = ATTENTIONS["scores divided"]
    start = program(ATTENTION % body, opset=23, root=number(0))
    assert FuseAttention().apply(start, context()).onnx_bytes == start.onnx_bytes


@pytest.mark.parametrize(
    ("q", "k", "v"),
    [("2,3,5,4", "2,1,7,4", "2,3,7,6"), ("2,3,5,4", "2,3,7,4", "1,3,7,6"), ("1,3,5,4", "2,3,7,4", "2,3,7,6")],
)
def test_heads_that_broadcast_are_left_alone(q: str, k: str, v: str, program: Make, fuse: Make, op_types: Make) -> None:
    text = f"g (float[{q}] q, float[{k}] k, float[{v}] v) => (float[2,3,5,6] y) {{ {ATTENTIONS['not scaled']} }}"
    assert "Attention" not in op_types(fuse(FuseAttention(), program(text, opset=23)))


@pytest.mark.parametrize("kept", ["a", "s", "p"])
def test_attention_whose_parts_are_read_elsewhere_stays(kept: str, program: Make, fuse: Make, op_types: Make) -> None:
    body = ATTENTIONS["scores multiplied"]
    text = (ATTENTION % body).replace("(float[2,3,5,6] y)", f"(float[2,3,5,6] y, float[2,3,5,7] {kept})")
    assert "Attention" not in op_types(fuse(FuseAttention(), program(text, opset=23, scale=number(0.5))))


def test_a_softmax_that_is_read_twice_stays(program: Make, fuse: Make, op_types: Make) -> None:
    body = f"{TURN}  s = MatMul(q, t)  p = Softmax<axis=-1>(s)  b = MatMul(p, v)  c = MatMul(p, w)  y = Add(b, c)"
    assert "Attention" not in op_types(fuse(FuseAttention(), program(ATTENTION % body, opset=23, w=(7, 6))))


def test_scaled_q_that_is_read_twice_is_taken_as_it_is(program: Make, fuse: Make, op_types: Make) -> None:
    body = f"{TURN}  r = Mul(q, scale)  s = MatMul(r, t)  {SOFT}  z = Neg(r)"
    text = (ATTENTION % body).replace("(float[2,3,5,6] y)", "(float[2,3,5,6] y, float[2,3,5,4] z)")
    after = fuse(FuseAttention(), program(text, opset=23, scale=number(0.5)))
    assert sorted(op_types(after)) == ["Attention", "Mul", "Neg"]
    assert attributes(after, "Attention")["scale"] == 1.0


def test_tensors_of_three_dimensions_stay(program: Make, fuse: Make, op_types: Make) -> None:
    body = ATTENTIONS["not scaled"].replace("[0,1,3,2]", "[0,2,1]")
    text = f"g (float[2,5,4] q, float[2,7,4] k, float[2,7,6] v) => (float[2,5,6] y) {{ {body} }}"
    assert "Attention" not in op_types(fuse(FuseAttention(), program(text, opset=23)))


# ---- sizes and chains


@pytest.mark.parametrize(
    ("dims", "fused"), [("batch,3,length", True), ("batch,heads,length", True), ("2,3,length", True)]
)
def test_varying_sizes(dims: str, fused: bool, program: Make, fuse: Make, op_types: Make) -> None:
    body = ATTENTIONS["scores multiplied"]
    text = f"g (float[{dims},4] q, float[{dims},4] k, float[{dims},4] v) => (float[{dims},4] y) {{ {body} }}"
    assert ("Attention" in op_types(fuse(FuseAttention(), program(text, opset=23, scale=number(0.5))))) == fused


def test_batches_that_may_differ_are_left_alone(program: Make, fuse: Make, op_types: Make) -> None:
    body = ATTENTIONS["scores multiplied"]
    text = f"""g (float[n,3,5,4] q, float[m,3,7,4] k, float[n,3,7,6] v) => (float[n,3,5,6] y) {{ {body} }}"""
    assert "Attention" not in op_types(fuse(FuseAttention(), program(text, opset=23, scale=number(0.5))))


def test_attention_to_attention(program: Make, fuse: Make, op_types: Make) -> None:
    """The answer of one is the q of the next, without a layer between them."""
    body = f"""{TURN}  s = MatMul(q, t)  p = Softmax<axis=-1>(s)  z = MatMul(p, v)
        s2 = MatMul(z, t)  p2 = Softmax<axis=-1>(s2)  y = MatMul(p2, v)"""
    text = f"g (float[2,3,5,4] q, float[2,3,7,4] k, float[2,3,7,4] v) => (float[2,3,5,4] y) {{ {body} }}"
    assert op_types(fuse(FuseAttention(), program(text, opset=23))) == ["Attention"] * 2
