"""The networks whose memory is measured, with random weights, as files that onnxruntime reads."""

from __future__ import annotations

from collections.abc import Mapping
from math import prod, sqrt
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from toolkit.bench.graphs import graph_of
from toolkit.rng import generator

if TYPE_CHECKING:
    import onnx_ir as ir

__all__ = ["HELD_OUT", "INTEGER_NETWORKS", "NETWORKS", "optimized", "quantized", "saved", "with_random_weights"]

NETWORKS = (
    ("mobilenet_v1_1.0", "1x3x224x224"),
    ("torchvision:mobilenet_v2", "1x3x224x224"),
    ("torchvision:mobilenet_v3_large", "1x3x224x224"),
    ("torchvision:resnet18", "1x3x224x224"),
    ("torchvision:resnet50", "1x3x224x224"),
    ("torchvision:squeezenet1_0", "1x3x224x224"),
    ("torchvision:densenet121", "1x3x224x224"),
    ("torchvision:googlenet", "1x3x224x224"),
    ("mlperf:efficientnet-lite0-quantized", "1x224x224x3"),
    ("ncnn:shufflenet_v2", "1x3x224x224"),
    ("ncnn:yolo-fastest-1.1", "1x3x320x320"),
    ("coral:Unet Mv2", "1x3x256x256"),
    ("timm:vit_tiny_patch16_224", "1x3x224x224"),
    ("timm:swin_tiny_patch4_window7_224", "1x3x224x224"),
)
HELD_OUT = (
    ("torchvision:vgg11", "1x3x224x224"),
    ("torchvision:regnet_y_400mf", "1x3x224x224"),
    ("torchvision:inception_v3", "1x3x299x299"),
    ("timm:ghostnet_100", "1x3x224x224"),
    ("timm:mixer_b16_224", "1x3x224x224"),
    ("timm:cspdarknet53", "1x3x256x256"),
    ("timm:lcnet_100", "1x3x224x224"),
    ("ncnn:blazeface", "1x3x128x128"),
    ("ncnn:mobilenet_ssd", "1x3x300x300"),
)
"""Networks on which no rule was found and no coefficient fitted; the interval's lower end is theirs."""

INTEGER_NETWORKS = frozenset(
    {"mobilenet_v1_1.0", "torchvision:mobilenet_v2", "torchvision:resnet50", "torchvision:squeezenet1_0"}
)
"""Measured in int8 too, quantized by onnxruntime."""

_SMALLEST = 8  # elements; shorter constants say scales and shapes


def with_random_weights(model: ir.Model) -> ir.Model:
    """`model` with weights in place of those that were not stored: their values decide no size."""
    import onnx_ir as ir

    rng = generator(0, "memory")
    for value in model.graph.initializers.values():
        stored = value.const_value
        size = tuple(stored.shape.numpy()) if stored is not None else ()
        if stored is None or prod(size) <= _SMALLEST:
            continue
        if stored.dtype.is_floating_point():
            drawn = rng.standard_normal(size) / sqrt(prod(size[1:]) or 1) if len(size) > 1 else np.ones(size)
        elif isinstance(stored, ir.ExternalTensor):
            drawn = np.zeros(size)  # positions in a table
        else:
            continue
        value.const_value = ir.tensor(drawn.astype(stored.dtype.numpy()), name=value.name)
    return model


def saved(network: str, shape: str, folder: Path) -> Path:
    import onnx_ir as ir

    graph = graph_of(network, shape)
    if graph is None:
        raise LookupError(f"{network} is not defined in toolkit.bench.networks")
    path = folder / "model.onnx"
    ir.save(with_random_weights(graph.clone()), path)
    return path


def quantized(path: Path) -> Path:
    """The network in QDQ form with two random images, uint8 activations and a scale for each channel."""
    from passes.quiet import quiet_libraries

    basic, result = optimized(path), path.with_name("int8.onnx")
    from onnxruntime import quantization  # behind the door that `optimized` went through

    images = iter([generator(i, "memory").standard_normal(_input_shape(path)).astype(np.float32) for i in range(2)])
    name = _input_name(path)

    class Reader(quantization.CalibrationDataReader):  # type: ignore[misc]
        def get_next(self) -> Mapping[str, Any] | None:
            image = next(images, None)
            return None if image is None else {name: image}

    with quiet_libraries():
        quantization.quantize_static(
            basic, result, Reader(), per_channel=True, activation_type=quantization.QuantType.QUInt8
        )
    return result


def optimized(path: Path) -> Path:
    """What onnxruntime makes of a file without knowing the machine, beside it: constants and batch norms folded."""
    from passes.onnxruntime import import_onnxruntime

    ort, result = import_onnxruntime(), path.with_name("basic.onnx")
    options = ort.SessionOptions()
    options.log_severity_level = 3
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_BASIC
    options.optimized_model_filepath = str(result)
    ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    return result


def _input_name(path: Path) -> str:
    import onnx_ir as ir

    return str(ir.load(path).graph.inputs[0].name)


def _input_shape(path: Path) -> tuple[int, ...]:
    import onnx_ir as ir

    shape = ir.load(path).graph.inputs[0].shape
    assert shape is not None
    return tuple(int(d) for d in shape.numpy())
