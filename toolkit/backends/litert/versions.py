"""Which version of an operator a file asks for: the oldest whose kernels take these types, shapes and options.

Source: tensorflow/compiler/mlir/lite/tools/versioning/op_version.cc, the cases that this writer can reach.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from toolkit.backends.litert.tensors import Operator

__all__ = ["version_of"]

_SECOND_FOR_INT8 = frozenset(
    "ABS ADD ARG_MAX ARG_MIN AVERAGE_POOL_2D BATCH_MATMUL CONCATENATION DEPTH_TO_SPACE EQUAL EXP GELU GREATER "
    "GREATER_EQUAL L2_NORMALIZATION LESS LESS_EQUAL LOG LOGISTIC LOG_SOFTMAX MEAN MIRROR_PAD REDUCE_PROD RELU RELU6 "
    "REDUCE_MAX REDUCE_MIN RSQRT SOFTMAX SPACE_TO_DEPTH SPLIT_V SQRT SQUARED_DIFFERENCE SUM TANH MAX_POOL_2D".split()
)


def version_of(operator: Operator) -> int:
    """The version that `operator` needs."""
    if rule := _RULES.get(operator.code):
        return rule(operator)
    return 2 if operator.code in _SECOND_FOR_INT8 and _type(operator) == "int8" else 1


def _type(operator: Operator, position: int = 0) -> str:
    tensor = operator.inputs[position]
    return tensor.dtype if tensor is not None else ""


def _rank(operator: Operator) -> int:
    return max(len(tensor.shape) for tensor in operator.inputs if tensor is not None)


def _broadcasts(operator: Operator) -> bool:
    shapes = [tensor.shape for tensor in operator.inputs if tensor is not None]
    return shapes[0] != shapes[1]


def _conv(operator: Operator) -> int:
    x, filters = operator.inputs[:2]
    if x is not None and filters is not None and x.shape[-1] != filters.shape[-1]:
        return 6  # in groups
    return 3 if _type(operator) == "int8" else 1


def _depthwise(operator: Operator) -> int:
    if _type(operator) == "int8":
        return 3
    return 2 if max(operator.options["dilation_w_factor"], operator.options["dilation_h_factor"]) > 1 else 1


def _fully_connected(operator: Operator) -> int:
    if len(operator.inputs) == 2:
        return 6
    if operator.options.get("keep_num_dims"):
        return 5
    return 4 if _type(operator) == "int8" else 1


def _transpose_conv(operator: Operator) -> int:
    if operator.options.get("fused_activation_function"):
        return 4
    if len(operator.inputs) == 4:
        return 3
    return 2 if _type(operator, 1) == "int8" else 1


def _mul(operator: Operator) -> int:
    first, second = (t.quantization for t in operator.inputs[:2] if t is not None)
    result = operator.outputs[0].quantization
    if first is not None and second is not None and result is not None:
        return 3 if first.step * second.step / result.step >= 1 else 2
    return {"int64": 5}.get(_type(operator), 1)


def _cast(operator: Operator) -> int:
    return 3 if "int8" in (_type(operator), operator.outputs[0].dtype) else 1


def _gather(operator: Operator) -> int:
    return {"bool": 3, "int8": 2}.get(_type(operator), 1)


def _add(operator: Operator) -> int:
    return {"int8": 2, "int64": 4}.get(_type(operator), 1)


def _sub(operator: Operator) -> int:
    if _type(operator) == "int64":
        return 4
    if _broadcasts(operator) and _rank(operator) > 4:
        return 3
    return 2 if _type(operator) == "int8" else 1


def _div(operator: Operator) -> int:
    return 2 if _broadcasts(operator) and _rank(operator) > 4 else 1


def _extreme(operator: Operator) -> int:
    if _broadcasts(operator) and _rank(operator) > 4:
        return 3
    return 2 if _type(operator) == "int8" else 1


def _transpose(operator: Operator) -> int:
    if (rank := _rank(operator)) > 4:
        return {5: 4, 6: 6}.get(rank, 8)
    return {"bool": 3, "int8": 2}.get(_type(operator), 1)


def _slice(operator: Operator) -> int:
    return 5 if _rank(operator) > 4 else 2 if _type(operator) == "int8" else 1


def _strided_slice(operator: Operator) -> int:
    return 4 if _rank(operator) > 4 else {"bool": 3, "int8": 2}.get(_type(operator), 1)


def _pad(operator: Operator) -> int:
    return 4 if _rank(operator) > 4 else 2 if _type(operator) == "int8" else 1


def _split(operator: Operator) -> int:
    return {"int8": 2, "int32": 3}.get(_type(operator, 1), 1)


def _bilinear(operator: Operator) -> int:
    return 3 if operator.options.get("half_pixel_centers") else 2 if _type(operator) == "int8" else 1


def _nearest(operator: Operator) -> int:
    if operator.options.get("half_pixel_centers") or operator.options.get("align_corners"):
        return 3
    return 2 if _type(operator) == "int8" else 1


def _dequantize(operator: Operator) -> int:
    source = operator.inputs[0]
    if source is None or source.quantization is None:
        return 3  # of float16
    return 2 if source.quantization.whole else 5


def _quantize(operator: Operator) -> int:
    return 2 if _type(operator) == "int8" else 1


def _broadcast_to(operator: Operator) -> int:
    return 3 if _type(operator) == "int8" else 2


_RULES: Mapping[str, Callable[[Operator], int]] = {
    "ADD": _add,
    "BROADCAST_TO": _broadcast_to,
    "CAST": _cast,
    "CONV_2D": _conv,
    "DEPTHWISE_CONV_2D": _depthwise,
    "DEQUANTIZE": _dequantize,
    "DIV": _div,
    "FULLY_CONNECTED": _fully_connected,
    "GATHER": _gather,
    "MAXIMUM": _extreme,
    "MINIMUM": _extreme,
    "MUL": _mul,
    "PAD": _pad,
    "PADV2": _pad,
    "QUANTIZE": _quantize,
    "RESIZE_BILINEAR": _bilinear,
    "RESIZE_NEAREST_NEIGHBOR": _nearest,
    "SLICE": _slice,
    "SPLIT": _split,
    "STRIDED_SLICE": _strided_slice,
    "SUB": _sub,
    "TRANSPOSE": _transpose,
    "TRANSPOSE_CONV": _transpose_conv,
}
