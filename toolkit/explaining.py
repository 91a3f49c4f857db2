"""Why did the answers move, and which layer did it? A bundle beside the float model that it was made of.

The float model is the bundle's own recipe up to the first pass that may change the answers, so the source and the
samples must still be there; who moved them names them again.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from math import inf, isfinite
from pathlib import Path
from typing import Any

from passes.compare import compare
from passes.context import Context
from passes.contract import Kind
from passes.dataset import Dataset
from passes.onnx_level.causes import Cause, causes
from passes.onnx_level.effects import Effect, Effects, measure
from passes.onnx_level.shorten_names import restore_names
from passes.onnx_level.switchboard import Switchboard
from passes.onnx_level.unrounding import in_float
from passes.program import Level, Program
from passes.recipe import Recipe
from passes.running import run
from targets.cost import estimate
from targets.errors import InvalidInput
from targets.stack import Stack
from targets.target import load_stack
from toolkit.bundle.bundle import Bundle, open_bundle
from toolkit.bundle.layout import GRAPH, NAMES
from toolkit.cache import DiskCache, fingerprint
from toolkit.config import Config, load_config
from toolkit.data import first_sample, load_data
from toolkit.names import IN_MEMORY
from toolkit.sources import load_source

__all__ = ["SAMPLES", "Explained", "Remedy", "explain_bundle"]

SAMPLES = 16
"""Samples that are looked at: each takes a run for every layer."""

_APART_DB = 1.0
_PRICED = 8  # of the worst layers, those whose float form is priced


@dataclass(frozen=True, kw_only=True)
class Remedy:
    """What leaving one layer in float would bring and cost: SQNR of the worst output, predicted seconds."""

    sqnr_db: float
    latency_s: tuple[float, float]

    @property
    def costs_s(self) -> float:
        return self.latency_s[1] - self.latency_s[0]


@dataclass(frozen=True, kw_only=True)
class Explained:
    """What moved the answers of a bundle.

    Args:
        sqnr_db: Of the worst output of the bundle's own graph.
        effects: Of every layer that differs from the float model, in the order in which they run.
        causes: By layer, what stands out in its weights and its activation.
        remedies: By layer, of the worst: leaving it in float.
        passes: The bundle's own proofs: what each pass did to the answers.
    """

    bundle: str
    stack: Stack
    data: str
    sqnr_db: float
    effects: Effects
    causes: dict[str, tuple[Cause, ...]]
    remedies: dict[str, Remedy]
    passes: tuple[dict[str, Any], ...]

    @property
    def unexplained(self) -> bool:
        """Whether the layers together do not come to what the bundle really answers: half precision, other kernels."""
        return abs(self.sqnr_db - self.effects.all_db) > _APART_DB

    @property
    def culprit(self) -> Effect | None:
        """The layer whose quantization alone does most harm; None where none moves the answers."""
        worst = self.effects.worst_first[:1]
        return worst[0] if worst and worst[0].alone_db < inf else None

    def to_json(self) -> dict[str, Any]:
        """A plain document; units are in the keys. A ratio without noise is null."""
        culprit, jump = self.culprit, self.effects.first_jump
        return {
            "schema": "toolkit.explain/1",
            "bundle": self.bundle,
            "stack": self.stack.id,
            "data": self.data,
            "samples": self.effects.samples,
            "sqnr_db": _finite(self.sqnr_db),
            "layers_sqnr_db": _finite(self.effects.all_db),
            "culprit": culprit.unit.name if culprit else None,
            "first_jump": jump.unit.name if jump else None,
            "layers": [self._layer(effect) for effect in self.effects.effects],
            "passes": list(self.passes),
        }

    def _layer(self, effect: Effect) -> dict[str, Any]:
        unit, seen, remedy = effect.unit, effect.seen, self.remedies.get(effect.unit.name)
        return {
            "layer": unit.name,
            "operator": unit.op_type,
            "tensor": unit.tensor,
            "module": unit.module,
            "source": unit.source,
            "alone_sqnr_db": _finite(effect.alone_db),
            "share_of_noise": effect.share,
            "own_tensor_sqnr_db": _finite(effect.local_db),
            "tensor_sqnr_db": _finite(effect.tensor_db),
            "inherited_sqnr_db": _finite(effect.inherited_db),
            "without_sqnr_db": None if effect.without_db is None else _finite(effect.without_db),
            "stored_range": list(unit.rounding.bounds) if unit.rounding else None,
            "seen_range": [seen.low, seen.high],
            "clipped_share": seen.clipped_share,
            "vanished_share": seen.vanished_share,
            "causes": [{"kind": c.kind, "text": c.text, "remedy": c.remedy} for c in self.causes[unit.name]],
            "without_latency_s": list(remedy.latency_s) if remedy else None,
        }


def explain_bundle(
    path: str | Path,
    *,
    model: Any = None,
    data: Any = None,
    samples: int = SAMPLES,
    save: str | Path | None = None,
    trust: bool = False,
    progress: Callable[[str, float], None] = lambda step, done: None,
) -> Explained:
    """Which layer moved the answers of the bundle at `path`, and why.

    Args:
        model: Where the source is now; what the bundle's recipe says where None.
        data: Where samples are now; those that the bundle was calibrated on where None.
        samples: How many are looked at.
        save: Folder that gets the worst layer alone, in float and as the bundle has it, with its inputs.
        trust: Load files that could run code.

    Raises:
        InvalidInput: the bundle is damaged, or nothing differs from the float model; the source or data are gone.
    """
    bundle = open_bundle(path)
    config = load_config(bundle.path / "recipe.yaml")
    stack = load_stack(str(bundle.manifest["stack"]))
    float_program, found = _float_program(bundle, config, stack, model, data, trust, progress)
    shipped = _shipped(bundle, float_program)
    board = Switchboard(float_program, shipped)
    moved = [
        p["pass"] for p in bundle.report["proofs"] if p["kind"] != "exact" and p["decision"] in ("kept", "narrowed")
    ]
    if not board.units and moved:
        raise InvalidInput(
            f"{bundle.path.name} was changed by {', '.join(moved)}, whose operators are not those of the float graph",
            hint="explain takes apart graphs of QuantizeLinear and DequantizeLinear; the proofs stand in report.html",
        )
    if not board.units:
        raise InvalidInput(
            f"no layer of {bundle.path.name} differs from the float model: there is nothing to explain",
            hint="the passes that were reverted stand in report.html; `toolkit compile --min-sqnr-db` moves the budget",
        )
    effects = measure(board, found.take(samples), progress=progress)
    result = Explained(
        bundle=bundle.path.name,
        stack=stack,
        data=found.name,
        sqnr_db=min((d.sqnr_db for d in compare(float_program, shipped, found.take(samples))), default=inf),
        effects=effects,
        causes={e.unit.name: causes(e) for e in effects.effects},
        remedies=_remedies(board, shipped, effects, stack),
        passes=tuple(bundle.report["proofs"]),
    )
    if save is not None and result.culprit is not None:
        from toolkit.failing_layer import save_layer

        save_layer(Path(save), board, result.culprit.unit, next(iter(found)))
    return result


def _float_program(
    bundle: Bundle,
    config: Config,
    stack: Stack,
    model: Any,
    data: Any,
    trust: bool,
    progress: Callable[[str, float], None],
) -> tuple[Program, Dataset]:
    """The source as the bundle's own exact passes leave it, and samples."""
    named = model if model is not None else config.model
    if named == IN_MEMORY or (data is None and config.data == IN_MEMORY):
        raise InvalidInput(
            "this bundle was made from a model or data in memory",
            hint="name them: --model and --data, or model= and data= in Python",
        )
    spec = data if data is not None else config.data
    try:
        sample = first_sample(spec)
        source = load_source(named, inputs=config.input, fixed=config.fix, sample=sample, trust=trust)
    except InvalidInput as error:
        raise InvalidInput(
            error.problem, hint=f"{error.hint}; --model and --data say where source and samples are now"
        ) from error
    if source.program.digest != bundle.manifest["model"]["digest"]:
        raise InvalidInput(
            f"{named or config.model} is not the model that {bundle.path.name} was made of: it was changed since",
            hint="name the old one with --model, or compile again",
        )
    samples = load_data(spec, source.program.signature, preprocess=config.preprocess) if spec is not None else None
    samples = samples or source.data
    if samples is None:
        raise InvalidInput("there are no samples to look at", hint="give some with --data")
    recipe = Recipe.from_data(config.recipe or "custom", config.passes or (), frozenset(source.program.facts))
    changing = (i for i, step in enumerate(recipe.passes) if step.kind is not Kind.EXACT)
    exact = replace(recipe, passes=recipe.passes[: next(changing, len(recipe.passes))])
    ctx = Context(stack=stack, data=samples, seed=config.seed, progress=progress)
    program = run(exact, source.program, ctx, cache=DiskCache(), fingerprint=fingerprint()).program
    if program.level is not Level.ONNX:
        raise InvalidInput(
            "this bundle was trained anew before it was exported: its float model is not the source",
            hint="`toolkit compile` it without training passes to see what quantization alone does",
        )
    return program, samples


