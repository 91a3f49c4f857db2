"""Where everything lies: one arena for inputs, intermediates, outputs and kernel scratch; one block of constants.

The caller's arrays are copied into the arena and the answers out of it: kernels want 64-byte alignment, which nobody
can ask of a caller. An input lives from the start to the last kernel that reads it, an output from the kernel that
writes it to the end, a kernel's scratch while that kernel runs.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np

from targets.arena import Buffer, pack
from toolkit.backends.ahead_of_time.trace import Trace

__all__ = ["ALIGNMENT", "Memory", "Plan", "planned", "scratch_name"]

ALIGNMENT = 64
"""Bytes: what TVM's code assumes of every buffer."""

_OURS = 4
"""Bytes: what C assumes of the numbers that our kernels read. Networks of a few layers would be a tenth padding."""


@dataclass(frozen=True)
class Memory:
    """Bytes that the network holds, exactly: `arena` includes the scratch, `scratch` is the most that a kernel asks."""

    arena_bytes: int
    scratch_bytes: int
    weight_bytes: int


@dataclass(frozen=True, eq=False)
class Plan:
    """Offsets for everything that `trace` names.

    Args:
        buffers: What lies in the arena, with the steps at which it is held: step 0 copies the inputs in, kernel i
            runs at step i + 1, the last step copies the outputs out.
        offsets: In the arena, by the name of a buffer; the scratch of call i is named `scratch i`.
        constants: Offsets in `weights`, by the name of a constant.
        weights: The constants, each aligned, little-endian.
    """

    trace: Trace
    buffers: tuple[Buffer, ...]
    offsets: Mapping[str, int]
    constants: Mapping[str, int]
    weights: bytes
    memory: Memory


def planned(trace: Trace) -> Plan:
    """Lay out one arena in which no two buffers overlap that are held at once."""
    buffers = tuple(_buffers(trace))
    packing = pack(buffers, alignment=ALIGNMENT)
    constants, weights = _laid_out(trace)
    scratch = max((trace.kernels[call.kernel].scratch_bytes for call in trace.calls), default=0)
    return Plan(
        trace=trace,
        buffers=buffers,
        offsets={b.name: offset for b, offset in zip(buffers, packing.offsets, strict=True)},
        constants=constants,
        weights=weights,
        memory=Memory(packing.arena_bytes, scratch, len(weights)),
    )


def scratch_name(call: int) -> str:
    """What the scratch of the call at this position is named in a plan."""
    return f"scratch {call}"


def _buffers(trace: Trace) -> Iterator[Buffer]:
    spans: dict[str, tuple[int, int]] = {tensor.name: (0, 0) for tensor in trace.inputs}
    for step, call in enumerate(trace.calls, 1):
        for name in call.arguments:
            spans[name] = (spans.get(name, (step, step))[0], step)
    end = len(trace.calls) + 1
    for name in trace.results:
        spans[name] = (spans.get(name, (end, end))[0], end)
    for tensor in (*trace.inputs, *trace.intermediates):
        if tensor.name in spans:
            yield Buffer(tensor.name, tensor.bytes, *spans[tensor.name])
    for index, call in enumerate(trace.calls):
        if size := trace.kernels[call.kernel].scratch_bytes:
            yield Buffer(scratch_name(index), size, index + 1, index + 1)


def _laid_out(trace: Trace) -> tuple[dict[str, int], bytes]:
    offsets: dict[str, int] = {}
    laid = bytearray()
    ours = {name for call in trace.calls if trace.kernels[call.kernel].source for name in call.arguments}
    ours -= {name for call in trace.calls if not trace.kernels[call.kernel].source for name in call.arguments}
    for name, array in trace.constants.items():
        laid += bytes(-len(laid) % (_OURS if name in ours else ALIGNMENT))
        offsets[name] = len(laid)
        little = array.astype(array.dtype.newbyteorder("<"), copy=False)
        laid += np.ascontiguousarray(little).tobytes()
    return offsets, bytes(laid + bytes(-len(laid) % 4))  # whole words, which the checksum adds up
