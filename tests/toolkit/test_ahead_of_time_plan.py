"""One arena: nothing that is still to be read is overwritten, and it ends where the last buffer does."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from toolkit.backends.ahead_of_time.plan import ALIGNMENT, Plan, planned, scratch_name
from toolkit.backends.ahead_of_time.trace import Call, Kernel, Tensor, Trace

SETTINGS = settings(deadline=None)


@st.composite
def traces(draw: st.DrawFn) -> Trace:
    """Networks of up to twelve kernels, each reading some earlier tensors and writing one or two new ones."""
    size = st.integers(1, 400)
    inputs = tuple(Tensor(f"input {i}", "uint8", (draw(size),)) for i in range(draw(st.integers(1, 3))))
    known = [t.name for t in inputs]
    made: list[Tensor] = []
    kernels, calls = {}, []
    for step in range(draw(st.integers(0, 12))):
        read = draw(st.lists(st.sampled_from([*known, "constant"]), min_size=1, max_size=3))
        written = [Tensor(f"tensor {step}.{i}", "uint8", (draw(size),)) for i in range(draw(st.integers(1, 2)))]
        arguments = (*read, *(t.name for t in written))
        kernels[f"k{step}"] = Kernel(f"k{step}", ("uint8",) * len(arguments), draw(st.sampled_from([0, 64, 640])))
        calls.append(Call(f"k{step}", arguments))
        made += written
        known += [t.name for t in written]
    results = tuple(draw(st.lists(st.sampled_from([*known, "constant"]), min_size=1, max_size=3)))
    sizes = {t.name: t.shape for t in (*inputs, *made)} | {"constant": (5,)}
    outputs = tuple(Tensor(f"out {i}", "uint8", sizes[name]) for i, name in enumerate(results))
    constants = {"constant": np.arange(5, dtype=np.uint8)}
    return Trace(inputs, outputs, results, tuple(made), constants, kernels, tuple(calls))


class _Arena:
    """Who wrote each byte last."""

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._bytes = np.full(plan.memory.arena_bytes, "nobody", object)
        self._sizes = {b.name: b.size for b in plan.buffers}

    def write(self, name: str) -> None:
        offset = self._plan.offsets[name]
        assert offset % ALIGNMENT == 0
        assert offset + self._sizes[name] <= len(self._bytes)
        self._bytes[offset : offset + self._sizes[name]] = name

    def holds(self, name: str) -> bool:
        offset = self._plan.offsets.get(name)
        return offset is None or set(self._bytes[offset : offset + self._sizes[name]]) == {name}


@SETTINGS
@given(traces())
def test_every_kernel_finds_what_was_written_for_it(trace: Trace) -> None:
    plan = planned(trace)
    arena = _Arena(plan)
    for tensor in trace.inputs:
        arena.write(tensor.name)
    written = {t.name for t in trace.inputs}
    for index, call in enumerate(trace.calls):
        read = [name for name in call.arguments if name in written]
        new = [name for name in call.arguments if name not in written and name != "constant"]
        for name in new:
            arena.write(name)
        if scratch_name(index) in plan.offsets:
            arena.write(scratch_name(index))
        assert all(map(arena.holds, (*read, *new))), "reads, writes and scratch of one kernel lie apart"
        written |= set(new)
    assert all(map(arena.holds, trace.results))


@SETTINGS
@given(traces())
def test_the_arena_ends_where_the_last_buffer_ends(trace: Trace) -> None:
    plan = planned(trace)
    ends = [plan.offsets[b.name] + -(-b.size // ALIGNMENT) * ALIGNMENT for b in plan.buffers]
    assert plan.memory.arena_bytes == max(ends)
    assert plan.memory.weight_bytes == len(plan.weights)
    assert plan.weights[plan.constants["constant"] :] == bytes(range(5)) + bytes(3), "whole words"
