"""What geometry says of a model: its layers, its attention and its symmetry on real samples, before and after rounding.

One walk over the samples, with every layer read out; where a target is named, a second with the layers rounded as that
target's integers round them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from math import isfinite, nan
from typing import TYPE_CHECKING, Any

import numpy as np

from passes.context import Context
from passes.dataset import Array, Dataset, Sample
from passes.onnx_level.quantizing import quantizer_model
from passes.onnx_level.switchboard import Switchboard
from passes.program import Program
from passes.recipe import recipe_for
from passes.running import run
from passes.torch_level.export import LOWEST_OPSET
from targets.errors import InvalidInput
from targets.target import load_target
from toolkit.cache import DiskCache, fingerprint
from toolkit.data import check_preprocess_used, first_sample, load_data
from toolkit.driver import Options, float_program
from toolkit.sources import Source, load_source

if TYPE_CHECKING:
    from torch import Tensor

    from targets.stack import Stack
    from toolkit.geometry.analysis.attention_reports import HeadReport
    from toolkit.geometry.analysis.findings import Finding
    from toolkit.geometry.analysis.image_layers import ImageLayer
    from toolkit.geometry.analysis.quantization_stability import RangeUse
    from toolkit.geometry.analysis.tapping import Graph

__all__ = ["SAMPLES", "Analysis", "LayerReport", "analyze_model"]

SAMPLES = 16
"""Samples that are looked at."""

_PLACES = 32  # of an image or a sequence, those whose vectors are kept from each sample
_PATH = 9  # points on the line between two samples
_ATTENTION_BYTES = 256 * 2**20  # of one attention's weights over all samples
_IMAGES_BYTES = 2**30  # of images that layers read, of one sample
_SHIFTS = (1, 2, 4)  # places by which whole images are moved

Progress = Callable[[str, float], None]


@dataclass(kw_only=True)
class LayerReport:
    """One layer. What was not asked, or cannot be, is None.

    Args:
        place: In the order of the graph; -1 for an input.
        width: Channels or features.
        dimension: Of these, how many directions the activations use: the participation ratio of their covariance.
        turning: By how much the straight line between two samples turns on its way through this layer, in radians.
        displacement: How far rounding moves the activations, in standard deviations of the layer's own.
        range_use: How the activations use the range that stores them.
        defect: The largest part of a channel's deviation that changes where the layer's images move.
        channel: The channel with that defect; `others` are the further ones beyond the limit.
    """

    name: str
    operator: str
    tensor: str
    place: int
    width: int
    dimension: float
    turning: float | None = None
    displacement: float | None = None
    range_use: RangeUse | None = None
    defect: float | None = None
    channel: int | None = None
    others: int = 0

    def to_json(self) -> dict[str, Any]:
        use = self.range_use
        return {
            "layer": self.name,
            "operator": self.operator,
            "width": self.width,
            "effective_dimension": _rounded(self.dimension),
            "total_turning_rad": _rounded(self.turning),
            "displacement_deviations": _rounded(self.displacement),
            "stored_range": [use.low, use.high] if use else None,
            "seen_range": [use.seen_low, use.seen_high] if use and use.values else None,
            "clipped_share": use.clipped_share if use else None,
            "lost_bits": _rounded(use.lost_bits) if use else None,
            "symmetry_defect": _rounded(self.defect),
            "symmetry_channel": self.channel,
        }


@dataclass(kw_only=True)
class Analysis:
    """What was found.

    Args:
        stack: Whose integers round the layers; empty where no target was named.
        heads: By attention, what its heads do.
        moved: By shift, the share of samples whose largest output stays where the whole image is moved by so many
            places down and right; empty where the model does not classify one image.
        findings: What is broken; empty for a healthy network.
        notes: What was not looked at, and why.
        before: The same of the network that this one was made of, where that was named.
    """

    model: str
    data: str
    samples: int
    stack: str
    layers: list[LayerReport]
    heads: dict[str, tuple[HeadReport, ...]] = field(default_factory=dict)
    moved: dict[int, float] = field(default_factory=dict)
    findings: list[Finding] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    before: Analysis | None = None

    def to_json(self) -> dict[str, Any]:
        """A plain document; units are in the keys."""
        return {
            "schema": "toolkit.analyze/1",
            "model": self.model,
            "data": self.data,
            "samples": self.samples,
            "stack": self.stack or None,
            "findings": [finding.to_json() for finding in self.findings],
            "layers": [layer.to_json() for layer in self.layers],
            "attention": [
                {"attention": name, "heads": [{k: _plain(v) for k, v in asdict(head).items()} for head in heads]}
                for name, heads in self.heads.items()
            ],
            "same_answer_when_moved": [{"places": by, "share": share} for by, share in self.moved.items()],
            "notes": list(self.notes),
            "before": self.before.to_json() if self.before else None,
        }


def analyze_model(
    model: Any = None,
    *,
    before: Any = None,
    target: str | None = None,
    stack: str | None = None,
    data: Any = None,
    calibration: Any = None,
    preprocess: str | None = None,
    inputs: Sequence[str] = (),
    fixed: Sequence[str] = (),
    samples: int = SAMPLES,
    trust: bool = False,
    progress: Progress = lambda step, done: None,
) -> Analysis:
    """Look at `model` on samples.

    Args:
        model: See `toolkit.sources.load_source`.
        before: The network that `model` was made of, by pruning for instance, looked at on the same samples.
        target: Device whose integers the layers are rounded to, as `toolkit compile` would.
        stack: Of that target.
        data: Samples; those that came with the model where None.
        calibration: Samples that the target's integers are found on; `data` where None.
        samples: How many are looked at.

    Raises:
        InvalidInput: there are fewer than two samples, or the model gives NaN or infinity on one of them.
    """
    from toolkit.geometry.analysis.tapping import Graph

    progress("loading the model", 0.0)
    source = load_source(model, inputs=inputs, fixed=fixed, sample=first_sample(data), trust=trust)
    calibrating, looked_at = _data(source, data, calibration, preprocess, samples)
    plain = replace(load_target("desktop_cpu").stack("onnxruntime-fp32"), opset=_opset(source.program))
    program = float_program(source, plain, Options(progress=progress))
    earlier = (
        load_source(before, inputs=inputs, fixed=fixed, sample=first_sample(data), trust=trust) if before else None
    )
    device = load_target(target).stack(stack) if target else None
    graph = Graph(quantizer_model(program))
    result = _looked_at(program, graph, looked_at, progress)
    result.stack = device.id if device else ""
    if device is not None:
        _rounded_by(result, graph, source, device, calibrating, looked_at, progress)
    _judge(result)
    if earlier is not None:
        program = float_program(earlier, plain, Options(progress=progress))
        result.before = _looked_at(program, Graph(quantizer_model(program)), looked_at, progress)
        _judge(result.before)
    progress("done", 1.0)
    return result


def _opset(program: Program) -> int:
    """The graph's own, or one in which an attention is still made of its parts."""
    return program.opset or LOWEST_OPSET


