"""Ranges of activations: against numpy, in bounded memory, once for a graph; and the formats that they end in."""

import weakref
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from passes.context import Budget
from passes.dataset import Array, Dataset
from passes.onnx_level import quantize_int8
from passes.onnx_level.quantize_int8 import QuantizeInt8
from passes.onnx_level.quantizing import quantizer_model
from passes.onnx_level.ranges import Method, Ranges, activations, observe
from passes.onnxruntime import Session, import_onnxruntime
from passes.program import Program
from passes.proof import Decision
from targets.errors import InvalidInput

Make = Callable[..., Any]
X86 = "desktop_cpu/onnxruntime-int8"
NET = "g (float[1,4,16,16] x) => (float[1,8,12,12] y) { c = Conv(x, w) r = Relu(c) y = Conv(r, v) }"
WEIGHTS = {"w": (32, 4, 3, 3), "v": (8, 32, 3, 3)}
BINS = 2048


def seen(program: Program, data: Dataset, method: Method = "minmax", percentile: float = 99.999) -> Ranges:
    model = quantizer_model(program)
    return observe(model, data, activations(model), method, percentile, lambda step, done: None)


def all_values(program: Program, data: Dataset) -> dict[str, Array]:
    """Every value of every float tensor over the data, by running the graph with all of them as outputs."""
    model = quantizer_model(program)
    names = activations(model)
    del model.graph.output[:]
    model.graph.output.extend(onnx.helper.make_tensor_value_info(n, onnx.TensorProto.FLOAT, None) for n in names)
    session = Session(model.SerializeToString())
    answers = [session(sample) for sample in data]
    return {name: np.concatenate([a[name].reshape(-1) for a in answers]) for name in names}


@pytest.fixture
def images(noise: Make) -> Dataset:
    return Dataset.of_arrays("d", {"x": noise(6, 4, 16, 16)})


def values_program(program: Make, size: int) -> Program:
    made: Program = program(f"g (float[1,{size}] x) => (float[1,{size}] y) {{ y = Relu(x) }}")
    return made


# ---- against numpy


def test_extremes_are_those_of_the_tensors(program: Make, images: Dataset) -> None:
    start = program(NET, **WEIGHTS)
    found, values = seen(start, images), all_values(start, images)
    assert set(found) == set(values) == {"x", "c", "r", "y"}
    for name, every in values.items():
        assert found[name] == (pytest.approx(every.min(), rel=1e-6), pytest.approx(every.max(), rel=1e-6))
    assert found["r"][0] == 0


def test_weights_and_integers_have_no_range(program: Make) -> None:
    start = program("g (float[1,4] x, int64[1] i) => (float[1,4] y, int64[1] j) { y = Mul(x, w)  j = Neg(i) }", w=(4,))
    data = Dataset.of_arrays("d", {"x": np.ones((2, 4), np.float32), "i": np.ones((2, 1), np.int64)[:, 0]})
    assert set(activations(quantizer_model(start))) == {"x", "y"}
    assert activations(quantizer_model(start), ["Relu"]) == []
    assert set(seen(start, replace(data, read=lambda: [{"x": np.ones((1, 4), np.float32), "i": np.ones(1, np.int64)}]))
               ) == {"x", "y"}  # fmt: skip


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    percentile=st.sampled_from([50.0, 90.0, 99.0, 99.9, 99.999, 100.0]), samples=st.integers(1, 4),
    shift=st.sampled_from([-3.0, 0.0, 3.0, 100.0]), size=st.sampled_from([1e-3, 1.0, 1e6]), seed=st.integers(0, 99),
)  # fmt: skip
def test_a_percentile_is_within_a_bin_of_numpys(
    percentile: float, samples: int, shift: float, size: float, seed: int, program: Make
) -> None:
    rng = np.random.default_rng(seed)
    x = ((rng.standard_normal((samples, 500)) + shift) * size).astype(np.float32)
    start, data = values_program(program, 500), Dataset.of_arrays("d", {"x": x})
    found = seen(start, data, "percentile", percentile)
    full = seen(start, data)
    cut = (100 - percentile) / 2
    for name, every in all_values(start, data).items():
        width = 2 * max(abs(full[name][0]), abs(full[name][1])) / BINS
        for have, percent in zip(found[name], (cut, 100 - cut), strict=True):
            low, high = (np.percentile(every, percent, method=method) for method in ("lower", "higher"))
            assert low - 1.01 * width <= have <= high + 1.01 * width, "between two values any number is a percentile"
        assert full[name][0] <= found[name][0] <= found[name][1] <= full[name][1]


