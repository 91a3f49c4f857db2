"""Deployments that were found, as the points of an atlas."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from targets.target import load_target
from toolkit.bundle.manifest import portable, recipe_data
from toolkit.search.archive import CVTArchive
from toolkit.search.atlas.sealing import VERSION
from toolkit.search.deployment.atlas_file import Point, front_of
from toolkit.search.deployment.evaluator import Evaluator
from toolkit.search.deployment.making import UNBOUNDED
from toolkit.search.deployment.problem import Problem
from toolkit.search.elites import Elite
from toolkit.search.genes import Value

if TYPE_CHECKING:
    from toolkit.search.deployment.searching import Found

__all__ = ["Point", "document", "model_and_data", "points_of", "recipe_of"]


def points_of(evaluator: Evaluator, archive: CVTArchive) -> list[Point]:
    """Every elite, by cell; those on the front with what they are worth on samples that the search never saw."""
    front = {elite.id for elite in front_of(archive)}
    return [_point(evaluator, elite, elite.id in front) for elite in archive]


def recipe_of(evaluator: Evaluator, config: Mapping[str, Value], *, epochs: int = 0) -> dict[str, Any]:
    """The fields of a recipe.yaml that makes `config`."""
    opened, stack = evaluator.workshop.problem, load_target(evaluator.target).stack(str(config["stack"]))
    problem = opened.problem
    recipe = evaluator.workshop.recipe(config, stack, epochs=epochs)
    return recipe_data(
        spec=opened.source.spec, stack=stack, recipe=recipe, seed=problem.seed,
        budget=UNBOUNDED, data=problem.data, validation=problem.validation, preprocess=problem.preprocess,
        trainer=None, inputs=list(problem.inputs), fixed=list(problem.fixed),
    )  # fmt: skip


def _point(evaluator: Evaluator, elite: Elite, is_on_front: bool) -> Point:
    assert isinstance(elite.genome, Mapping)
    config, meta = dict(elite.genome), elite.meta
    return Point(
        target=evaluator.target, stack=str(config["stack"]), id=elite.id, config=config,
        recipe=recipe_of(evaluator, config, epochs=meta["epochs"]), quality=elite.quality,
        quality_interval=list(meta["quality_interval"]),
        fidelity=meta["fidelity"], n=elite.evaluation.n, measures=dict(meta["measures"]),
        intervals={name: list(ends) for name, ends in meta["intervals"].items()}, provenance=meta["provenance"],
        cell=elite.cell, is_on_front=is_on_front, violation=elite.violation,
        held_out=_held_out(evaluator, elite) if is_on_front else None,
    )  # fmt: skip


def _held_out(evaluator: Evaluator, elite: Elite) -> dict[str, Any]:
    """Quality on the samples kept out of the search, what the search had made it look better by, and the paired drop
    from the float model there."""
    assert isinstance(elite.genome, Mapping)
    stack = load_target(evaluator.target).stack(str(elite.genome["stack"]))
    program = evaluator.workshop.made(elite.genome, stack, epochs=elite.meta["epochs"])
    quality = evaluator.judge.quality(program, evaluator.workshop.problem.parts.held_out)
    return {
        "quality": quality.mean, "quality_interval": list(quality.interval), "n": quality.n,
        "less_than_searched": elite.quality - quality.mean, "drop_from_float": quality.drop,
        "drop_from_float_interval": list(quality.drop_interval),
    }  # fmt: skip


def document(
    problem: Problem, seed: int, limits: Mapping[str, float], found: Sequence[Found]
) -> dict[str, Any]:  # fmt: skip
    """The atlas as JSON."""
    evaluator = found[0].ground.evaluator
    parts = evaluator.workshop.problem.parts
    return {
        "version": VERSION,
        **model_and_data(evaluator),
        "metric": evaluator.judge.metric(parts.searched),
        "quality_floor": evaluator.judge.floor(parts.searched),
        "seed": seed,
        "limits": dict(limits),
        "targets": {f.target: _summary(f) for f in found},
        "points": [asdict(point) for f in found for point in f.points],
    }  # fmt: skip


def model_and_data(evaluator: Evaluator) -> dict[str, Any]:
    """What all targets of an atlas have in common."""
    opened = evaluator.workshop.problem
    parts = opened.parts
    return {
        "model": {"name": opened.program.name, "source": portable(opened.source.spec), "digest": opened.program.digest},
        "data": {
            "digest": parts.digest, "samples": len(parts.searched), "held_out_samples": len(parts.held_out),
            "calibration_is_apart": parts.calibration_is_apart,
        },
    }  # fmt: skip


def _summary(found: Found) -> dict[str, Any]:
    return {
        "stacks": [stack.name for stack in found.ground.stacks],
        "axes": list(found.archive.space.names),
        "configurations": found.ground.space.size(),
        "finished": found.finished,
        "table_error": dict(found.table_error),
        "standing": {name: asdict(value) for name, value in found.standing.items()},
        "emitters": {name: {"candidates": n, "yield": share} for name, (n, share) in found.emitters.items()},
    }
