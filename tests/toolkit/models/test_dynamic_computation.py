"""Each sample takes its own way, the other way is not computed, and the estimate is the mix that was taken."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from targets.cost import estimate
from targets.graph import read_workload
from targets.target import load_stack
from toolkit.driver import Options, estimate_model, float_program
from toolkit.models.blueprints.config import parse
from toolkit.models.blueprints.dynamic_computation import Config, DynamicComputation, build, calibration, example
from toolkit.sources import load_source

STACK = load_stack("desktop_cpu/onnxruntime-fp32")


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def block(**fields: object) -> DynamicComputation:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        made = DynamicComputation(parse(Config, {"width": 8, "heavy": 32, **fields})).eval()
    with torch.no_grad():
        made.gate.bias.sub_(made.gates(noise(40, 5, 8)).median())
    return made


def signals(count: int = 64) -> Tensor:
    return torch.cat([torch.from_numpy(s["signal"]) for s in calibration().take(count)])


class Rows:
    """How many samples went through each way."""

    def __init__(self, module: DynamicComputation) -> None:
        self.seen: Counter[str] = Counter()
        for name in ("heavy", "light"):
            way = module.get_submodule(name)
            way.register_forward_hook(lambda _, args, __, name=name: self.seen.update({name: len(args[0])}))


@torch.no_grad()
@pytest.mark.parametrize("shape", [(40, 5, 8), (40, 8), (1, 5, 8)])
def test_a_batch_is_answered_like_its_samples(shape: tuple[int, ...]) -> None:
    module, x = block(), noise(*shape)
    together = module(x)
    alone = torch.cat([module(x[i : i + 1]) for i in range(len(x))])
    torch.testing.assert_close(together, alone, rtol=1e-5, atol=1e-6)


@torch.no_grad()
def test_each_way_is_computed_for_those_who_take_it() -> None:
    module, x = block(), noise(40, 5, 8)
    heavy = module.gates(x) > 0
    assert 0 < int(heavy.sum()) < 40
    normed = module.norm(x)
    wanted = torch.where(heavy[:, None, None], x + module.heavy(normed), x + module.light(normed))
    rows = Rows(module)
    torch.testing.assert_close(module(x), wanted, rtol=1e-5, atol=1e-6)
    assert rows.seen == {"heavy": int(heavy.sum()), "light": 40 - int(heavy.sum())}
    rows.seen.clear()
    module(x[~heavy])
    assert rows.seen["heavy"] == 0


@torch.no_grad()
def test_the_arithmetic_follows_the_share() -> None:
    module, x = block(), noise(40, 5, 8)
    order = module.gates(x).argsort()
    counts = []
    for some in (x[order[:10]], x[order[-10:]]):
        with FlopCounterMode(display=False) as counted:
            module(some)
        counts.append(counted.get_total_flops())
    ways = [2 * 10 * 5 * (8 * 8 * 2), 2 * 10 * 5 * (8 * 32 + 32 * 32 + 32 * 8)]
    gate = 2 * 10 * 8
    assert counts == [way + gate for way in ways]


def test_the_soft_gate_becomes_the_hard_one() -> None:
    x = noise(20, 5, 8)
    x = x[block().gates(x).abs() > 1e-2]  # at 0 both ways have a half, at any temperature
    off = []
    for temperature in (1.0, 0.1, 1e-4):
        module = block(temperature=temperature)
        with torch.no_grad():
            off.append(float((module.train()(x) - module.eval()(x)).abs().max()))
    assert off == sorted(off, reverse=True)
    assert off[-1] < 1e-4


def test_gradients_reach_every_parameter_in_training() -> None:
    model = build().train()
    model(signals(8)).square().sum().backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().max() > 0, name


@pytest.mark.parametrize("share", [0.1, 0.25, 0.75])
def test_the_share_of_the_calibration_signals_is_the_one_asked_for(share: float) -> None:
    model = build(parse(Config, {"heavy_share": share}))
    rows = Rows(_block_of(model))
    with torch.no_grad():
        model(signals())
    assert abs(rows.seen["heavy"] / 64 - share) <= 1 / 64


def _block_of(model: nn.Module) -> DynamicComputation:
    found = model.get_submodule("block")
    assert isinstance(found, DynamicComputation)
    return found


def test_torchscript_takes_any_batch() -> None:
    model, x = build(), signals(12)
    with torch.no_grad():
        traced = torch.jit.trace(model, x[:1], check_trace=False)
        assert torch.equal(traced(x), model(x))
        for i in range(12):
            torch.testing.assert_close(traced(x[i : i + 1]), model(x[i : i + 1]), rtol=1e-5, atol=1e-6)


# ---- as a graph


def operators_run(onnx: bytes, x: Tensor, folder: Path) -> tuple[Counter[str], np.ndarray[Any, Any]]:
    """How often onnxruntime ran each kind of operator, by its own profile."""
    options = onnxruntime.SessionOptions()
    options.enable_profiling, options.profile_file_prefix = True, str(folder / "profile")
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(onnx, options, providers=["CPUExecutionProvider"])
    (answer,) = session.run(None, {"signal": x.numpy()})
    events = json.loads(Path(session.end_profiling()).read_text("utf-8"))
    return Counter(e["args"]["op_name"] for e in events if e.get("name", "").endswith("_kernel_time")), answer


@pytest.mark.slow
@pytest.mark.parametrize("batch", [1, 3])
def test_operators_of_the_other_way_do_not_run(batch: int, tmp_path: Path) -> None:
    model, x = build(), signals()
    shown = {"signal": np.zeros((batch, 64, 6), np.float32)}
    program = float_program(load_source((model, shown)), STACK, Options(cache=False))
    assert [n.op_type for n in program.graph].count("If") == batch
    order = _block_of(model).gates(model.get_submodule("embed")(x)).argsort()
    counts = []
    for some in (x[order[:batch]], x[order[-batch:]], x[order[[0, -1, 1][:batch]]]):
        ran, answer = operators_run(program.onnx_bytes, some, tmp_path)
        np.testing.assert_allclose(answer, model(some).detach().numpy(), rtol=1e-5, atol=1e-5)
        counts.append((ran["Relu"], ran["If"]))
    mixed = 1 if batch == 1 else 2 * 1 + 1 * 2
    assert counts == [(batch, batch), (2 * batch, batch), (mixed, batch)], "one relu is cheap, two are dear"


@pytest.mark.slow
@pytest.mark.parametrize("share", [0.125, 0.5])
def test_the_estimate_is_the_mix_that_was_taken(share: float) -> None:
    """By torch's own count of what 64 samples cost, one by one."""
    config = parse(Config, {"heavy_share": share})
    model = build(config)
    found = estimate_model((model, example(config)), target="desktop_cpu", stack="onnxruntime-fp32",
                           data=calibration(config), cache=False)  # fmt: skip
    with torch.no_grad(), FlopCounterMode(display=False) as counted:
        for sample in calibration(config):
            model(torch.from_numpy(sample["signal"]))
    assert found.macs == pytest.approx(counted.get_total_flops() / 2 / 64, rel=0.01)
    assert found.provenance.endswith("branches by how often 64 samples took them")