def _data(source: Source, data: Any, calibration: Any, preprocess: str | None, count: int) -> tuple[Dataset, Dataset]:
    """Samples to calibrate with, and those to look at."""
    signature = source.program.signature
    given, calibrating = (
        load_data(spec, signature, preprocess=preprocess) if spec is not None else None for spec in (data, calibration)
    )
    check_preprocess_used(preprocess, given, calibrating)
    calibrating = calibrating or given or source.data
    looked_at = given or source.validation or source.data
    if calibrating is None or looked_at is None or len(looked_at) < 2:
        raise InvalidInput("there are fewer than two samples to look at", hint="give some with --data")
    return calibrating, looked_at.take(count)


# ---- one walk


def _looked_at(program: Program, graph: Graph, data: Dataset, progress: Progress) -> Analysis:
    result = Analysis(model=program.name, data=data.name, samples=len(data), stack="", layers=[])
    result.layers = _layers(graph, data, progress)
    _turn(result.layers, graph, data, progress)
    _symmetry(result, graph, next(iter(data)), progress)
    _attention(result, graph, data, progress)
    result.moved = _moved(program, data)
    return result


def _layers(graph: Graph, data: Dataset, progress: Progress) -> list[LayerReport]:
    """Dimension of each layer, and how it uses a range of its own where the graph is quantized."""
    import torch

    from toolkit.geometry.analysis.effective_dimension import effective_dimension

    layers, ranges = graph.layers(), graph.ranges()
    rows: dict[str, list[Tensor]] = {layer.tensor: [] for layer in layers}
    kinds = {layer.tensor: layer.op_type for layer in layers}
    taps = graph.tapped([*rows, *ranges])
    for done, sample in enumerate(data, start=1):
        for group in taps.run(sample):
            for name, value in group.items():
                _finite(name, value, done - 1)
                if name in rows:
                    rows[name].append(_rows(value, kinds[name]))
                if name in ranges:
                    ranges[name].add(torch.from_numpy(value))
        progress("layers", done / len(data))
    found = []
    for layer in layers:
        vectors = torch.cat(rows[layer.tensor])
        found.append(
            LayerReport(
                name=layer.name,
                operator=layer.op_type,
                tensor=layer.tensor,
                place=graph.place(layer.tensor),
                width=vectors.shape[1],
                dimension=effective_dimension(vectors),
                range_use=ranges.pop(layer.tensor, None),
            )
        )
    return found + [_stored(graph, name, use) for name, use in ranges.items()]


