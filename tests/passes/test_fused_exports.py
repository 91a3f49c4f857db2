"""FuseLayerNorm, FuseGelu and FuseAttention together, on what torch's exporters write and in which opsets."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from passes.contract import Pass, PassFailed
from passes.dataset import Dataset
from passes.onnx_level.convert_opset import ConvertOpset
from passes.onnx_level.fold_constants import FoldConstants
from passes.onnx_level.fuse_attention import FuseAttention
from passes.onnx_level.fuse_gelu import FuseGelu
from passes.onnx_level.fuse_layer_norm import FuseLayerNorm
from passes.program import Program
from passes.proof import Decision
from passes.torch_level.export import Export
from tests.passes.spelled_out import (
    ATTENTION,
    ATTENTION_WEIGHTS,
    ATTENTIONS,
    GELU,
    GELU_WEIGHTS,
    GELUS,
    LAYER_NORMS,
    NORM,
    NORM_WEIGHTS,
    mentioned,
)

Make = Callable[..., Any]


@pytest.mark.parametrize(
    ("step", "text", "weights"),
    [
        (FuseLayerNorm(), NORM % LAYER_NORMS["plain"], NORM_WEIGHTS),
        (FuseGelu(), GELU % GELUS["script"][1], GELU_WEIGHTS),
        (FuseAttention(), ATTENTION % ATTENTIONS["mask"], ATTENTION_WEIGHTS),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Pass) else "",
)
def test_an_opset_without_the_operator_is_refused(
    step: Any, text: str, weights: dict[str, Any], program: Make, context: Make
) -> None:
    old = step.opset - 1
    if step.opset == 17:
        text = text.replace("ReduceMean(x, last)", "ReduceMean<axes=[-1]>(x)")
        text = text.replace("ReduceMean(p, last)", "ReduceMean<axes=[-1]>(p)")
    start = program(text, opset=old, **mentioned(text, weights))
    with pytest.raises(PassFailed, match=f"opset {step.opset}.* is in {old}") as refusal:
        step(start, context())
    assert refusal.value.hint


# ---- real exports


class Spelled(nn.Module):
    """Layer normalisation and GELU as HuggingFace's older models write them."""

    def __init__(self, tanh: bool) -> None:
        super().__init__()
        self.scale, self.bias, self.tanh = nn.Parameter(torch.rand(8)), nn.Parameter(torch.rand(8)), tanh

    def forward(self, x: Tensor) -> Tensor:
        mean = x.mean(-1, keepdim=True)
        variance = (x - mean).pow(2).mean(-1, keepdim=True)
        x = self.scale * ((x - mean) / torch.sqrt(variance + 1e-12)) + self.bias
        if self.tanh:
            return 0.5 * x * (1 + torch.tanh((2 / torch.pi) ** 0.5 * (x + 0.044715 * torch.pow(x, 3.0))))
        return x * 0.5 * (1.0 + torch.erf(x / 2**0.5))


def exported(start: Program, context: Make, opset: int) -> Program:
    """A module as dynamo writes it in opset 18, then in `opset`."""
    program = start
    for step in (Export(18), FoldConstants(), ConvertOpset(opset)):
        program, proof = step(program, context())
        assert proof.decision is Decision.KEPT
    return program


@pytest.mark.slow
def test_a_module_that_spells_them_out(
    torch_program: Make, context: Make, noise: Make, fuse: Make, op_types: Make
) -> None:
    start = exported(torch_program(Spelled(tanh=True), x=noise(2, 5, 8)), context, 20)
    assert op_types(fuse(FuseGelu(), fuse(FuseLayerNorm(), start))) == ["LayerNormalization", "Gelu"]


