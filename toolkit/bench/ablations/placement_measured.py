"""A4 on devices that are there: components of one trained organism placed in four ways, and steps of it timed.

On a processor the two devices are one under two names: all runs, and no byte moves.
"""

from __future__ import annotations

import copy
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from statistics import median
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from passes.context import Batch
from toolkit.bench.ablations.ablation import Ablation, Contrast, Measures
from toolkit.bench.ablations.arms import dynamic
from toolkit.bench.ablations.comparing import Compared, Verdict
from toolkit.bench.ablations.learning import Learnt, Text, learn, text_for
from toolkit.bench.ablations.placement import ARMS, homes_of
from toolkit.bench.ablations.presets import Preset
from toolkit.organism.behaviors import measure_behaviors, probe_batch
from toolkit.organism.torch_compat import organisms_of
from toolkit.search.component_archive import ComponentArchive
from toolkit.training.organism.optimizing import PoolAdamW
from toolkit.training.precision import Precision, kind_for

__all__ = ["ABLATION", "Crossings", "placed"]

_TOGETHER = "one device"
_WARM, _TIMED = 5, 20
_SPREAD = 0.9
"""Of the load of one device that has all: a layer with more than this on one is not spread."""

Homes = Mapping[str, Mapping[str, str]]
"""Of each layer, the device of each component by id."""


class Crossings(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts bytes that go from one device to another in a block."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.nbytes = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        found = func(*args, **(kwargs or {}))
        if func is torch.ops.aten._to_copy.default and found.device != args[0].device:
            self.nbytes += args[0].numel() * args[0].element_size()
        return found


def _run(seed: int, preset: Preset) -> Mapping[str, Measures]:
    found, text = learn(dynamic(preset), preset, seed), text_for(preset, seed)
    devices = _devices(preset)
    turns = {layer: _turn(found, layer, preset) for layer in organisms_of(found.model)}
    measured: dict[str, Measures] = {}
    together = {layer: dict.fromkeys(turn, devices[0]) for layer, turn in turns.items()}
    chosen: dict[str, Homes] = {_TOGETHER: together}
    for arm in ARMS:
        chosen[arm] = {layer: homes_of(arm, turn, seed, 0, devices) for layer, turn in turns.items()}
    for arm, homes in chosen.items():
        model = placed(found.model, homes, devices[0])
        measured[arm] = _measures(model, homes, devices, text)
        del model  # its memory is the next arm's
    true = measured[_TOGETHER]["loss_nats"]
    return {arm: {**m, "loss_off_nats": abs(m["loss_nats"] - true)} for arm, m in measured.items()}


def _devices(preset: Preset) -> tuple[str, ...]:
    if preset.device == "cuda":
        return tuple(f"cuda:{k}" for k in range(torch.cuda.device_count()))
    return ("cpu", "cpu:0")


def _turn(found: Learnt, layer: str, preset: Preset) -> Mapping[str, tuple[int, int]]:
    """Cell and parameters of each component that lives at the end; all are measured once more, the youngest too."""
    organism, elites = organisms_of(found.model)[layer], found.elites[layer]
    assert isinstance(elites, ComponentArchive)
    probe = probe_batch(organism.d_model, length=preset.context).to(next(organism.parameters()).device)
    behaviors = measure_behaviors(organism, probe, causal=True)
    cells = elites.archive.cell_of(np.stack(list(behaviors.values())))
    sizes = [sum(p.numel() for p in organism.pool[name].parameters()) for name in behaviors]
    return {name: (int(cell), size) for name, cell, size in zip(behaviors, cells, sizes, strict=True)}


def placed(model: nn.Module, homes: Homes, first: str) -> nn.Module:
    """A copy of `model` on `first`, its components, all settled, where `homes` says."""
    made = copy.deepcopy(model).to(first).train()
    for layer, organism in organisms_of(made).items():
        for pod in organism.pool:
            if not organism.pool.member(pod.component_id).is_fading:
                pod.settle()
            pod.to(homes[layer][pod.component_id])
    return made


def _measures(model: nn.Module, homes: Homes, devices: Sequence[str], text: Text) -> Measures:
    here = torch.device(devices[0])
    batch, precision = text.asked[0], Precision(here, kind_for(here, "bfloat16"))
    optimizer = PoolAdamW(model, 1e-4, 1e-2)
    with torch.no_grad():
        loss = float(text.task.loss(model, batch))
    with Crossings() as crossed, torch.no_grad(), precision.computing():
        text.task.loss(model, batch)
    seconds = []
    for step in range(_WARM + _TIMED):
        if step == _WARM:
            _forget_peaks(devices)
        begun = _now_s(devices)
        _step(model, text, batch, optimizer, precision)
        seconds.append(_now_s(devices) - begun)
    loads = [max(Counter(h.values()).values()) / (len(h) / len(devices)) for h in homes.values()]
    return {
        "step_s": median(seconds[_WARM:]), "crossing_bytes_per_step": 2.0 * crossed.nbytes,
        "largest_load": float(np.mean(loads)), "largest_device_bytes": _largest_peak(model, devices),
        "loss_nats": loss,
    }  # fmt: skip


def _step(model: nn.Module, text: Text, batch: Batch, optimizer: PoolAdamW, precision: Precision) -> None:
    optimizer.zero_grad()
    with precision.computing():
        loss: Tensor = text.task.loss(model, batch)
    precision.backward(loss)
    precision.step(optimizer, precision.clipped(optimizer, model, 1.0))


def _now_s(devices: Sequence[str]) -> float:
    for device in devices:
        if torch.device(device).type == "cuda":
            torch.cuda.synchronize(device)
    return time.perf_counter()


def _forget_peaks(devices: Sequence[str]) -> None:
    for device in devices:
        if torch.device(device).type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)


