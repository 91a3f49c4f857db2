"""Heartbeats found while they are recorded: `sliding_conv` on synthesised rhythms and on a recorded ECG.

    python -m toolkit.bench.heartbeats [--json]

The network is trained on synthesised rhythms of 360 Hz (`toolkit.models.signals.rhythms`) to say at every step whether
an R wave was within the last 100 ms. It then follows others, four new samples at a step, and a beat is counted when it
begins to say so. A beat is found where that is between 50 ms before an R wave and 150 ms behind it (150 ms is the
window of ANSI/AAMI EC57). The recorded ECG is the one that PyWavelets ships (1,024 samples, no labels; 360 Hz and 200
steps a millivolt are assumed, those of the MIT-BIH archive); its R waves are the peaks that scipy finds.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from passes.dataset import Array, Dataset
from targets.errors import ToolkitError
from toolkit import units
from toolkit.models.blueprints.sliding_conv import Config, SlidingConv, build
from toolkit.models.signals import Rhythms, rhythms
from toolkit.training.trainer import Settings, Trainer

__all__ = ["CONFIG", "Found", "Score", "follow", "recorded", "scored", "train"]

CONFIG = Config(
    length=1080, classes=2, width=16, blocks=2, kernels=(3, 5, 9), dilations=(1, 2, 3), stem_kernel=9, stride=4,
    window=3, answer="each",
)  # fmt: skip

_RATE_HZ = 360.0
_SAID_S = 0.1  # after an R wave
_EARLY_S, _LATE_S = 0.05, 0.15
_RESTS_S = 0.25  # after a beat: no heart beats again so soon
_REAL_TIME_S = 5e-3


@dataclass(frozen=True)
class Found:
    """When beats were found, and how long each step took, in seconds."""

    beats_s: list[float]
    steps_s: list[float]


@dataclass(frozen=True, kw_only=True)
class Score:
    """Beats that there are, that were found, and what was found beside them; the median and the slowest step."""

    what: str
    beats: int
    hits: int
    false: int
    step_s: float
    slowest_step_s: float

    @property
    def sensitivity(self) -> float:
        return self.hits / max(1, self.beats)

    @property
    def precision(self) -> float:
        return self.hits / max(1, self.hits + self.false)


def train(count: int = 160, epochs: int = 10) -> SlidingConv:
    """A network that says at each step whether an R wave was within the last 100 ms; seed 0."""
    made = rhythms(count, CONFIG.length, seed=1, rate_hz=_RATE_HZ)
    data = Dataset.of_arrays("synthesised rhythms", {"signal": made.values}, _labels(made))
    trainer = Trainer(data=data, settings=Settings(batch=16, held_out=0))
    model = trainer(build(CONFIG), _loss, step="heartbeats", epochs=epochs, rate=5e-3)
    assert isinstance(model, SlidingConv)
    return model


def _labels(made: Rhythms) -> Array:
    """(count, steps): 1 where an R wave was within the last 100 ms of the step's end."""
    ends_s = (np.arange(CONFIG.length // CONFIG.stride) + 1) * CONFIG.stride / made.rate_hz
    since_s = [ends_s[:, None] - peaks for peaks in made.peaks_s]
    return np.stack([((s >= 0) & (s < _SAID_S)).any(1) for s in since_s]).astype(np.int64)


def _loss(model: nn.Module, batch: tuple[Mapping[str, Tensor], Tensor | None]) -> Tensor:
    inputs, labels = batch
    assert labels is not None
    return nn.functional.cross_entropy(model(inputs["signal"]).flatten(0, 1), labels.flatten())


def follow(model: SlidingConv, trace: Array) -> Found:
    """Beats in a trace (samples,) in millivolt, found step by step."""
    stride = model.config.stride
    hops = torch.from_numpy(trace[: len(trace) // stride * stride].astype(np.float32)).reshape(-1, 1, stride, 1)
    state, said, found = model.initial_state(), False, Found([], [])
    with torch.no_grad():
        for i, hop in enumerate(hops):
            start = time.perf_counter()
            logits, state = model.step(hop, state)
            says = bool(logits[0, 1] > logits[0, 0])
            found.steps_s.append(time.perf_counter() - start)
            now_s = (i + 1) * stride / _RATE_HZ
            if says and not said and (not found.beats_s or now_s - found.beats_s[-1] > _RESTS_S):
                found.beats_s.append(now_s)
            said = says
    return found


def scored(what: str, found: Sequence[Found], peaks_s: Sequence[Array], ends_s: float) -> Score:
    """Each R wave is found once at most; those too near to the ends to be judged are left out."""
    hits = beats = false = 0
    for each, peaks in zip(found, peaks_s, strict=True):
        free = list(each.beats_s)
        for peak in peaks:
            near = [beat for beat in free if -_EARLY_S <= beat - peak <= _LATE_S]
            judged = peak < ends_s - _LATE_S
            if near:
                free.remove(near[0])
            beats += judged
            hits += bool(near) and judged
        false += sum(beat > _LATE_S for beat in free)
    steps = [s for each in found for s in each.steps_s[1:]]
    return Score(what=what, beats=beats, hits=hits, false=false, step_s=median(steps), slowest_step_s=max(steps))


def recorded() -> tuple[Array, Array] | None:
    """(trace in millivolt, seconds of its R waves) of PyWavelets' ECG; None where it is not installed."""
    package = find_spec("pywt")
    if package is None or package.origin is None:
        return None
    from scipy.signal import find_peaks

    with np.load(Path(package.origin).parent / "data" / "ecg.npz") as file:
        raw = file["data"].astype(np.float64)
    peaks, _ = find_peaks(raw, prominence=np.ptp(raw) / 2)
    return (raw - np.median(raw)) / 200, peaks / _RATE_HZ


def _scores() -> list[Score]:
    model = train()
    others = rhythms(12, CONFIG.length * 3, seed=2, rate_hz=_RATE_HZ)
    go = partial(follow, model)
    ends_s = CONFIG.length * 3 / _RATE_HZ
    scores = [scored("synthesised", [go(v[:, 0]) for v in others.values], others.peaks_s, ends_s)]
    if (ecg := recorded()) is not None:
        trace, peaks_s = ecg
        scores.append(scored("recorded (PyWavelets)", [go(trace)], [peaks_s], len(trace) / _RATE_HZ))
    return scores


def _show(scores: Sequence[Score]) -> None:
    print(f"{'rhythms':22} {'beats':>6} {'found':>6} {'false':>6} {'sensitivity':>12} {'precision':>10} {'a step':>9}")
    for s in scores:
        print(
            f"{s.what:22} {s.beats:>6} {s.hits:>6} {s.false:>6} {s.sensitivity:>12.3f} {s.precision:>10.3f} "
            f"{units.seconds(s.step_s):>9}"
        )
    slowest = max(s.step_s for s in scores)
    verdict = "in real time" if slowest < _REAL_TIME_S else "too slow"
    print(f"a step brings {CONFIG.stride} samples, {units.seconds(CONFIG.stride / _RATE_HZ)}; {verdict}: limit 5 ms")
    if len(scores) == 1:
        print("the recorded ECG wants the package pywavelets")


def main(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m toolkit.bench.heartbeats", description="Heartbeats found while they are recorded."
    )
    parser.add_argument("--json", action="store_true", help="print one JSON document")
    given = parser.parse_args(arguments)
    try:
        scores = _scores()
    except ToolkitError as error:
        parser.exit(error.exit_code, f"error: {error.problem}\n  next: {error.hint}\n")
    if given.json:
        print(json.dumps({"schema": "toolkit.bench.heartbeats/1", "scores": [_document(s) for s in scores]}, indent=1))
    else:
        _show(scores)
    return 0


def _document(score: Score) -> dict[str, Any]:
    return asdict(score) | {"sensitivity": score.sensitivity, "precision": score.precision}


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
