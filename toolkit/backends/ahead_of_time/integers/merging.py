"""Our kernels and those of TVM as one network, called in an order in which each finds what it reads."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

from targets.errors import InvalidInput
from toolkit.backends.ahead_of_time.integers.drafting import Draft, Island, Step
from toolkit.backends.ahead_of_time.trace import Call, Kernel, Tensor, Trace

__all__ = ["island_model", "merged"]


def island_model(island: Island, opset: int) -> Any:
    """What is left to TVM as a ModelProto."""
    from onnx import helper

    inputs = [_info(name, tensor) for name, tensor in island.inputs.items()]
    outputs = [_info(name, tensor) for name, tensor in island.outputs.items()]
    graph = helper.make_graph(island.nodes, "island", inputs, outputs, list(island.constants.values()))
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=10)


def _info(name: str, tensor: Tensor) -> Any:
    import numpy as np
    from onnx import helper

    return helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(np.dtype(tensor.dtype)), tensor.shape)


def merged(
    draft: Draft, inputs: tuple[Tensor, ...], results: tuple[str, ...], outputs: tuple[Tensor, ...],
    island: Trace | None,
) -> Trace:  # fmt: skip
    """The whole network. `island` is the trace of `island_model`."""
    names = _names(draft.island, island)
    same = _same(draft.island, island, names)
    steps = [_renamed(step, same) for step in draft.steps]
    steps += _steps_of(island, names)
    results = tuple(same.get(name, name) for name in results)
    ordered = _ordered(steps, results)
    used = {name for call in ordered for name in call.arguments} | set(results)
    theirs = island.intermediates if island is not None else ()
    made = [*draft.tensors.values(), *(replace(t, name=names[t.name]) for t in theirs)]
    given = {t.name for t in inputs}
    constants = draft.constants | {names[n]: a for n, a in (island.constants if island else {}).items()}
    kernels: dict[str, Kernel] = {**draft.kernels, **(island.kernels if island else {})}
    return Trace(
        inputs=inputs,
        outputs=outputs,
        results=results,
        intermediates=tuple(t for t in made if t.name in used and t.name not in given),
        constants={name: array for name, array in constants.items() if name in used},
        kernels={call.kernel: kernels[call.kernel] for call in ordered},
        calls=ordered,
    )


def _names(island: Island, trace: Trace | None) -> dict[str, str]:
    """Tensors of the island's trace by their names in the whole network."""
    if trace is None:
        return {}
    names = {t.name: f"float {t.name}" for t in trace.intermediates} | {n: f"float {n}" for n in trace.constants}
    return names | {t.name: ours.name for t, ours in zip(trace.inputs, island.inputs.values(), strict=True)}


def _same(island: Island, trace: Trace | None, names: dict[str, str]) -> dict[str, str]:
    """Tensors that our calls read out of the island by what they really are."""
    if trace is None:
        return {}
    return {ours.name: names[result] for ours, result in zip(island.outputs.values(), trace.results, strict=True)}


def _renamed(step: Step, same: dict[str, str]) -> Step:
    def now(names: Iterable[str]) -> tuple[str, ...]:
        return tuple(same.get(name, name) for name in names)

    return Step(replace(step.call, arguments=now(step.call.arguments)), now(step.reads), now(step.writes))


def _steps_of(trace: Trace | None, names: dict[str, str]) -> list[Step]:
    """TVM's calls in order; what appears in one for the first time is written there."""
    if trace is None:
        return []
    known = {t.name for t in trace.inputs} | set(trace.constants)
    steps = []
    for call in trace.calls:
        writes = [name for name in call.arguments if name not in known]
        reads = [name for name in call.arguments if name in known and name not in trace.constants]
        known.update(writes)
        renamed = Call(call.kernel, tuple(names[n] for n in call.arguments))
        steps.append(Step(renamed, tuple(names[n] for n in reads), tuple(names[n] for n in writes)))
    return steps


def _ordered(steps: Sequence[Step], results: Sequence[str]) -> tuple[Call, ...]:
    """Each call after those that write what it reads, as late as it is needed; calls that nobody needs are left out."""
    writers: dict[str, list[int]] = {}
    for index, step in enumerate(steps):
        for name in step.writes:
            writers.setdefault(name, []).append(index)
    ordered: list[Call] = []
    state: dict[int, bool] = {}  # False while what it needs is being added
    ahead = [index for name in reversed(results) for index in reversed(writers.get(name, []))]
    while ahead:
        index = ahead[-1]
        if state.get(index):
            ahead.pop()
            continue
        needed = [w for name in steps[index].reads for w in writers.get(name, []) if not state.get(w)]
        if needed and index in state and any(w in state for w in needed):
            raise InvalidInput("integers and floats of this graph wait for each other", hint="report the model")
        state[index] = False
        if needed:
            ahead += reversed(needed)
            continue
        state[index] = True
        ordered.append(steps[ahead.pop()].call)
    return tuple(ordered)
