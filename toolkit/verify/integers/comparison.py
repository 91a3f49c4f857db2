"""Which answers of a bundle are others on a device than here, and where they part."""

from __future__ import annotations

import platform
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
import onnx_ir

from passes.dataset import Array, Dataset, Sample
from passes.program import onnx_program
from targets.errors import InvalidInput
from targets.target import load_target
from toolkit.backends.litert.lowering import Edges
from toolkit.backends.litert.tflite import tflite_bytes
from toolkit.bundle.bundle import Bundle
from toolkit.bundle.layout import GRAPH
from toolkit.verify.integers.calls import Run
from toolkit.verify.integers.interpreting import Device, interpreter
from toolkit.verify.integers.lite_device import LiteDevice
from toolkit.verify.integers.network import device_graph, watched
from toolkit.verify.integers.numerics import NUMERICS, Numerics

__all__ = ["SCHEMA", "Comparison", "Flip", "Layer", "compare_numerics", "flips_of"]

SCHEMA = "toolkit.numerics/1"

_SHARE = 0.01
"""Answers that are no classes count as flipped where they moved by more than this share of the largest of them."""


@dataclass(frozen=True, kw_only=True)
class Flip:
    """A sample whose answer is another one on the device.

    `here` and `device` are the class where an only output is a row of scores, (batch, two or more); else the two
    numbers that are furthest apart, where that is more than 1 % of the largest of the output.
    """

    sample: int
    output: str
    here: float
    device: float

    def to_json(self) -> dict[str, Any]:
        return {"sample": self.sample, "output": self.output, "here": self.here, "device": self.device}


@dataclass(frozen=True, kw_only=True)
class Layer:
    """8-bit integers of one operator over all samples: how many differ, and by how much at most."""

    name: str
    values: int
    differing: int
    largest: int

    def to_json(self) -> dict[str, Any]:
        return {"name": self.name, "values": self.values, "differing": self.differing, "largest": self.largest}


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """A bundle's answers under a device's numerics, beside those that it gives here.

    Args:
        layers: In the order in which they run; both sides start from the same inputs, so a difference is handed on.
            They are the device's, computed by this machine's kernels; the bundle itself may run others here.
        elsewhere: Operators without integer arithmetic of ours, and why: onnxruntime computed them on this machine, and
            the device may differ there.
    """

    numerics: Numerics
    samples: int
    flips: tuple[Flip, ...]
    layers: tuple[Layer, ...]
    elsewhere: Mapping[str, str]

    @property
    def first(self) -> Layer | None:
        """The first layer in which the device parts from this machine."""
        return next((layer for layer in self.layers if layer.differing), None)

    @property
    def agrees(self) -> bool:
        return not self.flips

    def to_json(self) -> dict[str, Any]:
        return {
            "schema": SCHEMA,
            "numerics": self.numerics.name,
            "stands_for": self.numerics.title,
            "checked_against": self.numerics.checked,
            "passed": self.agrees,
            "samples": self.samples,
            "flips": [flip.to_json() for flip in self.flips],
            "first_differing_layer": self.first.name if self.first else None,
            "layers": [layer.to_json() for layer in self.layers],
            "not_bit_true": [{"operator": name, "why": why} for name, why in self.elsewhere.items()],
        }


def compare_numerics(
    bundle: Bundle,
    numerics: Numerics,
    samples: Collection[Sample] | Dataset | None = None,
    progress: Callable[[str, float], None] | None = None,
) -> Comparison:
    """Run `samples` as the device would and as this machine does.

    Args:
        bundle: An opened bundle.
        numerics: One of `NUMERICS`.
        samples: Inputs by name; the golden inputs if left out.
        progress: Called after each sample.

    Raises:
        InvalidInput: the bundle computes nothing in integers, or holds no graph.
    """
    given = [golden.inputs for golden in bundle.golden] if samples is None else samples
    device, host = _both(bundle, numerics)
    flips: list[Flip] = []
    layers: dict[str, Layer] = {}
    elsewhere: dict[str, str] = {}
    count = 0
    for sample in given:
        run = device(sample)
        flips += flips_of(count, bundle(sample), run.outputs)
        _count(layers, run, host(sample))
        elsewhere.update(run.elsewhere)
        count += 1
        if progress is not None:
            progress(f"as {numerics.name}", count / len(given))
    return Comparison(
        numerics=numerics, samples=count, flips=tuple(flips), layers=tuple(layers.values()), elsewhere=elsewhere
    )  # fmt: skip


