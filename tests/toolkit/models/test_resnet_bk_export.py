"""Out of torch: ONNX in onnxruntime at a thousand tokens and more, and TorchScript."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from passes.onnxruntime import Session
from targets.target import load_stack
from toolkit.driver import Options, float_program
from toolkit.models import resnet_bk
from toolkit.models.resnet_bk import Config
from toolkit.sources import load_source

TINY = {"width": 16, "heads": 3, "hidden": 24, "experts": 3, "blocks": 1}


def relative(found: np.ndarray, truth: np.ndarray) -> float:
    return float(np.linalg.norm(found - truth) / np.linalg.norm(truth))


def answers(config: Config) -> tuple[np.ndarray, np.ndarray, bytes]:
    """Of onnxruntime and of torch, on text that export did not see; and the graph."""
    model, data = resnet_bk.build(config), list(resnet_bk.calibration(config))
    inputs = (torch.from_numpy(data[0]["characters"]),)
    stack = load_stack("desktop_cpu/onnxruntime-fp32")
    program = float_program(load_source((model, inputs)), stack, Options(cache=False))
    other = data[-1]["characters"]
    session = Session(program.onnx_bytes)
    (found,) = session({next(iter(session.inputs())): other}).values()
    with torch.no_grad():
        return found, model(torch.from_numpy(other)).numpy(), program.onnx_bytes


@pytest.mark.slow
@pytest.mark.parametrize("length", [1024, 4097])
def test_long_sequences_answer_alike_in_onnxruntime(length):
    found, truth, _ = answers(Config(context=length, blocks=1))
    assert relative(found, truth) <= 1e-4


@pytest.mark.slow
@pytest.mark.parametrize(
    "options",
    [
        {"mode": "both_sides", "kept_share": 0.3, "scales": 2},
        {"kept_share": 0.4, "links": "learned", "chosen": 2, "storage": "int8", "ponder_steps": 2},
    ],
    ids=["both sides", "causal"],
)
def test_options_answer_alike_in_onnxruntime(options):
    found, truth, _ = answers(Config(**TINY, context=53, **options))
    assert relative(found, truth) <= 1e-4


@pytest.mark.parametrize("mode", ["causal", "both_sides"])
def test_a_trace_answers_alike(mode):
    config = Config(**TINY, context=37, mode=mode, scales=2, kept_share=0.5)
    model = resnet_bk.build(config)
    first, *_, other = (torch.from_numpy(sample["characters"]) for sample in resnet_bk.calibration(config))
    with torch.no_grad():
        traced = torch.jit.trace(model, (first,), check_trace=False)
        torch.testing.assert_close(traced(other), model(other), rtol=1e-4, atol=1e-5)


def test_equal_experts_are_chosen_as_torch_chooses():
    model = resnet_bk.build(Config(**TINY, context=20, chosen=2)).eval()
    nn.init.zeros_(model.blocks[0].mixture.router.weight)
    read = torch.arange(20)[None]
    with torch.no_grad():
        mixture = model.blocks[0].mixture
        rows = torch.randn(20, 16, generator=torch.Generator().manual_seed(0))
        gates = torch.full((20, 3), 1 / 3)
        spelled = mixture._of_all(rows, gates)
        first = mixture(rows[None]).out[0]
        assert model(read).isfinite().all()
    hidden = torch.nn.functional.gelu(torch.einsum("td,ehd->teh", rows, mixture.w_in[:2]) + mixture.b_in[:2])
    said = (torch.einsum("teh,edh->ted", hidden, mixture.w_out[:2]) + mixture.b_out[:2]).sum(1) / 3
    torch.testing.assert_close(spelled, said)
    assert first.shape == said.shape
