"""Evaluations on a Ray cluster: lost workers cost nothing, bad trials cost themselves."""

from __future__ import annotations

import os
import signal
import socket
import sys
import threading
import time
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest

from toolkit.errors import MissingDependency, SlimeError, UnknownName, UsageError
from toolkit.search.archive import CVTArchive
from toolkit.search.behavior import BehaviorSpace
from toolkit.search.centroids import cvt_centroids
from toolkit.search.config_space import ConfigSpace
from toolkit.search.executors import EXECUTORS, Here, RayCluster, Threads, executor
from toolkit.search.executors.ray_cluster import NoCluster
from toolkit.search.genes import Choice
from toolkit.search.measures import Measure
from toolkit.search.runner import SearchRunner, Settings
from toolkit.search.trials import Budget, Evaluated, Failure, Trial


def test_without_ray_the_error_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(MissingDependency, match="Ray is not installed") as caught:
        executor("ray", workers=2)
    assert caught.value.exit_code == 3
    assert "edge-toolkit[search]" in caught.value.hint
    assert "RAY_USAGE_STATS_ENABLED" not in os.environ


def test_executors_by_name():
    assert isinstance(executor("here", workers=1), Here)
    with executor("threads", workers=2, limit_s=1.0) as pool:
        assert isinstance(pool, Threads)
        assert pool.slots == 2
    with pytest.raises(UnknownName, match="clouds"):
        executor("clouds", workers=1)
    with pytest.raises(UsageError, match="an address is for Ray"):
        executor("processes", workers=1, address="auto")
    with pytest.raises(UsageError, match="one evaluation at a time"):
        executor("here", workers=2)
    with pytest.raises(UsageError, match="cannot end an evaluation"):
        executor("here", workers=1, limit_s=1.0)
    with pytest.raises(NoCluster, match="Connection refused") as caught:
        executor("ray", workers=1, address="127.0.0.1:1")
    assert caught.value.exit_code == 3, "as any device that is not there"
    assert isinstance(caught.value, SlimeError)
    assert "correct the address" in caught.value.hint
    with pytest.raises(UsageError, match="no search on 0 workers"):
        executor("ray", workers=0)
    assert EXECUTORS == ("here", "threads", "processes", "ray")


@pytest.fixture(scope="module")
def ray():
    """Two workers on this machine, for all tests of this module: starting them takes many seconds."""
    if find_spec("ray") is None:  # not imported: that would fix the address on which it listens
        pytest.skip("the extra `search` installs Ray")
    with RayCluster("local", workers=2) as cluster:
        yield cluster._ray


@pytest.mark.slow
def test_it_listens_on_the_loopback_interface_alone(ray):
    address = ray.get_runtime_context().gcs_address
    host, port = address.rsplit(":", 1)
    assert host == "127.0.0.1"
    elsewhere = {entry[4][0] for entry in socket.getaddrinfo(socket.gethostname(), None, socket.AF_INET)}
    for own in sorted(elsewhere - {"127.0.0.1", "127.0.1.1"}):
        with socket.socket() as probe:
            probe.settimeout(1.0)
            assert probe.connect_ex((own, int(port))) != 0


@pytest.mark.slow
def test_a_worker_killed_in_mid_run_loses_no_result(ray, tmp_path):
    """And what the archive holds is what it holds without any worker, bit for bit."""
    expected, _ = _searched(_evaluation(None), Here())

    def kill():
        started = tmp_path / "pid"
        while not (started.exists() and started.read_text()):
            time.sleep(0.02)
        os.kill(int(started.read_text()), signal.SIGKILL)
        (tmp_path / "killed").touch()

    killer = threading.Thread(target=kill)
    killer.start()
    with RayCluster("auto", workers=2) as cluster:
        found, runner = _searched(_evaluation(tmp_path), cluster)
    killer.join()
    assert (tmp_path / "killed").exists()
    assert (runner.finished, runner.evaluated, runner.failures) == (48, 48, 0)
    assert [(e.id, e.quality, e.birth, e.curiosity, e.measures.tobytes()) for e in found] == [
        (e.id, e.quality, e.birth, e.curiosity, e.measures.tobytes()) for e in expected
    ]


@pytest.mark.slow
def test_trials_that_kill_hang_raise_or_return_nonsense_cost_themselves(ray):
    def shaky(trial):
        match trial.id:
            case 1:
                os._exit(3)
            case 2:
                time.sleep(600)
            case 3:
                raise ZeroDivisionError("by nothing")
            case 4:
                return threading.Lock()
        return Evaluated(float(trial.id), {"a": 1.0})

    results, waiting = {}, list(range(7))
    with RayCluster("auto", workers=2, limit_s=20.0) as pool:
        while waiting or len(results) < 7:
            while waiting and len(pool._running) < pool.slots:
                pool.submit(shaky, Trial(waiting[0], {}, str(waiting.pop(0)), 0, (0,), "genetic"))
            if len(pool._running) == pool.slots:
                with pytest.raises(SlimeError, match="all workers are busy"):
                    pool.submit(shaky, Trial(9, {}, "9", 0, (0,), "genetic"))
            results |= dict(pool.wait())
    kinds = {number: result.kind for number, result in results.items() if isinstance(result, Failure)}
    assert kinds == {1: "WorkerDied", 2: "TimeLimit", 3: "ZeroDivisionError", 4: "TypeError"}
    assert "2 times" in results[1].text
    assert "by nothing" in results[3].text
    assert {n: results[n] for n in (0, 5, 6)} == {n: Evaluated(float(n), {"a": 1.0}) for n in (0, 5, 6)}


def _searched(evaluate, pool):
    """48 trials in generations of 8."""
    space = ConfigSpace([Choice(f"layers.{k}.bits", (2, 4, 8)) for k in range(6)])
    behavior = BehaviorSpace([Measure(name="bits", unit="1", low=12.0, high=48.0, larger_is="worse")])
    archive = CVTArchive(behavior, cvt_centroids(16, 1, seed=0), quality_min=0.0, quality_max=1.0)
    runner = SearchRunner(space, archive, Settings(seed=5, generation=8, start=16, objectives=("bits",)))
    return runner.run(evaluate, Budget(evaluations=48), pool), runner


def _evaluation(folder: Path | None):
    """Quality by a formula; with a folder, trial 20 waits there to be killed, once."""

    def evaluate(trial):
        if folder is not None and trial.id == 20 and not (folder / "killed").exists():
            (folder / "pid").write_text(str(os.getpid()))
            time.sleep(600)
        bits = np.array([float(value) for value in trial.config.values()])
        return Evaluated(float(1 - np.exp2(-bits).sum()), {"bits": float(bits.sum())})

    return evaluate
