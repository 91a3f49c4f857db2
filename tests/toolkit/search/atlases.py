"""Atlases of made-up points, as `toolkit search` writes them, for tests of what reads them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from toolkit.search.atlas.sealing import VERSION, sealed

HOSTILE = "</script><img src=x onerror=\"document.title='broken'\"><!-- ' \" & {{ 7*7 }} ${7*7} \u2028"
_STACKS = {
    "raspberry_pi_4": ("tflite-int8", "tflite-fp32"),
    "jetson_nano": ("tensorrt-fp16",),
    "mine": ("x",),
}
_FASTER = {"raspberry_pi_4": 1.0, "jetson_nano": 2.0, "mine": 0.5}
_SPREADS = {"latency_s": (0.6, 1.7), "peak_memory_bytes": (0.9, 1.2), "energy_j": (0.5, 2.0), "model_bytes": (1.0, 1.0)}


def point(rng: np.random.Generator, target: str) -> dict[str, Any]:
    """One of an accuracy that falls with what is pruned, on few or many samples; every second one measured again."""
    samples = int(rng.choice([60, 180, 720]))
    bits, prune = int(rng.choice([4, 8, 32])), float(rng.uniform(0, 0.8))
    latency = float(4e-3 / _FASTER[target] * (1 - 0.8 * prune) * (0.4 + bits / 32) * rng.lognormal(0, 0.25))
    size = 88e3 * bits / 32 * (1 - 0.9 * prune) + 2e3
    costs = {"latency_s": latency, "peak_memory_bytes": 3e5 + 2 * size, "energy_j": 3 * latency, "model_bytes": size}
    quality, held = (_share(rng, 0.98 - 0.3 * prune**3 - 0.03 * (bits == 4), samples) for _ in range(2))
    return {
        "target": target,
        "stack": str(rng.choice(_STACKS[target])),
        "id": f"{int(rng.integers(2**62)):016x}",
        "config": {"bits": bits, "prune_ratio": prune},
        "recipe": {"recipe": "custom", "passes": [{"pass": "PruneChannels", "ratio": prune}, {"pass": "Export"}]},
        **quality,
        "fidelity": 2,
        "measures": costs | {"sparsity": prune},
        "intervals": {name: [costs[name] * low, costs[name] * high] for name, (low, high) in _SPREADS.items()},
        "provenance": "latency: made up; memory: made up; energy: made up",
        "cell": int(rng.integers(1000)),
        "is_on_front": False,
        "held_out": held if rng.random() < 0.5 else None,
    }  # fmt: skip


def _share(rng: np.random.Generator, expected: float, samples: int) -> dict[str, Any]:
    right = rng.binomial(samples, expected) / samples
    half = 1.64 * (max(right * (1 - right), 1e-3) / samples) ** 0.5
    return {"quality": right, "quality_interval": [max(0.0, right - half), min(1.0, right + half)], "n": samples}


def document(
    count: int = 40, *, seed: int = 0, targets: tuple[str, ...] = ("raspberry_pi_4", "jetson_nano")
) -> dict[str, Any]:
    """An atlas with `count` points for each target."""
    rng = np.random.default_rng(seed)
    return {
        "version": VERSION,
        "model": {"name": "digits", "source": "digits", "digest": "0" * 64},
        "data": {"digest": "1" * 32, "samples": 180},
        "metric": "top-1 accuracy",
        "seed": seed,
        "points": [point(rng, target) for target in targets for _ in range(count)],
    }


def write(folder: Path, content: dict[str, Any]) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "atlas.json").write_bytes(sealed(json.dumps(content, indent=1)))
    return folder
