"""What a runtime computes in one go: the table that costs are grouped by and that fusing passes read.

A stack names the rows it fuses (`fuses = ["batch_norm", "relu"]` in its profile).
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

__all__ = ["ANCHORS", "EPILOGUES", "GATES", "POINTWISE", "RESCALING", "absorbs"]

ANCHORS = frozenset({"Conv", "ConvTranspose", "Gemm", "MatMul"})

EPILOGUES: Mapping[str, frozenset[str]] = {
    "batch_norm": frozenset({"BatchNormalization"}),
    "relu": frozenset({"Relu", "Clip"}),
    "activation": frozenset(
        {"Relu", "Clip", "LeakyRelu", "PRelu", "Sigmoid", "HardSigmoid", "HardSwish", "Tanh", "Elu", "Gelu", "Mish"}
    ),
    "residual_add": frozenset({"Add"}),
}

GATES = frozenset({"Sigmoid", "HardSigmoid"})
"""Operators g for which x * g(x) counts as one activation (SiLU, hard-swish)."""

POINTWISE = frozenset(
    "Add BatchNormalization Clip Div Elu Exp Gelu HardSigmoid HardSwish LeakyRelu Mish Mul Neg PRelu Relu Sigmoid "
    "Softplus Sqrt Sub Tanh".split()
)
"""Operators of which a stack with the row `pointwise` makes one kernel where they follow one another."""

RESCALING = frozenset({"Add", "Cast", "Mul"})
"""What turns the integer sums of MatMulInteger into floats: done by every runtime that has the operator within it."""


def absorbs(fuses: Collection[str], op_type: str) -> bool:
    """Whether a stack that fuses these rows computes `op_type` in the operator before it."""
    return any(op_type in EPILOGUES[row] for row in fuses if row in EPILOGUES)
