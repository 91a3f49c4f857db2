"""StoreInBytes: the weights that int8 leaves in float, the answers they keep, and what stays as it is."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import onnx
import pytest

from passes.compare import compare
from passes.contract import PassFailed
from passes.dataset import Dataset
from passes.onnx_level.store_in_bytes import StoreInBytes
from passes.onnx_level.switchboard import Switchboard
from passes.onnxruntime import import_onnxruntime
from passes.program import Level, Program
from passes.recipe import int8
from targets.target import load_stack

Make = Callable[..., Any]
X86 = "desktop_cpu/onnxruntime-int8"
LISTENER = """g (float[4,1,24] x) => (float[4,1,1,8] y) {
    y, h, c = LSTM<hidden_size: int = 8>(x, w, r, b) }"""


@pytest.fixture
def listener(program: Make) -> Program:
    made: Program = program(LISTENER, w=(1, 32, 24), r=(1, 32, 8), b=(1, 64))
    return replace(made, facts=made.facts | {"int8"})


def sequences(noise: Make) -> Dataset:
    samples = [{"x": sequence} for sequence in noise(3, 4, 1, 24)]
    return Dataset("noise", lambda: samples, len(samples))


def test_recurrent_weights_become_bytes_and_the_answers_stay_near(
    listener: Program, context: Make, noise: Make
) -> None:
    after = StoreInBytes(min_elements=256).apply(listener, context(X86))
    kinds = {name: value.const_value.dtype.name for name, value in after.graph.initializers.items()}
    assert kinds["w_bytes"] == kinds["r_bytes"] == "INT8"
    assert after.graph.initializers["w_scale"].shape == (1, 32, 1), "one for each gate's output"
    assert kinds["b"] == "FLOAT"
    assert "w" not in kinds
    sqnr_db = compare(listener, after, sequences(noise))[0].sqnr_db
    assert 30 < sqnr_db < 100  # 8 bits of weights, and really rounded
    with pytest.raises(PassFailed, match="in float"):
        StoreInBytes(min_elements=256).requires(after, context(X86))


def test_every_weight_is_off_by_half_a_step_at_most(listener: Program, context: Make) -> None:
    after = StoreInBytes(min_elements=256).apply(listener, context(X86))
    stored, scale = (after.graph.initializers[f"w_{part}"].const_value.numpy() for part in ("bytes", "scale"))
    wanted = listener.graph.initializers["w"].const_value
    assert wanted is not None
    assert (np.abs(stored * scale - wanted.numpy()) <= scale * 0.5001).all()  # and the rounding of float32


def test_onnxruntime_computes_them_once_at_load(listener: Program, context: Make, tmp_path: Any) -> None:
    after = StoreInBytes(min_elements=256).apply(listener, context(X86))
    onnxruntime = import_onnxruntime()
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "loaded.onnx")
    onnxruntime.InferenceSession(after.onnx_bytes, options)
    assert [node.op_type for node in onnx.load(tmp_path / "loaded.onnx").graph.node] == ["LSTM"]


def test_a_small_weight_stays(listener: Program, context: Make) -> None:
    with pytest.raises(PassFailed, match="769 elements"):
        StoreInBytes(min_elements=769).requires(listener, context(X86))


def test_a_weight_that_is_read_in_two_ways_stays(program: Make, context: Make) -> None:
    start = program(
        """g (float[1,16] x, int64[1] i) => (float[1,32] y, float[1,32] z) {
            y = MatMul(x, w)  z = Gather(w, i) }""",
        w=(16, 32),
    )
    with pytest.raises(PassFailed, match="in float"):
        StoreInBytes(min_elements=1).requires(start, context(X86))


def test_a_table_has_a_scale_for_each_row(program: Make, context: Make) -> None:
    start = program("g (int64[1] i) => (float[1,32] y) { y = Gather(w, i) }", w=(16, 32))
    after = StoreInBytes(min_elements=1).apply(start, context(X86))
    assert after.graph.initializers["w_scale"].shape == (16, 1)


def test_explain_sees_the_changed_weights(program: Make, context: Make) -> None:
    start = program("g (int64[1] i) => (float[1,32] y) { y = Gather(w, i) }", w=(16, 32))
    after = StoreInBytes(min_elements=1).apply(start, context(X86))
    (unit,) = Switchboard(start, after).units
    assert (unit.op_type, len(unit.weights)) == ("Gather", 1)


@pytest.mark.parametrize(("stack", "wanted"), [(X86, True), ("coral_tpu/usb3-desktop", False)])
def test_only_a_runtime_that_computes_constants_at_load_is_given_them(stack: str, wanted: bool) -> None:
    names = [step.name for step in int8(load_stack(stack), Level.ONNX).passes]
    assert ("StoreInBytes" in names) == wanted
