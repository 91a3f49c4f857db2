"""TensorFlow Lite's file format as data: numbers of operators and types, and the tables that are written.

Copied from the schema that LiteRT ships (`ai_edge_litert/schema_py_generated.py`), against which a test holds it.
Fields that this writer never sets are left out.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

__all__ = ["ACTIVATIONS", "FILE_IDENTIFIER", "OPERATORS", "OPTIONS", "PADDINGS", "TABLES", "TYPES", "Field"]

FILE_IDENTIFIER = b"TFL3"


class Field(NamedTuple):
    """`kind` is a scalar type, `string`, `bytes`, the name of a table, or one of these in brackets for a vector."""

    slot: int
    kind: str
    default: int | float = 0


TYPES: Mapping[str, int] = {
    "float32": 0, "float16": 1, "int32": 2, "uint8": 3, "int64": 4, "bool": 6, "int16": 7, "int8": 9, "float64": 10,
}  # fmt: skip
"""Element types, by numpy's name."""

ACTIVATIONS: Mapping[str, int] = {"": 0, "RELU": 1, "RELU_N1_TO_1": 2, "RELU6": 3}
PADDINGS: Mapping[str, int] = {"SAME": 0, "VALID": 1}

_Operator = tuple[int, str]

OPERATORS: Mapping[str, _Operator] = {
    "ABS": (101, "AbsOptions"),
    "ADD": (0, "AddOptions"),
    "ARG_MAX": (56, "ArgMaxOptions"),
    "ARG_MIN": (79, "ArgMinOptions"),
    "AVERAGE_POOL_2D": (1, "Pool2DOptions"),
    "BATCH_MATMUL": (126, "BatchMatMulOptions"),
    "BROADCAST_TO": (130, "BroadcastToOptions"),
    "CAST": (53, "CastOptions"),
    "CEIL": (104, ""),
    "CONCATENATION": (2, "ConcatenationOptions"),
    "CONV_2D": (3, "Conv2DOptions"),
    "COS": (108, "CosOptions"),
    "DEPTHWISE_CONV_2D": (4, "DepthwiseConv2DOptions"),
    "DEPTH_TO_SPACE": (5, "DepthToSpaceOptions"),
    "DEQUANTIZE": (6, "DequantizeOptions"),
    "DIV": (42, "DivOptions"),
    "DYNAMIC_UPDATE_SLICE": (151, ""),
    "ELU": (111, ""),
    "EQUAL": (71, "EqualOptions"),
    "EXP": (47, "ExpOptions"),
    "FLOOR": (8, ""),
    "FULLY_CONNECTED": (9, "FullyConnectedOptions"),
    "GATHER": (36, "GatherOptions"),
    "GELU": (150, "GeluOptions"),
    "GREATER": (61, "GreaterOptions"),
    "GREATER_EQUAL": (62, "GreaterEqualOptions"),
    "HARD_SWISH": (117, "HardSwishOptions"),
    "IF": (118, "IfOptions"),
    "L2_NORMALIZATION": (11, "L2NormOptions"),
    "LEAKY_RELU": (98, "LeakyReluOptions"),
    "LESS": (58, "LessOptions"),
    "LESS_EQUAL": (63, "LessEqualOptions"),
    "LOG": (73, ""),
    "LOGICAL_AND": (86, "LogicalAndOptions"),
    "LOGICAL_NOT": (87, "LogicalNotOptions"),
    "LOGICAL_OR": (84, "LogicalOrOptions"),
    "LOGISTIC": (14, ""),
    "LOG_SOFTMAX": (50, "LogSoftmaxOptions"),
    "MAXIMUM": (55, "MaximumMinimumOptions"),
    "MAX_POOL_2D": (17, "Pool2DOptions"),
    "MEAN": (40, "ReducerOptions"),
    "MINIMUM": (57, "MaximumMinimumOptions"),
    "MIRROR_PAD": (100, "MirrorPadOptions"),
    "MUL": (18, "MulOptions"),
    "NEG": (59, "NegOptions"),
    "PAD": (34, "PadOptions"),
    "PADV2": (60, "PadV2Options"),
    "POW": (78, "PowOptions"),
    "PRELU": (54, ""),
    "QUANTIZE": (114, "QuantizeOptions"),
    "REDUCE_MAX": (82, "ReducerOptions"),
    "REDUCE_MIN": (89, "ReducerOptions"),
    "REDUCE_PROD": (81, "ReducerOptions"),
    "RELU": (19, ""),
    "RELU6": (21, ""),
    "RELU_N1_TO_1": (20, ""),
    "RESHAPE": (22, "ReshapeOptions"),
    "RESIZE_BILINEAR": (23, "ResizeBilinearOptions"),
    "RESIZE_NEAREST_NEIGHBOR": (97, "ResizeNearestNeighborOptions"),
    "ROUND": (116, ""),
    "RSQRT": (76, ""),
    "SELECT_V2": (123, "SelectV2Options"),
    "SIN": (66, ""),
    "SLICE": (65, "SliceOptions"),
    "SOFTMAX": (25, "SoftmaxOptions"),
    "SPACE_TO_DEPTH": (26, "SpaceToDepthOptions"),
    "SPLIT": (49, "SplitOptions"),
    "SPLIT_V": (102, "SplitVOptions"),
    "SQRT": (75, ""),
    "SQUARED_DIFFERENCE": (99, "SquaredDifferenceOptions"),
    "STRIDED_SLICE": (45, "StridedSliceOptions"),
    "SUB": (41, "SubOptions"),
    "SUM": (74, "ReducerOptions"),
    "TANH": (28, ""),
    "TILE": (69, "TileOptions"),
    "TRANSPOSE": (39, "TransposeOptions"),
    "TRANSPOSE_CONV": (67, "TransposeConvOptions"),
    "WHILE": (119, "WhileOptions"),
}
"""Number of each operator that is written, and the table that holds its options."""