def _shipped(bundle: Bundle, like: Program) -> Program:
    """The bundle's graph as a program beside the float one."""
    import onnx
    import onnx_ir

    file = bundle.path / GRAPH
    if not file.exists():
        raise InvalidInput(f"{bundle.path.name} holds no {GRAPH}", hint="compile again with this version")
    model = onnx_ir.from_proto(onnx.load_model_from_string(file.read_bytes()))
    if (bundle.path / NAMES).exists():
        restore_names(model, _names(bundle.path / NAMES))
    return like.with_model(model)


def _names(file: Path) -> object:
    try:
        return json.loads(file.read_text("utf-8"))
    except ValueError as error:
        raise InvalidInput(f"{file.name} is damaged", hint="compile again") from error


def _remedies(board: Switchboard, shipped: Program, effects: Effects, stack: Stack) -> dict[str, Remedy]:
    base = estimate(shipped.static_model, stack, as_is=True, quick=True).latency_s
    found = {}
    for effect in effects.worst_first[:_PRICED]:
        if effect.without_db is None:
            continue
        changed = in_float(shipped, board.units, {effect.unit.name})
        after = estimate(changed.static_model, stack, as_is=True, quick=True).latency_s
        found[effect.unit.name] = Remedy(sqnr_db=effect.without_db, latency_s=(base, after))
    return found


def _finite(value: float) -> float | None:
    return round(value, 2) if isfinite(value) else None
