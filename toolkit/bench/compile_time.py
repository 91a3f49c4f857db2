"""How long an int8 compile takes, cold and cached, beside onnxruntime's bare quantization.

    python -m toolkit.bench.compile_time [--json]

MobileNetV2 with 64 calibration images of 224x224. Each way runs in a process of its own, imports included; a compile
makes the whole bundle (passes with their proofs, estimate, golden samples, report), quantize_static one file.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from toolkit import units
from toolkit.rng import generator

__all__ = ["compile_times"]

IMAGES = 64
_GOALS_S = {"from ONNX, cold": 12.0, "from ONNX, cached": 2.0, "from PyTorch, cold": 25.0}

_FACTORY = """
import torch
from toolkit.bench.networks import build

def network():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return build("torchvision:mobilenet_v2", "1x3x224x224")[0].eval(), (torch.zeros(1, 3, 224, 224),)
"""
_PLAIN = """
import numpy as np, onnxruntime
from onnxruntime.quantization import quantize_static, QuantType
images = iter(np.load("images.npz")["x"])
class Reader:
    def get_next(self):
        image = next(images, None)
        return None if image is None else {"input": image[None]}
quantize_static("model.onnx", "plain.onnx", Reader(), per_channel=True, activation_type=QuantType.QUInt8)
"""


def compile_times() -> dict[str, float]:
    """Seconds by way, in the order in which they were run."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        rng = generator(0, "compile time")
        np.savez(folder / "images.npz", x=rng.standard_normal((IMAGES, 3, 224, 224)).astype(np.float32))
        (folder / "mobilenet.py").write_text(_FACTORY, "utf-8")
        (folder / "plain.py").write_text(_PLAIN, "utf-8")
        _seconds(folder, "-m", "toolkit.cli.main", "export", "mobilenet:network", "-o", "model.onnx", "-q")
        compiled = ("-m", "toolkit.cli.main", "compile", "-t", "desktop_cpu", "--data", "images.npz", "-q")
        return {
            "from ONNX, cold": _seconds(folder, *compiled, "model.onnx", "--no-cache"),
            "from ONNX, filling the cache": _seconds(folder, *compiled, "model.onnx"),
            "from ONNX, cached": _seconds(folder, *compiled, "model.onnx"),
            "from PyTorch, cold": _seconds(folder, *compiled, "mobilenet:network", "--no-cache"),
            "onnxruntime quantize_static": _seconds(folder, "plain.py"),
        }


def _seconds(folder: Path, *arguments: str) -> float:
    """Wall time of one Python process in `folder`, which has a cache of its own."""
    home = str(Path(__file__).parents[2])
    paths = os.pathsep.join(filter(None, (home, os.environ.get("PYTHONPATH"))))
    environment = {
        **os.environ,
        "TOOLKIT_CACHE": str(folder / "cache"),
        "PYTHONPATH": paths,
        "ORT_DISABLE_TELEMETRY": "1",
    }
    start = time.perf_counter()
    subprocess.run([sys.executable, *arguments], cwd=folder, env=environment, check=True, capture_output=True)
    return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="print one JSON document")
    as_json = parser.parse_args().json
    found = compile_times()
    if as_json:
        document: dict[str, Any] = {"schema": "toolkit.bench.compile_time/1", "images": IMAGES, "wall_s": found}
        print(json.dumps(document))
        return
    for way, seconds in found.items():
        goal = f"  (goal: at most {units.seconds(_GOALS_S[way])})" if way in _GOALS_S else ""
        print(f"{way:30} {units.seconds(seconds):>8}{goal}")


if __name__ == "__main__":
    main()
