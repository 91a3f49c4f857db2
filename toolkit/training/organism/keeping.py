"""The lifecycle in a training: what is measured and decided at each of the three clocks.

Fast, each step: fading goes on, newborns' rates rise. Medium: fitness and behaviours on the probe, offers to the
archive, births. Slow: deaths, the memory budget. While the gate is closed nothing of this happens.
"""

from __future__ import annotations

import json
import time
from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any, TypeVar

import numpy as np
import torch
from torch import nn

from toolkit.errors import BudgetExceeded
from toolkit.organism.behaviors import GradientShares, measure_behaviors, probe_batch
from toolkit.organism.extractors import relative_fitness
from toolkit.organism.organism import Organism
from toolkit.organism.pseudopod import Stage
from toolkit.organism.relief import with_relief
from toolkit.organism.torch_compat import organisms_of
from toolkit.rng import uniform
from toolkit.training.organism.archiving import Elites, Offer, Parent
from toolkit.training.organism.costs import HeadSizes, Prices
from toolkit.training.organism.fitness import INPUTS, Price, check_apart, leave_one_out, rotated
from toolkit.training.organism.lifecycle import ComponentView, Phase, PoolView, decide_births, decide_deaths
from toolkit.training.organism.optimizing import PoolAdamW
from toolkit.training.organism.probing import Probe, Seat, seats_of
from toolkit.training.organism.rules import LifecycleRules
from toolkit.training.organism.stability import Annealing, LossGate, Smoothed
from toolkit.training.tending import Tending

__all__ = ["Keeper", "Keeping"]

T = TypeVar("T")

_CULLED = 0.2
"""Of a layer's components, where memory runs out."""

_PROBED_SEQUENCES = 4
"""Unit normal ones that behaviours are measured on: the same at each time, whatever the layers below have become."""


@dataclass(kw_only=True)
class Keeper:
    """A `Tender` that lets components be born and die.

    Args:
        probe: Judges components; what it asks must not be trained on.
        digest: Of what the probe asks: part of the training's key.
        length: Tokens that costs are predicted for.
        causal: Whether components see only what came before: so their behaviours are measured.
        noted: Told of each "birth", each "fade" that begins and each "measurement": which, whose (layer/id; "" for a
            measurement), after how many steps, and the model as it is, which it must not change.
        elites: Makes the archive of a layer; None keeps none, and births from the archive are then fresh.
    """

    rules: LifecycleRules
    probe: Probe
    digest: str
    length: int
    seed: int = 0
    causal: bool = False
    elites: Callable[[str], Elites] | None = None
    noted: Callable[[str, str, int, nn.Module], None] | None = None
    kept: Keeping | None = field(default=None, init=False)
    """The training that goes on, or went on last."""

    @property
    def key(self) -> str:
        """See `Tender`."""
        return json.dumps([self.rules.to_data(), self.digest, self.length, self.causal, self.seed,
                           self.elites is not None])  # fmt: skip

    def tend(self, model: nn.Module, optimizer: torch.optim.Optimizer, steps: int) -> Tending:
        """See `Tender`.

        Raises:
            TypeError: the optimizer does not follow a pool.
            InvalidInput: an archive sorts by what fitness is made of.
        """
        if not isinstance(optimizer, PoolAdamW):
            raise TypeError(f"a pool is trained by PoolAdamW, not by {type(optimizer).__name__}")
        self.kept = Keeping(self, model, optimizer, steps)
        return self.kept


