"""Recurrent layers in a .tflite answer like onnxruntime, step after step and call after call, and hold weights once."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from importlib import import_module
from typing import Any

import numpy as np
import onnx
import onnx_ir
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper
from torch import nn

from passes.dataset import Array
from passes.onnxruntime import Session
from passes.program import Program, onnx_program
from passes.signature import Signature, TensorSpec
from targets.errors import InvalidInput
from targets.target import load_target
from toolkit.backends.litert.runtime import Interpreter
from toolkit.backends.litert.tflite import drafted, tflite_bytes
from toolkit.driver import export_program
from toolkit.rng import generator

FLOATS, INTEGERS = (load_target("raspberry_pi_4").stack(f"tflite-{p}") for p in ("fp32", "int8"))
NODE = "onnx.backend.test.case.node"
GATES = {"GRU": 3, "LSTM": 4, "RNN": 1}
DIRECTIONS = ("forward", "reverse", "bidirectional")
ENDS = ("y", "y_h", "y_c")
RESET = {"GRU": ({"linear_before_reset": 0}, {"linear_before_reset": 1})}


def weights(op: str, inputs: int, hidden: int, direction: str) -> list[Array]:
    """W, R and B, small enough that a rounding dies out from step to step."""
    rng, count, rows = generator(0, op), 1 + (direction == "bidirectional"), GATES[op] * hidden
    shapes = [(count, rows, inputs), (count, rows, hidden), (count, 2 * rows)]
    return [(rng.uniform(-1, 1, shape) / np.sqrt(hidden)).astype(np.float32) for shape in shapes]


def layer(
    op: str, sizes: Sequence[int], direction: str = "forward", *, bias: bool = True, states: bool = False,
    ends: Sequence[str] = ENDS, stored: Mapping[str, Array] | None = None, **attributes: Any,
) -> Program:  # fmt: skip
    """One layer over (steps, batch, inputs) with `hidden` features; `stored` are further operands by position name."""
    steps, batch, inputs, hidden = sizes
    count = 1 + (direction == "bidirectional")
    shapes = {"x": (steps, batch, inputs)}
    named = ["x", "w", "r", "b" if bias else "", ""]
    if states:
        shapes |= dict.fromkeys("hc" if op == "LSTM" else "h", (count, batch, hidden))
        named += list(shapes)[1:]
    constants = dict(zip("wrb", weights(op, inputs, hidden, direction), strict=True))
    for name, value in (stored or {}).items():
        position = ("x", "w", "r", "b", "lengths", "h", "c", "peepholes").index(name)
        named += [""] * (position + 1 - len(named))
        named[position], constants[name] = name, value
    outputs = [name if name in ends else "" for name in ENDS[: 2 + (op == "LSTM")]]
    node = helper.make_node(op, named, outputs, "layer", hidden_size=hidden, direction=direction, **attributes)
    results = {"y": (steps, count, batch, hidden), "y_h": (count, batch, hidden), "y_c": (count, batch, hidden)}
    return program(
        [node], shapes, {name: results[name] for name in outputs if name},
        {name: value for name, value in constants.items() if name in named},
    )  # fmt: skip


def program(
    nodes: Sequence[onnx.NodeProto], inputs: Mapping[str, tuple[int, ...]], outputs: Mapping[str, tuple[int, ...]],
    constants: Mapping[str, Array],
) -> Program:  # fmt: skip
    ends = [[helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in side.items()]
            for side in (inputs, outputs)]  # fmt: skip
    stored = [numpy_helper.from_array(value, name) for name, value in constants.items()]
    graph = helper.make_graph(nodes, "case", *ends, stored)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    model = onnx.shape_inference.infer_shapes(model, strict_mode=True)
    specs = [tuple(TensorSpec(name, "float32", shape) for name, shape in side.items()) for side in (inputs, outputs)]
    example = {name: np.zeros(shape, np.float32) for name, shape in inputs.items()}
    return onnx_program("case", onnx_ir.from_proto(model), Signature(*specs), example)


def samples(model: Program, count: int = 2) -> list[dict[str, Array]]:
    rng = generator(1)
    return [{spec.name: rng.uniform(-1, 1, spec.shape).astype(np.float32) for spec in model.signature.inputs}
            for _ in range(count)]  # fmt: skip


def agree(model: Program, content: bytes | None = None, atol: float = 1e-5) -> None:
    """In XNNPACK and in LiteRT's own kernels; the first sample comes again at the end, when its answer is the same."""
    truth, content = Session(model.onnx_bytes, optimize=False), content or tflite_bytes(model, FLOATS)
    first, second = samples(model)
    for xnnpack in (True, False):
        here = Interpreter(content, xnnpack=xnnpack)
        for sample in (first, second, first):
            got = here(sample)
            for name, want in truth(sample).items():
                assert got[name].shape == want.shape
                np.testing.assert_allclose(got[name], want, rtol=1e-5, atol=atol)


