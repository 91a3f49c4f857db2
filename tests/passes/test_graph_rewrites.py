"""FoldConstants, FuseBatchNorm and FuseActivation: the graph they leave and the answers they keep."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from passes.onnx_level.fold_constants import FoldConstants
from passes.onnx_level.fuse_activation import FuseActivation
from passes.onnx_level.fuse_batch_norm import FuseBatchNorm
from passes.program import Level
from passes.proof import Decision
from passes.recipe import float32
from passes.running import run

Make = Callable[..., Any]
NORM = {"g": (8,), "b": (8,), "m": (8,), "v": np.linspace(0.5, 2, 8, dtype=np.float32)}
BATCH_NORM = "BatchNormalization(c, g, b, m, v)"


def test_constants_are_computed_and_dead_code_dropped(
    program: Make, context: Make, same_answers: Make, op_types: Make
) -> None:
    start = program(
        """g (float[2,4] x) => (float[2,4] y) {
        dead = Tanh(x)  two = Constant<value_float=2.0>()  t = Transpose(w)  s = Mul(t, two)
        i = Identity(x)  y = Add(i, s) }""",
        w=(4, 1),
    )
    after, proof = FoldConstants()(start, context())
    assert proof.decision is Decision.KEPT
    assert op_types(after) == ["Add"]
    assert len(after.graph.initializers) == 1
    assert after.facts >= {"exported", "constants_folded"}
    same_answers(start, after)


def test_a_large_result_stays_computed(program: Make, context: Make, op_types: Make) -> None:
    text = "g (float[64,64] x) => (float[64,64] y) { e = Expand(one, shape) y = Add(x, e) }"
    weights = {"one": np.ones((1, 1), np.float32), "shape": np.array([64, 64])}
    large, _ = FoldConstants(max_elements=64 * 64 - 1)(program(text, **weights), context())
    small, _ = FoldConstants(max_elements=64 * 64)(program(text, **weights), context())
    assert op_types(large) == ["Expand", "Add"]
    assert op_types(small) == ["Add"]


def test_the_transposed_weight_of_a_large_linear_layer_is_folded(program: Make, context: Make, op_types: Make) -> None:
    """A quantizer takes a weight only where it is stored, not where a Transpose makes it."""
    start = program(
        "g (float[1,3,256] x) => (float[1,3,256] y) { t = Transpose<perm=[1,0]>(w) y = MatMul(x, t) }", w=(256, 256)
    )
    after, _ = FoldConstants()(start, context())
    assert op_types(after) == ["MatMul"]


@pytest.mark.parametrize(
    ("read", "left"), [("", ["GRU"]), ("z = Abs(both)", ["Slice", "Slice", "Concat", "GRU", "Abs"])]
)
def test_large_weights_of_a_recurrent_layer_are_brought_into_order(
    program: Make, context: Make, same_answers: Make, op_types: Make, read: str, left: list[str]
) -> None:
    """PyTorch names gates in another order than ONNX; weights that another operator reads as well stay computed."""
    end = ", float[1,192,64] z" if read else ""
    start = program(
        f"g (float[3,1,64] x) => (float[3,1,1,64] y{end}) {{ a = Slice(w, zero, half, one) "
        f"b = Slice(w, half, all, one) both = Concat<axis=1>(b, a)  y, h = GRU<hidden_size=64>(x, both, r)  {read} }}",
        w=(1, 192, 64), r=(1, 192, 64), zero=np.array([0]), half=np.array([64]), all=np.array([192]), one=np.array([1]),
    )  # fmt: skip
    after, _ = FoldConstants()(start, context())
    assert op_types(after) == left
    same_answers(start, after)


def test_equal_constants_are_stored_once(program: Make, context: Make, same_answers: Make) -> None:
    start = program(
        "g (float[2,4] x) => (float[2,4] y) { a = Add(x, p) y = Mul(a, q) }",
        p=np.ones(4, np.float32), q=np.ones(4, np.float32),
    )  # fmt: skip
    after, _ = FoldConstants()(start, context())
    assert len(after.graph.initializers) == 1
    same_answers(start, after)


def test_names_of_inputs_and_outputs_stay_where_one_is_the_other(program: Make, context: Make) -> None:
    start = program("g (float[2] x) => (float[2] y, float[2] z) { y = Identity(x) z = Identity(y) }")
    after, proof = FoldConstants()(start, context())
    assert proof.decision is Decision.KEPT
    assert [v.name for v in after.graph.outputs] == ["y", "z"]


CONVOLUTIONS = {
    "conv": ("c = Conv(x, w)", (1, 4, 6, 6), (1, 8, 4, 4), {"w": (8, 4, 3, 3)}),
    "conv with bias": ("c = Conv(x, w, k)", (1, 4, 6, 6), (1, 8, 4, 4), {"w": (8, 4, 3, 3), "k": (8,)}),
    "grouped": ("c = Conv<group=2>(x, w)", (1, 4, 6, 6), (1, 8, 4, 4), {"w": (8, 2, 3, 3)}),
    "depthwise": ("c = Conv<group=8>(x, w)", (1, 8, 6, 6), (1, 8, 4, 4), {"w": (8, 1, 3, 3)}),
    "transposed": ("c = ConvTranspose(x, w)", (1, 4, 6, 6), (1, 8, 8, 8), {"w": (4, 8, 3, 3)}),
    "grouped transposed": ("c = ConvTranspose<group=2>(x, w)", (1, 4, 6, 6), (1, 8, 8, 8), {"w": (4, 4, 3, 3)}),
    "gemm": ("c = Gemm(x, w)", (2, 4), (2, 8), {"w": (4, 8)}),
    "gemm, all it has": (
        "c = Gemm<transB=1, alpha=0.5, beta=2.0>(x, w, k)", (2, 4), (2, 8), {"w": (8, 4), "k": (8,)},
    ),
    "gemm, scalar bias": ("c = Gemm(x, w, k)", (2, 4), (2, 8), {"w": (4, 8), "k": (1,)}),
}  # fmt: skip


def norm_behind(case: str) -> tuple[str, dict[str, Any]]:
    body, image, output, weights = CONVOLUTIONS[case]
    x, y = (",".join(map(str, s)) for s in (image, output))
    return f"g (float[{x}] x) => (float[{y}] y) {{ {body}  y = {BATCH_NORM} }}", {**weights, **NORM}


@pytest.mark.parametrize("case", CONVOLUTIONS)
def test_a_norm_goes_into_what_is_in_front_of_it(
    case: str, program: Make, context: Make, same_answers: Make, op_types: Make
) -> None:
    text, weights = norm_behind(case)
    start = program(text, **weights)
    after, proof = FuseBatchNorm()(start, context())
    assert proof.decision is Decision.KEPT
    assert op_types(after) == op_types(start)[:1]
    assert "batch_norm_folded" in after.facts
    same_answers(start, after, rtol=1e-4, atol=1e-4)  # sums of 36 products of a few units


LEFT_ALONE = {
    "read twice": ("c = Conv(x, w)  n = " + BATCH_NORM + "  y = Add(n, c)", ["Conv", "BatchNormalization", "Add"]),
    "relu between": ("d = Conv(x, w)  c = Relu(d)  y = " + BATCH_NORM, ["Conv", "Relu", "BatchNormalization"]),
    "tied weights": (
        "c = Conv(x, w)  n = " + BATCH_NORM + "  d = Conv(x, w)  y = Add(n, d)",
        None,
    ),
}


@pytest.mark.parametrize("case", LEFT_ALONE)
def test_other_norms_do_not_fail_the_pass(
    case: str, program: Make, context: Make, same_answers: Make, op_types: Make
) -> None:
    body, kept = LEFT_ALONE[case]
    start = program(f"g (float[1,4,6,6] x) => (float[1,8,4,4] y) {{ {body} }}", w=(8, 4, 3, 3), **NORM)
    after, proof = FuseBatchNorm()(start, context())
    assert proof.decision is Decision.KEPT
    if kept:
        assert op_types(after) == kept
    same_answers(start, after, rtol=1e-4, atol=1e-4)


def test_zero_padding_goes_into_the_convolution_and_other_padding_does_not(
    program: Make, context: Make, same_answers: Make, op_types: Make
) -> None:
    text = "g (float[1,4,6,6] x) => (float[1,8,6,6] y) { p = Pad(x, pads, fill) y = Conv(p, w) }"
    pads = np.array([0, 0, 1, 1, 0, 0, 1, 1])
    for fill, left in ((0.0, ["Conv"]), (1.0, ["Pad", "Conv"])):
        start = program(text, pads=pads, fill=np.float32(fill), w=(8, 4, 3, 3))
        after, proof = FuseBatchNorm()(start, context())
        assert proof.decision is Decision.KEPT
        assert op_types(after) == left
        same_answers(start, after)


CHAINS = {
    "relu, relu": "c = Relu(x)  y = Relu(c)",
    "relu, clip": "c = Relu(x)  y = Clip(c, lo, hi)",
    "clip, relu": "c = Clip(x, lo, hi)  y = Relu(c)",
    "clip, clip": "c = Clip(x, lo, hi)  y = Clip(c, lo2, hi2)",
    "clip below, clip above": "c = Clip(x, lo)  y = Clip(c, , hi2)",
    "clip above, relu": "c = Clip(x, , hi)  y = Relu(c)",
    "min, max": "c = Min(x, hi)  y = Max(c, lo)",
    "max, min": "c = Max(x, lo)  y = Min(c, hi)",
}


@pytest.mark.parametrize("bounds", [(-1, 0.5, 0.2, 6), (0, 6, 0, 6), (-2, -1, 0, 3), (2, 3, -1, 1)])
@pytest.mark.parametrize("case", CHAINS)
def test_chains_of_bounds_keep_their_meaning(
    case: str, bounds: tuple[float, ...], program: Make, context: Make, same_answers: Make, op_types: Make
) -> None:
    body = CHAINS[case]
    tokens = body.replace(",", " ").replace(")", " ").split()
    every = {n: np.float32(v) for n, v in zip(("lo", "hi", "lo2", "hi2"), bounds, strict=True)}
    start = program(
        f"g (float[2,64] x) => (float[2,64] y) {{ {body} }}", **{n: v for n, v in every.items() if n in tokens}
    )
    after, proof = FuseActivation()(start, context())
    assert proof.decision in (Decision.KEPT, Decision.REVERTED)
    same_answers(start, after, rtol=0, atol=0)
    if bounds == (0, 6, 0, 6):
        assert proof.decision is Decision.KEPT
        assert len(op_types(after)) == 1


HARD_SWISH = (
    "g (float[2,64] x) => (float[2,64] y) { a = Add(x, three) c = Clip(a, zero, six) m = Mul(x, c) y = Div(m, six) }"
)
SIX = {"three": np.float32(3), "zero": np.float32(0), "six": np.float32(6)}


@pytest.mark.parametrize(
    ("opset", "left"), [(18, ["HardSwish"]), (14, ["HardSwish"]), (13, ["Add", "Clip", "Mul", "Div"])]
)
def test_a_hard_swish_spelled_out_becomes_one(
    opset: int, left: list[str], program: Make, context: Make, same_answers: Make, op_types: Make
) -> None:
    start = program(HARD_SWISH, opset=opset, **SIX)
    after, proof = FuseActivation()(start, context())
    assert proof.decision is Decision.KEPT
    assert op_types(after) == left
    same_answers(start, after)


def test_an_accelerator_without_hard_swish_keeps_it_spelled_out(program: Make, context: Make, op_types: Make) -> None:
    after, _ = FuseActivation()(program(HARD_SWISH, **SIX), context("coral_tpu/usb3-desktop"))
    assert op_types(after) == ["Add", "Clip", "Mul", "Div"]


def test_what_only_looks_like_a_hard_swish_stays(program: Make, context: Make, same_answers: Make) -> None:
    start = program(HARD_SWISH, **{**SIX, "three": np.float32(2.5)})
    after, _ = FuseActivation()(start, context())
    assert "HardSwish" not in [n.op_type for n in after.graph]
    same_answers(start, after)


def test_an_operator_whose_result_has_no_known_type_does_not_stop_the_road(program: Make, context: Make) -> None:
    """Shape inference of onnx knows nothing of com.microsoft, so what follows such an operator is untyped."""
    start = program(
        """g (float[2,4] x) => (float[2,4] y) {
        a = com.microsoft.Gelu(x)  b = Clip(a, lo, hi)  y = Clip(b, lo, hi) }""",
        domains=', "com.microsoft" : 1', facts=frozenset({"exported"}), lo=np.float32(0), hi=np.float32(6),
    )  # fmt: skip
    ctx = context()
    outcome = run(float32(ctx.stack, Level.ONNX), start, ctx)
    assert {p.decision for p in outcome.proofs} <= {Decision.KEPT, Decision.SKIPPED}
