"""Recurrent layers as loops over their steps, in floats: one product for what all steps read of x, then a small network
that is run once for each step.

The file's own UNIDIRECTIONAL_SEQUENCE_LSTM keeps its state from one call to the next and takes none from the graph,
where ONNX begins each call with the state that it is given, or zeros. Written out, each step would hold the weights
again: XNNPACK packs them for every operator, 79 MB for 100 steps of a GRU of 256 features.

Shapes: T steps, B rows, H features of the state.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import ceil, sqrt
from typing import TYPE_CHECKING

import numpy as np

from toolkit.backends.litert.layout import identity
from toolkit.backends.litert.lowering import Lower, Lowering, Refused
from toolkit.backends.litert.operators.loops import Values, looped
from toolkit.backends.litert.operators.words import Words
from toolkit.backends.litert.reading import Step
from toolkit.backends.litert.tensors import Quantization, Tensor

if TYPE_CHECKING:
    import onnx_ir as ir

    from passes.dataset import Array

__all__ = ["LOWERINGS"]

_FUNCTIONS = {"sigmoid": "LOGISTIC", "tanh": "TANH", "relu": "RELU"}
_DIRECTIONS = {"forward": (False,), "reverse": (True,), "bidirectional": (False, True)}

_LONG_STEPS = 64
"""Behind so many steps, the states of all of them are put together block by block: a turn copies what it adds to."""

_States = Sequence[Tensor]
"""The state that is given to the caller and, of an LSTM, that of its cells, each (B, H)."""


@dataclass(frozen=True)
class _Kind:
    """A kind of layer.

    Args:
        gates: Rows of its weights for each feature.
        functions: Those of a layer that names none.
        states: Operands that are its first states.
        step: The states after a step, from x (B, gates x H) times its weights, biases added, and the states before.
    """

    gates: int
    functions: tuple[str, ...]
    states: tuple[int, ...]
    step: Callable[[Words, _Direction, Tensor, _States], _States]


def _layer(kind: _Kind) -> Lower:
    def lower(lowering: Lowering, step: Step) -> None:
        _refuse_options(lowering, step)
        backwards = _DIRECTIONS[step.node.attributes.get_string("direction", "forward")]
        directions = [_Direction(lowering, step, kind, i, reverse) for i, reverse in enumerate(backwards)]
        outputs = step.node.outputs
        ends = [_walked(lowering, d, kind, wants_all=_is_read(outputs[0])) for d in directions]
        every = [every for every, _ in ends if every is not None]
        if every:
            _give_all(lowering, outputs[0], every)
        for position, value in enumerate(outputs[1:]):
            if _is_read(value):
                _give_last(lowering, value, [last[position] for _, last in ends])

    return lower


def _is_read(value: ir.Value) -> bool:
    return bool(value.uses()) or value.is_graph_output()


def _refuse_options(lowering: Lowering, step: Step) -> None:
    attributes = step.node.attributes
    if attributes.get_int("layout", 0):
        raise Refused("has the batch before the steps (layout 1)")
    if attributes.get_float("clip", 0.0):
        raise Refused("clips what goes into its gates")
    if attributes.get_int("input_forget", 0):
        raise Refused("couples its input and forget gates")
    if step.node.op_type == "LSTM" and step.input(7) is not None:
        raise Refused("has peepholes")
    x = step.input(0)
    assert x is not None
    if step.input(4) is not None:
        lengths = lowering.need_numbers(step, 4, "lengths of its sequences")
        if (lengths != lowering.shape(x)[0]).any():
            raise Refused("has sequences that end before its steps do")


# ---- results


def _give_all(lowering: Lowering, value: ir.Value, every: Sequence[Tensor]) -> None:
    """Y (T, directions, B, H) of tensors (T, B x H)."""
    shape = lowering.shape(value)
    whole = every[0]
    if len(every) > 1:
        whole = Words(lowering).joined(every, axis=1)
    lowering.set(value, lowering.reshaped(whole, shape), identity(4))


def _give_last(lowering: Lowering, value: ir.Value, last: Sequence[Tensor]) -> None:
    """Y_h or Y_c (directions, B, H) of tensors (B, H)."""
    whole = Words(lowering).joined(last, axis=0) if len(last) > 1 else last[0]
    lowering.set(value, lowering.reshaped(whole, lowering.shape(value)), identity(3))


# ---- steps


def _walked(lowering: Lowering, d: _Direction, kind: _Kind, *, wants_all: bool) -> tuple[Tensor | None, _States]:
    """The first states (T, B x H) of all steps, by time, where they are wanted, and the states behind the last step."""
    words, x, states = Words(lowering), d.given(), d.first()
    if d.steps == 1:
        last = kind.step(words, d, lowering.reshaped(x, (d.batch, kind.gates * d.hidden)), states)
        return lowering.reshaped(last[0], (1, d.batch * d.hidden)) if wants_all else None, last
    start = {"step": words.number(0), "x": x, **_named(states)}
    if not wants_all or d.steps <= _LONG_STEPS:
        rows = d.steps if wants_all else 0
        values = _some_steps(lowering, d, kind, start, words.number(d.steps), rows)
        every = values.get("rows")
    else:
        values = _in_blocks(lowering, d, kind, start)
        every = words.slice(values["all"], d.steps)
    return None if every is None else d.by_time(every), _states(values)


def _some_steps(lowering: Lowering, d: _Direction, kind: _Kind, values: Values, end: Tensor, rows: int) -> Values:
    """Go on from `values` to the step `end`; where `rows` are wanted, those hold the first states of what was done."""
    words = Words(lowering)
    start = {**values, "end": end}
    if rows:
        start |= {"begin": values["step"], "rows": words.zeros(rows, d.batch * d.hidden)}

    def goes_on(inner: Lowering, now: Values) -> Tensor:
        return Words(inner).less(now["step"], now["end"])

    def turn(inner: Lowering, now: Values) -> Values:
        words = Words(inner)
        x = inner.reshaped(words.row(now["x"], now["step"]), (d.batch, kind.gates * d.hidden))
        states = kind.step(words, d, x, _states(now))
        made = {**now, **_named(states), "step": words.add(now["step"], words.number(1))}
        if rows:
            row = inner.reshaped(states[0], (1, d.batch * d.hidden))
            made["rows"] = words.put(now["rows"], row, words.sub(now["step"], now["begin"]))
        return made

    return looped(lowering, start, goes_on, turn)


def _in_blocks(lowering: Lowering, d: _Direction, kind: _Kind, values: Values) -> Values:
    """All steps, and under `all` their first states, with zeros behind them where the last block is not full."""
    rows = ceil(sqrt(d.steps))
    start = {**values, "all": Words(lowering).zeros(ceil(d.steps / rows) * rows, d.batch * d.hidden)}

    def goes_on(inner: Lowering, now: Values) -> Tensor:
        words = Words(inner)
        return words.less(now["step"], words.number(d.steps))

    def turn(inner: Lowering, now: Values) -> Values:
        words, before = Words(inner), {name: value for name, value in now.items() if name != "all"}
        end = words.smaller(words.add(now["step"], words.number(rows)), words.number(d.steps))
        made = _some_steps(inner, d, kind, before, end, rows)
        return {**now, **_named(_states(made)), "step": made["step"],
                "all": words.put(now["all"], made["rows"], now["step"])}  # fmt: skip

    return looped(lowering, start, goes_on, turn)


def _named(states: _States) -> dict[str, Tensor]:
    return {f"state {i}": state for i, state in enumerate(states)}


def _states(values: Values) -> list[Tensor]:
    return [value for name, value in values.items() if name.startswith("state ")]


class _Direction:
    """One direction of a layer: its operands, and how the steps of this direction follow each other."""

    def __init__(self, lowering: Lowering, step: Step, kind: _Kind, index: int, reverse: bool) -> None:
        x = step.input(0)
        assert x is not None
        self._lowering, self._step, self._kind, self._index, self._reverse = lowering, step, kind, index, reverse
        self.steps, self.batch, _ = lowering.shape(x)
        self._x = lowering.laid(x, identity(3), real=True)
        self._weights, self._recurrence = (_matrix(lowering, step, position, index) for position in (1, 2))
        self.hidden = self._recurrence.shape[1]
        self.functions = _functions(step, kind, index)
        self.product_first = bool(step.node.attributes.get_int("linear_before_reset", 0))
        self.bias, self.own_bias = np.zeros((2, kind.gates * self.hidden), np.float32)
        if step.input(3) is not None:
            both = lowering.need_numbers(step, 3, "biases")[index].astype(np.float32)
            self.bias, self.own_bias = both.reshape(2, -1)

    def given(self) -> Tensor:
        """x (T, B x gates x H) times its weights plus the biases, in the order in which steps are gone through."""
        bias = self.bias + self.own_bias
        if self.product_first:  # what is reset has its own bias in it
            bias[-self.hidden :] = self.bias[-self.hidden :]
        x = self._lowering.reshaped(self._x, (self.steps * self.batch, self._x.shape[2]))
        product = Words(self._lowering).product(x, self._weights, bias)
        return self.by_time(self._lowering.reshaped(product, (self.steps, self.batch * len(bias))))

    def own(self, words: Words, state: Tensor, first: int, behind: int, bias: Array | None = None) -> Tensor:
        """A state times the weights of these gates in the recurrence."""
        rows = slice(first * self.hidden, behind * self.hidden)
        weights = _rows(self._recurrence, rows)
        return words.product(state, weights, np.zeros(weights.shape[0], np.float32) if bias is None else bias[rows])

    def first(self) -> list[Tensor]:
        """The states before the first step: operands, or zeros."""
        return [self._first(self._step.input(position)) for position in self._kind.states]

    def _first(self, value: ir.Value | None) -> Tensor:
        shape = (self.batch, self.hidden)
        if value is None:
            return self._lowering.constant(np.zeros(shape, np.float32))
        tensor = self._lowering.laid(value, identity(3), real=True)
        if tensor.shape[0] > 1:
            tensor = Words(self._lowering).pieces(tensor, tensor.shape[0], axis=0)[self._index]
        return self._lowering.reshaped(tensor, shape)

    def by_time(self, rows: Tensor) -> Tensor:
        """Rows in the order of steps, from those in the order of time, and back."""
        if not self._reverse or self.steps == 1:
            return rows
        return Words(self._lowering).rows(rows, np.arange(self.steps, dtype=np.int32)[::-1])


def _functions(step: Step, kind: _Kind, index: int) -> list[str]:
    """The functions of one direction, as the file names them."""
    count = len(kind.functions)
    named = list(step.node.attributes.get_strings("activations", [])) or [*kind.functions] * (index + 1)
    chosen = named[index * count : (index + 1) * count]
    if unknown := next((name for name in chosen if name.lower() not in _FUNCTIONS), ""):
        raise Refused(f"has the activation function {unknown}")
    return [_FUNCTIONS[name.lower()] for name in chosen]


def _matrix(lowering: Lowering, step: Step, position: int, index: int) -> Tensor:
    """The weights (rows, columns) of one direction, as they are stored."""
    value = step.input(position)
    assert value is not None
    if not lowering.is_constant(value):
        raise Refused("has weights that vary with the input")
    stored = lowering.laid(value, identity(3))
    assert stored.data is not None
    q, data = stored.quantization, stored.data[index]
    if q is not None and not q.whole:
        mine = slice(index, index + 1) if q.axis == 0 else slice(None)
        q = Quantization(q.scale[mine], q.zero_point[mine], max(q.axis - 1, 0))
    return Tensor(stored.name, data.shape, stored.dtype, q, data)


def _rows(weights: Tensor, rows: slice) -> Tensor:
    """Some rows of a matrix, with their scales."""
    assert weights.data is not None
    data, q = np.ascontiguousarray(weights.data[rows]), weights.quantization
    if q is not None and not q.whole and q.axis == 0:
        q = Quantization(q.scale[rows], q.zero_point[rows])
    return Tensor(weights.name, data.shape, weights.dtype, q, data)


# ---- the kinds, each with its gates in the order of ONNX


def _gru(words: Words, d: _Direction, x: Tensor, states: _States) -> _States:
    """h becomes n + z (h - n): gates z and r of x and h, and n of x and what r lets through of h, or of its product.

    Source: Cho et al. 2014, arXiv:1406.1078.
    """
    (h,), (gate, new) = states, d.functions
    x_z, x_r, x_n = words.pieces(x, 3)
    own_z, own_r = words.pieces(d.own(words, h, 0, 2), 2)
    z, r = (words.call(gate, words.add(a, b)) for a, b in ((x_z, own_z), (x_r, own_r)))
    if d.product_first:
        own_n = words.mul(r, d.own(words, h, 2, 3, d.own_bias))
    else:
        own_n = d.own(words, words.mul(r, h), 2, 3)
    n = words.call(new, words.add(x_n, own_n))
    return [words.add(n, words.mul(z, words.sub(h, n)))]


def _lstm(words: Words, d: _Direction, x: Tensor, states: _States) -> _States:
    """c becomes f c + i n and h becomes o tanh(c): gates i, o and f and a new value n, all of x and h.

    Source: Hochreiter and Schmidhuber 1997; the gate f: Gers, Schmidhuber and Cummins 2000.
    """
    (h, c), (gate, new, seen) = states, d.functions
    enter, leave, forget, value = words.pieces(words.add(x, d.own(words, h, 0, 4)), 4)
    kept = words.mul(words.call(gate, forget), c)
    c = words.add(kept, words.mul(words.call(gate, enter), words.call(new, value)))
    return [words.mul(words.call(gate, leave), words.call(seen, c)), c]


def _rnn(words: Words, d: _Direction, x: Tensor, states: _States) -> _States:
    """h becomes a function of x and h. Source: Elman 1990."""
    return [words.call(d.functions[0], words.add(x, d.own(words, states[0], 0, 1)))]


LOWERINGS: Mapping[str, Lower] = {
    "GRU": _layer(_Kind(3, ("Sigmoid", "Tanh"), (5,), _gru)),
    "LSTM": _layer(_Kind(4, ("Sigmoid", "Tanh", "Tanh"), (5, 6), _lstm)),
    "RNN": _layer(_Kind(1, ("Tanh",), (5,), _rnn)),
}