def _stored(graph: Graph, tensor: str, use: RangeUse) -> LayerReport:
    """An activation that is stored in integers and is none of a layer with weights: a sum, or an input."""
    maker = graph.makers.get(tensor)
    shape = graph.shape(tensor)
    return LayerReport(
        name=(maker.name if maker else "") or tensor,
        operator=maker.op_type if maker else "input",
        tensor=tensor,
        place=graph.place(tensor),
        width=shape[1] if len(shape) > 1 else 1,
        dimension=nan,
        range_use=use,
    )


def _rows(value: Array, operator: str) -> Tensor:
    """Feature vectors of one sample: channels stand second in images, last in products and sequences."""
    import torch

    from toolkit.geometry.analysis.effective_dimension import rows_of

    wide = torch.from_numpy(np.ascontiguousarray(value[None] if value.ndim == 1 else value))
    images = "Conv" in operator or (wide.ndim > 3 and operator not in ("MatMul", "Gemm"))
    return rows_of(wide, _PLACES, channel=1 if images else -1)


def _finite(name: str, value: Array, sample: int) -> None:
    if not np.isfinite(value).all():
        raise InvalidInput(
            f"sample {sample} makes tensor {name!r} infinite or not a number",
            hint="remove that sample, or correct the model; `toolkit inspect` lists its operators",
        )


# ---- curvature


def _turn(layers: Sequence[LayerReport], graph: Graph, data: Dataset, progress: Progress) -> None:
    """How far each layer bends the line between the first two samples; only where inputs can be mixed."""
    import torch

    from toolkit.geometry.analysis.curvature import total_turning

    first, second = list(data.take(2))
    if any(np.asarray(a).dtype.kind != "f" or np.shape(a) != np.shape(second[name]) for name, a in first.items()):
        return
    layers = [layer for layer in layers if isfinite(layer.dimension)]
    path: dict[str, list[Tensor]] = {layer.tensor: [] for layer in layers}
    kinds = {layer.tensor: layer.operator for layer in layers}
    taps = graph.tapped(list(path))
    for step in range(_PATH):
        share = np.float64(step / (_PATH - 1))
        mixed = {
            name: ((1 - share) * start + share * second[name]).astype(np.asarray(start).dtype)
            for name, start in first.items()
        }
        for group in taps.run(mixed):
            for name, value in group.items():
                path[name].append(_rows(value, kinds[name]).flatten())
        progress("curvature", (step + 1) / _PATH)
    for layer in layers:
        layer.turning = float(total_turning(torch.stack(path[layer.tensor])))


