"""The same arithmetic in training, evaluation, frozen, and in onnxruntime, for every width of the grid."""

from __future__ import annotations

import copy
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest
import torch
from torch import Tensor, nn

from passes.fake_quant import FakeQuantize, translations
from passes.onnxruntime import Session
from targets.errors import InvalidInput
from targets.target import load_stack
from toolkit.driver import Options, float_program
from toolkit.models.blueprints.config import parse
from toolkit.models.blueprints.quant_adapter import (
    Config,
    FrozenLayer,
    QuantizedLayer,
    adapt,
    build,
    calibration,
    example,
    frozen,
)
from toolkit.models.signals import motion
from toolkit.sources import load_source


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def signals(count: int = 8) -> Tensor:
    return torch.cat([torch.from_numpy(s["signal"]) for s in calibration().take(count)])


def plain() -> nn.Sequential:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Sequential(nn.Conv1d(3, 8, 3, stride=2, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(40, 4)).eval()


each_width = pytest.mark.parametrize("bits", range(2, 9))


@each_width
def test_training_and_evaluation_are_the_same(bits: int) -> None:
    model = build(parse(Config, {"weight_bits": bits, "activation_bits": bits}))
    x = signals()
    assert torch.equal(model.train()(x), model.eval()(x))


@each_width
def test_weights_and_inputs_take_no_more_values_than_the_grid_has(bits: int) -> None:
    model = adapt(plain(), [noise(4, 3, 10)], weight_bits=bits, activation_bits=bits)
    for part in model.modules():
        if isinstance(part, QuantizedLayer):
            weight = part.weight_grid(part.layer.weight)
            for row in (weight / part.weight_grid.step().reshape([-1] + [1] * (weight.ndim - 1))).flatten(1):
                assert len(row.round().unique()) <= 2**bits - 1
                torch.testing.assert_close(row, row.round(), rtol=0, atol=1e-4)
            values = torch.linspace(-9, 9, 10_001)
            assert len(part.input_grid(values).unique()) == 2**bits


@torch.no_grad()
def test_more_bits_are_nearer_to_the_float_network() -> None:
    """A bit is worth 6 dB (Bennett 1948); the grids together lose no more than 12 of them against that."""
    float_model, x = plain(), noise(64, 3, 10)
    wanted = float_model(x)
    ratios = []
    for bits in (3, 4, 5, 6, 7, 8):
        error = adapt(float_model, [x], weight_bits=bits, activation_bits=bits)(x) - wanted
        ratios.append(float(10 * torch.log10(wanted.square().sum() / error.square().sum())))
    assert ratios == sorted(ratios)
    assert ratios[-1] - ratios[0] == pytest.approx(6.02 * 5, abs=6)
    assert ratios[-1] >= 30


@torch.no_grad()
def test_in_eight_bits_it_answers_like_its_float_layers() -> None:
    model, x = build(), signals(64)
    plain_one = copy.deepcopy(model)
    for name, part in list(plain_one.named_modules()):
        if isinstance(part, QuantizedLayer):
            owner, _, last = name.rpartition(".")
            setattr(plain_one.get_submodule(owner), last, part.layer)
    wanted = plain_one(x)
    assert 10 * torch.log10(wanted.square().sum() / (model(x) - wanted).square().sum()) >= 20


@each_width
def test_frozen_integers_give_the_same_answers(bits: int) -> None:
    model = adapt(plain(), [noise(16, 3, 10)], weight_bits=bits, activation_bits=bits)
    stored, x = frozen(model), noise(5, 3, 10, seed=1)
    torch.testing.assert_close(stored(x), model(x), rtol=1e-5, atol=1e-5)
    layers = [part for part in stored.modules() if isinstance(part, FrozenLayer)]
    assert len(layers) == 2
    for layer in layers:
        assert layer.integers.dtype == torch.int8
        assert int(layer.integers.abs().max()) == 2 ** (bits - 1) - 1
    assert not list(stored.parameters()) or not any(p.requires_grad for p in stored.parameters())
    assert all(p.requires_grad for p in model.parameters()), "what was frozen is a copy"


@pytest.mark.slow
@pytest.mark.parametrize(("bits", "stored"), [(8, False), (2, False), (4, True)])
def test_the_exported_graph_holds_the_scales_and_gives_the_answers(bits: int, stored: bool) -> None:
    model = build(parse(Config, {"weight_bits": bits, "activation_bits": bits}))
    shown = frozen(model) if stored else model
    stack = load_stack("desktop_cpu/onnxruntime-fp32")
    program = float_program(load_source((shown, example())), stack, Options(cache=False))
    kinds = [node.op_type for node in program.graph]
    assert (kinds.count("QuantizeLinear"), kinds.count("DequantizeLinear")) == (4, 8)
    assert ("Clip" in kinds or "Min" in kinds) is (bits < 8)
    scales, integers = _stated(program.graph)
    layers = [part for part in model.modules() if isinstance(part, QuantizedLayer)]
    for layer in layers:
        assert any(_same(layer.weight_grid, s) for s in scales)
        assert any(_same(layer.input_grid, s) for s in scales)
        wanted = layer.weight_grid.integers(layer.layer.weight).numpy()
        assert any(np.array_equal(wanted, q) or np.array_equal(wanted.T, q) for q in integers)
    for optimize in (False, True):
        session = Session(program.onnx_bytes, optimize=optimize)
        for sample in calibration().take(4):
            (have,) = session(sample).values()
            want = model(torch.from_numpy(sample["signal"])).detach().numpy()
            assert np.abs(have - want).max() <= _step(layers[-1]) + 1e-5, "a value may fall to the other side of a step"
            assert np.median(np.abs(have - want)) <= 1e-5


def _stated(graph: ir.Graph) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Scales of the graph, and stored weights."""
    dequantized = [node for node in graph if node.op_type == "DequantizeLinear"]
    scales = [_numbers(node.inputs[1]) for node in dequantized]
    return scales, [_numbers(node.inputs[0]) for node in dequantized if node.inputs[0].const_value is not None]


def _numbers(value: ir.Value | None) -> np.ndarray:
    assert value is not None
    assert value.const_value is not None
    return value.const_value.numpy()


def _same(grid: FakeQuantize, scale: np.ndarray) -> bool:
    mine = grid.step().detach().numpy()
    return mine.shape == scale.shape and bool(np.allclose(mine, scale, rtol=1e-6, atol=0))


def _step(last: QuantizedLayer) -> float:
    """What one step of the last layer's input moves an answer by at most."""
    return float((last.input_grid.step() * last.layer.weight.abs().max()).detach())


@pytest.mark.slow
def test_a_bare_export_fails_and_the_table_mends_it(tmp_path: Path) -> None:
    model, samples = build(), torch.from_numpy(np.asarray(example()["signal"]))
    with pytest.raises(torch.onnx.OnnxExporterError):
        torch.onnx.export(model, (samples,), tmp_path / "bare.onnx", dynamo=True, verbose=False)
    torch.onnx.export(model, (samples,), tmp_path / "whole.onnx", dynamo=True, verbose=False,
                      custom_translation_table=translations())  # fmt: skip
    assert {"QuantizeLinear", "DequantizeLinear"} <= {node.op_type for node in ir.load(tmp_path / "whole.onnx").graph}


def test_a_module_that_rounds_is_known_to() -> None:
    """What is the same to rounding is judged by its grid then: a sum may fall to the other side of a step."""
    assert load_source((build(), example())).program.facts == {"fake_quantized"}
    assert load_source("pruning_adapter").program.facts == frozenset()


def test_gradients_reach_weights_and_scales() -> None:
    model = build().train()
    model(signals()).square().sum().backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().max() > 0, name


def test_it_learns_on_its_grid() -> None:
    model = build(parse(Config, {"weight_bits": 4, "activation_bits": 4})).train()
    made = motion(64, 32, seed=0)
    x, y = torch.from_numpy(made.values / 9.81), torch.from_numpy(made.labels)
    step = torch.optim.Adam(model.parameters(), 1e-2)
    losses = []
    for _ in range(60):
        loss = nn.functional.cross_entropy(model(x), y)
        step.zero_grad()
        loss.backward()
        step.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < losses[0] / 4
    assert (model(x).argmax(1) == y).float().mean() >= 0.95


def test_a_module_that_is_a_layer_itself_is_replaced() -> None:
    model = adapt(nn.Linear(3, 2), [noise(4, 3)])
    assert isinstance(model, QuantizedLayer)
    assert isinstance(frozen(model), FrozenLayer)


def test_the_model_that_is_adapted_stays_as_it_was() -> None:
    model = plain().train()
    model[1].eval()
    before = {n: t.clone() for n, t in model.state_dict().items()}
    adapt(model, [noise(4, 3, 10)])
    assert all(torch.equal(t, before[n]) for n, t in model.state_dict().items())
    assert [part.training for part in model] == [True, False, True, True]
    assert not any(part._forward_pre_hooks for part in model.modules())


def test_what_cannot_be_adapted_is_refused() -> None:
    with pytest.raises(InvalidInput, match="9 bits cannot be faked"):
        adapt(plain(), [noise(4, 3, 10)], weight_bits=9)
    with pytest.raises(InvalidInput, match="no linear layer and no convolution"):
        adapt(nn.ReLU(), [noise(2)])
    with pytest.raises(InvalidInput, match="no sample went through 0"):
        adapt(plain(), [])
    with pytest.raises(InvalidInput, match="what enters 0 is not finite"):
        adapt(plain(), [torch.full((1, 3, 10), float("nan"))])
    with pytest.raises(InvalidInput, match="weight_bits = 1 is not allowed"):
        parse(Config, {"weight_bits": 1})