@pytest.mark.parametrize("method", ["percentile", "entropy", "mse", "best"])
@pytest.mark.parametrize("value", [0.0, 5.0, -5.0, 1e-30, 1e30])
def test_a_tensor_of_one_value_has_a_range(method: Method, value: float, program: Make) -> None:
    data = Dataset.of_arrays("d", {"x": np.full((2, 64), value, np.float32)})
    low, high = seen(values_program(program, 64), data, method)["x"]
    assert low <= high
    assert low <= np.float32(value) <= high or method == "entropy"
    assert (low, high) == (pytest.approx(value, rel=1e-2, abs=1e-38), pytest.approx(value, rel=1e-2, abs=1e-38))


# ---- entropy


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(kind=st.sampled_from(["normal", "laplace", "uniform", "lognormal", "two values"]), seed=st.integers(0, 99))
def test_entropy_is_never_wider_than_the_extremes(kind: str, seed: int, program: Make) -> None:
    rng = np.random.default_rng(seed)
    draws = {
        "normal": rng.standard_normal, "laplace": lambda n: rng.laplace(size=n), "uniform": rng.random,
        "lognormal": lambda n: rng.lognormal(size=n), "two values": lambda n: rng.choice([-1.0, 4.0], n),
    }  # fmt: skip
    data = Dataset.of_arrays("d", {"x": draws[kind](4000).reshape(2, 2000).astype(np.float32)})
    start = values_program(program, 2000)
    found, full = seen(start, data, "entropy"), seen(start, data)
    for name in full:
        assert full[name][0] <= found[name][0] <= found[name][1] <= full[name][1]
        assert found[name][1] > found[name][0]


