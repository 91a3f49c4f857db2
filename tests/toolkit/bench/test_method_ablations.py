"""The ablations of training methods in small: every arm runs, from a seed alone, on samples that all arms share."""

import sys
from importlib import import_module
from math import isfinite

import pytest

from toolkit.bench.training_cost.metering import Meter, Point
from toolkit.bench.training_cost.methods import ablation
from toolkit.bench.training_cost.tasks import Task, digits
from toolkit.training.koopman import Schedule

_METHODS = "toolkit.bench.training_cost.methods"
_SMALL = {
    "equilibrium_propagation": {"_EPOCHS": 1, "_UNITS": 16},
    "gradient_reuse": {"_EPOCHS": 1},
    "hybrid_gradient": {"_EPOCHS": 1, "_SITES": 8},
    "koopman": {"_EPOCHS": 1, "_OBSERVABLES": 9},
    "koopman_language": {"_EPOCHS": 1, "_PER_EPOCH": 2},
    "physics_informed": {"_EPOCHS": 1, "_STEPS": 1},
    "symplectic": {"_EPOCHS": 1},
}


def some_digits(seed: int) -> Task:
    whole = digits(seed)
    return Task(whole.x[:160], whole.y[:160], whole.asked_x, whole.asked_y)


def ran(name: str, arm: str, seed: int) -> list[Point]:
    meter = Meter()
    ablation(name).arms[arm](seed, meter)
    return meter.points


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=() if name in ("physics_informed", "symplectic") else pytest.mark.slow)
        for name in sorted(_SMALL)
    ],
)
def test_every_arm_runs_from_its_seed_alone(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    module = import_module(f"{_METHODS}.{name}")
    for constant, value in _SMALL[name].items():
        monkeypatch.setattr(module, constant, value)
    if hasattr(module, "digits"):
        monkeypatch.setattr(module, "digits", some_digits)
    what, samples = ablation(name), set()
    assert what.name == name
    for arm in what.arms:
        (point,) = ran(name, arm, 0)
        assert isfinite(point.quality)
        samples.add(point.costs["samples"])
    (again,) = ran(name, arm, 0)
    assert (point.quality, point.costs["flops"]) == (again.quality, again.costs["flops"])
    assert len(samples) == 1


def test_autograd_and_the_analytic_gradient_learn_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    module = sys.modules.get(f"{_METHODS}.hybrid_gradient") or import_module(f"{_METHODS}.hybrid_gradient")
    monkeypatch.setattr(module, "_EPOCHS", 1)
    monkeypatch.setattr(module, "_SITES", 16)
    plain, exact, frozen = (ran("hybrid_gradient", arm, 0) for arm in ("autograd", "exact", "not learned"))
    for a, b in zip(plain, exact, strict=True):
        assert a.quality == pytest.approx(b.quality, abs=0.006)  # two of 360 images may go either way by rounding
    assert frozen[-1].quality < exact[-1].quality - 0.1


@pytest.mark.slow
def test_the_stages_of_both_koopman_ablations_end_without_gradients(monkeypatch: pytest.MonkeyPatch) -> None:
    """In a schedule of the last stage alone no FLOPs of a backward pass are counted."""
    flops = {}
    for name in ("koopman", "koopman_language"):
        module = import_module(f"{_METHODS}.{name}")
        for constant, value in _SMALL[name].items():
            monkeypatch.setattr(module, constant, value)
        for schedule in (Schedule(warm_up=0, hybrid=1, koopman=0), Schedule(warm_up=0, hybrid=0, koopman=1)):
            meter = Meter()
            module._arm(schedule)(0, meter)
            flops[name, schedule.koopman] = meter.points[-1].costs["flops"]
        assert flops[name, 1] < flops[name, 0]
