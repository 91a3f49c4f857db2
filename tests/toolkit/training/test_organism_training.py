"""Trainings with births and deaths: what is learnt, what the optimizer holds, and that a cut leaves no trace."""

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from passes.context import Batch
from targets.errors import InvalidInput
from toolkit.errors import BudgetExceeded
from toolkit.organism.native import SlimeModel
from toolkit.organism.torch_compat import organisms_of
from toolkit.search.behavior import BehaviorSpace
from toolkit.search.component_archive import component_archive
from toolkit.search.measures import Measure
from toolkit.training.batches import Batches
from toolkit.training.distributed import Group
from toolkit.training.organism.fitness import rank_correlation
from toolkit.training.organism.keeping import Keeper
from toolkit.training.organism.lifecycle import Phases
from toolkit.training.organism.optimizing import PoolAdamW, pool_adamw
from toolkit.training.organism.probing import Probe
from toolkit.training.organism.rules import LifecycleRules
from toolkit.training.organism.tasks import Task, config_of, parity, sine, xor
from toolkit.training.organism.timescales import Timescales
from toolkit.training.settings import Settings
from toolkit.training.trainer import Trainer
from toolkit.training.watching import Unwatched

LIVELY = LifecycleRules(
    clocks=Timescales(1, 5, 10), phases=Phases(warm_up=0.05, gentle=0.2), fade_steps=3, cooldown=10, start=1e-3,
    floor=1e-3, births="archive",
)  # fmt: skip
"""Births and deaths at every turn, cold enough for the unfit to go at once."""


class Watched(Keeper):
    """Looks after each step, when gradients are still there."""

    def tend(self, model: nn.Module, optimizer: torch.optim.Optimizer, steps: int) -> Any:
        kept: Any = super().tend(model, optimizer, steps)
        self.model, self.optimizer, self.norms = model, optimizer, list[float]()
        plain = kept.stepped

        def stepped(step: int) -> None:
            gradients = [p.grad.norm() for p in model.parameters() if p.grad is not None]
            self.norms.append(float(torch.stack(gradients).norm()))
            plain(step)
            held = {id(p) for group in optimizer.param_groups for p in group["params"]}
            assert held == {id(p) for p in model.parameters()}, "the optimizer holds what lives, and nothing else"
            assert {id(p) for p in optimizer.state} <= held
            pods = [pod for organism in kept.layers.values() for pod in organism.pool if pod.stage != "newborn"]
            self.kept_bytes = [pod.optimizer_bytes for pod in pods]

        kept.stepped = stepped
        return kept


def keeper(task: Task, rules: LifecycleRules, seed: int = 0, kind: type[Keeper] = Keeper) -> Any:
    judged = next(Batches(data=task.judged, size=32, seed=0).in_order())
    return kind(
        rules=rules, probe=Probe([judged], task.loss), digest=task.judged.digest, length=task.length,
        causal=task.causal, seed=seed, elites=partial(component_archive, seed),
    )  # fmt: skip


def network(task: Task, seed: int = 0, **sizes: Any) -> SlimeModel:
    return SlimeModel(config_of(task, seed=seed, **{"max_components": 6, "grace_steps": 5, **sizes}))


def small(task: Task) -> Any:
    return partial(network, task, seed=1, d_model=8, head_dim=4, founders=4, hidden=8, layers=1)


def trained(task: Task, model: SlimeModel, care: Keeper, epochs: int, loss: Any = None, **options: Any) -> SlimeModel:
    given = {"settings": Settings(batch=64, patience=0), "validation": task.judged, **options}
    trainer = Trainer(data=task.learnt, seed=care.seed, optimizer=pool_adamw, tender=care, **given)
    made = trainer(model, loss or task.loss, step="test", epochs=epochs, rate=3e-3)
    assert isinstance(made, SlimeModel)
    return made


def judged(task: Task, model: nn.Module) -> tuple[Tensor, Batch]:
    batch = next(Batches(data=task.judged, size=4096, seed=0).in_order())
    with torch.no_grad():
        return task.loss(model, batch), batch


