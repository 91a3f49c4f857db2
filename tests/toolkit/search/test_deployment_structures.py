"""What may be taken out of a network: only ends are made to know it; small networks are priced as they are made, and of
large ones what lies between is priced between the ends."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from passes.onnx_level.unrounding import in_float
from targets.target import load_target
from tests.toolkit.search.small_network import write
from toolkit.search.deployment.kept import Kept
from toolkit.search.deployment.making import Workshop
from toolkit.search.deployment.prices import MEASURES, priced
from toolkit.search.deployment.problem import Opened, Problem
from toolkit.search.deployment.space import deployment_space, stacks_of
from toolkit.search.deployment.structures import Structures, structures_of
from toolkit.search.deployment.tables import Tables

pytestmark = pytest.mark.slow

PI = "raspberry_pi_4"


def problem():
    draw = torch.Generator().manual_seed(0)
    network = nn.Sequential(nn.Conv2d(3, 32, 3), nn.ReLU(), nn.Conv2d(32, 32, 3), nn.ReLU(), nn.Flatten(),
                            nn.Linear(32 * 4 * 4, 10))  # fmt: skip
    for parameter in network.parameters():
        parameter.data = torch.randn(parameter.shape, generator=draw) / 10
    return Problem(network.eval(), np.random.default_rng(0).normal(size=(40, 3, 8, 8)).astype(np.float32))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("kept")


@pytest.fixture(scope="module")
def small(folder):
    """The workshop, the stacks, the space, its tables, and what was reported while they were made."""
    return ground(folder)


@pytest.fixture(scope="module")
def large(folder):
    """The same network, were it not small."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("toolkit.search.deployment.structures.SMALL_BYTES", 0)
        return ground(folder)


def ground(folder):
    seen = []
    workshop = Workshop(Opened(problem()), Kept(folder))
    stacks = [stack for stack in stacks_of(load_target(PI), workshop) if stack.name in ("ncnn-fp32", "tflite-int8")]
    space = deployment_space(workshop, stacks, lambda step, done: seen.append((step, done)))
    tables = Tables(workshop, stacks, lambda step, done: seen.append((step, done)))
    return workshop, stacks, space, tables, seen


def shaped(ratio):
    return {"structure": "pruned", "prune_ratio": ratio, "importance": "magnitude"}


def test_of_the_structures_of_a_large_network_only_the_ends_are_made(large, folder):
    _, _, space, tables, seen = large
    ratios, before = space.genes["prune_ratio"].values, sorted(folder.rglob("*.bin"))
    assert [done for step, done in seen if step == "taking something out: pruned"] == [0.0]
    assert len(ratios) >= 4
    tables.measures([{"stack": "ncnn-fp32"} | shaped(ratio) for ratio in ratios])
    assert sorted(folder.rglob("*.bin")) == before
    assert seen[-1][0] == "what each layer costs"
    assert all(0 <= done <= 1 for _, done in seen)


def test_every_ratio_that_is_offered_can_be_taken(small):
    workshop, stacks, space, _, _ = small
    digests = {workshop.floating(shaped(ratio), stacks[0]).digest for ratio in space.genes["prune_ratio"].values}
    assert workshop.floating({}, stacks[0]).digest not in digests
    assert len(digests) > 1


def test_another_process_asks_the_disk_what_there_is(small, folder, monkeypatch):
    _, stacks, space, _, _ = small
    again = Workshop(Opened(problem()), Kept(folder))
    monkeypatch.setattr(again, "floating", None)
    found = structures_of(again, stacks[0])
    assert found.ratios == space.genes["prune_ratio"].values


def test_a_small_network_costs_what_is_really_made(small):
    _, _, space, tables, _ = small
    configs = [{"stack": "ncnn-fp32"} | shaped(ratio) for ratio in space.genes["prune_ratio"].values]
    configs += [{"stack": "tflite-int8", "ranges": "minmax", "correct_bias": False} | shaped(0.3)]
    # no channel and no layer is guessed; the sketch's ranges alone stand in other bytes
    np.testing.assert_allclose(tables.error(configs), 0, atol=1e-6)


def test_prices_between_the_ends_lie_near_those_of_what_is_really_made(large):
    _, _, _, tables, _ = large
    configs = [{"stack": name} | shaped(ratio) for name in ("ncnn-fp32", "tflite-int8") for ratio in (0.2, 0.4)]
    configs[2:] = [config | {"ranges": "minmax", "correct_bias": False} for config in configs[2:]]
    error = dict(zip([measure.name for measure in MEASURES], tables.error(configs), strict=True))
    # channels go in steps of the vector width: one of 32 channels is a quarter of the arithmetic
    assert error["latency_s"] < 0.25, error
    assert error["energy_j"] < 0.25, error


def test_the_weights_of_the_ends_make_one_structure():
    found = Structures((0.1, 0.2, 0.4), (0.01, 0.1))
    assert found.near({}) == [({}, 1.0)]
    each = Structures((0.1, 0.2, 0.4), (0.01, 0.1), is_each_made=True)
    assert each.near({"stack": "any"} | shaped(0.2)) == [(shaped(0.2), 1.0)]
    assert each.near({"structure": "whole", "prune_ratio": 0.2}) == [({}, 1.0)]
    assert found.near(shaped(0.4)) == [(shaped(0.4), 1.0)]
    for config in (shaped(0.1), {"structure": "thin", "rank_error": 0.01}, {"structure": "thin", "rank_error": 0.03}):
        assert sum(weight for _, weight in found.near(config)) == pytest.approx(1)


def test_a_sketch_costs_what_the_deployment_does(small):
    workshop, stacks, _, _, _ = small
    stack = next(s for s in stacks if s.name == "tflite-int8")
    config = {"ranges": "minmax", "correct_bias": False}
    drawn, real = (priced(make(config, stack), stack).measures for make in (workshop.sketch, workshop.made))
    assert drawn["latency_s"] == real["latency_s"]
    assert drawn["peak_memory_bytes"] == real["peak_memory_bytes"]


def test_stacks_that_get_one_graph_are_probed_with_it_once(tmp_path, monkeypatch):
    graph, probes = write(tmp_path), []  # an ONNX graph: nothing is taken out of it, and nothing is exported
    monkeypatch.setattr("toolkit.search.deployment.tables.in_float",
                        lambda *given: probes.append(given) or in_float(*given))  # fmt: skip

    def probed(names):
        probes.clear()
        workshop = Workshop(Opened(Problem(*graph)), Kept(None))
        some = [load_target(PI).stack(name) for name in names]
        found = Tables(workshop, some).measures([{"stack": name, "ranges": "minmax"} for name in names])
        return found, len(probes)

    one, count = probed(["tflite-int8"])
    both, same = probed(["tflite-int8", "armnn-int8"])
    assert same == count > 0
    assert np.array_equal(both[0], one[0])
