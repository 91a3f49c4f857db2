"""Traps of the libraries that this stands on, each with the test that shows we do not fall into it.

Where another test holds one already, it is named here:

- telemetry of onnxruntime is off before the import: test_onnxruntime_door.py, and in fresh processes below
- `quantize_dynamic` fails on nn.Linear from dynamo with "Inferred shape and existing shape differ":
  test_dynamic_and_weight_only.py, test_linear_layers_of_dynamo_are_quantized_at_run_time
- dynamo returns opset 18 when asked for less: test_export_to_onnx.py,
  test_an_opset_that_the_exporter_does_not_write_is_refused; another one that comes back is refused below
- x86 wants unsigned activations: test_calibration_ranges.py, test_unsigned_activations_fuse_into_integer_convolutions
- dynamic convolutions are ruinous: test_dynamic_and_weight_only.py,
  test_a_convolution_network_is_refused_with_the_reason
- preprocessing makes Gemm, after which MatMulNBits does nothing: test_dynamic_and_weight_only.py,
  test_onnxruntime_multiplies_with_four_bits
- calibrators keep the activations of all samples: test_calibration_ranges.py, test_samples_do_not_pile_up
- onnxruntime hides what overflows float16: test_float16_rounding.py, test_plain_onnxruntime_hides_it
- no absolute path in an artefact: test_export_to_onnx.py, test_no_absolute_path_is_stored
"""

import subprocess
import sys
import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir
import pytest
import torch
from torch import Tensor, nn

from passes.contract import PassFailed
from passes.dataset import Dataset
from passes.onnx_level.quantize_int8 import QuantizeInt8
from passes.onnx_level.quantizing import quantizer_model
from passes.program import Level, Program
from passes.proof import Decision
from passes.recipe import float32, int8
from passes.running import run
from passes.torch_level.capture import signature_of
from passes.torch_level.export import Export
from targets.target import load_stack

Make = Callable[..., Any]
ROOT = Path(__file__).parents[2]
X86 = "desktop_cpu/onnxruntime-int8"


class Small(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(32, 64), nn.Linear(64, 8)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.second(self.first(x).relu())
        return y


@pytest.fixture(scope="module")
def start() -> Program:
    torch.manual_seed(0)
    module, x = Small().eval(), {"x": np.random.default_rng(0).standard_normal((1, 32)).astype(np.float32)}
    return Program(name="net", level=Level.TORCH, model=module, signature=signature_of(module, x, {}), example=x)


@pytest.fixture(scope="module")
def folded(start: Program) -> Program:
    """The float graph that a quantizer gets."""
    from passes.context import Context

    ctx = Context(stack=load_stack(X86))
    return run(float32(ctx.stack, Level.TORCH), start, ctx).program


@pytest.fixture
def data(noise: Make) -> Dataset:
    return Dataset.of_arrays("d", {"x": noise(16, 32)})


# ---- exporters


@pytest.mark.parametrize("came_back", [18, 21])
def test_an_exporter_that_returns_another_opset_is_refused(
    came_back: int, start: Program, context: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """torch.onnx.export(dynamo=True) does so without a word."""
    empty = onnx_ir.Model(onnx_ir.Graph([], [], nodes=[], opset_imports={"": came_back}), ir_version=10)
    monkeypatch.setattr(Export, "_from_graph", lambda self, program: empty)
    with pytest.raises(PassFailed, match=f"asked the exporter for opset 20, it returned {came_back}") as refusal:
        Export(20)(start, context())
    assert refusal.value.hint


@pytest.mark.slow
def test_the_exporter_really_returns_eighteen_when_asked_for_less() -> None:
    """When this fails, LOWEST_OPSET can go down."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = torch.onnx.export(Small().eval(), (torch.ones(1, 32),), dynamo=True, opset_version=13, verbose=False,
                                  optimize=False)  # fmt: skip
    assert found.model.opset_imports[""] == 18


@pytest.mark.slow
def test_warnings_of_the_exporters_are_not_shown(start: Program, context: Make) -> None:
    """torch.jit and the older exporter are deprecated, which is our business and not the user's."""
    with warnings.catch_warnings(record=True) as heard:
        warnings.simplefilter("always")
        scripted = replace(start, model=torch.jit.script(start.model))
        heard.clear()  # that one was ours, in the test
        Export().apply(scripted, context())
        Export().apply(start, context())
    assert [str(w.message) for w in heard] == []


# ---- shapes that are out of date


def stale(program: Program, name: str, shape: list[int]) -> Program:
    """The program with a false shape for one of its tensors."""
    proto = onnx.load_model_from_string(program.onnx_bytes)
    for info in [i for i in proto.graph.value_info if i.name == name]:
        proto.graph.value_info.remove(info)
    proto.graph.value_info.append(onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, shape))
    return replace(program, model=onnx_ir.from_proto(proto), _kept={}, _answers={})


def test_stale_shapes_do_not_stop_a_quantizer(program: Make, context: Make, noise: Make) -> None:
    text = "g (float[1,32] x) => (float[1,8] y) { a = MatMul(x, w)  r = Relu(a)  y = MatMul(r, v) }"
    net = stale(program(text, w=(32, 64), v=(64, 8)), "a", [1, 48])
    found = quantizer_model(net)
    shapes = {i.name: [d.dim_value for d in i.type.tensor_type.shape.dim] for i in found.graph.value_info}
    assert shapes["a"] == [1, 64]
    ctx = context(X86, data=Dataset.of_arrays("d", {"x": noise(8, 32)}))
    after = QuantizeInt8(activation="uint8").apply(net, ctx)
    assert [n.op_type for n in after.graph].count("QuantizeLinear") >= 2


def test_shapes_of_weights_do_not_stop_a_quantizer(program: Make, context: Make, noise: Make) -> None:
    """What dynamo leaves behind where it turned a weight around: an entry for an initializer."""
    from passes.onnx_level.cast_float16 import CastFloat16
    from passes.onnx_level.quantize_dynamic import QuantizeDynamic

    text = "g (float[1,32] x) => (float[1,8] y) { a = MatMul(x, w)  r = Relu(a)  y = MatMul(r, v) }"
    net = stale(program(text, w=(32, 64), v=(64, 8)), "w", [64, 32])
    ctx = context(X86, data=Dataset.of_arrays("d", {"x": noise(8, 32)}))
    assert "MatMulInteger" in [n.op_type for n in QuantizeDynamic().apply(net, ctx).graph]
    assert "QuantizeLinear" in [n.op_type for n in QuantizeInt8().apply(net, ctx).graph]
    half = CastFloat16().apply(net, context("jetson_nano/tensorrt-fp16"))
    assert half.graph.initializers["w"].dtype.name == "FLOAT16"


# ---- onnxruntime's own steps that are not taken


def test_preprocessing_is_not_used() -> None:
    """It merges MatMul and Add into Gemm, and fails on graphs from dynamo."""
    used = [path.name for folder in ("passes", "toolkit", "targets") for path in (ROOT / folder).rglob("*.py")
            if "quant_pre_process(" in path.read_text("utf-8") and "bench" not in path.parts]  # fmt: skip
    assert used == []


@pytest.mark.slow
def test_the_graph_is_marked_as_inferred_and_the_mark_does_not_stay(
    folded: Program, context: Make, data: Dataset
) -> None:
    """Without the mark the quantizers ask for that preprocessing through the root logger."""
    done = QuantizeInt8(activation="uint8").apply(folded, context(X86, data=data))
    assert not done.model.metadata_props
    assert b"onnx.infer" not in done.onnx_bytes


@pytest.mark.slow
def test_the_quantizers_say_nothing(
    start: Program, context: Make, data: Dataset, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    ctx = context(X86, data=data)
    done = run(int8(ctx.stack, Level.TORCH), start, ctx)
    skipped = [p.reason for p in done.proofs if p.decision is Decision.SKIPPED and "already" not in p.reason]
    assert [reason for reason in skipped if "an earlier pass did not give" not in reason] == [], "it was reverted"
    out, err = capfd.readouterr()
    assert (out, err) == ("", "")
    assert [r.getMessage() for r in caplog.records if r.name == "root" and r.levelname != "DEBUG"] == []


# ---- in a process of its own


CLEAN = "import os; os.environ.pop('ORT_DISABLE_TELEMETRY', None); import sys; "


@pytest.mark.slow
def test_importing_us_does_not_import_onnxruntime() -> None:
    """Whatever imports it goes through the door that switches its telemetry off first."""
    code = (
        "import toolkit; import toolkit.cli.main; import passes.recipe; import toolkit.measuring; "
        "import passes.onnx_level.ranges; import passes.onnx_level.quantizing; import passes.onnx_level.half"
    )
    check = "; assert 'onnxruntime' not in sys.modules and 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", CLEAN + code + check], cwd=ROOT, check=True)


