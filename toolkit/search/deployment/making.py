"""Programs of configurations: each made once, without the proofs that a compile gives of the one that is chosen."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from threading import RLock
from typing import TYPE_CHECKING, Any

from passes.context import Budget, Context, Fit
from passes.contract import Pass, PassFailed
from passes.metric import TOP1
from passes.onnx_level.sites import key_of
from passes.program import Program, onnx_program
from passes.recipe import Recipe
from targets.cost import estimate
from targets.graph import MODULE_KEY
from targets.grouping import ANCHORS
from targets.stack import Stack
from targets.target import digest_of, vector_width
from toolkit.cache import fingerprint
from toolkit.digests import canonical_digest
from toolkit.search.deployment.kept import Kept
from toolkit.search.deployment.problem import Opened
from toolkit.search.deployment.recipes import FLOAT_BITS, bits_gene, deployed, float_recipe
from toolkit.search.genes import Value
from toolkit.trainers import TRAINER, trainer_for

if TYPE_CHECKING:
    import onnx
    import onnx_ir as ir

__all__ = ["UNBOUNDED", "Workshop", "blocks_of", "layer_in", "layers_of", "module_of"]

UNBOUNDED = Budget(min_sqnr_db=-1000.0, max_metric_drop=1.0)
"""What a search has judged itself is not to be narrowed by a compile."""
MOST_BLOCKS = 24
"""Choices of bits at most; a search of some hundred evaluations cannot tell more apart."""
_HELD, _HELD_MADE = 24, 4
_FEW = 4  # samples that say which operators a quantizer makes, but not how well its ranges fit
_WANTED = ("PruneChannels", "Factorise", "FactoriseAndTrain")
"""Passes without which a deployment is another one."""
_PROVED = 64  # samples on which repairs must bring answers nearer; a compile takes more, and those kept out here too
_SLOWER = 1.03  # as passes.contract judges


class Workshop:
    """Makes the programs of one problem.

    Args:
        kept: Where float graphs are kept: exporting one takes seconds.
    """

    def __init__(self, problem: Opened, kept: Kept) -> None:
        self.problem, self.kept = problem, kept
        self._floats: OrderedDict[str, Program] = OrderedDict()
        self._made: OrderedDict[str, Program] = OrderedDict()
        self._lock = RLock()

    def recipe(self, config: Mapping[str, Value], stack: Stack, *, epochs: int = 0) -> Recipe:
        """What `config` is for a compile, with `epochs` of training after something was taken out of the network."""
        return deployed(config, stack, self.problem.program.level, in_float=self._in_float(config, stack),
                        epochs=epochs)  # fmt: skip

    def made(self, config: Mapping[str, Value], stack: Stack, *, epochs: int = 0) -> Program:
        """The graph of `config`, as the stack's backend would get it.

        Raises:
            PassFailed: a pass without which there is no such deployment refuses the model.
        """
        recipe = self.recipe(config, stack, epochs=epochs)
        key = canonical_digest(["made", recipe.to_data(), digest_of(stack)])
        with self._lock:
            if key not in self._made:  # a trial that climbs to more samples asks for the same again
                start = self.floating(config, stack, epochs=epochs)
                self._made[key] = self._lowered(start, config, stack, self._context(stack))
                if len(self._made) > _HELD_MADE:
                    self._made.popitem(last=False)
            return self._made[key]

    def sketch(self, config: Mapping[str, Value], stack: Stack, *, shaped_for: Stack | None = None) -> Program:
        """A graph with the operators of `made`, and so with its price, but with ranges from a few samples.

        Args:
            shaped_for: The stack that decided what was taken out of the network; `stack` where None.
        """
        ctx = self._context(stack)
        few = replace(ctx, data=self.problem.parts.calibration.take(_FEW),
                      validation=self.problem.parts.searched.take(_FEW))  # fmt: skip
        with self._lock:
            return self._lowered(self.floating(config, shaped_for or stack), config, stack, few)

    def known(self, what: str, about: Sequence[object], make: Callable[[], Any]) -> Any:
        """A JSON document about this problem, found out once and kept on the disk."""
        return self.kept.found(self.key(what, about), make)

    def key(self, what: str, about: Sequence[object]) -> str:
        """What `known` finds it by."""
        opened = self.problem
        return canonical_digest([what, fingerprint(), opened.program.digest, opened.parts.digest, opened.problem.seed,
                                 list(about)])  # fmt: skip

    def _lowered(self, start: Program, config: Mapping[str, Value], stack: Stack, ctx: Context) -> Program:
        """The float graph in the precision of the configuration."""
        before = float_recipe(config, stack, self.problem.program.level).passes
        return _applied(self.recipe(config, stack).passes[len(before) :], start, ctx)

    def slowdown(self, program: Program, config: Mapping[str, Value], stack: Stack) -> float:
        """By how much `program` is predicted to be slower than its float graph, beyond what a compile lets pass.

        0 where a compile keeps it; above, it would take the stack's precision back.
        """
        if stack.rules:
            return 0.0  # an accelerator takes integers, whatever its host could do
        before, after = (
            estimate(p.static_model, stack, as_is=True, quick=True).latency_s
            for p in (self.floating(config, stack), program)
        )
        return max(0.0, after / (before * _SLOWER) - 1)

    def floating(self, config: Mapping[str, Value], stack: Stack, *, epochs: int = 0) -> Program:
        """The float graph of `config`: folded and fused, with what was to be taken out gone and the rest trained."""
        recipe = float_recipe(config, stack, self.problem.program.level, epochs=epochs)
        key = self._key(recipe, stack)
        with self._lock:
            if key not in self._floats:
                self._floats[key] = self._floated(recipe, stack, key)
                if len(self._floats) > _HELD:
                    self._floats.popitem(last=False)
            self._floats.move_to_end(key)
            return self._floats[key]

    def _floated(self, recipe: Recipe, stack: Stack, key: str) -> Program:
        """Without the module that it came from: that one is its own reference, and is asked for nothing."""
        import onnx_ir

        start = self.problem.program

        def made() -> bytes:
            ctx = self._context(stack)
            return _applied(recipe.passes, start, replace(ctx, fit=self._fit(recipe, ctx))).onnx_bytes

        model = onnx_ir.from_proto(_parsed(self.kept.content(key, made)))
        facts = frozenset().union(*(step.gives for step in recipe.passes), recipe.given, start.facts)
        program = onnx_program(start.name, model, start.signature, start.example, start.assumed)
        return replace(program, facts=program.facts | facts)

    def _key(self, recipe: Recipe, stack: Stack) -> str:
        """Stacks share what was made without asking them."""
        names = {step.name for step in recipe.passes}
        thin = {"Factorise", "FactoriseAndTrain"}
        asked = digest_of(stack) if names & thin else vector_width(stack) if "PruneChannels" in names else 0
        return canonical_digest([
            "float graph", fingerprint(), self.problem.program.digest, recipe.to_data(), self.problem.problem.seed,
            self.problem.parts.calibration.digest, asked,
        ])  # fmt: skip

    def _in_float(self, config: Mapping[str, Value], stack: Stack) -> list[str]:
        """Names of nodes, in their order, that the configuration leaves in float on a stack of integers."""
        wanted = {name for name, value in config.items() if value == FLOAT_BITS and name.startswith("layers.")}
        if not wanted:
            return []
        graph = self.floating(config, stack).graph
        blocks = blocks_of(self.floating({}, stack))
        chosen = [layer for name, layers in blocks.items() if bits_gene(name) in wanted for layer in layers]
        anchors = [node for node in graph if node.op_type in ANCHORS and node.name]
        return [str(node.name) for node in anchors if layer_in(module_of(node), chosen)]

    def _fit(self, recipe: Recipe, ctx: Context) -> Fit | None:
        """As a compile trains: on the user's data, else on what the zoo trained with."""
        source, problem = self.problem.source, self.problem.problem
        data = ctx.data if problem.data is not None else source.training or ctx.data
        return trainer_for(recipe, source.program, ctx, trainer=TRAINER, data=data, folder=None)

    def _context(self, stack: Stack) -> Context:
        parts, seed = self.problem.parts, self.problem.problem.seed
        return Context(stack=stack, data=parts.calibration, validation=parts.searched.take(_PROVED), seed=seed,
                       budget=UNBOUNDED, metric=TOP1 if parts.searched.labels is not None else None)  # fmt: skip


