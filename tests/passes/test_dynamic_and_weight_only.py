"""QuantizeDynamic and QuantizeWeights: what onnxruntime makes of their graphs, errors held to half a step, refusals."""

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from onnx.reference import ReferenceEvaluator
from torch import Tensor, nn

from passes.contract import PassFailed
from passes.onnx_level.quantize_dynamic import QuantizeDynamic
from passes.onnx_level.quantize_weights import QuantizeWeights
from passes.onnxruntime import import_onnxruntime
from passes.program import Program
from passes.proof import Decision
from passes.recipe import float32
from passes.running import run
from targets.target import load_stack

Make = Callable[..., Any]
X86 = "desktop_cpu/onnxruntime-int8"
FP32 = "desktop_cpu/onnxruntime-fp32"
number = np.float32


@pytest.fixture
def optimised(tmp_path: Any) -> Make:
    def types(program: Program) -> list[str]:
        """Operators of the graph as onnxruntime runs it on this machine."""
        ort = import_onnxruntime()
        options = ort.SessionOptions()
        options.optimized_model_filepath = str(tmp_path / "optimised.onnx")
        options.log_severity_level = 4
        ort.InferenceSession(program.onnx_bytes, options, providers=["CPUExecutionProvider"])
        return [node.op_type for node in onnx.load(tmp_path / "optimised.onnx").graph.node]

    return types


MLP = "g (float[4,64] x) => (float[4,16] y) { a = MatMul(x, w)  b = Add(a, c)  r = Relu(b)  y = MatMul(r, v) }"
MLP_WEIGHTS: dict[str, Any] = {"w": (64, 96), "c": (96,), "v": (96, 16)}
GEMMS = "g (float[4,64] x) => (float[4,16] y) { a = Gemm<transB=1>(x, w, c)  r = Relu(a)  y = Gemm(r, v) }"
GEMM_WEIGHTS: dict[str, Any] = {"w": (96, 64), "c": (96,), "v": (96, 16)}


# ---- dynamic


@pytest.mark.parametrize(("text", "weights"), [(MLP, MLP_WEIGHTS), (GEMMS, GEMM_WEIGHTS)], ids=["MatMul", "Gemm"])
def test_matrix_products_become_integer_ones_that_onnxruntime_fuses(
    text: str, weights: dict[str, Any], program: Make, context: Make, op_types: Make, optimised: Make
) -> None:
    start = program(text, **weights)
    after = QuantizeDynamic().apply(start, context(X86))
    assert op_types(after).count("MatMulInteger") == 2
    assert not {"MatMul", "Gemm"} & set(op_types(after))
    fused = optimised(after)
    assert fused.count("DynamicQuantizeMatMul") + fused.count("MatMulIntegerToFloat") == 2
    assert "MatMulInteger" not in fused
    stored = [value for value in after.graph.initializers.values() if len(value.shape) == 2]
    assert [value.dtype.name for value in stored] == ["INT8", "INT8"]


def test_no_data_is_needed_and_the_answers_stay_near(program: Make, context: Make) -> None:
    after, proof = QuantizeDynamic()(program(MLP, **MLP_WEIGHTS), context(X86))
    assert proof.decision in (Decision.KEPT, Decision.REVERTED)
    assert "slower" in proof.reason or proof.decision is Decision.KEPT
    # two roundings to 8 bits a layer, of which each carries about 40 dB on noise: its peaks are four times its mean
    assert 25 < proof.worst_sqnr_db < 60
    assert after.signature == program(MLP, **MLP_WEIGHTS).signature


def test_the_scale_of_each_output_channel_is_its_own(program: Make, context: Make) -> None:
    after = QuantizeDynamic().apply(program(MLP, **MLP_WEIGHTS), context(X86))
    assert after.graph.initializers["w_scale"].shape.dims == (96,)
    whole = QuantizeDynamic(per_channel=False).apply(program(MLP, **MLP_WEIGHTS), context(X86))
    assert whole.graph.initializers["w_scale"].const_value.size == 1


