"""CastFloat16 and QuantizeInt8: the graph they leave, what they refuse, and how far the answers move."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import pairwise
from typing import Any

import numpy as np
import pytest

from passes.context import Budget
from passes.contract import PassFailed
from passes.dataset import Dataset
from passes.metric import TOP1
from passes.onnx_level.cast_float16 import CastFloat16
from passes.onnx_level.quantize_int8 import QuantizeInt8
from passes.program import Level, Program
from passes.proof import Decision
from passes.recipe import Recipe, float32, recipe_for
from passes.running import Outcome, run
from targets.errors import ToolkitError
from targets.target import load_stack

Make = Callable[..., Any]
NANO = "jetson_nano/tensorrt-fp16"
X86 = "desktop_cpu/onnxruntime-int8"
NET = "g (float[1,4,16,16] x) => (float[1,8,12,12] y) { c = Conv(x, w) r = Relu(c) d = Conv(r, v) y = Relu(d) }"
WEIGHTS = {"w": (32, 4, 3, 3), "v": (8, 32, 3, 3)}


@pytest.fixture
def data(noise: Make) -> Dataset:
    return Dataset.of_arrays("d", {"x": noise(16, 4, 16, 16)})


# ---- float16


def test_float16_inside_float32_outside(program: Make, context: Make) -> None:
    start = program(NET, **WEIGHTS)
    after, proof = CastFloat16()(start, context(NANO))
    assert proof.decision is Decision.KEPT
    assert after.signature == start.signature
    assert [v.dtype.name for v in (*after.graph.inputs, *after.graph.outputs)] == ["FLOAT", "FLOAT"]
    assert {v.dtype.name for v in after.graph.initializers.values()} == {"FLOAT16"}
    assert all(n.outputs[0].dtype.name == "FLOAT16" for n in after.graph if n.op_type == "Conv")
    # float16 keeps 11 bits, 66 dB for one rounding; 324 products round inputs, weights and sums
    assert 45 < proof.worst_sqnr_db < 90
    assert "float16" in after.facts
    assert proof.size_bytes[1] < 0.6 * proof.size_bytes[0]


def test_protected_operators_stay_in_float32(program: Make, context: Make) -> None:
    after = CastFloat16(protect=("Conv",)).apply(program(NET, **WEIGHTS), context(NANO))
    assert all(n.outputs[0].dtype.name == "FLOAT" for n in after.graph if n.op_type == "Conv")
    assert {v.dtype.name for v in after.graph.initializers.values()} == {"FLOAT"}, "and so do their weights"


@pytest.mark.parametrize("size", [1e5, 1e38])
def test_weights_beyond_float16_show_in_the_proof(size: float, program: Make, context: Make) -> None:
    text = "g (float[1,4] x) => (float[1,4] y) { s = Mul(x, big) y = MatMul(s, w) }"
    start = program(text, big=np.full(4, size, np.float32), w=np.eye(4, dtype=np.float32))
    after, proof = CastFloat16()(start, context(NANO))
    assert proof.decision is Decision.REVERTED
    assert proof.worst_sqnr_db < 10
    assert after is start


@pytest.mark.parametrize("size", [20_000.0, 60_000.0])
def test_weights_that_float16_holds_are_held(size: float, program: Make, context: Make) -> None:
    """The converter clamps at a limit of its own unless it is told that float16 reaches to 65504."""
    text = "g (float[1,4] x) => (float[1,4] y) { s = Mul(x, small) y = MatMul(s, w) }"
    start = program(text, small=np.full(4, 1e-2, np.float32), w=np.eye(4, dtype=np.float32) * np.float32(size))
    _, proof = CastFloat16()(start, context(NANO))
    assert proof.worst_sqnr_db > 50


def test_a_model_of_integers_is_refused(program: Make, context: Make) -> None:
    with pytest.raises(PassFailed) as refusal:
        CastFloat16()(program("g (int64[4] x) => (int64[4] y) { y = Neg(x) }"), context(NANO))
    assert refusal.value.hint


# ---- int8


@pytest.mark.parametrize("stack", [X86, "raspberry_pi_4/tflite-int8", "jetson_agx_orin/tensorrt-int8"])
def test_the_format_is_the_one_that_the_stack_wants(stack: str, program: Make, context: Make, data: Dataset) -> None:
    ctx = context(stack, data=data)
    wanted = ctx.stack.quantization
    (step,) = (p for p in recipe_for(ctx.stack, Level.ONNX).passes if isinstance(p, QuantizeInt8))
    after = step.apply(program(NET, **WEIGHTS), ctx)
    types = {"uint8": "UINT8", "int8": "INT8"}
    for node in after.graph:
        if node.op_type != "QuantizeLinear":
            continue
        zero = node.inputs[2].const_value
        assert zero.dtype.name == types[wanted.activation]
        if wanted.activation_symmetric:
            assert int(zero.numpy()) == (0 if wanted.activation == "int8" else 128)
    stored = [v for name, v in after.graph.initializers.items() if name in ("w_quantized", "v_quantized")]
    assert [v.dtype.name for v in stored] == ["INT8", "INT8"]
    for name in ("w", "v"):
        scale, zero = (
            after.graph.initializers[f"{name}_{part}"].const_value.numpy() for part in ("scale", "zero_point")
        )
        assert scale.shape == ((WEIGHTS[name][0],) if wanted.per_channel else ())
        assert not zero.any(), "weights are symmetric"
    assert after.signature == program(NET, **WEIGHTS).signature


def test_unsigned_activations_behind_a_relu_start_at_zero(program: Make, context: Make, data: Dataset) -> None:
    after = QuantizeInt8(activation="uint8").apply(program(NET, **WEIGHTS), context(X86, data=data))
    zeros = {
        n.inputs[0].name: int(n.inputs[2].const_value.numpy()) for n in after.graph if n.op_type == "QuantizeLinear"
    }
    assert 100 < zeros.pop("x") < 156, "noise around zero"
    assert set(zeros.values()) == {0}


def test_without_data_it_is_skipped_and_says_so(program: Make, context: Make) -> None:
    start = program(NET, **WEIGHTS)
    with pytest.raises(PassFailed, match="random data is not used") as refusal:
        QuantizeInt8()(start, context(X86))
    assert "--data" in refusal.value.hint
    outcome = run(Recipe("r", (QuantizeInt8(),), start.facts), start, context(X86))
    assert [p.decision for p in outcome.proofs] == [Decision.SKIPPED]
    assert "no calibration data" in outcome.proofs[0].reason
    assert outcome.program is start


def test_validation_data_is_not_calibration_data(program: Make, context: Make, data: Dataset) -> None:
    with pytest.raises(PassFailed, match="no calibration data"):
        QuantizeInt8()(program(NET, **WEIGHTS), context(X86, validation=data))


@pytest.mark.parametrize(
    ("text", "opset", "words"),
    [
        ("g (float[1,4,16,16] x) => (float[1,4,16,16] y) { y = Relu(x) }", 18, "no convolution"),
        (NET, 12, "opset 13"),
    ],
)
def test_models_that_are_refused(
    text: str, opset: int, words: str, program: Make, context: Make, data: Dataset
) -> None:
    weights = WEIGHTS if "Conv" in text else {}
    with pytest.raises(PassFailed, match=words) as refusal:
        QuantizeInt8()(program(text, opset=opset, **weights), context(X86, data=data))
    assert refusal.value.hint


@pytest.mark.parametrize(
    "arrays",
    [
        {"x": np.zeros((0, 4, 16, 16), np.float32)},
        {"image": np.zeros((2, 4, 16, 16), np.float32)},
        {"x": np.zeros((2, 4, 8, 16), np.float32)},
        {"x": np.zeros((2, 4, 16, 16))},
    ],
    ids=["none", "another name", "another shape", "another type"],
)
def test_calibration_data_that_does_not_fit_is_an_error_of_ours(
    arrays: dict[str, np.ndarray], program: Make, context: Make
) -> None:
    with pytest.raises(ToolkitError) as refusal:
        QuantizeInt8()(program(NET, **WEIGHTS), context(X86, data=Dataset.of_arrays("d", arrays)))
    assert refusal.value.hint


def test_only_so_many_samples_are_read(program: Make, context: Make, noise: Make) -> None:
    read: list[int] = []

    def samples() -> Iterator[dict[str, np.ndarray]]:
        for i in range(50):
            read.append(i)
            yield {"x": noise(1, 4, 16, 16, seed=i)}

    QuantizeInt8(samples=3).apply(program(NET, **WEIGHTS), context(X86, data=Dataset("d", samples, 50)))
    assert max(read) <= 3


def test_excluded_nodes_stay_in_float(program: Make, context: Make, data: Dataset) -> None:
    start = program(NET.replace("d = Conv", "[last] d = Conv"), **WEIGHTS)
    after = QuantizeInt8(exclude=("last",)).apply(start, context(X86, data=data))
    assert after.graph.initializers["v"].dtype.name == "FLOAT"
    assert "w_quantized" in after.graph.initializers


NAMED = """g (float[1,4,16,16] x) => (float[1,4,8,8] y) {
    [first] a = Conv(x, w1)  [second] b = Conv(a, w2)  [third] c = Conv(b, w3)  [last] y = Conv(c, w4) }"""


def named_program(program: Make, rough: str) -> Program:
    """Four convolutions; the weights of `rough` have one large value in a channel of small ones."""
    rng = np.random.default_rng(0)
    weights = {f"w{i}": (rng.standard_normal((4, 4, 3, 3)) / 6).astype(np.float32) for i in (1, 2, 3, 4)}
    weights[rough][:, 0, 0, 0] = 40
    made: Program = program(NAMED, **weights)
    return made


def test_narrowing_leaves_out_the_layer_that_does_most_harm_first(program: Make, context: Make, data: Dataset) -> None:
    start, ctx = named_program(program, "w3"), context(X86, data=data)
    step, tried = QuantizeInt8(), []
    proof = Recipe  # narrower does not look at the numbers of the proof
    while (narrower := step.narrower(start, ctx, proof)) is not None:  # type: ignore[arg-type]
        tried.append(narrower.exclude)
        step = narrower
    assert tried[0] == ("third",)
    assert all(len(after) > len(before) for before, after in pairwise(tried))
    assert all(len(names) < 4 for names in tried), "something is still quantized"


def test_a_model_that_breaks_its_budget_is_narrowed(program: Make, context: Make, data: Dataset) -> None:
    start = named_program(program, "w3")
    found = {}
    for budget in (0.0, 200.0):
        ctx = context(X86, data=data, budget=Budget(min_sqnr_db=budget))
        found[budget] = QuantizeInt8(activation="uint8")(start, ctx)[1]
    assert found[200.0].decision is Decision.REVERTED
    assert "under the budget of 200 dB" in found[200.0].reason
    whole = QuantizeInt8(activation="uint8").apply(start, context(X86, data=data))
    assert whole.graph.initializers["w3_quantized"].dtype.name == "INT8"


# ---- a trained network


@pytest.fixture(scope="module")
def digits() -> tuple[Program, Dataset, Dataset]:
    from passes.torch_level.capture import signature_of
    from toolkit.models import digits as zoo

    module, example = zoo.build(), zoo.example()
    signature = signature_of(module, example, {})
    start = Program(name="digits", level=Level.TORCH, model=module, signature=signature, example=example)
    return start, zoo.calibration(), zoo.validation()


@pytest.fixture(scope="module")
def floats(digits: tuple[Program, Dataset, Dataset]) -> Outcome:
    from passes.context import Context

    start, calibration, validation = digits
    ctx = Context(stack=load_stack(X86), data=calibration, validation=validation.take(64), metric=TOP1)
    return run(float32(ctx.stack, Level.TORCH), start, ctx)


def test_the_float_road_of_the_digits_changes_nothing(floats: Outcome) -> None:
    assert [p.decision for p in floats.proofs] == [Decision.KEPT] * len(floats.proofs)
    assert "BatchNormalization" not in [n.op_type for n in floats.program.graph]
    assert all(p.worst_sqnr_db > 100 for p in floats.proofs)


@pytest.mark.parametrize("activation", ["uint8", "int8"])
def test_quantized_digits_are_still_read(
    activation: str, floats: Outcome, digits: tuple[Program, Dataset, Dataset], context: Make
) -> None:
    _, calibration, validation = digits
    ctx = context(X86, data=calibration, validation=validation, metric=TOP1, budget=Budget(max_metric_drop=1.0))
    step = QuantizeInt8(activation=activation)
    proof = step._judge(floats.program, step._checked_apply(floats.program, ctx), ctx)
    # 8 bits carry 50 dB for one uniform rounding; a handful of layers and ranges wider than the bulk cost about half
    assert 22 < proof.worst_sqnr_db < 50
    assert proof.metric is not None
    assert proof.metric.before > 0.95
    assert abs(proof.metric.drop) <= 0.01
    assert proof.metric.samples == 360
    assert proof.size_bytes[1] < 0.6 * proof.size_bytes[0]


def test_a_budget_of_accuracy_narrows_or_reverts(
    floats: Outcome, digits: tuple[Program, Dataset, Dataset], context: Make
) -> None:
    """With a budget that nothing meets, every narrower choice is tried and the float program is kept."""
    _, calibration, validation = digits
    ctx = context(
        "raspberry_pi_4/tflite-int8", data=calibration.take(16), validation=validation.take(32),
        budget=Budget(min_sqnr_db=90),
    )  # fmt: skip
    before = replace(floats.program, facts=floats.program.facts | {"constants_folded", "batch_norm_folded"})
    after, proof = QuantizeInt8(samples=8)(before, ctx)
    assert after is before
    assert proof.decision is Decision.REVERTED
    assert len(proof.settings["exclude"]) >= 3, "the last attempt left layers out"


def test_a_quantized_result_is_the_same_every_time(program: Make, context: Make, data: Dataset) -> None:
    start, ctx = program(NET, **WEIGHTS), context(X86, data=data)
    assert QuantizeInt8().apply(start, ctx).onnx_bytes == QuantizeInt8().apply(start, ctx).onnx_bytes


def test_a_stem_of_few_channels_stays_in_float_with_its_activation(
    program: Make, context: Make, op_types: Make
) -> None:
    """onnxruntime multiplies bytes in groups of four: an image's three channels are slower than in float."""
    start = program(
        """g (float[1,3,8,8] x) => (float[1,8,4,4] y) {
            [stem] a = Conv(x, w)  [bound] b = Clip(a, zero, six)  [next] y = Conv(b, v) }""",
        w=(4, 3, 3, 3), v=(8, 4, 3, 3), zero=np.float32(0), six=np.float32(6),
    )  # fmt: skip
    noise = np.random.default_rng(0).standard_normal((4, 3, 8, 8)).astype(np.float32)
    ctx = context(X86, data=Dataset.of_arrays("noise", {"x": noise}))
    after = QuantizeInt8(activation="uint8", least_channels=4).apply(start, ctx)
    assert after.graph.initializers["w"].dtype.name == "FLOAT"
    kinds = op_types(after)
    assert kinds.index("Clip") == kinds.index("Conv") + 1, "nothing is rounded between the two"
    assert "v_quantized" in after.graph.initializers
    everything = QuantizeInt8(activation="uint8").apply(start, ctx)
    assert "w_quantized" in everything.graph.initializers


def test_operators_far_from_products_stay_in_float(program: Make, context: Make, noise: Make, op_types: Make) -> None:
    """A power spectrum in front of a network: rounding squares drowns what is quiet, and no product gains by it."""
    text = """g (float[1,4,64] x) => (float[1,8,64] y) {
        [p] p = Mul(x, x)  [q] q = Mul(x, x)  [s] s = Add(p, q)  [r] r = Sqrt(s)  [a] a = Conv(r, w)  [b] b = Relu(a)
        [t] t = Add(b, c)  [y] y = Conv(t, v) }"""
    start = program(text, w=(8, 4, 1), v=(8, 8, 1), c=(1, 8, 1))
    ctx = context(X86, data=Dataset.of_arrays("noise", {"x": noise(8, 4, 64)}))
    after = QuantizeInt8(activation="uint8").apply(start, ctx)
    kinds = op_types(after)
    assert kinds[: kinds.index("Sqrt") + 1].count("QuantizeLinear") == 0
    (added,) = (node for node in after.graph if node.name == "t")
    made_by = [value.producer().op_type for value in added.inputs]
    assert made_by == ["DequantizeLinear"] * 2, "the one between two products is rounded with them"