@pytest.mark.slow
def test_latency_lies_between_the_ways_and_without_samples_the_dear_one_is_priced() -> None:
    program = float_program(load_source("dynamic_computation"), STACK, Options(cache=False))
    mixed = read_workload(program.static_model, fuses=STACK.fuses)
    assert mixed.branches == "branches by how often 64 samples took them"
    latencies: dict[str | None, float] = {}
    for share in (None, "0 of 1 samples", "0.25 of 1 samples", "1 of 1 samples"):
        model = program.static_model.clone()
        for node in model.graph:
            node.metadata_props.pop("toolkit.share", None)
            if share and node.op_type == "If":
                node.metadata_props["toolkit.share"] = share
        latencies[share] = estimate(model, STACK).latency_s
    assert latencies[None] == pytest.approx(latencies["1 of 1 samples"], rel=1e-9)
    assert latencies["0 of 1 samples"] < latencies["0.25 of 1 samples"] < latencies["1 of 1 samples"]
    by_share = latencies["0 of 1 samples"] * 0.75 + latencies["1 of 1 samples"] * 0.25
    assert latencies["0.25 of 1 samples"] == pytest.approx(by_share, rel=1e-6)
    assert estimate(mixed, STACK).latency_s == pytest.approx(by_share, rel=1e-6)
    stored = sum(p.numel() * 4 for n, p in build().named_parameters() if "weight" in n and p.ndim > 1)
    assert mixed.weight_bytes >= stored, "both ways are stored, whichever is taken"