def test_a_product_of_two_activations_stays_in_float(program: Make, context: Make, op_types: Make) -> None:
    start = program("g (float[4,64] x) => (float[4,4] y) { a = MatMul(x, w)  t = Transpose(x)  y = MatMul(a, t) }",
                    w=(64, 64))  # fmt: skip
    after = QuantizeDynamic().apply(start, context(X86))
    assert (op_types(after).count("MatMulInteger"), op_types(after).count("MatMul")) == (1, 1)


def test_excluded_products_stay_in_float(program: Make, context: Make, op_types: Make) -> None:
    start = program(MLP.replace("y = MatMul", "[last] y = MatMul"), **MLP_WEIGHTS)
    after = QuantizeDynamic(exclude=("last",)).apply(start, context(X86))
    assert (op_types(after).count("MatMulInteger"), op_types(after).count("MatMul")) == (1, 1)


CONVOLUTION = "g (float[1,4,16,16] x) => (float[1,8,12,12] y) { c = Conv(x, w) r = Relu(c) y = Conv(r, v) }"


def test_a_convolution_network_is_refused_with_the_reason(program: Make, context: Make) -> None:
    """onnxruntime runs dynamic convolutions about ten times slower than float32."""
    with pytest.raises(PassFailed, match="100% of the arithmetic is convolution") as refusal:
        QuantizeDynamic()(program(CONVOLUTION, w=(32, 4, 3, 3), v=(8, 32, 3, 3)), context(X86))
    assert "static" in refusal.value.hint


def test_a_small_convolution_stays_in_float(program: Make, context: Make, op_types: Make) -> None:
    text = """g (float[1,1,8,8] x) => (float[1,1,8,512] y) {
        c = Conv(x, k)  a = MatMul(c, w)  b = MatMul(a, v)  y = MatMul(b, v) }"""
    start = program(text, k=(1, 1, 1, 1), w=(8, 512), v=(512, 512))
    after = QuantizeDynamic().apply(start, context(X86))
    QuantizeDynamic().requires(start, context(X86))
    assert "Conv" in op_types(after)
    assert op_types(after).count("MatMulInteger") == 3


@pytest.mark.parametrize("stack", [FP32, "raspberry_pi_4/tflite-int8", "jetson_agx_orin/tensorrt-int8"])
def test_a_stack_without_dynamic_products_is_refused(stack: str, program: Make, context: Make) -> None:
    with pytest.raises(PassFailed, match="multiplies no integers with scales found at run time"):
        QuantizeDynamic()(program(MLP, **MLP_WEIGHTS), context(stack))


def test_a_graph_without_constant_weights_is_refused(program: Make, context: Make) -> None:
    start = program("g (float[4,64] x, float[64,4] z) => (float[4,4] y) { y = MatMul(x, z) }")
    with pytest.raises(PassFailed, match="no matrix product has constant weights"):
        QuantizeDynamic()(start, context(X86))


def test_a_graph_without_arithmetic_is_refused(program: Make, context: Make) -> None:
    with pytest.raises(PassFailed):
        QuantizeDynamic()(program("g (float[4] x) => (float[4] y) { y = Relu(x) }"), context(X86))