class Keeping:
    """One training under care: a `Tending`."""

    def __init__(self, keeper: Keeper, model: nn.Module, optimizer: PoolAdamW, steps: int) -> None:
        rules = keeper.rules
        self.rules, self.probe, self.steps = rules, keeper.probe, steps
        self._causal, self._length = keeper.causal, keeper.length
        self.model, self.optimizer, self.layers = model, optimizer, organisms_of(model)
        self.gate = LossGate(cooldown=rules.cooldown)
        self.price = Price(rules.wanted_latency_s, rules.price, rules.price_rate)
        self.elites = {} if keeper.elites is None else {layer: keeper.elites(layer) for layer in sorted(self.layers)}
        for elites in self.elites.values():
            check_apart(INPUTS, elites.axes)
        self.history: list[dict[str, float]] = []
        """A row a medium step: components, births, deaths, probe loss, latency, archive's coverage."""
        self.seconds: dict[str, float] = defaultdict(float)
        """Processor time that each clock took, on a GPU elapsed time, for the overhead; part of no result."""
        self._annealing = Annealing(start=rules.start, floor=rules.floor, steps=max(1, steps))
        self._draw = partial(uniform, keeper.seed)
        self._noted = keeper.noted
        self._prices = None if rules.stack is None else Prices(rules.stack, keeper.length)
        self._fitness: dict[str, Smoothed] = {}
        self._parents: dict[str, tuple[str, ...]] = {}
        self._turn = 0
        self._shares = {layer: _Shares() for layer in self.layers}

    # ---- called by the loop

    def allows(self, step: int, loss: float) -> bool:
        """See `Tending`: a jump is learnt from, what is no number is not."""
        self.gate.see(loss)
        return loss - loss == 0  # neither infinite nor NaN

    def relieved(self, step: int, run: Callable[[], T]) -> T:
        """See `Tending`: of each layer a fifth of the components may go, one at least, the least fit first.

        Raises:
            BudgetExceeded: that did not suffice.
        """
        return with_relief(run, partial(self._cull, step))

    def _cull(self, step: int) -> list[str]:
        gone = []
        for layer, organism in sorted(self.layers.items()):
            pool = organism.pool
            share = max(_CULLED, 1.5 / max(2, len(pool)))  # halfway between one and two: rounding cannot make it none
            gone += [f"{layer}/{name}" for name in pool.cull_worst(share, step=step)]
        self._follow()
        return gone

    def spoiled(self, step: int) -> None:
        """See `Tending`."""
        self.gate.see(float("nan"))

    def stepped(self, step: int) -> None:
        """See `Tending`."""
        work = {"fast": self._fast, "medium": self._medium, "slow": self._slow}
        for clock in self.rules.clocks.due(step + 1):
            begun = self._now_s()
            work[clock](step + 1)
            self.seconds[clock] += self._now_s() - begun

    def _now_s(self) -> float:
        """A processor that waits for a GPU takes no time of its own; the fast clock is not worth waiting for it."""
        return time.perf_counter() if self._device.type == "cuda" else time.process_time()

    # ---- the three clocks

    def _fast(self, done: int) -> None:
        self.optimizer.grow()
        if not self.gate.is_open:
            return
        gone = [name for organism in self.layers.values() for name in organism.advance(step=done)]
        if gone:
            self._follow()

    def _medium(self, done: int) -> None:
        self._follow()  # memory is what it is now, after a resume too
        loss = self._measure()
        if self.gate.is_open:
            self._archive(done)
            for layer, organism in sorted(self.layers.items()):
                organism.settle(step=done, after=self.rules.clocks.medium)
                self._bear(layer, organism, done)
            self._follow()
        self.history.append(self._row(done, loss))
        self._note("measurement", "", done)

    def _slow(self, done: int) -> None:
        for layer, organism in sorted(self.layers.items()):
            phase = self._phase(done)
            organism.phase = str(phase)
            if self.rules.deaths:
                for name in self._doomed(layer, organism, done, phase):
                    self._note("fade", f"{layer}/{name}", done)
                    organism.pool.fade(name, steps=self.rules.fade_steps)
            if self.gate.is_open:
                organism.pool.enforce_budget(organism.pool.nbytes, step=done)
        self._follow()

    def _doomed(self, layer: str, organism: Organism, done: int, phase: Phase) -> list[str]:
        view = self._view(organism, done)
        doomed = [death.component_id for death in decide_deaths(
            view, done, phase, gate_open=self.gate.is_open, annealing=self._annealing, draw=self._draw
        )]  # fmt: skip
        if self.rules.cull == "random":
            old = [c.component_id for c in view.components if c.age > view.grace and not c.is_fading]
            old.sort(key=lambda name: self._draw("random death", done, layer, name))
            doomed = old[: len(doomed)]
        return doomed

    # ---- fitness and archive

    def _measure(self) -> float:
        """Fitness of the components whose turn it is, and behaviours of all; the loss on the probe."""
        seats = {seat.name: seat for seat in seats_of(self.layers)}
        asked = rotated(list(seats), self._turn, self.rules.probed)
        self._turn += 1
        losses: list[float] = []

        def loss() -> float:
            losses.append(self.probe(self.model))
            return losses[-1]

        found = leave_one_out(loss, {name: seat.pod.gate for name, seat in seats.items()}, asked)
        costs_s = self._costs_s(seats)
        self.price.follow(sum(costs_s.values()))
        self._fitness = {name: held for name, held in self._fitness.items() if name in seats}
        for name, worth in found.items():
            held = self._fitness.setdefault(name, Smoothed(self.rules.smoothing))
            seats[name].pod.fitness = held.add(worth - self.price.value * costs_s[name])
        for layer, organism in self.layers.items():
            shares = self._shares[layer]
            shares.update(organism)
            stimulus = probe_batch(organism.d_model, length=max(2, self._length), batch=_PROBED_SEQUENCES)
            measure_behaviors(organism, stimulus.to(self._device), shares=shares.values, causal=self._causal)
        return losses[0]

    def _costs_s(self, seats: Mapping[str, Seat]) -> dict[str, float]:
        if self._prices is None:
            return dict.fromkeys(seats, 0.0)
        found: dict[str, float] = {}
        for layer, organism in self.layers.items():
            sizes = {f"{layer}/{pod.component_id}": HeadSizes(pod.n_heads, pod.head_dim) for pod in organism.pool}
            found |= self._prices.shares_s(organism.d_model, sizes)
        return found

    def _archive(self, done: int) -> None:
        for layer, elites in self.elites.items():
            offers = [
                Offer(
                    pod.to_record(), pod.behavior(), pod.fitness, self._parents.get(f"{layer}/{pod.component_id}", ())
                )
                for pod in self.layers[layer].pool
                if pod.stage is Stage.SETTLED and f"{layer}/{pod.component_id}" in self._fitness
            ]
            elites.offer(offers, step=done)

    # ---- births

    def _bear(self, layer: str, organism: Organism, done: int) -> None:
        if self.rules.births == "none":
            return
        parent = self._parent(layer, organism, done)
        for birth in decide_births(
            self._view(organism, done), done, self._phase(done), gate_open=self.gate.is_open,
            admitted=organism.can_spawn(), annealing=self._annealing, draw=self._draw,
            parent=None if parent is None else (parent.elite_id, parent.fitness),
        ):  # fmt: skip
            of = None if birth.parent is None or parent is None else parent
            try:
                born = organism.spawn(step=done, parent=of and of.record, sigma=self.rules.sigma if of else 0.0,
                                      reason=f"{self.rules.births} {birth.parent or ''}".strip())  # fmt: skip
            except BudgetExceeded:
                return  # what admission did not foresee: there is no birth
            self._parents[f"{layer}/{born.component_id}"] = () if of is None else (of.elite_id,)
            self._note("birth", f"{layer}/{born.component_id}", done)

    def _parent(self, layer: str, organism: Organism, done: int) -> Parent | None:
        if self.rules.births == "copy":
            best = max(organism.pool, key=lambda pod: (pod.fitness, pod.component_id))
            return Parent(best.component_id, best.to_record(), best.fitness)
        if self.rules.births == "fresh" or layer not in self.elites:
            return None
        hunger = 1 - len(organism.pool) / organism.pool.max_size
        middle = np.mean([pod.behavior() for pod in organism.pool], axis=0)
        return self.elites[layer].parent(middle, hunger, "parent", done, layer)

    # ---- small things

    def _note(self, kind: str, whose: str, done: int) -> None:
        if self._noted is not None:
            self._noted(kind, whose, done, self.model)

    def _view(self, organism: Organism, done: int) -> PoolView:
        pool = organism.pool
        views = tuple(
            ComponentView(
                component_id=m.component.component_id, age=done - m.born, fitness=m.component.fitness,
                relative=relative_fitness(pool.context(m.component.component_id)), is_fading=m.is_fading,
            )
            for m in pool.members
        )  # fmt: skip
        return PoolView(components=views, min_size=pool.min_size, max_size=pool.max_size, grace=pool.grace_steps,
                        is_priced=self.price.value > 0)  # fmt: skip

    def _phase(self, done: int) -> Phase:
        return self.rules.phases.at(done, self.steps)

    def _follow(self) -> None:
        self.optimizer.follow()
        for seat in seats_of(self.layers):
            seat.pod.optimizer_bytes = self.optimizer.bytes_of(seat.pod)

    @property
    def _device(self) -> torch.device:
        return next(self.model.parameters()).device

    def _row(self, done: int, loss: float) -> dict[str, float]:
        seats = seats_of(self.layers)
        events = [event.kind for organism in self.layers.values() for event in organism.pool.log if event.step > 0]
        row = {"step": done, "components": len(seats), "births": events.count("birth"), "deaths": events.count("death"),
               "probe_loss": loss, "gate_open": float(self.gate.is_open), "price_nats_per_s": self.price.value,
               "latency_s": sum(self._costs_s({seat.name: seat for seat in seats}).values())}  # fmt: skip
        if self.elites:
            figures = [elites.figures() for elites in self.elites.values()]
            row |= {name: sum(f[name] for f in figures) / len(figures) for name in figures[0]}
        return row

    # ---- cut off and gone on

    def state(self) -> dict[str, Any]:
        """See `Tending`."""
        return {
            "gate": self.gate.state(), "price": self.price.value, "turn": self._turn, "history": self.history,
            "fitness": {name: [held.total, held.weight] for name, held in self._fitness.items()},
            "parents": {name: list(parents) for name, parents in self._parents.items()},
            "elites": {layer: elites.state() for layer, elites in self.elites.items()},
            "shares": {layer: shares.state() for layer, shares in self._shares.items()},
        }  # fmt: skip

    def load(self, state: Mapping[str, Any]) -> None:
        """See `Tending`."""
        self.gate.load(state["gate"])
        self.price.value, self._turn, self.history = state["price"], state["turn"], list(state["history"])
        self._fitness = {name: Smoothed(self.rules.smoothing, *held) for name, held in state["fitness"].items()}
        self._parents = {name: tuple(parents) for name, parents in state["parents"].items()}
        for layer, held in state["elites"].items():
            self.elites[layer].load(held)
        for layer, sums in state["shares"].items():
            self._shares[layer].load(sums)


class _Shares(GradientShares):
    """Gradient shares that a checkpoint can hold."""

    def state(self) -> dict[str, list[float]]:
        return {name: list(sums) for name, sums in self._sums.items()}

    def load(self, state: Mapping[str, list[float]]) -> None:
        self._sums = {name: (value, weight) for name, (value, weight) in state.items()}