def test_every_import_of_onnxruntime_goes_through_the_door() -> None:
    """Submodules may be imported where the door has been passed: in a block that import_onnxruntime opens."""
    strays = []
    for folder in ("passes", "toolkit", "targets"):
        for path in sorted((ROOT / folder).rglob("*.py")):
            text = path.read_text("utf-8")
            lines = [line.strip() for line in text.splitlines()]
            found = [line for line in lines if line.startswith(("import onnxruntime", "from onnxruntime"))]
            allowed = path.name == "onnxruntime.py" or "import_onnxruntime()" in text or "quantizing()" in text
            if found and not allowed and "ORT_DISABLE_TELEMETRY" not in text:
                strays.append((path.name, found))
    helpers = ["quantize_int8.py"]  # one of its functions is called inside of quantizing()
    assert [name for name, _ in strays if name not in helpers] == []


@pytest.mark.slow
def test_a_whole_compile_in_a_fresh_process_is_quiet_and_untracked(tmp_path: Path) -> None:
    code = CLEAN + (
        "import builtins\n"
        "real = builtins.__import__\n"
        "def watched(name, *rest, **more):\n"
        "    if name.split('.')[0] == 'onnxruntime' and 'onnxruntime' not in sys.modules:\n"
        "        assert os.environ.get('ORT_DISABLE_TELEMETRY') == '1'\n"
        "        print('watched')\n"
        "    return real(name, *rest, **more)\n"
        "builtins.__import__ = watched\n"
        "from toolkit.cli.main import main\n"
        f"sys.exit(main(['compile', '--target', 'desktop_cpu', '-o', {str(tmp_path / 'b')!r}, '-q']))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "watched" in done.stdout
    assert done.stderr == ""


# ---- the runtimes' numbers


def test_quantized_answers_are_the_same_with_and_without_fusion(folded: Program, context: Make, data: Dataset) -> None:
    """What onnxruntime fuses into integers rounds as the graph says, to one step of the output."""
    from passes.onnxruntime import Session

    after = QuantizeInt8(activation="uint8").apply(folded, context(X86, data=data))
    sample = next(iter(data))
    fused, plain = (Session(after.onnx_bytes, optimize=o)(sample)["output"] for o in (True, False))
    scale = max(float(n.inputs[1].const_value.numpy()) for n in after.graph if n.op_type == "QuantizeLinear")
    assert np.abs(fused - plain).max() <= 1.001 * scale


def test_the_stack_of_this_machine_wants_unsigned_activations() -> None:
    stack = load_stack(X86)
    assert stack.quantization is not None
    assert (stack.quantization.activation, stack.quantization.per_channel) == ("uint8", True)