@pytest.mark.parametrize("direction", DIRECTIONS)
@pytest.mark.parametrize("states", [False, True], ids=["from zeros", "from states"])
@pytest.mark.parametrize("op", GATES)
def test_a_layer_answers_like_onnxruntime(op: str, states: bool, direction: str) -> None:
    for attributes in RESET.get(op, ({},)):
        agree(layer(op, (5, 1, 3, 4), direction, states=states, **attributes))
        agree(layer(op, (4, 3, 2, 5), direction, states=states, bias=False, **attributes))


@given(
    op=st.sampled_from(list(GATES)), direction=st.sampled_from(DIRECTIONS), states=st.booleans(), bias=st.booleans(),
    sizes=st.tuples(st.integers(1, 9), st.integers(1, 3), st.integers(1, 7), st.integers(1, 9)),
    ends=st.sets(st.sampled_from(ENDS[:2]), min_size=1), product_first=st.booleans(),
)  # fmt: skip
@settings(deadline=None)
def test_any_layer(
    op: str, direction: str, states: bool, bias: bool, sizes: tuple[int, ...], ends: set[str], product_first: bool
) -> None:
    attributes = {"linear_before_reset": int(product_first)} if op == "GRU" else {}
    agree(layer(op, sizes, direction, states=states, bias=bias, ends=sorted(ends), **attributes))


@pytest.mark.parametrize("steps", [64, 65, 67, 100])
def test_many_steps_are_put_together_block_by_block(steps: int) -> None:
    """Blocks of nine and ten, full and not."""
    for op in ("GRU", "LSTM"):
        agree(layer(op, (steps, 2, 3, 4), "bidirectional"))


def test_other_functions_of_the_gates() -> None:
    agree(layer("GRU", (5, 1, 3, 4), activations=["Tanh", "Relu"]))
    agree(layer("LSTM", (5, 1, 3, 4), "bidirectional", activations=["Sigmoid", "Relu", "Tanh", "Tanh", "Tanh", "Relu"]))
    agree(layer("RNN", (5, 1, 3, 4), "bidirectional", activations=["Relu", "Sigmoid"]))


def test_the_file_holds_the_weights_once_however_many_steps_there_are() -> None:
    sizes = []
    for steps in (2, 50, 1000):
        model = layer("LSTM", (steps, 1, 16, 32), ends=["y_h"])
        content, draft = drafted(model, FLOATS)
        sizes.append(len(content))
        assert [operator.code for operator in draft.operators].count("WHILE") == 1
    assert max(sizes) - min(sizes) < 64, "numbers of other lengths"
    assert sizes[-1] < len(model.onnx_bytes) + 4096, "the loop itself"


def test_one_step_needs_no_loop() -> None:
    """What a network holds that is called for each frame, with the state that it gave before."""
    model = layer("GRU", (1, 1, 3, 4), states=True)
    codes = {operator.code for operator in drafted(model, FLOATS)[1].operators}
    assert not codes & {"WHILE", "GATHER"}
    agree(model)


# ---- integers around it


@pytest.mark.parametrize("op", GATES)
@pytest.mark.parametrize("by_channel", [False, True], ids=["one scale", "a scale for each row"])
def test_weights_stored_as_int8_stay_int8_in_the_file(op: str, by_channel: bool) -> None:
    """Between QuantizeLinear and DequantizeLinear the layer itself computes in floats, as the graph says."""
    sizes = steps, batch, inputs, hidden = 6, 1, 24, 20
    plain = layer(op, sizes, ends=["y"])
    constants: dict[str, Array] = {
        "scale": np.float32(2 / 255),
        "zero": np.int8(0),
        "b": weights(op, inputs, hidden, "")[2],
    }
    nodes = [helper.make_node("QuantizeLinear", ["x", "scale", "zero"], ["x_q"]),
             helper.make_node("DequantizeLinear", ["x_q", "scale", "zero"], ["x_real"])]  # fmt: skip
    for name, values in zip("wr", weights(op, inputs, hidden, ""), strict=False):
        scale = np.abs(values).max((0, 2) if by_channel else None).astype(np.float32) / np.float32(127)
        along = scale[None, :, None] if by_channel else scale
        constants |= {f"{name}_q": np.rint(values / along).astype(np.int8), f"{name}_scale": scale}
        nodes.append(helper.make_node("DequantizeLinear", [f"{name}_q", f"{name}_scale"], [name], axis=1))
    nodes.append(helper.make_node(op, ["x_real", "w", "r", "b"], ["y_real"], "layer", hidden_size=hidden))
    nodes += [helper.make_node("QuantizeLinear", ["y_real", "scale", "zero"], ["y_q"]),
              helper.make_node("DequantizeLinear", ["y_q", "scale", "zero"], ["y"])]  # fmt: skip
    model = program(nodes, {"x": (steps, batch, inputs)}, {"y": (steps, 1, batch, hidden)}, constants)
    content = tflite_bytes(model, INTEGERS)
    assert len(content) < len(tflite_bytes(plain, FLOATS)) - 2 * GATES[op] * hidden * hidden
    agree(model, content, atol=1.01 * 2 / 255)  # one step of the result's scale: the same number rounded once