# ---- symmetry


def _symmetry(result: Analysis, graph: Graph, sample: Sample, progress: Progress) -> None:
    from toolkit.geometry.analysis.findings import LIMITS
    from toolkit.geometry.analysis.image_layers import defects, image_layers

    found = list(image_layers(graph))
    if not found:
        result.notes.append("no layer works on images large enough to tell whether it treats places alike")
        return
    by_name = {layer.name: layer for layer in result.layers}
    asked = _within_memory(graph, found)
    if len(asked) < len(found):
        result.notes.append(f"only the first {len(asked)} of {len(found)} image layers were moved: the rest would take "
                            f"more than {_IMAGES_BYTES >> 20} MiB to hold")  # fmt: skip
    found = asked
    tensors = graph.tapped([name for layer in found for name in (*layer.sources, *layer.held)]).all_of(sample)
    for done, layer in enumerate(found, start=1):
        by_channel = defects(graph, layer, tensors)
        channel = int(by_channel.argmax())
        report = by_name.get(layer.name)
        if report is None:
            report = LayerReport(name=layer.name, operator=graph.makers[layer.tensor].op_type, tensor=layer.tensor,
                                 place=graph.place(layer.tensor), width=len(by_channel), dimension=nan)  # fmt: skip
            result.layers.append(report)
        report.defect, report.channel = float(by_channel[channel]), channel
        report.others = max(int((by_channel > LIMITS["symmetry"].value).sum()) - 1, 0)
        progress("symmetry", done / len(found))


def _within_memory(graph: Graph, layers: Sequence[ImageLayer]) -> list[ImageLayer]:
    """The first of the layers, whose inputs memory holds together."""
    held: dict[str, int] = {}
    found = []
    for layer in layers:
        held |= {name: graph.held_bytes(name) for name in (*layer.sources, *layer.held)}
        if sum(held.values()) > _IMAGES_BYTES:
            break
        found.append(layer)
    return found


def _moved(program: Program, data: Dataset) -> dict[int, float]:
    """By shift, the share of samples whose largest output stays where the image is moved."""
    outputs, wanted = program.signature.outputs, program.signature.inputs
    if len(wanted) != 1 or len(wanted[0].shape) != 4 or len(outputs[0].shape) != 2:
        return {}
    name, answer = wanted[0].name, outputs[0].name
    same: dict[int, list[bool]] = {by: [] for by in _SHIFTS}
    for sample in data:
        image = np.asarray(sample[name])
        still = program.run(sample)[answer].argmax(-1)
        for by, found in same.items():
            if min(image.shape[2:]) > 2 * by:
                found += (program.run({name: _pushed(image, by)})[answer].argmax(-1) == still).tolist()
    return {by: sum(found) / len(found) for by, found in same.items() if found}


def _pushed(image: Array, by: int) -> Array:
    """[N, C, H, W] moved down and right, with the first row and column drawn out over the gap."""
    return np.pad(image, ((0, 0), (0, 0), (by, 0), (by, 0)), mode="edge")[:, :, :-by, :-by].copy()


# ---- attention


def _attention(result: Analysis, graph: Graph, data: Dataset, progress: Progress) -> None:
    import torch

    from toolkit.geometry.analysis.attention_reports import head_reports

    attentions = graph.attentions()
    whole = sum(node.op_type in ("Attention", "MultiHeadAttention") for node in graph.model.graph.node)
    if whole:
        result.notes.append(
            f"{whole} attentions are single operators, whose weights cannot be read: export to opset 18"
        )
    for done, attention in enumerate(attentions, start=1):
        taps = graph.tapped([attention.scores, attention.weights])
        weights: list[Array] = []
        allowed: list[Array] = []
        for sample in data:
            tensors = taps.all_of(sample)
            if weights and (len(weights) + 1) * weights[0].nbytes > _ATTENTION_BYTES:
                break
            if weights and tensors[attention.weights].shape != weights[0].shape:
                continue  # sequences of another length
            weights.append(tensors[attention.weights])
            allowed.append(attention.allowed(tensors))
        stacked, seen = (torch.from_numpy(_in_heads(np.concatenate(parts))) for parts in (weights, allowed))
        if bool((seen.sum(-1) > 1).any()):
            result.heads[attention.name] = head_reports(stacked, seen)
        progress("attention", done / len(attentions))