def layers_of(program: Program) -> list[str]:
    """Layers with weights of a float graph, in their order: by their module, else by their node."""
    names = [
        module_of(node)
        for node in program.graph
        if node.op_type in ANCHORS and node.name and len(node.inputs) > 1 and _is_constant(node.inputs[1])
    ]
    return list(dict.fromkeys(names))


def blocks_of(program: Program) -> dict[str, tuple[str, ...]]:
    """Layers that choose together, by the name of the first: each alone, or neighbours where there are many."""
    layers = layers_of(program)
    size = -(-len(layers) // MOST_BLOCKS) if layers else 1
    return {layers[k]: tuple(layers[k : k + size]) for k in range(0, len(layers), size)}


def module_of(node: ir.Node) -> str:
    """What made a node: its module, else the node itself."""
    return node.metadata_props.get(MODULE_KEY, "") or key_of(node)


def _is_constant(value: object) -> bool:
    return getattr(value, "const_value", None) is not None


def layer_in(module: str, layers: Sequence[str]) -> str:
    """That of `layers` which `module` is, or is a part of."""
    return next((name for name in layers if module == name or module.startswith(f"{name}.")), "")


def _applied(steps: Sequence[Pass], program: Program, ctx: Context) -> Program:
    """`program` after `steps`. What a pass refuses is left out, as a compile leaves it out."""
    for step in steps:
        try:
            if missing := step.needs - program.facts:
                raise PassFailed(f"{step.name} needs {', '.join(sorted(missing))}", hint="see the passes before it")
            step.requires(program, ctx)
            after = step.apply(program, ctx)
            step.ensures(program, after, ctx)
        except PassFailed:
            if step.essential or step.name in _WANTED:
                raise
            continue
        program = after.with_facts((program.facts - step.breaks) | step.gives, program.truth)
    return program


def _parsed(content: bytes) -> onnx.ModelProto:
    import onnx

    return onnx.load_model_from_string(content)
