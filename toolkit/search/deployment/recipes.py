"""From a configuration to what a compile is told: the stack, and a recipe as recipe.yaml holds it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Literal, cast

from passes.contract import Pass
from passes.onnx_level.correct_bias import CorrectBias
from passes.onnx_level.quantize_dynamic import QuantizeDynamic
from passes.onnx_level.quantize_int8 import QuantizeInt8
from passes.onnx_level.ranges import Method
from passes.program import Level
from passes.recipe import RECIPES, Recipe
from passes.torch_level.low_rank import Factorise, FactoriseAndTrain
from passes.torch_level.prune_channels import PruneChannels
from targets.stack import Stack
from toolkit.search.genes import Value

__all__ = ["FLOAT_BITS", "bits_gene", "deployed", "float_recipe"]

FLOAT_BITS = 32


def bits_gene(layer: str) -> str:
    """The gene that says in how many bits a layer computes."""
    return f"layers.{layer}.bits"


def float_recipe(config: Mapping[str, Value], stack: Stack, level: Level, *, epochs: int = 0) -> Recipe:
    """All of the recipe that comes before the stack's own precision: what is taken from the network, and folding.

    Args:
        epochs: Of the training after channels are removed or layers made thin; 0 trains nothing.
    """
    base = RECIPES["float32"](stack, level)
    changes = _structure(config, epochs)
    if not changes:
        return base
    at = next(i for i, step in enumerate(base.passes) if "module_clean" in step.gives) + 1
    return Recipe("deployment", (*base.passes[:at], *changes, *base.passes[at:]), base.given)


def deployed(
    config: Mapping[str, Value], stack: Stack, level: Level, *, in_float: Sequence[str] = (), epochs: int = 0
) -> Recipe:
    """The whole recipe of a configuration.

    Args:
        in_float: Names of the nodes whose layers stay in float where the others become integers.
    """
    base = float_recipe(config, stack, level, epochs=epochs)
    return Recipe("deployment", (*base.passes, *_precision(config, stack, level, in_float)), base.given)


def _structure(config: Mapping[str, Value], epochs: int) -> tuple[Pass, ...]:
    kind = config.get("structure", "whole")
    if kind == "pruned":
        by: Literal["magnitude", "taylor"] = "taylor" if config["importance"] == "taylor" else "magnitude"
        return (PruneChannels(ratio=float(config["prune_ratio"]), importance=by, epochs=epochs),)
    if kind == "thin":
        error = float(config["rank_error"])
        return (FactoriseAndTrain(error=error, epochs=epochs) if epochs else Factorise(error=error),)
    return ()


def _precision(
    config: Mapping[str, Value], stack: Stack, level: Level, in_float: Sequence[str]
) -> tuple[Pass, ...]:  # fmt: skip
    """What the stack's own recipe adds to float32, set as the configuration says."""
    if stack.precision == "fp16" and not stack.loads_float32:
        return _beyond("float16", stack, level)
    if stack.precision == "int8":
        left_out: list[type[Pass]] = [QuantizeInt8 if config.get("scales") == "dynamic" else QuantizeDynamic]
        left_out += [] if config.get("correct_bias") else [CorrectBias]
        steps = [step for step in _beyond("int8", stack, level) if not isinstance(step, tuple(left_out))]
        return tuple(_set(step, config, in_float) for step in steps)
    weights = config.get("weight_bits", FLOAT_BITS)
    return () if weights == FLOAT_BITS else _beyond(f"weights{weights}", stack, level)


def _beyond(name: str, stack: Stack, level: Level) -> tuple[Pass, ...]:
    return RECIPES[name](stack, level).passes[len(RECIPES["float32"](stack, level).passes) :]


def _set(step: Pass, config: Mapping[str, Value], in_float: Sequence[str]) -> Pass:
    if isinstance(step, QuantizeDynamic):
        return replace(step, exclude=tuple(in_float))
    if isinstance(step, QuantizeInt8):
        return replace(step, ranges=cast(Method, config.get("ranges", step.ranges)), exclude=tuple(in_float))
    return step