def _in_heads(weights: Array) -> Array:
    """[S, h, N, M]; a tensor of rank 3 is one head."""
    return weights if weights.ndim == 4 else weights[:, None]


# ---- rounding


def _rounded_by(
    result: Analysis,
    graph: Graph,
    source: Source,
    stack: Stack,
    calibration: Dataset,
    data: Dataset,
    progress: Progress,
) -> None:
    """What the target's integers do to each layer."""
    import torch

    from toolkit.geometry.analysis.quantization_stability import RangeUse, displacement

    ctx = Context(stack=stack, data=calibration, progress=progress)
    recipe = recipe_for(stack, source.program.level)
    made = run(recipe, source.program, ctx, cache=DiskCache(), fingerprint=fingerprint())
    program = made.program.named or made.program
    board = Switchboard(program.floating, program) if program.floating is not None else None
    if board is None or not board.units:
        refused = [f"{proof.name}: {proof.reason}" for proof in made.proofs if proof.reason and not proof.changed]
        why = f" ({'; '.join(refused)})" if refused else ""
        result.notes.append(f"on {stack.id} no layer is rounded to integers{why}")
        return
    names = [unit.name for unit in board.units]
    uses = {u.name: RangeUse(*u.rounding.bounds, u.rounding.step) for u in board.units if u.rounding is not None}
    tensors = list(dict.fromkeys(board.seen(unit) for unit in board.units))
    pairs: dict[str, tuple[list[Tensor], list[Tensor]]] = {unit.name: ([], []) for unit in board.units}
    for done, sample in enumerate(data, start=1):
        truth, moved = (board.run(sample, on, tensors) for on in ((), names))
        for unit in board.units:
            seen = board.seen(unit)
            for values, kept in zip((truth[seen], moved[seen]), pairs[unit.name], strict=True):
                kept.append(_rows(values, unit.op_type))
            if unit.name in uses:
                uses[unit.name].add(torch.from_numpy(truth[seen]))
        progress("rounding", done / len(data))
    known = {layer.tensor: layer for layer in result.layers} | {layer.name: layer for layer in result.layers}
    for unit in board.units:
        before, after = (torch.cat(rows) for rows in pairs[unit.name])
        layer = known.get(unit.tensor) or known.get(unit.name)
        if layer is None:
            layer = LayerReport(name=unit.name, operator=unit.op_type, tensor=unit.tensor,
                                place=graph.place(unit.tensor), width=before.shape[1], dimension=nan)  # fmt: skip
            result.layers.append(layer)
        layer.displacement, layer.range_use = displacement(before, after), uses.get(unit.name)


# ---- the verdict


def _judge(result: Analysis) -> None:
    """Put the layers in the order in which they run, and say what is broken."""
    from toolkit.geometry.analysis import findings

    result.layers.sort(key=lambda layer: layer.place)
    found: list[Finding] = []
    for layer in result.layers:
        if isfinite(layer.dimension):
            found += findings.about_dimension(layer.name, layer.dimension)
        if layer.range_use is not None:
            found += findings.about_range(layer.name, layer.range_use)
        if layer.displacement is not None:
            found += findings.about_displacement(layer.name, layer.displacement)
        if layer.defect is not None and layer.channel is not None:
            found += findings.about_symmetry(layer.name, layer.channel, layer.defect, layer.others)
    for name, heads in result.heads.items():
        found += [finding for head in heads for finding in findings.about_attention(name, head)]
    result.findings = found


def _rounded(value: float | None) -> float | None:
    """Four significant digits; None for what was not measured, and for the infinite."""
    return None if value is None or not isfinite(value) else float(f"{value:.4g}")


def _plain(value: Any) -> Any:
    return _rounded(value) if isinstance(value, float) else value
