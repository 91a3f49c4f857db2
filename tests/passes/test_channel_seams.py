"""Scaling channels between layers: the answers stay, the weights or activations come nearer to one size."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from passes.compare import compare
from passes.contract import EXACT_SQNR_DB, Pass, PassFailed
from passes.dataset import Array, Dataset
from passes.onnx_level.channel_seams import seams
from passes.onnx_level.equalise_channels import EqualiseChannels
from passes.onnx_level.matching import matchable
from passes.onnx_level.quantize_int8 import QuantizeInt8
from passes.onnx_level.smooth_activations import SmoothActivations
from passes.program import Program
from passes.proof import Decision
from targets.errors import InvalidInput

Make = Callable[..., Any]
X86 = "desktop_cpu/onnxruntime-int8"
some = settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])

CHAIN = """g (float[1,3,9,9] x) => (float[1,4,7,7] y) {{
    a = Conv(x, w1, b1)  r = {between}  d = Conv<group={groups}, pads=[1,1,1,1]>(r, w2, b2)
    s = LeakyRelu<alpha=0.1>(d)  y = Conv(s, w3, b3) }}"""
TRANSFORMER = """g (float[1,5,8] x) => (float[1,5,8] y) {
    n = LayerNormalization(x, s, c)  q = MatMul(n, wq)  k = MatMul(n, wk)  kt = Transpose<perm=[0,2,1]>(k)
    p = MatMul(q, kt)  z = Softmax(p)  v = MatMul(n, wv)  o = MatMul(z, v)  e = Add(o, x)
    m = LayerNormalization(e, s, c)  h = MatMul(m, w1)  hb = Add(h, b1)  r = Relu(hb)  f = MatMul(r, w2)
    fb = Add(f, b2)  y = Add(fb, e) }"""


def transformer_weights(rng: np.random.Generator, outlier: float = 1.0) -> dict[str, Array]:
    shapes = {"wq": (8, 8), "wk": (8, 8), "wv": (8, 8), "w1": (8, 32), "b1": (32,), "w2": (32, 8), "b2": (8,)}
    made = {name: rng.standard_normal(shape).astype(np.float32) / 3 for name, shape in shapes.items()}
    scale = np.ones(8, np.float32)
    scale[3] = outlier
    return {**made, "s": scale, "c": np.zeros(8, np.float32)}


def chain(program: Make, rng: np.random.Generator, *, between: str = "Relu(a)", depthwise: bool = True,
          spread: float = 1.0, dead: bool = False) -> Program:  # fmt: skip
    """Channels whose weights differ by some powers of ten."""
    width, groups = 6, 6 if depthwise else 2

    def weights(*shape: int) -> Array:
        sizes = 10.0 ** rng.uniform(-spread, spread, (shape[0], *[1] * (len(shape) - 1)))
        return np.asarray(rng.standard_normal(shape) * sizes, np.float32)

    made = {
        "w1": weights(width, 3, 3, 3), "b1": weights(width), "w2": weights(width, width // groups, 3, 3),
        "b2": weights(width), "w3": weights(4, width, 1, 1), "b3": weights(4),
    }  # fmt: skip
    if dead:
        made["w1"][0] = made["b1"][0] = 0
        made["w3"][:, 1] = 0
        made["w2"][2] = made["b2"][2] = 0
    return made_program(program, CHAIN.format(between=between, groups=groups), made)


def made_program(program: Make, text: str, weights: Mapping[str, Array]) -> Program:
    made: Program = program(text, **weights)
    return made


def applied(step: Pass, start: Program, context: Make, data: Dataset) -> Program:
    after = step.apply(start, context(X86, data=data))
    for value in after.graph.initializers.values():
        assert value.const_value is not None
        assert np.isfinite(value.const_value.numpy()).all()
    (drift,) = compare(start, after, data)
    assert drift.sqnr_db >= EXACT_SQNR_DB["float32"]
    return after


def constant(program: Program, name: str) -> Array:
    value = program.graph.initializers[name].const_value
    assert value is not None
    return np.asarray(value.numpy(), np.float64)


def images(seed: int, shape: tuple[int, ...] = (4, 3, 9, 9)) -> Dataset:
    return Dataset.of_arrays("d", {"x": np.random.default_rng(seed).standard_normal(shape).astype(np.float32)})


# ---- the answers stay


@some
@given(
    seed=st.integers(0, 99), depthwise=st.booleans(), spread=st.sampled_from([0.0, 1.0, 2.0]), dead=st.booleans(),
    step=st.sampled_from([EqualiseChannels(), SmoothActivations(convolutions=True), SmoothActivations(0.9, True)]),
    between=st.sampled_from(["Relu(a)", "LeakyRelu<alpha=0.2>(a)", "MaxPool<kernel_shape=[1,1]>(a)"]),
)  # fmt: skip
def test_random_networks_keep_their_answers(
    seed: int, depthwise: bool, spread: float, dead: bool, step: Pass, between: str, program: Make, context: Make
) -> None:
    rng = np.random.default_rng(seed)
    start = chain(program, rng, between=between, depthwise=depthwise, spread=spread, dead=dead)
    applied(step, start, context, images(seed))


@pytest.mark.slow
@some
@given(seed=st.integers(0, 99), outlier=st.sampled_from([0.0, 1.0, 100.0]), strength=st.sampled_from([0.0, 0.5, 1.0]))
def test_random_transformers_keep_their_answers(
    seed: int, outlier: float, strength: float, program: Make, context: Make
) -> None:
    start = made_program(program, TRANSFORMER, transformer_weights(np.random.default_rng(seed), outlier))
    applied(SmoothActivations(strength), start, context, images(seed, (4, 5, 8)))


def test_weights_on_both_sides_of_a_seam_become_alike(program: Make, context: Make) -> None:
    start = chain(program, np.random.default_rng(0), spread=1.5)
    after = applied(EqualiseChannels(), start, context, images(0))
    for made, read in (("w1", "w2"), ("w2", "w3")):
        axes = (1, 2, 3) if read == "w2" else (0, 2, 3)
        out, into = np.abs(constant(after, made)).max(axis=(1, 2, 3)), np.abs(constant(after, read)).max(axis=axes)
        np.testing.assert_allclose(out, into, rtol=0.02)
    assert np.ptp(np.log(np.abs(constant(start, "w1")).max(axis=(1, 2, 3)))) > 1


def test_an_outlier_of_a_norm_moves_into_the_weights(program: Make, context: Make) -> None:
    """Three products read one norm, all of them take the factor; equal constants of another norm stay as they were."""
    start = made_program(program, TRANSFORMER, transformer_weights(np.random.default_rng(0), 50.0))
    data = images(1, (8, 5, 8))
    after = applied(SmoothActivations(), start, context, data)
    assert len(seams(matchable(start).graph)) == 3
    norms = [node for node in after.graph if node.op_type == "LayerNormalization"]
    scales = [np.abs(node.inputs[1].const_value.numpy()) for node in norms]
    assert all(scale.max() / np.median(scale) < 15 for scale in scales)
    assert not np.array_equal(*scales)
    assert np.abs(constant(after, "wq")[3]).max() > 2 * np.abs(constant(start, "wq")[3]).max()
    noise = {
        name: compare(start, QuantizeInt8(activation="uint8").apply(p, context(X86, data=data)), data)[0].sqnr_db
        for name, p in (("as it was", start), ("smoothed", after))
    }
    assert noise["smoothed"] > noise["as it was"] + 2


@pytest.mark.slow
def test_the_proof_holds_on_digits_and_a_second_run_finds_nothing(context: Make) -> None:
    from passes.recipe import float32
    from passes.running import run
    from targets.target import load_stack
    from toolkit.models import digits
    from toolkit.sources import load_source

    start = load_source("digits").program
    ctx = context(X86, data=digits.calibration().take(16))
    ready = run(float32(load_stack(X86), start.level), start, ctx).program
    for step in (EqualiseChannels(), SmoothActivations(convolutions=True)):
        after, proof = step(ready, ctx)
        assert proof.decision is Decision.KEPT
        assert proof.changed
        assert proof.worst_sqnr_db > 100
        assert step.apply(after, ctx) is after


# ---- what is left alone


@pytest.mark.parametrize(
    "body",
    [
        "a = Conv(x, w) c = Clip(a, zero, six) y = Conv(c, u)",
        "a = Conv(x, w) c = Sigmoid(a) y = Conv(c, u)",
        "a = Conv(x, w) r = Relu(a) b = Conv(r, u) y = Add(b, r)",
        "a = Conv(x, w) b = Conv(a, u) y = Mul(b, six)  p = Neg(a)",
        "y = Conv(x, w)",
    ],
    ids=["upper bound", "not homogeneous", "read by others", "read by another operator", "one layer"],
)
def test_a_seam_that_is_not_exact_is_refused(body: str, program: Make, context: Make) -> None:
    start = program(
        f"g (float[1,4,4,4] x) => (float[1,4,4,4] y) {{ {body} }}",
        w=(4, 4, 1, 1), u=(4, 4, 1, 1), zero=np.float32(0), six=np.float32(6),
    )  # fmt: skip
    assert seams(matchable(start).graph) == []
    with pytest.raises(PassFailed) as refusal:
        EqualiseChannels().apply(start, context(X86))
    assert refusal.value.hint


def test_a_clip_without_an_upper_bound_is_a_relu(program: Make) -> None:
    text = "g (float[1,4,4,4] x) => (float[1,4,4,4] y) { a = Conv(x, w) c = Clip(a, zero) y = Conv(c, u) }"
    start = program(text, w=(4, 4, 1, 1), u=(4, 4, 1, 1), zero=np.float32(0))
    assert len(seams(matchable(start).graph)) == 1


def test_weights_that_two_layers_share_are_left_alone(program: Make) -> None:
    text = "g (float[1,4,4,4] x) => (float[1,4,4,4] y) { a = Conv(x, w) r = Relu(a) y = Conv(r, w) }"
    assert seams(matchable(program(text, w=(4, 4, 1, 1))).graph) == []


@pytest.mark.parametrize(
    ("step", "words"),
    [
        (SmoothActivations(strength=1.5), "strength"),
        (SmoothActivations(strength=float("nan")), "strength"),
        (SmoothActivations(samples=0), "samples"),
    ],
)
def test_bad_settings_are_refused_before_any_work(step: Pass, words: str, program: Make, context: Make) -> None:
    start = chain(program, np.random.default_rng(0))
    with pytest.raises(PassFailed, match=words) as refusal:
        step(start, context(X86, data=images(0)))
    assert refusal.value.hint


def test_smoothing_wants_data_that_are_finite(program: Make, context: Make) -> None:
    start = chain(program, np.random.default_rng(0))
    step = SmoothActivations(convolutions=True)
    with pytest.raises(PassFailed, match="calibration data"):
        step(start, context(X86))
    bad = np.ones((3, 3, 9, 9), np.float32)
    bad[2, 0, 0, 0] = np.nan
    with pytest.raises(InvalidInput, match="sample 2"):
        step.apply(start, context(X86, data=Dataset.of_arrays("d", {"x": bad})))


def test_a_quantized_graph_is_refused(program: Make, context: Make) -> None:
    ctx = context(X86, data=images(0))
    quantized = QuantizeInt8(activation="uint8").apply(chain(program, np.random.default_rng(0)), ctx)
    for step in (EqualiseChannels(), SmoothActivations(convolutions=True)):
        with pytest.raises(PassFailed, match="quantized already"):
            step(quantized, ctx)
