"""Faults planted in a trained network are found where they were planted."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from math import isfinite
from typing import Any, Literal

import numpy as np
import onnx
import onnx_ir as ir
import pytest
import torch
from onnx import numpy_helper
from torch import nn

from passes.compare import sqnr_db
from passes.context import Context
from passes.dataset import Dataset
from passes.onnx_level.causes import causes
from passes.onnx_level.effects import Effects, measure
from passes.onnx_level.quantize_int8 import QuantizeInt8
from passes.onnx_level.sites import dequantized, units
from passes.onnx_level.switchboard import Switchboard
from passes.onnx_level.unrounding import in_float
from passes.program import Program
from passes.recipe import RECIPES
from passes.running import run
from targets.errors import InvalidInput
from targets.graph import read_workload
from targets.target import load_stack
from toolkit.models import entry
from toolkit.models.digits import split
from toolkit.sources import load_source

pytestmark = pytest.mark.slow

STACK = load_stack("raspberry_pi_4/tflite-int8")
Network = tuple[Program, Dataset]


@pytest.fixture(scope="module")
def digits() -> Network:
    """The built-in network as the exact passes leave it, and samples."""
    source = load_source("digits")
    program = run(RECIPES["float32"](STACK, source.program.level), source.program, Context(stack=STACK)).program
    return program, entry("digits").calibration().take(16)


@pytest.fixture(scope="module")
def attention() -> Network:
    """64 pixels as tokens, one head, trained for three passes over the digits."""
    (images, labels), _ = split()
    x, y = torch.from_numpy(images).reshape(-1, 64, 1), torch.from_numpy(labels)

    class Reader(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed, self.place = nn.Linear(1, 16), nn.Parameter(torch.zeros(64, 16))
            self.q, self.k, self.v = (nn.Linear(16, 16) for _ in range(3))
            self.classify = nn.Linear(16 * 64, 10)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            h = self.embed(x) + self.place
            weights = torch.softmax(self.q(h) @ self.k(h).transpose(1, 2) / 4, dim=-1)
            output: torch.Tensor = self.classify((h + weights @ self.v(h)).flatten(1))
            return output

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = Reader()
        optimizer = torch.optim.Adam(model.parameters(), 3e-3)
        for _ in range(3):
            for batch in torch.arange(len(x) // 32 * 32).reshape(-1, 32):
                optimizer.zero_grad()
                nn.functional.cross_entropy(model(x[batch]), y[batch]).backward()  # type: ignore[no-untyped-call]
                optimizer.step()
    source = load_source((model.eval(), (x[:1],)))
    program = run(RECIPES["float32"](STACK, source.program.level), source.program, Context(stack=STACK)).program
    return program, Dataset.of_arrays("digits", {program.signature.inputs[0].name: x[:16].numpy()})


def quantized(network: Network, **settings: bool) -> Program:
    program, data = network
    step = replace(QuantizeInt8(), **settings)  # type: ignore[arg-type]
    return step.apply(program.with_facts(program.facts, None), Context(stack=STACK, data=data))


def changed(program: Program, change: Callable[[onnx.ModelProto], None]) -> Program:
    """The program with something done to its graph that no pass would do."""
    model = onnx.load_model_from_string(program.onnx_bytes)
    change(model)
    return program.with_model(ir.from_proto(model))


def scaled(model: onnx.ModelProto, name: str, factor: float | np.ndarray) -> None:
    """Multiply a constant by a factor, or by one for each of its first axis."""
    tensor = next(t for t in model.graph.initializer if t.name == name)
    values = numpy_helper.to_array(tensor)
    factors = np.asarray(factor, values.dtype)
    tensor.CopyFrom(numpy_helper.from_array(values * factors.reshape(-1, *[1] * (values.ndim - 1)), name)
                    if factors.ndim else numpy_helper.from_array(values * factors, name))  # fmt: skip


def effects_of(network: Network, other: Program) -> Effects:
    return measure(Switchboard(network[0], other), network[1])


def kinds(effects: Effects, layer: str) -> set[str]:
    return {cause.kind for effect in effects.effects if effect.unit.name == layer for cause in causes(effect)}


def test_nothing_is_found_where_nothing_is_wrong(digits: Network) -> None:
    effects = effects_of(digits, quantized(digits))
    assert effects.all_db > 25
    assert effects.first_jump is None
    assert not any(causes(effect) for effect in effects.effects)
    assert max(e.share for e in effects.effects) < 0.5


@pytest.mark.parametrize("layer", ["block1.0", pytest.param("down.1.0", marks=pytest.mark.slow)])
def test_a_channel_a_hundred_times_as_large_is_found_under_one_scale(digits: Network, layer: str) -> None:
    def plant(model: onnx.ModelProto) -> None:
        weights = next(t for t in model.graph.initializer if t.name == f"{layer}.weight")
        factors = np.ones(weights.dims[0])
        factors[3] = 100
        scaled(model, f"{layer}.weight", factors)

    loud = changed(digits[0], plant)
    effects = effects_of((loud, digits[1]), quantized((loud, digits[1]), per_channel=False))
    cause = next(c for e in effects.effects if e.unit.name == layer for c in causes(e) if c.kind == "outlier")
    assert "channel 3 " in cause.text
    assert "per_channel" in cause.remedy
    assert [e.unit.name for e in effects.effects if "outlier" in kinds(effects, e.unit.name)] == [layer]
    repaired = effects_of((loud, digits[1]), quantized((loud, digits[1]), per_channel=True))
    assert not kinds(repaired, layer) & {"outlier"}


@pytest.mark.parametrize(("layer", "tensor"), [("stem.0", "relu"), ("down.0.0", "relu_2"), ("node_mean", "mean")])
def test_an_activation_that_a_bad_batch_clipped_is_found(digits: Network, layer: str, tensor: str) -> None:
    faulty = changed(quantized(digits), lambda model: scaled(model, f"{tensor}_scale", 0.2))
    effects = effects_of(digits, faulty)
    assert effects.worst_first[0].unit.name == layer
    assert effects.first_jump is not None
    assert effects.first_jump.unit.name == layer
    assert "clipped" in kinds(effects, layer)


def test_swapped_scales_are_found_in_both_layers(digits: Network) -> None:
    first, second = "block1.0", "block2.0"

    def swap(model: onnx.ModelProto) -> None:
        scales = [next(t for t in model.graph.initializer if t.name == f"{n}.weight_scale") for n in (first, second)]
        values = [numpy_helper.to_array(t) for t in scales]
        size = min(len(v) for v in values)
        for tensor, own, other in zip(scales, values, values[::-1], strict=True):
            mixed = own.copy()
            mixed[:size] = other[:size] * 3
            tensor.CopyFrom(numpy_helper.from_array(mixed, tensor.name))

    effects = effects_of(digits, changed(quantized(digits), swap))
    assert {e.unit.name for e in effects.worst_first[:2]} == {first, second}
    assert all("weights" in kinds(effects, layer) for layer in (first, second))


@pytest.mark.parametrize("layer", ["stem.0", "down.1.0", "block2.0"])
def test_a_normalisation_that_was_folded_twice_is_found(digits: Network, layer: str) -> None:
    factors = np.random.default_rng(0).uniform(1.5, 3.0, 64)

    def fold_again(model: onnx.ModelProto) -> None:
        weights = next(t for t in model.graph.initializer if t.name == f"{layer}.weight")
        for name in ("weight", "bias"):
            scaled(model, f"{layer}.{name}", factors[: weights.dims[0]])

    twice = changed(digits[0], fold_again)
    for other in (twice, quantized((twice, digits[1]))):
        effects = effects_of(digits, other)
        assert effects.worst_first[0].unit.name == layer
        assert "weights" in kinds(effects, layer)


def test_a_softmax_in_eight_bits_is_found(attention: Network) -> None:
    other = quantized(attention)
    unit = next(u for u in units(attention[0], other) if u.op_type == "Softmax")
    effects = effects_of(attention, other)
    assert "vanished" in kinds(effects, unit.name) or effects.worst_first[0].unit.name == unit.name


# ---- the switchboard is the two graphs that it was made of


def test_all_switches_make_one_graph_or_the_other(digits: Network) -> None:
    program, data = digits
    other = quantized(digits)
    board = Switchboard(program, other)
    names = [unit.name for unit in board.units]
    for sample in data.take(4):
        np.testing.assert_allclose(board.run(sample, ())["output"], program.run(sample)["output"], atol=1e-5)
        step = next(u.rounding.step for u in board.units if u.tensor == "output" and u.rounding)
        np.testing.assert_allclose(board.run(sample, names)["output"], other.run(sample)["output"], atol=1.01 * step)


def test_units_in_float_again_answer_as_the_switchboard_says(digits: Network) -> None:
    program, data = digits
    other = quantized(digits)
    board = Switchboard(program, other)
    names = {unit.name for unit in board.units}
    everything = in_float(other, board.units, names)
    for sample in data.take(4):
        truth = program.run(sample)["output"]
        assert sqnr_db(float((truth**2).sum()), float(((everything.run(sample)["output"] - truth) ** 2).sum())) > 100
        for name in ("stem.0", "node_add", "classify"):
            have = in_float(other, board.units, {name}).run(sample)["output"]
            want = board.run(sample, names - {name})["output"]
            assert sqnr_db(float((want**2).sum()), float(((have - want) ** 2).sum())) > 30
    assert not any(node.op_type == "QuantizeLinear" for node in everything.graph)


def test_no_samples_are_refused(digits: Network) -> None:
    with pytest.raises(InvalidInput, match="no samples"):
        measure(Switchboard(digits[0], quantized(digits)), Dataset("none", list, 0))


@pytest.mark.parametrize(("axis", "block"), [(0, 0), (1, 0), (0, 2), (1, 2)])
def test_integers_stand_for_what_onnx_says_they_do(axis: int, block: int) -> None:
    rng = np.random.default_rng(0)
    integers = rng.integers(-128, 128, (4, 6)).astype(np.int8)
    shape = [4, 6]
    shape[axis] //= block or 1
    scale = rng.uniform(0.1, 1, shape if block else shape[axis]).astype(np.float32)
    zero = rng.integers(-3, 3, scale.shape).astype(np.int8)
    attributes = {"axis": axis, **({"block_size": block} if block else {})}
    node = onnx.helper.make_node("DequantizeLinear", ["q", "s", "z"], ["y"], **attributes)
    from onnx.reference import ReferenceEvaluator

    (want,) = ReferenceEvaluator(node).run(None, {"q": integers, "s": scale, "z": zero})
    values = [ir.Value(name=n, const_value=ir.tensor(a)) for n, a in zip("qsz", (integers, scale, zero), strict=True)]
    have = dequantized(ir.node("DequantizeLinear", values, attributes))
    np.testing.assert_allclose(have, want, rtol=1e-6)


# ---- graphs that are not a chain of layers with one result

ODD = {
    "two results": "g (float[1,4,8,8] x) => (float[1,2,8,8] y) { a = Conv(x, w)  b, c = Split<axis=1, num_outputs=2>(a)"
    "  y = Add(b, c) }",
    "integers behind": "g (float[1,4,8,8] x) => (float[1,4,8,8] y, int64[1,1,8,8] z) { a = Conv(x, w)  r = Relu(a)"
    "  z = ArgMax<axis=1>(r)  y = Conv(r, w) }",
    "a body reads a layer": "g (float[1,4,8,8] x, bool c) => (float[1,4,8,8] y) { a = Conv(x, w)  y = If (c) <"
    " then_branch = t () => (float[1,4,8,8] p) { p = Relu(a) },"
    " else_branch = e () => (float[1,4,8,8] q) { q = Tanh(a) } > }",
    "nodes without names": "g (float[1,4,8,8] x) => (float[1,4,8,8] y) { a = Conv(x, w)  r = Relu(a)  y = Conv(r, w) }",
}


@pytest.mark.parametrize("by", ["maker", "reader"])
@pytest.mark.parametrize("text", ODD.values(), ids=ODD)
def test_any_graph_is_taken_apart_and_put_together_again(
    text: str, by: Literal["maker", "reader"], program: Callable[..., Program]
) -> None:
    rng = np.random.default_rng(0)
    start = program(text, w=(4, 4, 1, 1))
    arrays: dict[str, np.ndarray[Any, Any]] = {"x": rng.standard_normal((6, 4, 8, 8)).astype(np.float32)}
    samples = [{"x": arrays["x"][i : i + 1]} for i in range(6)]
    if any(spec.name == "c" for spec in start.signature.inputs):
        samples = [{**sample, "c": np.array(bool(i % 2))} for i, sample in enumerate(samples)]
    data = Dataset("odd", lambda: samples, 6)
    other = QuantizeInt8().apply(start, Context(stack=STACK, data=data))
    board = Switchboard(start, other, by=by)
    effects = measure(board, data)
    assert effects.effects
    assert sum(e.share for e in effects.effects) == pytest.approx(1)
    assert all(isfinite(e.share) for e in effects.effects)
    for sample in samples[:2]:
        for name, want in start.run(sample).items():
            np.testing.assert_allclose(board.run(sample, ())[name], want, atol=1e-5)
    read_workload(other.static_model, fuses=STACK.fuses)


def test_an_input_that_is_cut_off_is_where_the_error_jumps(digits: Network) -> None:
    effects = effects_of(digits, changed(quantized(digits), lambda model: scaled(model, "image_scale", 0.1)))
    assert effects.first_jump is not None
    assert effects.first_jump.unit.op_type == "input"
    assert "clipped" in kinds(effects, effects.first_jump.unit.name)