class Attends(nn.Module):
    def __init__(self, causal: bool = False, mask: Tensor | None = None) -> None:
        super().__init__()
        self.causal = causal
        self.register_buffer("mask", mask)

    def forward(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        mask = self.mask.log() if self.mask is not None else None
        return nn.functional.scaled_dot_product_attention(q, k, v, mask, is_causal=self.causal)


@pytest.mark.slow
def test_attention_of_torch_over_a_varying_batch_and_length(
    torch_program: Make, context: Make, noise: Make, fuse: Make, op_types: Make
) -> None:
    x = {name: noise(2, 3, 5, 4, seed=i) for i, name in enumerate("qkv")}
    vary = {name: {0: "batch", 2: "length"} for name in "qkv"}
    after = fuse(FuseAttention(), exported(torch_program(Attends(), vary, **x), context, 23))
    assert op_types(after).count("Attention") == 1
    assert "Softmax" not in op_types(after)


@pytest.mark.slow
@pytest.mark.parametrize("module", [Attends(causal=True), Attends(mask=torch.rand(5, 5)), Attends()],
                         ids=["causal", "mask", "plain"])  # fmt: skip
def test_attention_of_torch(
    module: nn.Module, torch_program: Make, context: Make, noise: Make, fuse: Make, op_types: Make
) -> None:
    start = torch_program(module, **{name: noise(2, 3, 5, 4, seed=i) for i, name in enumerate("qkv")})
    assert op_types(fuse(FuseAttention(), exported(start, context, 23))) == ["Attention"]


class SelfAttention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.attend = nn.MultiheadAttention(8, 2, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        answer: Tensor = self.attend(x, x, x, need_weights=False)[0]
        return answer


def encoder(first: bool) -> nn.Module:
    layer = nn.TransformerEncoderLayer(8, 2, 16, activation="gelu", batch_first=True, norm_first=first)
    return nn.TransformerEncoder(layer, 2, norm=nn.LayerNorm(8), enable_nested_tensor=False)


@pytest.mark.slow
@pytest.mark.parametrize("vary", [{}, {"x": {0: "batch"}}, {"x": {0: "batch", 1: "length"}}], ids=len)
@pytest.mark.parametrize(
    ("module", "norms", "attentions"),
    [(SelfAttention(), 0, 1), (encoder(True), 5, 2), (encoder(False), 5, 2)],
    ids=["attention", "norm first", "norm last"],
)
def test_transformers_of_torch(
    module: nn.Module, norms: int, attentions: int, vary: Any, torch_program: Make, context: Make, noise: Make,
    fuse: Make, op_types: Make,
) -> None:  # fmt: skip
    start = exported(torch_program(module, vary, x=noise(2, 5, 8)), context, 23)
    after = fuse(FuseAttention(), fuse(FuseGelu(), fuse(FuseLayerNorm(), start)))
    found = op_types(after)
    assert found.count("LayerNormalization") == norms
    assert found.count("Attention") == attentions
    assert found.count("Gelu") == (2 if norms else 0)
    assert not {"Softmax", "Erf", "Sqrt"} & set(found)
    truth = Dataset("d", lambda: [{"x": noise(2, 5, 8, seed=9)}], 1)
    (want,), (have,) = list(start.truth.answers(truth)), list(after.answers(truth))
    np.testing.assert_allclose(have["output"], want["output"], rtol=1e-4, atol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("opset", [14, 16, 17])
@pytest.mark.parametrize("case", ["norm last", "tanh", "erf"])
def test_torchs_older_exporter(
    case: str, opset: int, torch_program: Make, context: Make, noise: Make, fuse: Make, op_types: Make
) -> None:
    """It writes older opsets, in which everything is spelled out."""
    import io

    import onnx
    import onnx_ir

    module = {"norm last": encoder(False), "tanh": Spelled(True), "erf": Spelled(False)}[case]
    start = torch_program(module, x=noise(2, 5, 8))
    file = io.BytesIO()
    torch.onnx.export(start.model, (torch.from_numpy(noise(2, 5, 8)),), file, dynamo=False, opset_version=opset,
                      input_names=["x"], output_names=["output"])  # fmt: skip
    from dataclasses import replace

    from passes.program import Level

    model = onnx_ir.from_proto(onnx.load_model_from_string(file.getvalue()))
    raised = replace(start, level=Level.ONNX, model=model, facts=frozenset({"exported"}))
    for step in (FoldConstants(), ConvertOpset(23)):
        raised, proof = step(raised, context())
        assert proof.decision is Decision.KEPT
    found = op_types(fuse(FuseAttention(), fuse(FuseGelu(), fuse(FuseLayerNorm(), raised))))
    assert found.count("LayerNormalization") == (5 if case == "norm last" else 1)
    assert found.count("Gelu") == (2 if case == "norm last" else 1)
    assert found.count("Attention") == (2 if case == "norm last" else 0)
