"""What the exporter reads of torch's operators is read once, handed out as copies, and given back to torch after."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.onnx._internal.exporter import _registration

from passes.torch_level.export import Export
from passes.torch_level.operator_library import operators_read_once

pytestmark = pytest.mark.slow

Make = Callable[..., Any]


class Bent(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.relu() + 1


def registry(opset: int) -> Any:
    return _registration.ONNXRegistry().from_torchlib(opset_version=opset)


def test_the_exporter_finds_what_is_kept_for_it(
    torch_program: Make, context: Make, noise: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Fails where torch has moved what stands in for its own: every export would take half a second longer."""
    first, _ = Export()(torch_program(Bent(), x=noise(1, 3)), context())
    read = []
    monkeypatch.setattr(_registration.onnxscript_apis, "get_torchlib_ops", lambda: read.append(1) or [])
    again, _ = Export()(torch_program(Bent(), x=noise(1, 3)), context())
    assert read == []
    assert again.onnx_bytes == first.onnx_bytes


@pytest.mark.parametrize("opset", [18, pytest.param(23, marks=pytest.mark.slow)])
def test_what_is_handed_out_is_what_torch_reads(opset: int) -> None:
    own = registry(opset)
    with operators_read_once():
        kept = registry(opset)
    assert kept.opset_version == own.opset_version == opset
    assert kept.functions == own.functions


def test_an_operator_that_came_later_is_found() -> None:
    """torch's own quantizer registers `quantized_decomposed::*` when it is imported: perhaps after an export."""
    with torch.library._scoped_library("quantized_decomposed", "FRAGMENT") as late, operators_read_once():
        before = registry(18).functions
        late.define("quantize_per_channel.tensor(Tensor input) -> Tensor")
        after = registry(18).functions
    assert set(after) - set(before) == {"quantized_decomposed::quantize_per_channel.tensor"}


def test_what_one_export_adds_the_next_does_not_see() -> None:
    add = torch.ops.aten.add.Tensor
    with operators_read_once():
        registry(18).register_op(add, lambda x, y: x, is_complex=False)
        assert not any(known.is_custom for known in registry(18).get_decomps(add))


def test_torch_has_its_own_again_after_an_error() -> None:
    own = vars(_registration.ONNXRegistry)["from_torchlib"]
    with pytest.raises(ZeroDivisionError), operators_read_once():
        raise ZeroDivisionError
    assert vars(_registration.ONNXRegistry)["from_torchlib"] is own
