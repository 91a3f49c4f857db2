"""Which deployments of a model there are on a target: genes whose every value a compile turns into other bytes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from targets.errors import ToolkitError
from targets.stack import Stack
from targets.target import Target, digest_of
from toolkit.backends import BACKENDS
from toolkit.errors import UsageError
from toolkit.search.config_space import Config, ConfigSpace
from toolkit.search.deployment.making import Workshop, blocks_of
from toolkit.search.deployment.recipes import FLOAT_BITS, bits_gene
from toolkit.search.deployment.structures import STRUCTURE, Progress, Structures, silent, structures_of
from toolkit.search.genes import Choice, Conditional, Gene, Value

__all__ = ["deployment_space", "mixes", "stacks_of"]

_RANGES = ("minmax", "percentile", "mse")


def stacks_of(target: Target, workshop: Workshop, named: str | None = None) -> list[Stack]:
    """The stacks of `target` that a search chooses among: the one that was named, else those that were measured.

    Superseded ones and programs that nobody tuned are left out, and so is what a backend refuses to lower, and a stack
    of integers on which this network is predicted to be slower than in float: a compile would take them back.

    Raises:
        UsageError: no stack runs the model.
    """
    names = [named] if named else [target.default_stack, *(s.name for s in _measured(target))]
    found, why = [], ""
    for name in dict.fromkeys(names):
        stack = target.stack(name)
        try:
            BACKENDS[stack.backend].check(workshop.floating({}, stack), stack)
        except ToolkitError as error:
            why = error.problem
            continue
        if named or not _is_slower(stack, workshop):
            found.append(stack)
    if not found:
        raise UsageError(f"no stack of {target.name} runs this model: {why}", hint="toolkit check says what is refused")
    return found


def _is_slower(stack: Stack, workshop: Workshop) -> bool:
    if not mixes(stack):
        return False
    found: float = workshop.known(
        "slowdown", [digest_of(stack)], lambda: workshop.slowdown(workshop.sketch({}, stack), {}, stack)
    )
    return found > 0


def _scales_at_run_time(stack: Stack, workshop: Workshop) -> bool:
    """Whether the stack multiplies integers whose scales it finds itself, and this network is one for that."""
    if stack.quantization is None or not stack.quantization.dynamic:
        return False
    return "int8" in workshop.made({"scales": "dynamic"}, stack).facts


def _measured(target: Target) -> list[Stack]:
    return [
        s for s in target.stacks.values()
        if s.batch == 1 and not s.superseded_by and not s.machine and s.latency.calibrated
        and (s.precision != "int8" or s.quantization is not None)
    ]  # fmt: skip


def deployment_space(workshop: Workshop, stacks: Sequence[Stack], progress: Progress = silent) -> ConfigSpace:
    """The genes of a model on `stacks` of one target.

    Threads and power modes are settings of the device, not of what is compiled: they are no genes; a stack states its
    own. The size of inputs is none, since the samples have one. Zeros in weights are none either: no stack's latency,
    memory or file is predicted to change by them.
    """
    names = [stack.name for stack in stacks]
    genes: list[Gene | Conditional] = [Choice("stack", tuple(names), ordered=False)]
    genes += _structure_genes(structures_of(workshop, stacks[0], progress))
    integers = [s.name for s in stacks if s.precision == "int8"]
    dynamic = [s.name for s in stacks if _scales_at_run_time(s, workshop)]
    if integers:
        on_integers: dict[str, Sequence[Value]] = {"stack": integers}
        if dynamic:
            genes.append(Conditional(Choice("scales", ("static", "dynamic"), ordered=False), dict(on_integers)))
            on_integers["scales"] = ["static"]
        one = next(s for s in stacks if s.name in integers)
        progress("ranges and biases", 0.0)
        for name, values, ordered in (("ranges", _RANGES, False), ("correct_bias", (False, True), True)):
            if len(differing := _differing(workshop, one, name, values)) > 1:
                genes.append(Conditional(Choice(name, differing, ordered=ordered), on_integers))
    stored = [s.name for s in stacks if _stores_fewer_bits(s, workshop)]
    if stored:
        genes.append(Conditional(Choice("weight_bits", (8, FLOAT_BITS)), {"stack": stored}))
    mixed = [s for s in stacks if mixes(s)]
    if mixed:
        for block in blocks_of(workshop.floating({}, mixed[0])):
            genes.append(Conditional(Choice(bits_gene(block), (8, FLOAT_BITS)), {"stack": [s.name for s in mixed]}))
    floats = {s.name: _float_twin(s, names) for s in mixed}
    return ConfigSpace(genes, lambda config: _repaired(config, floats, dynamic))


def mixes(stack: Stack) -> bool:
    """Whether a stack of integers also computes layers in float, at a price that is known."""
    return stack.precision == "int8" and bool(stack.float_stack) and not stack.rules


def _structure_genes(found: Structures) -> list[Gene | Conditional]:
    """What may be taken out of the network."""
    kinds = ("whole", *(("pruned",) if found.ratios else ()), *(("thin",) if found.errors else ()))
    if len(kinds) == 1:
        return []
    genes: list[Gene | Conditional] = [Choice("structure", kinds, ordered=False)]
    if found.ratios:
        genes.append(Conditional(Choice("prune_ratio", found.ratios), {"structure": ["pruned"]}))
        genes.append(Conditional(Choice("importance", ("magnitude", "taylor"), ordered=False),
                                 {"structure": ["pruned"]}))  # fmt: skip
    if found.errors:
        genes.append(Conditional(Choice("rank_error", found.errors), {"structure": ["thin"]}))
    return genes


def _differing(workshop: Workshop, stack: Stack, name: str, values: Sequence[Value]) -> tuple[Value, ...]:
    """The values, of those that lead to one graph the first: few samples have no outliers to be left out of ranges.

    Where a few samples tell all values apart, more of them do.
    """

    def first_of_each() -> list[Value]:
        found: dict[str, Value] = {}
        for make in (workshop.sketch, workshop.made):
            found = {}
            for value in values:
                found.setdefault(make({name: value}, stack).digest, value)
            if len(found) == len(values):
                break
        return list(found.values())

    return tuple(workshop.known("differing", [name, values, digest_of(stack)], first_of_each))


def _stores_fewer_bits(stack: Stack, workshop: Workshop) -> bool:
    """Whether the stack's runtime widens weights of 8 bits once at load, and this network has any that are worth it."""
    if stack.precision != "fp32" or stack.runtime != "onnxruntime":
        return False
    return workshop.made({"weight_bits": 8}, stack).digest != workshop.floating({}, stack).digest


def _float_twin(stack: Stack, names: Sequence[str]) -> str:
    """The stack among `names` that computes all in float as `stack` would; empty where there is none."""
    twin = stack.float_stack.rpartition("/")[2]
    return twin if twin in names else ""


def _repaired(config: Mapping[str, Value], floats: Mapping[str, str], dynamic: Sequence[str]) -> Config:
    """Scales are known before where the stack finds none at run time. No layer in integers on a stack of integers is
    the float stack, where that is one of them; else all are in integers."""
    legal = dict(config)
    stack = str(config["stack"])
    if legal.get("scales") == "dynamic" and stack not in dynamic:
        legal["scales"] = "static"
    bits = [name for name in config if name.startswith("layers.")]
    if not bits or any(config[name] != FLOAT_BITS for name in bits):
        return legal
    if twin := floats.get(stack):
        return {name: value for name, value in legal.items() if name in STRUCTURE} | {"stack": twin}
    return legal | dict.fromkeys(bits, 8)