# ---- what is learnt


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_xor_is_learnt_whole_while_components_are_born_and_die(seed: int) -> None:
    task = xor(seed)
    care = keeper(
        task, replace(LifecycleRules.for_steps(112, births="archive"), phases=Phases(warm_up=0.05, gentle=0.2)), seed
    )
    model = trained(task, network(task, seed, grace_steps=10), care, epochs=7)
    _, batch = judged(task, model)
    assert task.right(model, batch) == 1.0
    assert care.kept is not None
    assert care.kept.history[-1]["births"] > 0


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_a_sine_is_learnt_to_a_thousandth_while_components_are_born_and_die(seed: int) -> None:
    task = sine(seed)
    care = keeper(
        task, replace(LifecycleRules.for_steps(192, births="archive"), phases=Phases(warm_up=0.05, gentle=0.2)), seed
    )
    model = trained(task, network(task, seed, grace_steps=10), care, epochs=6)
    assert float(judged(task, model)[0]) < 1e-3
    assert care.kept is not None
    coverage = [row["coverage"] for row in care.kept.history]
    assert care.kept.history[-1]["births"] > 0
    assert coverage == sorted(coverage), "cells that are filled stay filled"
    assert coverage[-1] > 0


# ---- births and deaths


@pytest.mark.slow
def test_gradients_stay_finite_and_the_optimizer_holds_just_what_lives() -> None:
    task = parity(0, bits=2, samples=1024)
    care = keeper(task, LIVELY, kind=Watched)
    trained(task, small(task)(seed=1), care, epochs=6)
    kept = care.kept
    assert kept is not None
    row = kept.history[-1]
    assert row["births"] > 0
    assert row["deaths"] > 0
    assert np.isfinite(care.norms).all()
    assert len(care.norms) == 96
    assert min(care.kept_bytes) > 0, "what an optimizer keeps counts as memory"


def test_births_change_no_answer_and_the_removal_of_the_faded_neither() -> None:
    task = parity(0, bits=2, samples=64)
    model = small(task)()
    x = next(Batches(data=task.judged, size=16, seed=0).in_order())[0]["x"]
    before = model(x)
    for organism in organisms_of(model).values():
        born = organism.spawn(step=1)
    assert torch.equal(model(x), before)
    organism.pool.fade(born.component_id, steps=2)
    organism.advance(step=2)
    organism.advance(step=3)
    assert born.component_id not in organism.pool
    assert torch.equal(model(x), before)


def test_a_newborns_rate_rises_from_little() -> None:
    task = parity(0, bits=2, samples=64)
    model = small(task)()
    optimizer = PoolAdamW(model, 1e-3, 0.0, warm_up=4)
    assert all(group["share"] == 1 for group in optimizer.param_groups), "founders learn at the whole rate"
    organism = next(iter(organisms_of(model).values()))
    born = organism.spawn(step=1)
    optimizer.follow()
    mine = [g for g in optimizer.param_groups if g["component"].endswith(born.component_id)]
    seen = []
    for _ in range(5):
        seen.append({g["share"] for g in mine})
        optimizer.grow()
    assert seen == [{0.25}, {0.5}, {0.75}, {1.0}, {1.0}]
    assert sorted(g["is_matrix"] for g in mine) == [False, True]


