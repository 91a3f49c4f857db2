"""Loops: a network of its own in the file that is run again on what it gave, as long as another one says so."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from toolkit.backends.litert.lowering import Lowering
from toolkit.backends.litert.tensors import Draft, Operator, Tensor

__all__ = ["Values", "looped"]

Values = Mapping[str, Tensor]
"""What goes from turn to turn, by name."""


def looped(
    lowering: Lowering,
    start: Values,
    goes_on: Callable[[Lowering, Values], Tensor],
    turn: Callable[[Lowering, Values], Values],
) -> Values:
    """What `start` has become when `goes_on`, asked before each `turn`, says no.

    A turn gives each value again, in the same shape and type, none with a scale. One that it gives as it came is not
    copied.
    """

    def turned(inner: Lowering, values: Values) -> Values:
        made = turn(inner, values)
        return {name: made[name] for name in start}

    condition = _network(lowering, start, lambda inner, values: {"goes on": goes_on(inner, values)})
    body = _network(lowering, start, turned)
    results = {name: Tensor("", tensor.shape, tensor.dtype) for name, tensor in start.items()}
    bodies = {"cond_subgraph_index": condition, "body_subgraph_index": body}
    lowering.draft.operators.append(Operator("WHILE", [*start.values()], [*results.values()], {}, bodies))
    return results


def _network(lowering: Lowering, start: Values, make: Callable[[Lowering, Values], Values]) -> Draft:
    inner = lowering.within()
    inner.draft.inputs = {name: Tensor(name, tensor.shape, tensor.dtype) for name, tensor in start.items()}
    inner.draft.outputs = dict(make(inner, inner.draft.inputs))
    return inner.draft
