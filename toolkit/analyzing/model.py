"""One walk over the samples, with every layer read out; where a target is named, a second with the layers rounded."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from math import isfinite
from typing import TYPE_CHECKING, Any

from passes.dataset import Dataset
from passes.onnx_level.quantizing import quantizer_model
from passes.program import Program
from passes.torch_level.export import LOWEST_OPSET
from targets.errors import InvalidInput
from targets.target import load_target
from toolkit.analyzing.activations import add_turning, layer_reports
from toolkit.analyzing.analysis import Analysis, Progress
from toolkit.analyzing.attention import add_attention
from toolkit.analyzing.naming import call_by_module
from toolkit.analyzing.rounding import add_rounding
from toolkit.analyzing.symmetry import add_symmetry, same_answers
from toolkit.data import check_preprocess_used, first_sample, load_data
from toolkit.driver import Options, float_program
from toolkit.sources import Source, load_source

if TYPE_CHECKING:
    from toolkit.geometry.analysis.findings import Finding
    from toolkit.geometry.analysis.tapping import Graph

__all__ = ["SAMPLES", "analyze_model"]

SAMPLES = 16
"""Samples that are looked at."""


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
        add_rounding(result, graph, source, device, calibrating, looked_at, progress)
    _judge(result, graph)
    if earlier is not None:
        program = float_program(earlier, plain, Options(progress=progress))
        graph = Graph(quantizer_model(program))
        result.before = _looked_at(program, graph, looked_at, progress)
        _judge(result.before, graph)
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


def _looked_at(program: Program, graph: Graph, data: Dataset, progress: Progress) -> Analysis:
    result = Analysis(model=program.name, data=data.name, samples=len(data), stack="", layers=[])
    result.layers = layer_reports(graph, data, progress)
    add_turning(result.layers, graph, data, progress)
    add_symmetry(result, graph, next(iter(data)), progress)
    add_attention(result, graph, data, progress)
    result.moved = same_answers(program, data)
    return result


def _judge(result: Analysis, graph: Graph) -> None:
    """Put the layers in the order in which they run, call them as the user does, and say what is broken."""
    from toolkit.geometry.analysis import findings

    call_by_module(result, graph)
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
