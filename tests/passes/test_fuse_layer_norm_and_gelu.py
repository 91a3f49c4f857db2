"""FuseLayerNorm and FuseGelu on what exporters write: fused where it is one, left alone elsewhere."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from passes.onnx_level.fuse_gelu import FuseGelu
from passes.onnx_level.fuse_layer_norm import FuseLayerNorm
from tests.passes.spelled_out import (
    GELU,
    GELU_WEIGHTS,
    GELUS,
    LAYER_NORMS,
    NORM,
    NORM_WEIGHTS,
    mentioned,
    number,
)

Make = Callable[..., Any]


# ---- layer normalisation


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


@pytest.mark.parametrize("form", GELUS)
def test_a_gelu_becomes_one_operator(form: str, program: Make, fuse: Make, op_types: Make) -> None:
    approximate, body = GELUS[form]
    after = fuse(FuseGelu(), program(GELU % body, opset=20, **mentioned(body, GELU_WEIGHTS)))
    assert op_types(after) == ["Gelu"]
    assert next(iter(after.graph)).attributes["approximate"].as_string() == approximate


@pytest.mark.parametrize(
    ("form", "name"),
    [
        (form, name)
        for form in ("script", "tanh of script", "tanh of hugging face", "fast")
        for name in sorted(mentioned(GELUS[form][1], GELU_WEIGHTS))
    ],
)
def test_another_constant_is_another_function(form: str, name: str, program: Make, fuse: Make, op_types: Make) -> None:
    body = GELUS[form][1]
    weights = mentioned(body, GELU_WEIGHTS)
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
