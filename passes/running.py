"""Run a recipe: pass after pass, each judged, with finished ones kept so that a run that was cut off goes on."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

from passes.context import Context
from passes.contract import Kind, Pass, PassFailed
from passes.program import Level, Program
from passes.proof import Decision, Proof
from passes.recipe import Recipe
from targets.target import digest_of

__all__ = ["Outcome", "PassCache", "run"]


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
    prepared: Callable[[Program], None] = lambda program: None,
) -> Outcome:
    """Apply every pass of `recipe` in turn.

    A pass that cannot take this model is skipped with its reason, and so is one whose needs were lost that way.

    Args:
        cache: Where finished passes are kept; a run that was cut off goes on after the last of them.
        fingerprint: Of the code and versions that decide results; part of every key.
        dump: Folder that gets `02-FoldConstants.onnx` and so on.
        note: Called with each proof as it is known.
        prepared: Called once with the graph before the first pass on it that changes answers, or the last one; may
            refuse it.
    """
    keys = _keys(recipe, program, ctx, fingerprint) if cache else []
    named = next((i for i, step in enumerate(recipe.passes) if step.renames), len(keys))
    exported, program, proofs = _resume(cache, keys[:named], program)
    for proof in proofs:
        note(proof)
    waiting = all(proof.kind == Kind.EXACT for proof in proofs) or exported is None
    for position, step in enumerate(recipe.passes[len(proofs) :], start=len(proofs)):
        if waiting and program.level is Level.ONNX and step.kind is not Kind.EXACT:
            prepared(program)
            waiting = False
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
    if waiting:
        prepared(program)
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
        skipped = Proof(name=step.name, settings=step.settings, kind=str(step.kind), decision=Decision.SKIPPED,
                        reason=reason, changed=False)  # fmt: skip
        return program, skipped


def _keys(recipe: Recipe, program: Program, ctx: Context, fingerprint: str) -> list[str]:
    """A key for each step that covers the source, every pass so far, and all of the context that passes read.

    Exact passes on the module ask nothing of the stack, and no cost is known yet: stacks share what they made.
    """
    parts = [
        fingerprint,
        program.digest,
        program.name,
        _source_lines(program),
        str(program.signature),
        _example(program),
        ctx.data.digest if ctx.data else "",
        ctx.validation.digest if ctx.validation else "",
        ctx.metric.name if ctx.metric else "",
        str(ctx.seed),
        str(ctx.budget),
        ctx.pace.key if ctx.pace else "",
        *([ctx.fit.key] if ctx.fit else []),
    ]
    state = hashlib.sha256("\n".join(parts).encode())
    keys = []
    shared = True
    for step, entry in zip(recipe.passes, recipe.to_data(), strict=True):
        if shared and not (step.level is Level.TORCH and step.kind is Kind.EXACT):
            shared = False
            state.update(digest_of(ctx.stack).encode())
        state.update(json.dumps(entry, sort_keys=True).encode())
        keys.append(state.hexdigest())
    return keys


def _example(program: Program) -> str:
    """Sizes that the signature leaves open decide costs, and what is proved where there are no data."""
    return json.dumps({name: [a.dtype.str, a.shape] for name, a in program.example.items()}, sort_keys=True)


def _source_lines(program: Program) -> str:
    if program.level is Level.ONNX:
        return ""
    from passes.torch_level.capture import source_lines

    return source_lines(program)


def _last_float(cache: PassCache, keys: Sequence[str], like: Program) -> Program | None:
    """The last stored program that was not quantized."""
    for key in reversed(keys):
        program = cache.program(key, like)
        if program is not None and "int8" not in program.facts:
            return program
    return like if like.level is Level.ONNX else None


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
        if latest is not None and "int8" in latest.facts:
            latest = replace(latest, floating=_last_float(cache, [keys[i] for i in stored], start))
        if latest is not None and first is not None:
            return first, latest, proofs[: stored[-1] + 1]
        stored.pop()
    return exported, start, []
