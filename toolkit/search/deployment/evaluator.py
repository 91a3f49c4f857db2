"""From a configuration to what is known of it: prices on its stack, and quality at the fidelity that was asked for."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

from targets.target import load_target
from toolkit.search.deployment.kept import Kept
from toolkit.search.deployment.making import Workshop
from toolkit.search.deployment.prices import broken, priced
from toolkit.search.deployment.problem import Opened, Problem, opened
from toolkit.search.deployment.quality import LEVELS, TRAINED, Judge, Quality, wilson
from toolkit.search.trials import Evaluated, Trial

__all__ = ["Evaluator"]


class Evaluator:
    """Evaluates deployments of one problem on one target; may be called in another process, which opens it anew.

    Args:
        limits: The most that a measure may be, by name; what exceeds them is a violation.
        epochs: Of the training at fidelity 3, of networks that something was taken out of; 0 trains none.
        folder: Where what was found is kept.
    """

    def __init__(
        self, problem: Problem, target: str, *, limits: Mapping[str, float] | None = None, epochs: int = 0,
        folder: Path | None = None,
    ) -> None:  # fmt: skip
        self.problem, self.target, self.limits, self.epochs = problem, target, dict(limits or {}), epochs
        self.folder = folder
        self._tools: tuple[Workshop, Judge] | None = None

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_tools": None}

    @property
    def tools(self) -> tuple[Workshop, Judge]:
        """What makes programs, and what judges them; made once in a process."""
        if self._tools is None:
            is_portable = self.problem.is_portable
            self._tools = _shared(self.problem, self.folder) if is_portable else _tools(self.problem, self.folder)
        return self._tools

    @property
    def workshop(self) -> Workshop:
        """What makes programs."""
        return self.tools[0]

    @property
    def judge(self) -> Judge:
        """What judges them."""
        return self.tools[1]

    @property
    def levels(self) -> tuple[int, int]:
        """The lowest and the highest fidelity."""
        return min(LEVELS), TRAINED if self.epochs else max(LEVELS)

    def __call__(self, trial: Trial) -> Evaluated:
        """Of `trial` at its fidelity: 1 on few samples, 2 on all that a search may see, 3 on those after training.

        What is no better than a constant answer breaks a constraint, like what exceeds a limit: no front has it.
        """
        stack = load_target(self.target).stack(str(trial.config["stack"]))
        epochs = self.epochs if trial.fidelity == TRAINED else 0
        program = self.workshop.made(trial.config, stack, epochs=epochs)
        found = priced(program, stack)
        data = self.workshop.problem.parts.searched.take(LEVELS[min(trial.fidelity, max(LEVELS))])
        quality, floor = self.judge.quality(program, data), self.judge.floor(data)
        upper = self._upper(trial, quality)
        meta = {
            "measures": dict(found.measures), "intervals": {n: list(i) for n, i in found.intervals.items()},
            "provenance": found.provenance, "extrapolated": found.extrapolated,
            "quality_interval": list(quality.interval), "drop": quality.drop,
            "drop_interval": list(quality.drop_interval), "epochs": epochs, "graph": program.digest,
            "quality_floor": floor,
        }  # fmt: skip
        violation = broken(self.limits, found.measures) + self.workshop.slowdown(program, trial.config, stack)
        if max(quality.mean, upper or 0.0) <= floor:  # and no higher fidelity may find it better
            violation += 1 + floor - quality.mean
        return Evaluated(quality.mean, found.measures, quality.n, quality.m2, violation, meta, upper)

    def _upper(self, trial: Trial, quality: Quality) -> float | None:
        """What a higher fidelity may find: more samples the end of the interval, training what the float model has."""
        may_train = self.epochs > 0 and trial.config.get("structure", "whole") != "whole" and trial.fidelity < TRAINED
        if may_train:
            return max(quality.interval[1], wilson(min(1.0, quality.mean + max(0.0, quality.drop)), quality.n)[1])
        return quality.interval[1] if trial.fidelity < max(LEVELS) else None


def _tools(problem: Problem, folder: Path | None) -> tuple[Workshop, Judge]:
    kept, found = Kept(folder), Opened(problem)
    return Workshop(found, kept), Judge(found.program, kept)


@lru_cache(maxsize=2)
def _shared(problem: Problem, folder: Path | None) -> tuple[Workshop, Judge]:
    kept, found = Kept(folder), opened(problem)
    return Workshop(found, kept), Judge(found.program, kept)