OPTIONS: Mapping[str, int] = {
    "Conv2DOptions": 1, "DepthwiseConv2DOptions": 2, "Pool2DOptions": 5, "FullyConnectedOptions": 8,
    "SoftmaxOptions": 9, "ConcatenationOptions": 10, "AddOptions": 11, "L2NormOptions": 12,
    "ResizeBilinearOptions": 15, "ReshapeOptions": 17, "SpaceToDepthOptions": 19, "MulOptions": 21, "PadOptions": 22,
    "GatherOptions": 23, "TransposeOptions": 26, "ReducerOptions": 27, "SubOptions": 28, "DivOptions": 29,
    "StridedSliceOptions": 32, "ExpOptions": 33, "SplitOptions": 35, "LogSoftmaxOptions": 36, "CastOptions": 37,
    "DequantizeOptions": 38, "MaximumMinimumOptions": 39, "ArgMaxOptions": 40, "LessOptions": 41, "NegOptions": 42,
    "PadV2Options": 43, "GreaterOptions": 44, "GreaterEqualOptions": 45, "LessEqualOptions": 46, "SliceOptions": 48,
    "TransposeConvOptions": 49, "TileOptions": 51, "EqualOptions": 53, "PowOptions": 56, "ArgMinOptions": 57,
    "LogicalOrOptions": 60, "LogicalAndOptions": 62, "LogicalNotOptions": 63, "ResizeNearestNeighborOptions": 74,
    "LeakyReluOptions": 75, "SquaredDifferenceOptions": 76, "MirrorPadOptions": 77, "AbsOptions": 78,
    "SplitVOptions": 79, "CosOptions": 84, "QuantizeOptions": 89, "HardSwishOptions": 91, "IfOptions": 92,
    "WhileOptions": 93, "DepthToSpaceOptions": 94,
    "SelectV2Options": 98, "BatchMatMulOptions": 101, "BroadcastToOptions": 104, "GeluOptions": 116,
}  # fmt: skip
"""Number of each table in the union of options."""