def gaussian(count: int, seed: int = 0) -> Array:
    return np.random.default_rng(seed).standard_normal((10, count // 10)).astype(np.float32)


def test_entropy_clips_outliers(program: Make) -> None:
    x = gaussian(100_000)
    x[0, :5] = [60, -60, 55, -58, 59]
    found = seen(values_program(program, 10_000), Dataset.of_arrays("d", {"x": x}), "entropy")
    assert 2.5 < found["x"][1] < 10
    assert -10 < found["x"][0] < -2.5


def test_entropy_keeps_a_gaussian(program: Make) -> None:
    """Of a normal distribution without outliers nearly all stays: a few of 100,000 values are beyond 3.5."""
    found = seen(values_program(program, 10_000), Dataset.of_arrays("d", {"x": gaussian(100_000)}), "entropy")
    assert found["x"][1] > 3
    assert found["x"][0] < -3


def test_entropy_of_what_a_relu_leaves(program: Make) -> None:
    """Half of the values are exactly zero, which must not make the range narrow."""
    found = seen(values_program(program, 10_000), Dataset.of_arrays("d", {"x": gaussian(100_000)}), "entropy")
    assert found["y"][0] == 0
    assert 3 < found["y"][1] <= 5


def test_entropy_quantizes_outliers_better_than_the_extremes(program: Make) -> None:
    """What the method is for: less noise on the bulk."""
    x = gaussian(100_000)
    x[0, :5] = [60, -60, 55, -58, 59]
    start, data = values_program(program, 10_000), Dataset.of_arrays("d", {"x": x})
    bulk = x[np.abs(x) < 6]

    def noise_power(bounds: tuple[float, float]) -> float:
        scale = (bounds[1] - bounds[0]) / 255
        kept = np.clip(bulk, *bounds)
        return float(np.square(np.rint(kept / scale) * scale - bulk).mean())

    assert noise_power(seen(start, data, "entropy")["x"]) < noise_power(seen(start, data)["x"]) / 10


# ---- memory and walks


class Counted(np.ndarray[Any, Any]):
    """An array that can be watched."""


def watched(size: int, count: int, program_input: str = "x") -> tuple[Dataset, list[int]]:
    """Samples made when asked for; how many of them were alive at once, at each step."""
    alive: list[weakref.ref[Counted]] = []
    counts: list[int] = []

    def read() -> Iterator[dict[str, Array]]:
        for i in range(count):
            array = np.random.default_rng(i).standard_normal((1, size)).astype(np.float32).view(Counted)
            alive[:] = [*(a for a in alive if a() is not None), weakref.ref(array)]
            counts.append(len(alive))
            yield {program_input: array}
            del array

    return Dataset("d", read, count, identity=str), counts


@pytest.mark.parametrize("method", ["minmax", "percentile", "entropy", "best"])
def test_samples_do_not_pile_up(method: Method, program: Make) -> None:
    """onnxruntime's own calibrators keep all that they see: issue 21979. The loop holds one sample while the next
    is made."""
    data, counts = watched(1000, 30)
    seen(values_program(program, 1000), data, method)
    assert len(counts) >= 30
    assert max(counts) <= 2


@pytest.mark.parametrize("method", ["minmax", "entropy"])
def test_memory_does_not_grow_with_the_number_of_samples(method: Method, program: Make) -> None:
    import tracemalloc

    peaks = []
    for count in (4, 40):
        data, _ = watched(50_000, count)
        tracemalloc.start()
        seen(values_program(program, 50_000), data, method)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < peaks[0] + 200_000, "one sample is 200,000 bytes"


def walks(data: Dataset) -> tuple[Dataset, list[int]]:
    started: list[int] = []

    def read() -> Iterator[dict[str, Array]]:
        started.append(1)
        yield from data

    return replace(data, read=read), started


def test_a_network_with_large_activations_takes_more_walks(
    program: Make, images: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    from passes.onnx_level import ranges

    start = program(NET, **WEIGHTS)
    want = seen(start, images, "percentile", 99)
    monkeypatch.setattr(ranges, "_WALK_BYTES", 4 * 32 * 14 * 14)  # room for the largest tensor alone
    data, started = walks(images)
    assert seen(start, data, "percentile", 99) == want
    assert len(started) == 1 + 4, "extremes, then each alone: none of x, c, r and y fits beside another"


def test_ranges_are_observed_once_however_often_the_pass_is_narrowed(
    program: Make, context: Make, images: Dataset
) -> None:
    text = """g (float[1,4,16,16] x) => (float[1,4,8,8] y) {
        [first] a = Conv(x, w1)  [second] b = Conv(a, w2)  [third] c = Conv(b, w3)  [last] y = Conv(c, w4) }"""
    start = program(text, **{f"w{i}": (4, 4, 3, 3) for i in (1, 2, 3, 4)})
    data, _ = walks(images)
    observed: list[int] = []
    original = observe

    def counting(*arguments: Any, **named: Any) -> Ranges:
        observed.append(1)
        return original(*arguments, **named)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(quantize_int8, "observe", counting)
        ctx = context(X86, data=data, budget=Budget(min_sqnr_db=200))
        _, proof = QuantizeInt8(activation="uint8")(start, ctx)
    assert proof.decision is Decision.REVERTED
    assert len(proof.settings["exclude"]) >= 2, "it was narrowed"
    assert observed == [1]


# ---- what is refused


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("method", ["minmax", "percentile", "entropy", "best"])
def test_a_sample_that_is_not_finite_is_named(bad: float, method: Method, program: Make) -> None:
    x = np.ones((5, 8), np.float32)
    x[3, 2] = bad
    with pytest.raises(InvalidInput, match=r"calibration sample 3 makes tensor 'x'") as refusal:
        seen(values_program(program, 8), Dataset.of_arrays("d", {"x": x}), method)
    assert refusal.value.hint


def test_the_tensor_that_overflows_is_named(program: Make) -> None:
    start = program("g (float[1,8] x) => (float[1,8] y) { a = Exp(x)  y = Neg(a) }")
    x = np.ones((3, 8), np.float32)
    x[1] = 100
    with pytest.raises(InvalidInput, match="calibration sample 1 makes tensor 'a'"):
        seen(start, Dataset.of_arrays("d", {"x": x}))


def test_no_samples_are_refused(program: Make) -> None:
    """The docstring says so; ranges from plus to minus infinity would make scales of NaN."""
    empty = Dataset.of_arrays("d", {"x": np.ones((0, 8), np.float32)})
    with pytest.raises(InvalidInput) as refusal:
        seen(values_program(program, 8), empty)
    assert refusal.value.hint


# ---- what becomes of them


def scales(program: Program) -> dict[str, tuple[float, int]]:
    """(scale, zero point) of each activation."""
    found = {}
    for node in program.graph:
        if node.op_type == "QuantizeLinear":
            scale, zero = (v.const_value.numpy() for v in node.inputs[1:])
            name = str(node.inputs[0].name).removesuffix("_QuantizeLinear_Input")  # as outputs are called before it
            found[name] = (float(scale), int(zero))
    return found


def test_scales_are_the_range_over_255(program: Make, context: Make, images: Dataset) -> None:
    start = program(NET, **WEIGHTS)
    found = scales(QuantizeInt8(activation="uint8").apply(start, context(X86, data=images)))
    ranges = seen(start, images)
    assert set(found) >= {"x", "r"}
    for name, (scale, zero) in found.items():
        low, high = min(ranges[name][0], 0), max(ranges[name][1], 0)
        assert scale == pytest.approx((high - low) / 255, rel=1e-5)
        assert zero == pytest.approx(-low / scale, abs=0.51)


def test_symmetric_scales_reach_the_larger_side(program: Make, context: Make, images: Dataset) -> None:
    start = program(NET, **WEIGHTS)
    step = QuantizeInt8(activation="int8", activation_symmetric=True)
    found = scales(step.apply(start, context("jetson_agx_orin/tensorrt-int8", data=images)))
    ranges = seen(start, images)
    for name, (scale, zero) in found.items():
        reach = max(abs(v) for v in ranges[name])
        assert zero == 0
        assert reach / 128 * 0.999 <= scale <= reach / 127 * 1.001


def test_the_methods_give_other_scales(program: Make, context: Make, noise: Make) -> None:
    x = noise(4, 4, 16, 16)
    x[0, 0, 0, 0] = 40
    start, data = program(NET, **WEIGHTS), Dataset.of_arrays("d", {"x": x})
    found = {
        method: scales(
            QuantizeInt8(activation="uint8", ranges=method, percentile=99.0).apply(start, context(X86, data=data))
        )
        for method in ("minmax", "percentile", "entropy")
    }
    assert found["minmax"]["x"][0] > found["entropy"]["x"][0] > 0
    assert found["minmax"]["x"][0] > found["percentile"]["x"][0] > 0
    assert found["percentile"]["x"][0] != found["entropy"]["x"][0]


@pytest.fixture
def optimised(tmp_path: Any) -> Make:
    def types(program: Program) -> list[str]:
        ort = import_onnxruntime()
        options = ort.SessionOptions()
        options.optimized_model_filepath = str(tmp_path / "optimised.onnx")
        options.log_severity_level = 4
        ort.InferenceSession(program.onnx_bytes, options, providers=["CPUExecutionProvider"])
        return [node.op_type for node in onnx.load(tmp_path / "optimised.onnx").graph.node]

    return types


@pytest.mark.parametrize("per_channel", [True, False])
def test_unsigned_activations_fuse_into_integer_convolutions(
    per_channel: bool, program: Make, context: Make, images: Dataset, optimised: Make
) -> None:
    step = QuantizeInt8(activation="uint8", per_channel=per_channel)
    after = step.apply(program(NET, **WEIGHTS), context(X86, data=images))
    fused = optimised(after)
    assert fused.count("QLinearConv") == 2
    assert not {"Conv", "FusedConv", "Relu"} & set(fused)
    scale = after.graph.initializers["w_scale"].const_value
    assert scale.size == (32 if per_channel else 1)


@pytest.mark.parametrize("activation", ["uint8", "int8"])
@pytest.mark.parametrize("symmetric", [True, False])
def test_what_keeps_a_relu_in_float_is_symmetry(
    activation: Any, symmetric: bool, program: Make, context: Make, images: Dataset, optimised: Make
) -> None:
    """Found with onnxruntime 1.31 on x86: signed activations fuse into convolutions as unsigned ones do.

    With zero in the middle of the range a Relu is no clipping, so it runs in float between two conversions.
    """
    step = QuantizeInt8(activation=activation, activation_symmetric=symmetric)
    fused = optimised(step.apply(program(NET, **WEIGHTS), context(X86, data=images)))
    assert fused.count("QLinearConv") == 2
    assert ("Relu" in fused) == symmetric


# ---- least squares


def squared_error(values: Array, bounds: tuple[float, float], symmetric: bool = False) -> float:
    """What 8 bits over `bounds`, and zero, take from `values`."""
    low, high = min(bounds[0], 0.0), max(bounds[1], 0.0)
    if symmetric:
        low, high = -max(-low, high), max(-low, high)
    scale = (high - low) / 255
    zero = np.rint(-low / scale)
    stored = (np.clip(np.rint(values / scale) + zero, 0, 255) - zero) * scale
    return float(np.square(stored - values.astype(np.float64)).sum())


@pytest.mark.slow
@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    kind=st.sampled_from(["normal", "laplace", "uniform", "lognormal", "negative"]), outlier=st.booleans(),
    symmetric=st.booleans(), seed=st.integers(0, 99),
)  # fmt: skip
def test_least_squares_is_no_worse_than_the_other_ways(
    kind: str, outlier: bool, symmetric: bool, seed: int, program: Make
) -> None:
    rng = np.random.default_rng(seed)
    draws = {
        "normal": rng.standard_normal, "laplace": lambda n: rng.laplace(size=n), "uniform": rng.random,
        "lognormal": lambda n: rng.lognormal(size=n), "negative": lambda n: -rng.random(n),
    }  # fmt: skip
    x = draws[kind](8000).reshape(2, 4000).astype(np.float32)
    if outlier:
        x[0, 0] = 30
    start, data = values_program(program, 4000), Dataset.of_arrays("d", {"x": x})
    model = quantizer_model(start)

    def found(method: Method) -> Ranges:
        return observe(model, data, ["x", "y"], method, 99.9, lambda step, done: None, symmetric=symmetric)

    ranges = {method: found(method) for method in ("minmax", "percentile", "entropy", "mse", "best")}
    for name, values in (("x", x), ("y", np.maximum(x, 0))):
        errors = {method: squared_error(values, r[name], symmetric) if max(map(abs, r[name])) else 0.0
                  for method, r in ranges.items()}  # fmt: skip
        slack = 1.05  # errors are estimated on a histogram
        assert errors["best"] <= slack * min(errors.values())
        assert errors["mse"] <= slack * errors["minmax"]
        full = ranges["minmax"][name]
        assert full[0] <= ranges["mse"][name][0] <= ranges["mse"][name][1] <= full[1]


def test_least_squares_clips_long_tails(program: Make) -> None:
    x = np.random.default_rng(0).laplace(size=(10, 10_000)).astype(np.float32)
    start, data = values_program(program, 10_000), Dataset.of_arrays("d", {"x": x})
    widest, found = seen(start, data)["x"], seen(start, data, "mse")["x"]
    assert widest[0] < found[0] < found[1] < widest[1]
    assert squared_error(x, found) < 0.9 * squared_error(x, widest)
