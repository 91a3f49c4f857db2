"""What an accelerator refuses, by rule files in `rules/`, and the partition that follows from it."""

from __future__ import annotations

import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cache
from importlib.resources import files

from targets.errors import UnknownName
from targets.stack import Stack
from targets.workload import Operator, Workload

__all__ = ["Placement", "Rules", "load_rules", "place", "refusals", "rule_names", "runs"]


@dataclass(frozen=True, kw_only=True)
class Rules:
    """Operators that an accelerator runs. `partition` is "prefix" where one refusal sends the rest to the host too.

    `operators` maps an ONNX operator to the name of a condition in `CONDITIONS`, or "" for none; those in `unverified`
    are in wide use, but stand in no published list that was read. `cycles` are its compiler's, for a unit of each cause
    of targets.latency; `instruction_bytes` go over the link at every inference, for an operator (`launch`) and for a
    byte of activations.
    """

    name: str
    partition: str
    needs_dtype: str
    max_rank: int
    operators: Mapping[str, str]
    unverified: frozenset[str]
    source: str
    cycles: Mapping[str, float]
    clock_hz: float
    instruction_bytes: Mapping[str, float]


@dataclass(frozen=True, slots=True)
class Placement:
    """Where an operator runs; `reason` is empty on the accelerator; `crosses` are bytes that it moves over the link."""

    place: str
    reason: str = ""
    crosses: int = 0


def _weights_are_constant(op: Operator) -> str:
    return "" if op.weight_bytes else "its weights are not constant"


def _rank_at_most_four(op: Operator) -> str:
    return "" if op.rank <= 4 else f"its output has {op.rank} dimensions"


_CONVERSIONS = ("QuantizeLinear", "DequantizeLinear")  # to and from float at the edge of the graph: always the host's

CONDITIONS: Mapping[str, Callable[[Operator], str]] = {
    "": lambda op: "",
    "constant_weights": _weights_are_constant,
    "rank_4": _rank_at_most_four,
}


def rule_names() -> list[str]:
    """Every accelerator that has rules, sorted."""
    entries = files("targets").joinpath("rules").iterdir()
    return sorted(p.name.removesuffix(".toml") for p in entries if p.name.endswith(".toml"))


@cache
def load_rules(name: str) -> Rules:
    """Read `rules/<name>.toml`.

    Raises:
        UnknownName: there is no such file.
    """
    if name not in rule_names():
        raise UnknownName("operator rules", name, rule_names())
    data = tomllib.loads(files("targets").joinpath("rules", f"{name}.toml").read_text("utf-8"))
    return Rules(**{**data, "unverified": frozenset(data.get("unverified", ()))})


def refusals(op: Operator, rules: Rules) -> str:
    """Why the accelerator does not run `op`, or an empty string."""
    if op.op_type not in rules.operators:
        return f"{op.op_type} is not in the operator list of {rules.name}"
    if rules.needs_dtype and op.dtype not in (rules.needs_dtype, f"u{rules.needs_dtype}"):
        return f"it computes in {op.dtype}, {rules.name} needs {rules.needs_dtype}"
    for folded in op.fused:
        if folded not in rules.operators:
            return f"{folded} is not in the operator list of {rules.name}"
    if not op.static:
        return "its shape is not static"
    if rules.max_rank and op.rank > rules.max_rank:
        return f"its output has {op.rank} dimensions, {rules.name} takes {rules.max_rank}"
    return CONDITIONS[rules.operators[op.op_type]](op)


def runs(stack: Stack, op_type: str) -> bool:
    """Whether operators of this kind may stay on the stack's accelerator; any stack without rules has them all."""
    return not stack.rules or op_type in load_rules(stack.rules).operators


def place(workload: Workload, stack: Stack) -> list[Placement]:
    """Where each operator runs on `stack`, in the workload's order."""
    if not stack.rules:
        return [Placement("device")] * len(workload.operators)
    rules = load_rules(stack.rules)
    placements: list[Placement] = []
    left = ""
    for op in workload.operators:
        reason = "" if op.op_type in _CONVERSIONS else left or refusals(op, rules)
        on_host = reason or op.op_type in _CONVERSIONS
        placements.append(Placement("host" if on_host else stack.rules, reason))
        if reason and rules.partition == "prefix" and not left:
            left = f"it comes after {op.name}, which leaves the accelerator"
    return _with_copies(workload, placements)


def _with_copies(workload: Workload, placements: list[Placement]) -> list[Placement]:
    """Add the bytes that cross: a tensor moves once, for the first operator on the other side that reads it; the
    caller's tensors are the host's."""
    lies = {name: {"host"} for name in workload.inputs}
    for op, where in zip(workload.operators, placements, strict=True):
        lies |= {name: {where.place} for name in op.writes}
    found, wanted = [], set(workload.outputs)
    for op, where in zip(workload.operators, placements, strict=True):
        moved = [name for name in op.reads if where.place not in lies.setdefault(name, {where.place})]
        for name in moved:
            lies[name].add(where.place)
        moved += [name for name in op.writes if name in wanted and where.place != "host"]
        found.append(replace(where, crosses=sum(workload.tensor_bytes[name] for name in moved)))
    return found
