"""Export: names, opset, sources, several inputs and outputs, integers, varying dimensions."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from passes.contract import PassFailed
from passes.dataset import Dataset
from passes.onnx_level.fold_constants import FoldConstants
from passes.program import Level
from passes.proof import Decision
from passes.torch_level.capture import signature_of
from passes.torch_level.export import Export
from targets.errors import InvalidInput
from targets.graph import MODULE_KEY, SOURCE_KEY, read_workload

Make = Callable[..., Any]


class Small(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.classify = nn.Conv2d(3, 4, 3), nn.Linear(4, 5)

    def forward(self, image: Tensor) -> Tensor:
        x = self.conv(image).relu()
        y: Tensor = self.classify(x.mean((2, 3)))  # the line that the tests look for
        return y


@pytest.mark.slow
@pytest.mark.parametrize("opset", [18, 20])
def test_the_graph_that_comes_out(
    opset: int, torch_program: Make, context: Make, noise: Make, same_answers: Make
) -> None:
    start = torch_program(Small(), image=noise(1, 3, 6, 6))
    after, proof = Export(opset)(start, context())
    assert (proof.decision, proof.cost_s, proof.nodes) == (Decision.KEPT, None, None)
    assert (after.level, after.opset) == (Level.ONNX, opset)
    assert after.signature == start.signature
    assert [v.name for v in after.graph.inputs] == ["image"]
    assert [v.name for v in after.graph.outputs] == ["output"]
    assert "exported" in after.facts
    assert after.truth is start
    same_answers(start, after)
    again, _ = Export(opset)(torch_program(Small(), image=noise(1, 3, 6, 6)), context())
    assert again.onnx_bytes == after.onnx_bytes, "the same model gives the same bytes"


def test_nodes_say_where_they_come_from(torch_program: Make, context: Make, noise: Make) -> None:
    after, _ = Export()(torch_program(Small(), image=noise(1, 3, 6, 6)), context())
    text = Path(__file__).read_text("utf-8").splitlines()
    line = next(i for i, row in enumerate(text, 1) if "x = self.conv(image).relu()" in row)
    by_type = {node.op_type: node for node in after.graph}
    expected = f"tests/passes/{Path(__file__).name}:{line}"
    assert by_type["Conv"].metadata_props[SOURCE_KEY] == expected
    assert by_type["Conv"].metadata_props[MODULE_KEY] == "conv"
    assert by_type["Relu"].metadata_props[SOURCE_KEY] == expected
    sources = [node.metadata_props.get(SOURCE_KEY, "") for node in after.graph if node.op_type != "Constant"]
    assert all(sources)


def test_no_absolute_path_is_stored(torch_program: Make, context: Make, noise: Make) -> None:
    after, _ = Export()(torch_program(Small(), image=noise(1, 3, 6, 6)), context())
    for folder in (Path(__file__).parents[2], Path(torch.__file__).parents[1], Path.home()):
        assert str(folder).encode() not in after.onnx_bytes
    assert not any(node.metadata_props.get(SOURCE_KEY, "").startswith("/") for node in after.graph)


def test_source_lines_outlive_the_passes_that_rewrite(torch_program: Make, context: Make, noise: Make) -> None:
    from passes.recipe import float32
    from passes.running import run

    ctx = context()
    done = run(float32(ctx.stack, Level.TORCH), torch_program(Small(), image=noise(1, 3, 6, 6)), ctx).program
    assert (
        read_workload(done.model, fuses=ctx.stack.fuses)
        .operators[0]
        .source.startswith(f"tests/passes/{Path(__file__).name}:")
    )


class Several(nn.Module):
    def forward(self, ids: Tensor, scale: Tensor, on: Tensor) -> dict[str, Any]:
        x = ids.to(torch.float32) * scale
        return {"sum": x.sum(1), "parts": (x, ids + 1, on.logical_not())}


def test_several_inputs_and_outputs_of_several_types(
    torch_program: Make, context: Make, noise: Make, same_answers: Make
) -> None:
    start = torch_program(Several(), ids=np.arange(6).reshape(1, 6), scale=noise(1, 6), on=np.array([[True, False]]))
    after, proof = Export()(start, context())
    assert proof.decision is Decision.KEPT
    assert [(v.name, v.dtype.name) for v in after.graph.inputs] == [
        ("ids", "INT64"),
        ("scale", "FLOAT"),
        ("on", "BOOL"),
    ]
    assert [v.dtype.name for v in after.graph.outputs] == ["FLOAT", "FLOAT", "INT64", "BOOL"]
    assert [v.name for v in after.graph.outputs] == [f"output_{i}" for i in range(4)]
    same_answers(start, after)


class PassesOn(nn.Module):
    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return x, x + 1


class SaysItTwice(nn.Module):
    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        y = x * 2
        return y, y


class InputCalledOutput(nn.Module):
    def forward(self, output: Tensor) -> Tensor:
        return output * 2


class WeightCalledLikeTheInput(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.x = nn.Parameter(torch.ones(3))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.x


class BufferOut(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("w", torch.ones(3))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return x * 2, self.w


class IgnoresAnInput(nn.Module):
    def forward(self, x: Tensor, unused: Tensor) -> Tensor:
        return x * 2


@pytest.mark.parametrize(
    "module", [PassesOn, SaysItTwice, InputCalledOutput, WeightCalledLikeTheInput, BufferOut, IgnoresAnInput]
)
@pytest.mark.slow
def test_odd_signatures_export(
    module: type[nn.Module], torch_program: Make, context: Make, noise: Make, same_answers: Make
) -> None:
    import inspect

    names = [n for n in inspect.signature(module.forward).parameters if n != "self"]
    start = torch_program(module(), **{n: noise(1, 3, seed=i) for i, n in enumerate(names)})
    after, proof = Export()(start, context())
    assert proof.decision is Decision.KEPT
    folded, proof = FoldConstants()(after, context())
    assert proof.decision is Decision.KEPT
    assert [v.name for v in folded.graph.inputs] == names
    same_answers(start, folded)


def test_a_varying_batch_stays_varying(torch_program: Make, context: Make, noise: Make) -> None:
    start = torch_program(Small(), {"image": {0: "batch"}}, image=noise(1, 3, 6, 6))
    after, proof = Export()(start, context())
    assert proof.decision is Decision.KEPT
    assert not after.graph.inputs[0].shape.is_static()
    folded, proof = FoldConstants()(after, context())
    assert proof.decision is Decision.KEPT
    for size in (1, 2, 5):
        data = Dataset("d", lambda size=size: [{"image": noise(size, 3, 6, 6)}], 1)
        (want,), (have,) = list(start.answers(data)), list(folded.answers(data))
        assert have["output"].shape == (size, 5)
        np.testing.assert_allclose(have["output"], want["output"], rtol=1e-5, atol=1e-5)


class OverTime(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 5)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.linear(x).mean(1)
        return y


@pytest.mark.slow
def test_a_varying_length_takes_the_passes_behind_export(torch_program: Make, context: Make, noise: Make) -> None:
    """The exporter calls the dimension s27, the signature `length`; its size for prices comes from the example."""
    start = torch_program(OverTime(), {"x": {0: "batch", 1: "length"}}, x=noise(1, 7, 4))
    exported, proof = Export()(start, context())
    assert proof.decision is Decision.KEPT
    folded, proof = FoldConstants()(exported, context())
    assert proof.decision is Decision.KEPT
    assert proof.cost_s is not None
    data = Dataset("d", lambda: [{"x": noise(2, 11, 4)}], 1)
    assert next(iter(folded.answers(data)))["output"].shape == (2, 5)


def test_an_output_that_does_not_follow_the_batch_keeps_its_size() -> None:
    """`signature_of` says: an output dimension varies where it equals the size of a varying first dimension."""
    found = signature_of(BufferOut().eval(), {"x": np.ones((1, 3), np.float32)}, {"x": {0: "batch"}})
    assert [spec.shape for spec in found.outputs] == [("batch", 3), (3,)]


@pytest.mark.parametrize("opset", [9, 17, 24])
def test_an_opset_that_the_exporter_does_not_write_is_refused(
    opset: int, torch_program: Make, context: Make, noise: Make
) -> None:
    with pytest.raises(PassFailed, match=str(opset)) as refusal:
        Export(opset)(torch_program(Small(), image=noise(1, 3, 6, 6)), context())
    assert "at most 23" in refusal.value.hint


class DataDependent(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x * 2 if x.sum() > 0 else x


def test_what_cannot_be_captured_is_an_error_with_a_way_out(torch_program: Make, context: Make, noise: Make) -> None:
    with pytest.raises(InvalidInput, match="cannot be captured") as refusal:
        Export()(torch_program(DataDependent(), x=noise(1, 3)), context())
    assert refusal.value.hint


def test_a_script_goes_through_the_older_exporter(
    torch_program: Make, context: Make, noise: Make, same_answers: Make
) -> None:
    script = torch.jit.script(Small().eval())
    start = torch_program(script, image=noise(1, 3, 6, 6))
    after, proof = Export()(start, context())
    assert proof.decision is Decision.KEPT
    assert (after.opset, [v.name for v in after.graph.inputs]) == (18, ["image"])
    same_answers(start, after)
    assert str(Path(__file__).parent).encode() not in after.onnx_bytes


@pytest.mark.slow
def test_an_image_whose_sides_vary_goes_through_strides(torch_program: Make, context: Make, noise: Make) -> None:
    """torch.export holds a named size to every value, and a stride cannot take one pixel: its own bounds are taken."""
    module = nn.Sequential(nn.Conv2d(3, 4, 3, stride=2, padding=1), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    start = torch_program(module, {"input": {2: "height", 3: "width"}}, input=noise(1, 3, 16, 16))
    after, _ = Export()(start, context())
    assert [str(d) for d in after.graph.inputs[0].shape] == ["1", "3", "height", "width"]
    other = {"input": noise(1, 3, 24, 10)}
    np.testing.assert_allclose(after.run(other)["output"], start.run(other)["output"], rtol=1e-5, atol=1e-6)