# ---- what others say


def cases() -> dict[str, tuple[onnx.ModelProto, Sequence[Array], Sequence[Array]]]:
    """onnx's own, their weights made constants, which these are in networks."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for op in GATES:
            import_module(f"{NODE}.{op.lower()}")  # which makes its cases
    found = {}
    for case in import_module(NODE)._NodeTestCases:
        if case.model.graph.node[0].op_type not in GATES:
            continue
        model = onnx.ModelProto.FromString(case.model.SerializeToString())
        ((fed, wanted),) = case.data_sets
        arrays = dict(zip((value.name for value in model.graph.input), fed, strict=True))
        for value in list(model.graph.input)[1:]:
            model.graph.initializer.append(numpy_helper.from_array(arrays[value.name], value.name))
            model.graph.input.remove(value)
        found[case.name] = (model, fed[:1], wanted)
    return found


def spec_of(value: onnx.ValueInfoProto) -> TensorSpec:
    return TensorSpec(value.name, "float32", tuple(d.dim_value for d in value.type.tensor_type.shape.dim))


REFUSED = {"batchwise": "before the steps", "peepholes": "has peepholes"}


def test_onnx_own_cases_are_answered_or_refused_by_name() -> None:
    seen = 0
    for name, (proto, fed, wanted) in cases().items():
        specs = [tuple(map(spec_of, side)) for side in (proto.graph.input, proto.graph.output)]
        feed = {specs[0][0].name: fed[0]}
        model = onnx_program(name, onnx_ir.from_proto(proto), Signature(*specs), feed)
        if reason := next((reason for word, reason in REFUSED.items() if word in name), ""):
            with pytest.raises(InvalidInput, match=reason):
                tflite_bytes(model, FLOATS)
            continue
        got = Interpreter(tflite_bytes(model, FLOATS))(feed)
        for spec, want in zip(specs[1], wanted, strict=True):
            np.testing.assert_allclose(got[spec.name], want, rtol=1e-5, atol=1e-6)
        seen += 1
    assert seen == len(cases()) - 4 == 14


class Listener(nn.Module):
    """Convolutions, then a recurrent layer that reads their frames: the order of axes changes between the two."""

    def __init__(self, kind: type[nn.RNNBase], *, deep: bool) -> None:
        super().__init__()
        self.listen = nn.Conv2d(1, 4, 3, stride=2)
        self.follow = kind(4 * 7, 100, num_layers=1 + deep, batch_first=True, bidirectional=deep)
        self.classify = nn.Linear(100 * (1 + deep), 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        heard = self.listen(x[:, None]).relu().permute(0, 2, 1, 3).flatten(2)
        logits: torch.Tensor = self.classify(self.follow(heard)[0][:, -1])
        return logits


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "deep"), [(nn.GRU, False), (nn.GRU, True), (nn.LSTM, True)])
def test_a_network_of_torch_comes_through(kind: type[nn.RNNBase], deep: bool) -> None:
    """Its weights have more elements than constants are folded of, and are brought into ONNX's order all the same."""
    module = Listener(kind, deep=deep)
    for weight in module.parameters():
        weight.data = torch.from_numpy(
            generator(2, str(weight.numel())).uniform(-0.1, 0.1, weight.shape).astype(np.float32)
        )
    model = export_program((module.eval(), (torch.zeros(1, 17, 15),)))
    agree(model)


# ---- what cannot be written


@pytest.mark.parametrize(
    ("op", "arguments", "said"),
    [
        ("LSTM", {"stored": {"peepholes": np.zeros((1, 12), np.float32)}}, "has peepholes"),
        ("LSTM", {"input_forget": 1}, "couples its input and forget gates"),
        ("GRU", {"clip": 3.0}, "clips what goes into its gates"),
        ("GRU", {"activations": ["HardSigmoid", "Tanh"]}, "has the activation function HardSigmoid"),
        ("RNN", {"stored": {"lengths": np.array([3], np.int32)}}, "has sequences that end before its steps do"),
    ],
)
def test_what_has_no_form_is_refused_in_words(op: str, arguments: dict[str, Any], said: str) -> None:
    with pytest.raises(InvalidInput, match=rf"{op} 'layer' {said}") as refusal:
        tflite_bytes(layer(op, (5, 1, 2, 4), **arguments), FLOATS)
    assert "--stack" in refusal.value.hint


def test_sequences_that_are_all_as_long_as_the_steps_are_none_that_end() -> None:
    agree(layer("GRU", (5, 2, 2, 4), stored={"lengths": np.array([5, 5], np.int32)}))


def test_weights_that_vary_are_refused() -> None:
    node = helper.make_node("GRU", ["x", "w", "r"], ["y"], "layer", hidden_size=2)
    shapes = {"x": (3, 1, 2), "w": (1, 6, 2), "r": (1, 6, 2)}
    with pytest.raises(InvalidInput, match="GRU 'layer' has weights that vary with the input"):
        tflite_bytes(program([node], shapes, {"y": (3, 1, 1, 2)}, {}), FLOATS)
