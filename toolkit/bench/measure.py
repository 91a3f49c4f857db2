"""Measure published networks through onnxruntime on this machine, as rows that a stack is fitted on.

    python -m toolkit.bench.measure --variant "Xeon with AMX, 1 core of 2" [NETWORK ...] > rows.csv

The rows belong in `toolkit/bench/rows/onnxruntime.csv`.

One thread, batch 1, random weights: times do not depend on their values, but denormal numbers would slow them down, so
weights are drawn like a fresh network's. The median of the fastest half of the runs is taken, and of several rounds
through all networks the fastest: what else runs on the host slows a machine down for minutes.
"""

from __future__ import annotations

import argparse
import csv
import sys
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from passes.dataset import Sample
from passes.onnxruntime import import_onnxruntime
from passes.program import Program
from targets.target import load_target
from toolkit.bench.networks import build
from toolkit.calibration.measuring import lowered, sample_of
from toolkit.calibration.timing import latency_s
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
    ("mlperf-tiny:resnet8", "1x3x32x32"),
    ("mlperf-tiny:ds_cnn", "1x1x49x10"),
    ("mlperf-tiny:mobilenet_v1", "1x3x96x96"),
    ("mlperf-tiny:autoencoder", "1x640"),
    ("torchvision:resnet18", "1x3x32x32"),
    ("torchvision:mobilenet_v2", "1x3x64x64"),
    ("torchvision:mobilenet_v2", "1x3x32x32"),
    ("torchvision:squeezenet1_0", "1x3x64x64"),
    ("torchvision:mobilenet_v3_small", "1x3x64x64"),
    ("ncnn:shufflenet_v2", "1x3x64x64"),
    ("timm:mobilenetv1_025", "1x3x64x64"),
    ("timm:vit_tiny_patch16_224", "1x3x64x64"),
)


_ROUNDS = 6
_SECONDS = 1.0


def measure(variant: str, only: Collection[str] = ()) -> Iterator[dict[str, Any]]:
    """A row for each network and precision; of all networks where `only` names none."""
    version = ".".join(import_onnxruntime().__version__.split(".")[:2])
    wanted = [(name, shape) for name, shape in NETWORKS if not only or name in only]
    with TemporaryDirectory() as folder:
        forms = [form for name, shape in wanted for form in _forms(name, shape, Path(folder))]
        rounds = [[form.latency_s() for form in forms] for _ in range(_ROUNDS)]
    for form, seconds in zip(forms, zip(*rounds, strict=True), strict=True):
        yield {
            "id": f"own-{form.precision}-{form.name}-{form.shape}",
            "device": "Desktop CPU",
            "device_variant": variant,
            "runtime": f"onnxruntime {version}",
            "precision": form.precision,
            "threads": "1",
            "batch": "1",
            "model": form.name,
            "input_shape": form.shape,
            "latency_ms": f"{min(seconds) * 1e3:.4f}",
            "fps": "",
            "source_title": "measured by toolkit.bench.measure",
            "source_ref": f"random weights; median of the fastest half of the runs, fastest of {_ROUNDS} rounds",
            "date": date.today().isoformat(),
            "notes": "",
        }


@dataclass(frozen=True)
class _Form:
    """A network as a stack runs it, kept in a file: all of them do not fit in memory."""

    name: str
    shape: str
    precision: str
    file: Path
    sample: Sample

    def latency_s(self) -> float:
        return latency_s(self.file.read_bytes(), self.sample, seconds=_SECONDS)


def _forms(name: str, shape: str, folder: Path) -> Iterator[_Form]:
    program = _program(name, shape)
    for precision in ("fp32", "int8"):
        made = lowered(program, load_target("desktop_cpu").stack(f"onnxruntime-{precision}"))
        file = folder / f"{name}-{shape}-{precision}.onnx"
        file.write_bytes(made.onnx_bytes)
        yield _Form(name, shape, precision, file, sample_of(made))


def _program(name: str, shape: str) -> Program:
    import torch

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        built = build(name, shape)
    if built is None:
        raise LookupError(f"{name} is not defined in toolkit.bench.networks")
    network, size = built
    return load_source((network, (torch.zeros(1, *size[1:]),))).program


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
