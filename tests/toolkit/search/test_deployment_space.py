"""Which deployments there are: what a stack can run, nothing whose bytes would be the same, and each as a recipe."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from passes.recipe import Recipe
from targets.target import load_target, target_names
from tests.toolkit.search.small_network import write
from toolkit.rng import numpy_generator
from toolkit.search.deployment.cells import archive_for
from toolkit.search.deployment.evaluator import Evaluator
from toolkit.search.deployment.kept import Kept
from toolkit.search.deployment.making import Workshop
from toolkit.search.deployment.prices import MEASURES, priced, sparsity
from toolkit.search.deployment.problem import Opened, Problem
from toolkit.search.deployment.space import deployment_space, mixes, stacks_of
from toolkit.search.deployment.tables import Tables
from toolkit.search.variation import sample_uniform

QUICK = ("coral_tpu", "desktop_cpu", "jetson_nano")
"""One of each kind of stacks; the rest runs with the slow tests."""


@pytest.fixture(scope="module")
def workshop(tmp_path_factory):
    folder = tmp_path_factory.mktemp("small")
    model, data, validation = write(folder)
    return Workshop(Opened(Problem(model, data, validation)), Kept(folder / "kept"))


@pytest.fixture(scope="module")
def pi(workshop):
    stacks = stacks_of(load_target("raspberry_pi_4"), workshop)
    return {stack.name: stack for stack in stacks}, deployment_space(workshop, stacks)


def drawn(space, count):
    return [sample_uniform(space, numpy_generator(0, "drawn", k)) for k in range(count)]


@pytest.mark.parametrize(
    "target", [pytest.param(name, marks=[] if name in QUICK else pytest.mark.slow) for name in target_names()]
)
def test_what_is_drawn_for_a_target_is_legal_there_and_has_a_price(workshop, target):
    stacks = {stack.name: stack for stack in stacks_of(load_target(target), workshop)}
    space = deployment_space(workshop, list(stacks.values()))
    for config in drawn(space, 3):
        assert space.repair(config) == (config, {})
        stack = stacks[config["stack"]]
        program = workshop.made(config, stack)
        assert all(np.isfinite(value) and value >= 0 for value in priced(program, stack).measures.values())
        assert Recipe.from_data("replayed", workshop.recipe(config, stack).to_data(), program.facts)


@pytest.mark.slow
def test_layers_choose_their_bits_only_where_a_stack_computes_both(workshop):
    for target in ("coral_dev_board", "jetson_nano", "raspberry_pi_4"):
        stacks = stacks_of(load_target(target), workshop)
        bits = [name for name in deployment_space(workshop, stacks).genes if name.startswith("layers.")]
        assert bool(bits) == any(mixes(stack) for stack in stacks)


@pytest.mark.slow
def test_every_value_of_every_gene_is_another_graph_or_another_stack(workshop, pi):
    stacks, space = pi
    config = space.legal({"stack": "tflite-int8", "ranges": "minmax", "correct_bias": False}
                         | {name: 8 for name in space.genes if name.startswith("layers.")},
                         np.random.default_rng(0))  # fmt: skip
    start = workshop.made(config, stacks["tflite-int8"]).digest
    for gene in space.active(config):
        for value in gene.values:
            if gene.name != "stack" and value != config[gene.name]:
                assert workshop.made(config | {gene.name: value}, stacks["tflite-int8"]).digest != start, gene.name


def test_no_layer_in_integers_is_the_float_stack(pi):
    _, space = pi
    floats = {name: 32 for name in space.genes if name.startswith("layers.")}
    repaired, _ = space.repair({"stack": "tflite-int8", "ranges": "minmax", "correct_bias": True} | floats)
    assert repaired == {"stack": "tflite-fp32"}


@settings(max_examples=30, deadline=None)
@given(number=st.integers(0, 10**6))
def test_repair_leaves_what_it_repaired(pi, number):
    _, space = pi
    config = sample_uniform(space, np.random.default_rng(number))
    assert space.repair(config)[0] == config


def test_a_layer_that_is_asked_to_stay_in_float_has_its_float_weights(workshop, pi):
    stacks, space = pi
    config = space.legal({"stack": "tflite-int8", "layers.dense1.bits": 32, "layers.dense0.bits": 8},
                         np.random.default_rng(0))  # fmt: skip
    nodes = {node.name: node for node in workshop.made(config, stacks["tflite-int8"]).graph}
    assert nodes["dense1"].inputs[1].const_value is not None
    assert nodes["dense0"].inputs[1].producer().op_type == "DequantizeLinear"


def test_the_tables_agree_with_the_cost_model_within_its_own_error(workshop, pi):
    stacks, space = pi
    configs = drawn(space, 40)
    error = Tables(workshop, list(stacks.values())).error(configs)
    # axes of the archive that differ by less than a tenth are dropped: sums may be wrong by less than that
    assert (error < 0.1).all(), dict(zip([m.name for m in MEASURES], error, strict=True))
    assert error[3] < 0.01  # bytes of weights add up; what does not are the operators that convert


def test_a_price_from_the_tables_asks_no_cost_model(workshop, pi, monkeypatch):
    stacks, space = pi
    tables, configs = Tables(workshop, list(stacks.values())), drawn(space, 200)
    first = tables.measures(configs)
    asked = []
    monkeypatch.setattr("toolkit.search.deployment.tables.priced", lambda *a, **k: asked.append(a))
    assert np.array_equal(tables.measures(configs[::-1])[::-1], first)
    assert not asked


def test_zeros_among_weights_are_counted_as_they_are_computed_with(workshop, pi):
    stacks, _ = pi
    program = workshop.floating({}, stacks["tflite-fp32"])
    weights = [node.inputs[1].const_value.numpy() for node in program.graph if node.op_type == "Gemm"]
    assert sparsity(program) == sum((w == 0).sum() for w in weights) / sum(w.size for w in weights)
    integers = workshop.made({"ranges": "minmax", "correct_bias": False}, stacks["tflite-int8"])
    assert sparsity(integers) > sparsity(program)  # small weights round to zero


def test_axes_that_differ_by_less_than_the_error_of_the_model_are_dropped():
    rng = np.random.default_rng(0)
    latency = np.exp(rng.normal(size=400))
    rows = np.column_stack([latency, 3 * latency, latency * np.exp(0.01 * rng.normal(size=400)),
                            np.exp(rng.normal(size=400)), np.zeros(400)])  # fmt: skip
    assert archive_for(1e4 * rows, seed=0).space.names == ("latency_s", "model_bytes")


def test_deployments_that_all_cost_the_same_share_one_cell():
    assert len(archive_for(np.ones((50, 5)), seed=0).cells) == 1


def test_an_evaluator_goes_to_another_process_without_what_it_loaded(tmp_path):
    import pickle

    model, data, validation = write(tmp_path)
    evaluator = Evaluator(Problem(model, data, validation), "raspberry_pi_4", folder=tmp_path / "kept")
    assert len(evaluator.workshop.problem.parts.searched) == 120
    assert len(pickle.dumps(evaluator)) < 2000
