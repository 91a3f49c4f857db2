"""FuseLayerNorm, FuseGelu and FuseAttention on what exporters write: fused where it is one, left alone elsewhere."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from passes.contract import Pass, PassFailed
from passes.dataset import Dataset
from passes.onnx_level.convert_opset import ConvertOpset
from passes.onnx_level.fold_constants import FoldConstants
from passes.onnx_level.fuse_attention import FuseAttention
from passes.onnx_level.fuse_gelu import FuseGelu
from passes.onnx_level.fuse_layer_norm import FuseLayerNorm
from passes.program import Program
from passes.proof import Decision
from passes.torch_level.export import Export

Make = Callable[..., Any]
number = np.float32


@pytest.fixture
def fuse(context: Make, same_answers: Make) -> Make:
    def apply(step: Pass, start: Program) -> Program:
        """The program after `step`; its answers are those before, and a second application changes nothing."""
        after, proof = step(start, context())
        assert (proof.decision, proof.reason) == (Decision.KEPT, "")
        same_answers(start, after)
        assert step.apply(after, context()).onnx_bytes == after.onnx_bytes
        return after

    return apply


def mentioned(body: str, values: dict[str, Any]) -> dict[str, Any]:
    """The weights that a body reads."""
    words = "".join(c if c.isalnum() or c == "_" else " " for c in body).split()
    return {name: value for name, value in values.items() if name in words}


# ---- layer normalisation

_CENTRED = "m = ReduceMean(x, last)  d = Sub(x, m)"
_POWER = f"{_CENTRED}  p = Pow(d, two)  v = ReduceMean(p, last)"
_PRODUCT = f"{_CENTRED}  p = Mul(d, d)  v = ReduceMean(p, last)"
_ROOT = "e = Add(v, eps)  r = Sqrt(e)"

LAYER_NORMS = {
    "torch script": f"{_POWER}  {_ROOT}  n = Div(d, r)  s = Mul(n, scale)  y = Add(s, bias)",
    "constants first": f"{_POWER}  e = Add(eps, v)  r = Sqrt(e)  n = Div(d, r)  s = Mul(scale, n)  y = Add(bias, s)",
    "squared by a product": f"{_PRODUCT}  {_ROOT}  n = Div(d, r)  s = Mul(n, scale)  y = Add(s, bias)",
    "difference taken twice": f"{_POWER}  f = Sub(x, m)  {_ROOT}  n = Div(f, r)  s = Mul(scale, n)  y = Add(s, bias)",
    "mean taken twice": f"""{_PRODUCT}  m2 = ReduceMean(x, last)  d2 = Sub(x, m2)  {_ROOT}
        n = Div(d2, r)  s = Mul(n, scale)  y = Add(s, bias)""",
    "rsqrt of dynamo": f"{_PRODUCT}  {_ROOT}  i = Reciprocal(r)  n = Mul(d, i)  s = Mul(n, scale)  y = Add(s, bias)",
    "rsqrt of script": f"{_PRODUCT}  {_ROOT}  i = Div(one, r)  n = Mul(d, i)  s = Mul(n, scale)  y = Add(s, bias)",
    "rsqrt first": f"{_PRODUCT}  {_ROOT}  i = Reciprocal(r)  n = Mul(i, d)  s = Mul(n, scale)  y = Add(s, bias)",
    "tensorflow": f"""{_PRODUCT}  {_ROOT}  i = Reciprocal(r)  g = Mul(i, scale)
        a = Mul(x, g)  b = Mul(m, g)  c = Sub(bias, b)  y = Add(a, c)""",
    "tensorflow, turned": f"""{_PRODUCT}  {_ROOT}  i = Reciprocal(r)  g = Mul(scale, i)
        a = Mul(g, x)  b = Mul(g, m)  c = Sub(bias, b)  y = Add(c, a)""",
    "no bias": f"{_POWER}  {_ROOT}  n = Div(d, r)  y = Mul(n, scale)",
    "plain": f"{_POWER}  {_ROOT}  y = Div(d, r)",
}
NORM_WEIGHTS: dict[str, Any] = {
    "last": np.array([-1]), "two": number(2), "one": number(1), "eps": number(1e-5), "scale": (8,), "bias": (8,),
}  # fmt: skip
NORM = "g (float[2,5,8] x) => (float[2,5,8] y) { %s }"


@pytest.mark.parametrize("form", LAYER_NORMS)
def test_a_layer_norm_becomes_one_operator(form: str, program: Make, fuse: Make, op_types: Make) -> None:
    body = LAYER_NORMS[form]
    after = fuse(FuseLayerNorm(), program(NORM % body, **mentioned(body, NORM_WEIGHTS)))
    assert op_types(after) == ["LayerNormalization"]
    (node,) = after.graph
    assert node.attributes["axis"].as_int() == 2
    assert node.attributes["epsilon"].as_float() == pytest.approx(1e-5)


@pytest.mark.parametrize("axes", ["[2]", "[-1]", "[1,2]", "[-2,-1]", "[2,1]"])
def test_axes_as_an_attribute_and_more_than_one(axes: str, program: Make, fuse: Make, op_types: Make) -> None:
    body = LAYER_NORMS["torch script"].replace("ReduceMean(x, last)", f"ReduceMean<axes={axes}>(x)")
    body = body.replace("ReduceMean(p, last)", f"ReduceMean<axes={axes}>(p)")
    shape = (8,) if "," not in axes else (5, 8)
    weights = {"two": number(2), "eps": number(1e-5), "scale": shape, "bias": shape}
    after = fuse(FuseLayerNorm(), program(NORM % body, opset=17, **weights))
    assert op_types(after) == ["LayerNormalization"]


def test_one_norm_behind_another(program: Make, fuse: Make, op_types: Make) -> None:
    """A transformer that normalises after each layer and once more at its end."""
    first = LAYER_NORMS["torch script"].replace("y = ", "z = ")
    second = "".join(c if c not in "x" else "z" for c in LAYER_NORMS["torch script"])
    for name in "mdpvern":
        second = second.replace(f"{name} = ", f"{name}2 = ").replace(f"({name}", f"({name}2").replace(
            f", {name})", f", {name}2)")  # fmt: skip
    second = second.replace("s = ", "s2 = ").replace("(s,", "(s2,").replace("e2ps", "eps")
    after = fuse(FuseLayerNorm(), program(NORM % f"{first}  {second}", **mentioned(first, NORM_WEIGHTS)))
    assert op_types(after) == ["LayerNormalization"] * 2


NO_NORMS = {
    "not the last axis": LAYER_NORMS["plain"].replace("last", "middle"),
    "two different axes": LAYER_NORMS["plain"].replace("ReduceMean(p, last)", "ReduceMean(p, middle)"),
    "a cube": LAYER_NORMS["plain"].replace("two", "three"),
    "root mean square": "p = Mul(x, x)  v = ReduceMean(p, last)  e = Add(v, eps)  r = Sqrt(e)  y = Div(x, r)",
    "the mean of something else": LAYER_NORMS["plain"].replace("ReduceMean(x", "ReduceMean(z").replace(
        "m = ", "z = Neg(x)  m = "),
    "upside down": LAYER_NORMS["plain"].replace("Div(d, r)", "Div(r, d)"),
    "sum in place of mean": LAYER_NORMS["plain"].replace("ReduceMean(p", "ReduceSum(p"),
    "tensorflow with another mean": LAYER_NORMS["tensorflow"].replace("Mul(m, g)", "Mul(x, g)"),
    "an epsilon for each row": LAYER_NORMS["plain"].replace("eps", "column"),
}  # fmt: skip


@pytest.mark.parametrize("case", NO_NORMS)
def test_what_only_looks_like_a_layer_norm_stays(case: str, program: Make, fuse: Make, op_types: Make) -> None:
    body = NO_NORMS[case]
    values = {
        **NORM_WEIGHTS, "middle": np.array([1]), "three": number(3), "column": np.full((5, 1), 0.5, np.float32),
    }  # fmt: skip
    start = program(NORM % body, **mentioned(body, values))
    assert fuse(FuseLayerNorm(), start).onnx_bytes == start.onnx_bytes


@pytest.mark.parametrize("kept", "mdvrn")
def test_a_norm_whose_parts_are_read_elsewhere_stays(kept: str, program: Make, fuse: Make, op_types: Make) -> None:
    """The parts would have to be computed beside the fused operator."""
    body = LAYER_NORMS["torch script"]
    last = 8 if kept in "dn" else 1
    text = f"g (float[2,5,8] x) => (float[2,5,8] y, float[2,5,{last}] {kept}) {{ {body} }}"
    after = fuse(FuseLayerNorm(), program(text, **mentioned(body, NORM_WEIGHTS)))
    if kept == "n":  # scale and bias may stay outside
        assert op_types(after) == ["LayerNormalization", "Mul", "Add"]
    else:
        assert "LayerNormalization" not in op_types(after)


@pytest.mark.parametrize("constant", ["scale", "bias"])
def test_a_constant_of_another_shape_stays_outside(constant: str, program: Make, fuse: Make, op_types: Make) -> None:
    body = LAYER_NORMS["torch script"]
    weights = {**mentioned(body, NORM_WEIGHTS), constant: (5, 8)}
    after = fuse(FuseLayerNorm(), program(NORM % body, **weights))
    assert op_types(after) == ["LayerNormalization"] + (["Mul", "Add"] if constant == "scale" else ["Add"])


def test_a_norm_over_varying_rows(program: Make, fuse: Make, op_types: Make) -> None:
    body = LAYER_NORMS["torch script"]
    text = f"g (float[batch,length,8] x) => (float[batch,length,8] y) {{ {body} }}"
    assert op_types(fuse(FuseLayerNorm(), program(text, **mentioned(body, NORM_WEIGHTS)))) == ["LayerNormalization"]


def test_a_norm_of_a_width_that_varies_stays(program: Make, fuse: Make) -> None:
    body = LAYER_NORMS["plain"]
    start = program(f"g (float[2,width] x) => (float[2,width] y) {{ {body} }}", **mentioned(body, NORM_WEIGHTS))
    assert fuse(FuseLayerNorm(), start).onnx_bytes == start.onnx_bytes


def test_doubles_stay_spelled_out(program: Make, fuse: Make) -> None:
    """Runtimes have the fused operator for float32 and float16 alone."""
    body = LAYER_NORMS["plain"]
    weights = {"last": np.array([-1]), "two": np.float64(2), "eps": np.float64(1e-5)}
    start = program(f"g (double[2,8] x) => (double[2,8] y) {{ {body} }}", **weights)
    assert fuse(FuseLayerNorm(), start).onnx_bytes == start.onnx_bytes


def test_epsilon_of_a_higher_rank_keeps_the_shape(program: Make, fuse: Make) -> None:
    body = LAYER_NORMS["plain"]
    weights = {**mentioned(body, NORM_WEIGHTS), "eps": np.full((1, 1, 1, 1), 1e-5, np.float32)}
    fuse(FuseLayerNorm(), program(f"g (float[2,5,8] x) => (float[1,2,5,8] y) {{ {body} }}", **weights))


# ---- GELU

_ERF = "e = Erf(a)  f = Add(e, one)"
_CUBE = "c = Mul(q, k)  s = Add(x, c)  t = Mul(s, root)  e = Tanh(t)  f = Add(e, one)"
GELUS = {
    "script": ("none", f"a = Div(x, two)  {_ERF}  h = Mul(x, f)  y = Mul(h, half)"),
    "dynamo": ("none", f"a = Div(x, two)  {_ERF}  h = Mul(half, f)  y = Mul(x, h)"),
    "hugging face": ("none", f"h = Mul(x, half)  a = Div(x, two)  {_ERF}  y = Mul(h, f)"),
    "tensorflow": ("none", "h = Mul(half, x)  a = Div(x, two)  e = Erf(a)  f = Add(one, e)  y = Mul(h, f)"),
    "multiplied by the inverse": ("none", f"a = Mul(x, inverse)  {_ERF}  h = Mul(half, f)  y = Mul(x, h)"),
    "inverse first": ("none", f"a = Mul(inverse, x)  {_ERF}  h = Mul(x, f)  y = Mul(half, h)"),
    "halved by a division": ("none", f"a = Div(x, two)  {_ERF}  h = Mul(x, f)  y = Div(h, whole)"),
    "x halved by a division": ("none", f"h = Div(x, whole)  a = Div(x, two)  {_ERF}  y = Mul(h, f)"),
    "tanh of dynamo": ("tanh", """q = Pow(x, three)  c = Mul(k, q)  s = Add(x, c)  t = Mul(root, s)  e = Tanh(t)
        f = Add(e, one)  h = Mul(half, f)  y = Mul(x, h)"""),
    "tanh of script": ("tanh", """w = Mul(x, x)  q = Mul(x, w)  c = Mul(k, q)  s = Add(x, c)  t = Mul(root, s)
        e = Tanh(t)  f = Add(one, e)  h = Mul(x, f)  y = Mul(half, h)"""),
    "tanh of hugging face": ("tanh", f"h = Mul(x, half)  q = Pow(x, three)  {_CUBE}  y = Mul(h, f)"),
    "tanh of gpt": ("tanh", f"w = Mul(x, x)  q = Mul(w, x)  {_CUBE}  h = Mul(x, f)  y = Mul(h, half)"),
    "fast": ("tanh", """h = Mul(x, half)  r = Mul(x, root)  u = Mul(x, k)  w = Mul(u, x)  s = Add(w, one)
        t = Mul(r, s)  e = Tanh(t)  f = Add(e, one)  y = Mul(h, f)"""),
}  # fmt: skip
GELU_WEIGHTS: dict[str, Any] = {
    "two": number(2**0.5), "inverse": number(0.5**0.5), "one": number(1), "half": number(0.5), "whole": number(2),
    "three": number(3), "k": number(0.044715), "root": number((2 / np.pi) ** 0.5),
}  # fmt: skip
GELU = "g (float[2,64] x) => (float[2,64] y) { %s }"


@pytest.mark.parametrize("form", GELUS)
def test_a_gelu_becomes_one_operator(form: str, program: Make, fuse: Make, op_types: Make) -> None:
    approximate, body = GELUS[form]
    after = fuse(FuseGelu(), program(GELU % body, opset=20, **mentioned(body, GELU_WEIGHTS)))
    assert op_types(after) == ["Gelu"]
    assert next(iter(after.graph)).attributes["approximate"].as_string() == approximate


@pytest.mark.parametrize("name", ["two", "one", "half", "k", "root", "three"])
@pytest.mark.parametrize("form", ["script", "tanh of script", "tanh of hugging face", "fast"])
def test_another_constant_is_another_function(form: str, name: str, program: Make, fuse: Make, op_types: Make) -> None:
    body = GELUS[form][1]
    weights = mentioned(body, GELU_WEIGHTS)
    if name not in weights:
        return
    start = program(GELU % body, opset=20, **{**weights, name: weights[name] * number(1.01)})
    assert "Gelu" not in op_types(fuse(FuseGelu(), start))


GATES = {
    "gate of another tensor": ("z = Neg(x)  " + GELUS["script"][1]).replace("Mul(x, f)", "Mul(z, f)"),
    "sigmoid": "s = Mul(x, k)  f = Sigmoid(s)  y = Mul(x, f)",
    "a constant for each column": GELUS["script"][1].replace("half", "halves"),
}


@pytest.mark.parametrize("case", GATES)
def test_what_only_looks_like_a_gelu_stays(case: str, program: Make, fuse: Make, op_types: Make) -> None:
    body = GATES[case]
    values = {**GELU_WEIGHTS, "halves": np.linspace(0.4, 0.6, 64, dtype=np.float32)}
    assert "Gelu" not in op_types(fuse(FuseGelu(), program(GELU % body, opset=20, **mentioned(body, values))))


@pytest.mark.parametrize("kept", ["a", "e", "f", "h"])
def test_a_gelu_whose_parts_are_read_elsewhere_stays(kept: str, program: Make, fuse: Make, op_types: Make) -> None:
    body = GELUS["script"][1]
    text = f"g (float[2,64] x) => (float[2,64] y, float[2,64] {kept}) {{ {body} }}"
    assert "Gelu" not in op_types(fuse(FuseGelu(), program(text, opset=20, **mentioned(body, GELU_WEIGHTS))))


def test_a_gelu_of_any_size(program: Make, fuse: Make, op_types: Make) -> None:
    body = GELUS["script"][1]
    text = f"g (float[batch,64] x) => (float[batch,64] y) {{ {body} }}"
    assert op_types(fuse(FuseGelu(), program(text, opset=20, **mentioned(body, GELU_WEIGHTS)))) == ["Gelu"]


def test_one_gelu_behind_another(program: Make, fuse: Make, op_types: Make) -> None:
    body = """a = Div(x, two)  e = Erf(a)  f = Add(e, one)  h = Mul(x, f)  z = Mul(h, half)
        a2 = Div(z, two)  e2 = Erf(a2)  f2 = Add(e2, one)  h2 = Mul(z, f2)  y = Mul(h2, half)"""
    assert op_types(fuse(FuseGelu(), program(GELU % body, opset=20, **mentioned(body, GELU_WEIGHTS)))) == ["Gelu"] * 2


def test_a_constant_that_widens_the_result_stays(program: Make, fuse: Make) -> None:
    body = GELUS["script"][1]
    weights = {**mentioned(body, GELU_WEIGHTS), "half": np.full((1, 1, 1), 0.5, np.float32)}
    fuse(FuseGelu(), program(f"g (float[2,64] x) => (float[1,2,64] y) {{ {body} }}", opset=20, **weights))


# ---- attention

_TURN = "t = Transpose<perm=[0,1,3,2]>(k)"
_SOFT = "p = Softmax<axis=-1>(s)  y = MatMul(p, v)"
ATTENTIONS = {
    "scores multiplied": f"{_TURN}  a = MatMul(q, t)  s = Mul(a, scale)  {_SOFT}",
    "scores multiplied, constant first": f"{_TURN}  a = MatMul(q, t)  s = Mul(scale, a)  {_SOFT}",
    "scores divided": f"{_TURN}  a = MatMul(q, t)  s = Div(a, root)  {_SOFT}",
    "q multiplied": f"{_TURN}  r = Mul(q, scale)  s = MatMul(r, t)  {_SOFT}",
    "q divided": f"{_TURN}  r = Div(q, root)  s = MatMul(r, t)  {_SOFT}",
    "turned k multiplied": f"{_TURN}  r = Mul(t, scale)  s = MatMul(q, r)  {_SOFT}",
    "k multiplied": f"r = Mul(k, scale)  t = Transpose<perm=[0,1,3,2]>(r)  s = MatMul(q, t)  {_SOFT}",
    "both multiplied": f"{_TURN}  r = Mul(q, part)  u = Mul(t, part)  s = MatMul(r, u)  {_SOFT}",
    "not scaled": f"{_TURN}  s = MatMul(q, t)  {_SOFT}",
    "mask": f"{_TURN}  a = MatMul(q, t)  b = Mul(a, scale)  s = Add(b, mask)  {_SOFT}",
    "mask first": f"{_TURN}  a = MatMul(q, t)  b = Div(a, root)  s = Add(mask, b)  {_SOFT}",
    "mask on scaled q": f"{_TURN}  r = Mul(q, scale)  a = MatMul(r, t)  s = Add(a, mask)  {_SOFT}",
    "axis counted from the front": f"{_TURN}  s = MatMul(q, t)  p = Softmax<axis=3>(s)  y = MatMul(p, v)",
}
CAUSAL = np.where(np.tril(np.ones((5, 7), bool), 2), 0, -np.inf).astype(np.float32)
ATTENTION_WEIGHTS: dict[str, Any] = {
    "scale": number(0.5), "root": number(2), "part": number(0.5**0.5), "mask": CAUSAL,
}  # fmt: skip
ATTENTION = "g (float[2,3,5,4] q, float[2,3,7,4] k, float[2,3,7,6] v) => (float[2,3,5,6] y) { %s }"


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


def test_a_boolean_mask_is_left_alone(program: Make, fuse: Make, op_types: Make) -> None:
    """The value that stands for "no" is a finite number in many a network, and Attention knows minus infinity alone."""
    body = f"{_TURN}  a = MatMul(q, t)  b = Mul(a, scale)  s = Where(seen, b, low)  {_SOFT}"
    weights = {"scale": number(0.5), "seen": np.isfinite(CAUSAL), "low": number(-5)}
    assert "Attention" not in op_types(fuse(FuseAttention(), program(ATTENTION % body, opset=23, **weights)))


NO_ATTENTIONS = {
    "softmax over rows": ATTENTIONS["not scaled"].replace("axis=-1", "axis=2"),
    "softmax over heads": ATTENTIONS["not scaled"].replace("axis=-1", "axis=1"),
    "weights on the right": f"{_TURN}  s = MatMul(q, t)  p = Softmax<axis=-1>(s)  y = MatMul(w, p)",
    "a scale for each head": f"{_TURN}  a = MatMul(q, t)  s = Mul(a, heads)  {_SOFT}",
    "scaled after the mask": f"{_TURN}  a = MatMul(q, t)  b = Add(a, mask)  s = Mul(b, scale)  {_SOFT}",
    "no product": "s = Add(mask, mask)  p = Softmax<axis=-1>(s)  y = MatMul(p, v)",
    "reciprocal of the scores": f"{_TURN}  a = MatMul(q, t)  s = Div(root, a)  {_SOFT}",
    "divided by nothing": f"{_TURN}  a = MatMul(q, t)  b = Div(a, nothing)  s = Clip(b, low, root)  {_SOFT}",
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
    body = f"{_TURN}  s = MatMul(q, t)  p = Softmax<axis=-1>(s)  b = MatMul(p, v)  c = MatMul(p, w)  y = Add(b, c)"
    assert "Attention" not in op_types(fuse(FuseAttention(), program(ATTENTION % body, opset=23, w=(7, 6))))


def test_scaled_q_that_is_read_twice_is_taken_as_it_is(program: Make, fuse: Make, op_types: Make) -> None:
    body = f"{_TURN}  r = Mul(q, scale)  s = MatMul(r, t)  {_SOFT}  z = Neg(r)"
    text = (ATTENTION % body).replace("(float[2,3,5,6] y)", "(float[2,3,5,6] y, float[2,3,5,4] z)")
    after = fuse(FuseAttention(), program(text, opset=23, scale=number(0.5)))
    assert sorted(op_types(after)) == ["Attention", "Mul", "Neg"]
    assert attributes(after, "Attention")["scale"] == 1.0


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


def test_a_mask_of_a_batch_that_may_differ_is_left_alone(program: Make, fuse: Make, op_types: Make) -> None:
    inputs = "float[n,3,5,4] q, float[n,3,7,4] k, float[n,3,7,6] v, float[m,1,5,7] mask"
    text = f"g ({inputs}) => (float[n,3,5,6] y) {{ {ATTENTIONS['mask']} }}"
    assert "Attention" not in op_types(fuse(FuseAttention(), program(text, opset=23, scale=number(0.5))))


def test_attention_to_attention(program: Make, fuse: Make, op_types: Make) -> None:
    """The answer of one is the q of the next, without a layer between them."""
    body = f"""{_TURN}  s = MatMul(q, t)  p = Softmax<axis=-1>(s)  z = MatMul(p, v)
        s2 = MatMul(z, t)  p2 = Softmax<axis=-1>(s2)  y = MatMul(p2, v)"""
    text = f"g (float[2,3,5,4] q, float[2,3,7,4] k, float[2,3,7,4] v) => (float[2,3,5,4] y) {{ {body} }}"
    assert op_types(fuse(FuseAttention(), program(text, opset=23))) == ["Attention"] * 2


def test_tensors_of_three_dimensions_stay(program: Make, fuse: Make, op_types: Make) -> None:
    body = ATTENTIONS["not scaled"].replace("[0,1,3,2]", "[0,2,1]")
    text = f"g (float[2,5,4] q, float[2,7,4] k, float[2,7,6] v) => (float[2,5,6] y) {{ {body} }}"
    assert "Attention" not in op_types(fuse(FuseAttention(), program(text, opset=23)))


# ---- all three


@pytest.mark.parametrize(
    ("step", "text", "weights"),
    [
        (FuseLayerNorm(), NORM % LAYER_NORMS["plain"], NORM_WEIGHTS),
        (FuseGelu(), GELU % GELUS["script"][1], GELU_WEIGHTS),
        (FuseAttention(), ATTENTION % ATTENTIONS["mask"], ATTENTION_WEIGHTS),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Pass) else "",
)
def test_an_opset_without_the_operator_is_refused(
    step: Any, text: str, weights: dict[str, Any], program: Make, context: Make
) -> None:
    old = step.opset - 1
    if step.opset == 17:
        text = text.replace("ReduceMean(x, last)", "ReduceMean<axes=[-1]>(x)")
        text = text.replace("ReduceMean(p, last)", "ReduceMean<axes=[-1]>(p)")
    start = program(text, opset=old, **mentioned(text, weights))
    with pytest.raises(PassFailed, match=f"opset {step.opset}.* is in {old}") as refusal:
        step(start, context())
    assert refusal.value.hint


# ---- real exports


class Spelled(nn.Module):
    """Layer normalisation and GELU as HuggingFace's older models write them."""

    def __init__(self, tanh: bool) -> None:
        super().__init__()
        self.scale, self.bias, self.tanh = nn.Parameter(torch.rand(8)), nn.Parameter(torch.rand(8)), tanh

    def forward(self, x: Tensor) -> Tensor:
        mean = x.mean(-1, keepdim=True)
        variance = (x - mean).pow(2).mean(-1, keepdim=True)
        x = self.scale * ((x - mean) / torch.sqrt(variance + 1e-12)) + self.bias
        if self.tanh:
            return 0.5 * x * (1 + torch.tanh((2 / torch.pi) ** 0.5 * (x + 0.044715 * torch.pow(x, 3.0))))
        return x * 0.5 * (1.0 + torch.erf(x / 2**0.5))


