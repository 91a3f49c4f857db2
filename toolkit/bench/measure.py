"""Measure published networks through onnxruntime on this machine, as rows that a stack is fitted on.

    python -m toolkit.bench.measure --variant "Xeon with AMX, 1 core of 2" [NETWORK ...] > rows.csv

The rows belong in `toolkit/bench/rows/onnxruntime.csv`.

One thread, batch 1, random weights: times do not depend on their values, but denormal numbers would slow them down, so
weights are drawn like a fresh network's. The median of the fastest half of the runs is reported.
"""

from __future__ import annotations

import argparse
import csv
import sys
import time
from collections.abc import Collection, Iterator
from datetime import date
from statistics import median
from typing import Any

import numpy as np

from passes.context import Budget, Context, synthetic_data
from passes.onnxruntime import Session, import_onnxruntime
from passes.program import Program
from passes.recipe import RECIPES
from passes.running import run
from targets.target import load_target
from toolkit.bench.networks import build
from toolkit.rng import generator
from toolkit.sources import load_source

__all__ = ["measure"]

NETWORKS = (
    ("torchvision:resnet18", "1x3x224x224"),
    ("torchvision:resnet50", "1x3x224x224"),
    ("torchvision:mobilenet_v2", "1x3x224x224"),
    ("torchvision:mobilenet_v2", "1x3x128x128"),
    ("torchvision:mobilenet_v3_small", "1x3x224x224"),
    ("torchvision:mobilenet_v3_large", "1x3x224x224"),
    ("torchvision:squeezenet1_0", "1x3x224x224"),
    ("torchvision:densenet121", "1x3x224x224"),
    ("torchvision:vgg11", "1x3x224x224"),
    ("torchvision:googlenet", "1x3x224x224"),
    ("mobilenet_v1_1.0", "1x3x224x224"),
    ("mobilenet_v1_1.0", "1x3x128x128"),
    ("mlperf:efficientnet-lite0-quantized", "1x224x224x3"),
    ("ncnn:mnasnet", "1x3x224x224"),
    ("ncnn:shufflenet_v2", "1x3x224x224"),
    ("ncnn:regnety_400m", "1x3x224x224"),
    ("timm:vit_tiny_patch16_224", "1x3x224x224"),
    ("timm:vit_small_patch16_224", "1x3x224x224"),
    ("timm:vit_small_patch32_224", "1x3x224x224"),
    ("timm:swin_tiny_patch4_window7_224", "1x3x224x224"),
)
_SECONDS, _FEWEST = 2.0, 12


def measure(variant: str, only: Collection[str] = ()) -> Iterator[dict[str, Any]]:
    """A row for each network and precision; of all networks where `only` names none."""
    version = ".".join(import_onnxruntime().__version__.split(".")[:2])
    for name, shape in NETWORKS:
        if only and name not in only:
            continue
        program = _program(name, shape)
        for precision in ("fp32", "int8"):
            latency_s = _latency_s(_lowered(program, precision))
            yield {
                "id": f"own-{precision}-{name}-{shape}",
                "device": "Desktop CPU",
                "device_variant": variant,
                "runtime": f"onnxruntime {version}",
                "precision": precision,
                "threads": "1",
                "batch": "1",
                "model": name,
                "input_shape": shape,
                "latency_ms": f"{latency_s * 1e3:.4f}",
                "fps": "",
                "source_title": "measured by toolkit.bench.measure",
                "source_ref": "random weights; median of the fastest half of the runs",
                "date": date.today().isoformat(),
                "notes": "",
            }


def _program(name: str, shape: str) -> Program:
    import torch

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        built = build(name, shape)
    if built is None:
        raise LookupError(f"{name} is not defined in toolkit.bench.networks")
    network, size = built
    return load_source((network, (torch.zeros(1, *size[1:]),))).program


def _lowered(program: Program, precision: str) -> bytes:
    """The graph that the stack would run, as the compile makes it; kept whatever it does to random answers."""
    stack = load_target("desktop_cpu").stack(f"onnxruntime-{precision}")
    recipe = RECIPES["int8" if precision == "int8" else "float32"](stack, program.level)
    data = synthetic_data(program.signature, 0)
    ctx = Context(stack=stack, data=data, budget=Budget(min_sqnr_db=-1e9), pace=_NeverSlower())
    outcome = run(recipe, program, ctx)
    if precision == "int8" and "int8" not in outcome.program.facts:
        raise RuntimeError(f"{program.name} was not quantized: {outcome.proofs[-1].reason}")
    return outcome.program.onnx_bytes


class _NeverSlower:
    """What is to be measured is kept, whatever the model that will be fitted on it says today."""

    key = "never slower"

    def slower(self, step: str, before: Program, after: Program) -> bool:
        return False


def _latency_s(model: bytes) -> float:
    session = Session(model, threads=1)
    inputs = session.inputs()
    rng = generator(0, "measure")
    sample = {n: rng.standard_normal(shape).astype(np.float32) for n, shape in inputs.items()}
    for _ in range(3):
        session(sample)
    times: list[float] = []
    started = time.perf_counter()
    while len(times) < _FEWEST or time.perf_counter() - started < _SECONDS:
        before = time.perf_counter()
        session(sample)
        times.append(time.perf_counter() - before)
    return median(sorted(times)[: len(times) // 2])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--variant", required=True, help="how the rows name this processor")
    parser.add_argument("networks", nargs="*", metavar="NETWORK", help="names to measure; all where left out")
    arguments = parser.parse_args()
    writer: csv.DictWriter[str] | None = None
    for row in measure(arguments.variant, arguments.networks):
        if writer is None:
            writer = csv.DictWriter(sys.stdout, list(row), lineterminator="\n")
            writer.writeheader()
        writer.writerow(row)
        print(f"{row['model']:40} {row['precision']} {row['latency_ms']} ms", file=sys.stderr)


if __name__ == "__main__":
    main()
