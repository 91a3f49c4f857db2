"""What must be held while a workload runs: a buffer for each activation, shared where a result overwrites its operand.

Views share their tensor in the workload already. A result takes the place of an operand that no one reads later, in an
operator that computes each element from the same element of its operands, where both have the same bytes.
"""

from __future__ import annotations

from collections.abc import Collection

from targets.arena import Buffer
from targets.workload import Workload

__all__ = ["POINTWISE", "buffers_of", "lifetimes"]

POINTWISE = frozenset(
    "Abs Acos Acosh Add And Asin Asinh Atan Atanh BatchNormalization BitwiseAnd BitwiseNot BitwiseOr BitwiseXor Ceil "
    "Celu Clip Cos Cosh Div Elu Erf Exp Floor Gelu HardSigmoid HardSwish LeakyRelu Log Max Mean Min Mish Mod Mul Neg "
    "Not Or PRelu Pow Reciprocal Relu Round Selu Shrink Sigmoid Sign Sin Sinh Softplus Softsign Sqrt Sub Sum Swish Tan "
    "Tanh ThresholdedRelu Where Xor".split()
)
"""Operators whose result may overwrite an operand of the same size."""


def lifetimes(workload: Workload) -> dict[str, tuple[int, int]]:
    """First and last step at which each activation is held; inputs from the start, outputs to the end.

    A graph without operators has no steps, and holds nothing.
    """
    end = len(workload.operators) - 1
    if end < 0:
        return {}
    first: dict[str, int] = dict.fromkeys(workload.inputs, 0)
    last: dict[str, int] = dict.fromkeys(workload.inputs, 0)
    for step, op in enumerate(workload.operators):
        for name in op.writes:
            first.setdefault(name, step)
            last[name] = step
        for name in op.reads:
            first.setdefault(name, 0)
            last[name] = step
    for name in workload.outputs:
        first.setdefault(name, 0)
        last[name] = end
    return {name: (start, last[name]) for name, start in first.items()}


def buffers_of(
    workload: Workload, *, in_place: Collection[str] = POINTWISE, outside: Collection[str] = ()
) -> tuple[list[Buffer], dict[str, int]]:
    """The buffers, and for each activation the position of the one that holds it.

    Args:
        in_place: Operator types whose result may overwrite an operand.
        outside: Activations that the caller holds, in no arena: they have no buffer.

    Operands that the caller handed in, and results of the graph, are overwritten by no one.
    """
    held = lifetimes(workload)
    kept = {*workload.inputs, *workload.outputs}
    place: dict[str, int] = {}
    buffers: list[Buffer] = []
    successor = _overwritten(workload, held, kept, in_place)
    for name, (first, last) in held.items():
        if name in place or name in outside:
            continue
        chain, end = [name], last
        while (following := successor.get(chain[-1])) is not None:
            chain.append(following)
            end = held[following][1]
        place.update(dict.fromkeys(chain, len(buffers)))
        buffers.append(Buffer(name, workload.tensor_bytes[name], first, end))
    return buffers, place


def _overwritten(
    workload: Workload, held: dict[str, tuple[int, int]], kept: Collection[str], in_place: Collection[str]
) -> dict[str, str]:
    """For each activation that is overwritten, the one that takes its place.

    `held` is in the order of first steps, so that a chain is met at its head.
    """
    successor: dict[str, str] = {}
    sizes = workload.tensor_bytes
    for step, op in enumerate(workload.operators):
        if op.op_type not in in_place or len(op.writes) != 1 or held[op.writes[0]][0] != step:
            continue
        result = op.writes[0]
        for name in op.reads:
            dies = held[name][1] == step and name not in kept and name != result
            if dies and sizes[name] == sizes[result] and name not in successor:
                successor[name] = result
                break
    return successor
