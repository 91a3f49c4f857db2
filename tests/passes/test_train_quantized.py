"""TrainQuantized: every kernel works on integers, the answers stay, and what cannot be trained is refused."""

import copy
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from torch import Tensor, nn

from passes.compare import compare
from passes.context import Context
from passes.contract import PassFailed
from passes.dataset import Array, Dataset
from passes.metric import TOP1
from passes.onnx_level.fold_constants import FoldConstants
from passes.onnxruntime import import_onnxruntime
from passes.program import Program
from passes.proof import Decision
from passes.torch_level.export import Export
from passes.torch_level.fold_batch_norm import FoldBatchNorm
from passes.torch_level.qat import TrainQuantized
from targets.target import load_stack
from toolkit.models.digits import calibration, training, validation
from toolkit.sources import load_source
from toolkit.training.trainer import Settings, Trainer

pytestmark = pytest.mark.slow

Make = Callable[..., Any]
INT8 = "desktop_cpu/onnxruntime-int8"
KERNELS = ("Conv", "FusedConv", "Gemm", "MatMul", "FusedMatMul")


@pytest.fixture(scope="module")
def digits() -> tuple[Program, Context]:
    """The built-in network, its norms folded, and what trains it."""
    data = calibration()
    ctx = Context(
        stack=load_stack(INT8), data=data, validation=validation().take(64), metric=TOP1,
        fit=Trainer(data=data, inputs=("image",), settings=Settings(batch=32)),
    )  # fmt: skip
    program, proof = FoldBatchNorm()(load_source("digits").program, ctx)
    assert proof.decision is Decision.KEPT
    return program, ctx


def optimized(program: Program, folder: Path, *, int8: bool) -> list[str]:
    """Operators of the graph that onnxruntime runs; s8s8 as on ARM: on x86 it converts some tensors and not others."""
    ort = import_onnxruntime()
    options = ort.SessionOptions()
    options.log_severity_level = 4
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_ALL
    options.optimized_model_filepath = str(folder / "optimized.onnx")
    options.add_session_config_entry("session.qdqisint8allowed", str(int(int8)))
    ort.InferenceSession(program.onnx_bytes, options, providers=["CPUExecutionProvider"])
    return [node.op_type for node in onnx.load(folder / "optimized.onnx").graph.node]


def accuracy(program: Program) -> float:
    data = validation()
    assert data.labels is not None
    answers = [int(np.argmax(a["output"])) for a in program.answers(data)]
    return float(np.mean([a == label for a, label in zip(answers, data.labels, strict=True)]))


def agreement(a: Program, b: Program) -> float:
    """dB between two programs, on the samples of which both see the same class."""
    (drift,) = compare(a, b, validation().take(64))
    return drift.sqnr_db


@pytest.mark.parametrize(
    ("activation", "per_channel", "bits"),
    [
        ("uint8", True, 8),
        pytest.param("int8", False, 8, marks=pytest.mark.slow),
        pytest.param("uint8", False, 4, marks=pytest.mark.slow),
        pytest.param("int8", True, 4, marks=pytest.mark.slow),
    ],
)
def test_every_kernel_works_on_integers_and_the_accuracy_is_that_of_calibration_alone_or_better(
    digits: tuple[Program, Context], tmp_path: Path, activation: Any, per_channel: bool, bits: Any
) -> None:
    program, ctx = digits
    before = program.digest
    if bits == 4:  # so few levels want more samples than calibration does
        ctx = replace(ctx, fit=Trainer(data=training(), inputs=("image",)))
    rate = 1e-4 if bits == 8 else 1e-3
    step = TrainQuantized(activation=activation, per_channel=per_channel, weight_bits=bits, epochs=3, rate=rate)
    after, proof = step(program, ctx)
    assert proof.decision is Decision.KEPT
    assert proof.size_bytes is not None
    assert proof.size_bytes[1] < 0.55 * proof.size_bytes[0], "30 kB of weights were 120 kB; the graph says more"
    assert proof.cost_s is not None
    assert after.truth.digest == after.digest, "what comes out is what later answers are compared with"
    exported, proof = Export(21)(after, ctx)
    assert proof.decision is Decision.KEPT
    assert proof.worst_sqnr_db >= 40
    assert program.digest == before

    trained, calibrated = (accuracy(p) for p in (after, replace(step, epochs=0).apply(program, ctx)))
    assert trained >= calibrated
    assert accuracy(exported) == trained
    after.model.train()
    assert agreement(after, exported) >= 40
    after.model.eval()

    held = {v.name: v.const_value.numpy() for v in exported.graph.initializers.values() if v.const_value is not None}
    weights = [v for v in held.values() if v.dtype == np.int8 and v.ndim > 1]
    assert len(weights) == 6
    assert max(int(np.abs(w).max()) for w in weights) == (127 if bits == 8 else 7)
    assert not [n for n, v in held.items() if v.dtype == np.float32 and v.ndim > 1], "no weight is stored as a float"
    scales = [v for n, v in held.items() if str(n).endswith("_scale") and "weight" in str(n)]
    assert {v.ndim for v in scales} == {int(per_channel)}

    kinds = optimized(exported, tmp_path, int8=activation == "int8")
    assert not set(kinds) & set(KERNELS)
    assert kinds.count("QLinearConv") == 5
    assert kinds.count("QLinearAdd") == 2
    assert kinds.count("QGemm") == 1
    assert "Relu" not in kinds