def test_groups_of_one_rate_are_updated_in_one_call_and_to_the_same_bits(monkeypatch: pytest.MonkeyPatch) -> None:
    task = parity(0, bits=2, samples=64)
    ours, theirs = small(task)(), small(task)()
    together = PoolAdamW(ours, 1e-2, 1e-1)
    apart = torch.optim.AdamW([{**g} for g in PoolAdamW(theirs, 1e-2, 1e-1).param_groups], lr=1e-2, fused=True)
    batch, calls, plain = next(Batches(data=task.learnt, size=64, seed=0).in_order()), [], torch._fused_adamw_

    def counted(*given: Any, **named: Any) -> None:
        calls.append(len(given[0]))
        plain(*given, **named)

    monkeypatch.setattr(torch, "_fused_adamw_", counted)
    made = []
    for model, optimizer in ((ours, together), (theirs, apart)):
        for _ in range(3):
            for k, group in enumerate(optimizer.param_groups):
                group["lr"] = 1e-2 if k else 5e-3
            optimizer.zero_grad()
            task.loss(model, batch).backward()
            calls.clear()
            optimizer.step()
        made.append(len(calls))
    assert content(ours) == content(theirs)
    assert len(together.param_groups) == len(apart.param_groups) == 10, "four components and the rest, matrices apart"
    assert made == [3, 10], "the first group's rate, and two decays at the other rate; each group for itself"


def test_a_fitness_may_not_be_an_axis_of_the_archive_too() -> None:
    task = parity(0, bits=2, samples=64)
    space = BehaviorSpace([Measure(name="latency_s", unit="s", low=0, high=1)])
    care = replace(keeper(task, LIVELY), elites=lambda layer: component_archive(0, layer, space=space))
    with pytest.raises(InvalidInput, match="latency_s is both"):
        trained(task, small(task)(), care, epochs=1)


def test_a_loss_that_is_no_number_closes_the_gate_and_its_step_is_left_out() -> None:
    task = parity(0, bits=2, samples=1024)
    care = keeper(task, LIVELY)
    calls = 0

    def broken(model: nn.Module, batch: Batch) -> Tensor:
        nonlocal calls
        found = task.loss(model, batch)
        if not model.training:
            return found
        calls += 1
        return found * float("nan") if calls == 20 else found

    model = trained(task, small(task)(), care, epochs=2, loss=broken)
    assert all(torch.isfinite(p).all() for p in model.parameters())
    kept = care.kept
    assert kept is not None
    assert kept.gate.closings == 1
    shut = [row["step"] for row in kept.history if not row["gate_open"]]
    assert shut == [20, 25], "the gate opens after ten good steps"
    events = [event.step for organism in kept.layers.values() for event in organism.pool.log]
    assert not [step for step in events if 20 <= step < 30], "nobody is born or dies behind a closed gate"


@pytest.mark.slow
@pytest.mark.parametrize(("founders", "where"), [(6, "forward"), (6, "backward"), (3, "backward")])
def test_a_step_that_runs_out_of_memory_culls_the_least_fit_and_is_tried_again(founders: int, where: str) -> None:
    """From step 30 on the memory has room for one component less: it is full once, and never again."""
    task = parity(0, bits=2, samples=1024)
    care = keeper(task, replace(LIVELY, births="none", deaths=False))
    steps, sizes = [], []

    class Full(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: Tensor) -> Tensor:
            return x.clone()

        @staticmethod
        def backward(ctx: Any, gradient: Tensor) -> Tensor:
            check()
            return gradient

    def check() -> None:
        if len(steps) > 30 and len(next(iter(care.kept.layers.values())).pool) >= founders:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")

    def loss(model: nn.Module, batch: Batch) -> Tensor:
        if not model.training:
            return task.loss(model, batch)
        steps.append(len(steps))
        sizes.append(len(next(iter(organisms_of(model).values())).pool))
        if where == "forward":
            check()
        return Full.apply(task.loss(model, batch)) if where == "backward" else task.loss(model, batch)

    last = {"validation": None, "settings": Settings(batch=64, patience=0, held_out=0.0)}  # and not the best weights
    model = trained(
        task, network(task, d_model=8, head_dim=4, founders=founders, hidden=8, layers=1), care, 4, loss, **last
    )
    assert len(steps) == 4 * 16 + 1, "one step was tried twice"
    assert sizes == [founders] * 31 + [founders - 1] * 34
    (organism,) = care.kept.layers.values()
    assert [(event.kind, event.reason) for event in organism.pool.log][founders:] == [("death", "culled")]
    held = {id(p) for group in care.kept.optimizer.param_groups for p in group["params"]}
    assert held == {id(p) for p in model.parameters()}, "the optimizer let go as well"


