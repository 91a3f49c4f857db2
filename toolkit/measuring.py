"""Let this machine decide what is slower, and remember what it decided so that a replay measures nothing."""

from __future__ import annotations

import json
import platform
from collections.abc import Mapping, Sequence
from statistics import median

from passes.onnxruntime import Session
from passes.program import Program
from passes.proof import Proof
from targets.errors import UsageError
from targets.stack import Stack
from targets.target import Target
from toolkit.timing import in_blocks_s

__all__ = ["NOT_SLOWER", "SLOWER", "Measured", "Recorded", "check_host", "decisions", "is_of_this_kind"]

SLOWER, NOT_SLOWER = "slower", "not slower"

_MARGIN = 1.03  # medians of blocks in one process repeat within one percent on a quiet machine
_FEWEST_ROUNDS, _SECONDS = 8, 1.0
_ISA_OF_MACHINE = {"x86_64": "x86-64", "AMD64": "x86-64", "aarch64": "arm", "arm64": "arm", "armv7l": "arm"}


def check_host(target: Target, stack: Stack) -> None:
    """Refuse to measure for a device that this machine is not.

    Raises:
        UsageError: the stack runs something else than onnxruntime, or on another kind of processor.
    """
    there = f"{stack.runtime} on {target.parameters.get('isa', target.title)}"
    if stack.backend != "onnxruntime" or stack.runtime != "onnxruntime" or not is_of_this_kind(target):
        raise UsageError(
            f"this machine ({platform.machine()}) cannot measure for {stack.id}: {there}",
            hint="leave --measure out: the stack's model then decides; or choose a stack of this machine",
        )


def is_of_this_kind(target: Target) -> bool:
    """Whether the target's processor runs what this machine's runs; of a target without one, it does not."""
    return str(target.parameters.get("isa", "")).startswith(_ISA_OF_MACHINE.get(platform.machine(), "unknown"))


class Measured:
    """Runs both programs through onnxruntime with the stack's threads, in turns long enough to have the caches."""

    def __init__(self, stack: Stack) -> None:
        self._threads = stack.threads or 1
        self.latency_s: dict[str, list[tuple[float, float]]] = {}

    @property
    def key(self) -> str:
        return f"measured on {platform.node()}"

    def slower(self, step: str, before: Program, after: Program) -> bool:
        """Whether the median run of `after` takes longer, beyond what repeats differ by."""
        pair = self._medians_s(before, after)
        self.latency_s.setdefault(step, []).append(pair)
        return pair[1] > pair[0] * _MARGIN

    def _medians_s(self, before: Program, after: Program) -> tuple[float, float]:
        old, new = (Session(program.onnx_bytes, threads=self._threads) for program in (before, after))
        sample = before.example
        taken = in_blocks_s(
            {"before": lambda: old(sample), "after": lambda: new(sample)}, seconds=_SECONDS, fewest=_FEWEST_ROUNDS
        )
        before_s, after_s = (median(map(median, blocks)) for blocks in taken.values())
        return before_s, after_s


class Recorded:
    """Gives the decisions of an earlier measurement again; the stack's model has no say."""

    def __init__(self, recorded: Mapping[str, Sequence[str]]) -> None:
        self._recorded = {step: list(words) for step, words in recorded.items()}
        self._asked: dict[str, int] = {}

    @property
    def key(self) -> str:
        return "recorded " + json.dumps(self._recorded, sort_keys=True)

    def slower(self, step: str, before: Program, after: Program) -> bool:
        """What was recorded for this attempt.

        Raises:
            UsageError: nothing was.
        """
        position = self._asked[step] = self._asked.get(step, -1) + 1
        words = self._recorded.get(step, [])
        if position >= len(words):
            raise UsageError(
                f"the recipe's field `measured` does not say whether {step} was slower",
                hint="measure again with --measure, or take the field out: the stack's model then decides",
            )
        return words[position] == SLOWER


def decisions(proofs: Sequence[Proof]) -> dict[str, list[str]]:
    """What was measured, in the words of recipe.yaml."""
    found: dict[str, list[str]] = {}
    for proof in proofs:  # a recipe may hold a pass twice
        if proof.slower:
            found.setdefault(proof.name, []).extend(SLOWER if slower else NOT_SLOWER for slower in proof.slower)
    return found
