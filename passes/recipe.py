"""A recipe: an ordered tuple of passes, built for a stack from its capabilities, checked when built, run cached."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Protocol, get_type_hints

from pydantic import TypeAdapter, ValidationError

from passes.context import Context
from passes.contract import Kind, Pass, PassFailed
from passes.onnx_level.cast_float16 import CastFloat16
from passes.onnx_level.convert_opset import ConvertOpset
from passes.onnx_level.fold_constants import FoldConstants
from passes.onnx_level.fuse_activation import FuseActivation
from passes.onnx_level.fuse_batch_norm import FuseBatchNorm
from passes.onnx_level.quantize_int8 import QuantizeInt8
from passes.program import Level, Program
from passes.proof import Decision, Proof
from passes.torch_level.export import LOWEST_OPSET, Export
from passes.torch_level.fold_batch_norm import FoldBatchNorm
from targets.errors import InvalidInput, UnknownName
from targets.stack import Stack

__all__ = ["PASSES", "RECIPES", "Outcome", "PassCache", "Recipe", "recipe_for", "run"]

PASSES: Mapping[str, type[Pass]] = {
    p.__name__: p
    for p in (
        FoldBatchNorm,
        Export,
        FoldConstants,
        FuseBatchNorm,
        FuseActivation,
        ConvertOpset,
        CastFloat16,
        QuantizeInt8,
    )
}
"""Every pass, by the name that recipes use."""


@dataclass(frozen=True)
class Recipe:
    """Passes in order. `given` are the facts that hold before the first one.

    Raises:
        InvalidInput: a pass needs a fact that no earlier pass gives.
    """

    name: str
    passes: tuple[Pass, ...]
    given: frozenset[str] = frozenset()

    def __post_init__(self) -> None:
        facts = set(self.given)
        for step in self.passes:
            if missing := step.needs - facts:
                raise InvalidInput(
                    f"recipe {self.name!r}: {step.name} needs {', '.join(sorted(missing))}",
                    hint=f"put a pass that gives it before {step.name}; `toolkit passes` lists them",
                )
            facts = (facts - step.breaks) | step.gives

    def to_data(self) -> list[dict[str, Any]]:
        """The passes as plain data, as recipe.yaml holds them."""
        return [{"pass": step.name, **step.settings} for step in self.passes]

    @classmethod
    def from_data(cls, name: str, data: Sequence[Mapping[str, Any]], given: frozenset[str] = frozenset()) -> Recipe:
        """Inverse of `to_data`.

        Raises:
            UnknownName: there is no such pass.
            InvalidInput: a pass has no such setting, or the order does not work.
        """
        return cls(name, tuple(_pass_from_data(entry) for entry in data), given)


def _pass_from_data(entry: Mapping[str, Any]) -> Pass:
    settings = dict(entry)
    name = str(settings.pop("pass", ""))
    if name not in PASSES:
        raise UnknownName("pass", name, PASSES)
    known = [f.name for f in fields(PASSES[name])]  # type: ignore[arg-type]
    for setting in settings:
        if setting not in known:
            raise UnknownName(f"setting of {name}", setting, known)
    kinds = get_type_hints(PASSES[name])
    values = {}
    for setting, value in settings.items():
        plain = tuple(value) if isinstance(value, list) else value
        try:
            values[setting] = TypeAdapter(kinds[setting]).validate_python(plain, strict=True)
        except ValidationError as error:
            raise InvalidInput(
                f"recipe: {name}: {setting}: {error.errors()[0]['msg']}", hint=f"settings of {name}: {', '.join(known)}"
            ) from error
    try:
        return PASSES[name](**values)
    except TypeError as error:
        raise InvalidInput(f"recipe: {error}", hint=f"settings of {name}: {', '.join(known)}") from error


# ---- the recipes


def float32(stack: Stack, level: Level) -> Recipe:
    """Fold and fuse; the answers stay those of the source."""
    steps: tuple[Pass, ...] = (FoldConstants(), FuseBatchNorm(), FuseActivation())
    if stack.opset < LOWEST_OPSET or level is Level.ONNX:
        steps += (ConvertOpset(stack.opset),)
    if level is Level.TORCH:
        return Recipe("float32", (FoldBatchNorm(), Export(max(stack.opset, LOWEST_OPSET)), *steps))
    return Recipe("float32", steps, frozenset({"exported"}))


def float16(stack: Stack, level: Level) -> Recipe:
    """float32, then weights and activations in half precision."""
    base = float32(stack, level)
    return Recipe("float16", (*base.passes, CastFloat16()), base.given)


def int8(stack: Stack, level: Level) -> Recipe:
    """float32, then QDQ in the format that the stack wants."""
    base = float32(stack, level)
    format_ = stack.quantization
    if format_ is None:
        raise InvalidInput(f"{stack.id} has no integer format", hint="choose an int8 stack: `toolkit targets`")
    quantize = QuantizeInt8(
        activation=format_.activation,
        activation_symmetric=format_.activation_symmetric,
        per_channel=format_.per_channel,
    )
    return Recipe("int8", (*base.passes, quantize), base.given)


RECIPES: Mapping[str, Callable[[Stack, Level], Recipe]] = {"float32": float32, "float16": float16, "int8": int8}
"""The whole registry."""


def recipe_for(stack: Stack, level: Level) -> Recipe:
    """The recipe that a stack wants for a model that comes at `level`."""
    if stack.quantization is not None and stack.precision == "int8":
        return int8(stack, level)
    if stack.precision == "fp16" and not stack.loads_float32:
        return float16(stack, level)
    return float32(stack, level)


# ---- running one


class PassCache(Protocol):
    """Remembers what a pass made, by a key that covers everything it depends on."""

    def proof(self, key: str) -> tuple[Proof, bool] | None:
        """The stored proof, and whether the program is stored with it: torch modules are not."""

    def program(self, key: str, like: Program) -> Program | None:
        """The stored program, with the signature and reference of `like`."""

    def store(self, key: str, program: Program, proof: Proof) -> None:
        """Keep a result."""


@dataclass(frozen=True)
class Outcome:
    """What a recipe made. `exported` is the first program at the ONNX level: the float model as it came."""

    program: Program
    exported: Program
    proofs: tuple[Proof, ...]


def run(
    recipe: Recipe,
    program: Program,
    ctx: Context,
    *,
    cache: PassCache | None = None,
    fingerprint: str = "",
    dump: Path | None = None,
    note: Callable[[Proof], None] = lambda proof: None,
) -> Outcome:
    """Apply every pass of `recipe` in turn.

    A pass that cannot take this model is skipped with its reason, and so is one whose needs were lost that way.

    Args:
        cache: Where finished passes are kept; a run that was cut off goes on after the last of them.
        fingerprint: Of the code and versions that decide results; part of every key.
        dump: Folder that gets `02-FoldConstants.onnx` and so on.
        note: Called with each proof as it is known.
    """
    keys = _keys(recipe, program, ctx, fingerprint) if cache else []
    exported, program, proofs = _resume(cache, keys, program)
    for proof in proofs:
        note(proof)
    for position, step in enumerate(recipe.passes[len(proofs) :], start=len(proofs)):
        ctx.progress(step.name, position / len(recipe.passes))
        program, proof = _step(step, program, ctx)
        proofs.append(proof)
        note(proof)
        if exported is None and program.level is Level.ONNX:
            exported = program
        if cache:
            cache.store(keys[position], program, proof)
        if dump is not None and program.level is Level.ONNX:
            dump.mkdir(parents=True, exist_ok=True)
            (dump / f"{position + 1:02}-{step.name}.onnx").write_bytes(program.onnx_bytes)
    ctx.progress("passes", 1.0)
    return Outcome(program, exported or program, tuple(proofs))


def _step(step: Pass, program: Program, ctx: Context) -> tuple[Program, Proof]:
    try:
        if missing := step.needs - program.facts:
            raise PassFailed(
                f"needs {', '.join(sorted(missing))}, which an earlier pass did not give", hint="see above"
            )
        return step(program, ctx)
    except PassFailed as refusal:
        if step.essential:
            raise
        reason = f"{refusal.problem} ({refusal.hint})"
        skipped = Proof(
            name=step.name, settings=step.settings, kind=str(step.kind), decision=Decision.SKIPPED, reason=reason
        )
        return program, skipped


def _keys(recipe: Recipe, program: Program, ctx: Context, fingerprint: str) -> list[str]:
    """A key for each step that covers the source, every pass so far, and all of the context that passes read."""
    parts = [
        fingerprint,
        program.digest,
        str(program.signature),
        ctx.stack.digest(),
        ctx.data.digest if ctx.data else "",
        ctx.validation.digest if ctx.validation else "",
        ctx.metric.name if ctx.metric else "",
        str(ctx.seed),
        str(ctx.budget),
    ]
    state = hashlib.sha256("\n".join(parts).encode())
    keys = []
    for entry in recipe.to_data():
        state.update(json.dumps(entry, sort_keys=True).encode())
        keys.append(state.hexdigest())
    return keys


def _resume(
    cache: PassCache | None, keys: Sequence[str], start: Program
) -> tuple[Program | None, Program, list[Proof]]:
    """The first and the latest stored program, and the proofs up to the latter."""
    exported = start if start.level is Level.ONNX else None
    proofs: list[Proof] = []
    stored: list[int] = []
    for position, key in enumerate(keys):
        found = cache.proof(key) if cache else None
        if found is None:
            break
        if found[0].kind == Kind.RETRAINED:
            break  # its result is the reference of what follows, and is not stored
        proofs.append(found[0])
        if found[1]:
            stored.append(position)
    while cache and stored:
        latest = cache.program(keys[stored[-1]], start)
        first = exported or (latest if len(stored) == 1 else cache.program(keys[stored[0]], start))
        if latest is not None and first is not None:
            return first, latest, proofs[: stored[-1] + 1]
        stored.pop()
    return exported, start, []