def exported(start: Program, context: Make, opset: int) -> Program:
    """A module as dynamo writes it in opset 18, then in `opset`."""
    program = start
    for step in (Export(18), FoldConstants(), ConvertOpset(opset)):
        program, proof = step(program, context())
        assert proof.decision is Decision.KEPT
    return program


@pytest.mark.slow
def test_a_module_that_spells_them_out(
    torch_program: Make, context: Make, noise: Make, fuse: Make, op_types: Make
) -> None:
    start = exported(torch_program(Spelled(tanh=True), x=noise(2, 5, 8)), context, 20)
    assert op_types(fuse(FuseGelu(), fuse(FuseLayerNorm(), start))) == ["LayerNormalization", "Gelu"]


class Attends(nn.Module):
    def __init__(self, causal: bool = False, mask: Tensor | None = None) -> None:
        super().__init__()
        self.causal = causal
        self.register_buffer("mask", mask)

    def forward(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        mask = self.mask.log() if self.mask is not None else None
        return nn.functional.scaled_dot_product_attention(q, k, v, mask, is_causal=self.causal)


@pytest.mark.slow
def test_attention_of_torch_over_a_varying_batch_and_length(
    torch_program: Make, context: Make, noise: Make, fuse: Make, op_types: Make
) -> None:
    x = {name: noise(2, 3, 5, 4, seed=i) for i, name in enumerate("qkv")}
    vary = {name: {0: "batch", 2: "length"} for name in "qkv"}
    after = fuse(FuseAttention(), exported(torch_program(Attends(), vary, **x), context, 23))
    assert op_types(after).count("Attention") == 1
    assert "Softmax" not in op_types(after)


@pytest.mark.slow
@pytest.mark.parametrize("module", [Attends(causal=True), Attends(mask=torch.rand(5, 5)), Attends()],
                         ids=["causal", "mask", "plain"])  # fmt: skip
def test_attention_of_torch(
    module: nn.Module, torch_program: Make, context: Make, noise: Make, fuse: Make, op_types: Make
) -> None:
    start = torch_program(module, **{name: noise(2, 3, 5, 4, seed=i) for i, name in enumerate("qkv")})
    assert op_types(fuse(FuseAttention(), exported(start, context, 23))) == ["Attention"]


class SelfAttention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.attend = nn.MultiheadAttention(8, 2, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        answer: Tensor = self.attend(x, x, x, need_weights=False)[0]
        return answer


def encoder(first: bool) -> nn.Module:
    layer = nn.TransformerEncoderLayer(8, 2, 16, activation="gelu", batch_first=True, norm_first=first)
    return nn.TransformerEncoder(layer, 2, norm=nn.LayerNorm(8), enable_nested_tensor=False)


@pytest.mark.slow
@pytest.mark.parametrize("vary", [{}, {"x": {0: "batch"}}, {"x": {0: "batch", 1: "length"}}], ids=len)
@pytest.mark.parametrize(
    ("module", "norms", "attentions"),
    [(SelfAttention(), 0, 1), (encoder(True), 5, 2), (encoder(False), 5, 2)],
    ids=["attention", "norm first", "norm last"],
)
def test_transformers_of_torch(
    module: nn.Module, norms: int, attentions: int, vary: Any, torch_program: Make, context: Make, noise: Make,
    fuse: Make, op_types: Make,
) -> None:  # fmt: skip
    start = exported(torch_program(module, vary, x=noise(2, 5, 8)), context, 23)
    after = fuse(FuseAttention(), fuse(FuseGelu(), fuse(FuseLayerNorm(), start)))
    found = op_types(after)
    assert found.count("LayerNormalization") == norms
    assert found.count("Attention") == attentions
    assert found.count("Gelu") == (2 if norms else 0)
    assert not {"Softmax", "Erf", "Sqrt"} & set(found)
    truth = Dataset("d", lambda: [{"x": noise(2, 5, 8, seed=9)}], 1)
    (want,), (have,) = list(start.truth.answers(truth)), list(after.answers(truth))
    np.testing.assert_allclose(have["output"], want["output"], rtol=1e-4, atol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("opset", [14, 16, 17])
@pytest.mark.parametrize("case", ["norm last", "tanh", "erf"])
def test_torchs_older_exporter(
    case: str, opset: int, torch_program: Make, context: Make, noise: Make, fuse: Make, op_types: Make
) -> None:
    """It writes older opsets, in which everything is spelled out."""
    import io

    import onnx
    import onnx_ir

    module = {"norm last": encoder(False), "tanh": Spelled(True), "erf": Spelled(False)}[case]
    start = torch_program(module, x=noise(2, 5, 8))
    file = io.BytesIO()
    torch.onnx.export(start.model, (torch.from_numpy(noise(2, 5, 8)),), file, dynamo=False, opset_version=opset,
                      input_names=["x"], output_names=["output"])  # fmt: skip
    from dataclasses import replace

    from passes.program import Level

    model = onnx_ir.from_proto(onnx.load_model_from_string(file.getvalue()))
    raised = replace(start, level=Level.ONNX, model=model, facts=frozenset({"exported"}))
    for step in (FoldConstants(), ConvertOpset(23)):
        raised, proof = step(raised, context())
        assert proof.decision is Decision.KEPT
    found = op_types(fuse(FuseAttention(), fuse(FuseGelu(), fuse(FuseLayerNorm(), raised))))
    assert found.count("LayerNormalization") == (5 if case == "norm last" else 1)
    assert found.count("Gelu") == (2 if case == "norm last" else 1)
    assert found.count("Attention") == (2 if case == "norm last" else 0)