def _largest_peak(model: nn.Module, devices: Sequence[str]) -> float:
    """Of the allocator on any GPU; on a processor, the bytes of the weights."""
    if torch.device(devices[0]).type != "cuda":
        return float(sum(p.numel() * p.element_size() for p in model.parameters()))
    return float(max(torch.cuda.max_memory_allocated(device) for device in devices))


def _conclude(found: Mapping[str, Compared], means: Mapping[str, Measures]) -> str:
    cells, ids = (found[name].verdict for name in ("step_s: by cell - by id", "step_s: by id - one device"))
    pace = means["by id"]["step_s"] / means[_TOGETHER]["step_s"]
    room = means["by id"]["largest_device_bytes"] / means[_TOGETHER]["largest_device_bytes"]
    fewer = found["crossing_bytes_per_step: by cell - by id"].verdict
    said = (
        f"A step with components spread by id takes {pace:.2f} times that of one device ({ids}), and the fuller device "
        f"holds {room:.2f} times as much. By cell beside by id: time {cells}, bytes between devices {fewer}."
    )
    if means["by cell"]["largest_load"] > _SPREAD * means[_TOGETHER]["largest_load"]:
        return f"{said} But by cell a layer's components lie on one device all the same. By id stays the default."
    kept = cells is Verdict.BETTER and fewer is Verdict.BETTER
    return f"{said} {'Cells are the better keys.' if kept else 'By id stays the default.'}"


ABLATION = Ablation(
    name="A4-measured",
    question="Do components placed by behaviour make faster steps on two GPUs?",
    arms=(_TOGETHER, *ARMS),
    rule="by id stays the default unless cells spread what a layer has, send fewer bytes and take less time",
    run=_run,
    contrasts=(
        Contrast(arm="by cell", against="by id", measure="step_s", margin=0.0),
        Contrast(arm="by cell", against="by id", measure="crossing_bytes_per_step", margin=0.0),
        Contrast(arm="by id", against=_TOGETHER, measure="step_s", margin=0.0),
        Contrast(arm="by id", against=_TOGETHER, measure="largest_device_bytes", margin=0.0),
    ),
    conclude=_conclude,
    gpus=2,
    note=f"Of one organism trained on the first device; the median of {_TIMED} steps behind {_WARM}, with all devices "
    "waited for. Bytes are those of the forward pass, seen by torch's dispatcher, twice: gradients go back.",
)
