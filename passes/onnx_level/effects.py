"""What each layer's quantization does to the answers: measured layer by layer on one switchboard.

One run of a sample for every layer alone, one with all, and one for each of the worst with all but it.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from math import inf

import numpy as np

from passes.compare import errors, sqnr_db
from passes.dataset import Array, Dataset
from passes.onnx_level.sites import Unit, key_of
from passes.onnx_level.switchboard import Switchboard
from targets.errors import InvalidInput

__all__ = ["Effect", "Effects", "Seen", "measure"]

Progress = Callable[[str, float], None]

_JUMP_DB = 6.0  # noise grows to four times what a layer was given
_USUAL_DB = 30.0  # better than this nothing counts as lost yet
_WITHOUT = 8  # of the worst layers, each is also tried in float while the others are not


@dataclass
class Seen:
    """What an activation did on the data: its range, and how it fits the integers that store it."""

    low: float = inf
    high: float = -inf
    values: int = 0
    clipped: int = 0
    vanished: int = 0

    def add(self, values: Array, unit: Unit) -> None:
        self.low, self.high = min(self.low, float(values.min())), max(self.high, float(values.max()))
        self.values += values.size
        if unit.rounding is not None:
            low, high = unit.rounding.bounds
            half = unit.rounding.step / 2
            self.clipped += int(((values < low - half) | (values > high + half)).sum())
            self.vanished += int(((np.abs(values) < half) & (values != 0)).sum())

    @property
    def clipped_share(self) -> float:
        """Of the values, those that lie outside what can be stored."""
        return self.clipped / max(self.values, 1)

    @property
    def vanished_share(self) -> float:
        """Of the values, those that are not zero and become zero."""
        return self.vanished / max(self.values, 1)


@dataclass(frozen=True, kw_only=True)
class Effect:
    """What one unit does.

    Args:
        alone_db: SQNR of the worst output where this unit alone is quantized.
        share: Its part of the noise of all units, each alone, at that output.
        local_db: SQNR of its own tensor where it alone is quantized.
        tensor_db: SQNR of its tensor where everything is.
        inherited_db: The worst of `tensor_db` over the units that it reads; infinite where it reads none.
        without_db: SQNR of the worst output where everything else is quantized; None where that was not tried.
    """

    unit: Unit
    alone_db: float
    share: float
    local_db: float
    tensor_db: float
    inherited_db: float
    seen: Seen
    without_db: float | None = None

    @property
    def jumps(self) -> bool:
        """Whether much more noise leaves than came in."""
        return self.tensor_db < min(self.inherited_db, _USUAL_DB) - _JUMP_DB


@dataclass(frozen=True, kw_only=True)
class Effects:
    """Of every unit, in the order in which they run; `all_db` is the SQNR of the worst output with all of them."""

    effects: tuple[Effect, ...]
    all_db: float
    samples: int

    @property
    def worst_first(self) -> list[Effect]:
        return sorted(self.effects, key=lambda e: e.alone_db)

    @property
    def first_jump(self) -> Effect | None:
        """The first unit behind which the error is far larger than before it."""
        return next((e for e in self.effects if e.jumps), None)


@dataclass
class _Power:
    """Signal and noise of some tensors over the samples so far."""

    totals: dict[str, list[float]] = field(default_factory=dict)

    def add(self, truth: Mapping[str, Array], answer: Mapping[str, Array], names: Iterable[str]) -> None:
        for name in names:
            signal, noise, _ = errors(truth[name], answer[name])
            total = self.totals.setdefault(name, [0.0, 0.0])
            total[0] += signal
            total[1] += noise

    def db(self, names: Iterable[str]) -> float:
        return min((sqnr_db(*self.totals[name]) for name in names), default=inf)

    def noise(self, names: Iterable[str]) -> float:
        """Relative to the signal, in the worst of the tensors."""
        return max((noise / signal if signal else inf if noise else 0.0
                    for signal, noise in (self.totals[name] for name in names)), default=0.0)  # fmt: skip


def measure(
    board: Switchboard, data: Dataset, *, without: int = _WITHOUT, progress: Progress = lambda step, done: None
) -> Effects:
    """Run every sample of `data` once for each unit.

    Args:
        without: How many of the worst units are also left out of everything.

    Raises:
        InvalidInput: there are no samples.
    """
    units, outputs = board.units, board.outputs
    watched = [*outputs, *_beside([board.seen(u) for u in units], outputs)]
    together = _Power()
    alone = [_Power() for _ in units]
    seen = [Seen() for _ in units]
    names = [u.name for u in units]
    samples = 0
    for samples, sample in enumerate(data, start=1):
        truth = board.run(sample, (), watched)
        together.add(truth, board.run(sample, names, watched), watched)
        for unit, power, notes in zip(units, alone, seen, strict=True):
            own = [*outputs, *_beside([board.seen(unit)], outputs)]
            power.add(truth, board.run(sample, (unit.name,), own), own)
            notes.add(np.asarray(truth[board.seen(unit)]), unit)
        progress("layer by layer", samples / max(len(data), 1))
    if not samples:
        raise InvalidInput("there are no samples to look at", hint="give at least one with --data")
    noises = [power.noise(outputs) for power in alone]
    reads = _reads(board)
    effects = [
        Effect(
            unit=unit,
            alone_db=power.db(outputs),
            share=share,
            local_db=power.db([board.seen(unit)]),
            tensor_db=together.db([board.seen(unit)]),
            inherited_db=together.db(reads[unit.name]),
            seen=notes,
        )
        for unit, power, share, notes in zip(units, alone, _shares(noises), seen, strict=True)
    ]
    found = Effects(effects=tuple(effects), all_db=together.db(outputs), samples=samples)
    return _left_out(board, data, found, without, progress)


def _shares(noises: Sequence[float]) -> list[float]:
    """Parts of the whole; units that alone drown an answer share it evenly."""
    drowning = [noise == inf for noise in noises]
    if any(drowning):
        return [1 / sum(drowning) if it else 0.0 for it in drowning]
    return [noise / (sum(noises) or 1.0) for noise in noises]


def _beside(tensors: Sequence[str], outputs: Collection[str]) -> list[str]:
    return [name for name in tensors if name not in outputs]


def _left_out(board: Switchboard, data: Dataset, found: Effects, count: int, progress: Progress) -> Effects:
    """`found`, with what leaving each of the worst units in float brings."""
    from dataclasses import replace

    names = {e.unit.name for e in found.effects}
    tried = [e.unit.name for e in found.worst_first[:count]]
    powers = {name: _Power() for name in tried}
    for position, sample in enumerate(data, start=1):
        truth = board.run(sample, ())
        for name, power in powers.items():
            power.add(truth, board.run(sample, names - {name}), board.outputs)
        progress("all but one", position / max(len(data), 1))
    return replace(
        found,
        effects=tuple(
            replace(e, without_db=powers[e.unit.name].db(board.outputs)) if e.unit.name in powers else e
            for e in found.effects
        ),
    )


def _reads(board: Switchboard) -> dict[str, list[str]]:
    """The tensors of other units that each unit is computed from, without others between."""
    graph = board.float_program.graph
    tensors = {unit.tensor: board.seen(unit) for unit in board.units}
    nodes = {key_of(node): node for node in graph}
    made = {v.name: node for node in graph for v in node.outputs}
    found: dict[str, list[str]] = {}
    for unit in board.units:
        ahead = [v for v in nodes[unit.node].inputs if v is not None] if unit.node in nodes else []
        near: dict[str, None] = {}
        passed: set[str] = set()
        while ahead:
            name = str(ahead.pop().name)
            if name in passed:
                continue
            passed.add(name)
            if name in tensors:
                near[tensors[name]] = None
            elif name in made:
                ahead += [v for v in made[name].inputs if v is not None]
        found[unit.name] = list(near)
    return found
