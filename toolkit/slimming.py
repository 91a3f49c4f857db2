"""The narrowest change that fits: how many channels would have to go, found on real graphs that are priced again."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from passes.onnx_level.matching import matchable
from passes.onnx_level.slim_channels import Slimmer, slim_channels
from passes.program import Program
from passes.structure import check_structure
from targets.errors import InvalidInput
from targets.stack import Stack
from targets.target import vector_width

__all__ = ["Slimmed", "slimmest"]

_SHARES = tuple(n / 20 for n in range(1, 16))  # 5 % to 75 %; what is left of less is another network
_STRIDE = 3  # shares that are skipped when the largest one does not fit


@dataclass(frozen=True, kw_only=True)
class Slimmed:
    """A network that has lost `share` of the channels of each layer that can lose some; onnxruntime has run it."""

    program: Program
    share: float
    step: int


def slimmest(program: Program, stack: Stack, fits: Callable[[Program], bool], *, trunk: bool) -> Slimmed:
    """The network that loses the smallest share of its channels, in steps of 5 %, among those that `fits` accepts.

    Where even the largest share does not fit, that one. With `trunk`, layers joined by additions are narrowed too.

    Raises:
        PassFailed: no layer can lose a channel.
        InvalidInput: onnxruntime does not run the narrower graph.
    """
    step = vector_width(stack)
    program = program.with_model(matchable(program))  # inferred once for all shares
    made = {_SHARES[-1]: slim_channels(program, Slimmer(share=_SHARES[-1], step=step, trunk=trunk))}

    def taken(position: int) -> bool:
        share = _SHARES[position]
        narrower = made.get(share) or _slim(program, Slimmer(share=share, step=step, trunk=trunk))
        if narrower is not None:
            made[share] = narrower
        return narrower is not None and fits(narrower)

    # far outside of what was measured the interval is so wide that less may fit for certain where more does not
    most = len(_SHARES) - 1
    high = next((position for position in range(most, 0, -_STRIDE) if taken(position)), None)
    low = 0
    while high is not None and low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if taken(middle) else (middle + 1, high)
    high = most if high is None else high
    share = _SHARES[high]
    _check_runs(made[share])
    return Slimmed(program=made[share], share=share, step=step)


def _slim(program: Program, slimmer: Slimmer) -> Program | None:
    """None where so small a share takes no channel from any layer."""
    try:
        return slim_channels(program, slimmer)
    except InvalidInput:
        return None


def _check_runs(program: Program) -> None:
    """onnxruntime loads the graph and answers in the shapes of the signature."""
    check_structure(program)
    answers = program.run(program.example)
    for spec in program.signature.outputs:
        if problem := spec.accepts(answers[spec.name]):
            raise InvalidInput(f"the narrower graph answers otherwise: {problem}", hint="please report this graph")
