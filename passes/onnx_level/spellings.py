"""Other ways of writing an operator, for accelerators that lack it or runtimes that compute it slowly.

Each says how near it comes: `exact` is the same to rounding, `approximate` was made to be used in place of the other,
and `retrained` computes something else, to which the weights must be tuned.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass
from math import pi, sqrt
from typing import TYPE_CHECKING

import numpy as np

from passes.contract import Kind
from passes.onnx_level.drafting import Draft, store_once
from passes.onnx_level.matching import made_by, matchable, number, rank, size, stands_alone
from passes.onnx_level.rewriting import rewrite
from passes.program import Program

if TYPE_CHECKING:
    import onnx_ir as ir

__all__ = ["SPELLINGS", "Spelling", "respell"]

_LEAST_OPSET = 13  # from which on bounds and axes are inputs, as they are written here

Write = Callable[[Draft, "ir.Node", "ir.Value"], bool]
"""Write what replaces a node whose first input is the value; whether it could."""


@dataclass(frozen=True, kw_only=True)
class Spelling:
    """How one kind of operator can be written otherwise.

    `replaces` is the operator as users call it, `op_type` the ONNX operator whose nodes are looked at, `says` the
    formula; `caution` is what the numbers on float samples do not show.
    """

    name: str
    replaces: str
    op_type: str
    kind: Kind
    says: str
    write: Write
    caution: str = ""


def respell(program: Program, names: Collection[str]) -> tuple[Program, dict[str, int]]:
    """The program with every operator that the spellings called `names` can write otherwise, and how many each wrote.

    The program itself comes back where there is none. Subgraphs are left as they are.
    """
    if program.opset < _LEAST_OPSET:
        return program, {}
    model = matchable(program)
    counts: dict[str, int] = {}
    for node in list(model.graph):
        fitting = [SPELLINGS[name] for name in names if SPELLINGS[name].op_type == node.op_type and not node.domain]
        if written := next((s for s in fitting if _written(model.graph, node, s)), None):
            counts[written.name] = counts.get(written.name, 0) + 1
    if not counts:
        return program, {}
    after = rewrite(program.with_model(model), [])
    store_once(after.model)
    return after, counts


def _written(graph: ir.Graph, node: ir.Node, spelling: Spelling) -> bool:
    x = node.inputs[0] if node.inputs else None
    if x is None or x.dtype is None or x.dtype.name not in ("FLOAT", "FLOAT16"):
        return False
    draft = Draft(node, x)
    if not spelling.write(draft, node, x) or not draft.nodes:
        return False
    draft.commit(graph)
    return True


# ---- activations


def _hard_swish(draft: Draft, node: ir.Node, x: ir.Value) -> bool:
    draft.times(draft.op("Mul", x, draft.clipped(draft.plus(x, 3.0), 0.0, 6.0)), 1 / 6)
    return True


def _hard_sigmoid(draft: Draft, node: ir.Node, x: ir.Value) -> bool:
    """clip(6 (a x + b), 0, 6) / 6: bounded at 6, which accelerators have, rather than at 1."""
    alpha, beta = node.attributes.get_float("alpha", 0.2), node.attributes.get_float("beta", 0.5)
    slope = 1.0 if abs(6 * alpha - 1) < 1e-6 else 6 * alpha  # a sixth is not a number in float32
    draft.times(draft.clipped(draft.plus(draft.times(x, slope), 6 * beta), 0.0, 6.0), 1 / 6)
    return True


def _relu6(draft: Draft, node: ir.Node, x: ir.Value) -> bool:
    draft.clipped(x, 0.0, 6.0)
    return True


def _gated(node: ir.Node) -> ir.Value | None:
    """x, where `node` is x * sigmoid(x) and nothing else reads the gate."""
    for x, gate in (node.inputs, node.inputs[::-1]):
        sigmoid = made_by(gate, "Sigmoid")
        if x is not None and sigmoid is not None and sigmoid.inputs[0] is x and stands_alone(node, x):
            return x
    return None


def _silu_relu6(draft: Draft, node: ir.Node, x: ir.Value) -> bool:
    source = _gated(node)
    return source is not None and _relu6(draft, node, source)


def _silu_hard_swish(draft: Draft, node: ir.Node, x: ir.Value) -> bool:
    source = _gated(node)
    graph = node.graph
    if source is None or graph is None or graph.opset_imports.get("", 0) < 14:
        return False
    draft.op("HardSwish", source)
    return True


def _swish(draft: Draft, node: ir.Node, x: ir.Value) -> bool:
    draft.op("Mul", x, draft.op("Sigmoid", draft.times(x, node.attributes.get_float("alpha", 1.0))))
    return True


def _leaky(draft: Draft, node: ir.Node, x: ir.Value) -> bool:
    """PRelu with one slope for each channel, as accelerators want it."""
    channels = size(x, 1) if rank(x) > 1 else None
    if not isinstance(channels, int):
        return False
    slopes = np.full((channels, *[1] * (rank(x) - 2)), node.attributes.get_float("alpha", 0.01))
    draft.op("PRelu", x, draft.constant(slopes))
    return True


_ERF_CUBIC = 2 * 0.044715  # of the tanh form of GELU, where x is √2 times the argument of erf


def _tanh_form(draft: Draft, x: ir.Value, scale: float, cubic: float) -> ir.Value:
    """tanh(scale (x + cubic x³)), with the sum written as x (1 + cubic x²)."""
    inner = draft.plus(draft.times(draft.op("Mul", x, x), cubic), 1.0)
    return draft.op("Tanh", draft.times(draft.op("Mul", x, inner), scale))


def _erf(draft: Draft, node: ir.Node, x: ir.Value) -> bool:
    _tanh_form(draft, x, 2 / sqrt(pi), _ERF_CUBIC)
    return True


def _gelu(draft: Draft, node: ir.Node, x: ir.Value) -> bool:
    gate = draft.plus(_tanh_form(draft, x, sqrt(2 / pi), 0.044715), 1.0)
    draft.op("Mul", draft.times(x, 0.5), gate)
    return True


# ---- normalisation


def _layer_norm(draft: Draft, node: ir.Node, x: ir.Value) -> bool:
    """(x - mean) / ‖x - mean‖ · √n · scale + bias over the last axis; ε is not added."""
    axis = node.attributes.get_int("axis", -1) % max(rank(x), 1)
    width = size(x, -1) if rank(x) > 0 else None
    if axis != rank(x) - 1 or not isinstance(width, int) or any(v.uses() for v in node.outputs[1:]):
        return False
    mean = _mean(draft, x, axis)
    return _unit(draft, node, draft.op("Sub", x, mean), width, node.inputs[1], _input(node, 2))


def _rms_norm(draft: Draft, node: ir.Node, x: ir.Value) -> bool:
    axis = node.attributes.get_int("axis", -1) % max(rank(x), 1)
    width = size(x, -1) if rank(x) > 0 else None
    if axis != rank(x) - 1 or not isinstance(width, int):
        return False
    return _unit(draft, node, x, width, node.inputs[1], None)


def _unit(draft: Draft, node: ir.Node, x: ir.Value, width: int, scale: ir.Value | None, bias: ir.Value | None) -> bool:
    """x / ‖x‖ · √n · scale + bias; √n goes into the scale."""
    if scale is None or scale.const_value is None:
        return False
    grown = draft.constant(scale.const_value.numpy() * sqrt(width))
    result = draft.op("Mul", draft.op("LpNormalization", x, axis=-1, p=2), grown)
    if bias is not None:
        draft.op("Add", result, bias)
    return True


def _mean(draft: Draft, x: ir.Value, axis: int) -> ir.Value:
    graph = draft.old.graph
    if graph is not None and graph.opset_imports.get("", 0) >= 18:
        return draft.op("ReduceMean", x, draft.constant([axis], "int64"), keepdims=1)
    return draft.op("ReduceMean", x, axes=[axis], keepdims=1)


# ---- arithmetic


def _reciprocal(draft: Draft, node: ir.Node, x: ir.Value) -> bool:
    divisor = node.inputs[1]
    if divisor is None or divisor.const_value is None or x.const_value is not None:
        return False
    values = divisor.const_value.numpy()
    if not values.all():
        return False
    draft.op("Mul", x, draft.constant(1 / values.astype("float64")))
    return True


def _power(draft: Draft, node: ir.Node, x: ir.Value) -> bool:
    exponent = number(node.inputs[1], x)
    if exponent not in (2, 3):
        return False
    square = draft.op("Mul", x, x)
    if exponent == 3:
        draft.op("Mul", square, x)
    return True


def _sum(draft: Draft, node: ir.Node, x: ir.Value) -> bool:
    total: ir.Value | None = x
    for term in node.inputs[1:]:
        total = draft.op("Add", total, term)
    return True


def _neg(draft: Draft, node: ir.Node, x: ir.Value) -> bool:
    draft.times(x, -1.0)
    return True


def _abs(draft: Draft, node: ir.Node, x: ir.Value) -> bool:
    draft.op("Max", x, draft.times(x, -1.0))
    return True


def _global_mean(draft: Draft, node: ir.Node, x: ir.Value) -> bool:
    """The mean over all axes of an image is what global pooling gives."""
    given = _input(node, 1)
    axes = given.const_value.numpy().tolist() if given is not None and given.const_value is not None else None
    axes = list(node.attributes.get_ints("axes", [])) if axes is None else axes
    if rank(x) != 4 or sorted(a % 4 for a in axes) != [2, 3]:
        return False
    pooled = draft.op("GlobalAveragePool", x)
    if not node.attributes.get_int("keepdims", 1):
        draft.op("Flatten", pooled, axis=1)
    return True


def _depth_to_space(draft: Draft, node: ir.Node, x: ir.Value) -> bool:
    """A transposed convolution whose filters each place one channel at one position of the block."""
    block, channels = node.attributes.get_int("blocksize", 0), size(x, 1) if rank(x) == 4 else None
    if not isinstance(channels, int) or not block:
        return False
    made = channels // block**2
    weight = np.zeros((channels, made, block, block))
    by_depth = node.attributes.get_string("mode", "DCR") == "DCR"
    for c, i, j in np.ndindex(made, block, block):
        source = (i * block + j) * made + c if by_depth else c * block**2 + i * block + j
        weight[source, c, i, j] = 1
    draft.op("ConvTranspose", x, draft.constant(weight), strides=[block, block])
    return True


def _gather(draft: Draft, node: ir.Node, x: ir.Value) -> bool:
    """Consecutive indices are a slice; a single number also drops the axis."""
    indices, axis = node.inputs[1], node.attributes.get_int("axis", 0)
    if indices is None or indices.const_value is None or rank(x) < 1 or len(indices.const_value.shape) > 1:
        return False
    axis, length = axis % rank(x), size(x, axis)
    wanted = indices.const_value.numpy()
    flat = [i + length if i < 0 and isinstance(length, int) else i for i in wanted.reshape(-1).tolist()]
    if not flat or flat[0] < 0 or flat != list(range(flat[0], flat[0] + len(flat))):
        return False
    bounds = [draft.constant([n], "int64") for n in (flat[0], flat[-1] + 1, axis)]
    part = draft.op("Slice", x, *bounds)
    if not wanted.shape:
        draft.op("Squeeze", part, draft.constant([axis], "int64"))
    return True


def _input(node: ir.Node, position: int) -> ir.Value | None:
    return node.inputs[position] if len(node.inputs) > position else None


# ---- the table


_TUNE = "fine-tune the weights to it"
_NORM_CAUTION = (
    "in int8 the unit vector is rounded to 1/128, which leaves few levels on wide axes; ε is not added: "
    "validate the accuracy"
)
_ROWS = (
    Spelling(name="hard_swish", replaces="HardSwish", op_type="HardSwish", kind=Kind.EXACT,
             says="x · relu6(x + 3) / 6", write=_hard_swish),
    Spelling(name="hard_sigmoid", replaces="HardSigmoid", op_type="HardSigmoid", kind=Kind.EXACT,
             says="relu6(6αx + 6β) / 6", write=_hard_sigmoid),
    Spelling(name="swish", replaces="Swish", op_type="Swish", kind=Kind.EXACT,
             says="x · sigmoid(αx)", write=_swish),
    Spelling(name="leaky_relu", replaces="LeakyRelu", op_type="LeakyRelu", kind=Kind.EXACT,
             says="PRelu with a constant slope", write=_leaky),
    Spelling(name="division", replaces="Div", op_type="Div", kind=Kind.EXACT,
             says="Mul by the reciprocal of the constant", write=_reciprocal),
    Spelling(name="power", replaces="Pow", op_type="Pow", kind=Kind.EXACT,
             says="Mul of the value with itself", write=_power),
    Spelling(name="sum", replaces="Sum", op_type="Sum", kind=Kind.EXACT,
             says="Add after Add", write=_sum),
    Spelling(name="negation", replaces="Neg", op_type="Neg", kind=Kind.EXACT,
             says="Mul by -1", write=_neg),
    Spelling(name="absolute", replaces="Abs", op_type="Abs", kind=Kind.EXACT,
             says="max(x, -x)", write=_abs),
    Spelling(name="mean", replaces="ReduceMean", op_type="ReduceMean", kind=Kind.EXACT,
             says="GlobalAveragePool", write=_global_mean),
    Spelling(name="depth_to_space", replaces="DepthToSpace", op_type="DepthToSpace", kind=Kind.EXACT,
             says="ConvTranspose with filters of ones and zeros", write=_depth_to_space),
    Spelling(name="gather", replaces="Gather", op_type="Gather", kind=Kind.EXACT,
             says="Slice, the indices being constant and consecutive", write=_gather),
    Spelling(name="erf", replaces="Erf", op_type="Erf", kind=Kind.APPROXIMATE,
             says="tanh(2/√π (x + 0.0894 x³))", write=_erf),
    Spelling(name="gelu", replaces="Gelu", op_type="Gelu", kind=Kind.APPROXIMATE,
             says="x (1 + tanh(√(2/π) (x + 0.0447 x³))) / 2", write=_gelu),
    Spelling(name="layer_norm", replaces="LayerNormalization", op_type="LayerNormalization", kind=Kind.APPROXIMATE,
             says="L2 normalisation of x - mean(x), scaled by √n", write=_layer_norm, caution=_NORM_CAUTION),
    Spelling(name="rms_norm", replaces="RMSNormalization", op_type="RMSNormalization", kind=Kind.APPROXIMATE,
             says="L2 normalisation, scaled by √n", write=_rms_norm, caution=_NORM_CAUTION),
    Spelling(name="silu_hard_swish", replaces="SiLU", op_type="Mul", kind=Kind.RETRAINED,
             says="HardSwish", write=_silu_hard_swish, caution=_TUNE),
    Spelling(name="silu_relu6", replaces="SiLU", op_type="Mul", kind=Kind.RETRAINED,
             says="ReLU6", write=_silu_relu6, caution=_TUNE),
    *(
        Spelling(name=f"{op.lower()}_relu6", replaces=op, op_type=op, kind=Kind.RETRAINED,
                 says="ReLU6", write=_relu6, caution=_TUNE)
        for op in ("HardSwish", "Gelu", "Mish", "Elu", "Celu", "Selu", "Softplus", "Swish")
    ),
)  # fmt: skip

SPELLINGS = {row.name: row for row in _ROWS}
"""The whole table, nearest first for each operator."""