def test_memory_that_no_culling_frees_ends_the_training_in_words() -> None:
    task = parity(0, bits=2, samples=64)

    def full(model: nn.Module, batch: Batch) -> Tensor:
        if model.training:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return task.loss(model, batch)

    with pytest.raises(BudgetExceeded, match="does not suffice after 0 components went: CUDA out of memory") as caught:
        trained(task, small(task)(), keeper(task, LIVELY), epochs=1, loss=full)
    assert "batches" in caught.value.hint


def test_without_a_tender_such_a_loss_ends_the_training() -> None:
    task = parity(0, bits=2, samples=64)
    trainer = Trainer(data=task.learnt, settings=Settings(batch=32, patience=0))

    def broken(model: nn.Module, batch: Batch) -> Tensor:
        return task.loss(model, batch) * (float("nan") if model.training else 1.0)

    with pytest.raises(InvalidInput, match="not finite"):
        trainer(small(task)(), broken, step="test", epochs=1, rate=1e-3)


@pytest.mark.slow
def test_a_price_on_latency_lets_components_go_that_cost_more_than_they_bring() -> None:
    task = parity(0, bits=2, samples=1024)
    priced = replace(LIVELY, births="none", stack="raspberry_pi_4/tflite-int8", wanted_latency_s=1e-9, price_rate=1e-3)
    cheap, dear = keeper(task, replace(LIVELY, births="none")), keeper(task, priced)
    for care in (cheap, dear):
        trained(task, network(task, d_model=8, head_dim=4, founders=6, hidden=8), care, epochs=3)
    assert dear.kept.price.value > 0
    assert dear.kept.history[-1]["components"] < cheap.kept.history[-1]["components"]
    assert dear.kept.history[-1]["latency_s"] > 0
    assert cheap.kept.history[-1]["latency_s"] == 0, "without a stack nothing costs"


# ---- cut off and gone on


class Cut(Unwatched):
    """Stops before step `at`, as a kill would: what is not in the checkpoint is lost."""

    def __init__(self, at: int, interrupt: bool = False) -> None:
        self.at, self.interrupt = at, interrupt

    @contextmanager
    def step(self, epoch: int, position: int, samples: int) -> Iterator[None]:
        if epoch * 16 + position == self.at:
            if not self.interrupt:
                raise RuntimeError("killed")
            os.kill(os.getpid(), signal.SIGINT)
        yield


def content(model: nn.Module) -> dict[str, Any]:
    return {n: v.numpy().tobytes() if isinstance(v, Tensor) else v for n, v in model.state_dict().items()}


def state(care: Any) -> Any:
    """What a checkpoint would hold, comparable."""

    def plain(value: Any) -> Any:
        if isinstance(value, Tensor):
            return value.numpy().tobytes()
        if isinstance(value, dict):
            return {name: plain(part) for name, part in value.items()}
        return [plain(part) for part in value] if isinstance(value, list | tuple) else value

    return plain(care.kept.state())


@pytest.mark.slow
def test_two_hundred_steps_are_a_hundred_and_a_hundred_after_a_kill_to_the_bit(tmp_path: Path) -> None:
    task = parity(0, bits=2, samples=1024)
    kept = Settings(batch=64, patience=0, checkpoint_s=0.0)

    def run(name: str, **options: Any) -> tuple[SlimeModel, Any]:
        care = keeper(task, LIVELY)
        given = {"settings": replace(kept, checkpoint_s=1e9), "checkpoint": tmp_path / name, **options}
        return trained(task, small(task)(seed=3), care, epochs=13, **given), care

    whole, care = run("whole.pt")
    with pytest.raises(RuntimeError, match="killed"):
        run("cut.pt", watcher=Cut(100), settings=kept)
    again, resumed = run("cut.pt")
    assert content(again) == content(whole)
    assert state(resumed) == state(care)
    assert care.kept.history[-1]["births"] > 0
    assert care.kept.history[-1]["deaths"] > 0


