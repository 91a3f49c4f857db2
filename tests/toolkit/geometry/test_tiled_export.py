"""Tiled attention out of torch: ONNX in onnxruntime and TVM, TorchScript, and what an estimate makes of it."""

from __future__ import annotations

import io
import warnings
from collections import Counter
from functools import cache
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest
import torch
from torch import Tensor

from passes.onnxruntime import Session
from passes.quiet import quiet_libraries
from targets.cost import estimate
from targets.graph import read_workload
from targets.target import load_stack
from toolkit.driver import Options, compile_model, float_program
from toolkit.errors import GeometryError
from toolkit.geometry.neural.attention import QuantumGeometricAttention
from toolkit.models import geometric
from toolkit.models.seeded import seeded
from toolkit.rng import torch_generator
from toolkit.sources import load_source
from toolkit.verify.golden import verify_bundle

LENGTH, HIDDEN = 120, 32  # the last of eight tiles of 16 is not full

ALLOWED = frozenset(
    "Add Cast Clip Concat ConstantOfShape Div Equal Exp Expand Gather GatherElements Greater Log MatMul Min Mul Neg "
    "Pad Pow ReduceMax ReduceMean ReduceSum Reshape ScatterElements Slice Softmax Sqrt Squeeze Sub TopK Transpose "
    "Unsqueeze".split()
)
"""No loop, no branch, no size that depends on data, no complex number; TopK and scattering in the plan topk alone."""
INDEXING = frozenset({"TopK", "Gather", "GatherElements", "ScatterElements"})

CASES = {
    "metric, topk, flow": {"score": "metric", "plan": "topk", "num_layers": 2},
    "fidelity_complex, ranked": {"score": "fidelity_complex", "plan": "ranked", "choose_by": "earlier"},
    "metric, ranked, the tile before": {"score": "metric", "plan": "ranked", "near": 1},
    "hyperbolic, static": {"score": "hyperbolic", "plan": "static"},
    "born": {"score": "born"},
}


def layer(**options: object) -> QuantumGeometricAttention:
    with seeded(0):
        model = QuantumGeometricAttention(
            HIDDEN, 4, **{"manifold_dim": 8, "tile_size": 16, "refine": 3, "causal": True, **options}
        ).eval()
    if model.plan == "static":
        model.settle(tokens(1))
    return model


def tokens(batch: int, seed: int = 0) -> Tensor:
    return torch.randn(batch, LENGTH, HIDDEN, generator=torch_generator(seed, "tokens", batch))


@cache
def exported(name: str) -> onnx.ModelProto:
    with warnings.catch_warnings(), quiet_libraries():
        warnings.simplefilter("ignore")
        program = torch.onnx.export(layer(**CASES[name]), (tokens(1),), dynamo=True, opset_version=18, verbose=False)
    assert program is not None
    return program.model_proto


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_onnx_answers_alike_in_operators_that_runtimes_have(name: str) -> None:
    proto = exported(name)
    onnx.checker.check_model(proto, full_check=True)
    assert {"": 18}.items() <= {entry.domain: entry.version for entry in proto.opset_import}.items()
    counted = Counter(node.op_type for node in proto.graph.node)
    assert set(counted) <= ALLOWED
    assert not any(a.type == onnx.AttributeProto.GRAPH for node in proto.graph.node for a in node.attribute)
    if "ranked" in name or name == "born":
        assert not INDEXING & set(counted)
    held = io.BytesIO()
    onnx.save(proto, held)
    session, x = Session(held.getvalue()), tokens(1, seed=1)
    (found,) = session({next(iter(session.inputs())): x.numpy()}).values()
    with torch.no_grad():
        assert np.abs(found - layer(**CASES[name])(x).numpy()).max() <= 1e-5


@pytest.mark.parametrize("name", [*CASES, "dense"])
def test_a_trace_answers_alike_for_every_batch(name: str) -> None:
    model = layer(**CASES.get(name, {"plan": "dense"}))
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("error", torch.jit.TracerWarning)
        traced = torch.jit.trace(model, (tokens(1),), check_trace=False)
        x = tokens(3, seed=1)
        torch.testing.assert_close(traced(x), model(x), rtol=0, atol=1e-5)


def test_a_plan_that_depends_on_the_input_is_not_exported() -> None:
    with pytest.raises(GeometryError, match="the plan threshold depends on the input"):
        torch.jit.trace(layer(plan="threshold"), (tokens(1),))


# ---- the road


@pytest.mark.slow
def test_it_becomes_a_program_by_tvm(tmp_path: Path) -> None:
    """TVM's C has no TopK: the plan ranked, which is the default, has none either."""
    spec = "geometric@context=64,tile=16,blocks=1,refine=2,heads=2,width=16,state_width=8,hidden=16"
    bundle = compile_model(spec, target="desktop_cpu", stack="program-fp32", output=tmp_path / "program")
    assert verify_bundle(bundle).passed


@pytest.mark.slow
def test_the_estimate_knows_what_tiles_save() -> None:
    """Products of the graph are those of the formula; fewer tiles cost less, and all of them no less than dense."""
    stack = load_stack("raspberry_pi_4/onnxruntime-fp32")
    config = geometric.Config(context=512, blocks=1, heads=2, width=32, hidden=32, state_width=16, score="dot",
                              plan="topk", choose_by="own", tile=64, refine=2)  # fmt: skip
    spent, macs = {}, {}
    for name, changes in {"dense": {"plan": "dense"}, "topk 2": {}, "topk 4": {"refine": 4}}.items():
        model = geometric.build(config.model_copy(update=changes))
        inputs = (torch.zeros(1, 512, dtype=torch.int64),)
        program = float_program(load_source((model, inputs)), stack, Options(cache=False))
        work = read_workload(ir.from_proto(onnx.load_from_string(program.onnx_bytes)), fuses=stack.fuses)
        spent[name], macs[name] = estimate(work, stack).latency_s, work.macs
    assert spent["topk 2"] < spent["dense"]
    assert spent["topk 2"] < spent["topk 4"]
    n, tile, m, d = 512, 64, 17, 16  # a state's 16 numbers and the one that is added
    tiles = n // tile
    assert macs["topk 4"] - macs["topk 2"] == 2 * n * 2 * tile * (m + d)
    assert macs["dense"] - macs["topk 2"] == 2 * n * ((n - 2 * tile) * (m + d) - tiles * (m + d))