class Linears(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(64, 96), nn.Linear(96, 64, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.second(self.first(x).relu())
        return y


@pytest.fixture(scope="module")
def linears() -> Program:
    """Two nn.Linear, exported by dynamo and folded for the x86 stack."""
    import torch

    from passes.context import Context
    from passes.program import Level
    from passes.torch_level.capture import signature_of

    torch.manual_seed(0)
    module, x = Linears().eval(), {"x": np.random.default_rng(0).standard_normal((2, 5, 64)).astype(np.float32)}
    start = Program(name="net", level=Level.TORCH, model=module, signature=signature_of(module, x, {}), example=x)
    ctx = Context(stack=load_stack(X86))
    return run(float32(ctx.stack, Level.TORCH), start, ctx).program


def test_linear_layers_of_dynamo_are_quantized_at_run_time(linears: Program, context: Make, optimised: Make) -> None:
    """Stale shapes in such a graph make onnxruntime's own function fail: "Inferred shape and existing shape differ"."""
    _, proof = QuantizeDynamic()(linears, context(X86))
    assert proof.decision is Decision.KEPT or "slower" in proof.reason
    fused = optimised(QuantizeDynamic().apply(linears, context(X86)))
    assert fused.count("DynamicQuantizeMatMul") + fused.count("MatMulIntegerToFloat") == 2


def test_linear_layers_of_dynamo_in_four_bits(linears: Program, context: Make, optimised: Make) -> None:
    after = QuantizeWeights(bits=4).apply(linears, context(FP32))
    assert optimised(after).count("MatMulNBits") == 2


# ---- weights alone


def stored(program: Program, name: str) -> tuple[np.ndarray, np.ndarray, dict[str, Any]]:
    """Steps, scales and attributes of a weight in integers."""
    (node,) = [n for n in program.graph if n.op_type == "DequantizeLinear" and n.inputs[0].name == name]
    steps, scales = (v.const_value.numpy() for v in node.inputs)
    return steps.astype(np.int32), scales, {key: a.value for key, a in node.attributes.items()}


def widened(program: Program, name: str) -> np.ndarray:
    """What DequantizeLinear gives, by onnx's reference implementation."""
    model = onnx.load_model_from_string(program.onnx_bytes)
    (node,) = [n for n in model.graph.node if n.op_type == "DequantizeLinear" and n.input[0] == name]
    graph = onnx.helper.make_graph(
        [node], "g", [], [onnx.helper.make_tensor_value_info(node.output[0], onnx.TensorProto.FLOAT, None)],
        [t for t in model.graph.initializer if t.name in node.input],
    )  # fmt: skip
    alone = onnx.helper.make_model(graph, opset_imports=model.opset_import, ir_version=model.ir_version)
    answer: np.ndarray = ReferenceEvaluator(alone).run(None, {})[0]
    return answer


WEIGHT = "g (float[2,%d] x) => (float[2,%d] y) { y = MatMul(x, w) }"


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    inputs=st.integers(1, 70), outputs=st.integers(1, 9), bits=st.sampled_from([4, 8]),
    block=st.sampled_from([16, 32, 64]), size=st.sampled_from([1e-30, 1e-3, 1.0, 1e4]), seed=st.integers(0, 99),
)  # fmt: skip
def test_an_element_is_off_by_at_most_half_a_step(
    inputs: int, outputs: int, bits: int, block: int, size: float, seed: int, program: Make, context: Make
) -> None:
    rng = np.random.default_rng(seed)
    weight = (rng.standard_normal((inputs, outputs)) * size).astype(np.float32)
    weight[:, rng.integers(outputs)] = 0
    start = program(WEIGHT % (inputs, outputs), opset=21, w=weight)
    after = QuantizeWeights(bits=bits, block=block, min_elements=1).apply(start, context(FP32))
    steps, scales, attributes = stored(after, "w_quantized")
    limit = 127 if bits == 8 else 7
    assert np.abs(steps).max() <= limit
    if bits == 8:
        wide = np.broadcast_to(scales, weight.shape)
        assert attributes == {"axis": 1}
    else:
        wide = np.repeat(scales, block, axis=0)[:inputs]
        assert attributes == {"axis": 0, "block_size": block}
        assert scales.shape == (-(-inputs // block), outputs)
    have = widened(after, "w_quantized")
    np.testing.assert_array_equal(have, (steps * wide).astype(np.float32))
    assert (np.abs(have.astype(np.float64) - weight) <= wide * (0.5 + 1e-5)).all()
    assert (have[weight == 0] == 0).all()
    for group in np.unique(wide[wide > np.finfo(np.float32).tiny]):
        assert np.abs(steps[wide == group]).max() >= limit - 1, "the largest weight uses the largest step"


LAYERS: dict[str, tuple[str, dict[str, Any], int]] = {
    "conv": ("g (float[1,4,8,8] x) => (float[1,8,6,6] y) { y = Conv(x, w) }", {"w": (8, 4, 3, 3)}, 0),
    "grouped": ("g (float[1,4,8,8] x) => (float[1,8,6,6] y) { y = Conv<group=2>(x, w) }", {"w": (8, 2, 3, 3)}, 0),
    "depthwise": ("g (float[1,8,8,8] x) => (float[1,8,6,6] y) { y = Conv<group=8>(x, w) }", {"w": (8, 1, 3, 3)}, 0),
    "one dimension": ("g (float[1,4,8] x) => (float[1,8,6] y) { y = Conv(x, w) }", {"w": (8, 4, 3)}, 0),
    "transposed": (
        "g (float[1,4,4,4] x) => (float[1,8,6,6] y) { y = ConvTranspose(x, w) }", {"w": (4, 8, 3, 3)}, 1),
    "matmul": ("g (float[1,4] x) => (float[1,8] y) { y = MatMul(x, w) }", {"w": (4, 8)}, 1),
    "matmul in batches": ("g (float[3,2,4] x) => (float[3,2,8] y) { y = MatMul(x, w) }", {"w": (3, 4, 8)}, 2),
    "gemm": ("g (float[1,4] x) => (float[1,8] y) { y = Gemm<transB=1>(x, w, b) }", {"w": (8, 4), "b": (8,)}, 1),
}  # fmt: skip


@pytest.mark.parametrize("case", LAYERS)
def test_eight_bits_have_a_scale_for_each_output(
    case: str, program: Make, context: Make, same_answers: Make, op_types: Make
) -> None:
    text, weights, axis = LAYERS[case]
    rng = np.random.default_rng(2)
    shape = weights["w"]
    kept = shape.index(8)
    loud = (1.0 + 10.0 * np.arange(8)).reshape([8 if i == kept else 1 for i in range(len(shape))])
    weight = (rng.uniform(-1, 1, shape) * loud).astype(np.float32)
    weight[tuple(0 if i != kept else slice(None) for i in range(len(shape)))] = loud.reshape(-1)
    start = program(text, opset=21, **{**weights, "w": weight})
    after = QuantizeWeights(min_elements=1).apply(start, context(FP32))
    name = "w_t_quantized" if case == "gemm" else "w_quantized"
    _, scales, attributes = stored(after, name)
    assert attributes == {"axis": axis}
    np.testing.assert_allclose(scales, loud.reshape(-1) / 127, rtol=1e-6)
    want = weight.T if case == "gemm" else weight
    steps = scales.reshape([8 if i == axis else 1 for i in range(want.ndim)])
    assert (np.abs(widened(after, name) - want) <= steps * 0.50001).all()
    assert "w" not in after.graph.initializers
    assert op_types(after).count("DequantizeLinear") == 1


def test_convolutions_stay_in_float_in_four_bits(program: Make, context: Make, op_types: Make) -> None:
    text = "g (float[1,4,8,8] x) => (float[1,8,6,8] y) { c = Conv(x, k)  y = MatMul(c, w) }"
    start = program(text, opset=21, k=(8, 4, 3, 3), w=(6, 8))
    after = QuantizeWeights(bits=4, min_elements=1).apply(start, context(FP32))
    assert after.graph.initializers["k"].dtype.name == "FLOAT"
    assert "w_quantized" in after.graph.initializers


@pytest.mark.parametrize("bits", [4, 8])
def test_shared_weights_are_stored_once(
    bits: int, program: Make, context: Make, op_types: Make, optimised: Make
) -> None:
    text = "g (float[4,64] x) => (float[4,64] y) { a = MatMul(x, w)  r = Relu(a)  y = MatMul(r, w) }"
    start = program(text, opset=21, w=(64, 64))
    after = QuantizeWeights(bits=bits).apply(start, context(FP32))
    assert op_types(after).count("DequantizeLinear") == 1
    if bits == 4:  # a limit of onnxruntime 1.31: the other test of this file that counts them has two weights
        assert "MatMulNBits" not in optimised(after)


def test_a_product_straight_in_front_of_a_relu_is_widened_at_every_run(
    program: Make, context: Make, optimised: Make
) -> None:
    """A limit of onnxruntime 1.31 that the pass states: when this fails, the bias need no longer be subtracted."""
    text = "g (float[4,64] x) => (float[4,16] y) { a = MatMul(x, w)  r = Relu(a)  y = MatMul(r, v) }"
    start = program(text, opset=21, w=(64, 96), v=(96, 16))
    after = QuantizeWeights(bits=4, min_elements=1).apply(start, context(FP32))
    assert optimised(after).count("MatMulNBits") == 1


def test_a_weight_that_two_kinds_of_layers_share(program: Make, context: Make, same_answers: Make) -> None:
    """A tied embedding: one layer reads the rows, the other multiplies with the turned weight."""
    text = "g (float[4,64] x) => (float[4,64] y) { a = Gemm<transB=1>(x, w)  r = Relu(a)  y = MatMul(r, w) }"
    start = program(text, opset=21, w=np.full((64, 64), 0.25, np.float32))
    for bits in (4, 8):
        after = QuantizeWeights(bits=bits).apply(start, context(FP32))
        same_answers(start, after, rtol=1e-4, atol=1e-4)  # equal weights are held exactly


def test_a_weight_that_is_an_embedding_too(program: Make, context: Make, op_types: Make) -> None:
    text = "g (int64[4] i, float[4,64] x) => (float[4,64] y, float[4,64] e) { e = Gather(w, i)  y = MatMul(x, w) }"
    start = program(text, opset=21, w=(64, 64))
    after = QuantizeWeights().apply(start, context(FP32))
    assert op_types(after).count("DequantizeLinear") == 1
    (gather,) = [n for n in after.graph if n.op_type == "Gather"]
    assert gather.inputs[0].name == "w_dequantized"


@pytest.mark.parametrize("bits", [4, 8])
def test_small_weights_and_biases_are_left_alone(bits: int, program: Make, context: Make) -> None:
    start = program(MLP, opset=21, **{**MLP_WEIGHTS, "v": (96, 16)})
    after = QuantizeWeights(bits=bits, min_elements=96 * 16 + 1).apply(start, context(FP32))
    assert {"v", "c" if bits == 8 else "c_negated"} <= set(after.graph.initializers)
    assert "w" not in after.graph.initializers
    with pytest.raises(PassFailed, match="no weight has 100000 elements or more"):
        QuantizeWeights(bits=bits, min_elements=100_000)(start, context(FP32))


@pytest.mark.parametrize(("text", "weights"), [(MLP, MLP_WEIGHTS), (GEMMS, GEMM_WEIGHTS)], ids=["MatMul", "Gemm"])
@pytest.mark.parametrize("block", [16, 32, 128])
def test_onnxruntime_multiplies_with_four_bits(
    text: str, weights: dict[str, Any], block: int, program: Make, context: Make, optimised: Make
) -> None:
    """As a Gemm, which onnxruntime's own preprocessing makes of MatMul and Add, the weight would be widened first."""
    after = QuantizeWeights(bits=4, block=block, min_elements=1).apply(
        program(text, opset=21, **weights), context(FP32)
    )
    fused = optimised(after)
    assert fused.count("MatMulNBits") == 2
    assert "DequantizeLinear" not in fused


def test_inputs_that_no_block_divides(program: Make, context: Make, optimised: Make) -> None:
    start = program(WEIGHT % (70, 64), opset=21, w=(70, 64))
    after, proof = QuantizeWeights(bits=4, min_elements=1)(start, context(FP32))
    assert proof.worst_sqnr_db > 15
    assert optimised(after).count("MatMulNBits") == 1


def test_weights_in_batches_keep_their_blocks(program: Make, context: Make) -> None:
    text = "g (float[3,2,40] x) => (float[3,2,8] y) { y = MatMul(x, w) }"
    start = program(text, opset=21, w=(3, 40, 8))
    after = QuantizeWeights(bits=4, min_elements=1).apply(start, context(FP32))
    steps, scales, attributes = stored(after, "w_quantized")
    assert (steps.shape, scales.shape, attributes) == ((3, 40, 8), (3, 2, 8), {"axis": 1, "block_size": 32})
    want = start.graph.initializers["w"].const_value.numpy()
    assert (np.abs(widened(after, "w_quantized") - want) <= np.repeat(scales, 32, axis=1)[:, :40] * 0.50001).all()


ODD_GEMMS = {
    "scaled": "Gemm<alpha=2.0>(x, w)",
    "scaled bias": "Gemm<beta=0.5>(x, w, c)",
    "turned": "Gemm<transA=1>(x, w)",
    "swapped": "Gemm(w, x)",
}


@pytest.mark.parametrize("case", ODD_GEMMS)
@pytest.mark.parametrize("bits", [4, 8])
def test_other_gemms_stay_in_float(case: str, bits: int, program: Make, context: Make) -> None:
    weights = {"w": (64, 64)} | ({"c": (64,)} if "c)" in ODD_GEMMS[case] else {})
    start = program(f"g (float[64,64] x) => (float[64,64] y) {{ y = {ODD_GEMMS[case]} }}", opset=21, **weights)
    with pytest.raises(PassFailed, match="no weight"):
        QuantizeWeights(bits=bits)(start, context(FP32))


def test_a_gemm_with_a_weight_in_four_bits_keeps_its_answers(
    program: Make, context: Make, same_answers: Make, op_types: Make
) -> None:
    weight = np.random.default_rng(0).integers(-7, 8, (96, 64)).astype(np.float32)
    weight[:, ::16] = 7
    text = "g (float[4,64] x) => (float[4,96] y) { y = Gemm<transB=1>(x, w, c) }"
    start = program(text, opset=21, w=weight, c=(96,))
    after = QuantizeWeights(bits=4, min_elements=1).apply(start, context(FP32))
    assert op_types(after) == ["DequantizeLinear", "MatMul", "Add"]
    same_answers(start, after, rtol=1e-4, atol=1e-3)  # weights that are whole steps are held exactly


@pytest.mark.parametrize(("bits", "opset"), [(4, 20), (8, 12)])
def test_an_opset_that_cannot_hold_them_is_refused(bits: int, opset: int, program: Make, context: Make) -> None:
    with pytest.raises(PassFailed, match=f"{bits}-bit weights need opset {opset + 1}, the graph has {opset}"):
        QuantizeWeights(bits=bits)(program(MLP, opset=opset, **MLP_WEIGHTS), context(FP32))


@pytest.mark.parametrize("block", [0, 8, 24, 33, -32])
def test_a_block_that_runtimes_do_not_take_is_refused(block: int, program: Make, context: Make) -> None:
    with pytest.raises(PassFailed, match="power of two"):
        QuantizeWeights(bits=4, block=block)(program(MLP, opset=21, **MLP_WEIGHTS), context(FP32))


@pytest.mark.parametrize(("bits", "share"), [(8, 0.26), (4, 0.16)])
def test_the_file_is_smaller(bits: int, share: float, program: Make, context: Make) -> None:
    """A quarter of float32 and one scale a channel; an eighth and 4 bytes for each 32 weights."""
    start = program(WEIGHT % (512, 512), opset=21, w=(512, 512))
    _, proof = QuantizeWeights(bits=bits)(start, context(FP32))
    assert proof.size_bytes is not None
    assert proof.size_bytes[1] < share * proof.size_bytes[0]
    # one rounding of uniform noise: 4 bits hold blocks of 32 of a normal distribution to 19 dB, 8 bits channels to 41
    assert proof.worst_sqnr_db > (17 if bits == 4 else 38)


@pytest.mark.parametrize("step", [QuantizeWeights(), QuantizeWeights(bits=4), QuantizeDynamic()], ids=str)
def test_a_quantized_graph_is_refused(step: Any, program: Make, context: Make) -> None:
    once = QuantizeWeights().apply(program(MLP, opset=21, **MLP_WEIGHTS), context(FP32))
    with pytest.raises(PassFailed, match="quantized already"):
        step(once, context(X86))