TABLES: Mapping[str, Mapping[str, Field]] = {
    # ---- the file
    "Model": {
        "version": Field(0, "uint32"),
        "operator_codes": Field(1, "[OperatorCode]"),
        "subgraphs": Field(2, "[SubGraph]"),
        "description": Field(3, "string"),
        "buffers": Field(4, "[Buffer]"),
        "metadata": Field(6, "[Metadata]"),
        "signature_defs": Field(7, "[SignatureDef]"),
    },
    "OperatorCode": {
        "deprecated_builtin_code": Field(0, "int8"),
        "version": Field(2, "int32", 1),
        "builtin_code": Field(3, "int32"),
    },
    "SubGraph": {
        "tensors": Field(0, "[Tensor]"),
        "inputs": Field(1, "[int32]"),
        "outputs": Field(2, "[int32]"),
        "operators": Field(3, "[Operator]"),
        "name": Field(4, "string"),
    },
    "Tensor": {
        "shape": Field(0, "[int32]"),
        "type": Field(1, "int8"),
        "buffer": Field(2, "uint32"),
        "name": Field(3, "string"),
        "quantization": Field(4, "QuantizationParameters"),
        "has_rank": Field(8, "bool"),
    },
    "QuantizationParameters": {
        "scale": Field(2, "[float32]"),
        "zero_point": Field(3, "[int64]"),
        "quantized_dimension": Field(6, "int32"),
    },
    "Operator": {
        "opcode_index": Field(0, "uint32"),
        "inputs": Field(1, "[int32]"),
        "outputs": Field(2, "[int32]"),
        "builtin_options_type": Field(3, "uint8"),
        "builtin_options": Field(4, "options"),
    },
    "Buffer": {"data": Field(0, "bytes")},
    "Metadata": {"name": Field(0, "string"), "buffer": Field(1, "uint32")},
    "SignatureDef": {
        "inputs": Field(0, "[TensorMap]"),
        "outputs": Field(1, "[TensorMap]"),
        "signature_key": Field(2, "string"),
        "subgraph_index": Field(4, "uint32"),
    },
    "TensorMap": {"name": Field(0, "string"), "tensor_index": Field(1, "uint32")},
    # ---- options of operators
    "AddOptions": {"fused_activation_function": Field(0, "int8")},
    "ArgMaxOptions": {"output_type": Field(0, "int8")},
    "ArgMinOptions": {"output_type": Field(0, "int8")},
    "BatchMatMulOptions": {"adj_x": Field(0, "bool"), "adj_y": Field(1, "bool")},
    "CastOptions": {"in_data_type": Field(0, "int8"), "out_data_type": Field(1, "int8")},
    "ConcatenationOptions": {"axis": Field(0, "int32")},
    "Conv2DOptions": {
        "padding": Field(0, "int8"),
        "stride_w": Field(1, "int32"),
        "stride_h": Field(2, "int32"),
        "fused_activation_function": Field(3, "int8"),
        "dilation_w_factor": Field(4, "int32", 1),
        "dilation_h_factor": Field(5, "int32", 1),
    },
    "DepthToSpaceOptions": {"block_size": Field(0, "int32")},
    "DepthwiseConv2DOptions": {
        "padding": Field(0, "int8"),
        "stride_w": Field(1, "int32"),
        "stride_h": Field(2, "int32"),
        "depth_multiplier": Field(3, "int32"),
        "fused_activation_function": Field(4, "int8"),
        "dilation_w_factor": Field(5, "int32", 1),
        "dilation_h_factor": Field(6, "int32", 1),
    },
    "DivOptions": {"fused_activation_function": Field(0, "int8")},
    "FullyConnectedOptions": {"fused_activation_function": Field(0, "int8"), "keep_num_dims": Field(2, "bool")},
    "GatherOptions": {"axis": Field(0, "int32")},
    "GeluOptions": {"approximate": Field(0, "bool")},
    "IfOptions": {"then_subgraph_index": Field(0, "int32"), "else_subgraph_index": Field(1, "int32")},
    "L2NormOptions": {"fused_activation_function": Field(0, "int8")},
    "LeakyReluOptions": {"alpha": Field(0, "float32")},
    "MirrorPadOptions": {"mode": Field(0, "int8")},
    "MulOptions": {"fused_activation_function": Field(0, "int8")},
    "Pool2DOptions": {
        "padding": Field(0, "int8"),
        "stride_w": Field(1, "int32"),
        "stride_h": Field(2, "int32"),
        "filter_width": Field(3, "int32"),
        "filter_height": Field(4, "int32"),
        "fused_activation_function": Field(5, "int8"),
    },
    "ReducerOptions": {"keep_dims": Field(0, "bool")},
    "ReshapeOptions": {"new_shape": Field(0, "[int32]")},
    "ResizeBilinearOptions": {"align_corners": Field(2, "bool"), "half_pixel_centers": Field(3, "bool")},
    "ResizeNearestNeighborOptions": {"align_corners": Field(0, "bool"), "half_pixel_centers": Field(1, "bool")},
    "SoftmaxOptions": {"beta": Field(0, "float32")},
    "SpaceToDepthOptions": {"block_size": Field(0, "int32")},
    "SplitOptions": {"num_splits": Field(0, "int32")},
    "SplitVOptions": {"num_splits": Field(0, "int32")},
    "StridedSliceOptions": {"begin_mask": Field(0, "int32"), "end_mask": Field(1, "int32")},
    "SubOptions": {"fused_activation_function": Field(0, "int8")},
    "TransposeConvOptions": {
        "padding": Field(0, "int8"),
        "stride_w": Field(1, "int32"),
        "stride_h": Field(2, "int32"),
        "fused_activation_function": Field(3, "int8"),
    },
    "WhileOptions": {"cond_subgraph_index": Field(0, "int32"), "body_subgraph_index": Field(1, "int32")},
}
"""Tables by name; one of options that is not here has no field that is set."""