def test_learned_scales_move_and_training_beats_calibration_at_four_bits(digits: tuple[Program, Context]) -> None:
    program, ctx = digits
    kept, learned = (
        TrainQuantized(weight_bits=4, aim="reference", epochs=8, rate=1e-3, learned=x) for x in (False, True)
    )
    alone = replace(kept, epochs=0).apply(program, ctx)
    for step in (kept, learned):
        after = step.apply(program, ctx)
        assert agreement(program, after) > agreement(program, alone) + 3
        moved = {n: v for n, v in after.model.state_dict().items() if n.endswith(".scale")}
        before = alone.model.state_dict()
        assert any(not torch.equal(v, before[n]) for n, v in moved.items()) is step.learned
        assert not list(after.model.parameters()) or all("weight" not in n for n, _ in after.model.named_parameters())


def test_a_rate_that_finds_nothing_is_followed_by_a_tenth_of_it(digits: tuple[Program, Context]) -> None:
    """The calibrated weights are never worse for having been trained."""
    program, ctx = digits
    assert ctx.fit is not None
    asked: list[tuple[str, float]] = []

    class Watched:
        key = "watched"

        def __init__(self, gains_below: float) -> None:
            self.gains_below = gains_below

        def __call__(self, model: nn.Module, loss: Any, *, step: str, epochs: int, rate: float) -> nn.Module:
            asked.append((step, rate))
            made = copy.deepcopy(model).eval()
            if rate < self.gains_below:
                with torch.no_grad():
                    next(made.parameters()).mul_(1.01)
            return made

    notes = []
    for gains_below in (1.0, 0.5, 0.01):
        step = TrainQuantized(rate=0.6, epochs=1)
        after = step.apply(program, replace(ctx, fit=Watched(gains_below)))
        notes.append(step.notes(program, after, ctx))
    first, slower = ("TrainQuantized", 0.6), ("TrainQuantized, slower", pytest.approx(0.06))
    assert asked == [first, first, slower, first, slower]
    assert notes[0] == ()
    assert notes[1] == ("at a rate of 0.6 training found nothing better than calibration, at 0.06 it did",)
    assert "found nothing better than calibration: give more samples" in notes[2][0]


def test_equal_seeds_give_equal_bytes(digits: tuple[Program, Context]) -> None:
    program, ctx = digits
    step = TrainQuantized(epochs=1)
    first, second = (Export(21).apply(step.apply(program, ctx), ctx).onnx_bytes for _ in range(2))
    assert first == second


# ---- other networks


def fitted(program: Program, data: Dataset, stack: str = INT8) -> Context:
    inputs = tuple(spec.name for spec in program.signature.inputs)
    fit = Trainer(data=data, inputs=inputs, settings=Settings(batch=8, held_out=0))
    return Context(stack=load_stack(stack), data=data, fit=fit)