@pytest.mark.slow
def test_a_cut_in_the_middle_of_a_fade_leaves_no_trace(tmp_path: Path) -> None:
    task, file = parity(0, bits=2, samples=1024), tmp_path / "cut.pt"
    rules = replace(LIVELY, fade_steps=9)
    options = {"settings": Settings(batch=64, patience=0, checkpoint_s=0.0)}

    def run(**more: Any) -> tuple[SlimeModel, Any]:
        care = keeper(task, rules)
        return trained(task, small(task)(seed=3), care, epochs=7, **options, **more), care

    whole, care = run()
    begun = next(event.step for o in care.kept.layers.values() for event in o.pool.log if event.reason == "faded") - 9
    with pytest.raises(RuntimeError, match="killed"):
        run(checkpoint=file, watcher=Cut(begun + 4))
    held = torch.load(file, weights_only=True)["model"]
    fading = [name.removesuffix("fade_from") for name in held if name.endswith("fade_from")]
    assert fading
    assert all(0 < abs(held[f"{name}gate"]) < abs(held[f"{name}fade_from"]) for name in fading), "on its way"
    again, resumed = run(checkpoint=file)
    assert content(again) == content(whole)
    assert state(resumed) == state(care)


@pytest.mark.slow
def test_equal_seeds_live_the_same_lives_and_other_seeds_others() -> None:
    task = parity(0, bits=2, samples=256)

    def lives(seed: int) -> list[Any]:
        care = keeper(task, LIVELY, seed)
        trained(task, small(task)(seed=seed), care, epochs=8)
        return [organism.pool.log for organism in care.kept.layers.values()]

    assert lives(0) == lives(0)
    assert lives(0) != lives(1)


def test_an_interrupt_waits_for_the_step_and_leaves_a_checkpoint(tmp_path: Path) -> None:
    task = parity(0, bits=2, samples=1024)
    file = tmp_path / "c.pt"
    with pytest.raises(KeyboardInterrupt):
        trained(task, small(task)(), keeper(task, LIVELY), epochs=2, checkpoint=file, watcher=Cut(3, interrupt=True))
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    found = torch.load(file, weights_only=True)
    assert (found["epoch"], found["position"]) == (0, 4), "the step that went on is in it"


def test_a_training_that_may_take_no_time_ends_after_a_step_with_what_it_has() -> None:
    task = parity(0, bits=2, samples=1024)
    care = keeper(task, LIVELY)
    late = Settings(batch=64, patience=0, longest_s=0.0)
    model = trained(task, small(task)(), care, epochs=50, settings=late)
    assert torch.isfinite(judged(task, model)[0])
    assert care.kept.history == [], "it came to no medium step"


def test_several_processes_are_refused() -> None:
    task = parity(0, bits=2, samples=64)
    with pytest.raises(InvalidInput, match="one process"):
        trained(task, small(task)(), keeper(task, LIVELY), epochs=1, group=Group(rank=0, size=2))


# ---- fitness


@pytest.mark.slow
def test_two_disjoint_probes_rank_components_alike() -> None:
    task = sine(0)
    halves = list(Batches(data=task.judged, size=128, seed=0).in_order())
    model = trained(task, network(task, founders=6, max_components=8), keeper(task, replace(LIVELY, births="none",
                    deaths=False)), epochs=4)  # fmt: skip
    gates = {f"{layer}/{pod.component_id}": pod.gate for layer, o in organisms_of(model).items() for pod in o.pool}
    from toolkit.training.organism.fitness import leave_one_out

    worth = [leave_one_out(partial(Probe([half], task.loss), model), gates, gates) for half in halves]
    assert rank_correlation(*[[one[name] for name in sorted(gates)] for one in worth]) >= 0.7