def _both(bundle: Bundle, numerics: Numerics) -> tuple[Device, Callable[[Sample], Mapping[str, Array]]]:
    """The device, and the integers of the same operators as this machine computes them.

    Of a .tflite XNNPACK computes them here, and shows none that lie between its operators: ours stand for it.
    """
    model = _graph(bundle)
    graph = device_graph(model, numerics)
    if numerics.runtime == "onnxruntime":
        return interpreter(model, numerics), watched(graph)
    own = NUMERICS["xnnpack-x86" if platform.machine() == "x86_64" else "xnnpack"]
    device, here = (_lite(bundle, model, n) for n in (numerics, own))
    return device, lambda sample: here(sample).integers


def _lite(bundle: Bundle, model: bytes, numerics: Numerics) -> LiteDevice:
    """The bundle's network as a .tflite: the file in it, where there is one, else what would be written.

    Raises:
        InvalidInput: the file is not what this version writes from the graph beside it.
    """
    signature, name = bundle.signature, str(bundle.manifest["name"])
    program = onnx_program(name, onnx_ir.from_proto(onnx.load_from_string(model)), signature, bundle.golden[0].inputs)
    target, _, stack = str(bundle.manifest["stack"]).partition("/")
    place = load_target(target).stack(stack)
    file = bundle.path / "model.tflite"
    if not file.is_file():
        return LiteDevice(program, place, Edges(), numerics)
    stored = file.read_bytes()
    for edges in (Edges(), Edges(integers=True, channels_last=True)):
        if tflite_bytes(program, place, edges) == stored:
            return LiteDevice(program, place, edges, numerics)
    raise InvalidInput(f"{file} is not what this version writes", hint="compile again with this version")


def _graph(bundle: Bundle) -> bytes:
    file = bundle.path / GRAPH
    if not file.is_file():
        raise InvalidInput(f"{bundle.path} holds no {GRAPH}", hint="compile again with this version")
    return file.read_bytes()


def _count(layers: dict[str, Layer], run: Run, here: Mapping[str, Array]) -> None:
    for name, values in run.integers.items():
        apart = np.abs(values.astype(np.int32) - here[name].astype(np.int32))
        old = layers.get(name, Layer(name=name, values=0, differing=0, largest=0))
        layers[name] = Layer(
            name=name,
            values=old.values + apart.size,
            differing=old.differing + int(np.count_nonzero(apart)),
            largest=max(old.largest, int(apart.max(initial=0))),
        )


def flips_of(sample: int, here: Mapping[str, Array], device: Mapping[str, Array]) -> list[Flip]:
    """The outputs of one sample whose answer is another one; see `Flip`."""
    found = []
    for name, mine in here.items():
        theirs = device[name]
        if len(here) == 1 and mine.ndim == 2 and mine.shape[-1] > 1:
            rows = np.flatnonzero(mine.argmax(-1) != theirs.argmax(-1))
            found += [
                Flip(sample=sample, output=name, here=int(mine[r].argmax()), device=int(theirs[r].argmax()))
                for r in rows
            ]
        elif mine.size:
            wide, there = mine.astype(np.float64).reshape(-1), theirs.astype(np.float64).reshape(-1)
            worst = int(np.abs(wide - there).argmax())
            if abs(wide[worst] - there[worst]) > _SHARE * np.abs(wide).max():
                found.append(Flip(sample=sample, output=name, here=float(wide[worst]), device=float(there[worst])))
    return found