def trained_and_exported(
    module: nn.Module,
    make: Make,
    tmp_path: Path,
    x: Array,
    stack: str = INT8,
    **settings: Any,
) -> tuple[Program, list[str]]:
    """The exported program, and the operators that onnxruntime runs."""
    start = make(module, x=x[:1])
    data = Dataset.of_arrays("noise", {"x": x})
    ctx = fitted(start, data, stack)
    start, _ = FoldBatchNorm()(start, ctx)
    after, proof = TrainQuantized(activation="uint8", epochs=1, **settings)(start, ctx)
    assert proof.decision is Decision.KEPT
    exported, proof = Export(21)(after, ctx)
    assert proof.decision is Decision.KEPT
    exported, proof = FoldConstants()(exported, ctx)
    assert proof.decision is Decision.KEPT
    (drift,) = compare(start, exported, data)
    assert drift.sqnr_db > 20
    return exported, optimized(exported, tmp_path, int8=False)


class Attention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm, self.mix = nn.LayerNorm(8), nn.Linear(8, 24)
        self.up, self.down = nn.Linear(8, 16), nn.Linear(16, 8, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.mix(self.norm(x)).chunk(3, -1)
        x = self.norm(x + torch.softmax(q @ k.transpose(1, 2), -1) @ v)
        y: Tensor = x + self.down(torch.relu(self.up(x)))
        return y


def test_products_in_a_transformer_are_integers_and_the_rest_is_not(
    torch_program: Make, noise: Make, tmp_path: Path
) -> None:
    exported, kinds = trained_and_exported(Attention(), torch_program, tmp_path, noise(16, 5, 8))
    assert "QLinearAdd" not in kinds
    assert sum(k in ("MatMulIntegerToFloat", "QLinearMatMul", "QAttention") for k in kinds) == 3
    assert "Transpose" not in [n.op_type for n in exported.graph if n.inputs[0] in exported.graph.initializers.values()]


class Mixed(nn.Module):
    """In place, a pool, a concatenation, relu6, a shared layer, a flatten, a transposed convolution."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.norm = nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8)
        self.twice, self.wide = nn.Conv2d(8, 8, 3, padding=1), nn.ConvTranspose2d(16, 4, 2, stride=2)
        self.out = nn.Linear(4 * 8 * 8, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = nn.functional.relu(self.norm(self.stem(x)), inplace=True)
        x = nn.functional.max_pool2d(x, 2)
        x = nn.functional.relu6(self.twice(x))
        x = torch.cat([self.twice(x), x], 1)
        y: Tensor = self.out(torch.flatten(self.wide(x), 1))
        return y


@pytest.mark.parametrize("flat", [False, True], ids=["any batch", "one sample at a time"])
def test_moves_pools_and_shared_layers_stay_integers(
    torch_program: Make, noise: Make, tmp_path: Path, flat: bool
) -> None:
    class Fixed(Mixed):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x.reshape(1, 3, 8, 8))  # a batch of one is all that it takes

    exported, kinds = trained_and_exported(Fixed() if flat else Mixed(), torch_program, tmp_path, noise(12, 3, 8, 8))
    assert kinds.count("QLinearConv") == 3
    assert kinds.count("QLinearConcat") == 1
    assert kinds.count("QGemm") == 1
    held = [v.const_value for v in exported.graph.initializers.values() if v.const_value is not None]
    assert sum(v.dtype.name == "INT8" and len(v.shape) == 4 for v in held) == 3, "a shared weight is stored once"


def test_an_accelerator_without_floats_gets_integers_everywhere(
    torch_program: Make, noise: Make, tmp_path: Path
) -> None:
    exported, _ = trained_and_exported(Attention(), torch_program, tmp_path, noise(16, 5, 8), "coral_tpu/usb3-desktop")
    graph = exported.graph
    for node in graph:
        if node.op_type == "MatMul":
            sources = [value.producer() for value in node.inputs if value is not None]
            assert [s.op_type for s in sources if s is not None] == ["DequantizeLinear"] * 2


def test_narrow_layers_and_excluded_ones_stay_in_float(torch_program: Make, noise: Make, tmp_path: Path) -> None:
    def module() -> nn.Module:
        return nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.ReLU(), nn.Conv2d(8, 4, 1))

    for settings, count in (({"least_channels": 4}, 2), ({"exclude": ("0", "4")}, 1), ({}, 3)):
        _, kinds = trained_and_exported(module(), torch_program, tmp_path, noise(12, 3, 8, 8), **settings)
        assert kinds.count("QLinearConv") == count


def test_a_dead_channel_with_a_bias_keeps_it(torch_program: Make, noise: Make, tmp_path: Path) -> None:
    """Its weights are nought: a scale that follows them would leave no room for the bias in 32 bits."""
    module = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 4, 1))
    start = torch_program(module, x=noise(1, 3, 8, 8))
    with torch.no_grad():
        module[0].weight[2] = 0  # type: ignore[index,operator]
        module[0].bias[2] = 100  # type: ignore[index,operator]
    data = Dataset.of_arrays("noise", {"x": noise(12, 3, 8, 8)})
    ctx = fitted(start, data)
    start, _ = FoldBatchNorm()(start, ctx)
    exported = Export(21).apply(TrainQuantized(activation="uint8", epochs=0).apply(start, ctx), ctx)
    assert optimized(exported, tmp_path, int8=False).count("QLinearConv") == 2
    assert compare(start, exported, data)[0].sqnr_db > 30


# ---- refusals and second tries


def refusal(step: TrainQuantized, program: Program, ctx: Context) -> PassFailed:
    before = program.digest
    with pytest.raises(PassFailed) as caught:
        step(program, ctx)
    assert caught.value.hint
    assert program.digest == before
    return caught.value


def test_what_cannot_be_trained_is_refused(digits: tuple[Program, Context], torch_program: Make, noise: Make) -> None:
    program, ctx = digits
    step = TrainQuantized(epochs=1)
    assert "nothing here trains" in str(refusal(step, program, replace(ctx, fit=None)))
    assert "no calibration data" in str(refusal(step, program, replace(ctx, data=None)))
    nothing = Dataset("nothing", list, 0)
    assert "no calibration data" in str(refusal(step, program, replace(ctx, data=nothing)))
    wrong = calibration()
    wrong = replace(wrong, labels=np.full(len(wrong), 10))
    labels = refusal(step, program, replace(ctx, fit=Trainer(data=wrong, inputs=("image",))))
    assert str(labels) == "labels go from 10 to 10, the model's first output has 10 classes"
    unlabelled = replace(wrong, labels=None)
    none = refusal(replace(step, aim="both"), program, replace(ctx, fit=Trainer(data=unlabelled, inputs=("image",))))
    assert "no labels" in str(none)
    pool = torch_program(nn.MaxPool2d(2), x=noise(1, 3, 8, 8))
    only = Dataset.of_arrays("noise", {"x": noise(4, 3, 8, 8)})
    assert "no convolution or linear layer" in str(refusal(step, pool, fitted(pool, only)))
    broken = {"image": np.full((1, 1, 8, 8), np.inf, np.float32)}
    infinite = replace(ctx, data=Dataset("inf", lambda: [broken], 1))
    assert "not finite on the calibration data" in str(refusal(step, program, infinite))


def test_a_quantized_program_is_quantized_already(digits: tuple[Program, Context]) -> None:
    program, ctx = digits
    after = TrainQuantized(epochs=0).apply(program, ctx)
    assert "quantized already" in str(refusal(TrainQuantized(epochs=0), after, ctx))


def test_what_costs_too_much_is_narrowed(digits: tuple[Program, Context]) -> None:
    """Eight bits are tried, then fewer layers, then nothing is."""
    program, ctx = digits
    step = TrainQuantized(weight_bits=4, epochs=0)
    wider = step.narrower(program, ctx, None)  # type: ignore[arg-type]
    assert wider == replace(step, weight_bits=8)
    fewer = wider.narrower(program, ctx, None)  # type: ignore[arg-type,union-attr]
    assert fewer == replace(step, weight_bits=8, exclude=("stem.0", "classify"))
    assert fewer.narrower(program, ctx, None) is None  # type: ignore[arg-type,union-attr]


def test_nodes_keep_their_modules_and_lines(digits: tuple[Program, Context]) -> None:
    program, ctx = digits
    exported = Export(21).apply(TrainQuantized(epochs=0).apply(program, ctx), ctx)
    plain = Export(21).apply(program, ctx)

    def notes(p: Program) -> Iterable[Any]:
        return [(n.op_type, dict(n.metadata_props)) for n in p.graph if n.op_type in ("Conv", "Add", "Gemm")]

    assert notes(exported) == notes(plain)
    assert all(kept for _, kept in notes(plain))
